"""From scenes to clips: all frames are drawn at once in linear light and developed in the look.

T frames. THW is a plane of every frame, CTHW a picture in linear light, T11 one number a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cinelora.errors import ConfigError
from tools.scale_model.render.light import Moment, Textures, draw_textures, make_stage
from tools.scale_model.render.looks import LOOKS, Look
from tools.scale_model.render.motion import camera_path, car_path, columns_of, crowd_of, horizon_of
from tools.scale_model.render.rays import cast_rays, over, rgb
from tools.scale_model.render.room import SUN_FROM, draw_room, room_lamps
from tools.scale_model.render.scenes import Scene, describe, draw_scene
from tools.scale_model.render.street import draw_rain, draw_street, street_lamps, wetness_of

PIXELS_ON_CPU, PIXELS_ON_GPU = 1 << 16, 1 << 20
"""Frames are drawn in groups of about this many pixels, so that memory does not grow with the clip: few enough for a
core's cache, enough to keep a GPU at work."""
GREY = (0.30, 0.52, 0.18)
"""How bright a film without colour finds red, green and blue."""


@dataclass(frozen=True)
class Clip:
    """A rendered clip: ``video`` uint8 RGB THWC, and what it shows."""

    video: NDArray[np.uint8]
    caption: str


def render_clip(seed: int, look: str, num_frames: int, height: int, width: int, fps: int) -> Clip:
    """Render the scene of ``seed`` in a look of ``LOOKS``, with its caption; otherwise as ``render_scene``."""
    scene = draw_scene(seed)
    video = render_scene(scene, look, num_frames, height, width, fps)
    return Clip(video.numpy(), describe(scene, look))


@torch.no_grad()
def render_scene(
    scene: Scene,
    look: str,
    num_frames: int,
    height: int,
    width: int,
    fps: int,
    *,
    grain: bool = True,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Render a scene: ``num_frames`` of ``height`` x ``width`` at ``fps``, uint8 THWC on ``device``.

    The same arguments give the same pixels, and ``device`` changes no more than their rounding: every random number
    is drawn on the CPU. Nothing waits for the device. Raises ``ConfigError`` for a look that does not exist.
    """
    if look not in LOOKS:
        raise ConfigError(f"look={look} is not rendered; use one of {', '.join(LOOKS)}")
    place, film = torch.device(device), LOOKS[look]
    textures = draw_textures(scene.seed, place)
    moments = (torch.arange(num_frames) - (num_frames - 1) / 2) / fps
    noise = draw_grain(scene.seed, num_frames, height, width, place) if grain else None
    chunks = []
    group = max(1, (PIXELS_ON_CPU if place.type == "cpu" else PIXELS_ON_GPU) // (height * width))
    for first in range(0, num_frames, group):
        frames = slice(first, first + group)
        image = _draw(scene, film, textures, moments[frames], (num_frames - 1) / fps, height, width)
        chunks.append(develop(image, film, noise.over(frames, height, width) if noise else None))
    return torch.cat(chunks)


def _draw(
    scene: Scene, look: Look, textures: Textures, since: Tensor, duration_s: float, height: int, width: int
) -> Tensor:
    device, horizon = textures.cloud.device, horizon_of(scene)
    path, crowd = camera_path(scene, since, duration_s), crowd_of(scene, since, duration_s)
    moment = Moment(since, crowd, columns_of(crowd, path, height, width), car_path(scene, since, duration_s))
    if scene.place == "room":
        stage = make_stage(scene, look, textures, moment, room_lamps(scene, look), SUN_FROM)
        return draw_room(cast_rays(path, horizon, height, width, device), stage)
    lamps = street_lamps(scene, look, moment.car_x_T)
    stage = make_stage(scene, look, textures, moment, lamps, look.hours[scene.time].sun_from)
    # a hand-held camera lifts the ground a little above the level horizon
    ground = max(0, int(height * (horizon - 0.06))) if wetness_of(scene, look) else None
    view = cast_rays(path, horizon, height, width, device, mirrored_from=ground)
    image = draw_street(view, stage, height, ground or 0)
    return draw_rain(image, view.rows(height), stage) if scene.weather == "rain" else image


@dataclass(frozen=True)
class Grain:
    """Film grain: pieces of one ``field``, taken from another place (``top``, ``left``, T each) for every frame."""

    field: Tensor
    top: Tensor
    left: Tensor

    def over(self, frames: slice, height: int, width: int) -> Tensor:
        """The grain of some frames, THW around 0."""
        rows, columns = (torch.arange(size, device=self.field.device) for size in (height, width))
        top, left = self.top[frames, None, None], self.left[frames, None, None]
        return self.field[top + rows[:, None], left + columns]


def draw_grain(seed: int, num_frames: int, height: int, width: int, device: torch.device) -> Grain:
    """The grain of a seed, soft over two pixels: drawn on the CPU, so that no device changes it."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, height + 97, width + 97, generator=generator)
    field = F.avg_pool2d(field, 2, stride=1)[0] * 2
    places = torch.randint(0, 96, (2, num_frames, 1), generator=generator)[..., 0]
    field, places = field.to(device, non_blocking=True), places.to(device, non_blocking=True)
    return Grain(field, places[0], places[1])


def develop(image_CTHW: Tensor, look: Look, grain_THW: Tensor | None) -> Tensor:
    """Linear light to pixels uint8 THWC: bloom, vignette, a film curve, the look's colour, and grain."""
    _, _, height, width = image_CTHW.shape
    device = image_CTHW.device
    image = image_CTHW + look.bloom * _bloom(image_CTHW)
    v = torch.linspace(-1, 1, height, device=device)[:, None]
    u = torch.linspace(-1, 1, width, device=device)
    image = image * (look.exposure * (1 - look.vignette * (0.55 * u * u + 0.45 * v * v)))
    if look.saturation != 1:
        grey = (image * rgb(GREY, device)).sum(0, keepdim=True)
        image = over(grey, image, look.saturation)
    # Narkowicz's fit of the ACES film curve
    image = image.clamp(min=0) * 0.85
    image = (image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)).clamp(1e-5, 1) ** (1 / 2.2)
    image = ((image - 0.42) * look.contrast + 0.42).clamp(0, 1)
    image = image * rgb(look.lights, device) + (1 - image) * rgb(look.shadows, device)
    if grain_THW is not None:
        # strongest in the middle tones, as on film
        image = image + look.grain * grain_THW * (0.3 + (image * (1 - image)).clamp(min=0).sqrt() * 1.4)
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous()


def _bloom(image_CTHW: Tensor) -> Tensor:
    """Light that spreads in the film around what is too bright, CTHW."""
    _, _, height, width = image_CTHW.shape
    bright = (image_CTHW - 0.6).clamp(min=0, max=3).transpose(0, 1)
    small = F.interpolate(bright, size=(max(1, height // 4), max(1, width // 4)), mode="area")
    reach = max(3, height // 28) | 1
    for _ in range(2):
        small = F.avg_pool2d(small, reach, stride=1, padding=reach // 2, count_include_pad=False)
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False).transpose(0, 1)
