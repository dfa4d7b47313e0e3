"""Ranks are real processes here: what they return, how they fail, how they stop, and that none is left behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import cinelora
from cinelora.errors import AdapterError, ConfigError
from cinelora.io import waiting
from cinelora.parallel import launch as launching
from cinelora.parallel.launch import (
    LaunchError,
    Meeting,
    RankKilled,
    launch,
    meeting_point,
    process_group,
    rank_info,
    usable_cores,
)

PATIENCE_S = 300
"""No wait for an event is as long, however busy the machine is."""


# -- what ranks do -----------------------------------------------------------------------------------------------------


def work_together(folder: Path) -> dict[str, Any]:
    import torch
    from lightning.fabric.plugins.environments import TorchElasticEnvironment

    info = rank_info()
    print(f"rank {info.global_rank} speaks")
    print(f"rank {info.global_rank} warns", file=sys.stderr)
    return {
        "rank": info.global_rank,
        "total": add_up(10),
        "threads": torch.get_num_threads(),
        "lightning leaves starting to us": TorchElasticEnvironment.detect(),
        "tensor": torch.ones(2),
    }


def speak_late() -> str:
    time.sleep(0.5)  # the parent would go on
    print("rank 0 speaks")
    time.sleep(0.5)
    return "done"


def add_up(factor: int) -> float:
    import torch
    import torch.distributed as dist

    info = rank_info()
    with process_group(info):
        total = torch.tensor([float(info.global_rank + 1)])
        dist.all_reduce(total)
    return factor * total.item()


def leave_first() -> None:
    import torch.distributed as dist

    with process_group(rank_info()):
        dist.barrier()
        if rank_info().global_rank == 0:
            os._exit(3)
        dist.barrier()


def fail(folder: Path, how: str) -> None:
    """Rank 1 fails; rank 0 waits for it: in a collective, or asleep and deaf to every request."""
    import torch
    import torch.distributed as dist

    info = rank_info()
    (folder / f"pid-{info.global_rank}").write_text(str(os.getpid()))
    with process_group(info):
        dist.barrier()
        if info.global_rank == 0:
            if how.endswith("deaf"):
                be_deaf()
            dist.all_reduce(torch.ones(1))
            raise AssertionError("rank 1 took part")
        match how.partition(",")[0]:
            case "refuses":
                raise AdapterError("style.safetensors is for another model")
            case "crashes":
                raise RuntimeError("first line\nand more")
            case "vanishes":
                os._exit(0)
            case "exits":
                os._exit(3)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfaults":
                ctypes.string_at(0)


def be_deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    while True:
        time.sleep(1)


def sleep_deaf(folder: Path) -> None:
    (folder / f"pid-{rank_info().global_rank}").write_text(str(os.getpid()))
    be_deaf()


def sleep(folder: Path) -> None:
    (folder / f"pid-{rank_info().global_rank}").write_text(str(os.getpid()))
    time.sleep(600)


def finish_when_asked(folder: Path) -> list[str]:
    """Count requests under a progress bar, and return them a moment after the first."""
    from tqdm import tqdm

    asked: list[str] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(signal.Signals(number).name))
    print("terminal" if sys.stderr.isatty() and sys.stdout.isatty() else "no terminal")
    (folder / f"pid-{rank_info().global_rank}").write_text(str(os.getpid()))
    for _ in tqdm(range(6000), desc="steps", mininterval=0):
        if asked:
            break
        time.sleep(0.1)
    time.sleep(1)
    return asked


def finish_with_nothing(folder: Path) -> None:
    """Like the ranks that encode: what they return is nothing, also where they were asked in their last moment."""
    finish_when_asked(folder)


# -- a parent of its own, to be stopped --------------------------------------------------------------------------------


def drive(name: str, folder: str, ranks: str) -> None:
    launching.STOP_S = 2.0
    logs = Path(folder) / "logs"
    result = launch(globals()[name], Path(folder), ranks=int(ranks), log_dir=logs)
    print("result", result, flush=True)
    if result == ["SIGTERM"]:  # of ranks that ended whole all the same: after them nothing is to begin
        with suppress(KeyboardInterrupt):
            print("and again", launch(add_up, 1, log_dir=logs), flush=True)


@contextmanager
def parent_of(fn: Callable[..., Any], folder: Path, ranks: int = 1, **options: Any) -> Iterator[subprocess.Popen[str]]:
    program = f"import sys; from {Path(__file__).stem} import drive; drive(*sys.argv[1:])"
    command = [sys.executable, "-c", program, fn.__name__, str(folder), str(ranks)]
    # Ranks look for this module where they are told: the working directory of a line of code is no such place.
    places = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    # TMPDIR is where a killed parent leaves its exchange folder
    options["env"] = {**os.environ, "PYTHONPATH": places, "TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=Path(__file__).parent, text=True, **options) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def pids(folder: Path) -> list[int]:
    return [int(text) for file in folder.glob("pid-*") if (text := file.read_text())]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def all_gone(folder: Path) -> bool:
    return not any(map(is_alive, pids(folder)))


# -- results -----------------------------------------------------------------------------------------------------------


def test_the_lowest_rank_s_result_comes_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)]
    environment = dict(os.environ)
    result = launch(work_together, tmp_path, ranks=2, log_dir=tmp_path / "logs")
    assert result.pop("tensor").tolist() == [1, 1]
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, usable_cores() // 2)))
    assert result == {"rank": 0, "total": 30.0, "threads": threads, "lightning leaves starting to us": True}
    seen = capfd.readouterr()
    assert "rank 0 speaks" in seen.out
    assert "rank 0 warns" in seen.err
    assert "rank 1" not in seen.out + seen.err
    for rank in (0, 1):
        assert {f"rank {rank} speaks", f"rank {rank} warns"} <= set(log(tmp_path, rank).splitlines())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)] == handlers
    assert {key for key in os.environ if os.environ[key] != environment.get(key)} <= {"TORCHELASTIC_SIGNALS_TO_HANDLE"}


def test_the_parent_says_that_ranks_start_until_the_first_of_them_speaks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "TICK_S", 0.1)
    with capfd.disabled(), (tmp_path / "terminal").open("a") as terminal, ExitStack() as stack:
        for stream in (1, 2):
            stack.callback(os.dup2, os.dup(stream), stream)
            os.dup2(terminal.fileno(), stream)
        stack.enter_context(redirect_stderr(terminal))
        assert launch(speak_late, log_dir=tmp_path / "logs") == "done"
    assert re.fullmatch(rb"(\rstarting: \d+ s)+\nrank 0 speaks\n", (tmp_path / "terminal").read_bytes())


def log(folder: Path, rank: int) -> str:
    return (folder / "logs" / f"rank-{rank}.log").read_text()


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "sentence"),
    [
        ("refuses, the other deaf", AdapterError, r"^style\.safetensors is for another model \(rank 1\)$"),
        ("crashes", LaunchError, r"^RuntimeError: first line \(rank 1; its log is .*/rank-1\.log\)$"),
        ("vanishes, the other deaf", LaunchError, "^rank 1 left with exit code 0 and without a result"),
        ("vanishes, the parent slow", LaunchError, "^rank 1 left with exit code 0 and without a result"),
        ("exits, the parent slow", LaunchError, "^rank 1 left with exit code 3 and without a result"),
        ("killed", RankKilled, r"^rank 1 was killed \(SIGKILL"),
        ("segfaults", RankKilled, "^rank 1 died of SIGSEGV"),
    ],
)
def test_a_failing_rank_is_named_and_takes_the_others_along(
    tmp_path: Path, how: str, kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    send = launching._send
    if how.endswith("slow"):  # as on a machine with more to do than it has cores
        monkeypatch.setattr(launching, "POLL_S", 4 * launching.LINGER_S)
    monkeypatch.setattr(launching, "_send", lambda pid, number: (sent.append((pid, number)), send(pid, number)))
    with pytest.raises(kind, match=sentence) as caught:
        launch(fail, tmp_path, how, ranks=2, log_dir=tmp_path / "logs")
    assert type(caught.value) is kind
    if "deaf" in how:  # our watch ended it, and not torch's agent, which waits for half a minute
        assert (int((tmp_path / "pid-0").read_text()), signal.SIGKILL) in sent
    assert len(pids(tmp_path)) == 2
    assert all_gone(tmp_path)
    if how == "crashes":
        assert "RuntimeError: first line\nand more" in log(tmp_path, 1)
        assert "Traceback" in log(tmp_path, 1)
    if how == "segfaults":
        assert "Segmentation fault" in log(tmp_path, 1)


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_ranks_that_trap_everything_die_with_a_killed_parent(tmp_path: Path) -> None:
    with parent_of(sleep_deaf, tmp_path, ranks=2) as parent:
        assert wait_until(lambda: len(pids(tmp_path)) == 2, PATIENCE_S)
        parent.kill()
    assert wait_until(lambda: all_gone(tmp_path), PATIENCE_S)


def test_ctrl_c_at_the_terminal_reaches_a_rank_once_and_its_bar_stays_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    own = {"preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
    with parent_of(finish_when_asked, tmp_path, **terminal, **own) as parent:
        os.close(theirs)
        assert wait_until(lambda: len(pids(tmp_path)) == 1, PATIENCE_S)
        seen = read_until(ours, "5/6000")
        os.write(ours, b"\x03")
        seen += read_until(ours, "result ['SIGINT']")
        assert parent.wait(PATIENCE_S) == 0
    os.close(ours)
    assert re.search(r"^terminal\r$", seen, re.MULTILINE)
    assert seen.count("\rsteps:") > 5
    assert "steps:" not in re.sub(r"\r(steps:[^\r\n]*)", "", seen), "the bar was broken over lines"
    assert log(tmp_path, 0).count("steps:") > 5


def read_until(descriptor: int, text: str) -> str:
    """What the terminal shows, up to and with ``text``; fails where that does not come."""
    seen = ""
    while text not in seen:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], f"no {text!r} in {seen!r}"
        seen += os.read(descriptor, 65536).decode(errors="replace")
    return seen


@pytest.mark.long
def test_a_polite_end_keeps_results_and_an_end_without_result_says_so(tmp_path: Path) -> None:
    functions = (finish_when_asked, finish_with_nothing, sleep, sleep_deaf)
    folders = {fn: tmp_path / fn.__name__ for fn in functions}
    with ExitStack() as stack:
        parents = {}
        for fn, folder in folders.items():
            folder.mkdir()
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            parents[fn] = stack.enter_context(parent_of(fn, folder, **pipes))
        assert wait_until(lambda: all(len(pids(folder)) == 1 for folder in folders.values()), PATIENCE_S)
        for parent in parents.values():
            parent.send_signal(signal.SIGTERM)
        ends = {fn: (*parent.communicate(timeout=PATIENCE_S), parent.returncode) for fn, parent in parents.items()}
    assert "result ['SIGTERM']" in ends[finish_when_asked][0]
    assert "and again" not in ends[finish_when_asked][0]
    assert ends[finish_when_asked][2] == 0
    for fn in (finish_with_nothing, sleep, sleep_deaf):
        assert "result" not in ends[fn][0]
        assert ends[fn][1].rstrip().endswith("KeyboardInterrupt")
        assert ends[fn][2] in (130, -signal.SIGINT)
    assert all(map(all_gone, folders.values()))


# -- several nodes -----------------------------------------------------------------------------------------------------

NODE = """
import sys
from pathlib import Path
from test_launch import LaunchError, add_up, launch, leave_first
for factor in (1, 2):
    print("result", launch(add_up, factor, nodes=2, log_dir=Path(sys.argv[1])), flush=True)
