"""What the scripts share: compose, check, make the run directory, hand over.

What enters is a command line; what leaves is an exit code. Errors the user can mend become one line on stderr. What a
run does is not known here, and torch is not imported before the settings are accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cinelora.config import keys
from cinelora.config.check import check_evaluate, check_infer, check_prepare, check_study, check_train
from cinelora.config.compose import AUTO, compose, launcher_settings, members
from cinelora.config.keys import Command, Config, Script
from cinelora.config.schema import (
    SHARING,
    EvaluateConfig,
    InferConfig,
    PrepareConfig,
    StudyConfig,
    TrainConfig,
    drawn_by,
)
from cinelora.config.store import MODELS, PATHS, load, save_config, to_yaml
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import slurm
from cinelora.io.atomic import point_to, read_json, sha256_json
from cinelora.io.hardware import gpu_at_hand
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.locks import lock
from cinelora.parallel.launch import spin_briefly
from cinelora.planning.planner import drawing_lines, plan_lines
from cinelora.sweeps import (
    RECORD,
    TABLE,
    Ending,
    Member,
    Table,
    Tell,
    request,
    run_here,
    run_locally,
    run_on_slurm,
)

Run = Callable[[Any, Path], int]
OUTPUTS = Path("outputs")
INTERRUPTED = slurm.STOPPED
NOBODY_READS = 141
"""128 + SIGPIPE: how a program ends whose output is piped into one that has left, such as ``head``."""
_RUNS = ("adapter", "ckpt", "resume")
_LOCK = ".lock"
_ELSEWHERE = ("out", "cache", "gpus", "nodes", "memory", "plan")
"""What does not change a clip but for rounding: where it is written, how many ranks make it, and out of how much memory."""
_LOOKED_AT = ("metrics", "against", "report", "answers")
"""What does not change the clips of an evaluation: what is asked of them."""
_MEASURED = (
    *("ranks", "scales", "merged", "steps", "first_block", "taylorseer", "magcache", "dtypes", "partitions", "grid"),
    *("metrics", "against", "logger", "repetitions", "merge"),
)
"""What does not change the rows of a study that are there: which others it has, and what is asked of its clips."""
_CHECKS: dict[type, Callable[[Any], list[str]]] = {
    TrainConfig: check_train,
    InferConfig: check_infer,
    EvaluateConfig: check_evaluate,
    StudyConfig: check_study,
    PrepareConfig: check_prepare,
}


def main(script: Script, argv: list[str], run: Run) -> int:
    """Do what a command line says with ``run(config, run_dir)``; the exit code."""
    if not argv:
        print(keys.usage(script), file=sys.stderr)
        return ConfigError.exit_code
    spin_briefly()  # commands that measure clips do so in this process
    slurm.listen()
    try:
        return _main(keys.parse(script, argv), run)
    except CineloraError as error:
        print(f"{keys.PROGRAMS[script]}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{keys.PROGRAMS[script]}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _main(command: Command, run: Run) -> int:
    if command.help:
        return _say(keys.help_text(command.script))
    if command.multirun and command.script == "prepare":
        raise ConfigError("-m: footage is prepared a folder at a time; leave it away")
    if command.multirun:
        return _sweep(command, run)
    if command.show:
        return _say(to_yaml(compose(command)).rstrip("\n"))
    return _run_one(command, run)


def _say(text: str) -> int:
    """Print all that was asked for; the exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more as it ends
        return NOBODY_READS
    return 0


def accepted(command: Command) -> tuple[Config, list[str]]:
    """The settings of one run, checked, and the lines to print about them.

    Raises:
        CineloraError: one sentence with the value and the way out.
    """
    try:
        config = compose(command)
        return config, _CHECKS[type(config)](config)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be looked at: {error.strerror}") from error


def _run_one(command: Command, run: Run) -> int:
    """Accept the settings, make the directory they are kept in, and hand over."""
    config, lines = accepted(command)
    if isinstance(config, PrepareConfig):
        return run(anchored(config), Path())
    if config.plan:
        return _say("\n".join([*lines, *_planned(config)]))
    config = anchored(config)
    run_dir = make_run_dir(config)
    if isinstance(config, TrainConfig) and command.texts.get("resume") == AUTO and is_complete(config, run_dir):
        return _say(f"{run_dir} has all its {config.stage.steps} steps: nothing is left to do")
    before = _latest(run_dir)
    try:
        code = _run_in(run_dir, config, lines, run)
    except KeyboardInterrupt:
        if not slurm.told():
            raise
        code = INTERRUPTED
    if code == INTERRUPTED and slurm.told():
        return slurm.leave(run_dir, goes_on=_goes_on(command, config), moved=_latest(run_dir) != before)
    return code


