"""What came out of footage, to be read and looked at: the manifest, a dataset card, and a contact sheet.

Enters: what was prepared. Leaves: ``manifest.jsonl``, ``README.md`` and ``contact.html`` in the prepared folder. The sheet is one
file that asks for nothing; a shot is kept or rejected in it by hand, and it hands out ``overrides.json``, which the next run
reads. No place on this machine is told by card or sheet.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from html import escape
from itertools import groupby
from typing import Any

import yaml

from cinelora.config.schema import DataConfig
from cinelora.footage.build_dataset import CARD, MANIFEST, OVERRIDES, SHEET, Judged, Prepared, Wanted
from cinelora.footage.manifest import Manifest, Sample, write_manifest
from cinelora.footage.shot_detection import Survey, load_survey
from cinelora.footage.survey_pool import survey_path
from cinelora.io.atomic import write_text
from cinelora.io.html.page import data_url, html_table, page

ABOUT = """\
Shots of {files} files, cut and judged for training, as lines of `{manifest}`: a sample is a still or a window of frames of a
file, which is named by its place in the footage's folder and by the SHA-256 of its content. The footage itself is not here."""
CHOOSE = (
    '<div class="choose"><button data-choice="keep">keep</button><button data-choice="reject">reject</button></div>'
)
LISTED = 20
"""Files and reasons that are listed in a terminal; the manifest has them all."""
MANY_SHOTS = 3000
"""Shots from which on the sheet shows one picture of each: three of 5 KB are 60 MB of page."""
Fact = tuple[str, str]


def write_all(prepared: Prepared, manifest: Manifest, data: DataConfig, wanted: Wanted) -> None:
    """Write manifest, card and contact sheet, each whole or not at all."""
    write_manifest(prepared.folder / MANIFEST, manifest)
    write_text(prepared.folder / CARD, card(prepared, manifest, data, wanted))
    write_text(prepared.folder / SHEET, sheet(prepared, manifest))


def lines(prepared: Prepared, manifest: Manifest) -> list[str]:
    """What is said in the terminal, which nothing in a file's name can command."""
    said = [f"{name}: {value}" for name, value in facts(prepared, manifest)]
    said += [f"  left out {clip.path}: {clip.reason}" for clip in prepared.skipped[:LISTED]]
    if len(prepared.skipped) > LISTED:
        said.append(f"  and {len(prepared.skipped) - LISTED} more files; {MANIFEST} names them all")
    for what, shots in zip(("left out", "without a window"), _out_and_still(prepared.shots), strict=True):
        for reason, count in reasons(shots).most_common(LISTED):
            said.append(f"  {count} {'shot' if count == 1 else 'shots'} {what}: {reason}")
    bare = sum(not sample.caption for sample in manifest.samples)
    if bare:
        said.append(
            f"{bare} of {len(manifest.samples)} samples have no caption, and are not trained on without: docs/footage.md "
            "says where captions are looked for"
        )
    said += list(prepared.notes)
    said += [f"{what} {prepared.folder / name}" for what, name in (("manifest", MANIFEST), ("contact sheet", SHEET))]
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in said]


def facts(prepared: Prepared, manifest: Manifest) -> list[Fact]:
    """The figures of a data set, in words."""
    used = [judged for judged in prepared.shots if not judged.against(False)]
    stills = [sample for sample in manifest.samples if sample.kind == "still"]
    windows = [sample for sample in manifest.samples if sample.kind == "window"]
    bad = len({clip.path for clip in prepared.skipped})
    return [
        ("files", f"{len(prepared.files)} read" + (f", {bad} left out" if bad else "")),
        ("shots", f"{len(prepared.shots)}, {_length(prepared.shots)}; {len(used)} kept, {_length(used)}"),
        ("stills", _sides(stills)),
        ("windows", _sides(windows)),
        ("sizes", ", ".join(f"{name} x {count}" for name, count in _sizes(manifest.samples)) or "none"),
    ]


def reasons(shots: Iterable[Judged]) -> Counter[str]:
    """How many shots were left out for what, whatever their numbers: each reason up to its colon."""
    return Counter(reason.partition(":")[0] for judged in shots for reason in judged.against(True))


def _out_and_still(shots: Iterable[Judged]) -> tuple[list[Judged], list[Judged]]:
    """The shots that give nothing, and those that give stills, but may give no window."""
    against = [judged for judged in shots if judged.against(True)]
    return [j for j in against if j.against(False)], [j for j in against if not j.against(False)]


