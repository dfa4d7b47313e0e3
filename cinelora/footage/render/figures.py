"""The figures and the car, drawn from signed distances on cut-outs, with the shading of round bodies.

T frames. THW is a plane of every frame, CTHW a picture in linear light.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cinelora.footage.render.light import Stage
from cinelora.footage.render.looks import Colour
from cinelora.footage.render.motion import CAR_Z, PARTS, Figure
from cinelora.footage.render.rays import View, blend, box, cover, disc, fixed_strokes, over, strokes

CLOTH: dict[str, Colour] = {
    "red": (0.62, 0.018, 0.015),
    "green": (0.020, 0.36, 0.055),
    "blue": (0.020, 0.075, 0.62),
    "yellow": (0.80, 0.50, 0.015),
    "white": (0.82, 0.80, 0.76),
    "black": (0.012, 0.012, 0.014),
}
"""Colours of coats, and of cars."""
SKIN, TROUSERS, FELT = (0.46, 0.27, 0.19), (0.040, 0.040, 0.046), (0.055, 0.045, 0.040)
HAIR = (0.035, 0.022, 0.015)

Visible = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What the sun sees of points of space, THW."""


def draw_figure(image: Tensor, view: View, stage: Stage, figure: Figure, sunlit: Visible | None = None) -> Tensor:
    """Lay a figure over the picture, its parts from back to front, then one light on all of them."""
    depth, across = view.facing(figure.x, figure.z)
    world_x, y, world_z = view.at(depth)
    x, size = across * figure.facing, depth.clamp(min=0.3) * view.step
    distances = strokes(x, y, figure.strokes)
    parts = torch.stack([blend(distances[part]) for part in PARTS.values()])
    hem = 0.46 - y
    parts = torch.cat((parts[:1], torch.maximum(parts[1:2], hem), parts[2:]))
    normals = _round_normals(parts, across, y)
    walks = stage.scene.act != "stands"
    coat, top = CLOTH[stage.scene.coat], FELT if stage.scene.hat else HAIR
    if not stage.scene.hat:
        hair = distances[PARTS["top"]][0]
        parts = torch.cat((parts[:3], hair[None], parts[4:]))
    coats = stage.rgb(coat)
    seam = torch.exp(-(((x - (0.10 if walks else 0.012)) / 0.012) ** 2)) * (y < 1.32)
    belt = torch.exp(-(((y - 1.035) / 0.028) ** 2))
    cloth = coats * (1 - 0.45 * torch.maximum(seam * (y < 1.40), 0.9 * belt))
    sleeve = distances[PARTS["arm"]]
    arm = torch.where(sleeve[2] < sleeve[:2].amin(0), stage.rgb(SKIN), coats)
    colours = (stage.rgb(TROUSERS), cloth, stage.rgb(SKIN), stage.rgb(top), arm)
    albedo, normal, whole = torch.zeros_like(image), torch.zeros_like(image), torch.zeros_like(x)
    for distance, bent, colour in zip(parts, normals.unbind(1), colours, strict=True):
        alpha = cover(distance, size)
        # a part throws a soft shade on what lies behind its edge
        shade = 1 - 0.35 * torch.exp(-((distance.clamp(min=0) / 0.035) ** 2))
        albedo = over(albedo * shade, colour, alpha)
        normal = over(normal, bent, alpha)
        whole = torch.maximum(whole, alpha)
    lit = _shaded(view, stage, (world_x, y, world_z), albedo, normal, sunlit)
    return over(image, stage.hazed(lit, depth), whole * (y > 0) * (depth > 0.3))


