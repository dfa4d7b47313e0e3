"""Self-attention with 8-bit products, guarded by exact attention: ``model.attention=int8``, for drawing clips.

Enters: a Wan transformer. Leaves: the same transformer, whose self-attention runs in int8 where that was measured to be
near enough. Cross-attention, which takes little time, stays as it is. It does not know what is drawn.

The arithmetic is that of SageAttention 2 (Zhang et al. 2024, arXiv 2411.10958), with the rotation of QuaRot (Ashkboos et al.
2024, arXiv 2404.00456) before it; ``emulated`` says it in torch. Two of its steps change nothing but what rounding costs:

- Keys less their mean over all tokens: the score of a query with every key falls by the same number, which softmax takes out.
  Otherwise a few channels of K that are far from zero take up most of the 255 steps.
- Queries and keys times a Hadamard matrix: scalar products stay, and one large channel is spread over all of them.

How near is near enough depends on a model's weights, so it is measured on them (``Guard``): in the first step of a run a few
hundred queries of every layer are computed exactly as well. A layer whose worst head is further off than ``TOLERANCE`` stays
exact. Values drawn at random look at everything alike, and are 3 to 4 % off by any 8-bit arithmetic.

Shape suffixes: B batch, N and M tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn

from cinelora.config.schema import INT8, INT8_HEAD
from cinelora.parallel.sequence_parallel import QKV, Kernel, SharedAttention, projected

TOLERANCE = 0.03
"""Relative distance (2-norm) from exact attention beyond which a layer stays exact; of its worst head. The layers of the
embedded model, of 756 tokens, are 1.2 to 2.3 % off, and its clips 43 to 48 dB (PSNR) from exact ones; more tokens average
out more. Random values are 3 to 4 % off, and queries that look at one key alone more than 10 %."""
COMPARED = 256
"""Queries of a layer that are computed exactly as well, spread over all of them."""
LEAST_CAPABILITY = (8, 0)

Seen = tuple[Tensor, Tensor | None]
"""What queries see, (B, N, H, D), and its weight, the log-sum-exp of their scores (B, H, N), where it is asked for."""
Attend = Callable[[Tensor, Tensor, Tensor, bool], Seen]
"""Of queries (B, N, H, D), keys and values (B, M, H, D), and whether the weight is asked for."""


# -- the arithmetic ----------------------------------------------------------------------------------------------------


@cache
def hadamard(size: int) -> Tensor:
    """A Hadamard matrix of signs (size, size), float32, by Sylvester's rule; ``size`` is a power of two."""
    # H(2n) = [[H(n), H(n)], [H(n), -H(n)]]
    signs = torch.ones(1, 1)
    while len(signs) < size:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return signs


def emulated(query_BNHD: Tensor, key_BMHD: Tensor, value_BMHD: Tensor, weighs: bool = False) -> Seen:
    """What the kernels compute, in torch on any device, holding all scores at once.

    The kernels round weights against the largest score so far, and this against the largest of all: alike but for rounding.
    Channels that are no power of two are filled up with zeros, which the kernels do not do.
    """
    query, key, value = (x.float().transpose(1, 2) for x in (query_BNHD, key_BMHD, value_BMHD))
    width = query.shape[-1]
    mean = key.mean(2, keepdim=True)
    # 1. Keys less their mean, and both times the matrix, whose rows are sqrt(size) long.
    size = 1 << (width - 1).bit_length()
    rotate = hadamard(size).to(query.device) / math.sqrt(size)
    rotated = [F.pad(x, (0, size - width)) @ rotate for x in (query, key - mean)]
    # 2. To int8: one scale for 64 queries of a head, and for 128 keys.
    q, k = (_rounded(x, rows) for x, rows in zip(rotated, (64, 128), strict=True))
    scores = q @ k.mT * width**-0.5
    # 3. Weights between 0 and 256 in e4m3, which has 3 bits behind its leading one from 2^-6 to 448. Their sum is not rounded.
    largest = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - largest) * 256
    # 4. Values in e4m3 with one scale a head.
    scale = value.abs().amax((2, 3), keepdim=True).clamp_min(1e-12) / 448
    seen = _e4m3(weights) @ (_e4m3(value / scale) * scale) / weights.sum(-1, keepdim=True)
    # 5. What the mean took from all scores of a query comes back where several results are merged.
    taken = (query @ mean.mT * width**-0.5)[..., 0]
    return seen.transpose(1, 2).to(query_BNHD.dtype), (scores.logsumexp(-1) + taken) if weighs else None


