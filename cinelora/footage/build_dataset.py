"""Footage in, dataset out: a folder enters, its shots leave, each with a verdict, and a manifest of what can be trained on.

The folder itself is never written to. What is known of it lies in the prepared folder: surveys, captions, and the verdicts a
person gave by hand (``overrides.json``), which outlive every re-run. All else is derived from the surveys again each time,
so that a manifest is never older than its footage.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, product
from pathlib import Path
from typing import Literal, TypedDict, cast

import numpy as np

from cinelora.config.schema import DataConfig
from cinelora.errors import FileError, FootageError
from cinelora.families.family import Geometry
from cinelora.footage.buckets import Size, bucket, shown, window_length
from cinelora.footage.captions import Captions, find_captions, lines_of, refuse_missing, whole_caption
from cinelora.footage.copies import Look, copies, look_of
from cinelora.footage.cut_detector import CutDetector, cut_detector
from cinelora.footage.frame_selection import (
    LEAST_NEW,
    Window,
    even_stills,
    new_share,
    resampled,
    sharp_stills,
    windows,
)
from cinelora.footage.holdout import By, Split, Unit, split
from cinelora.footage.image_reader import SUFFIXES as PICTURES
from cinelora.footage.lettering_network import weights_of
from cinelora.footage.lut import read_cube
from cinelora.footage.manifest import Manifest, Sample, Skipped, is_inside, read_manifest
from cinelora.footage.scan_folder import FILMS, find_clips, members
from cinelora.footage.shot_detection import About, Survey, load_survey
from cinelora.footage.shot_filter import Shot, Subtitles, judge
from cinelora.footage.subtitles import overlaid
from cinelora.footage.survey_pool import (
    LEARNED,
    LETTERED,
    File,
    at_fault,
    read_ledger,
    survey_files,
    survey_path,
    surveyed_otherwise,
)
from cinelora.footage.video_reader import Handling
from cinelora.io.atomic import make_folder, sha256_file, sha256_json
from cinelora.io.locks import LOCK, lock
from cinelora.io.plain_data import MOST_OF_LISTS, read_json

DATASETS = Path("outputs/datasets")
OVERRIDES, MANIFEST, SHEET, CARD = "overrides.json", "manifest.jsonl", "contact.html", "README.md"
MATRIX_OF = {"auto": "auto", "bt709": "bt709", "bt601": "smpte170m"}
"""``data.matrix``, as ffprobe calls it."""
WEAK = (
    "subtitles and titles are looked for by their strokes, which misses most titles over a picture; "
    "pip install 'cinelora[lettering]', or data.lettering=plain to hear no more of it"
)
Verdict = Literal["keep", "reject"]
BY_HAND: dict[Verdict, tuple[str, ...]] = {"keep": (), "reject": ("rejected by hand",)}
"""What a person's verdict says against a shot."""


@dataclass(frozen=True)
class Wanted:
    """What samples are cut: ``num_frames`` 1 for stills, else 4n+1 for windows at ``fps``; ``size`` is the model's.

    With ``own_shapes`` they are of the sizes and lengths that fit the footage, as far as the settings of the data let them.
    """

    num_frames: int
    fps: int
    size: Size
    geometry: Geometry
    seed: int
    own_shapes: bool = True


@dataclass(frozen=True)
class Judged:
    """A shot of a file with what was found; ``by_hand`` is a person's word on it, ``twin`` the shot it is a copy of.

    ``survey`` is the name of its file's survey.
    """

    path: str
    sha256: str
    about: About
    shot: Shot
    picks: tuple[Window, ...] = ()
    short: str = ""
    by_hand: Verdict | None = None
    twin: str = ""
    survey: str = ""

    @property
    def id(self) -> str:
        """Its name: the file, its first frame and the frame after its last."""
        return shot_id(self.path, self.shot.start, self.shot.end)

    def against(self, moving: bool) -> tuple[str, ...]:
        """Why it is left out, for windows (``moving``) or stills; nothing where it is kept."""
        return BY_HAND[self.by_hand] if self.by_hand else self.machine(moving)

    def machine(self, moving: bool) -> tuple[str, ...]:
        """The same, whatever a person said."""
        twin = (f"seen before: the same as {self.twin}",) if self.twin else ()
        return (*self.shot.against, *(self.shot.against_motion if moving else ()), *twin)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """What the bars leave of the picture, in whole pixels: left, top, right, bottom."""
        return box_of(self.shot.bars, self.about.size)


