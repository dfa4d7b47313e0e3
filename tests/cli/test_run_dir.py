"""What a command leaves behind: directories of runs that came to something, and ``last`` at the newest of these."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from composed import compose_evaluate, compose_infer, compose_study

from cinelora.cli.main import main
from cinelora.config.clip_facts import clip_facts, clip_hash
from cinelora.config.schema import InferConfig
from cinelora.config.shipped import PROJECT
from cinelora.errors import FootageError, TrainingError
from cinelora.parallel.launch import LaunchError

CLIPS = ["stage=style", "data=folder", "data.root=clips"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    return tmp_path


def trains(config: Any, run_dir: Path) -> int:
    (run_dir / "checkpoints/step-00000001").mkdir(parents=True, exist_ok=True)
    return 0


def comes_to_nothing(config: Any, run_dir: Path) -> int:
    return 0


def refused(config: Any, run_dir: Path) -> int:
    (run_dir / "logs").mkdir()
    (run_dir / "manifest.jsonl").touch()
    raise FootageError("no samples found")


def never(config: Any, run_dir: Path) -> int:
    raise AssertionError("a refused command must not run")


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# last -----------------------------------------------------------------------------------------------------------------


def test_last_stays_where_it_was_until_a_run_has_come_to_something(here: Path) -> None:
    assert main("train", CLIPS, trains) == 0
    folder = here / "outputs/style/folder"
    first = (folder / "last").resolve()
    assert main("train", [*CLIPS, "lora.rank=0"], never) == 2
    assert main("train", CLIPS, comes_to_nothing) == 0
    assert main("train", CLIPS, refused) == 1
    assert (folder / "last").resolve() == first
    assert main("train", CLIPS, trains) == 0
    assert (folder / "last").resolve() != first


def test_last_points_at_a_run_while_it_is_still_under_way(here: Path) -> None:
    last = here / "outputs/style/folder/last"

    def waits_for_last(config: Any, run_dir: Path) -> int:
        assert not last.exists()
        trains(config, run_dir)
        while not last.exists():  # half a second, however busy the machine is
            time.sleep(0.01)
        assert last.resolve() == run_dir.resolve()
        return 0

    assert main("train", CLIPS, waits_for_last) == 0


def test_a_last_that_is_no_link_is_refused_before_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "outputs/style/folder/last").mkdir(parents=True)
    assert main("train", CLIPS, never) == 2
    assert "last is not a link" in capsys.readouterr().err
    assert below(here / "outputs/style/folder") == ["last"]


# Refused by the run itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["", "mine", "empty"])
def test_a_refused_run_leaves_no_directory(out: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    assert main("train", [*CLIPS, *([f"out={out}"] if out else [])], refused) == 1
    assert capsys.readouterr().err == "train.py: no samples found\n"
    assert set(below(here)) <= {"clips", "p.txt", "empty"}
    assert main("train", [*CLIPS, "lora.rank=4", *([f"out={out}"] if out else [])], trains) == 0


def test_what_explains_a_crash_is_kept(here: Path) -> None:
    def crashes(config: Any, run_dir: Path) -> int:
        (run_dir / "logs").mkdir()
        raise LaunchError("rank 0 ended")

    def learns_badly(config: Any, run_dir: Path) -> int:
        (run_dir / "logs/csv/from-step-00000000").mkdir(parents=True)
        raise TrainingError("the loss is nan at step 3")

    def breaks(config: Any, run_dir: Path) -> int:
        trains(config, run_dir)
        raise TrainingError("disk full")

    for number, run in enumerate((crashes, learns_badly, breaks)):
        assert main("train", [*CLIPS, f"out={number}"], run) == 1
        assert (here / str(number) / "config.yaml").is_file()


def test_a_copy_that_a_resume_could_do_nothing_with_is_removed(here: Path) -> None:
    assert main("train", [*CLIPS, "out=a"], trains) == 0
    assert main("train", ["resume=a", "out=b"], refused_at_once) == 1
    assert set(below(here)) == {"a", "clips", "p.txt"}
    assert main("train", ["resume=a", "out=b"], trains) == 0
    assert main("train", ["resume=a"], refused_at_once) == 1
    assert set(below(here)) == {"a", "b", "clips", "p.txt"}


def refused_at_once(config: Any, run_dir: Path) -> int:
    raise TrainingError("it has all its steps")


# The same clips -------------------------------------------------------------------------------------------------------


def test_prompts_go_on_after_a_change_that_gives_the_same_clips(here: Path) -> None:
    same = [
        "",
        "model.attention=native",
        "metrics.names=[motion]",
        "gpus=2",
        "memory.swap=1",
        "metrics=none",
        "cache=c",
    ]
    seen: list[Path] = []

    def draws(config: Any, run_dir: Path) -> int:
        seen.append(run_dir)
        (run_dir / "0000").mkdir(exist_ok=True)
        (run_dir / "0000/summary.json").write_text("{}")
        return 0

    for out in ([], ["out=X"]):
        seen.clear()
        for word in same:
            assert main("infer", ["prompts=p.txt", *out, *filter(None, [word])], draws) == 0
        assert len(set(seen)) == 1
    assert main("infer", ["prompts=p.txt", "out=X", "sampler.steps=2"], never) == 2


def test_a_directory_that_was_named_after_more_settings_is_found(here: Path) -> None:
    older = here / "outputs/infer/p-0123abcd"
    assert main("infer", ["prompts=p.txt", f"out={older}", "metrics.names=[motion]"], comes_to_nothing) == 0

    def goes_on(config: Any, run_dir: Path) -> int:
        assert run_dir.resolve() == older
        return 0

    assert main("infer", ["prompts=p.txt"], goes_on) == 0
    assert main("infer", ["prompts=p.txt", "seed=1"], comes_to_nothing) == 0
    assert len(list((here / "outputs/infer").glob("p-*"))) == 2


HASHES = [
    (compose_infer, ["prompts=x.txt"], "3181dfb76c7a6ab08becadc296c3d6aec13ca852e5356a9ec1923e5c3df307f8"),
    (
        compose_infer,
        ["prompt=x", "model=wan21_1_3b", "sampler.cache=first_block", "memory.swap=1", "gpus=4"],
        "1dc5ddeb654057dbaafa6670af5cd5d87716e47dd1a3c2fd7cd0852100c17f02",
    ),
    (
        compose_study,
        ["prompt=x", "steps=[1,2]", "logger=csv"],
        "29b32815e47d687ec8643a2c48b6d6811fbb3eb4e1c76f7b2e331e85977d1063",
    ),
    (
        compose_study,
        ["prompt=x", "model.attention=native"],
        "1fdfc2f6f6acdd67d208e12486e4bbd8be901dfeb240c155b9cbf886f8503832",
    ),
    (
        compose_evaluate,
        ["prompts=x.txt", "seeds=2", "metrics=temporal"],
        "0320b7a2d16e0e433851a8465d3d806add696b351c2c18ae984381c8911465a7",
    ),
]


@pytest.mark.parametrize(("compose", "argv", "known"), HASHES)
def test_directories_are_called_as_they_were(compose: Callable[[list[str]], Any], argv: list[str], known: str) -> None:
    assert clip_hash(compose(argv)) == known


def test_a_clip_that_an_older_version_finished_is_known_again() -> None:
    """A summary's settings lack keys that were left out there; numbers that were measured then are no matter."""
    config = compose_infer(["prompts=p.txt", "metrics=none", "model.attention=native"])
    now = dataclasses.asdict(config)
    older = dataclasses.asdict(compose_infer(["prompts=p.txt", "gpus=2"]))
    for name in ("prompts", "out", "cache", "gpus", "nodes", "memory", "plan"):
        del older[name], now[name]
    del older["model"]["attention"], older["sampler"]["ring"]
    assert clip_facts(InferConfig, older) == clip_facts(InferConfig, now)
    now["sampler"]["steps"] = 7
    assert clip_facts(InferConfig, older) != clip_facts(InferConfig, now)


