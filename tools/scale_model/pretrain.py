"""``stage=pretrain``: every weight of a transformer is trained. What that stage does unlike the others, which is little.

Enters: settings, a transformer, its trained weights. Leaves: refusals, what is trained, and a folder in diffusers' layout.
``cinelora.clone_only`` describes these three functions. They import torch only when it is needed, as settings are checked
without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.config.schema import TrainConfig, zero_level
from cinelora.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tools.scale_model.whole_transformer import WholeTransformer


def check(config: TrainConfig) -> None:
    """Raise ``ConfigError`` for settings that do not go with training every weight."""
    for sentence in _refusals(config):
        raise ConfigError(sentence)


def _refusals(config: TrainConfig) -> Iterator[str]:
    stage, every = config.stage, "stage=pretrain trains"
    # The transformer decides whether samples come with their first frame: of a still, that would be all there is to rebuild.
    if stage.image_condition != (stage.transformer == "i2v"):
        yield (
            f"stage.image_condition={str(stage.image_condition).lower()} with stage.transformer={stage.transformer}: "
            "stage=pretrain shows the i2v transformer its first frame, and the t2v transformer none"
        )
    if stage.image_condition and (stage.stills or stage.num_frames == 1):
        yield (
            "stage=pretrain of the i2v transformer learns from windows: with one frame the condition is the answer; "
            "leave stage.stills at 0 and stage.num_frames at 5 or more (4n+1)"
        )
    # What is made for a frozen model with an adapter beside it has no place here.
    if config.adapter is not None:
        yield f"adapter={config.adapter} belongs to stage=motion; {every} every weight"
    if swap := config.memory.swap:
        yield f"memory.swap={swap:g} moves frozen weights, and {every} them all: choose memory=recompute"
    if config.model.dtype == "fp8":
        yield f"model.dtype=fp8 is for frozen weights, and {every} them all: choose model.dtype=fp32"
    if config.push:
        yield f"push={config.push}: adapters are uploaded, and stage=pretrain makes none: leave push= away"
    # Partitioned weights are gathered layer by layer, by all ranks at once: each rank has to come by every layer.
    if zero_level(config.strategy) == 3 and stage.image_condition and config.dropout.image:
        yield (
            f"dropout.image={config.dropout.image:g} with strategy=zero3 and stage=pretrain: a rank without its image would not "
            "call the layers that the others wait in; choose dropout.image=0, or strategy=zero2"
        )


def trained(transformer: nn.Module, sharded: bool) -> WholeTransformer:
    """Every weight, on every rank or, where DeepSpeed's ZeRO-3 has them, in pieces; of a motion network its motion modules'.

    Raises ``ModelError`` for a UNet that is not the embedded AnimateDiff's.
    """
    from diffusers import UNet2DConditionModel, UNetMotionModel

    from tools.scale_model.build_unets import refuse_other_shape
    from tools.scale_model.whole_transformer import MotionModules, PartitionedTransformer, WholeTransformer

    if not isinstance(transformer, UNet2DConditionModel | UNetMotionModel):
        return (PartitionedTransformer if sharded else WholeTransformer)(transformer)
    kind, cls = ("motion", MotionModules) if isinstance(transformer, UNetMotionModel) else ("image", WholeTransformer)
    refuse_other_shape(kind, cls.chosen(transformer))
    return cls(transformer)


def export(folder: Path, kind: str, state: dict[str, Tensor]) -> None:
    """Write ``state`` as the ``t2v`` or ``i2v`` transformer of the embedded pair, or a network of the embedded AnimateDiff.

    These are ``image`` and ``motion``, of which the motion modules are written.
    """
    from tools.scale_model.build_pair import save_transformer
    from tools.scale_model.build_unets import NETWORKS, save_network

    (save_network if kind in NETWORKS else save_transformer)(folder, kind, state)
