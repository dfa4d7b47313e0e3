"""The camera's rays, where they meet planes, and the shapes on those planes. It knows no scene and no light.

T frames are drawn at once. Shapes: THW is a plane of every frame, CTHW a picture in linear light, T11 one number a frame;
F figures, L strokes, K lamps. Every edge is an analytic coverage, which takes the place of supersampling.
"""

from __future__ import annotations

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

    ``turn_x`` and ``turn_z`` (T11) point to the camera's right; ``step`` is the distance between two rays at 1 m. Rows
    below the frame's own, if any, see the scene as level ground mirrors it: their eye lies below the ground (``y`` is TH1).
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

    def rows(self, height: int) -> View:
        """The first rows alone."""
        eye = self.y[:, :height] if self.y.shape[1] > 1 else self.y
        return replace(self, y=eye, dx=self.dx[:, :height], dy=self.dy[:, :height], dz=self.dz[:, :height])

    def columns(self, starts: list[int], width: int) -> View:
        """Windows of ``width`` columns, one for each of F figures: rays FTHW."""
        cut = [torch.stack([d[..., start : start + width] for start in starts]) for d in (self.dx, self.dy, self.dz)]
        return replace(self, dx=cut[0], dy=cut[1], dz=cut[2])

    def at(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points ``depth`` along the rays, THW each."""
        return self.x + depth * self.dx, self.y + depth * self.dy, self.z + depth * self.dz

    def level(self, y: float) -> Tensor:
        """Depth of the level plane at ``y``, THW; ``FAR`` where the ray does not lead to it."""
        # a ray along the plane would meet it at infinity: its slope is kept away from 0
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
        from_x, from_z = x - self.x, z - self.z
        # the camera looks along (-turn_z, turn_x)
        reach = from_z * self.turn_x - from_x * self.turn_z
        depth = reach / (self.dz * self.turn_x - self.dx * self.turn_z)
        across = depth * (self.dx * self.turn_x + self.dz * self.turn_z) - (from_x * self.turn_x + from_z * self.turn_z)
        return depth, across


def cast_rays(
    path_6T: Tensor, horizon: float, height: int, width: int, device: torch.device, mirrored_from: int | None = None
) -> View:
    """The view of a camera path: x, y, z in metres, yaw to the right, pitch up and roll in radians, for every frame.

    ``horizon`` is where the level view cuts the frame, 0 at the top; the lens is shifted, so that uprights stay upright.
    The rows from ``mirrored_from`` on are repeated below the frame, as the ground mirrors them.
    """
    # One copy to the device for all six numbers with the cosines and sines of the angles, each T11 to broadcast over pixels.
    turns = torch.cat((path_6T, path_6T[3:].cos(), path_6T[3:].sin())).to(device, non_blocking=True)[..., None, None]
    x, y, z, _, _, _, cos_yaw, cos_pitch, cos_roll, sin_yaw, sin_pitch, sin_roll = turns.unbind()
    step = 1.0 / (FOCAL * height)
    row = torch.arange(height, device=device)
    if mirrored_from is not None:
        row = torch.cat((row, row[mirrored_from:]))
    # A pixel's ray before the camera turns: one metre ahead, so much to the right and up. The horizon is not in the middle of the
    # frame: the lens is shifted, where a camera that nods would make uprights converge.
    up = (((horizon * height - 0.5) - row) * step)[:, None]
    right = (torch.arange(width, device=device) + (0.5 - 0.5 * width)) * step
    # roll, then pitch, then yaw
    across, above = cos_roll * right + sin_roll * up, cos_roll * up - sin_roll * right
    ahead, rise = cos_pitch - above * sin_pitch, above * cos_pitch + sin_pitch
    dx, dz = cos_yaw * across + sin_yaw * ahead, cos_yaw * ahead - sin_yaw * across
    if mirrored_from is not None:
        # Level ground mirrors the scene as an eye as far below it would see it, looking up where the other looks down.
        flip = 1.0 - 2.0 * (torch.arange(len(row), device=device) >= height)[:, None]
        y, rise = y * flip, rise * flip
    return View(x, y, z, dx, rise, dz, cos_yaw, -sin_yaw, step)


@dataclass(frozen=True)
class Canvas:
    """What stands before a background that is not painted yet: its picture on black, and how much stays clear."""

    image_CTHW: Tensor
    clear_THW: Tensor

    @classmethod
    def like(cls, plane_THW: Tensor) -> Canvas:
        """An empty canvas."""
        return cls(plane_THW.new_zeros(3, *plane_THW.shape), torch.ones_like(plane_THW))

    def lay(self, colour: Tensor, alpha_THW: Tensor, first: int = 0) -> None:
        """Lay a colour over everything so far, from column ``first`` on."""
        columns = slice(first, first + alpha_THW.shape[-1])
        image = self.image_CTHW[..., columns]
        image.lerp_(colour.expand_as(image), alpha_THW)
        self.clear_THW[..., columns].mul_(1 - alpha_THW)

    def glow(self, light_CTHW: Tensor) -> None:
        """Add light."""
        self.image_CTHW.add_(light_CTHW)

    def rows(self, height: int) -> Canvas:
        """The first rows alone."""
        return Canvas(self.image_CTHW[:, :, :height], self.clear_THW[:, :height])

    def before(self, background_CTHW: Tensor) -> Tensor:
        """The picture on its background."""
        return self.image_CTHW + self.clear_THW * background_CTHW


def box(x: Tensor, y: Tensor, centre: Point, half: Point, radius: float = 0.0) -> Tensor:
    """Signed distance to a rectangle with rounded corners, negative inside."""
    dx, dy = (x - centre[0]).abs() - (half[0] - radius), (y - centre[1]).abs() - (half[1] - radius)
    if not radius:
        return torch.maximum(dx, dy)
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius


def disc(x: Tensor, y: Tensor, centre: Point, half: Point) -> Tensor:
    """Signed distance to an upright ellipse, nearly."""
    return (torch.hypot((x - centre[0]) / half[0], (y - centre[1]) / half[1]) - 1) * min(half)


def limb(x: Tensor, y: Tensor, a: Point, b: Point, radius_a: float, radius_b: float) -> Tensor:
    """Signed distance to the stroke from ``a`` to ``b`` whose radius changes on the way."""
    reach_x, reach_y = b[0] - a[0], b[1] - a[1]
    from_x, from_y = x - a[0], y - a[1]
    along = ((from_x * reach_x + from_y * reach_y) / (reach_x**2 + reach_y**2)).clamp(0, 1)
    return torch.hypot(from_x - along * reach_x, from_y - along * reach_y) - (radius_a + (radius_b - radius_a) * along)


def strokes(x_FTHW: Tensor, y_FTHW: Tensor, strokes_6LFT: Tensor) -> Tensor:
    """Signed distances LFTHW to strokes (ax, ay, bx, by, radius at a, radius at b) that move from frame to frame."""
    ax, ay, bx, by, radius_a, radius_b = strokes_6LFT[..., None, None].unbind()
    reach_x, reach_y = bx - ax, by - ay
    from_x, from_y = x_FTHW - ax, y_FTHW - ay
    # squared; a stroke of no length is a disc, and must not divide by 0
    length = (reach_x * reach_x + reach_y * reach_y).clamp(min=1e-6)
    along = (from_x * (reach_x / length) + from_y * (reach_y / length)).clamp(0, 1)
    # in place: these are the largest tensors of a clip
    from_x -= along * reach_x
    from_y -= along * reach_y
    return torch.hypot(from_x, from_y) - (radius_a + (radius_b - radius_a) * along)


def blend(distances_LFTHW: Tensor, softness: float = 0.02) -> Tensor:
    """The union of shapes, FTHW, with soft joints."""
    # minus the logarithm of a sum of exponentials is a soft minimum: it rounds the corner where two shapes meet
    return torch.logsumexp(distances_LFTHW * (-1 / softness), 0) * -softness


def cover(distance: Tensor, size: Tensor | float) -> Tensor:
    """How much of a ray of width ``size`` lies inside a shape."""
    return (0.5 - distance / size).clamp(0, 1)


def band(distance: Tensor, width: float) -> Tensor:
    """A soft line: 1 at no distance, and next to nothing from two widths on."""
    return torch.exp((distance / width) ** 2 * -1)


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


def rgb(colour: tuple[float, float, float], device: torch.device, num_dims: int = 4) -> Tensor:
    """A colour as a tensor that multiplies pictures, CTHW unless they have more dimensions."""
    return constant(colour, device).view(3, *(1,) * (num_dims - 1))
