"""Attention with 8-bit products on an NVIDIA GPU, in Triton: its quantisation, one kernel for Hopper and one for other cards.

Enters: queries, keys and values in bf16, heads of 128 channels. Leaves: what the queries see, and the logarithm of its weight.
The arithmetic, step by step, is in ``int8_attention.emulated``, in a dozen lines of torch; here is how it runs fast. To be
imported only where triton is: a torch for CPUs comes without it.

1. ``_sum_keys`` and ``_find_largest`` go once over keys and values: the mean of each channel, the largest value of each head.
   Every program writes a sum of its own, and torch adds these up: in the same order each time, where atomic additions are not.
2. ``_quantise_tokens`` writes queries and keys as int8, ``_quantise_values`` the values as e4m3 (or float16), transposed, as the
   tensor cores of Hopper take the second factor of an 8-bit product with its inner dimension contiguous.
3. ``_attend_on_hopper`` (Gluon) or ``_attend`` (plain Triton) reads tiles of them and never holds more than a tile of scores.

Shapes: heads are those of the whole batch, G = B * H, numbered (b, h). P is a number of tokens rounded up to ``PADDING``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

QUERIES, KEYS = 64, 128
"""Tokens that share a scale, and tokens of a tile."""
PADDING = 256
"""Buffers end at a multiple of this many tokens, so that the last tile can be read as a whole."""
CHUNK = 1024
"""Tokens that one program of the first pass goes over."""
E4M3_LARGEST = 448.0
LOG2_E = 1.4426950408889634

# -- quantising --------------------------------------------------------------------------------------------------------
#
# `x` is (B, N, H, D) with any strides but 1 in its last dimension; a program knows its head by the pair (b, h).


@triton.jit
def _tokens(x, of_batch, of_token, of_head, heads, tokens, rows, D: tl.constexpr):
    """Rows of one head in float32, (len(rows), D), and zeros after the last token."""
    head = tl.program_id(1)
    base = x + (head // heads).to(tl.int64) * of_batch + (head % heads) * of_head
    at = base + rows[:, None].to(tl.int64) * of_token + tl.arange(0, D)[None, :]
    return tl.load(at, mask=rows[:, None] < tokens, other=0.0).to(tl.float32)


@triton.jit
def _sum_keys(
    x, of_batch, of_token, of_head, heads, tokens, apart, sums, D: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):
    """Into ``sums`` (G, chunks, D): the sum of each channel over every ``apart``-th of the ``ROWS * apart`` tokens here."""
    total = tl.zeros([D], tl.float32)
    for start in range(0, ROWS, STEP):
        rows = (tl.program_id(0) * ROWS + start + tl.arange(0, STEP)) * apart
        total += tl.sum(_tokens(x, of_batch, of_token, of_head, heads, tokens, rows, D), 0)
    tl.store(sums + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * D + tl.arange(0, D), total)


@triton.jit
def _find_largest(
    x, of_batch, of_token, of_head, heads, tokens, largest, D: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):
    """Into ``largest`` (G, chunks): the largest magnitude among the ``ROWS`` tokens here; not a number if one is none."""
    found = tl.zeros([STEP, D], tl.float32)
    poison = 0.0
    for start in range(0, ROWS, STEP):
        rows = tl.program_id(0) * ROWS + start + tl.arange(0, STEP)
        values = _tokens(x, of_batch, of_token, of_head, heads, tokens, rows, D)
        found = tl.maximum(found, tl.abs(values))
        poison += tl.sum(tl.sum(values * 0.0, 1), 0)
    tl.store(largest + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.max(tl.max(found, 1), 0) + poison)


@triton.jit
def _quantise_tokens(
    x, of_batch, of_token, of_head, heads, tokens, mean, signs, out, scales, padded, D: tl.constexpr, ROWS: tl.constexpr
):
    """Into ``out`` (G, P, D) int8: x less its ``mean`` (G, D), rotated; into ``scales`` (G, P / ROWS) what a step of it is."""
    head, block = tl.program_id(1), tl.program_id(0)
    rows, channels = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    values = _tokens(x, of_batch, of_token, of_head, heads, tokens, rows, D)
    values = tl.where(rows[:, None] < tokens, values - tl.load(mean + head * D + channels)[None, :], 0.0)
    # Signs of a Hadamard matrix are exact in bf16; that it makes vectors sqrt(D) longer goes into the scale.
    matrix = tl.load(signs + channels[:, None] * D + channels[None, :])
    values = tl.dot(values.to(tl.bfloat16), matrix)
    largest = tl.maximum(tl.max(tl.max(tl.abs(values), 1), 0), 1e-6)
    # A maximum passes over what is not a number, and its int8 is anything: the scale says so for the whole block.
    poison = tl.sum(tl.sum(values * 0.0, 1), 0)
    steps = values * (127.0 / largest)
    steps = tl.where(steps > 0, steps + 0.5, steps - 0.5)  # the conversion cuts off towards zero
    at = out + (head.to(tl.int64) * padded + rows[:, None]) * D + channels[None, :]
    tl.store(at, steps.to(tl.int8), mask=rows[:, None] < padded)
    tl.store(scales + head * tl.num_programs(0) + block, largest / 127.0 + poison)


@triton.jit
def _quantise_values(
    x,
    of_batch,
    of_token,
    of_head,
    heads,
    tokens,
    largest,
    out,
    padded,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST: tl.constexpr,
    REORDER: tl.constexpr,
):
    """Into ``out`` (G, D, P): values times ``LARGEST / largest`` of their head, transposed; ``REORDER``: see ``_weights``."""
    head, channels = tl.program_id(1), tl.arange(0, D)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    values = _tokens(x, of_batch, of_token, of_head, heads, tokens, rows, D) * (LARGEST / tl.load(largest + head))
    place = rows
    if REORDER:
        place = (rows // 16) * 16 + ((rows % 8) // 2) * 4 + ((rows % 16) // 8) * 2 + rows % 2
    at = out + (head.to(tl.int64) * D + channels[None, :]) * padded + place[:, None]
    tl.store(at, values.to(out.dtype.element_ty), mask=rows[:, None] < padded)


# fmt: off

# -- the kernel for Hopper ---------------------------------------------------------------------------------------------
#
# A program has three groups of four warps that compute, 64 queries each, and one warp that loads. Keys and values lie in shared
# memory in a ring of two tiles. Four barriers a place of that ring say how it stands: the tile of keys (values) has come; all
# three groups are done with it. A barrier is passed once its phase has changed, which is the parity of how often the place was
# filled.


@gluon.jit
def _load_tiles(
    keys, values, key_ring, value_ring, keys_here, values_here, keys_done, values_done, head, padded, tiles,
    D: gl.constexpr, TILE: gl.constexpr, PLACES: gl.constexpr,
):
    """The warp that loads: keep every place of the ring filled."""
    for tile in range(tiles):
        place = tile % PLACES
        phase = (tile // PLACES) & 1
        mbarrier.wait(keys_done.index(place), phase ^ 1)  # the first round passes at once
        mbarrier.expect(keys_here.index(place), TILE * D)
        tma.async_copy_global_to_shared(
            keys, [head * padded + tile * TILE, 0], keys_here.index(place), key_ring.index(place)
        )
        mbarrier.wait(values_done.index(place), phase ^ 1)
        mbarrier.expect(values_here.index(place), TILE * D)
        tma.async_copy_global_to_shared(
            values, [head * D, tile * TILE], values_here.index(place), value_ring.index(place)
        )


@gluon.jit
def _weights(p, operand: gl.constexpr, TILE: gl.constexpr):
    """Weights (64, TILE) in e4m3 as the first factor of a product, without an exchange between threads.

    A product leaves each thread columns 2t, 2t+1 and 2t+8, 2t+9 of every sixteen; as a factor in 8 bits it wants four in a row,
    4t to 4t+3. Calling the columns by other names moves nothing, if the rows of the second factor are named alike: so
    ``_quantise_values`` writes each sixteen tokens in this order.
    """
    p8 = p.to(gl.float8e4nv).reshape([64, TILE // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([64, TILE])
    return gl.convert_layout(p8, operand)


@gluon.jit
def _take_tile(
    q, k, v, key_here, value_here, key_done, value_done, phase, scale, largest, total, seen, left,
    LAST: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr, layout: gl.constexpr, operand: gl.constexpr,
):
    """One tile of keys and values: the largest score (64,), sum of weights (64,) and sum of weighted values (64, D) after it."""
    mbarrier.wait(key_here, phase)
    product = warpgroup_mma(q, k.permute((1, 0)), gl.zeros([64, TILE], gl.int32, layout), use_acc=False, is_async=True)
    product = warpgroup_mma_wait(0, deps=[product])
    mbarrier.arrive(key_done, count=1)
    scores = product.to(gl.float32)
    if LAST:
        there = gl.arange(0, TILE, gl.SliceLayout(0, layout)) < left
        scores = gl.where(there[None, :], scores, -1e30)
    # Scores are logarithms to base 2. Weights are at most 2^8, as e4m3 has its precision between 2^-6 and 448.
    now = gl.maximum(largest, gl.max(scores, 1) * scale)
    p = gl.exp2(scores * scale - (now - 8.0)[:, None])
    shrink = gl.exp2(largest - now)
    total = total * shrink + gl.sum(p, 1)
    p8 = _weights(p, operand, TILE)
    mbarrier.wait(value_here, phase)
    # Each tile's product starts from zero and is added in float32: the tensor core's own sum of 8-bit products loses bits with
    # length. The sum so far is scaled while the product runs.
    part = warpgroup_mma(p8, v.permute((1, 0)), gl.zeros([64, D], gl.float32, layout), use_acc=False, is_async=True)
    seen = seen * shrink[:, None]
    part = warpgroup_mma_wait(0, deps=[part])
    mbarrier.arrive(value_done, count=1)
    return now, total, seen + part


@gluon.jit
def _compute(
    group: gl.constexpr, query_tiles, key_ring, value_ring, queries_here, keys_here, values_here, keys_done, values_done, out,
    log_weights, query_scales, key_scales, value_scales, queries, keys, query_blocks, key_blocks, base, head, first, whole,
    heads, LAST: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr, PLACES: gl.constexpr,
):
    """A group of four warps: 64 queries against all keys."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    of_rows: gl.constexpr = gl.SliceLayout(1, layout)
    largest = gl.full([64], -1e30, gl.float32, of_rows)
    total = gl.zeros([64], gl.float32, of_rows)
    seen = gl.zeros([64, D], gl.float32, layout)
    block = gl.minimum(first // 64 + group, query_blocks - 1)  # the last program may begin after the last query
    of_queries = gl.load(query_scales + head * query_blocks + block) * base
    mbarrier.wait(queries_here.index(group), 0)
    q = query_tiles.index(group)
    of_keys = gl.load(key_scales + head * key_blocks)
    for tile in range(whole):
        place = tile % PLACES
        phase = (tile // PLACES) & 1
        scale = of_queries * of_keys
        of_keys = gl.load(key_scales + head * key_blocks + gl.minimum(tile + 1, key_blocks - 1))  # of the next, in time
        largest, total, seen = _take_tile(
            q, key_ring.index(place), value_ring.index(place), keys_here.index(place), values_here.index(place),
            keys_done.index(place), values_done.index(place), phase, scale, largest, total, seen, 0, False, D, TILE, layout,
            operand,
        )
    if LAST:
        place = whole % PLACES
        phase = (whole // PLACES) & 1
        largest, total, seen = _take_tile(
            q, key_ring.index(place), value_ring.index(place), keys_here.index(place), values_here.index(place),
            keys_done.index(place), values_done.index(place), phase, of_queries * of_keys, largest, total, seen,
            keys - whole * TILE, True, D, TILE, layout, operand,
        )
    rows = first + group * 64 + gl.arange(0, 64, of_rows)
    channels = gl.arange(0, D, gl.SliceLayout(0, layout))
    result = seen * (gl.load(value_scales + head) / total)[:, None]
    start = out + ((head // heads).to(gl.int64) * queries * heads + head % heads) * D
    at = start + rows[:, None].to(gl.int64) * (heads * D) + channels[None, :]
    gl.store(at, result.to(gl.bfloat16), mask=(rows < queries)[:, None])
    gl.store(log_weights + head * queries + rows, largest + gl.log2(total) - 8.0, mask=rows < queries)


@gluon.jit
def _attend_on_hopper(
    query_rows, key_rows, value_columns, out, log_weights, query_scales, key_scales, value_scales, queries, keys,
    padded_queries, padded_keys, query_blocks, key_blocks, base, heads,
    LAST: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr, PLACES: gl.constexpr, REGISTERS: gl.constexpr,
):
    """192 queries of one head; the grid is (ceil(queries / 192), G)."""
    first = gl.program_id(0) * 192
    head = gl.program_id(1)
    query_tiles = gl.allocate_shared_memory(query_rows.dtype, [3, 64, D], query_rows.layout)
    key_ring = gl.allocate_shared_memory(key_rows.dtype, [PLACES, TILE, D], key_rows.layout)
    value_ring = gl.allocate_shared_memory(value_columns.dtype, [PLACES, D, TILE], value_columns.layout)
    queries_here = gl.allocate_shared_memory(gl.int64, [3, 1], mbarrier.MBarrierLayout())
    keys_here = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    values_here = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    keys_done = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    values_done = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for group in gl.static_range(3):
        mbarrier.init(queries_here.index(group), count=1)
    for place in gl.static_range(PLACES):
        mbarrier.init(keys_here.index(place), count=1)
        mbarrier.init(values_here.index(place), count=1)
        mbarrier.init(keys_done.index(place), count=3)
        mbarrier.init(values_done.index(place), count=3)
    for group in gl.static_range(3):
        mbarrier.expect(queries_here.index(group), 64 * D)
        tma.async_copy_global_to_shared(
            query_rows,
            [head * padded_queries + first + group * 64, 0],
            queries_here.index(group),
            query_tiles.index(group),
        )
    whole = keys // TILE
    tiles = whole + (1 if LAST else 0)
    # Every group is given the same: what is constant at compilation would be so no more in a tuple with a name of its own.
    gl.warp_specialize(
        [
            (_compute, (
                0, query_tiles, key_ring, value_ring, queries_here, keys_here, values_here, keys_done, values_done, out,
                log_weights, query_scales, key_scales, value_scales, queries, keys, query_blocks, key_blocks, base, head, first,
                whole, heads, LAST, D, TILE, PLACES,
            )),
            (_compute, (
                1, query_tiles, key_ring, value_ring, queries_here, keys_here, values_here, keys_done, values_done, out,
                log_weights, query_scales, key_scales, value_scales, queries, keys, query_blocks, key_blocks, base, head, first,
                whole, heads, LAST, D, TILE, PLACES,
            )),
            (_compute, (
                2, query_tiles, key_ring, value_ring, queries_here, keys_here, values_here, keys_done, values_done, out,
                log_weights, query_scales, key_scales, value_scales, queries, keys, query_blocks, key_blocks, base, head, first,
                whole, heads, LAST, D, TILE, PLACES,
            )),
            (_load_tiles, (
                key_rows, value_columns, key_ring, value_ring, keys_here, values_here, keys_done, values_done, head, padded_keys,
                tiles, D, TILE, PLACES,
            )),
        ],
        [4, 4, 1],
        [REGISTERS, REGISTERS, 24],
    )


# -- the kernel for other cards ----------------------------------------------------------------------------------------


@triton.jit
def _attend(
    q8, k8, values, out, log_weights, query_scales, key_scales, value_scales, queries, keys, padded_queries, padded_keys,
    query_blocks, key_blocks, base, heads, D: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):
    """64 queries of one head; the grid is (ceil(queries / 64), G). The steps are those of ``_take_tile``."""
    block, head = tl.program_id(0), tl.program_id(1)
    rows, channels, columns = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, TILE)
    of_queries = tl.load(query_scales + head * query_blocks + block) * base
    q = tl.load(q8 + (head.to(tl.int64) * padded_queries + rows[:, None]) * D + channels[None, :])
    key_base = k8 + head.to(tl.int64) * padded_keys * D
    value_base = values + head.to(tl.int64) * D * padded_keys
    largest = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    seen = tl.zeros([ROWS, D], tl.float32)
    for start in range(0, keys, TILE):
        k = tl.load(key_base + (start + columns)[None, :] * D + channels[:, None])
        v = tl.load(value_base + channels[None, :] * padded_keys + (start + columns)[:, None])
        scale = of_queries * tl.load(key_scales + head * key_blocks + start // TILE)
        scores = tl.dot(q, k).to(tl.float32) * scale
        scores = tl.where((start + columns)[None, :] < keys, scores, -1e30)
        now = tl.maximum(largest, tl.max(scores, 1))
        p = tl.exp2(scores - (now - 8.0)[:, None])
        shrink = tl.exp2(largest - now)
        total = total * shrink + tl.sum(p, 1)
        seen = seen * shrink[:, None] + tl.dot(p.to(v.dtype), v)
        largest = now
    result = seen * (tl.load(value_scales + head) / total)[:, None]
    start_out = out + ((head // heads).to(tl.int64) * queries * heads + head % heads) * D
    at = start_out + rows[:, None].to(tl.int64) * (heads * D) + channels[None, :]
    tl.store(at, result.to(tl.bfloat16), mask=(rows < queries)[:, None])
    tl.store(log_weights + head * queries + rows, largest + tl.log2(total) - 8.0, mask=rows < queries)


# fmt: on

# -- from Python -------------------------------------------------------------------------------------------------------


def attend(query: Tensor, key: Tensor, value: Tensor, signs: Tensor, on_hopper: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What ``query`` (B, N, H, 128) bf16 sees in ``key`` and ``value`` (B, M, H, 128), as (B, N, H, 128).

    ``signs`` (128, 128) bf16 is a Hadamard matrix. Beside the output: the logarithm, to base 2, of the sum of weights (B, H, N)
    against keys less their mean, and that mean (B, H, 128), both float32.
    """
    batch, queries, heads, width = query.shape
    keys, groups = key.shape[1], batch * heads
    e4m3 = torch.cuda.get_device_capability(query.device) >= (8, 9)
    mean = _mean_of_keys(key)
    none = torch.zeros_like(mean)
    q8, query_scales = _as_int8(query, none, signs, QUERIES)
    k8, key_scales = _as_int8(key, mean, signs, KEYS)
    values, value_scales = _as_columns(value, torch.float8_e4m3fn if e4m3 else torch.float16, on_hopper)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    log_weights = torch.empty(batch, heads, queries, device=query.device, dtype=torch.float32)
    # of the scaling by 1 / sqrt(D), and of the rotation of two factors, which made each sqrt(D) longer
    base = width**-0.5 / width * LOG2_E
    scales = (query_scales, key_scales, value_scales)
    sizes = (queries, keys, q8.shape[1], k8.shape[1], query_scales.shape[1], key_scales.shape[1], base, heads)
    if on_hopper:
        int8, fp8 = gl.int8, gl.float8e4nv
        described = (
            _tiles(q8.view(-1, width), [QUERIES, width], int8),
            _tiles(k8.view(-1, width), [KEYS, width], int8),
            _tiles(values.view(-1, values.shape[-1]), [width, KEYS], fp8),
        )
        grid = (triton.cdiv(queries, 3 * QUERIES), groups)
        _attend_on_hopper[grid](
            *described, out, log_weights, *scales, *sizes, keys % KEYS != 0, width, KEYS, 2, 160, num_warps=4
        )
    else:
        grid = (triton.cdiv(queries, QUERIES), groups)
        _attend[grid](
            q8, k8, values, out, log_weights, *scales, *sizes, width, QUERIES, KEYS, num_warps=4, num_stages=2
        )
    return out, log_weights, mean.view(batch, heads, width)


def _tiles(tensor: Tensor, tile: list[int], dtype: Any) -> Any:
    layout = gl.NVMMASharedLayout.get_default_for(tile, dtype)
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), tile, layout)


def _where(x: Tensor) -> tuple[Any, ...]:
    """What the quantising kernels ask of a tensor (B, N, H, D)."""
    return x, x.stride(0), x.stride(1), x.stride(2), x.shape[2], x.shape[1]


def _padded(tokens: int) -> int:
    return triton.cdiv(tokens, PADDING) * PADDING


def _mean_of_keys(key: Tensor) -> Tensor:
    """The mean of each channel over some thousand tokens or more, (G, D) float32.

    What is taken from all keys alike changes nothing, so it need not be the mean of all of them to the last digit.
    """
    batch, tokens, heads, width = key.shape
    apart = max(1, tokens // 4096) | 1  # odd: rows of a picture are even, and every place of a row is to be among them
    seen = triton.cdiv(tokens, apart)
    chunks = triton.cdiv(seen, 256)
    sums = torch.empty(batch * heads, chunks, width, device=key.device, dtype=torch.float32)
    _sum_keys[(chunks, batch * heads)](*_where(key), apart, sums, width, 256, 64, num_warps=8)
    return sums.sum(1) / seen


def _as_int8(x: Tensor, mean: Tensor, signs: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, width = x.shape
    padded, groups = _padded(tokens), batch * heads
    out = torch.empty(groups, padded, width, device=x.device, dtype=torch.int8)
    scales = torch.empty(groups, padded // rows, device=x.device, dtype=torch.float32)
    grid, warps = (padded // rows, groups), rows // 16
    _quantise_tokens[grid](*_where(x), mean, signs, out, scales, padded, width, rows, num_warps=warps)
    return out, scales


def _as_columns(value: Tensor, dtype: torch.dtype, reorder: bool) -> tuple[Tensor, Tensor]:
    """Values (G, D, P) in ``dtype``, and the scale of each head."""
    batch, tokens, heads, width = value.shape
    padded, groups, chunks = _padded(tokens), batch * heads, triton.cdiv(tokens, CHUNK)
    parts = torch.empty(groups, chunks, device=value.device, dtype=torch.float32)
    _find_largest[(chunks, groups)](*_where(value), parts, width, CHUNK, 64, num_warps=8)
    largest = parts.amax(1).clamp_min(1e-12)
    out = torch.empty(groups, width, padded, device=value.device, dtype=dtype)
    _quantise_values[(padded // 128, groups)](
        *_where(value), largest, out, padded, width, 128, E4M3_LARGEST, reorder, num_warps=8
    )
    return out, largest / E4M3_LARGEST
