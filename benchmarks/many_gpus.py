"""What the cost model says of many GPUs, held against the official tables of Wan2.1 and Wan2.2: arithmetic, no GPU, a second.

    python benchmarks/many_gpus.py

Two numbers are fitted, on the first and the last row of Wan2.1's A100 column: how fast that code computes, as a multiple of
``footprint``'s seconds, and the seconds that no GPU shares. Everything else is foretold: the other rows, and other
cards, of which only the time on one GPU is taken (their code computes at another speed there).

The tables: I2V-14B, 81 frames of 1280x720, 40 steps, the sequence split by Ulysses inside one node, weights sharded, the VAE on
one rank (Wan2.1 README, "Computational Efficiency on Different GPUs"; Wan2.2 README, the same, which names 4 and 8 as
Ulysses degrees and computes as much: one of two transformers of that shape at each step).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from common import RESULTS

from cinelora.config.schema import SamplerConfig
from cinelora.families.wan21 import WAN21
from cinelora.parallel.partition import Partition
from cinelora.planning.cards import gpu_named
from cinelora.planning.estimate import Shape
from cinelora.planning.parallel_layout import choose_partition, partition_in_words
from cinelora.planning.step_time import ClipShape, Machine, clip_seconds, step_cost

OFFICIAL = {
    "Wan2.1": {
        "A100": {1: 2715.5, 2: 1371.7, 4: 716.1, 8: 389.7},
        "H100": {1: 1491.6, 2: 753.9, 4: 403.9, 8: 238.8},
    },
    "Wan2.2": {
        "A100": {1: 2810.9, 4: 730.5, 8: 393.4},
        "H100": {1: 1055.9, 4: 290.4, 8: 159.0},
    },
}
"""Seconds of a clip by GPUs."""
FITTED = ("Wan2.1", "A100", (1, 8))
STEPS = 40
WAN = ClipShape(Shape(40, 5120, 13824, 4096, 1280, "i2v", WAN21), 40, 81, 720, 1280, guided=True)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Fit(NamedTuple):
    """How somebody's code computes beside our seconds, and the seconds of a clip that ranks do not share."""

    pace: float
    alone_s: float


def parts(card: str, gpus: int) -> tuple[float, float]:
    """Seconds of a clip's steps by Ulysses: our arithmetic, and what is waited for."""
    gpu = gpu_named(card)
    assert gpu is not None
    cost = step_cost(WAN, Partition(1, 1, gpus), Machine(gpu))
    return STEPS * cost.compute_s, STEPS * cost.exposed_s


def fitted(card: str, seconds: dict[int, float], few: int, many: int) -> Fit:
    """From two rows of a column."""
    (least, waited_least), (most, waited_most) = parts(card, few), parts(card, many)
    pace = (seconds[few] - waited_least - seconds[many] + waited_most) / (least - most)
    return Fit(pace, seconds[few] - waited_least - pace * least)


def foretold(card: str, gpus: int, fit: Fit) -> float:
    """Seconds of a clip by that code."""
    computed, waited = parts(card, gpus)
    return fit.pace * computed + waited + fit.alone_s


def against_official() -> list[dict[str, Any]]:
    """Every row of the tables beside what is foretold of it."""
    family, card, (few, many) = FITTED
    fit, rows = fitted(card, OFFICIAL[family][card], few, many), []
    for table, columns in OFFICIAL.items():
        for name, seconds in columns.items():
            own = (
                fit if (table, name) == FITTED[:2] else Fit((seconds[1] - fit.alone_s) / parts(name, 1)[0], fit.alone_s)
            )
            for gpus, official in seconds.items():
                told = foretold(name, gpus, own)
                taken = gpus == 1 or (table, name, gpus) == (family, card, many)
                row = {"table": table, "card": name, "gpus": gpus, "official_s": official, "foretold_s": round(told, 1)}
                rows.append(row | {"off": round(told / official - 1, 4), "fitted": taken})
    return rows


def ours(card: str) -> list[dict[str, Any]]:
    """What is foretold of our partitions."""
    gpu = gpu_named(card)
    assert gpu is not None
    rows = []
    for count in COUNTS:
        per_node = min(count, 8)
        machine = Machine(gpu, per_node)
        plan, _ = choose_partition(WAN, SamplerConfig(), per_node, count // per_node)
        cost, seconds = step_cost(WAN, plan, machine), clip_seconds(WAN, STEPS, plan, machine)
        alone = Partition(1, 1, 1)
        rows.append(
            {
                "gpus": count,
                "partition": partition_in_words(plan, WAN.heads),
                "step_s": round(cost.seconds, 4),
                "step_times": round(step_cost(WAN, alone, machine).seconds / cost.seconds, 2),
                "clip_s": round(seconds, 1),
                "clip_times": round(clip_seconds(WAN, STEPS, alone, machine) / seconds, 2),
                "sent_gb": round(sum(cost.sent.values()) / 1e9, 2),
            }
        )
    return rows


def main() -> None:
    """Foretell, compare and keep."""
    family, card, (few, many) = FITTED
    fit, rows = fitted(card, OFFICIAL[family][card], few, many), against_official()
    print(
        f"fitted on {family}, {card}, {few} and {many} GPUs: {fit.pace:.3f} of our seconds, {fit.alone_s:.1f} s not shared"
    )
    for row in rows:
        told = "fitted" if row["fitted"] else f"{row['off']:+.1%}"
        print(
            f"{row['table']} {row['card']} x {row['gpus']}: {row['official_s']} s, foretold {row['foretold_s']} s, {told}"
        )
    cards = {name: ours(name) for name in ("A100", "H100", "H200")}
    for name, told_rows in cards.items():
        for told_row in told_rows:
            print(name, told_row)
    found = {"fit": fit._asdict(), "official": rows, "ours": cards}
    (RESULTS / "many_gpus.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
