"""A model on the UNet of clips: its parts loaded on demand and frozen, and how it is fed.

Enters: folders, pixels and prompts. Leaves: latents, embeddings, the network, pixels. It has the methods of
``wan.bundle.WanBundle`` that training and sampling use. It does not know about adapters, training or samplers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cinelora.errors import ModelError
from cinelora.families.family import Family, Part
from cinelora.families.frame_parts import FrameParts
from cinelora.families.unet3d.clip_condition import ClipCondition
from cinelora.families.unet3d.recomputed_unet3d import RecomputedUNet3D
from cinelora.families.unet3d.videocrafter_file import load_videocrafter
from cinelora.families.unet3d_models import MODELSCOPE
from cinelora.io.hardware import default_device

FPS = 28
"""The frame rate that VideoCrafter2's authors ask for clips at."""


class ClipBundle(FrameParts):
    """One model over a ``base`` in diffusers' layout, such as ModelScope's, which says the network's shape.

    ``weights`` is VideoCrafter2 as its authors' file, whose network takes the base's place and is told ``fps`` for good. Its VAE
    and text encoder are those that ModelScope has, too.
    """

    condition: type[ClipCondition] = ClipCondition
    """What the network is shown beside the noisy latents."""

    def __init__(
        self,
        base: Path,
        family: Family = MODELSCOPE,
        *,
        weights: Path | None = None,
        fps: float = FPS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.base, self._family, self.kind, self.weights, self.fps = base, family, "t2v", weights, fps
        self.dtype, self.device = dtype, device or default_device()
        self._loaded: dict[Part, Any] = {}

    @property
    def family(self) -> Family:
        """The facts of its family."""
        return self._family

    def load_transformer(self) -> RecomputedUNet3D:
        """A new frozen network in the bundle's dtype, in eval mode; the caller owns it. Raises ``ModelError``."""
        network: RecomputedUNet3D = self._settled(self._read("unet", self._network), self.dtype)
        # Its convolutions over time drop a tenth of their values wherever a network is in training mode, as one with an adapter
        # is. What is frozen has no dropout: a step would be drawn by chance that no seed of ours keys.
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return network

    @staticmethod
    def taught_by(stage: str) -> str:
        """What of the one network a stage teaches: ``style`` what an image network has, ``motion`` what comes to it for clips."""
        return {"style": "image", "motion": "motion"}[stage]

    def _network(self, folder: Path, **options: bool) -> RecomputedUNet3D:
        shape = RecomputedUNet3D.load_config(folder, local_files_only=True)
        if (what := shape["_class_name"]) not in ("UNet3DConditionModel", RecomputedUNet3D.__name__):
            raise ModelError(
                f"unet of {self.base} is a {what}, and no network of clips: take ModelScope's, or one like it"
            )
        if self.weights is not None:
            return load_videocrafter(self.weights, shape, self.fps)
        network: RecomputedUNet3D = RecomputedUNet3D.from_pretrained(folder, **options)
        return network