def _length(shots: Iterable[Judged]) -> str:
    seconds = sum((judged.shot.end - judged.shot.start) / float(judged.about.fps) for judged in shots)
    hours, minutes = divmod(round(seconds) // 60, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {round(seconds) % 60} s"
        if minutes
        else f"{seconds:.1f} s"
    )


def _sides(samples: list[Sample]) -> str:
    heldout = sum(sample.split == "heldout" for sample in samples)
    return f"{len(samples) - heldout} to train on, {heldout} held out"


def _sizes(samples: Iterable[Sample]) -> list[tuple[str, int]]:
    names = (f"{sample.size[1]}x{sample.size[0]}" if sample.size else "the model's own" for sample in samples)
    return Counter(names).most_common()


# -- card --------------------------------------------------------------------------------------------------------------


def card(prepared: Prepared, manifest: Manifest, data: DataConfig, wanted: Wanted) -> str:
    """A data set's card, as hubs read it: front matter, figures, what was left out and why, and the settings."""
    front = {
        "pretty_name": prepared.name,
        "task_categories": ["text-to-video", "text-to-image"],
        "tags": ["video", "film", "lora", "cinelora"],
        "configs": [{"config_name": "default", "data_files": MANIFEST}],
    }
    codecs = Counter(
        f"{about.codec}, {about.size[1]}x{about.size[0]}, {float(about.fps):.5g} fps" for about in _abouts(prepared)
    )
    limits = asdict(data.limits) if data.judged else {}
    sections = [
        f"# {_text(prepared.name)}\n\n{ABOUT.format(files=len(prepared.files), manifest=MANIFEST)}",
        _table("What it holds", ("what", "figure"), facts(prepared, manifest)),
        _table("Footage", ("codec, size, rate", "files"), [(name, str(count)) for name, count in codecs.most_common()]),
        *(
            _table(what, ("reason", "shots"), [(name, str(n)) for name, n in reasons(shots).most_common()])
            for what, shots in zip(("Shots left out", "Stills alone"), _out_and_still(prepared.shots), strict=True)
        ),
        _table("Files left out", ("file", "reason"), [(clip.path, clip.reason) for clip in prepared.skipped]),
        _table("Limits", ("limit", "value"), [(name, "off" if v is None else f"{v:g}") for name, v in limits.items()]),
        _table("Samples", ("setting", "value"), list(_settings(data, wanted))),
    ]
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{head}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _abouts(prepared: Prepared) -> Iterator[Any]:
    for _, group in groupby(prepared.shots, key=lambda judged: judged.path):
        yield next(group).about


def _settings(data: DataConfig, wanted: Wanted) -> Iterator[Fact]:
    yield "window", f"{wanted.num_frames} frames at {wanted.fps} fps, every {data.window_stride}, {data.resample}"
    yield "stills", f"{data.stills_per_shot} a shot, {data.stills}"
    yield "size", f"at most the pixels of {wanted.size[1]}x{wanted.size[0]}" if data.buckets else "the model's own"
    yield "held out", f"{data.holdout:g} of the footage, seed {wanted.seed}"
    yield "trigger word", data.trigger or "none"


def _table(heading: str, head: tuple[str, ...], rows: list[Fact]) -> str:
    if not rows:
        return ""
    cells = [" | ".join(_text(cell) for cell in row) for row in rows]
    return "\n".join(
        [f"## {heading}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {row} |" for row in cells)]
    )


