"""A directory that somebody handed over leads nowhere: what is planted in it is refused by name, and never followed.

The table of a whole run with everything that a run can hold is benchmarks/foreign_directory.py; this is its witness.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import THINGS, make_outside, paths_in, planted, state_of

from cinelora.card import main as card
from cinelora.cli.main import main
from cinelora.cli.sweep_launchers import _job_folder
from cinelora.errors import FileError
from cinelora.io.own_files import WANDB_LINKS, refuse_foreign, shown

CLIPS = ["stage=style", "data=folder", "data.root=clips"]
DRAWN = ["model=tiny", "prompts=p.txt"]
TIMED = ["model=tiny", "prompt=x", "steps=[2]"]
SWEEP = ["-m", *CLIPS, "lora.rank=4,8", "resume=auto"]
HOLDS = {
    "train": (
        "checkpoints/last",
        "checkpoints/step-00000001/state.json",
        "style.safetensors",
        "logs/csv/a/metrics.csv",
    ),
    "infer": ("0000/clip.mp4", "0001/adapted.latents"),
    "evaluate": ("plan.json", "clips/0000-seed-0/base.mp4"),
    "study": ("rows.json", "study.html"),
}
BEGUN = {"train": CLIPS, "infer": DRAWN, "evaluate": DRAWN, "study": TIMED, "sweep": SWEEP}
"""What each directory is begun with."""
TAKEN_UP: list[tuple[str, str, list[str]]] = [
    ("train", "train", ["resume=train"]),
    ("train", "train", ["resume=train", "out=new"]),
    ("train", "train", ["resume=train/style.safetensors"]),
    ("train", "train", [*CLIPS, "resume=auto", "out=train"]),
    ("train", "card", ["run=train"]),
    ("train", "card", ["run=train", "push=owner/name"]),
    ("infer", "infer", [*DRAWN, "out=infer"]),
    ("evaluate", "evaluate", ["out=evaluate", "report=true"]),
    ("evaluate", "evaluate", ["out=evaluate", "answers=answers.json"]),
    ("study", "study", [*TIMED, "out=study"]),
    ("study", "study", ["merge=[study]", "out=new"]),
    ("sweep", "train", [*SWEEP, "out=sweep"]),
]
"""A directory, and the command that goes on with it or reads it."""


def makes(config: Any, run_dir: Path) -> int:
    script = type(config).__name__.removesuffix("Config").lower()
    for name in (".lock", *HOLDS[script]):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).touch()
    return 0


def never(config: Any, run_dir: Path) -> int:
    raise AssertionError("what holds a link must not run")


def typed(script: str, words: list[str], run: Callable[[Any, Path], int]) -> int:
    return card(words) if script == "card" else main(script, words, run)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clips").mkdir()
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    (tmp_path / "answers.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return make_outside(tmp_path / "outside")


def begin(*names: str) -> None:
    for name in names:
        assert main("train" if name == "sweep" else name, [*BEGUN[name], f"out={name}"], makes) == 0


def test_whatever_is_planted_is_refused_by_its_name_and_nothing_outside_is_touched(
    here: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(*BEGUN)
    places, before, tried = os.listdir(here), state_of(outside), 0
    for folder, script, words in TAKEN_UP:
        for number, path in enumerate(paths_in(here / folder)):
            # every path and every thing, though not each with each: that is the benchmark's
            for thing in list(THINGS)[number % 2 :: 2]:
                with planted(path, thing, outside):
                    assert typed(script, words, never) != 0, (words, path, thing)
                    said = capsys.readouterr().err
                    assert f"{path.relative_to(here)} is a " in said.replace("'", ""), (said, thing)
                    assert len(said.splitlines()) == 1
                tried += 1
    assert tried > 300
    assert (os.listdir(here), state_of(outside)) == (places, before)


@pytest.mark.parametrize(("folder", "script", "words"), [case for case in TAKEN_UP if case[1] != "card"])
def test_with_nothing_planted_each_goes_on(here: Path, folder: str, script: str, words: list[str]) -> None:
    begin(folder)
    reached: list[Path] = []

    def remembers(config: Any, run_dir: Path) -> int:
        reached.append(run_dir)
        return 0

    assert main(script, words, remembers) == 0
    assert reached


def test_an_ordinary_link_to_a_run_is_followed_to_the_run(here: Path, outside: Path) -> None:
    """``last`` is no part of a run; the run that it leads to is looked through."""
    begin("train")
    (here / "last").symlink_to("train")
    assert main("train", ["resume=last"], makes) == 0
    (here / "train/previews").symlink_to(outside / "folder")
    assert main("train", ["resume=last"], never) == 1


@pytest.mark.parametrize("source", ["train", "train/style.safetensors"])
def test_no_adapter_is_copied_through_a_link_in_somebodys_run(
    source: str, here: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be carried into one's own run, and uploaded with that by ``push=``."""
    begin("train")
    (here / "train/style.safetensors").unlink()
    (here / "train/style.safetensors").symlink_to(outside / "secret")
    assert main("train", ["stage=motion", *CLIPS[1:], f"adapter={source}", "out=new"], never) == 1
    assert capsys.readouterr().err.startswith("train.py: train/style.safetensors is a link to ")
    assert not (here / "new").exists()


