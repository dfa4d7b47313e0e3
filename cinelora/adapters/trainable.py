"""What of a transformer is trained: one adapter, or every weight. The one thing stages and callbacks need to know of it.

Enters: a transformer. Leaves: its trained parameters, their values by name, and how far they have moved it. It does not
know how they are trained.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.nn import Parameter

from cinelora.adapters.lora_layers import (
    acting_adapters,
    adapter_state,
    load_adapter_state,
    silenced,
    trainable,
    update_squares,
    weight_squares,
)
from cinelora.errors import AdapterError


class Trained(Protocol):
    """The trained part of a transformer."""

    parameters: list[Parameter]
    stands_alone: bool
    """Whether there is nothing between it and the base model: ``untrained`` and ``bare`` are then the same."""

    def state(self) -> dict[str, Tensor]:
        """The trained values by name; they share memory with the transformer."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy ``state`` in; raises ``AdapterError`` unless names and shapes are exactly its own."""

    def gathered(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state``, or a moving average of it, whole; where ranks have pieces all take part, and rank 0 alone has the result."""

    def own_part(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has of a whole ``state``: all, where ranks have no pieces."""

    def effect(self) -> Effect:
        """How much training changed the transformer's weights."""

    def untrained(self) -> AbstractContextManager[None]:
        """Inside the block the transformer predicts as it did before this training."""

    def bare(self) -> AbstractContextManager[None]:
        """Inside the block it predicts as the base model does, without the adapters under this training either."""


@dataclass(frozen=True)
class Effect:
    """``|change| / |W|`` (Frobenius) over all trained weights at once, and over those of each block: 0 means not at all."""

    overall: float
    by_block: dict[int, float]

    @classmethod
    def of(cls, changes: dict[str, float], weights: dict[str, float]) -> Effect:
        """From squared norms by a name that begins with ``blocks.<number>.``, or belongs to no block."""
        blocks: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, change in changes.items():
            if number := re.match(r"blocks\.(\d+)\.", name):
                block = blocks[int(number[1])]
                block[0] += change
                block[1] += weights[name]
        overall = math.sqrt(sum(changes.values()) / sum(weights.values()))
        return cls(overall, {number: math.sqrt(change / there) for number, (change, there) in sorted(blocks.items())})


class Unsharded:
    """What is trained is whole on every rank."""

    def gathered(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Itself."""
        return state

    def own_part(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Itself."""
        return state


class TrainedAdapter(Unsharded):
    """The adapter ``name``; everything else is frozen, and so are adapters under it."""

    def __init__(self, transformer: WanTransformer3DModel, name: str) -> None:
        self.transformer, self.name = transformer, name
        self.parameters = trainable(transformer, name)
        self.stands_alone = acting_adapters(transformer) == [name]

    def state(self) -> dict[str, Tensor]:
        """The factors, alpha not folded in."""
        return adapter_state(self.transformer, self.name)

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy factors in."""
        load_adapter_state(self.transformer, self.name, state)

    @cached_property
    def _weight_squares(self) -> dict[str, float]:
        """They stay as they are, and reading them all takes longer than the rest of ``effect``."""
        return weight_squares(self.transformer, self.name)

    def effect(self) -> Effect:
        """``|alpha/rank B A| / |W|`` of its projections, as ``lora.adapter_effect``."""
        return Effect.of(update_squares(self.transformer, self.name), self._weight_squares)

    def untrained(self) -> AbstractContextManager[None]:
        """This adapter does not act; those under it do."""
        return silenced(self.transformer, [self.name])

    def bare(self) -> AbstractContextManager[None]:
        """No adapter acts."""
        return silenced(self.transformer)


class WholeTransformer(Unsharded):
    """Every weight, in float32 whatever it was loaded in: a step of AdamW is smaller than what bfloat16 can tell apart.

    What the weights were at first is kept on the host.
    """

    stands_alone = True

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        transformer.float().requires_grad_(True)
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

    def effect(self) -> Effect:
        """``|W - W_start| / |W_start|``."""
        changes = {n: square(value.cpu() - self._start[n]) for n, value in self.state().items()}
        return Effect.of(changes, {name: square(value) for name, value in self._start.items()})

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The weights are those of the start inside the block, and after it those of before, bit for bit."""
        weights = {name: value.clone() for name, value in self.state().items()}
        self.load(self._start)
        try:
            yield
        finally:
            self.load(weights)

    def bare(self) -> AbstractContextManager[None]:
        """As ``untrained``: nothing else stands on these weights."""
        return self.untrained()


def square(values: Tensor) -> float:
    """The squared Frobenius norm."""
    return float(values.square().sum(dtype=torch.float64))
