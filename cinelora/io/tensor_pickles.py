"""Tensors from files that torch pickled, as tensors alone (ADR 10).

Enters: a path. Leaves: tensors on the CPU, mapped and not yet read. Nothing that a file names is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def load_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by name, of a training run's file those of its network (``state_dict``).

    torch's unpickler knows tensors, containers and numbers. Raises ``ModelError`` where a file wants more, or has no tensors.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler's refusals and damage come as errors of several families
        raise ModelError(
            f"{path.name} holds more than tensors, and programs in pickles are never run: give the part as .safetensors"
        ) from error
    held = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise ModelError(f"{path.name} is no table of tensors: give the part as .safetensors")
    return held
