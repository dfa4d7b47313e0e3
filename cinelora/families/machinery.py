"""What loads, feeds and asks the networks of a model's family.

It brings torch, and lies above the facts in ``cinelora.families``. The name that a model gives its family meets code here alone.
"""

from __future__ import annotations

from cinelora.families import OfAFamily
from cinelora.families.wan.bundle import FirstFrameBundle, WanBundle
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B

Bundle = WanBundle
"""One checkpoint: its parts, loaded on demand, and how they are fed."""
_BUNDLES: dict[str, type[Bundle]] = {WAN21.name: WanBundle, WAN22_5B.name: FirstFrameBundle, WAN22_A14B.name: WanBundle}


def machinery_of(model: OfAFamily) -> type[Bundle]:
    """The class whose objects are checkpoints of the model's family, and whose static methods are how it is fed."""
    return _BUNDLES[model.family]
