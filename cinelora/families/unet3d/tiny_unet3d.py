"""A model on the UNet of clips with random weights, small enough for two cores.

Enters: a folder. Leaves: in it the model's parts, as stock diffusers reads ModelScope's. What it draws is noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel

from cinelora.families.animatediff.tiny_unets import GROUPS, VAE, WIDTH, text_encoder_of, tokenizer_of_characters
from cinelora.nn.epsilon import FIRST_BETA, LAST_BETA

BETAS = (FIRST_BETA, LAST_BETA)
UNET3D: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
    "norm_num_groups": GROUPS,
}


def write_tiny_unet3d(folder: Path, seed: int = 0) -> None:
    """Write the parts of the model into ``folder``; their weights are drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = UNet3DConditionModel(**UNET3D), AutoencoderKL(**VAE)
        # these begin as zeros, and frames would pass convolutions over time as they are
        for name, parameter in unet.named_parameters():
            if ".conv4." in name:
                torch.nn.init.normal_(parameter, std=0.1)
        tokenizer = tokenizer_of_characters(folder / "words")
        text_encoder = text_encoder_of(tokenizer)
    scheduler = DDIMScheduler(1000, *BETAS, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
