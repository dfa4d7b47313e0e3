"""What a transformer's blocks keep on the device, and what they compute again or fetch back: memory against time.

Enters: a Wan transformer and a ``Policy``. Leaves: the same transformer, whose blocks give the same numbers from less
memory. It does not know what is trained, nor which policy fits a device.

- Recomputed blocks keep their input alone, and run once more in the backward pass (Chen et al. 2016, arXiv 1604.06174).
- With ``offload`` these inputs wait in pinned host memory; they are transferred while other blocks compute.
- Swapped blocks have their frozen weights in pinned host memory, and share two slots for them on the device: while one
  block computes, the next one's weights arrive. They are recomputed too, as a graph would hold what is fetched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import finalize

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from cinelora.planning.estimate import Policy

Block = Callable[..., Tensor]
SHAPES = 256
"""Shapes that blocks are compiled for, each again; torch's own limit for a function of many modules is as high. Past it a block
would run uncompiled without a word, in memory that nobody planned for: with a limit of 3 the fourth step of a 14B model that
filled its plan was out of memory (H100). With and without gradients, with and without an image, by samples in a batch."""
MOST_LENGTHS = 4
"""Lengths of sequences up to which each has kernels of its own. With those a length takes 18 s to compile, the first 30 s; with
kernels for any 1 s, the first 32 s, and steps are 2 % slower (H100, 1.3B). At the 14B model's width kernels for any take 85 s at
first, and steps and peaks are those of kernels for each (H100)."""


def arrange(
    transformer: WanTransformer3DModel, policy: Policy, shared: Sequence[StoredWeights] = (), num_lengths: int = 1
) -> None:
    """Let the blocks of ``transformer`` run by ``policy``, in training and without gradients alike.

    Sequences come in ``num_lengths`` lengths: compiled blocks have kernels for each, or where those are many, kernels for any.
    Where the weights of all blocks are stored already, as ``shared`` ones are, they are brought from there.
    """
    blocks = list(transformer.blocks)
    if policy.compile:
        torch._dynamo.config.recompile_limit = SHAPES
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=num_lengths > MOST_LENGTHS)
    # Three wrappers, from the inside out: compiled forward, then swapping (weights at hand before it runs), then
    # recomputation (runs the two again in the backward pass). Swapping lies inside recomputation, as the second run needs the
    # weights brought once more: they were overwritten meanwhile.
    device = transformer.patch_embedding.weight.device
    if stored := shared or [HostCopy(large_frozen(block), device) for block in blocks[: policy.swap]]:
        swap = Swap(blocks[: len(stored)], stored, device)
        transformer.swap = swap
        for block in swap.blocks:
            block.forward = partial(swap.run, block, block.forward)
            if shared:
                block.bring = partial(swap.bring, block)  # type: ignore[assignment]
    if not policy.recompute:
        return
    recomputed = {id(block) for block in blocks[: policy.recompute]}
    host = HostInputs(Transfers(device)) if policy.offload else None

    # diffusers calls this in place of each block in training. The block's input is its first argument, and the large one: of
    # the others (text, time, angles) all blocks hold the same tensors, which sending to the host would not free.
    def run(block: nn.Module, hidden: Tensor, *others: Tensor) -> Tensor:
        if id(block) not in recomputed:
            return block(hidden, *others)  # type: ignore[no-any-return]
        with host.keeping(hidden) if host else nullcontext():
            return checkpoint(block, hidden, *others, use_reentrant=False)  # type: ignore[no-any-return]

    transformer.enable_gradient_checkpointing(run)


def bring_block_of(transformer: WanTransformer3DModel, name: str) -> None:
    """Have the weights of the block that ``name`` lies in at hand, where ranks share them; all ranks take part."""
    block = transformer.get_submodule(".".join(name.split(".")[:2]))
    if hasattr(block, "bring"):
        block.bring()


def at_rest(transformer: WanTransformer3DModel) -> None:
    """Have the weights of swapped blocks where they are stored, so that a change of them lasts."""
    if swap := transformer.__dict__.get("swap"):
        swap.leave_slots()


def as_they_are() -> AbstractContextManager[object]:
    """Compiled blocks run uncompiled inside: for a few predictions of shapes that come once, as measures and previews."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


# -- streams -----------------------------------------------------------------------------------------------------------


