"""Subtitles and titles: how many shots that bear some are left out, and how many without, by strokes and by the network.

    python benchmarks/footage_lettering.py

Needs cinelora[lettering]; scikit-image and scikit-learn lend photographs. Limits were chosen on the films that are "tuned on",
none on those "held out". Results are in benchmarks/results/footage_lettering.json.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import report
from lettering_films import FILMS_OF, SHOT, MadeFilm, made, photographs

from cinelora.config.schema import FootageLimits
from cinelora.footage.lettering_network import weights_of
from cinelora.footage.shot_detection import Survey, about, survey_part
from cinelora.footage.shot_filter import judge
from cinelora.footage.subtitles import overlaid
from cinelora.footage.video_reader import Handling, open_video

HALVES = {"held out": (1200, 1300, 1500), "tuned on": (0,)}
"""First seeds. Two kinds of what was missed in the first two sets were mended, on other films; the third was seen last."""
LIMITS = FootageLimits(
    alike=None, logo=None, sharpness=None, still=None, dark=None, bright=None, min_seconds=None, fast=None, shake=None
)
FOR_LETTERING = ("subtitles", "a title", "lettering", "blank")
"""How reasons begin; a card on one tone is left out as blank where its lettering is not seen."""


def surveyed(path: Path) -> Survey:
    reader = open_video(path, handling=Handling(lettering=weights_of(None)))
    arrays = survey_part(reader, 0.0, float("inf"), lambda _: None)
    return Survey(about(reader, arrays["seconds"]), arrays)


def left_out(survey: Survey) -> set[int]:
    """The numbers of made shots of which a part is left out for lettering."""
    shots = judge(survey, LIMITS)
    reasons = (
        (shot, reason.removeprefix("leader: ").removeprefix("credits: ")) for shot in shots for reason in shot.against
    )
    return {(shot.start + 2) // SHOT for shot, reason in reasons if reason.startswith(FOR_LETTERING)}


def of(first_seeds: tuple[int, ...]) -> dict[str, Any]:
    told = Counter[str]()
    seeds = [
        (kind, first + number) for first in first_seeds for kind, count in FILMS_OF.items() for number in range(count)
    ]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for counted, lines in pool.map(of_film, seeds):
            told.update(counted)
            print(*lines, sep="\n", flush=True)
    return dict(sorted(told.items())) | totals(told)


def of_film(film_of: tuple[str, int]) -> tuple[Counter[str], list[str]]:
    """What is found in the film of a seed and kind, and a line on each shot that is judged wrongly."""
    told, lines, film = Counter[str](), list[str](), made(film_of[1], film_of[0])
    with tempfile.TemporaryDirectory() as folder:
        film.write(Path(folder) / "film.mp4")
        survey = surveyed(Path(folder) / "film.mp4")
    strokes = replace(survey, arrays={name: values for name, values in survey.arrays.items() if name != "letters"})
    for way, found in (("network", left_out(survey)), ("strokes", left_out(strokes))):
        for number, shot in enumerate(film.shots):
            told[f"{way}: {film.kind}: {shot.bears}, left out"] += number in found
            if (number in found) != (shot.bears not in ("none", "sign")):
                lines.append(f"{way}: {film.kind} {film.seed}, shot {number}: {shot.bears} at {shot.sides}")
    told.update(f"{film.kind}: {shot.bears}" for shot in film.shots)
    told.update(box_above(film, survey))
    return told, lines


def box_above(film: MadeFilm, survey: Survey) -> Counter[str]:
    """Whether what data.subtitles=crop leaves of a film with subtitles has none of their lines."""
    if film.kind != "subtitles":
        return Counter()
    band = overlaid(survey).band
    clear = band is not None and all(shot.sides[1] >= 1 - band for shot in film.shots if shot.bears == "subtitle")
    return Counter({"films with subtitles": 1, "whose box is above all lines": int(clear)})


def totals(told: Counter[str]) -> dict[str, float]:
    """Shares of shots that bear something, and of those that do not, which are left out."""
    found = dict[str, float]()
    for way in ("network", "strokes"):
        for name, is_clean in (("found", False), ("refused in error", True)):
            kinds = [key for key in told if ", left out" in key and key.startswith(way)]
            kinds = [key for key in kinds if (key.endswith((": none, left out", ": sign, left out"))) == is_clean]
            count = sum(told[key.removeprefix(f"{way}: ").removesuffix(", left out")] for key in kinds)
            found[f"{way}: {name}"] = sum(told[key] for key in kinds) / count
    return found


if __name__ == "__main__":
    results: dict[str, Any] = {"films of a set": sum(FILMS_OF.values()), "photographs": len(photographs())}
    for half, first_seeds in HALVES.items():
        results[half] = of(first_seeds)
        print(half, results[half], flush=True)
        report("footage_lettering", results)
