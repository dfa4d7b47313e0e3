"""From a folder to a manifest, and from the manifest to pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from footage_clips import Put, mean_difference, scan, write_plainly

from cinelora.errors import FootageError
from cinelora.footage.manifest import Manifest, Sample, Skipped, read_manifest, write_manifest
from cinelora.footage.read_frames import cover_box, read_frames

Scan = Callable[..., Manifest]


@pytest.fixture
def look(footage: Path) -> Scan:
    """Scan the footage folder with settings that a test may change."""

    def run(**changed: object) -> Manifest:
        settings: dict[str, object] = {
            "num_frames": 17,
            "fps": 16,
            "caption": None,
            "trigger": None,
            "holdout": 0.0,
            "stills_per_shot": 2,
            "window_stride": 17,
            "seed": 0,
        }
        return scan(footage, **{**settings, **changed})  # type: ignore[arg-type]

    return run


# -- windows and stills ------------------------------------------------------------------------------------------------


def test_windows_do_not_cross_a_cut(look: Scan, put: Put, street: np.ndarray, room: np.ndarray) -> None:
    put("cut.mp4", np.concatenate([street[:30], room[:25]]))
    spans = [(sample.frames[0], sample.frames[-1]) for sample in look(window_stride=4).samples]
    assert spans == [(0, 16), (4, 20), (8, 24), (12, 28), (30, 46), (34, 50), (38, 54)]


def test_stills_come_from_every_shot(look: Scan, put: Put, street: np.ndarray, room: np.ndarray) -> None:
    put("cut.mp4", np.concatenate([street[:20], room[:20]]))
    samples = look(num_frames=1).samples
    assert [sample.frames for sample in samples] == [(5,), (14,), (25,), (34,)]
    assert {sample.kind for sample in samples} == {"still"}
    assert len({sample.id for sample in samples}) == 4


def test_too_short_for_a_window_is_said_with_numbers(look: Scan, put: Put, street: np.ndarray) -> None:
    put("long.mp4", street)
    put("short.mp4", street[:20])
    manifest = look(num_frames=33)
    assert manifest.skipped == (Skipped("short.mp4", "lasts 20 frames at 16 fps; a window needs 33"),)
    assert [sample.path for sample in manifest.samples] == ["long.mp4"]


# -- damaged files -----------------------------------------------------------------------------------------------------


def test_damaged_clips_are_named_and_the_rest_is_used(look: Scan, put: Put, footage: Path, street: np.ndarray) -> None:
    put("good.mp4", street)
    whole = put("middle.mp4", street).read_bytes()
    (footage / "middle.mp4").write_bytes(whole[: len(whole) * 6 // 10])  # the index is at the front
    write_plainly(footage / "index_lost.mov", street, 16)
    lost = (footage / "index_lost.mov").read_bytes()
    (footage / "index_lost.mov").write_bytes(lost[: len(lost) * 6 // 10])  # the index was at the end
    write_plainly(footage / "stream.mkv", street, 16)
    stream = (footage / "stream.mkv").read_bytes()
    (footage / "stream.mkv").write_bytes(stream[: len(stream) * 6 // 10])
    (footage / "empty.mp4").write_bytes(b"")
    (footage / "letter.mp4").write_text("dear editor, " * 50)
    write_sound_alone(footage / "sound.mp4")
    manifest = look(caption="x")
    reasons = {clip.path: clip.reason for clip in manifest.skipped}
    assert list(reasons) == sorted(reasons)
    assert set(reasons) == {"index_lost.mov", "empty.mp4", "letter.mp4", "sound.mp4"}
    assert reasons["empty.mp4"] == "the file is empty"
    assert "no video" in reasons["sound.mp4"]
    assert all("\n" not in reason and str(footage) not in reason for reason in reasons.values())
    assert {sample.path for sample in manifest.samples} == {"good.mp4", "middle.mp4", "stream.mkv"}


def write_sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_nothing_usable_is_an_error_with_the_reasons(look: Scan, footage: Path) -> None:
    for name in "abcd":
        (footage / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(FootageError, match=r"none of the 4 clips .*a\.mp4 \(the file is empty\).*and 1 more"):
        look(caption="x")


def test_missing_and_empty_folders_are_said(look: Scan, footage: Path) -> None:
    with pytest.raises(FootageError, match=r"no clips in .*mp4"):
        look()
    footage.rmdir()
    with pytest.raises(FootageError, match=r"no footage folder at .*data\.root"):
        look()


def test_links_that_lead_out_are_not_followed(
    look: Scan, put: Put, footage: Path, tmp_path: Path, street: np.ndarray
) -> None:
    put("inside.mp4", street)
    outside = tmp_path / "outside"
    outside.mkdir()
    (footage / "inside.mp4").rename(outside / "film.mp4")
    put("inside.mp4", street)
    (footage / "link.mp4").symlink_to(outside / "film.mp4")
    (footage / "folder").symlink_to(outside)
    (footage / "again.mp4").symlink_to(footage / "inside.mp4")
    manifest = look(caption="x")
    assert [clip.path for clip in manifest.skipped] == ["folder", "link.mp4"]
    assert {clip.reason for clip in manifest.skipped} == {
        "the link leads out of the footage folder: data.follow_links=true follows it"
    }
    assert {sample.path for sample in manifest.samples} == {"again.mp4", "inside.mp4"}
    (footage / "inside.txt").unlink()
    (outside / "secret.txt").write_text("secret")
    (footage / "inside.txt").symlink_to(outside / "secret.txt")
    with pytest.raises(FootageError, match="leads out of the footage folder"):
        look()


# -- captions ----------------------------------------------------------------------------------------------------------


def test_whose_caption_counts(look: Scan, put: Put, footage: Path, street: np.ndarray) -> None:
    put("a.mp4", street[:17], caption="beside it: \u00e9, = {x}")
    put("sub/b.mp4", street[:18], caption=None)
    lines = [{"file_name": "sub/b.mp4", "text": "listed"}, {"file_name": "a.mp4", "text": "not this"}]
    (footage / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [sample.caption for sample in look().samples] == ["beside it: \u00e9, = {x}", "listed"]
    assert [sample.caption for sample in look(trigger="noirlook").samples][1] == "noirlook, listed"
    assert {sample.caption for sample in look(caption="one for all").samples} == {"one for all"}


def test_a_clip_is_trained_with_each_line_of_its_caption_and_held_out_with_the_first(
    look: Scan, put: Put, street: np.ndarray
) -> None:
    put("train/a.mp4", street[:40], caption="a man walks on a street\n\n  a man\nnoirlook, a street  ")
    put("train/b.mp4", street[:20], caption="one line")
    put("heldout/c.mp4", street[:18], caption="two men\nmen")
    samples = look(caption_lines="each", trigger="noirlook").samples
    a, b, c = "noirlook, a man walks on a street", "noirlook, one line", "noirlook, two men"
    assert [(sample.id, sample.caption) for sample in samples] == [
        ("heldout/c.mp4@0-16", c),
        ("train/a.mp4@0-16", a),
        ("train/a.mp4@0-16#1", "noirlook, a man"),
        ("train/a.mp4@0-16#2", "noirlook, a street"),
        ("train/a.mp4@17-33", a),
        ("train/a.mp4@17-33#1", "noirlook, a man"),
        ("train/a.mp4@17-33#2", "noirlook, a street"),
        ("train/b.mp4@0-16", b),
    ]
    # the same pixels are encoded once, whatever is said of them
    assert len({(sample.file_hash, sample.frames) for sample in samples}) == 4
    # without the setting a text is one caption, whatever lines it has
    assert look().samples[0].caption == "two men\nmen"
    first = ["two men", "a man walks on a street", "a man walks on a street", "one line"]
    assert [sample.caption for sample in look(caption_lines="first").samples] == first
    assert [sample.caption for sample in look(caption="x\ny", caption_lines="each").samples[1:3]] == ["x", "y"]


def test_a_missing_caption_stops_with_the_ways_out(look: Scan, put: Put, footage: Path, street: np.ndarray) -> None:
    put("a.mp4", street)
    put("b.mp4", street, caption=None)
    put("c.mp4", street, caption="  ")
    (footage / "broken.mp4").write_bytes(b"")
    with pytest.raises(FootageError, match=r"no caption for b\.mp4 and 1 more .*data\.caption=.*b\.txt"):
        look()


@pytest.mark.parametrize("line", ["not json", '{"file": "a.mp4"}', "[1]"])
def test_a_bad_caption_list_names_its_line(look: Scan, put: Put, footage: Path, street: np.ndarray, line: str) -> None:
    put("a.mp4", street)
    (footage / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "x"}\n' + line + "\n")
    with pytest.raises(FootageError, match=r"metadata\.jsonl, line 2"):
        look()


def test_a_caption_that_is_not_utf8_is_said(look: Scan, put: Put, street: np.ndarray) -> None:
    put("a.mp4", street).with_suffix(".txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(FootageError, match=r"a\.txt is not UTF-8"):
        look()


# -- split -------------------------------------------------------------------------------------------------------------


def test_whole_clips_are_held_out(look: Scan, put: Put, street: np.ndarray) -> None:
    for index in range(5):
        put(f"{index}.mp4", np.roll(street, index, axis=2))
    samples = look(holdout=0.4, window_stride=10).samples
    sides = {name: {s.split for s in samples if s.path == name} for name in {s.path for s in samples}}
    assert all(len(splits) == 1 for splits in sides.values())
    assert sorted(next(iter(splits)) for splits in sides.values()) == ["heldout"] * 2 + ["train"] * 3
    assert look(holdout=0.4, window_stride=10).samples == samples
    seeds = {tuple(s.path for s in look(holdout=0.4, seed=seed).samples if s.split == "heldout") for seed in range(6)}
    assert len(seeds) > 1


def test_small_shares_still_hold_one_out_and_copies_go_together(look: Scan, put: Put, street: np.ndarray) -> None:
    put("a.mp4", street)
    assert {sample.split for sample in look(holdout=0.9).samples} == {"train"}
    copy = put("b.mp4", street)
    copy.write_bytes((copy.parent / "a.mp4").read_bytes())
    put("c.mp4", street[:30])
    by_path = {sample.path: sample.split for sample in look(holdout=0.01).samples}
    assert sorted(set(by_path.values())) == ["heldout", "train"]
    assert by_path["a.mp4"] == by_path["b.mp4"]
    assert {sample.split for sample in look(holdout=0.0).samples} == {"train"}


def test_folders_decide_where_both_are_there(look: Scan, put: Put, street: np.ndarray) -> None:
    put("train/a.mp4", street)
    put("train/b.mp4", street[:30])
    put("heldout/c.mp4", street[:35])
    splits = {sample.path: sample.split for sample in look(holdout=0.5).samples}
    assert splits == {"train/a.mp4": "train", "train/b.mp4": "train", "heldout/c.mp4": "heldout"}


# -- manifest and pixels -----------------------------------------------------------------------------------------------


def test_the_manifest_comes_back_and_does_not_change(
    look: Scan, put: Put, footage: Path, tmp_path: Path, street: np.ndarray
) -> None:
    put("Z.MP4".lower(), street, caption='says "yes" — twice')
    put("a.mkv", street)
    (footage / "broken.mp4").write_bytes(b"")
    (footage / "._a.mp4").write_bytes(b"left by another system")
    manifest = look()
    assert [sample.path for sample in manifest.samples] == ["a.mkv"] * 2 + ["z.mp4"] * 2
    assert manifest.samples[0].file_hash == hashlib.sha256((footage / "a.mkv").read_bytes()).hexdigest()
    write_manifest(tmp_path / "manifest.jsonl", manifest)
    assert read_manifest(tmp_path / "manifest.jsonl") == manifest == look()
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("content", ["{}\n", '{"path": 1}\n', "[]\n", "{"])
def test_a_damaged_manifest_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(FootageError, match="line 1"):
        read_manifest(tmp_path / "manifest.jsonl")
    with pytest.raises(FootageError, match="no manifest"):
        read_manifest(tmp_path / "other.jsonl")


def test_pixels_are_those_of_the_frames(look: Scan, put: Put, footage: Path, street: np.ndarray) -> None:
    put("a.mp4", street)
    sample = look(window_stride=20).samples[1]
    video = read_frames(footage, sample, 48, 80)
    assert (video.shape, video.dtype) == ((17, 48, 80, 3), np.uint8)
    assert mean_difference(video, street[20:37]) < 4
    assert read_frames(footage, sample, 24, 24).shape == (17, 24, 24, 3)


def test_a_sample_has_a_box_a_size_and_mixed_frames(put: Put, footage: Path, street: np.ndarray) -> None:
    put("a.mp4", street)
    whole = read_frames(footage, Sample("a", "a.mp4", "0", (4, 5, 6), "", "train", "window"), 48, 80).astype(int)
    boxed = Sample("a", "a.mp4", "0", (4, 5), "", "train", "window", box=(16, 8, 64, 40), size=(32, 48))
    assert np.array_equal(read_frames(footage, boxed, 48, 80), whole[:2, 8:40, 16:64])
    mixed = Sample("a", "a.mp4", "0", (4, 4, 5), "", "train", "window", weights=(0.0, 0.25, 0.5))
    expected = [whole[0], 0.75 * whole[0] + 0.25 * whole[1], 0.5 * whole[1] + 0.5 * whole[2]]
    assert np.abs(read_frames(footage, mixed, 48, 80) - np.stack(expected)).max() <= 0.5


def test_the_frame_is_covered_evenly() -> None:
    assert cover_box((48, 80), 1.0, 24, 40) == (0, 0, 80, 48)
    assert cover_box((48, 80), 1.0, 10, 10) == (16, 0, 64, 48)
    assert cover_box((80, 48), 1.0, 10, 10) == (0, 16, 48, 64)
    assert cover_box((48, 60), 4 / 3, 48, 80) == pytest.approx((0, 0, 60, 48))


def test_reading_leaves_no_way_out_of_the_folder(footage: Path, tmp_path: Path, street: np.ndarray) -> None:
    write_plainly(tmp_path / "out.mp4", street[:4], 16)
    for path in ("../out.mp4", "gone.mp4", str(tmp_path / "out.mp4")):
        with pytest.raises(FootageError, match="not in"):
            read_frames(footage, Sample("x", path, "0", (0,), "", "train", "still"), 48, 80)


def test_real_footage_end_to_end(real: Path, tmp_path: Path) -> None:
    settings = {"caption": "x", "holdout": 0.2, "prepared": str(tmp_path / "prepared")}
    stills = scan(real, num_frames=1, stills_per_shot=1, **settings)
    assert stills.skipped == ()
    assert len({sample.path for sample in stills.samples}) == 5
    windows = scan(real, num_frames=33, **settings)
    assert {clip.path for clip in windows.skipped} == {"h264_10bit.mp4", "scene_cuts.mp4"}
    cuts = [30, 76, 137, 187, 242]
    for sample in (sample for sample in windows.samples if sample.path == "scene_cuts.mp4"):
        assert not any(sample.frames[0] < cut <= sample.frames[-1] for cut in cuts)
    window = next(sample for sample in windows.samples if sample.path == "av1.mkv")
    assert read_frames(real, window, 112, 192).shape == (33, 112, 192, 3)
