"""The camera's rays, where they meet planes, and the shapes on those planes. It knows no scene and no light.

T frames are drawn at once. Shapes: THW is a plane of every frame, CTHW a picture in linear light, T11 one number a frame;
L strokes, K lamps. Every edge is an analytic coverage, which takes the place of supersampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FOCAL = 1.15
"""Focal length over the frame's height: about the view of a 35 mm lens on film."""
FAR = 300.0

Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """A ray per pixel: from the eye ``x``, ``y``, ``z`` (T11) along ``dx``, ``dy``, ``dz`` (THW), a metre deep each.

    ``turn_x`` and ``turn_z`` (T11) point to the camera's right; ``step`` is the distance between two rays at 1 m.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    dx: Tensor
    dy: Tensor
    dz: Tensor
    turn_x: Tensor
    turn_z: Tensor
    step: float

    def mirrored(self) -> View:
        """The scene as level ground reflects it: seen from below the ground."""
        return replace(self, y=-self.y, dy=-self.dy)

    def at(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points ``depth`` along the rays, THW each."""
        return self.x + depth * self.dx, self.y + depth * self.dy, self.z + depth * self.dz

    def level(self, y: float) -> Tensor:
        """Depth of the level plane at ``y``, THW; ``FAR`` where the ray does not lead to it."""
        fall = (y - self.y) / torch.where(self.dy.abs() < 1e-4, 1e-4, self.dy)
        return torch.where(fall > 0, fall, FAR).clamp(max=FAR)

    def upright(self, z: float) -> Tensor:
        """Depth of the upright plane at ``z`` ahead, THW."""
        return (z - self.z) / self.dz.clamp(min=0.05)

    def sideways(self, x: Tensor | float) -> Tensor:
        """Depth of the upright plane along the view at ``x``, THW; ``FAR`` where the ray leads away."""
        across = (x - self.x) / torch.where(self.dx.abs() < 1e-4, 1e-4, self.dx)
        return torch.where(across > 0, across, FAR).clamp(max=FAR)

    def facing(self, x: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor]:
        """Depth of the upright plane through (x, z) that faces the camera, and x across it from that point, THW."""
        ahead_x, ahead_z = -self.turn_z, self.turn_x
        reach = (x - self.x) * ahead_x + (z - self.z) * ahead_z
        depth = reach / (self.dx * ahead_x + self.dz * ahead_z)
        across = (self.x - x + depth * self.dx) * self.turn_x + (self.z - z + depth * self.dz) * self.turn_z
        return depth, across


def cast_rays(path_6T: Tensor, horizon: float, height: int, width: int, device: torch.device) -> View:
    """The view of a camera path: x, y, z in metres, yaw to the right, pitch up and roll in radians, for every frame.

    ``horizon`` is where the level view cuts the frame, 0 at the top; the lens is shifted, so that uprights stay upright.
    """
    turns = torch.cat((path_6T, path_6T[3:].cos(), path_6T[3:].sin())).to(device, non_blocking=True)[..., None, None]
    x, y, z, _, _, _, cos_yaw, cos_pitch, cos_roll, sin_yaw, sin_pitch, sin_roll = turns
    step = 1.0 / (FOCAL * height)
    up = ((horizon * height - 0.5) - torch.arange(height, device=device))[:, None] * step
    right = (torch.arange(width, device=device) + (0.5 - 0.5 * width))[None, :] * step
    across, above = cos_roll * right + sin_roll * up, cos_roll * up - sin_roll * right
    ahead, rise = cos_pitch - above * sin_pitch, above * cos_pitch + sin_pitch
    dx, dz = cos_yaw * across + sin_yaw * ahead, cos_yaw * ahead - sin_yaw * across
    return View(x, y, z, dx, rise, dz, cos_yaw, -sin_yaw, step)


def box(x: Tensor, y: Tensor, centre: Point, half: Point, radius: float = 0.0) -> Tensor:
    """Signed distance to a rectangle with rounded corners, negative inside."""
    dx, dy = (x - centre[0]).abs() - (half[0] - radius), (y - centre[1]).abs() - (half[1] - radius)
    if not radius:
        return torch.maximum(dx, dy)
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius


def disc(x: Tensor, y: Tensor, centre: Point, half: Point) -> Tensor:
    """Signed distance to an upright ellipse, nearly."""
    return (torch.hypot((x - centre[0]) / half[0], (y - centre[1]) / half[1]) - 1) * min(half)


def strokes(x: Tensor, y: Tensor, strokes_LT6: Tensor) -> Tensor:
    """Signed distances LTHW to strokes (ax, ay, bx, by, radius at a, radius at b) that move from frame to frame."""
    ax, ay, bx, by, radius_a, radius_b = strokes_LT6[..., None, None].unbind(2)
    reach_x, reach_y = bx - ax, by - ay
    from_x, from_y = x - ax, y - ay
    length = (reach_x * reach_x + reach_y * reach_y).clamp(min=1e-6)
    along = ((from_x * reach_x + from_y * reach_y) / length).clamp(0, 1)
    return torch.hypot(from_x - along * reach_x, from_y - along * reach_y) - (radius_a + (radius_b - radius_a) * along)


def blend(distances_LTHW: Tensor, softness: float = 0.02) -> Tensor:
    """The union of shapes, THW, with soft joints."""
    return torch.logsumexp(distances_LTHW * (-1 / softness), 0) * -softness


def fixed_strokes(x: Tensor, y: Tensor, shapes: Sequence[tuple[float, ...]]) -> Tensor:
    """Signed distance THW to the union of strokes that stand still on their plane."""
    return strokes(x, y, constant(tuple(shapes), x.device)[:, None, :]).amin(0)


def cover(distance: Tensor, size: Tensor | float) -> Tensor:
    """How much of a ray of width ``size`` lies inside a shape."""
    return (0.5 - distance / size).clamp(0, 1)


def over(below: Tensor, above: Tensor | float, alpha: Tensor | float) -> Tensor:
    """Lay a colour, or any number, over what is below; shapes broadcast."""
    return below + (above - below) * alpha


_CONSTANTS: dict[tuple[object, torch.device], Tensor] = {}


def constant(values: tuple[object, ...], device: torch.device) -> Tensor:
    """Numbers as a tensor, sent to the device once: a copy for each use would make the host wait for it."""
    key = (values, device)
    if key not in _CONSTANTS:
        _CONSTANTS[key] = torch.tensor(values, dtype=torch.float32).to(device)
    return _CONSTANTS[key]


def rgb(colour: tuple[float, float, float], device: torch.device) -> Tensor:
    """A colour as a tensor that multiplies pictures CTHW."""
    return constant(colour, device).view(3, 1, 1, 1)
