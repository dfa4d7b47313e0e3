"""Files that a folder holds as its own: how a run that somebody handed over is looked through, and its files opened.

Enters: paths in a folder that anybody may have filled. Leaves: open files, or one sentence about what else stands there. A link,
a second name of a file elsewhere, a device, a pipe or a socket would carry a write, a copy or an upload out of the folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, TextIOWrapper
from itertools import product
from pathlib import Path

from cinelora.errors import FileError, reason
from cinelora.families.family import EXPERTS
from cinelora.io.hub import fetched_blobs
from cinelora.io.terminal import shell_word

WANDB_FOLDERS = ("logs/wandb", *(f"{expert}/logs/wandb" for expert in EXPERTS), "wandb")
"""Where W&B writes below a training run, below its lessons where there are two, and below a study."""
WANDB_LINKS = ("latest-run", "debug.log", "debug-internal.log", "*/logs/debug-core.log")
"""Links of its own in there. Its core makes the last, whatever its settings say; the others are of runs of earlier versions."""
GIT = ".git"
"""Whoever keeps a run in git has this folder in it."""
_BY_WANDB = re.compile(r".*/wandb/(latest-run|debug(-internal)?\.log|[^/]+/logs/debug-core\.log)", re.DOTALL)


# -- looking through ---------------------------------------------------------------------------------------------------


def refuse_foreign(folder: Path, known_by: str, *, copied: bool = False, unread: str = "") -> None:
    """Raise ``FileError`` naming the first thing below ``folder`` that is neither a folder nor a file of its own.

    To be called before anything in there is read, written or copied. A folder without the name ``known_by``, whatever bears it,
    is not looked through: it is no run, and a mistyped path may hold a whole disk. The rest is as for ``own_entries``.
    """
    if os.path.lexists(folder / known_by):
        for _ in own_entries(folder, copied=copied, unread=unread):
            pass


def own_entries(folder: Path, *, copied: bool = False, unread: str = "") -> Iterator[os.DirEntry[str]]:
    """Everything below ``folder``, each folder before what it holds, no link followed; raises as ``refuse_foreign``.

    W&B's own links are left out. ``copied``: links of the hub's cache to its own files are listed, since they are only read.
    The folders ``unread`` and ``.git`` in it are left out: nobody opens them. A clone of a repository on the same disk has
    hundreds of hard links in the latter.
    """
    pending, unopened = [str(folder)], {os.path.join(folder, name) for name in (GIT, unread)}
    while pending:
        for entry in _listed(pending.pop(), str(folder)):
            if entry.is_dir(follow_symlinks=False):
                if entry.path in unopened:
                    continue
                pending.append(entry.path)
            elif entry.is_symlink() and _BY_WANDB.fullmatch(entry.path):
                continue
            elif not (copied and entry.is_symlink() and _is_fetched(folder, entry.path)):
                with suppress(FileNotFoundError):
                    _refuse(entry.path, entry.stat(follow_symlinks=False))
            yield entry


def _listed(folder: str, top: str) -> list[os.DirEntry[str]]:
    # What went away since it was listed is no concern: where a run is at work, its lock is what refuses another.
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and folder != top:
            return []
        raise FileError(f"cannot look through {shown(folder)} ({reason(error)})") from error


def _is_fetched(folder: Path, link: str) -> bool:
    """Whether a link of a repository that the hub's client has fetched leads to a file that the client keeps for it."""
    blobs, target = fetched_blobs(folder), Path(link).resolve()
    return blobs is not None and target.is_relative_to(blobs) and target.is_file()


def drop_wandb_links(folder: Path) -> None:
    """Remove the links that W&B has left in a run that was looked through; what they lead to stays."""
    for place, name in product(WANDB_FOLDERS, WANDB_LINKS):
        for link in (folder / place).glob(name):
            if link.is_symlink():
                link.unlink(missing_ok=True)


# -- opening -----------------------------------------------------------------------------------------------------------


def open_own(path: Path) -> BufferedReader:
    """Open for reading what is no link, nothing but a file, and the file's only name.

    Raises ``FileError`` where it is something else, and ``OSError`` as ``open`` does.
    """
    return open(path, "rb", opener=_open_own)


def append_own(path: Path, *, buffering: int = -1, newline: str | None = None) -> TextIOWrapper:
    """Open for appending and reading text, making it where it is missing; raises as ``open_own``."""
    return open(path, "a+", buffering, encoding="utf-8", errors="replace", newline=newline, opener=_open_own)


def _open_own(path: str, flags: int) -> int:
    # Looked at before, as a device may act on being opened; without following and without waiting, as it may be another thing by
    # then; and looked at after that, through the descriptor, which stays what it is.
    with suppress(FileNotFoundError):
        _refuse(path, os.lstat(path))
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        _refuse(path, os.fstat(descriptor))
    except FileError:
        os.close(descriptor)
        raise
    return descriptor


def read_inside(folder: Path, path: Path) -> bytes:
    """The content of ``path``, a file of its own that lies in ``folder`` also when every link on the way is followed.

    For what is handed to others. Raises ``FileError``, or ``OSError`` as ``open`` does.
    """
    with open_own(path) as file:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise FileError(f"{shown(path)} lies outside {shown(folder)}: a folder on the way to it is a link")
        return file.read()


# -- in words ----------------------------------------------------------------------------------------------------------


def _refuse(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink <= 1):
        return
    word, way_out = shown(path), f"remove it: rm {shown(path)}"
    if stat.S_ISLNK(status.st_mode):
        what = f"a link to {_target(path)}, and a run writes and shares files of its own alone"
    elif stat.S_ISREG(status.st_mode):
        what = "a hard link: the same file has another name elsewhere, and would change with it"
        copy = shown(f"{path}.own")
        way_out = f"make it a file of its own: cp {word} {copy} && mv {copy} {word}"
    else:
        what = f"{_kind(status)}, and a run holds files alone"
    raise FileError(f"{word} is {what}; {way_out}")


def _target(link: str) -> str:
    try:
        return shown(os.readlink(link))
    except OSError:  # it went away, or is another thing by now
        return "another place"


def _kind(status: os.stat_result) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(status.st_mode), "a device")


def shown(path: str | Path) -> str:
    """A path as a word of a shell, to be read on a terminal and copied from there."""
    return shell_word(os.fspath(path))
