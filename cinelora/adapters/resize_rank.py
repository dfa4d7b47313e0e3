"""An adapter at another rank: the best of it that fits, or itself with room to spare.

Enters: an ``AdapterFile``. Leaves: another. It does not know what it is for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile


def at_rank(adapter: AdapterFile, rank: int) -> AdapterFile:
    """The adapter of this rank whose updates ``alpha/rank B A`` are nearest to ``adapter``'s (Frobenius; Eckart and Young 1936).

    From ``adapter``'s own rank on they are the same, and what is more is zero.
    """
    state: dict[str, Tensor] = {}
    for module in adapter.modules:
        down, up = (adapter.state[f"{module}.lora_{factor}.weight"].double() for factor in "AB")
        down, up = _cut(down, up, rank)
        state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = down.float(), up.float()
    return replace(adapter, state=state, spec=replace(adapter.spec, rank=rank, alpha=adapter.spec.scale * rank))


def _cut(down_RI: Tensor, up_OR: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of this rank of ``up @ down``, by singular values of a product as small as the ranks."""
    own = len(down_RI)
    if rank >= own:
        pad = torch.nn.functional.pad
        return pad(down_RI, (0, 0, 0, rank - own)), pad(up_OR, (0, rank - own))
    # The nearest product of a lower rank keeps the largest singular values of B A. B A is as large as W, but with B = Q R and
    # A' = P S it is Q (R S') P', where Q and P only turn: the singular values are those of R S', which is rank x rank. Each
    # factor gets the root of what is kept, so that neither is much larger than the other.
    left, upper = torch.linalg.qr(up_OR)
    right, lower = torch.linalg.qr(down_RI.T)
    u, values, vh = torch.linalg.svd(upper @ lower.T)
    root = values[:rank].sqrt()
    return (root[:, None] * vh[:rank]) @ right.T, left @ (u[:, :rank] * root)