class Transfers:
    """Copies between host and device on a stream of their own; on the CPU they are plain copies."""

    # A GPU works through several queues ("streams") at once, each in its order. Copies are queued apart from the computation,
    # so that both run at the same time, and wait for each other only where these methods say so: a copy for the computation
    # issued before it (`under_way`), the computation for the copy that it needs (`await_`).

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Copies in this block start once the computation so far is done, and keep none of it waiting."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield

    def sent(self) -> torch.cuda.Event | None:
        """What to wait for before what has been sent so far is used."""
        return None if self.stream is None else self.stream.record_event()

    def await_(self, event: torch.cuda.Event | None) -> None:
        """Let the computation wait for ``event``; the host does not."""
        if event is not None:
            torch.cuda.current_stream().wait_event(event)


# -- inputs of recomputed blocks ---------------------------------------------------------------------------------------


@dataclass
class _Buffer:
    """One block's input on the host, and on the device again once it was asked for."""

    host: Tensor
    device: torch.device
    before: _Buffer | None = None
    back: Tensor | None = None
    arrived: torch.cuda.Event | None = None


@dataclass
class HostInputs:
    """Sends inputs of blocks to the host, and fetches each while the block after it is computed backwards."""

    transfers: Transfers
    last: _Buffer | None = None

    def keeping(self, hidden: Tensor) -> saved_tensors_hooks:
        """What is saved inside this block waits on the host where it is ``hidden``."""
        return saved_tensors_hooks(partial(self._pack, hidden.data_ptr(), hidden.shape), self._unpack)

    # torch calls _pack for every tensor that a block saves for its backward pass, and _unpack when that pass wants it.
    # Of a recomputed block that is its input alone, plus small things, which stay. Buffers form a chain through `before`, in the
    # order of the blocks: the backward pass walks it from the end, and asks for the one before while it computes.

    # The allocator must know of the second stream: it gives a tensor's memory away as soon as nobody holds the tensor, although
    # its copy may still be queued. `record_stream` makes it wait for that queue as well, on the way out and on the way back.

    def _pack(self, address: int, shape: torch.Size, tensor: Tensor) -> Tensor | _Buffer:
        if tensor.data_ptr() != address or tensor.shape != shape:
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        with self.transfers.under_way():
            host.copy_(tensor, non_blocking=True)
        if self.transfers.stream is not None:
            tensor.record_stream(self.transfers.stream)
        self.last = _Buffer(host, tensor.device, before=self.last)
        return self.last

    def _unpack(self, kept: Tensor | _Buffer) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        self._fetch(kept)  # was sent for a block ago, except for the last block's
        if kept.before is not None:
            self._fetch(kept.before)
        if self.last is kept:
            self.last = None  # the next forward pass begins a chain of its own
        self.transfers.await_(kept.arrived)
        back, kept.back, kept.before = kept.back, None, None
        assert back is not None
        if self.transfers.stream is not None:
            back.record_stream(torch.cuda.current_stream())
        return back

    def _fetch(self, buffer: _Buffer) -> None:
        if buffer.back is None:
            with self.transfers.under_way():
                buffer.back = buffer.host.to(buffer.device, non_blocking=True)
            buffer.arrived = self.transfers.sent()


# -- weights of swapped blocks -----------------------------------------------------------------------------------------


PADDING = 256
"""Bytes at whose multiples weights begin."""


