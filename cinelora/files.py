"""Files that appear whole or not at all, and the formats the project writes: JSON, safetensors, mp4, png.

Enters: paths and plain values, arrays or tensors. Leaves: files. It knows nothing of what a file means; torch, PyAV and
Pillow are imported only where a tensor or a picture is really handled, so scans and ``--help`` stay light.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinelora.errors import CineloraError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

TEMPORARY, HELD = ".partial-", ".in-use"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, and the size limit of a file (``ulimit -f``) are one thing to the user: nothing more fits."""
TENSOR_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
"""torch's names, and those of safetensors."""
HEADER_LIMIT = 100_000_000
"""Bytes; the safetensors format allows no longer header."""
SHEET_TEXT, SHEET_GAP = 16, 4
"""Height of the contact sheet's letters and the gap between pictures, in pixels."""


class FileError(CineloraError):
    """A file that is missing, damaged, cannot be written, or is in use by another run."""


# -- whole or not at all -----------------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in the place of ``path`` in one step.

    Whoever looks at ``path`` sees the previous file or the new one, also after a kill or a power cut at any moment.
    ``write`` receives a path with the same suffix. Raises ``TrainingError`` where the disk is full and ``FileError``
    where the folder cannot be written; the previous file is then untouched and nothing is left behind.
    """
    with _temporary(path) as draft:
        write(draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
    _fsync_directory(path.parent)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left below ``folder``; a temporary that is still being written is left alone."""
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        if leftover.is_symlink():
            leftover.unlink(missing_ok=True)
        elif leftover.is_file():
            with suppress(FileNotFoundError), leftover.open("rb") as file:  # another rank may sweep as well
                if _try_flock(file.fileno()):
                    leftover.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # The writer holds a lock on its temporary: that is how a sweep, perhaps on another machine, tells it is alive.
    draft = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise _not_made(path, error) from error
    try:
        _try_flock(descriptor)
        yield draft
    except Exception as error:  # PyAV's errors carry an errno without being OSError
        if getattr(error, "errno", None) not in DISK_FULL:
            raise
        raise _disk_full(path, error) from error
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)


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


@contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that only this user can enter, for the block; what killed processes left of that kind goes first."""
    for held in Path(tempfile.gettempdir()).glob(f"{prefix}*/{HELD}"):
        with suppress(FileNotFoundError):  # another start may sweep as well
            if not held.parent.is_symlink() and held.stat().st_uid == os.getuid():
                with held.open("r+") as mark:
                    if _try_flock(mark.fileno()):
                        shutil.rmtree(held.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / f"{HELD}-soon").open("w") as mark:
            _try_flock(mark.fileno())
            os.rename(mark.name, folder / HELD)  # once it is locked: whoever sees it cannot take it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _not_made(path: Path, error: OSError) -> CineloraError:
    return _disk_full(path, error) if error.errno in DISK_FULL else _unwritable(path, error)


def _disk_full(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"disk full while writing {path} ({_reason(error)}): what was there before is untouched; "
        "make room and start again"
    )


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(f"cannot write {path} ({_reason(error)}): choose another folder or mend its permissions")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _fsync_directory(folder: Path) -> None:
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def point_to(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, replacing an older link in one step.

    Raises ``FileError`` where something that is no link stands in the way.
    """
    if link.exists() and not link.is_symlink():
        raise FileError(f"{link} is no link, so it is left alone: move it away, it is to point at the newest run")
    link.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(link)
    os.symlink(os.path.relpath(target.resolve(), link.parent.resolve()), draft)
    os.replace(draft, link)


@contextmanager
def lock(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold ``path`` as the sign that this process works in its folder; the kernel lets go when the process ends.

    Where another process has it: raises ``FileError`` naming the holder, or, given ``waiting``, tells that who is waited
    for and waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("a+")
    except OSError as error:
        raise _unwritable(path, error) from error
    with file:
        if not _try_flock(file.fileno()):
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


# -- text and JSON -----------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; raises as ``write_whole``."""
    write_whole(path, lambda draft: draft.write_bytes(text.encode()))


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON, whole or not at all; raises as ``write_whole``."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises ``FileError`` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read {path} ({_reason(error)})") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged or no JSON ({error})") from error


