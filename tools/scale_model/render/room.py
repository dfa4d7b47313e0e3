"""The room: a window at the side whose light crosses it, a window and a door in the far wall, furniture, a lamp.

T frames. THW is a plane of every frame, CTHW a picture in linear light. The subject stands in the middle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.scale_model.render.figures import draw_crowd
from tools.scale_model.render.light import Lamp, Stage, far_away
from tools.scale_model.render.looks import PAINTS, Colour, Look
from tools.scale_model.render.rays import Canvas, View, band, box, constant, cover, disc, over
from tools.scale_model.render.scenes import Scene

HALF, FAR_Z, CEILING = 3.6, 1.9, 3.0
WINDOW_Z, WINDOW_Y = (-3.4, -0.2), (0.75, 2.65)
WINDOW_AT = (sum(WINDOW_Z) / 2, sum(WINDOW_Y) / 2)
WINDOW_HALF = ((WINDOW_Z[1] - WINDOW_Z[0]) / 2, (WINDOW_Y[1] - WINDOW_Y[0]) / 2)
"""The window in the side wall, whose light is seen: middle and half of its extent along z and y."""
PANE_HALF, PANE_Y = (0.75, 0.80), 1.75
"""The window in the far wall, through which the hour is seen."""
SLAT = 0.21
"""Distance between two slats of the blind."""
SUN_FROM = (-0.85, 0.30, -0.62)
"""From the window; for light from the left."""
LAMP_Y = 1.50
PAPERS: tuple[Colour, ...] = PAINTS["papers"]


def room_lamps(scene: Scene, look: Look) -> list[Lamp]:
    """The floor lamp, and in looks with signs their light from beside the camera."""
    on = look.hours[scene.time].lamps
    if not on:
        return []
    lamps = [Lamp(lamp_x(scene), LAMP_Y + 0.05, FAR_Z - 0.75, look.lamp, 0.42 * on, size=0.5)]
    # a low-key room is lit from the window's side alone
    fill = 1.7 if look.blind and not look.signs else 4.2
    lamps.append(Lamp(-1.6 * scene.side, 2.3, -2.6, look.lamp, fill * on))
    if look.signs:
        lamps.append(Lamp(2.6 * scene.side, 2.2, -0.6, look.sign_colours[1], 3.2 * look.signs))
    return lamps


def lamp_x(scene: Scene) -> float:
    """x of the floor lamp, on the far side from the window."""
    return 2.35 * scene.side


def pane_x(scene: Scene) -> float:
    """x of the window in the far wall."""
    return -1.25 * scene.side + 0.35 * scene.opening


def window_light(stage: Stage, x: Tensor, y: Tensor | float, z: Tensor | float, softness: float = 0.012) -> Tensor:
    """What the window at the side lets through to points of the room, 0..1: the ray is followed back to its plane."""
    from_x, from_y, from_z = stage.sun_from
    # From a point the ray goes back towards the sun until it meets the window's wall, ``way`` along it. Inside the window's
    # rectangle it comes from outside; the edge is softer, the farther away the window is.
    way = (x + HALF * stage.scene.side) / -from_x
    y_window, z_window = y + way * from_y, z + way * from_z
    blur = softness + 0.0035 * way.abs()
    through = torch.sigmoid(box(z_window, y_window, WINDOW_AT, WINDOW_HALF) / -blur)
    cross = 1 - band(z_window - WINDOW_AT[0], 0.06)
    if not stage.look.blind:
        return through * cross * (1 - band(y_window - 2.0, 0.05))
    slat = ((y_window / SLAT).remainder(1.0) - 0.5).abs()
    return through * (0.3 + 0.7 * cross) * torch.sigmoid((0.25 - slat) / (blur / SLAT * 0.7))


def dimmed(beyond: Tensor, loss: float, reach: float) -> Tensor:
    """What a corner leaves of the light: ``beyond`` is the distance past it, negative inside the room."""
    return 1 - loss * torch.exp(beyond.clamp(max=0) / reach)


def draw_room(view: View, stage: Stage) -> Tensor:
    """The room, linear light CTHW."""
    # from back to front; what stands in the room is laid over its walls as one canvas
    image = draw_floor(draw_sides(draw_far_wall(view, stage), view, stage), view, stage)
    canvas = Canvas.like(view.dx)
    draw_lamp(canvas, view, stage)
    draw_chair(canvas, view, stage)
    draw_crowd(canvas, view, stage, lambda x, y, z: 0.22 + 0.78 * window_light(stage, x, y, z, 0.02))
    return draw_beam(canvas.before(image), view, stage)


def draw_far_wall(view: View, stage: Stage) -> Tensor:
    """Wallpaper over panels, with a window, a picture and a door."""
    scene = stage.scene
    depth = view.upright(FAR_Z)
    x, y, _ = view.at(depth)
    size = depth * view.step
    seen = stage.unshadowed((x, y, FAR_Z), far_away(stage.sun_from), 0.012)
    sunlit = window_light(stage, x, y, FAR_Z) * (0.08 + 0.92 * seen)
    light = stage.light((x, y, FAR_Z), (0.0, 0.0, -1.0), sunlit=sunlit)
    # corners are darker, since walls that meet take each other's light away
    corner = (1 - 0.40 * torch.exp((x.abs() - HALF) / 0.5)) * dimmed(-y, 0.35, 0.35)
    light = light * (corner * dimmed(y - CEILING, 0.35, 0.4))
    paper = stage.rgb(PAPERS[scene.seed % len(PAPERS)]) * stage.rgb(stage.look.walls)
    wood = stage.rgb((0.17, 0.095, 0.055)) * stage.rgb(stage.look.walls)
    image = over(paper, wood * 1.3, cover(y - 0.92, size)) * light
    image = over(image, wood * 1.8 * light, cover((y - 0.94).abs() - 0.035, size))
    image = over(image, wood * light, cover(y - 0.12, size))
    door = 2.45 * -scene.side if scene.opening > 0 else 0.95 * scene.side
    image = over(image, wood * 0.55 * light, cover(box(x, y, (door, 1.06), (0.54, 1.12)), size))
    image = over(image, wood * 1.25 * light, cover(box(x, y, (door, 1.04), (0.46, 1.05)), size))
    panel = torch.minimum(box(x, y, (door, 1.52), (0.30, 0.40)), box(x, y, (door, 0.52), (0.30, 0.34)))
    image = over(image, wood * 0.85 * light, cover(panel, size))
    image = over(image, stage.rgb((0.5, 0.40, 0.2)) * light, cover(disc(x, y, (door - 0.36, 1.0), (0.04, 0.04)), size))
    return _draw_pane(image, x, y, size, light, stage, pane_x(scene) if scene.opening <= 0 else pane_x(scene) * -0.8)


def _draw_pane(image: Tensor, x: Tensor, y: Tensor, size: Tensor, light: Tensor, stage: Stage, at: float) -> Tensor:
    """A window onto the hour's sky, with curtains, and a blind where the look has one."""
    hour = stage.hour
    frame = box(x, y, (at, PANE_Y), (PANE_HALF[0] + 0.07, PANE_HALF[1] + 0.07))
    pane = box(x, y, (at, PANE_Y), PANE_HALF)
    white = stage.rgb((0.55, 0.53, 0.48)) * light
    image = over(image, white, cover(frame, size))
    rise = ((y - PANE_Y + PANE_HALF[1]) / (2 * PANE_HALF[1])).clamp(0, 1)
    sky = over(stage.rgb(hour.horizon), stage.rgb(hour.zenith), rise * 0.8)
    roofs = 1.28 + 0.35 * stage.textures.cell((x * 2.4 + 60).floor(), 3)[0]
    outside = over(sky, stage.rgb(hour.haze) * 0.35, cover(y - roofs, size * 2))
    # the window's cross, cut off at the frame where it is laid over the pane
    bars = torch.minimum((x - at).abs() - 0.025, (y - PANE_Y - 0.15).abs() - 0.025)
    if stage.look.blind:
        slat = ((y / (SLAT * 0.7)).remainder(1.0) - 0.5).abs()
        outside = outside * 0.4 + stage.rgb(stage.sun) * 0.16 * torch.sigmoid((0.22 - slat) * 16)
    image = over(image, outside, cover(pane, size))
    image = over(image, white, cover(torch.maximum(bars, pane), size))
    folds = 0.75 + 0.25 * torch.cos((x - at) * 42)
    curtain = box((x - at).abs(), y, (PANE_HALF[0] + 0.16, PANE_Y - 0.12), (0.19, 1.12))
    return over(image, stage.rgb((0.40, 0.34, 0.27)) * light * folds, cover(curtain, size))