def _run_in(run_dir: Path, config: Config, lines: list[str], run: Run) -> int:
    # the nodes of one run all come here
    with lock(run_dir / _LOCK) if config.nodes == 1 else nullcontext():
        save_config(config, run_dir / CONFIG_FILE)
        for line in [*lines, f"run directory: {run_dir}"]:
            print(line, flush=True)
        return run(config, run_dir)


def _goes_on(command: Command, config: Config) -> bool:
    """Whether the same command line, typed again, goes on where it was stopped."""
    if isinstance(config, TrainConfig):
        return command.texts.get("resume") == AUTO
    return _many(config) is not None


def is_complete(config: TrainConfig, run_dir: Path) -> bool:
    """Whether a run has ended by itself, at its last step or because it learnt no more."""
    summary = run_dir / "summary.json"
    if not summary.is_file():
        return False
    there = read_json(summary)
    return not there["interrupted"] and there["steps"] >= config.stage.steps


def _latest(run_dir: Path) -> str | None:
    """The name of a run's latest checkpoint."""
    pointer = run_dir / "checkpoints" / "last"
    return pointer.read_text() if pointer.is_file() else None


def _planned(config: Config) -> list[str]:
    """What a run takes, here and on other cards."""
    if isinstance(config, TrainConfig):
        return plan_lines(config, *gpu_at_hand())
    return drawing_lines(config if isinstance(config, InferConfig) else drawn_by(config), *gpu_at_hand())


def anchored(config: Config) -> Config:
    """The same settings with paths that hold from any working directory; the text stays the end of the path.

    A model is a path where there is such a directory or file, else a name on the hub. A run that is named by a link, such as
    ``last``, gets its own name, since the link will point elsewhere.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model))
    if not isinstance(config, PrepareConfig):
        config.metrics = dataclasses.replace(config.metrics)
    if isinstance(config, TrainConfig | EvaluateConfig | PrepareConfig):
        config.data = dataclasses.replace(config.data)
    if isinstance(config, StudyConfig):
        config.merge = [os.path.abspath(path) for path in config.merge]
    for key in (*PATHS, *MODELS):
        *sections, name = key.split(".")
        node: Any = config
        for section in sections:
            node = getattr(node, section, None)
        text = getattr(node, name, None)
        if text and (key in PATHS or os.path.exists(text)):
            path = os.path.join(os.getcwd(), text)
            is_link = key in _RUNS and os.path.isdir(path) and os.path.islink(path.rstrip("/"))
            setattr(node, name, os.path.realpath(path) if is_link else path)
    return config


# Run directories ------------------------------------------------------------------------------------------------------


def make_run_dir(config: Config) -> Path:
    """Make, or go on in, the directory of a run.

    Raises:
        ConfigError: it holds something that would be lost.
    """
    out = Path(config.out) if config.out else None
    if isinstance(config, TrainConfig) and config.resume:
        return _resumed_dir(Path(config.resume), out)
    if isinstance(config, EvaluateConfig) and config.out and (config.report or config.answers):
        return Path(config.out)
    if not isinstance(config, TrainConfig) and out is None and (many := _many(config)):
        out = OUTPUTS / _place(config) / f"{_plain(many)}-{clip_hash(config)[:8]}"
    if out is not None:
        _refuse_other(config, out)
        run_dir = _made(out)
    else:
        run_dir = new_dir(OUTPUTS / _place(config))
    if not config.out:
        point_to(OUTPUTS / _place(config) / "last", run_dir)
    return run_dir


def _place(config: Config) -> Path:
    if isinstance(config, TrainConfig):
        return Path(config.stage.name, config.data.name)
    return Path(next(script for script, schema in keys.SCHEMAS.items() if isinstance(config, schema)))


def _many(config: InferConfig | EvaluateConfig | StudyConfig) -> str | None:
    """A word for a run of many clips, which is found again by its settings and goes on; None for a run of one."""
    if isinstance(config, InferConfig):
        return Path(config.prompts).stem if config.prompts else None
    return Path(config.ckpt).stem if config.ckpt else "base"


def new_dir(parent: Path) -> Path:
    """A new directory named after the time; a second one in the same second gets ``-2``."""
    stamp, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    _made(parent)
    while True:
        run_dir = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            run_dir.mkdir()
            return run_dir
        except FileExistsError:
            number += 1


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; choose another out=<directory>") from error
    return folder


def _refuse_other(config: Config, out: Path) -> None:
    """Refuse a directory that holds anything but a run that never got to a checkpoint, or this very request."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"out={out} is a file; choose a directory, new or empty")
    held = {path.name for path in out.iterdir()} - {_LOCK}
    if isinstance(config, TrainConfig):
        saved = any((out / "checkpoints").glob("step-*")) or held & {
            "style.safetensors",
            "motion.safetensors",
            "summary.json",
        }
        if CONFIG_FILE in held and saved:
            raise ConfigError(f"out={out} holds a run: go on with resume={out}, or choose another out=")
        if held and CONFIG_FILE not in held:
            raise ConfigError(f"out={out} is not empty; choose another out=")
    elif held and not _same_request(config, out):
        raise ConfigError(f"out={out} holds clips of other settings, or something else; choose another out=")


