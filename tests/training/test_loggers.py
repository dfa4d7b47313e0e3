"""Where curves go, that the same numbers arrive everywhere, and that a run outlives its loggers."""

import csv
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from lightning import Callback, Trainer
from small_runs import run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.metric_names import better, heldout_metrics, logged
from cinelora.config.schema import LoggerConfig, MetricsConfig, PreviewConfig, StudyConfig, TrainConfig
from cinelora.io.own_files import drop_wandb_links, refuse_foreign
from cinelora.metrics.suite import KNOWN, OFFLINE, Suite
from cinelora.studies.results import Results
from cinelora.studies.study_report import to_wandb
from cinelora.training import loggers
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.loggers import WANDB_ID, make_journal, wandb_id


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.logs / "csv" / "from-step-00000000" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("rank", [0, 1])
def test_wandb_without_a_key_is_offline_and_rank_0_says_so(
    rank: int,
    style_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WANDB_MODE", "disabled")  # what is said is looked at here, not what W&B writes
    wandb.teardown()  # it keeps what the environment said to an earlier test
    make_journal(replace(style_config, logger=LoggerConfig(name="wandb", group="a sweep")), tmp_path, 0)
    assert rank == 1 or (wandb.run is not None and wandb.run.group == "a sweep")
    wandb.finish()
    line = f"W&B logs offline into {tmp_path / 'logs' / 'wandb'}; `wandb sync` uploads them\n"
    assert capsys.readouterr().out.count(line) == (rank == 0)


def test_wandb_obeys_no_settings_of_the_working_directory(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\nentity = somebody\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    wandb.teardown()
    assert wandb.Settings().read_system_settings().all()["entity"] == "somebody"  # what W&B would do
    make_journal(replace(style_config, logger=LoggerConfig(name="wandb")), tmp_path / "run", 0)
    wandb.finish()
    own = wandb.setup().settings
    wandb.teardown()
    assert own.entity is None
    assert own.base_url != "http://127.0.0.1:9"
    assert Path.cwd() == tmp_path


def test_wandb_starts_no_git_and_takes_no_settings_of_a_run_from_the_working_directory(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A repository's own settings name programs; with code saving on, W&B asks git for what was changed in it."""
    theirs, program = tmp_path / "theirs", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'mark'}\n")
    program.chmod(0o755)
    git = ["git", "-C", str(theirs), "-c", "user.name=a", "-c", "user.email=a@b"]
    theirs.mkdir()
    (theirs / "file").write_text("before")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a run"]):
        subprocess.run([*git, *words], check=True)
    (theirs / "file").write_text("after")
    for setting in ("core.fsmonitor", "diff.external"):
        subprocess.run([*git, "config", setting, str(program)], check=True)
    subprocess.run([*git, "diff"], check=True, capture_output=True)
    (tmp_path / "mark").unlink()  # that is what git does
    (tmp_path / "bin").mkdir()
    program.rename(tmp_path / "bin/git")  # so that whoever asks git at all is seen
    program.symlink_to("bin/git")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "false")
    (theirs / "config-defaults.yaml").write_text("seed:\n  value: theirs\nplanted:\n  value: theirs\n")
    monkeypatch.chdir(theirs)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SAVE_CODE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    make_journal(replace(style_config, logger=LoggerConfig(name="wandb", offline=True)), Path("run"), 0)
    assert wandb.run is not None
    noted = dict(wandb.run.config)
    wandb.finish()
    to_wandb(Results(), StudyConfig(logger=LoggerConfig(name="wandb", offline=True)), Path("study"))
    wandb.teardown()
    assert list(theirs.glob("run/logs/wandb/offline-run-*/*.wandb"))
    assert list(theirs.glob("study/wandb/offline-run-*/*.wandb"))
    assert (noted["seed"], "planted" in noted) == (style_config.seed, False)
    assert not (tmp_path / "mark").exists()
    assert not list(theirs.rglob("*.patch"))
    assert Path.cwd() == theirs


@pytest.mark.parametrize(
    ("machine", "is_there"),
    [
        ("machine api.wandb.ai\n  login user\n  password {key}\n", False),
        ("machine 127.0.0.1:9\n  login user\n  password {key}\n", True),
        ("machine 127.0.0.1\n  login user\n  password {key}\n", False),
        ("machine 127.0.0.1:9\n  login user\n  password short\n", True),  # W&B says what is wrong with it
        ("no netrc at all", False),
        ("", False),
    ],
)
def test_a_key_counts_for_the_server_that_it_is_for(
    machine: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own").write_text(machine.format(key="0" * 40))
    (tmp_path / "own").chmod(0o600)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "own"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    assert loggers.wandb_key_exists() == is_there
    assert loggers.is_offline(LoggerConfig(name="wandb")) != is_there
    wandb.teardown()


def test_a_name_that_no_run_here_has_had_is_not_gone_on_with_at_wandb(tmp_path: Path):
    """It may be that of another run in this user's account, written there by whoever handed the directory over."""
    (tmp_path / WANDB_ID).write_text("0a1b2c3d")
    own = wandb_id(tmp_path)
    assert own != "0a1b2c3d"
    assert (tmp_path / WANDB_ID).read_text() == own == wandb_id(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a" * 65, b"0a1b\0"])
def test_a_damaged_name_is_said_and_w_and_b_begins_another_run(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / WANDB_ID).write_bytes(content)
    own = wandb_id(tmp_path)
    said = capsys.readouterr().out
    assert str(tmp_path / WANDB_ID) in said
    assert "W&B starts a new run" in said
    assert (tmp_path / WANDB_ID).read_text() == own == wandb_id(tmp_path)


def test_several_loggers_get_the_same_numbers(style_config: TrainConfig, tmp_path: Path):
    for asked in (LoggerConfig(name="none", also=["tensorboard"]), LoggerConfig(name="csv", also=["tensorboard"])):
        folder = tmp_path / asked.name
        journal = make_journal(replace(style_config, logger=asked), folder, 0)
        journal.log_metrics({"train/loss": 0.5}, 3)
        journal.finalize("success")
        events = EventAccumulator(str(folder / "logs" / "tensorboard" / "from-step-00000000"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]
        assert rows(RunDirectory(folder)) == [{"step": "3", "train/loss": "0.5"}]
    assert make_journal(replace(style_config, logger=LoggerConfig(name="none")), tmp_path / "x", 0).loggers == []


@pytest.mark.parametrize("stage", ["style", "motion"])
def test_what_is_said_to_be_logged_is_logged_in_csv_and_in_tensorboard(
    stage: str, style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config if stage == "style" else motion_config, logger=LoggerConfig(name="tensorboard"))
    config.stage = replace(config.stage, steps=4)
    config.data = replace(config.data, holdout=0.5)
    config.preview = PreviewConfig(every_steps=4, sampler_steps=1)
    config.metrics = MetricsConfig(names=["motion"])
    config.validation = replace(config.validation, clips=2)
    run = run_here(config, tmp_path)
    refuse_foreign(run.path, "summary.json")
    base = {f"heldout/base/{name}" for name in heldout_metrics(config)}
    columns = {name for row in rows(run) for name, value in row.items() if value} - {"step"}
    assert columns == set(logged(config)) | base
    events = EventAccumulator(str(run.logs / "tensorboard" / "from-step-00000000")).Reload()
    assert set(events.Tags()["scalars"]) == columns
    assert set(events.Tags()["images"]) >= {"preview", "preview/sheet"}


def test_wandb_leaves_no_links_in_a_run_but_its_cores_log(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor does CSV: links could not be told from those that somebody has planted. The last is removed where the run ends."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = replace(style_config, logger=LoggerConfig(name="wandb", offline=True))
    config.preview = PreviewConfig(every_steps=8, sampler_steps=1)
    run = run_here(config, tmp_path / "run")
    wandb.finish()
    assert list(run.path.rglob("logs/wandb/offline-run-*/files/media/*/*"))
    assert {path.name for path in run.path.rglob("*") if path.is_symlink()} <= {"debug-core.log"}
    refuse_foreign(run.path, "summary.json")
    drop_wandb_links(run.path)
    to_wandb(Results(), StudyConfig(logger=LoggerConfig(name="wandb", offline=True)), tmp_path / "run")
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert not [path for path in run.path.rglob("*") if path.is_symlink()]


def test_which_way_is_better_is_what_the_measures_say():
    measures = Suite.of(OFFLINE).measures
    assert measures
    for name, measure in measures.items():
        assert better(f"heldout/{name}") == {True: "max", False: "min", None: None}[measure.higher_is_better], name
    assert all(better(f"heldout/{name}") in ("min", "max", None) for name in KNOWN)


class Mishap(Callback):
    """Ends W&B's run behind the trainer's back, as a lost connection would."""

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            wandb.finish()


def test_a_logger_that_fails_in_mid_run_is_said_once_and_everything_else_goes_on(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    ours = RunCallbacks.all
    monkeypatch.setattr(RunCallbacks, "all", lambda crew: [*ours(crew), Mishap()])
    config = replace(style_config, logger=LoggerConfig(name="wandb", offline=True, every_steps=1))
    run = run_here(config, tmp_path / "run")
    assert [row["step"] for row in rows(run) if row["train/loss"]] == [str(step) for step in range(1, 9)]
    told = [line for line in capsys.readouterr().out.splitlines() if "WandbLogger failed" in line]
    assert len(told) == 1
    assert f"is left out from here on; the curves continue in {run.logs / 'csv'}" in told[0]


def test_a_wandb_that_cannot_be_reached_at_the_start_is_said_and_the_curves_are_in_csv(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # it has read the environment in a test before
    monkeypatch.setitem(loggers.WANDB_SETTINGS, "init_timeout", 2.0)
    journal = make_journal(replace(style_config, logger=LoggerConfig(name="wandb")), tmp_path, 0)
    journal.log_metrics({"train/loss": 1.0}, 1)
    assert "WandbLogger failed" in capsys.readouterr().out
    assert (tmp_path / "logs" / "csv" / "from-step-00000000" / "metrics.csv").exists()