def draw_sides(image: Tensor, view: View, stage: Stage) -> Tensor:
    """The two side walls and the ceiling."""
    # A ray leads to the wall on its own side: one plane a pixel, so that both walls are drawn at once.
    sign = view.dx.sign()
    depth = view.sideways(sign * HALF)
    x, y, z = view.at(depth)
    size = depth * view.step * (1 + view.dz / view.dx.abs().clamp(min=1e-3)).clamp(max=20)
    light = stage.light((x, y, z), (-sign, 0.0, 0.0), sunlit=window_light(stage, x, y, z))
    light = light * dimmed(z - FAR_Z, 0.40, 0.5) * dimmed(-y, 0.35, 0.35)
    tint = stage.rgb(stage.look.walls)
    paper = stage.rgb(PAPERS[stage.scene.seed % len(PAPERS)]) * tint
    wood = stage.rgb((0.17, 0.095, 0.055)) * tint
    wall = over(paper, wood * 1.3, cover(y - 0.92, depth * view.step)) * light
    # only the wall that the light comes from has the window: on the other side no distance is inside it
    pane = torch.maximum(box(z, y, WINDOW_AT, WINDOW_HALF), sign * stage.scene.side * 1e3 + 1)
    glare = stage.rgb(stage.sun) * 0.5 + stage.rgb(stage.hour.horizon) * 0.5
    if stage.look.blind:
        glare = glare * torch.sigmoid((0.26 - ((y / SLAT).remainder(1.0) - 0.5).abs()) * 14)
    wall = over(wall, glare, cover(pane, size))
    image = over(image, wall, cover(z - FAR_Z, size) * (depth < 50))
    ceiling = view.level(CEILING)
    x, _, z = view.at(ceiling)
    light = stage.light((x, CEILING, z), (0.0, -1.0, 0.0)) * dimmed(z - FAR_Z, 0.3, 0.6)
    inside = cover(torch.maximum(z - FAR_Z, x.abs() - HALF), ceiling * view.step * 2) * (view.dy > 0)
    return over(image, stage.rgb((0.42, 0.40, 0.37)) * tint * light, inside)


