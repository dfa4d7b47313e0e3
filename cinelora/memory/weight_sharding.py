"""Frozen weights that ranks share: each keeps a piece of every block, and has a block whole while it computes it.

Enters: a transformer that is being loaded, tensor by tensor. Leaves: its blocks' large weights in one piece of bytes a block
and rank, and homes for ``memory.Swap``, which bring a block from all ranks instead of from the host. At no time is more
on a rank than its pieces and one tensor. It does not know what is trained.

A block's weights lie one behind the other, as ``memory`` lays them out, and the whole is cut into equal pieces. So what is
brought is contiguous, fp8 is bytes like any other, and a rank reads only the tensors that its pieces have a part of. All
ranks must visit blocks in the same order and equally often.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cinelora.memory.block_swap import PADDING, HostBytes, padded, views


@dataclass(frozen=True)
class Place:
    """Where a weight's bytes lie in its block, and what they are."""

    block: int
    first: int
    size: int
    dtype: torch.dtype


class Shares:
    """The pieces of rank ``rank`` of ``ranks``; ``on_host`` they lie in host memory, pinned for journeys to a GPU."""

    def __init__(self, rank: int, ranks: int, on_host: bool = False) -> None:
        self.rank, self.ranks, self.on_host = rank, ranks, on_host
        self.places: dict[str, Place] = {}
        self.homes: list[Share] = []
        self._group: Any = None

    def lay_out(self, module: nn.Module, dtypes: dict[str, torch.dtype], device: torch.device) -> None:
        """Find places for the blocks' matrices of ``module``, which are held in ``dtypes`` by the parameters' names."""
        # A block's matrices are laid out in the order of named_parameters, each at a multiple of PADDING bytes. All ranks
        # run this on the same module, so all agree on every offset without a word between them.
        ends: dict[int, int] = {}
        for name, parameter in module.named_parameters():
            number = re.match(r"blocks\.(\d+)\.", name)
            if number and parameter.ndim == 2 and min(parameter.shape) > 1:
                block, size = int(number[1]), parameter.numel() * dtypes[name].itemsize
                first = ends.get(block, 0)
                self.places[name] = Place(block, first, size, dtypes[name])
                ends[block] = first + padded(size)
        self.homes = [Share(self, ends[block], device) for block in range(len(ends))]

    def has_part_of(self, name: str) -> bool:
        """Whether this rank keeps any of a parameter; without a place it keeps all."""
        place = self.places.get(name)
        return place is None or self.homes[place.block].overlap(place) is not None

    def take(self, name: str, layer: nn.Module, leaf: str) -> None:
        """Keep this rank's part of ``layer.leaf``, which from then on is a shape without memory until its block is brought."""
        place, whole = self.places.get(name), getattr(layer, leaf)
        if place is None:
            return
        # Of the whole tensor only the bytes in this rank's piece of the block are kept. Offsets are relative to the block, so
        # what is copied goes from `overlap - place.first` in the tensor to `overlap - home.first` in the piece.
        home = self.homes[place.block]
        if whole.device.type != "meta" and (overlap := home.overlap(place)):
            bytes_ = whole.data.contiguous().view(torch.uint8).flatten()
            home.piece[overlap.start - home.first : overlap.stop - home.first].copy_(
                bytes_[overlap.start - place.first : overlap.stop - place.first]
            )
        absent = nn.Parameter(_absent(whole.shape, place.dtype, home.device), requires_grad=False)
        setattr(layer, leaf, absent)
        home.weights.append(absent)
        # the last weight of a block was taken: what was read for it is free by now, and goes back to the system
        if len(home.weights) == sum(other.block == place.block for other in self.places.values()):
            give_back()

    @property
    def group(self) -> Any:
        """A group of all ranks for these journeys alone: gradients travel at the same time, in an order of their own."""
        if self._group is None:
            self._group = dist.new_group()
        return self._group


def give_back() -> None:
    """Return freed host memory to the system: the holes that tensors leave behind came to half a base of 1 GB."""
    ctypes.CDLL(None).malloc_trim(0)


class Share:
    """One rank's piece of the large weights of one block: a home for ``memory.Swap``."""

    def __init__(self, shares: Shares, size: int, device: torch.device) -> None:
        # equal pieces, rounded up to PADDING, since an all-gather wants equal sizes; the last piece's end may hold nothing
        each = -(-size // (shares.ranks * PADDING)) * PADDING
        self.shares, self.device, self.size = shares, device, each * shares.ranks
        self.first, self.weights = each * shares.rank, list[nn.Parameter]()
        self._host = HostBytes(each, device) if shares.on_host else None
        self.piece = self._host.flat if self._host else torch.empty(each, dtype=torch.uint8, device=device)

    def overlap(self, place: Place) -> range | None:
        """The bytes of ``place`` that lie in this piece."""
        first, last = max(place.first, self.first), min(place.first + place.size, self.first + len(self.piece))
        return range(first, last) if first < last else None

    def fill(self, place: Tensor) -> None:
        """Bring the block's weights to ``place``, from all ranks."""
        dist.all_gather_into_tensor(place, self.piece.to(place.device, non_blocking=True), group=self.shares.group)

    def settle(self, place: Tensor) -> None:
        """Let the parameters be what was brought to ``place``."""
        for weight, view in zip(self.weights, views(place, self.weights), strict=True):
            weight.data = view

    def leave(self) -> None:
        """Let the parameters be shapes without memory."""
        for weight in self.weights:
            weight.data = _absent(weight.shape, weight.dtype, self.device)


# One element, expanded to the shape without memory: it has shape, dtype and device, as layers ask for them, and no content.
def _absent(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(1, dtype=dtype, device=device).expand(shape)