def _rounded(x_BHND: Tensor, rows: int) -> Tensor:
    """Rounded to 255 steps, with one scale for each block of ``rows`` tokens."""
    filled: Any = F.pad(x_BHND, (0, 0, 0, -x_BHND.shape[2] % rows))
    filled = filled.unflatten(2, (-1, rows))
    step = filled.abs().amax((-2, -1), keepdim=True).clamp_min(1e-6) / 127
    rounded: Tensor = ((filled / step).round() * step).flatten(2, 3)[:, :, : x_BHND.shape[2]]
    return rounded


def _e4m3(x: Tensor) -> Tensor:
    return x.to(torch.float8_e4m3fn).float()


def exact(query_BNHD: Tensor, key_BMHD: Tensor, value_BMHD: Tensor, weighs: bool = False) -> Seen:
    """Attention as torch chooses to compute it, which never tells its weight."""
    query, key, value = (x.transpose(1, 2) for x in (query_BNHD, key_BMHD, value_BMHD))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2), None


class RoundingKernel:
    """The kernel of one GPU. Raises ``ValueError`` for tensors that it is not made for."""

    def __init__(self, device: torch.device, on_hopper: bool) -> None:
        self.signs = hadamard(INT8_HEAD).to(device, torch.bfloat16)
        self.on_hopper = on_hopper

    def __call__(self, query_BNHD: Tensor, key_BMHD: Tensor, value_BMHD: Tensor, weighs: bool = False) -> Seen:
        """See ``Attend``."""
        query, key, value = (self._as_made_for(x) for x in (query_BNHD, key_BMHD, value_BMHD))
        from cinelora.nn.int8_kernels import attend  # torch for CUDA brings triton, torch for CPUs does not

        seen, log_weights, mean_BHD = attend(query, key, value, self.signs, self.on_hopper)
        if not weighs:
            return seen, None
        taken = torch.einsum("bnhd,bhd->bhn", query.float(), mean_BHD) * INT8_HEAD**-0.5
        return seen, log_weights * math.log(2) + taken

    def _as_made_for(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16 or x.ndim != 4 or x.shape[-1] != INT8_HEAD or not x.is_cuda:
            raise ValueError(
                f"int8 attention takes bf16 tensors (B, N, H, {INT8_HEAD}) on a GPU, and was given {x.dtype} "
                f"{tuple(x.shape)} on {x.device.type}"
            )
        return x if x.stride(-1) == 1 else x.contiguous()


# -- which kernel runs here --------------------------------------------------------------------------------------------


def kernel_on(device: torch.device) -> RoundingKernel:
    """The fastest kernel that computes rightly on ``device``, found by trying; found once for a device.

    Raises ``RuntimeError`` with the reason where none does.
    """
    if device.type != "cuda":
        raise RuntimeError("it needs an NVIDIA GPU, and there is none here")
    return _kernel_on(torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index))


@cache
def _kernel_on(device: torch.device) -> RoundingKernel:
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise RuntimeError(
            f"it needs a GPU of capability 8.0, and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
        )
    reasons = []
    for on_hopper in (True, False) if capability == (9, 0) else (False,):
        kernel = RoundingKernel(device, on_hopper)
        if not (reason := _trial(kernel, device)):
            return kernel
        reasons.append(f"{'the kernel for Hopper' if on_hopper else 'the Triton kernel'}: {reason}")
    raise RuntimeError("; ".join(reasons))


def _trial(kernel: RoundingKernel, device: torch.device) -> str:
    """Why a kernel is not to be trusted here: it cannot be built or run, or it computes something else; else empty."""
    # Anything may come out of a compiler, a driver or a version of Triton that nobody has tried.
    query, key, value = video_like(500, 2, INT8_HEAD, device)
    try:
        with torch.inference_mode(False), torch.no_grad():
            seen, weight = kernel(query, key, value, True)
            expected, expected_weight = emulated(query, key, value, True)
            assert weight is not None
            assert expected_weight is not None
            off, of_weight = distance(seen, expected), float((weight - expected_weight).abs().max())
    except Exception as error:
        return (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
        )
    good = off < 2**-5 and of_weight < 2**-4
    return "" if good else f"its results are {off:.1%} off, their weights {of_weight:.2g}"


