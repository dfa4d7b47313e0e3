"""A miniature Wan with every part, and writers of each layout that users have it in.

The names of Wan's own code are made here by hand, the other way round from the converters that read them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ByT5Tokenizer, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from cinelora.families.family import Part

SHAPE: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 2,
    "ffn_dim": 64,
    "text_dim": 32,
    "freq_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
}
EXPERT_OF_IMAGE: dict[str, Any] = {"in_channels": 36}
"""An expert of Wan2.2 I2V: as many channels as Wan2.1's image-to-video, and no image tokens."""
FIVE: dict[str, Any] = {"in_channels": 48, "out_channels": 48}
IMAGE: dict[str, Any] = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 128}
TEXT: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
RESIDUAL: dict[str, Any] = {
    **{"base_dim": 8, "decoder_base_dim": 12, "z_dim": 48, "is_residual": True, "patch_size": 2},
    **{"in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16},
    **{"latents_mean": [0.01 * i for i in range(48)], "latents_std": [1 + 0.01 * i for i in range(48)]},
}
"""Wan2.2's VAE of 48 channels, 16x16x4, with a twentieth of its width."""
Names = dict[str, Tensor]


@dataclass(frozen=True)
class Miniature:
    """The parts of one checkpoint, in memory."""

    kind: str
    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text: UMT5EncoderModel
    image: CLIPVisionModel

    def module(self, part: Part) -> nn.Module:
        parts = {Part.TRANSFORMER: self.transformer, Part.VAE: self.vae, Part.TEXT_ENCODER: self.text}
        return parts.get(part, self.image)


def miniature(kind: str, **changes: Any) -> Miniature:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {**SHAPE, **(IMAGE if kind == "i2v" else {}), **changes}
        parts = (
            WanTransformer3DModel(**shape),
            AutoencoderKLWan(base_dim=8),
            UMT5EncoderModel(UMT5Config(**TEXT)),
            CLIPVisionModel(CLIPVisionConfig(**CLIP)),
        )
        for part in parts:
            for parameter in part.parameters():  # norms and biases too: a mix-up must show
                parameter.data.normal_(std=0.2)
        return Miniature(kind, *(part.eval().requires_grad_(False) for part in parts))


def residual_vae() -> AutoencoderKLWan:
    """Wan2.2's VAE in miniature: torch's own beginning, whose pixels are neither flat nor out of range."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKLWan(**RESIDUAL).eval().requires_grad_(False)


# -- names of Wan's own code -------------------------------------------------------------------------------------------


def replaced(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        name = re.sub(old, new, name)
    return name


def wan_transformer(state: Names) -> Names:
    table = {
        r"^condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
        r"^condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
        r"^condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
        r"^condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
        r"^condition_embedder\.time_proj": "time_projection.1",
        r"^condition_embedder\.image_embedder\.norm1": "img_emb.proj.0",
        r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj": "img_emb.proj.1",
        r"^condition_embedder\.image_embedder\.ff\.net\.2": "img_emb.proj.3",
        r"^condition_embedder\.image_embedder\.norm2": "img_emb.proj.4",
        r"^scale_shift_table": "head.modulation",
        r"^proj_out": "head.head",
        r"\.scale_shift_table": ".modulation",
        r"\.attn1\.": ".self_attn.",
        r"\.attn2\.": ".cross_attn.",
        r"\.to_([qkv])\.": r".\1.",
        r"\.to_out\.0\.": ".o.",
        r"\.add_([kv])_proj\.": r".\1_img.",
        r"\.norm_added_k\.": ".norm_k_img.",
        r"^(blocks\.\d+)\.norm2\.": r"\1.norm3.",
        r"\.ffn\.net\.0\.proj\.": ".ffn.0.",
        r"\.ffn\.net\.2\.": ".ffn.2.",
    }
    return {replaced(name, table): tensor for name, tensor in state.items()}


def wan_vae(state: Names) -> Names:
    table = {
        r"^quant_conv": "conv1",
        r"^post_quant_conv": "conv2",
        r"coder\.conv_in": "coder.conv1",
        r"coder\.norm_out": "coder.head.0",
        r"coder\.conv_out": "coder.head.2",
        r"\.mid_block\.resnets\.0": ".middle.0",
        r"\.mid_block\.attentions\.0": ".middle.1",
        r"\.mid_block\.resnets\.1": ".middle.2",
        r"\.down_blocks\.": ".downsamples.",
        r"(\.(?:middle|downsamples|resnets)\.\d+)\.norm1": r"\1.residual.0",
        r"(\.(?:middle|downsamples|resnets)\.\d+)\.conv1": r"\1.residual.2",
        r"(\.(?:middle|downsamples|resnets)\.\d+)\.norm2": r"\1.residual.3",
        r"(\.(?:middle|downsamples|resnets)\.\d+)\.conv2": r"\1.residual.6",
        r"\.conv_shortcut": ".shortcut",
    }

    def theirs(name: str) -> str:
        name = replaced(name, table)
        if form := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)", name):
            place = 4 * int(form[1]) + (int(form[3]) if form[3] else 3)
            return f"decoder.upsamples.{place}{name[form.end() :]}"
        return name

    return {theirs(name): tensor for name, tensor in state.items()}


def wan22_vae(state: Names) -> Names:
    """Names of the VAE of 48 channels: those of Wan2.1's but in its blocks, whose layers are numbered in one row."""
    layer = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    layer |= {"conv_shortcut": "shortcut"}
    found = {}
    for name, tensor in state.items():
        form = re.match(r"(?:en|de)coder\.(down|up)_blocks\.(\d+)\.(resnets\.(\d+)|(?:down|up)sampler)\.(.+)\.", name)
        if form is None:
            found |= wan_vae({name: tensor})
            continue
        way, block, _, resnet, module = form.groups()
        last = 2 if way == "down" else 3  # the layer after so many residual ones
        theirs = f"{way}samples.{block}.{way}samples.{resnet or last}.{layer.get(module, module)}"
        found[f"{name.split('.')[0]}.{theirs}.{name.rpartition('.')[2]}"] = tensor
    return found


def wan_text(state: Names) -> Names:
    table = {
        r"^shared\.weight": "token_embedding.weight",
        r"^encoder\.final_layer_norm": "norm",
        r"^encoder\.block\.": "blocks.",
        r"layer\.0\.SelfAttention\.relative_attention_bias": "pos_embedding.embedding",
        r"layer\.0\.SelfAttention": "attn",
        r"layer\.0\.layer_norm": "norm1",
        r"layer\.1\.layer_norm": "norm2",
        r"layer\.1\.DenseReluDense\.wi_0": "ffn.gate.0",
        r"layer\.1\.DenseReluDense\.wi_1": "ffn.fc1",
        r"layer\.1\.DenseReluDense\.wo": "ffn.fc2",
    }
    return {replaced(name, table): t for name, t in state.items() if name != "encoder.embed_tokens.weight"}


def wan_image(state: Names) -> Names:
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    table = {
        r"^encoder\.layers\.": "visual.transformer.",
        r"\.self_attn\.out_proj": ".attn.proj",
        r"\.layer_norm": ".norm",
        r"\.mlp\.fc1": ".mlp.0",
        r"\.mlp\.fc2": ".mlp.2",
        r"^pre_layrnorm": "visual.pre_norm",
        r"^post_layernorm": "visual.post_norm",
        r"^embeddings\.patch_embedding": "visual.patch_embedding",
    }
    found: Names = {
        "visual.cls_embedding": state.pop("embeddings.class_embedding").view(1, 1, -1),
        "visual.pos_embedding": state.pop("embeddings.position_embedding.weight")[None],
        "visual.head": torch.zeros(4, 4),
        "textual.token_embedding.weight": torch.zeros(4, 4),
        "log_scale": torch.zeros([]),
    }
    for name, tensor in state.items():
        if ".self_attn.q_proj." in name:
            three = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            found[replaced(name, {**table, r"\.self_attn\.q_proj": ".attn.to_qkv"})] = torch.cat(three)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            found[replaced(name, table)] = tensor
    return found


# -- layouts -----------------------------------------------------------------------------------------------------------


def save(path: Path, tensors: Names) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def save_diffusers(folder: Path, mini: Miniature, **options: Any) -> Path:
    mini.transformer.save_pretrained(folder / "transformer", **options)
    mini.vae.save_pretrained(folder / "vae", **options)
    mini.text.save_pretrained(folder / "text_encoder", **options)
    mini.image.save_pretrained(folder / "image_encoder", **options)
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def save_shards(folder: Path, tensors: Names, shards: int) -> None:
    """Shards and their index, under the names that Wan's repositories have."""
    names = sorted(tensors)
    file = "diffusion_pytorch_model-{:05d}-of-{:05d}.safetensors"
    weight_map = {name: file.format(i % shards + 1, shards) for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save(folder / shard, {name: tensors[name] for name in names if weight_map[name] == shard})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def save_wan(folder: Path, mini: Miniature) -> Path:
    """A directory as Wan's authors publish it."""
    shape = mini.transformer.config
    save_shards(folder, wan_transformer(mini.transformer.state_dict()), 3)
    config = {"_class_name": "WanModel", "dim": 128, "num_heads": shape.num_attention_heads, "model_type": mini.kind}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(wan_vae(mini.vae.state_dict()), folder / "Wan2.1_VAE.pth")
    torch.save(wan_text(mini.text.state_dict()), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save(wan_image(mini.image.state_dict()), clip)
    ByT5Tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    return folder


def save_files(folder: Path, mini: Miniature, prefix: str = "") -> dict[str, str]:
    """One file a part, as ComfyUI users have them; returns the settings that name them."""
    transformer = {prefix + name: t for name, t in wan_transformer(mini.transformer.state_dict()).items()}
    text = {name: tensor for name, tensor in mini.text.state_dict().items() if not name.startswith("encoder.embed")}
    image = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in mini.image.state_dict().items()}
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    files = {
        mini.kind: save(folder / f"wan2.1_{mini.kind}_480p_14B_bf16.safetensors", transformer),
        "vae": save(folder / "wan_2.1_vae.safetensors", wan_vae(mini.vae.state_dict())),
        "text_encoder": save(
            folder / "umt5_xxl_fp16.safetensors", {**text, "spiece_model": torch.zeros(9, dtype=torch.uint8)}
        ),
        "image_encoder": save(
            folder / "clip_vision_h.safetensors", {**image, "visual_projection.weight": torch.zeros(4, 4)}
        ),
        "tokenizer": folder / "tokenizer",
    }
    return {key: str(path) for key, path in files.items()}


def to_fp8(tensors: Names, *, scaled: bool, prefix: str = "") -> tuple[Names, Names]:
    """Matrices of blocks as ComfyUI writes them in fp8, and what they are worth."""
    stored: Names = {f"{prefix}scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)} if scaled else {}
    worth: Names = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not name.startswith("blocks."):
            stored[prefix + name] = worth[name] = tensor
            continue
        scale = tensor.abs().max() / 448 if scaled else torch.tensor(1.0)
        narrow = (tensor / scale).to(torch.float8_e4m3fn)
        stored[prefix + name], worth[name] = narrow, narrow.float() * scale
        if scaled:
            stored[f"{prefix}{name.removesuffix('.weight')}.scale_weight"] = scale
    return stored, worth
