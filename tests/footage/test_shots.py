"""Hard cuts are found, movement and flashes are not taken for cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from footage_clips import Put

from cinelora.footage.decode import open_video
from cinelora.footage.shots import find_cuts, find_shots, frame_jumps

REPO = Path(__file__).parents[2]
LABELLED = {"scene_cuts.mp4": [30, 76, 137, 187, 242], "bigbuckbunny.mp4": [], "h264_10bit.mp4": [], "av1.mkv": []}
"""First frame of each new shot, found by looking at the frames one by one."""


def shots_of(path: Path, backend: str | None = None) -> list[tuple[int, int]]:
    return find_shots(open_video(path, backend).thumbnails())  # type: ignore[arg-type]


def test_a_cut_between_two_scenes_is_found_to_the_frame(put: Put, street: np.ndarray, room: np.ndarray) -> None:
    path = put("cut.mp4", np.concatenate([street[:21], room[:19], street[20:]]))
    assert shots_of(path) == shots_of(path, "pyav") == [(0, 21), (21, 40), (40, 60)]


def test_a_cut_between_dark_scenes_that_are_alike_is_found() -> None:
    luma = [
        np.stack(list(open_video(path).thumbnails()))
        for path in sorted((REPO / "data" / "noir").rglob("*-room.mp4"))[:3]
    ]
    assert find_shots(np.concatenate(luma)) == [(0, 49), (49, 98), (98, 147)]


def test_a_moving_camera_is_one_shot(put: Put, street: np.ndarray, room: np.ndarray) -> None:
    assert shots_of(put("street.mp4", street)) == [(0, 40)]
    assert shots_of(put("room.mp4", room)) == [(0, 40)]


def test_a_flash_is_no_cut(street: np.ndarray) -> None:
    luma = street[..., 1].copy()
    luma[20] = 250
    assert find_shots(luma) == [(0, 40)]


def test_the_jumps_are_those_of_neighbouring_frames() -> None:
    frames = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 10, 90, 90, 90, 90)])
    assert frame_jumps(frames).tolist() == [0, 0, 80, 0, 0, 0]
    assert find_cuts(frame_jumps(frames)) == [2]
    assert find_shots(frames[:0]) == []


@pytest.mark.parametrize("name", LABELLED)
def test_the_cuts_of_real_clips(real: Path, name: str) -> None:
    assert [start for start, _ in shots_of(real / name)][1:] == LABELLED[name]
