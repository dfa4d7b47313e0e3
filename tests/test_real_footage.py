"""The whole way on footage that nobody here made: both stages and a clip, typed as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cinelora.adapters.adapter_file import read_adapter

ROOT = Path(__file__).resolve().parents[1]
FOOTAGE = ROOT.parent / "shared" / "footage"


@pytest.mark.skipif(not FOOTAGE.is_dir(), reason="the real clips are not beside this checkout")
def test_from_real_clips_to_a_styled_scene(tmp_path: Path):
    size = ["model.height=32", "model.width=64", f"cache={tmp_path / 'cache'}"]
    data = ["data=folder", f"data.root={FOOTAGE}", "data.caption=a shot, from (real) footage", "logger=none"]
    prompt = "a man, smoking (alone), waits; a car's lamps = two moons"

    def run(script: str, *settings: str) -> str:
        command = [sys.executable, str(ROOT / script), *size, *settings]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    found = run("train.py", "stage=style", *data, "stage.steps=2", f"out={tmp_path / 'style'}")
    assert "samples to train on" in found
    motion = run("train.py", "stage=motion", *data, "stage.steps=2", "adapter=style", f"out={tmp_path / 'motion'}")
    assert "skipped" in motion  # the AV1 clip may be shorter than a window: it is named, not lost
    run("infer.py", "ckpt=motion", f"prompt={prompt}", "sampler.steps=2", "gpus=2", f"out={tmp_path / 'scene'}")
    summary = json.loads((tmp_path / "scene" / "summary.json").read_text())
    assert summary["settings"]["prompt"] == prompt
    assert summary["ranks"] == 2
    assert set(summary["adapters"]) == {"style", "motion"}
    assert (tmp_path / "scene" / "clip.mp4").stat().st_size > 0
    assert read_adapter(tmp_path / "motion" / "style.safetensors").kind == "style"
