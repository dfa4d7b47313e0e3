"""ZeRO on CPU ranks: every strategy ends where one process with the same samples per step does, and resumes bit for bit."""

import signal
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from test_run import assert_same_end, logged, run_here, stage_of
from torch.utils.data import default_collate

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import OptimizerConfig, StrategyConfig, TrainConfig
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.checkpoint_layouts import Part
from cinelora.io.tensor_files import load_tensors
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.parallel.launch import launch, process_group, rank_info
from cinelora.training.checkpoint_files import POINTER, load_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank

OTHERS = [
    StrategyConfig("ddp"),
    *(StrategyConfig(f"zero{level}", cpu_offload=off) for level in (1, 2, 3) for off in (False, True)),
]
SUMMATION = 1e-6
"""Ranks add gradients up in another order, which AdamW's ``eps`` here keeps from growing."""


@pytest.fixture
def config(motion_config: TrainConfig) -> TrainConfig:
    """Six steps of two micro-batches of two windows, clipped to a sixth, with an average and a rate that rises."""
    optimizer = OptimizerConfig(lr=1e-3, lr_for_width=None, eps=1e-3, clip_norm=0.05, warmup_steps=2)
    stage = replace(motion_config.stage, steps=6)
    dropout = replace(motion_config.dropout, image=0.0)
    return replace(motion_config, optimizer=optimizer, stage=stage, ema_decay=0.9, dropout=dropout)


def on_ranks(config: TrainConfig, strategy: StrategyConfig, ranks: int = 2) -> TrainConfig:
    """The same samples per step, shared out."""
    stage = replace(config.stage, batch_size=config.stage.batch_size // ranks)
    return replace(config, gpus=ranks, stage=stage, strategy=strategy)


def run_shared(config: TrainConfig, run: RunDirectory) -> None:
    launch(train_rank, config, run, ranks=config.gpus, log_dir=run.logs)


def train_in_turn(configs: list[TrainConfig], runs: list[RunDirectory]) -> None:
    """Several runs by the same ranks, which need not start anew for each."""
    for config, run in zip(configs, runs, strict=True):
        train_rank(config, run)


def test_every_strategy_learns_what_one_process_does(config: TrainConfig, i2v: WanBundle, tmp_path: Path):
    one = run_here(config, tmp_path / "one")
    runs = [RunDirectory(tmp_path / f"{s.name}-{s.cpu_offload}") for s in OTHERS]
    for run in runs:
        encode_rank(config, run)
    launch(train_in_turn, [on_ranks(config, s) for s in OTHERS], runs, ranks=2, log_dir=tmp_path / "logs")
    adapter = load_tensors(one.adapter("motion"))[0]
    for run in runs:
        for name in ("train/loss", "train/gradient_norm", "heldout/loss", "effect/update"):
            assert logged(run, name) == pytest.approx(logged(one, name), rel=1e-5), (run.path.name, name)
        assert len(logged(run, "train/loss")) == 6
        assert_same_end(one, run, tolerance=SUMMATION)
        found = load_tensors(run.adapter("motion"))[0]
        assert found.keys() == adapter.keys()
        assert max(float((found[name] - adapter[name]).abs().max()) for name in adapter) <= SUMMATION
    assert max(logged(one, "train/gradient_norm")) > 5 * config.optimizer.clip_norm
    said = (tmp_path / "logs" / "rank-0.log").read_text() + (tmp_path / "logs" / "rank-1.log").read_text()
    assert "deepspeed" not in said.lower()
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    pipeline.load_lora_weights(runs[-1].adapter("motion"))
    factors = {k: v for k, v in pipeline.transformer.state_dict().items() if "lora_B" in k}
    assert sum(bool(factor.any()) for factor in factors.values()) == len(adapter) // 2


def test_training_every_weight_in_shards_ends_where_one_process_does(
    pretrain_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path
):
    config = replace(
        pretrain_config, optimizer=replace(smooth, clip_norm=0.5), stage=replace(pretrain_config.stage, steps=5)
    )
    one = run_here(config, tmp_path / "one")
    others = [
        StrategyConfig("zero1"),
        *(StrategyConfig(f"zero{level}", cpu_offload=off) for level in (2, 3) for off in (False, True)),
    ]
    runs = [RunDirectory(tmp_path / f"{s.name}-{s.cpu_offload}") for s in others]
    for run in runs:
        encode_rank(config, run)
    launch(train_in_turn, [on_ranks(config, s) for s in others], runs, ranks=2, log_dir=tmp_path / "logs")
    for run in runs:
        for name in ("train/loss", "train/gradient_norm", "heldout/loss", "effect/update"):
            assert logged(run, name) == pytest.approx(logged(one, name), rel=1e-5), (run.path.name, name)
        assert_same_end(one, run, tolerance=SUMMATION)
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
    alone = launch(first_velocities, config, run, ranks=1, log_dir=run.logs)
    shared = replace(config, gpus=3, strategy=StrategyConfig("zero3"))
    found = launch(first_velocities, shared, run, ranks=3, log_dir=run.logs)
    assert torch.equal(found["predicted"], alone["predicted"])
    assert found["effect"] == alone["effect"] == 0
    assert found["state"].keys() == alone["state"].keys()
    for name, value in found["state"].items():
        assert torch.equal(value, alone["state"][name])
        assert bool(value.any()) == ("lora_A" in name)


def killed_at(step: int, config: TrainConfig, run: RunDirectory) -> None:
    """Start a run on ranks and kill its parent, with which they die, when ``step`` is saved."""
    encode_rank(replace(config, strategy=StrategyConfig(), gpus=1), run)
    child = get_context("spawn").Process(target=run_shared, args=(config, run))
    child.start()
    last = run.checkpoints / POINTER
    while not (last.exists() and last.read_text() >= f"step-{step:08d}"):
        assert child.is_alive()
        time.sleep(0.01)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "strategy", [StrategyConfig("zero2"), StrategyConfig("zero3", cpu_offload=True)], ids=lambda s: s.name
)
def test_a_killed_and_resumed_run_ends_bit_for_bit_like_one_never_killed(
    strategy: StrategyConfig, config: TrainConfig, tmp_path: Path
):
    shared = on_ranks(config, strategy)
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    encode_rank(config, whole)
    run_shared(shared, whole)
    killed_at(2, shared, killed)
    assert load_checkpoint(killed.checkpoints).step < 6
    run_shared(replace(shared, resume=str(killed.path)), killed)
    assert_same_end(whole, killed)
    ours, theirs = (load_tensors(run.adapter("motion"))[0] for run in (whole, killed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_under_another_strategy_and_another_number_of_ranks(config: TrainConfig, tmp_path: Path):
    whole, run = run_here(config, tmp_path / "whole"), RunDirectory(tmp_path / "run")
    encode_rank(config, run)
    begun = replace(config, stage=replace(config.stage, steps=2))
    run_shared(on_ranks(begun, StrategyConfig("zero3")), run)
    further = replace(config, resume=str(run.path), stage=replace(config.stage, steps=4))
    train_rank(further, run)
    run_shared(on_ranks(replace(config, resume=str(run.path)), StrategyConfig("zero1", cpu_offload=True)), run)
    assert_same_end(whole, run, tolerance=SUMMATION)
