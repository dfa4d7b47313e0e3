"""The camera, the shapes, the textures and the lamps that the scenes are made of.

Every surface is a plane hit by the camera's rays (walls, ground, cut-out figures), so a moving camera gives true
parallax. Light is linear; pictures are CHW, single planes HW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cinelora.footage.render.scenes import LAMPLIGHT, Colour, Look, Point, Scene

FOCAL = 1.15
"""Focal length over the frame's height: about the view of a 35 mm lens on film."""


@dataclass(frozen=True)
class View:
    """The camera's rays: ``u_HW`` to the right and ``v_HW`` down per metre of depth, from ``x``, ``height``, ``z``.

    ``mirrored`` sees the scene as the ground reflects it. ``step`` is the distance between two rays at 1 m.
    """

    u_HW: Tensor
    v_HW: Tensor
    x: float
    height: float
    z: float
    step: float
    mirrored: bool = False

    def upright(self, z: float) -> tuple[Tensor, Tensor, float]:
        """x and y on the plane that faces the camera at ``z``, and the size of a ray there; seen when z lies ahead."""
        depth = z - self.z
        return self.x + self.u_HW * depth, self._above(self.v_HW * depth), self.step * depth

    def side(self, x: float) -> tuple[Tensor, Tensor, Tensor]:
        """z, y and depth on the wall along the view at ``x``; depth is negative where the ray leads away from it."""
        u_HW = torch.where(self.u_HW.abs() < 1e-4, torch.full_like(self.u_HW, 1e-4), self.u_HW)
        depth = (x - self.x) / u_HW
        return self.z + depth, self._above(self.v_HW * depth), depth

    def level(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, z and depth on the ground; far away at and above the horizon."""
        depth = self.height / self.v_HW.clamp(min=1e-3)
        return self.x + self.u_HW * depth, self.z + depth, depth

    def _above(self, fall: Tensor) -> Tensor:
        return fall - self.height if self.mirrored else self.height - fall


def place_camera(scene: Scene, progress: float, height: int, width: int) -> View:
    """The view at ``progress`` (0..1) of the scene's camera move, one ray per pixel."""
    eased = progress * progress * (3 - 2 * progress) * 0.6 + progress * 0.4
    travel = 1.1 if scene.place == "street" else 0.45
    x = {"tracks left": 0.5 - eased, "tracks right": eased - 0.5}.get(scene.camera, 0.0) * travel
    z = eased * travel * 0.9 if scene.camera == "moves in" else 0.0
    sway = 0.012 * math.sin(5.0 * progress)
    step = 1.0 / (FOCAL * height)
    horizon = 0.60 if scene.place == "street" else 0.50
    v_H = (torch.arange(height) + 0.5 - horizon * height) * step
    u_W = (torch.arange(width) + 0.5 - 0.5 * width) * step
    v_HW, u_HW = torch.meshgrid(v_H, u_W, indexing="ij")
    return View(u_HW, v_HW, x + sway, (1.35 if scene.place == "street" else 1.45) + 0.3 * sway, z, step)


def box(x: Tensor, y: Tensor, centre: Point, half: Point, radius: float = 0.0) -> Tensor:
    """Signed distance to a rectangle with rounded corners, negative inside."""
    dx, dy = (x - centre[0]).abs() - half[0] + radius, (y - centre[1]).abs() - half[1] + radius
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius


def disc(x: Tensor, y: Tensor, centre: Point, half: Point) -> Tensor:
    """Signed distance to an upright ellipse, nearly."""
    scale = min(half)
    return (torch.hypot((x - centre[0]) / half[0], (y - centre[1]) / half[1]) - 1) * scale


def limb(x: Tensor, y: Tensor, a: Point, b: Point, radius_a: float, radius_b: float) -> Tensor:
    """Signed distance to the stroke from ``a`` to ``b`` whose radius changes on the way."""
    ax, ay = b[0] - a[0], b[1] - a[1]
    along = (((x - a[0]) * ax + (y - a[1]) * ay) / (ax * ax + ay * ay)).clamp(0, 1)
    radius = radius_a + (radius_b - radius_a) * along
    return torch.hypot(x - a[0] - along * ax, y - a[1] - along * ay) - radius


def cover(distance: Tensor, size: Tensor | float) -> Tensor:
    """How much of a ray of width ``size`` lies inside a shape."""
    return (0.5 - distance / size).clamp(0, 1)


def union(*distances: Tensor) -> Tensor:
    """The shape made of several."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def rgb(colour: Colour) -> Tensor:
    """A colour as a tensor that multiplies pixels CHW."""
    return torch.tensor(colour).view(3, 1, 1)


def over(image_CHW: Tensor, colour_CHW: Tensor, alpha_HW: Tensor) -> Tensor:
    """Lay a colour over an image."""
    return image_CHW + (colour_CHW - image_CHW) * alpha_HW


@dataclass(frozen=True)
class Textures:
    """Random pictures that repeat at their borders, drawn once per scene."""

    cloud: Tensor
    rain: Tensor
    cells: Tensor

    def sample(self, texture: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The texture, one repeat per unit of ``x`` and ``y``, between its points."""
        padded = F.pad(texture[None, None], (0, 1, 0, 1), mode="circular")
        grid = torch.stack((x % 1.0, y % 1.0), dim=-1) * 2 - 1
        return F.grid_sample(padded, grid[None], align_corners=True)[0, 0]

    def cell(self, i: Tensor, j: Tensor, channel: int = 0) -> Tensor:
        """A number in 0..1 for every cell (i, j) of a grid."""
        size = self.cells.shape[-1]
        return self.cells[channel, i.long() % size, j.long() % size]


def draw_textures(seed: int) -> Textures:
    """Cloud: smooth noise around 0.5; rain: thin upright strokes; cells: independent numbers."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.zeros(128, 128)
    for octave in range(2, 7):
        grid = torch.rand(1, 1, 2**octave, 2**octave, generator=generator) - 0.5
        tiled = F.interpolate(grid.repeat(1, 1, 3, 3), size=384, mode="bicubic", align_corners=False)
        cloud += tiled[0, 0, 128:256, 128:256] * 0.62 ** (octave - 2)
    drops = (torch.rand(256, 256, generator=generator) > 0.9994).float()
    strokes = F.avg_pool2d(F.pad(drops[None, None], (0, 0, 10, 10), mode="circular"), (21, 1), stride=1)[0, 0] * 21
    return Textures((0.5 + cloud).clamp(0, 1), strokes.clamp(max=1), torch.rand(4, 64, 64, generator=generator))


@dataclass(frozen=True)
class Lamp:
    """A light at a point; ``down`` keeps it below its shade."""

    x: float
    y: float
    z: float
    power: float
    size: float = 3.0
    """Square of the distance within which its light grows no stronger."""
    down: bool = True

    def on(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
        """Its light at points of space, without regard to how surfaces face it."""
        dx, dy, dz = torch.as_tensor(x - self.x), torch.as_tensor(y - self.y), torch.as_tensor(z - self.z)
        squared = dx * dx + dy * dy + dz * dz
        # the falloff beyond the inverse square leaves the dark between the pools of light
        light = self.power / (self.size + squared) * torch.exp(-squared / 45)
        if self.down:
            light = light * torch.sigmoid((-dy / squared.sqrt().clamp(min=1e-3) - 0.25) * 7) * 1.3
        return light


def lamplight(lamps: list[Lamp], x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
    """What all lamps give at points of space, CHW."""
    return rgb(LAMPLIGHT) * sum((lamp.on(x, y, z) for lamp in lamps), torch.zeros(1, 1))


def frontlight(lamps: list[Lamp], x: Tensor, y: Tensor, z: float) -> Tensor:
    """The same on an upright surface that faces the camera: lamps behind it only graze it, CHW."""
    facing = [(lamp, 1 / (1 + math.exp(2.5 * (lamp.z - z)))) for lamp in lamps]
    return rgb(LAMPLIGHT) * sum((lamp.on(x, y, z) * (0.06 + 0.94 * share) for lamp, share in facing), torch.zeros(1, 1))


@dataclass(frozen=True)
class Stage:
    """A scene at one moment, ready to be drawn."""

    scene: Scene
    look: Look
    textures: Textures
    lamps: list[Lamp]
    time: float
    haze_per_m: float

    def hazed(self, colour_CHW: Tensor, depth: Tensor | float) -> Tensor:
        """A surface seen through the haze."""
        clear = torch.exp(-self.haze_per_m * torch.as_tensor(depth).clamp(min=0))
        return rgb(self.look.haze) + (colour_CHW - rgb(self.look.haze)) * clear