def video_like(tokens: int, heads: int, width: int, device: torch.device | str, seed: int = 0) -> tuple[Tensor, ...]:
    """Queries, keys and values (1, N, H, D) in bf16 that attend near by, as those of video do; K has outlier channels."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    # A smooth field along the tokens that queries and keys share, so that neighbours are alike.
    along = torch.linspace(0, 1, tokens)[:, None, None]
    phases = along * draw(1, heads, width) * tokens / 16 + 6.28 * draw(1, heads, width)
    shared = math.sqrt(2) * phases.cos()
    gain = torch.exp(0.3 * draw(1, heads, width))
    few = (torch.rand(1, heads, width, generator=generator) < 5 / width) * 8.0
    query = (0.8 * shared + 0.6 * draw(tokens, heads, width)) * gain
    key = (0.8 * shared + 0.6 * draw(tokens, heads, width)) * gain + few
    value = (0.5 * shared + draw(tokens, heads, width)) * torch.exp(0.5 * draw(1, heads, width)) + 0.5 * draw(
        1, heads, width
    )
    return tuple(x[None].to(device, torch.bfloat16) for x in (query, key, value))


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative distance in the 2-norm; not a number where a value is none."""
    return float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))


# -- the guard ---------------------------------------------------------------------------------------------------------


