"""How well cuts and transitions are found in made films whose truth is known, by each of the two detectors, and how fast.

    python benchmarks/footage_cuts.py [tuning|heldout] [plain] [learned] [films=<folder>]

66 films of 12 kinds are drawn from seeds. Limits of the detectors were chosen on the half ``tuning``; figures are quoted from
``heldout``, which nothing was chosen on. A transition counts as found where a border of shots, or frames that belong to no
shot, lie within two frames of it; what lies elsewhere is false. A folder that is named keeps the films. Results are in
benchmarks/results/footage_cuts.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from common import report
from numpy.typing import NDArray

from cinelora.config.schema import FootageLimits
from cinelora.footage.cut_detector import find_weights
from cinelora.footage.shot_detection import Survey, about, survey_part
from cinelora.footage.shot_filter import judge
from cinelora.footage.video_reader import open_video
from cinelora.nn.cut_network import load_network

Film = NDArray[np.uint8]
HEIGHT, WIDTH = 180, 320
HALVES = {"tuning": 1, "heldout": 2001}
"""Where the seeds of each half begin."""
COUNTS = {
    **{"hard": 8, "montage": 2, "dissolve": 4, "dark": 3, "held": 6, "wipe": 2},
    **{"flash": 2, "strobe": 1, "ramp": 2, "pan": 1, "passer": 1, "fade": 1},
}
"""Films of each kind in a half."""
DETECTORS = ("plain", "learned")
WITHIN, BLANK = 2, 12
"""Frames by which a transition may be off, and from which on frames of one tone are a shot."""
UNJUDGED = FootageLimits(
    **dict.fromkeys(("alike", "text", "logo", "sharpness", "still", "dark", "bright", "min_seconds", "fast", "shake"))  # type: ignore[arg-type]
)
"""No limits: what is left out is blank, or belongs to no shot."""


@dataclass
class Made:
    """A film, the first and last frame of each transition (a cut: its shot's first frame, twice), and its frames a second."""

    frames: list[Film] = field(default_factory=list)
    events: list[tuple[int, int, str]] = field(default_factory=list)
    fps: int = 24

    def cut(self, name: str = "cut") -> None:
        """What is added next is another shot."""
        if self.frames:
            self.events.append((len(self.frames), len(self.frames), name))

    def mark(self, length: int, name: str) -> None:
        """The next ``length`` frames are a transition."""
        self.events.append((len(self.frames), len(self.frames) + length - 1, name))


# -- pictures ----------------------------------------------------------------------------------------------------------


def cloud(rng: np.random.Generator, height: int, width: int, slope: float) -> NDArray[np.float32]:
    """Noise whose amplitudes fall with frequency as those of photographs do; mean 0, deviation 1."""
    across, down = np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height))
    size = np.hypot(across, down)
    size[0, 0] = np.inf
    waves = size**-slope * np.exp(2j * np.pi * rng.random(size.shape))
    made = np.fft.irfft2(waves, (height, width))
    return np.asarray((made - made.mean()) / made.std(), np.float32)


def canvas(rng: np.random.Generator, soft: bool = False) -> NDArray[np.float32]:
    """A wide picture to be filmed: clouds of a few colours, and things with textures of their own before them."""
    height, width = 2 * HEIGHT, 2 * WIDTH
    tint, light = rng.uniform(-25, 25, 3), rng.uniform(70, 170)
    picture = light + 40 * cloud(rng, height, width, 1.6 if soft else 1.3)[..., None] + tint
    cloth = cloud(rng, height, width, 1.0)
    picture += 8 * np.stack([np.roll(cloth, tuple(rng.integers(0, width, 2)), (0, 1)) for _ in range(3)], -1)
    for _ in range(0 if soft else int(rng.integers(8, 26))):
        middle = rng.uniform((0, 0), (width, height))
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = middle + rng.uniform(15, 110) * np.stack([np.cos(angles), np.sin(angles)], -1)
        mask = np.zeros((height, width), np.float32)
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
        inside = mask > 0
        thing = np.roll(cloth, tuple(rng.integers(0, width, 2)), (0, 1))[inside]
        picture[inside] = rng.uniform(20, 230, 3) + 14 * thing[:, None]
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 6 if soft else 0.7), np.float32)


