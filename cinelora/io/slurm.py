"""The SLURM job that this process runs in, where there is one: what it was told, and its way back into the queue.

A job that is preempted, or nears its time limit, is told so by a signal. What runs saves and ends, ``leave`` puts the job
back, and its next start runs the same command, which continues in the same directory. What ran is not known here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from cinelora.io.terminal import say

STOPPED = 130
"""Exit code of what was asked to end, and is over: as after Ctrl-C."""
REQUEUED = 75
"""Exit code of what continues by itself later: EX_TEMPFAIL in sysexits.h."""
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What ``--signal`` sends ahead of the time limit, and ahead of a preemption where a site says so."""
FIRST_NODE_S = 30.0
"""How long the other nodes give the first one."""
FUTILE_STARTS = 3
"""A job that ran out of time as often as this, and the last time without a step, would never end."""
_told: set[int] = set()


def in_job() -> bool:
    """Whether this process was started by SLURM."""
    return "SLURM_JOB_ID" in os.environ


def tell(number: int) -> None:
    """Take note of a signal that asks this process to end; a handler of signals may call it."""
    _told.add(number)


def asked() -> bool:
    """Whether this process was asked to end since its command began, in a job or not."""
    return bool(_told)


def told() -> bool:
    """Whether this process of a job was asked to end."""
    return in_job() and asked()


def forget() -> None:
    """Begin a command: what an earlier one in this process was asked is no concern of its."""
    _told.clear()


def listen() -> None:
    """In a job, take note of what asks this process to end, at any time; ``launch`` tells its ranks, or starts none."""
    forget()
    if in_job():
        for number in (signal.SIGTERM, *WARNINGS):
            signal.signal(number, lambda number, _: tell(number))


def leave(run_dir: Path, *, goes_on: bool, moved: bool) -> int:
    """End a job that was asked to: requeue it if it was preempted or ran out of time. Says what happens; the exit code.

    ``goes_on``: its command would continue in ``run_dir``, and not start over. ``moved``: it got further since it started.
    Whoever cancelled a job (``scancel``) wants it to end. SLURM ends a requeued job a moment later.
    """
    if os.environ.get("SLURM_NODEID", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how SLURM ends this process, once the job is requeued
        time.sleep(FIRST_NODE_S)  # the first node speaks for the job, and srun may end all tasks when one has ended
        return REQUEUED
    number = os.environ["SLURM_JOB_ID"]
    if shutil.which("scontrol") is None:
        return _stay(
            f"SLURM job {number} was told to end, and cannot be requeued, because there is no scontrol here (as in a container)"
        )
    # A preemption and a time limit send the same signals, so the job itself is asked. Cancelled by its user it has neither a time
    # of preemption, nor was it sent one of the warnings: it ends for good.
    job = facts(number)
    preempted = job.get("PreemptTime", "None") != "None"
    if not preempted and not _told & {*WARNINGS}:
        return STOPPED
    what = f"SLURM job {number} {'was preempted' if preempted else 'nears its time limit'}"
    if not goes_on:
        return _stay(f"{what}, and would start over: to let it continue by itself, write out=<directory> resume=auto")
    if job.get("BatchFlag") != "1" or job.get("Requeue") != "1":
        return _stay(f"{what}, and SLURM may not requeue it: submit it with sbatch --requeue")
    # A job that gets no further in all of its time would be requeued for ever, at the cost of everybody who waits.
    if not preempted and not moved and int(job.get("Restarts", "0")) + 1 >= FUTILE_STARTS:
        return _stay(f"{what} for another time, without having saved a step: give it more with --time")
    say(f"{what} and is requeued: it continues in {run_dir} by itself")
    done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True)
    refused = done.returncode > 0  # below zero it was ended itself, with the job that it had just requeued
    return _stay(f"job {number} was not requeued: {done.stderr.strip()}") if refused else REQUEUED


def _stay(sentence: str) -> int:
    say(sentence)
    return STOPPED


def facts(job: str) -> dict[str, str]:
    """What SLURM knows of a job; nothing where it forgot it, minutes after its end."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word)
