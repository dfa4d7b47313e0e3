"""Locks: a file held as the sign that a process is at work, and folders that only one user can enter.

Enters: paths. Leaves: locks that the kernel releases when the process ends, whatever ends it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cinelora.errors import FileError, unwritable
from cinelora.io.own_files import append_own, open_own

LOCK = ".lock"
"""What a run's directory is locked by."""
TEMPORARY, HELD = ".partial-", ".in-use"


@contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that only this user can enter, for the block; what killed processes left of that kind goes first."""
    # What a killed process left is known by its lock, which the kernel took back. Folders in the system's temporary folder are
    # anybody's, so only real ones of this user are looked into, and never a link that leads elsewhere.
    for held in Path(tempfile.gettempdir()).glob(f"{prefix}*/{HELD}"):
        with suppress(FileNotFoundError, FileError):  # another start may sweep as well
            if any(path.is_symlink() or path.stat().st_uid != os.getuid() for path in (held.parent, held)):
                continue
            with open_own(held) as mark:
                if try_flock(mark.fileno()):
                    shutil.rmtree(held.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / f"{HELD}-soon").open("w") as mark:
            try_flock(mark.fileno())
            os.rename(mark.name, folder / HELD)  # once it is locked: whoever sees it cannot take it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_flock(descriptor: int) -> bool:
    """Lock an open file for this process alone; False where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold ``path`` as the sign that this process works in its folder; the kernel lets go when the process ends.

    Where another process has it: raises ``FileError`` naming the holder, or, given ``waiting``, tells that who is waited
    for and waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = append_own(path)
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        if not try_flock(file.fileno()):
            # the holder has written who it is; one that locked the file a moment ago has not yet
            file.seek(0)
            in_use = f"{path.parent} is in use by another run ({file.read().strip() or 'just started'}): "
            if waiting is None:
                raise FileError(in_use + "wait until it ends, or give this run a folder of its own")
            waiting(in_use + "waiting for it")
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
