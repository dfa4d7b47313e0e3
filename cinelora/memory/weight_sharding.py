"""Frozen weights that ranks share: each keeps a piece of every block, and has a block whole while it computes it.

Enters: a transformer that is being loaded, tensor by tensor. Leaves: its blocks' large weights in one piece of bytes a block
and rank, and shards for ``block_swap.Swap``, which bring a block from all ranks instead of from the host. At no time is more
on a rank than its pieces and one tensor. It does not know what is trained.

A block's weights lie one after the other, as ``block_swap`` lays them out, and the whole is cut into equal pieces. So what is
brought is contiguous, fp8 is bytes like any other, and a rank reads only the tensors that its pieces have a part of. All
ranks must visit blocks in the same order and equally often.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cinelora.memory.block_swap import PADDING, HostBytes, StoredWeights, padded


@dataclass(frozen=True)
class ByteSpan:
    """Where a weight's bytes lie in its block, and what they are."""

    block: int
    first: int
    size: int
    dtype: torch.dtype


class Shares:
    """The pieces of rank ``rank`` of ``ranks``; ``on_host`` they lie in host memory, pinned for transfers to a GPU."""

    def __init__(self, rank: int, ranks: int, on_host: bool = False) -> None:
        self.rank, self.ranks, self.on_host = rank, ranks, on_host
        self.spans: dict[str, ByteSpan] = {}
        self.shards: list[Shard] = []

    def lay_out(self, module: nn.Module, dtypes: dict[str, torch.dtype], device: torch.device) -> None:
        """Find spans for the blocks' matrices of ``module``, which are held in ``dtypes`` by the parameters' names."""
        # A block's matrices are laid out in the order of named_parameters, each at a multiple of PADDING bytes. All ranks
        # run this on the same module, so all agree on every offset without a word between them.
        ends: dict[int, int] = {}
        for name, parameter in module.named_parameters():
            number = re.match(r"blocks\.(\d+)\.", name)
            if number and parameter.ndim == 2 and min(parameter.shape) > 1:
                block, size = int(number[1]), parameter.numel() * dtypes[name].itemsize
                first = ends.get(block, 0)
                self.spans[name] = ByteSpan(block, first, size, dtypes[name])
                ends[block] = first + padded(size)
        self.shards = [Shard(self, ends[block], device) for block in range(len(ends))]

    def has_part_of(self, name: str) -> bool:
        """Whether this rank keeps any of a parameter; without a span it keeps all."""
        span = self.spans.get(name)
        return span is None or bool(self.shards[span.block].overlap(span))

    def take(self, name: str, layer: nn.Module, leaf: str) -> None:
        """Keep this rank's part of ``layer.leaf``, which from then on is a shape without memory until its block is brought."""
        span, whole = self.spans.get(name), getattr(layer, leaf)
        if span is None:
            return
        # Of the whole tensor only the bytes in this rank's piece of the block are kept. Offsets are relative to the block, so
        # what is copied goes from `overlap - span.first` in the tensor to `overlap - shard.first` in the piece.
        shard = self.shards[span.block]
        if whole.device.type != "meta" and (overlap := shard.overlap(span)):
            kept = whole.data.contiguous().view(torch.uint8).flatten()[overlap.start - span.first :][: len(overlap)]
            shard.piece[overlap.start - shard.first :][: len(overlap)].copy_(kept)
        absent = nn.Parameter(_absent(whole.shape, span.dtype, shard.device), requires_grad=False)
        setattr(layer, leaf, absent)
        shard.weights.append(absent)
        # The last weight of a block was taken: what was read for it is free by now, and goes back to the system.
        if len(shard.weights) == sum(other.block == span.block for other in self.spans.values()):
            give_back()

    @cached_property
    def group(self) -> Any:
        """A group of all ranks for these transfers alone: gradients are sent at the same time, in an order of their own."""
        # Collectives of one group must come in the same order on all ranks. Gradients are reduced in the background, as soon as
        # enough of them are ready, and whether that is before or after a block is brought may differ from rank to rank.
        return dist.new_group()


def give_back() -> None:
    """Return freed host memory to the system: the holes that tensors leave behind came to half a base of 1 GB."""
    ctypes.CDLL(None).malloc_trim(0)


class Shard(StoredWeights):
    """One rank's piece of the large weights of one block, for ``block_swap.Swap``."""

    def __init__(self, shares: Shares, size: int, device: torch.device) -> None:
        # Equal pieces, rounded up to PADDING, since an all-gather wants equal sizes; the last piece's end may hold nothing.
        # All pieces together are what `fill` brings, so the slot of a block is as large as they are.
        each = -(-size // (shares.ranks * PADDING)) * PADDING
        self.shares, self.device, self.size = shares, device, each * shares.ranks
        self.first, self.weights = each * shares.rank, list[nn.Parameter]()
        self._host = HostBytes(each, device) if shares.on_host else None
        self.piece = self._host.flat if self._host else torch.empty(each, dtype=torch.uint8, device=device)

    def overlap(self, span: ByteSpan) -> range:
        """The bytes of ``span`` that lie in this piece; empty where none do."""
        return range(max(span.first, self.first), min(span.first + span.size, self.first + len(self.piece)))

    def fill(self, slot: Tensor) -> None:
        """Bring the block's weights to ``slot``, from all ranks."""
        dist.all_gather_into_tensor(slot, self.piece.to(slot.device, non_blocking=True), group=self.shares.group)

    def leave(self) -> None:
        """Let the parameters be shapes without memory."""
        for weight in self.weights:
            weight.data = _absent(weight.shape, weight.dtype, self.device)


# One element, expanded to the shape without memory: it has shape, dtype and device, as layers ask for them, and no content.
def _absent(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(1, dtype=dtype, device=device).expand(shape)
