"""Clips drawn in the middle of training, by the transformer as it is at the moment, from the same noise each time.

Enters: held-out samples, for their caption and, where the stage shows its transformer the first frame, for that. Leaves: pixels.
The VAE is loaded for a few clips and released after them. It does not know what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cinelora.config.clip_request import guidance_of
from cinelora.config.lessons import expert_of
from cinelora.config.schema import ModelConfig, SamplerConfig, TrainConfig
from cinelora.families import family_of
from cinelora.families.family import ALONE, Expert, Part
from cinelora.families.machinery import machinery_of
from cinelora.families.model_bundle import Bundle
from cinelora.io.media import Pixels
from cinelora.io.waiting import waiting
from cinelora.latents.dataset import LatentDataset
from cinelora.memory.block_swap import as_they_are
from cinelora.nn.pixels import range_to_pixels
from cinelora.parallel.launch import rank_info
from cinelora.sampling.denoise import Course, Guided
from cinelora.sampling.sampler import initial_noise, noise_of
from cinelora.training.module import Stage


@dataclass
class ClipSampler:
    """Draws held-out samples, by the guidance and solver of ``config``."""

    config: TrainConfig
    shown: LatentDataset
    steps: int
    """Denoising steps."""
    size: tuple[int, int] | None = None
    """Height and width of what has no sample's own size; None for the model's."""
    frames: int | None = None
    """Frames, of which the sample has no fewer; None for its own."""
    bundle: Bundle = field(init=False)

    def __post_init__(self) -> None:
        model, stage = self.config.model, self.config.stage
        self.bundle = machinery_of(model).from_config(model, stage.transformer, Path(self.config.cache))

    @property
    def manner(self) -> dict[str, Any]:
        """Everything but sample, seed and transformer that a clip depends on."""
        sampler, model = self.config.sampler, self.model
        size = (self.num_frames, model.height, model.width)
        found = {"solver": sampler.name, "steps": self.steps, "guidance": self.guidance}
        levels = {} if self.expert == ALONE else {"levels": list(self.expert.levels)}
        return found | {"shift": self.shift, "size": list(size)} | levels

    @property
    def expert(self) -> Expert:
        """Which transformer draws, and the noise levels that are its own."""
        return replace(expert_of(self.config), guidance=None, taught=ALONE.taught)

    @property
    def model(self) -> ModelConfig:
        """The model, at the size that is drawn."""
        model = self.config.model
        height, width = self.size or (model.height, model.width)
        return replace(model, height=height, width=width)

    @property
    def num_frames(self) -> int:
        """Frames of what is drawn."""
        return self.frames or self.config.stage.num_frames

    @property
    def shift(self) -> float:
        """The sigma shift."""
        config = self.config
        return config.sampler.shift or config.model.shift_of(config.stage.transformer)

    @property
    def guidance(self) -> float:
        """The guidance scale."""
        return guidance_of(self.config.sampler, expert_of(self.config))

    def latents(
        self, stage: Stage, position: int, seed: int, part: str, text: str | None = None, own_size: bool = True
    ) -> Tensor:
        """Latents (1, 16, T, h, w) of a sample, or of the encoded ``text``; ``seed`` and ``part`` key the noise.

        They are of the sample's own size, or else of ``size`` unless the sample's picture is shown. One of two experts draws the
        part of the way that is its own: the low-noise one from the sample's latents, noised as far as it goes, and the
        high-noise one from noise to what it predicts of the clip where it would hand over.
        """
        # A batch of one, as in training. The noise is keyed by seed and sample and never by the step, so that clips of different
        # steps differ by what was learnt between them alone. A picture that is shown fixes the size: the clip has to continue it.
        config, device = self.config, stage.device
        batch = {key: value[None].to(device) for key, value in self.shown[position].items()}
        # The VAE only looks back, so that a shorter clip has the first of the latents that a longer one has, also of its picture.
        length = family_of(config.model).geometry.num_latent_frames(self.num_frames)
        batch |= {key: batch[key][:, :, :length] for key in ("latents", "image_latents") if key in batch}
        if text is not None:
            batch["text"] = self.shown.text(text)[None].to(device)
        positive, negative = (stage.condition(one) for one in (batch, {**batch, "text": stage.null_text[None]}))
        low, high = self.expert.levels
        if own_size or config.stage.image_condition or high < 1:
            noise = noise_of(tuple(batch["latents"].shape), seed, part).to(device)
        else:
            noise = initial_noise(seed, part, self.model, self.num_frames, device)
        guided = Guided(stage.transformer, positive, negative, self.guidance)
        solver = SamplerConfig(name=config.sampler.name, steps=self.steps)
        course = Course(noise, stage.noise_law.solver(solver, self.shift))
        if high < 1:
            course.begin_at(high, stage.noise_law.add_noise, batch["latents"])
        with waiting("drawing", rank_info().global_rank == 0), as_they_are():
            course.go(guided, course.ahead((low, 1.0)))
            return positive.settled(course.clean(guided) if low > 0 else course.latents_BCTHW)

    def pixels(self, latents: list[Tensor]) -> list[Pixels]:
        """Frames (T, H, W, 3) of latents (1, 16, T, h, w)."""
        if not latents:
            return []
        with waiting("decoding", rank_info().global_rank == 0), self.bundle.loaded(Part.VAE):
            return [range_to_pixels(self.bundle.decode(of_one)) for of_one in latents]
