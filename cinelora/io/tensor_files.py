"""Tensors as safetensors files, written whole or not at all, and their headers, read without torch.

Enters: named tensors with metadata, or a path. Leaves: a file, or tensors on the CPU. What the tensors mean is not known here.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor
from cinelora.errors import FileError, reason
from cinelora.io.atomic import write_whole
from cinelora.io.own_files import open_regular

TENSOR_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
"""torch's names, and those of safetensors."""
HEADER_LIMIT = 100_000_000
"""Bytes; the safetensors format allows no longer header."""


# -- tensors -----------------------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write ``tensors`` as safetensors, whole or not at all, and return the file's SHA-256; raises as ``write_whole``.

    Views and tied tensors are written out in full, each under its own name. The library's own writer hides which errno it
    met, and copies everything once more: 0.5 of the 1.9 s that the checkpoint of a 14B adapter took with it.
    """
    # Views into the tensors' own memory, in the order of the file: they are written and hashed without being put together first.
    parts = _tensor_parts(tensors, metadata)

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

    header: dict[str, Any] = {"__metadata__": metadata}
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


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata; raises ``FileError`` for a damaged file.

    Each tensor is a clone: torch aligns its own memory to 64 bytes, a mapped file does not, and kernels sum in another
    order on memory that is not aligned (outputs then differ by up to 2e-5 although the weights are equal).
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would be waited for
        raise _damaged(path, "no file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def read_header(path: Path) -> dict[str, Any]:
    """Header of a safetensors file: ``dtype``, ``shape`` and ``data_offsets`` by tensor name, and ``__metadata__``.

    Reads the first bytes alone and needs no torch. Raises ``FileError`` for a file that is damaged, also one that is
    shorter than its header promises.
    """
    try:
        with open_regular(path) as file:
            header = _parse_header(path, file)
            content = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise _damaged(path, reason(error)) from error
    # A download that broke off has a whole header and too few bytes after it: mapped, it would kill whoever touches the end.
    promised = max(
        (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0
    )
    if content != promised:
        raise _damaged(path, f"{content} bytes of tensors where its header promises {promised}")
    return header


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file with other metadata and the same tensors; ``read_header`` says whether it is one."""
    start = 8 + int.from_bytes(content[:8], "little")
    return _header_bytes(json.loads(content[8:start]) | {"__metadata__": metadata}) + content[start:]


def _parse_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    # What is no safetensors file has any number in its first eight bytes: the limit keeps it from being read into memory.
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= HEADER_LIMIT:
        raise _damaged(path, "no header")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table of tensors")
    return header


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"{path} is missing, damaged or no safetensors file ({reason})")
