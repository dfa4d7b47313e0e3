"""Several runs from one command line (``-m``): each checked before the first starts, one table at the end.

Enters: a ``Command`` whose settings may have several values. Leaves: an exit code, and in the sweep's own directory a
numbered one for each member. How members are started is for ``sweep_launchers``.
"""

from __future__ import annotations

import dataclasses
import functools
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from cinelora.cli import sweep_launchers as launchers
from cinelora.cli.compose import AUTO, compose, launcher_settings, members
from cinelora.cli.help import answer
from cinelora.cli.one_run import INTERRUPTED, Run, accepted, is_complete, planned, run_one
from cinelora.cli.parse import Command
from cinelora.cli.programs import Config
from cinelora.cli.run_dir import OUTPUTS, made, new_dir, place_of
from cinelora.cli.sweep_launchers import Ending, Member, Table, Tell, apart
from cinelora.config.schema import TrainConfig
from cinelora.config.store import anchored, to_yaml
from cinelora.config.trust import hashes
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import state_folder
from cinelora.io.atomic import point_to
from cinelora.io.own_files import refuse_foreign
from cinelora.io.terminal import put, say, shell_word, traceback_of


def run_sweep(command: Command, run: Run) -> int:
    """Check every member before the first starts, run all that are not done, and say what came out as one table."""
    if out := command.texts.get("out"):
        refuse_foreign(Path(out), launchers.RECORD, unread=launchers.JOB_LOGS)
    runs = members(command)
    if command.show:
        return answer(*"---\n".join(to_yaml(compose(member)) for member in runs).rstrip("\n").split("\n"))
    if target := command.texts.get("push"):
        raise ConfigError(
            f"push={target} is one repository for {len(runs)} runs: leave it away, and upload the run that you choose with "
            f"python -m cinelora.card run=<run> push={target}"
        )
    # Every member is checked before anything is made: a mistake in the last of forty is found now, and not in two days.
    names = [apart(member.overrides, [run.overrides for run in runs]) for member in runs]
    configs = [_accepted_member(number, *named) for number, named in enumerate(zip(names, runs, strict=True))]
    launch = _launcher(command, configs[0])
    if configs[0].plan:
        plans = [["", f"[{name}]", *planned(config)] for name, config in zip(names, configs, strict=True)]
        return answer(*list(chain(*plans))[1:])
    folder = _sweep_dir(command, runs)
    table = Table.of(folder)
    todo, places = list[Member](), dict[int, Path]()
    # A member keeps the number, and so the directory, that it has had since the first start of its sweep, also where the
    # command line now lists its values in another order, or lists more of them.
    for name, member, config in zip(names, runs, configs, strict=True):
        number = table.place(member.overrides)
        places[number] = place_of(config)
        if isinstance(config, TrainConfig) and is_complete(config, folder / str(number)):
            table.statuses[number] = "done"
        else:
            todo.append(Member(number, name, _alone(member, folder, number), folder / str(number)))
    say(f"{len(todo)} runs in {folder}: {'; '.join(member.name for member in todo)}")
    endings: dict[int, Ending] = {}

    def tell(member: Member, ending: Ending) -> None:
        endings[member.number] = ending
        table.statuses[member.number] = ending.status
        table.save()
        if ending.code == 0 and not command.texts.get("out"):
            point_to(OUTPUTS / places[member.number] / "last", member.folder)
        say(f"{member.number} ({member.name}): {ending.status}")

    if command.launcher != "basic":  # a job may run where this user has another home, or none
        state_folder.hand_down(one for config in configs for one in hashes(anchored(config)))
    try:
        table.save()
    except CineloraError:
        with suppress(OSError):  # a full disk: nothing has begun, so an empty directory is not left there
            folder.rmdir()
        raise
    try:
        launch(todo, functools.partial(_run_member, run=run), tell, folder)
    finally:
        say(*table.lines(), f"table {folder / launchers.TABLE}")
        _say_failed(command, todo, endings)
    return max((ending.code for ending in endings.values()), default=0)


def _accepted_member(number: int, name: str, member: Command) -> Config:
    texts = {key: text for key, text in member.texts.items() if key != "resume"}
    try:
        return accepted(dataclasses.replace(member, texts=texts))[0]
    except CineloraError as error:
        raise ConfigError(f"member {number} ({name}): {error}") from error


