"""What came out of footage, to be read and looked at: the manifest, a dataset card, and a contact sheet.

Enters: what was prepared. Leaves: ``manifest.jsonl``, ``README.md`` and ``contact.html`` in the prepared folder. The sheet is one
file that asks for nothing; a shot is kept or rejected in it by hand, and it hands out ``overrides.json``, which the next run
reads. No place on this machine is told by card or sheet.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cinelora.config.schema import DataConfig
from cinelora.footage.build_dataset import CARD, MANIFEST, OVERRIDES, SHEET, Judged, Prepared, Wanted
from cinelora.footage.manifest import Manifest, Sample, Skipped, write_manifest
from cinelora.footage.scan_folder import FILMS
from cinelora.footage.shot_detection import About, Survey, load_survey
from cinelora.footage.survey_pool import survey_path
from cinelora.io.atomic import write_text
from cinelora.io.html.template import render

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
    said += _left_out(prepared.skipped)
    for what, shots in zip(("left out", "without a window"), _out_and_still(prepared.shots), strict=True):
        for reason, count in reasons(shots).most_common(LISTED):
            said.append(f"  {count} {'shot' if count == 1 else 'shots'} {what}: {reason}")
    bare = sum(not sample.caption for sample in manifest.samples)
    if bare:
        said.append(
            f"{bare} of {len(manifest.samples)} samples have no caption, and are not trained on without: docs/footage.md "
            "says where captions are looked for"
        )
    said += [*prepared.about_cuts, *prepared.notes]
    said += [f"{what} {prepared.folder / name}" for what, name in (("manifest", MANIFEST), ("contact sheet", SHEET))]
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in said]


def _left_out(skipped: Iterable[Skipped]) -> Iterator[str]:
    """Lines on files that were left out: one for each reason, whatever its numbers; films first, as they weigh more."""
    # A folder of 10,000 frames of a kind that is not read is one line, and cannot hide the broken film behind it.
    alike = defaultdict[str, list[Skipped]](list)
    for clip in sorted(skipped, key=lambda clip: (not clip.path.lower().endswith(FILMS), clip.path)):
        alike[re.sub(r"\d[\d.]*", "#", clip.reason)].append(clip)
    groups = list(alike.values())
    for first, *others in groups[:LISTED]:
        more = f" and {len(others)} more files like it" if others else ""
        yield f"  left out {first.path}{more}: {first.reason}"
    if rest := sum(map(len, groups[LISTED:])):
        yield f"  and {rest} more files; {MANIFEST} names them all"


def facts(prepared: Prepared, manifest: Manifest) -> list[Fact]:
    """The figures of a data set, in words."""
    used = [judged for judged in prepared.shots if not judged.against(False)]
    stills = [sample for sample in manifest.samples if sample.kind == "still"]
    windows = [sample for sample in manifest.samples if sample.kind == "window"]
    out = {clip.path for clip in prepared.skipped}
    read, bad = sum(file.path not in out for file in prepared.files), len(out)
    return [
        ("files", f"{read} read" + (f", {bad} left out" if bad else "")),
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
    hours, minutes, whole = round(seconds) // 3600, round(seconds) // 60 % 60, round(seconds) % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole} s" if minutes else f"{seconds:.1f} s"


def _sides(samples: list[Sample]) -> str:
    heldout = sum(sample.split == "heldout" for sample in samples)
    return f"{len(samples) - heldout} to train on, {heldout} held out"


def _sizes(samples: Iterable[Sample]) -> list[tuple[str, int]]:
    names = (f"{sample.size[1]}x{sample.size[0]}" if sample.size else "the model's own" for sample in samples)
    return Counter(names).most_common()


# -- card --------------------------------------------------------------------------------------------------------------


def card(prepared: Prepared, manifest: Manifest, data: DataConfig, wanted: Wanted) -> str:
    """A data set's card, as hubs read it: front matter, figures, what was left out and why, and the settings."""
    groups = groupby(prepared.shots, key=lambda judged: judged.path)
    codecs = Counter(_of_file(next(shots).about) for _, shots in groups)
    limits = asdict(data.limits) if data.judged else {}
    out, still = _out_and_still(prepared.shots)
    return render(
        "dataset_card.md.j2",
        name=prepared.name,
        manifest=MANIFEST,
        files=len(prepared.files),
        facts=facts(prepared, manifest),
        codecs=codecs.most_common(),
        out=reasons(out).most_common(),
        still=reasons(still).most_common(),
        skipped=[(clip.path, clip.reason) for clip in prepared.skipped],
        limits=[(name, "off" if value is None else f"{value:g}") for name, value in limits.items()],
        data=data,
        wanted=wanted,
    )


def _of_file(about: About) -> str:
    return f"{about.codec}, {about.size[1]}x{about.size[0]}, {float(about.fps):.5g} fps"


# -- contact sheet -----------------------------------------------------------------------------------------------------


def sheet(prepared: Prepared, manifest: Manifest) -> str:
    """The contact sheet: every shot with its pictures, its verdict and its numbers, file by file."""
    return render(
        "contact_sheet.html.j2",
        name=prepared.name,
        about="; ".join(f"{name}: {value}" for name, value in facts(prepared, manifest)),
        overrides=OVERRIDES,
        reasons=reasons(prepared.shots).most_common(),
        skipped=[(clip.path, clip.reason) for clip in prepared.skipped],
        files=_by_file(prepared, _captions(prepared, manifest)),
    )


def _by_file(prepared: Prepared, captions: dict[str, str]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Each file's path, what it is, and its shots as the sheet shows them; its pictures are read when its turn comes."""
    whole = len(prepared.shots) < MANY_SHOTS
    for path, group in groupby(prepared.shots, key=lambda judged: judged.path):
        shots = list(group)
        about, survey = shots[0].about, load_survey(survey_path(prepared.folder, shots[0].survey))
        shown = [_shown(judged, survey, captions.get(judged.id, ""), whole) for judged in shots]
        yield path, "; ".join((f"{_of_file(about)}, read by {about.backend}", *about.notes)), shown


def _shown(judged: Judged, survey: Survey | None, caption: str, whole: bool) -> dict[str, Any]:
    """What the sheet shows of a shot."""
    shot, fps, against = judged.shot, float(judged.about.fps), judged.against(True)
    return {
        "judged": judged,
        "verdict": "keep" if not against else "reject" if judged.against(False) else "stills",
        "against": against,
        "kinds": [reason.partition(":")[0] for reason in against],
        "pictures": [survey.thumb(number) for number in _spread(shot.samples, whole)] if survey else [],
        "caption": caption,
        "clock": _clock(shot.start / fps),
        "seconds": (shot.end - shot.start) / fps,
    }


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


def _spread(samples: tuple[int, ...], whole: bool) -> list[int]:
    """A shot's first, middle and last picture, each once; the middle one alone where they are too many for a page."""
    middle = samples[len(samples) // 2 : len(samples) // 2 + 1]
    return sorted({samples[0], *middle, samples[-1]}) if samples and whole else list(middle)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}"
