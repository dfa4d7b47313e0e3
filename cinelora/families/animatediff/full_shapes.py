"""The parts of Stable Diffusion 1.5 and of motion modules v3 at their full size with random values: for time and memory alone.

Enters: a part and a device. Leaves: a module, or what a fingerprint of it is. Values mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from cinelora.families.animatediff.tiny_unets import tokenizer_of_characters
from cinelora.families.family import Part
from cinelora.io.atomic import sha256_json

UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
MOTION: dict[str, Any] = {"use_motion_mid_block": False}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}


def drawn(part: Part, device: torch.device) -> Any:
    """A part of random values, drawn on the device."""
    if part is Part.TOKENIZER:
        with TemporaryDirectory() as folder:
            return tokenizer_of_characters(Path(folder) / "words")
    with device:
        match part:
            case Part.TRANSFORMER:
                return UNet2DConditionModel(**UNET)
            case Part.VAE:
                return AutoencoderKL(**VAE)
            case _:
                return CLIPTextModel(CLIPTextConfig(**TEXT))


def fingerprint(part: Part, kind: str) -> str:
    """12 hex digits of the shape of a part."""
    shapes = {Part.TRANSFORMER: [UNET, MOTION if kind == "motion" else {}], Part.VAE: [VAE], Part.TEXT_ENCODER: [TEXT]}
    return sha256_json(["random", part, shapes.get(part, [])])[:12]
