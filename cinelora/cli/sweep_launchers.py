"""The members of a sweep: run one after another, or as jobs that submitit starts here or on SLURM; and their table.

Enters: members, each a command line with a directory of its own. Leaves: how each ended, ``sweep.json`` and the table
``sweep.csv``. A member that crashes, is killed or is lost with its node is a row like any other. What a member does is
not known here: ``run`` is called for it, in a process of its own where there is a launcher.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from cinelora.cli.parse import Command
from cinelora.config.shipped import PROJECT
from cinelora.errors import ConfigError, FileError
from cinelora.io import slurm
from cinelora.io.atomic import write_json, write_text
from cinelora.io.plain_data import read_json
from cinelora.io.terminal import say
from cinelora.parallel.launch import usable_cores

COLUMNS = "member overrides status loss heldout_loss adapter_effect seconds peak_memory_mib run_directory".split()
RECORD, TABLE, JOB_LOGS = "sweep.json", "sweep.csv", ".submitit"
LOOK_S = 10.0
"""How often SLURM is asked which jobs are left: it advises against asking often."""
LAG_S = 15.0
"""How long a result may take to be seen on a shared file system."""
_SHARED = "timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout".split()
"""What submitit calls alike for every kind of cluster."""
_PATIENT = """bash -c 'trap "" TERM USR1 USR2; exec "$0" "$@"'"""
"""Starts a program that no warning ends before it listens: SLURM itself then requeues it at the end of its grace."""
_OURS = ("_target_", "submitit_folder", "max_num_timeout")


@dataclass(frozen=True)
class Member:
    """One run of a sweep; ``name`` is what sets it apart from the others."""

    number: int
    name: str
    command: Command
    folder: Path


@dataclass(frozen=True)
class Ending:
    """How a member ended: its exit code, and why where that is known."""

    code: int
    sentence: str = ""

    @property
    def status(self) -> str:
        """A word, and the reason."""
        word = {0: "done", slurm.STOPPED: "stopped", slurm.REQUEUED: "requeued"}.get(self.code, "failed")
        return f"{word}: {self.sentence}" if self.sentence else word


Run = Callable[[Member], Ending]
Tell = Callable[[Member, Ending], None]


# -- running -----------------------------------------------------------------------------------------------------------


def run_here(members: Sequence[Member], run: Run, tell: Tell, _: Path) -> None:
    """Run members one after another in this process; one that is asked to stop is the last."""
    for member in members:
        ending = run(member)
        tell(member, ending)
        if ending.code in (slurm.STOPPED, slurm.REQUEUED):
            return


def run_locally(members: Sequence[Member], run: Run, tell: Tell, folder: Path, ranks: int, minutes: int) -> None:
    """Run members in processes of this machine, as many at a time as its GPUs, or cores, have room for.

    They end with this process, and save before they do, whatever ends it. Raises ``KeyboardInterrupt`` after that.
    """
    import submitit

    # Every place is a set of GPUs, or None for as many cores as a member has ranks. A member takes a place as it starts and
    # gives it back as it ends, so that no two members ever share a GPU.
    jobs = _job_folder(folder)
    executor = submitit.LocalExecutor(jobs / "%j")
    executor.update_parameters(timeout_min=minutes, tasks_per_node=1)
    _let_jobs_find_us()
    say(f"what each prints: {jobs}")
    free, waiting, running = _places(ranks), list(members), dict[Any, tuple[Member, str | None]]()

    def collect() -> None:
        time.sleep(0.2)
        for job in [job for job in running if job.done()]:
            member, gpus = running.pop(job)
            free.append(gpus)
            tell(member, _ending(job) or Ending(1, f"its process was killed; its log is {job.paths.stderr}"))

    try:
        while waiting or running:
            while free and waiting:
                gpus, member = free.pop(), waiting.pop(0)
                call = functools.partial(_in_job, run=run, gpus=gpus, parent=os.getpid())
                running[_submitted(executor, call, member)] = (member, gpus)
            collect()
    except KeyboardInterrupt:
        # SIGTERM reaches submitit's process of each job, where it becomes a Ctrl-C of the run: that saves, and ends
        for job in running:
            os.kill(int(job.job_id), signal.SIGTERM)
        while running:
            collect()
        raise


def _let_jobs_find_us() -> None:
    """Put a clone among the places where the jobs' Python looks for modules: where it is not installed, nothing else does."""
    if (PROJECT / "train.py").is_file():
        places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(PROJECT), *filter(None, places)]))


