"""Files that appear whole or not at all: text, JSON, links; and hashes of content.

Enters: paths and plain values. Leaves: files. What a file means is not known here, and nothing heavy is imported.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cinelora.errors import CineloraError, FileError, TrainingError, reason, unwritable
from cinelora.io.locks import LOCK, TEMPORARY, lock, try_flock
from cinelora.io.own_files import open_own, own_entries
from cinelora.io.plain_data import opened, sealed

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, and the size limit of a file (``ulimit -f``) are one thing to the user: nothing more fits."""


# -- whole or not at all -----------------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in the place of ``path`` in one step.

    Whoever looks at ``path`` sees the previous file or the new one, also after a kill or a power cut at any moment.
    ``write`` receives a path with the same suffix. Raises ``TrainingError`` where the disk is full and ``FileError``
    where the folder cannot be written; the previous file is then untouched and nothing is left behind.
    """
    # The content reaches the disk before the name does: were the rename first, a power cut could leave the new name with an
    # empty file behind it.
    with _temporary(path) as (draft, descriptor):
        write(draft)
        os.fsync(descriptor)
        os.replace(draft, path)
    _fsync_directory(path.parent)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left below ``folder``; a temporary that is still being written is left alone."""
    # Whoever writes holds a lock on the file. A lock that can be had is a dead writer's, on this machine or another; the kernel,
    # or the file server, took it back.
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        if leftover.is_symlink():
            leftover.unlink(missing_ok=True)
        elif leftover.is_file():
            with suppress(FileNotFoundError), leftover.open("rb") as file:  # another rank may sweep as well
                if try_flock(file.fileno()):
                    leftover.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    # The writer holds a lock on its temporary: that is how a sweep, perhaps on another machine, tells it is alive.
    draft = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise _not_made(path, error) from error
    try:
        try_flock(descriptor)
        yield draft, descriptor
    except Exception as error:  # PyAV's errors carry an errno without being OSError
        if getattr(error, "errno", None) not in DISK_FULL:
            raise
        raise _disk_full(path, error) from error
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)


def copy_whole(folder: Path, target: Path) -> None:
    """Copy the files below ``folder`` to ``target``, which is not there or empty: all of them or none.

    No link is followed or copied, but for those of the hub's cache, whose files are. Locks, temporaries and
    ``.git`` stay behind. Raises ``FileError`` for what is not ``folder``'s own or cannot be read, otherwise as ``write_whole``.
    """
    # Copied beside the target and renamed: a copy that breaks off leaves nothing there, which would pass for a run. What a kill
    # leaves beside it is known by its lock, as of all temporaries, and goes with the next copy to the same target.
    target = target.resolve()
    draft = _beside(target)
    end = draft.name[len(TEMPORARY) + 8 :]
    for left in target.parent.glob(f"{TEMPORARY}{'?' * 8}{glob.escape(end)}"):
        if left.is_dir() and not left.is_symlink():
            with suppress(FileError), lock(left / LOCK):
                shutil.rmtree(left, ignore_errors=True)
    try:
        with lock(draft / LOCK):
            for entry in own_entries(folder, copied=True):
                is_file = not entry.is_dir(follow_symlinks=False)
                if not (is_file and (entry.name == LOCK or entry.name.startswith(TEMPORARY))):
                    _copy(entry, draft / os.path.relpath(entry.path, folder))
            os.replace(draft, target)
    except OSError as error:
        if str(error.filename).startswith(str(folder)):
            raise FileError(f"{folder} cannot be copied: {error.filename}: {reason(error)}") from error
        raise _not_made(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(entry: os.DirEntry[str], target: Path) -> None:
    if entry.is_dir(follow_symlinks=False):
        target.mkdir()
        return
    source = Path(entry.path)
    with opened(source) if entry.is_symlink() else open_own(source) as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
        changed = os.fstat(file.fileno())
    os.utime(target, ns=(changed.st_atime_ns, changed.st_mtime_ns))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all; raises as ``write_whole``."""
    write_whole(target, lambda draft: shutil.copyfile(source, draft))


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it, where they are missing; raises as ``write_whole``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_made(path, error) from error


def _beside(path: Path) -> Path:
    # the end of the name is kept, because writers choose the format by the suffix; 255 bytes is the longest name
    end = os.fsdecode(os.fsencode(path.name)[-200:])
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{end}")


def _not_made(path: Path, error: OSError) -> CineloraError:
    return _disk_full(path, error) if error.errno in DISK_FULL else unwritable(path, error)


def _disk_full(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"disk full while writing {path} ({reason(error)}): what was there before is untouched; "
        "make room and start again"
    )


def _fsync_directory(folder: Path) -> None:
    # a rename is on the disk once its directory is: without this, a power cut may undo what was reported as saved
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point_to(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, replacing an older link in one step.

    Raises ``FileError`` where something that is no link stands in the way.
    """
    if link.exists() and not link.is_symlink():
        raise FileError(
            f"{link} is not a link, so it is left alone: move it away, because cinelora makes a link of this name to "
            f"the newest run"
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    # A link cannot be changed in place. Made under another name and renamed, it points at the old run or the new one at any time.
    draft = _beside(link)
    os.symlink(os.path.relpath(target.resolve(), link.parent.resolve()), draft)
    os.replace(draft, link)


# -- text and JSON -----------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; raises as ``write_whole``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, whole or not at all; raises as ``write_whole``."""
    write_whole(path, lambda draft: draft.write_bytes(content))


def write_json(path: Path, obj: Any, seals: bool = True) -> None:
    """Write ``obj`` as indented JSON, whole or not at all; raises as ``write_whole``.

    A table is sealed (``plain_data.sealed``), unless it is for programs that know no such key.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False) + "\n"
    write_text(path, sealed(text, "json") if seals and obj and isinstance(obj, dict) else text)


# -- hashes ------------------------------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """SHA-256 of a regular file's content, in hex; raises ``FileError``."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(obj: Any) -> str:
    """SHA-256 of ``obj`` as canonical JSON (sorted keys, no spaces, ASCII), in hex; NaN is refused."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
