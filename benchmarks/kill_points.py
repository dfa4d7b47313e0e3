"""Runs that are killed at every point of a step, and at random ones: does everything that is read back equal a run left alone?

    python benchmarks/kill_points.py [ranks=1,2] [what=callbacks,writes,random] [steps=1,2,3,4,5,6]
                                     [kills=100] [minutes=60] [seed=0]

Training of the embedded model with all that may act after a step: held-out losses and clips, previews, the best adapter, an end
before the last step because a number gets no better, a moving average, two micro-batches a step, a line of the curves every
fourth step. Ranks are forked from a process that has imported everything, and kill themselves with SIGKILL:

- after each callback, at each step: what stands between two of them;
- before each file that takes its place in the run directory: what stands between two writes;
- at random moments, all ranks at once or one of them, in one life after the other until the run has ended; no run is begun
  after so many ``minutes``.

Then the run is resumed until it ends, and every file of its directory that is ever read back is compared: tensors bit for bit,
numbers as they are written. What a clock or the size of the process says is left out. Results are kept beside those there are.
"""

import csv
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, report
from lightning import Callback

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.compose import compose_train
from cinelora.config.schema import TrainConfig
from cinelora.io.atomic import sha256_file, write_json
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import read_header
from cinelora.parallel.launch import LaunchError
from cinelora.training.callbacks.at_step import AtStep
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.checkpoint_files import saved_checkpoints
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank

sys.path.append(str(ROOT / "tests"))

from rank_pool import end_all, on_ranks

SETTINGS = [
    *("stage=style", "data=noir", "model.height=32", "model.width=48", "stage.steps=10", "stage.accumulation=2"),
    *("stage.batch_size=2", "data.holdout=0.2", "logger=csv", "logger.every_steps=4", "checkpoint.every_steps=2"),
    *("checkpoint.best=heldout/loss", "stopping.monitor=heldout/loss", "stopping.mode=max", "stopping.patience=2"),
    *(
        "ema_decay=0.9",
        "validation.every_steps=2",
        "validation.samples=2",
        "validation.clips=2",
        "preview.every_steps=2",
    ),
    *("preview.sampler_steps=1", "lora.dropout=0.1", "max_restarts=0"),
]
"""The held-out loss is best, as ``stopping`` sees it, when it is looked at first, so that the run ends at step 6 of 10."""
OF_A_CLOCK = {"train/samples_per_s", "train/step_s", "train/peak_memory_mib"}
OF_A_LIFE = {"seconds", "samples_per_s", "peak_memory_mib", "heldout_seconds"}
"""What differs between two runs that nobody kills: columns of the curves, and keys of the summary."""
CALLBACKS = [
    *("StopRequest", "Ema", "Progress", "Checkpointer", "ValidationLoss", "ValidationClips", "Preview"),
    *("EarlyStopping", "Duties"),
]
"""Those that act after a step, in their order."""
MOST_LIVES = 60


# -- points ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where a process kills itself: behind ``after`` at ``step``, before its file number ``write``, or after ``seconds``."""

    after: str = ""
    step: int = 0
    write: int = 0
    seconds: float | None = None
    rank: int | None = None

    def __str__(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in asdict(self).items() if value not in ("", 0, None))


class Killer(AtStep):
    """Stands behind another callback."""

    def __init__(self, step: int) -> None:
        self.step = step

    def at_step(self, trainer: Any, stage: Any, step: int) -> None:
        """End this process at the step that is meant."""
        if step == self.step:
            die()


