"""Whether the parts of a model on the UNet of clips are there and are of that sort. No torch.

Enters: settings. Leaves: lines to print, or one sentence. Where parts lie, and whether they are whole, is as for AnimateDiff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cinelora.config.schema import ModelConfig
from cinelora.errors import ConfigError, ModelError
from cinelora.families import family_of
from cinelora.families.animatediff.unet_parts import UNetParts
from cinelora.families.family import Expert, Part
from cinelora.io.plain_data import read_json

CLASSES = ("UNet3DConditionModel",)
"""What a folder calls the network: diffusers' class, or ours where we saved it."""


class ClipParts(UNetParts):
    """See ``parts.Parts``."""

    @staticmethod
    def check(model: ModelConfig, kind: str, wanted: Sequence[Part], experts: Sequence[Expert]) -> list[str]:
        """Look at the parts of the base; VideoCrafter2 has a file of its own besides, without which the base is another model."""
        if model.weights != "random" and "tuned" in family_of(model).network(kind).beside and not model.tuned:
            raise ConfigError(
                f"model={model.name} needs its authors' checkpoint: set model.tuned=<model.ckpt>; the network of its base is "
                "another model's"
            )
        config = Path(model.base or "") / "unet" / "config.json"
        if config.is_file():
            try:
                refuse_other_class(read_json(config, dict[str, Any]))
            except ModelError as error:
                raise ConfigError(f"model.base={model.base}: {error}") from error
        return UNetParts.check(model, kind, wanted, experts)


def refuse_other_class(config: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` for a network that is no UNet of clips, by its settings."""
    what = config.get("_class_name", "")
    if what not in CLASSES:
        raise ModelError(f"its unet is a {what}, and no network of clips: take ModelScope's, or one like it")
