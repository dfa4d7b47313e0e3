"""What is drawn in the middle of training: previews beside the base model's, and held-out clips that are measured."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import run_here, run_on_ranks

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import (
    LoggerConfig,
    MetricsConfig,
    OptimizerConfig,
    PreviewConfig,
    StoppingConfig,
    TrainConfig,
)
from cinelora.errors import ConfigError
from cinelora.footage.video_reader import open_video
from cinelora.io.plain_data import read_json
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank

STILL = OptimizerConfig(lr=1e-50, lr_for_width=None)
"""Less than float32 can hold: nothing moves."""
QUICK = OptimizerConfig(lr=1e-2, lr_for_width=None)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def shown(style_config: TrainConfig) -> TrainConfig:
    """Two seeds, once after four steps."""
    preview = PreviewConfig(every_steps=4, seeds=2, sampler_steps=2)
    return replace(style_config, preview=preview, stage=replace(style_config.stage, steps=4))


def test_previews_stand_beside_the_base_which_an_unmoved_adapter_equals(shown: TrainConfig, tmp_path: Path):
    still = run_here(replace(shown, optimizer=STILL), tmp_path / "still").previews
    moved = run_here(replace(shown, optimizer=QUICK), tmp_path / "moved").previews
    for seed in ("", "-1"):
        base = pixels(still / f"base{seed}.png")
        assert np.array_equal(pixels(still / f"step-00000004{seed}.png"), base)
        assert np.array_equal(pixels(moved / f"base{seed}.png"), base)
        assert not np.array_equal(pixels(moved / f"step-00000004{seed}.png"), base)
    assert not np.array_equal(pixels(still / "base.png"), pixels(still / "base-1.png"))
    height, width = pixels(still / "base.png").shape[:2]
    sheet = pixels(moved / "step-00000004-sheet.png")
    assert sheet.shape[0] > 4 * height
    assert sheet.shape[1] == width


def test_the_base_is_drawn_once_also_over_a_resume_and_anew_where_it_would_look_otherwise(
    shown: TrainConfig, tmp_path: Path
):
    run = run_here(shown, tmp_path)
    base = run.previews / "base.png"
    before = base.stat().st_mtime_ns
    train_rank(replace(shown, resume=str(run.path), stage=replace(shown.stage, steps=8)), run)
    assert (run.previews / "step-00000008-sheet.png").exists()
    assert base.stat().st_mtime_ns == before
    otherwise = replace(shown.preview, sampler_steps=3)
    train_rank(replace(shown, resume=str(run.path), stage=replace(shown.stage, steps=12), preview=otherwise), run)
    assert base.stat().st_mtime_ns > before


@pytest.fixture
def measured(motion_config: TrainConfig) -> TrainConfig:
    """Three held-out windows drawn from their own first frames, after four steps."""
    return replace(
        motion_config,
        stage=replace(motion_config.stage, steps=4, batch_size=1, accumulation=2),
        data=replace(motion_config.data, holdout=0.5, window_stride=2),
        validation=replace(motion_config.validation, clips=3),
        preview=PreviewConfig(sampler_steps=2),
        metrics=MetricsConfig(names=["motion", "tssim"]),
    )


@pytest.mark.long
def test_held_out_clips_are_measured_beside_the_real_ones_and_the_base_on_two_ranks_as_on_one(
    measured: TrainConfig, tmp_path: Path
):
    config = replace(measured, optimizer=STILL)
    still = read_json(run_here(config, tmp_path / "still").summary)
    paired = ["psnr", "ssim", "perceptual_scale", "temporal_perceptual_scale", "frechet_scale"]
    assert list(still["heldout_clips"]) == ["motion", "tssim", *paired]
    assert still["heldout_clips"] == still["heldout_clips_base"]
    moved = read_json(run_here(replace(measured, optimizer=QUICK), tmp_path / "moved").summary)
    assert moved["heldout_clips_base"] == still["heldout_clips_base"]
    assert all(moved["heldout_clips"][name] != moved["heldout_clips_base"][name] for name in paired)
    shared, run = replace(config, gpus=2, stage=replace(config.stage, accumulation=1)), RunDirectory(tmp_path / "two")
    encode_rank(shared, run)
    two = run_on_ranks(shared, run)
    assert two["heldout_clips"] == pytest.approx(still["heldout_clips"], rel=1e-4)


def test_a_measure_that_cannot_be_had_decides_nothing(measured: TrainConfig, tmp_path: Path):
    config = replace(measured, metrics=MetricsConfig(names=["subject_consistency"]))
    config.stopping = StoppingConfig(monitor="heldout/subject_consistency")
    with pytest.raises(ConfigError, match=r"stopping.monitor=heldout/subject_consistency cannot be measured here"):
        run_here(config, tmp_path)


def test_nothing_that_watches_changes_what_is_learnt(measured: TrainConfig, tmp_path: Path):
    config = replace(measured, ema_decay=0.9, lora=replace(measured.lora, dropout=0.1))
    watched = replace(config, preview=PreviewConfig(every_steps=2, seeds=2, sampler_steps=1, num_frames=5))
    watched.checkpoint = replace(config.checkpoint, best="heldout/psnr")
    watched.stopping = StoppingConfig(monitor="heldout/loss", patience=100)
    blind = replace(config, validation=replace(config.validation, every_steps=0), logger=LoggerConfig(name="none"))
    seen, unseen = (load_checkpoint(run_here(c, tmp_path / n).checkpoints) for c, n in ((watched, "a"), (blind, "b")))
    assert seen.step == unseen.step
    assert seen.tensors.keys() == unseen.tensors.keys()
    assert all(torch.equal(value, unseen.tensors[name]) for name, value in seen.tensors.items())
    drawn = [open_video(tmp_path / "a" / "previews" / f"{name}.mp4").num_frames for name in ("base", "step-00000004-1")]
    assert drawn == [5, 5], "of windows of 9 frames"


def test_the_gradient_norm_is_that_before_clipping(style_config: TrainConfig, tmp_path: Path):
    config = replace(style_config, stage=replace(style_config.stage, steps=1))
    norms = []
    for clip in (1e-6, 0.0):
        run = run_here(replace(config, optimizer=replace(config.optimizer, clip_norm=clip)), tmp_path / str(clip))
        with (run.logs / "csv" / "from-step-00000000" / "metrics.csv").open() as file:
            norms += [float(row["train/gradient_norm"]) for row in csv.DictReader(file) if row["train/gradient_norm"]]
    assert norms[0] == norms[1] > 1e-4