def _job_folder(folder: Path) -> Path:
    """A new folder for the jobs of this start, which this user alone can enter, by a name that nobody could have foreseen."""
    # Results come back as pickles, and what is unpickled is run. An older folder may have come with a sweep from somebody else,
    # with results in it for every number that a job could get: hence it is never looked into again.
    (folder / JOB_LOGS).mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="start-", dir=folder / JOB_LOGS))


def _places(ranks: int) -> list[str | None]:
    """What members of ``ranks`` ranks can have at the same time: GPUs of their own, or None for a share of the cores."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return [None] * max(1, usable_cores() // ranks)
    # a parent that was given some GPUs alone passes these on, by the names that it was given
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [",".join(gpus[start : start + ranks]) for start in range(0, max(1, count - ranks + 1), ranks)]


def _submitted(executor: Any, call: Callable[[Member], Ending], member: Member) -> Any:
    # Ctrl-C at the terminal is for us; submitit's own processes would give members one second, and kill them
    held = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(call, member)
    finally:
        signal.signal(signal.SIGINT, held)


def run_on_slurm(members: Sequence[Member], run: Run, tell: Tell, folder: Path, settings: dict[str, Any]) -> None:
    """Run members as one job array, and wait for them; ``settings`` are those of ``hydra.launcher``.

    Ctrl-C cancels the jobs that are left, which save and end, and raises ``KeyboardInterrupt``; jobs outlive a parent that
    ends in any other way. Raises ``ConfigError`` where SLURM refuses the jobs.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    if not members:
        return
    job_folder = _job_folder(folder)
    say(f"{_request_line(settings)}; what each prints: {job_folder}")

    # The plugin's settings are used without the plugin, which would start Hydra again in each job. To submitit, those that
    # other clusters have too go by their own names, and all others carry the name of SLURM.
    python = f"{_PATIENT} {shlex.quote(sys.executable)} -P"  # no module of the directory that a job starts in
    _let_jobs_find_us()
    executor = submitit.AutoExecutor(job_folder / "%j", cluster="slurm", slurm_python=python)
    asked = {key: value for key, value in settings.items() if key not in _OURS}
    executor.update_parameters(**{key if key in _SHARED else f"slurm_{key}": value for key, value in asked.items()})
    try:
        jobs = executor.map_array(functools.partial(_in_job, run=run), members)
    except FailedJobError as error:
        raise ConfigError(f"SLURM refused the jobs: {str(error).strip().splitlines()[-1]}") from error
    running = {job.task(0): member for job, member in zip(jobs, members, strict=True)}
    array = jobs[0].job_id.partition("_")[0]
    say(f"SLURM job {array}: Ctrl-C here cancels it, and a closed terminal leaves it alone")
    try:
        _await_slurm(array, running, tell)
    except KeyboardInterrupt:
        say(f"cancelling SLURM job {array}: its members save and end")
        subprocess.run(["scancel", array])
        _await_slurm(array, running, tell)
        raise


def _await_slurm(array: str, running: dict[Any, Member], tell: Tell) -> None:
    # Two ways in which a job can end. As a rule it leaves a result file, which is looked for often. A job that was killed
    # leaves none: SLURM no longer lists it, and ``left_at`` notes when that was first seen. Its result may still be on the
    # way through a shared file system, so that SLURM's own word on it is asked for only some seconds later.
    asked, left_at, told = time.monotonic(), dict[Any, float](), set[str]()
    while running:
        time.sleep(0.5)
        if time.monotonic() > asked + LOOK_S and (listed := _listed(array)) is not None:
            asked = time.monotonic()
            for reason in {*listed.values()} - told - {"None"}:
                told.add(reason)
                say(f"SLURM job {array} waits: {reason}")
            left_at = {job: left_at.get(job, asked) for job in running if job.job_id not in listed}
        for job in list(running):
            ending = _ending(job)
            if ending is None and time.monotonic() > left_at.get(job, float("inf")) + LAG_S:
                ending = _fate(job)
            if ending:
                tell(running.pop(job), ending)


