"""A W&B that goes out of reach in the middle of a run: the run does not notice, and its end says what to do.

All of it through W&B's own client, online, against a server on this machine.
"""

import csv
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
import wandb_server
from wandb_server import WandbServer

from cinelora.config.schema import LoggerConfig, TrainConfig
from cinelora.training import loggers
from cinelora.training.loggers import Journal, make_journal

BEFORE, AFTER = range(1, 6), range(6, 26)
"""Steps logged while the server lives, and after it died."""
PROMPT_S, END_S = 60.0, 300.0
"""No call and no end takes as long on however busy a machine (here: 6 ms and 3 s); without a limit the end would wait on."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B that this process would reach, with a client that sends every second and has no patience."""
    with wandb_server.serve() as server:
        monkeypatch.setenv("WANDB_API_KEY", wandb_server.KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setitem(loggers.WANDB_SETTINGS, "finish_timeout", 3.0)
        monkeypatch.setitem(loggers.WANDB_SETTINGS, "x_file_stream_transmit_interval", 1.0)
        wandb.teardown()  # it has read the environment in a test before
        yield server
        wandb.teardown()


@pytest.fixture
def journal(server: WandbServer, style_config: TrainConfig, tmp_path: Path) -> Journal:
    return make_journal(replace(style_config, logger=LoggerConfig(name="wandb")), tmp_path / "the run", 0)


def test_a_run_is_one_run_of_wandb_with_its_words_however_often_it_is_resumed(
    server: WandbServer, style_config: TrainConfig, tmp_path: Path
):
    settings = LoggerConfig(name="wandb", entity="studio", group="looks", tags=["noir", "rain"], project="film")
    config = replace(style_config, logger=settings, description="a note kept with the run")
    for first_step in (0, 4):
        journal = make_journal(config, tmp_path / "run", first_step)
        journal.log_metrics({"train/loss": 1.0}, first_step + 1)
        end(journal)
        wandb.teardown()
    begun = [run for run in server.runs if run["displayName"]]
    assert len({run["name"] for run in server.runs}) == 1
    assert {(run["entity"], run["project"], run["groupName"]) for run in begun} == {("studio", "film", "looks")}
    assert {(run["notes"], *run["tags"]) for run in begun} == {("a note kept with the run", "noir", "rain")}
    assert server.runs[0]["name"] == (tmp_path / "run" / "logs" / "wandb-id").read_text()
    other = make_journal(config, tmp_path / "other", 0)
    assert server.runs[-1]["name"] != server.runs[0]["name"]
    end(other)


@pytest.mark.parametrize(("artifact", "arrives"), [(None, True), (True, True), (False, False)])
def test_a_finished_adapter_is_kept_by_a_wandb_that_is_reached(
    artifact: bool | None, arrives: bool, server: WandbServer, journal: Journal, tmp_path: Path
):
    (tmp_path / "style.safetensors").write_bytes(b"an adapter")
    journal.keep(tmp_path / "style.safetensors", LoggerConfig(name="wandb", artifact=artifact))
    end(journal)
    names = [(kept["artifactCollectionName"], kept["artifactTypeName"]) for kept in server.artifacts]
    name = (tmp_path / "the run" / "logs" / "wandb-id").read_text()
    assert names == ([(f"style-{name}", "model")] if arrives else [])


@pytest.mark.parametrize(("artifact", "arrives"), [(None, False), (True, True)])
def test_an_adapter_of_an_offline_run_is_sent_with_it_where_that_is_asked_for(
    artifact: bool | None, arrives: bool, server: WandbServer, style_config: TrainConfig, tmp_path: Path
):
    (tmp_path / "style.safetensors").write_bytes(b"an adapter")
    settings = LoggerConfig(name="wandb", offline=True, artifact=artifact)
    journal = make_journal(replace(style_config, logger=settings), tmp_path / "run", 0)
    journal.log_metrics({"train/loss": 1.0}, 1)
    journal.keep(tmp_path / "style.safetensors", settings)
    end(journal)
    wandb.finish()
    assert server.runs == []
    [folder] = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*")
    env = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(folder)], cwd=tmp_path, env=env, check=True, timeout=END_S
    )
    assert len(server.artifacts) == arrives
    assert server.history[0]["train/loss"] == 1.0


def log(journal: Journal, steps: range) -> float:
    """Log a number for each step; returns the longest that one took."""
    longest = 0.0
    for step in steps:
        started = time.monotonic()
        journal.log_metrics({"train/loss": 1 / step}, step)
        longest = max(longest, time.monotonic() - started)
    return longest


def end(journal: Journal) -> float:
    """End the journal as a run does, and once more; returns how long that took."""
    started = time.monotonic()
    journal.finalize("success")
    journal.close()
    journal.close()
    return time.monotonic() - started


def curves(run_dir: Path) -> list[float]:
    with (run_dir / "logs" / "csv" / "from-step-00000000" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def losses(server: WandbServer) -> list[float]:
    return [line["train/loss"] for line in server.history if "train/loss" in line]


def all_losses() -> list[float]:
    return [1 / step for step in (*BEFORE, *AFTER)]


def remedy(told: str, run_dir: Path) -> list[str]:
    """The command in the one sentence that is said."""
    said = [line for line in told.splitlines() if "W&B" in line or "wandb" in line.lower()]
    assert len(said) == 1, told
    sentence = r"WARNING: W&B did not get everything; `(wandb sync .+)` sends the rest, and all curves are in (.+)"
    found = re.fullmatch(sentence, said[0])
    assert found, told
    assert found[2] == str(run_dir / "logs" / "csv")
    return shlex.split(found[1])


def test_a_wandb_that_is_reached_gets_everything_and_nothing_is_said(
    server: WandbServer, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert max(log(journal, BEFORE), log(journal, AFTER)) < PROMPT_S
    end(journal)
    assert losses(server) == pytest.approx(all_losses())
    assert curves(tmp_path / "the run") == pytest.approx(all_losses())
    assert "W&B" not in "".join(capfd.readouterr())


def test_a_wandb_that_dies_in_mid_run_holds_nothing_up_and_the_end_says_how_to_send_the_rest(
    server: WandbServer, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    log(journal, BEFORE)
    assert server.wait_for("train/loss", 1 / BEFORE[-1], seconds=END_S)
    server.die()
    assert log(journal, AFTER) < PROMPT_S
    assert end(journal) < END_S
    assert losses(server) == pytest.approx([1 / step for step in BEFORE])
    assert curves(tmp_path / "the run") == pytest.approx(all_losses())
    assert wandb.run is None
    command = remedy("".join(capfd.readouterr()), tmp_path / "the run")
    with wandb_server.serve() as back:  # what is said to send the rest does
        env = os.environ | {"WANDB_BASE_URL": back.address}
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=env, check=True, timeout=END_S)
        assert losses(back) == pytest.approx(all_losses())


def test_a_wandb_that_refuses_in_mid_run_is_said_as_well_though_its_client_ends_as_if_all_were_sent(
    server: WandbServer, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    log(journal, BEFORE)
    assert server.wait_for("train/loss", 1 / BEFORE[-1], seconds=END_S)
    server.refuses = True
    assert log(journal, AFTER) < PROMPT_S
    end(journal)
    assert losses(server) == pytest.approx([1 / step for step in BEFORE])
    assert curves(tmp_path / "the run") == pytest.approx(all_losses())
    assert Path(remedy("".join(capfd.readouterr()), tmp_path / "the run")[-1]).is_dir()
