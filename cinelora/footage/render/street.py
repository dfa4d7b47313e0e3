"""The street: a crossing with houses, shops and lamps, a side street that leads into depth, what the wet ground mirrors.

T frames. THW is a plane of every frame, CTHW a picture in linear light. The subject stands on the near pavement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cinelora.footage.render.figures import draw_car, draw_figure
from cinelora.footage.render.light import Lamp, Stage, far_away
from cinelora.footage.render.looks import Colour, Look
from cinelora.footage.render.motion import CAR_Z
from cinelora.footage.render.rays import View, box, cover, fixed_strokes, over
from cinelora.footage.render.scenes import Scene

KERB_Z, FAR_KERB_Z, HOUSES_Z, END_Z = 1.5, 7.3, 9.6, 60.0
OPENING_HALF, SIDE_ROAD_HALF = 4.6, 2.9
LAMP_HEIGHT = 4.1
HOUSE = 7.0
FACADES: tuple[Colour, ...] = (
    (0.34, 0.15, 0.10),
    (0.46, 0.38, 0.27),
    (0.26, 0.28, 0.31),
    (0.40, 0.29, 0.19),
    (0.33, 0.36, 0.32),
    (0.50, 0.45, 0.38),
)


def opening_of(scene: Scene) -> float:
    """x of the middle of the side street, which is on the side that the camera looks to."""
    return math.copysign(2.5, scene.heading) + 4.5 * scene.opening


def posts_of(scene: Scene) -> list[tuple[float, float]]:
    """x and z of the street lamps; the first stands by the subject and lights it."""
    x = opening_of(scene)
    return [
        (-1.75 * scene.side, 0.75),
        (x - scene.side * (SIDE_ROAD_HALF + 0.5), 7.8),
        (x + scene.side * (SIDE_ROAD_HALF + 0.5), 17.0),
        (x - scene.side * (SIDE_ROAD_HALF + 0.5), 30.0),
        (x + scene.side * 9.5, 7.8),
    ]


def street_lamps(scene: Scene, look: Look, x_car: Tensor | None) -> list[Lamp]:
    """What is lit: a light for the subject, the street lamps, the signs, the headlamps."""
    on = look.hours[scene.time].lamps
    if not on:
        return []
    posts = posts_of(scene)
    # the first lamp hangs a little before its post, so that the subject's front is lit
    lamps = [Lamp(posts[0][0] * 0.8, LAMP_HEIGHT - 0.2, -0.9, look.lamp, 7.5 * on)]
    lamps += [Lamp(x, LAMP_HEIGHT - 0.3, z, look.lamp, 5.0 * on) for x, z in posts[1:4]]
    if look.signs:
        lamps += [
            Lamp(x, 3.0, z, colour, 9.0 * look.signs)
            for (x, z), colour in zip(
                ((-3.2, 2.0), (3.4, 1.6), (opening_of(scene) - 4.0, 9.0), (opening_of(scene) + 5.5, 9.0)),
                look.signs_colours,
                strict=False,
            )
        ]
    if x_car is not None:
        ahead = 3.6 if scene.car_direction == "right" else -3.6
        lamps.append(Lamp(x_car + ahead, 0.6, CAR_Z, (1.0, 0.93, 0.78), 1.6 * on))
    return lamps


@dataclass(frozen=True)
class Wall:
    """A row of houses seen by a view: depth, and the points' distance along the row and height."""

    depth: Tensor
    along: Tensor
    y: Tensor
    size: Tensor
    """Width of a ray on the wall, along it."""
    row: int
    normal: tuple[Tensor | float, float, float]
    at: tuple[Tensor, Tensor, Tensor]


def draw_street(view: View, mirror: View, stage: Stage, x_car: Tensor | None) -> Tensor:
    """The street, linear light CTHW. ``mirror`` sees it from below the ground, at any size."""
    image = draw_houses(draw_sky(view, stage), view, stage)
    image = draw_ground(image, view, mirror, stage, x_car)
    return draw_standing(image, view, stage, x_car)


