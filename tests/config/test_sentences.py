"""Every sentence of ``sentences.yaml`` has its rule, and its blanks name settings that are there."""

from __future__ import annotations

import string

import pytest

from cinelora.cli.programs import PROGRAMS
from cinelora.config import rules
from cinelora.config.sentences import sentences

SETTINGS = {key for program in PROGRAMS.values() for key in program.fields}


@pytest.mark.parametrize("section", ["contradictions", "models", "files", "follows", "unread", "beyond_the_end"])
def test_blanks_of_a_sentence_name_settings(section: str) -> None:
    blanks = [
        blank for text in sentences(section).values() for _, blank, _, _ in string.Formatter().parse(text) if blank
    ]
    assert {blank.removeprefix("c.") for blank in blanks if blank.startswith("c.")} <= SETTINGS


def test_every_rule_has_a_sentence_and_every_sentence_a_rule() -> None:
    tables = [
        table
        for name, table in vars(rules).items()
        if name[0] == "_" and isinstance(table, tuple) and table != rules._SHARING
    ]
    assert {name for table in tables for name, _ in table} == {*sentences("contradictions")}
