"""GGUF files: their table of tensors, and the values of one, widened to float32.

Enters: a path. Leaves: names, shapes and kinds, read from the beginning of the file alone; numpy arrays. It needs no torch, and
does not know what the tensors are for. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

A quantised tensor is a row of blocks of 32 or 256 values, each with scales of its own. ``_BLOCKS`` says how the bytes of a
block lie, as a numpy dtype, and how they become numbers. Kinds that look values up in large tables (IQ1 to IQ4) are not read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinelora.errors import FileError, reason
from cinelora.io.plain_data import opened, short_key

Floats = NDArray[np.float32]
Bytes = NDArray[Any]
"""Unsigned bytes, and what shifts and masks make of them."""
MAGIC = b"GGUF"
KINDS = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
    **{
        10: "Q2_K",
        11: "Q3_K",
        12: "Q4_K",
        13: "Q5_K",
        14: "Q6_K",
        15: "Q8_K",
        16: "IQ2_XXS",
        17: "IQ2_XS",
        18: "IQ3_XXS",
    },
    **{19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64"},
    **{28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}
"""The kinds of tensors by their numbers in a file."""
_SCALARS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
_SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
_TEXT, _LIST = 8, 9
_MOST, _MOST_SIDES = 2**20, 4
"""Bytes of a text, or entries of a list or table: beyond it a number is damaged. (A tokenizer has 256,000 entries.)"""
_LONGEST_TABLE = 2**24
"""Bytes. That of a 14 B transformer has 0.1 MB, and 6 MB hold the texts of a tokenizer."""
_CHUNK = 2**12
"""Blocks that are widened at once: what they become stays in the cache of the processor."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in its file, and how it is stored."""

    shape: tuple[int, ...]
    kind: str
    first: int
    size: int


# -- how blocks become numbers -----------------------------------------------------------------------------------------


def _bits(packed: Bytes, width: int, shifts: Iterable[int], mask: int) -> Bytes:
    """Small numbers (n, values) out of bytes (n, bytes): each run of ``width`` bytes holds one run of values a shift."""
    runs: Bytes = packed.reshape(len(packed), -1, 1, width) >> np.array(list(shifts), np.uint8)[:, None]
    return (runs & mask).reshape(len(packed), -1)


def _fifth_bits(flags: Bytes) -> Bytes:
    """32 flags (n, 32) out of four bytes, each worth 16."""
    found: Bytes = np.unpackbits(flags, axis=1, bitorder="little") << 4
    return found


def _wide(halves: NDArray[Any]) -> Floats:
    return halves.astype(np.float32)[:, None]


