"""The command that writes the card of an adapter again, and uploads both; ``training/model_card.py`` is what the card says.

python -m cinelora.card run=<run>                                writes <run>/README.md again
python -m cinelora.card run=<run> push=owner/name private=true   and uploads adapters, card, settings and sample pictures
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.programs import Program
from cinelora.cli.small_command import run_small
from cinelora.config.schema import setting
from cinelora.errors import ConfigError
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.own_files import refuse_foreign
from cinelora.io.terminal import say
from cinelora.training.model_card import push, read_record, write_card


@dataclass(frozen=True)
class CardRequest:
    """Write the card of a finished run again, and upload its adapters with it where push= says so.

    python -m cinelora.card run=<run>
    python -m cinelora.card run=<run> push=owner/name private=true
    """

    run: str = setting("", role="run")
    """directory of a finished run of train.py"""
    push: str = setting("", role="note")
    """hub repository, owner/name, that adapters and card are uploaded to"""
    private: bool = setting(False)
    """push: make a new repository a private one"""


def write(request: CardRequest) -> None:
    """Write the card, print where it is, and upload it where that is asked for."""
    if not request.run:
        raise ConfigError("say which run: python -m cinelora.card run=<run> [push=owner/name] [private=true]")
    run = RunDirectory(Path(request.run))
    refuse_foreign(run.path, CONFIG_FILE)
    record = read_record(run)
    write_card(record)
    say(f"card {record.run.card}")
    if request.push:
        say(f"uploaded: {push(record, request.push, request.private)}")


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return run_small(Program("cinelora.card", CardRequest), argv, write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
