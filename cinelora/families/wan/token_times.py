"""The times of tokens, embedded once for each time there is and not once for each token.

Enters: a transformer of TI2V-5B. Leaves: the same, which gives the same numbers from less. A shown first frame has time 0, and
all other tokens have one time more. Left to itself, diffusers embeds the time of every token, and holds six projections of
it for all blocks: six times what the tokens themselves take. A compiled block spreads them as it reads them.

Shape suffixes: B batch, N tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

Both = tuple[Any, dict[str, Any]]


class TokenTimes:
    """Hooks around the embedding of times and around each block, so that diffusers' own forward pass stays as it is.

    Between the two, what is said of a time has a row for each of the two times, in the place of a row for each token.
    """

    # Which token has which time is kept here, and not handed on: of the sequence alone it is the same for all samples, so that a
    # block that is recomputed finds what it had, also where samples with and without their frame were predicted before.
    later_N: Tensor

    def embedded(self, module: nn.Module, inputs: Any, named: dict[str, Any]) -> Both | None:
        """Before the embedding: of the times (B N,) of tokens the two of each sample, (B 2,); one time for all stays."""
        if (tokens := named.get("timestep_seq_len")) is None:
            return None
        times_BN = inputs[0].unflatten(0, (-1, tokens))
        first_B, later_B = times_BN.aminmax(dim=1)
        self.later_N = (times_BN > first_B[:, None]).any(0)
        return (torch.stack((first_B, later_B), 1).flatten(), *inputs[1:]), {**named, "timestep_seq_len": 2}

    def spread(self, module: nn.Module, inputs: Any, found: tuple[Tensor, ...]) -> Any:
        """After it: the embedding itself, which the last norm reads, of each token; the projections stay as they are."""
        embedding, *others = found
        return (self.of_tokens(embedding), *others) if embedding.ndim == 3 else None

    def modulated(
        self, forward: Callable[..., Tensor], hidden_BND: Tensor, text: Tensor, times: Tensor, *others: Any
    ) -> Tensor:
        """``forward`` of a block, with the projections of each token where there are several times."""
        return forward(hidden_BND, text, self.of_tokens(times) if times.ndim == 4 else times, *others)

    def of_tokens(self, two: Tensor) -> Tensor:
        """(B, 2, ...) to (B, N, ...)."""
        later = self.later_N.view(-1, *[1] * (two.ndim - 2))
        return torch.where(later, two[:, 1:], two[:, :1])


def embed_each_time_once(transformer: WanTransformer3DModel) -> None:
    """Let ``transformer`` embed two times a sample where tokens have times of their own; comes before ``arrange``."""
    times = TokenTimes()
    transformer.condition_embedder.register_forward_pre_hook(times.embedded, with_kwargs=True)
    transformer.condition_embedder.register_forward_hook(times.spread)
    for block in transformer.blocks:
        block.forward = partial(times.modulated, block.forward)
