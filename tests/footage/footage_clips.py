"""What the tests of this folder share: clips in any container, and how far two pictures are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from cinelora.config.schema import DataConfig
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Wanted
from cinelora.footage.manifest import Manifest
from cinelora.footage.sample_source import find


class Put(Protocol):
    """Writes a clip below the footage folder, with a caption beside it unless that is ``None``."""

    def __call__(self, name: str, video: np.ndarray, fps: int = 16, caption: str | None = "a caption") -> Path: ...


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def write_plainly(path: Path, video: np.ndarray, fps: int, aspect: str | None = None) -> None:
    """h264 in whatever container the suffix says; ``aspect`` is that of a pixel, as ``4:3``."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"crf": "12", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect.replace(":", "/"))
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def scan(root: Path, *, num_frames: int, fps: int = 16, seed: int = 0, **settings: Any) -> Manifest:
    """The manifest of a folder as it is cut without judging, surveyed beside it."""
    plainly = {
        "judged": False,
        "stills": "even",
        "buckets": False,
        "prepared": str(root.parent / f"{root.name}-prepared"),
    }
    data = DataConfig(name="folder", root=str(root), **{**plainly, **settings})
    return find(data, Wanted(num_frames, fps, (48, 80), WAN21.geometry, seed))


def write_film(
    path: Path,
    frames: Iterable[av.VideoFrame],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: Callable[[int], int] = lambda number: number,
    time_base: Fraction = Fraction(1, 25),
    muxer: dict[str, str] | None = None,
) -> Path:
    """Frames as they are, by any encoder, frame i at ``pts(i)``; the tags of the first frame's colours go into the file."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=25, options=options or {})
                context = stream.codec_context
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
                context.time_base = time_base
                for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
                    setattr(context, tag, getattr(frame, tag))
            frame.pts, frame.time_base, frame.pict_type = pts(number), time_base, 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def as_frames(video_THWC: np.ndarray, pixel_format: str = "yuv420p") -> Iterator[av.VideoFrame]:
    """RGB pictures as untagged frames."""
    for picture in video_THWC:
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pixel_format)