@dataclass(frozen=True)
class Prepared:
    """What a footage folder holds: its files, its shots, and what was left out before there was a shot.

    ``notes`` are on its files, ``about_cuts`` on what its cuts were found with.
    """

    root: Path
    folder: Path
    files: tuple[File, ...]
    shots: tuple[Judged, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    about_cuts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the data set is called: its folder's name."""
        return self.root.resolve().name


def shot_id(path: str, start: int, end: int) -> str:
    """The name of a shot in overrides and captions, or of a window with its first and last frame."""
    return f"{path}@{start}-{end}"


def prepared_folder(data: DataConfig) -> Path:
    """Where what is prepared from ``data.root`` lies: the same place for the same folder, from wherever it is asked for."""
    if data.prepared:
        return Path(data.prepared)
    root = Path(str(data.root)).resolve()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).strip("-.") or "footage"
    return DATASETS / f"{plain}-{sha256_json(os.fspath(root))[:8]}"


def prepare(data: DataConfig, wanted: Wanted, processes: int | None = None) -> Prepared:
    """Survey and judge ``data.root``, picking the samples that are ``wanted`` of each shot.

    ``processes`` work side by side; None is as many as there are cores where there is much to do, else none. Raises
    ``FootageError`` where the folder is missing or empty, or the verdicts by hand cannot be read.
    """
    return prepare_each(data, [wanted], processes)[0]


def prepare_each(data: DataConfig, wanted: Sequence[Wanted], processes: int | None = None) -> list[Prepared]:
    """The same for several kinds of samples, by one look at each survey."""
    footage = _surveyed(data, processes)
    folder, skipped, said = footage.folder, footage.skipped, footage.notes
    by_hand = read_overrides(Path(data.overrides) if data.overrides else folder / OVERRIDES, bool(data.overrides))
    typical = [file.sharpness for file in footage.files if file.sharpness]
    usual = float(np.median(typical)) if typical else None
    # Two lists of equal length: of each shot its `Judged`, one for every kind of sample that is wanted (stills, windows),
    # and the look by which its copies are recognised. Verdicts by hand are popped as their shots come by; what is left
    # of them in the end names no shot.
    rows: list[list[Judged]] = []
    looks: list[Look | None] = []
    content: list[Hashable | None] = []
    for file in footage.files:
        survey = footage.survey(file)
        if survey is None:
            damaged = f"its survey is damaged: delete {survey_path(Path(), file.survey)} of the prepared folder"
            skipped.append(Skipped(file.path, file.reason or damaged))
            continue
        said += [f"{file.path}: {note}" for note in survey.about.notes]
        try:
            of_file = _picked_of(file, survey, data, wanted, usual, by_hand)
            said += [f"{file.path}: {note}" for note in _subtitle_notes(survey, data)]
        except Exception as error:  # whatever is wrong with one file must not cost the others
            skipped.append(Skipped(file.path, at_fault(error)))
            continue
        for row, of_shot in of_file:
            judged, shot = row[0], row[0].shot
            rows.append(row)
            looks.append(of_shot)
            content.append(None if judged.against(False) else (file.sha256, shot.start, shot.end))
    for number, first in copies(looks, content, data.limits.alike if data.judged else None).items():
        rows[number] = [replace(judged, twin=rows[first][0].id) for judged in rows[number]]
    said += _sign_notes(row[0] for row in rows)
    said += (f"{name} in {OVERRIDES} is no shot of this footage: it was cut differently, or moved" for name in by_hand)
    left_out = tuple(sorted(skipped, key=lambda clip: clip.path))
    columns = [tuple(row[kind] for row in rows) for kind in range(len(wanted))]
    files, about_cuts = tuple(footage.files), tuple(footage.about_cuts)
    return [Prepared(footage.root, folder, files, shots, left_out, tuple(said), about_cuts) for shots in columns]