def draw_sky(view: View, stage: Stage) -> Tensor:
    """Sky behind everything, brighter towards a low sun."""
    hour = stage.hour
    up = (view.dy * 1.6).clamp(0, 1) ** 0.6
    horizon, haze = stage.rgb(hour.horizon), stage.rgb(stage.haze)
    sky = over(horizon, stage.rgb(hour.zenith), up)
    if stage.scene.weather == "dry":
        cloud = stage.textures.sample(view.dx / (view.dy.abs() + 0.35) * 0.30, 0.10 / (view.dy.abs() + 0.2))
        return over(sky, horizon * 0.9, ((cloud - 0.55) * 2.2).clamp(0, 0.5))
    return over(sky, haze, 0.92 if stage.scene.weather == "fog" else 0.7)


def draw_houses(image: Tensor, view: View, stage: Stage) -> Tensor:
    """The end of the side street, its two sides, and the row along the crossing, from back to front."""
    middle = opening_of(stage.scene)
    end = view.upright(END_Z)
    x, y, z = view.at(end)
    image = _draw_wall(
        image, view, stage, Wall(end, x + 31.0, y, end * view.step, 5, (0.0, 0.0, -1.0), (x, y, z)), None
    )
    sign = view.dx.sign()
    side = view.sideways(middle + sign * OPENING_HALF)
    x, y, z = view.at(side)
    slant = side * view.step * (1 + (view.dz / view.dx.abs().clamp(min=1e-3)))
    wall = Wall(side, z + 50.0 + 3.0 * sign, y, slant, 11, (-sign, 0.0, 0.0), (x, y, z))
    image = _draw_wall(image, view, stage, wall, END_Z - z)
    front = view.upright(HOUSES_Z)
    x, y, z = view.at(front)
    size = front * view.step
    wall = Wall(front, x - middle - OPENING_HALF + 10 * HOUSE, y, size, 23, (0.0, 0.0, -1.0), (x, y, z))
    return _draw_wall(image, view, stage, wall, (x - middle).abs() - OPENING_HALF)


def _draw_wall(image: Tensor, view: View, stage: Stage, wall: Wall, inside: Tensor | None) -> Tensor:
    """Lay a row of houses over the picture where ``inside`` is above zero and no house is too low."""
    textures, look, hour = stage.textures, stage.look, stage.hour
    y, size = wall.y, wall.depth * view.step
    house = (wall.along / HOUSE).floor()
    local = wall.along - (house + 0.5) * HOUSE
    height = 8.5 + 5.5 * textures.cell(house, wall.row, 0)
    tint = textures.cell(house, wall.row, 1)
    stone = stage.rgb(FACADES[0]) * look_walls(stage)
    for index, colour in enumerate(FACADES[1:], 1):
        stone = torch.where(tint < index / len(FACADES), stone, stage.rgb(colour) * look_walls(stage))
    # courses and cornices are soft bands, so that they fade before they flicker
    band = torch.exp(-(((y - 4.0) / 0.14) ** 2)) + torch.exp(-(((y - height + 0.3) / 0.25) ** 2))
    joint = torch.exp(-(((HOUSE / 2 - local.abs()) / 0.10) ** 2))
    stone = stone * (0.86 + 0.30 * band - 0.42 * joint + 0.10 * (y / 8).clamp(0, 1))
    light = stage.light(wall.at, wall.normal)
    occlusion = 0.62 + 0.38 * (y / 3.5).clamp(0, 1)
    colour = stone * light * occlusion
    sky_in_glass = over(stage.rgb(hour.horizon), stage.rgb(hour.zenith), 0.35) * 0.34
    glass, lit = _windows(stage, wall, local, height, size)
    colour = over(colour, sky_in_glass * (0.7 + 0.3 * (y / 9).clamp(0, 1)) + lit, glass)
    colour = _shops(colour, stage, wall, house, local, size, light)
    alpha = cover(y - height, size)
    if inside is not None:
        alpha = alpha * cover(-inside, wall.size)
    return over(image, stage.hazed(colour, wall.depth), alpha * (y > -0.2))


def look_walls(stage: Stage) -> Tensor:
    """What the look makes of every wall's colour."""
    return stage.rgb(stage.look.walls)


