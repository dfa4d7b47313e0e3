"""Commands of a handful of keys, in the grammar of the large ones: no groups of ``conf/``, no sweeps, no run directory.

Enters: a ``Program`` whose schema is a flat dataclass of declared settings. Leaves: an object of it, or an exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cinelora.cli.help import answer, help_text
from cinelora.cli.parse import Command, parse
from cinelora.cli.programs import Program
from cinelora.config.fields import Field
from cinelora.config.rules import check_values
from cinelora.errors import CineloraError
from cinelora.io.terminal import say, show_logged_text
from cinelora.parallel.launch import isolate_children


def request_of(program: Program, argv: list[str]) -> Any:
    """A command line as an object of the program's schema, its values within their bounds.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    return _request(parse(program, argv))


def _request(command: Command) -> Any:
    program = command.program
    values = {key: _value(program.fields[key], text) for key, text in command.given.items()}
    request = program.schema(**command.texts, **values)
    check_values(request)
    return request


def _value(field: Field, text: str) -> Any:
    try:
        return {"true": True, "false": False}[text] if field.kind is bool else field.kind(text)
    except (KeyError, ValueError) as error:
        raise field.refuses(text) from error


def run_small(program: Program, argv: list[str], work: Callable[[Any], object]) -> int:
    """Do what a command line asks for with ``work(request)``, or print the help; the exit code."""
    isolate_children()
    show_logged_text()
    try:
        command = parse(program, argv)
        if command.help:
            return answer(*help_text(command).split("\n"))
        work(_request(command))
    except CineloraError as error:
        say(f"{program.name}: {error}", error=True)
        return error.exit_code
    return 0
