"""Every weight of a network as what is trained: whole on each rank, or in the pieces of DeepSpeed's ZeRO-3; or motion modules'.

Enters: a transformer. Leaves: what ``cinelora.adapters.trainable.Trained`` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.adapters.trainable import Effect, Trained
from cinelora.errors import AdapterError
from cinelora.families.unet_layers import UNET_LAYERS
from cinelora.training.zero import own_range

State = dict[str, Tensor]


class WholeTransformer(Trained):
    """Every weight, in float32 whatever it was loaded in: a step of AdamW is smaller than what bfloat16 can tell apart.

    What the weights were at first is kept on the host.
    """

    stands_alone = mixed_precision = True

    def __init__(self, transformer: nn.Module) -> None:
        transformer.float().requires_grad_(False)
        self._named: dict[str, Any] = self.chosen(transformer)
        self.parameters = list(self._named.values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self._start = {name: value.to("cpu", copy=True) for name, value in self.state().items()}

    @staticmethod
    def chosen(transformer: nn.Module) -> dict[str, nn.Parameter]:
        """What is trained of it: every weight."""
        return dict(transformer.named_parameters())

    def state(self) -> State:
        """The weights, under their names in the checkpoint."""
        return {name: parameter.detach() for name, parameter in self._named.items()}

    def load(self, state: State) -> None:
        """Copy weights in."""
        # A name that one side lacks counts as a shape of None there, so that missing, unknown and misshapen ones are all found.
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


class MotionModules(WholeTransformer):
    """Every weight of a motion network's motion modules; the image network around them is frozen."""

    @staticmethod
    def chosen(transformer: nn.Module) -> dict[str, nn.Parameter]:
        """What is trained of it: what ``MotionAdapter`` holds, under its names there."""
        weights = transformer.named_parameters()
        return {name: weight for name, weight in weights if UNET_LAYERS.taught_in(name) == "motion"}


class PartitionedTransformer(WholeTransformer):
    """Every weight, of which DeepSpeed's ZeRO-3 gives each rank a piece when training starts; whole before that.

    ``state`` is then of this rank's pieces, flat, and empty where a weight is too small for all ranks to have one.
    """

    partitioned = True

    def state(self) -> State:
        """The weights, or this rank's pieces of them."""
        return {name: _piece(parameter) for name, parameter in self._named.items()}

    def load(self, state: State) -> None:
        """Copy weights in, or pieces of them."""
        if not _is_partitioned(self.parameters[0]):
            return super().load(state)
        # a piece is a view into DeepSpeed's own memory: what is copied into it is in the model
        for name, piece in self.state().items():
            piece.copy_(state[name])

    def gathered(self, state: State) -> State:
        """The weights that ``state`` is this rank's pieces of, on the host of rank 0; all ranks take part."""
        # One weight at a time, so that a rank never holds more than one of them whole. A collective wants the same number of
        # values from every rank: a shorter piece is filled up, and what fills it is cut off again at the end.
        found = {}
        for name, parameter in self._named.items():
            # ``ds_numel`` of the shard is the padded length, the same on every rank
            own = torch.zeros(parameter.ds_tensor.ds_numel, device=parameter.device)
            own[: state[name].numel()] = state[name]
            flat = own.new_empty(torch.distributed.get_world_size() * own.numel())
            torch.distributed.all_gather_into_tensor(flat, own)
            if torch.distributed.get_rank() == 0:
                found[name] = flat[: parameter.ds_numel].view(parameter.ds_shape).cpu()
        return found

    def own_part(self, state: State) -> State:
        """This rank's pieces of whole weights."""
        ranges = {name: own_range(parameter) for name, parameter in self._named.items()}
        return {name: state[name].flatten()[own.start : own.stop] for name, own in ranges.items()}

    def effect(self) -> Effect:
        """``|W - W_start| / |W_start|``, over the pieces of all ranks."""
        # A norm over pieces is the root of the sum of their squares, so squares are what ranks add up.
        pieces = {name: (piece.cpu(), self._start[name]) for name, piece in self.state().items()}
        squares = [(square(now - then), square(then)) for now, then in pieces.values()]
        totals = torch.tensor(squares, dtype=torch.float64, device=self.parameters[0].device)
        torch.distributed.all_reduce(totals)
        changes, weights = (dict(zip(pieces, column, strict=True)) for column in totals.T.tolist())
        return Effect.of(changes, weights)

    def settle(self) -> None:
        """Keep of what the weights were at first this rank's pieces alone, once DeepSpeed has made them."""
        self._start = {name: piece.clone() for name, piece in self.own_part(self._start).items()}


def _piece(parameter: Any) -> Tensor:
    """This rank's piece of a parameter without what pads it, or all of it while it is whole."""
    if not _is_partitioned(parameter):
        return parameter.detach()  # type: ignore[no-any-return]
    return parameter.ds_tensor.data[: len(own_range(parameter))]  # type: ignore[no-any-return]


def _is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def square(values: Tensor) -> float:
    """The squared Frobenius norm."""
    return float(values.square().sum(dtype=torch.float64))
