"""The way of every command: parse, then help, one run or a sweep; errors become sentences and exit codes.

What enters is a command line; what leaves is an exit code. What a run does is not known here, and torch is not imported
before the settings are accepted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cinelora.cli.help import help_text, say, usage
from cinelora.cli.parse import Command, parse
from cinelora.cli.programs import PROGRAMS
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import slurm
from cinelora.parallel.launch import isolate_children, spin_briefly

if TYPE_CHECKING:
    from cinelora.cli.one_run import Run


def main(script: str, argv: list[str], run: Run) -> int:
    """Do what a command line says with ``run(config, run_dir)``; the exit code."""
    program = PROGRAMS[script]
    if not argv:
        print(usage(program), file=sys.stderr)
        return ConfigError.exit_code
    slurm.listen()
    isolate_children()
    spin_briefly()  # commands that measure clips do so in this process
    try:
        return _main(parse(program, argv), run)
    except CineloraError as error:
        print(f"{program.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program.name}: interrupted", file=sys.stderr)
        return slurm.STOPPED


def _main(command: Command, run: Run) -> int:
    if command.help:
        return say(help_text(command.program))
    # Hydra takes a third of a second to import, which a mistyped key and --help need not wait for
    from cinelora.cli.compose import compose
    from cinelora.cli.one_run import run_one
    from cinelora.cli.sweep import run_sweep
    from cinelora.config.store import to_yaml

    if command.multirun and command.program.conf == "prepare":
        raise ConfigError("-m: footage is prepared a folder at a time; leave it away")
    if command.multirun:
        return run_sweep(command, run)
    if command.show:
        return say(to_yaml(compose(command)).rstrip("\n"))
    return run_one(command, run)
