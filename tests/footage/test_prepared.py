"""A film of known parts: what is found in it, what a person says of it, and what a second run costs."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from footage_clips import write_plainly
from PIL import Image, ImageDraw, ImageFont

from cinelora.config.schema import DataConfig, FootageLimits
from cinelora.errors import CineloraError, FootageError
from cinelora.families.wan21 import WAN21
from cinelora.footage import shot_detection, survey_pool
from cinelora.footage.build_dataset import (
    OVERRIDES,
    Judged,
    Prepared,
    Wanted,
    box_of,
    chosen,
    dataset,
    prepare,
    prepared_folder,
    read_overrides,
    whole_dataset,
)
from cinelora.footage.contact_sheet import card, lines, sheet
from cinelora.footage.copies import alike
from cinelora.footage.manifest import Manifest, Sample, write_manifest
from cinelora.footage.read_frames import read_frames
from cinelora.footage.scan_folder import content_hash
from cinelora.footage.shot_detection import PER_SAMPLE, Survey, load_survey, save_survey
from cinelora.footage.shot_filter import UNSEEN
from cinelora.footage.survey_pool import survey_path
from cinelora.io.atomic import sha256_file, write_json
from cinelora.io.plain_data import read_json
from tools.scale_model.render import draw_scene, render_scene

HEIGHT, WIDTH, BAR, FPS, LONG = 160, 240, 20, 24, 36
STILLS, WINDOWS = Wanted(1, 16, (HEIGHT, WIDTH), WAN21.geometry, 0), Wanted(17, 16, (HEIGHT, WIDTH), WAN21.geometry, 0)


def lettered(text: str) -> np.ndarray:
    image = Image.new("RGB", (WIDTH, HEIGHT - 2 * BAR))
    ImageDraw.Draw(image).multiline_text((20, 20), text, "white", ImageFont.load_default(20))
    return np.repeat(np.asarray(image)[None], LONG, 0)


def boxed(frames: np.ndarray) -> np.ndarray:
    return np.pad(frames, ((0, 0), (BAR, BAR), (0, 0), (0, 0)))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A folder with one letterboxed film, and the frames of its parts."""

    def scene(seed: int, **fixed: str) -> np.ndarray:
        drawn = draw_scene(seed, **fixed)
        return render_scene(drawn, "daylight", LONG, HEIGHT - 2 * BAR, WIDTH, FPS, grain=False).numpy()

    street, room, shop = scene(1, place="street", act="walks left"), scene(2, place="room"), scene(5, place="street")
    rng, rising = np.random.default_rng(0), np.linspace(0, 1, LONG // 2)[:, None, None, None]
    shaken = [np.roll(frame, rng.integers(-9, 10, 2), (0, 1)) for frame in np.repeat(shop[:1], LONG, 0)]
    half = LONG // 2
    pieces = {
        "leader": np.zeros_like(street),
        "title": lettered("NIGHT CITY\nA FILM IN NINE\nSHOTS"),
        "fade": (street[:half] * rising).astype(np.uint8),
        "street": street[half:],
        "room": room,
        "dark": (street * 0.02).astype(np.uint8),
        "blurred": np.stack([cv2.GaussianBlur(frame, (0, 0), 6) for frame in shop]),
        "burnt": np.clip(room.astype(int) + 235, 0, 255).astype(np.uint8),
        "frozen": np.repeat(street[20:21], LONG, 0),
        "shaken": np.stack(shaken),
        "again": room,
        "shop": shop[:half],
        "dissolve": (shop[half : half + 1] * (1 - rising) + street[half : half + 1] * rising).astype(np.uint8),
        "last": street[half:],
        "credits": lettered("WRITTEN BY A MACHINE\nLIT BY A LAMP"),
    }
    ends = np.cumsum([0, *map(len, pieces.values())]).tolist()
    root = tmp_path_factory.mktemp("film") / "my film"
    root.mkdir()
    write_plainly(root / "film.mp4", boxed(np.concatenate(list(pieces.values()))), FPS)
    (root / "film.txt").write_text("a city")
    return root, {name: (a, b) for name, a, b in zip(pieces, ends, ends[1:], strict=False)}


@pytest.fixture(scope="module")
def data(film: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(
        name="folder",
        root=str(film[0]),
        prepared=str(tmp_path_factory.mktemp("prepared")),
        limits=FootageLimits(min_seconds=0.4),
        lettering="plain",  # surveys of a network are of other names, and are tested beside it
    )


@pytest.fixture(scope="module")
def prepared(data: DataConfig) -> Prepared:
    return prepare(data, WINDOWS, 0)


def at(prepared: Prepared, span: tuple[int, int]) -> Judged:
    """The shot in the middle of a part."""
    middle = sum(span) // 2
    return next(judged for judged in prepared.shots if judged.shot.start <= middle < judged.shot.end)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("leader", "leader: blank"),
        ("title", "leader: lettering"),
        ("fade", "leader: a fade"),
        ("dark", "(blank|too dark)"),
        ("blurred", "blurred: 0"),
        ("burnt", "(blank|too bright)"),
        ("frozen", "stands still"),
        ("shaken", "(shaken|too fast)"),
        ("again", r"seen before: the same as film\.mp4@"),
        ("dissolve", "a fade or dissolve"),
        ("credits", "credits: lettering"),
    ],
)
def test_each_fault_is_named(
    prepared: Prepared, film: tuple[Path, dict[str, tuple[int, int]]], part: str, reason: str
) -> None:
    against = at(prepared, film[1][part]).against(moving=True)
    assert any(re.match(reason, one) for one in against), against


