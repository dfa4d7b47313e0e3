"""The room: light through a blind, a door, a desk, smoke."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cinelora.footage.render.figures import draw_figure, figure_shapes
from cinelora.footage.render.rays import Lamp, Stage, View, box, cover, disc, lamplight, limb, over, rgb, union
from cinelora.footage.render.scenes import FACADES, LAMPLIGHT, Look, Scene

WALL_Z, WINDOW_X, RIGHT_X = 4.6, -2.6, 2.9
WINDOW_Z, WINDOW_Y = (0.3, 3.0), (1.15, 2.75)
SLAT = 0.17
"""Distance between two slats of the blind."""
SUNWARD = (1.0, -0.20, 0.95)
"""Direction of the light from the window: it crosses the room and falls on the far wall."""


def blind_light(x: Tensor, y: Tensor, z: Tensor | float, softness: float = 0.012) -> Tensor:
    """Light through the blind at points of the room, 0..1: the ray is followed back to the window's plane."""
    way = (x - WINDOW_X) / SUNWARD[0]
    y_window, z_window = y - SUNWARD[1] * way, torch.as_tensor(z - SUNWARD[2] * way)
    centre = (sum(WINDOW_Z) / 2, sum(WINDOW_Y) / 2)
    half = ((WINDOW_Z[1] - WINDOW_Z[0]) / 2, (WINDOW_Y[1] - WINDOW_Y[0]) / 2)
    blur = softness + 0.004 * way.clamp(min=0)
    inside = torch.sigmoid(-box(z_window.expand_as(y_window), y_window, centre, half) / blur)
    slat = (y_window / SLAT) % 1.0
    gaps = torch.sigmoid((0.27 - (slat - 0.5).abs()) / (blur / SLAT * 0.8))
    cord = 1 - 0.8 * torch.exp(-(((z_window - centre[0]) / 0.03) ** 2))
    return inside * gaps * cord * (way > 0)


def draw_room(view: View, stage: Stage) -> Tensor:
    """The room at one moment, linear light CHW."""
    look, scene, textures = stage.look, stage.scene, stage.textures
    sun = (1.0, 0.93, 0.80) if look.lamps == 0 else (0.95, 0.97, 1.0)
    strength = 0.62 if look.lamps else 0.75
    ambient = look.ambient * (2.0 if look.lamps else 0.5)

    def light_at(x: Tensor, y: Tensor, z: Tensor | float) -> Tensor:
        return rgb(sun) * blind_light(x, y, z) * strength + ambient + lamplight(stage.lamps, x, y, z)

    x, y, size = view.upright(WALL_Z)
    paper = 0.9 + 0.25 * (textures.sample(textures.cloud, x * 0.4, y * 0.4) - 0.5)
    tint = FACADES[1] if scene.seed % 2 else (0.36, 0.42, 0.38)
    panel = torch.where(y < 0.95, 0.55, 1.0) * (1 - 0.5 * torch.exp(-(((y - 0.95) / 0.025) ** 2)))
    corner = 0.55 + 0.45 * (1 - torch.exp(-(RIGHT_X - x).clamp(min=0) / 0.5)) * (1 - torch.exp(-y.clamp(min=0) / 0.4))
    # what stands before the wall throws its shadow along the light
    shift = (WALL_Z - scene.start[1]) / SUNWARD[2]
    x_figure = scene.start[0] + scene.walk * stage.time
    shadow = union(*figure_shapes(x - x_figure - shift * SUNWARD[0], y - shift * SUNWARD[1], scene, stage.time))
    lit = rgb(sun) * blind_light(x, y, WALL_Z) * strength * (1 - 0.9 * cover(shadow, size + 0.05))
    image = rgb(tint) * paper * panel * corner * (lit + ambient + lamplight(stage.lamps, x, y, WALL_Z - 0.15))
    image = draw_door(image, x, y, size, stage, light_at)
    image = draw_floor_and_sides(image, view, stage, light_at)
    image = draw_figure(image, view, stage, lambda x, y, z: light_at(x, y, z) * 1.1 + 0.4 * ambient)
    if scene.smoke:
        image = draw_smoke(image, view, stage, x_figure, light_at)
    image = draw_desk(image, view, stage, light_at)
    return image + rgb(sun) * dust_in_beam(view, stage) * (0.08 if look.lamps else 0.02)


