"""What somebody may plant in a directory before handing it over, and how to see that it led nowhere."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECRET = "secret\n"
THINGS: dict[str, Callable[[Path, Path], None]] = {
    "link to a file": lambda path, outside: path.symlink_to(outside / "secret"),
    "link to a folder": lambda path, outside: path.symlink_to(outside / "folder"),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "not there"),
    "link to /dev/zero": lambda path, _: path.symlink_to("/dev/zero"),
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: socket_at(path),
    "hard link": lambda path, outside: path.hardlink_to(outside / "secret"),
}
"""Each puts itself at ``path``; ``outside`` is what ``make_outside`` made."""


def socket_at(path: Path) -> None:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            os.chdir(path.parent)  # a socket's address has room for 108 bytes
            listener.bind(path.name)
        finally:
            os.chdir(here)


def make_outside(folder: Path) -> Path:
    """A secret file, and a folder that holds another under the names that a run would look for."""
    (folder / "folder/step-00000001").mkdir(parents=True)
    for name in ("secret", "folder/metrics.csv", "folder/step-00000001/state.json", "folder/step-00000001.png"):
        (folder / name).write_text(SECRET)
    return folder


def state_of(folder: Path) -> dict[str, object]:
    """Everything below ``folder``: its kind, when it was changed, and what a file or link holds."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        target = os.readlink(path) if path.is_symlink() else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content, target)
    return found


def paths_in(folder: Path) -> list[Path]:
    """Every path below ``folder``, and some that an unfinished run of another version would have."""
    more = (
        "transformer",
        "style-best.safetensors",
        "logs/rank-7.log",
        "checkpoints/.draft-step-00000009",
        ".partial-0-x",
    )
    return sorted({*folder.rglob("*"), *(folder / name for name in more if (folder / name).parent.is_dir())})


@contextmanager
def planted(path: Path, thing: str, outside: Path) -> Iterator[None]:
    """For the block, ``thing`` stands at ``path`` instead of what is there."""
    # What is there waits on the same filesystem, outside the directory that is handed over.
    aside = outside.parent / "aside"
    there = os.path.lexists(path)
    if there:
        path.rename(aside)
    try:
        THINGS[thing](path, outside)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if there:
            aside.rename(path)