def test_good_shots_are_kept_and_lie_where_they_were_cut(
    prepared: Prepared, film: tuple[Path, dict[str, tuple[int, int]]]
) -> None:
    for part in ("street", "room", "shop", "last"):
        judged, (start, end) = at(prepared, film[1][part]), film[1][part]
        assert judged.against(moving=True) == ()
        near = 5 if part in ("street", "shop", "last") else 2  # beside a fade
        assert abs(judged.shot.start - start) <= near
        assert abs(judged.shot.end - end) <= near
    frozen = at(prepared, film[1]["frozen"])
    assert frozen.against(moving=False) == ()  # a picture that stands still is still a picture


def test_the_bars_are_cut_off(
    prepared: Prepared, film: tuple[Path, dict[str, tuple[int, int]]], data: DataConfig
) -> None:
    box = at(prepared, film[1]["room"]).box
    assert box is not None
    left, top, right, bottom = box
    assert (left, right) == (0, WIDTH)
    assert BAR < top <= BAR + 4
    assert HEIGHT - BAR - 4 <= bottom < HEIGHT - BAR
    assert box_of(None, (100, 100)) is None
    assert box_of((0.0, 0.0, 0.0, 0.0), (100, 100)) is None


def test_samples_stay_within_kept_shots(prepared: Prepared, data: DataConfig) -> None:
    manifest = whole_dataset(prepared, prepare(data, STILLS, 0), data, WINDOWS)
    kept = {judged.id: judged.shot for judged in prepared.shots if not judged.against(moving=False)}
    assert {sample.kind for sample in manifest.samples} == {"still", "window"}
    for sample in manifest.samples:
        assert any(shot.start <= sample.frames[0] <= sample.frames[-1] < shot.end for shot in kept.values())
        assert sample.caption == "a city"
    left = {(skipped.path, skipped.shot) for skipped in manifest.skipped}
    assert len(left) == sum(bool(judged.against(True) or judged.short) for judged in prepared.shots)
    assert all(skipped.reason for skipped in manifest.skipped)
    pixels = read_frames(Path(str(data.root)), manifest.samples[0], 32, 48)
    assert pixels.shape[1:3] == manifest.samples[0].size == (128, 256)  # 2.0 of its picture, bars apart


