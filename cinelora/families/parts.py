"""Where the parts of a model lie, and what is checked of them before a run: by files and headers, without torch.

Enters: settings, a network and its parts. Leaves: sources, lines to print, or one sentence. Families meet what
knows their checkpoints here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cinelora.config.schema import ModelConfig
from cinelora.families import family_of
from cinelora.families.animatediff.unet_parts import UNetParts
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Expert, Family, Part
from cinelora.families.unet3d.clip_parts import ClipParts
from cinelora.families.unet3d_models import UNET3D_MODELS
from cinelora.families.wan.check_parts import WanParts
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B


class Parts(Protocol):
    """What knows the checkpoints of families."""

    @staticmethod
    def source_of(model: ModelConfig, kind: str, part: Part, expert: str = "") -> str | None:
        """Where a part of the network ``kind`` comes from; None where its values are drawn, or nothing names it."""
        ...

    @staticmethod
    def check(model: ModelConfig, kind: str, wanted: Sequence[Part], experts: Sequence[Expert]) -> list[str]:
        """Look at what lies on this machine of the ``wanted`` parts; a line for each thing to say of them.

        Raises ``ConfigError``, one sentence, for parts that are not whole, or not what they should be.
        """
        ...

    @staticmethod
    def check_length(model: ModelConfig, kind: str, num_frames: int, trains: bool) -> list[str]:
        """Lines to print where a clip of ``num_frames`` frames is made in another way than shorter ones.

        Raises ``ConfigError`` where a window of training is longer than the network takes.
        """
        ...


KNOWN: tuple[tuple[tuple[Family, ...], type[Parts]], ...] = (
    ((WAN21, WAN22_5B, WAN22_A14B), WanParts),
    ((ANIMATEDIFF,), UNetParts),
    (UNET3D_MODELS, ClipParts),
)


def parts_of(model: ModelConfig) -> type[Parts]:
    """What knows the checkpoints of the model's family."""
    return next(parts for families, parts in KNOWN if family_of(model) in families)