def _listed(array: str) -> dict[str, str] | None:
    """The jobs of an array that wait or run, and what each waits for; None where SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i %r", f"--jobs={array}"]
    done = subprocess.run(command, capture_output=True, text=True)
    # an id that SLURM no longer knows is an answer: minutes after their end it forgets jobs, and none is left
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def _fate(job: Any) -> Ending:
    """What SLURM says of a job that has ended without a result."""
    facts = slurm.facts(job.job_id)
    state = facts.get("JobState", "no longer known to SLURM")
    ended = f"job {job.job_id} ended as {state}, exit code {facts.get('ExitCode')}"
    return Ending(slurm.STOPPED if state == "CANCELLED" else 1, f"{ended}; its log is {job.paths.stderr}")


def _ending(job: Any) -> Ending | None:
    """The result of a job of ours, None where there is none yet."""
    from submitit.core.utils import pickle_load

    if not job.paths.result_pickle.exists():
        return None
    outcome, value = pickle_load(job.paths.result_pickle)
    log = f"its log is {job.paths.stderr}"
    return value if outcome == "success" else Ending(1, f"{value.strip().splitlines()[-1]}; {log}")


def _in_job(member: Member, run: Run, gpus: str | None = None, parent: int | None = None) -> Ending:
    """What submitit calls in a job's process: ``run``, on ``gpus`` and for as long as ``parent`` lives, where they are given."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # Both signals end a run as Ctrl-C does, with a save. In a job of SLURM, ``listen`` then takes SIGTERM and the
    # warnings: the run saves, and its exit code says that the job goes back into the queue.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    slurm.listen()  # over submitit's handler, which requeues at once, without a save
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        ending = run(member)
    except KeyboardInterrupt:
        return Ending(slurm.STOPPED)
    if ending.code == slurm.REQUEUED:
        sys.exit(slurm.REQUEUED)  # without a result, which would be taken for the member's last
    return ending


def _end_with(parent: int) -> None:
    # A parent that is killed cannot tell its members to end. They watch it from here, by the one sign that no signal can
    # hold back: the folder of a process in /proc goes with the process.
    while os.path.exists(f"/proc/{parent}"):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


# -- what a member asks SLURM for --------------------------------------------------------------------------------------


def request(settings: dict[str, Any], given: Sequence[str], gpus: int, nodes: int, workers: int) -> dict[str, Any]:
    """The settings of ``hydra.launcher`` with what follows from the run's own: one task a node, its GPUs and cores.

    Raises ``ConfigError`` where ``given``, the keys on the command line, say these a second time.
    """
    refused = {
        "nodes": f" follows from the run's own settings: write nodes={nodes} alone",
        "tasks_per_node": " follows from the run's own settings: write gpus=<ranks on each node> alone",
        "max_num_timeout": ": a member continues after a time limit as long as it makes progress",
    }
    for key, why in refused.items():
        if f"hydra.launcher.{key}" in given:
            raise ConfigError(f"hydra.launcher.{key}{why}")
    # one task a node: it is ours, and starts the ranks of its node itself, as on a machine without SLURM
    asked = {**settings, "nodes": nodes, "tasks_per_node": 1}
    if asked["cpus_per_task"] is None:
        asked["cpus_per_task"] = gpus * (1 + workers)
    if not any(asked[key] for key in ("gpus_per_node", "gpus_per_task", "gres")) and _has_gpus(asked["partition"]):
        asked["gpus_per_node"] = gpus
    return asked