class HostBytes:
    """So many bytes of host memory, pinned where they are transferred to a GPU.

    torch's own pinned memory comes in powers of two, which would take a third more.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.flat = torch.empty(size, dtype=torch.uint8)
        if device.type == "cuda":
            registered = torch.cuda.cudart().cudaHostRegister(self.flat.data_ptr(), self.flat.numel(), 0)  # type: ignore[no-untyped-call]
            torch.cuda.check_error(registered)
            # Unpinned before the memory is given back, except when the process ends, which gives back everything.
            unpin = torch.cuda.cudart().cudaHostUnregister  # type: ignore[no-untyped-call]
            finalize(self, unpin, self.flat.data_ptr()).atexit = False


class StoredWeights(ABC):
    """The large frozen ``weights`` of one block, ``size`` bytes, as they are stored while the block is not computed."""

    weights: list[nn.Parameter]
    size: int

    @abstractmethod
    def fill(self, slot: Tensor) -> None:
        """Bring the weights to ``slot``, ``size`` bytes on the device."""

    def settle(self, slot: Tensor) -> None:
        """Let the parameters be what was brought to ``slot``."""
        for weight, view in zip(self.weights, views(slot, self.weights), strict=True):
            weight.data = view

    @abstractmethod
    def leave(self) -> None:
        """Let the parameters be out of the slot again."""


class HostCopy(StoredWeights):
    """In one piece of host memory."""

    def __init__(self, weights: list[nn.Parameter], device: torch.device) -> None:
        self.weights, self.size = weights, sum(padded(weight.nbytes) for weight in weights)
        self.host = HostBytes(self.size, device)
        for view, weight in zip(views(self.host.flat, weights), weights, strict=True):
            view.copy_(weight.data)
        self.leave()

    def fill(self, slot: Tensor) -> None:
        """Copy, without waiting for the transfer."""
        slot.copy_(self.host.flat, non_blocking=True)

    def leave(self) -> None:
        """Let the parameters be the host copy: they stay readable, as for a checkpoint."""
        self.settle(self.host.flat)


def views(flat: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """Bytes laid out as ``weights`` are, one after the other, as the weights."""
    found, first = [], 0
    for weight in weights:
        found.append(flat[first : first + weight.nbytes].view(weight.dtype).view(weight.shape))
        first += padded(weight.nbytes)
    return found


def padded(size: int) -> int:
    """Bytes up to where the next weight may begin."""
    return -(-size // PADDING) * PADDING


class Swap:
    """The ``stored`` weights of ``blocks``, and two slots on ``device`` that the blocks take turns in.

    Blocks are visited in order, or backwards. What requires gradients, adapters, stays where it is, and so do norms and
    biases. A block's parameters are on the device while it is in a slot, and as they are stored while it is not.
    """

    def __init__(self, blocks: list[nn.Module], stored: Sequence[StoredWeights], device: torch.device) -> None:
        self.blocks, self.stored = blocks, stored
        self.transfers = Transfers(device)
        self.slots = [torch.empty(stored[0].size, dtype=torch.uint8, device=device) for _ in range(2)]
        self.in_slots: list[int | None] = [None, None]
        self.arrived: list[torch.cuda.Event | None] = [None, None]
        self.latest = -1

    def run(self, block: nn.Module, forward: Block, *inputs: Any, **named: Any) -> Tensor:
        """``forward`` of ``block`` with its weights at hand, while its neighbour's are on their way."""
        # Which block comes next? With 4 swapped blocks and recomputation they are visited
        #   0 1 2 3 (forward)  3 2 1 0 (backward, each recomputed once)
        # so the neighbour is number + 1 on the way up and number - 1 on the way down. The way is known from the visit before:
        # up if that was a lower number, down if not. Two cases are settled without it: 0 is followed by 1 (in the backward
        # pass, where 0 comes last, what is fetched then serves the next forward pass), and the last block by the one before it,
        # as its recomputation comes at once and finds the weights still here.
        number, last = self.blocks.index(block), len(self.blocks) - 1
        neighbour = number + 1 if number == 0 or self.latest < number < last else number - 1
        self.latest = number
        slot = self._bring(number, 0)
        if 0 <= neighbour <= last:
            self._bring(neighbour, 1 - slot)
        self.transfers.await_(self.arrived[slot])
        return forward(*inputs, **named)

    def bring(self, block: nn.Module) -> None:
        """Have a block's weights at hand, outside of its computation, until two others are."""
        self.transfers.await_(self.arrived[self._bring(self.blocks.index(block), 0)])

    def leave_slots(self) -> None:
        """Let all weights be as they are stored, once what was on its way has arrived."""
        if self.transfers.stream is not None:
            self.transfers.stream.synchronize()
        for number in self.in_slots:
            if number is not None:
                self.stored[number].leave()
        self.in_slots = [None, None]

    def _bring(self, number: int, slot: int) -> int:
        """The slot that a block's weights are in, or ``slot``, to which they are then sent."""
        # Two slots: one for the block that computes, one for its neighbour. Whoever is in the wanted slot leaves first, which
        # costs nothing: frozen weights never change, so nothing is written back.
        if number in self.in_slots:
            return self.in_slots.index(number)
        if (evicted := self.in_slots[slot]) is not None:
            self.stored[evicted].leave()
        # The copy waits for all computation issued so far, which may still read the weights that it overwrites. The parameters
        # are settled at once, although their bytes have not arrived: what reads them waits for `arrived` first.
        with self.transfers.under_way():
            self.stored[number].fill(self.slots[slot])
        self.arrived[slot], self.in_slots[slot] = self.transfers.sent(), number
        self.stored[number].settle(self.slots[slot])
        return slot


def large_frozen(block: nn.Module) -> list[nn.Parameter]:
    """The frozen matrices of a block: nearly all of its bytes."""
    return [p for p in block.parameters() if not p.requires_grad and p.ndim == 2 and min(p.shape) > 1]
