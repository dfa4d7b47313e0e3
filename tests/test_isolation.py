"""No module of the working directory is imported, whatever is started and whatever it starts (benchmarks/planted_modules.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import foreign_modules
import pytest

from cinelora.config.shipped import PROJECT
from cinelora.parallel.launch import launch, module_path


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A planted working directory and its marks, which have been shown to work."""
    home = tmp_path_factory.mktemp("planted")
    folder, marks = home / "theirs", home / "marks"
    assert foreign_modules.plant(folder, marks) > 100
    assert type_in(folder, "-c", "import json").returncode == 1
    assert foreign_modules.imported(marks) == ["json"]
    (marks / "json").unlink()
    return folder, marks


def type_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=plain, capture_output=True, text=True, timeout=600)


def start_what_a_run_starts() -> list[str]:
    """On a rank: a process that loads samples, and one begun by ``python -m``, as torch's compilers and submitit's jobs are."""
    from torch.utils.data import DataLoader

    loaded = list(DataLoader([1], batch_size=None, num_workers=1, multiprocessing_context="spawn"))  # type: ignore[arg-type]
    started = [sys.executable, "-m", "json.tool", "--help"]
    return [*map(str, loaded), subprocess.run(started, capture_output=True, text=True, check=True).stdout[:5]]


def test_two_ranks_and_what_they_start_import_nothing_of_the_working_directory(
    typed: tuple[Path, Path], tmp_path: Path
) -> None:
    """The commands themselves, from their first line to their last, are typed by benchmarks/planted_modules.py."""
    folder, marks = typed
    done = type_in(folder, __file__, str(tmp_path))
    assert foreign_modules.imported(marks) == []
    assert done.stdout.splitlines()[-1] == "['1', 'usage']", done.stderr


def test_the_scripts_import_nothing_of_the_working_directory(typed: tuple[Path, Path]) -> None:
    folder, marks = typed
    for script in ("train.py", "infer.py"):
        assert type_in(folder, str(PROJECT / script), "--help").returncode == 0
    assert foreign_modules.imported(marks) == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="python -m itself imports from there, before it looks for us")
def test_a_module_that_is_typed_imports_nothing_of_the_working_directory(typed: tuple[Path, Path]) -> None:
    folder, marks = typed
    for module in ("evaluate", "prepare", "study", "card"):
        done = type_in(folder, "-m", f"cinelora.{module}", "--help")
        assert done.returncode == 0, done.stderr
    assert foreign_modules.imported(marks) == []


def test_a_clone_that_is_typed_in_stays_where_its_modules_are_found(tmp_path: Path) -> None:
    """One that is not installed has no other place, and what lies beside the package is the clone's own."""
    (tmp_path / "cinelora").symlink_to(PROJECT / "cinelora")
    (tmp_path / "json.py").write_text("raise ImportError('of the clone')")
    assert "ImportError: of the clone" in type_in(tmp_path, "-m", "cinelora.card", "--help").stderr


def test_ranks_look_where_this_process_does_but_for_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/somewhere", "beside"])
    assert module_path() == ["/somewhere", f"{os.getcwd()}/beside", str(PROJECT)]


if __name__ == "__main__":  # typed in the planted directory
    from test_isolation import start_what_a_run_starts  # by a name that ranks can import

    print(launch(start_what_a_run_starts, ranks=2, log_dir=Path(sys.argv[1])))