# -- hashes ------------------------------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(obj: Any) -> str:
    """SHA-256 of ``obj`` as canonical JSON (sorted keys, no spaces, ASCII), in hex; NaN is refused."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


# -- tensors -----------------------------------------------------------------------------------------------------------


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write ``tensors`` as safetensors, whole or not at all, and return the file's SHA-256; raises as ``write_whole``.

    Views and tied tensors are written out in full, each under its own name. The library's own writer hides which errno it
    met, and copies everything once more: 0.5 of the 1.9 s that the checkpoint of a 14B adapter took with it.
    """
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
        with path.open("rb") as file:
            header = _parse_header(path, file)
            content = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise _damaged(path, _reason(error)) from error
    promised = max(
        (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0
    )
    if content != promised:
        raise _damaged(path, f"{content} bytes of tensors where its header promises {promised}")
    return header


def with_metadata(path: Path, metadata: dict[str, str]) -> bytes:
    """A safetensors file's content with other metadata and the same tensors; raises as ``read_header``."""
    header = read_header(path) | {"__metadata__": metadata}
    content = path.read_bytes()
    return _header_bytes(header) + content[8 + int.from_bytes(content[:8], "little") :]


def _parse_header(path: Path, file: BinaryIO) -> dict[str, Any]:
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


# -- pictures ----------------------------------------------------------------------------------------------------------


def write_png(path: Path, image_HWC: Pixels) -> None:
    """Write one RGB picture, whole or not at all; raises as ``write_whole``."""
    from PIL import Image

    write_whole(path, lambda draft: Image.fromarray(image_HWC).save(draft, format="png"))


def write_mp4(path: Path, video_THWC: Pixels, fps: int, crf: int = 16) -> None:
    """Write RGB frames as h264 mp4 that plays everywhere: yuv420p, BT.709, limited range, index at the front.

    ``crf`` is x264's constant rate factor: 16 shows no loss, 30 much.

    Raises ``ValueError`` for no frames or an odd side (4:2:0 halves both), otherwise as ``write_whole``.
    """
    num_frames, height, width, channels = video_THWC.shape
    if num_frames == 0 or height % 2 or width % 2 or channels != 3:
        raise ValueError(f"an mp4 takes frames of even height and width in RGB, not {video_THWC.shape}")
    write_whole(path, lambda draft: _encode_mp4(draft, video_THWC, fps, crf))


def _encode_mp4(draft: Path, video_THWC: Pixels, fps: int, crf: int) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    with av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = video_THWC.shape[2], video_THWC.shape[1], "yuv420p"
        # untagged files are taken for BT.601 below 720 lines by some players, which shifts every colour
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame_HWC in video_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def contact_sheet(rows: list[tuple[str, Pixels]], columns: int = 6) -> Pixels:
    """One picture of several clips: for each ``(label, frames THWC)`` its label above up to ``columns`` frames.

    Frames are taken at even distances, first and last included. Returns RGB pixels HWC.
    """
    from PIL import Image, ImageDraw, ImageFont

    strips = [np.concatenate(_with_gaps(_spread(video_THWC, columns)), axis=1) for _, video_THWC in rows]
    width = max(strip.shape[1] for strip in strips)
    font = ImageFont.load_default(SHEET_TEXT)
    labels = [_wrap(label, width, font.getlength) for label, _ in rows]
    line_height = math.ceil(SHEET_TEXT * 1.4)
    heights = [
        len(lines) * line_height + strip.shape[0] + SHEET_GAP for lines, strip in zip(labels, strips, strict=True)
    ]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for lines, strip, height in zip(labels, strips, heights, strict=True):
        for number, line in enumerate(lines):
            draw.text((SHEET_GAP, top + number * line_height), line, fill="black", font=font)
        sheet.paste(Image.fromarray(strip), (0, top + len(lines) * line_height))
        top += height
    return np.asarray(sheet)


def _spread(video_THWC: Pixels, columns: int) -> list[Pixels]:
    picked = np.linspace(0, len(video_THWC) - 1, min(columns, len(video_THWC))).round().astype(int)
    return [video_THWC[i] for i in picked]


def _with_gaps(frames_HWC: list[Pixels]) -> list[Pixels]:
    gap = np.full((frames_HWC[0].shape[0], SHEET_GAP, 3), 255, np.uint8)
    return [part for frame_HWC in frames_HWC for part in (frame_HWC, gap)][:-1]


def _wrap(label: str, width: int, length: Callable[[str], float]) -> list[str]:
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if length(longer) <= width - 2 * SHEET_GAP or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
