"""Light on the scene: sun or window, lamps, the sky's fill, shadows of the figures, haze. It knows no street and no room.

T frames, K lamps. THW is a plane of every frame, CTHW a picture in linear light, T11 one number a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.scale_model.render.looks import Colour, Direction, Hour, Look
from tools.scale_model.render.motion import OUTLINE, Crowd
from tools.scale_model.render.rays import cover, over, rgb, strokes
from tools.scale_model.render.scenes import Scene

Plane = Tensor | float
Points = tuple[Tensor, Tensor, Tensor]
Space = tuple[Plane, Plane, Plane]
"""x, y and z of points, or of directions; a number where it is the same for all of them."""
WEATHER = {"dry": (1.0, 0.0), "rain": (0.30, 0.020), "fog": (0.22, 0.078)}
"""The fraction of the sun's light that comes through, and what the air adds to the hour's haze per metre."""


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
        return F.grid_sample(self.cloud.expand(len(grid), -1, -1, -1), grid, align_corners=True).squeeze(1)

    def cell(self, i: Tensor, j: Tensor | int) -> Tensor:
        """Four independent numbers in 0..1 for every cell (i, j) of a grid, 4THW."""
        # Indices wrap around, so that a street never ends; neighbours on it are neighbours in the picture.
        size = self.cells.shape[-1]
        row = j % size if isinstance(j, int) else j.long() % size
        return self.cells[:, i.long() % size, row]


def draw_textures(seed: int, device: torch.device) -> Textures:
    """The textures of a seed: drawn on the CPU, so that no device changes the scene."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.zeros(1, 1, 128, 128)
    # Value noise: random grids, each finer than the last, smoothed to the full size and weighted by their coarseness. They repeat
    # beyond their border before they are smoothed (two cells of padding, cut off again), so that the sum repeats as well.
    for octave in (4, 8, 16):
        grid = F.pad(torch.rand(1, 1, octave, octave, generator=generator) - 0.5, (2, 2, 2, 2), mode="circular")
        whole = F.interpolate(grid, scale_factor=128 // octave, mode="bicubic", align_corners=False)
        edge = 256 // octave
        cloud += whole[..., edge : edge + 128, edge : edge + 128] * 1.6 / octave
    cells = torch.rand(4, 64, 64, generator=generator)
    # one more row and column, equal to the first: between the last point and the first there is a value to sample
    cloud = F.pad((0.5 + cloud).clamp(0, 1), (0, 1, 0, 1), mode="circular")
    return Textures(cloud.to(device, non_blocking=True), cells.to(device, non_blocking=True))


@dataclass(frozen=True)
class Stage:
    """A scene with its light over some frames, on the device, ready to be drawn."""

    scene: Scene
    look: Look
    hour: Hour
    textures: Textures
    crowd: Crowd
    """With x (F, T, 1, 1) and z (F, 1, 1, 1)."""
    windows: tuple[list[int], int]
    """The columns around each figure, as ``columns_of`` gives them."""
    outline: Tensor
    """The strokes that throw shadows, (6, L, F, T)."""
    lamps: list[Lamp]
    lamp_places_3KT: Tensor
    lamp_sizes_K: Tensor
    lamp_colours_3K: Tensor
    since: Tensor
    """Seconds from the middle of the clip, T11."""
    car_x: Tensor
    """x of the car's middle, T11."""
    sun: Colour
    sun_from: Direction
    above: Colour
    below: Colour
    haze_per_m: float

    def rgb(self, colour: Colour, num_dims: int = 4) -> Tensor:
        """A colour that multiplies pictures, CTHW unless they have more dimensions."""
        return rgb(colour, self.since.device, num_dims)

    def numbers(self, values: tuple[float, ...]) -> Tensor:
        """A number for each of several things that are drawn at once, (P, 1, 1, 1)."""
        return torch.tensor(values).to(self.since.device, non_blocking=True)[:, None, None, None]

    def hazed(self, colour: Tensor, depth: Tensor) -> Tensor:
        """A surface seen through the haze."""
        if not self.haze_per_m:
            return colour
        clear = torch.exp(depth.clamp(min=0) * -self.haze_per_m)
        return over(self.rgb(self.hour.haze, depth.dim() + 1), colour, clear)

    def lamplight(self, at: Space, normal: Space, wrap: float) -> Tensor:
        """Light of each lamp on a surface, K first."""
        num_dims = dims_of(*at, *normal)
        _, num_lamps, num_frames = self.lamp_places_3KT.shape
        shape = (num_lamps, *(1,) * (num_dims - 3), num_frames, 1, 1)
        dx, dy, dz = (place.view(shape) - point for place, point in zip(self.lamp_places_3KT.unbind(), at, strict=True))
        squared = dx * dx + dy * dy + dz * dz
        facing = dx * normal[0] + dy * normal[1] + dz * normal[2]
        facing = (facing * torch.rsqrt(squared + 0.01) + wrap).clamp(min=0)
        # beyond the inverse square, which alone would leave too little dark between the pools of light
        falloff = torch.exp(squared * -0.018) / (self.lamp_sizes_K.view(-1, *(1,) * num_dims) + squared)
        return falloff * facing * (1 / (1 + wrap))

    def light(
        self, at: Space, normal: Space, *, sunlit: Plane = 1.0, lamplit: Plane = 1.0, wrap: float = 0.0
    ) -> Tensor:
        """All light on a surface, CTHW. ``sunlit`` is what the sun sees of it, ``lamplit`` what the first lamp sees."""
        num_dims = dims_of(*at, *normal) + 1
        # Ambient light is a hemisphere: sky from above, the ground's reflection from below, mixed by how far up a surface faces.
        level = 0.5 + 0.5 * normal[1]
        ambient = over(self.rgb(self.below, num_dims), self.rgb(self.above, num_dims), level)
        # Wrapped diffuse light reaches around a body's edge, as it does on cloth; with a wrap of 0 it is Lambert's cosine.
        facing = sum(a * b for a, b in zip(normal, self.sun_from, strict=True))
        facing = (facing + wrap) / (1 + wrap)
        facing = facing.clamp(min=0) if isinstance(facing, Tensor) else max(0.0, facing)
        light = ambient + self.rgb(self.sun, num_dims) * (sunlit * facing)
        if not self.lamps:
            return light
        lamps = self.lamplight(at, normal, wrap)
        lamps[:1] *= lamplit
        added: Tensor = torch.tensordot(self.lamp_colours_3K, lamps, dims=1)
        return light + added

    def unshadowed(self, at: Space, source: Direction, softness: float) -> Tensor:
        """How much of a point-like light the figures let through to points of space, THW.

        The ray from a point to the light meets each figure's cut-out, which faces the light.
        """
        x, y, z = at
        foot_x, foot_z = self.crowd.x, self.crowd.z
        from_x, from_z = foot_x - source[0], foot_z - source[2]
        length = torch.hypot(from_x, from_z)
        ahead_x, ahead_z = from_x / length, from_z / length
        # The cut-out stands upright across the way from the light to the feet. ``turn`` points along it, always to the right of
        # the picture, so that a shadow is never the mirror image of its figure.
        turn_x, turn_z = ahead_z.abs(), -ahead_x * ahead_z.sign()
        reach = (foot_x - x) * ahead_x + (foot_z - z) * ahead_z
        # ``share`` is the part of the way from the point to the light after which the ray meets the plane of the cut-out
        share = reach / ((source[0] - x) * ahead_x + (source[2] - z) * ahead_z)
        hit_y = y + share * (source[1] - y)
        across = (x - foot_x + share * (source[0] - x)) * turn_x + (z - foot_z + share * (source[2] - z)) * turn_z
        distance = strokes(across * self.crowd.facing, hit_y, self.outline).amin(0)
        # A shadow softens with the distance from what throws it. It counts where the figure is between the point and the light:
        # nearer to the light than the point is, and not beyond the light. What passes one figure must pass the others too.
        blur = softness * (1 + 1.5 * reach.abs().clamp(max=6))
        return (1 - cover(distance, blur) * ((reach < 0) & (share < 1))).prod(0)

    def unshaded(self, x: Tensor, z: Tensor) -> Tensor:
        """What the figures' feet leave of the light of the sky on the ground, THW."""
        # an ellipse around each pair of feet, without an edge
        near = torch.exp(((x - self.crowd.x) / 0.34) ** 2 * -1 - ((z - self.crowd.z) / 0.22) ** 2).sum(0)
        return 1 - 0.55 * near.clamp(max=1)


def dims_of(*planes: Plane) -> int:
    """How many dimensions the result has of an operation on ``planes``."""
    return max(plane.dim() for plane in planes if isinstance(plane, Tensor))


def scaled(vector: Direction, factor: float) -> Direction:
    """A direction or a colour, each of its three numbers times ``factor``."""
    return vector[0] * factor, vector[1] * factor, vector[2] * factor


def far_away(direction: Direction) -> Direction:
    """The sun as a point."""
    return scaled(direction, 1e3)


@dataclass(frozen=True)
class Moment:
    """Where everything is in some frames, on the CPU: what ``motion`` gives."""

    since_T: Tensor
    crowd: Crowd
    windows: tuple[list[int], int]
    car_x_T: Tensor


def make_stage(
    scene: Scene, look: Look, textures: Textures, moment: Moment, lamps: list[Lamp], sun_from: Direction
) -> Stage:
    """Send what moves to the device, and choose the light of the scene's hour, place and weather.

    ``sun_from`` points to the sun, or to the window's light, when it comes from the left.
    """
    device, hour, crowd = textures.cloud.device, look.hours[scene.time], moment.crowd

    def sent(numbers: Tensor) -> Tensor:
        return numbers.to(device, non_blocking=True)

    feet_x, feet_z = sent(crowd.x)[..., None, None], sent(crowd.z)[:, None, None, None]
    # where nothing is lit the tensors still want a shape, and nothing reads them
    shining = lamps or [Lamp(0.0, 0.0, 0.0, (0.0, 0.0, 0.0), 0.0)]
    places = [torch.as_tensor(n).expand_as(moment.since_T) for lamp in shining for n in (lamp.x, lamp.y, lamp.z)]
    places_K3T = torch.stack(places).view(-1, 3, len(moment.since_T))
    colours = torch.tensor([scaled(lamp.colour, lamp.power) for lamp in shining])
    x, y, z = sun_from
    norm = math.hypot(x, y, z)
    if scene.place == "room":
        sun, above, below, haze = hour.room_sun, hour.room_fill, hour.room_fill, 0.0
    else:
        # clouds and fog take the sun's light and give some of it back from everywhere
        veil, air = WEATHER[scene.weather]
        red, green, blue = (sky + 0.22 * (1 - veil) * light for sky, light in zip(hour.above, hour.sun, strict=True))
        sun, above, below = scaled(hour.sun, veil), (red, green, blue), hour.below
        haze = hour.haze_per_m + air
    return Stage(
        scene=scene,
        look=look,
        hour=hour,
        textures=textures,
        crowd=Crowd(feet_x, feet_z, sent(crowd.strokes), crowd.facing),
        windows=moment.windows,
        outline=sent(crowd.strokes[:, OUTLINE]),
        lamps=lamps,
        lamp_places_3KT=sent(places_K3T.transpose(0, 1).contiguous()),
        lamp_sizes_K=sent(torch.tensor([lamp.size for lamp in shining])),
        lamp_colours_3K=sent(colours.T.contiguous()),
        since=sent(moment.since_T)[:, None, None],
        car_x=sent(moment.car_x_T)[:, None, None],
        sun=sun,
        sun_from=(x * scene.side / norm, y / norm, z / norm),
        above=above,
        below=below,
        haze_per_m=haze,
    )
