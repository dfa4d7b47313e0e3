"""A few of ``benchmarks/kill_points.py``: a run killed between two things that a step owes equals one that was left alone."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rounding import STEPS, units_of
from small_runs import as_of_an_older_version, logged, run_here, run_on_ranks
from torch import tensor

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig, LoggerConfig, PreviewConfig, StoppingConfig, TrainConfig
from cinelora.io.atomic import write_json
from cinelora.io.plain_data import read_json
from cinelora.training.checkpoint_files import FACTS, saved_checkpoints
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.run_stage import launched

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import kill_points
from kill_points import Point


@pytest.fixture
def everything(style_config: TrainConfig) -> TrainConfig:
    """All that may act after a step does, after each; the held-out loss is best when first looked at, so step 3 is the last."""
    config = replace(style_config, stage=replace(style_config.stage, steps=5, accumulation=2), ema_decay=0.9)
    config.lora = replace(config.lora, dropout=0.1)
    config.validation = replace(config.validation, every_steps=1, samples=1, clips=1)
    config.preview, config.logger = (
        PreviewConfig(every_steps=1, sampler_steps=1),
        LoggerConfig(name="csv", every_steps=2),
    )
    config.checkpoint = CheckpointConfig(every_steps=1, keep=2, best="heldout/loss")
    config.stopping = StoppingConfig(monitor="heldout/loss", mode="max", patience=2)
    return config


@pytest.mark.parametrize(
    ("ranks", "points"),
    [
        (1, [Point("Checkpointer", 1), Point("EarlyStopping", 3), Point("Duties", 3)]),
        (2, [Point("Checkpointer", 1), Point("EarlyStopping", 3)]),
    ],
)
@pytest.mark.long
def test_a_run_killed_between_two_duties_of_a_step_ends_as_one_that_was_not(
    ranks: int, points: list[Point], everything: TrainConfig, tmp_path: Path
):
    config = replace(everything, gpus=ranks, stage=replace(everything.stage, batch_size=2 // ranks))
    encoded = RunDirectory(tmp_path / "encoded")
    encode_rank(config, encoded)
    whole = kill_points.new_run(encoded, tmp_path / "whole")
    assert kill_points.begin(config, whole, None)
    summary = read_json(whole.summary)
    assert (summary["step"], summary["best"]["step"], summary["stopped_early"]["step"]) == (3, 3, 1)
    for number, point in enumerate(points):
        assert kill_points.killed_at(point, config, encoded, whole, tmp_path / str(number)) == [], str(point)


def test_what_differs_is_found(everything: TrainConfig, tmp_path: Path):
    """Of every kind of file, and of the curves; and what a clock says is no difference."""
    config = replace(everything, stage=replace(everything.stage, steps=1))
    one, other = (run_here(config, tmp_path / name) for name in ("one", "other"))
    assert kill_points.differences(one, other) == []
    (saved,) = saved_checkpoints(other.checkpoints)
    for path in (saved / FACTS, other.summary):
        write_json(path, {**read_json(path), "step": 9})
    for path in (saved / "state.safetensors", other.adapter("style"), other.best("style"), *other.previews.iterdir()):
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    (table,) = other.logs.glob("csv/*/metrics.csv")
    loss = logged(other, "heldout/loss")[0]
    table.write_text(table.read_text().replace(str(loss), "0.5"))
    found = kill_points.differences(one, other)
    assert len(found) == 5 + len(list(other.previews.iterdir())) + 2
    assert found[-2:] == [f"heldout/loss at step 1 is never {loss}", "heldout/loss at step 1 is 0.5"]


def test_a_checkpoint_of_version_0_1_is_judged_on_from(style_config: TrainConfig, tmp_path: Path):
    """It has what was seen beside what the run rests on, and does not say whether its step owes anything."""
    config = replace(style_config, stopping=StoppingConfig(monitor="train/lr", mode="max", patience=5))
    config.checkpoint = CheckpointConfig(every_steps=2, keep=9, best="heldout/loss")
    run = run_here(replace(config, stage=replace(config.stage, steps=4)), tmp_path)
    facts = saved_checkpoints(run.checkpoints)[0] / FACTS
    as_of_an_older_version(facts)
    new = read_json(facts)
    memory = new.pop("memory")["early_stopping"]
    del new["settled"]
    write_json(facts, {**new, "best": memory["best"], "stopping": memory["stopping"]})
    summary = train_rank(replace(config, resume=str(run.path)), run)
    assert (summary["step"], summary["stopped_early"]["step"]) == (6, 1)
    assert summary["best"]["step"] == 4


def test_a_line_of_the_curve_is_of_all_its_steps_wherever_a_run_was_resumed_and_however_it_is_cut(
    style_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config, logger=LoggerConfig(name="csv", every_steps=4))
    config.stage = replace(config.stage, steps=4)
    config.validation = replace(config.validation, every_steps=0)
    halved = replace(config.stage, batch_size=1)
    cut, shared = replace(config, stage=replace(halved, accumulation=2)), replace(config, stage=halved, gpus=2)
    whole = run_here(config, tmp_path / "whole")
    for name, other in {"alike": config, "cut": cut, "shared": shared}.items():
        run = run_here(replace(config, stage=replace(config.stage, steps=3)), tmp_path / name)
        run_on_ranks(replace(other, resume=str(run.path)), run)
        ours, theirs = logged(whole, "train/loss")[-1], logged(run, "train/loss", first_step=3)[-1]
        apart = units_of([tensor(theirs)], [tensor(ours)])
        assert apart == 0 if other is config else apart <= STEPS


END = {"step": 1, "steps": 1, "interrupted": False, "weights": "", "data_hash": "", "adapter_effect": 0.0}


def end_and_be_killed(config: TrainConfig, run: RunDirectory) -> None:
    write_json(run.summary, END | {"stage": config.description})
    kill_points.die()


@pytest.mark.usefixtures("pooled")
def test_a_rank_that_is_lost_behind_the_summary_begins_nothing_anew(style_config: TrainConfig, tmp_path: Path):
    run = RunDirectory(tmp_path)
    write_json(run.summary, END | {"stage": "one before"})
    assert launched(end_and_be_killed, replace(style_config, description="this"), run)["stage"] == "this"
