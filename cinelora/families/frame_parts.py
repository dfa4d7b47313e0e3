"""What models in Stable Diffusion's line have beside their network: a VAE of single frames, and CLIP's text with its padding.

Enters: pixels and prompts, and the part that reads them. Leaves: latents, embeddings, pixels.

Shape suffixes: B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

FRAMES_AT_ONCE = 8
"""Frames that pass the VAE together: it makes each by itself, so this bounds its memory and nothing else."""


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, video_BCTHW: Tensor) -> Tensor:
    """Pixels in [-1, 1] to scaled latents (B, 4, T, H, W), float32: of each frame the posterior's mean, never a sample."""
    frames = video_BCTHW.to(vae.device, torch.float32).transpose(1, 2).flatten(0, 1)
    means = [vae.encode(some).latent_dist.mode() for some in torch.split(frames, FRAMES_AT_ONCE)]
    return _as_clips(torch.cat(means) * vae.config.scaling_factor, len(video_BCTHW))


@torch.no_grad()
def decode_frames(vae: AutoencoderKL, latents_BCTHW: Tensor) -> Tensor:
    """Scaled latents to pixels (B, 3, T, H, W) in [0, 1], float32."""
    frames = latents_BCTHW.to(vae.device, torch.float32).transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    pixels = torch.cat([vae.decode(some, return_dict=False)[0] for some in torch.split(frames, FRAMES_AT_ONCE)])
    return _as_clips(((pixels + 1) / 2).clamp(0, 1), len(latents_BCTHW))


@torch.no_grad()
def padded_features(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: list[str], tokens: int) -> list[Tensor]:
    """CLIP's features (tokens, D) of each prompt, of its padding too: the networks were taught with it."""
    numbers = tokenizer(prompts, return_tensors="pt", padding="max_length", max_length=tokens, truncation=True)
    return list(encoder(numbers.input_ids.to(encoder.device)).last_hidden_state)


def _as_clips(frames: Tensor, clips: int) -> Tensor:
    """Frames (B T, C, H, W), clip after clip, as (B, C, T, H, W)."""
    return frames.view(clips, -1, *frames.shape[1:]).transpose(1, 2).contiguous()