def die() -> None:
    """End this process as the system's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: Point) -> None:
    """Let this process, forked for one life, kill itself at ``point``."""
    if point.rank is not None and os.environ["RANK"] != str(point.rank):
        return
    if point.seconds is not None:
        threading.Thread(target=lambda: (time.sleep(point.seconds or 0.0), die()), daemon=True).start()
    if point.after:
        ours = RunCallbacks.all

        def with_a_killer(crew: RunCallbacks) -> Iterator[Callback]:
            for callback in ours(crew):
                yield callback
                if type(callback).__name__ == point.after:
                    yield Killer(point.step)

        RunCallbacks.all = lambda crew: list(with_a_killer(crew))  # type: ignore[method-assign]
    if point.write:
        count(lambda number: die() if number == point.write else None)


def count(seen: Callable[[int], object]) -> None:
    """Tell ``seen`` the number of each rename, from 1, before it is done: a file, a folder or a pointer that takes its place."""
    numbers = itertools.count(1)

    def counted(act: Callable[..., None], *paths: Any) -> None:
        seen(next(numbers))
        act(*paths)

    os.replace, os.rename = partial(counted, os.replace), partial(counted, os.rename)  # type: ignore[assignment]


# -- lives -------------------------------------------------------------------------------------------------------------


def live(config: TrainConfig, run: RunDirectory, point: Point | None) -> None:
    """What a rank does in one life."""
    if point:
        arm(point)
    train_rank(config, run)


def begin(config: TrainConfig, run: RunDirectory, point: Point | None) -> bool:
    """Start the run, or go on with it; whether it came to its end."""
    resume = str(run.path) if saved_checkpoints(run.checkpoints) else None
    try:
        on_ranks(live, replace(config, resume=resume), run, point, ranks=config.gpus, log_dir=run.logs)
    except LaunchError:
        if point is None:
            raise
        return run.summary.exists()  # killed after its end
    return True


def new_run(encoded: RunDirectory, folder: Path) -> RunDirectory:
    """A run that has encoded its samples and not begun to train."""
    run = RunDirectory(folder)
    shutil.copytree(encoded.path, folder)
    return run


def number_of_writes(config: TrainConfig, run: RunDirectory) -> int:
    """How many files take their place, on rank 0, while a run is trained that nobody kills."""
    on_ranks(_live_and_count, config, run, ranks=config.gpus, log_dir=run.logs)
    found: int = read_json(run.path / "writes.json")
    (run.path / "writes.json").unlink()
    return found


def _live_and_count(config: TrainConfig, run: RunDirectory) -> None:
    seen = [0]
    count(seen.append)
    train_rank(config, run)
    if os.environ["RANK"] == "0":
        write_json(run.path / "writes.json", seen[-1])


def killed_at(point: Point, config: TrainConfig, encoded: RunDirectory, whole: RunDirectory, folder: Path) -> list[str]:
    """What differs in a run that was killed at ``point`` and resumed; raises ``RuntimeError`` where it lived on."""
    run = new_run(encoded, folder)
    if begin(config, run, point):
        raise RuntimeError(f"nothing was killed at {point}")
    begin(config, run, None)
    return differences(whole, run)


# -- what is read back -------------------------------------------------------------------------------------------------


def differences(whole: RunDirectory, other: RunDirectory) -> list[str]:
    """Everything that differs between two runs of the same settings, in words; nothing where they are equal."""
    ours, theirs = (read_back(run) for run in (whole, other))
    found = [f"{name} is in one of them" for name in sorted(ours.keys() ^ theirs.keys())]
    found += [f"{name} differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    return found + different_curves(whole, other)


def read_back(run: RunDirectory) -> dict[str, Any]:
    """Each file below a run, curves, logs and settings apart, by what it says."""
    found = [path for path in run.path.rglob("*") if path.is_file() and run.logs not in path.parents]
    files = [
        path for path in found if path != run.config and not path.name.startswith(".")
    ]  # where it lies, and who is in it
    return {str(path.relative_to(run.path)): content(path) for path in files}


def content(path: Path) -> Any:
    """What a file says, without what a clock says."""
    if path.name == "summary.json":
        return json.dumps({key: value for key, value in read_json(path).items() if key not in OF_A_LIFE})
    if path.name == "state.json":
        facts = read_json(path)
        facts.pop("digest", None)  # of all that is in it, what a clock says too
        noted = facts.get("memory", {}).get("journal", {}).get("numbers", {})
        for name in [name for name in noted if name in OF_A_CLOCK or name.startswith("heldout/base/")]:
            del noted[name]
        return json.dumps(facts, sort_keys=True)
    if path.suffix == ".safetensors" and "config" in (told := read_header(path).get("__metadata__", {})):
        settings = json.loads(told["config"])
        return {**told, "config": {**settings, "resume": None}}, path.read_bytes()[-tensor_bytes(path) :]
    return sha256_file(path)


def tensor_bytes(path: Path) -> int:
    """How many bytes of a safetensors file are its tensors'."""
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def curves(run: RunDirectory) -> Iterator[tuple[int, str, str]]:
    """Every number that any life has logged: step, name and value as it is written."""
    for table in sorted(run.logs.glob("csv/*/metrics.csv")):
        whole, _, _ = table.read_text().rpartition("\n")
        for row in csv.DictReader(whole.splitlines()):
            for name, value in row.items():
                if value and name != "step" and name not in OF_A_CLOCK:
                    # the base model's are logged by each life at its start, and are the same at any step
                    yield 0 if name.startswith("heldout/base/") else int(row["step"]), name, value


def different_curves(whole: RunDirectory, other: RunDirectory) -> list[str]:
    """Numbers that are missing, that are there beyond those expected, or have another value."""
    ours, theirs = (set(curves(run)) for run in (whole, other))
    found = [f"{name} at step {step} is never {value}" for step, name, value in sorted(ours - theirs)]
    return found + [f"{name} at step {step} is {value}" for step, name, value in sorted(theirs - ours)]


