"""The figures and the car, drawn from signed distances on cut-outs, with the shading of round bodies.

T frames, F figures, P parts of a figure. THW is a plane of every frame, CTHW a picture in linear light.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tools.scale_model.render.light import Points, Stage
from tools.scale_model.render.looks import PAINTS, Colour
from tools.scale_model.render.motion import CAR_Z, PARTS
from tools.scale_model.render.rays import Canvas, View, band, blend, box, cover, disc, limb, over, strokes

CLOTH: dict[str, Colour] = PAINTS["cloth"]
"""Colours of coats, and of cars."""
SKIN, TROUSERS, FELT = (0.46, 0.27, 0.19), (0.040, 0.040, 0.046), (0.055, 0.045, 0.040)
HAIR = (0.035, 0.022, 0.015)
HEM, BELT_Y = 0.46, 1.035

Visible = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What the sun sees of points of space."""


def draw_crowd(canvas: Canvas, view: View, stage: Stage, sunlit: Visible | None = None) -> None:
    """Lay the figures over the canvas, all drawn at once in windows of the frame, from back to front."""
    # A figure covers few columns of the frame, and its signed distances are the dearest part of a picture: they are computed in a
    # window of columns around each figure. The windows are equally wide, so that all figures are one tensor with F first.
    starts, width = stage.windows
    window = view.columns(starts, width)
    depth, across = window.facing(stage.crowd.x, stage.crowd.z)
    at = window.at(depth)
    x, y, size = across * stage.crowd.facing, at[1], depth.clamp(min=0.3) * view.step
    distances = strokes(x, y, stage.crowd.strokes)
    if not stage.scene.hat:
        distances[PARTS["top"]][1:] = 1.0
    parts = torch.stack([blend(distances[part]) for part in PARTS.values()])
    normals = _round_normals(parts, across, y)
    # the coat ends at its hem; its normals were taken before that, since cloth that is cut off does not curve inwards there
    parts[1] = torch.maximum(parts[1], HEM - y)
    albedo, normal = _dressed(stage, x, y, distances, parts, normals, size)
    lit = stage.hazed(_shaded(view, stage, at, albedo, normal, sunlit), depth)
    alpha = cover(parts.amin(0), size) * ((y > 0) & (depth > 0.3))
    # one after the other, since windows may overlap: the figures come from back to front
    for index, start in enumerate(starts):
        canvas.lay(lit[:, index], alpha[index], start)


