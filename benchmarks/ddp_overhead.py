"""What a step costs through ``train.py`` on two ranks, against a bare loop on the same two: at most 3 % more.

    python benchmarks/ddp_overhead.py [turns=30]

The peer is what one would write without a framework: diffusers' transformer, peft's LoRA, torch's DistributedDataParallel,
AdamW, and the batches of encoded samples already in memory. Both are in the same two processes and take turns of a few steps,
between which the ranks wait for each other; the ratio is taken turn by turn. On CPU ranks, each with one thread, over gloo.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import ddp_overhead
import torch.distributed as dist
from common import report
from torch.nn.parallel import DistributedDataParallel
from train_loop import SETTINGS, TURN, WARM_UP_TURNS, Turns, bare_step, joined

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.main import main as command
from cinelora.config.schema import TrainConfig
from cinelora.parallel.launch import launch
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.module import Stage

RANKS = 2
AT_MOST = 1.03
"""Seconds of a step through ``train.py``, over those of the bare loop."""


class SharedTurns(Turns):
    """Turns that begin and end on all ranks together."""

    @staticmethod
    def now(stage: Stage) -> float:
        """The time, once every rank is here."""
        dist.barrier()
        return Turns.now(stage)


def take_turns(config: TrainConfig, run: RunDirectory) -> dict[str, list[float]]:
    """On one rank: train as ``train.py`` does, in turn with the bare loop; the seconds of a step in each turn."""
    turns = SharedTurns(lambda stage: bare_step(stage, run, DistributedDataParallel), TURN)
    with joined(turns):
        train_rank(config, run)
    return {
        name: [s / TURN for s in seconds[WARM_UP_TURNS:]]
        for name, seconds in (("ours", turns.ours), ("bare", turns.bare))
    }


def measured(settings: list[str]) -> dict[str, Any]:
    """Seconds of both, and how many times the bare loop's ours are."""
    found: list[dict[str, list[float]]] = []

    def work(config: TrainConfig, run_dir: Path) -> int:
        run = RunDirectory(run_dir)
        for rank_work in (encode_rank, ddp_overhead.take_turns):  # ranks find it by the name of its module
            found[:] = [launch(rank_work, config, run, ranks=RANKS, log_dir=run.logs)]
        return 0

    if code := command("train", settings, work):
        sys.exit(code)
    ours, bare = found[0]["ours"], found[0]["bare"]
    times = sorted(o / b for o, b in zip(ours, bare, strict=True))
    quarter = len(times) // 4
    return {
        "turns": len(times),
        "train_py_s": statistics.median(ours),
        "bare_s": statistics.median(bare),
        "times_bare_median": statistics.median(times),
        "times_bare_middle_half": [times[quarter], times[-1 - quarter]],
        "times_bare_of_totals": sum(ours) / sum(bare),
        "met": statistics.median(times) <= AT_MOST,
    }


def main(words: list[str]) -> None:
    """Both stages, and whether the floor is met."""
    turns = int(dict(word.split("=", 1) for word in words).get("turns", 30))
    shared = [
        "data=noir",
        "logger=csv",
        f"gpus={RANKS}",
        "validation.every_steps=0",
        f"stage.steps={TURN * (turns + WARM_UP_TURNS)}",
    ]
    results: dict[str, Any] = {"at_most": AT_MOST, "ranks": RANKS}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in SETTINGS.items():
            r = results[name] = measured([*settings, *shared, f"out={scratch}/{name}", f"cache={scratch}/cache"])
            low, high = r["times_bare_middle_half"]
            print(
                f"{name}: train.py {r['train_py_s']:.4f}, bare loop {r['bare_s']:.4f} s a step on {RANKS} ranks; "
                f"{r['times_bare_median']:.3f} times the bare loop (middle half {low:.3f} to {high:.3f}, of totals "
                f"{r['times_bare_of_totals']:.3f})",
                flush=True,
            )
    report("ddp_overhead", results)


if __name__ == "__main__":
    main(sys.argv[1:])
