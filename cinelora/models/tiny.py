"""The embedded model: a complete Wan2.1 pair (text-to-video, image-to-video), small enough for two cores.

Real diffusers and transformers classes at Wan's real token geometry (8x8x4 VAE, 36 input channels and 257 image tokens
for I2V, 512 text tokens), in diffusers layout, with weights drawn from a fixed seed: it trains and samples like the full
model, but nobody has taught it pictures, so what it draws is noise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import ByT5Tokenizer, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from cinelora.files import sha256_json

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 4,
}
IMAGE_TO_VIDEO: dict[str, Any] = {**TRANSFORMER, "in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 128}
VAE: dict[str, Any] = {
    "base_dim": 8,
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    # an untrained encoder answers with a spread of about 0.15, whatever it is shown; normalised latents then have about 1
    "latents_mean": [0.0] * 16,
    "latents_std": [0.15] * 16,
}
TEXT: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 14,
}
RECIPE = {"t2v": TRANSFORMER, "i2v": IMAGE_TO_VIDEO, "vae": VAE, "text": TEXT, "image": IMAGE, "seed": 0, "layout": 1}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_transformers() -> tuple[WanTransformer3DModel, WanTransformer3DModel]:
    """The pair; I2V is grown from T2V as Wan's was: shared blocks, new input channels at zero, new image projections."""
    with seeded(RECIPE["seed"]):  # type: ignore[arg-type]
        t2v = WanTransformer3DModel(**TRANSFORMER)
        i2v = WanTransformer3DModel(**IMAGE_TO_VIDEO)
    grown = t2v.state_dict()
    patches = i2v.patch_embedding.weight.detach().clone().zero_()
    patches[:, : TRANSFORMER["in_channels"]] = grown["patch_embedding.weight"]
    i2v.load_state_dict({**i2v.state_dict(), **grown, "patch_embedding.weight": patches})
    return t2v, i2v


def build_encoders() -> tuple[AutoencoderKLWan, UMT5EncoderModel, CLIPVisionModel]:
    """VAE, text encoder and image encoder, shared by the pair."""
    with seeded(RECIPE["seed"]):  # type: ignore[arg-type]
        return (
            AutoencoderKLWan(**VAE),
            UMT5EncoderModel(UMT5Config(**TEXT)),
            CLIPVisionModel(CLIPVisionConfig(**IMAGE)),
        )


def save_pair(folder: Path) -> None:
    """Write both pipelines below ``folder`` (``t2v/`` and ``i2v/``), readable by stock diffusers."""
    t2v, i2v = build_transformers()
    vae, text_encoder, image_encoder = build_encoders()
    shared = {
        "tokenizer": ByT5Tokenizer(),
        "text_encoder": text_encoder,
        "vae": vae,
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }
    WanPipeline(transformer=t2v, **shared).save_pretrained(folder / "t2v", safe_serialization=True)
    WanImageToVideoPipeline(
        transformer=i2v, image_encoder=image_encoder, image_processor=squashing_processor(), **shared
    ).save_pretrained(folder / "i2v", safe_serialization=True)


def squashing_processor() -> Any:
    """CLIP preprocessing in PIL that squashes to 224x224 without a crop, nearest to what Wan's own code does."""
    try:
        from transformers import CLIPImageProcessorPil as Processor  # transformers >= 5 names the backends apart
    except ImportError:
        from transformers import CLIPImageProcessor as Processor
    return Processor(size={"height": 224, "width": 224}, do_center_crop=False)


def materialise(cache: Path) -> Path:
    """The folder below ``cache`` that holds the embedded pair; built on first use, whole or not at all."""
    folder = cache / "models" / f"tiny-{sha256_json(RECIPE)[:12]}"
    if not (folder / "recipe.json").exists():
        logging.getLogger(__name__).info("building the embedded model in %s", folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".building-") as building:
            draft = Path(building) / "pair"
            save_pair(draft)
            (draft / "recipe.json").write_text(json.dumps(RECIPE, indent=1))
            try:
                draft.rename(folder)
            except OSError:  # another run finished the same folder first
                if not (folder / "recipe.json").exists():
                    raise
    return folder