def _dressed(
    stage: Stage, x: Tensor, y: Tensor, distances: Tensor, parts: Tensor, normals: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours and normals (3, F, T, H, W) of the parts, laid over one another from back to front."""
    coat, skin, top = CLOTH[stage.scene.coat], stage.rgb(SKIN, 5), FELT if stage.scene.hat else HAIR
    seam = band(x - (0.012 if stage.scene.act == "stands" else 0.10), 0.012) * (y < 1.4)
    cloth = stage.rgb(coat, 5) * (1 - 0.42 * torch.maximum(seam, band(y - BELT_Y, 0.028)))
    upper, lower, hand, collar = distances[PARTS["arm"]].unbind()
    # the arm is one part of two colours: skin where the hand is the nearest of its strokes
    arm = torch.where(hand < torch.minimum(torch.minimum(upper, lower), collar), skin, stage.rgb(coat, 5))
    alphas = cover(parts, size)
    # a part throws a soft shade on what lies behind its edge
    shades = 1 - 0.35 * band(parts.clamp(min=0), 0.035)
    albedo, normal = stage.rgb(TROUSERS, 5).expand_as(arm).clone(), normals[:, 0].clone()
    for index, colour in enumerate((cloth, skin, stage.rgb(top, 5), arm), 1):
        albedo.mul_(shades[index]).lerp_(colour.expand_as(albedo), alphas[index])
        normal.lerp_(normals[:, index], alphas[index])
    return albedo, normal


def _round_normals(parts: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Normals (3, P, F, T, H, W) to the right, up and towards the camera of flat shapes, as if they were inflated."""
    # The gradient of a signed distance points out of the shape. It is a difference between the neighbours on both sides, of which
    # ``roll`` takes the far side at the border of the window: a figure is inside it, or leaves the frame there.
    lean_x, lean_y = (
        (parts.roll(-1, dim) - parts.roll(1, dim)) / (axis.roll(-1, dim) - axis.roll(1, dim))
        for axis, dim in ((x, -1), (y, -2))
    )
    # The outline looks sideways and the middle to the camera: bent outwards at the edge, flat at 15 cm from it.
    bend = (1 + parts / 0.15).clamp(0, 1)
    # cloth hangs: nothing of it faces the ground
    side_x, side_y = (lean_x * bend).clamp(-1, 1), (lean_y * bend).clamp(-0.3, 1)
    front = (1.02 - side_x * side_x - side_y * side_y).clamp(min=0.02).sqrt()
    return torch.stack((side_x, side_y, front))


def _shaded(view: View, stage: Stage, at: Points, albedo: Tensor, normal: Tensor, sunlit: Visible | None) -> Tensor:
    """Round bodies in the light of the stage, with a rim of what shines behind them."""
    side, up, front = normal.unbind()
    # from the cut-out, which faces the camera, to the directions of the scene
    world = (side * view.turn_x + front * view.turn_z, up, side * view.turn_z - front * view.turn_x)
    light = stage.light(at, world, sunlit=sunlit(*at) if sunlit else 1.0, wrap=0.4)
    lit = albedo * light * (0.55 + 0.5 * at[1].clamp(0, 0.9))
    if stage.scene.place == "room":
        return lit
    return lit + stage.rgb(stage.hour.haze, 5) * (0.2 * (1 - front).clamp(0, 1) ** 3)


def draw_car(canvas: Canvas, view: View, stage: Stage) -> None:
    """Lay the car over the canvas, its lamps lit as the hour wants."""
    facing = 1.0 if stage.scene.car_direction == "right" else -1.0
    depth = view.upright(CAR_Z)
    x, y, _ = view.at(depth)
    size, above = depth * view.step, y > 0
    along = (x - stage.car_x) * facing
    # The body is a union of simple shapes: sides, bonnet, a roof that is cut off at the doors, a sloping boot.
    lower = box(along, y, (0.0, 0.60), (2.20, 0.30), 0.22)
    bonnet = box(along, y, (1.20, 0.76), (0.90, 0.23), 0.20)
    roof = torch.maximum(disc(along, y, (-0.30, 0.74), (1.40, 0.84)), 0.5 - y)
    boot = limb(along, y, (-1.85, 0.68), (-1.2, 0.92), 0.24, 0.2)
    body = torch.minimum(torch.minimum(lower, bonnet), torch.minimum(roof, boot))
    # the panes are a smaller roof above the doors, and a post divides them
    glass = torch.maximum(disc(along, y, (-0.30, 0.78), (1.17, 0.68)), 0.98 - y)
    glass = torch.maximum(glass, 0.045 - (along + 0.28).abs())
    wheel = torch.hypot(along.abs() - 1.32, y - 0.34)
    light = stage.light((x, y, CAR_Z), (0.0, 0.25, -0.97), wrap=0.2)
    # the upper side of every curve mirrors the sky
    gloss = band(y - 0.90, 0.06) + 0.8 * band(y - 1.50, 0.07)
    sky = torch.maximum(stage.rgb(stage.hour.horizon) * 0.5, light * 0.35)
    colour = stage.rgb(CLOTH[stage.scene.car or "black"]) + 0.02
    paint = colour * light * (0.47 + 0.45 * y.clamp(0.35, 1.45)) + sky * (gloss * 0.30)
    # shade under the wheel arches
    paint = paint * (1 - 0.75 * cover(torch.maximum(wheel - 0.43, 0.25 - y), size))
    pane = sky * (0.25 + (y - 0.95).clamp(0, 0.5))
    car = over(paint, pane, cover(glass, size))
    car = over(car, light * (0.02 + 0.38 * cover(wheel - 0.18, size)), cover(wheel - 0.34, size))
    head, tail, on = torch.hypot(along - 2.14, y - 0.68), torch.hypot(along + 2.12, y - 0.72), stage.hour.lamps
    car = stage.hazed(car, depth)
    car = over(car, light * 0.6 + 2.6 * on, cover(head - 0.11, size))
    car = over(car, stage.rgb((1.0, 0.04, 0.03)) * (light * 0.5 + 1.6 * on), cover(tail - 0.09, size))
    body = torch.minimum(torch.minimum(body, wheel - 0.34), torch.minimum(head - 0.11, tail - 0.09))
    canvas.lay(car, cover(body, size) * above)
    if not on:
        return
    # the beam widens and sinks ahead of the lamp; haze makes it visible
    ahead = (along - 2.14).clamp(min=0)
    beam = torch.exp(((y - 0.68 + 0.06 * ahead) / (0.10 + 0.17 * ahead)) ** 2 * -1 - ahead * 0.5) * (along > 2.14)
    glow = 0.020 / (0.03 + head * head) + (0.04 + 0.4 * min(1.0, stage.haze_per_m * 6)) * beam
    red = 0.006 / (0.02 + tail * tail)
    canvas.glow((stage.rgb((1.0, 0.93, 0.78)) * glow + stage.rgb((1.0, 0.05, 0.02)) * red) * (above * on))
