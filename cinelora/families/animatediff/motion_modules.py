"""Motion modules from disk: AnimateDiff's v1, v2 and v3, as diffusers keeps them or as their authors published them.

Enters: a folder or a file. Leaves: a ``MotionAdapter``. The authors' files are pickles, of which tensors alone are read (ADR 10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from torch import Tensor, nn

from cinelora.errors import ModelError
from cinelora.families.animatediff.unet_parts import other_base, refuse_other_unet
from cinelora.families.unet_layers import diffusers_name, part_of_authors
from cinelora.io.tensor_files import load_tensors
from cinelora.io.tensor_pickles import load_pickled

HEADS, GROUPS = 8, 32
"""Attention heads and normalisation groups of every published motion module; shapes alone do not say them."""


def load_motion(source: Path, heads: int = HEADS, groups: int = GROUPS) -> MotionAdapter:
    """The motion modules in diffusers' folder, or in one file of the authors' (``.ckpt``, ``.safetensors``).

    Raises ``ModelError`` where it holds something else, or lacks a tensor.
    """
    if source.is_dir():
        found: MotionAdapter = MotionAdapter.from_pretrained(source, local_files_only=True, use_safetensors=True)
        return found
    held = load_tensors(source)[0] if source.suffix == ".safetensors" else load_pickled(source)
    return _of_authors(held, source.name, heads, groups)


def _of_authors(held: Mapping[str, Tensor], name: str, heads: int, groups: int) -> MotionAdapter:
    state = {diffusers_name(key): tensor for key, tensor in held.items() if "motion_modules." in key}
    if not state:
        raise ModelError(f"{name} holds no motion modules: is it a motion adapter of AnimateDiff?")
    lengths = {tensor.shape[1] for key, tensor in state.items() if key.endswith("pos_encoder.pe")}
    if len(lengths) != 1:
        raise ModelError(f"{name} does not say how many frames its motion modules take: it has no pos_encoder.pe")
    adapter = MotionAdapter(
        **_shape(state),
        motion_num_attention_heads=heads,
        motion_norm_num_groups=groups,
        motion_max_seq_length=lengths.pop(),
        use_motion_mid_block=any(key.startswith("mid_block.") for key in state),
    )
    # positions are sines, which the modules compute by themselves
    learnt = {key: tensor for key, tensor in state.items() if not key.endswith("pos_encoder.pe")}
    own = {key: tensor.shape for key, tensor in adapter.state_dict().items() if not key.endswith("pos_embed.pe")}
    wrong = sorted(key for key in own.keys() | learnt.keys() if key not in learnt or learnt[key].shape != own.get(key))
    if wrong:
        raise ModelError(f"{name} is not a complete motion adapter: {len(wrong)} tensors are off, such as {wrong[0]}")
    adapter.load_state_dict(learnt, strict=False)
    return adapter


def _shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Channels of each level, and motion modules in each of the way down."""
    form = re.compile(r"down_blocks\.(\d{1,2})\.motion_modules\.(\d{1,2})\.norm\.weight")
    found = {(int(place[1]), int(place[2])): len(state[key]) for key in state if (place := form.fullmatch(key))}
    levels = range(1 + max((level for level, _ in found), default=-1))
    channels = tuple(next((size for (of, _), size in found.items() if of == level), 0) for level in levels)
    layers = 1 + max((number for _, number in found), default=0)
    return {"block_out_channels": channels, "motion_layers_per_block": layers}


def refuse_other_base(unet: UNet2DConditionModel, adapter: MotionAdapter | None) -> None:
    """Raise ``ModelError`` for a base that is not of this family, and for motion modules that were made for another."""
    refuse_other_unet(dict(unet.config))
    if adapter is None:
        return
    theirs, ours = tuple(adapter.config.block_out_channels), tuple(unet.config.block_out_channels)
    if reason := other_base(theirs, ours):
        raise ModelError(reason)


def fold_domain(unet: nn.Module, path: Path, scale: float) -> None:
    """Add the authors' domain adapter, ``scale`` times, to the weights of a network's spatial attention.

    Raises ``ModelError`` where the file is none, or was made for another base.
    """
    held = load_tensors(path)[0] if path.suffix == ".safetensors" else load_pickled(path)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in held.items():
        if part := part_of_authors(key):
            pairs.setdefault(part[0], {})[part[1]] = tensor
    layers = dict(unet.named_modules())
    if not pairs or any(pair.keys() != {"A", "B"} for pair in pairs.values()):
        raise ModelError(f"{path.name} is no domain adapter of AnimateDiff: its keys are {', '.join(sorted(held)[:2])}")
    for name, pair in pairs.items():
        weight: Any = getattr(layers.get(name), "weight", None)
        if weight is None or weight.shape != (len(pair["B"]), pair["A"].shape[1]):
            raise ModelError(
                f"{path.name} was made for another base: it changes {name}, which is not there or of another size"
            )
        change = pair["B"].to(weight.device, torch.float32) @ pair["A"].to(weight.device, torch.float32)
        weight.data.copy_(weight.float() + scale * change)