def draw_door(
    image: Tensor, x: Tensor, y: Tensor, size: float, stage: Stage, light_at: Callable[[Tensor, Tensor, float], Tensor]
) -> Tensor:
    """A door with a frosted pane in the far wall, the corridor's light behind it, and a picture beside it."""
    door_x = 1.75
    light = light_at(x, y, WALL_Z)
    wood = rgb((0.24, 0.14, 0.08)) * light
    image = over(image, wood * 0.6, cover(box(x, y, (door_x, 1.05), (0.56, 1.10)), size))
    image = over(image, wood, cover(box(x, y, (door_x, 1.02), (0.48, 1.03)), size))
    frost = 0.8 + 0.4 * stage.textures.sample(stage.textures.cloud, x * 0.8, y * 0.8)
    pane = rgb((0.75, 0.78, 0.74)) * (0.5 * light + 0.055 * stage.look.lamps + 0.35 * stage.look.ambient) * frost
    image = over(image, pane, cover(box(x, y, (door_x, 1.45), (0.34, 0.46)), size))
    image = over(image, rgb((0.6, 0.5, 0.3)) * light, cover(disc(x, y, (door_x - 0.40, 0.98), (0.035, 0.035)), size))
    image = over(image, rgb((0.08, 0.06, 0.05)) * light, cover(box(x, y, (-1.15, 1.72), (0.30, 0.22)), size))
    return over(image, rgb((0.55, 0.52, 0.44)) * light, cover(box(x, y, (-1.15, 1.72), (0.25, 0.17)), size))


