"""Looks: how any scene is lit and how its light is developed. Numbers only; a look knows no scene.

Light is linear: 1 is white paper in full light. Directions have x to the right, y up, z away from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    sign_colours: tuple[Colour, ...] = field(default=((1.0, 0.85, 0.6),))


NOON = Hour(
    name="noon",
    sun=(1.85, 1.75, 1.58),
    sun_from=(-0.55, 0.80, -0.45),
    above=(0.30, 0.36, 0.46),
    below=(0.17, 0.155, 0.135),
    horizon=(0.72, 0.84, 0.98),
    zenith=(0.14, 0.34, 0.84),
    haze=(0.62, 0.72, 0.84),
    haze_per_m=0.004,
    lamps=0.0,
    room_sun=(2.4, 2.2, 1.95),
    room_fill=(0.60, 0.60, 0.60),
)
DUSK = Hour(
    name="dusk",
    sun=(1.75, 0.74, 0.22),
    sun_from=(-0.90, 0.24, -0.40),
    above=(0.165, 0.145, 0.215),
    below=(0.080, 0.060, 0.062),
    horizon=(1.30, 0.52, 0.13),
    zenith=(0.20, 0.17, 0.36),
    haze=(0.50, 0.25, 0.15),
    haze_per_m=0.008,
    lamps=0.45,
    room_sun=(2.5, 1.02, 0.28),
    room_fill=(0.155, 0.11, 0.10),
)
NIGHT = Hour(
    name="night",
    sun=(0.060, 0.110, 0.270),
    sun_from=(-0.60, 0.60, -0.55),
    above=(0.034, 0.062, 0.155),
    below=(0.012, 0.020, 0.045),
    horizon=(0.022, 0.055, 0.170),
    zenith=(0.005, 0.014, 0.060),
    haze=(0.018, 0.038, 0.105),
    haze_per_m=0.012,
    lamps=0.8,
    room_sun=(0.14, 0.25, 0.60),
    room_fill=(0.024, 0.040, 0.095),
)
LOW_KEY = Hour(
    name="night",
    sun=(0.03, 0.03, 0.03),
    sun_from=(-0.60, 0.60, -0.55),
    above=(0.020, 0.020, 0.020),
    below=(0.006, 0.006, 0.006),
    horizon=(0.060, 0.060, 0.060),
    zenith=(0.006, 0.006, 0.006),
    haze=(0.068, 0.068, 0.068),
    haze_per_m=0.022,
    lamps=1.25,
    room_sun=(2.3, 2.3, 2.3),
    room_fill=(0.022, 0.022, 0.022),
)
HIGH_SUN = Hour(
    name="noon",
    sun=(2.30, 1.95, 1.42),
    sun_from=(-0.42, 0.90, -0.30),
    above=(0.30, 0.31, 0.28),
    below=(0.34, 0.25, 0.13),
    horizon=(0.98, 0.96, 0.78),
    zenith=(0.30, 0.62, 0.68),
    haze=(0.66, 0.52, 0.32),
    haze_per_m=0.014,
    lamps=0.0,
    room_sun=(2.9, 2.35, 1.5),
    room_fill=(0.30, 0.23, 0.14),
)
SIGNS = Hour(
    name="night",
    sun=(0.05, 0.05, 0.11),
    sun_from=(-0.60, 0.60, -0.55),
    above=(0.055, 0.022, 0.095),
    below=(0.030, 0.012, 0.045),
    horizon=(0.080, 0.022, 0.130),
    zenith=(0.012, 0.006, 0.040),
    haze=(0.085, 0.025, 0.135),
    haze_per_m=0.020,
    lamps=0.80,
    room_sun=(1.35, 0.20, 0.90),
    room_fill=(0.035, 0.035, 0.085),
)

LOOKS = {
    "daylight": Look(hours={"noon": NOON, "dusk": DUSK, "night": NIGHT}),
    "noir": Look(
        hours=dict.fromkeys(("noon", "dusk", "night"), LOW_KEY),
        exposure=1.15,
        contrast=1.30,
        saturation=0.0,
        grain=0.006,
        vignette=0.45,
        bloom=0.30,
        wetness=0.55,
        blind=True,
    ),
    "western": Look(
        hours=dict.fromkeys(("noon", "dusk", "night"), HIGH_SUN),
        exposure=1.0,
        contrast=1.12,
        saturation=0.88,
        lights=(1.04, 1.0, 0.90),
        shadows=(0.020, 0.012, 0.0),
        grain=0.006,
        vignette=0.25,
        earth=(1.75, 1.22, 0.62),
        walls=(1.15, 0.92, 0.66),
    ),
    "neon": Look(
        hours=dict.fromkeys(("noon", "dusk", "night"), SIGNS),
        exposure=1.1,
        contrast=1.12,
        saturation=1.15,
        shadows=(0.010, 0.0, 0.028),
        vignette=0.30,
        bloom=0.40,
        wetness=0.75,
        blind=True,
        signs=1.0,
        lamp=(1.0, 0.92, 0.84),
        sign_colours=((1.0, 0.06, 0.55), (0.04, 0.75, 1.0), (1.0, 0.06, 0.55), (0.55, 0.12, 1.0), (0.04, 0.75, 1.0)),
    ),
}
