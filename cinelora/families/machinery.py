"""What loads, feeds and asks the networks of a model's family.

It brings torch, and lies above the facts in ``cinelora.families``. Families meet their code here alone.
"""

from __future__ import annotations

from collections.abc import Callable

from cinelora.families import OfAFamily, family_of
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Family
from cinelora.families.model_bundle import Bundle
from cinelora.families.unet3d_models import UNET3D_MODELS
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B

# Each is imported when it is asked for: what runs one family takes seconds to import, and a rank needs no other.


def _wan() -> type[Bundle]:
    from cinelora.families.wan.bundle import WanBundle

    return WanBundle


def _first_frame() -> type[Bundle]:
    from cinelora.families.wan.bundle import FirstFrameBundle

    return FirstFrameBundle


def _animatediff() -> type[Bundle]:
    from cinelora.families.animatediff.unet_bundle import AnimateDiffBundle

    return AnimateDiffBundle


def _unet3d() -> type[Bundle]:
    from cinelora.families.unet3d.clip_bundle import ClipBundle

    return ClipBundle


KNOWN: tuple[tuple[tuple[Family, ...], Callable[[], type[Bundle]]], ...] = (
    ((WAN21, WAN22_A14B), _wan),
    ((WAN22_5B,), _first_frame),
    ((ANIMATEDIFF,), _animatediff),
    (UNET3D_MODELS, _unet3d),
)


def machinery_of(model: OfAFamily) -> type[Bundle]:
    """The class whose objects are checkpoints of the model's family."""
    return next(code() for families, code in KNOWN if family_of(model) in families)