def test_a_copy_is_not_made_in_the_run_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin("train")
    assert main("train", ["resume=train", "out=train/copy"], never) == 2
    assert "lies in resume=" in capsys.readouterr().err
    assert not (here / "train/copy").exists()


def test_a_name_with_control_characters_is_shown_as_the_shell_takes_it(here: Path) -> None:
    name = "a\x1b]0;pwned\x07\n'b"
    (here / "clips" / name).symlink_to("nowhere")
    with pytest.raises(FileError) as refused:
        refuse_foreign(here / "clips", name)
    command = str(refused.value).partition("remove it: ")[2]
    assert command.isprintable()
    subprocess.run(["bash", "-c", command], check=True)
    assert os.listdir(here / "clips") == []
    assert shown("a b") == "'a b'"


# -- links that are W&B's or the hub's own --------------------------------------------------------------------------------


@pytest.fixture
def of_wandb(here: Path, outside: Path) -> Path:
    """A run whose W&B left links, as earlier versions let it; they lead to files that must not be touched."""
    begin("train")
    place = here / "train/logs/wandb"
    (place / "offline-run-1/logs").mkdir(parents=True)
    (place / "offline-run-1/logs/debug.log").write_text("a file of its own")
    for name in WANDB_LINKS:
        (place / name.replace("*", "offline-run-1")).symlink_to(outside / "secret")
    return here / "train"


def by_tar(run: Path, target: Path) -> None:
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        archive.add(run, target.name)
    with tarfile.open(target.with_suffix(".tar")) as archive:
        archive.extractall(target.parent)


def by_git(run: Path, target: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(run)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a run"], ["clone", "-q", ".", str(target)]):
        subprocess.run([*git, *words], check=True)
    assert any(path.stat().st_nlink > 1 for path in (target / ".git").rglob("*") if path.is_file())


COPIED: dict[str, Callable[[Path, Path], object]] = {
    "cp -a": lambda run, target: subprocess.run(["cp", "-a", run, target], check=True),
    "tar": by_tar,
    "git clone": by_git,
}


@pytest.mark.parametrize("way", COPIED)
def test_wandbs_own_links_go_when_a_copied_run_is_resumed(way: str, of_wandb: Path, here: Path, outside: Path) -> None:
    before = state_of(outside)
    COPIED[way](of_wandb, here / "copied")
    assert len([path for path in (here / "copied").rglob("*") if path.is_symlink()]) == len(WANDB_LINKS)
    assert main("train", ["resume=copied", "out=new"], makes) == 0
    assert main("train", ["resume=copied"], makes) == 0
    for run in (here / "copied", here / "new"):
        assert (run / "logs/wandb/offline-run-1/logs/debug.log").is_file()
        assert not [path for path in run.rglob("*") if path.is_symlink()]
    assert not (here / "new/.git").exists()
    assert state_of(outside) == before


def test_a_link_of_that_name_anywhere_else_is_refused(of_wandb: Path, outside: Path) -> None:
    for name in (
        "checkpoints/latest-run",
        "logs/wandb/offline-run-1/debug.log",
        "logs/debug-core.log",
        "logs/wandb/media",
    ):
        with planted(of_wandb / name, "link to a folder", outside):
            assert main("train", ["resume=train"], never) == 1


def test_a_run_that_the_hubs_client_fetched_is_copied_with_what_its_links_lead_to(
    here: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("train")
    cache = here / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    kept, run = cache / "models--owner--name/blobs", cache / "models--owner--name/snapshots/0123"
    kept.mkdir(parents=True)
    for number, path in enumerate(path for path in (here / "train").rglob("*") if path.is_file()):
        link = run / path.relative_to(here / "train")
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept / str(number))
        link.symlink_to(os.path.relpath(kept / str(number), link.parent))
    before = state_of(cache)
    assert main("train", [f"resume={run}"], never) == 1  # in place, it would be written into
    assert main("train", [f"resume={run}", "out=new"], makes) == 0
    assert not [path for path in (here / "new").rglob("*") if path.is_symlink()]
    assert (here / "new/style.safetensors").is_file()
    assert state_of(cache) == before
    (run / "previews").symlink_to(outside / "secret")
    assert main("train", [f"resume={run}", "out=other"], never) == 1
    assert not (here / "other").exists()


# -- the pickles of a sweep's jobs ----------------------------------------------------------------------------------------


def test_each_start_of_a_sweep_has_a_folder_of_its_own_for_results(tmp_path: Path) -> None:
    first, second = _job_folder(tmp_path), _job_folder(tmp_path)
    assert first != second
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (first, second)} == {0o700}
    assert len({folder.name for folder in (_job_folder(tmp_path) for _ in range(100))}) == 100


def test_submitits_links_in_folders_of_earlier_starts_are_let_be(here: Path, outside: Path) -> None:
    begin("sweep")
    (here / "sweep/.submitit/start-a").mkdir(parents=True)
    (here / "sweep/.submitit/start-a/submission.sh").symlink_to(outside / "secret")
    assert main("train", [*SWEEP, "out=sweep"], makes) == 0
    with planted(here / "sweep/.submitit", "link to a folder", outside):
        assert main("train", [*SWEEP, "out=sweep"], never) == 1
