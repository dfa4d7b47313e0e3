"""Ranks that share each sample's sequence end at the numbers of those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest
from rank_pool import command
from rounding import EPS, STEPS
from small_runs import SMOOTH, assert_same_adapter, assert_same_end, logged, run_on_ranks

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import MetricsConfig, ModelConfig, PreviewConfig, StrategyConfig, TrainConfig
from cinelora.config.shipped import values
from cinelora.io.plain_data import read_json
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank


def run_on(ranks: int, sequence: int, config: TrainConfig, folder: Path, strategy: str = "auto") -> RunDirectory:
    """A run on so many ranks, ``sequence`` of which share each sample."""
    run = RunDirectory(folder)
    config = replace(config, gpus=ranks, strategy=StrategyConfig(strategy, sequence=sequence))
    encode_rank(config, run)
    if ranks == 1:
        train_rank(config, run)
    else:
        run_on_ranks(config, run)
    return run


def numbers(run: RunDirectory) -> dict[str, object]:
    summary = read_json(run.summary)
    keys = ("loss", "adapter_effect", "heldout_loss", "heldout_change", "prediction_effect", "heldout_clips")
    return {key: summary[key] for key in keys if key in summary}


@pytest.mark.long
def test_one_sequence_on_all_ranks_is_that_of_one(style_config: TrainConfig, tmp_path: Path):
    """Stills of 6 tokens: in a ring of three, as 4 heads do not divide by 3, and unevenly on four; with previews and EMA."""
    config = replace(style_config, optimizer=SMOOTH, ema_decay=0.9, stage=replace(style_config.stage, steps=4))
    config.preview = PreviewConfig(every_steps=4, sampler_steps=2)
    one = run_on(1, 1, config, tmp_path / "one")
    for ranks in (3, 4):
        shared = run_on(ranks, ranks, config, tmp_path / str(ranks))
        assert_same_end(one, shared, STEPS)
        assert numbers(shared) == pytest.approx(numbers(one), rel=1e-4)
        previews = [sorted(path.name for path in run.previews.iterdir()) for run in (one, shared)]
        assert previews[0] == previews[1]


@pytest.mark.long
def test_zero_and_shared_sequences_go_together(style_config: TrainConfig, tmp_path: Path):
    """ZeRO averages over all ranks, those of one sequence too."""
    config = replace(style_config, optimizer=SMOOTH, stage=replace(style_config.stage, steps=4))
    one = run_on(1, 1, config, tmp_path / "one")
    for strategy in ("zero2", "zero3"):
        shared = run_on(2, 2, config, tmp_path / strategy, strategy)
        assert_same_end(one, shared, STEPS)
        assert numbers(shared) == pytest.approx(numbers(one), rel=1e-4)


@pytest.mark.long
def test_clips_that_ranks_draw_together_count_once(motion_config: TrainConfig, tmp_path: Path):
    """Windows with their first frame, which some samples lose; the held-out ones are drawn and measured."""
    config = replace(motion_config, optimizer=SMOOTH, dropout=replace(motion_config.dropout, image=0.5))
    config.stage = replace(config.stage, steps=4, accumulation=1)
    config.data = replace(config.data, holdout=0.5, window_stride=2)
    config.validation = replace(config.validation, clips=3)
    config.preview = PreviewConfig(sampler_steps=2)
    config.metrics = MetricsConfig(names=["motion", "tssim"])
    one, shared = run_on(1, 1, config, tmp_path / "one"), run_on(2, 2, config, tmp_path / "shared")
    assert_same_end(one, shared, STEPS)
    theirs = numbers(one).pop("heldout_clips")
    assert numbers(shared).pop("heldout_clips") == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(("sequence", "strategy"), [(2, "zero3"), (1, "zero2")])
def test_ranks_learn_to_expand_a_frame_that_has_no_noise(
    sequence: int, strategy: str, motion_config: TrainConfig, tmp_path: Path
):
    """TI2V-5B, a time for each of 3 tokens, 2 and 1 of them on a rank; with accumulation, an average and recomputed blocks."""
    model = replace(ModelConfig(**values("model/tiny_wan22_5b")), height=32, width=32)
    config = replace(motion_config, model=model, optimizer=SMOOTH, ema_decay=0.9)
    config.stage, config.dropout = replace(config.stage, steps=3), replace(config.dropout, image=0.0)
    config.memory = replace(config.memory, recompute=1.0)
    one = run_on(1, 1, replace(config, memory=replace(config.memory, recompute=0.0)), tmp_path / "one")
    stage = replace(config.stage, batch_size=sequence)
    shared = run_on(2, sequence, replace(config, stage=stage), tmp_path / "shared", strategy)
    assert_same_end(one, shared, STEPS)
    assert numbers(shared) == pytest.approx(numbers(one), rel=1e-4)
    assert logged(shared, "train/loss") == pytest.approx(logged(one, "train/loss"), rel=STEPS * EPS)


@pytest.mark.long
def test_a_real_run_that_shares_sequences_logs_the_losses_of_one_that_does_not(
    footage: Path, cache: Path, tmp_path: Path
):
    settings = [
        "stage=motion",
        "data=folder",
        f"data.root={footage}",
        "data.judged=false",
        f"data.prepared={footage}-prepared",
        f"cache={cache}",
        "logger=csv",
    ]
    settings += ["logger.every_steps=1", "model.height=32", "model.width=48", "stage.num_frames=9", "stage.steps=4"]
    settings += ["stage.batch_size=2", "stage.accumulation=2", "optimizer.eps=1e-3", "data.holdout=0.4"]
    for name, shares in (("apart", ["gpus=2"]), ("shared", ["gpus=4", "strategy.sequence=2"])):
        code, printed = command("train", *settings, *shares, f"out={tmp_path / name}", log=tmp_path / f"{name}.log")
        assert code == 0, printed
    assert "batch 2 x 4 GPUs / 2 a sequence x 2 accumulation = 8" in printed
    assert "strategy.sequence=2: 18 tokens / 2 = 9 a rank, 4 heads / 2 = 2 each (Ulysses)" in printed
    one, shared = (RunDirectory(tmp_path / name) for name in ("apart", "shared"))
    assert losses(shared) == pytest.approx(losses(one), rel=STEPS * EPS)
    assert_same_adapter(one, shared, "motion", STEPS)


def losses(run: RunDirectory) -> list[float]:
    """Of every step, and of the held-out samples."""
    found = logged(run, "train/loss") + logged(run, "heldout/loss")
    assert len(found) > 4
    return found
