"""Made films with lettering whose truth is known: subtitles, titles and credits, signs in the scene, and shots with none.

Enters: a seed and a kind. Leaves: a film, and for each of its shots what is written in it, where. Pictures are rendered scenes,
drawn rooms and, where the wheels of scikit-image and scikit-learn are installed, their photographs; most of them move. Fonts are
those of Debian's fonts-dejavu and the one that Pillow brings.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import av
import common  # noqa: F401 - makes tools/ importable
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tools.scale_model.render import draw_scene, render_scene

Film = NDArray[np.uint8]
Sides = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the picture."""
FPS, SHOT, SHOTS = 24, 60, 6
SIZES = ((480, 854), (720, 1280), (360, 640), (576, 768), (432, 1024))
FONTS = Path("/usr/share/fonts/truetype/dejavu")
NAMES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansCondensed", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("DejaVuSans-Oblique", ""),
)
"""Files of ``FONTS``; "" is the font that Pillow brings."""
PHOTOGRAPHS = (
    *("skimage/data/" + name for name in "camera.png chelsea.png coffee.png coins.png grass.png gravel.png".split()),
    *("skimage/data/" + name for name in "brick.png rocket.jpg motorcycle_left.png hubble_deep_field.jpg".split()),
    *("skimage/data/" + name for name in "astronaut.png moon.png".split()),
    *("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
)
SAID = (
    *("Where is she?", "I never asked you to wait for me.", "He said it was nothing, just the wind.", "No.", "Stop!"),
    *("You can't go back there,\nnot tonight.", "We leave at dawn.", "What did the captain say?\nHe knew nothing."),
    *("- Are you coming?\n- Not yet.", "Я никогда не просил ждать.", "Über die Brücke, schnell!", "Stůj! Kdo tam?"),
    *("It was in 1948, the winter\nwhen all the trains stood still.", "Yes, sir.", "[door slams]", "Why?"),
)
TITLES = ("THE LAST HARBOUR", "Winter in Vienna", "CHAPTER TWO", "A Film by J. Moreau", "THREE YEARS LATER", "Part One")
CREDITS = (
    "directed by\nJ. MOREAU",
    "music\nA. Lindqvist",
    "Berlin, 1948",
    "photographed by\nP. KOVAC",
    "with\nI. Sato",
)
PEOPLE = ("Anna Schmidt\nhistorian", "Dr. P. Kovac\nMinistry of Health", "J. MOREAU\neyewitness")
SIGNS = ("HOTEL", "OPEN", "CINEMA BAR", "Bakery", "NO PARKING", "EXIT", "Taxi", "PIZZA", "24 H", "Kovac & Sons")
STYLES = ("outline", "yellow", "box", "plain", "shadow", "grey")


@dataclass
class MadeShot:
    """A shot: where the camera is over a ``picture`` in each frame, and what is laid ``over`` frames from ``begins`` to ``ends``.

    It ``bears`` "subtitle", "card", "title", "credit", "name", "sign" or "none"; ``sides`` is where.
    """

    picture: Film
    path: list[tuple[int, int]]
    grain: list[Film]
    bears: str = "none"
    lettering: Film | None = None
    sides: Sides = (0.0, 0.0, 0.0, 0.0)
    begins: int = 0
    ends: int = SHOT

    def frames(self, height: int, width: int) -> Iterator[Film]:
        """Its frames, one after another."""
        for i, (y, x) in enumerate(self.path):
            frame = cv2.addWeighted(
                self.picture[y : y + height, x : x + width], 1, self.grain[i % len(self.grain)], 1, -128
            )
            if self.lettering is not None and self.begins <= i < self.ends:
                frame = laid_over(frame, self.lettering, self.sides)
            yield frame


@dataclass
class MadeFilm:
    """A film whose shots are all for one ``kind`` of question."""

    seed: int
    kind: str
    size: tuple[int, int]
    shots: list[MadeShot] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As it might be shared: h264 at a rate where letters have rings."""
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "22", "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *self.size, "yuv420p"
            for frame in (frame for shot in self.shots for frame in shot.frames(*self.size)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


# -- pictures ----------------------------------------------------------------------------------------------------------


@cache
def photographs() -> list[Film]:
    """Those that are installed."""
    found = []
    for name in PHOTOGRAPHS:
        package, _, rest = name.partition("/")
        spec = importlib.util.find_spec(package)
        path = Path(str(next(iter(spec.submodule_search_locations or [""])))) / rest if spec else None
        if path and path.is_file():
            found.append(np.asarray(Image.open(path).convert("RGB")))
    return found


def drawn_room(rng: np.random.Generator, height: int, width: int) -> Film:
    """A picture of blotches and outlines."""
    picture = cv2.resize(rng.integers(20, 235, (6, 14, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        corner = (x + int(rng.integers(10, width // 5)), y + int(rng.integers(6, height // 5)))
        cv2.rectangle(picture, (x, y), corner, tuple(int(value) for value in rng.integers(0, 255, 3)), 2)
    return picture


def picture_of(rng: np.random.Generator, height: int, width: int) -> Film:
    """A picture a third larger than the film."""
    tall, wide, choice, photos = height + height // 3, width + width // 3, rng.random(), photographs()
    if photos and choice < 0.55:
        photo = photos[rng.integers(len(photos))]
        scale = max(tall / photo.shape[0], wide / photo.shape[1])
        large = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        return (large[:tall, :wide] if rng.random() < 0.5 else large[-tall:, -wide:]).copy()
    if choice < 0.9:
        look = ("daylight", "noir", "western", "neon")[rng.integers(4)]
        scene = render_scene(draw_scene(int(rng.integers(10**6))), look, 1, 306, 544, FPS, grain=False)[0].numpy()
        return np.asarray(cv2.resize(scene, (wide, tall), interpolation=cv2.INTER_CUBIC), np.uint8)
    return drawn_room(rng, tall, wide)


def shot_of(rng: np.random.Generator, picture: Film, height: int, width: int) -> MadeShot:
    """A shot: the camera pans slowly, or stands in one of four; grain."""
    way = rng.uniform(-1, 1, 2) * (rng.random() >= 0.25)
    room = np.array([picture.shape[0] - height, picture.shape[1] - width])
    path = [tuple(int(value) for value in (0.5 + way * (i / SHOT - 0.5)) * room) for i in range(SHOT)]
    strength = rng.uniform(0, 4)
    fields = [
        rng.normal(128, strength, (height, width, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2) for _ in range(5)
    ]
    return MadeShot(picture, path, fields)  # type: ignore[arg-type]


# -- lettering ---------------------------------------------------------------------------------------------------------


def font_of(rng: np.random.Generator, size: float) -> Any:
    """One of the fonts, whose letters are ``size`` pixels high."""
    name = NAMES[rng.integers(len(NAMES))]
    path = FONTS / f"{name}.ttf"
    return ImageFont.truetype(str(path), size) if name and path.is_file() else ImageFont.load_default(size=size)


def lettered(
    size: tuple[int, int],
    text: str,
    face: Any,
    style: str,
    place: Callable[[Any], tuple[float, float]],
    align: str = "center",
) -> tuple[Film, Sides]:
    """Lettering as RGBA of the picture's ``size``, and where it is."""
    height, width = size
    picture = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(picture)
    box = pen.multiline_textbbox((0, 0), text, font=face, align=align)
    x, y = place(box)
    stroke = {"outline": max(1, height // 240), "yellow": 1}.get(style, 0)
    fill = {"yellow": (240, 220, 60), "grey": (205, 205, 205)}.get(style, (255, 255, 255))
    if style == "box":
        pen.rectangle((x + box[0] - 8, y + box[1] - 4, x + box[2] + 8, y + box[3] + 4), fill=(0, 0, 0, 200))
    if style == "shadow":
        pen.multiline_text((x + 2, y + 2), text, (0, 0, 0), face, align=align)
    pen.multiline_text((x, y), text, fill, face, align=align, stroke_width=stroke, stroke_fill=(0, 0, 0))
    left, top, right, bottom = picture.getbbox() or (0, 0, 0, 0)
    return np.asarray(picture), (left / width, top / height, right / width, bottom / height)


def laid_over(frame: Film, lettering: Film, sides: Sides = (0.0, 0.0, 1.0, 1.0)) -> Film:
    """The frame with the lettering over it."""
    height, width = frame.shape[:2]
    rows = slice(round(sides[1] * height), round(sides[3] * height))
    columns = slice(round(sides[0] * width), round(sides[2] * width))
    alpha = lettering[rows, columns, 3:].astype(np.float32) / 255
    done = frame.copy()
    done[rows, columns] = np.rint(frame[rows, columns] * (1 - alpha) + lettering[rows, columns, :3] * alpha)
    return done


def low(size: tuple[int, int], bottom: float) -> Callable[[Any], tuple[float, float]]:
    """The place in the middle of the picture whose lower edge is there."""
    return lambda box: ((size[1] - box[2] - box[0]) / 2, bottom * size[0] - box[3])


def subtitle(rng: np.random.Generator, film: MadeFilm) -> None:
    """Four of five shots bear a line, for a second or longer, at one height and in one style throughout the film."""
    style, face = STYLES[rng.integers(len(STYLES))], font_of(rng, rng.uniform(0.035, 0.065) * film.size[0])
    place = low(film.size, rng.uniform(0.88, 0.97))
    for shot in film.shots:
        if rng.random() >= 0.2:
            shot.bears = "subtitle"
            shot.lettering, shot.sides = lettered(film.size, SAID[rng.integers(len(SAID))], face, style, place)
            shot.begins = int(rng.integers(0, SHOT - 27))
            shot.ends = int(rng.integers(shot.begins + 26, SHOT + 1))


TITLED: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "card": (TITLES + CREDITS, (0.05, 0.12)),
    "title": (TITLES, (0.07, 0.14)),
    "credit": (CREDITS, (0.04, 0.06)),
    "name": (PEOPLE, (0.035, 0.05)),
}
"""What titles of a kind say, and how high their letters are, as a share of the picture."""


def title(rng: np.random.Generator, film: MadeFilm) -> None:
    """Cards on one tone, titles over a picture, credits low in the middle, names at the left; a quarter bears none."""
    height, width = film.size
    for shot in film.shots:
        shot.bears = ("card", "title", "credit", "name", "none")[rng.choice(5, p=[0.2, 0.25, 0.2, 0.1, 0.25])]
        if shot.bears == "none":
            continue
        texts, sizes = TITLED[shot.bears]
        face, middle = font_of(rng, rng.uniform(*sizes) * height), rng.uniform(0.35, 0.6)
        place = {
            "credit": low(film.size, rng.uniform(0.8, 0.93)),
            "name": lambda box: (0.08 * width, 0.88 * height - box[3]),
        }.get(shot.bears, lambda box, middle=middle: ((width - box[2] - box[0]) / 2, middle * height - box[3] / 2))
        style, align = ("plain", "shadow", "grey")[rng.integers(3)], "left" if shot.bears == "name" else "center"
        shot.lettering, shot.sides = lettered(film.size, texts[rng.integers(len(texts))], face, style, place, align)
        shot.begins, shot.ends = int(rng.integers(0, 10)), SHOT - int(rng.integers(0, 10))
        if shot.bears == "card":
            shot.picture[:] = rng.integers(0, 40, 3)


def put_up_signs(rng: np.random.Generator, picture: Film) -> None:
    """Two signs that are part of the scene, most of them seen at an angle."""
    tall, wide = picture.shape[:2]
    for _ in range(2):
        face, at = font_of(rng, rng.uniform(0.04, 0.12) * tall), rng.uniform((0.1, 0.2), (0.9, 0.9)) * (wide, tall)
        style, text = ("plain", "box", "yellow", "grey")[rng.integers(4)], SIGNS[rng.integers(len(SIGNS))]
        lettering, _ = lettered(
            (tall, wide), text, face, style, lambda box, at=at: (at[0] - box[2] / 2, at[1] - box[3] / 2)
        )
        if rng.random() < 0.6:
            turn = cv2.getRotationMatrix2D((float(at[0]), float(at[1])), rng.uniform(-12, 12), 1)
            lettering = cv2.warpAffine(lettering, turn, (wide, tall))
        picture[:] = laid_over(picture, lettering)


FILMS_OF = {"subtitles": 8, "titles": 6, "signs": 5, "clean": 5}
"""How many films of a kind are drawn from as many seeds."""


def made(seed: int, kind: str) -> MadeFilm:
    """The film of this seed and kind, one of ``FILMS_OF``."""
    rng = np.random.default_rng((seed, list(FILMS_OF).index(kind)))
    film = MadeFilm(seed, kind, SIZES[rng.integers(len(SIZES))])
    for _ in range(SHOTS):
        picture = picture_of(rng, *film.size)
        if kind == "signs":
            put_up_signs(rng, picture)
        film.shots.append(shot_of(rng, picture, *film.size))
        film.shots[-1].bears = "sign" if kind == "signs" else "none"
    if kind in ("subtitles", "titles"):
        {"subtitles": subtitle, "titles": title}[kind](rng, film)
    return film
