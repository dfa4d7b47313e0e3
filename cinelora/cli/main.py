"""The way of every command: parse, then help, one run or a sweep; errors become sentences and exit codes.

What enters is a command line; what leaves is an exit code. What a run does is not known here, and torch is not imported
before the settings are accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cinelora.cli.help import answer, help_text, usage
from cinelora.cli.parse import Command, parse
from cinelora.cli.programs import PROGRAMS
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import slurm
from cinelora.io.terminal import say, show_logged_text
from cinelora.parallel.launch import isolate_children, spin_briefly

if TYPE_CHECKING:
    from cinelora.cli.one_run import Run


def main(script: str, argv: list[str], run: Run) -> int:
    """Do what a command line says with ``run(config, run_dir)``; the exit code."""
    program = PROGRAMS[script]
    if not argv:
        say(*usage(program).split("\n"), error=True)
        return ConfigError.exit_code
    slurm.listen()
    isolate_children()
    show_logged_text()
    spin_briefly()  # commands that measure clips do so in this process
    try:
        return _main(parse(program, argv), run)
    except CineloraError as error:
        say(f"{program.name}: {error}", error=True)
        return error.exit_code
    except KeyboardInterrupt:
        say(f"{program.name}: interrupted", error=True)
        return slurm.STOPPED


def _main(command: Command, run: Run) -> int:
    if command.help:
        return answer(*help_text(command).split("\n"))
    # Hydra takes a third of a second to import, which a mistyped key and --help need not wait for
    from cinelora.cli.compose import compose
    from cinelora.cli.one_run import run_one
    from cinelora.cli.several_models import has_models, run_models
    from cinelora.cli.sweep import run_sweep
    from cinelora.config.store import to_yaml

    if command.multirun and command.program.conf == "prepare":
        raise ConfigError("-m: footage is prepared a folder at a time; leave it away")
    if has_models(command):
        return run_models(command, run)
    if command.multirun:
        return run_sweep(command, run)
    if command.show:
        return answer(*to_yaml(compose(command)).rstrip("\n").split("\n"))
    return run_one(command, run)
