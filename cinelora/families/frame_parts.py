"""What models in Stable Diffusion's line have beside their network: a VAE of single frames, and CLIP's text with its padding.

Enters: a folder in diffusers' layout, pixels and prompts. Leaves: latents, embeddings, pixels. The networks, each family's own
class loads.

Shape suffixes: B batch, C channels, T frames, H and W height and width, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from cinelora.errors import ModelError, first_line
from cinelora.families.family import Family, Part
from cinelora.families.held_parts import HeldParts
from cinelora.families.noise_law import NoiseLaw, law_of

FRAMES_AT_ONCE = 8
"""Frames that pass the VAE together: it makes each by itself, so this bounds its memory and nothing else."""


class FrameParts(HeldParts):
    """The parts of a ``base`` in diffusers' layout, each loaded when it is used, and never trained."""

    base: Path
    dtype: torch.dtype
    kind: str
    """The network that is meant."""

    @property
    @abstractmethod
    def family(self) -> Family:
        """The facts of its family."""

    @property
    def noise_law(self) -> NoiseLaw:
        """That of its network: two of one family may have been taught by different ones."""
        return law_of(self.family.network(self.kind))

    # -- parts ---------------------------------------------------------------------------------------------------------

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
        try:
            return self._from_disk(folder, read)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{folder} of {self.base} does not load: {first_line(error)}") from error

    def _from_disk(self, folder: str, read: Callable[..., Any]) -> Any:
        """A part of the base; pickles beside it are not looked at."""
        only_tensors = {} if folder == "tokenizer" else {"use_safetensors": True}
        return read(self.base / folder, local_files_only=True, **only_tensors)

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
