"""The shipped pair as the two commands meet it: taken where it is whole, refused in one sentence where it is not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cinelora.errors import ModelError
from cinelora.families.wan import embedded

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model.height=32", "model.width=48", "cache=cache", "out=run"]
ARGUMENTS = {
    "train": ["stage=style", "data=folder", "logger=none", "stage.steps=1", "stage.batch_size=1", *SMALL],
    "infer": ["prompt=bars", "mode=t2v", "num_frames=5", "sampler.steps=1", *SMALL],
}


@pytest.fixture
def clone(tmp_path: Path, cache: Path) -> Path:
    """What the commands need of the repository, and a pair as it is shipped."""
    clone = tmp_path / "clone"
    for folder in ("cinelora", "conf"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ARGUMENTS:
        shutil.copy(ROOT / f"{script}.py", clone)
    shutil.copytree(embedded.embedded("t2v", cache).parent, clone / "data" / "scale_model", symlinks=True)
    return clone


def typed(clone: Path, script: str, footage: Path) -> subprocess.CompletedProcess[str]:
    """The command as it is typed in ``clone``, with that folder's own code."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    command = [sys.executable, f"{script}.py", *ARGUMENTS[script]]
    command += [f"data.root={footage}"] if script == "train" else []
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=600)


def test_the_shipped_pair_is_taken_and_none_is_built(clone: Path, footage: Path):
    done = typed(clone, "infer", footage)
    assert done.returncode == 0, done.stderr
    assert (clone / "run" / "clip.mp4").is_file()
    assert not (clone / "cache" / "models").exists()


@pytest.mark.parametrize(
    ("script", "content", "sentence"),
    [("train", b"no weights", "is damaged: its SHA-256 is "), ("infer", None, "is missing; ")],
)
def test_a_shipped_file_that_is_not_there_or_another_ends_a_command_in_one_sentence(
    clone: Path, footage: Path, script: str, content: bytes | None, sentence: str
):
    file = clone / "data" / "scale_model" / "t2v" / "vae" / embedded.WEIGHTS
    file.unlink()
    if content:
        file.write_bytes(content)
    done = typed(clone, script, footage)
    assert done.returncode == ModelError.exit_code
    # on a busy machine lines before it count the seconds of a start
    [said] = [
        line for line in done.stderr.splitlines() if line and not re.match(r"(starting|reading footage): \d+ s", line)
    ]
    assert said.startswith(f"{script}.py: {file} of the embedded model {sentence}")
    assert said.endswith("; restore it with: git checkout -- data/scale_model")
