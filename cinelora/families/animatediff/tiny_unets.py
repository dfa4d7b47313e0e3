"""A member of AnimateDiff's family with random weights, small enough for two cores.

Enters: a folder. Leaves: in it ``base``, as stock diffusers reads Stable Diffusion, and ``motion``, as it reads motion modules.
Weights are drawn from a fixed seed; what they draw is noise.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.io.atomic import write_text

WIDTH, HEADS, GROUPS, FRAMES = 64, 4, 8, 16
"""Features of a text token, heads, groups of a normalisation, and frames that the motion modules take."""
CHANNELS = (32, 64)
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": CHANNELS,
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": HEADS,
    "norm_num_groups": GROUPS,
}
MOTION: dict[str, Any] = {
    "block_out_channels": CHANNELS,
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": HEADS,
    "motion_norm_num_groups": GROUPS,
    "motion_max_seq_length": FRAMES,
    "use_motion_mid_block": False,
}
VAE: dict[str, Any] = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": ANIMATEDIFF.geometry.channels,
    "norm_num_groups": GROUPS,
    "scaling_factor": 0.18215,
}
_CHARACTERS = string.ascii_lowercase + string.digits + ".,:;-'!?"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def write_tiny(folder: Path) -> None:
    """Write ``base`` and ``motion`` into ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, motion, vae = UNet2DConditionModel(**UNET), MotionAdapter(**MOTION), AutoencoderKL(**VAE)
        tokenizer = tokenizer_of_characters(folder / "words")
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder_of(tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder / "base")
    motion.save_pretrained(folder / "motion")


def tokenizer_of_characters(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer of single characters, which needs no merges."""
    words = [*_CHARACTERS, *(f"{character}</w>" for character in _CHARACTERS), *_SPECIAL]
    folder.mkdir(parents=True)
    write_text(folder / "vocab.json", json.dumps({word: number for number, word in enumerate(words)}))
    write_text(folder / "merges.txt", "#version: 0.2\n")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(
        folder, local_files_only=True, model_max_length=ANIMATEDIFF.text_tokens
    )
    return tokenizer


def text_encoder_of(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text encoder with random weights."""
    numbers = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=ANIMATEDIFF.text_tokens, **shape, **numbers)
    )
