"""The command that writes the card of an adapter anew, and uploads both; cinelora/training/model_card.py is what the card says.

python -m cinelora.card run=<run>                                writes <run>/README.md anew
python -m cinelora.card run=<run> push=owner/name private=true   and uploads adapters, card, settings and sample pictures
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.words import parse_words
from cinelora.errors import CineloraError, ConfigError
from cinelora.training.model_card import push, read_record, write_card


@dataclass(frozen=True)
class CardRequest:
    """What the command is asked for; every field is a key of it."""

    run: str = ""
    push: str = ""
    private: bool = False


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    try:
        request = parse_words(CardRequest, argv)
        if not request.run:
            raise ConfigError("say which run: python -m cinelora.card run=<run> [push=owner/name] [private=true]")
        record = read_record(RunDirectory(Path(request.run)))
        write_card(record)
        print(f"card {record.run.card}")
        if request.push:
            print(f"uploaded: {push(record, request.push, request.private)}")
    except CineloraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
