"""Light on the scene: sun or window, lamps, the sky's fill, shadows of the figures, haze. It knows no street and no room.

T frames, K lamps. THW is a plane of every frame, CTHW a picture in linear light, T11 one number a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cinelora.footage.render.looks import Colour, Hour, Look
from cinelora.footage.render.motion import Figure
from cinelora.footage.render.rays import cover, over, rgb, strokes
from cinelora.footage.render.scenes import Scene

Plane = Tensor | float


@dataclass(frozen=True)
class Lamp:
    """A light at a point; ``x`` may differ from frame to frame (T)."""

    x: Tensor | float
    y: float
    z: float
    colour: Colour
    power: float
    size: float = 1.2
    """Square of the distance within which its light grows no stronger."""


@dataclass(frozen=True)
class Textures:
    """Random pictures that repeat at their borders, drawn once per scene."""

    cloud: Tensor
    cells: Tensor

    def sample(self, x: Tensor, y: Tensor) -> Tensor:
        """Smooth noise around 0.5, one repeat per unit of ``x`` and ``y``, THW."""
        grid = torch.stack((x, y), dim=-1).remainder(1.0) * 2 - 1
        return F.grid_sample(self.cloud.expand(len(grid), -1, -1, -1), grid, align_corners=True)[:, 0]

    def cell(self, i: Tensor, j: Tensor | int, channel: int) -> Tensor:
        """A number in 0..1 for every cell (i, j) of a grid."""
        size = self.cells.shape[-1]
        column = j % size if isinstance(j, int) else j.long() % size
        return self.cells[channel, i.long() % size, column]


def draw_textures(seed: int, device: torch.device) -> Textures:
    """The textures of a seed: drawn on the CPU, so that no device changes the scene."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.zeros(1, 1, 128, 128)
    for octave in (4, 8, 16):
        grid = F.pad(torch.rand(1, 1, octave, octave, generator=generator) - 0.5, (2, 2, 2, 2), mode="circular")
        whole = F.interpolate(grid, scale_factor=128 // octave, mode="bicubic", align_corners=False)
        edge = 256 // octave
        cloud += whole[..., edge : edge + 128, edge : edge + 128] * 1.6 / octave
    cells = torch.rand(4, 64, 64, generator=generator)
    cloud = F.pad((0.5 + cloud).clamp(0, 1), (0, 1, 0, 1), mode="circular")
    return Textures(cloud.to(device, non_blocking=True), cells.to(device, non_blocking=True))


@dataclass(frozen=True)
class Stage:
    """A scene with its light over some frames, on the device, ready to be drawn."""

    scene: Scene
    look: Look
    hour: Hour
    textures: Textures
    figures: list[Figure]
    lamps: list[Lamp]
    lamp_places_3KT11: Tensor
    lamp_sizes_K111: Tensor
    lamp_colours_3K: Tensor
    since: Tensor
    """Seconds from the middle of the clip, T11."""
    sun: Colour
    above: Colour
    below: Colour
    sun_from: tuple[float, float, float]
    haze: Colour
    haze_per_m: float

    def rgb(self, colour: Colour) -> Tensor:
        """A colour that multiplies pictures CTHW."""
        return rgb(colour, self.since.device)

    def hazed(self, colour_CTHW: Tensor, depth: Tensor) -> Tensor:
        """A surface seen through the haze."""
        return over(self.rgb(self.haze), colour_CTHW, torch.exp(depth.clamp(min=0) * -self.haze_per_m))

    def lamplight(self, at: tuple[Plane, Plane, Plane], normal: tuple[Plane, Plane, Plane], wrap: float) -> Tensor:
        """Light of each lamp on a surface, KTHW."""
        dx, dy, dz = (place - point for place, point in zip(self.lamp_places_3KT11, at, strict=True))
        squared = dx * dx + dy * dy + dz * dz
        facing = (dx * normal[0] + dy * normal[1] + dz * normal[2]) * torch.rsqrt(squared + 0.01)
        # beyond the inverse square, which leaves the dark between the pools of light
        falloff = torch.exp(squared * -0.018) / (self.lamp_sizes_K111 + squared)
        return falloff * ((facing + wrap) / (1 + wrap)).clamp(min=0)

    def light(
        self,
        at: tuple[Plane, Plane, Plane],
        normal: tuple[Plane, Plane, Plane],
        *,
        sunlit: Tensor | None = None,
        lamplit: Tensor | None = None,
        wrap: float = 0.0,
    ) -> Tensor:
        """All light on a surface, CTHW. ``sunlit`` is what the sun sees of it, ``lamplit`` what the first lamp sees."""
        level = 0.5 + 0.5 * normal[1]
        light = over(self.rgb(self.below), self.rgb(self.above), level)
        facing = sum(a * b for a, b in zip(normal, self.sun_from, strict=True))
        facing = torch.as_tensor((facing + wrap) / (1 + wrap), device=self.since.device).clamp(min=0)
        light = light + self.rgb(self.sun) * (facing if sunlit is None else facing * sunlit)
        if not self.lamps:
            return light
        lamps = self.lamplight(at, normal, wrap)
        if lamplit is not None:
            lamps = torch.cat((lamps[:1] * lamplit, lamps[1:]))
        return light + torch.einsum("ck,kthw->cthw", self.lamp_colours_3K, lamps)

    def shadow(self, at: tuple[Tensor, Plane, Plane], source: tuple[float, float, float], softness: float) -> Tensor:
        """How much of a point-like light the figures keep from points of space, THW."""
        clear: Tensor | None = None
        for figure in self.figures:
            part = 1 - _figure_shadow(at, source, softness, figure)
            clear = part if clear is None else clear * part
        assert clear is not None
        return 1 - clear


def far_away(direction: tuple[float, float, float]) -> tuple[float, float, float]:
    """The sun as a point."""
    return direction[0] * 1e3, direction[1] * 1e3, direction[2] * 1e3


def _figure_shadow(
    at: tuple[Tensor, Plane, Plane], source: tuple[float, float, float], softness: float, figure: Figure
) -> Tensor:
    """The ray from a point to the light meets the figure's cut-out, which faces the light."""
    x, y, z = at
    foot = figure.x
    from_x, from_z = foot - source[0], torch.full_like(foot, figure.z - source[2])
    length = torch.hypot(from_x, from_z)
    ahead_x, ahead_z = from_x / length, from_z / length
    turn_x, turn_z = ahead_z * ahead_z.sign(), -ahead_x * ahead_z.sign()
    reach = (foot - x) * ahead_x + (figure.z - z) * ahead_z
    whole = (source[0] - x) * ahead_x + (source[2] - z) * ahead_z
    share = reach / whole
    hit_y = y + share * (source[1] - y)
    across = (x - foot + share * (source[0] - x)) * turn_x + (z - figure.z + share * (source[2] - z)) * turn_z
    distance = strokes(across * figure.facing, hit_y, figure.strokes[2:]).amin(0)
    blur = softness * (1 + 1.5 * reach.abs().clamp(max=6))
    return cover(distance, blur) * ((reach < 0.0) & (share < 1))


def make_stage(
    scene: Scene,
    look: Look,
    textures: Textures,
    figures: Sequence[Figure],
    lamps: list[Lamp],
    since_T: Tensor,
    sun_from: tuple[float, float, float],
) -> Stage:
    """Send what moves to the device, and choose the light of the scene's hour and place."""
    device, hour = textures.cloud.device, look.hours[scene.time]
    places = torch.stack(
        [torch.stack([torch.as_tensor(n).expand_as(since_T) for n in (lamp.x, lamp.y, lamp.z)]) for lamp in lamps]
        or [torch.zeros(3, len(since_T))]
    ).transpose(0, 1)
    colours = torch.tensor([[lamp.power * share for share in lamp.colour] for lamp in lamps] or [[0.0] * 3]).T
    sizes = torch.tensor([lamp.size for lamp in lamps] or [1.0])
    x, y, z = sun_from
    norm = math.hypot(x, y, z)
    is_room = scene.place == "room"
    weather = {"dry": 0.0, "rain": 0.022, "fog": 0.095}[scene.weather]
    # clouds and fog take the sun's light and give some of it back from everywhere
    veil = {"dry": 1.0, "rain": 0.30, "fog": 0.22}[scene.weather]
    above = tuple(sky + 0.22 * (1 - veil) * sun for sky, sun in zip(hour.above, hour.sun, strict=True))
    return Stage(
        scene=scene,
        look=look,
        hour=hour,
        textures=textures,
        figures=[
            Figure(
                figure.x.to(device, non_blocking=True)[:, None, None],
                figure.z,
                figure.strokes.to(device, non_blocking=True),
                figure.facing,
            )
            for figure in figures
        ],
        lamps=lamps,
        lamp_places_3KT11=places.to(device, non_blocking=True)[..., None, None],
        lamp_sizes_K111=sizes.to(device, non_blocking=True)[:, None, None, None],
        lamp_colours_3K=colours.to(device, non_blocking=True),
        since=since_T.to(device, non_blocking=True)[:, None, None],
        sun=hour.room_sun if is_room else (hour.sun[0] * veil, hour.sun[1] * veil, hour.sun[2] * veil),
        above=hour.room_fill if is_room else (above[0], above[1], above[2]),
        below=hour.room_fill if is_room else hour.below,
        sun_from=(x * scene.side / norm, y / norm, z / norm),
        haze=hour.haze,
        haze_per_m=0.0 if is_room else hour.haze_per_m + weather,
    )