def _has_gpus(partitions: str | None) -> bool:
    """Whether SLURM counts GPUs on the nodes of partitions; None is the default one, which carries a star."""
    done = subprocess.run(["sinfo", "--noheader", "--format=%P %G"], capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    names = partitions.split(",") if partitions else [name.rstrip("*") for name, _ in lines if name.endswith("*")]
    return any("gpu" in gres for name, gres in lines if name.rstrip("*") in names)


def _request_line(asked: dict[str, Any]) -> str:
    """A request in words."""
    things = {"node": asked["nodes"], "GPU": asked["gpus_per_node"], "core": asked["cpus_per_task"]}
    nodes, *rest = [f"{number} {thing}{'s' * (number > 1)}" for thing, number in things.items() if number]
    where = f"partition {asked['partition']}" if asked["partition"] else "the default partition"
    return f"each member asks for {nodes} with {' and '.join(rest)}, {asked['timeout_min']} minutes, on {where}"


# -- the table ---------------------------------------------------------------------------------------------------------


class _Summary(TypedDict):
    """What a table says of a member, of the summary of a run or of a clip."""

    loss: NotRequired[float | None]
    heldout_loss: NotRequired[float | None]
    adapter_effect: NotRequired[float | None]
    seconds: NotRequired[float | dict[str, float] | None]
    peak_memory_mib: NotRequired[dict[str, float]]


class _Record(TypedDict):
    overrides: list[list[str]]
    statuses: list[str]


@dataclass
class Table:
    """The members of a sweep, also those of earlier starts, and how each ended; kept as ``sweep.json``."""

    folder: Path
    overrides: list[list[str]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Table:
        """The table in ``folder``, or an empty one; raises ``FileError`` where it is damaged."""
        record = folder / RECORD
        if not record.is_file():
            return cls(folder)
        found = read_json(record, _Record)
        if len(found["overrides"]) != len(found["statuses"]):
            raise FileError(f"{record} is damaged: the status of some members of the sweep is missing")
        return cls(folder, found["overrides"], found["statuses"])

    def place(self, overrides: list[str]) -> int:
        """The number of the member with these overrides: its old one, or the next."""
        if overrides not in self.overrides:
            self.overrides.append(overrides)
            self.statuses.append("not finished")
        return self.overrides.index(overrides)

    def save(self) -> None:
        """Write ``sweep.json`` and ``sweep.csv``."""
        write_json(self.folder / RECORD, {"overrides": self.overrides, "statuses": self.statuses})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows())
        write_text(self.folder / TABLE, text.getvalue())

    def rows(self) -> list[dict[str, Any]]:
        """A row a member, the best first: by held-out loss where it was measured, else by loss; then those that failed."""
        rows = [self._row(number) for number in range(len(self.overrides))]
        measure = "heldout_loss" if any(row["heldout_loss"] is not None for row in rows) else "loss"

        return sorted(rows, key=lambda row: (row["status"] != "done", row[measure] is None, row[measure] or 0.0))

    def _row(self, number: int) -> dict[str, Any]:
        run_directory, summary = self.folder / str(number), dict[str, Any]()
        # a member that failed may lie over a summary of an earlier start, whose numbers are not those of this one
        if not self.statuses[number].startswith("failed") and (run_directory / "summary.json").is_file():
            summary = dict(read_json(run_directory / "summary.json", _Summary, measured=True))
        memory, seconds = summary.get("peak_memory_mib", {}), summary.get("seconds")
        facts = {
            "member": number,
            "overrides": apart(self.overrides[number], self.overrides),
            "status": self.statuses[number],
            "seconds": sum(seconds.values()) if isinstance(seconds, dict) else seconds,
            "peak_memory_mib": memory.get("gpu", memory.get("host")),
            "run_directory": str(run_directory),
        }
        return {column: facts.get(column, summary.get(column)) for column in COLUMNS}

    def lines(self) -> list[str]:
        """The table for a terminal, without the reasons."""
        rows = [{**row, "status": row["status"].partition(":")[0]} for row in self.rows()]
        texts = [list(COLUMNS), *([_short(row[column]) for column in COLUMNS] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]


def apart(overrides: list[str], of_all: list[list[str]]) -> str:
    """What sets a member apart from the others: the overrides that not all of them have."""
    shared = set.intersection(*map(set, of_all))
    return " ".join(override for override in overrides if override not in shared) or "as given"


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
