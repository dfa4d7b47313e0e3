"""What VideoCrafter2's authors call the layers of the UNet that diffusers has as ``UNet3DConditionModel``.

Enters: the network's shape. Leaves: names. No torch.

Theirs are numbered through: each level of the way down is ``layers`` blocks and a downsampling, each of the way up one block
more, the last of which upsamples. A block is a residual layer with convolutions over time, then attention over space and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BEGINS = "model.diffusion_model."
"""How names of the network's tensors begin in a checkpoint."""
RATE = "fps_embedding."
"""What reads the frame rate there, and has no like in diffusers."""
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "transformer_in": "init_attn.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.temp_convs.0": "middle_block.0.temopral_conv",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.temp_attentions.0": "middle_block.2",
    "mid_block.resnets.1": "middle_block.3",
    "mid_block.temp_convs.1": "middle_block.3.temopral_conv",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_BLOCK = {"resnets": "0", "temp_convs": "0.temopral_conv", "attentions": "1", "temp_attentions": "2"}
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def authors_names(names: Iterable[str], levels: int, layers: int) -> dict[str, str]:
    """The authors' name of each of ``names``, all tensors of a network with ``levels`` levels of ``layers`` layers."""
    names = list(names)
    places = _OUTSIDE | dict(_blocks(names, levels, layers))
    return {name: _renamed(name, places) for name in names}


def _blocks(names: list[str], levels: int, layers: int) -> Iterator[tuple[str, str]]:
    """Where each layer of the ways down and up is in diffusers' network, and where in the authors'."""
    for level in range(levels):
        first = (layers + 1) * level
        for number in range(layers + 1):
            for ours, theirs in _IN_BLOCK.items():
                yield f"down_blocks.{level}.{ours}.{number}", f"input_blocks.{first + 1 + number}.{theirs}"
                yield f"up_blocks.{level}.{ours}.{number}", f"output_blocks.{first + number}.{theirs}"
        yield f"down_blocks.{level}.downsamplers.0", f"input_blocks.{first + layers + 1}.0"
        # an upsampling stands after whatever else its block has: attention, or none
        after = 3 if any(name.startswith(f"up_blocks.{level}.attentions.") for name in names) else 1
        yield f"up_blocks.{level}.upsamplers.0", f"output_blocks.{first + layers}.{after}"


def _renamed(name: str, places: dict[str, str]) -> str:
    ours = next(place for place in places if name.startswith(f"{place}."))
    inside = name.removeprefix(f"{ours}.")
    layer, _, rest = inside.partition(".")
    if ".resnets." in ours:
        inside = f"{_IN_RESNET[layer]}.{rest}"
    if ".downsamplers." in ours:
        inside = f"op.{rest}"
    return f"{places[ours]}.{inside}"
