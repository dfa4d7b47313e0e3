"""Which shots are trained on, and which are held out: no shot, and no copy of it, is ever on both sides.

Enters: shots, with the content of their files and what they look like. Leaves: a side for each. Chance is a hash of seed and
content: names, dates and the order of files do not matter, and one more file moves few of the others. It reads no footage.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]
By = Literal["auto", "file", "shot"]

FEW_FILES = 10
"""Below this many different files ``auto`` holds out shots: a tenth of nine films is none, and one of two films is half."""


@dataclass(frozen=True)
class Unit:
    """A shot: frames ``start`` up to ``end`` of the file at ``path``, whose content has the hash ``content``.

    Shots with one ``twin``, whatever names it, look the same; None for a shot that looks like no other.
    """

    path: str
    content: str
    start: int
    end: int
    twin: str | None = None


def split(units: Sequence[Unit], holdout: float, seed: int, by: By, folders: bool = False) -> list[Split]:
    """The side of each shot, where the share ``holdout`` of files or shots (``by``) is held out: at least one, never all.

    Files of one content count as one, and so do shots of one content; what looks the same goes together. With ``folders``, which
    says that the footage has folders ``train`` and ``heldout``, those decide instead, whatever lies in them.
    """
    if folders:
        return ["heldout" if unit.path.startswith("heldout/") else "train" for unit in units]
    keys = _keys(units, by)
    drawn = _drawn(_together(keys, (unit.twin for unit in units)), holdout, seed)
    return ["heldout" if key in drawn else "train" for key in keys]


def _keys(units: Sequence[Unit], by: By) -> list[str]:
    """What is kept whole: content, and by shot its frames, unless the file holds this shot alone."""
    # A key is what the draw is about. It names content, never a path: a file that is renamed, moved or stored twice keeps
    # its side. A file of one shot has the same key whether files or shots are held out.
    shots = defaultdict[str, set[tuple[int, int]]](set)
    for unit in units:
        shots[unit.content].add((unit.start, unit.end))
    whole_files = by == "file" or (by == "auto" and len(shots) >= FEW_FILES)
    return [
        unit.content if whole_files or len(shots[unit.content]) == 1 else f"{unit.content}@{unit.start}-{unit.end}"
        for unit in units
    ]


def _together(keys: Iterable[str], twins: Iterable[str | None]) -> list[list[str]]:
    """The keys in groups that must be on one side: those that share a twin, directly or through others."""
    # Union-find. Every name points to another of its group; `first` follows the pointers to the one that points to itself,
    # the group's representative, and shortens the way for the next time. A twin is a name as well, so two keys that share
    # it end up in one group; so do A and C where B shares one twin with A and another with C.
    parent = dict[str, str]()

    def first(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    pairs = dict.fromkeys(zip(keys, twins, strict=True))
    for key, twin in pairs:
        if twin is not None:
            parent[first(f"twin {twin}")] = first(key)
    groups = defaultdict[str, list[str]](list)
    for key in dict.fromkeys(key for key, _ in pairs):
        groups[first(key)].append(key)
    return list(groups.values())


def _drawn(groups: list[list[str]], holdout: float, seed: int) -> set[str]:
    """The keys that are held out: whole groups, in the order of their hashes, as many as fit in the share."""

    # A shuffle would give every file another place once one file is added. Here each key has a number of its own, a hash
    # of the seed and its content, and the smallest numbers are held out: a new file pushes at most a few across the border.
    # A group counts with its smallest key, so that it is one draw like any other.
    def chance(group: list[str]) -> str:
        return min(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest() for key in group)

    if holdout <= 0 or len(groups) < 2:
        return set()
    count = sum(map(len, groups))
    room = min(max(round(holdout * count), 1), count - 1)
    drawn: list[str] = []
    order = sorted(groups, key=chance)
    # A group that is larger than the room left is passed over for smaller ones after it. Where none fits, the smallest goes.
    for group in order:
        if len(drawn) + len(group) <= room:
            drawn += group
    return {*(drawn or min(order, key=len))}
