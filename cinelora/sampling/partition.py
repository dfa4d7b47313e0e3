"""How one clip's sequence is split over ranks: Ulysses inside a group, and the two halves of guidance between groups.

Enters: ranks, heads, sequence lengths; then a transformer. Leaves: a plan, or a refusal that names what works; then
the same transformer, whose every rank computes a share of the tokens and whose output is whole on all of them. Planning
knows no torch, so that a command line can be refused at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cinelora.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from torch import Tensor

    from cinelora.launch import Rank


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


def plan_partition(ranks: int, num_heads: int, tokens: list[int], guidance_split: bool) -> Partition:
    """How ``ranks`` share sequences of these ``tokens``.

    Ulysses gives each rank whole heads and an even share of the tokens (Jacobs et al. 2023, DeepSpeed-Ulysses).
    Raises ``ConfigError`` naming the numbers of ranks that work.
    """
    groups = 2 if guidance_split else 1
    degrees = [n for n in range(1, num_heads + 1) if num_heads % n == 0 and all(t % n == 0 for t in tokens)]
    ulysses, rest = divmod(ranks, groups)
    if rest == 0 and ulysses in degrees:
        return Partition(groups, 1, ulysses)
    if rest:
        problem = f"gpus={ranks} cannot be halved between the two sides of guidance"
    elif num_heads % ulysses:
        problem = f"gpus={ranks} cannot split {num_heads} heads"
    else:
        odd = next(t for t in tokens if t % ulysses)
        problem = f"gpus={ranks} cannot split a sequence of {odd} tokens evenly"
    raise ConfigError(f"{problem}; use one of {', '.join(str(groups * degree) for degree in degrees)}")


def group_of(plan: Partition, rank: int) -> int:
    """Which half of guidance this rank computes: 0 the prompt's, 1 the negative prompt's."""
    return rank // plan.sequence


def partition(transformer: WanTransformer3DModel, plan: Partition, rank: Rank) -> None:
    """Split ``transformer``'s sequence as ``plan`` says, through diffusers' context parallelism.

    To be called by every rank, in a process group of ``rank.world_size`` ranks.
    """
    mesh = _mesh(plan)
    if plan.ulysses == 1:
        return
    from diffusers import ContextParallelConfig

    # Wan2.1 has one timestep a clip: the plan's entry for one per token would only warn, at every run
    splits = {module: split for module, split in transformer._cp_plan.items() if module}
    config = ContextParallelConfig(ulysses_degree=plan.ulysses, mesh=mesh)
    warnings.filterwarnings("ignore", message=".*all_gather_tensor. is deprecated", category=FutureWarning)
    with _cpu_counts_as_a_device(), _quiet_diffusers():
        transformer.enable_parallelism(config=config, cp_plan=splits)


def combine_guidance(velocity: Tensor, guidance: float, plan: Partition, rank: Rank) -> Tensor:
    """``u + guidance * (c - u)`` of the two groups' velocities, the same on every rank."""
    import torch

    halves = [torch.empty_like(velocity) for _ in range(plan.groups)]
    torch.distributed.all_gather(halves, velocity.contiguous(), group=_mesh(plan)["guidance"].get_group())
    conditional, unconditional = halves
    return unconditional + guidance * (conditional - unconditional)


@cache
def _mesh(plan: Partition) -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return init_device_mesh(
        device, (plan.groups, plan.ring, plan.ulysses), mesh_dim_names=("guidance", "ring", "ulysses")
    )


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Without the note that parallelism is experimental: the tests say whether it works with the versions allowed."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _cpu_counts_as_a_device() -> Iterator[None]:
    """diffusers numbers its device modulo the accelerators there are, which on a CPU is none."""
    import torch

    count = torch.accelerator.device_count
    if count() == 0:
        torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count
