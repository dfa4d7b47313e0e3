"""The rate of every step, also of a run whose end is moved when it is resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.compose import compose_train
from cinelora.config.learning_rate import extend, learning_rate
from cinelora.config.schema import OptimizerConfig, StageConfig, TrainConfig
from cinelora.config.store import load_config, save_config
from cinelora.errors import ConfigError


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_is_a_function_of_the_step(schedule: str):
    settings = OptimizerConfig(warmup_steps=4, schedule=schedule)
    rates = [learning_rate(step, settings, 1.0, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[-1] == (1.0 if schedule == "constant" else pytest.approx(0.0096, abs=1e-3))


def config_of(steps: int, **optimizer: object) -> TrainConfig:
    settings = OptimizerConfig(lr=4e-4, lr_for_width=None, warmup_steps=2, schedule="cosine", **optimizer)  # type: ignore[arg-type]
    return TrainConfig(stage=StageConfig(steps=steps), optimizer=settings)


def rates(config: TrainConfig) -> list[float]:
    return [learning_rate(step, config.optimizer, 4e-4, config.stage.steps) for step in range(config.stage.steps)]


def test_a_cosine_that_is_continued_goes_down_from_where_it_was() -> None:
    planned, config = config_of(22), config_of(40, on_extend="continue")
    [line] = extend(config, 22, 12)
    assert config.optimizer.extended == [12, 22]
    found = rates(config)
    assert found[:12] == rates(planned)[:12]
    # in the middle of the cosine of 20 steps, and half a cosine of 28 from there on
    assert found[11] == 4e-4 * (1 + math.cos(math.pi * 9 / 20)) / 2
    assert found[12:] == [found[11] * (1 + math.cos(math.pi * (step / 28))) / 2 for step in range(28)]
    assert line == (
        "the learning rate continues from 0.000231 in step 12 with 0.000231 in step 13, down to zero after step 40 "
        "(optimizer.on_extend=continue)"
    )


def test_a_cosine_that_is_rescaled_jumps_and_both_rates_are_said() -> None:
    config = config_of(200)
    [line] = extend(config, 22, 20)
    assert config.optimizer.extended == []
    assert rates(config) == rates(config_of(200))
    before, after = rates(config_of(22))[19], rates(config_of(200))[20]
    assert line == (
        f"the learning rate changes from {before:.3g} in step 20 to {after:.3g} in step 21, because its cosine now "
        f"spans 200 steps, not 22; "
        f"optimizer.on_extend=continue starts from {before:.3g}"
    )
    assert after > 15 * before


def test_a_run_that_is_extended_again_and_again_keeps_the_rates_it_had() -> None:
    config = config_of(40, on_extend="continue")
    extend(config, 22, 12)
    once = rates(config)
    config.stage.steps = 60
    extend(config, 40, 30)
    assert config.optimizer.extended == [12, 22, 30, 40]
    twice = rates(config)
    assert twice[:30] == once[:30]
    assert twice[30] == once[29]
    assert all(later <= earlier for earlier, later in zip(twice[2:], twice[3:], strict=False))
    config.optimizer.on_extend = "rescale"
    config.stage.steps = 80
    extend(config, 60, 40)
    assert rates(config) == rates(config_of(80))


def test_a_cosine_that_is_spent_says_that_nothing_more_is_learnt() -> None:
    config = config_of(400, on_extend="continue")
    [line] = extend(config, 102, 102)
    assert line.startswith(
        "WARNING: the learning rate continues from 9.87e-08 in step 102 with 9.87e-08 in step 103, and its peak was"
    )
    assert line.endswith("optimizer.on_extend=rescale spreads the cosine over all 400 steps")


@pytest.mark.parametrize(
    ("settings", "planned", "done"),
    [
        ({"schedule": "constant"}, 22, 12),  # does not depend on the steps
        ({}, 40, 12),  # is not extended
        ({}, 22, 2),  # has not left its warm-up
        ({}, 60, 40),  # has done what it now is to do
        ({}, 60, 50),  # and more
    ],
)
def test_where_the_rate_does_not_change_nothing_is_said_or_kept(
    settings: dict[str, object], planned: int, done: int
) -> None:
    config = config_of(40, on_extend="continue")
    config.optimizer = replace(config.optimizer, **settings)  # type: ignore[arg-type]
    assert extend(config, planned, done) == []
    assert config.optimizer.extended == []


def test_a_resume_settles_the_rates_once_and_stores_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path / "run")
    (run.checkpoints / "step-00000012").mkdir(parents=True)
    (run.checkpoints / "last").write_text("step-00000012")
    asked = ["stage=style", "data=noir", "optimizer.schedule=cosine", "stage.steps=20"]
    save_config(compose_train(asked), run.config)
    resume = [f"resume={run.path}", "stage.steps=40", "optimizer.on_extend=continue"]
    config = compose_train(resume)
    assert config.optimizer.extended == [12, 20]
    assert "(optimizer.on_extend=continue)" in capsys.readouterr().out
    save_config(config, run.config)  # killed before its first checkpoint, and resumed in the same words
    again = compose_train(resume)
    assert again == replace(config)
    assert load_config(run.path).optimizer == again.optimizer
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"optimizer\.extended is not typed: written by on_extend=continue"):
        compose_train([*asked, "optimizer.extended=[1,2]"])
