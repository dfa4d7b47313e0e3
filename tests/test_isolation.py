"""No module of the working directory is imported, whatever is started and whatever it starts (benchmarks/planted_modules.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import planted
import pytest

from cinelora.config.shipped import PROJECT
from cinelora.parallel.launch import module_path

SMALL = "model.height=32 model.width=48 model.dtype=fp32".split()


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, footage: Path) -> tuple[Path, Path]:
    """A planted working directory and its marks, which have been shown to work."""
    home = tmp_path_factory.mktemp("planted")
    folder, marks = home / "theirs", home / "marks"
    assert planted.plant(folder, marks) > 100
    assert type_in(folder, "-c", "import json").returncode == 1
    assert planted.imported(marks) == ["json"]
    (marks / "json").unlink()
    return folder, marks


def type_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600)


def test_a_training_run_imports_nothing_of_the_working_directory(
    typed: tuple[Path, Path], footage: Path, tmp_path: Path
) -> None:
    """Two ranks with processes that load, of a survey that has some of its own: what they all start is in here."""
    folder, marks = typed
    places = [
        f"data.root={footage}",
        f"data.prepared={tmp_path}/prepared",
        f"cache={tmp_path}/cache",
        f"out={tmp_path}/run",
    ]
    small = [*SMALL, "stage.steps=1", "stage.batch_size=1", "validation.every_steps=0", "logger=csv"]
    done = type_in(
        folder, str(PROJECT / "train.py"), "stage=style", "data=folder", *places, *small, "gpus=2", "workers=1"
    )
    assert done.returncode == 0, done.stderr
    assert planted.imported(marks) == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="python -m itself imports from there, before it looks for us")
def test_a_module_that_is_typed_imports_nothing_of_the_working_directory(typed: tuple[Path, Path]) -> None:
    folder, marks = typed
    for module in ("evaluate", "prepare", "study", "card"):
        done = type_in(folder, "-m", f"cinelora.{module}", "--help")
        assert done.returncode == 0, done.stderr
    assert planted.imported(marks) == []


def test_a_clone_that_is_typed_in_stays_where_its_modules_are_found(tmp_path: Path) -> None:
    """One that is not installed has no other place, and what lies beside the package is the clone's own."""
    (tmp_path / "cinelora").symlink_to(PROJECT / "cinelora")
    (tmp_path / "json.py").write_text("raise ImportError('of the clone')")
    assert "ImportError: of the clone" in type_in(tmp_path, "-m", "cinelora.card", "--help").stderr


def test_ranks_look_where_this_process_does_but_for_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/somewhere", "beside"])
    assert module_path() == ["/somewhere", f"{os.getcwd()}/beside", str(PROJECT)]
