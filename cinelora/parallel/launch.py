"""One function on N ranks: started, watched, stopped, and its result or its error brought home.

Enters: a function that can be imported by name, its arguments, and how many ranks. Leaves: what the lowest rank
returned. It does not know what the function does. Ranks are fresh interpreters under torch's elastic agent; they find
their place in the environment that torchrun would give them, so Lightning starts nothing itself.

The parent and its ranks share a private folder, where a rank leaves a file when it has started and one when it ends.
So the parent knows a rank that ended from one that died, whatever its exit code says.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import logging
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from cinelora import __version__
from cinelora.errors import CineloraError, ConfigError
from cinelora.io import slurm
from cinelora.io.atomic import write_bytes, write_text
from cinelora.io.hardware import die_with
from cinelora.io.locks import own_folder
from cinelora.io.own_files import append_own
from cinelora.io.plain_data import without_collecting
from cinelora.io.state_folder import is_own
from cinelora.io.terminal import note_word, say, show_logged_text, traceback_of, visible, warn
from cinelora.io.waiting import Turn, waiting
from cinelora.parallel.heartbeat import HEART, Listener

POLL_S = 0.1
MEET_S = 300
"""How long a node waits for the first one, which may start later."""
STOP_S = 60.0
"""How long ranks may take to finish after Ctrl-C or TERM: one step and one save."""
DOOM_S = 5.0
"""How long ranks outlive one that died: they most likely wait for it in a collective."""
PATIENCE = timedelta(days=7)
"""How long ranks wait for one that scans, decodes or draws alone; one that died is noticed by the parent."""
LISTEN_S = 1.0
LINGER_S, MOST_LINGER_S = 0.5, 15.0
"""A rank with an error stays at least and at most this long, so that a peer whose death caused the error is noticed first."""
SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""How a user chooses the way in which OpenMP's threads wait."""
SPIN_ROUNDS = "3000"
STOP_SIGNALS = {signal.SIGINT: signal.SIGINT} | dict.fromkeys(
    (signal.SIGTERM, signal.SIGHUP, *slurm.WARNINGS), signal.SIGTERM
)
"""What the parent is sent, and what it sends on; a closed terminal is a reason to save and end, and so is a scheduler's
warning."""
AGENT: dict[str, Any] = {
    "rdzv_backend": "c10d",
    "max_restarts": 0,
    "monitor_interval": POLL_S,
    "signals_to_handle": "SIGQUIT",
}
"""How torch's agent goes about it. Of the signals it has the one that ends everything at once; the others are ours."""
PORTS_A_JOB = 16
"""Ports that a job of SLURM takes in turn, one a launch."""
CRASHED = 1
"""The exit code of a rank that has told its error."""
KINDS = ("returned", "refused", "crashed", "interrupted")
"""How a rank can end in good order; what is left of it is a file ``<rank>.<kind>``."""
# Ranks find our packages as the parent does, wherever it was started; -P keeps the working directory out of what they import.
BOOTSTRAP = (
    "import json, sys; facts = json.load(open(sys.argv[1] + '/facts.json')); sys.path[:] = facts['path'];"
    "from cinelora.parallel.launch import run_rank; run_rank(sys.argv[1], facts)"
)
TERMINAL = "terminal"
"""The file of the exchange folder that says whose the terminal is."""
_launches = count()
_launched_at: ContextVar[float | None] = ContextVar("launched at", default=None)
"""When the parent of this rank began to start it, by the monotonic clock."""


class LaunchError(CineloraError):
    """A rank that ended in an error nobody foresaw, or was killed; its log says more than the sentence."""


class RankHung(LaunchError):
    """Ranks that stood still for too long and were ended; another try may fare better."""


class RankKilled(LaunchError):
    """A rank that a signal ended: by hand, by the system, or a fault of the machine. Another try may fare better."""


# -- the parent --------------------------------------------------------------------------------------------------------