def draw_floor_and_sides(
    image: Tensor, view: View, stage: Stage, light_at: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Boards below, the bare wall on the right, the window with its blind on the left."""
    x, z, depth = view.level()
    boards = 0.75 + 0.5 * stage.textures.cell((x / 0.16).floor() + 40, (z / 1.3 + (x / 0.16).floor() * 0.37).floor(), 2)
    joints = 1 - 0.5 * ((x % 0.16) < 0.012).float()
    sheen = 0.35 * torch.exp(-(((x - 1.75) / 0.5) ** 2)) * stage.look.lamps * 0.06
    floor = rgb((0.26, 0.17, 0.11)) * (light_at(x, torch.zeros_like(x), z) * boards * joints) + sheen
    image = over(image, floor, cover(z - WALL_Z, 0.02) * (view.v_HW > 0))
    z, y, depth = view.side(RIGHT_X)
    right = rgb((0.34, 0.36, 0.33)) * light_at(torch.full_like(z, RIGHT_X - 0.05), y, z) * 0.7
    image = over(image, right, cover(z - WALL_Z, 0.02) * (depth > 0) * (y > 0))
    z, y, depth = view.side(WINDOW_X)
    wall = rgb((0.34, 0.36, 0.33)) * (0.8 * stage.look.ambient + 0.5 * lamplight(stage.lamps, WINDOW_X, y, z))
    centre = (sum(WINDOW_Z) / 2, sum(WINDOW_Y) / 2)
    pane = box(z, y, centre, ((WINDOW_Z[1] - WINDOW_Z[0]) / 2, (WINDOW_Y[1] - WINDOW_Y[0]) / 2))
    slats = torch.sigmoid((0.30 - ((y / SLAT) % 1.0 - 0.5).abs()) * 14)
    glare = rgb((0.95, 0.97, 1.0)) * (0.06 + 0.9 * slats)
    left = over(wall, glare, cover(pane, 0.02))
    return over(image, left, cover(z - WALL_Z, 0.02) * (depth > 0) * (y > 0))


def draw_smoke(
    image: Tensor,
    view: View,
    stage: Stage,
    x_figure: float,
    light_at: Callable[[Tensor, Tensor, Tensor | float], Tensor],
) -> Tensor:
    """A thread of smoke from the figure's hand, wider and more broken as it rises."""
    facing = 1.0 if stage.scene.walk >= 0 else -1.0
    z = stage.scene.start[1] - 0.1
    x, y, size = view.upright(z)
    hand = (x_figure + facing * 0.24, 1.02)
    rise = (y - hand[1]).clamp(min=0)
    textures = stage.textures
    bend = textures.sample(textures.cloud, torch.full_like(y, 0.3), y * 0.35 - 0.16 * stage.time) - 0.5
    curl = textures.sample(textures.cloud, torch.full_like(y, 0.7), y * 1.3 - 0.45 * stage.time) - 0.5
    middle = hand[0] + rise * (0.55 * bend + 0.16 * curl) - stage.scene.walk * rise * 0.5
    width = 0.012 + 0.075 * rise
    broken = textures.sample(textures.cloud, x * 1.6, y * 0.9 - 0.35 * stage.time)
    alpha = torch.exp(-(((x - middle) / width) ** 2)) * (y > hand[1]) * torch.exp(-rise / 0.75) * (0.25 + broken)
    glow = cover(torch.hypot(x - hand[0], y - hand[1]) - 0.014, size)
    image = image + rgb((0.8, 0.82, 0.85)) * alpha * (0.55 * light_at(x, y, z) + 0.02)
    return over(image, rgb((1.0, 0.45, 0.2)) * 0.6, glow)


def draw_desk(
    image: Tensor, view: View, stage: Stage, light_at: Callable[[Tensor, Tensor, Tensor | float], Tensor]
) -> Tensor:
    """A desk in front, with a telephone and perhaps a lamp that is lit when the look has light."""
    z = 2.35
    x, y, size = view.upright(z)
    light = light_at(x, y, z)
    top = box(x, y, (0.75, 0.74), (1.05, 0.035), 0.01)
    front = box(x, y, (0.75, 0.35), (0.98, 0.37))
    drawers = torch.minimum((y - 0.45).abs() - 0.006, (x - 0.75).abs() - 0.006)
    image = over(image, rgb((0.16, 0.09, 0.05)) * light * (1 - 0.5 * cover(drawers, size)), cover(front, size))
    image = over(image, rgb((0.30, 0.18, 0.11)) * light * 1.3, cover(top, size))
    phone = union(
        limb(x, y, (0.18, 0.80), (0.42, 0.80), 0.045, 0.045), limb(x, y, (0.14, 0.90), (0.46, 0.90), 0.03, 0.03)
    )
    image = over(image, rgb((0.03, 0.03, 0.03)) * light + 0.1 * light, cover(phone, size))
    if not stage.scene.desk_lamp:
        return image
    shade = torch.maximum(disc(x, y, (1.2, 1.10), (0.21, 0.15)), 1.10 - y)
    stem = union(limb(x, y, (1.2, 0.78), (1.2, 1.12), 0.014, 0.014), box(x, y, (1.2, 0.79), (0.10, 0.02), 0.01))
    image = over(image, rgb((0.35, 0.28, 0.12)) * light * 0.8, cover(stem, size))
    image = over(image, rgb((0.05, 0.22, 0.14)) * (light + 0.25 * stage.look.lamps), cover(shade, size))
    below = (1.10 - y).clamp(min=0)
    cone = torch.exp(-(((x - 1.2) / (0.15 + 0.7 * below)) ** 2)) * torch.exp(-below / 0.25) * (below > 0)
    return image + rgb(LAMPLIGHT) * cone * 0.34 * stage.look.lamps


def room_lamps(scene: Scene, look: Look) -> list[Lamp]:
    """The desk lamp, where it is lit."""
    return [Lamp(1.2, 1.10, 2.45, 0.07 * look.lamps, size=0.25)] if scene.desk_lamp and look.lamps else []


def dust_in_beam(view: View, stage: Stage) -> Tensor:
    """Light of the blind on dust in the air, added up over slices of the room."""
    depths = [0.9 + 0.4 * k for k in range(9)]
    total = torch.zeros_like(view.u_HW)
    for z in depths:
        x, y, _ = view.upright(z)
        dust = stage.textures.sample(stage.textures.cloud, x * 0.3 + 0.03 * stage.time, y * 0.3 + 0.17 * z)
        total = total + blind_light(x, y, z, softness=0.03) * dust
    return total / len(depths)
