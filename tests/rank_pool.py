"""Ranks that start in a tenth of a second: real processes in a real group, forked from one that has imported everything.

``cinelora.parallel.launch.launch`` starts an interpreter a rank, which imports for seconds. Laws about that start are in
tests/test_launch.py. A law about what several ranks compute asks ``on_ranks``, which keeps the contract of ``launch``:
the same arguments, logs and errors, and what the lowest rank returned. A nursery process imports once a test session and
forks each rank fresh, so that no test inherits another's process groups, signal handlers or settings.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Literal, NoReturn, TextIO

from cinelora.errors import CineloraError
from cinelora.io.hardware import die_with
from cinelora.parallel.launch import LaunchError, RankKilled

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nursery"])
LINGER_S = 5.0
"""How long ranks outlive one that failed: they most likely wait for it in a collective."""


def on_ranks(
    fn: Callable[..., Any], *args: Any, ranks: int = 1, nodes: int = 1, log_dir: Path, hang_minutes: float | None = None
) -> Any:
    """Run ``fn(*args)`` on ``ranks`` forked processes and return what rank 0 returned, as ``launch`` does.

    Raises any ``CineloraError`` of a rank as it was, and ``LaunchError`` for another error or a death. No rank outlives
    this call, whatever ends it.
    """
    # imported late: torch must not be needed to start the nursery
    from torch.distributed import TCPStore

    assert nodes == 1, "several nodes are for tests/test_launch.py"
    log_dir.mkdir(parents=True, exist_ok=True)
    started, call = [], pickle.dumps((fn, args))
    try:
        for rank in range(ranks):
            ours, theirs = PROCESSES.Pipe()
            place = os.environ | _place(rank, ranks)
            process = forked(_live, call, theirs, os.getcwd(), _log_file(log_dir, rank), environment=place)
            theirs.close()
            started.append((process, ours))
        # The ranks meet in a store of this process, as under torchrun: its port is free because it is open already. Its thread
        # begins when all are forked, as a child in which it holds a lock would wait for that forever.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for _, ours in started:
            with suppress(BrokenPipeError):  # one that is gone already
                ours.send(store.port)
        return _first_result(_outcomes(started), log_dir)
    finally:
        for process, _ in started:
            process.kill()
            process.join()
        with suppress(FileNotFoundError):  # a test may have taken the run directory away
            # what rank 0 prints stands on the terminal too
            print("".join(_log_file(log_dir, 0).read_text().splitlines(keepends=True)[1:]), end="")


def forked(fn: Callable[..., Any], *args: Any, environment: Mapping[str, str] = os.environ) -> BaseProcess:
    """Start ``fn(*args)`` in one process, as quickly and with this process's environment; for tests that kill it."""
    # a process that was forked itself has imported all, and the ranks of a command are to be its own children
    forked_itself = multiprocessing.parent_process() is not None
    if not forked_itself:
        start_nursery()
    context = multiprocessing.get_context("fork") if forked_itself else PROCESSES
    process = context.Process(target=_begin, args=(dict(environment), fn, args))
    process.start()
    _FORKED.append(process)
    return process


@cache
def start_nursery() -> None:
    """Start the process that has imported all of tests/nursery.py, which it finds by the environment alone."""
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), path]))
    try:
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


_FORKED: list[BaseProcess] = []


def end_all() -> None:
    """Kill what a test has forked and left: one that failed half-way leaves a run that would never end."""
    while _FORKED:
        process = _FORKED.pop()
        process.kill()
        process.join()


Script = Literal["train", "infer", "card"]


def begin_command(script: Script, *argv: str, log: Path) -> BaseProcess:
    """Start a command with ``argv``, ranks and all from the pool; what it prints is in ``log``."""
    return forked(_command, script, argv, os.getcwd(), log, log)


def command(script: Script, *argv: str, log: Path) -> tuple[int, str]:
    """Wait for ``begin_command``: the exit code, and what was printed."""
    process = begin_command(script, *argv, log=log)
    process.join()
    assert process.exitcode is not None
    return process.exitcode, log.read_text()


