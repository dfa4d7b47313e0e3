"""Settings of one run as a command line gives them, typed by the command."""

from __future__ import annotations

from typing import cast

from cinelora.cli.compose import compose
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.config.schema import EvaluateConfig, InferConfig, StudyConfig


def compose_infer(argv: list[str]) -> InferConfig:
    return cast(InferConfig, compose(parse(PROGRAMS["infer"], argv)))


def compose_evaluate(argv: list[str]) -> EvaluateConfig:
    return cast(EvaluateConfig, compose(parse(PROGRAMS["evaluate"], argv)))


def compose_study(argv: list[str]) -> StudyConfig:
    return cast(StudyConfig, compose(parse(PROGRAMS["study"], argv)))
