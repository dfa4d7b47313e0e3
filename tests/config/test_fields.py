"""What is declared of a setting is what there is to read of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cinelora.cli.programs import PROGRAMS
from cinelora.config.clip_facts import clip_facts
from cinelora.config.fields import fields_of
from cinelora.config.schema import EvaluateConfig, InferConfig, StudyConfig, TrainConfig, section, setting


@pytest.mark.parametrize("script", PROGRAMS)
def test_every_setting_says_in_one_line_what_it_is(script: str) -> None:
    for key, field in PROGRAMS[script].fields.items():
        assert field.help, key
        assert "\n" not in field.help, key


def test_a_section_may_say_more_of_its_settings_than_they_do() -> None:
    train, infer, study = (fields_of(schema) for schema in (TrainConfig, InferConfig, StudyConfig))
    assert train["memory.swap"].resumable
    assert not infer["memory.swap"].resumable
    assert not infer["memory.swap"].changes_clip
    assert not infer["model.attention"].decides("native")
    assert infer["model.attention"].decides("int8")
    assert study["model.attention"].changes_clip
    assert train["data.limits.still"].at_least == 0
    assert train["data.limits.still"].read_when == ("surveyed", "judged")
    assert fields_of(EvaluateConfig)["data.limits.still"].read_when == ("data_named", "surveyed", "judged")


def test_what_several_commands_share_is_the_same() -> None:
    infer, evaluate = fields_of(InferConfig), fields_of(EvaluateConfig)
    for key in ("mode", "num_frames", "gpus", "nodes", "plan", "cache", "negative_prompt", "memory.swap"):
        assert infer[key] == evaluate[key], key


@dataclass
class Strength:
    style: float = setting(1.0)
    """how much"""


@dataclass
class Renamed:
    scale: Strength = section(Strength, was="weights")  # noqa: RUF009
    seed: int = setting(0)
    """which"""
    ranks: int = setting(1, changes_clip=False)
    """how many"""


def test_a_section_that_was_renamed_gives_the_hash_that_it_gave() -> None:
    old = {"weights": {"style": 0.5}, "seed": 3, "ranks": 2}
    new = {"scale": {"style": 0.5}, "seed": 3, "ranks": 4}
    assert clip_facts(Renamed, old) == clip_facts(Renamed, new) == {"weights": {"style": 0.5}, "seed": 3}
