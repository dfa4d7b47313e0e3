"""Small whole runs in the test's own process, and what two of them are compared by."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning import Callback, Trainer
from rank_pool import on_ranks
from rounding import SUMS, units_of
from torch import Tensor

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import OptimizerConfig, TrainConfig
from cinelora.families import family_of
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.parallel.launch import RankKilled
from cinelora.training.checkpoint_files import POINTER, load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import build_stage, train_rank
from cinelora.training.gpu_policy import policy_at_hand
from cinelora.training.module import Stage

SMOOTH = OptimizerConfig(eps=1e-3)
"""AdamW as it steps by the gradient: by its sign, it makes a whole step of the last digits of one near zero."""


def run_here(config: TrainConfig, folder: Path) -> RunDirectory:
    """Encode and train in this process."""
    run = RunDirectory(folder)
    encode_rank(config, run)
    train_rank(config, run)
    return run


def run_on_ranks(config: TrainConfig, run: RunDirectory) -> dict[str, object]:
    """Train on as many ranks of the pool as ``config.gpus`` says; the summary."""
    summary: dict[str, object] = on_ranks(train_rank, config, run, ranks=config.gpus, log_dir=run.logs)
    return summary


def run_until_killed(step: int, config: TrainConfig, run: RunDirectory) -> None:
    """Encode here, then train on ranks of the pool that SIGKILL ends as soon as the checkpoint of ``step`` is there."""
    encode_rank(config, run)
    with pytest.raises(RankKilled):
        on_ranks(train_and_die, step, config, run, ranks=config.gpus, log_dir=run.logs)


def train_and_die(step: int, config: TrainConfig, run: RunDirectory) -> None:
    """Train on a rank that SIGKILL ends as soon as the checkpoint of ``step`` is there."""
    threading.Thread(target=_die_after, args=(step, run), daemon=True).start()
    train_rank(config, run)


class Scripted(Callback):
    """Acts while a given optimizer step is computed, as a signal or a mishap would; steps count from 0."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            self.act()


def _die_after(step: int, run: RunDirectory) -> None:
    # the moment is nobody's choice: this thread runs beside the one that trains, which may be anywhere by then
    last = run.checkpoints / POINTER
    while not (last.exists() and last.read_text() >= f"step-{step:08d}"):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)


def assert_same_end(one: RunDirectory, other: RunDirectory, units: float = 0) -> None:
    """Of weights, averages and moments: two runs end at the same step, and no group is further apart (see rounding.py)."""
    first, second = load_checkpoint(one.checkpoints), load_checkpoint(other.checkpoints)
    assert first.step == second.step
    assert first.tensors.keys() == second.tensors.keys()
    _assert_alike(first.tensors, second.tensors, units)


def assert_same_adapter(one: RunDirectory, other: RunDirectory, kind: str, units: float = 0) -> None:
    """The same as ``assert_same_end`` for what the runs export."""
    ours, theirs = (load_tensors(run.adapter(kind))[0] for run in (one, other))
    assert ours.keys() == theirs.keys()
    _assert_alike(ours, theirs, units)


def _assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], units: float) -> None:
    # factors and first and second moments differ in size by orders: each group has its own largest number
    for group in {group_of(name) for name in ours}:
        names = [name for name in ours if group_of(name) == group]
        found = units_of([theirs[name] for name in names], [ours[name] for name in names])
        # a transformer's own weights are large, and a few steps hardly move them: of their size, that is little
        assert found <= (min(units, SUMS) if group[1] == "weights" else units), (group, found)


def group_of(name: str) -> tuple[str, str]:
    """What tensors of about one size have in common: ``("moments", "exp_avg")``, ``("ema", "lora_B")``, ``(.., "weights")``."""
    first, *rest = name.split(".")
    if first == "moments":
        return first, rest[-1]
    return first, next((part for part in rest if part.startswith("lora_")), "weights")


def logged(run: RunDirectory, name: str, first_step: int = 0) -> list[float]:
    """The values of one curve since the run was started, or resumed at ``first_step``, in order."""
    with (run.logs / "csv" / f"from-step-{first_step:08d}" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def stage_of(config: TrainConfig, run: RunDirectory) -> Stage:
    """The stage as a run builds it, before its first step."""
    texts = family_of(config.model).text_tokens
    training = LatentDataset(Path(config.cache), Index.load(run.dataset), "train", texts)
    return build_stage(config, run, training, policy_at_hand(config)[0])


def as_of_an_older_version(facts: Path) -> None:
    """Let a checkpoint be one that was written without a digest: what is read is then looked at for what it says."""
    tensors, _ = load_tensors(facts.with_name("state.safetensors"))
    digest = save_tensors(facts.with_name("state.safetensors"), tensors, {"step": "1"})
    said = json.loads(facts.read_text())
    del said["digest"]
    facts.write_text(json.dumps(said | {"sha256": digest}))