# -- tables ------------------------------------------------------------------------------------------------------------


Table = Callable[[TrainConfig, RunDirectory, Path, dict[str, str]], dict[str, Any]]


def callbacks(config: TrainConfig, encoded: RunDirectory, scratch: Path, options: dict[str, str]) -> dict[str, Any]:
    """Behind each callback, at each step."""
    whole = new_run(encoded, scratch / "whole")
    begin(config, whole, None)
    points = [Point(after=name, step=step) for step in map(int, options["steps"].split(",")) for name in CALLBACKS]
    return killed_at_each(points, config, whole, encoded)


def writes(config: TrainConfig, encoded: RunDirectory, scratch: Path, _: dict[str, str]) -> dict[str, Any]:
    """Before each file that takes its place."""
    whole = new_run(encoded, scratch / "whole")
    number = number_of_writes(config, whole)
    return killed_at_each([Point(write=write) for write in range(1, number + 1)], config, whole, encoded)


def killed_at_each(
    points: list[Point], config: TrainConfig, whole: RunDirectory, encoded: RunDirectory
) -> dict[str, Any]:
    """How many runs were killed, each at one of ``points``, and what differs in which."""
    found = {}
    for point in points:
        if said := killed_at(point, config, encoded, whole, whole.path.parent / "killed"):
            found[str(point)] = said
            print(f"{point}: {said[:4]}", flush=True)
        shutil.rmtree(whole.path.parent / "killed")
    return {"kills": len(points), "runs": len(points), "differing": found}


def at_random(config: TrainConfig, encoded: RunDirectory, scratch: Path, options: dict[str, str]) -> dict[str, Any]:
    """At random moments, in runs that are killed again and again until each has ended."""
    chance, whole = random.Random(int(options["seed"])), new_run(encoded, scratch / "whole")
    started = time.monotonic()
    begin(config, whole, None)
    longest = 1.2 * (time.monotonic() - started)
    killed = runs = unsettled = 0
    differing: dict[str, list[str]] = {}
    while killed < int(options["kills"]) and time.monotonic() < started + 60 * float(options["minutes"]):
        run = new_run(encoded, scratch / "killed")
        for life in range(MOST_LIVES):
            rank = chance.choice([None, *range(config.gpus)])
            last = life == MOST_LIVES - 1
            if begin(config, run, None if last else Point(seconds=chance.uniform(0.0, longest), rank=rank)):
                break
            killed += 1
            unsettled += any(
                not read_json(path / "state.json").get("settled") for path in saved_checkpoints(run.checkpoints)
            )
        runs += 1
        if said := differences(whole, run):
            differing[f"run {runs}"] = said
            print(f"run {runs}: {said[:4]}", flush=True)
        shutil.rmtree(run.path)
    return {"kills": killed, "runs": runs, "left_a_step_unsettled": unsettled, "differing": differing}


TABLES: dict[str, Table] = {"callbacks": callbacks, "writes": writes, "random": at_random}


def main(words: list[str]) -> None:
    """Kill runs of each number of ranks, and report."""
    options = {
        "ranks": "1,2",
        "what": ",".join(TABLES),
        "steps": "1,2,3,4,5,6",
        "kills": "100",
        "minutes": "60",
        "seed": "0",
    }
    options |= dict(word.split("=", 1) for word in words)
    kept = RESULTS / "kill_points.json"
    with tempfile.TemporaryDirectory(prefix="kill-points-") as scratch:
        for ranks in map(int, options["ranks"].split(",")):
            folder, of_ranks = Path(scratch) / str(ranks), f"{ranks} rank{'s' * (ranks > 1)}"
            config = compose_train([*SETTINGS, f"cache={scratch}/cache", f"gpus={ranks}"])
            config.stage.batch_size //= ranks
            encode_rank(config, RunDirectory(folder / "encoded"))
            for what in options["what"].split(","):
                found = TABLES[what](config, RunDirectory(folder / "encoded"), folder / what, options)
                which = {"callbacks": f" at steps {options['steps']}", "random": f", seed {options['seed']}"}
                part = what + which.get(what, "")
                results: dict[str, Any] = read_json(kept) if kept.exists() else {}  # another start may have added to it
                results.setdefault(of_ranks, {})[part] = found
                differing = f"{len(found['differing'])} of {found['runs']} runs differ"
                print(f"{of_ranks}, {part}: {found['kills']} kills, {differing}", flush=True)
                report("kill_points", results)
    end_all()


if __name__ == "__main__":
    main(sys.argv[1:])