def _same_request(config: InferConfig | EvaluateConfig | StudyConfig, out: Path) -> bool:
    try:
        return clip_hash(load(type(config), out / CONFIG_FILE)) == clip_hash(config)
    except ConfigError:
        return False


def clip_hash(config: InferConfig | EvaluateConfig | StudyConfig) -> str:
    """A hash of everything that decides how the clips look."""
    aside = (*_ELSEWHERE, *{EvaluateConfig: _LOOKED_AT, StudyConfig: _MEASURED}.get(type(config), ()))
    facts = {key: value for key, value in dataclasses.asdict(config).items() if key not in aside}
    sampler = {key: value for key, value in facts["sampler"].items() if key not in SHARING}
    return sha256_json(facts | {"sampler": sampler})


def _resumed_dir(run: Path, out: Path | None) -> Path:
    if out is None or out.resolve() == run.resolve():
        return run
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out={out} is not empty; resume={run} goes on in a copy there: choose another out=")
    shutil.copytree(run, out, dirs_exist_ok=True)
    return out


def _plain(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)


# Sweeps ---------------------------------------------------------------------------------------------------------------


def _sweep(command: Command, run: Run) -> int:
    """Check every member before the first starts, run all that are not done, and say what came out as one table."""
    runs = members(command)
    if command.show:
        return _say("---\n".join(to_yaml(compose(member)) for member in runs).rstrip("\n"))
    if target := command.texts.get("push"):
        raise ConfigError(
            f"push={target} is one repository for {len(runs)} runs: leave it away, and upload the run that you choose with "
            f"python -m cinelora.card run=<run> push={target}"
        )
    names = [_name(member, runs) for member in runs]
    configs = [
        _accepted_member(number, name, member) for number, (name, member) in enumerate(zip(names, runs, strict=True))
    ]
    launch = _launcher(command, configs[0])
    if configs[0].plan:
        return _say("\n\n".join("\n".join([f"[{n}]", *_planned(c)]) for n, c in zip(names, configs, strict=True)))
    folder = _sweep_dir(command, runs)
    table = Table.of(folder)
    todo, places = list[Member](), dict[int, Path]()
    for name, member, config in zip(names, runs, configs, strict=True):
        number = table.place(member.overrides)
        places[number] = _place(config)
        if isinstance(config, TrainConfig) and is_complete(config, folder / str(number)):
            table.statuses[number] = "done"
        else:
            todo.append(Member(number, name, _alone(member, folder, number), folder / str(number)))
    print(f"{len(todo)} runs in {folder}: {'; '.join(member.name for member in todo)}", flush=True)
    endings: dict[int, Ending] = {}

    def tell(member: Member, ending: Ending) -> None:
        endings[member.number] = ending
        table.put(member.number, ending.status)
        if ending.code == 0 and not command.texts.get("out"):
            point_to(OUTPUTS / places[member.number] / "last", member.folder)
        print(f"{member.number} ({member.name}): {ending.status}", flush=True)

    table.save()
    try:
        launch(todo, functools.partial(_run_member, run=run), tell, folder)
    finally:
        print("\n".join([*table.lines(), f"table {folder / TABLE}"]), flush=True)
        failed = [member for member in todo if member.number in endings and endings[member.number].code]
        _say_failed(command, failed, [endings[member.number] for member in failed], len(todo))
    return max((ending.code for ending in endings.values()), default=0)


