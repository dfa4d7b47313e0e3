"""Runs that end because a number says so, and what is kept as the best."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import run_here, run_on_ranks

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.run_directory import RunDirectory, adapter_paths
from cinelora.config.schema import CheckpointConfig, OptimizerConfig, StoppingConfig, TrainConfig
from cinelora.errors import ConfigError
from cinelora.io.plain_data import read_json
from cinelora.training.callbacks.early_stopping import Best
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.run_stage import closing_lines, train


def test_better_is_finite_and_further_than_the_smallest_change():
    record = Best("heldout/loss", lower=True, min_change=0.1)
    values = [math.nan, 1.0, 0.95, 0.85, math.inf, -math.inf, 0.8, 0.7]
    assert [record.take(value, step) for step, value in enumerate(values)] == [0, 1, 0, 1, 0, 0, 0, 1]
    assert (record.best, record.step, record.since) == (0.7, 7, 0)
    higher = Best("heldout/ssim", lower=False)
    assert [higher.take(value, 0) for value in (0.5, 0.5, 0.6, 0.4)] == [True, False, True, False]


@pytest.fixture
def flat(style_config: TrainConfig) -> TrainConfig:
    """A run that watches its constant rate, which gets no better after the first step: it ends at the sixth of eight."""
    return replace(style_config, stopping=StoppingConfig(monitor="train/lr", mode="max", patience=5))


@pytest.mark.usefixtures("pooled")
def test_a_run_that_gets_no_better_ends_early_whole_and_says_why(
    flat: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train(flat, tmp_path) == 0
    run = RunDirectory(tmp_path)
    summary = read_json(run.summary)
    assert (summary["step"], summary["interrupted"]) == (6, False)
    assert load_checkpoint(run.checkpoints).step == 6
    told = "stopped early, at step 6 of 8: train/lr was best at step 1 (0.0008) and not better the 5 times after it"
    assert told in capsys.readouterr().out


def test_a_resumed_run_ends_where_one_that_was_never_stopped_does(flat: TrainConfig, tmp_path: Path):
    run = run_here(replace(flat, stage=replace(flat.stage, steps=4)), tmp_path)
    assert load_checkpoint(run.checkpoints).facts["memory"]["early_stopping"]["stopping"]["since"] == 3
    assert train_rank(replace(flat, resume=str(run.path)), run)["step"] == 6
    again = train_rank(replace(flat, resume=str(run.path), stage=replace(flat.stage, steps=20)), run)
    assert (again["step"], again["stopped_early"]["step"]) == (11, 1)  # with its patience anew


def test_ranks_end_together_although_each_has_a_speed_of_its_own(flat: TrainConfig, tmp_path: Path):
    config = replace(flat, gpus=2, stage=replace(flat.stage, steps=100, batch_size=1))
    config.stopping = StoppingConfig(monitor="train/samples_per_s", mode="max", patience=2, min_change=1e9)
    run = RunDirectory(tmp_path)
    encode_rank(config, run)
    assert run_on_ranks(config, run)["step"] == 3


def test_the_best_adapter_is_that_of_its_step_and_is_used_where_it_is_named(style_config: TrainConfig, tmp_path: Path):
    config = replace(style_config, optimizer=OptimizerConfig(warmup_steps=3, schedule="cosine"), ema_decay=0.9)
    config.checkpoint = CheckpointConfig(every_steps=3, keep=3, best="train/lr", best_mode="max")
    run = run_here(config, tmp_path)
    summary = read_json(run.summary)
    assert summary["best"]["step"] == 3
    best, last = (read_adapter(path).state for path in (run.best("style"), run.adapter("style")))
    at_best = run_here(replace(config, stage=replace(config.stage, steps=3)), tmp_path / "short")
    saved = load_checkpoint(at_best.checkpoints)
    assert saved.step == 3
    assert all(torch.equal(value, saved.group("ema")[name]) for name, value in best.items())
    assert any(not torch.equal(value, last[name]) for name, value in best.items())
    assert adapter_paths(run.path) == {"style": run.adapter("style")}
    assert adapter_paths(run.best("style")) == {"style": run.best("style")}
    assert f"at step 3, kept in {run.best('style')}" in "\n".join(closing_lines(summary, run))


def test_a_number_of_held_out_samples_is_refused_where_there_are_none(style_config: TrainConfig, tmp_path: Path):
    config = replace(style_config, data=replace(style_config.data, holdout=0.0))
    config.stopping = StoppingConfig(monitor="heldout/loss")
    with pytest.raises(
        ConfigError, match="held-out samples and there are none: raise data.holdout, or take one of train/"
    ):
        run_here(config, tmp_path)
