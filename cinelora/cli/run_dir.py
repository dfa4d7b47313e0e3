"""Where a run goes: a directory that is made, found again or refused, and the ``last`` that points at it.

Enters: checked settings. Leaves: a ``RunPlace``, whose directory is there. What a run writes into it is known by the names
of its checkpoints and products alone.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.programs import PROGRAMS, Config
from cinelora.config.clip_facts import clip_hash
from cinelora.config.schema import EvaluateConfig, InferConfig, StudyConfig, TrainConfig
from cinelora.config.store import load
from cinelora.errors import CineloraError, ConfigError
from cinelora.io.atomic import copy_whole, point_to
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.locks import LOCK, TEMPORARY
from cinelora.io.own_files import drop_wandb_links, refuse_foreign
from cinelora.io.terminal import warn

OUTPUTS = Path("outputs")
LOOK_S = 0.5
"""How often a run is looked at for its first checkpoint or product."""


@dataclass(frozen=True)
class RunPlace:
    """A run's directory, and the ``last`` that is to point at it, if any is.

    ``is_new``: it was not there, or empty, before this command. ``held``: what it held of worth then, as of a copied run.
    """

    path: Path
    is_new: bool
    last: Path | None
    held: frozenset[Path]

    @contextmanager
    def pointed_at(self) -> Iterator[None]:
        """For the block, move ``last`` here once there is a checkpoint or product, at the latest when the block ends.

        A refused command, or a run that came to nothing, so leaves ``last`` at the run before. The work is done in other
        processes, and this one may be killed with them at any time: hence a look every half second, and not one at the end.
        """
        ended, last = threading.Event(), self.last
        if last is None:
            yield
            return

        def watch() -> None:
            # Looks until something is there or the block has ended, and then once more: what came in the last half second
            # counts as well. A link that cannot be moved is no reason to lose the run.
            while not products(self.path) and not ended.wait(LOOK_S):
                pass
            try:
                if products(self.path):
                    point_to(last, self.path)
            except (OSError, CineloraError) as error:
                warn(f"{last} does not point at {self.path}: {error}")

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()

    def forget(self) -> None:
        """Remove the directory of a refused command: it was new, and neither products nor curves have come into it.

        Curves tell why a run ended before its first checkpoint, so they are kept. Folders of ``outputs`` that are empty then
        go with it.
        """
        if not self.is_new or _held(self.path) != self.held:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        # from the inside out, and only below outputs/: an out= somewhere else leaves the user's folders as they were
        for folder in self.path.parents:
            if OUTPUTS in (folder, *folder.parents) and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def products(run_dir: Path) -> frozenset[Path]:
    """The checkpoints, clips and tables in a run's directory; a style adapter that was carried there is none of its own."""
    kinds = (
        "checkpoints/step-*",
        "*_noise/checkpoints/step-*",
        "**/summary.json",
        "**/*.latents",
        "**/*.course",
        "rows.json",
        "*/rows.json",
        "numbers.json",
    )
    return frozenset(path for kind in kinds for path in run_dir.glob(kind))


def _held(run_dir: Path) -> frozenset[Path]:
    """What would be lost with a run's directory: products, and the curves of a training run."""
    return products(run_dir) | {*run_dir.glob("logs/csv/*"), *run_dir.glob("*_noise/logs/csv/*")}


def make_run_dir(config: Config) -> RunPlace:
    """Make, or go on in, the directory of a run.

    Raises:
        ConfigError: it holds something that would be lost, or it cannot be made.
    """
    out = Path(config.out) if config.out else None
    if isinstance(config, TrainConfig) and config.resume:
        return _resumed_dir(Path(config.resume), out, config.nodes)
    if isinstance(config, EvaluateConfig) and config.out and (config.report or config.answers):
        return _place(Path(config.out))
    if out is not None:
        _refuse_other(config, out)
        return _place(out)
    # Without out=, a run of many clips goes where the same request has gone before, so that it resumes; every other run
    # gets a directory of its own, named after the time. Both are what ``last`` is to point at; a run in out= is not.
    last = OUTPUTS / place_of(config) / "last"
    if last.exists() and not last.is_symlink():
        raise ConfigError(
            f"{last} is not a link, so it is left alone: move it away, because cinelora makes a link of this name to "
            f"the newest run"
        )
    if not isinstance(config, TrainConfig) and (many := word_of_many(config)):
        found = _found_again(config, many)
        refuse_foreign(found, CONFIG_FILE)  # one that out= names was looked through before it was read
        _refuse_other(config, found)
        return _place(found, last)
    if config.nodes > 1:
        raise ConfigError(
            f"nodes={config.nodes}: each node would name a directory after its own clock; add out=<directory>"
        )
    return _place(new_dir(last.parent), last)


