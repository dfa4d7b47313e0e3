"""The whole way on footage that nobody here made: both stages and a clip."""

import json
from pathlib import Path
from typing import Literal

import pytest
from rank_pool import command

from cinelora.adapters.adapter_file import read_adapter

FOOTAGE = Path(__file__).resolve().parents[2] / "shared" / "footage"


@pytest.mark.skipif(not FOOTAGE.is_dir(), reason="the real clips are not beside this checkout")
@pytest.mark.long
def test_from_real_clips_to_a_styled_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    size = ["model.height=32", "model.width=64", f"cache={tmp_path / 'cache'}"]
    data = ["data=folder", f"data.root={FOOTAGE}", "data.caption=a shot, from (real) footage", "logger=none"]
    prompt = "a man, smoking (alone), waits; a car's lamps = two moons"

    def run(script: Literal["train", "infer"], *settings: str) -> str:
        code, said = command(script, *size, *settings, log=tmp_path / f"{len(list(tmp_path.iterdir()))}.log")
        assert code == 0, said
        return said

    found = run("train", "stage=style", *data, "stage.steps=2", f"out={tmp_path / 'style'}")
    assert "samples to train on" in found
    motion = run("train", "stage=motion", *data, "stage.steps=2", "adapter=style", f"out={tmp_path / 'motion'}")
    assert "skipped" in motion  # the AV1 clip may be shorter than a window: it is named, not lost
    run("infer", "ckpt=motion", f"prompt={prompt}", "sampler.steps=2", "gpus=2", f"out={tmp_path / 'scene'}")
    summary = json.loads((tmp_path / "scene" / "summary.json").read_text())
    assert summary["settings"]["prompt"] == prompt
    assert summary["ranks"] == 2
    assert set(summary["adapters"]) == {"style", "motion"}
    assert (tmp_path / "scene" / "clip.mp4").stat().st_size > 0
    assert read_adapter(tmp_path / "motion" / "style.safetensors").kind == "style"