def draw_floor(image: Tensor, view: View, stage: Stage) -> Tensor:
    """Boards with a carpet; light of the window and shadows on them."""
    depth = view.level(0.0)
    x, _, z = view.at(depth)
    size = depth * view.step
    seen = stage.unshadowed((x, 0.0, z), far_away(stage.sun_from), 0.015)
    sunlit = window_light(stage, x, 0.0, z) * (0.08 + 0.92 * seen)
    light = stage.light((x, 0.0, z), (0.0, 1.0, 0.0), sunlit=sunlit) * stage.unshaded(x, z)
    light = light * dimmed(z - FAR_Z, 0.4, 0.4)
    # each board has a tone of its own: the random number of its cell
    tone = stage.textures.cell((x / 0.28).floor() + 40, 7)[2]
    boards = stage.rgb((0.22, 0.125, 0.065)) * (0.85 + 0.3 * tone)
    carpet = box(x, z, (0.0, 0.1), (2.1, 1.35))
    rug = (0.24, 0.09, 0.08) if stage.scene.seed % 2 else (0.10, 0.13, 0.20)
    ground = over(boards, stage.rgb(rug), cover(carpet, size * 2))
    ground = over(ground, stage.rgb((0.40, 0.33, 0.22)), cover((carpet + 0.16).abs() - 0.035, size * 2))
    inside = cover(torch.maximum(z - FAR_Z, x.abs() - HALF), size * 2) * cover(view.dy, view.step)
    return over(image, ground * light, inside)


def draw_lamp(canvas: Canvas, view: View, stage: Stage) -> None:
    """A floor lamp with a shade, lit where the hour wants."""
    z, on, at = FAR_Z - 0.55, stage.hour.lamps, lamp_x(stage.scene)
    depth, x = view.facing(at, z)
    y = view.y + depth * view.dy
    size = depth * view.step
    light = stage.light((x + at, y, z), (0.0, 0.3, -0.95))
    slope = 0.20 + 0.30 * (1.72 - y)
    stem = torch.minimum(box(x, y, (0.0, 0.75), (0.018, 0.75)), box(x, y, (0.0, 0.03), (0.15, 0.03)))
    shade = torch.maximum(x.abs() - slope, (y - 1.54).abs() - 0.18)
    # the shade is a cone that lets the lamp's light through, less at its sides, where it turns away
    round_off = (1 - 0.5 * (x / slope.clamp(min=0.05)) ** 2).clamp(min=0)
    cloth = stage.rgb((0.62, 0.54, 0.40)) * light + stage.rgb(stage.look.lamp) * (1.5 * on * round_off)
    canvas.lay(stage.rgb((0.10, 0.08, 0.05)) * light, cover(stem, size))
    canvas.lay(cloth, cover(shade, size))
    if on:
        canvas.glow(stage.rgb(stage.look.lamp) * (0.10 * on * torch.exp(torch.hypot(x, y - LAMP_Y) / -0.45)))


def draw_chair(canvas: Canvas, view: View, stage: Stage) -> None:
    """An armchair by the window."""
    at, z = -2.3 * stage.scene.side, 0.95
    depth, x = view.facing(at, z)
    y = view.y + depth * view.dy
    size = depth * view.step
    light = stage.light((x + at, y, z), (0.0, 0.3, -0.95), sunlit=window_light(stage, x + at, y, z, 0.02), wrap=0.2)
    leather = stage.rgb((0.15, 0.075, 0.04)) * light * (0.6 + 0.6 * y.clamp(0, 1))
    for shape, shade in (
        (box(x, y, (0.0, 0.70), (0.40, 0.36), 0.14), 0.75),
        (box(x, y, (0.0, 0.36), (0.46, 0.20), 0.08), 1.0),
        (box(x.abs(), y, (0.46, 0.40), (0.11, 0.26), 0.09), 1.25),
    ):
        canvas.lay(leather * shade, cover(shape, size) * (y > 0.05))


def draw_beam(image: Tensor, view: View, stage: Stage) -> Tensor:
    """Light of the window on the dust before the subject, added up over a few depths at once."""
    # Light on dust is an integral along the ray: four samples before the subject, each with a soft edge so that the shaft has no
    # steps.
    depths = constant((1.5, 2.1, 2.7, 3.3), image.device).view(-1, 1, 1, 1)
    x, y, z = view.at(depths)
    dust = (window_light(stage, x, y, z, softness=0.06) * (x.abs() < HALF)).sum(0)
    return image + stage.rgb(stage.sun) * (dust * (0.009 if stage.look.blind else 0.004))
