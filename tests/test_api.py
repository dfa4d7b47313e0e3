"""The public API gives what the commands give, is typed and documented, and costs nothing until it is used."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cinelora
from cinelora.errors import ConfigError

REPO = Path(__file__).parents[1]
SMALL = ("model.height=32", "model.width=48", "logger=csv", "logger.every_steps=1", "validation.every_steps=0")


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import cinelora, sys; print(sorted({'torch', 'numpy', 'hydra', 'yaml', 'cinelora.api'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_there_and_says_what_it_is():
    for name in cinelora.__all__:
        thing = getattr(cinelora, name)
        assert inspect.getdoc(thing), name
        assert inspect.get_annotations(thing), name
    with pytest.raises(AttributeError, match="it has Run, compose, evaluate, infer, open_clip"):
        _ = cinelora.trian


def test_settings_are_those_of_the_command_line():
    assert cinelora.compose("train", "stage=style", "data=noir", "optimizer.lr=1e-4").optimizer.lr == 1e-4
    with pytest.raises(ConfigError, match="did you mean stage"):
        cinelora.compose("train", "stge=style", "data=noir")
    with pytest.raises(ConfigError, match="'trian' is no command; there are train, infer, evaluate, study, prepare"):
        cinelora.compose("trian")


def test_a_run_trained_from_python_is_read_again(tmp_path: Path, cache: Path, footage: Path, pooled: None):
    run = cinelora.train(
        *(
            "stage=style",
            "data=folder",
            f"data.root={footage}",
            "data.judged=false",
            f"cache={cache}",
            f"out={tmp_path}/run",
        ),
        *(*SMALL, "stage.steps=2", "stage.batch_size=1"),
    )
    assert run == cinelora.read_run(tmp_path / "run")
    assert run.summary["step"] == 2
    assert list(run.curve()) == [1, 2]
    assert cinelora.read_adapter(run.adapters["style"]).spec.rank == run.settings.lora.rank == 8


def test_a_clip_and_the_frames_of_a_manifest_are_read(footage: Path):
    reader = cinelora.open_clip(footage / "clip0.mp4")
    assert [frame.shape for frame in reader.frames([0, 11])] == [(32, 48, 3)] * 2
