"""Tensors as safetensors files, written whole or not at all, and their headers, read without torch.

Enters: named tensors with metadata, or a path. Leaves: a file, or tensors on the CPU. What the tensors mean is not known here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

if TYPE_CHECKING:
    from torch import Tensor
from cinelora.errors import FileError, reason
from cinelora.io.atomic import write_whole
from cinelora.io.plain_data import build, opened, parse_json, quoted

TENSOR_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
"""torch's names, and those of safetensors."""
HEADER_LIMIT = 2**22
"""Bytes. The format allows more; that of a 14 B transformer has 0.1 MB, and 4 MB name forty thousand tensors."""
METADATA = "__metadata__"
SEAL = "digest"
"""In the header of tensors that are read back: their ``content_digest``."""
MOST_DIMENSIONS = 64
_BYTES = {name: int(re.search(r"\d+", name)[0]) // 8 if name != "BOOL" else 1 for name in TENSOR_DTYPES.values()}  # type: ignore[index]


# -- tensors -----------------------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], seals: bool = False) -> str:
    """Write ``tensors`` as safetensors, whole or not at all, and return the file's SHA-256; raises as ``write_whole``.

    ``seals``: ``load_tensors`` holds them to what is written.

    Views and tied tensors are written out in full, each under its own name. The library's own writer hides which errno it
    met, and copies everything once more: 0.5 of the 1.9 s that the checkpoint of a 14B adapter took with it.
    """
    # Views into the tensors' own memory, in the order of the file: they are written and hashed without being put together first.
    parts = _tensor_parts(tensors, metadata | ({SEAL: content_digest(tensors)} if seals else {}))

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            file.writelines(parts)

    with ThreadPoolExecutor(1) as beside:  # hashing needs no GIL, and takes about as long as writing
        digest = beside.submit(_sha256, parts)
        write_whole(path, write)
    return digest.result()


def _sha256(parts: list[memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _tensor_parts(tensors: dict[str, Tensor], metadata: dict[str, str]) -> list[memoryview]:
    # the header, then the tensors; the widest come first, so that each lies at a multiple of its size
    import torch

    header: dict[str, Any] = {METADATA: metadata}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        flat = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).flatten()
        parts.append(flat.view(torch.uint8).numpy().data)
        start, end = end, end + flat.nbytes
        dtype = TENSOR_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    return [memoryview(_header_bytes(header)), *parts]


def _header_bytes(header: dict[str, Any]) -> bytes:
    # 8 bytes of length, little-endian, then JSON: https://huggingface.co/docs/safetensors, "Format"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """24 hex digits of tensors by their names: dtype, shape and every value, in whatever order they come."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {flat.dtype} {list(flat.shape)}\n".encode())
        digest.update(flat.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata; raises ``FileError`` as ``read_header``.

    That is also where they are not what was sealed.

    Each tensor is a clone: torch aligns its own memory to 64 bytes, a mapped file does not, and kernels sum in another
    order on memory that is not aligned (outputs then differ by up to 2e-5 although the weights are equal).
    """
    from safetensors import SafetensorError, safe_open

    read_header(path)  # the library would wait for a pipe, and read a header of 100 MB
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            facts = file.metadata() or {}
    except (OSError, SafetensorError, AttributeError) as error:  # AttributeError: a dtype that torch has not
        raise _damaged(path, str(error)) from error
    if re.fullmatch("[0-9a-f]{24}", seal := facts.pop(SEAL, "")) and seal != content_digest(tensors):
        raise FileError(f"{path} is damaged: its values are not the ones that were written")
    return tensors, facts


class _Tensor(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> dict[str, Any]:
    """Header of a safetensors file: ``dtype``, ``shape`` and ``data_offsets`` by tensor name, and ``__metadata__``, all texts.

    Reads the first bytes alone and needs no torch. Raises ``FileError`` for a file that is damaged, also one whose bytes are
    not those that its header promises: all of them, each for one tensor, as many as its type and shape take.
    """
    with opened(path) as file:
        try:
            header = _parse_header(path, file)
            content = os.fstat(file.fileno()).st_size - file.tell()
        except OSError as error:
            raise _damaged(path, reason(error)) from error
    _refuse_other_content(path, {name: entry for name, entry in header.items() if name != METADATA}, content)
    return header


def _refuse_other_content(path: Path, tensors: dict[str, Any], content: int) -> None:
    # A download that broke off has a whole header and too few bytes after it: mapped, it would kill whoever touches the end.
    # A header that was made up may send a reader before the beginning, or twice to the same place.
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        (first, last), size = entry["data_offsets"], _BYTES.get(entry["dtype"])
        fits = len(entry["shape"]) <= MOST_DIMENSIONS and min(entry["shape"], default=0) >= 0
        if not fits or first != end or last < first or (size and last - first != size * math.prod(entry["shape"])):
            raise _damaged(path, f"its header contradicts itself in {quoted(name)}")
        end = last
    if content != end:
        raise _damaged(path, f"{content} bytes of tensors where its header promises {end}")


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file with other metadata and the same tensors; ``read_header`` says whether it is one."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = parse_json(content[8:start].decode(), dict[str, Any], "a header of tensors")
    return _header_bytes(header | {METADATA: metadata}) + content[start:]


def _parse_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    # What is no safetensors file has any number in its first eight bytes: the limit keeps it from being read into memory.
    length = int.from_bytes(file.read(8), "little")
    if HEADER_LIMIT < length <= os.fstat(file.fileno()).st_size:
        raise FileError(
            f"{path} has a header of {length:,} bytes, and none of more than {HEADER_LIMIT:,} is read: save it without metadata"
        )
    if not 2 <= length <= HEADER_LIMIT:
        raise _damaged(path, "no header")
    try:
        header = parse_json(file.read(length).decode(), dict[str, Any], "its header")
        build(dict[str, str], header.get(METADATA, {}), METADATA)
        tensors = build(dict[str, _Tensor], {k: v for k, v in header.items() if k != METADATA}, "its header")
    except (ValueError, FileError) as error:
        raise _damaged(path, str(error)) from error
    return header | tensors


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"{path} is missing, damaged or no safetensors file ({reason})")
