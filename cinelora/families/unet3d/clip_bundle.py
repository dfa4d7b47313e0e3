"""A model on the UNet of clips: its parts loaded on demand and frozen, and how it is fed.

Enters: folders, pixels and prompts. Leaves: latents, embeddings, the network, pixels. It has the methods of
``wan.bundle.WanBundle`` that training and sampling use. It does not know about adapters, training or samplers.

Shape suffixes: B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from cinelora.errors import ModelError, first_line
from cinelora.families.family import Family, Part
from cinelora.families.frame_parts import decode_frames, encode_frames, padded_features
from cinelora.families.held_parts import HeldParts
from cinelora.families.noise_law import NoiseLaw, law_of
from cinelora.families.unet3d.clip_condition import ClipCondition
from cinelora.families.unet3d.recomputed_unet3d import RecomputedUNet3D
from cinelora.families.unet3d.videocrafter_file import load_videocrafter
from cinelora.families.unet3d_models import MODELSCOPE
from cinelora.io.hardware import default_device

FPS = 28
"""The frame rate that VideoCrafter2's authors ask for clips at."""


class ClipBundle(HeldParts):
    """One model over a ``base`` in diffusers' layout, such as ModelScope's, which says the network's shape.

    ``weights`` is VideoCrafter2 as its authors' file, whose network takes the place of the base's and is told ``fps`` for good;
    the VAE and the text encoder are the base's.
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

    @property
    def noise_law(self) -> NoiseLaw:
        """That of its network."""
        return law_of(self.family.network(self.kind))

    @staticmethod
    def taught_by(stage: str) -> str:
        """What of the one network a stage teaches: ``style`` what an image network has, ``motion`` what clips have besides."""
        return {"style": "image", "motion": "motion"}[stage]

    # -- parts ---------------------------------------------------------------------------------------------------------

    def load_transformer(self) -> RecomputedUNet3D:
        """A new frozen network in the bundle's dtype, in eval mode; the caller owns it. Raises ``ModelError``."""
        network: RecomputedUNet3D = self._settled(self._read("unet", self._network), self.dtype)
        # Its convolutions over time drop a tenth of their values wherever a network is in training mode, as one with an adapter
        # is. What is frozen has no dropout: a step would be drawn by chance that no seed of ours keys.
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return network

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

    def _load(self, part: Part) -> Any:
        match part:
            case Part.VAE:
                return self._settled(self._read("vae", AutoencoderKL.from_pretrained), torch.float32)
            case Part.TEXT_ENCODER:
                return self._settled(self._read("text_encoder", CLIPTextModel.from_pretrained), self.dtype)
            case _:
                return self._read("tokenizer", CLIPTokenizer.from_pretrained)

    def _settled(self, module: Any, dtype: torch.dtype) -> Any:
        """A part in its place, frozen; diffusers' own way there warns of modules that none of these has."""
        return nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)

    def _read(self, folder: str, read: Callable[..., Any]) -> Any:
        """A part of the base; pickles beside it are not looked at."""
        only_tensors = {} if folder == "tokenizer" else {"use_safetensors": True}
        try:
            return read(self.base / folder, local_files_only=True, **only_tensors)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{folder} of {self.base} does not load: {first_line(error)}") from error

    # -- pixels and text -----------------------------------------------------------------------------------------------

    def encode_video(self, video_BCTHW: Tensor, together: bool = False) -> Tensor:
        """Pixels in [-1, 1] to scaled latents, as ``encode_frames``."""
        return encode_frames(self._part(Part.VAE), video_BCTHW)

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Scaled latents to pixels in [0, 1], as ``decode_frames``."""
        return decode_frames(self._part(Part.VAE), latents_BCTHW)

    def encode_text(self, prompts: list[str]) -> list[Tensor]:
        """CLIP's features of each prompt, as ``padded_features``."""
        tokenizer, encoder = self._part(Part.TOKENIZER), self._part(Part.TEXT_ENCODER)
        return padded_features(tokenizer, encoder, prompts, self.family.text_tokens)
