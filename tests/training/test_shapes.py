"""A film in 2.39:1, a 4:3 and an upright one train together, each in its own shape."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rounding import STEPS
from small_runs import SMOOTH, assert_same_end, run_here, run_on_ranks, stage_of

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import PreviewConfig, TrainConfig
from cinelora.io.media import write_mp4
from cinelora.io.plain_data import read_json
from cinelora.latents.cache import Index
from cinelora.latents.dataset import BucketSampler, LatentDataset
from cinelora.nn.flow_matching import shift_sigma
from cinelora.training.encode import encode_rank
from cinelora.training.fit import compiled_line, train_rank
from cinelora.training.module import Stage

FILMS = {"scope": (96, 230), "academy": (120, 160), "upright": (160, 90), "own": (64, 112)}
SIZES = {"scope": (48, 112), "academy": (64, 96), "upright": (112, 64), "own": None}
"""What a model of 64x112 trains them at."""


def drifting(height: int, width: int, seed: int, num_frames: int = 12) -> np.ndarray:
    """A clip of coloured bars that drift, different for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 3), dtype=np.uint8)
    row = np.repeat(colours, -(-width // 8), axis=0)[:width]
    return np.stack([np.broadcast_to(np.roll(row, 3 * t, axis=0), (height, width, 3)) for t in range(num_frames)])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each shape to train on, one of the upright alone, and one of each held out."""
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, (height, width)) in enumerate(FILMS.items()):
        for split, count in (("train", 1 if name == "upright" else 2), ("heldout", 1)):
            (folder / split).mkdir(exist_ok=True)
            for number in range(count):
                clip = folder / split / f"{name}{number}.mp4"
                write_mp4(clip, drifting(height, width, 10 * seed + number + (5 if split == "heldout" else 0)), fps=16)
                clip.with_suffix(".txt").write_text(f"bars in {name}, number {number}")
    return folder


@pytest.fixture
def config(motion_config: TrainConfig, films: Path) -> TrainConfig:
    """Windows with their first frame; two samples a rank, so that the upright clip is fewer than a step takes."""
    model = replace(motion_config.model, height=64, width=112)
    stage = replace(motion_config.stage, steps=6, batch_size=2, accumulation=1)
    data = replace(
        motion_config.data, root=str(films), window_stride=12, judged=False, prepared=str(films.parent / "prepared")
    )
    config = replace(motion_config, model=model, stage=stage, data=data)
    config.validation = replace(config.validation, every_steps=6, samples=4)
    config.optimizer = SMOOTH
    return config


@pytest.mark.long
def test_shapes_train_together_alone_resumed_and_on_two_ranks(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    drawing = replace(config, preview=PreviewConfig(every_steps=6, sampler_steps=1))
    drawing.validation = replace(config.validation, clips=2)
    one = run_here(drawing, tmp_path / "one")
    printed = capsys.readouterr().out
    assert "sizes: 64x96 x 9 (2), 64x112 x 9 (2), 48x112 x 9 (2), 112x64 x 9 (1); a step sees 2 of one" in printed
    assert "WARNING: a step takes each sample of a rare size more than once (112x64 x 9: 2 times)" in printed
    training = LatentDataset(Path(config.cache), Index.load(one.dataset), "train")
    shapes = {entry.id.split("/")[1][:-8]: training.shape(i)[2:] for i, entry in enumerate(training.entries)}
    for name, size in SIZES.items():
        height, width = size or (64, 112)
        assert {shape for path, shape in shapes.items() if path.startswith(name)} == {(height // 8, width // 8)}
    steps = BucketSampler([training.shape(i) for i in range(len(training))], batch_size=2)
    assert steps.steps_per_epoch == 4, "every step has a shape of its own, and six steps see all"

    short = replace(config, stage=replace(config.stage, steps=3))
    resumed = run_here(short, tmp_path / "resumed")
    train_rank(replace(config, resume=str(resumed.path)), resumed)
    assert_same_end(one, resumed)

    two = replace(config, gpus=2, stage=replace(config.stage, batch_size=1))
    shared = RunDirectory(tmp_path / "two")
    encode_rank(two, shared)
    run_on_ranks(two, shared)
    assert_same_end(one, shared, STEPS)
    numbers = [read_json(run.summary) for run in (one, shared)]
    for key in ("heldout_loss", "heldout_change", "prediction_effect"):
        assert numbers[1][key] == pytest.approx(numbers[0][key], rel=1e-4)


def test_noise_levels_follow_the_pixels_of_the_bucket(config: TrainConfig, tmp_path: Path):
    """At 480p the shift is 2, at a quarter of its pixels none; the same draws give other sigmas."""
    run = RunDirectory(tmp_path)
    encode_rank(config, run)
    stage = stage_of(config, run)
    whole, quarter = (sigmas(stage, side) for side in ((60, 104), (30, 52)))
    assert torch.allclose(whole, shift_sigma(quarter, 2.0))
    stage.config.flow.shift = 3.0
    assert torch.equal(sigmas(stage, (60, 104)), sigmas(stage, (30, 52)))


def sigmas(stage: Stage, size: tuple[int, int]) -> torch.Tensor:
    batch = {"latents": torch.zeros(4, 16, 1, *size), "index": torch.zeros(4, dtype=torch.int64)}
    return stage.draw_at(batch, step=1).sigma


def test_what_is_compiled_for_several_lengths_is_said():
    assert compiled_line(1) == ""
    assert compiled_line(3) == ("sequences have 3 lengths: blocks are compiled for each, in the first step that has it")
    assert compiled_line(9) == "sequences have 9 lengths: blocks are compiled for any length"