def _each(scales: Floats, values: NDArray[Any]) -> Floats:
    """Values (n, 256) times the scale (n, groups) of their group."""
    groups = values.astype(np.float32).reshape(*scales.shape, -1) * scales[..., None]
    return groups.reshape(len(values), -1)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of six bits (n, 8) out of twelve bytes."""
    # Bytes 0 to 3 hold the first four scales, bytes 4 to 7 the first four minima. Their upper two bits belong to the last four,
    # whose lower four bits are the halves of bytes 8 to 11.
    scale, least, halves = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([scale & 63, (halves & 15) | ((scale >> 6) << 4)], axis=1)
    minima = np.concatenate([least & 63, (halves >> 4) | ((least >> 6) << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q2_k(b: NDArray[Any]) -> Floats:
    values = _bits(b["q"], 32, (0, 2, 4, 6), 3)
    ones = np.ones_like(values)
    return _each(_wide(b["d"]) * (b["scales"] & 15), values) - _each(_wide(b["m"]) * (b["scales"] >> 4), ones)


def _q3_k(b: NDArray[Any]) -> Floats:
    scales = _bits(b["scales"][:, :8], 8, (0, 4), 15) | (_bits(b["scales"][:, 8:], 4, (0, 2, 4, 6), 3) << 4)
    # a third bit that is not set means four less
    values = (
        _bits(b["q"], 32, (0, 2, 4, 6), 3).astype(np.int8) + 4 * _bits(b["high"], 32, range(8), 1).astype(np.int8) - 4
    )
    return _each(_wide(b["d"]) * (scales.astype(np.float32) - 32), values)


def _q45_k(b: NDArray[Any]) -> Floats:
    values = _bits(b["q"], 32, (0, 4), 15)
    if "high" in (b.dtype.names or ()):
        values = values | (_bits(b["high"], 32, range(8), 1) << 4)
    scales, minima = _six_bit_pairs(b["scales"])
    return _each(_wide(b["d"]) * scales, values) - _each(_wide(b["m"]) * minima, np.ones_like(values))


def _q6_k(b: NDArray[Any]) -> Floats:
    values = _bits(b["q"], 64, (0, 4), 15) | (_bits(b["high"], 32, (0, 2, 4, 6), 3) << 4)
    return _each(_wide(b["d"]) * b["scales"], values.astype(np.int8) - 32)


_D, _M = ("d", "<f2"), ("m", "<f2")
_BLOCKS: dict[str, tuple[int, list[Any], Callable[[NDArray[Any]], Floats]]] = {
    "F64": (1, [("q", "<f8")], lambda b: b["q"].astype(np.float32)[:, None]),
    "F32": (1, [("q", "<f4")], lambda b: b["q"][:, None]),
    "F16": (1, [("q", "<f2")], lambda b: b["q"].astype(np.float32)[:, None]),
    "BF16": (1, [("q", "<u2")], lambda b: (b["q"].astype("<u4") << 16).view("<f4")[:, None]),
    "Q8_0": (32, [_D, ("q", "i1", 32)], lambda b: _wide(b["d"]) * b["q"]),
    "Q4_0": (32, [_D, ("q", "u1", 16)], lambda b: _wide(b["d"]) * (_bits(b["q"], 16, (0, 4), 15).astype(np.int8) - 8)),
    "Q4_1": (32, [_D, _M, ("q", "u1", 16)], lambda b: _wide(b["d"]) * _bits(b["q"], 16, (0, 4), 15) + _wide(b["m"])),
    "Q5_0": (
        32,
        [_D, ("high", "u1", 4), ("q", "u1", 16)],
        lambda b: _wide(b["d"]) * ((_bits(b["q"], 16, (0, 4), 15) | _fifth_bits(b["high"])).astype(np.int8) - 16),
    ),
    "Q5_1": (
        32,
        [_D, _M, ("high", "u1", 4), ("q", "u1", 16)],
        lambda b: _wide(b["d"]) * (_bits(b["q"], 16, (0, 4), 15) | _fifth_bits(b["high"])) + _wide(b["m"]),
    ),
    "Q2_K": (256, [("scales", "u1", 16), ("q", "u1", 64), _D, _M], _q2_k),
    "Q3_K": (256, [("high", "u1", 32), ("q", "u1", 64), ("scales", "u1", 12), _D], _q3_k),
    "Q4_K": (256, [_D, _M, ("scales", "u1", 12), ("q", "u1", 128)], _q45_k),
    "Q5_K": (256, [_D, _M, ("scales", "u1", 12), ("high", "u1", 32), ("q", "u1", 128)], _q45_k),
    "Q6_K": (256, [("q", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D], _q6_k),
}
"""Values in a block, how its bytes lie, and what they are worth."""
READ = tuple(_BLOCKS)
"""The kinds that are read."""


def gguf_values(path: Path, tensor: GgufTensor) -> Floats:
    """The values of a tensor, in its shape; raises ``FileError`` where the file has become shorter."""
    length, layout, widen = _BLOCKS[tensor.kind]
    if os.path.getsize(path) < tensor.first + tensor.size:
        raise FileError(f"{path} was cut short by another program while it was read")
    blocks = np.memmap(path, np.dtype(layout), "r", tensor.first, (math.prod(tensor.shape) // length,))
    values = np.empty((len(blocks), length), np.float32)
    for first in range(0, len(blocks), _CHUNK):
        values[first : first + _CHUNK] = widen(np.asarray(blocks[first : first + _CHUNK]))
    return values.reshape(tensor.shape)


# -- the table at the beginning ----------------------------------------------------------------------------------------


def read_gguf(path: Path) -> tuple[dict[str, GgufTensor], dict[str, Any]]:
    """The tensors of a file by name, and its metadata; no value is read.

    Raises ``FileError`` for a file that is damaged, cut off, or holds a kind that is not read.
    """
    with opened(path) as file:
        try:
            return _Table(path, file).read()
        except OSError as error:
            raise FileError(f"{path} cannot be read ({reason(error)})") from error


class _Table:
    """The beginning of a file, read from front to end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.length = os.fstat(file.fileno()).st_size

    def read(self) -> tuple[dict[str, GgufTensor], dict[str, Any]]:
        """Everything before the tensors, and where these lie."""
        if self._bytes(4) != MAGIC:
            raise FileError(f"{self.path} is no GGUF file")
        if (version := int(self._number("<u4"))) not in (2, 3):
            raise FileError(f"{self.path} is GGUF of version {version}, versions 2 and 3 are read")
        count, facts = self._count(), self._count()
        metadata = {self._text(): self._value(int(self._number("<u4"))) for _ in range(facts)}
        entries = [self._entry() for _ in range(count)]
        if len({name for name, *_ in entries}) < count:
            raise FileError(f"{self.path} is damaged: two of its tensors have the same name")
        # tensors begin at a multiple of the alignment after the table, and their offsets count from there
        alignment = _whole_numbers(metadata.get("general.alignment", 32))
        if len(alignment) != 1 or not 1 <= alignment[0] <= 2**16:
            raise FileError(f"{self.path} is damaged: it says no alignment of 1 to {2**16} bytes")
        start = -(-self.file.tell() // alignment[0]) * alignment[0]
        placed = {
            name: self._placed(name, start, shape, number, offset, metadata) for name, shape, number, offset in entries
        }
        return placed, metadata

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        sides = tuple(int(self._number("<u8")) for _ in range(self._count("<u4", _MOST_SIDES)))
        return name, sides[::-1], int(self._number("<u4")), int(self._number("<u8"))  # the innermost side stands first

    def _placed(
        self, name: str, start: int, shape: tuple[int, ...], number: int, offset: int, metadata: dict[str, Any]
    ) -> GgufTensor:
        kind = KINDS.get(number, f"kind {number}")
        if kind not in _BLOCKS:
            raise FileError(
                f"{self.path} holds {short_key(name)} as {kind}, which is not read: give one of {', '.join(READ)}"
            )
        values, (length, layout, _) = math.prod(shape), _BLOCKS[kind]
        if values % length or not values:
            found = f"{short_key(name)} of shape {list(shape)}"
            raise FileError(f"{self.path} is damaged: {found} is not made of blocks of {length}")
        size = values // length * np.dtype(layout).itemsize
        if start + offset + size > self.length:
            raise FileError(
                f"{self.path} is cut off: it has {self.length} bytes, and {short_key(name)} ends at {start + offset + size}"
            )
        # GGUF allows four sides; what had five keeps its shape beside it
        own = _whole_numbers(metadata.get(f"comfy.gguf.orig_shape.{name}"))
        return GgufTensor(own if own and math.prod(own) == values else shape, kind, start + offset, size)

    def _bytes(self, count: int) -> bytes:
        if self.file.tell() + count > _LONGEST_TABLE:
            raise FileError(f"{self.path} is damaged: its table is longer than {_LONGEST_TABLE} bytes")
        content = self.file.read(count)
        if len(content) < count:
            raise FileError(f"{self.path} is cut off or damaged: its table does not end")
        return content

    def _number(self, dtype: str) -> Any:
        return np.frombuffer(self._bytes(np.dtype(dtype).itemsize), dtype)[0]

    def _count(self, dtype: str = "<u8", most: int = _MOST) -> int:
        if (count := int(self._number(dtype))) > most:
            raise FileError(f"{self.path} is damaged: its table says {count} entries")
        return count

    def _text(self) -> str:
        return self._bytes(self._count()).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            of, count = int(self._number("<u4")), self._count()
            if of in _SCALARS:
                return np.frombuffer(self._bytes(count * np.dtype(_SCALARS[of]).itemsize), _SCALARS[of])
            if of != _TEXT:
                raise FileError(f"{self.path} is damaged: its table holds a list of values of kind {of}")
            return [self._text() for _ in range(count)]
        if kind not in _SCALARS:
            raise FileError(f"{self.path} is damaged: its table holds a value of kind {kind}")
        return self._number(_SCALARS[kind])


def _whole_numbers(value: Any) -> tuple[int, ...]:
    """A few whole numbers above 0 of the metadata, or one; none where it holds something else."""
    found = np.atleast_1d(value) if isinstance(value, int | np.generic | np.ndarray) else np.empty(0)
    return tuple(map(int, found)) if found.dtype.kind in "iu" and found.size <= 8 and (found > 0).all() else ()
