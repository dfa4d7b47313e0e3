"""What of a transformer is trained: one adapter, or every weight. The one thing stages and callbacks need to know of it.

Enters: a transformer. Leaves: its trained parameters, their values by name, and how far they have moved it. It does not
know how they are trained.
"""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.nn import Parameter

from cinelora.errors import AdapterError
from cinelora.models.lora import adapter_effect, adapter_state, load_adapter_state, trainable


class Trained(Protocol):
    """The trained part of a transformer."""

    parameters: list[Parameter]

    def state(self) -> dict[str, Tensor]:
        """The trained values by name; they share memory with the transformer."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy ``state`` in; raises ``AdapterError`` unless names and shapes are exactly its own."""

    def effect(self) -> float:
        """How much training changed the transformer, relative to its weights: 0 means not at all."""


class TrainedAdapter:
    """The adapter ``name``; everything else is frozen."""

    def __init__(self, transformer: WanTransformer3DModel, name: str) -> None:
        self.transformer, self.name = transformer, name
        self.parameters = trainable(transformer, name)

    def state(self) -> dict[str, Tensor]:
        """The factors, alpha not folded in."""
        return adapter_state(self.transformer, self.name)

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy factors in."""
        load_adapter_state(self.transformer, self.name, state)

    def effect(self) -> float:
        """``adapter_effect``."""
        return adapter_effect(self.transformer, self.name)


class WholeTransformer:
    """Every weight; what they were at first is kept on the host."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        transformer.requires_grad_(True)
        self.parameters = list(transformer.parameters())
        self._named = dict(transformer.named_parameters())
        self._start = {name: value.to("cpu", copy=True) for name, value in self.state().items()}

    def state(self) -> dict[str, Tensor]:
        """The weights, under their names in the checkpoint."""
        return {name: parameter.detach() for name, parameter in self._named.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy weights in."""
        shapes, ours = ({n: tuple(t.shape) for n, t in s.items()} for s in (state, self._named))
        if shapes != ours:
            wrong = sorted(name for name in shapes.keys() | ours.keys() if shapes.get(name) != ours.get(name))
            raise AdapterError(f"these weights are of another transformer: {', '.join(wrong[:3])} do not fit")
        for name, parameter in self._named.items():
            parameter.data.copy_(state[name])

    def effect(self) -> float:
        """``|W - W_start| / |W_start|``, over all weights at once."""
        moved = sum(
            float((v.cpu() - self._start[n]).square().sum(dtype=torch.float64)) for n, v in self.state().items()
        )
        norm = sum(float(value.square().sum(dtype=torch.float64)) for value in self._start.values())
        return float((moved / norm) ** 0.5)
