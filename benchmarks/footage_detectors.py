"""What the survey and its judge find in made films whose truth is known: copies and takes, subtitles, logos, dark cuts.

    python benchmarks/footage_detectors.py [copies] [subtitles] [logos] [dark]

Films are drawn from seeds and from the rendered clips in ``data/``. The detectors' limits were chosen on other films of these
kinds. Results are in benchmarks/results/footage_detectors.json.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from common import ROOT, report
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cinelora.config.schema import FootageLimits
from cinelora.footage.copies import Look, copies, look_of
from cinelora.footage.shot_detection import Survey, about, survey_part
from cinelora.footage.shot_filter import Shot, judge
from cinelora.footage.video_reader import open_video

Film = NDArray[np.uint8]
HEIGHT, WIDTH, FPS = 360, 640, 24
SEEDS = range(1000, 1004)
"""One film, or set of films, of each kind is drawn from each."""
SAID = (
    *("Where is she?", "I never asked you to wait for me.", "He said it was nothing, just the wind.", "No.", "Stop!"),
    *("You can't go back there,\nnot tonight.", "We leave at dawn.", "What did the captain say?\nHe knew nothing."),
)
STYLES = ("outline", "yellow", "box", "plain")
LIMITS = FootageLimits(alike=None, text=None, sharpness=None, still=None, dark=None, bright=None, min_seconds=None)


def surveyed(path: Path, film: Film, fps: int = FPS, crf: int = 20) -> Survey:
    """A film on disk, and what its survey says."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = film.shape[1], film.shape[2], "yuv420p"
        for frame in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    reader = open_video(path)
    arrays = survey_part(reader, 0.0, float("inf"), lambda _: None)
    return Survey(about(reader, arrays["seconds"]), arrays)


