"""Command lines of the small commands: ``key=value`` words enter, a dataclass of plain values leaves. No Hydra.

``train.py`` and ``infer.py`` have the whole grammar in ``command``; this is for a handful of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from cinelora.errors import ConfigError

T = TypeVar("T")


def parse_words(schema: type[T], words: Sequence[str]) -> T:
    """``words`` as a ``schema``, a dataclass whose fields are text, numbers or true and false, with defaults.

    Raises ``ConfigError`` naming the keys for a word that is none of them, and for a number that is none.
    """
    kinds: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(schema)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in kinds:
            raise ConfigError(f"{word!r} is not understood; the keys are {', '.join(f'{name}=' for name in kinds)}")
        if kinds[key] is bool:
            if value not in ("true", "false"):
                raise ConfigError(f"{word}: {key} takes true or false")
            values[key] = value == "true"
            continue
        try:
            values[key] = kinds[key](value)
        except ValueError as error:
            number = "a whole number" if kinds[key] is int else "a number"
            raise ConfigError(f"{word}: {key} takes {number}") from error
    return schema(**values)
