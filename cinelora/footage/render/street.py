"""The street: road, houses, lamps, their reflections in the wet, rain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cinelora.footage.render.figures import CAR_Z, draw_car, draw_figure
from cinelora.footage.render.rays import (
    Lamp,
    Stage,
    View,
    box,
    cover,
    disc,
    frontlight,
    lamplight,
    limb,
    over,
    rgb,
    union,
)
from cinelora.footage.render.scenes import FACADES, LAMPLIGHT, LOOKS, Look, Point, Scene

STREET_HALF, ROAD_HALF, STREET_END = 6.2, 3.6, 46.0
LAMP_HEIGHT = 4.3


def street_lamps(scene: Scene, look: Look, x_car: float | None) -> list[Lamp]:
    """The lamps along one pavement, two across, and the car's headlamps."""
    if look.lamps == 0:
        return []
    side = scene.lamp_side
    places = [(side * 1.55, 5.9), (-side * 4.6, 12.5), (side * 4.6, 20.0), (-side * 4.6, 29.0)]
    lamps = [Lamp(x, LAMP_HEIGHT - 0.25, z, 3.0 * look.lamps) for x, z in places]
    if x_car is not None:
        ahead = x_car + math.copysign(3.4, scene.car_speed)
        lamps.append(Lamp(ahead, 0.7, CAR_Z, 0.5 * look.lamps, size=1.0, down=False))
    return lamps


def draw_street(view: View, stage: Stage, x_car: float | None) -> Tensor:
    """The street at one moment, linear light CHW."""
    image = draw_ground(view, stage, x_car)
    return draw_standing(image, view, stage, x_car)


def draw_sky(view: View, stage: Stage) -> Tensor:
    """Sky behind everything."""
    horizon, zenith = (rgb(colour) for colour in stage.look.sky)
    up = (-view.v_HW if not view.mirrored else view.v_HW).clamp(0, 0.6) / 0.6
    cloud = stage.textures.sample(stage.textures.cloud, view.u_HW * 0.22 + 0.004 * stage.time, view.v_HW * 0.5)
    sky = (horizon + (zenith - horizon) * up**0.7) * (0.8 + 0.4 * cloud)
    overcast = {"fog": 0.85, "rain": 0.7, "dry": 0.0}[stage.scene.weather]
    return sky + (rgb(stage.look.haze) - sky) * overcast


def draw_ground(view: View, stage: Stage, x_car: float | None) -> Tensor:
    """Sky above the horizon, road and pavements with their reflections below it."""
    x, z, depth = view.level()
    textures, look, scene = stage.textures, stage.look, stage.scene
    grain = textures.sample(textures.cloud, x * 0.35, z * 0.35)
    fine = textures.sample(textures.cloud, x * 1.7, z * 1.7)
    paved = x.abs() > ROAD_HALF
    albedo = torch.where(paved, 0.30, 0.17) * (0.7 + 0.5 * grain + 0.2 * (fine - 0.5) * torch.exp(-depth / 12))
    kerb = torch.exp(-(((x.abs() - ROAD_HALF) / 0.12) ** 2))
    dash = (x.abs() < 0.09) & ((z % 3.0) < 1.4)
    slab = paved & (((z % 1.2) < 0.05) | ((x % 1.2) < 0.05)) & (depth < 14)
    albedo = torch.where(dash, 0.5, torch.where(slab, albedo * 0.7, albedo)) * (1 - 0.45 * kerb)
    light = lamplight(stage.lamps, x, 0.0, z) * 1.25 + look.ambient * ground_shade(x, z, stage, x_car)
    wet = (0.75 if scene.weather == "rain" else look.wetness) * (0.45 + 0.9 * grain).clamp(0, 1)
    reflection = reflect(view, stage, x_car, x, z, depth)
    # grazing rays are reflected most (Schlick's approximation)
    grazing = 0.22 + 0.78 * (1 - view.v_HW.clamp(0, 0.5) / torch.hypot(view.v_HW, torch.ones(()))) ** 5
    ground = rgb((1.0, 0.97, 0.93)) * albedo * light * (1 - 0.35 * wet) + reflection * wet * grazing
    below = cover(-view.v_HW, view.step)
    return over(draw_sky(view, stage), stage.hazed(ground, depth.clamp(max=90)), below)


def ground_shade(x: Tensor, z: Tensor, stage: Stage, x_car: float | None) -> Tensor:
    """Ambient light kept out under the figure and the car, and by the houses on one side."""
    scene = stage.scene
    x_figure = scene.start[0] + scene.walk * stage.time
    shade = 1 - 0.6 * torch.exp(-(((x - x_figure) / 0.4) ** 2 + ((z - scene.start[1]) / 0.25) ** 2))
    if x_car is not None:
        shade = shade * (1 - 0.7 * torch.exp(-(((x - x_car) / 2.1) ** 4 + ((z - CAR_Z) / 0.7) ** 2)))
    return shade * (1 - 0.45 * torch.sigmoid((x * scene.lamp_side - 1.2 - 0.3 * torch.sin(z * 0.8)) * 3))


