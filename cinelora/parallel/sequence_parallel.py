"""One sequence shared by several ranks, in training and without gradients: each computes its tokens, attention sees all.

Enters: a Wan transformer, and how many ranks share its sequences. Leaves: the same transformer, which is given the whole
input and gives the whole output on every rank, but whose blocks see this rank's tokens alone. It does not know what is drawn or
trained, nor how ranks were chosen.

- Sequences are cut into equal runs of tokens, one a rank, the last filled up. What fills is cut off before attention, so it
  changes nothing; cross-attention is of each token by itself and needs no exchange.
- Ulysses (Jacobs et al. 2023, arXiv 2309.14509): before self-attention ranks exchange tokens for heads, after it heads for
  tokens. Each computes some heads over all tokens, by the kernel that one rank would run.
- Ring (Liu et al. 2023, arXiv 2310.01889): keys and values go round; what a rank's queries see in each block is merged by
  the logarithms of the sums of exponentials. Backwards they go round again, with their gradients beside them.
- Both (Fang and Zhao 2024, arXiv 2405.07719): rings of Ulysses groups.

Gradients: every rank computes the whole loss from the whole output, and the gather hands it back the gradient of its own
tokens times the number of ranks that share. So the mean over all ranks, which DDP and ZeRO take in any case, is the sum over the
ranks of a sequence and the mean over sequences.

Shape suffixes: B batch, N tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from torch.distributed import ProcessGroup

SENT: Counter[str] = Counter()
"""Bytes that this process has sent to others since it began: ``heads`` (Ulysses), ``ring``, ``gather`` and ``guidance``, and
the VAE's ``rows``, ``frames`` and ``pixels``."""


# -- who shares with whom ----------------------------------------------------------------------------------------------


class Groups(NamedTuple):
    """The process groups that this rank is in: of its sequence, its heads' exchange, its ring, and of its like elsewhere."""

    sequence: ProcessGroup
    ulysses: ProcessGroup
    ring: ProcessGroup
    across: ProcessGroup


@cache
def groups_of(ring: int, ulysses: int) -> Groups:
    """Groups in a world where every ``ring * ulysses`` ranks in a row share a sequence; to be called by all ranks."""
    # Ranks are numbered (group, ring, ulysses), the Ulysses degree fastest. With 8 ranks, ring 2 and ulysses 2:
    #   sequence: [0 1 2 3] [4 5 6 7]      those that hold one sequence between them
    #   ulysses:  [0 1] [2 3] [4 5] [6 7]  neighbours, since the exchange of heads is the larger one
    #   ring:     [0 2] [1 3] [4 6] [5 7]  one of each Ulysses group
    #   across:   [0 4] [1 5] [2 6] [3 7]  the same place in the other sequences (the two halves of guidance)
    ranks = torch.arange(dist.get_world_size()).view(-1, ring, ulysses)
    members = (ranks.flatten(1), ranks.flatten(0, 1), ranks.mT.flatten(0, 1), ranks.flatten(1).T)
    return Groups(*(dist.new_subgroups_by_enumeration(each.tolist())[0] for each in members))  # type: ignore[no-untyped-call]


