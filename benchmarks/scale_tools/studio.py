"""What the report on the embedded model draws with: held-out scenes, batches of stills and clips, adapters by weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from common import RESULTS
from scale_tools.readers import Style, planes, style_features
from torch import Tensor

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.lora_layers import load_adapter, set_scales
from cinelora.config.schema import SamplerConfig
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.conditions import Condition, ImageCondition
from cinelora.families.wan21 import WAN21
from cinelora.io.hardware import default_device
from cinelora.io.media import contact_sheet, write_png
from cinelora.nn.flow_matching import FlowMatching, keyed_generator
from cinelora.nn.text_padding import pad_text
from cinelora.sampling.denoise import Guided, Unguided, sample
from tools.scale_model.render import LOOKS, render_scene
from tools.scale_model.render.scenes import Scene, describe, draw_scene

HEIGHT, WIDTH, FRAMES, FPS = 112, 192, 33, 16
HELDOUT_SEED = 900_100
"""Scenes from here on are for measuring: neither encoders, transformers nor adapters were trained on them."""
BATCH = {"cpu": 8, "cuda": 32}


@dataclass
class Studio:
    """The embedded pair on the device at hand; ``cache`` holds nothing but what the bundle asks for.

    ``all_counts`` says for each kind of device how many scenes a part looks at; ``pictures`` is where contact sheets go.
    """

    cache: Path
    all_counts: dict[str, dict[str, int]]
    pictures: Path = RESULTS / "scale_model"
    frames: int = FRAMES
    fps: int = FPS
    height: int = HEIGHT
    width: int = WIDTH
    steps: int = 25
    guidance: float = 4.0
    shift: float = 3.0
    model: str = "tiny"
    stills: str = "t2v"
    """The network that draws single frames."""
    device: torch.device = field(default_factory=default_device)

    @property
    def counts(self) -> dict[str, int]:
        """How many scenes each part looks at on this device."""
        return self.all_counts[self.device.type]

    @property
    def pair(self) -> dict[str, WanBundle]:
        """Both checkpoints by kind."""
        return {"t2v": self.t2v, "i2v": self.i2v}

    def __post_init__(self) -> None:
        self.t2v = WanBundle("embedded:tiny-t2v", dtype="fp32", cache=self.cache, device=self.device)
        self.i2v = WanBundle("embedded:tiny-i2v", dtype="fp32", cache=self.cache, device=self.device)
        for part in (Part.VAE, Part.TEXT_ENCODER, Part.TOKENIZER):
            self.t2v._part(part)
        for part in (Part.VAE, Part.IMAGE_ENCODER):
            self.i2v._part(part)

    @property
    def words(self) -> tuple[str, ...]:
        """What names the model to ``train.py``."""
        return (f"model={self.model}",)

    def render(self, scene: Scene, look: str) -> Tensor:
        """A whole clip, uint8 (T, H, W, 3) on the device, without grain."""
        return render_scene(
            scene, look, self.frames, self.height, self.width, self.fps, grain=False, device=self.device
        )

    def sheet(self, name: str, rows: list[tuple[str, Tensor]], columns: int = 6) -> None:
        """A contact sheet among the pictures."""
        shown = contact_sheet([(label, clip.numpy()) for label, clip in rows], columns)
        write_png(self.pictures / f"{name}.png", shown)

    def ends(self, scene: Scene, look: str, grain: bool = False) -> Tensor:
        """The first and the last frame of the same clip, uint8 (2, H, W, 3): two frames as far apart as these.

        What the model was taught of stills are first frames, so stills are compared with these.
        """
        fps = self.fps / (self.frames - 1)
        return render_scene(scene, look, 2, self.height, self.width, fps, grain=grain, device=self.device)

    def first_frames(self, scenes: list[Scene], look: str, grain: bool = False) -> Tensor:
        """The first frames of the clips of ``scenes``, uint8 (N, H, W, 3) on the device."""
        return torch.stack([self.ends(scene, look, grain)[0] for scene in scenes])

    @cached_property
    def noir(self) -> Style:
        """The look that the stages learn, from first frames with grain; all looks show the same scenes."""
        scenes = [draw_scene(HELDOUT_SEED + 2000 + number) for number in range(self.counts["reference"])]
        looks = {look: self.features(self.first_frames(scenes, look, grain=True)) for look in LOOKS}
        return Style(looks["noir"], torch.cat(list(looks.values())).std(0))

    def features(self, stills_NHWC: Tensor) -> Tensor:
        """Style features (N, F) of uint8 stills, on the host."""
        return style_features(self.t2v, stills_NHWC)

    def distance(self, stills_NHWC: Tensor) -> float:
        """Style distance of uint8 stills to noir."""
        return self.noir.distance(self.features(stills_NHWC))

    def texts(self, prompts: list[str]) -> Tensor:
        """(B, 512, D)."""
        return pad_text(self.t2v.encode_text(prompts), 512)

    def transformer(self, kind: str, adapters: dict[str, Path]) -> torch.nn.Module:
        """One of the model's networks, such as ``t2v``, with ``adapters`` hung on it, all at weight 0."""
        transformer = self.pair[kind].load_transformer()
        for name, path in adapters.items():
            load_adapter(transformer, name, read_adapter(path), self.model)
        set_scales(transformer, dict.fromkeys(adapters, 0.0))
        return transformer

    def draw(
        self,
        transformer: torch.nn.Module,
        prompts: list[str],
        frames: int,
        images: ImageCondition | None = None,
        guidance: float | None = None,
        seeds: list[int] | None = None,
    ) -> Tensor:
        """Pixels (N, T, H, W, 3) uint8 on the host; prompt i has the noise of ``seeds[i]``, of i without seeds.

        ``images`` are what an I2V transformer is shown, one for each prompt.
        """
        scale = self.guidance if guidance is None else guidance
        noise = self.noise(seeds or list(range(len(prompts))), frames)
        size = BATCH[self.device.type] // (1 if frames == 1 else 4)
        videos: list[Tensor] = []
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            text = self.texts(prompts[part])
            image = ImageCondition(images.latents[part], images.tokens[part]) if images else None
            asked, empty = (Condition(words, image) for words in (text, self.texts([""]).expand(len(text), -1, -1)))
            denoise = Unguided(transformer, asked) if scale == 1 else Guided(transformer, asked, empty, scale)
            latents = sample(denoise, noise[part], FlowMatching.solver(SamplerConfig(steps=self.steps), self.shift))
            videos.append(self.pixels(latents))
        return torch.cat(videos)

    def noise(self, seeds: list[int], frames: int) -> Tensor:
        """(N, 16, T, h, w), drawn on the host, so that it is the same on every device."""
        shape = WAN21.geometry.latent_size(frames, self.height, self.width)
        drawn = [torch.randn(shape, generator=keyed_generator("report", seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device)

    def condition(self, images_NHWC: Tensor) -> ImageCondition:
        """What I2V is shown of the first frames of clips; one after the other, as 33 frames each go through the VAE."""
        shown = [self.i2v.encode_images(planes(image[None].to(self.device)), FRAMES) for image in images_NHWC]
        return ImageCondition(torch.cat([one.latents for one in shown]), torch.cat([one.tokens for one in shown]))

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents (B, 16, T, h, w) as uint8 (B, T, H, W, 3) on the host."""
        return (self.t2v.decode(latents).permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu()


@contextmanager
def acting(transformer: torch.nn.Module, weights: dict[str, float]) -> Iterator[None]:
    """Let adapters act inside the block, and none after it."""
    set_scales(transformer, weights)
    try:
        yield
    finally:
        set_scales(transformer, dict.fromkeys(weights, 0.0))


def caption(scene: Scene, look: str = "daylight") -> str:
    """The prompt that asks for a scene."""
    return describe(scene, look)
