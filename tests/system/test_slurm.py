"""On a real SLURM of two nodes: a sweep, several nodes, preemption, time limits. Its parts are in ``slurm_cluster``."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rounding import EPS, STEPS
from slurm_cluster import GRACE_S, TOOLS, Cluster, missing_tools, slurm, wait_until

REPO = Path(__file__).parents[2]
TRAIN = [sys.executable, str(REPO / "train.py")]
PATIENCE_S = 300
"""For a machine that has other things to do: on two idle cores a run takes 15 s."""

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="a SLURM of one's own needs root"),
    pytest.mark.skipif(bool(missing_tools()), reason=f"needs {', '.join(missing_tools() or TOOLS)} (slurm-wlm, munge)"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def settings(footage: Path, cache: Path) -> list[str]:
    """A small real run of the embedded model."""
    return [
        *(
            "stage=style",
            "data=folder",
            f"data.root={footage}",
            "data.judged=false",
            f"data.prepared={footage}-prepared",
            f"cache={cache}",
            "data.holdout=0.34",
        ),
        *("model.height=32", "model.width=48", "model.num_frames=9", "logger=csv", "logger.every_steps=1"),
        *("stage.batch_size=1", "checkpoint.every_steps=0"),
    ]


def losses(run: Path) -> dict[int, float]:
    """Step to loss, as the CSV logger wrote them; a step that was done twice counts as it was done last."""
    found = {}
    for part in sorted(run.glob("logs/csv/*/metrics.csv")):
        for row in csv.DictReader(part.open()):
            if row.get("train/loss"):
                found[int(row["step"])] = float(row["train/loss"])
    return found


def steps_by_start(run: Path) -> list[list[int]]:
    """The steps that each start of a run did."""
    parts = sorted(run.glob("logs/csv/*/metrics.csv"))
    return [[int(row["step"]) for row in csv.DictReader(part.open()) if row.get("train/loss")] for part in parts]


def table(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "sweep.csv").open()))


def test_a_sweep_survives_its_members(cluster: Cluster, settings: list[str], tmp_path: Path) -> None:
    """Of four members of one array one is killed and one diverges; the killed one is run again by the command printed."""
    argv = [
        *settings,
        "hydra/launcher=slurm",
        "hydra.launcher.timeout_min=5",
        "stage.steps=6",
        "validation.every_steps=3",
    ]
    sweep = tmp_path / "a sweep"
    command = [*TRAIN, "-m", *argv, "optimizer.lr=0.0001,0.0002,1e30", f"out={sweep}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as parent:
        assert wait_until(lambda: bool(tasks(member=0)), PATIENCE_S)
        os.kill(tasks(member=0)[0], signal.SIGKILL)
        said = parent.communicate(timeout=PATIENCE_S)[0]
    assert parent.returncode == 1, said
    assert "each member asks for 1 node with 1 GPU and 1 core, 5 minutes, on the default partition" in said
    rows = table(sweep)
    assert [row["status"].partition(":")[0] for row in rows] == ["done", "failed", "failed"], said
    killed = next(row for row in rows if row["member"] == "0")
    assert re.search(r"job \d+_0 ended as FAILED, exit code .*its log is .*\.err", killed["status"])
    assert "the loss is nan" in next(row for row in rows if row["member"] == "2")["status"]
    assert rows[0]["overrides"] == "optimizer.lr=0.0002"
    assert all(float(rows[0][column]) > 0 for column in ("loss", "heldout_loss", "seconds", "peak_memory_mib"))
    assert json.loads((Path(rows[0]["run_directory"]) / "summary.json").read_text())["loss"] == float(rows[0]["loss"])
    assert "2 of 3 runs failed: 0 (optimizer.lr=0.0001), 2 (optimizer.lr=1e+30)" in said

    again = shlex.split(next(line for line in said.splitlines() if line.startswith("0 again")).partition(": ")[2])
    assert again[:2] == ["python", "train.py"]
    done = subprocess.run([*TRAIN, *again[2:]], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(sweep)
    assert sorted(row["member"] for row in rows[:2]) == ["0", "1"]
    assert [row["status"] for row in rows[:2]] == ["done", "done"]
    assert float(rows[0]["heldout_loss"]) <= float(rows[1]["heldout_loss"])


def tasks(member: int) -> list[int]:
    """The processes that submitit runs for a member of the array, once they have begun with it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        is_task = b"submitit.core._submit" in command and b"srun" not in command.split(b"\0")[0]
        if is_task and f"SLURM_ARRAY_TASK_ID={member}\0".encode() in environment:
            found.append(int(folder.name))
    return found


