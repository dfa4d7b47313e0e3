"""A new embedded AnimateDiff: its shape, how one begins, and how it is written, so that stock diffusers reads it.

Enters: a seed, or trained parts. Leaves: a folder with ``base`` (Stable Diffusion's layout) and ``motion`` (motion modules) in
half precision, as ``cinelora.families.animatediff.unet_bundle`` reads them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cinelora.errors import ModelError
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.nn.epsilon import FIRST_BETA, LAST_BETA
from tools.scale_model.build_pair import seeded, write_hashes
from tools.scale_model.rebuilding import begin_simply
from tools.scale_model.word_tokenizer import word_tokenizer

SHAPES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("unet_shapes.yaml").read_text(encoding="utf-8")
)
"""The arguments of the ``vae``, the ``text`` encoder, the ``unet`` and the ``motion`` modules."""
LIMIT = 3_000_000
"""Bytes that the whole model may have on disk."""
NETWORKS: dict[str, tuple[Any, str, Path]] = {
    "image": (UNet2DConditionModel, "unet", Path("base", "unet")),
    "motion": (MotionAdapter, "motion", Path("motion")),
}
"""Of each network the class that its trained weights are written as, the name of its shape, and its place in the folder."""


@dataclass(frozen=True)
class UnetParts:
    """All that has weights, and the tokenizer."""

    vae: AutoencoderKL
    text: CLIPTextModel
    unet: UNet2DConditionModel
    motion: MotionAdapter
    tokenizer: CLIPTokenizer

    def modules(self) -> dict[str, nn.Module]:
        """The parts with weights, by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def new_parts(seed: int) -> UnetParts:
    """An untrained model. Its motion modules begin silent, so that a clip begins as frames by themselves."""
    tokenizer = word_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with seeded(seed):
        vae, unet = AutoencoderKL(**SHAPES["vae"]), UNet2DConditionModel(**SHAPES["unet"])
        text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **SHAPES["text"], **ends))
        motion = MotionAdapter(**SHAPES["motion"])
        begin_simply(vae, ResnetBlock2D)
    for name, parameter in motion.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(parameter)
    return UnetParts(vae, text, unet, motion, tokenizer)


def load_parts(folder: Path) -> UnetParts:
    """The parts of a model in ``folder``, in float32."""
    base = folder / "base"
    return UnetParts(
        AutoencoderKL.from_pretrained(base / "vae", local_files_only=True, use_safetensors=True).float(),
        CLIPTextModel.from_pretrained(base / "text_encoder", local_files_only=True, use_safetensors=True).float(),
        UNet2DConditionModel.from_pretrained(base / "unet", local_files_only=True, use_safetensors=True).float(),
        MotionAdapter.from_pretrained(folder / "motion", local_files_only=True, use_safetensors=True).float(),
        CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True),
    )


def save_parts(folder: Path, parts: UnetParts) -> None:
    """Write all parts below ``folder``, in float16, with the hashes of their weights; they stay as they are."""
    halved = {name: _half(module) for name, module in parts.modules().items()}
    betas = {"beta_start": FIRST_BETA, "beta_end": LAST_BETA, "beta_schedule": ANIMATEDIFF.network("image").betas}
    StableDiffusionPipeline(
        vae=halved["vae"],
        text_encoder=halved["text"],
        tokenizer=parts.tokenizer,
        unet=halved["unet"],
        scheduler=DDIMScheduler(**betas, steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")
    halved["motion"].save_pretrained(folder / "motion")
    write_hashes(folder)


def _half(module: Any) -> Any:
    """A copy in float16, whose eleven bits hold these weights better than bfloat16's eight."""
    copy = type(module)(module.config) if isinstance(module, CLIPTextModel) else type(module).from_config(module.config)
    copy.load_state_dict(module.state_dict())
    return copy.half()


def refuse_other_shape(kind: str, state: Mapping[str, Tensor]) -> None:
    """Raise ``ModelError`` where the weights of a network are not of this model's shape, in which they would be written."""
    cls, shape, _ = NETWORKS[kind]
    with torch.device("meta"):
        own = {name: value.shape for name, value in cls(**SHAPES[shape]).named_parameters()}
    if {name: value.shape for name, value in state.items()} != own:
        raise ModelError(
            "stage=pretrain trains the embedded AnimateDiff alone, and this is another: take model.base=<folder>/base and "
            "model.motion_adapter=<folder>/motion of a folder that python -m tools.scale_model animatediff made"
        )


def save_network(folder: Path, kind: str, state: dict[str, Tensor]) -> None:
    """Write the trained ``state`` of the ``image`` network, or of the ``motion`` network's modules, in diffusers' layout.

    Raises ``ModelError`` as ``refuse_other_shape``.
    """
    refuse_other_shape(kind, state)
    cls, shape, _ = NETWORKS[kind]
    network = cls(**SHAPES[shape])
    # positions are sines, which the modules compute by themselves
    network.load_state_dict(state, strict=False)
    network.half().save_pretrained(folder)


def adopt_network(folder: Path, trained: Path, kind: str) -> None:
    """Put a trained network into its place in the model of ``folder``."""
    shutil.copytree(trained, folder / NETWORKS[kind][2], dirs_exist_ok=True)
    write_hashes(folder)


def bytes_of(folder: Path) -> int:
    """What lies below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
