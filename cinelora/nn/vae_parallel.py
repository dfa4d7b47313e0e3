"""Wan's VAE on several ranks, each with some rows of the picture: what one rank computes, without seams.

Enters: an ``AutoencoderKLWan`` on every rank, and a share of the rows of pixels or latents. Leaves: the same share of latents
or pixels, and how to put all together. It does not know whether frames come in chunks with caches or as a whole clip.

The VAE is convolutions of three rows at most, norms over the channels of a pixel, and an attention over the places of a
frame in each half. So a rank asks its neighbours for one row each before a convolution, has zeros beyond the picture's edge,
and looks at everyone's rows in the attention. Tiles would see nothing of what lies beside them.

Shape suffixes: B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import Tensor, nn

from cinelora.parallel.sequence_parallel import count


def ranks_here() -> int:
    """Ranks in the process group, or one where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank_here() -> int:
    """This one's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def shares(height: int, ranks: int) -> list[int]:
    """Rows of each rank: alike, or one more for the first ones where they do not divide."""
    return [height // ranks + (rank < height % ranks) for rank in range(ranks)]


def own_rows(x: Tensor, rows: list[int], rank: int) -> Tensor:
    """Those of (..., H, W) that are ``rank``'s."""
    return x.narrow(-2, sum(rows[:rank]), rows[rank])


@contextmanager
def by_rows(vae: AutoencoderKLWan, rows: list[int]) -> Iterator[None]:
    """Inside, ``vae`` takes and gives this rank's share of a picture, ``rows`` of latents of each rank; all ranks take part.

    To be entered inside ``whole_clips``, where both are.
    """
    # Three changes, all undone at the end: what pads a picture's rows pads none (its edge may be another rank's middle), what
    # sees three rows is given its neighbours' first, and attention looks at the rows of all.
    with ExitStack() as undo:
        for module in vae.modules():
            if sees_rows(module):
                undo.callback(module.register_forward_pre_hook(_beside_neighbours).remove)
            if sees_rows(module) or isinstance(module, nn.ZeroPad2d):
                name, padding, without = _padding(module)
                setattr(module, name, without)
                undo.callback(setattr, module, name, padding)
            if type(module) is WanAttentionBlock:
                module.forward = partial(_attention, module, rows)
                undo.callback(delattr, module, "forward")
        yield


def with_neighbours(x: Tensor) -> Tensor:
    """(..., H, W) between the last row of the rank above and the first of the rank below, (..., H + 2, W).

    Zeros are beyond the picture's edge.
    """
    # A row of zeros above and one below; then each neighbour that exists (-1 above, 1 below) is sent the own row at its side, and
    # the row that it sends takes the place of the zeros. Sent and received are contiguous tensors, as rows of a picture are not.
    x = F.pad(x, (0, 0, 1, 1))
    own, zeros = {-1: x[..., 1:2, :], 1: x[..., -2:-1, :]}, {-1: x[..., :1, :], 1: x[..., -1:, :]}
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    there = [side for side in own if 0 <= rank + side <= last]
    rows = {side: torch.empty(zeros[side].shape, dtype=x.dtype, device=x.device) for side in there}
    operations = []
    for side in there:
        count("rows", own[side], 1)
        operations.append(dist.P2POp(dist.isend, own[side].contiguous(), rank + side))
        operations.append(dist.P2POp(dist.irecv, rows[side], rank + side))
    _exchanged(*operations)
    for side in there:
        zeros[side].copy_(rows[side])
    return x


def _exchanged(*operations: dist.P2POp) -> None:
    """Begin them all at once, lest two ranks wait for each other to receive first, and wait until all are done."""
    for work in dist.batch_isend_irecv(list(operations)):
        work.wait()


def everyones_rows(x: Tensor, rows: list[int]) -> Tensor:
    """(..., H, W) of all ranks' (..., rows[rank], W), on each of them."""
    padded = F.pad(x, (0, 0, 0, max(rows) - x.shape[-2])).contiguous()
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    count("frames", padded, len(rows) - 1)
    return torch.cat([part[..., :number, :] for part, number in zip(parts, rows, strict=True)], dim=-2)


def on_first(x_BCTHW: Tensor, rows: list[int]) -> Tensor | None:
    """All ranks' rows put together on rank 0; None on the others."""
    if dist.get_rank():
        count("pixels", x_BCTHW, 1)
        _exchanged(dist.P2POp(dist.isend, x_BCTHW.contiguous(), 0))
        return None
    # One rank's part at a time: rank 0 has no room for the clip twice.
    *start, _, width = x_BCTHW.shape
    whole = x_BCTHW.new_empty((*start, sum(rows), width))
    first, *others = whole.split(rows, -2)  # type: ignore[no-untyped-call]
    first.copy_(x_BCTHW)
    for other, place in enumerate(others, 1):
        part = x_BCTHW.new_empty((*start, rows[other], width))
        _exchanged(dist.P2POp(dist.irecv, part, other))
        place.copy_(part)
    return whole


def any_rank(truth: bool, device: torch.device) -> bool:
    """Whether it is true of any rank: what all of them then do alike."""
    flag = torch.tensor(float(truth), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def sees_rows(module: nn.Module) -> bool:
    """Whether it is a convolution that sees other rows than its own: the one below, and one above unless it halves them."""
    return isinstance(module, WanCausalConv3d | nn.Conv2d) and module.kernel_size[-2] == 3


def _padding(module: nn.Module) -> tuple[str, Any, Any]:
    """The attribute that holds what ``module`` pads with, its value, and the same without rows."""
    if isinstance(module, nn.Conv2d):
        return "padding", module.padding, (0, module.padding[1])
    name = "padding" if isinstance(module, nn.ZeroPad2d) else "_padding"
    left, right, _, _, *rest = getattr(module, name)  # rest: frames
    return name, getattr(module, name), (left, right, 0, 0, *rest)


def _beside_neighbours(conv: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A convolution's input, and the frames before it where it is given them, with the neighbours' rows."""
    # With caches a convolution is handed the frames before its own, which lack the neighbours' rows as well. Both go in one
    # exchange, as frames of one tensor. One that halves the rows (stride 2) has a row below each of its pairs and none above.
    x, *cached = inputs
    if cached and cached[0] is not None:
        before = cached[0].shape[2]
        joined = with_neighbours(torch.cat([cached[0], x], dim=2))
        return joined[:, :, before:], joined[:, :, :before]
    seen = with_neighbours(x)
    return seen if conv.stride[-2] == 1 else seen[..., 1:, :], *cached


def _attention(block: WanAttentionBlock, rows: list[int], x_BCTHW: Tensor) -> Tensor:
    """The block's attention from this rank's places to all places of a frame."""
    # Queries are of the own rows, keys and values of all rows: so each rank computes its part of the attention's output, which
    # is what the layers after it want. Norm and projections are of each place by itself, and the residual is the own rows.
    batch, width = len(x_BCTHW), x_BCTHW.shape[-1]
    own = block.norm(x_BCTHW.transpose(1, 2).flatten(0, 1))
    everyone, channels = everyones_rows(own, rows), own.shape[1]
    weights, biases = block.to_qkv.weight.split(channels), block.to_qkv.bias.split(channels)
    query, key, value = (
        F.conv2d(image, weight, bias).flatten(2).transpose(1, 2)[:, None].contiguous()
        for image, weight, bias in zip((own, everyone, everyone), weights, biases, strict=True)
    )
    looked = F.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2)
    planes: Tensor = block.proj(looked.reshape(len(own), channels, -1, width))
    return x_BCTHW + planes.view(batch, -1, *planes.shape[1:]).transpose(1, 2)