def shot(
    rng: np.random.Generator, length: int, picture: NDArray[np.float32], pace: float = 1.0, fps: int = 24
) -> Iterator[NDArray[np.float32]]:
    """Frames of a camera that pans, zooms or is held by hand, with things that move before it."""
    speed = (
        pace * WIDTH / fps * rng.choice([0.0, 0.04, 0.12, 0.3]) * np.array([rng.choice([-1, 1]), 0.3 * rng.normal()])
    )
    zoom, shake = 1 + pace / fps * rng.choice([0.0, 0.0, 0.1, -0.08]), pace * rng.choice([0.0, 0.0, 0.7])
    place = np.array([WIDTH, HEIGHT]) + rng.uniform(-0.15, 0.15, 2) * (WIDTH, HEIGHT) - speed * length / 2
    scale = rng.uniform(1.0, 1.5)
    movers = [
        (
            rng.uniform((0, 0), (WIDTH, HEIGHT)),
            pace * rng.normal(0, 60, 2) / fps,
            rng.uniform(8, 34),
            rng.uniform(20, 230, 3),
        )
        for _ in range(int(rng.integers(0, 4)))
    ]
    for number in range(length):
        at = place + speed * number + shake * rng.normal(0, 1, 2)
        size = scale * zoom**number
        matrix = np.array([[size, 0, WIDTH / 2 - size * at[0]], [0, size, HEIGHT / 2 - size * at[1]]])
        frame = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for start, velocity, radius, colour in movers:
            x, y = (start + velocity * number).tolist()
            axes = (round(8 * radius), round(16 * radius))
            cv2.ellipse(frame, (round(8 * x), round(8 * y)), axes, 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA, 3)
        yield np.asarray(frame, np.float32)


def developed(rng: np.random.Generator, frame: NDArray[np.float32], grain: float, gray: bool = False) -> Film:
    """A frame with grain of its own, as bytes."""
    if gray:
        frame = frame.mean(-1, keepdims=True).repeat(3, -1)
    return np.asarray(np.clip(frame + grain * rng.normal(0, 1, (HEIGHT, WIDTH, 1)), 0, 255), np.uint8)


# -- films -------------------------------------------------------------------------------------------------------------


