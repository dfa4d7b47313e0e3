"""Runs that are killed again and again, against the same runs left alone: do they end at the same numbers?

    python benchmarks/kills.py [kills=20] [steps=200] [seed=0] [ranks=1,2]

The embedded model is trained by ``train.py``, a checkpoint every third step. On one process the run directory lies on the disk
and the temporary directory in memory, on two ranks the other way round. At moments drawn from ``seed`` something is killed with
SIGKILL: the parent, or one rank, or all processes of the run; while it starts, between two steps, or in the middle of a save.
Where the parent lives it goes on by itself, else the run is resumed. Every loss that was ever logged is compared with that of
the run left alone, and so are the adapter, the last checkpoint, and every other file that is read back, bit for bit.
``kill_points.py`` kills at every point of a step, without the seconds of a start.
"""

import csv
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from common import ROOT, report, spread
from kill_points import differences

from cinelora.adapters.run_directory import RunDirectory
from cinelora.io.tensor_files import load_tensors
from cinelora.training.checkpoint_files import load_checkpoint, read_checkpoint, saved_checkpoints

KILLS, STEPS = 20, 200
MEMORY = Path("/dev/shm")
"""A filesystem other than the disk's, on every Linux."""
SETTINGS = [
    *("stage=style", "data=noir", "logger=csv", "logger.every_steps=1", "checkpoint.every_steps=3", "ema_decay=0.9"),
    *("stage.batch_size=1", "stage.accumulation=2", "model.height=32", "model.width=48", "max_restarts=1000"),
    *("validation.every_steps=6", "validation.samples=2", "validation.clips=2", "preview.every_steps=12"),
    *(
        "preview.sampler_steps=1",
        "checkpoint.best=heldout/loss",
        "stopping.monitor=heldout/loss",
        "stopping.patience=1000",
    ),
]
WHOM = ("parent", "rank", "all")
WHEN = ("start", "step", "save", "save")
GIVEN_UP_S = 300.0
"""No step takes as long, nor does a start."""


@dataclass
class Killed:
    """A run that is killed, what is seen of it, and the seconds from each of its starts to the first step."""

    out: Path
    settings: list[str]
    environment: dict[str, str]
    kills: list[dict[str, Any]] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or go on with it where it has a checkpoint."""
        resumes = bool(saved_checkpoints(self.out / "checkpoints"))
        place = [f"resume={self.out}"] if resumes else [*self.settings, f"out={self.out}"]
        with (self.out.parent / f"{self.out.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *place], env=self.environment, stdout=log, stderr=log
            )
        self.began = time.perf_counter()

    def steps(self) -> int:
        """The last step that was logged."""
        return max((step for step, _ in losses(self.out)), default=0)

    def family(self) -> list[psutil.Process]:
        """The parent and everything below it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self, whom: str, when: str, chance: random.Random) -> None:
        """Kill ``whom`` at a moment of the kind ``when``; what is left is gone, or goes on by itself, when this returns."""
        self.await_moment(when, chance)
        family = self.family()
        # children alone: what loads for a rank has its environment
        ranks = [process for process in psutil.Process(self.process.pid).children() if "RANK" in environment(process)]
        doomed = {"parent": family[:1], "rank": chance.sample(ranks, min(1, len(ranks))), "all": family}[whom]
        saves = [path.name for path in (self.out / "checkpoints").glob(".draft-*")]
        facts = {"whom": whom, "when": when, "step": self.steps(), "in_a_save": bool(saves), "processes": len(family)}
        self.kills.append(facts)
        for process in doomed:
            process.send_signal(signal.SIGKILL)
        self.began = time.perf_counter()
        if whom != "rank":
            self.process.wait()
            _, alive = psutil.wait_procs(family, timeout=GIVEN_UP_S)
            self.kills[-1] |= {"gone_s": time.perf_counter() - self.began, "alive": len(alive)}
        self.unusable += [str(path) for path in saved_checkpoints(self.out / "checkpoints") if not is_usable(path)]
        if whom != "rank":
            self.start()

    def await_moment(self, when: str, chance: random.Random) -> None:
        """Wait until it is time."""
        if when == "start":
            time.sleep(chance.uniform(0.5, 8.0))
            return
        seen = self.steps()
        self.await_step(seen + 1)
        self.starts_s.append(time.perf_counter() - self.began)
        self.await_step(seen + chance.randint(1, 6))
        if when == "save":
            # a draft lives for milliseconds: on a machine that is busy a look may miss it, and any moment is as good then
            latest = self.steps() + 3
            until(lambda: any((self.out / "checkpoints").glob(".draft-*")) or self.steps() >= latest, pause_s=0.0)
        time.sleep(chance.uniform(0.0, 0.01 if when == "save" else 0.3))

    def await_step(self, step: int) -> None:
        """Wait until ``step`` is logged, or the run has ended, which is said as an error."""

        def there() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.out} ended with {self.process.returncode}; see {self.out}.log")
            return self.steps() >= step

        until(there, pause_s=0.02)


def until(holds: Any, pause_s: float) -> None:
    """Wait for ``holds()``; raises ``TimeoutError`` where that takes too long."""
    end = time.monotonic() + GIVEN_UP_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(pause_s)


def environment(process: psutil.Process) -> dict[str, str]:
    """A process's environment; nothing of one that is gone."""
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return {}