def launch(
    fn: Callable[..., Any],
    *args: Any,
    ranks: int = 1,
    nodes: int = 1,
    log_dir: Path,
    hang_minutes: float | None = None,
) -> Any:
    """Run ``fn(*args)`` on ``ranks`` new processes of this node and return what the lowest of them returned.

    ``fn`` and ``args`` are pickled, so ``fn`` is a function of a module. What rank N prints is in
    ``log_dir/rank-N.log``; rank 0 speaks on the terminal too. Ctrl-C, TERM and HUP are passed on; ranks then have 60 s
    to return. Ranks whose step takes longer than ``hang_minutes``, of those that say when one ends (``heartbeat``), are ended.

    Raises ``ConfigError`` for more ranks than GPUs or an unknown meeting point of several nodes; any ``CineloraError`` of a rank
    as it was; ``LaunchError`` for another error or a death, within 10 s of it, and for ranks that hang; ``KeyboardInterrupt``
    where ranks were stopped and returned None or nothing at all: a result that is one says by itself how far it came. After
    such a one nothing more is started. No rank outlives this process.
    """
    if slurm.asked():
        raise KeyboardInterrupt
    since = time.monotonic()
    # Importing torch takes seconds here, and once more in each rank: the parent says so until rank 0 has its first word.
    with _exchange(fn, args, log_dir, since) as folder, waiting("starting", write=Turn(folder / TERMINAL).write):
        return _launched(folder, ranks, nodes, log_dir, hang_minutes)


def _launched(folder: Path, ranks: int, nodes: int, log_dir: Path, hang_minutes: float | None) -> Any:
    with without_collecting():
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_ranks(ranks)
    meeting = meeting_point(nodes, next(_launches))
    _hush_agent()
    with _Watch(folder, hang_minutes) as watch:
        logs = DefaultLogsSpecs(log_dir=str(folder / "agent"))
        config = LaunchConfig(nodes, nodes, ranks, logs, **meeting.for_agent(), **AGENT)
        # The agent's own errors say who failed, not why. What happened is read from the folder afterwards; of the agent only
        # two things are kept that no rank can say of itself: exit codes, and whether nodes have lost each other.
        exit_codes: dict[int, int] = {}
        lost = None
        try:
            elastic_launch(config, sys.executable)("-P", "-c", BOOTSTRAP, str(folder))
        except ChildFailedError as error:
            exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except RendezvousError as error:
            started = _started(folder)
            what = "lost each other" if started else f"not all of {nodes} nodes met"
            lost = f"{what} at {meeting.endpoint}{'' if started else f' within {MEET_S} s'} ({error})"
        except SignalException as error:
            raise KeyboardInterrupt from error
        return _conclude(watch, exit_codes, ranks * nodes, log_dir, lost)


def check_ranks(ranks: int) -> None:
    """Raise ``ConfigError`` where this machine has GPUs, but fewer than ``ranks``; say so where it has none."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < ranks:
        raise ConfigError(f"gpus={ranks}, but this machine has {gpus}; use gpus={gpus} or fewer")
    if gpus == 0 and ranks > 1:
        _say_cpu(ranks)


@cache
def _say_cpu(ranks: int) -> None:
    say(f"no GPU here: gpus={ranks} means {ranks} CPU ranks with {threads_per_rank(ranks)} threads each")


def stop_signals() -> list[signal.Signals]:
    """What asks a process to end: Ctrl-C, TERM, a scheduler, and a closed terminal unless ``nohup`` has said to outlive it."""
    outlives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (outlives and number == signal.SIGHUP)]


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def threads_per_rank(ranks: int) -> int:
    """``OMP_NUM_THREADS`` where it is set, else this rank's share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdecimal() else max(1, usable_cores() // ranks)


@contextmanager
def _exchange(fn: Callable[..., Any], args: tuple[Any, ...], log_dir: Path, since: float) -> Iterator[Path]:
    with own_folder("cinelora-") as folder:  # this user's alone, so what is unpickled from it is ours
        log_dir.mkdir(parents=True, exist_ok=True)
        facts = {"path": module_path(), "argv": sys.argv, "parent": os.getpid(), "log_dir": str(log_dir.resolve())}
        facts["since"] = since
        write_text(folder / "facts.json", json.dumps(facts))
        write_bytes(folder / "call", pickle.dumps((fn, args)))
        yield folder