def _accepted_member(number: int, name: str, member: Command) -> Config:
    texts = {key: text for key, text in member.texts.items() if key != "resume"}
    try:
        return accepted(dataclasses.replace(member, texts=texts))[0]
    except CineloraError as error:
        raise ConfigError(f"member {number} ({name}): {error}") from error


def _alone(member: Command, folder: Path, number: int) -> Command:
    """The command line of a member by itself, which goes on where it was stopped."""
    texts = {**member.texts, "out": str(folder / str(number))}
    if member.script == "train":
        place = folder.relative_to(OUTPUTS) if folder.is_relative_to(OUTPUTS) else folder
        texts |= {"resume": AUTO, "logger.group": texts.get("logger.group") or str(place)}
    return dataclasses.replace(member, texts=texts)


def _launcher(
    command: Command, config: Config
) -> Callable[[list[Member], Callable[[Member], Ending], Tell, Path], None]:
    """What runs the members; what it cannot be asked for is refused here."""
    launcher = command.given.get(keys.LAUNCHER, "basic")
    if launcher == "basic":
        return run_here
    settings = launcher_settings(command)
    if launcher == "local":
        return functools.partial(run_locally, ranks=config.gpus, minutes=settings["timeout_min"])
    asked = request(settings, list(command.given), config.gpus, config.nodes, getattr(config, "workers", 0))
    return functools.partial(run_on_slurm, settings=asked)


def _run_member(member: Member, run: Run) -> Ending:
    """One member to its end, whatever that is: the other members go on."""
    print(f"\n[{member.folder}]", flush=True)
    try:
        return Ending(_run_one(member.command, run))
    except CineloraError as error:
        print(f"{keys.PROGRAMS[member.command.script]}: {member.folder}: {error}", file=sys.stderr, flush=True)
        return Ending(error.exit_code, str(error))
    except KeyboardInterrupt:
        return Ending(INTERRUPTED)
    except Exception as error:
        traceback.print_exc()
        return Ending(1, traceback.format_exception_only(error)[-1].strip())


def _say_failed(command: Command, failed: list[Member], endings: list[Ending], number: int) -> None:
    if not failed:
        return
    listed = ", ".join(f"{member.number} ({member.name})" for member in failed)
    ended = "failed" if any(ending.code != INTERRUPTED for ending in endings) else "were stopped"
    lines = [f"{keys.PROGRAMS[command.script]}: {len(failed)} of {number} runs {ended}: {listed}"]
    lines += [f"{member.number} again, alone: {_again(command, member)}" for member in failed]
    print("\n".join(lines), file=sys.stderr)


def _again(command: Command, member: Member) -> str:
    """What runs one member once more: in its sweep, through the launcher, where that can go on."""
    texts, flags = member.command.texts, list[str]()
    if command.script == "train":
        flags = ["-m", *(text for text in command.overrides if text.startswith("hydra"))]
        texts = {**command.texts, "out": str(member.folder.parent), "resume": AUTO}
    words = [*flags, *member.command.overrides, *(f"{key}={text}" for key, text in texts.items())]
    return f"{keys.typed(command.script)} {shlex.join(words)}"


def _name(member: Command, runs: list[Command]) -> str:
    """What sets a member apart from the others."""
    shared = set.intersection(*(set(other.overrides) for other in runs))
    return " ".join(override for override in member.overrides if override not in shared) or "as given"


def _sweep_dir(command: Command, runs: list[Command]) -> Path:
    out = command.texts.get("out")
    if not out:
        return new_dir(OUTPUTS / _sweep_place(command, runs))
    begun = any(Path(out).glob("[0-9]*"))
    if (Path(out) / RECORD).is_file() and (command.texts.get("resume") == AUTO or not begun):
        return Path(out)
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise ConfigError(
            f"out={out} is not empty; a sweep wants a directory of its own, or resume=auto to go on with one"
        )
    return _made(Path(out))


def _sweep_place(command: Command, runs: list[Command]) -> Path:
    """``<stage>/<data>``, with the choices joined by ``+`` where the sweep runs over them."""
    if command.script != "train":
        return Path(command.script)
    return Path(*("+".join(dict.fromkeys(run.given[group] for run in runs)) for group in ("stage", "data")))
