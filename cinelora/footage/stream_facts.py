"""What a stream says of its pictures beside codec and size: how they are turned, and whether they are Dolby Vision's own colours.

Enters: an open stream and its first frame, or the file. Leaves: facts, or in words what is not read. It decodes nothing.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Any

from av.sidedata.sidedata import Type

from cinelora.footage.colour import UPRIGHT, Orientation

SKEWED = 0.01
"""Share of a display matrix's larger numbers up to which the others are rounding."""
DOLBY_TAGS = frozenset(("dvh1", "dvhe", "dav1", "dva1", "dvav"))
"""Names of streams that only a Dolby Vision decoder is meant to show."""
DOLBY_CODECS = frozenset(("hevc", "av1"))
HEADS = 2**22
"""First bytes of a file that are searched for a Dolby Vision record, unless it says where its headers lie."""
RECORD = re.compile(rb"dv[cvw]C")


def turn_of(frame: Any) -> Orientation | None:
    """How a player turns and mirrors the picture; None where that is by no quarter, which is not read."""
    # The display matrix maps a stored place (x, y) to (a x + c y, b x + d y), in units of 1/65536. Of the eight ways to lay a
    # picture on its sides four have b = c = 0, four, in which x and y change places, a = d = 0. Signs mirror.
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found)[:36])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if not straight and not crossed:
        return UPRIGHT
    if crossed <= SKEWED * straight and a and d:
        return Orientation(False, left_right=a < 0, upside_down=d < 0)
    if straight <= SKEWED * crossed and b and c:
        return Orientation(True, left_right=c < 0, upside_down=b < 0)
    return None


def is_dolby_alone(path: Path, stream: Any, frame: Any) -> bool:
    """Whether it is Dolby Vision whose colours mean nothing to other players (profile 5): no tag of the stream says so."""
    context = stream.codec_context
    if context.codec.canonical_name not in DOLBY_CODECS or frame.color_trc not in (0, 2):
        return False
    has_metadata = frame.side_data.get(Type.DOVI_RPU_BUFFER) or frame.side_data.get(Type.DOVI_METADATA)
    return bool(context.codec_tag in DOLBY_TAGS or has_metadata or _fits_nothing(path))


def _fits_nothing(path: Path) -> bool:
    """Whether the file's Dolby Vision record names no layer that other players show; False where there is no record."""
    # "Dolby Vision Streams Within the ISO Base Media File Format", 3.2: after the name come two bytes of version, profile (7
    # bits), level (6), three flags, and in four bits what else the base layer is: 0 for nothing. Matroska keeps the same bytes
    # in an element of its own (BlockAddIDExtraData, 41ED) behind the name.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, end = _headers(content)
        for match in RECORD.finditer(content, start, end):
            extra = content.find(b"\x41\xed", match.end(), match.end() + 32)
            record = content[(first := extra + 3 if extra >= 0 else match.end()) : first + 5]
            if len(record) == 5 and record[0] == 1 and record[2] >> 1 <= 10:
                return record[4] >> 4 == 0
    return False


def _headers(content: mmap.mmap) -> tuple[int, int]:
    """Where a file describes its streams: the box ``moov``, wherever it lies, or the first bytes."""
    # A box begins with its length in four bytes and its name in four; of length 1 the real one follows, in eight.
    at = 0
    while at + 16 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        size = struct.unpack_from(">Q", content, at + 8)[0] if size == 1 else size
        if name == b"moov":
            return at, at + size
        if size < 8:
            break
        at += size
    return 0, HEADS