def module_path() -> list[str]:
    """Where a rank looks for modules: where this process does, but never in "the working directory, whatever it is"."""
    # Python writes that as an empty text, where it was given a line of code or asks for one; a clone may lie there.
    places = [os.path.abspath(place) for place in sys.path if place]
    return [*places, *({str(Path(__file__).parents[2])} - set(places))]


def _hush_agent() -> None:
    # every death is reported by us in one sentence; the agent's own lines and traces would bury it
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


class _Watch:
    """Passes signals on to the ranks and ends those that would outlive their time.

    The agent waits 30 s for a rank that traps TERM, and does not notice one that leaves with exit code 0 and no result.
    """

    # Two threads work here. The main one sits in the agent and runs `_on_signal`, which only notes what is wanted; the thread
    # of `_watch` looks at the ranks ten times a second and does what the notes ask for. A request is sent to each rank once
    # (`_told`), also to those that start after it came, and is sent to all again where another one comes.

    def __init__(self, folder: Path, hang_minutes: float | None) -> None:
        self.folder = folder
        self.listener = Listener(folder, hang_minutes * 60 if hang_minutes else None)
        self.hung: str | None = None
        """Where ranks stood that were ended because a step took too long."""
        self.stopped_at: float | None = None
        self._stop_signal = signal.SIGTERM
        self.deaths: dict[int, float] = {}
        """When ranks were first seen to be gone without a word."""
        self.crashes: dict[int, float] = {}
        """When ranks were seen to have an error, and by then all deaths that can have caused it."""
        self._first_loss: float | None = None
        self._listened_at = 0.0
        self._told: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._handlers = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGQUIT)}
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        slurm.tell(number)
        # sending is the thread's work, which also reaches ranks that are still starting
        if not _started(self.folder):
            raise KeyboardInterrupt  # perhaps waiting for other nodes: there is nothing to save
        self._stop_signal = STOP_SIGNALS[signal.Signals(number)]
        self.stopped_at = self.stopped_at or time.monotonic()
        self._told.clear()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            started = _started(self.folder)
            alive = {rank: pid for rank, pid in started.items() if _is_running(pid)}
            for rank in alive.keys() - self._told if self.stopped_at is not None else ():
                self._told.add(rank)
                _send(alive[rank], self._stop_signal)
            # A rank without a result is a loss for the others, who wait for it somewhere; one that did not even say how it ended
            # has died, and when is noted, as others may soon fail because of it.
            ends = {rank: _outcome_kind(self.folder, rank) for rank in started.keys() - alive.keys()}
            for rank in (rank for rank, kind in ends.items() if kind is None):
                self.deaths.setdefault(rank, time.time())
            self._note_crashes()
            if self._first_loss is None and not set(ends.values()) <= {"returned"}:
                self._first_loss = time.monotonic()
            if self.stopped_at is None and self._first_loss is None:
                self._listen(alive)
            if self._time_is_up():
                for pid in alive.values():
                    _send(pid, signal.SIGKILL)

    def _note_crashes(self) -> None:
        for file in self.folder.glob("*.crashed"):
            rank = int(file.stem)
            # A dying peer closes its connections some time before it is seen to be dead.
            if rank not in self.crashes and time.time() > file.stat().st_mtime + LINGER_S:
                self.crashes[rank] = time.time()
                write_text(file.with_suffix(".noted"), "")

    def _listen(self, alive: dict[int, int]) -> None:
        if time.monotonic() < self._listened_at + LISTEN_S:
            return
        self._listened_at = time.monotonic()
        said, beyond = self.listener.look(alive)
        if said and beyond:
            self.hung = said
        elif said:
            minutes = (self.listener.limit_s or 0) / 60
            say("")  # the bar of rank 0 has left the terminal in the middle of a line
            warn(f"{said}; after hang_minutes={minutes:g} all ranks are ended")

    def _time_is_up(self) -> bool:
        if self.hung:
            return True
        if self.stopped_at is not None:
            return time.monotonic() > self.stopped_at + STOP_S
        return self._first_loss is not None and time.monotonic() > self._first_loss + DOOM_S


def _started(folder: Path) -> dict[int, int]:
    return {int(file.stem): int(file.read_text()) for file in folder.glob("[0-9]*.pid")}


