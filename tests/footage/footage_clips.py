"""What the tests of this folder share: clips in any container, and how far two pictures are apart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from cinelora.config.schema import DataConfig
from cinelora.footage.prepared import Wanted
from cinelora.footage.samples import Manifest
from cinelora.footage.sources import find


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
    return find(data, Wanted(num_frames, fps, (48, 80), seed))
