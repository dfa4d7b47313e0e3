"""Looks: how any scene is lit and how its light is developed. A look knows no scene; its numbers are in ``looks.yaml``.

Light is linear: 1 is white paper in full light. Directions have x to the right, y up, z away from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Colour = tuple[float, float, float]
Direction = tuple[float, float, float]


@dataclass(frozen=True)
class Hour:
    """The light of one time of day."""

    name: str
    sun: Colour
    """Of the one light that is far away: sun, or moon."""
    sun_from: Direction
    """Towards the sun, for light from the left; a scene may mirror it."""
    above: Colour
    """What the sky gives to surfaces that face up."""
    below: Colour
    """What the ground gives back to surfaces that face down."""
    horizon: Colour
    zenith: Colour
    haze: Colour
    haze_per_m: float
    lamps: float
    """Strength of everything that is switched on: street lamps, windows, headlamps."""
    room_sun: Colour
    """What comes through the window of a room."""
    room_fill: Colour
    """What the walls of a room give back to one another."""


@dataclass(frozen=True)
class Look:
    """The light of each time of day, what stands in the set, and the film."""

    hours: dict[str, Hour]
    exposure: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    lights: Colour = (1.0, 1.0, 1.0)
    """Multiplies bright tones."""
    shadows: Colour = (0.0, 0.0, 0.0)
    """Added to dark tones."""
    grain: float = 0.004
    vignette: float = 0.25
    bloom: float = 0.15
    wetness: float = 0.0
    """Of the street where no rain falls."""
    blind: bool = False
    """A venetian blind before the window of the room."""
    signs: float = 0.0
    """Strength of the signs over the shops."""
    lamp: Colour = (1.0, 0.72, 0.40)
    earth: Colour = (1.0, 1.0, 1.0)
    """Multiplies the ground's own colour."""
    walls: Colour = (1.0, 1.0, 1.0)
    """Multiplies the walls' own colours."""
    sign_colours: tuple[Colour, ...] = ((1.0, 0.85, 0.6),)


def read_numbers(name: str) -> Any:
    """A data file beside this module, with tuples for its lists."""
    return _frozen(yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")))


def _frozen(value: Any) -> Any:
    """The same with tuples for lists."""
    # A colour is the key under which its tensor is remembered on the device (`rays.constant`), and lists are no keys.
    match value:
        case list():
            return tuple(map(_frozen, value))
        case dict():
            return {key: _frozen(inner) for key, inner in value.items()}
    return value


def _look(values: dict[str, Any]) -> Look:
    """A look of the file; a missing or misspelt name is a ``TypeError`` of ``Hour`` or ``Look``."""
    return Look(**{**values, "hours": {time: Hour(**hour) for time, hour in values["hours"].items()}})


LOOKS = {name: _look(values) for name, values in read_numbers("looks.yaml")["looks"].items()}
"""Every look by its name, read once; looks whose hours are all alike name the same hour in the file."""
PAINTS = read_numbers("paints.yaml")
"""The colours that things are chosen from, by what is painted; they are the same in every look."""