def test_two_nodes_train_as_one_process_does(cluster: Cluster, settings: list[str], tmp_path: Path) -> None:
    """By sbatch, and as a member of a sweep through submitit."""
    steps = ["stage.steps=5", "validation.every_steps=0"]
    two = [*settings, *steps, "nodes=2"]
    log = tmp_path / "log"
    job = cluster.submit(
        f"srun {shlex.join([*TRAIN, *two, f'out={tmp_path}/sbatch'])}",
        *("--nodes=2", "--ntasks-per-node=1", f"--output={log}"),
    )
    one = [setting for setting in settings if not setting.startswith("stage.batch_size")]
    alone = subprocess.run(
        [*TRAIN, *one, *steps, "stage.batch_size=2", f"out={tmp_path}/one"], capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    assert cluster.wait_for(job, "COMPLETED", "FAILED", timeout_s=PATIENCE_S)["JobState"] == "COMPLETED", (
        log.read_text()
    )
    done = subprocess.run(
        [*TRAIN, "-m", *two, "hydra/launcher=slurm", f"out={tmp_path}/sweep"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = losses(tmp_path / "one")
    assert len(expected) == 5
    for run in (tmp_path / "sbatch", tmp_path / "sweep/0"):
        assert losses(run) == pytest.approx(expected, rel=STEPS * EPS)
        assert {file.name for file in (run / "logs").glob("rank-*.log")} == {"rank-0.log", "rank-1.log"}


def preempt(cluster: Cluster, nodes: int) -> float:
    """Hand in a job that takes nodes from those that run; the seconds until one of them is back in the queue."""
    running = cluster.answer("squeue", "--noheader", "--states=RUNNING", "--format=%A").split()
    started = time.monotonic()
    urgent = cluster.submit(
        "sleep 3",
        *(f"--nodes={nodes}", "--ntasks-per-node=1", "--cpus-per-task=8", "--partition=high", "--output=/dev/null"),
    )

    def waiting() -> set[str]:  # of an array, scontrol shows all members under the number of one
        return set(cluster.answer("squeue", "--noheader", "--array", "--states=PENDING", "--format=%A").split())

    assert wait_until(lambda: bool(waiting() & set(running)), GRACE_S + 30), cluster.answer("squeue") + cluster.logs()
    seconds = time.monotonic() - started
    assert seconds < GRACE_S, "it was ended by SLURM, and did not go by itself"
    cluster.wait_for(urgent, "COMPLETED", timeout_s=PATIENCE_S)
    return seconds


def test_two_nodes_are_preempted_and_go_on(cluster: Cluster, settings: list[str], tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [
        *settings,
        "stage.steps=400",
        "validation.every_steps=0",
        "nodes=2",
        "workers=1",
        f"out={run}",
        "resume=auto",
    ]
    job = cluster.submit(
        f"srun {shlex.join([*TRAIN, *argv])}",
        *(
            "--nodes=2",
            "--ntasks-per-node=1",
            "--cpus-per-task=2",
            "--requeue",
            "--open-mode=append",
            f"--output={log}",
        ),
    )
    assert wait_until(lambda: len(losses(run)) > 20, PATIENCE_S), log.read_text()
    seconds = preempt(cluster, nodes=2)
    facts = cluster.wait_for(job, "COMPLETED", "FAILED", timeout_s=PATIENCE_S)
    said = log.read_text()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), said
    first, second = steps_by_start(run)
    assert second[0] == first[-1] + 1, "a step was lost, or done twice"
    assert second[-1] == 400
    assert f"SLURM job {job} was preempted and is requeued: it continues in {run} by itself" in said
    assert f"stopped at step {first[-1]} of 400" in said
    print(f"preempted after step {first[-1]}, in the queue {seconds:.1f} s later")


def test_a_member_of_a_sweep_is_preempted_and_goes_on(cluster: Cluster, settings: list[str], tmp_path: Path) -> None:
    """And the other member, which nobody preempts, is none the worse."""
    argv = [
        *settings,
        "stage.steps=400",
        "validation.every_steps=0",
        "hydra/launcher=slurm",
        "hydra.launcher.cpus_per_task=5",
    ]
    command = [*TRAIN, "-m", *argv, "lora.rank=2,4", f"out={tmp_path}/sweep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as parent:
        assert wait_until(lambda: all(len(losses(tmp_path / f"sweep/{n}")) > 10 for n in (0, 1)), PATIENCE_S)
        preempt(cluster, nodes=1)
        said = parent.communicate(timeout=PATIENCE_S)[0]
    assert parent.returncode == 0, said
    assert [row["status"] for row in table(tmp_path / "sweep")] == ["done", "done"]
    starts = [steps_by_start(tmp_path / f"sweep/{n}") for n in (0, 1)]
    assert sorted(len(parts) for parts in starts) == [1, 2]
    for parts in starts:
        assert [step for part in parts for step in part] == list(range(1, 401))


def test_a_job_near_its_limit_goes_on_and_a_cancelled_one_ends(
    cluster: Cluster, settings: list[str], tmp_path: Path
) -> None:
    """``scancel --signal`` sends what ``--signal=USR1@60`` does, without the minutes that a time limit is counted in."""
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [*settings, "stage.steps=100000", "validation.every_steps=0", f"out={run}", "resume=auto"]
    job = cluster.submit(
        f"srun {shlex.join([*TRAIN, *argv])}; echo the batch ends with $?", "--open-mode=append", f"--output={log}"
    )
    assert wait_until(lambda: len(losses(run)) > 5, PATIENCE_S), log.read_text()
    cluster.answer("scancel", "--signal=USR1", job)
    assert wait_until(lambda: len(steps_by_start(run)) == 2 and len(steps_by_start(run)[1]) > 5, PATIENCE_S), (
        log.read_text()
    )
    assert f"SLURM job {job} nears its time limit and is requeued" in log.read_text()
    cluster.answer("scancel", job)
    cluster.wait_for(job, "CANCELLED", timeout_s=PATIENCE_S)
    assert wait_until(lambda: "stopped at step" in log.read_text().split("requeued")[-1], PATIENCE_S), log.read_text()
    first, second = steps_by_start(run)
    assert second[0] == first[-1] + 1
    assert json.loads((run / "summary.json").read_text())["interrupted"]
    assert cluster.job(job)["Restarts"] == "1"


def test_a_run_of_two_experts_goes_on_in_the_lesson_that_was_warned(
    cluster: Cluster, settings: list[str], tmp_path: Path
) -> None:
    """Warned in its first lesson and, once it is back, in its second; it ends at the bits of one that was left alone."""
    run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    argv = [*settings, "model=tiny_wan22_a14b", "stage.steps=150", "validation.every_steps=0", "resume=auto"]
    job = cluster.submit(f"srun {shlex.join([*TRAIN, *argv, f'out={run}'])}", "--open-mode=append", f"--output={log}")
    for expert in ("high_noise", "low_noise"):
        assert wait_until(lambda place=run / expert: len(losses(place)) > 5, PATIENCE_S), log.read_text()
        cluster.answer("scancel", "--signal=USR1", job)
        assert wait_until(lambda place=run / expert: len(steps_by_start(place)) == 2, PATIENCE_S), log.read_text()
    facts = cluster.wait_for(job, "COMPLETED", "FAILED", timeout_s=PATIENCE_S)
    said = log.read_text()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "2"), said
    assert said.count(f"SLURM job {job} nears its time limit and is requeued") == 2
    assert "style_low_noise: not begun" in said
    alone = subprocess.run([*TRAIN, *argv, f"out={whole}"], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    for expert in ("high_noise", "low_noise"):
        first, second = steps_by_start(run / expert)
        assert [*first, *second] == list(range(1, 151)), "a step was lost, or done twice"
        assert losses(run / expert) == losses(whole / expert)
        name = f"style_{expert}.safetensors"
        assert tensors_of(run / name) == tensors_of(whole / name)


def tensors_of(path: Path) -> bytes:
    """The bytes of all tensors, without the header, which names the run."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]