def test_a_limit_that_is_off_lets_through_and_costs_no_second_look(
    data: DataConfig, prepared: Prepared, film: tuple[Path, dict[str, tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("the footage was read again")

    monkeypatch.setattr(survey_pool, "survey_one", looked)
    lenient = replace(data, limits=replace(data.limits, still=None, alike=None, sharpness=0.01))
    found = prepare(lenient, WINDOWS, 0)
    for part in ("frozen", "again", "blurred"):
        assert at(found, film[1][part]).against(moving=True) == ()
    assert not prepare(replace(data, judged=False), WINDOWS, 0).shots[0].against(True)


def test_a_hand_outweighs_the_limits_and_is_outlived_by_nothing(
    data: DataConfig, prepared: Prepared, film: tuple[Path, dict[str, tuple[int, int]]]
) -> None:
    kept, gone = at(prepared, film[1]["blurred"]), at(prepared, film[1]["room"])
    path = prepared_folder(data) / OVERRIDES
    path.write_text(json.dumps({"verdicts": {kept.id: "keep", gone.id: "reject", "film.mp4@0-3": "keep"}}))
    try:
        again = prepare(data, WINDOWS, 0)
    finally:
        path.unlink()
    assert at(again, film[1]["blurred"]).against(True) == ()
    assert at(again, film[1]["room"]).against(True) == ("rejected by hand",)
    assert at(again, film[1]["again"]).against(True) == ()  # no copy of what was rejected
    assert again.notes == (
        "film.mp4@0-3 in overrides.json is no shot of this footage: it was cut differently, or moved",
    )


@pytest.mark.parametrize("content", ["[]", "{", '{"verdicts": 1}', '{"verdicts": {"a": "perhaps"}}', "\xff"])
def test_overrides_that_are_none_are_said(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CineloraError, match=r"mine\.json"):
        read_overrides(path, asked=True)
    with pytest.raises(FootageError, match="no such file"):
        read_overrides(tmp_path / "other.json", asked=True)
    assert read_overrides(tmp_path / "other.json", asked=False) == {}


def test_sheet_and_card_hold_every_shot_and_run_nothing_of_a_name(prepared: Prepared, data: DataConfig) -> None:
    nasty = replace(
        prepared, shots=(replace(prepared.shots[2], path="<script>alert(1)</script>|.mp4"), *prepared.shots)
    )
    manifest = whole_dataset(prepared, prepare(data, STILLS, 0), data, WINDOWS)
    html = sheet(nasty, manifest)
    assert html.count("<article") == len(nasty.shots)
    assert all(f'data-shot="{judged.id}"' in html for judged in prepared.shots)
    assert "<script>alert" not in html
    assert "default-src 'none'" in html
    text = card(nasty, manifest, data, WINDOWS)
    assert "| blurred | 1 |" in text
    said = "\n".join(lines(prepared, manifest))
    steering = replace(nasty, notes=("\x1b[31mred\r",), shots=(replace(prepared.shots[2], path="a\r.mp4"),))
    assert "\\x1b[31mred\\r" in lines(steering, manifest)
    assert 'data-shot="a&#13;.mp4@' in sheet(steering, manifest)
    for told in (html, text):
        assert str(data.root) not in told
    assert "1 shot left out: blurred" in said
    assert "1 shot without a window: stands still" in said


def test_nothing_in_the_footage_is_touched_and_a_second_run_reads_nothing(
    tmp_path: Path, film: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes((film[0] / "film.mp4").read_bytes() + name.encode())
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.iterdir()}
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x")
    surveyed: list[str] = []
    whole = survey_pool.survey_one

    def counted(task: survey_pool.Task, tick: object) -> survey_pool.Outcome:
        surveyed.append(task.path)
        return whole(task, tick)  # type: ignore[arg-type]

    monkeypatch.setattr(survey_pool, "survey_one", counted)
    first = prepare(data, WINDOWS, 0)
    assert surveyed == ["a.mp4", "b.mp4"]
    second = [judged for judged in first.shots if judged.path == "b.mp4" and not judged.shot.against]
    assert second
    assert all(judged.twin for judged in second)
    assert prepare(data, WINDOWS, 0) == first
    assert len(surveyed) == 2
    (root / "c.mp4").write_bytes((film[0] / "film.mp4").read_bytes())
    prepare(data, WINDOWS, 0)
    assert surveyed == ["a.mp4", "b.mp4", "c.mp4"]
    (root / "c.mp4").unlink()
    assert prepare(data, WINDOWS, 0) == first
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.iterdir()} == before
    with pytest.raises(FootageError, match="inside the footage"):
        prepare(replace(data, prepared=str(root / "prepared")), WINDOWS, 0)


@pytest.mark.parametrize("part_s", [4.0, 300.0])
def test_copies_and_moved_files_cost_no_second_pass(
    tmp_path: Path, film: tuple[Path, object], monkeypatch: pytest.MonkeyPatch, part_s: float
) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes((film[0] / "film.mp4").read_bytes())
    monkeypatch.setattr("cinelora.footage.shot_detection.PART_S", part_s)
    passes: list[float] = []
    whole = shot_detection.survey_part

    def counted(reader: object, start_s: float, *rest: object) -> object:
        passes.append(start_s)
        return whole(reader, start_s, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shot_detection, "survey_part", counted)
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x")
    both = prepare(data, WINDOWS, 0)
    assert passes == ([0.0, 4.0, 8.0, 12.0, 16.0] if part_s == 4 else [0.0])
    shots = {name: [judged.shot for judged in both.shots if judged.path == name] for name in ("a.mp4", "b.mp4")}
    assert shots["a.mp4"] == shots["b.mp4"]
    assert shots["a.mp4"][-1].end == 450
    (root / "a.mp4").rename(root / "c.mp4")
    moved = prepare(data, WINDOWS, 0)
    assert [judged.shot for judged in moved.shots if judged.path == "c.mp4"] == shots["a.mp4"]
    assert len(passes) == (5 if part_s == 4 else 1)
    assert not list((tmp_path / "prepared").rglob("*.part-*"))


def test_what_cannot_be_read_now_is_named_and_tried_again(
    tmp_path: Path, film: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    for name in ("gone.mp4", "locked.mp4", "there.mp4"):
        (root / name).write_bytes((film[0] / "film.mp4").read_bytes() + name.encode())
    whole = {name: getattr(survey_pool, name) for name in ("stamp", "content_hash")}

    def refused(which: str, name: str, error: OSError) -> None:
        def ask(path: Path, *alive: object) -> object:
            if path.name == name:
                raise error
            return whole[which](path, *alive)

        monkeypatch.setattr(survey_pool, which, ask)

    refused("stamp", "gone.mp4", FileNotFoundError(2, "No such file or directory"))
    refused("content_hash", "locked.mp4", PermissionError(13, "Permission denied"))
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x", judged=False)
    assert {left.path: left.reason for left in prepare(data, WINDOWS, 0).skipped} == {
        "gone.mp4": "it cannot be read: no such file or directory",
        "locked.mp4": "it cannot be read: permission denied",
    }
    monkeypatch.undo()
    assert prepare(data, WINDOWS, 0).skipped == ()


def test_what_is_damaged_in_the_prepared_folder_is_made_anew_or_named(tmp_path: Path) -> None:
    root, folder = tmp_path / "footage", tmp_path / "prepared"
    root.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)).save(root / "a.png")
    data = DataConfig(root=str(root), prepared=str(folder), caption="x")
    whole = prepare(data, STILLS, 0)
    for content in ("[]", "no JSON", '{"files": 3}'):
        (folder / "files.json").write_text(content)
        assert prepare(data, STILLS, 0) == whole
    survey = survey_pool.survey_path(folder, whole.files[0].survey)
    survey.write_bytes(b"junk")
    (left,) = prepare(data, STILLS, 0).skipped
    assert left.reason == f"its survey is damaged: delete {survey.relative_to(folder)} of the prepared folder"
    survey.unlink()
    assert prepare(data, STILLS, 0) == whole


def test_a_folder_that_cannot_be_made_is_said_in_words(film: tuple[Path, object]) -> None:
    data = DataConfig(root=str(film[0]), prepared="/proc/nowhere/prepared", caption="x")
    with pytest.raises(CineloraError, match=r"cannot write /proc/nowhere/prepared"):
        prepare(data, WINDOWS, 0)


def test_a_short_clip_that_gives_stills_is_not_called_left_out(data: DataConfig) -> None:
    long = replace(WINDOWS, num_frames=401)
    manifest = whole_dataset(prepare(data, long, 0), prepare(data, STILLS, 0), data, long)
    pictured = {sample.path for sample in manifest.samples}
    assert pictured == {"film.mp4"}
    whole_files = [left.reason for left in manifest.skipped if left.shot is None]
    assert all(reason.startswith("no window: ") for reason in whole_files)


def test_a_sequence_of_a_manifest_may_not_lead_out_by_its_pictures(tmp_path: Path) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    for number in range(1, 9):
        (root / f"a_{number}.png").symlink_to(tmp_path / "secret.png")
    sample = Sample("x", "a_[1-8].png", "", (0,), "x", "train", "still")
    write_manifest(tmp_path / "m.jsonl", Manifest((sample,), ()))
    data = DataConfig(root=str(root), manifest=str(tmp_path / "m.jsonl"))
    with pytest.raises(FootageError, match="is not in data.root"):
        chosen(data, STILLS)
    assert chosen(replace(data, follow_links=True), STILLS).samples == (sample,)


def test_processes_and_parts_give_the_same(
    tmp_path: Path, film: tuple[Path, object], data: DataConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = prepare(replace(data, prepared=str(tmp_path / "beside")), WINDOWS, 2)
    assert beside.shots == prepared.shots
    monkeypatch.setattr("cinelora.footage.shot_detection.PART_S", 4.0)
    parted = prepare(replace(data, prepared=str(tmp_path / "parted")), WINDOWS, 0)
    assert [(judged.id, judged.shot.against) for judged in parted.shots] == [
        (judged.id, judged.shot.against) for judged in prepared.shots
    ]
    assert not list((tmp_path / "parted").rglob("*.part-*"))


def test_a_decoder_that_crashes_or_hangs_costs_its_file_alone(
    tmp_path: Path, film: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (root / name).write_bytes((film[0] / "film.mp4").read_bytes() + name.encode())
    monkeypatch.setattr(survey_pool, "_in_process", _broken)
    monkeypatch.setattr(survey_pool, "HANG_S", 8.0)
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x", judged=False)
    found = prepare(data, WINDOWS, 2)
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert reasons == {"a.mp4": "its decoder crashes", "b.mp4": "its decoder hangs"}
    assert {judged.path for judged in found.shots} == {"c.mp4"}
    monkeypatch.undo()
    assert prepare(data, WINDOWS, 0).skipped == ()  # what crashes today is tried again


def test_a_file_whose_progress_is_unknown_is_not_taken_to_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have no length in its header, or be so large that its hash alone takes minutes."""
    counter, moved = multiprocessing.get_context("spawn").Value("d", 0.0), list[float]()

    def survey(task: survey_pool.Task, tick: Callable[[float], None]) -> survey_pool.Outcome:
        def alive() -> None:
            tick(0.0)
            moved.append(counter.value)

        content_hash(task.root / task.path, alive)
        return survey_pool.Outcome("x")

    (tmp_path / "a.mp4").write_bytes(bytes(range(10)))
    monkeypatch.setattr(survey_pool, "_moved", counter)
    monkeypatch.setattr(survey_pool, "survey_one", survey)
    monkeypatch.setattr("cinelora.footage.scan_folder.HASHED_AT_ONCE", 4)
    survey_pool._in_process(survey_pool.Task(tmp_path, tmp_path, "a.mp4", 10))
    assert moved == [1.0, 2.0, 3.0]
    assert content_hash(tmp_path / "a.mp4") == sha256_file(tmp_path / "a.mp4")


def test_a_program_without_a_main_guard_is_told(tmp_path: Path, film: tuple[Path, object]) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from cinelora.config.schema import DataConfig\n"
        "from cinelora.footage.build_dataset import Wanted, prepare\n"
        "from cinelora.families.wan21 import WAN21\n"
        "wanted = Wanted(1, 16, (48, 80), WAN21.geometry, 0)\n"
        f"prepare(DataConfig(root={str(film[0])!r}, prepared={str(tmp_path / 'prepared')!r}), wanted, 2)\n"
    )
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=600)
    assert "no process that reads footage could be started" in ended.stderr
    assert not (tmp_path / "prepared" / "files.json").exists()


_work = survey_pool._in_process


def _broken(task: survey_pool.Task) -> survey_pool.Outcome:
    """What two files of three do to a decoder."""
    import os

    if task.path == "a.mp4":
        os.abort()
    if task.path == "b.mp4":
        time.sleep(3600)
    return _work(task)


def test_hashes_alike_are_found_whatever_the_block() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (300, 3), dtype=np.uint64)
    hashes[200] = hashes[17] ^ np.uint64(0b1011)
    hashes[299] = hashes[200]
    expected = np.arange(300)
    expected[[200, 299]] = 17
    for block in (7, 64, 1024):
        assert np.array_equal(alike(hashes, 6, block), expected)
    assert np.array_equal(alike(hashes, 2.9, 64)[[200, 299]], [200, 200])


def test_a_manifest_of_ones_own_is_taken_as_it_stands(tmp_path: Path, prepared: Prepared, data: DataConfig) -> None:
    from cinelora.footage.manifest import write_manifest
    from cinelora.footage.sample_source import find

    manifest = whole_dataset(prepared, prepare(data, STILLS, 0), data, WINDOWS)
    chosen = replace(manifest, samples=manifest.samples[:3])
    write_manifest(tmp_path / "manifest.jsonl", chosen)
    named = replace(data, manifest=str(tmp_path / "manifest.jsonl"))
    assert find(named, WINDOWS).samples == tuple(s for s in chosen.samples if s.kind == "window")
    with pytest.raises(FootageError, match=r"holds samples of .*, none of 49"):
        find(named, replace(WINDOWS, num_frames=49))
    write_manifest(
        tmp_path / "manifest.jsonl", replace(chosen, samples=(replace(chosen.samples[0], path="../out.mp4"),))
    )
    with pytest.raises(FootageError, match=r"names \.\./out\.mp4, which is not in data\.root"):
        find(named, WINDOWS)


def test_what_is_left_of_nothing_is_said(tmp_path: Path) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    write_plainly(root / "black.mp4", np.zeros((24, 48, 80, 3), np.uint8), 24)
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x")
    with pytest.raises(FootageError, match=r"none of the 1 shots .*black\.mp4@0-24 \(blank"):
        dataset(prepare(data, WINDOWS, 0), data, WINDOWS)


def test_where_prepared_footage_lies(tmp_path: Path) -> None:
    one, other = (prepared_folder(DataConfig(root=str(tmp_path / name / "my film!"))) for name in "ab")
    assert one != other
    assert re.fullmatch(r"outputs/datasets/my-film-[0-9a-f]{8}", str(one))
    assert prepared_folder(DataConfig(root="x", prepared="here")) == Path("here")


def test_av_is_quiet_about_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a film" * 100)
    data = DataConfig(root=str(tmp_path), prepared=str(tmp_path.parent / "prepared-quiet"), caption="x")
    assert prepare(data, WINDOWS, 0).skipped
    assert capfd.readouterr() == ("", "")
    assert av.__version__


# pictures -------------------------------------------------------------------------------------------------------------


def scene(seed: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A picture with shapes large and small."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (size[0] // 40, size[1] // 40, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    small = rng.integers(-12, 13, (size[0] // 8, size[1] // 8, 1)).repeat(8, 0).repeat(8, 1)
    return np.clip(picture + small, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Pictures with a fault each, prepared."""
    root = tmp_path_factory.mktemp("stills") / "pictures"
    root.mkdir()
    picture = scene(0)
    Image.fromarray(picture).save(root / "a.png")
    shutil.copy(root / "a.png", root / "byte-copy.png")
    Image.fromarray(picture).resize((240, 180)).save(root / "smaller-copy.jpg", quality=80)
    for number in range(1, 6):
        Image.fromarray(scene(number)).save(root / f"other-{number}.png")
    boxed = np.zeros_like(picture)
    boxed[32:-32] = scene(7)[32:-32]
    Image.fromarray(boxed).save(root / "letterbox.png")
    studio = np.zeros_like(picture)
    yy, xx = np.mgrid[:240, :320]
    studio[((yy - 120) / 90) ** 2 + ((xx - 160) / 110) ** 2 < 1] = (180, 120, 90)
    Image.fromarray(studio).save(root / "on-black.png")
    Image.fromarray(np.full_like(picture, 128)).save(root / "gray-card.png")
    shutil.copy(root / "gray-card.png", root / "gray-card-again.png")
    pale = np.random.default_rng(9).integers(110, 147, (30, 40, 1)).repeat(8, 0).repeat(8, 1).repeat(3, 2)
    Image.fromarray(pale.astype(np.uint8)).save(root / "pale.png")  # shows too little for a hash
    shutil.copy(root / "pale.png", root / "pale-again.png")
    Image.fromarray(lettered("A TITLE ON A CARD\nAND MORE OF IT")[0]).save(root / "title.png")
    Image.fromarray(cv2.GaussianBlur(picture[:, ::-1], (0, 0), 12)).save(root / "blurred.png")
    data = DataConfig(name="f", root=str(root), prepared=str(root.parent / "prepared"), caption="x")
    return prepare(data, Wanted(1, 16, (112, 192), WAN21.geometry, 0), 0)


def test_pictures_are_filtered_as_films_are(stills: Prepared) -> None:
    against = {judged.path: "; ".join(judged.against(False)) for judged in stills.shots}
    faults = {path: reason.partition(":")[0] for path, reason in against.items() if reason}
    assert faults == {
        "blurred.png": "blurred",
        "byte-copy.png": "seen before",
        "gray-card-again.png": "blank",
        "gray-card.png": "blank",
        "pale.png": "seen before",
        "smaller-copy.jpg": "seen before",
        "title.png": faults["title.png"],
    }
    assert faults["title.png"].startswith("lettering on ")
    boxes = {judged.path: judged.box for judged in stills.shots if judged.box}
    assert boxes == {"letterbox.png": (0, 34, 320, 206)}


def test_what_a_still_has_not_is_not_measured_and_the_sheet_says_so(stills: Prepared) -> None:
    measures = next(judged.shot.measures for judged in stills.shots if judged.path == "a.png")
    absent = {name for name, value in measures.items() if value is None}
    assert absent == {"seconds", "motion", "shake", "repeats", "logo"}
    page = sheet(stills, Manifest((), ()))
    assert "logo not measured" in page
    assert "no picture" not in page


def test_pictures_surveyed_by_an_older_version_are_surveyed_again_and_films_are_not(tmp_path: Path) -> None:
    root, folder = tmp_path / "footage", tmp_path / "prepared"
    root.mkdir()
    Image.fromarray(scene(0)).save(root / "a.png")
    write_plainly(root / "film.mp4", np.stack([scene(1, (48, 64))] * 12), 16)
    data = DataConfig(name="f", root=str(root), prepared=str(folder), caption="x")
    wanted = Wanted(1, 16, (112, 192), WAN21.geometry, 0)
    prepare(data, wanted, 0)
    # as version 0.1 left them: no sampled picture of the still, and a ledger that says nothing of a version of stills
    surveys = {file.path: survey_path(folder, file.survey) for file in survey_pool.read_ledger(folder).values()}
    old = load_survey(surveys["a.png"])
    assert old is not None
    empty = {name: value[:0] for name, value in old.arrays.items() if name in (*PER_SAMPLE, "thumbs")}
    save_survey(surveys["a.png"], Survey(old.about, old.arrays | empty))
    ledger = read_json(folder / survey_pool.LEDGER)
    write_json(folder / survey_pool.LEDGER, ledger | {"version": ledger["version"][:-1]})
    before = surveys["film.mp4"].stat().st_mtime_ns
    again = prepare(data, wanted, 0)
    assert surveys["film.mp4"].stat().st_mtime_ns == before
    assert [judged.shot.samples for judged in again.shots if judged.path == "a.png"] == [(0,)]
    assert again.skipped == ()


def test_lettering_that_could_not_be_looked_for_is_not_taken_for_none(tmp_path: Path) -> None:
    film = np.stack([scene(1, (96, 128))] * 20 + [scene(2, (96, 128))] * 2 + [scene(3, (96, 128))] * 20)
    (tmp_path / "f").mkdir()
    write_plainly(tmp_path / "f" / "film.mp4", film, 16)
    data = DataConfig(name="f", root=str(tmp_path / "f"), prepared=str(tmp_path / "p"), caption="x")
    data.limits.min_seconds = None
    shots = prepare(data, Wanted(1, 16, (112, 192), WAN21.geometry, 0), 0).shots
    assert [judged.against(False) for judged in shots] == [(), (UNSEEN,), ()]


def test_a_flood_of_one_kind_is_one_line_and_hides_no_film(tmp_path: Path) -> None:
    footage = tmp_path / "flood"
    footage.mkdir()
    for number in range(60):
        (footage / f"A001_{number:04}.dpx").write_bytes(b"SDPX")
    (footage / "z_broken.mp4").write_bytes(b"x" * 900)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)).save(footage / "still.png")
    data = DataConfig(name="folder", root=str(footage), prepared=str(tmp_path / "prepared"), caption="x")
    prepared = prepare(data, STILLS)
    said = lines(prepared, Manifest((), prepared.skipped))
    assert said[0] == "files: 1 read, 61 left out"
    assert said[5].startswith("  left out z_broken.mp4: ")
    assert said[6] == "  left out A001_0000.dpx and 59 more files like it: files of the kind .dpx are not read"