def room(seed: int, wide: int = WIDTH) -> Film:
    """A picture of blotches and outlines."""
    rng = np.random.default_rng(seed)
    drawn = cv2.resize(rng.integers(40, 200, (6, 14, 3), np.uint8), (wide, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = (int(value) for value in rng.integers(0, (wide, HEIGHT)))
        corner = (x + int(rng.integers(10, 120)), y + int(rng.integers(6, 80)))
        cv2.rectangle(drawn, (x, y), corner, tuple(int(value) for value in rng.integers(0, 255, 3)), 2)
    return drawn


def take(seed: int, number: int, talks: bool, length: int = 96) -> Film:
    """Somebody in a room: who walks about, or who stands and talks; grain is new in each frame."""
    own = np.random.default_rng((seed, number))
    paces = 2.4 * own.normal(0, 1, (2, length + 16)).cumsum(1)
    walk = np.stack([np.convolve(line, np.ones(17) / 17, "valid") for line in paces])
    walk = np.clip(walk - walk[:, :1], -90, 90) * (0.12 if talks else 1)
    film = np.stack([room(seed)] * length)
    for i, (across, down) in enumerate(walk.T):
        at = (WIDTH // 2 + int(across), HEIGHT // 2 + int(down))
        frame = cv2.circle(film[i].copy(), at, 48, (200, 150, 120), -1)
        if talks:
            opened = 4 + int(6 * abs(np.sin(i * 0.5 + number * 1.7 + 0.5 * own.normal())))
            cv2.ellipse(frame, (at[0], at[1] + 20), (14, opened), 0, 0, 360, (60, 20, 20), -1)
        film[i] = frame
    return np.clip(film + own.normal(0, 2.5, film.shape[:3])[..., None], 0, 255).astype(np.uint8)


def look(path: Path, film: Film, fps: int = FPS, crf: int = 16) -> Look:
    """The look of a film of one shot."""
    survey = surveyed(path, film, fps, crf)
    found = look_of(survey, Shot(0, survey.num_frames, samples=tuple(range(len(survey.sample)))))
    assert found is not None
    return found


def copied(film: Film, path: Path) -> dict[str, Look]:
    """Copies of a film, by what was done to it."""
    small = np.stack([cv2.resize(frame, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA) for frame in film])
    graded = 255 * (film / 255.0) ** 0.8 * np.array([1, 0.95, 0.85])
    return {
        "coarser": look(path, film, crf=36),
        "smaller": look(path, small),
        "shorter": look(path, film[14:-10]),
        "faster": look(path, film, fps=25),
        "graded": look(path, graded.astype(np.uint8)),
    }


def of_copies(folder: Path) -> dict[str, Any]:
    """Pairs of takes that pass for copies, and copies that are found among takes."""
    told, path = Counter[str](), folder / "film.mp4"
    for seed in SEEDS:
        for talks in (False, True):
            films = [take(seed + 100 * talks, number, talks) for number in range(5)]
            looks = [look(path, film) for film in films]
            for i in range(len(looks)):
                for j in range(i):
                    told["pairs of takes"] += 1
                    told["taken for copies"] += bool(copies([looks[j], looks[i]], [None] * 2, 6.0))
            for number in (0, 1):
                for how, copy in copied(films[number], path).items():
                    told["copies"] += 1
                    found = copies([looks[number], copy], [None] * 2, 6.0)
                    told["found"] += bool(found)
                    told[f"missed, {how}"] += not found
    return dict(told)


def pictures() -> Iterator[Film]:
    """Backgrounds: frames of the rendered clips, larger, and drawn rooms between them."""
    for number, path in enumerate(sorted((ROOT / "data").glob("*/*/*.mp4"))):
        (frame,) = open_video(path).frames([20])
        yield cv2.resize(frame, (WIDTH + 80, HEIGHT), interpolation=cv2.INTER_CUBIC)
        yield room(number, WIDTH + 80)


def written(frame: Film, text: str, size: float, style: str, at: tuple[int, int] | None = None) -> Film:
    """A frame with a caption in a style, or a sign ``at`` a place."""
    picture = Image.fromarray(frame)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size * HEIGHT)
    box = pen.multiline_textbbox((0, 0), text, font=font, align="center")
    x, y = at or (int(WIDTH - box[2]) // 2, int(0.94 * HEIGHT - box[3]))
    if style == "box":
        pen.rectangle((x - 8, y - 2, x + box[2] + 8, y + box[3] + 6), fill="black")
    stroke = {"outline": 2, "yellow": 1}.get(style, 0)
    fill = (240, 220, 60) if style == "yellow" else "white"
    pen.multiline_text((x, y), text, fill, font, align="center", stroke_width=stroke, stroke_fill="black")
    return np.asarray(picture)


def of_subtitles(folder: Path) -> dict[str, Any]:
    """Shots with a caption that are refused, and shots without one that are."""
    told, backgrounds = Counter[str](), list(pictures())
    for number, seed in enumerate(SEEDS):
        rng = np.random.default_rng(seed)
        for style in (*STYLES, "clean", "signs"):
            chosen, shots, bears = rng.choice(len(backgrounds), 8, replace=False), list[Film](), list[bool]()
            for place, which in enumerate(chosen):
                shot = np.stack([backgrounds[which][:, 2 * i : 2 * i + WIDTH] for i in range(36)])
                bears.append(style in STYLES and rng.random() < 0.8)
                text, size = SAID[rng.integers(len(SAID))], (0.035, 0.045, 0.06)[number % 3]
                if bears[-1]:
                    shot = np.stack([written(frame, text, size, style) for frame in shot])
                elif style == "signs":
                    left, top = int(rng.integers(100, 450)), int(rng.integers(200, 330))
                    name = ("HOTEL", "OPEN", "CINEMA BAR")[place % 3]
                    shot = np.stack([written(f, name, 0.06, "plain", (left - 2 * i, top)) for i, f in enumerate(shot)])
                shots.append(shot)
            found = judge(surveyed(folder / "film.mp4", np.concatenate(shots)), LIMITS)
            refused = {(shot.start + 2) // 36 for shot in found if "subtitles" in " ".join(shot.against)}
            for place, has in enumerate(bears):
                told["shots with a caption" if has else "shots without one"] += 1
                told["found" if has else "refused in error"] += place in refused
    return dict(told)


def of_logos(folder: Path) -> dict[str, Any]:
    """Films of few set-ups and of many, without a logo and with one."""
    told = Counter[str]()
    for seed in SEEDS:
        for setups, has in ((2, False), (3, False), (7, False), (7, True)):
            shots = [take(100 * seed + number % setups, number, False, 24) for number in range(9)]
            if has:
                shots = [np.stack([written(f, "KINO", 0.1, "plain", (500, 20)) for f in shot]) for shot in shots]
            found = judge(surveyed(folder / "film.mp4", np.concatenate(shots)), LIMITS)
            refused = any("a logo" in " ".join(shot.against) for shot in found)
            told["films with a logo" if has else "films without one"] += 1
            told["found" if has else "refused in error"] += refused
    return dict(told)


def of_dark(folder: Path) -> dict[str, Any]:
    """Cuts of films at a tenth and a twentieth of the exposure, within two frames, and what is no cut."""
    told = Counter[str]()
    for seed in SEEDS:
        for exposure in (0.05, 0.1):
            rng = np.random.default_rng(seed)
            rooms = [room(100 * seed + number, WIDTH + 80) for number in range(6)]
            moved = np.concatenate([[wide[:, 2 * i : 2 * i + WIDTH] for i in range(40)] for wide in rooms])
            film = np.clip(moved * exposure + rng.normal(0, 0.7, moved.shape[:3])[..., None], 0, 255).astype(np.uint8)
            cuts = [start for start, _ in surveyed(folder / "film.mp4", film).shots if start]
            right = [truth for truth in range(40, 240, 40) if any(abs(cut - truth) <= 2 for cut in cuts)]
            told[f"cuts at {exposure:g}"] += 5
            told[f"found at {exposure:g}"] += len(right)
            told[f"false at {exposure:g}"] += len(cuts) - len(right)
    return dict(told)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "copies": of_copies,
    "subtitles": of_subtitles,
    "logos": of_logos,
    "dark": of_dark,
}


def main(words: list[str]) -> None:
    """Measure the parts that are named, or all."""
    if unknown := {*words} - {*PARTS}:
        sys.exit(f"{', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in words or PARTS:
            found[name] = PARTS[name](Path(folder))
            print(name, found[name], flush=True)
    report("footage_detectors", found)


if __name__ == "__main__":
    main(sys.argv[1:])