@dataclass
class Guard:
    """Which layers of a transformer attend in int8 now: by the step at hand, and by how far off each was measured to be.

    ``keeps``: layers beyond the tolerance stay exact; else they are only reported.
    """

    attend: Attend
    keeps: bool = True
    exact_now: bool = False
    """Whether the step at hand is one that stays exact."""
    errors: dict[int, float] = field(default_factory=dict)
    """Relative distance from exact attention of the worst head of each layer that was measured."""
    rests: bool = False
    """Whether sequences are too short to be rounded, or measured, now."""
    settled: bool = False
    """Whether all ranks have agreed on the errors."""

    @property
    def kept(self) -> list[int]:
        """Layers that stay exact, by number."""
        return [layer for layer in self.beyond if self.keeps]

    @property
    def beyond(self) -> list[int]:
        """Layers that int8 would put further off than the tolerance."""
        return [layer for layer, error in sorted(self.errors.items()) if error > TOLERANCE]

    @property
    def facts(self) -> dict[str, Any]:
        """What a clip's summary says of it."""
        errors = [float(f"{error:.3g}") for _, error in sorted(self.errors.items())]
        return {"name": INT8, "tolerance": TOLERANCE, "exact_layers": self.kept, "errors": errors}

    def result(self, layer: int, otherwise: Attend, query: Tensor, key: Tensor, value: Tensor, weighs: bool) -> Seen:
        """What the queries of one layer see: by ``attend``, or where that is to stay exact, by ``otherwise``."""
        if self.rests:
            return otherwise(query, key, value, weighs)
        if layer not in self.errors:
            rounded = self.attend(query, key, value, weighs)
            self.errors[layer] = error_of(rounded[0], query, key, value)
            return rounded if self.is_rounded(layer) else otherwise(query, key, value, weighs)
        attend = self.attend if self.is_rounded(layer) else otherwise
        return attend(query, key, value, weighs)

    def is_rounded(self, layer: int) -> bool:
        """Whether a layer that was measured attends in int8 now."""
        return not self.exact_now and (self.errors[layer] <= TOLERANCE or not self.keeps)

    def settle(self, ranks: int, device: torch.device) -> None:
        """Take the largest error that any rank found: each sees some heads, or some blocks of keys, and all must go one way."""
        if ranks > 1 and self.errors:
            layers = sorted(self.errors)
            largest = torch.tensor([self.errors[layer] for layer in layers], device=device)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            self.errors = dict(zip(layers, largest.tolist(), strict=True))
        self.settled = True

    def line(self) -> str:
        """``attention: int8, 38 of 40 layers, ...``: what was measured, for the user."""
        middle, most = sorted(self.errors.values())[len(self.errors) // 2], max(self.errors.values())
        off = f"{middle:.1%} off exact attention in the middle layer, {most:.1%} in the worst"
        kept = self.kept
        there = len(self.errors) - len(kept)
        which = f"{len(self.beyond)} layers are more than {TOLERANCE:.0%} off"
        if self.beyond:
            off += f"; {which} and {'stay exact: ' + ', '.join(map(str, kept)) if self.keeps else 'are not kept exact'}"
        return f"attention: int8 in {there} of {len(self.errors)} layers, {off}"


def error_of(rounded_BNHD: Tensor, query_BNHD: Tensor, key_BMHD: Tensor, value_BMHD: Tensor) -> float:
    """How far some rows of ``rounded`` are from exact attention: relative 2-norm of each head, and the largest of these."""
    stride = max(1, query_BNHD.shape[1] // COMPARED) | 1  # odd, so that each place in a tile is among them
    some = query_BNHD[:, ::stride]
    expected = exact(some, key_BMHD, value_BMHD)[0].float()
    off = (rounded_BNHD[:, ::stride].float() - expected).norm(dim=(1, 3))
    by_head = off / expected.norm(dim=(1, 3)).clamp_min(1e-30)
    return float(by_head.nan_to_num(math.inf).amax())


# -- in a transformer --------------------------------------------------------------------------------------------------

_GUARDS: list[Guard] = []
"""Guards by their number, for the operator below: compiled code can carry a number, and no object."""


@torch.library.custom_op("cinelora::guarded_attention", mutates_args=())
def guarded_attention(query: Tensor, key: Tensor, value: Tensor, place: Tensor) -> Tensor:
    """``Guard.result`` as an operator of torch, so that a compiled block stays whole; ``place``: [guard, layer], on the host."""
    guard, layer = place.tolist()
    # an operator's result is its own, laid out as it was announced
    seen, _ = _GUARDS[guard].result(layer, exact, query, key, value, weighs=False)
    laid_out: Tensor = seen.contiguous()
    return laid_out


@guarded_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, place: Tensor) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


class GuardedAttention(WanAttnProcessor):  # type: ignore[misc]
    """Wan's self-attention through ``guarded_attention``; its place is a tensor, so that all layers share one compiled graph."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = place

    def __call__(self, attn: WanAttention, hidden_states: Tensor, *others: Any) -> Tensor:
        """(B, N, H D) to the same, as diffusers' processor does it."""
        query, key, value = projected(attn, hidden_states, *others[-1])
        seen = torch.ops.cinelora.guarded_attention(query, key, value, self.place)
        out: Tensor = attn.to_out[1](attn.to_out[0](seen.flatten(2, 3).type_as(value)))
        return out


@dataclass(frozen=True)
class RoundedLayer:
    """A layer's attention where ranks share a sequence (``sequence_parallel.Rounding``)."""

    guard: Guard
    number: int

    def whole(self, query_BNHD: Tensor, key_BNHD: Tensor, value_BNHD: Tensor) -> Tensor:
        """What the queries see in all tokens of some heads."""
        return self.guard.result(self.number, exact, query_BNHD, key_BNHD, value_BNHD, weighs=False)[0]

    def in_ring(self, exact: Kernel) -> Kernel:
        """The kernel of a ring that merges what is seen in block after block."""
        return _InRing(self, exact)


@dataclass(frozen=True)
class _InRing:
    """Tensors of a ring are (B, H, N, D)."""

    layer: RoundedLayer
    exact: Kernel

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See ``sequence_parallel.Kernel``."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        seen, weight = self.layer.guard.result(self.layer.number, self._otherwise, query, key, value, weighs=True)
        assert weight is not None
        return seen.transpose(1, 2), weight

    def _otherwise(self, query_BNHD: Tensor, key_BMHD: Tensor, value_BMHD: Tensor, weighs: bool) -> Seen:
        query, key, value = (x.transpose(1, 2).contiguous() for x in (query_BNHD, key_BMHD, value_BMHD))
        seen, weight = self.exact.forward(query, key, value)
        return seen.transpose(1, 2), weight

    def backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, weight: Tensor) -> QKV:
        """Refused: what is rounded so far has no gradient that could be trusted."""
        raise RuntimeError("int8 attention has no gradients")


def guard_of(transformer: nn.Module) -> Guard | None:
    """The guard of a transformer's attention, or None where that is exact."""
    blocks = getattr(transformer, "blocks", None)  # a UNet has no row of them
    processor = blocks[0].attn1.processor if blocks else None
    if isinstance(processor, SharedAttention):
        return processor.rounding.guard if isinstance(processor.rounding, RoundedLayer) else None
    return _GUARDS[int(processor.place[0])] if isinstance(processor, GuardedAttention) else None


def round_attention(transformer: WanTransformer3DModel, attend: Attend, keeps: bool) -> Guard:
    """Let the self-attention of ``transformer`` run by ``attend`` under a guard, which is returned."""
    guard = Guard(attend, keeps)
    _GUARDS.append(guard)
    for number, block in enumerate(transformer.blocks):
        if isinstance(block.attn1.processor, SharedAttention):
            block.attn1.processor.rounding = RoundedLayer(guard, number)
        else:
            block.attn1.set_processor(GuardedAttention(torch.tensor([len(_GUARDS) - 1, number])))
    return guard
