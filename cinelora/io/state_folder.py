"""What commands of this user have noted for later ones: empty files with hashes for names, in a folder that is his alone.

Enters: hashes. Leaves: whether one was noted before. The folder lies outside of all runs, so that nobody who hands over a run can
write into it; jobs that have another home, or none, inherit hashes in the environment. What a hash is of, is not known here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from cinelora.io.terminal import say

INHERITED = "CINELORA_TRUSTED"
"""The variable in which a process hands hashes to the jobs that it starts, colons between them."""


def note(hashes: Iterable[str]) -> None:
    """Note hashes for later commands; where there is no folder for them, nothing is noted, and that is no error."""
    # A full or read-only disk is not worth a run: the next command then asks for a word that it could have spared the user.
    with suppress(OSError):
        if folder := _own_folder(make=True):
            for name in hashes:
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def is_noted(name: str) -> bool:
    """Whether a hash was noted by a command of this user, or handed down by the process that started this one."""
    if name in os.environ.get(INHERITED, "").split(":"):
        return True
    with suppress(OSError):
        folder = _own_folder()
        return folder is not None and stat.S_ISREG((folder / name).lstat().st_mode)
    return False


def hand_down(hashes: Iterable[str]) -> None:
    """Put hashes into the environment of all processes that this one starts from now on."""
    before = filter(None, os.environ.get(INHERITED, "").split(":"))
    os.environ[INHERITED] = ":".join(dict.fromkeys([*before, *hashes]))


def place() -> Path | None:
    """``$XDG_STATE_HOME/cinelora``, else ``~/.local/state/cinelora``; None where there is no home."""
    base, home = os.environ.get("XDG_STATE_HOME", ""), os.environ.get("HOME", "")
    if os.path.isabs(base):  # the XDG specification has others ignored
        return Path(base, "cinelora")
    return Path(home, ".local/state/cinelora") if os.path.isabs(home) else None


def _own_folder(make: bool = False) -> Path | None:
    """The folder, if it is one in which nobody else can note anything; raises ``OSError`` where it is not there."""
    folder = place()
    if folder is None:
        return None
    if make:
        with suppress(FileExistsError):  # whatever else has its name is named below
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_own(folder):
        return folder
    _say_ignored(folder)
    return None


def is_own(folder: Path) -> bool:
    """Whether this user alone can write into ``folder`` or put another in its place; raises ``OSError`` where there is none."""
    found, around = folder.lstat(), folder.parent.stat()
    # A link, or a folder that others can write to, may hold what others noted; one that lies where anybody can put another in its
    # place is as good as theirs. (A sticky folder, such as /tmp, lets nobody move what is somebody else's.)
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return is_own and not (around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX)


@cache
def _say_ignored(folder: Path) -> None:
    say(
        f"WARNING: {folder} is not used, because others can write to it or own it: runs that you "
        f"started earlier are not recognised as yours (chmod go-w it, or move it away)",
        error=True,
    )