# outputs/ that cannot be written --------------------------------------------------------------------------------------

COMMANDS = [
    ("train", CLIPS),
    ("train", ["-m", *CLIPS, "lora.rank=4,8"]),
    ("infer", ["prompt=x"]),
    ("infer", ["prompts=p.txt"]),
    ("evaluate", ["data=noir"]),
    ("study", ["prompt=x"]),
]


@pytest.mark.parametrize("kind", ["a file", "read-only", "a file below"])
@pytest.mark.parametrize(("script", "argv"), COMMANDS)
def test_outputs_that_cannot_be_written_are_a_sentence(
    script: str, argv: list[str], kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "a file":
        (here / "outputs").touch()
    elif kind == "read-only":
        os.symlink("/sys", here / "outputs")  # where not even root makes a folder
    else:
        (here / "outputs").mkdir()
        (here / "outputs" / ("style" if script == "train" else script)).touch()
    assert main(script, argv, never) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "outputs" in error


FULL = """
import sys
from cinelora.cli.main import main
sys.exit(main(sys.argv[1], sys.argv[2:], lambda config, run_dir: print("at work") or 0))
"""


@pytest.mark.parametrize(("script", "argv"), COMMANDS)
def test_a_disk_on_which_nothing_more_fits_is_a_sentence(script: str, argv: list[str], here: Path) -> None:
    (here / "outputs").mkdir()

    def nothing_fits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # to a program, what a full disk is

    command = [sys.executable, "-c", FULL, script, *argv]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, preexec_fn=nothing_fits, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (1, 2), done.stderr
    assert "at work" not in done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(here.rglob("config.yaml"))