def command_in(folder: Path, script: Script, *argv: str, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """The same, typed in ``folder`` with another environment; the two streams apart."""
    with tempfile.TemporaryDirectory() as streams:
        out, error = Path(streams, "out"), Path(streams, "error")
        process = forked(_command, script, argv, str(folder), out, error, environment=environment)
        process.join()
        assert process.exitcode is not None
        return CompletedProcess([script, *argv], process.exitcode, out.read_text(), error.read_text())


def _command(script: Script, argv: tuple[str, ...], folder: str, log_file: Path, error_file: Path) -> None:
    from cinelora import card
    from cinelora.cli.main import main
    from cinelora.sampling import make_clips, scene
    from cinelora.training import run_stage

    os.chdir(folder)
    _speak_to(log_file, error_file)
    for module in (scene, run_stage):
        module.launch = on_ranks  # type: ignore[assignment]
    if script == "card":
        sys.exit(card.main(list(argv)))
    sys.exit(main(script, list(argv), {"train": run_stage.train, "infer": make_clips.infer}[script]))


def _speak_to(log_file: Path, error_file: Path | None = None) -> TextIO:
    out, error = (
        open(path, "a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
        for path in (log_file, error_file or log_file)
    )
    for stream, file in enumerate((out, error), 1):
        os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = out, error
    faulthandler.enable(error)
    return out


def _begin(environment: dict[str, str], fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # the nursery began with the environment of its own first moment; and no process of a test outlives the tests
    die_with(os.getppid())
    gc.freeze()  # what was imported is here to stay: else each collection walks through it, and copies its pages
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # as TMPDIR says now
    if constants := sys.modules.get("huggingface_hub.constants"):  # as HF_HOME and the like say now
        importlib.reload(constants)
    fn(*args)


def _log_file(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank-{rank}.log"


def _place(rank: int, ranks: int) -> dict[str, str]:
    """The environment in which torchrun's agent starts a rank, but for the port."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    numbers |= {"GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0}
    names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return {key: str(value) for key, value in numbers.items()} | names | {"GLOO_SOCKET_IFNAME": "lo"}


# -- the parent --------------------------------------------------------------------------------------------------------

Outcome = tuple[str, Any]
"""``("returned", value)``, ``("refused", error)``, ``("crashed", sentence)`` or ``("died", exit code)``."""


def _outcomes(started: list[tuple[BaseProcess, Connection]]) -> dict[int, Outcome]:
    """How each rank ended, the first to end first; a rank that failed leaves the others only a moment."""
    found: dict[int, Outcome] = {}
    give_up = None
    while len(found) < len(started):
        left = {rank: pair for rank, pair in enumerate(started) if rank not in found}
        # a rank that dies without a word closes nothing that its loader processes hold open too; the sentinel always ends
        wait([handle for process, pipe in left.values() for handle in (process.sentinel, pipe)], timeout=give_up)
        ended = {rank: pair for rank, pair in left.items() if pair[1].poll() or not pair[0].is_alive()}
        if not ended:
            break
        found |= {rank: _outcome(*pair) for rank, pair in ended.items()}
        if any(kind != "returned" for kind, _ in found.values()):
            give_up = LINGER_S
    return found


def _outcome(process: BaseProcess, pipe: Connection) -> Outcome:
    try:
        if pipe.poll():
            outcome: Outcome = pickle.loads(pipe.recv_bytes())
            return outcome
    except EOFError:
        pass
    process.join()
    return "died", process.exitcode


def _first_result(found: dict[int, Outcome], log_dir: Path) -> Any:
    """What rank 0 returned, or the error that explains the others: a refusal, then a death, then the first crash."""
    for wanted in ("refused", "died", "crashed"):
        for rank, (kind, value) in found.items():
            if kind == wanted == "refused":
                raise value
            if kind == wanted == "died":
                error = RankKilled if value and value < 0 else LaunchError
                raise error(f"rank {rank} left with exit code {value}; its log is {_log_file(log_dir, rank)}")
            if kind == wanted:
                raise LaunchError(f"{value} (rank {rank}; its log is {_log_file(log_dir, rank)})")
    return found[0][1]


# -- a rank ------------------------------------------------------------------------------------------------------------


def _live(call: bytes, pipe: Connection, folder: str, log_file: Path) -> None:
    """A rank's whole life."""
    os.chdir(folder)
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.default_int_handler if request == signal.SIGINT else signal.SIG_DFL)
    log = _speak_to(log_file)
    os.environ["MASTER_PORT"] = str(pipe.recv())
    rank, ranks = os.environ["RANK"], os.environ["WORLD_SIZE"]
    log.write(f"-- rank {rank} of {ranks}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    pipe.send_bytes(pickle.dumps(_called(call)))
    _leave()


def _called(call: bytes) -> Outcome:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        fn, args = pickle.loads(call)
        return "returned", fn(*args)
    except CineloraError as error:
        return "refused", error
    except BaseException as error:  # SystemExit too: a rank that leaves without a result has failed
        traceback.print_exc()
        return "crashed", "".join(traceback.format_exception_only(error)).splitlines()[0]


def _leave() -> NoReturn:
    # neither peers that are gone nor threads that still run hold a rank up; a loader's processes end with it
    sys.stdout.flush()
    os._exit(0)