try:
    launch(leave_first, nodes=2, log_dir=Path(sys.argv[1]))
except LaunchError as error:
    print("result", type(error).__name__)
"""


def on_two_nodes(program: str, *argv: str | Path, paths: tuple[str, str] = ("", "")) -> list[str]:
    """What ``program`` prints after "result" as node 0 and 1 of one machine; ``paths`` go before each one's packages."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    nodes = []
    for node, first in enumerate(paths):
        path = os.pathsep.join(filter(None, [first, str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, **place, "NODE_RANK": str(node), "PYTHONPATH": path}
        command = [sys.executable, "-P", "-c", program, *map(str, argv)]
        nodes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    try:
        said = [line for node in nodes for line in node.communicate(timeout=PATIENCE_S)[0].splitlines()]
        return [line.removeprefix("result ") for line in said if line.startswith("result ")]
    finally:
        for process in nodes:
            process.kill()


@pytest.mark.long
def test_two_nodes_meet_where_the_environment_says(tmp_path: Path) -> None:
    assert sorted(on_two_nodes(NODE, tmp_path)) == ["3.0"] * 2 + ["6.0"] * 2 + ["LaunchError"] * 2


OTHER_VERSION = """
import sys
from pathlib import Path
from test_launch import ConfigError, add_up, launch
try:
    launch(add_up, 1, nodes=2, log_dir=Path(sys.argv[1]))
except ConfigError as error:
    print("result", error)
"""


def test_nodes_with_other_versions_are_refused_by_both(tmp_path: Path) -> None:
    shutil.copytree(
        Path(launching.__file__).parent, tmp_path / "cinelora", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "cinelora/__init__.py").write_text('__version__ = "0.0.1"')
    own, torch = cinelora.__version__, version("torch")
    sentence = f"node 0 has cinelora {own} with torch {torch}, and node 1 has cinelora 0.0.1 with torch {torch}: "
    said = on_two_nodes(OTHER_VERSION, tmp_path / "logs", paths=("", str(tmp_path)))
    assert len(said) == 2
    assert all(line.startswith(f"{sentence}install the same on all nodes") for line in said), said


@pytest.mark.parametrize("node", ["0", "1"])
def test_a_node_that_waits_in_vain_names_the_address(
    node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": node}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launching, "MEET_S", 3)
    monkeypatch.setattr(launching, "_launches", count())
    with pytest.raises(LaunchError, match=rf"not all of 2 nodes met at 127\.0\.0\.1:{port} within 3 s"):
        launch(add_up, 1, nodes=2, log_dir=tmp_path)


def test_the_meeting_point_is_read_from_slurm_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_", "NODE_RANK"))]:
        monkeypatch.delenv(name)
    assert meeting_point(1, 0).address == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"nodes=2, but nothing says where they meet: .*srun.*MASTER_ADDR"):
        meeting_point(2, 0)
    slurm = {"NODEID": "1", "NNODES": "2", "JOB_ID": "71", "JOB_NODELIST": "127.0.0.[1-2],login"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert meeting_point(2, 3) == Meeting("127.0.0.1", 20_000 + 71 * 16 + 3, False, "71-0-3")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "no-such-node-[08,11]")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert meeting_point(2, 0) == Meeting("127.0.0.9", 20_000 + 71 * 16, False, "71-1-0")
    ports = {meeting_point(2, launch).port for launch in range(8)}
    monkeypatch.setenv("SLURM_JOB_ID", "72")
    assert not ports & {meeting_point(2, launch).port for launch in range(8)}, "two jobs may share a host"
    with pytest.raises(ConfigError, match="nodes=4, but this SLURM job has 2; use nodes=2"):
        meeting_point(4, 0)