def _picked_of(
    file: File,
    survey: Survey,
    data: DataConfig,
    wanted: Sequence[Wanted],
    usual: float | None,
    by_hand: dict[str, Verdict],
) -> list[tuple[list[Judged], Look | None]]:
    """The shots of a file, each as often as samples are ``wanted``, with its look; its verdicts are taken out of ``by_hand``.

    A shot that is left out has no look: else a good copy of a rejected shot would be left out with it.
    """
    rows = []
    limits, subtitles = data.limits if data.judged else None, cast(Subtitles, data.subtitles)
    for shot in judge(survey, limits, usual, subtitles):
        judged = Judged(file.path, file.sha256, survey.about, shot, survey=file.survey)
        judged = replace(judged, by_hand=by_hand.pop(judged.id, None))
        row = [picked(judged, survey, data, each) for each in wanted]
        rows.append((row, None if row[0].against(False) else look_of(survey, shot)))
    return rows


def _subtitle_notes(survey: Survey, data: DataConfig) -> list[str]:
    """A line where subtitles are cut off, as a picture of another shape is to surprise nobody."""
    band = overlaid(survey).band if data.judged and data.subtitles == "crop" else None
    if band is None:
        return []
    return [
        f"it has subtitles: the lowest {band:.0%} is cut off each of its shots; data.subtitles=refuse|keep does otherwise"
    ]


def _sign_notes(shots: Iterable[Judged]) -> list[str]:
    """A line about letters that are part of the scene: nobody should have to look for them, and no shot is left out for them."""
    signed = [judged for judged in shots if judged.shot.measures.get("signs") and not judged.against(False)]
    if not signed:
        return []
    files = len({judged.path for judged in signed})
    counted = f"{len(signed)} shot{'s' * (len(signed) > 1)} of {files} file{'s' * (files > 1)}"
    return [f"letters are part of the scene in {counted}, as signs are, and no shot is left out for them"]


@dataclass(frozen=True)
class _Footage:
    """A footage folder with what is known of each of its files; ``is_lettered``: a network's letters are to be judged by."""

    root: Path
    folder: Path
    files: list[File]
    skipped: list[Skipped]
    notes: list[str]
    about_cuts: list[str]
    is_lettered: bool

    def survey(self, file: File) -> Survey | None:
        """The survey of a file that has one; without letters where none were asked for, though an earlier run looked for them."""
        survey = None if file.reason else load_survey(survey_path(self.folder, file.survey))
        return survey if survey is None or self.is_lettered else survey.without_letters()


def _surveyed(data: DataConfig, processes: int | None) -> _Footage:
    """Survey what is new or changed in the footage's folder."""
    root, folder = Path(str(data.root)), prepared_folder(data)
    if not root.is_dir():
        raise FootageError(f"no footage folder at {root}; set data.root=<folder with clips>")
    if folder.resolve().is_relative_to(root.resolve()):
        raise FootageError(
            f"data.prepared={folder} lies inside the footage, which is never written to; name another folder"
        )
    found = find_clips(root, data.follow_links)
    if not found.clips and not found.left_out:
        raise FootageError(f"no clips in {root}: looked there and below for {', '.join((*FILMS, *PICTURES))}")
    make_folder(folder)
    has_films = any(path.lower().endswith(FILMS) for path in found.clips)
    detector = cut_detector(data) if has_films else CutDetector()
    letters, notes = _network_for(data, has_films)
    handling = replace(handling_of(data), lettering=letters, cuts=detector.weights)
    with lock(folder / LOCK):
        known = read_ledger(folder, handling)
        files = survey_files(root, found.clips, folder, processes, handling)
    about_cuts = [detector.note] if detector.note else []
    if surveyed_otherwise(known, files, LEARNED):
        before = "plain" if handling.cuts else "learned"
        about_cuts.append(
            f"cuts were found by data.cuts={before} before, and are by {handling.detector} now: films are surveyed again"
        )
    if again := surveyed_otherwise(known, files, LETTERED):
        more = f" and {len(again) - 1} more" if len(again) > 1 else ""
        notes.append(f"{again[0]}{more}: surveyed again, as lettering is looked for in another way than before")
    skipped = [Skipped(path, reason) for path, reason in found.left_out.items()]
    return _Footage(root, folder, files, skipped, notes, about_cuts, letters is not None)


