"""Folders that a setting names and that are written into: ours are known by what lies in them, all others are left alone.

Enters: a setting and the folder it names. Leaves: nothing, or a sentence before anything is written; and the tag of a cache,
by which other programs know it as well (https://bford.info/cachedir/).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.errors import ConfigError
from cinelora.io.atomic import write_text
from cinelora.io.locks import TEMPORARY

TAG = "CACHEDIR.TAG"
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
_TAGGED = f"""{SIGNATURE}
# This folder is a cache of cinelora: backups may leave it out, as what is missing is made again.
# What such a tag means: https://bford.info/cachedir/
"""
_NOBODY_S = {".lock", "encoding.lock", "lost+found", ".DS_Store"}
"""What a start that was killed, or the system, leaves in a folder that is empty otherwise."""


@dataclass(frozen=True)
class Ours:
    """How a kind of folder is known: by any of ``marks`` (patterns); or all it holds ``may_lie_there`` before there is one."""

    what: str
    marks: tuple[str, ...]
    may_lie_there: frozenset[str] = frozenset()
    tagged: bool = False


# Older versions wrote no tag. What they did write is named by hashes, which nobody else does in these places.
_HASHED = "[0-9a-f][0-9a-f]"
CACHE = Ours("cache", (f"latents/{_HASHED}", "models/tiny-????????????"), tagged=True)
PREPARED = Ours(
    "prepared footage", (f"surveys/{_HASHED}",), frozenset({"overrides.json", "captions.jsonl", "files.json"})
)


def refuse_occupied(key: str, folder: Path, ours: Ours) -> None:
    """Raise ``ConfigError`` where ``folder`` holds files and is none of ``ours``; one that is missing or empty is free."""
    if not folder.is_dir():
        return
    # One that starts beside this one may be about to write the first file there, perhaps the mark itself. So marks are looked for
    # after the folder was listed: what the list holds of them is whole by then.
    names = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY)}
    if (ours.tagged and is_tagged(folder)) or any(any(folder.glob(mark)) for mark in ours.marks):
        return
    if others := sorted(names - _NOBODY_S - ours.may_lie_there):
        held = ", ".join(map(repr, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ConfigError(
            f"{key}={folder} is no {ours.what} of cinelora's and holds {held}: name a folder that is new or empty"
        )


def is_tagged(folder: Path) -> bool:
    """Whether a folder carries the tag of our caches; other programs tag theirs alike, but for the name."""
    tag = folder / TAG
    if not tag.is_file():
        return False
    with tag.open("rb") as file:
        head = file.read(len(_TAGGED))
    return head.startswith(SIGNATURE.encode()) and b"cinelora" in head


def tag_cache(folder: Path) -> None:
    """Write the tag of a cache into ``folder``, where it has none of anybody's yet."""
    if not (folder / TAG).exists():
        write_text(folder / TAG, _TAGGED)
