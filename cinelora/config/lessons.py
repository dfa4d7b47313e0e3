"""The lessons of a training run: one, or one for each of two experts, which are taught one after the other.

Enters: the settings of a run. Leaves: those of its lessons, each of which teaches one transformer. It knows no file.
"""

from __future__ import annotations

from dataclasses import replace

from cinelora.config.schema import TrainConfig
from cinelora.families import experts_of
from cinelora.families.family import HIGH, LOW, Expert

SHORT = {HIGH: "high", LOW: "low"}
"""What settings call the experts."""


def lessons_of(config: TrainConfig) -> list[TrainConfig]:
    """The settings of each lesson: those of the run, with the steps and the rate of the lesson's own expert."""
    experts = experts_of(config.model, config.stage.transformer)
    if len(experts) == 1:
        return [config]
    names = [SHORT[expert.name] for expert in experts]
    return [_lesson(config, name) for name in names if config.stage.expert in (name, "both")]


def of_both(config: TrainConfig) -> TrainConfig:
    """The settings of a run that teaches all experts there are."""
    return replace(config, stage=replace(config.stage, expert="both"))


def _lesson(config: TrainConfig, name: str) -> TrainConfig:
    steps, lr = getattr(config.stage, f"{name}_steps"), getattr(config.optimizer, f"{name}_lr")
    stage = replace(config.stage, expert=name, steps=steps or config.stage.steps)
    rates = {"lr": lr or config.optimizer.lr, "extended": getattr(config.optimizer, f"{name}_extended")}
    return replace(config, stage=stage, optimizer=replace(config.optimizer, **rates))


def expert_of(config: TrainConfig) -> Expert:
    """The expert that a lesson teaches; of a run of both the first."""
    experts = experts_of(config.model, config.stage.transformer)
    return next((expert for expert in experts if SHORT.get(expert.name) == config.stage.expert), experts[0])


def taught(config: TrainConfig) -> list[Expert]:
    """The experts that the lessons of a run teach, in their order."""
    return [expert_of(lesson) for lesson in lessons_of(config)]