def _network_for(data: DataConfig, has_films: bool) -> tuple[Path | None, list[str]]:
    """The weights by which lettering is looked for, or none and, of films, a line that says so, if nobody asked for that."""
    if not data.judged or data.lettering == "plain":
        return None, []
    try:
        return weights_of(Path(data.lettering_weights) if data.lettering_weights else None), []
    except FootageError as error:
        asked = f"data.lettering_weights={data.lettering_weights}: " if data.lettering_weights else ""
        return None, [f"{asked}{error}: {WEAK}"] if has_films else []


def handling_of(data: DataConfig) -> Handling:
    """How ``data`` says that its footage is read. Raises ``FootageError`` where ``data.lut`` cannot be."""
    lut = Path(data.lut) if data.lut else None
    if lut:
        read_cube(lut)
    return Handling(
        exact=data.exact,
        matrix=MATRIX_OF[data.matrix],
        hdr=cast(Literal["refuse", "tone_map"], data.hdr),
        interlaced=cast(Literal["auto", "refuse", "keep"], data.interlaced),
        lut=lut,
        lut_sha256=sha256_file(lut) if lut else "",
        sequence_fps=Fraction(str(data.sequence_fps)),
        follow_links=data.follow_links,
    )


def picked(judged: Judged, survey: Survey, data: DataConfig, wanted: Wanted) -> Judged:
    """A shot with the samples that are wanted of it, or in words why it is too short for one."""
    shot = judged.shot
    if wanted.num_frames == 1:
        count, even = data.stills_per_shot, data.stills == "even"
        stills = even_stills(shot.start, shot.end, count) if even else sharp_stills(survey, shot, count)
        return replace(judged, picks=tuple(((frame,), ()) for frame in stills))
    blend, least = data.resample == "blend", data.min_frames if wanted.own_shapes else None
    frames = resampled(survey, shot, wanted.fps, False)[0]
    length = len(frames)
    num_frames = window_length(length, wanted.num_frames, least, wanted.geometry)
    if num_frames is None:
        needs = min(least or wanted.num_frames, wanted.num_frames)
        return replace(judged, short=f"lasts {length} frames at {wanted.fps} fps; a window needs {needs}")
    picks = tuple(windows(survey, shot, wanted.fps, num_frames, data.window_stride, blend))
    if not picks:
        rate, needs_s = (share * wanted.fps for share in (new_share(frames), LEAST_NEW))
        return replace(
            judged, short=f"shows {rate:.1f} pictures a second; a window at {wanted.fps} fps needs {needs_s:.1f}"
        )
    return replace(judged, picks=picks)