def _round_normals(distances: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Normals (3, P, T, H, W) to the right, up and towards the camera of P flat shapes, as if they were inflated."""
    lean_x = torch.gradient(distances, dim=-1)[0] / torch.gradient(x, dim=-1)[0]
    lean_y = torch.gradient(distances, dim=-2)[0] / torch.gradient(y, dim=-2)[0]
    # flat at 15 cm from the edge
    bend = (1 + distances / 0.15).clamp(0, 1)
    side_x, side_y = (lean_x * bend).clamp(-1, 1), (lean_y * bend).clamp(-1, 1)
    front = (1.02 - side_x * side_x - side_y * side_y).clamp(min=0.02).sqrt()
    return torch.stack((side_x, side_y, front))


def _shaded(
    view: View,
    stage: Stage,
    at: tuple[Tensor, Tensor, Tensor],
    albedo: Tensor,
    normal: Tensor,
    sunlit: Visible | None,
) -> Tensor:
    """A round body in the light of the stage, with a rim of what shines behind it."""
    side, up, front = normal
    world = (side * view.turn_x + front * view.turn_z, up, side * view.turn_z - front * view.turn_x)
    seen = sunlit(*at) if sunlit else None
    light = stage.light(at, world, sunlit=seen, wrap=0.25)
    grounded = 0.55 + 0.45 * (at[1] / 0.9).clamp(0, 1)
    rim = (1 - front).clamp(0, 1) ** 3
    return albedo * light * grounded + stage.rgb(stage.haze) * rim * (0.0 if stage.scene.place == "room" else 0.2)


def draw_car(image: Tensor, view: View, stage: Stage, x_car: Tensor) -> Tensor:
    """Lay the car over the picture, its lamps lit as the hour wants. ``x_car`` is T11."""
    facing = 1.0 if stage.scene.car_direction == "right" else -1.0
    depth = view.upright(CAR_Z)
    x, y, _ = view.at(depth)
    size = depth * view.step
    along = (x - x_car) * facing
    lower = box(along, y, (0.0, 0.60), (2.20, 0.30), 0.22)
    bonnet = box(along, y, (1.20, 0.76), (0.90, 0.23), 0.20)
    roof = torch.maximum(disc(along, y, (-0.30, 0.74), (1.40, 0.84)), 0.5 - y)
    boot = fixed_strokes(along, y, ((-1.85, 0.68, -1.2, 0.92, 0.24, 0.2),))
    body = torch.minimum(torch.minimum(lower, bonnet), torch.minimum(roof, boot))
    glass = torch.maximum(disc(along, y, (-0.30, 0.78), (1.17, 0.68)), 0.98 - y)
    glass = torch.maximum(glass, 0.045 - (along + 0.28).abs())
    wheel = torch.hypot(along.abs() - 1.32, y - 0.34)
    arch = cover(torch.maximum(wheel - 0.43, 0.25 - y), size)
    light = stage.light((x, y, CAR_Z), (0.0, 0.25, -0.97), wrap=0.2)
    # the upper side of every curve mirrors the sky
    gloss = torch.exp(-(((y - 0.90) / 0.06) ** 2)) + 0.8 * torch.exp(-(((y - 1.50) / 0.07) ** 2))
    turned = 0.62 + 0.5 * ((y - 0.35) / 1.1).clamp(0, 1)
    colour = stage.rgb(CLOTH[stage.scene.car or "black"])
    sky = torch.maximum(stage.rgb(stage.hour.horizon) * 0.5, light * 0.35)
    paint = (colour + 0.02) * light * turned + sky * gloss * 0.30
    paint = over(paint, paint * 0.25, arch)
    image = over(image, stage.hazed(paint, depth), cover(body, size))
    pane = sky * (0.25 + 0.5 * ((y - 0.95) / 0.5).clamp(0, 1))
    image = over(image, stage.hazed(pane, depth), cover(glass, size))
    image = over(image, stage.hazed(light * 0.02, depth), cover(wheel - 0.34, size))
    image = over(image, stage.hazed(light * 0.40, depth), cover(wheel - 0.18, size))
    head, tail = torch.hypot(along - 2.14, y - 0.68), torch.hypot(along + 2.12, y - 0.72)
    on = stage.hour.lamps
    image = over(image, stage.rgb((0.8, 0.8, 0.75)) * light * 0.8 + 2.6 * on, cover(head - 0.11, size))
    image = over(
        image, stage.rgb((0.5, 0.02, 0.02)) * light + stage.rgb((1.6, 0.06, 0.03)) * on, cover(tail - 0.09, size)
    )
    if not on:
        return image
    ahead = (along - 2.14).clamp(min=0)
    beam = torch.exp(-(((y - 0.68 + 0.06 * ahead) / (0.10 + 0.17 * ahead)) ** 2)) * torch.exp(ahead / -2.0)
    thick = 0.10 + min(1.0, stage.haze_per_m * 6)
    glow = 0.020 / (0.03 + head * head) + 0.40 * thick * beam * (along > 2.14)
    red = 0.006 / (0.02 + tail * tail)
    return image + (stage.rgb((1.0, 0.93, 0.78)) * glow + stage.rgb((1.0, 0.05, 0.02)) * red) * (on * (y > 0))