def reflect(view: View, stage: Stage, x_car: float | None, x: Tensor, z: Tensor, depth: Tensor) -> Tensor:
    """What the wet ground mirrors, broken up by its roughness and drawn out towards the camera."""
    textures = stage.textures
    drift = 0.05 * stage.time if stage.scene.weather == "rain" else 0.0
    ripple = textures.sample(textures.cloud, x * 0.9 + drift, z * 0.45 - drift) - 0.5
    fine = textures.sample(textures.cloud, x * 3.1 - drift, z * 1.5 + drift) - 0.5
    bump = (0.05 * ripple + 0.035 * fine) / (1 + 0.08 * depth)
    mirror = replace(view, u_HW=view.u_HW + 0.35 * bump, v_HW=view.v_HW + bump, mirrored=True)
    image = draw_standing(draw_sky(mirror, stage), mirror, stage, x_car)
    reach = max(3, view.u_HW.shape[0] // 18) | 1
    return F.avg_pool2d(image[None], (reach, 1), stride=1, padding=(reach // 2, 0), count_include_pad=False)[0]


def draw_standing(image: Tensor, view: View, stage: Stage, x_car: float | None) -> Tensor:
    """Everything that stands on the ground, from the far end to the front."""
    image = draw_end(image, view, stage)
    for side in (-1, 1):
        image = draw_facades(image, view, stage, side)
    drawn: list[tuple[float, Callable[[Tensor], Tensor]]] = [
        (z, partial(draw_post, view=view, stage=stage, x_post=x, z=z)) for x, z in street_lamp_posts(stage)
    ]
    if x_car is not None:
        drawn.append((CAR_Z, partial(draw_car, view=view, stage=stage, x_car=x_car)))
    drawn.append((stage.scene.start[1], partial(draw_figure, view=view, stage=stage, light_at=street_light(stage))))
    for _, draw in sorted(drawn, key=lambda item: -item[0]):
        image = draw(image)
    return image


def street_lamp_posts(stage: Stage) -> list[Point]:
    """x and z of every post, lit or not."""
    return [(lamp.x, lamp.z) for lamp in street_lamps(stage.scene, LOOKS["noir"], None)]


def street_light(stage: Stage) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Light on an upright surface in the street."""
    return lambda x, y, z: frontlight(stage.lamps, x, y, z) + stage.look.ambient


def draw_end(image: Tensor, view: View, stage: Stage) -> Tensor:
    """The houses that close the street, in the haze."""
    x, y, size = view.upright(STREET_END)
    heights = 9 + 8 * stage.textures.cell((x / 5 + 20).floor(), torch.zeros_like(x), 1)
    windows = window_grid(x, y, stage, 3, torch.tensor(size))
    wall = rgb(FACADES[stage.scene.seed % len(FACADES)]) * (stage.look.ambient * 0.8 + 0.03 * stage.look.lamps)
    return over(image, stage.hazed(wall + windows, STREET_END - view.z), cover(y - heights, size) * (y > 0))


def draw_facades(image: Tensor, view: View, stage: Stage, side: int) -> Tensor:
    """The houses along one side: each of its own height and colour, with windows, ledges and a shop front."""
    z, y, depth = view.side(side * STREET_HALF)
    seen = (depth > 0) & (z < STREET_END) & (y > 0)
    z, depth = z.clamp(0, STREET_END), depth.clamp(0.5, 2 * STREET_END)
    house = (z / 6.5 + (0.4 if side > 0 else 0.0)).floor()
    row = torch.full_like(house, 10.0 + side)
    height = 7.5 + 6.5 * stage.textures.cell(house, row, 1)
    palette = torch.tensor(FACADES)[(stage.textures.cell(house, row, 2) * len(FACADES)).long()].permute(2, 0, 1)
    # seen at a slant, a ray covers more of the wall along z than upright
    size, slant = view.step * depth, view.step * depth * depth / STREET_HALF
    ledge = torch.exp(-(((y % 3.0 - 0.12) / 0.10) ** 2)) * 0.35 + torch.exp(-(((y - height + 0.2) / 0.22) ** 2)) * 0.5
    bricks = 0.85 + 0.3 * stage.textures.sample(stage.textures.cloud, z * 0.25, y * 0.25)
    sunny = 1.0 + 0.35 * side * stage.scene.lamp_side * stage.look.ambient
    light = lamplight(stage.lamps, side * (STREET_HALF - 0.9), y, z) * 1.1 + stage.look.ambient * sunny
    occlusion = 0.55 + 0.45 * (y / 6).clamp(0, 1)
    wall = palette * light * bricks * occlusion * (1 + ledge)
    alpha, lit = windows_on(z, y, stage, 20 + side, slant)
    pane = rgb((0.20, 0.24, 0.28)) * stage.look.ambient * (0.6 + 0.5 * (y / 10)) + lit
    wall = over(wall, pane, alpha)
    return over(image, stage.hazed(wall, depth), cover(y - height, size) * seen)


def windows_on(along: Tensor, y: Tensor, stage: Stage, row: int, size: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage of the windows on a wall, and the light of those that are lit, CHW."""
    i, j = (along / 1.9).floor(), (y / 3.0).floor()
    x_local, y_local = along - (i + 0.5) * 1.9, y - (j + 0.5) * 3.0 - 0.1
    frame = box(x_local, y_local, (0.0, 0.0), (0.48, 0.82))
    sash = torch.minimum(x_local.abs() - 0.035, (y_local - 0.15).abs() - 0.04)
    alpha = cover(frame, size.clamp(min=0.03)) * (0.25 + 0.75 * cover(-sash, size.clamp(min=0.03)))
    chance = stage.textures.cell(i + row, j + 7, 0)
    warmth = stage.textures.cell(i + row, j + 7, 3)
    on = (chance < stage.look.windows_lit).float() * (0.10 + 0.32 * warmth) * (0.75 + 0.35 * y_local.clamp(-0.8, 0.8))
    return alpha, rgb((1.0, 0.78, 0.48)) * on * stage.look.lamps


def window_grid(x: Tensor, y: Tensor, stage: Stage, row: int, size: Tensor) -> Tensor:
    """Lit windows alone, CHW."""
    alpha, lit = windows_on(x, y, stage, row, size)
    return alpha * lit


def draw_post(image: Tensor, view: View, stage: Stage, x_post: float, z: float) -> Tensor:
    """A street lamp with its halo and its cone in the haze."""
    x, y, size = view.upright(z)
    x_local = x - x_post
    bulb_y = LAMP_HEIGHT - 0.25
    post = union(
        limb(x_local, y, (0.0, 0.0), (0.0, LAMP_HEIGHT), 0.07, 0.045),
        box(x_local, y, (0.0, 0.35), (0.13, 0.35), 0.05),
        limb(x_local, y, (0.0, LAMP_HEIGHT), (0.0, LAMP_HEIGHT + 0.22), 0.10, 0.02),
        limb(x_local, y, (-0.26, LAMP_HEIGHT - 0.02), (0.26, LAMP_HEIGHT - 0.02), 0.035, 0.035),
    )
    light = stage.look.ambient + 0.5 * lamplight(stage.lamps, x, y, z - 0.4)
    image = over(image, stage.hazed(rgb((0.10, 0.11, 0.11)) * light, z - view.z), cover(post, size) * (y > 0))
    bulb = disc(x_local, y, (0.0, bulb_y), (0.15, 0.19))
    glass = rgb(LAMPLIGHT) * 3.0 * stage.look.lamps + rgb((0.7, 0.72, 0.7)) * stage.look.ambient
    image = over(image, stage.hazed(glass, (z - view.z) * 0.5), cover(bulb, size) * (y > 0))
    distance = torch.hypot(x_local, y - bulb_y)
    thickness = stage.haze_per_m / 0.035
    halo = 0.022 / (0.05 + distance**2) + 0.03 * thickness * torch.exp(-distance / 1.1)
    below = (bulb_y - y).clamp(min=0)
    smoke = stage.textures.sample(stage.textures.cloud, x * 0.16 + 0.02 * stage.time, y * 0.16 - 0.01 * stage.time)
    cone = torch.exp(-((x_local / (0.18 + 0.42 * below)) ** 2)) * torch.exp(-below / 3.0) * (below > 0)
    added = halo + 0.11 * thickness * cone * (0.3 + 1.4 * smoke)
    return image + rgb(LAMPLIGHT) * added * stage.look.lamps * torch.exp(torch.tensor(-0.02 * z))


def draw_rain(image: Tensor, view: View, stage: Stage) -> Tensor:
    """Three sheets of rain, brightest near the lamps."""
    for z, speed in ((2.2, 1.0), (4.0, 0.9), (7.0, 0.8)):
        x, y, _ = view.upright(z)
        scroll = 8.0 * speed * stage.time
        fall = stage.textures.sample(stage.textures.rain, (x + 0.06 * (y + scroll)) * 0.42, -(y + scroll) * 0.16 + z)
        light = 0.10 * stage.look.ambient + 0.14 * lamplight(stage.lamps, x, y, z + 1.0)
        image = image + rgb((0.9, 0.95, 1.0)) * fall * (light + 0.006 * stage.look.lamps)
    return image