def _is_running(pid: int) -> bool:
    # looks without reaping, which is the agent's work; a pid that is no longer our child has been reaped
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def _send(pid: int, number: int) -> None:
    # a rank leads its own process group: the kill takes its loader processes too, a request is for it alone
    with suppress(ProcessLookupError):  # it ended by itself in between
        os.killpg(pid, number) if number == signal.SIGKILL else os.kill(pid, number)


# -- the outcome -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """How a rank ended, one of ``KINDS``: ``returned`` has a value, ``refused`` the error's class as one."""

    kind: str
    value: Any = None
    sentence: str = ""
    at: float = field(default_factory=time.time)


def _write_outcome(folder: Path, rank: int, outcome: _Outcome) -> None:
    write_bytes(folder / f"{rank}.{outcome.kind}", pickle.dumps(outcome))


def _outcome_kind(folder: Path, rank: int) -> str | None:
    return next((kind for kind in KINDS if (folder / f"{rank}.{kind}").exists()), None)


def _read_outcomes(folder: Path) -> dict[int, _Outcome]:
    kinds = {rank: _outcome_kind(folder, rank) for rank in sorted(_started(folder))}
    return {rank: pickle.loads((folder / f"{rank}.{kind}").read_bytes()) for rank, kind in kinds.items() if kind}


def _conclude(watch: _Watch, exit_codes: dict[int, int], world_size: int, log_dir: Path, lost: str | None) -> Any:
    """The result, or the error that explains the others: ours, the stop, the first death, the first crash."""
    # One failure brings others about: ranks that wait for a dead one crash in their collective, and those that still run are
    # ended by the agent. So causes are asked for in the order in which they explain the rest: a sentence of our own; a request
    # to stop; nodes apart; a rank that died before, or hardly after, the first one crashed; the first crash.
    outcomes, started, stopped = _read_outcomes(watch.folder), _started(watch.folder), watch.stopped_at is not None
    if outcomes and all(rank in outcomes and outcomes[rank].kind == "returned" for rank in {*started, *exit_codes}):
        value = outcomes[min(outcomes)].value
        if stopped and value is None:
            raise KeyboardInterrupt
        return value
    by_time = sorted(outcomes.items(), key=lambda item: item[1].at)
    of_kind = {kind: [item for item in by_time if item[1].kind == kind] for kind in KINDS}
    for rank, refusal in of_kind["refused"]:
        sentence = f"{refusal.sentence} (rank {rank})" if world_size > 1 else refusal.sentence
        raise refusal.value.__new__(refusal.value, sentence)  # its __init__ may take other arguments than the sentence
    if stopped:
        raise KeyboardInterrupt
    if watch.hung:
        raise RankHung(f"{watch.hung}; all ranks were ended")
    if lost:
        raise LaunchError(lost)
    # What a rank says of itself may be that it lost another. Those that were alive when its error was noted were ended because
    # of it. One that did not leave by itself was ended while it lingered, by the agent, because another had failed before.
    noted = [
        watch.crashes.get(rank, crash.at + LINGER_S)
        for rank, crash in of_kind["crashed"]
        if exit_codes.get(rank, CRASHED) == CRASHED
    ]
    noted_at = min(noted, default=float("inf"))
    silent = [rank for rank in (*(started.keys() - exit_codes.keys()), *exit_codes) if rank not in outcomes]
    first = next((rank for rank in silent if watch.deaths.get(rank, float("inf")) <= noted_at), None)
    if first is not None:
        exit_code = exit_codes.get(first, 0)
        kind = RankKilled if exit_code < 0 else LaunchError
        raise kind(f"rank {first} {_death(exit_code)}; its log is {_log_file(log_dir, first)}")
    for rank, crash in [*of_kind["crashed"], *of_kind["interrupted"]]:
        raise LaunchError(f"{crash.sentence} (rank {rank}; its log is {_log_file(log_dir, rank)})")
    raise LaunchError(f"no rank started; look into {log_dir}")


