"""What the report on the embedded model draws with: held-out scenes, batches of stills and clips, adapters by weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cinelora.config.schema import SamplerConfig
from cinelora.footage.render import render_scene
from cinelora.footage.render.scenes import Scene, describe
from cinelora.models.adapter_file import read_adapter
from cinelora.models.flow import keyed_generator
from cinelora.models.lora import load_adapter, set_weights
from cinelora.models.wan import Condition, ImageCondition, Part, WanBundle, default_device, pad_text
from cinelora.sampling.denoise import Guided, Unguided, sample

HEIGHT, WIDTH, FRAMES, FPS = 112, 192, 33, 16
HELDOUT_SEED = 900_100
"""Scenes from here on are for measuring: neither encoders, transformers nor adapters were trained on them."""
BATCH = {"cpu": 8, "cuda": 32}


@dataclass
class Studio:
    """The embedded pair on the device at hand; ``cache`` holds nothing but what the bundle asks for."""

    cache: Path
    steps: int = 25
    guidance: float = 4.0
    shift: float = 3.0
    device: torch.device = field(default_factory=default_device)

    def __post_init__(self) -> None:
        self.t2v = WanBundle("embedded:tiny-t2v", dtype="fp32", cache=self.cache, device=self.device)
        self.i2v = WanBundle("embedded:tiny-i2v", dtype="fp32", cache=self.cache, device=self.device)
        for part in (Part.VAE, Part.TEXT_ENCODER, Part.TOKENIZER):
            self.t2v._part(part)
        for part in (Part.VAE, Part.IMAGE_ENCODER):
            self.i2v._part(part)

    def render(self, scene: Scene, look: str, frames: int = FRAMES, grain: bool = False) -> Tensor:
        """uint8 (T, H, W, 3) on the device."""
        return render_scene(scene, look, frames, HEIGHT, WIDTH, FPS, grain=grain, device=self.device)

    def texts(self, prompts: list[str]) -> Tensor:
        """(B, 512, D)."""
        return pad_text(self.t2v.encode_text(prompts))

    def transformer(self, kind: str, adapters: dict[str, Path]) -> torch.nn.Module:
        """The ``t2v`` or ``i2v`` transformer with ``adapters`` hung on it, all at weight 0."""
        transformer = (self.t2v if kind == "t2v" else self.i2v).load_transformer()
        for name, path in adapters.items():
            load_adapter(transformer, name, read_adapter(path), "tiny")
        set_weights(transformer, dict.fromkeys(adapters, 0.0))
        return transformer

    def draw(
        self,
        transformer: torch.nn.Module,
        prompts: list[str],
        frames: int,
        images: list[Tensor] | None = None,
        guidance: float | None = None,
        first_seed: int = 0,
    ) -> Tensor:
        """Pixels (N, T, H, W, 3) uint8 on the host, a seed of its own for each prompt; ``images`` start an I2V clip."""
        scale = self.guidance if guidance is None else guidance
        videos, size = [], BATCH[self.device.type] // (1 if frames == 1 else 4)
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            positive = self.texts(prompts[part])
            shape = (16, (frames - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8)
            noise = torch.stack(
                [
                    torch.randn(shape, generator=keyed_generator("report", first_seed + first + i))
                    for i in range(len(positive))
                ]
            ).to(self.device)
            image = self.condition(images[part], frames) if images else None
            conditioned = Condition(positive, image)
            empty = Condition(self.texts([""]).expand(len(positive), -1, -1), image)
            denoise = (
                Unguided(transformer, conditioned) if scale == 1 else Guided(transformer, conditioned, empty, scale)
            )
            latents = sample(denoise, noise, SamplerConfig(steps=self.steps), self.shift)
            videos += [self.pixels(latent[None]) for latent in latents]
        return torch.stack(videos)

    def condition(self, images_HWC: list[Tensor], frames: int) -> ImageCondition:
        """What I2V is shown of first frames."""
        pixels = torch.stack(images_HWC).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.i2v.encode_images(pixels, frames)

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents (1, 16, T, h, w) as uint8 (T, H, W, 3) on the host."""
        video = self.t2v.decode(latents)[0].permute(1, 2, 3, 0)
        return (video * 255).round().to(torch.uint8).cpu()


@contextmanager
def acting(transformer: torch.nn.Module, weights: dict[str, float]) -> Iterator[None]:
    """Let adapters act inside the block, and none after it."""
    set_weights(transformer, weights)
    try:
        yield
    finally:
        set_weights(transformer, dict.fromkeys(weights, 0.0))


def caption(scene: Scene, look: str = "daylight") -> str:
    """The prompt that asks for a scene."""
    return describe(scene, look)