def _text(text: str) -> str:
    """Text as it stands, whatever Markdown or HTML it looks like."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in text).replace("\n", " ")


# -- contact sheet -----------------------------------------------------------------------------------------------------


def sheet(prepared: Prepared, manifest: Manifest) -> str:
    """The contact sheet: every shot with its pictures, its verdict and its numbers, file by file."""
    captions = _captions(prepared, manifest)
    body = [
        f"<header><h1>{escape(prepared.name)}: contact sheet</h1>",
        f'<p class="soft">{escape("; ".join(f"{name}: {value}" for name, value in facts(prepared, manifest)))}</p></header>',
        _bar(prepared),
        f'<main class="sheet" data-file="{escape(OVERRIDES)}">',
        _left_out(prepared),
        *(_file_section(prepared, list(group), captions) for _, group in groupby(prepared.shots, key=lambda j: j.path)),
        "</main><footer>Made by cinelora. Everything is inside this file: nothing is fetched. "
        f"Put <b>{escape(OVERRIDES)}</b> beside this page, and run the same command again.</footer>",
    ]
    return page(f"{prepared.name}: contact sheet", "\n".join(body), "sheet.js")


def _bar(prepared: Prepared) -> str:
    options = "".join(
        f'<option value="{escape(reason)}">{escape(reason)} ({count})</option>'
        for reason, count in reasons(prepared.shots).most_common()
    )
    return (
        '<div class="bar"><div><button data-show="all">all</button><button data-show="keep">kept</button>'
        '<button data-show="reject">left out</button><button data-show="hand">by hand</button>'
        f'<select id="reason"><option value="">every reason</option>{options}</select><output id="count"></output>'
        f'<button id="save">save {escape(OVERRIDES)}</button></div></div>'
    )


def _captions(prepared: Prepared, manifest: Manifest) -> dict[str, str]:
    """The caption of each shot that gives a sample, by the shot's name."""
    first: dict[tuple[str, int], str] = {(sample.path, sample.frames[0]): sample.caption for sample in manifest.samples}
    starts = {path: sorted(frame for _, frame in keys) for path, keys in groupby(sorted(first), key=lambda key: key[0])}
    found = {}
    for judged in prepared.shots:
        frames = starts.get(judged.path, [])
        place = bisect_left(frames, judged.shot.start)
        if place < len(frames) and frames[place] < judged.shot.end:
            found[judged.id] = first[judged.path, frames[place]]
    return found


def _left_out(prepared: Prepared) -> str:
    if not prepared.skipped:
        return ""
    rows = [[clip.path, clip.reason] for clip in prepared.skipped]
    return f"<details><summary>{len(rows)} files left out</summary>{html_table(['file', 'reason'], rows)}</details>"


def _file_section(prepared: Prepared, shots: list[Judged], captions: dict[str, str]) -> str:
    about = shots[0].about
    survey = load_survey(survey_path(prepared.folder, shots[0].survey))
    what = f"{about.codec}, {about.size[1]}x{about.size[0]}, {float(about.fps):.5g} fps, read by {about.backend}"
    cards = "".join(
        _shot_card(judged, survey, captions.get(judged.id, ""), len(prepared.shots) < MANY_SHOTS) for judged in shots
    )
    return f'<section><h2>{escape(shots[0].path)} <small>{escape(what)}</small></h2><div class="shots">{cards}</div></section>'


def _shot_card(judged: Judged, survey: Survey | None, caption: str, whole: bool) -> str:
    shot, fps = judged.shot, float(judged.about.fps)
    against, of_stills = judged.against(True), judged.against(False)
    verdict = "keep" if not against else "reject" if of_stills else "stills"
    pictures = "".join(_picture(survey, number) for number in _spread(shot.samples, whole)) if survey else ""
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in shot.measures.items())
    box = f", picture {judged.box[2] - judged.box[0]}x{judged.box[3] - judged.box[1]}" if judged.box else ""
    words = {"keep": "kept", "stills": "stills only", "reject": "left out"}[verdict]
    reasons_ = " ".join(reason.partition(":")[0] for reason in against)
    return (
        f'<article class="shot" data-shot="{_attribute(judged.id)}" data-verdict="{verdict}" data-hand="{judged.by_hand or ""}" '
        f'data-judged="{"reject" if judged.machine(False) else "keep"}" data-reasons="{escape(reasons_)}">'
        f'<div class="strip">{pictures or "<span class=none>no picture</span>"}</div>'
        f"<p><b>{_clock(shot.start / fps)}</b> {(shot.end - shot.start) / fps:.1f} s <i>{words}</i></p>"
        f'<p class="why">{escape("; ".join(against) or judged.short)}</p>'
        f"<p>{escape(caption)}</p>"
        f"<details><summary>numbers</summary><p>frames {shot.start} to {shot.end - 1}{escape(box)}; {escape(numbers)}</p>"
        f"</details>{CHOOSE}</article>"
    )


def _attribute(text: str) -> str:
    """Text inside of quotes, as a script reads it back: a browser makes a line feed of a carriage return."""
    return escape(text).replace("\r", "&#13;")


def _spread(samples: tuple[int, ...], whole: bool) -> list[int]:
    """A shot's first, middle and last picture, each once; the middle one alone where they are too many for a page."""
    middle = samples[len(samples) // 2 : len(samples) // 2 + 1]
    return sorted({samples[0], *middle, samples[-1]}) if samples and whole else list(middle)


def _picture(survey: Survey, number: int) -> str:
    return f'<img loading="lazy" alt="" src="{data_url("image/jpeg", survey.thumb(number))}">'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}"
