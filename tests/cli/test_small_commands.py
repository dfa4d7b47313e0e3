"""The small commands have the grammar of the large ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cinelora.card import CardRequest
from cinelora.cli.programs import Program
from cinelora.cli.small_command import request_of, run_small
from cinelora.config.schema import setting
from cinelora.errors import ConfigError, FootageError

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class Wanted:
    """Count things.

    python -m cinelora.counted things=3
    """

    things: int = setting(1, at_least=1)
    """how many"""
    name: str = setting("", role="text")
    """what they are called"""
    odd: bool = setting(False)
    """whether they are odd"""
    colour: str = setting("red", ("red", "blue"))
    """their colour"""


PROGRAM = Program("cinelora.counted", Wanted)


def test_a_text_reaches_the_command_verbatim_and_numbers_are_numbers() -> None:
    text = "a man, smoking (alone) = ${two} 'moons'"
    assert request_of(PROGRAM, ["things=3", f"name={text}", "odd=true", "colour=blue"]) == Wanted(3, text, True, "blue")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("thing=3", r"thing is not a setting, did you mean things\?; there are things, name, odd, colour"),
        ("things=few", r"things=few: wants a whole number \(how many\)"),
        ("things=0", r"things=0: wants at least 1 \(how many\)"),
        ("odd=yes", "odd=yes: wants true or false"),
        ("colour=green", r"colour=green: wants red\|blue"),
        ("things", "things has no value: write things=..."),
        ("a thing", "'a thing' is not key=value"),
        ("--things=3", "write things=..., without dashes"),
        ("-m", "the flag is --help"),
        ("things=${x}", "references are not read"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        request_of(PROGRAM, [word])
    with pytest.raises(ConfigError, match="given twice"):
        request_of(PROGRAM, ["things=1", "things=2"])


def test_help_lists_every_key_with_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_small(PROGRAM, ["--help"], print) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Count things.\n\n  python -m cinelora.counted things=3\n")
    assert "  name*                         ''               what they are called\n" in shown
    assert "  colour                        red              their colour [red|blue]\n" in shown


def test_an_error_is_one_line_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(wanted: Wanted) -> None:
        raise FootageError(f"there are no {wanted.things} things")

    assert run_small(PROGRAM, ["things=2"], fails) == 1
    assert run_small(PROGRAM, ["things=two"], fails) == 2
    assert capsys.readouterr().err.splitlines()[0] == "cinelora.counted: there are no 2 things"


@pytest.mark.parametrize(
    ("module", "words", "shown", "light"),
    [
        ("cinelora.card", ["--help"], "run*", True),
        ("cinelora.check", ["--help"], "adapter*", True),
        ("tools.scale_model", ["--help"], "vae_rate", False),
        ("tools.scale_model", ["adopt", "-h"], "pair*", False),
    ],
)
def test_help_is_understood_and_the_packages_needs_no_torch(
    module: str, words: list[str], shown: str, light: bool
) -> None:
    program = (
        f"import runpy, sys; sys.argv = {['x', *words]!r}\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        f"finally: assert not ({light} and 'torch' in sys.modules)"
    )
    # tools/ is not installed, and whether a line of code finds it in the working directory depends on the environment
    found = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, cwd=REPO, env=found
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_a_card_without_a_run_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    from cinelora.card import main

    assert main([]) == 2
    assert "say which run: python -m cinelora.card run=<run>" in capsys.readouterr().err
    assert request_of(Program("cinelora.card", CardRequest), ["run=a, b"]) == CardRequest("a, b")
