"""Interlaced and telecined films are found, and read as whole frames; progressive ones are left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from footage_clips import as_frames, scan, write_plainly

from cinelora.config.schema import DataConfig
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Prepared, Wanted, prepare
from cinelora.footage.interlaced import is_suspect, measured, whole_frames
from cinelora.footage.read_frames import read_frames
from cinelora.footage.scan_folder import open_clip

HEIGHT, WIDTH = 96, 160
WANTED = Wanted(5, 16, (HEIGHT, WIDTH), WAN21.geometry, 0)


def moving(count: int, speed: int = 3, seed: int = 0) -> np.ndarray:
    """``count`` moments of a pan over boxes."""
    random = np.random.default_rng(seed)
    wide = cv2.resize(random.integers(20, 235, (6, 60, 3), np.uint8), (WIDTH + speed * count, HEIGHT))
    for _ in range(60):
        x, y, side = random.integers(0, wide.shape[1]), random.integers(0, HEIGHT), random.integers(6, 28)
        cv2.rectangle(wide, (int(x), int(y)), (int(x + side), int(y + side)), random.integers(0, 255, 3).tolist(), -1)
    return np.stack([wide[:, speed * n : speed * n + WIDTH] for n in range(count)])


def woven(first: np.ndarray, second: np.ndarray, upper_first: bool = True) -> np.ndarray:
    frames = first.copy()
    rows = slice(1 if upper_first else 0, None, 2)
    frames[..., rows, :, :] = second[..., rows, :, :]
    return frames


def telecined(film: np.ndarray) -> np.ndarray:
    """24 frames as 30: of four frames A B C D come A, B, B/C, C/D, D."""
    fours = (film[n : n + 4] for n in range(0, len(film) - 3, 4))
    return np.concatenate([np.stack([a, b, woven(b, c), woven(c, d), d]) for a, b, c, d in fours])


MOMENTS = moving(120)
FILMS = {
    "tff": woven(MOMENTS[::2], MOMENTS[1::2]),
    "bff": woven(MOMENTS[::2], MOMENTS[1::2], upper_first=False),
    "tff film": telecined(MOMENTS[::2]),
    "": MOMENTS[::2],
}


def numbered(video: np.ndarray, start: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
    yield from ((start + number, frame) for number, frame in enumerate(as_frames(video)))


@pytest.mark.parametrize("fields", FILMS)
def test_fields_are_measured_and_made_whole(fields: str) -> None:
    video = FILMS[fields]
    assert measured([as_frames(video[:40])]) == fields
    combed = [is_suspect(frame) for frame in as_frames(video)]
    assert any(combed) == bool(fields)
    if fields:
        whole = list(whole_frames(numbered(video), fields))
        assert [number for number, _ in whole] == list(range(len(video)))
        assert not any(is_suspect(frame) for _, frame in whole)


def test_telecined_film_has_its_own_frames_again() -> None:
    whole = [frame.to_ndarray(format="rgb24") for _, frame in whole_frames(numbered(FILMS["tff film"]), "tff film")]
    film = [frame.to_ndarray(format="rgb24") for frame in as_frames(MOMENTS[::2])]
    nearest = [min(range(60), key=lambda n: float(np.abs(film[n].astype(int) - frame).mean())) for frame in whole]
    apart = [float(np.abs(film[n].astype(int) - frame).mean()) for n, frame in zip(nearest, whole, strict=True)]
    assert nearest == sorted(nearest)
    assert set(nearest) >= set(range(1, 59))
    assert np.median(apart) < 0.5


def test_a_frame_is_the_same_wherever_reading_begins() -> None:
    for fields in ("tff", "tff film"):
        whole = dict(whole_frames(numbered(FILMS[fields]), fields))
        part = dict(whole_frames(numbered(FILMS[fields][17:28], 17), fields))
        assert all(np.array_equal(part[n].to_ndarray(), whole[n].to_ndarray()) for n in range(20, 25))


def prepared(root: Path, interlaced: str) -> Prepared:
    data = DataConfig(name="folder", root=str(root), prepared=str(root.parent / "prepared"), interlaced=interlaced)
    data.lettering = "plain"
    return prepare(data, WANTED)


def test_an_interlaced_film_is_trained_on_without_combs(footage: Path) -> None:
    write_plainly(footage / "50i.mp4", FILMS["tff"], 25)
    write_plainly(footage / "25p.mp4", FILMS[""], 25)
    found = prepared(footage, "auto")
    assert found.notes == ("50i.mp4: it is interlaced, upper field first; it is deinterlaced",)
    fields = {"50i.mp4": "tff", "25p.mp4": ""}
    samples = scan(footage, num_frames=5, caption="x").samples
    assert {sample.path: sample.fields for sample in samples} == fields
    for sample in samples:
        frames = read_frames(footage, sample, HEIGHT, WIDTH)
        assert not any(is_suspect(frame) for frame in as_frames(frames))
    # survey and reader see the same
    reader = open_clip(footage / "50i.mp4", fields="tff")
    for (_, small), frame in zip(reader.scaled(HEIGHT, WIDTH), reader.frames(range(60)), strict=True):
        assert np.abs(small.mean(2) - frame.mean(2)).mean() < 2  # colours are scaled otherwise


def test_interlaced_film_is_refused_or_kept_where_that_is_said(footage: Path) -> None:
    write_plainly(footage / "50i.mp4", FILMS["tff"], 25)
    write_plainly(footage / "25p.mp4", FILMS[""], 25)
    kept = prepared(footage, "keep")
    assert (kept.notes, {shot.about.fields for shot in kept.shots}) == ((), {""})
    for _ in range(2):  # as it was surveyed for another answer before, and as it was refused before
        (left,) = prepared(footage, "refuse").skipped
        assert left.path == "50i.mp4"
        assert left.reason == "it is interlaced, upper field first: data.interlaced=auto makes its frames whole"
        assert prepared(footage, "auto").skipped == ()
