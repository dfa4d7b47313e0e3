"""How one clip's sequence is split over ranks: Ulysses and ring inside a group, the two halves of guidance between groups.

Enters: ranks, heads, sequence lengths; then a transformer. Leaves: a plan, or a refusal that names what works; then
the same transformer, whose every rank computes a share of the tokens and whose output is whole on all of them. Planning
knows no torch, so that a command line can be refused at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cinelora.config.schema import TrainConfig, data_ranks

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """``groups`` of ranks (2 = one for each half of guidance), each splitting the sequence ``ring`` times ``ulysses`` ways.

    Ranks are numbered with the ulysses degree fastest, then the ring's: where links differ, the heads' exchange, which is
    the larger, stays between neighbours.
    """

    groups: int
    ring: int
    ulysses: int

    @property
    def sequence(self) -> int:
        """Ranks that share one sequence."""
        return self.ring * self.ulysses

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.groups * self.sequence


def share_samples(config: TrainConfig) -> Partition:
    """How ``strategy.sequence`` ranks share each sample in training: heads as far as they divide, the rest in rings.

    Groups are those of ranks with samples of their own.
    """
    ulysses = math.gcd(config.strategy.sequence, config.model.num_heads)
    return Partition(data_ranks(config), config.strategy.sequence // ulysses, ulysses)


def group_of(plan: Partition, rank: int) -> int:
    """Which half of guidance this rank computes: 0 the prompt's, 1 the negative prompt's."""
    return rank // plan.sequence


def partition(transformer: WanTransformer3DModel, plan: Partition) -> None:
    """Split ``transformer``'s sequences as ``plan`` says; by every rank, in a process group of ``plan.ranks`` ranks."""
    from cinelora.parallel.sequence_parallel import share

    if plan.sequence > 1:
        share(transformer, plan.ring, plan.ulysses)


def combine_guidance(velocity: Tensor, guidance: float, plan: Partition) -> Tensor:
    """``u + guidance * (c - u)`` of the two groups' velocities, the same on every rank."""
    from cinelora.parallel.sequence_parallel import exchange, groups_of

    conditional, unconditional = exchange(velocity, groups_of(plan.ring, plan.ulysses).across)
    return unconditional + guidance * (conditional - unconditional)
