"""What a checkpoint of a 14B adapter costs, and how long training stands still for one.

    python benchmarks/checkpoint.py [folder]

The adapter has the shapes of rank 8 on the cross-attention of Wan2.1 I2V 14B, k_img and v_img with it, with its optimizer's
moments and its moving average; the transformer itself is on no device. It is saved below ``folder`` (by default the temporary
directory) by the ``Checkpointer`` of training, as it is in training: checkpoint and adapter file. Floors: 1 s and 330 MB.

Then both stages of the embedded model are trained as ``train.py`` does in its rank, with a save every fifth step: a save may
hold training up by less than a step.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import report, spread
from diffusers import WanTransformer3DModel
from lightning import Callback, Trainer
from train_step import wait

from cinelora.adapters.lora_layers import add_adapter
from cinelora.adapters.run_directory import RunDirectory
from cinelora.adapters.trainable import TrainedAdapter
from cinelora.cli.compose import compose_train
from cinelora.cli.main import main as command
from cinelora.config.schema import LoraSpec, TrainConfig
from cinelora.io.atomic import sha256_file
from cinelora.io.hardware import default_device
from cinelora.latents.cache import Index
from cinelora.training.callbacks.at_step import AtStep
from cinelora.training.callbacks.checkpoint import Checkpointer
from cinelora.training.callbacks.ema import Ema
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.export import export
from cinelora.training.fit import train_rank
from cinelora.training.module import Stage

SAVES = 9
EVERY = 5
STAGES = {"style": ["stage=style"], "motion": ["stage=motion"]}
SHARED = [
    *(
        "data=noir",
        "logger=csv",
        "stage.steps=30",
        "validation.every_steps=0",
        "checkpoint.every_steps=0",
        "ema_decay=0.999",
    )
]
AT_MOST_S, AT_MOST_MB = 1.0, 330.0
"""Seconds and decimal megabytes that a checkpoint of the 14B shape may take."""


# -- the 14B shape -----------------------------------------------------------------------------------------------------


def adapter_14b(device: torch.device) -> TrainedAdapter:
    """Factors on ``device``, on a transformer that is nowhere."""
    settings = {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824}
    settings |= {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**settings)
    transformer.patch_embedding.to_empty(device=device)  # factors are made where this is
    add_adapter(transformer, "motion", LoraSpec(8, 16.0), seed=0)
    return TrainedAdapter(transformer, "motion")


def measure_14b(folder: Path) -> dict[str, Any]:
    """Seconds of each save and of a load, and the sizes on disk."""
    device = default_device()
    adapter = adapter_14b(device)
    optimizer = torch.optim.AdamW(adapter.parameters, lr=1e-3, fused=True)
    config = compose_train(["stage=motion", "data=noir", "model=wan21_14b_480p", "model.weights=random"])
    run, ema = RunDirectory(folder), Ema(0.999)
    Index((), {}).save(run.dataset)
    ema.average = {name: value.clone() for name, value in adapter.state().items()}
    keeper = Checkpointer(config.checkpoint, run, partial(export, config, run, Index((), {})), ema, {})
    seconds = []
    for step in range(1, SAVES + 1):
        for parameter in adapter.parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        seconds.append(timed(device, lambda step=step: save(keeper, step, adapter, optimizer)))
    newest = run.checkpoints / f"step-{SAVES:08d}"
    return {
        "parameters": sum(parameter.numel() for parameter in adapter.parameters),
        "checkpoint_megabytes": sum(path.stat().st_size for path in newest.iterdir()) / 1e6,
        "adapter_megabytes": run.adapter("motion").stat().st_size / 1e6,
        "save_s": seconds,
        "save_median_s": statistics.median(seconds),
        "load_s": timed(device, lambda: load_checkpoint(run.checkpoints)),
        "of_which_hash_s": timed(device, lambda: sha256_file(newest / "state.safetensors")),
    }


def save(keeper: Checkpointer, step: int, adapter: TrainedAdapter, optimizer: torch.optim.Optimizer) -> None:
    """What the keeper does on one rank, where there is no trainer to be asked."""
    state = optimizer.state_dict()["state"]
    moments = {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}
    keeper.write(step, adapter.state(), keeper.ema.average, moments, {})


def timed(device: torch.device, act: Callable[[], object]) -> float:
    """Seconds of ``act``, once the device has done all it was given before."""
    wait(device)
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


# -- in training -------------------------------------------------------------------------------------------------------


class Stopwatch(AtStep):
    """Seconds of the steps of a run, and of its saves, between two of which there is one."""

    def __init__(self, keeper: Checkpointer) -> None:
        super().__init__()
        self.keeper = keeper
        self.steps_s, self.saves_s = list[float](), list[float]()

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """A step begins; with accumulation, at its first batch."""
        if trainer.global_step == self.seen:
            self.since = time.perf_counter()
            self.seen = -1

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """It has ended, and may be saved; its checkpoint is settled, as it is when all have acted after a step."""
        ended = time.perf_counter()
        self.steps_s.append(ended - self.since)
        if step % EVERY == 0:
            self.keeper.save(trainer, stage, step)
            self.keeper.settle(trainer, stage, step)
            self.saves_s.append(time.perf_counter() - ended)


def measure_training(settings: list[str], out: Path) -> dict[str, Any]:
    """Seconds of a step and of a save of the embedded model."""
    found: list[Stopwatch] = []
    chosen = RunCallbacks.all

    def with_a_watch(crew: RunCallbacks) -> list[Callback]:
        found.append(Stopwatch(crew.checkpointer))
        return [*chosen(crew), found[-1]]

    def work(config: TrainConfig, run_dir: Path) -> int:
        encode_rank(config, RunDirectory(run_dir))
        train_rank(config, RunDirectory(run_dir))
        return 0

    RunCallbacks.all = with_a_watch  # type: ignore[method-assign]
    try:
        if code := command("train", [*settings, *SHARED, f"out={out}"], work):
            sys.exit(code)
    finally:
        RunCallbacks.all = chosen  # type: ignore[method-assign]
    step_s, save_s = (statistics.median(seconds[1:]) for seconds in (found[0].steps_s, found[0].saves_s))
    return {"step_s": step_s, "save_s": save_s, "saves_s": found[0].saves_s, "steps_stood_still": save_s / step_s}


def main(words: list[str]) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(dir=words[0] if words else None) as scratch:
        (Path(scratch) / "14b").mkdir()
        full = measure_14b(Path(scratch) / "14b")
        print(
            f"14B shape: {full['checkpoint_megabytes']:.0f} MB and an adapter of {full['adapter_megabytes']:.0f} MB, saved in "
            f"{spread(full['save_s'])} s, loaded in {full['load_s']:.2f} s"
        )
        stages = {}
        for name, settings in STAGES.items():
            r = stages[name] = measure_training([*settings, f"cache={scratch}/cache"], Path(scratch) / name)
            print(
                f"{name}: a step {r['step_s']:.3f} s, a save {r['save_s']:.3f} s: {r['steps_stood_still']:.2f} of a step"
            )
    met = full["save_median_s"] < AT_MOST_S and full["checkpoint_megabytes"] < AT_MOST_MB
    met = met and all(r["steps_stood_still"] < 1 for r in stages.values())
    report("checkpoint", {"wan_14b": full, "embedded": stages, "met": met})


if __name__ == "__main__":
    main(sys.argv[1:])