def _place(path: Path, last: Path | None = None, is_copy: bool = False) -> RunPlace:
    # a copy of another run holds much already, and is new all the same: a refused command takes it away again
    is_new = is_copy or not path.exists() or not any(path.iterdir())
    drop_wandb_links(path)
    return RunPlace(made(path), is_new, last, _held(path))


def place_of(config: Config) -> Path:
    """The folder of runs of this kind, below ``outputs``."""
    if isinstance(config, TrainConfig):
        return Path(config.stage.name, config.data.name)
    return Path(next(name for name, program in PROGRAMS.items() if isinstance(config, program.schema)))


def word_of_many(config: InferConfig | EvaluateConfig | StudyConfig) -> str | None:
    """A word for a run of many clips, which is found again by its settings and continued; None for a run of one."""
    if isinstance(config, InferConfig):
        return Path(config.prompts).stem if config.prompts else None
    several = getattr(config, "models", [])
    return f"{len(several)}_models" if several else Path(config.ckpt).stem if config.ckpt else "base"


def _found_again(config: InferConfig | EvaluateConfig | StudyConfig, many: str) -> Path:
    """The directory of this very request, also where an older version named it after settings that change no clip."""
    folder, word = OUTPUTS / place_of(config), re.sub(r"[^\w-]+", "_", many)
    # Which settings count in the name has changed between versions. An older directory is known by its config.yaml: read
    # today, and hashed as today, it gives the same hash.
    named = folder / f"{word}-{clip_hash(config)[:8]}"
    others = sorted(folder.glob(f"{word}-{'?' * 8}"))
    return named if named.exists() else next((one for one in others if _same_request(config, one)), named)


def begun_in(config: InferConfig | EvaluateConfig | StudyConfig) -> Path | None:
    """The directory where an earlier run began this very request, or None."""
    many = word_of_many(config)
    found = Path(config.out) if config.out else _found_again(config, many) if many else None
    return found if found and _same_request(config, found) else None


def new_dir(parent: Path) -> Path:
    """A new directory named after the time; a second one in the same second gets ``-2``."""
    stamp, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    made(parent)
    while True:
        run_dir = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            run_dir.mkdir()
            return run_dir
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _not_made(run_dir, error) from error


def made(folder: Path) -> Path:
    """The folder, made where it is missing; raises ``ConfigError`` where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_made(folder, error) from error
    return folder


def _not_made(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be made: {error.strerror}; choose another out=<directory>")


def _refuse_other(config: Config, out: Path) -> None:
    """Refuse a directory that holds anything but a run that never got to a checkpoint, or this very request."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"out={out} is a file; choose a directory, new or empty")
    # A training run is resumed only by resume=, because it changes what is there; clips that are there stay as they
    # are, so that the same request may come back to them at any time.
    # Nor is a file that is being written anything yet: of several nodes one may be at its config.yaml as the next one looks.
    held = {path.name for path in out.iterdir() if not path.name.startswith(TEMPORARY)} - {LOCK}
    if isinstance(config, TrainConfig):
        run = RunDirectory(out)
        if CONFIG_FILE in held and (run.has_checkpoint() or run.adapters() or "summary.json" in held):
            raise ConfigError(f"out={out} holds a run: continue it with resume={out}, or choose another out=")
        if held and CONFIG_FILE not in held:
            raise ConfigError(f"out={out} is not empty; choose another out=")
    elif held and not _same_request(config, out):
        raise ConfigError(f"out={out} holds clips of other settings, or something else; choose another out=")


def _same_request(config: InferConfig | EvaluateConfig | StudyConfig, out: Path) -> bool:
    with suppress(ConfigError):  # no settings there, or not those of this command
        return clip_hash(load(type(config), out / CONFIG_FILE)) == clip_hash(config)
    return False


def _resumed_dir(run: Path, out: Path | None, nodes: int) -> RunPlace:
    if out is None or out.resolve() == run.resolve():
        return _place(run)
    if nodes > 1:  # each would make a copy at the same time
        raise ConfigError(f"nodes={nodes}: copy {run} to out={out} yourself, then start every node with resume={out}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out={out} is not empty; resume={run} is continued in a copy there: choose another out=")
    if run.resolve() in out.resolve().parents:
        raise ConfigError(f"out={out} lies in resume={run}, and would be a copy of it: choose another out=")
    made(out.parent)
    copy_whole(run, out)
    return _place(out, is_copy=True)