def _alone(member: Command, folder: Path, number: int) -> Command:
    """The command line of a member by itself, which continues where it was stopped."""
    # resume=auto makes the same words begin a member, resume it after a kill, and answer at once where it is done
    texts = {**member.texts, "out": str(folder / str(number))}
    if member.program.conf == "train":
        place = folder.relative_to(OUTPUTS) if folder.is_relative_to(OUTPUTS) else folder
        texts |= {"resume": AUTO, "logger.group": texts.get("logger.group") or str(place)}
    return dataclasses.replace(member, texts=texts, added=frozenset(texts.keys() - member.texts.keys()))


def _launcher(command: Command, config: Config) -> Callable[[list[Member], launchers.Run, Tell, Path], None]:
    """What runs the members; what it cannot be asked for is refused here."""
    if command.launcher == "basic":
        return launchers.run_here
    settings = launcher_settings(command)
    if command.launcher == "local":
        return functools.partial(launchers.run_locally, ranks=config.gpus, minutes=settings["timeout_min"])
    asked = launchers.request(settings, list(command.given), config.gpus, config.nodes, getattr(config, "workers", 0))
    return functools.partial(launchers.run_on_slurm, settings=asked)


def _run_member(member: Member, run: Run) -> Ending:
    """One member to its end, whatever that is: the other members go on."""
    say("", f"[{member.folder}]")
    try:
        return Ending(run_one(member.command, run))
    except CineloraError as error:
        say(f"{member.command.program.name}: {member.folder}: {error}", error=True)
        return Ending(error.exit_code, str(error))
    except KeyboardInterrupt:
        return Ending(INTERRUPTED)
    except Exception as error:
        put(traceback_of(error))
        return Ending(1, traceback.format_exception_only(error)[-1].strip())


def _say_failed(command: Command, todo: list[Member], endings: dict[int, Ending]) -> None:
    # a sweep that was stopped has members without an ending, which have not failed: they were never started
    failed = [member for member in todo if member.number in endings and endings[member.number].code]
    if not failed:
        return
    listed = ", ".join(f"{member.number} ({member.name})" for member in failed)
    ended = "failed" if any(endings[member.number].code != INTERRUPTED for member in failed) else "were stopped"
    lines = [f"{command.program.name}: {len(failed)} of {len(todo)} runs {ended}: {listed}"]
    lines += [f"{member.number} again, alone: {_again(command, member)}" for member in failed]
    say(*lines, error=True)


def _again(command: Command, member: Member) -> str:
    """What runs one member once more: in its sweep, through the launcher, where that can go on."""
    # A member of a sweep of trainings is best started as it was: the sweep itself with resume=auto, which leaves out all
    # members that are done, and with the launcher's settings, which the member's own command line does not have.
    texts, flags = member.command.texts, list[str]()
    if command.program.conf == "train":
        flags = ["-m", *(text for text in command.overrides if text.startswith("hydra"))]
        texts = {**command.texts, "out": str(member.folder.parent), "resume": AUTO}
    words = [*flags, *member.command.overrides, *(f"{key}={text}" for key, text in texts.items())]
    return f"{command.program.typed} {' '.join(map(shell_word, words))}"


def _sweep_dir(command: Command, runs: list[Command]) -> Path:
    out = command.texts.get("out")
    if not out:
        return new_dir(OUTPUTS / _sweep_place(command, runs))
    # A directory of a sweep is begun again in the same words only where no member has got so far as to have its own folder:
    # the first start may have been refused after the table was written. All else wants resume=auto, typed explicitly.
    begun = any(Path(out).glob("[0-9]*"))
    if (Path(out) / launchers.RECORD).is_file() and (command.texts.get("resume") == AUTO or not begun):
        return Path(out)
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        way_out = "a sweep wants a directory of its own, or resume=auto to continue one"
        raise ConfigError(f"out={out} is not empty; {way_out}")
    return made(Path(out))


def _sweep_place(command: Command, runs: list[Command]) -> Path:
    """``<stage>/<data>``, with the choices joined by ``+`` where the sweep runs over them."""
    if command.program.conf != "train":
        return Path(command.program.conf)
    return Path(*("+".join(dict.fromkeys(run.given[group] for run in runs)) for group in ("stage", "data")))