def of_cuts(
    rng: np.random.Generator, lengths: tuple[int, int], shots: int, exposure: float = 1.0, pace: float = 1.0
) -> Made:
    """Shots one after another; one in eight shows another part of what the shot before it shows."""
    made, grain, gray = Made(), rng.choice([0.7, 2.0, 3.5]) * max(exposure, 0.25), rng.random() < 0.3
    picture = canvas(rng)
    for _ in range(shots):
        picture = np.roll(picture[:, ::-1], WIDTH // 2, 1) if rng.random() < 0.12 else canvas(rng)
        made.cut()
        taken = shot(rng, int(rng.integers(*lengths)), picture, pace)
        made.frames += [developed(rng, exposure * frame, grain, gray) for frame in taken]
    return made


def of_mixtures(rng: np.random.Generator, kind: str, exposure: float = 1.0) -> Made:
    """Shots with dissolves, wipes or fades between them, while both move; some with cuts, too."""
    made, grain = Made(), 1.5 * max(exposure, 0.25)
    lengths = [6, 12, 24, 12, 24, 6, 24, 12] if kind == "dissolve" else [12, 24, 16, 8, 20, 12, 24, 16]
    if kind == "dissolve" and rng.random() < 0.5:
        lengths[4] = 40
    ahead: list[NDArray[np.float32]] = []
    for length in [*lengths, 0]:
        still = int(rng.integers(36, 60))
        taken = list(shot(rng, len(ahead) + still + length, canvas(rng)))
        if ahead:
            name = kind if kind != "fade" else "fade"
            made.mark(len(ahead), name)
            mixed = transition(rng, kind, ahead, taken[: len(ahead)])
            made.frames += [developed(rng, exposure * frame, grain) for frame in mixed]
        rest = taken[len(ahead) :]
        made.frames += [developed(rng, exposure * frame, grain) for frame in rest[: len(rest) - length]]
        ahead = rest[len(rest) - length :] if length else []
    return made


def transition(
    rng: np.random.Generator, kind: str, leaving: list[NDArray[np.float32]], coming: list[NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    """The frames between two shots."""
    ramp, soft = np.linspace(0, 1, WIDTH)[None, :, None].repeat(HEIGHT, 0), rng.choice([0.005, 0.08])
    if rng.random() < 0.4:
        ramp = np.linspace(0, 1, HEIGHT)[:, None, None].repeat(WIDTH, 1)
    if rng.random() < 0.5:
        ramp = 1 - ramp
    for number, (old, new) in enumerate(zip(leaving, coming, strict=True), 1):
        share = number / (len(leaving) + 1)
        if kind == "wipe":
            mask = np.clip((share * (1 + soft) - ramp) / soft, 0, 1)
            yield np.asarray((1 - mask) * old + mask * new, np.float32)
        elif kind == "fade":
            yield (max(0.0, 1 - 2.4 * share) * old + max(0.0, 2.4 * share - 1.4) * new).astype(np.float32)
        else:
            yield ((1 - share) * old + share * new).astype(np.float32)


def of_held(rng: np.random.Generator, number: int) -> Made:
    """Film that shows each picture for several frames."""
    pictures, fps = ((8, 24), (12, 60), (24, 60))[number % 3]
    made, grain = Made(fps=fps), (0.0, 2.0)[number // 3 % 2]
    for _ in range(6):
        length = int(rng.integers(2 * fps, 3 * fps))
        drawn = list(shot(rng, length * pictures // fps + 1, canvas(rng), fps=pictures))
        made.cut()
        made.frames += [developed(rng, drawn[i * pictures // fps], grain) for i in range(length)]
    return made


def of_light(rng: np.random.Generator, kind: str) -> Made:
    """Shots whose light flashes, flickers or is ramped; with cuts between them."""
    made = Made()
    for number in range(7):
        length = int(rng.integers(70, 100))
        light = np.ones(length)
        if kind == "flash":
            for start in (20, 45):
                light[start : start + int(rng.integers(1, 4))] = rng.uniform(2, 6)
        elif kind == "strobe":
            light[10:-10] = np.where(np.arange(length - 20) % int(rng.integers(4, 9)) < 2, 2.6, 0.5)
        elif kind == "ramp":
            span = int(rng.choice([12, 24, 36]))
            low = rng.uniform(0.25, 0.5)
            light[25 : 25 + span], light[25 + span :] = np.linspace(1, low, span), low
            light = light[:: int(rng.choice([-1, 1]))]
        made.cut()
        taken = list(shot(rng, length, canvas(rng)))
        if kind == "strobe" and number % 2:  # a cut while it flickers
            half = length // 2 + int(rng.integers(-6, 7))
            other = shot(rng, length - half, canvas(rng))
            made.events.append((len(made.frames) + half, len(made.frames) + half, "cut in a strobe"))
            taken = [*taken[:half], *other]
        extra = 60.0 if kind == "flash" else 0.0
        made.frames += [
            developed(rng, frame * gain + extra * (gain > 1), 1.5) for frame, gain in zip(taken, light, strict=True)
        ]
    return made


def of_motion(rng: np.random.Generator, kind: str) -> Made:
    """Slow pans of soft pictures, and somebody who passes close to the camera; with cuts between them."""
    made = Made()
    for _ in range(6):
        length = int(rng.integers(70, 100))
        picture = canvas(rng, soft=kind == "pan")
        made.cut()
        if kind == "pan":
            speed, start = rng.uniform(0.4, 2.5), rng.uniform(0, 60)
            frames = [
                cv2.warpAffine(picture, np.array([[1, 0, -start - speed * i], [0, 1, -80.0]]), (WIDTH, HEIGHT))
                for i in range(length)
            ]
        else:
            frames = list(shot(rng, length, picture, 0.3))
            width, pace, colour = rng.uniform(90, 260), rng.uniform(12, 40), rng.uniform(10, 120, 3)
            cloth = 12 * cloud(rng, HEIGHT, WIDTH, 1.2)[..., None] + colour
            for i, frame in enumerate(frames):
                left = -width + pace * (i - 25)
                inside = (np.arange(WIDTH) > left) & (np.arange(WIDTH) < left + width)
                frame[:, inside] = cloth[:, inside]
        made.frames += [developed(rng, np.asarray(frame, np.float32), 1.2) for frame in frames]
    return made


def film_of(kind: str, number: int, half: str) -> Made:
    """A film of a kind; the same numbers give the same film."""
    rng = np.random.default_rng((HALVES[half] + number, sum(kind.encode())))
    if kind == "hard":
        return of_cuts(rng, (18, 60), 13, pace=(1.0, 2.0)[number % 2])
    if kind == "montage":
        return of_cuts(rng, (2, 25), 24)
    if kind == "dark":
        return of_cuts(rng, (30, 60), 9, (0.05, 0.1, 0.1)[number]) if number < 2 else of_mixtures(rng, "dissolve", 0.1)
    if kind in ("dissolve", "wipe", "fade"):
        return of_mixtures(rng, kind)
    if kind == "held":
        return of_held(rng, number)
    return of_light(rng, kind) if kind in ("flash", "strobe", "ramp") else of_motion(rng, kind)


def films(half: str, folder: Path) -> Iterator[tuple[str, int, Path, Made]]:
    """All films of a half, written into a folder unless they are there, with what is true of each."""
    for kind, count in COUNTS.items():
        for number in range(count):
            path = folder / f"{half}-{kind}-{number}.mp4"
            truth = path.with_suffix(".json")
            if not truth.is_file():
                made = film_of(kind, number, half)
                written(path, made)
                truth.write_text(json.dumps({"events": made.events, "fps": made.fps}))
            told = json.loads(truth.read_text())
            yield kind, number, path, Made(events=[tuple(event) for event in told["events"]], fps=told["fps"])


def written(path: Path, made: Made) -> Path:
    """The film on disk, as h264."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=made.fps, options={"crf": "18", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in made.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


# -- measuring ---------------------------------------------------------------------------------------------------------


def found_in(survey: Survey) -> list[tuple[int, int]]:
    """Where one shot ends and the next begins: the frame after the one's last, and the other's first."""
    # A dark scene of one tone is left out, and is a shot all the same; the black between two fades is none.
    pieces = judge(survey, UNJUDGED)
    kept = [(s.start, s.end) for s in pieces if not s.against or ("blank" in s.against[0] and s.end - s.start > BLANK)]
    return [(end, start) for (_, end), (start, _) in pairwise(kept)]


def scored(events: list[tuple[int, int, str]], found: list[tuple[int, int]]) -> tuple[set[int], int]:
    """Numbers of the events that were found, and how many of what was found is none."""
    hit, false = set[int](), 0
    for last, first in found:
        near = [n for n, (start, end, _) in enumerate(events) if last <= end + WITHIN and first >= start - WITHIN]
        false += not near
        hit |= {n for n in near if n not in hit} if len(near) < 2 else {min(near)}
    return hit, false


def in_shots(made: Made, survey: Survey) -> tuple[int, int]:
    """Frames of dissolves, and how many of them belong to a shot of half a second or more."""
    inside = [n for first, last, name in made.events if name == "dissolve" for n in range(first, last + 1)]
    shots = [shot for shot in judge(survey, UNJUDGED) if not shot.against and shot.end - shot.start >= made.fps / 2]
    return len(inside), sum(any(shot.start <= n < shot.end for shot in shots) for n in inside)


def measured(half: str, detector: str, folder: Path) -> dict[str, Any]:
    """What a detector finds in all films of a half, by kind of film."""
    network = load_network(find_weights(None)) if detector == "learned" else None
    told: dict[str, Counter[str]] = defaultdict(Counter)
    cpu_s = length_s = 0.0
    for kind, number, path, made in films(half, folder):
        reader = open_video(path)
        begun = time.process_time()
        arrays = survey_part(reader, 0.0, float("inf"), lambda _: None, network)
        cpu_s, length_s = cpu_s + time.process_time() - begun, length_s + len(arrays["seconds"]) / made.fps
        survey = Survey(about(reader, arrays["seconds"]), arrays)
        hit, false = scored(made.events, found_in(survey))
        told[kind].update(films=1, transitions=len(made.events), found=len(hit), false=false)
        frames, kept = in_shots(made, survey)
        told[kind].update({"dissolved frames": frames, "of them in a shot": kept} if frames else {})
        missed = [event for n, event in enumerate(made.events) if n not in hit]
        print(half, detector, kind, number, dict(told[kind]), "missed", missed, flush=True)
    rows = {kind: {**counts, **rates(counts)} for kind, counts in told.items()}
    return {**rows, "cpu_s_a_minute": round(cpu_s / length_s * 60, 1)}


def rates(counts: Counter[str]) -> dict[str, float]:
    """Recall and precision in per cent."""
    found, false = counts["found"], counts["false"]
    return {
        "recall": round(100 * found / max(counts["transitions"], 1), 1),
        "precision": round(100 * found / max(found + false, 1), 1),
    }


def main(words: list[str]) -> None:
    """Measure the halves and detectors that are named, or all."""
    kept = next((Path(word.removeprefix("films=")) for word in words if word.startswith("films=")), None)
    if unknown := {word for word in words if not word.startswith("films=")} - {*HALVES, *DETECTORS}:
        sys.exit(f"{', '.join(sorted(unknown))}: want some of {', '.join((*HALVES, *DETECTORS))}")
    halves = [half for half in HALVES if half in words] or [*HALVES]
    detectors = [detector for detector in DETECTORS if detector in words] or [*DETECTORS]
    with tempfile.TemporaryDirectory() as folder:
        found = {half: {name: measured(half, name, kept or Path(folder)) for name in detectors} for half in halves}
    report("footage_cuts", found)


if __name__ == "__main__":
    main(sys.argv[1:])
