"""The street: a crossing with houses, shops and lamps, a side street that leads into depth, what the wet ground mirrors.

T frames, P lamp posts. THW is a plane of every frame, CTHW a picture in linear light. The subject stands on the near
pavement. Views may carry mirrored rows below the frame's own: whatever stands is drawn in them as well.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.scale_model.render.figures import draw_car, draw_crowd
from tools.scale_model.render.light import Lamp, Points, Space, Stage, far_away
from tools.scale_model.render.looks import PAINTS, Colour, Look
from tools.scale_model.render.motion import CAR_Z
from tools.scale_model.render.rays import Canvas, View, band, box, constant, cover, over
from tools.scale_model.render.scenes import Scene

KERB_Z, FAR_KERB_Z, HOUSES_Z, END_Z = 1.5, 7.3, 9.6, 60.0
ROAD_Z, ROAD_HALF = (KERB_Z + FAR_KERB_Z) / 2, (FAR_KERB_Z - KERB_Z) / 2
OPENING_HALF, SIDE_ROAD_HALF = 4.6, 2.9
LAMP_HEIGHT = 4.1
HOUSE, STOREY = 7.0, 2.9
SHOP_TOP = 4.4
FACADES: tuple[Colour, ...] = PAINTS["facades"]
BOARDS: tuple[Colour, ...] = PAINTS["boards"]
"""Paints of the boards over the shops."""


def opening_of(scene: Scene) -> float:
    """x of the middle of the side street, which is on the side that the camera looks to."""
    return math.copysign(2.5, scene.heading) + 4.5 * scene.opening


def posts_of(scene: Scene) -> list[tuple[float, float]]:
    """x and z of the street lamps; the first stands by the subject and lights it."""
    x, kerb = opening_of(scene), scene.side * (SIDE_ROAD_HALF + 0.5)
    return [(-1.75 * scene.side, 0.75), (x - kerb, 7.8), (x + kerb, 17.0), (x - kerb, 30.0), (x + 3 * kerb, 7.8)]


def street_lamps(scene: Scene, look: Look, car_x_T: Tensor) -> list[Lamp]:
    """What is lit: a light for the subject, street lamps, signs, headlamps."""
    on = look.hours[scene.time].lamps
    if not on:
        return []
    posts, x = posts_of(scene), opening_of(scene)
    # the first lamp hangs a little before its post, so that the subject's front is lit
    lamps = [Lamp(posts[0][0] * 0.8, LAMP_HEIGHT - 0.2, -0.9, look.lamp, 11.0 * on)]
    lamps += [Lamp(x, LAMP_HEIGHT - 0.3, z, look.lamp, 5.0 * on) for x, z in posts[1:3]]
    if look.signs:
        # behind the car, whose own colour should be seen
        places = ((-4.0, 5.6), (4.2, 5.4), (x + 5.5, 9.0))
        colours = look.sign_colours[: len(places)]
        lamps += [Lamp(x, 3.0, z, colour, 13.0 * look.signs) for (x, z), colour in zip(places, colours, strict=True)]
    if scene.car:
        ahead = 3.6 if scene.car_direction == "right" else -3.6
        lamps.append(Lamp(car_x_T + ahead, 0.6, CAR_Z, (1.0, 0.93, 0.78), 1.6 * on))
    return lamps


def wetness_of(scene: Scene, look: Look) -> float:
    """How much the ground mirrors, 0..1."""
    return max(look.wetness, 0.85 if scene.weather == "rain" else 0.0)


def draw_street(view: View, stage: Stage, height: int, mirrored_from: int) -> Tensor:
    """The street, linear light CTHW. Rows of ``view`` from ``height`` on mirror those from ``mirrored_from`` on."""
    houses, walls = draw_houses(draw_sky(view, stage), view, stage)
    # What stands is drawn before the ground, which mirrors it: the rows after ``height`` see it from below, and the ground takes
    # its reflection from there. The canvas is then laid over the finished ground.
    canvas = Canvas.like(view.dx)
    draw_standing(canvas, view, stage, walls)
    mirrored = canvas.before(houses)[:, :, height:]
    ground = draw_ground(houses[:, :, :height], walls[:, :height], mirrored, view.rows(height), stage, mirrored_from)
    return canvas.rows(height).before(ground)


def draw_sky(view: View, stage: Stage) -> Tensor:
    """Sky behind everything: a gradient, with soft clouds in dry weather."""
    hour, weather = stage.hour, stage.scene.weather
    horizon = stage.rgb(hour.horizon)
    sky = over(horizon, stage.rgb(hour.zenith), (view.dy * 1.6).clamp(0, 1) ** 0.6)
    if weather != "dry":
        return over(sky, stage.rgb(hour.haze), 0.92 if weather == "fog" else 0.7)
    rise = view.dy.abs()
    cloud = stage.textures.sample(view.dx / (rise + 0.35) * 0.30, 0.10 / (rise + 0.2))
    return over(sky, horizon * 0.9, ((cloud - 0.55) * 2.2).clamp(0, 0.5))


def draw_houses(sky: Tensor, view: View, stage: Stage) -> tuple[Tensor, Tensor]:
    """The row of houses along the crossing, and those along the side street and at its end; and their depth, THW.

    Each ray sees one of three walls, so that all are drawn at once.
    """
    middle, sign = opening_of(stage.scene), view.dx.sign()
    front = view.upright(HOUSES_Z)
    x_front = view.x + front * view.dx - middle
    side = view.sideways(middle + sign * OPENING_HALF)
    end = view.upright(END_Z)
    # A ray that passes the row of houses through the opening meets a house of the side street, or the end of that street if this
    # comes first.
    is_front, is_side = x_front.abs() > OPENING_HALF, side < end
    depth = torch.where(is_front, front, torch.minimum(side, end))
    x, y, z = at = view.at(depth)
    # Every wall has a street of houses of its own: the offsets are far apart, so that no two walls repeat each other's numbers.
    turned = is_side & ~is_front
    along = torch.where(turned, z + 150.0 + 31.0 * sign, x + torch.where(is_front, 70.0 - middle - OPENING_HALF, 310.0))
    normal = (-sign * turned, 0.0, turned.float() - 1)
    size = depth * view.step
    # at a slant a ray covers more of the wall
    across = torch.where(turned, size * (1 + view.dz / view.dx.abs().clamp(min=1e-3)), size)
    wall, roof = _wall(stage, at, along, normal, size, across)
    image = over(sky, stage.hazed(wall, depth), cover(y - roof, size) * (y > -0.2))
    # what is left to mend are the edges that no coverage knows, since a ray is given to one wall as a whole
    return _softened(image, x_front, front * view.step), depth


def _softened(image: Tensor, x_front: Tensor, size: Tensor) -> Tensor:
    """Mend the two upright edges where one wall ends before another: both neighbours of a cut pixel, by its coverage."""
    share = cover(OPENING_HALF - x_front.abs(), size)
    left, right = image.roll(1, -1), image.roll(-1, -1)
    leftwards = x_front < 0
    mixed = over(torch.where(leftwards, right, left), torch.where(leftwards, left, right), share)
    return torch.where((share > 0) & (share < 1), mixed, image)


def _wall(
    stage: Stage, at: Points, along: Tensor, normal: Space, size: Tensor, across: Tensor
) -> tuple[Tensor, Tensor]:
    """The houses' walls by the distance ``along`` them, CTHW, and the height of their roofs, THW.

    ``size`` and ``across`` are the extent of a ray upwards and along the wall.
    """
    y, hour = at[1], stage.hour
    # a house's number is all that is kept of it: its roof, its stone and its shop are random numbers of that cell
    house = (along / HOUSE).floor()
    local = along - (house + 0.5) * HOUSE
    roof, tint, kind, _ = stage.textures.cell(house, 0)
    roof = 8.5 + 5.5 * roof
    stone = _chosen(FACADES, tint) * stage.rgb(stage.look.walls)
    # courses and joints are soft bands, so that they fade before they flicker
    courses, joint = band(y - 4.0, 0.14) + band(y - roof + 0.3, 0.25), band(HOUSE / 2 - local.abs(), 0.10)
    light = stage.light(at, normal)
    shaded = (0.62 + 0.108 * y.clamp(0, 3.5)) * (0.86 + 0.30 * courses - 0.42 * joint)
    colour = stone * light * shaded
    glass, lit = _windows(stage, along, y, roof, size, across)
    sky = over(stage.rgb(hour.horizon), stage.rgb(hour.zenith), 0.35) * 0.34
    colour = over(colour, sky * (0.7 + 0.033 * y.clamp(0, 9)) + lit, glass)
    return _shops(colour, stage, local, y, kind, torch.maximum(size, 0.5 * across), light), roof


def _chosen(colours: tuple[Colour, ...], number: Tensor) -> Tensor:
    """One of the colours for each number in 0..1, CTHW."""
    return constant(colours, number.device).T[:, (number * len(colours)).long()]


def _windows(
    stage: Stage, along: Tensor, y: Tensor, roof: Tensor, size: Tensor, across: Tensor
) -> tuple[Tensor, Tensor]:
    """Coverage of the upper windows, and the light in those that are lit."""
    pitch = HOUSE / 4
    i, j = (along / pitch).floor(), ((y - SHOP_TOP) / STOREY).floor()
    x, y_local = along - (i + 0.5) * pitch, y - SHOP_TOP - (j + 0.5) * STOREY
    pane = cover(x.abs() - 0.46, across.clamp(min=0.02)) * cover(y_local.abs() - 0.80, size.clamp(min=0.02))
    bar = torch.maximum(band(x, 0.04), band(y_local - 0.2, 0.04))
    there = pane * (1 - 0.8 * bar) * ((y > SHOP_TOP) & (y < roof - 0.9))
    on = stage.hour.lamps
    if not on:
        return there, torch.zeros((), device=y.device)
    chance = stage.textures.cell(i + 5, j + 23)[2]
    glow = ((0.38 - chance) * 12).clamp(0, 1) * (0.35 + 0.25 * y_local)
    return there, stage.rgb((1.0, 0.66, 0.30)) * (glow * on)


def _shops(colour: Tensor, stage: Stage, local: Tensor, y: Tensor, kind: Tensor, size: Tensor, light: Tensor) -> Tensor:
    """Ground floors: a shop window, a door, and a board above them that may carry a lit sign."""
    look, on, edge = stage.look, stage.hour.lamps, size.clamp(min=0.02)
    openings = torch.minimum(box(local, y, (-0.7, 1.60), (2.0, 1.05)), box(local, y, (2.25, 1.25), (0.55, 1.25)))
    inner = light * 0.03 + stage.rgb(stage.hour.horizon) * 0.12
    if on:
        open_late = ((kind - 0.35) * 8).clamp(0.06, 1) * (0.45 + 0.55 * band(y - 2.1, 0.9))
        inner = inner + stage.rgb((1.0, 0.70, 0.36)) * (on * 0.8 * open_late)
    colour = over(colour, light * 0.05, cover(openings - 0.12, edge))
    mullion = 1 - 0.7 * band((local + 0.7).abs() - 0.68, 0.05)
    colour = over(colour, inner * mullion, cover(openings, edge))
    board = box(local, y, (0.1, 3.28), (2.9, 0.34))
    colour = over(colour, _chosen(BOARDS, kind) * light, cover(board, edge))
    if not look.signs:
        return colour
    tube = cover((board + 0.14).abs() - 0.05, edge) + 0.6 * cover(board + 0.26, edge)
    halo = 0.55 * torch.exp(board.clamp(min=0) / -0.6)
    return colour + _chosen(look.sign_colours, kind) * (look.signs * (2.2 * tube + halo))


def draw_ground(
    behind: Tensor, walls: Tensor, mirrored: Tensor, view: View, stage: Stage, mirrored_from: int
) -> Tensor:
    """Road and pavements with their marks, shadows and reflections, laid before the houses."""
    depth = view.level(0.0)
    x, _, z = view.at(depth)
    aside = (x - opening_of(stage.scene)).abs()
    # a ray covers more ground along the view than across
    size = depth * view.step
    long = (size * depth / view.y).clamp(max=4.0)
    from_middle = (z - ROAD_Z).abs()
    road = torch.maximum(cover(from_middle - ROAD_HALF, long), cover(aside - SIDE_ROAD_HALF, size) * (z > ROAD_Z))
    kerb = cover((from_middle - ROAD_HALF).abs() - 0.09, long) * ((z < ROAD_Z) | (aside > SIDE_ROAD_HALF))
    dash = cover(from_middle - 0.07, long) * cover((x.remainder(3.2) - 1.6).abs() - 0.8, size)
    cloud = stage.textures.sample(x * 0.12, z * 0.12)
    albedo = (0.31 - 0.19 * road) * (0.75 + 0.5 * cloud)
    albedo = over(over(albedo, 0.42, kerb), 0.55, dash * 0.8)
    wet = wetness_of(stage.scene, stage.look)
    light = ground_light(stage, (x, 0.0, z))
    ground = stage.rgb(stage.look.earth) * light * (albedo * (1 - 0.45 * wet))
    if wet:
        fall = (-view.dy * torch.rsqrt(view.dx**2 + view.dy**2 + view.dz**2)).clamp(0.0, 1.0)
        # grazing rays are reflected most (Schlick's approximation, rougher than water)
        shine = (0.10 + 0.90 * (1 - fall) ** 4) * (0.35 + 1.1 * cloud).clamp(0, 1.2)
        ground = ground + reflection(mirrored, stage, x, z, depth, mirrored_from) * (wet * shine)
    # the ground comes first where the ray meets the wall below it
    before = cover(view.y + walls * view.dy, walls * view.step)
    return over(behind, stage.hazed(ground, depth), before)


def ground_light(stage: Stage, at: tuple[Tensor, float, Tensor]) -> Tensor:
    """Light on the ground, with the shadows of the figures and the car."""
    x, _, z = at
    clear = stage.unshaded(x, z)
    # the car's shade is a rounded box: higher powers than a bell's 2 are flatter inside and steeper at the edge
    if stage.scene.car:
        clear = clear * (1 - 0.75 * torch.exp(((x - stage.car_x) / 2.25) ** 6 * -1 - ((z - CAR_Z) / 0.85) ** 4))
    # the hardest shadows are those of the strongest light
    if stage.hour.lamps >= 0.5:
        key = stage.lamps[0]
        assert isinstance(key.x, float)
        seen = stage.unshadowed(at, (key.x, key.y, key.z), 0.03)
        return stage.light(at, (0.0, 1.0, 0.0), lamplit=0.1 + 0.9 * seen) * clear
    seen = stage.unshadowed(at, far_away(stage.sun_from), 0.02)
    return stage.light(at, (0.0, 1.0, 0.0), sunlit=(0.05 + 0.95 * seen) * clear) * clear


def reflection(mirrored: Tensor, stage: Stage, x: Tensor, z: Tensor, depth: Tensor, mirrored_from: int) -> Tensor:
    """What the wet ground mirrors, broken up by its roughness and drawn out towards the camera, CTHW."""
    _, height, width = depth.shape
    # Roughness spreads a reflection upwards and downwards more than sideways: an average over a tall window. Then each pixel is
    # read at a place that a bump of the surface moves, less so in the distance; rain lets the bumps drift.
    image = mirrored.transpose(0, 1)
    reach = max(3, height // 14) | 1
    image = F.avg_pool2d(image, (reach, 3), stride=1, padding=(reach // 2, 1), count_include_pad=False)
    drift = 0.10 * stage.since if stage.scene.weather == "rain" else 0.0
    bump = (stage.textures.sample(x * 0.45 + drift, z * 0.22 - drift) - 0.5) * 0.20 / (1 + 0.10 * depth)
    u = (torch.arange(width, device=depth.device) + 0.5) * (2 / width) - 1
    # ``mirrored`` begins at row ``mirrored_from`` of the frame; grid_sample wants places from -1 to 1
    rows = torch.arange(height, device=depth.device)[:, None] + (0.5 - mirrored_from)
    num_rows = image.shape[-2]
    grid = torch.stack((u + 0.3 * bump, (rows + bump * (height / 2)) * (2 / num_rows) - 1), dim=-1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False).transpose(0, 1)


def draw_standing(canvas: Canvas, view: View, stage: Stage, walls: Tensor) -> None:
    """Lamps, car and figures, from the far end to the front; ``walls`` are as deep as a ray can see."""
    posts = posts_of(stage.scene)
    draw_posts(canvas, view, stage, sorted(posts[1:], key=lambda post: -post[1]), walls)
    if stage.scene.car:
        draw_car(canvas, view, stage)
    draw_posts(canvas, view, stage, posts[:1], walls)
    draw_crowd(canvas, view, stage)


def draw_posts(canvas: Canvas, view: View, stage: Stage, places: list[tuple[float, float]], walls: Tensor) -> None:
    """Street lamps with their halos and their cones in the haze; ``places`` from back to front."""
    xs, zs = (stage.numbers(values) for values in zip(*places, strict=True))
    depth, x = view.facing(xs, zs)
    y = view.y + depth * view.dy
    size, on, ahead = depth.clamp(min=0.3) * view.step, stage.hour.lamps, (y > 0) & (depth > 0.5) & (depth < walls)
    # the column is thicker at its foot, the hood widens downwards, and the bulb hangs below it
    column = torch.maximum(x.abs() - 0.036 - 0.05 * (1 - y).clamp(0, 1), y - LAMP_HEIGHT)
    hood = torch.maximum(x.abs() - (LAMP_HEIGHT + 0.26 - y) * 0.75, LAMP_HEIGHT - 0.02 - y)
    bulb = torch.hypot(x, (y - LAMP_HEIGHT + 0.18) * 0.7) - 0.125
    iron = torch.minimum(column, hood)
    metal = (stage.rgb(stage.above, 5) + stage.rgb(stage.sun, 5) * 0.3) * 0.05
    glass = stage.rgb(stage.look.lamp, 5) * (3.2 * on) + stage.rgb(stage.above, 5) * 0.7
    colour = stage.hazed(torch.where(bulb < iron, glass, metal), depth * 0.6)
    alpha = cover(torch.minimum(iron, bulb), size) * ahead
    for index in range(len(places)):
        canvas.lay(colour[:, index], alpha[index])
    if not on:
        return
    # What haze shows of a lamp: a point of light with a halo, and a cone that widens and fades on its way down.
    distance = torch.hypot(x, y - LAMP_HEIGHT + 0.2)
    thick = min(1.6, stage.haze_per_m / 0.04)
    below = (LAMP_HEIGHT - 0.2 - y).clamp(min=0)
    cone = torch.exp((x / (0.16 + 0.42 * below)) ** 2 * -1 - below / 2.6) * (below > 0)
    added = 0.020 / (0.05 + distance * distance) + 0.05 * thick * torch.exp(distance / -1.2) + 0.13 * thick * cone
    # the cone fades towards the ground, where it would end in a line
    added = added * ahead * (0.7 * y).clamp(max=1) * torch.exp(zs * -0.02)
    canvas.glow(stage.rgb(stage.look.lamp) * (added.sum(0) * on))


def draw_rain(image: Tensor, view: View, stage: Stage) -> Tensor:
    """Three curtains of falling drops around the camera, which turn with the world and not with the camera."""
    bearing, rise = torch.atan2(view.dx, view.dz), view.dy * torch.rsqrt(view.dx**2 + view.dz**2)
    curtains = ((2.5, 3.6, 5.5), (7.5, 7.0, 6.5), (3, 17, 31))
    distance, speed, row = (constant(numbers, bearing.device).view(3, 1, 1, 1) for numbers in curtains)
    # A curtain is a cylinder around the camera, cut into lanes 11 cm wide; every lane has one drop, which falls 2.4 m and begins
    # again. Its place in the lane and its start are random numbers of the lane.
    lane = bearing * distance / 0.11
    i = lane.floor()
    place, start, _, _ = stage.textures.cell(i, row)
    aside = (lane - i - 0.2 - 0.6 * place).abs() * 0.11
    fallen = ((rise * distance + speed * stage.since) / 2.4 + start).remainder(1.0) * 2.4
    streak = band(fallen - 0.5, 0.25)
    drops = (cover(aside - 0.006, (distance * view.step).clamp(min=0.004)) * streak).sum(0)
    lamps = stage.rgb(stage.look.lamp) * (0.16 * stage.hour.lamps)
    seen = (stage.rgb(stage.above) + stage.rgb(stage.hour.haze)) * 0.5 + lamps
    return image + seen * (drops * 0.6)
