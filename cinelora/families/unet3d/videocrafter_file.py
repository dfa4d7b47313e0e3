"""VideoCrafter2's network out of its authors' checkpoint.

Enters: the file, and the shape of a network of clips. Leaves: the network. A ``.ckpt`` is read as tensors alone (ADR 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor
from torch.nn.functional import linear, silu

from cinelora.errors import ModelError
from cinelora.families.unet3d.videocrafter_names import BEGINS, RATE, authors_names
from cinelora.io.tensor_files import load_tensors
from cinelora.io.tensor_pickles import load_pickled

BIAS = "time_embedding.linear_2.bias"


def load_videocrafter(file: Path, shape: Mapping[str, Any], fps: float) -> UNet3DConditionModel:
    """The network in ``file``, of the ``shape`` that diffusers' configuration says, in float32, told ``fps`` for good.

    Its authors' network adds to the embedding of time one of the frame rate, at one rate a constant: here a part of a bias.
    Raises ``ModelError`` where a tensor is missing, is of another shape, or has no place.
    """
    held = load_tensors(file)[0] if file.suffix == ".safetensors" else load_pickled(file)
    held = {key.removeprefix(BEGINS): tensor for key, tensor in held.items() if key.startswith(BEGINS)}
    if not held:
        raise ModelError(f"{file.name} holds no network of VideoCrafter: none of its names begins {BEGINS}")
    with torch.device("meta"):
        network: UNet3DConditionModel = UNet3DConditionModel.from_config(shape)
    wanted = network.state_dict()
    names = authors_names(wanted, len(network.down_blocks), network.config.layers_per_block)
    rate = {f"{RATE}{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    _refuse_other_tensors(file.name, held, {names[name]: tensor for name, tensor in wanted.items()}, rate)
    # copies: tensors of a file that is mapped are not aligned as torch's own are, and kernels sum them in another order
    state = {name: held.pop(names[name]).float().reshape(tensor.shape).clone() for name, tensor in wanted.items()}
    state[BIAS] += _of_rate(network, held, fps)
    network.load_state_dict(state, assign=True)
    return network


def _refuse_other_tensors(file: str, held: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rate: set[str]) -> None:
    """Raise ``ModelError`` unless the file has each tensor that is wanted, those of the rate, and no other."""
    if any("relative_position" in key for key in held):
        raise ModelError(f"{file} is VideoCrafter1, whose attention over time has learnt positions: take VideoCrafter2")
    strange = held.keys() - wanted.keys() - rate
    absent = (wanted.keys() | rate) - held.keys()
    other = {name for name in wanted.keys() & held.keys() if not _is_alike(held[name], wanted[name])}
    if wrong := sorted(absent or other or strange):
        how = "lacks" if absent else "has in another shape" if other else "has besides"
        raise ModelError(
            f"{file} does not have VideoCrafter2's shape: it {how} {len(wrong)} tensors, such as {wrong[0]}"
        )


def _is_alike(theirs: Tensor, ours: Tensor) -> bool:
    """Whether a tensor fits as it is, or as a convolution of 1x1, which a linear layer is too."""
    return theirs.shape[: ours.ndim] == ours.shape and theirs.numel() == ours.numel()


def _of_rate(network: UNet3DConditionModel, held: Mapping[str, Tensor], fps: float) -> Tensor:
    """What the authors' network adds to each embedding of time at a frame rate."""
    hidden: Tensor = network.time_proj(torch.tensor([float(fps)]))
    first, second = ([held[f"{RATE}{layer}.{part}"].float() for part in ("weight", "bias")] for layer in (0, 2))
    return linear(silu(linear(hidden, *first)), *second)[0]
