"""Model families: a module of facts for each, which needs no torch, and a folder of what loads and runs it.

The name that a model's settings give their family meets its facts here, and in ``machinery`` its code: nowhere else.
"""

from __future__ import annotations

from typing import Protocol

from cinelora.families.family import Family
from cinelora.families.wan21 import WAN21

_FAMILIES = {family.name: family for family in (WAN21,)}


class OfAFamily(Protocol):
    """Settings of a model."""

    @property
    def family(self) -> str:
        """The name of its family."""
        ...


def family_of(model: OfAFamily) -> Family:
    """The facts of a model's family."""
    return _FAMILIES[model.family]
