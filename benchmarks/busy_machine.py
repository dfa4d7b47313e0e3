"""A style step of the embedded model on two threads, alone and beside one busy process, by how OpenMP's threads wait.

    python benchmarks/busy_machine.py [rounds=9] [steps=10] [slow_steps=2]

Each setting has a process of its own, which is built once and then takes its turn in every round, so that a machine whose
speed drifts drifts for all of them; while one takes its turn the others sleep. Ratios are taken round by round: ``alone``
over the library's own setting alone, ``beside`` over the same setting alone. The machine must be idle otherwise, as any
other work is a second busy process. Where a setting needs far too long beside the busy process, it does fewer steps.

``ours`` is what ``cinelora.parallel.launch.spin_briefly`` sets: at most 10 % slower alone, at most 3 times slower beside
the busy one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report

from cinelora.parallel.launch import SPIN_ROUNDS, SPIN_SETTINGS

THREADS = 2
BATCH = 4
SETTINGS: dict[str, dict[str, str]] = {
    "library": {},
    "ours": {"GOMP_SPINCOUNT": SPIN_ROUNDS},
    "spin_300": {"GOMP_SPINCOUNT": "300"},
    "spin_1000": {"GOMP_SPINCOUNT": "1000"},
    "spin_10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one_thread": {"OMP_NUM_THREADS": "1"},
}
AT_MOST = {"alone": 1.1, "beside": 3.0}
WARM_UP = 3


# -- the process that steps --------------------------------------------------------------------------------------------


def style_step() -> Callable[[], None]:
    """One optimizer step of stage 1 as ``train.py`` does it, on random latents and random weights."""
    import torch

    from cinelora.adapters.adapter_file import LoraSpec
    from cinelora.adapters.lora_layers import add_adapter
    from cinelora.cli.compose import compose_train
    from cinelora.families.wan.bundle import WanBundle
    from cinelora.families.wan.conditions import Condition, predict_velocity
    from cinelora.families.wan21 import WAN21

    config = compose_train(["stage=style", "data=noir", "model.weights=random"])
    model = config.model
    transformer = WanBundle.from_config(model, "t2v", Path("none"), torch.device("cpu")).load_transformer()
    add_adapter(transformer, "style", LoraSpec(config.lora.rank, config.lora.alpha), seed=0)
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    latents = torch.randn(BATCH, 16, 1, model.height // 8, model.width // 8)
    text = Condition(torch.randn(BATCH, WAN21.text_tokens, transformer.config.text_dim))
    sigma = torch.full((BATCH,), 0.5)

    def step() -> None:
        optimizer.zero_grad()
        predict_velocity(transformer.train(), latents, sigma * 1000, text).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def take_orders() -> None:
    """Do as many steps as each line of stdin says, and answer with the seconds of one."""
    step = style_step()
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - started) / int(line), flush=True)


# -- the process that measures -----------------------------------------------------------------------------------------


class Stepper:
    """A process with one of the settings in its environment."""

    def __init__(self, setting: dict[str, str]) -> None:
        kept = {key: value for key, value in os.environ.items() if key not in SPIN_SETTINGS}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "step"],
            env={**kept, "OMP_NUM_THREADS": str(THREADS), **setting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout
        if self.answers.readline().strip() != "ready":
            raise RuntimeError(f"the process with {setting} ended before its first step")

    def seconds(self, steps: int) -> float:
        """Seconds of one step, over ``steps``."""
        print(steps, file=self.orders, flush=True)
        return float(self.answers.readline())

    def end(self) -> None:
        """Let the process end."""
        self.orders.close()
        self.process.wait()


def busy() -> subprocess.Popen[bytes]:
    """A process that keeps one core busy until it is killed."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def one_round(steppers: dict[str, Stepper], steps: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Seconds of a step (alone, beside the busy process) of every setting."""
    alone = {name: stepper.seconds(steps["alone"]) for name, stepper in steppers.items()}
    neighbour = busy()
    try:
        beside = {name: stepper.seconds(steps[name]) for name, stepper in steppers.items()}
    finally:
        neighbour.kill()
        neighbour.wait()
    return {name: (alone[name], beside[name]) for name in steppers}


def summary(rounds: list[dict[str, tuple[float, float]]], name: str) -> dict[str, Any]:
    """Median and range of seconds and of the ratios taken round by round."""
    columns = {
        "alone_s": [row[name][0] for row in rounds],
        "beside_s": [row[name][1] for row in rounds],
        "alone": [row[name][0] / row["library"][0] for row in rounds],
        "beside": [row[name][1] / row[name][0] for row in rounds],
    }
    return {
        key: {"median": round(statistics.median(column), 4), "range": [round(min(column), 4), round(max(column), 4)]}
        for key, column in columns.items()
    }


def main(words: list[str]) -> None:
    """Measure and report."""
    options = {"rounds": 9, "steps": 10, "slow_steps": 2} | {k: int(v) for k, v in (w.split("=") for w in words)}
    steppers = {name: Stepper(setting) for name, setting in SETTINGS.items()}
    steps = dict.fromkeys(["alone", *SETTINGS], options["steps"]) | {"library": 1, "spin_10000": options["slow_steps"]}
    rounds = []
    for number in range(options["rounds"]):
        rounds.append(one_round(steppers, steps))
        said = ", ".join(f"{name} {alone:.3f} {beside:.3f}" for name, (alone, beside) in rounds[-1].items())
        print(f"round {number + 1} (seconds alone, beside): {said}", flush=True)
    for stepper in steppers.values():
        stepper.end()
    found = {name: summary(rounds, name) for name in SETTINGS}
    for name, row in found.items():
        print(f"{name}: " + ", ".join(f"{key} {of['median']} {of['range']}" for key, of in row.items()))
    met = {key: found["ours"][key]["median"] <= limit for key, limit in AT_MOST.items()}
    print(f"limits {AT_MOST} met: {met}")
    report("busy_machine", {"threads": THREADS, "rounds": options["rounds"], **found, "limits_met": met})


if __name__ == "__main__":
    take_orders() if sys.argv[1:] == ["step"] else main(sys.argv[1:])
