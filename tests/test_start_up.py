"""What a process waits for before its work begins: the packages it imports; and how OpenMP's threads wait, once it works."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.clip_request import Take
from cinelora.config.schema import InferConfig, MetricsConfig, SamplerConfig, TrainConfig
from cinelora.io.plain_data import without_collecting
from cinelora.parallel import launch as launching
from cinelora.parallel.launch import SPIN_ROUNDS, SPIN_SETTINGS, launch, spin_briefly
from cinelora.sampling.make_clips import write_take
from cinelora.training.encode import encode_rank

# Trains a step and then draws a clip, in an interpreter of its own, and prints what each has imported of the given packages.
RANKS = """
import json, pickle, sys
from pathlib import Path
train, draw = pickle.loads(Path(sys.argv[1]).read_bytes())
def imported():
    return sorted({name.split(".")[0] for name in sys.modules}.intersection(sys.argv[2:]))
from cinelora.training.fit import train_rank
train_rank(*train)
after_training = imported()
from cinelora.adapters.run_directory import adapter_paths
from cinelora.config.clip_request import ClipRequest
from cinelora.sampling.scene import rank_makes
config, takes, run, write = draw
rank_makes(ClipRequest(config, adapter_paths(run)), takes, {"adapted": config.scale}, write)
print(json.dumps([after_training, imported()]))
"""
ONLY_WHERE_USED = (
    *("av", "decord", "cv2", "scenedetect", "wandb", "tensorboard"),
    *("ftfy", "pandas", "matplotlib", "sklearn", "scipy"),
)


def test_a_rank_imports_what_it_uses_and_no_more(style_config: TrainConfig, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    stage = replace(style_config.stage, steps=1)
    config = replace(style_config, stage=stage, validation=replace(style_config.validation, every_steps=0))
    encode_rank(config, run)  # so that training finds all in the cache
    drawn = InferConfig(
        model=config.model,
        sampler=SamplerConfig(steps=1, guidance=1.0),
        metrics=MetricsConfig(names=["tssim", "motion", "flicker"]),
        mode="t2v",
        prompt="bars",
        cache=config.cache,
    )
    takes = [Take("bars", 0, tmp_path / "clip")]
    call = tmp_path / "call"
    call.write_bytes(pickle.dumps(((config, run), (drawn, takes, run.path, write_take))))
    command = [sys.executable, "-c", RANKS, str(call), *ONLY_WHERE_USED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    trained, and_drew = json.loads(done.stdout.splitlines()[-1])
    assert trained == []
    assert and_drew == ["av", "ftfy"]  # what writes the mp4, and what mends the letters of a prompt


def place() -> dict[str, object]:
    import torch  # loads OpenMP, if it is not there yet

    torch.ones(1)
    return {
        "spin": os.environ.get("GOMP_SPINCOUNT"),
        "GNU's OpenMP": "libgomp" in Path("/proc/self/maps").read_text(),
        "collects": gc.isenabled(),
        "spared": gc.get_freeze_count() > 10_000,
    }


def test_threads_of_a_rank_spin_briefly_and_its_imports_are_not_searched_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in SPIN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")  # the library prints, when it is loaded, what it took from there
    found = launch(place, log_dir=tmp_path)
    shown = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", capfd.readouterr().err)
    assert shown == ([SPIN_ROUNDS] if found.pop("GNU's OpenMP") else [])
    assert found == {"spin": SPIN_ROUNDS, "collects": True, "spared": True}


@pytest.mark.parametrize("chosen", SPIN_SETTINGS)
def test_how_threads_wait_is_left_to_a_user_who_has_said_it(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {chosen: "1"}
    monkeypatch.setattr(launching.os, "environ", environment)
    spin_briefly()
    assert environment == {chosen: "1"}


@pytest.mark.parametrize("before", [True, False])
def test_collecting_is_afterwards_as_it_was_before(before: bool) -> None:
    def fail() -> None:
        with without_collecting():
            assert not gc.isenabled()
            raise ImportError("no such package")

    was_enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ImportError):
            fail()
        assert gc.isenabled() == before
    finally:
        (gc.enable if was_enabled else gc.disable)()
