"""Which layers of a network ``lora.targets`` names. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from cinelora.families.family import LayerNames

TARGETS = ("cross_attention", "attention", "all_linear")
"""What ``lora.targets`` can say, smallest first: each is a part of the next."""


def projections(layers: LayerNames, modules: Iterable[str], targets: str, network: str | None = None) -> list[str]:
    """Those of ``modules`` that ``lora.targets`` names, in their order; without what another network than ``network`` teaches."""
    wanted = TARGETS[: TARGETS.index(targets) + 1]
    named = (module for module in modules if layers.target_of(module) in wanted)
    return [module for module in named if network is None or layers.taught_in(module) in (None, network)]


def smallest_target(layers: LayerNames, modules: Iterable[str]) -> str:
    """The smallest of ``TARGETS`` that names all of ``modules``, which are projections."""
    return max((layers.target_of(module) or TARGETS[-1] for module in modules), key=TARGETS.index, default=TARGETS[0])
