"""The sentences in which settings are refused or named as unread: ``sentences.yaml``, which says in its head how to read it.

Leaves: texts with blanks, by section and name, and whole sentences for whoever has the words.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cinelora.io.plain_data import read_yaml


@cache
def sentences(section: str) -> dict[str, Any]:
    """The sentences of one section by their names, in the order of the file."""
    # read at the first mistake or warning alone: a command line without any never waits for it
    return read_yaml(Path(__file__).with_suffix(".yaml"), dict[str, dict[str, Any]])[section]


def sentence(section: str, name: str, /, **words: Any) -> str:
    """A sentence with its blanks filled in; those of ``words`` that it has no blank for are left out."""
    return str(sentences(section)[name].format(**words))
