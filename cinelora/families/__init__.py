"""Model families: a module of facts for each, which needs no torch, and a folder of what loads and runs it.

The name that a model's settings give their family meets its facts here, and nowhere else. What code a family has stands in
``machinery``, and what knows its files in ``parts``.
"""

from __future__ import annotations

from typing import Protocol

from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Expert, Family
from cinelora.families.unet3d_models import UNET3D_MODELS
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B

FAMILIES = {family.name: family for family in (WAN21, WAN22_5B, WAN22_A14B, ANIMATEDIFF, *UNET3D_MODELS)}
"""Facts by the name of a family."""


class OfAFamily(Protocol):
    """Settings of a model."""

    @property
    def family(self) -> str:
        """The name of its family."""
        ...

    @property
    def boundaries(self) -> dict[str, float | None]:
        """The noise level at which each network changes its expert, where that is not the authors' own."""
        ...


def family_of(model: OfAFamily) -> Family:
    """The facts of a model's family."""
    return FAMILIES[model.family]


def has_experts(model: OfAFamily) -> bool:
    """Whether a model's networks are two experts each."""
    return any(len(experts_of(model, network.name)) > 1 for network in family_of(model).networks)


def experts_of(model: OfAFamily, network: str) -> tuple[Expert, ...]:
    """The experts of a network of a model, in order of falling noise; one without a name where a transformer does it alone."""
    return family_of(model).experts(network, model.boundaries)
