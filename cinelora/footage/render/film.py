"""From scenes to clips: every frame is drawn in linear light and developed in the look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cinelora.errors import ConfigError
from cinelora.footage.render.figures import car_position
from cinelora.footage.render.rays import Stage, Textures, View, draw_textures, place_camera, rgb
from cinelora.footage.render.room import draw_room, room_lamps
from cinelora.footage.render.scenes import LOOKS, Look, Scene, describe, draw_scene
from cinelora.footage.render.street import draw_rain, draw_street, street_lamps

SUPERSAMPLING = 2
"""Rays per pixel and direction."""


@dataclass(frozen=True)
class Clip:
    """A rendered clip: ``video`` uint8 RGB THWC, and what it shows."""

    video: NDArray[np.uint8]
    caption: str


def develop(image_CHW: Tensor, look: Look, generator: torch.Generator) -> NDArray[np.uint8]:
    """Linear light at pixel size to pixels uint8 HWC: bloom, vignette, a film curve, the look's colour, and grain."""
    _, height, width = image_CHW.shape
    bright = (image_CHW - 0.25).clamp(min=0, max=2)
    small = F.interpolate(bright[None], scale_factor=0.25, mode="area")
    for _ in range(2):
        small = F.avg_pool2d(F.pad(small, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    image = image_CHW + 0.22 * F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0]
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    image = image * look.exposure * (1 - look.vignette * ((0.8 * u * u + 0.7 * v * v) / 1.5))
    grey = (image * rgb((0.32, 0.55, 0.13))).sum(0, keepdim=True)
    image = grey + (image - grey) * look.saturation
    # a filmic shoulder: highlights bend towards white (Reinhard's curve with a white point of 4)
    image = image * (1 + image / 16) / (1 + image)
    image = (image.clamp(min=0) * 1.18) ** (1 / 2.2)
    image = (image - 0.40) * look.contrast + 0.40
    grain = torch.randn(1, 1, height, width, generator=generator)
    grain = F.avg_pool2d(F.pad(grain, (1, 0, 1, 0), mode="replicate"), 2, stride=1)[0] * 2
    shadows = 0.35 + (image.clamp(0, 1) * (1 - image.clamp(0, 1)) * 4) ** 0.5
    pixels = (image + look.grain * grain * shadows).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def render_clip(seed: int, look: str, num_frames: int, height: int, width: int, fps: int) -> Clip:
    """Render the scene of ``seed`` in a look of ``LOOKS``: ``num_frames`` of ``height`` x ``width`` at ``fps``.

    The same arguments give the same pixels. Raises ``ConfigError`` for a look that does not exist.
    """
    if look not in LOOKS:
        raise ConfigError(f"look={look} is not rendered; use one of {', '.join(LOOKS)}")
    scene, textures = draw_scene(seed), draw_textures(seed)
    generator = torch.Generator().manual_seed(seed)
    duration_s = num_frames / fps
    frames = []
    for index in range(num_frames):
        progress = index / max(num_frames - 1, 1)
        view = place_camera(scene, progress, height * SUPERSAMPLING, width * SUPERSAMPLING)
        image = _draw(scene, LOOKS[look], textures, view, index / fps, duration_s)
        image = F.avg_pool2d(image[None], SUPERSAMPLING)[0]
        frames.append(develop(image, LOOKS[look], generator))
    return Clip(np.stack(frames), describe(scene, LOOKS[look]))


def _draw(scene: Scene, look: Look, textures: Textures, view: View, time: float, duration_s: float) -> Tensor:
    if scene.place == "room":
        return draw_room(view, Stage(scene, look, textures, room_lamps(scene, look), time, haze_per_m=0.0))
    x_car = car_position(scene, time, duration_s) if scene.car else None
    haze_per_m = look.haze_per_m * {"fog": 2.2, "rain": 0.9, "dry": 0.6}[scene.weather]
    stage = Stage(scene, look, textures, street_lamps(scene, look, x_car), time, haze_per_m)
    image = draw_street(view, stage, x_car)
    return draw_rain(image, view, stage) if scene.weather == "rain" else image