def _death(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed (SIGKILL: by hand, or by the system because memory ran out)"
    if exit_code < 0:
        return f"died of {signal.Signals(-exit_code).name}"
    return f"left with exit code {exit_code} and without a result"


def _log_file(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank-{rank}.log"


# -- where nodes meet --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meeting:
    """Where the agents of a run meet: ``is_host`` keeps the store at ``address:port``; port 0 takes a free one."""

    address: str
    port: int
    is_host: bool
    run_id: str

    @property
    def endpoint(self) -> str:
        """Address and port in one."""
        return f"{self.address}:{self.port}"

    def for_agent(self) -> dict[str, Any]:
        """The same as torch's agent wants it: all agents of a run meet at one endpoint, and its host has the store there."""
        how = {"is_host": str(self.is_host), "read_timeout": MEET_S, "join_timeout": MEET_S}
        there = {"run_id": self.run_id, "rdzv_endpoint": self.endpoint, "rdzv_configs": how}
        return there | {"local_addr": self.address if self.is_host else None}


def meeting_point(nodes: int, launch_number: int) -> Meeting:
    """Where this launch meets, from ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK``, or from SLURM's variables.

    ``launch_number`` counts the launches of a process: the same on every node, so that each launch meets again. Raises
    ``ConfigError`` where several nodes are asked for and the environment does not say which ones.
    """
    if nodes == 1:
        return Meeting("127.0.0.1", 0, True, uuid.uuid4().hex)
    env = os.environ
    asked, job = int(env.get("SLURM_NNODES", nodes)), env.get("SLURM_JOB_ID", "0")
    if asked != nodes:
        raise ConfigError(f"nodes={nodes}, but this SLURM job has {asked}; use nodes={asked} or another allocation")
    node_rank = env.get("NODE_RANK", env.get("SLURM_NODEID"))
    address = env.get("MASTER_ADDR") or _first_slurm_node()
    if node_rank is None or address is None:
        raise ConfigError(
            f"nodes={nodes}, but nothing says where they meet: start one process per node under SLURM (srun), "
            "or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        )
    # A port of the launch's own, in the range that systems neither reserve nor hand out: a node that is early for the second
    # launch must not find the store of the first, which is about to close. Jobs are numbered one after another and may share a
    # host, so each has a block of ports, and none of its launches takes a port of the next job.
    block = 20_000 + int(job) * PORTS_A_JOB % 10_000
    port = int(env["MASTER_PORT"]) + launch_number if env.get("MASTER_PORT") else block + launch_number % PORTS_A_JOB
    run_id = f"{job}-{env.get('SLURM_RESTART_COUNT', '0')}-{launch_number}"
    return Meeting(address, port, int(node_rank) == 0, run_id)


def _first_slurm_node() -> str | None:
    """First node of the allocation if its name resolves, else the address that srun was called from."""
    addresses = _first_of(os.environ.get("SLURM_JOB_NODELIST", "")), os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    return next((address for address in addresses if address and _resolves(address)), None)


def _first_of(node_list: str) -> str:
    # "n[08-11,14],login1" is SLURM's way to write n08, n09, ...
    return re.sub(r"^([^\[,]*)\[(\w+)[^\]]*\]([^\[,]*).*$", r"\1\2\3", node_list).split(",")[0]


def _resolves(address: str) -> bool:
    with suppress(OSError):
        return bool(socket.getaddrinfo(address, None))
    return False


# -- a rank ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rank:
    """A process's place: among all, and on its node."""

    global_rank: int
    local_rank: int
    world_size: int


def rank_info() -> Rank:
    """This process's place, from the environment; alone where it was not launched."""
    return Rank(*(int(os.environ.get(name, alone)) for name, alone in _PLACE.items()))


_PLACE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@contextmanager
def starting() -> Iterator[None]:
    """Around a rank's first imports: rank 0 says that they go on, where the parent has ceased to."""
    with waiting("starting", rank_info().global_rank == 0, since=_launched_at.get()), without_collecting():
        yield


@contextmanager
def process_group(info: Rank) -> Iterator[None]:
    """The default process group of all ranks, for the block: gloo for CPU tensors, and nccl where there are GPUs."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", info.local_rank) if torch.cuda.is_available() else None
    dist.init_process_group("cpu:gloo,cuda:nccl" if device else "gloo", device_id=device, timeout=PATIENCE)
    yield
    # after an error peers may be gone, and leaving in good order would wait for them: then the process just ends
    dist.destroy_process_group()


def barrier(info: Rank) -> None:
    """Wait, inside a process group, until all ranks are here; one rank alone does not wait."""
    if info.world_size > 1:
        import torch.distributed as dist

        dist.barrier()


def let_gpu_memory_grow() -> None:
    """Let torch's pieces of GPU memory grow, unless the user has set its allocator; to be called before torch's first.

    Else 4.5 of 24 GiB lay unused between tensors when 33 frames no longer fitted (14 B, offload, H200, torch 2.11).
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def spin_briefly() -> None:
    """Let OpenMP's threads wait briefly for each other, unless the user has said how; to be called before torch's import.

    A loop over two cores ends with a barrier, at which the faster thread spins. GNU's OpenMP, which torch's wheels for Linux
    bring, spins 300,000 rounds before it sleeps. Where another process has one of the cores, the slower thread is not even
    running, and the faster one burns the time in which it could have run: at every barrier, of which a step has thousands.
    A step of the embedded model took 8.6 s so, and not 0.09. After 3,000 rounds most barriers without a neighbour are over as
    well, on processors whose rounds are quick and on such whose rounds are slow (benchmarks/busy_machine.py).
    Intel's OpenMP does not read this variable, and needs no such help: its threads offer their core to others while they
    spin.
    """
    if not any(name in os.environ for name in SPIN_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_ROUNDS


def compile_into_own_folder(private: Path) -> None:
    """Let torch and Triton keep what they compile where this user alone can write, unless the user has said where.

    torch's own place is ``/tmp/torchinductor_<user>``, which anybody can make before that user does, and what lies there is
    loaded and run. Ours lies beside it, so that it is on the machine's own disk as well, and is looked at first: where it is
    somebody else's, or cannot be made, the folder ``private`` takes its place. To be called before torch's import.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    folder = Path(tempfile.gettempdir(), f"cinelora-compiled-{os.geteuid()}")
    place = private
    with suppress(OSError):
        with suppress(FileExistsError):  # whatever has the name is looked at
            folder.mkdir(mode=0o700)
        place = folder if is_own(folder) else private
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "inductor")
    os.environ.setdefault("TRITON_CACHE_DIR", str(place / "triton"))


def isolate_children() -> None:
    """Let no Python that this process starts, nor those started by it, look for modules in the working directory.

    ``python -m`` and ``python -c`` look there first, and so start submitit's jobs, the processes of multiprocessing and
    torch's compilers: a ``json.py`` in a folder that somebody sent would run in each of them.
    """
    os.environ["PYTHONSAFEPATH"] = "1"


def run_rank(exchange: str, facts: dict[str, Any]) -> None:
    """A rank's whole life, from its first statement to its last. Called by ``launch`` in the new process."""
    # 1. Be found: the pid is what the parent watches from now on, and this process dies with it.
    # 2. Be heard: whatever is printed goes into the log, on rank 0 to the terminal as well.
    # 3. Do the work, and leave a file that says how it ended, before the process ends: without one it counts as dead.
    folder, rank = Path(exchange), rank_info()
    number = rank.global_rank
    die_with(facts["parent"])
    write_text(folder / f"{number}.pid", str(os.getpid()))
    HEART.listen_for(folder, number)
    log = append_own(_log_file(Path(facts["log_dir"]), number), buffering=1)
    log.write(f"-- rank {number} of {rank.world_size}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    _launched_at.set(facts["since"])
    _redirect(rank, log, Turn(folder / TERMINAL))
    show_logged_text()
    sys.argv = facts["argv"]
    for warning in slurm.WARNINGS:  # a scheduler may send them to every process; they are no reason to die half-way
        signal.signal(warning, signal.SIG_IGN)
    try:
        _write_outcome(folder, number, _Outcome("returned", _call(folder, rank)))
        for request in STOP_SIGNALS:  # all is done; a traceback out of the interpreter's own end would only puzzle
            signal.signal(request, signal.SIG_IGN)
    except KeyboardInterrupt:
        _write_outcome(folder, number, _Outcome("interrupted", sentence="interrupted"))
        _leave(0)  # not a failure: on one the agent would end the others in the middle of their last save
    except CineloraError as error:
        _write_outcome(folder, number, _Outcome("refused", type(error), str(error)))
        _leave(1)
    except BaseException as error:  # SystemExit too: a rank that leaves without a result has failed
        log.write(traceback_of(error))
        first_line = visible("".join(traceback.format_exception_only(error)).splitlines()[0])
        _write_outcome(folder, number, _Outcome("crashed", sentence=first_line))
        for request in STOP_SIGNALS:  # there is nothing to save, and the exit code says that this rank was ended
            signal.signal(request, signal.SIG_DFL)
        if rank.world_size > 1:
            _await_note(folder, number)
        _leave(CRASHED)


def _call(folder: Path, rank: Rank) -> Any:
    # All of this is read once, by the first import of torch or of what it loads, so it has to be there before.
    threads, alone = threads_per_rank(int(os.environ["LOCAL_WORLD_SIZE"])), os.environ["GROUP_WORLD_SIZE"] == "1"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    let_gpu_memory_grow()
    compile_into_own_folder(folder / "compiled")
    spin_briefly()
    isolate_children()
    if alone:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's own name need not resolve
    with without_collecting():
        import torch

        torch.set_num_threads(threads)
        if not alone:
            _compare_versions()
        if torch.cuda.is_available():
            torch.cuda.set_device(rank.local_rank)
        fn, args = pickle.loads((folder / "call").read_bytes())  # imports the module of ``fn``
    gc.freeze()  # the collector never walks through what was imported so far
    return fn(*args)


def _compare_versions() -> None:
    """Refuse nodes with other versions than this one's; every rank sees all of them, so that none waits for one that left."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    place, patience = os.environ, timedelta(seconds=MEET_S)
    store = TCPStore(place["MASTER_ADDR"], int(place["MASTER_PORT"]), is_master=False, timeout=patience)
    store.set(f"versions/{place['GROUP_RANK']}", f"cinelora {__version__} with torch {torch.__version__}")
    nodes = [store.get(f"versions/{node}").decode() for node in range(int(place["GROUP_WORLD_SIZE"]))]
    for number, versions in enumerate(nodes):
        if versions != nodes[0]:
            raise ConfigError(f"node 0 has {nodes[0]}, and node {number} has {versions}: install the same on all nodes")


def _await_note(folder: Path, rank: int) -> None:
    # until the parent, which may be short of a core, has noted this rank's error, and with it who was dead by then
    end = time.monotonic() + MOST_LINGER_S
    while not (folder / f"{rank}.noted").exists() and time.monotonic() < end:
        time.sleep(0.05)


def _leave(exit_code: int) -> NoReturn:
    # after an error, neither peers that are gone nor threads that still run may hold the process up
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _redirect(rank: Rank, log: TextIO, turn: Turn) -> None:
    """Send what this rank prints to its log; rank 0 keeps the terminal as well, with bars that know it is one."""
    # Rank 0 keeps its streams, wrapped, so that a bar still asks a terminal for its width. The others lose the descriptors
    # themselves: what C code and libraries print past Python's streams lands in the log as well.
    faulthandler.enable(log)
    if rank.global_rank == 0:
        sys.stdout, sys.stderr = (cast("TextIO", _Tee(stream, log, turn)) for stream in (sys.stdout, sys.stderr))
        return
    if rank.local_rank == 0:
        turn.take("\n")  # of this node nothing more is said on its terminal
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
        _by_line(stream)


def _by_line(stream: TextIO) -> None:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True)


class _Tee:
    """The terminal's stream, which also writes to the log; whatever else it is asked, the terminal answers."""

    def __init__(self, terminal: TextIO, log: TextIO, turn: Turn) -> None:
        _by_line(terminal)
        self._terminal, self._log, self._turn = terminal, log, turn

    def write(self, text: str) -> int:
        if text:
            self._turn.take(text)
            note_word()
        self._log.write(text)
        return self._terminal.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._log.flush()
        self._terminal.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)
