"""An evaluation whose clips are there: as if drawn, so that pages and scores can be looked at in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from drifting_clips import HOSTILE, clip

from cinelora.config.schema import DataConfig, EvaluateConfig, MetricsConfig, ModelConfig
from cinelora.evaluation.clip_list import Plan, Prompt, clip_file, keyframe_file, stages
from cinelora.io.atomic import write_json
from cinelora.io.media import write_mp4, write_png


@pytest.fixture
def settings(small_model: ModelConfig) -> EvaluateConfig:
    metrics = MetricsConfig(names=["flicker", "motion"])
    data = DataConfig(name="bars", root="/nowhere")
    return EvaluateConfig(model=small_model, data=data, metrics=metrics, against=["psnr", "frechet_scale"])


@pytest.fixture
def plan() -> Plan:
    real = [f"real/{number:04d}.mp4" for number in range(3)]
    prompts = [
        Prompt(HOSTILE, "a@0-8", real[0]),
        Prompt("a man waits", "b@0-8", real[1]),
        Prompt("dusk", "line 1 of the prompts"),
    ]
    return Plan(prompts, [0, 1], stages(["style", "motion"]), 16, real, ["style", "motion"])


@pytest.fixture
def run_dir(plan: Plan, tmp_path: Path) -> Path:
    """Every clip of the plan."""
    for number, name in enumerate(plan.real):
        write_mp4(tmp_path / name, clip(number), plan.fps)
    for number, take in enumerate(plan.takes()):
        for place, variant in enumerate(plan.names()):
            video = clip(100 + 10 * number + place)
            write_mp4(clip_file(tmp_path, take, variant), video, plan.fps)
            write_png(keyframe_file(tmp_path, take, variant), video[0])
        write_json(
            clip_file(tmp_path, take, "x").with_name("summary.json"),
            {"trouble": {}, "seconds": {"denoise": 1.0}, "sources": {}},
        )
    plan.save(tmp_path)
    return tmp_path
