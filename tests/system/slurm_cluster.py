"""A real SLURM of two nodes on this machine, in a folder of its own: up in seconds, gone without a trace.

The daemons are children of the tests and die with them. There is no accounting daemon and no name service for the
nodes, as on many a small cluster. Partition ``high`` preempts ``low``; each node has two "GPUs" that are only counted.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
GRACE_S = 60
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=600
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=8 RealMemory=16000 Gres=gpu:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=DEFAULT Nodes=n1,n2 DefaultTime=30 MaxTime=INFINITE State=UP
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=high PriorityTier=2 PreemptMode=OFF
"""
GRES = "NodeName=n1,n2 Name=gpu File=/dev/null\nNodeName=n1,n2 Name=gpu File=/dev/zero\n"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Cluster:
    """What a test asks of the cluster; its commands work in this process's environment too."""

    folder: Path

    def answer(self, *command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Hand in a batch script; the job's number."""
        file = self.folder / f"job-{time.monotonic_ns()}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        return self.answer("sbatch", "--parsable", *options, file)

    def job(self, number: str) -> dict[str, str]:
        """Everything SLURM knows of a job."""
        words = self.answer("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: str, *states: str, timeout_s: float = 300) -> dict[str, str]:
        """Wait until the job is in one of ``states``."""
        assert wait_until(lambda: self.job(number)["JobState"] in states, timeout_s), f"{self.job(number)}{self.logs()}"
        return self.job(number)

    def logs(self) -> str:
        """The ends of what the daemons said."""
        return "".join(f"\n== {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Start munge and SLURM in ``folder`` and point this process's commands at them; stop all of it at the end."""
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o400)
    facts = {"host": socket.gethostname(), "ports": free_ports(3), "folder": folder, "grace_s": GRACE_S}
    (folder / "slurm.conf").write_text(CONFIG.format(**facts))
    (folder / "gres.conf").write_text(GRES)
    cluster = Cluster(folder)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        with ExitStack() as stack:
            files = {name: folder / f"munge.{name}" for name in ("socket", "key", "pid", "seed")}
            options = [
                f"--{'key' if name == 'key' else name}-file={file}" for name, file in files.items() if name != "socket"
            ]
            stack.enter_context(
                daemon(folder, "munged", "--foreground", "--force", f"--socket={files['socket']}", *options)
            )
            assert wait_until(files["socket"].exists, 300), cluster.logs()
            stack.enter_context(daemon(folder, "slurmctld", "-D", "-c"))
            for node in ("n1", "n2"):
                stack.enter_context(daemon(folder, "slurmd", "-D", "-N", node))
            assert wait_until(lambda: idle_nodes(folder) == 2, 300), cluster.logs()
            yield cluster
            subprocess.run(["scancel", "--state=PENDING"], check=True)
            subprocess.run(["scancel", "--signal=KILL", "--full", "--state=RUNNING"], check=True)
            assert wait_until(lambda: not cluster.answer("squeue", "--noheader"), 300), cluster.answer("squeue")
    finally:
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def idle_nodes(folder: Path) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"], capture_output=True, text=True
    )
    return done.stdout.split().count("idle")


@contextmanager
def daemon(folder: Path, *command: str) -> Iterator[None]:
    log = (folder / f"{command[0]}-{command[-1]}".replace("/", "_")).with_suffix(".log").open("w")
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=die_with_us
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def die_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]
