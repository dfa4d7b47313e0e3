"""What a run says of held-out samples: the loss against the base model, and what training changed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import logged, run_here, stage_of
from torch import Tensor
from torch.utils.data import default_collate

from cinelora.adapters.lora_layers import set_scales
from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.metric_names import HELDOUT_SIGMAS
from cinelora.config.schema import OptimizerConfig, TrainConfig
from cinelora.io.plain_data import read_json
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.fit import train_rank
from cinelora.training.run_stage import carry_style_adapter, closing_lines


def predictions(
    config: TrainConfig, run: RunDirectory, weights: dict[str, float], group: str
) -> tuple[list[Tensor], float]:
    """Of the first two held-out samples at every sigma, by the trained adapters at ``weights``; and their mean loss."""
    stage, heldout = stage_of(config, run), LatentDataset(Path(config.cache), Index.load(run.dataset), "heldout")
    stage.trained.load(load_checkpoint(run.checkpoints).group(group))
    set_scales(stage.transformer, weights)
    stage.sample_ids = [entry.id for entry in heldout.entries]
    found, losses = [], []
    with torch.no_grad():
        for i in range(min(2, len(heldout))):
            batch = default_collate([heldout[i]])
            for sigma in HELDOUT_SIGMAS:
                predicted, target, _ = stage.velocities(batch, stage.draw_at(batch, step=0, sigma=sigma))
                found.append(predicted)
                losses.append(float((predicted - target).square().mean()))
    return found, sum(losses) / len(losses)


def relative(one: list[Tensor], other: list[Tensor]) -> float:
    moved = sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True))
    return float((moved / sum(float(b.square().sum()) for b in other)) ** 0.5)


@pytest.fixture
def quick(motion_config: TrainConfig) -> OptimizerConfig:
    """A rate at which four steps show."""
    return OptimizerConfig(lr=1e-2, lr_for_width=None)


def test_effects_are_of_what_is_exported_against_the_start_and_the_bare_base(
    style_config: TrainConfig, motion_config: TrainConfig, quick: OptimizerConfig, tmp_path: Path
):
    short = replace(style_config.stage, steps=4)
    style = run_here(replace(style_config, optimizer=quick, stage=short), tmp_path / "style")
    run = RunDirectory(tmp_path / "motion")
    carry_style_adapter(replace(motion_config, adapter=str(style.path)), run)
    config = replace(motion_config, optimizer=quick, ema_decay=0.9, stage=replace(motion_config.stage, steps=4))
    run_here(config, run.path)
    both, loss = predictions(config, run, {"style": 1.0, "motion": 1.0}, "ema")
    start, loss_of_start = predictions(config, run, {"style": 1.0}, "ema")
    base, loss_of_base = predictions(config, run, {}, "ema")
    summary = read_json(run.summary)
    assert summary["heldout_change"] == pytest.approx(loss / loss_of_start - 1, rel=1e-3)
    assert summary["heldout_vs_base"] == pytest.approx(loss / loss_of_base - 1, rel=1e-3)
    assert summary["prediction_effect"] == pytest.approx(relative(both, start), rel=1e-3)
    assert summary["prediction_effect_vs_base"] == pytest.approx(relative(both, base), rel=1e-3)
    assert summary["prediction_effect_vs_base"] != pytest.approx(summary["prediction_effect"], rel=1e-2)
    assert logged(run, "effect/prediction_vs_base")[-1] == summary["prediction_effect_vs_base"]
    last = closing_lines(summary, run)[-1]
    moved, against = f"{summary['prediction_effect']:.1%}", f"{summary['heldout_vs_base']:+.1%}"
    assert last == f"the adapter changes predictions by {moved}, held-out loss {against} against the base"


def test_the_update_is_told_as_a_whole_and_block_by_block(
    style_config: TrainConfig, quick: OptimizerConfig, tmp_path: Path
):
    config = replace(style_config, optimizer=quick, stage=replace(style_config.stage, steps=4))
    run = run_here(config, tmp_path)
    stage = stage_of(config, run)
    state = load_checkpoint(run.checkpoints).group("adapter")
    scale, moved, there = config.lora.alpha / config.lora.rank, [0.0] * 6, [0.0] * 6
    for key in (key for key in state if key.endswith("lora_A.weight")):
        module = key.removesuffix(".lora_A.weight")
        block = int(module.split(".")[1])
        update = scale * state[f"{module}.lora_B.weight"] @ state[key]
        moved[block] += float(update.square().sum())
        there[block] += float(stage.transformer.get_submodule(module).get_base_layer().weight.square().sum())
    assert logged(run, "effect/update")[-1] == pytest.approx((sum(moved) / sum(there)) ** 0.5, rel=1e-4)
    for block in range(6):
        expected = pytest.approx((moved[block] / there[block]) ** 0.5, rel=1e-4)
        assert logged(run, f"effect/update/block-{block:02d}")[-1] == expected


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (1e-12, r"WARNING: the adapter changed nothing: predictions moved by .* of their size, below 0.0001"),
        (1e-50, r"WARNING: the adapter changed nothing: its update is exactly zero"),
    ],
)
def test_an_adapter_that_changed_nothing_is_told_last(
    rate: float, told: str, style_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config, optimizer=OptimizerConfig(lr=rate, lr_for_width=None))
    run = run_here(replace(config, stage=replace(config.stage, steps=1)), tmp_path / "measured")
    assert re.fullmatch(told, closing_lines(read_json(run.summary), run)[-1])
    assert logged(run, "effect/prediction")[-1] < 1e-4
    blind = replace(config.validation, every_steps=0)
    run = run_here(replace(config, stage=replace(config.stage, steps=1), validation=blind), tmp_path / "blind")
    assert "the adapter changed nothing: its update is " in closing_lines(read_json(run.summary), run)[-1]


def test_a_resumed_run_compares_with_the_same_start(style_config: TrainConfig, tmp_path: Path):
    whole = run_here(style_config, tmp_path / "whole")
    halfway = replace(style_config, stage=replace(style_config.stage, steps=4))
    run = run_here(halfway, tmp_path / "run")
    train_rank(replace(style_config, resume=str(run.path)), run)
    for name in ("heldout/change", "heldout/vs_base", "effect/prediction", "effect/update"):
        assert logged(run, name, first_step=4) == logged(whole, name)[1:]