def losses(out: Path) -> Iterator[tuple[int, str]]:
    """Every loss that any life of a run has logged, by its step; a line that a kill broke off is none."""
    for table in sorted((out / "logs" / "csv").glob("*/metrics.csv")):
        whole, _, _ = table.read_text().rpartition("\n")
        for row in csv.DictReader(whole.splitlines()):
            if row.get("train/loss") and row.get("step"):
                yield int(row["step"]), row["train/loss"]


def is_usable(path: Path) -> bool:
    """Whether a checkpoint reads back, hash and all."""
    try:
        read_checkpoint(path)
    except Exception:
        return False
    return True


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def left_behind(*folders: Path) -> list[str]:
    """What killed processes left half-done; what torch has compiled is there to stay."""
    found = [path for folder in folders for path in folder.rglob("*")]
    half_done = [path for path in found if path.name.startswith((".partial-", ".draft-", "cinelora-"))]
    return [str(path) for path in half_done if not path.name.startswith("cinelora-compiled-")]


def compare(whole: RunDirectory, killed: Killed) -> dict[str, Any]:
    """How the killed run ended, against the one left alone."""
    run, expected, found = RunDirectory(killed.out), dict(losses(whole.path)), list(losses(killed.out))
    exports = [load_tensors(r.adapter("style"))[0] for r in (whole, run)]
    checkpoints = [load_checkpoint(r.checkpoints).tensors for r in (whole, run)]
    return {
        "kills": len(killed.kills),
        "in_a_save": sum(kill["in_a_save"] for kill in killed.kills),
        "kills_by": {
            name: sum(name in kill.values() for kill in killed.kills) for name in (*WHOM, *dict.fromkeys(WHEN))
        },
        "steps": len(expected),
        "losses_logged": len(found),
        "steps_that_differ": sorted({step for step, loss in found if expected[step] != loss}),
        "steps_never_logged": sorted(expected.keys() - dict(found).keys()),
        "adapter_is_equal": same(*exports),
        "last_checkpoint_is_equal": same(*checkpoints),
        "differences": differences(whole, run),
        "unusable_checkpoints": killed.unusable,
        "most_processes": max(kill["processes"] for kill in killed.kills),
        "outlived": sum(kill.get("alive", 0) for kill in killed.kills),
        "left_behind": left_behind(killed.out, Path(killed.environment["TMPDIR"])),
        "seconds_to_first_step": killed.starts_s,
        "seconds_until_gone": [kill["gone_s"] for kill in killed.kills if "gone_s" in kill],
    }


def typed(words: list[str], environment: dict[str, str]) -> None:
    """Run ``train.py`` to its end."""
    command = [sys.executable, str(ROOT / "train.py"), *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def torment(
    out: Path,
    temporary: Path,
    cache: Path,
    ranks: int,
    kills: int,
    steps: int,
    seed: int,
    more: Sequence[str] = (),
    run_whole: Callable[[list[str], dict[str, str]], None] = typed,
) -> dict[str, Any]:
    """Run once undisturbed and once killed ``kills`` times, with ``temporary`` as the temporary directory."""
    chance = random.Random(seed)
    temporary.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, "TMPDIR": str(temporary)}
    settings = [*SETTINGS, f"gpus={ranks}", f"stage.steps={steps}", f"cache={cache}", *more]
    run_whole([*settings, f"out={out / 'whole'}"], given)
    killed = Killed(out / "killed", settings, given)
    killed.start()
    for whom in chance.sample(WHOM * math.ceil(kills / len(WHOM)), kills):
        killed.kill(whom, chance.choice(WHEN), chance)
    if killed.process.wait():
        raise RuntimeError(f"the killed run ended with {killed.process.returncode}; see {killed.out}.log")
    return compare(RunDirectory(out / "whole"), killed) | {
        "ranks": ranks,
        "out": filesystem(out),
        "temporary": filesystem(temporary),
    }


def filesystem(folder: Path) -> str:
    """Its type, as the kernel names it."""
    partitions = [p for p in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(p.mountpoint)]
    return max(partitions, key=lambda p: len(p.mountpoint)).fstype


def in_words(found: dict[str, Any]) -> str:
    """What came out, on one line."""
    counts = {
        key: len(found[key])
        for key in ("steps_that_differ", "steps_never_logged", "differences", "unusable_checkpoints", "left_behind")
    }
    return (
        f"{found['kills']} kills, {found['in_a_save']} of them in a save; of {found['steps']} steps {counts}; adapter equal: "
        f"{found['adapter_is_equal']}, last checkpoint: {found['last_checkpoint_is_equal']}; "
        f"first step after {spread(found['seconds_to_first_step'])} s, gone after {spread(found['seconds_until_gone'])} s"
    )


def main(words: list[str]) -> None:
    """Torment a run of each number of ranks, and report."""
    options = dict(word.split("=", 1) for word in words)
    kills, steps, seed = (
        int(options.get(key, default)) for key, default in (("kills", KILLS), ("steps", STEPS), ("seed", 0))
    )
    results: dict[str, Any] = {}
    disk, memory = (Path(tempfile.mkdtemp(prefix="kills-", dir=folder)) for folder in (None, MEMORY))
    try:
        for ranks in map(int, options.get("ranks", "1,2").split(",")):
            out, temporary = (disk, memory) if ranks == 1 else (memory, disk)
            r = torment(out / str(ranks), temporary / "tmp", disk / "cache", ranks, kills, steps, seed)
            results[f"{ranks} rank{'s' * (ranks > 1)}"] = r
            print(f"{ranks} rank{'s' * (ranks > 1)}: {in_words(r)}", flush=True)
            report("kills", results)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
