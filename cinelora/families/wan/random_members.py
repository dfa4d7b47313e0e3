"""Members of Wan2.2's families with random weights, small enough for two cores: for trying commands in seconds.

Enters: a name and a folder. Leaves: a folder in diffusers' layout, which stock diffusers reads. Weights are drawn from a fixed
seed, so that every machine has the same; what they draw is noise.
"""

from __future__ import annotations

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
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from cinelora.errors import ModelError
from cinelora.families.wan22 import WAN22_A14B
from cinelora.io.atomic import sha256_json
from cinelora.io.own_folders import CACHE, refuse_occupied, tag_cache

TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 192,
    "num_layers": 2,
}
TEXT = {"vocab_size": 384, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
VAE: dict[str, Any] = {
    "base_dim": 8,
    "dim_mult": [1, 2, 3, 3],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 16,
    "latents_std": [0.2] * 16,
}
VAE_OF_48: dict[str, Any] = VAE | {
    "decoder_base_dim": 8,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [0.2] * 48,
}
I2V = {**TRANSFORMER, "in_channels": 36}
TI2V = {**TRANSFORMER, "in_channels": 48, "out_channels": 48}
_SPREAD = 0.02
"""Of the factors of layers that are 0 when they are new, so that a network does not answer the same to everything."""


def random_member(name: str, folder: Path) -> Path:
    """The folder of the pipeline ``name`` (``wan22-5b``, ``wan22-t2v-a14b``, ``wan22-i2v-a14b``), drawn below ``folder`` once.

    Raises ``ConfigError`` where ``folder`` is somebody else's.
    """
    recipe = sha256_json([TRANSFORMER, TEXT, VAE, VAE_OF_48, 1])[:12]
    made = folder / "models" / f"tiny-{name}-{recipe}"
    if (made / "model_index.json").is_file():
        return made
    refuse_occupied("cache", folder, CACHE)
    tag_cache(folder)
    made.parent.mkdir(parents=True, exist_ok=True)
    # drawn beside its place and renamed in one step: nobody ever finds half a model
    with TemporaryDirectory(dir=made.parent, prefix=".building-") as building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draft = Path(building) / "model"
        _pipeline(name).save_pretrained(draft)
        try:
            draft.rename(made)
        except OSError:
            if not (made / "model_index.json").is_file():  # unless another run was faster
                raise
    return made


def _pipeline(name: str) -> Any:
    shared = {"tokenizer": ByT5Tokenizer(), "text_encoder": _text_encoder(), "scheduler": _scheduler()}
    match name:
        case "wan22-5b":
            network = {"transformer": _transformer(TI2V), "vae": AutoencoderKLWan(**VAE_OF_48)}
            return WanPipeline(**shared, **network, expand_timesteps=True)
        case "wan22-t2v-a14b":
            experts = {"transformer": _transformer(TRANSFORMER), "transformer_2": _transformer(TRANSFORMER)}
            boundary = WAN22_A14B.network("t2v").boundary
            return WanPipeline(**shared, **experts, vae=AutoencoderKLWan(**VAE), boundary_ratio=boundary)
        case "wan22-i2v-a14b":
            experts = {"transformer": _transformer(I2V), "transformer_2": _transformer(I2V)}
            boundary = WAN22_A14B.network("i2v").boundary
            return WanImageToVideoPipeline(**shared, **experts, vae=AutoencoderKLWan(**VAE), boundary_ratio=boundary)
    raise ModelError(f"there is no embedded model {name}")


def _transformer(settings: dict[str, Any]) -> WanTransformer3DModel:
    transformer = WanTransformer3DModel(**settings)
    torch.nn.init.normal_(transformer.proj_out.weight, std=_SPREAD)
    return transformer


def _text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**TEXT, feed_forward_proj="gated-gelu", dropout_rate=0.0))


def _scheduler() -> UniPCMultistepScheduler:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
    return UniPCMultistepScheduler(num_train_timesteps=1000, **flow)
