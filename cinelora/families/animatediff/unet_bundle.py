"""A base of Stable Diffusion 1.5 with motion modules: its parts loaded on demand and frozen, and how its VAE and text are fed.

Enters: folders, pixels and prompts. Leaves: latents, embeddings, networks, pixels. It has the methods of ``wan.bundle.WanBundle``
that training and sampling use. It does not know about adapters, training or samplers.

Shape suffixes: B batch, C channels, T frames, H and W height and width, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from cinelora.errors import ModelError, first_line
from cinelora.families.animatediff.long_clips import attend_in_windows
from cinelora.families.animatediff.motion_modules import load_motion, refuse_other_base
from cinelora.families.animatediff.single_file import load_from_file
from cinelora.families.animatediff.unet_conditions import FrameCondition, UNet
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Family, Part
from cinelora.families.held_parts import HeldParts
from cinelora.families.noise_law import NoiseLaw, law_of
from cinelora.io.hardware import default_device

FRAMES_AT_ONCE = 8
"""Frames that pass the VAE together: it makes each by itself, so this bounds its memory and nothing else."""


class AnimateDiffBundle(HeldParts):
    """One of the two networks over a ``base`` in diffusers' layout; ``motion`` is a folder or file of motion modules.

    ``network`` is ``image`` or ``motion``, which needs motion modules. ``tuned`` is a fine-tune of the base as one file, whose
    weights take the place of the base's.
    """

    condition: type[FrameCondition] = FrameCondition
    """What a network is shown beside the noisy latents."""

    def __init__(
        self,
        base: Path,
        motion: Path | None = None,
        network: str = "image",
        *,
        tuned: Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.base, self.motion, self.kind, self.tuned = base, motion, network, tuned
        self.dtype, self.device = dtype, device or default_device()
        self._loaded: dict[Part, Any] = {}

    @property
    def family(self) -> Family:
        """The facts of its family."""
        return ANIMATEDIFF

    @property
    def noise_law(self) -> NoiseLaw:
        """That of its network: motion modules were taught another schedule than the image network."""
        return law_of(self.family.network(self.kind))

    # -- parts ---------------------------------------------------------------------------------------------------------

    def load_transformer(self, window: int | None = None) -> UNet:
        """A new frozen network in the bundle's dtype, in eval mode; the caller owns it. Raises ``ModelError``.

        With a ``window``, a motion network attends in windows of so many frames, and takes clips of any length.
        """
        unet: UNet2DConditionModel = self._read("unet", UNet2DConditionModel.from_pretrained)
        adapter = None
        if self.kind == "motion":
            if self.motion is None:
                raise ModelError("the motion network needs motion modules, and none are named")
            adapter = load_motion(self.motion)
        refuse_other_base(unet, adapter)
        network: UNet = unet if adapter is None else UNetMotionModel.from_unet2d(unet, adapter)
        network = self._settled(network, self.dtype)
        if window and isinstance(network, UNetMotionModel):
            attend_in_windows(network, window)
        return network

    def _load(self, part: Part) -> Any:
        match part:
            case Part.VAE:
                return self._frozen("vae", AutoencoderKL.from_pretrained, torch.float32)
            case Part.TEXT_ENCODER:
                return self._frozen("text_encoder", CLIPTextModel.from_pretrained, self.dtype)
            case _:
                return self._read("tokenizer", CLIPTokenizer.from_pretrained)

    def _frozen(self, folder: str, read: Callable[..., Any], dtype: torch.dtype) -> Any:
        return self._settled(self._read(folder, read), dtype)

    def _settled(self, module: Any, dtype: torch.dtype) -> Any:
        """A part in its place, frozen; diffusers' own way there warns of modules that none of these has."""
        return nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)

    def _read(self, folder: str, read: Callable[..., Any]) -> Any:
        """A part of the base, or of its fine-tune; pickles beside it are not looked at."""
        only_tensors = {} if folder == "tokenizer" else {"use_safetensors": True}
        try:
            if self.tuned and folder != "tokenizer":
                return load_from_file(self.tuned, folder, self.base)
            return read(self.base / folder, local_files_only=True, **only_tensors)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{folder} of {self.base} does not load: {first_line(error)}") from error

    # -- pixels and text -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(self, video_BCTHW: Tensor, together: bool = False) -> Tensor:
        """Pixels in [-1, 1] to scaled latents (B, 4, T, H, W), float32: of each frame the posterior's mean, never a sample."""
        vae: AutoencoderKL = self._part(Part.VAE)
        frames = video_BCTHW.to(self.device, torch.float32).transpose(1, 2).flatten(0, 1)
        means = [vae.encode(some).latent_dist.mode() for some in torch.split(frames, FRAMES_AT_ONCE)]
        return _as_clips(torch.cat(means) * vae.config.scaling_factor, len(video_BCTHW))

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Scaled latents to pixels (B, 3, T, H, W) in [0, 1], float32."""
        vae: AutoencoderKL = self._part(Part.VAE)
        frames = latents_BCTHW.to(self.device, torch.float32).transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
        pixels = torch.cat([vae.decode(some, return_dict=False)[0] for some in torch.split(frames, FRAMES_AT_ONCE)])
        return _as_clips(((pixels + 1) / 2).clamp(0, 1), len(latents_BCTHW))

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> list[Tensor]:
        """CLIP's features (77, D) of each prompt, of its padding too: the networks were taught with it."""
        tokenizer, encoder = self._part(Part.TOKENIZER), self._part(Part.TEXT_ENCODER)
        length = {"padding": "max_length", "max_length": self.family.text_tokens, "truncation": True}
        tokens = tokenizer(prompts, return_tensors="pt", **length)
        return list(encoder(tokens.input_ids.to(self.device)).last_hidden_state)


def _as_clips(frames: Tensor, clips: int) -> Tensor:
    """Frames (B T, C, H, W), clip after clip, as (B, C, T, H, W)."""
    return frames.view(clips, -1, *frames.shape[1:]).transpose(1, 2).contiguous()
