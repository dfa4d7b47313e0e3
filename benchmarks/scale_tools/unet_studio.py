"""What the report on the embedded AnimateDiff draws with: the same scenes, readers and sheets, by its two networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from common import RESULTS
from scale_tools.studio import BATCH, Studio
from torch import Tensor

from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.families.animatediff.unet_bundle import AnimateDiffBundle
from cinelora.families.animatediff.unet_conditions import FrameCondition
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.conditioning import Conditioning
from cinelora.families.family import Part
from cinelora.nn.flow_matching import keyed_generator
from cinelora.sampling.denoise import Guided, sample

CLIP_FRAMES, CLIP_FPS, CLIP_HEIGHT = 16, 8, 128


@dataclass
class UnetStudio(Studio):
    """The model in ``cache``, on the device at hand."""

    pictures: Path = RESULTS / "animatediff_model"
    frames: int = CLIP_FRAMES
    fps: int = CLIP_FPS
    height: int = CLIP_HEIGHT
    model: str = "tiny_animatediff"
    stills: str = "image"
    bundles: dict[str, AnimateDiffBundle] = field(init=False)

    def __post_init__(self) -> None:
        folders = {"base": str(self.cache / "base"), "motion_adapter": str(self.cache / "motion")}
        model = ModelConfig(name=self.cache.name, family=ANIMATEDIFF.name, dtype="fp32", **folders)
        networks = ("image", "motion")
        self.bundles = {kind: AnimateDiffBundle(model, kind, self.cache, self.device) for kind in networks}
        self.t2v = self.bundles["image"]
        for part in (Part.VAE, Part.TEXT_ENCODER, Part.TOKENIZER):
            self.t2v._part(part)

    @property
    def pair(self) -> dict[str, AnimateDiffBundle]:
        """Both networks by name."""
        return self.bundles

    @property
    def words(self) -> tuple[str, ...]:
        """What names the model to ``train.py``."""
        return (*super().words, f"model.base={self.cache / 'base'}", f"model.motion_adapter={self.cache / 'motion'}")

    @cached_property
    def nothing(self) -> Tensor:
        """The text of no caption, (1, 77, D)."""
        return self.t2v.encode_text([""])[0][None]

    def draw(
        self,
        transformer: torch.nn.Module,
        prompts: list[str],
        frames: int,
        images: Conditioning | None = None,
        guidance: float | None = None,
        seeds: list[int] | None = None,
    ) -> Tensor:
        """Pixels (N, T, H, W, 3) uint8 on the host: stills by the image network, clips by the motion network."""
        scale, law = guidance or self.guidance, self.bundles["image" if frames == 1 else "motion"].noise_law
        noise, videos = self.noise(seeds or list(range(len(prompts))), frames), []
        size = BATCH[self.device.type] // (1 if frames == 1 else 4)
        for first in range(0, len(prompts), size):
            text = torch.stack(self.t2v.encode_text(prompts[first : first + size]))
            shown, without = FrameCondition(text), FrameCondition(self.nothing.expand(len(text), -1, -1))
            solver = law.solver(SamplerConfig(steps=self.steps), 1.0)
            latents = sample(Guided(transformer, shown, without, scale), noise[first : first + size], solver)
            videos.append(self.pixels(latents))
        return torch.cat(videos)

    def noise(self, seeds: list[int], frames: int) -> Tensor:
        """(N, 4, T, h, w), drawn on the host, so that it is the same on every device."""
        shape = ANIMATEDIFF.geometry.latent_size(frames, self.height, self.width)
        drawn = [torch.randn(shape, generator=keyed_generator("report", seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device)
