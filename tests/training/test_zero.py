"""ZeRO on CPU ranks: every strategy ends where one process with the same samples per step does, and resumes bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from rank_pool import on_ranks
from rounding import EPS, STEPS
from small_runs import (
    assert_same_adapter,
    assert_same_end,
    logged,
    run_here,
    run_on_ranks,
    run_until_killed,
    stage_of,
)
from torch.utils.data import default_collate

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig, OptimizerConfig, StrategyConfig, TrainConfig
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.tensor_files import load_tensors
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.parallel.launch import process_group, rank_info
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank

OTHERS = [
    StrategyConfig("ddp"),
    *(StrategyConfig(f"zero{level}", cpu_offload=off) for level in (1, 2, 3) for off in (False, True)),
]


@pytest.fixture
def config(motion_config: TrainConfig) -> TrainConfig:
    """Six steps of two micro-batches of two windows, clipped to a sixth, with an average and a rate that rises."""
    optimizer = OptimizerConfig(lr=1e-3, lr_for_width=None, eps=1e-3, clip_norm=0.05, warmup_steps=2)
    stage = replace(motion_config.stage, steps=6)
    dropout = replace(motion_config.dropout, image=0.0)
    validation = replace(motion_config.validation, samples=1)
    return replace(
        motion_config, optimizer=optimizer, stage=stage, ema_decay=0.9, dropout=dropout, validation=validation
    )


def shared_out(config: TrainConfig, strategy: StrategyConfig, ranks: int = 2) -> TrainConfig:
    """The same samples per step, shared out."""
    stage = replace(config.stage, batch_size=config.stage.batch_size // ranks)
    return replace(config, gpus=ranks, stage=stage, strategy=strategy)


def train_in_turn(configs: list[TrainConfig], runs: list[RunDirectory]) -> None:
    """Several runs by the same ranks, which need not start anew for each."""
    for config, run in zip(configs, runs, strict=True):
        train_rank(config, run)


@pytest.mark.long
def test_every_strategy_learns_what_one_process_does(config: TrainConfig, i2v: WanBundle, tmp_path: Path):
    config = replace(config, stage=replace(config.stage, steps=4), checkpoint=CheckpointConfig(every_steps=0))
    one = run_here(config, tmp_path / "one")
    runs = [RunDirectory(tmp_path / f"{s.name}-{s.cpu_offload}") for s in OTHERS]
    for run in runs:
        encode_rank(config, run)
    on_ranks(train_in_turn, [shared_out(config, s) for s in OTHERS], runs, ranks=2, log_dir=tmp_path / "logs")
    adapter = load_tensors(one.adapter("motion"))[0]
    for run in runs:
        for name in ("train/loss", "train/gradient_norm", "heldout/loss", "effect/update"):
            assert logged(run, name) == pytest.approx(logged(one, name), rel=STEPS * EPS), (run.path.name, name)
        assert len(logged(run, "train/loss")) == 4
        assert_same_end(one, run, STEPS)
        assert_same_adapter(one, run, "motion", STEPS)
    assert max(logged(one, "train/gradient_norm")) > 5 * config.optimizer.clip_norm
    said = (tmp_path / "logs" / "rank-0.log").read_text() + (tmp_path / "logs" / "rank-1.log").read_text()
    assert "deepspeed" not in said.lower()
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    pipeline.load_lora_weights(runs[-1].adapter("motion"))
    factors = {k: v for k, v in pipeline.transformer.state_dict().items() if "lora_B" in k}
    assert sum(bool(factor.any()) for factor in factors.values()) == len(adapter) // 2


@pytest.mark.long
def test_training_every_weight_in_shards_ends_where_one_process_does(
    pretrain_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path
):
    config = replace(
        pretrain_config, optimizer=replace(smooth, clip_norm=0.5), stage=replace(pretrain_config.stage, steps=3)
    )
    config.validation = replace(config.validation, samples=1)
    config.checkpoint = CheckpointConfig(every_steps=0)  # the last step is saved all the same
    one = run_here(config, tmp_path / "one")
    others = [
        StrategyConfig("zero1"),
        *(StrategyConfig(f"zero{level}", cpu_offload=off) for level in (2, 3) for off in (False, True)),
    ]
    runs = [RunDirectory(tmp_path / f"{s.name}-{s.cpu_offload}") for s in others]
    for run in runs:
        encode_rank(config, run)
    on_ranks(train_in_turn, [shared_out(config, s) for s in others], runs, ranks=2, log_dir=tmp_path / "logs")
    for run in runs:
        for name in ("train/loss", "train/gradient_norm", "heldout/loss", "effect/update"):
            assert logged(run, name) == pytest.approx(logged(one, name), rel=STEPS * EPS), (run.path.name, name)
        assert_same_end(one, run, STEPS)
    assert max(logged(one, "train/gradient_norm")) > config.optimizer.clip_norm


def first_velocities(config: TrainConfig, run: RunDirectory) -> dict[str, object]:
    """What a stage is and predicts before its first step, on this rank; all ranks look at the same sample."""
    with process_group(rank_info()):
        stage = stage_of(config, run)
        training = LatentDataset(Path(config.cache), Index.load(run.dataset), "train")
        batch = default_collate([training[0]])
        predicted = stage.velocities(batch, stage.draw_at(batch, step=0, sigma=0.5))[0].detach()
        effect = stage.trained.effect().overall
    state = {name: value.clone() for name, value in stage.trained.state().items()}
    return {"state": state, "predicted": predicted, "effect": effect}


def test_shared_weights_predict_what_whole_ones_do_from_the_first_step_on(config: TrainConfig, tmp_path: Path):
    """The adapter under ZeRO-3 starts with B at zero and the A of one process; three ranks cut blocks unevenly."""
    run = RunDirectory(tmp_path)
    encode_rank(config, run)
    alone = on_ranks(first_velocities, config, run, ranks=1, log_dir=run.logs)
    shared = replace(config, gpus=3, strategy=StrategyConfig("zero3"))
    found = on_ranks(first_velocities, shared, run, ranks=3, log_dir=run.logs)
    assert torch.equal(found["predicted"], alone["predicted"])
    assert found["effect"] == alone["effect"] == 0
    assert found["state"].keys() == alone["state"].keys()
    for name, value in found["state"].items():
        assert torch.equal(value, alone["state"][name])
        assert bool(value.any()) == ("lora_A" in name)


@pytest.mark.parametrize(
    "strategy", [StrategyConfig("zero2"), StrategyConfig("zero3", cpu_offload=True)], ids=lambda s: s.name
)
@pytest.mark.long
def test_a_killed_and_resumed_run_ends_bit_for_bit_like_one_never_killed(
    strategy: StrategyConfig, config: TrainConfig, tmp_path: Path
):
    config.validation = replace(config.validation, every_steps=0)
    shared = shared_out(config, strategy)
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    encode_rank(config, whole)
    run_on_ranks(shared, whole)
    run_until_killed(2, shared, killed)
    assert load_checkpoint(killed.checkpoints).step < 6
    run_on_ranks(replace(shared, resume=str(killed.path)), killed)
    assert_same_end(whole, killed)
    assert_same_adapter(whole, killed, "motion")


def test_a_run_goes_on_under_another_strategy_and_another_number_of_ranks(config: TrainConfig, tmp_path: Path):
    whole, run = run_here(config, tmp_path / "whole"), RunDirectory(tmp_path / "run")
    encode_rank(config, run)
    begun = replace(config, stage=replace(config.stage, steps=2))
    run_on_ranks(shared_out(begun, StrategyConfig("zero3")), run)
    further = replace(config, resume=str(run.path), stage=replace(config.stage, steps=4))
    train_rank(further, run)
    run_on_ranks(shared_out(replace(config, resume=str(run.path)), StrategyConfig("zero1", cpu_offload=True)), run)
    assert_same_end(whole, run, STEPS)
