"""Runs that lose ranks, parents, disks and files: they go on to the same numbers, or say in a sentence what is to be done."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
from rank_pool import begin_command, command
from small_runs import run_here

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig, TrainConfig
from cinelora.errors import AdapterError, ConfigError, TrainingError
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors
from cinelora.parallel.launch import LaunchError, RankKilled
from cinelora.training.checkpoint_files import Checkpoint, load_checkpoint, save_checkpoint, saved_checkpoints
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.run_stage import launched

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import kills  # noqa: E402

PATIENCE_S = 600
"""No wait for an event is as long, however busy the machine is; a run that never gets there fails by it."""
SMALL = ["model.height=32", "model.width=48", "stage.batch_size=1", "validation.every_steps=0", "logger.every_steps=1"]


def settings_of(footage: Path, cache: Path, *more: str) -> list[str]:
    """A small run's words; a key of ``more`` replaces ours."""
    words = [
        "stage=style",
        "data=folder",
        f"data.root={footage}",
        "data.judged=false",
        f"data.prepared={footage}-prepared",
        f"cache={cache}",
        "logger=csv",
        *SMALL,
        *more,
    ]
    return list({word.partition("=")[0]: word for word in words}.values())


@contextmanager
def started(script: str, *settings: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """``script`` as a user starts it, whose terminal is read at the end; nothing of it outlives the block."""
    command = [sys.executable, str(ROOT / script), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
        try:
            yield process
        finally:
            for member in family(process):
                member.kill()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The parent and all below it, as long as it lives."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """Its ranks by their numbers; their loaders' processes are theirs."""
    below = psutil.Process(process.pid).children()
    return {int(rank): child for child in below if (rank := kills.environment(child).get("RANK")) is not None}


def await_that(holds: Callable[[], object], process: subprocess.Popen[str] | BaseProcess) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        ended = process.exitcode if isinstance(process, BaseProcess) else process.poll()
        assert ended is None, f"it ended with {ended}"
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_same_end(one: RunDirectory, other: RunDirectory) -> None:
    first, second = load_checkpoint(one.checkpoints), load_checkpoint(other.checkpoints)
    assert first.step == second.step
    assert kills.same(first.tensors, second.tensors)
    assert kills.same(*(load_tensors(run.adapter("style"))[0] for run in (one, other)))


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_kills_at_random_moments_change_nothing(cache: Path, tmp_path: Path):
    """A short ``benchmarks/kills.py``, which also kills ranks of two; it and the run directory are on two filesystems."""

    def run_whole(words: list[str], _: dict[str, str]) -> None:
        code, said = command("train", *words, log=tmp_path / "whole.log")
        assert code == 0, said

    memory = Path(kills.tempfile.mkdtemp(prefix="kills-", dir=kills.MEMORY))
    try:
        places = (tmp_path / "runs", memory / "tmp", cache)
        found = kills.torment(*places, 1, kills=3, steps=20, seed=3, more=["workers=1"], run_whole=run_whole)
    finally:
        shutil.rmtree(memory)
    assert all(found["kills_by"][whom] for whom in kills.WHOM)
    assert found["losses_logged"] >= 20
    assert found["steps_that_differ"] == found["steps_never_logged"] == []
    assert found["adapter_is_equal"]
    assert found["last_checkpoint_is_equal"]
    assert found["differences"] == []
    assert found["unusable_checkpoints"] == found["left_behind"] == []
    assert found["most_processes"] >= 3, "parent, rank, and what loads for it"
    assert found["outlived"] == 0


@pytest.mark.long
def test_a_run_that_loses_a_rank_goes_on_by_itself_and_once_stopped_and_resumed_ends_like_one_left_alone(
    footage: Path, cache: Path, tmp_path: Path
):
    of_two = ("gpus=2", "workers=1", "stage.accumulation=3", "checkpoint.every_steps=5", "max_restarts=1")
    settings = settings_of(footage, cache, *of_two, "validation.every_steps=100000")
    run, whole = RunDirectory(tmp_path / "stopped's run"), RunDirectory(tmp_path / "whole")
    words = [*settings, "stage.steps=100000", f"out={run.path}"]
    with started("train.py", *words, start_new_session=True) as process:
        await_that(lambda: (run.checkpoints / "last").exists(), process)
        first_life = ranks_of(process)
        first_life[1].kill()
        _, alive = psutil.wait_procs(list(first_life.values()), timeout=PATIENCE_S)
        assert not alive
        await_that(
            lambda: len(list(run.logs.glob("csv/*/metrics.csv"))) == 2, process
        )  # its second life has made a step
        second_life = family(process)[1:]
        assert len(second_life) >= 4, "ranks, and what loads for them"
        os.killpg(process.pid, signal.SIGTERM)  # as some schedulers do
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert not psutil.wait_procs(second_life, timeout=PATIENCE_S)[1]
    assert process.returncode == 130, said
    assert re.search(
        r"rank 1 was killed \(SIGKILL.*continues from step-\d+ by itself \(restart 1 of max_restarts=1\)", said
    )
    log = (run.logs / "rank-1.log").read_text()
    lives = re.findall(r"^-- rank 1 of 2, process (\d+)", log, re.MULTILINE)
    assert len(lives) == 3, "one that encoded, one that was killed, and one that went on"
    assert str(first_life[1].pid) in lives
    assert "held-out loss: not measured before the stop" in said
    typed = said.partition("continue with: ")[2].splitlines()[0]
    assert shlex.split(typed) == ["python", "train.py", f"resume={run.path}"]
    step, summary = load_checkpoint(run.checkpoints).step, read_json(run.summary)
    assert (summary["interrupted"], summary["step"], summary["heldout_step"]) == (True, step, None)
    for place in ([f"resume={run.path}"], [*settings, f"out={whole.path}"]):
        code, said = command("train", *place, f"stage.steps={step + 3}", log=tmp_path / "log")
        assert code == 0, said
    assert_same_end(whole, run)


def live_and_fail(config: TrainConfig, run: RunDirectory) -> None:
    """Count this life, get as far as the note says, and end as it says."""
    lives = run.path / "lives"
    number = len(lives.read_text()) if lives.exists() else 0
    lives.write_text("x" * (number + 1))
    if "further" in config.description:
        save_checkpoint(run.checkpoints, Checkpoint(number + 1, {"adapter.a": torch.zeros(1)}), keep=9)
    if "killed" in config.description:
        os.kill(os.getpid(), signal.SIGKILL)
    if "refused" in config.description:
        raise TrainingError("the loss is nan")
    raise RuntimeError("an error nobody foresaw")


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize(
    ("how", "lives", "error"),
    [
        ("crashes at the same place", 1, LaunchError),
        ("crashes further on", 3, LaunchError),
        ("is refused further on", 1, TrainingError),
        ("is killed at the same place", 3, RankKilled),
    ],
)
def test_what_fails_for_the_same_reason_again_is_not_tried_for_ever(
    how: str, lives: int, error: type[Exception], style_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config, description=how, max_restarts=2)
    with pytest.raises(error) as caught:
        launched(live_and_fail, config, RunDirectory(tmp_path))
    assert type(caught.value) is error
    assert len((tmp_path / "lives").read_text()) == lives


def test_a_run_killed_after_its_last_checkpoint_does_what_its_end_lacked(style_config: TrainConfig, tmp_path: Path):
    """Such a kill leaves the adapter, the measures and the summary of before."""
    config = replace(style_config, ema_decay=0.9)
    run, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    encode_rank(config, run)
    train_rank(config, run)
    shutil.copytree(run.path, killed.path)
    for file in (killed.adapter("style"), killed.summary, killed.card):
        file.unlink()
    resumed = replace(config, resume=str(killed.path))
    train_rank(resumed, killed)
    assert_same_end(run, killed)
    whole, after = read_json(run.summary), read_json(killed.summary)
    for key in ("step", "interrupted", "heldout_step", "heldout_loss", "adapter_effect", "prediction_effect"):
        assert after[key] == whole[key], key
    assert killed.card.exists()
    with pytest.raises(ConfigError, match=r"already has its 8 steps"):
        train_rank(resumed, killed)


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_the_newest_checkpoint_is_noticed_and_the_run_ends_as_if_nothing_was(
    style_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, damaged = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "damaged")
    encode_rank(style_config, run)
    train_rank(style_config, run)
    shutil.copytree(run.path, damaged.path)
    newest = damaged.checkpoints / "step-00000008" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train_rank(replace(style_config, resume=str(damaged.path)), damaged)
    assert re.search(
        r"step-00000008 does not load \(.* is not what was written\); the one before it is tried",
        capsys.readouterr().out,
    )
    assert_same_end(run, damaged)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small filesystem wants root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_checkpoint_that_loads_and_is_of_no_such_run_is_said_in_a_sentence(style_config: TrainConfig, tmp_path: Path):
    """A hand, or another program, wrote it: hashes and shapes of its JSON are as they should be."""
    config = replace(style_config, stage=replace(style_config.stage, steps=2), ema_decay=0.9)
    config = replace(config, validation=replace(config.validation, every_steps=0))
    run = run_here(config, tmp_path / "run")
    whole = load_checkpoint(run.checkpoints)
    names = {kind: next(name for name in whole.tensors if name.endswith(kind)) for kind in (".step", ".exp_avg")}
    names |= {kind: next(name for name in whole.tensors if name.startswith(kind)) for kind in ("ema.", "adapter.")}
    on = replace(config, stage=replace(config.stage, steps=3), resume=str(run.path))
    odd = [{name: torch.zeros(3)} for name in names.values()] + [{"moments.a.step": torch.zeros(1)}]
    of_progress = whole.facts["memory"]["progress"]
    uneven = [
        of_progress | changed for changed in ({"losses": [[1.0], [1.0, 2.0]]}, {"losses": []}, {"accumulation": 0})
    ]
    bad = [Checkpoint(2, whole.tensors | tensors, whole.facts) for tensors in odd]
    bad += [Checkpoint(2, whole.tensors, whole.facts | {"memory": {"progress": memory}}) for memory in uneven]
    for checkpoint in bad:
        save_checkpoint(run.checkpoints, checkpoint, keep=2)
        with pytest.raises(
            (TrainingError, AdapterError), match="step-00000002 does not belong to a run with|has shape"
        ):
            train_rank(on, run)
    save_checkpoint(run.checkpoints, whole, keep=2)
    assert train_rank(on, run)["step"] == 3


def test_a_disk_that_is_full_or_read_only_ends_a_run_in_a_sentence_and_loses_nothing(
    small_disk: Path, footage: Path, cache: Path, tmp_path: Path
):
    settings = settings_of(footage, cache, "stage.steps=30", "checkpoint.every_steps=1", "checkpoint.keep=1000")
    run, whole = RunDirectory(small_disk / "run"), RunDirectory(tmp_path / "whole")
    code, said = command("train", *settings, f"out={run.path}", log=tmp_path / "full")
    assert code == 1
    assert re.search(
        r"^train\.py: disk full while writing .*: what was there before is untouched; make room", said, re.M
    )
    assert "Traceback" not in said
    assert kills.left_behind(run.path) == []
    there = saved_checkpoints(run.checkpoints)
    assert len(there) > 1
    assert all(map(kills.is_usable, there))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, said = command("train", f"resume={run.path}", log=tmp_path / "read-only")
    assert code != 0
    assert re.search(r"^train\.py: cannot write .*Read-only file system", said, re.MULTILINE)
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
    for place in (f"resume={run.path}",), (*settings, f"out={whole.path}"):
        code, said = command("train", *place, log=tmp_path / "log")
        assert code == 0, said
    assert_same_end(whole, run)


def test_a_run_directory_that_vanishes_ends_the_run_and_is_not_made_anew(footage: Path, cache: Path, tmp_path: Path):
    run = RunDirectory(tmp_path / "run")
    settings = settings_of(footage, cache, "stage.steps=100000", "checkpoint.every_steps=20")
    process = begin_command("train", *settings, f"out={run.path}", log=tmp_path / "log")
    await_that(lambda: run.adapter("style").exists(), process)  # the last file of a save: the next one is steps away
    os.rename(run.path, tmp_path / "elsewhere")
    process.join(PATIENCE_S)
    assert process.exitcode == 1
    assert f"train.py: {run.path} is no longer there" in (tmp_path / "log").read_text()
    assert not run.checkpoints.exists()


def test_a_run_takes_one_start_at_a_time_and_the_lock_of_a_killed_one_holds_nobody_up(footage: Path, tmp_path: Path):
    run, cache = RunDirectory(tmp_path / "run"), tmp_path / "cache"
    settings = settings_of(footage, cache, "stage.steps=100000", "checkpoint.every_steps=20", f"out={run.path}")
    first = begin_command("train", *settings, log=tmp_path / "first")
    await_that(lambda: (cache / "encoding.lock").exists() and (cache / "encoding.lock").read_text(), first)
    first.kill()
    first.join()
    second = begin_command("train", *settings, log=tmp_path / "second")
    await_that(lambda: (run.checkpoints / "last").exists(), second)
    code, said = command("train", f"resume={run.path}", log=tmp_path / "third")
    assert code != 0
    assert f"{run.path} is in use by another run (process {second.pid} on " in said
    second.kill()
    second.join()
    step = load_checkpoint(run.checkpoints).step
    code, said = command("train", f"resume={run.path}", f"stage.steps={step + 1}", log=tmp_path / "fourth")
    assert code == 0, said
    assert "in use" not in said


@pytest.mark.usefixtures("pooled")
def test_a_run_goes_on_with_another_number_of_ranks(style_config: TrainConfig, tmp_path: Path):
    """As many samples a step; other numbers are refused while the settings are read (tests/config)."""
    run, config = RunDirectory(tmp_path), replace(style_config, checkpoint=CheckpointConfig(every_steps=2, keep=1))
    encode_rank(config, run)
    train_rank(replace(config, stage=replace(config.stage, steps=4)), run)
    shared = replace(config, gpus=2, stage=replace(config.stage, batch_size=1), resume=str(run.path))
    result = launched(train_rank, shared, run)
    assert result["step"] == load_checkpoint(run.checkpoints).step == 8


# -- orphans -----------------------------------------------------------------------------------------------------------


def test_drawing_that_is_ended_leaves_no_process(cache: Path, tmp_path: Path):
    """One of what ``benchmarks/ends.py`` tries; runs that train are killed and stopped above and in test_run.py."""
    out = tmp_path / "scene"
    settings = [f"cache={cache}", "gpus=2", "mode=t2v", "prompt=rain", "sampler.steps=1000", *SMALL[:2]]
    with started("infer.py", *settings, f"out={out}") as process:
        await_that((out / "logs" / "rank-1.log").exists, process)
        await_that(lambda: len(ranks_of(process)) == 2, process)
        everyone = family(process)
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        _, alive = psutil.wait_procs(everyone, timeout=PATIENCE_S)
        assert not alive
    assert process.returncode == 130
