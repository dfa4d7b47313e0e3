"""What of a transformer is trained, as stages and callbacks need to know it: here one adapter; every weight in ``tools/``.

Enters: a transformer. Leaves: its trained parameters, their values by name, and how far they have moved it. It does not
know how they are trained.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor, nn
from torch.nn import Parameter

from cinelora.adapters import lora_layers


class Trained(Protocol):
    """The trained part of a transformer. What is partitioned over ranks says so, and has pieces; all else is whole on each."""

    parameters: list[Parameter]
    stands_alone: bool
    """Whether there is nothing between it and the base model: ``untrained`` and ``bare`` are then the same."""
    mixed_precision: bool = False
    """Whether its weights are float32 that compute in bfloat16 on a GPU; adapters bring a rule of their own."""
    partitioned: bool = False
    """Whether DeepSpeed's ZeRO-3 gives each rank a piece of every trained weight when training starts."""

    def state(self) -> dict[str, Tensor]:
        """The trained values by name; they share memory with the transformer."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy ``state`` in; raises ``AdapterError`` unless names and shapes are exactly its own."""

    def gathered(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state``, or a moving average of it, whole; where ranks have pieces all take part, and rank 0 alone has the result."""
        return state

    def own_part(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has of a whole ``state``: all, where ranks have no pieces."""
        return state

    def settle(self) -> None:
        """Take note that ranks have their pieces by now, where they have any."""
        return None

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
        # Squares of Frobenius norms add up over matrices, the norms themselves do not: sums first, then one root of their ratio.
        blocks: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, change in changes.items():
            if number := re.match(r"blocks\.(\d+)\.", name):
                block = blocks[int(number[1])]
                block[0] += change
                block[1] += weights[name]
        overall = math.sqrt(sum(changes.values()) / sum(weights.values()))
        return cls(overall, {number: math.sqrt(change / there) for number, (change, there) in sorted(blocks.items())})


class TrainedAdapter(Trained):
    """The adapter ``name``; everything else is frozen, and so are adapters under it."""

    def __init__(self, transformer: nn.Module, name: str) -> None:
        self.transformer, self.name = transformer, name
        self.parameters = lora_layers.trainable(transformer, name)
        self.stands_alone = lora_layers.acting_adapters(transformer) == [name]

    def state(self) -> dict[str, Tensor]:
        """The factors, alpha not folded in."""
        return lora_layers.adapter_state(self.transformer, self.name)

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy factors in."""
        lora_layers.load_adapter_state(self.transformer, self.name, state)

    @cached_property
    def _weight_squares(self) -> dict[str, float]:
        """They stay as they are, and reading them all takes longer than the rest of ``effect``."""
        return lora_layers.weight_squares(self.transformer, self.name)

    def effect(self) -> Effect:
        """``|alpha/rank B A| / |W|`` of its projections, as ``lora.adapter_effect``."""
        return Effect.of(lora_layers.update_squares(self.transformer, self.name), self._weight_squares)

    def untrained(self) -> AbstractContextManager[None]:
        """This adapter does not act; those under it do."""
        return lora_layers.silenced(self.transformer, [self.name])

    def bare(self) -> AbstractContextManager[None]:
        """No adapter acts."""
        return lora_layers.silenced(self.transformer)