@dataclass
class Sharing:
    """A transformer's sequences, each shared by ``ring * ulysses`` ranks; ``num_tokens`` is of the pass at hand."""

    ring: int
    ulysses: int
    active: bool = True
    num_tokens: int = field(default=0, init=False)

    @property
    def ranks(self) -> int:
        """Ranks that share a sequence."""
        return self.ring * self.ulysses

    @property
    def groups(self) -> Groups:
        """This rank's groups, made when they are first asked for."""
        return groups_of(self.ring, self.ulysses)

    def ready(self) -> None:
        """Make the groups now: all ranks have to, and not all of them compute something first."""
        groups_of(self.ring, self.ulysses)

    @property
    def share(self) -> int:
        """Tokens of each rank."""
        return -(-self.num_tokens // self.ranks)

    @property
    def first(self) -> int:
        """The first token of this rank."""
        return dist.get_rank(self.groups.sequence) * self.share

    @property
    def there(self) -> int:
        """Tokens of this rank that are of the sequence, without what fills its share up."""
        return max(0, min(self.share, self.num_tokens - self.first))

    def own(self, tokens: Tensor, dim: int) -> Tensor:
        """This rank's share of ``tokens`` along ``dim``, filled up with zeros."""
        # Every rank holds equally many tokens, as collectives want equal sizes. 10 tokens on 4 ranks are 3 + 3 + 3 + 1, so
        # the last rank adds two rows of zeros; 9 on 4 are 3 + 3 + 3 + 0, and the last rank holds zeros alone.
        own = tokens.narrow(dim, min(self.first, self.num_tokens), self.there)
        if self.there == self.share:
            return own
        return F.pad(own, [0, 0] * (own.ndim - 1 - dim) + [0, self.share - self.there])

    def mean(self, values_BN: Tensor) -> float:
        """The mean of a number of each token over the whole sequence, the same on all its ranks."""
        total = values_BN[:, : self.there].double().sum()
        dist.all_reduce(total, group=self.groups.sequence)
        return float(total) / (len(values_BN) * self.num_tokens)

    # Forward hooks on the modules around the blocks, so that diffusers' own forward pass stays as it is. They run in this
    # order: `rope` makes the angles of the whole sequence (own_angles keeps this rank's, and learns the length),
    # `patch_embedding` the patches (own_patches), `condition_embedder` the modulation (before it own_times, where each token has
    # a time of its own), then the blocks see this rank's tokens alone, and `proj_out` ends them (all_tokens gathers). What
    # diffusers does after proj_out, unpatchifying, is then done on the whole by every rank.

    def own_angles(self, module: nn.Module, inputs: Any, angles: tuple[Tensor, Tensor]) -> Any:
        """The rotary embedding of this rank's tokens, (1, n, 1, D) each, and the length of the whole sequence."""
        if not self.active:
            return None
        self.num_tokens = angles[0].shape[1]
        return (*(self.own(angle, 1) for angle in angles), self.num_tokens)

    def own_patches(self, module: nn.Module, inputs: Any, patches: Tensor) -> Tensor | None:
        """Of patches (B, C, T, h, w) this rank's, as (B, C, n, 1, 1); rotary embeddings come before them."""
        return self.own(patches.flatten(2), 2)[..., None, None] if self.active else None

    def own_times(self, module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        """Of a time for each token, (B N,), those of this rank's tokens; one time for all of them stays."""
        if not self.active or named.get("timestep_seq_len") is None:
            return None
        times_BN = inputs[0].unflatten(0, (-1, self.num_tokens))
        return (self.own(times_BN, 1).flatten(), *inputs[1:]), {**named, "timestep_seq_len": self.share}

    def all_tokens(self, module: nn.Module, inputs: Any, own_BND: Tensor) -> Tensor | None:
        """The output of all ranks' tokens."""
        return gather(own_BND, self.groups.sequence)[:, : self.num_tokens] if self.active else None


def share(transformer: WanTransformer3DModel, ring: int, ulysses: int) -> None:
    """Let every ``ring * ulysses`` ranks in a row share the sequences of ``transformer``.

    Blocks may be compiled, recomputed, swapped and skipped as before, adapters come and go. The exchange breaks a compiled
    block's graph, before and after self-attention's kernel.
    """
    sharing = Sharing(ring, ulysses)
    transformer.rope.register_forward_hook(sharing.own_angles)
    transformer.patch_embedding.register_forward_hook(sharing.own_patches)
    # before a hook of the family's own, which embeds the times of the tokens that are there
    transformer.condition_embedder.register_forward_pre_hook(sharing.own_times, with_kwargs=True, prepend=True)
    transformer.proj_out.register_forward_hook(sharing.all_tokens)
    for block in transformer.blocks:
        processor = SharedAttention(sharing)
        processor._attention_backend = block.attn1.processor._attention_backend
        block.attn1.set_processor(processor)


def sharing_of(transformer: WanTransformer3DModel) -> Sharing | None:
    """How a transformer's sequences are shared, or None where they are not."""
    blocks = getattr(transformer, "blocks", None)  # a UNet has no row of them, and shares no sequence
    processor = blocks[0].attn1.processor if blocks else None
    return processor.sharing if isinstance(processor, SharedAttention) else None


@contextmanager
def alone(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Inside the block this rank computes whole sequences, whatever others do."""
    sharing = sharing_of(transformer) or Sharing(1, 1)
    sharing.active = False
    try:
        yield
    finally:
        sharing.active = True


# -- attention ---------------------------------------------------------------------------------------------------------


class Rounding(Protocol):
    """Attention of one layer that may round to fewer bits than bf16 has; without gradients."""

    def whole(self, query_BNHD: Tensor, key_BNHD: Tensor, value_BNHD: Tensor) -> Tensor:
        """What the queries see, (B, N, H, D)."""

    def in_ring(self, exact: Kernel) -> Kernel:
        """The same for a block of a ring, where ``exact`` is the kernel that rounds no further."""


class SharedAttention(WanAttnProcessor):  # type: ignore[misc]
    """Wan's self-attention of this rank's tokens to those of all ranks; of a whole sequence where it is given one."""

    def __init__(self, sharing: Sharing) -> None:
        super().__init__()
        self.sharing = sharing
        self.rounding: Rounding | None = None

    def __call__(self, attn: WanAttention, hidden_states: Tensor, *others: Any) -> Tensor:
        """(B, n, H D) to the same, as diffusers' processor does it; the angles carry the length of the sequence."""
        # Of the others self-attention has the last alone, the rotary embedding. own_angles adds the length to it as a third part;
        # without that nobody shares, and diffusers' own attention runs.
        *_, rotary_emb = others
        if len(rotary_emb) == 2:
            whole: Tensor = super().__call__(attn, hidden_states, *others)
            return whole
        *angles, num_tokens = rotary_emb
        query, key, value = projected(attn, hidden_states, *angles)
        seen = self.attend(query, key, value, num_tokens).flatten(2, 3).type_as(value)
        out: Tensor = attn.to_out[1](attn.to_out[0](seen))
        return out

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, query_BNHD: Tensor, key_BNHD: Tensor, value_BNHD: Tensor, num_tokens: int) -> Tensor:
        """What this rank's tokens see in all ``num_tokens``, (B, n, H, D)."""
        # 1. Ulysses: from (own tokens, all heads) to (the group's tokens, own heads).
        # 2. Attention: over the whole sequence where the Ulysses group has it, else block by block round the ring.
        # 3. Ulysses back. Filled-up rows are cut off before 2, lest queries see zeros as keys, and added again before 3.
        sharing = self.sharing
        share, groups = query_BNHD.shape[1], sharing.groups
        tensors = [tokens_for_heads(tensor, groups.ulysses) for tensor in (query_BNHD, key_BNHD, value_BNHD)]
        if sharing.ring == 1:
            query, key, value = (tensor[:, :num_tokens] for tensor in tensors)
            seen: Tensor = (
                self.rounding.whole(query, key, value)
                if self.rounding
                else dispatch_attention_fn(query, key, value, backend=self._attention_backend)
            )
        else:
            block = share * sharing.ulysses
            lengths = [max(0, min(block, num_tokens - place * block)) for place in range(sharing.ring)]
            kernel = kernel_for(query_BNHD, self._attention_backend)
            kernel = self.rounding.in_ring(kernel) if self.rounding else kernel
            turned = [tensor.transpose(1, 2).contiguous() for tensor in tensors]
            seen = _Ring.apply(*turned, lengths, groups.ring, kernel).transpose(1, 2)  # type: ignore[no-untyped-call]
        if filling := share * sharing.ulysses - seen.shape[1]:
            seen = F.pad(seen, (0, 0, 0, 0, 0, filling))
        return heads_for_tokens(seen, groups.ulysses)


def projected(attn: WanAttention, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, normalised and rotated by their places, and values, (B, N, H, D) each, as diffusers computes them."""
    value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
    query, key = (
        rotate(norm(projection(hidden_states)).unflatten(2, (attn.heads, -1)), cos, sin).type_as(value)
        for norm, projection in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k))
    )  # under autocast norms are float32, and attention is not
    return query, key, value


def rotate(x_BNHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in diffusers' order of operations, so that no bit differs from a whole sequence's."""
    even, odd = x_BNHD[..., 0::2], x_BNHD[..., 1::2]
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x_BNHD)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


# -- exchanges ---------------------------------------------------------------------------------------------------------


def count(kind: str, tensor: Tensor, copies: float) -> None:
    """Note that ``copies`` copies of ``tensor`` went to other ranks."""
    SENT[kind] += round(tensor.nbytes * copies)


def tokens_for_heads(own_BNHD: Tensor, group: ProcessGroup) -> Tensor:
    """All heads of some tokens, (B, n, H, D), to some heads of all tokens of the group, (B, u n, H / u, D)."""
    ranks = dist.get_world_size(group)
    if ranks == 1:
        return own_BNHD
    came: Tensor = _AllToAll.apply(torch.stack(own_BNHD.chunk(ranks, 2)), group)  # type: ignore[no-untyped-call]
    return came.transpose(0, 1).flatten(1, 2)


def heads_for_tokens(seen_BNHD: Tensor, group: ProcessGroup) -> Tensor:
    """The way back, (B, u n, H / u, D) to (B, n, H, D)."""
    ranks = dist.get_world_size(group)
    if ranks == 1:
        return seen_BNHD
    came: Tensor = _AllToAll.apply(torch.stack(seen_BNHD.chunk(ranks, 1)), group)  # type: ignore[no-untyped-call]
    return torch.cat(came.unbind(0), 2)


class _AllToAll(torch.autograd.Function):
    """Part i of the first dimension goes to rank i; so do gradients, back where their parts came from."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        came = torch.empty_like(parts)
        dist.all_to_all_single(came, parts, group=group)
        count("heads", parts, 1 - 1 / len(parts))
        return came

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(gradient.contiguous(), ctx.group), None  # type: ignore[no-untyped-call]


def gather(own_BND: Tensor, group: ProcessGroup) -> Tensor:
    """All ranks' tokens in order, (B, ranks n, D); backwards each rank's own gradient, times the number of ranks."""
    gathered: Tensor = _Gather.apply(own_BND.contiguous(), group)  # type: ignore[no-untyped-call]
    return gathered.transpose(0, 1).flatten(1, 2)


class _Gather(torch.autograd.Function):
    """A dimension of ranks before all others."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        ranks = dist.get_world_size(group)
        gathered = own.new_empty(ranks, *own.shape)
        dist.all_gather(list(gathered.unbind(0)), own, group=group)
        count("gather", own, ranks - 1)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Each rank computes the same loss from the same whole output, so each holds the whole gradient, and no exchange
        # is needed. Times the number of ranks, because DDP and ZeRO will divide the sum over these ranks by it.
        return gradient[dist.get_rank(ctx.group)] * len(gradient), None


def exchange(tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
    """The ``tensor`` of every rank in ``group``, in order; without gradients."""
    came = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(came, tensor.contiguous(), group=group)
    count("guidance", tensor, len(came) - 1)
    return came


class Passing:
    """A tensor on its way to the next in a ring, and the last one's on its way here; computation continues meanwhile."""

    def __init__(self, tensor: Tensor, group: ProcessGroup, tag: int) -> None:
        ranks, place = dist.get_process_group_ranks(group), dist.get_rank(group)
        self.leaving, self.coming = tensor, torch.empty_like(tensor)
        following, previous = ranks[(place + 1) % len(ranks)], ranks[place - 1]
        sending = dist.P2POp(dist.isend, self.leaving, following, group, tag)
        receiving = dist.P2POp(dist.irecv, self.coming, previous, group, tag)
        self.works = dist.batch_isend_irecv([sending, receiving])
        count("ring", tensor, 1)

    def came(self) -> Tensor:
        """What the last one sent."""
        for work in self.works:
            work.wait()
        return self.coming


# -- the ring ----------------------------------------------------------------------------------------------------------

BLOCKS, GRADIENTS = 0, 1
"""Tags of what goes round, which is of two kinds at once."""


class _Ring(torch.autograd.Function):
    """Attention (B, H, n, D) of the queries here to the keys and values of all in a ring, of which rank i has ``lengths[i]``.

    What lies after these lengths is filling, and is not looked at. Sums and gradients that go round are float32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], group: ProcessGroup, kernel: Kernel
    ) -> Tensor:
        # Hop h: this rank holds the block of the rank h places before it in the ring. While the kernel works on it, the
        # same block is already on its way to the next rank, so that only the first hop finds a link idle.
        # After n - 1 transfers every rank has seen all n blocks.
        place = dist.get_rank(group)
        ctx.filled, query = query.shape[2], query[:, :, : lengths[place]].contiguous()
        own = block = torch.stack([key, value])
        seen = query.new_zeros(query.shape, dtype=torch.float32)
        weight = query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32)
        for hop in range(len(lengths)):
            passing = Passing(block, group, BLOCKS) if hop + 1 < len(lengths) else None
            # a negative index counts from the end, which is just how a ring continues: place 0, hop 1 is the last rank
            if query.shape[2] and (length := lengths[place - hop]):
                part, part_weight = kernel.forward(query, *block[:, :, :, :length].contiguous())
                seen, weight = merged(seen, weight, part, part_weight)
            block = passing.came() if passing else block
        out = seen.to(query.dtype)
        ctx.lengths, ctx.group, ctx.kernel = lengths, group, kernel
        ctx.save_for_backward(query, own, out, weight)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Blocks go round once more, as in the forward pass. The gradient of a block is a sum over all ranks' queries, so a
        # second tensor goes round with it: it arrives with the sum so far, this rank adds its own part and passes it on.
        # A block's gradient is one hop later than the block (a rank must first compute its part), and after the last hop one
        # more transfer brings it to the rank that owns the block.
        query, block, out, weight = ctx.saved_tensors
        place, lengths, gradient = dist.get_rank(ctx.group), ctx.lengths, gradient.contiguous()
        of_query = query.new_zeros((*query.shape[:2], ctx.filled, query.shape[3]), dtype=torch.float32)
        returning: Passing | None = None
        for hop in range(len(lengths)):
            passing = Passing(block, ctx.group, BLOCKS) if hop + 1 < len(lengths) else None
            of_block = torch.zeros_like(block, dtype=torch.float32)
            if query.shape[2] and (length := lengths[place - hop]):
                keys_values = block[:, :, :, :length].contiguous()
                q, k, v = ctx.kernel.backward(gradient, query, *keys_values, out, weight)
                of_query[:, :, : q.shape[2]] += q
                of_block[0, :, :, :length], of_block[1, :, :, :length] = k, v
            if returning is not None:
                of_block += returning.came()
            returning = Passing(of_block, ctx.group, GRADIENTS)
            block = passing.came() if passing else block
        assert returning is not None
        key, value = returning.came().to(query.dtype)
        return of_query.to(query.dtype), key, value, None, None, None


def merged(seen: Tensor, weight: Tensor, part: Tensor, part_weight: Tensor) -> tuple[Tensor, Tensor]:
    """What queries see in two sets of keys together, with the logarithm of its weight: the sum of exponentials."""
    # Softmax over the union of two sets: out = (e^a * out_a + e^b * out_b) / (e^a + e^b), where a and b are the logs of the
    # sums of exponentials. logaddexp keeps that finite where one set has no weight yet (a = -inf before the first block).
    both = torch.logaddexp(weight, part_weight)
    shares = (torch.exp(weight - both)[..., None], torch.exp(part_weight - both)[..., None])
    return shares[0] * seen + shares[1] * part, both


QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, or their gradients."""


class Kernel(Protocol):
    """Attention that also returns its weights, of (B, H, n, D)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the log-sum-exp (B, H, n)."""

    def backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, weight: Tensor) -> QKV:
        """The gradients of query, key and value, from that of the output."""


class Plain:
    """In as many words, for float32 and the CPU: it holds all scores at once."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Kernel``."""
        scores = query @ key.mT * query.shape[-1] ** -0.5
        weight = scores.float().logsumexp(-1)
        return (scores - weight[..., None]).exp().to(value.dtype) @ value, weight

    def backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, weight: Tensor) -> QKV:
        """See ``Kernel``; of softmax ``P``, dS = P (dP - rowsum(dO O))."""
        # With P = softmax(S) and O = P V: dV = P^T dO, dP = dO V^T, and the softmax's own derivative is
        # dS = P (dP - rowsum(P dP)), where rowsum(P dP) = rowsum(dO O): the output is kept, the scores need not be.
        scale = query.shape[-1] ** -0.5
        share = (query @ key.mT * scale - weight[..., None]).exp().to(value.dtype)
        of_scores = share * (gradient @ value.mT - (gradient * out).sum(-1, keepdim=True)) * scale
        return of_scores @ key, of_scores.mT @ query, share.mT @ gradient


class Flash:
    """FlashAttention as torch has it."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Kernel``."""
        out, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)
        return out, weight

    def backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, weight: Tensor) -> QKV:
        """See ``Kernel``; the seeds are of a dropout that there is none of."""
        seeds = torch.empty(2, dtype=torch.uint64, device=query.device)
        lengths = (None, None, query.shape[2], key.shape[2])
        run = torch.ops.aten._scaled_dot_product_flash_attention_backward
        found: QKV = run(gradient, query, key, value, out, weight, *lengths, 0.0, False, seeds, seeds)
        return found


class CuDnn:
    """cuDNN's attention as torch has it, the fastest on Hopper; its log-sum-exp has one dimension more."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Kernel``."""
        out, weight, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, True)
        return out, weight[..., 0]

    def backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, weight: Tensor) -> QKV:
        """See ``Kernel``; the seeds are of a dropout that there is none of."""
        seed = torch.zeros((), dtype=torch.int64, device=query.device)
        rest = (seed, seed, None, None, None, query.shape[2], key.shape[2], 0.0, False)
        run = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
        found: QKV = run(gradient, query, key, value, out, weight[..., None].contiguous(), *rest)
        return found


RING_BACKENDS = ("native", "_native_cudnn", "_native_flash")
"""The backends whose kernels return their weights, which a ring must know."""


def kernel_for(query: Tensor, backend: str | None) -> Kernel:
    """The kernel of a ring: that of ``backend``, or of ``native`` the one that torch would choose."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return Plain()
    name = "native" if backend is None else AttentionBackendName(backend).value
    if name == "native":
        return CuDnn() if torch.cuda.get_device_capability(query.device) >= (9, 0) else Flash()
    return CuDnn() if name == "_native_cudnn" else Flash()