def _windows(stage: Stage, wall: Wall, local: Tensor, height: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage of the upper windows, and the light in those that are lit."""
    pitch = HOUSE / 4
    i, j = (wall.along / pitch).floor(), ((wall.y - 4.4) / 2.9).floor()
    x, y = wall.along - (i + 0.5) * pitch, wall.y - 4.4 - (j + 0.5) * 2.9
    pane = cover((x.abs() - 0.46), wall.size.clamp(min=0.02)) * cover(y.abs() - 0.80, size.clamp(min=0.02))
    bar = 1 - 0.8 * torch.maximum(torch.exp(-((x / 0.04) ** 2)), torch.exp(-(((y - 0.2) / 0.04) ** 2)))
    there = pane * bar * (wall.y > 4.4) * (wall.y < height - 0.9)
    chance = stage.textures.cell(i + 5, (j + wall.row), 2)
    glow = ((0.38 - chance) * 12).clamp(0, 1) * (0.35 + 0.25 * y)
    return there, stage.rgb((1.0, 0.66, 0.30)) * (glow * stage.hour.lamps)


def _shops(
    colour: Tensor, stage: Stage, wall: Wall, house: Tensor, local: Tensor, size: Tensor, light: Tensor
) -> Tensor:
    """Ground floors: a shop window, a door, and a sign above them."""
    y, look, on = wall.y, stage.look, stage.hour.lamps
    edge = torch.maximum(size, 0.5 * wall.size).clamp(min=0.02)
    window = box(local, y, (-0.7, 1.60), (2.0, 1.05))
    door = box(local, y, (2.25, 1.25), (0.55, 1.25))
    openings = torch.minimum(window, door)
    kind = stage.textures.cell(house, wall.row, 3)
    inner = stage.rgb((1.0, 0.70, 0.36)) * (on * 0.8 * ((kind - 0.35) * 8).clamp(0.06, 1))
    inner = inner * (0.45 + 0.55 * torch.exp(-(((y - 2.1) / 0.9) ** 2)))
    dark = stage.rgb(stage.hour.horizon) * 0.12 + light * 0.03
    colour = over(colour, light * 0.05, cover(openings - 0.12, edge))
    colour = over(colour, dark + inner, cover(openings, edge))
    board = box(local, y, (0.1, 3.28), (2.9, 0.34))
    paints = ((0.30, 0.08, 0.06), (0.07, 0.16, 0.20), (0.42, 0.34, 0.20), (0.09, 0.17, 0.10))
    paint, tube = stage.rgb(paints[0]), stage.rgb(look.signs_colours[0])
    for index in range(1, 4):
        chosen = kind > index / 4
        paint = torch.where(chosen, stage.rgb(paints[index]), paint)
        tube = torch.where(chosen, stage.rgb(look.signs_colours[index % len(look.signs_colours)]), tube)
    colour = over(colour, paint * light, cover(board, edge))
    if not look.signs:
        return colour
    inside = cover((board + 0.14).abs() - 0.05, edge) + 0.6 * cover(board + 0.26, edge)
    return colour + tube * look.signs * (2.2 * inside + 0.55 * torch.exp(board.clamp(min=0) / -0.6))


def draw_ground(image: Tensor, view: View, mirror: View, stage: Stage, x_car: Tensor | None) -> Tensor:
    """Road and pavements with their marks, shadows and reflections."""
    depth = view.level(0.0)
    x, _, z = view.at(depth)
    middle = opening_of(stage.scene)
    # a ray covers more ground along the view than across
    size = depth * view.step
    long = (size * depth / view.y).clamp(max=4.0)
    aside = (x - middle).abs()
    road = cover((z - (KERB_Z + FAR_KERB_Z) / 2).abs() - (FAR_KERB_Z - KERB_Z) / 2, long)
    road = torch.maximum(road, cover(aside - SIDE_ROAD_HALF, size) * (z > FAR_KERB_Z - 0.1))
    kerb = cover((z - KERB_Z).abs() - 0.09, long) + cover((z - FAR_KERB_Z).abs() - 0.09, long) * (
        aside > SIDE_ROAD_HALF
    )
    dash = cover((z - (KERB_Z + FAR_KERB_Z) / 2).abs() - 0.07, long) * cover((x.remainder(3.2) - 1.6).abs() - 0.8, size)
    slab = torch.minimum(x.remainder(1.5), z.remainder(1.5)) < 0.03
    cloud = stage.textures.sample(x * 0.12, z * 0.12)
    albedo = over(0.36 - 0.05 * slab * (depth < 9), 0.125, road) * (0.75 + 0.5 * cloud)
    albedo = over(over(albedo, 0.42, kerb), 0.55, dash * 0.8)
    wet = max(stage.look.wetness, 0.85 if stage.scene.weather == "rain" else 0.0)
    ground = stage.rgb(stage.look.earth) * (albedo * (1 - 0.45 * wet))
    ground = ground * ground_light(stage, (x, 0.0, z), x_car)
    if wet:
        fall = (-view.dy / torch.hypot(view.dz, view.dx)).clamp(0.02, 1.5)
        # grazing rays are reflected most (Schlick's approximation, rougher than water)
        grazing = 0.10 + 0.90 * (1 - fall / torch.hypot(fall, torch.ones_like(fall))) ** 4
        pool = (0.35 + 1.1 * cloud).clamp(0, 1.2)
        ground = ground + reflection(mirror, stage, x, z, depth, x_car) * (wet * grazing * pool)
    horizon = cover(view.dy, view.step)
    image_alpha = horizon * _before_houses(x, z, stage, size)
    return over(image, stage.hazed(ground, depth), image_alpha)


def _before_houses(x: Tensor, z: Tensor, stage: Stage, size: Tensor) -> Tensor:
    """Where the ground lies before every wall."""
    aside = (x - opening_of(stage.scene)).abs()
    slit = cover(aside - OPENING_HALF, size) * (z < END_Z)
    return torch.maximum(cover(z - HOUSES_Z, size.clamp(min=0.05) * 3), slit)


def ground_light(stage: Stage, at: tuple[Tensor, float, Tensor], x_car: Tensor | None) -> Tensor:
    """Light on the ground, with the shadows of the figures and the car."""
    x, _, z = at
    near = torch.zeros_like(x)
    for figure in stage.figures:
        near = near + torch.exp(-(((x - figure.x) / 0.34) ** 2 + ((z - figure.z) / 0.22) ** 2))
    clear = 1 - 0.55 * near.clamp(max=1)
    if x_car is not None:
        clear = clear * (1 - 0.75 * torch.exp(-(((x - x_car) / 2.25) ** 6 + ((z - CAR_Z) / 0.85) ** 4)))
    key = stage.lamps[0] if stage.hour.lamps >= 0.5 else None
    if key is not None:
        assert isinstance(key.x, float)
        shadow = stage.shadow(at, (key.x, key.y, key.z), 0.03)
        light = stage.light(at, (0.0, 1.0, 0.0), lamplit=1 - 0.9 * shadow)
    else:
        shadow = stage.shadow(at, far_away(stage.sun_from), 0.02)
        light = stage.light(at, (0.0, 1.0, 0.0), sunlit=(1 - 0.95 * shadow) * clear)
    return light * clear


def reflection(mirror: View, stage: Stage, x: Tensor, z: Tensor, depth: Tensor, x_car: Tensor | None) -> Tensor:
    """What the wet ground mirrors, broken up by its roughness and drawn out towards the camera, CTHW."""
    image = draw_houses(draw_sky(mirror, stage), mirror, stage)
    image = draw_standing(image, mirror, stage, x_car).transpose(0, 1)
    reach = max(3, image.shape[-2] // 14) | 1
    image = F.avg_pool2d(image, (reach, 3), stride=1, padding=(reach // 2, 1), count_include_pad=False)
    num_frames, height, width = depth.shape
    drift = 0.10 * stage.since if stage.scene.weather == "rain" else 0.0
    ripple = stage.textures.sample(x * 0.45 + drift, z * 0.22 - drift) - 0.5
    u = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=depth.device)
    v = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=depth.device)
    bump = ripple * 0.20 / (1 + 0.10 * depth)
    grid = torch.stack((u + 0.3 * bump, v[:, None] + bump), dim=-1)
    mirrored = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return mirrored.transpose(0, 1)


def draw_standing(image: Tensor, view: View, stage: Stage, x_car: Tensor | None) -> Tensor:
    """Lamps, car and figures, from the far end to the front."""
    posts = posts_of(stage.scene)
    drawn = [(z, partial(_draw_post, view=view, stage=stage, x_post=x, z=z)) for x, z in posts]
    drawn += [(f.z, partial(draw_figure, view=view, stage=stage, figure=f)) for f in stage.figures]
    if x_car is not None:
        drawn.append((CAR_Z, partial(draw_car, view=view, stage=stage, x_car=x_car)))
    for _, draw in sorted(drawn, key=lambda item: -item[0]):
        image = draw(image)
    return image


POST = (
    (0.0, 0.0, 0.0, 1.0, 0.085, 0.055),
    (0.0, 1.0, 0.0, LAMP_HEIGHT, 0.045, 0.035),
    (0.0, LAMP_HEIGHT, 0.0, LAMP_HEIGHT + 0.22, 0.15, 0.02),
    (-0.18, LAMP_HEIGHT, 0.18, LAMP_HEIGHT, 0.03, 0.03),
)
BULB = ((0.0, LAMP_HEIGHT - 0.30, 0.0, LAMP_HEIGHT - 0.10, 0.10, 0.14),)


def _draw_post(image: Tensor, view: View, stage: Stage, x_post: float, z: float) -> Tensor:
    """A street lamp with its halo and its cone in the haze."""
    depth, x = view.facing(x_post, z)
    _, y, _ = view.at(depth)
    size, on = depth.clamp(min=0.3) * view.step, stage.hour.lamps
    ahead = (y > 0) * (depth > 0.5)
    iron = (stage.rgb(stage.above) + stage.rgb(stage.sun) * 0.3) * 0.05
    image = over(image, stage.hazed(iron, depth), cover(fixed_strokes(x, y, POST), size) * ahead)
    glass = stage.rgb(stage.look.lamp) * (3.2 * on) + stage.rgb(stage.above) * 0.7
    image = over(image, stage.hazed(glass, depth * 0.5), cover(fixed_strokes(x, y, BULB), size) * ahead)
    if not on:
        return image
    distance = torch.hypot(x, y - LAMP_HEIGHT + 0.2)
    thick = min(1.6, stage.haze_per_m / 0.04)
    below = (LAMP_HEIGHT - 0.2 - y).clamp(min=0)
    cone = torch.exp(-((x / (0.16 + 0.42 * below)) ** 2)) * torch.exp(below / -2.6) * (below > 0)
    added = 0.020 / (0.05 + distance * distance) + 0.05 * thick * torch.exp(distance / -1.2) + 0.13 * thick * cone
    return image + stage.rgb(stage.look.lamp) * (added * ahead * on * math.exp(-0.02 * max(z, 0.0)))


def draw_rain(image: Tensor, view: View, stage: Stage) -> Tensor:
    """Three curtains of falling drops around the camera, which turn with the world and not with the camera."""
    bearing = torch.atan2(view.dx, view.dz)
    rise = view.dy / torch.hypot(view.dx, view.dz)
    seen = (
        stage.rgb(stage.above) * 0.5
        + stage.rgb(stage.haze) * 0.5
        + stage.rgb(stage.look.lamp) * (0.16 * stage.hour.lamps)
    )
    total = torch.zeros_like(bearing)
    for index, (distance, speed) in enumerate(((2.0, 7.5), (3.4, 7.0), (5.5, 6.5))):
        lane = bearing * distance / 0.11
        i = lane.floor()
        start = stage.textures.cell(i, 3 + index, 2)
        y = (rise * distance + speed * stage.since) / 2.4 + start
        place = (lane - i - 0.2 - 0.6 * stage.textures.cell(i, 9 + index, 1)).abs() * 0.11
        drop = y.remainder(1.0) * 2.4
        length = 0.50
        streak = torch.exp(-(((drop - length) / (0.5 * length)) ** 2))
        total = total + cover(place - 0.006, max(distance * view.step, 0.004)) * streak * 0.8
    return image + seen * total
