"""Scenes, looks and captions: what there is to see, how it is lit, and what it is called. Numbers only, no pixels.

The same seed is the same scene in every look. Lengths are metres, x to the right, y up from the ground, z into the
picture; times are seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Colour = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How a scene is lit and developed. Light is linear, 1 is white paper in the sun."""

    hour: str
    sky: tuple[Colour, Colour]
    """At the horizon and overhead."""
    ambient: float
    lamps: float
    """Strength of everything that is switched on."""
    windows_lit: float
    haze: Colour
    haze_per_m: float
    wetness: float
    sun: float
    exposure: float
    contrast: float
    saturation: float
    grain: float
    vignette: float


LOOKS = {
    "noir": Look(
        hour="night",
        sky=((0.010, 0.010, 0.011), (0.001, 0.001, 0.002)),
        ambient=0.006,
        lamps=1.0,
        windows_lit=0.22,
        haze=(0.007, 0.007, 0.008),
        haze_per_m=0.035,
        wetness=0.75,
        sun=1.0,
        exposure=2.5,
        contrast=1.38,
        saturation=0.0,
        grain=0.006,
        vignette=0.55,
    ),
    "daylight": Look(
        hour="day",
        sky=((0.80, 0.86, 0.92), (0.38, 0.56, 0.86)),
        ambient=0.62,
        lamps=0.0,
        windows_lit=0.0,
        haze=(0.72, 0.78, 0.85),
        haze_per_m=0.006,
        wetness=0.16,
        sun=1.0,
        exposure=1.25,
        contrast=1.12,
        saturation=1.15,
        grain=0.006,
        vignette=0.12,
    ),
}

COATS: dict[str, Colour] = {"grey": (0.30, 0.31, 0.33), "dark": (0.07, 0.07, 0.09), "pale": (0.62, 0.55, 0.43)}
CARS: dict[str, Colour] = {"black": (0.03, 0.03, 0.035), "red": (0.42, 0.05, 0.04), "green": (0.07, 0.20, 0.13)}
FACADES: tuple[Colour, ...] = ((0.42, 0.24, 0.18), (0.50, 0.44, 0.33), (0.33, 0.34, 0.36), (0.46, 0.35, 0.26))
LAMPLIGHT: Colour = (1.0, 0.80, 0.52)


@dataclass(frozen=True)
class Scene:
    """What there is to see, whatever the look."""

    seed: int
    place: Literal["street", "room"]
    weather: Literal["rain", "fog", "dry"]
    camera: Literal["tracks left", "tracks right", "moves in", "stands still"]
    coat: str
    hat: bool
    walk: float
    """Metres per second to the right; 0 stands."""
    start: Point
    """Where the figure begins: (x, z)."""
    car: str | None
    car_speed: float
    lamp_side: int
    smoke: bool
    desk_lamp: bool


def draw_scene(seed: int) -> Scene:
    """The scene of a seed."""
    draw = random.Random(seed)
    place: Literal["street", "room"] = "room" if seed % 3 == 2 else "street"
    direction = draw.choice((-1, 1))
    strolls = draw.random() < (0.8 if place == "street" else 0.5)
    car = draw.choice((None, *CARS, *CARS)) if place == "street" else None
    reach = (1.3, 1.9) if place == "street" else (0.7, 1.1)
    return Scene(
        seed=seed,
        place=place,
        weather=draw.choice(("rain", "fog", "dry")) if place == "street" else "dry",
        camera=draw.choice(("tracks left", "tracks right", "moves in", "stands still")),
        coat=draw.choice(tuple(COATS)),
        hat=draw.random() < 0.8,
        walk=direction * draw.uniform(0.55, 0.95) * (1.0 if place == "street" else 0.5) if strolls else 0.0,
        start=(
            -direction * draw.uniform(*reach) if strolls else draw.uniform(-0.7, 0.7),
            draw.uniform(3.7, 4.5) if place == "street" else draw.uniform(3.0, 3.3),
        ),
        car=car,
        car_speed=draw.choice((-1, 1)) * draw.uniform(3.2, 4.5),
        lamp_side=draw.choice((-1, 1)),
        smoke=place == "room" and draw.random() < 0.7,
        desk_lamp=draw.random() < 0.6,
    )


def describe(scene: Scene, look: Look) -> str:
    """The caption: everything it says can be seen."""
    # against the street lamps every coat is a silhouette, and black and white has no red car
    coat = "long" if look.lamps and scene.place == "street" else scene.coat
    figure = f"A man in a {coat} coat{' and hat' if scene.hat else ''}"
    direction = "right" if scene.walk > 0 else "left"
    camera = f"the camera {scene.camera}"
    if scene.place == "room":
        act = f"walks slowly to the {direction}" if scene.walk else "stands still"
        smoke = ", smoke rising from a cigarette" if scene.smoke else ""
        lamp = ", a lamp on the desk" if scene.desk_lamp else ""
        light = "street light" if look.lamps else "sunlight"
        return (
            f"{figure} {act} in an office by {look.hour}{smoke}{lamp}; "
            f"{light} falls through a venetian blind in stripes; {camera}."
        )
    act = f"walks to the {direction}" if scene.walk else "waits"
    ground = "wet" if scene.weather == "rain" or look.wetness > 0.5 else "dry"
    weather = {"rain": " in the rain", "fog": " in thick fog", "dry": ""}[scene.weather]
    lit = " with its headlamps on" if look.lamps else ""
    paint = f"{scene.car} " if look.saturation else ""
    car = f", a {paint}car drives past{lit}" if scene.car else ""
    lamp = "near a lit street lamp" if look.lamps else "near a street lamp"
    return f"{figure} {act} {lamp} on a {ground} city street by {look.hour}{weather}{car}; {camera}."
