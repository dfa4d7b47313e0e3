"""The figure and the car, drawn from signed distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cinelora.footage.render.rays import Stage, View, box, cover, disc, frontlight, lamplight, limb, over, rgb, union
from cinelora.footage.render.scenes import CARS, COATS, Scene


def figure_shapes(x: Tensor, y: Tensor, scene: Scene, time: float) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distances to coat, face and dark parts (hat, legs, shoes) of the figure at the origin of ``x``."""
    facing = 1.0 if scene.walk >= 0 else -1.0
    stride = 0.27 * math.sin(time * 5.6) if scene.walk else 0.07
    bob = 0.02 * abs(math.cos(time * 5.6)) if scene.walk else 0.004 * math.sin(time * 2)
    x, y = x * facing, y - bob
    lift = [0.09 * max(0.0, math.cos(time * 5.6 + phase)) if scene.walk else 0.0 for phase in (0.0, math.pi)]
    legs = [
        union(
            limb(x, y, (0.0, 0.85), (swing * 0.55 + 0.03, 0.45), 0.10, 0.075),
            limb(x, y, (swing * 0.55 + 0.03, 0.45), (swing, 0.07 + up), 0.075, 0.055),
            limb(x, y, (swing, 0.045 + up), (swing + 0.13, 0.035 + up), 0.045, 0.035),
        )
        for swing, up in zip((stride, -stride), lift, strict=True)
    ]
    hem = 0.25 * abs(stride)
    coat = union(
        limb(x, y, (0.0, 1.30), (-0.03, 0.62), 0.185, 0.215 + hem),
        limb(x, y, (0.02, 1.40), (0.0, 1.20), 0.15, 0.20),
        limb(x, y, (0.05, 1.38), (0.07 - 0.5 * stride, 1.02), 0.085, 0.07),
        limb(x, y, (0.07 - 0.5 * stride, 1.02), (0.14 - 0.6 * stride, 0.84), 0.065, 0.055),
    )
    coat = torch.maximum(coat, 0.52 - y)
    collar = limb(x, y, (-0.09, 1.50), (0.08, 1.46), 0.045, 0.05)
    face = union(disc(x, y, (0.035, 1.63), (0.088, 0.115)), limb(x, y, (0.10, 1.63), (0.128, 1.605), 0.02, 0.016))
    hair = disc(x, y, (0.005, 1.68), (0.10, 0.095))
    hat = union(
        limb(x, y, (-0.17, 1.695), (0.20, 1.675), 0.020, 0.018),
        box(x, y, (0.01, 1.765), (0.108, 0.075), 0.045),
    )
    return union(coat, collar), face, union(*legs, hat if scene.hat else hair)


def draw_figure(image: Tensor, view: View, stage: Stage, light_at: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Lay the figure over the image. ``light_at`` gives the light on points of its plane."""
    scene = stage.scene
    z = scene.start[1]
    x, y, size = view.upright(z)
    x_figure = x - (scene.start[0] + scene.walk * stage.time)
    coat, face, dark = figure_shapes(x_figure, y, scene, stage.time)
    light = light_at(x, y, z)
    backlight = 0.10 * lamplight(stage.lamps, x, y, z + 0.5) + 0.05 * light
    whole = union(coat, face, dark)
    # a thin edge of the light behind keeps a dark coat apart from a dark street
    rim = torch.exp(-(((whole + 0.022) / 0.022) ** 2)) * (y > 0.1)
    folds = 0.82 + 0.5 * (stage.textures.sample(stage.textures.cloud, x_figure * 1.1, y * 0.35) - 0.5)
    round_off = (0.65 - 5.0 * coat.clamp(max=0)).clamp(max=1.15)
    for shape, colour in ((dark, (0.045, 0.043, 0.045)), (coat, COATS[scene.coat]), (face, (0.52, 0.38, 0.30))):
        shade = folds * round_off if shape is coat else torch.ones_like(folds)
        lit = rgb(colour) * (light * shade) + rgb((0.9, 0.88, 0.85)) * backlight * rim
        image = over(image, stage.hazed(lit, z - view.z), cover(shape, size) * (y > 0))
    return image


def car_position(scene: Scene, time: float, duration_s: float) -> float:
    """x of the car's middle: it passes the middle of the street in the middle of the clip."""
    return scene.car_speed * (time - 0.5 * duration_s)


CAR_Z = 8.2


def draw_car(image: Tensor, view: View, stage: Stage, x_car: float) -> Tensor:
    """Lay the car over the image, its lamps lit where the look has light."""
    facing = math.copysign(1.0, stage.scene.car_speed)
    x, y, size = view.upright(CAR_Z)
    x_local = (x - x_car) * facing
    body = union(
        box(x_local, y, (0.0, 0.62), (2.15, 0.28), 0.20),
        box(x_local, y, (1.25, 0.74), (0.80, 0.24), 0.18),
        torch.maximum(disc(x_local, y, (-0.25, 0.70), (1.35, 0.86)), 0.5 - y),
        limb(x_local, y, (-1.9, 0.62), (-1.2, 0.95), 0.25, 0.2),
    )
    glass = torch.maximum(disc(x_local, y, (-0.25, 0.72), (1.12, 0.70)), 0.96 - y)
    glass = torch.maximum(glass, 0.05 - (x_local + 0.28).abs())
    tyres = union(*(disc(x_local, y, (at, 0.34), (0.34, 0.34)) for at in (-1.3, 1.3)))
    hubs = union(*(disc(x_local, y, (at, 0.34), (0.17, 0.17)) for at in (-1.3, 1.3)))
    light = frontlight(stage.lamps, x, y, CAR_Z) + stage.look.ambient
    gloss = 0.25 + 0.9 * torch.exp(-(((y - 0.84) / 0.07) ** 2)) + 0.5 * torch.exp(-(((y - 1.5) / 0.06) ** 2))
    paint = rgb(CARS[stage.scene.car or "black"]) * light + rgb((0.5, 0.5, 0.5)) * light * gloss * 0.35
    depth, above = CAR_Z - view.z, y > 0
    for shape, colour in (
        (body, paint),
        (glass, rgb((0.10, 0.12, 0.14)) * (light + stage.look.ambient)),
        (tyres, rgb((0.02, 0.02, 0.02)) * light),
        (hubs, rgb((0.45, 0.45, 0.45)) * light),
    ):
        image = over(image, stage.hazed(colour, depth), cover(shape, size) * above)
    head, tail = torch.hypot(x_local - 2.12, y - 0.66), torch.hypot(x_local + 2.12, y - 0.70)
    off = 0.25 * stage.look.ambient
    image = over(image, rgb((0.9, 0.9, 0.85)) * (off + 2.2 * stage.look.lamps), cover(head - 0.10, size))
    image = over(image, rgb((0.6, 0.05, 0.03)) * (off + 1.0 * stage.look.lamps), cover(tail - 0.07, size))
    beam = torch.exp(-(((y - 0.66 + 0.06 * (x_local - 2.1)) / (0.10 + 0.16 * (x_local - 2.1).clamp(min=0))) ** 2))
    beam = beam * torch.sigmoid((x_local - 2.15) * 12) * torch.exp(-(x_local - 2.1).clamp(min=0) / 2.2)
    glow = 0.012 / (0.02 + head * head) + 0.30 * beam * (0.5 + stage.textures.sample(stage.textures.cloud, x * 0.2, y))
    return image + rgb((1.0, 0.95, 0.82)) * glow * stage.look.lamps * above