def box_of(bars: tuple[float, float, float, float] | None, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """What bars leave of a picture of ``size`` (height, width): even pixels, one of the survey's further in than it saw.

    None where there are no bars.
    """
    if bars is None or not any(bars):
        return None
    # Bars were measured at 480 pixels, so that their edge may lie anywhere in one of those: `further` goes past it. Sides
    # become even, as colours of a film in 4:2:0 stand for two pixels; -(-x // 2) * 2 rounds up, x // 2 * 2 down.
    height, width = size
    further = max(1, -(-max(size) // 480))
    sides = zip(bars, (width, height) * 2, strict=True)
    left, top, right, bottom = (bar and bar * side + further for bar, side in sides)
    return (-(-int(left) // 2) * 2, -(-int(top) // 2) * 2, int(width - right) // 2 * 2, int(height - bottom) // 2 * 2)


# -- overrides ---------------------------------------------------------------------------------------------------------


class _Overrides(TypedDict):
    verdicts: dict[str, Verdict]


def read_overrides(path: Path, asked: bool) -> dict[str, Verdict]:
    """Verdicts by hand, ``{"verdicts": {"<file>@<first>-<end>": "keep" or "reject"}}``; none where there is no such file.

    Raises ``FootageError`` for any other content, and where the file was ``asked`` for and is missing.
    """
    if not path.is_file():
        if asked:
            raise FootageError(f"data.overrides={path}: there is no such file")
        return {}
    try:
        return read_json(path, _Overrides, limit=MOST_OF_LISTS)["verdicts"]
    except FileError as error:
        raise FootageError(f'{error}; want {{"verdicts": {{"<file>@<first>-<end>": "keep" or "reject"}}}}') from error


# -- the manifest ------------------------------------------------------------------------------------------------------


def dataset(prepared: Prepared, data: DataConfig, wanted: Wanted) -> Manifest:
    """Samples of the shots that are kept, and all that was left out with its reason.

    Raises ``FootageError`` where no shot is left, or one has no caption.
    """
    moving = wanted.num_frames > 1
    used = _used(prepared, moving)
    skipped = (*prepared.skipped, *_left_out(prepared.shots, moving))
    if not used:
        raise FootageError(_nothing_left(prepared, skipped))
    captions = captions_for(prepared, used, data)
    refuse_missing(captions, prepared.root, {judged.id: judged.path for judged in used})
    return Manifest(tuple(_samples(prepared, used, captions.texts, data, wanted)), _in_order(skipped))


def captions_for(prepared: Prepared, shots: Sequence[Judged], data: DataConfig) -> Captions:
    """The captions of shots, without trigger and description; a captioner that ``data`` names first writes what is missing."""
    paths = {judged.id: judged.path for judged in shots}
    if data.captioner and data.caption is None:
        from cinelora.footage.captioner import caption_missing

        caption_missing(prepared, shots, data)
    return find_captions(prepared.root, paths, prepared.folder, data.caption, data.follow_links)


def whole_dataset(windows: Prepared, stills: Prepared, data: DataConfig, wanted: Wanted) -> Manifest:
    """Stills and windows of the same footage in one manifest, with what is left out; a missing caption is empty."""
    used = {moving: _used(prepared, moving) for moving, prepared in ((True, windows), (False, stills))}
    captions = captions_for(windows, list({j.id: j for moving in used for j in used[moving]}.values()), data).texts
    samples = [*_samples(windows, used[True], captions, data, wanted)]
    samples += _samples(stills, used[False], captions, data, replace(wanted, num_frames=1))
    # A shot that is too short for a window may well give stills: it is not left out, it only has no window.
    pictured = {judged.id for judged in used[False]} | {judged.path for judged in used[False]}
    left = list(_left_out(windows.shots, moving=True))
    left = [replace(one, reason=f"no window: {one.reason}") if _name(one) in pictured else one for one in left]
    return Manifest(tuple(samples), _in_order([*windows.skipped, *left]))


def _name(left: Skipped) -> str:
    return shot_id(left.path, *left.shot) if left.shot else left.path


def _used(prepared: Prepared, moving: bool) -> list[Judged]:
    return [judged for judged in prepared.shots if not judged.against(moving) and not judged.short]


def _samples(
    prepared: Prepared, used: list[Judged], captions: dict[str, str], data: DataConfig, wanted: Wanted
) -> Iterator[Sample]:
    sides = sides_of(prepared, data, wanted.seed)
    own_shapes = data.buckets and wanted.own_shapes
    colours = handling_of(data).colours
    for judged in used:
        side, text = sides[judged.id], captions.get(judged.id)
        texts = [text] if text is None or data.caption_lines == "joined" else lines_of(text)
        told = enumerate(texts if side == "train" and data.caption_lines == "each" else texts[:1])
        wholes = [(n, "" if text is None else whole_caption(text, data.trigger, data.description)) for n, text in told]
        for (frames, weights), (number, caption) in product(judged.picks, wholes):
            name = f"{judged.path}@{frames[0]}" if len(frames) == 1 else shot_id(judged.path, frames[0], frames[-1])
            yield Sample(
                id=f"{name}#{number}" if number else name,
                path=judged.path,
                file_hash=judged.sha256,
                frames=frames,
                caption=caption,
                split=side,
                kind="still" if len(frames) == 1 else "window",
                box=judged.box,
                size=trained_at(judged, wanted) if own_shapes else None,
                weights=weights,
                colours=colours,
                fields=judged.about.fields,
            )


def _in_order(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    return tuple(sorted(skipped, key=lambda left: (left.path, left.shot or (0, 0))))


def sides_of(prepared: Prepared, data: DataConfig, seed: int) -> dict[str, Split]:
    """Which shots are held out: of all that are kept, whichever samples they give, so that the stages agree."""
    root, shots = prepared.root, [judged for judged in prepared.shots if not judged.against(moving=False)]
    folders = (root / "train").is_dir() and (root / "heldout").is_dir()
    units = [Unit(s.path, s.sha256, s.shot.start, s.shot.end, s.twin or s.id) for s in shots]
    sides = split(units, data.holdout, seed, cast(By, data.split_by), folders)
    return {shot.id: side for shot, side in zip(shots, sides, strict=True)}


def trained_at(judged: Judged, wanted: Wanted) -> Size | None:
    """Height and width that a shot is trained at, None where they are the model's own."""
    size = bucket(shown(judged.about.size, judged.about.pixel_aspect, judged.box), wanted.size, wanted.geometry)
    return None if size == wanted.size else size


def _left_out(shots: Iterable[Judged], moving: bool) -> Iterator[Skipped]:
    """A line for each shot that is left out; one for a file of which every shot is too short, and nothing else."""
    for path, group in groupby(shots, key=lambda judged: judged.path):
        of_file = list(group)
        # A film of a thousand shots that are all too short is one line, not a thousand.
        if all(judged.short and not judged.against(moving) for judged in of_file):
            longest = max(of_file, key=lambda judged: judged.shot.end - judged.shot.start)
            yield Skipped(path, (f"its longest shot of {len(of_file)} " if len(of_file) > 1 else "") + longest.short)
            continue
        for judged in of_file:
            if reason := "; ".join(judged.against(moving)) or judged.short:
                yield Skipped(path, reason, (judged.shot.start, judged.shot.end))


def _nothing_left(prepared: Prepared, skipped: tuple[Skipped, ...]) -> str:
    reasons = "; ".join(f"{_name(left)} ({left.reason})" for left in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    what = "shots" if any(left.shot for left in skipped) else "clips"
    return f"none of the {len(skipped)} {what} in {prepared.root} can be used: {reasons}{more}"


def chosen(data: DataConfig, wanted: Wanted) -> Manifest:
    """The samples of ``data.manifest`` that are of the wanted kind and length, as they stand.

    Raises ``FootageError`` where it holds none, names files outside ``root``, or was made for a larger model.
    """
    path, root = Path(str(data.manifest)), Path(str(data.root))
    manifest = read_manifest(path)
    for name in dict.fromkeys(sample.path for sample in manifest.samples):
        # Each picture of a sequence may be a link; where links may lead is asked only if they are not to be followed.
        files = [name] if data.follow_links else [name, *map(str, members(root / name))]
        if not all(is_inside(root, file, data.follow_links) for file in files):
            raise FootageError(f"{path} names {name}, which is not in data.root={root}")
    for sample in manifest.samples:
        if sample.size and math.prod(sample.size) > math.prod(wanted.size):
            own, models = ("{}x{}".format(*size) for size in (sample.size, wanted.size))
            raise FootageError(
                f"{path}: {sample.id} is to be trained at {own}, more pixels than the model's {models}; "
                "prepare the footage again for this model"
            )
    least = data.min_frames if wanted.own_shapes and wanted.num_frames > 1 else None
    lengths = range(least or wanted.num_frames, wanted.num_frames + 1)
    samples = tuple(sample for sample in manifest.samples if len(sample.frames) in lengths)
    if bare := next((sample for sample in samples if not sample.caption), None):
        raise FootageError(
            f"{path}: {bare.id} has no caption; caption the footage and prepare it again, or write one there"
        )
    if not samples:
        there = " and ".join(map(str, sorted({len(sample.frames) for sample in manifest.samples}))) or "no"
        raise FootageError(f"data.manifest={path} holds samples of {there} frames, none of {wanted.num_frames}")
    return replace(manifest, samples=samples)
