"""One run from its command line to its end: settings accepted, a directory made for it, the work handed over.

Enters: a sorted ``Command`` and what does the work. Leaves: an exit code. What the work is, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.host_copies import host_copies
from cinelora.adapters.run_directory import RunDirectory, adapters_of, lessons_in
from cinelora.cli.clip_size import sized
from cinelora.cli.compose import AUTO, compose
from cinelora.cli.help import answer
from cinelora.cli.parse import Command
from cinelora.cli.preflight import check_evaluate, check_infer, check_prepare, check_study, check_train
from cinelora.cli.programs import Config
from cinelora.cli.run_dir import RunPlace, make_run_dir, word_of_many
from cinelora.config.clip_request import ClipRequest
from cinelora.config.lessons import lessons_of
from cinelora.config.rules import refuse
from cinelora.config.schema import EvaluateConfig, InferConfig, PrepareConfig, StudyConfig, TrainConfig, drawn_by
from cinelora.config.store import anchored, save_config
from cinelora.config.trust import note_as_own
from cinelora.config.unread import unread_lines
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import slurm
from cinelora.io.hardware import gpu_at_hand
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.locks import LOCK, lock
from cinelora.io.plain_data import read_text
from cinelora.io.terminal import say
from cinelora.parallel.launch import LaunchError
from cinelora.planning.cards import card
from cinelora.planning.planner import drawing_lines, plan_lines, sharing_lines
from cinelora.planning.previews import planned_previews

Run = Callable[[Any, Path], int]
CLUSTER = "cluster"
"""``plan=cluster`` also estimates 1 to 64 GPUs."""
INTERRUPTED = slurm.STOPPED
_CHECKS: dict[type, Callable[[Any], list[str]]] = {
    TrainConfig: check_train,
    InferConfig: check_infer,
    EvaluateConfig: check_evaluate,
    StudyConfig: check_study,
    PrepareConfig: check_prepare,
}


def accepted(command: Command) -> tuple[Config, list[str]]:
    """The settings of one run, checked, and the lines to print about them.

    Raises:
        CineloraError: one sentence with the value and the way out.
    """
    try:
        config = compose(command)
        refuse(config)  # contradictions first: the size of clips follows from files
        config, lines = sized(config, command)
        lines += _CHECKS[type(config)](config)
        return config, lines if getattr(config, "plan", False) else [*lines, *_unread_lines(config, command)]
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be looked at: {error.strerror}") from error


def _unread_lines(config: Config, command: Command) -> list[str]:
    """Warnings about keys that were typed and that this run does not read."""
    source, further = (config.ckpt, config.adapters) if isinstance(config, InferConfig) else (None, [])
    typed = {key: text for key, text in (command.given | command.texts).items() if key not in command.added}
    return unread_lines(config, typed, [*adapters_of(source, config.model), *further])


def run_one(command: Command, run: Run) -> int:
    """Accept the settings, make the directory they are kept in, and hand over; the exit code."""
    config, lines = accepted(command)
    if isinstance(config, PrepareConfig):
        say(*lines)
        return run(anchored(config), Path())
    if config.plan:
        verdict, *rest = planned(config)
        return answer(verdict, *lines, *rest)
    # From here on the working directory no longer counts: settings are kept with whole paths, in a directory that is there.
    config = anchored(config)
    place = make_run_dir(config)
    if isinstance(config, TrainConfig) and command.texts.get("resume") == AUTO and is_complete(config, place.path):
        return answer(f"{place.path} has all its {config.stage.steps} steps: nothing is left to do")
    # A job of SLURM that is asked to end saves and comes back into the queue, where the same command would resume it. One
    # that is asked to as often as it starts, without a new checkpoint, would do so for ever: hence the name of the latest.
    before = _latest(place.path)
    try:
        code = _run_in(place, config, lines, run)
    except KeyboardInterrupt:
        if not slurm.told():
            raise
        code = INTERRUPTED
    if code == INTERRUPTED and slurm.told():
        return slurm.leave(place.path, goes_on=_goes_on(command, config), moved=_latest(place.path) != before)
    return code


def _run_in(place: RunPlace, config: Config, lines: list[str], run: Run) -> int:
    run_dir = place.path
    # The lock comes before anything is written: two commands with the same out= must not mix their files.
    with ExitStack() as held:
        try:
            if config.nodes == 1:  # the nodes of one run all come here
                held.enter_context(lock(run_dir / LOCK))
        except (OSError, CineloraError) as error:
            with suppress(OSError):
                run_dir.rmdir()  # if it is empty: another run may have its lock in it
            if isinstance(error, CineloraError):
                raise
            what = f"{run_dir} cannot be written: {error.strerror}"
            raise ConfigError(f"{what}; choose another out=<directory>") from error
        try:
            note_as_own(config)
            save_config(config, run_dir / CONFIG_FILE)
            say(*lines, f"run directory: {run_dir}")
            with place.pointed_at():
                return run(config, run_dir)
        except LaunchError:
            raise  # its logs, in the directory, tell more than its sentence
        except CineloraError:
            if config.nodes == 1:
                place.forget()
            raise


def _goes_on(command: Command, config: Config) -> bool:
    """Whether the same command line, typed again, continues where it was stopped."""
    # a training does so if it was told to; a run of many clips is found again by its settings, without a word
    return command.texts.get("resume") == AUTO if isinstance(config, TrainConfig) else word_of_many(config) is not None


def is_complete(config: TrainConfig, run_dir: Path) -> bool:
    """Whether a run has ended by itself, each lesson at its last step or because it learnt no more."""
    lessons = lessons_in(config, run_dir)
    return RunDirectory(run_dir).summary.is_file() and all(run.is_complete(one.stage.steps) for one, run in lessons)


def _latest(run_dir: Path) -> list[str]:
    """The names of a run's latest checkpoints, one of each lesson that has any."""
    pointers = [place.checkpoints / "last" for place in RunDirectory(run_dir).places]
    return [read_text(pointer) for pointer in pointers if pointer.is_file()]


def planned(config: TrainConfig | InferConfig | EvaluateConfig | StudyConfig) -> list[str]:
    """What a run takes: here, or on the card that ``plan=`` names, and on others. Raises ``ConfigError`` for an unknown card."""
    named = card(config.plan) if isinstance(config.plan, str) and config.plan != CLUSTER else None
    place = (named.name, named.gib) if named else gpu_at_hand()
    if isinstance(config, TrainConfig):
        previews = [planned_previews(lesson, has_gpu=True) for lesson in lessons_of(config)]
        return plan_lines(config, *place, previews)
    clip = config if isinstance(config, InferConfig) else drawn_by(config)
    # studies and evaluations draw with several scales in turn, as does compare=
    several = clip.compare or not isinstance(config, InferConfig)
    copies = host_copies(
        ClipRequest.with_files(clip, adapters_of(clip.ckpt, clip.model), further_adapters(clip)), several
    )
    return [*drawing_lines(clip, *place, copies), *(sharing_lines(clip, place[0]) if config.plan == CLUSTER else [])]
