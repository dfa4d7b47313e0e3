"""What an adapter changes by other means than a pair of factors beside a projection: added to the weights themselves.

Enters: a transformer, and ``Delta`` by the names of its parameters. Leaves: the same transformer with ``W + sum scale_i *
change_i(W)`` in the place of each such parameter, rounded once, and W bit for bit when it is asked for again.

- ``diff``, ``bias``: the difference itself, of a norm, a bias, a modulation.
- ``lora``: ``B A`` where no factors can act beside the weight: outside the blocks, or with a magnitude.
- ``loha``: ``(A1 B1) * (A2 B2)``, element by element (Hyeon-Woo et al. 2022). ``lokr``: a Kronecker product (LyCORIS).
- With a magnitude m (DoRA, Liu et al. 2024) W becomes ``m * (W + change) / |W + change|``, row by row or column by column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.memory.block_swap import at_rest
from cinelora.nn.fp8 import Fp8Linear, frozen_weight, replace_weight

Parts = dict[str, Tensor]
PRODUCTS: dict[str, Callable[[Parts], Tensor]] = {
    "diff": lambda parts: parts["diff"],
    "bias": lambda parts: parts["diff"],
    "lora": lambda parts: parts["B"].flatten(1) @ parts["A"].flatten(1),
    "loha": lambda parts: (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"]),
    "lokr": lambda parts: torch.kron(_lokr_side(parts, "lokr_w1"), _lokr_side(parts, "lokr_w2")),
}


def _lokr_side(parts: Parts, name: str) -> Tensor:
    return parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]


@dataclass(frozen=True)
class Delta:
    """The change of one parameter, as its small parts in float32, so that no matrix is made before it is added."""

    form: str
    parts: Parts
    scale: float
    shape: tuple[int, ...]

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to ``weight`` (float32), on the device of ``weight``."""
        parts = {name: part.to(weight.device) for name, part in self.parts.items()}
        product = PRODUCTS[self.form](parts).reshape(weight.shape) * self.scale
        if (magnitude := parts.get("magnitude")) is None:
            return product
        # One magnitude for each row of W, or for each column: (1, in) is the only shape that means columns.
        axis = 1 if magnitude.ndim > 1 and magnitude.shape[0] == 1 else 0
        changed = weight + product
        others = [dim for dim in range(weight.ndim) if dim != axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        update: Tensor = changed * (magnitude.reshape(norm.shape) / norm) - weight
        return update


@dataclass
class WeightDeltas:
    """The deltas that hang on a transformer, by adapter and parameter; which act, and the weights as they were before."""

    of: dict[str, dict[str, tuple[Delta, ...]]] = field(default_factory=dict)
    acting: dict[str, float] = field(default_factory=dict)
    originals: dict[str, list[Tensor]] = field(default_factory=dict)
    kept: bool = True


def deltas_of(transformer: nn.Module) -> WeightDeltas:
    """What hangs on ``transformer``; nothing at first."""
    found = transformer.__dict__.get("weight_deltas") or WeightDeltas()
    transformer.__dict__["weight_deltas"] = found
    return found


def device_of(transformer: nn.Module) -> torch.device:
    """Where a network computes: what stands before its blocks is there, which themselves may wait on the host."""
    return first_weight(transformer).device


def first_weight(transformer: nn.Module) -> Tensor:
    """The weight that stands before its blocks: on the device, and in the dtype that it computes in."""
    first: Any = transformer.conv_in if hasattr(transformer, "conv_in") else transformer.patch_embedding
    weight: Tensor = first.weight
    return weight


def let_act(transformer: nn.Module, scales: dict[str, float], keep: bool = True) -> None:
    """Let the deltas of the adapters in ``scales`` act, each that many times, and no other.

    With ``keep``, each weight that is changed stays on the host, as it was. Raises ``RuntimeError`` where an earlier call did
    not keep them, and other scales are wanted now.
    """
    book = deltas_of(transformer)
    wanted = {name: scale for name, scale in sorted(scales.items()) if scale and name in book.of}
    if wanted == book.acting:
        return
    if not book.kept:
        raise RuntimeError("the adapters were merged into the weights permanently: load the transformer again")
    at_rest(transformer)  # a weight that is changed in a slot would be forgotten there
    for parameter, originals in book.originals.items():
        for tensor, original in zip(_tensors(transformer, parameter), originals, strict=True):
            tensor.copy_(original)
    book.originals.clear()
    for parameter in dict.fromkeys(parameter for name in wanted for parameter in book.of[name]):
        if keep:
            # copied although they may be on the host already
            book.originals[parameter] = [tensor.detach().cpu().clone() for tensor in _tensors(transformer, parameter)]
        weight = _weight(transformer, parameter)
        changes = (s * d.change(weight) for name, s in wanted.items() for d in book.of[name].get(parameter, ()))
        _replace(transformer, parameter, weight + sum(changes))
    book.acting, book.kept = wanted, keep


# -- one parameter -----------------------------------------------------------------------------------------------------


def owner_of(transformer: nn.Module, parameter: str) -> tuple[nn.Module, str] | None:
    """The layer that holds a parameter, below an adapter where one hangs on it, and its name there; None where it has none."""
    module, _, leaf = parameter.rpartition(".")
    try:
        layer: Any = transformer.get_submodule(module)
    except AttributeError:
        return None
    layer = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return (layer, leaf) if isinstance(getattr(layer, leaf, None), Tensor) else None


def _held(transformer: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    found = owner_of(transformer, parameter)
    assert found is not None  # what the transformer lacks was left out when the adapter was loaded
    return found


def _tensors(transformer: nn.Module, parameter: str) -> list[Tensor]:
    """The memory that a parameter is held in: in fp8, values and scales."""
    layer, leaf = _held(transformer, parameter)
    names = ("weight", "scale") if isinstance(layer, Fp8Linear) and leaf == "weight" else (leaf,)
    return [getattr(layer, name).data for name in names]


def _weight(transformer: nn.Module, parameter: str) -> Tensor:
    """A parameter in float32, where the transformer computes."""
    layer, leaf = _held(transformer, parameter)
    tensor = frozen_weight(layer) if leaf == "weight" else getattr(layer, leaf).detach().float()
    return tensor.to(device_of(transformer))


def _replace(transformer: nn.Module, parameter: str, value: Tensor) -> None:
    layer, leaf = _held(transformer, parameter)
    if leaf == "weight":
        replace_weight(layer, value)
    else:
        getattr(layer, leaf).data.copy_(value)
