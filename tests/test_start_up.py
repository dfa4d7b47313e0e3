"""What a process waits for before its work begins: the packages it imports; and how OpenMP's threads wait, once it works."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.clip_request import Take
from cinelora.config.schema import InferConfig, MetricsConfig, SamplerConfig, TrainConfig
from cinelora.io.plain_data import without_collecting
from cinelora.parallel import launch as launching
from cinelora.parallel.launch import SPIN_ROUNDS, SPIN_SETTINGS, compile_into_own_folder, launch, spin_briefly
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
    collects, spared = gc.isenabled(), gc.get_freeze_count() > 10_000
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return {
        "spin": os.environ.get("GOMP_SPINCOUNT"),
        "GNU's OpenMP": "libgomp" in Path("/proc/self/maps").read_text(),
        "collects": collects,
        "spared": spared,
        "compiles in": str(Path(cache_dir()).parent),
    }


OURS = f"cinelora-compiled-{os.geteuid()}"


def test_threads_of_a_rank_spin_briefly_its_imports_are_not_searched_for_garbage_and_its_torch_compiles_in_our_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (*SPIN_SETTINGS, "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")  # the library prints, when it is loaded, what it took from there
    found = launch(place, log_dir=tmp_path / "logs")
    shown = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", capfd.readouterr().err)
    assert shown == ([SPIN_ROUNDS] if found.pop("GNU's OpenMP") else [])
    assert found == {"spin": SPIN_ROUNDS, "collects": True, "spared": True, "compiles in": str(tmp_path / OURS)}


@pytest.mark.parametrize("chosen", SPIN_SETTINGS)
def test_how_threads_wait_is_left_to_a_user_who_has_said_it(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {chosen: "1"}
    monkeypatch.setattr(launching.os, "environ", environment)
    spin_briefly()
    assert environment == {chosen: "1"}


def compiled_in(temporary: Path, monkeypatch: pytest.MonkeyPatch, **before: str) -> dict[str, str]:
    """Where torch and Triton would keep what they compile."""
    environment = dict(before)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(launching.os, "environ", environment)
    compile_into_own_folder(temporary / "private")
    return {name: path.removeprefix(f"{temporary}/") for name, path in environment.items()}


def test_what_is_compiled_lies_where_this_user_alone_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"TORCHINDUCTOR_CACHE_DIR": f"{OURS}/inductor", "TRITON_CACHE_DIR": f"{OURS}/triton"}
    assert compiled_in(tmp_path, monkeypatch) == ours
    assert stat.S_IMODE((tmp_path / OURS).stat().st_mode) == 0o700
    assert compiled_in(tmp_path, monkeypatch) == ours  # the next start finds it


@pytest.mark.parametrize("planted", ["a link", "writable", "a file", "no place"])
def test_what_another_has_put_there_is_not_run(planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / OURS
    match planted:
        case "a link":
            (tmp_path / "theirs").mkdir()
            folder.symlink_to(tmp_path / "theirs")
        case "writable":
            folder.mkdir()
            folder.chmod(0o777)
        case "a file":
            folder.touch()
        case "no place":
            tmp_path /= "gone"
    private = {"TORCHINDUCTOR_CACHE_DIR": "private/inductor", "TRITON_CACHE_DIR": "private/triton"}
    assert compiled_in(tmp_path, monkeypatch) == private


def test_where_a_user_keeps_what_is_compiled_is_left_to_him(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled_in(tmp_path, monkeypatch, TORCHINDUCTOR_CACHE_DIR="here") == {"TORCHINDUCTOR_CACHE_DIR": "here"}
    both = {"TORCHINDUCTOR_CACHE_DIR": f"{OURS}/inductor", "TRITON_CACHE_DIR": "here"}
    assert compiled_in(tmp_path, monkeypatch, TRITON_CACHE_DIR="here") == both


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
