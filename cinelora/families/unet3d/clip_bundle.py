"""A model on the UNet of clips: its parts loaded on demand and frozen.

Enters: a source (hub repository, directory, or random values). Leaves: the network; the VAE and the text encoder are those of
Stable Diffusion's line, which AnimateDiff has too. It does not know about adapters, training or samplers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from cinelora.families import family_of
from cinelora.families.animatediff.full_shapes import TEXT
from cinelora.families.animatediff.unet_bundle import AnimateDiffBundle
from cinelora.families.family import Family, Part
from cinelora.families.unet3d.clip_condition import ClipCondition
from cinelora.families.unet3d.clip_parts import refuse_other_class
from cinelora.families.unet3d.videocrafter_file import load_videocrafter
from cinelora.io.atomic import sha256_json
from cinelora.memory.weight_sharding import Shares

FPS = 28
"""The frame rate that VideoCrafter2's authors ask for clips at."""
WIDE_TEXT = TEXT | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
"""OpenCLIP's ViT-H without its last layer, which these networks read; at full size with random values."""


class ClipBundle(AnimateDiffBundle):
    """The one network of a ``model``, whose ``base`` in diffusers' layout says its shape.

    ``model.tuned`` is VideoCrafter2 as its authors' file: its network, whose time bias holds the frame rate, and its VAE
    take the place of the base's. The text encoder is the base's: ModelScope reads the same one, OpenCLIP's ViT-H.
    """

    condition: type[ClipCondition] = ClipCondition

    @property
    def family(self) -> Family:
        """The facts of its family."""
        return family_of(self.model)

    @staticmethod
    def taught_by(stage: str, network: str) -> str:
        """Both stages teach the one network: ``style`` what an image network has, ``motion`` what clips have besides."""
        return {"style": "image", "motion": "motion"}[stage]

    def load_transformer(
        self, on_host: int = 0, shares: Shares | None = None, num_frames: int | None = None
    ) -> UNet3DConditionModel:
        """A new frozen network, for clips of any length."""
        network: UNet3DConditionModel = self._settled(self._load(Part.TRANSFORMER), self.dtype)
        # Its convolutions over time drop a tenth of their values wherever a network is in training mode, as one with an adapter
        # is. What is frozen has no dropout: a step would be drawn by chance that no seed of ours keys.
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return network

    def fingerprint(self, part: Part) -> str:
        """As of every checkpoint; of random values their shape, of which there is one."""
        return super().fingerprint(part) if self.part_source(part) else sha256_json(["random unet3d", part])[:12]

    def _load(self, part: Part) -> Any:
        return self._read(part, self._network) if part is Part.TRANSFORMER else super()._load(part)

    def _network(self, folder: Path, **_: bool) -> UNet3DConditionModel:
        shape = UNet3DConditionModel.load_config(folder, local_files_only=True)
        refuse_other_class(shape)
        if self.model.tuned:
            return load_videocrafter(Path(self.model.tuned), shape, FPS)
        network: UNet3DConditionModel = UNet3DConditionModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        return network

    def _embedded(self, source: str) -> Path:
        from cinelora.families.animatediff.embedded_unets import drawn_member
        from cinelora.families.unet3d.tiny_unet3d import UNET3D, write_tiny_unet3d  # which brings diffusers' pipelines

        return drawn_member(source, self.cache, [UNET3D, 1], lambda draft: write_tiny_unet3d(draft / "base"))

    def _is_tuned(self, part: Part) -> bool:
        return part is Part.VAE and super()._is_tuned(part)

    def _drawn(self, part: Part) -> Any:
        with torch.device(self.device):
            if part is Part.TRANSFORMER:
                return UNet3DConditionModel()
            if part is Part.TEXT_ENCODER:
                return CLIPTextModel(CLIPTextConfig(**WIDE_TEXT))
        return super()._drawn(part)
