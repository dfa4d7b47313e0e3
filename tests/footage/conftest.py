"""Small rendered clips, written as a user's footage would lie on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from footage_clips import Put, write_plainly
from numpy.typing import NDArray

from cinelora.io.media import write_mp4
from tools.scale_model.render import draw_scene, render_scene

Pixels = NDArray[np.uint8]
REAL = Path(__file__).parents[3] / "shared" / "footage"


@pytest.fixture(scope="session")
def street() -> Pixels:
    # without saturated colours, which 4:2:0 blurs at this size
    scene = draw_scene(1, place="street", act="walks left", coat="black", car=None, time="noon", weather="dry")
    return render_scene(scene, "daylight", 40, 48, 80, 16).numpy()


@pytest.fixture(scope="session")
def room() -> Pixels:
    return render_scene(draw_scene(2, place="room", act="walks left"), "noir", 40, 48, 80, 16).numpy()


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    folder.mkdir()
    return folder


@pytest.fixture
def put(footage: Path) -> Put:
    """Write a clip below the footage folder, with a caption unless told otherwise."""

    def write(name: str, video: Pixels, fps: int = 16, caption: str | None = "a caption") -> Path:
        path = footage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            write_mp4(path, video, fps)
        else:
            write_plainly(path, video, fps)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"no real footage beside the repository ({REAL.name} folder in shared)")
    return REAL
