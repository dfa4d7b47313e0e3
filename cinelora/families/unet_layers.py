"""Names of layers in UNets of Stable Diffusion, of clips, and in motion modules: diffusers', AnimateDiff's authors', kohya's.

Enters: keys of a file, or the layers of a network. Leaves: the layers that an adapter changes, in diffusers' names. No torch.
"""

from __future__ import annotations

import re

from cinelora.families.family import Network

_PLACES = {
    "attentions": ("image", ("image", "motion", "t2v")),
    "motion_modules": ("motion", ("motion",)),
    "temp_attentions": ("motion", ("t2v",)),
    "transformer_in": ("motion", ("t2v",)),
}
"""Who teaches what lies in a place, and which networks have it: attention over space is taught on stills, as in the image
network, that over time on clips, as in the motion network. The UNet of clips, ``t2v``, has both and is taught both."""
_PROJECTION = re.compile(
    r"(?:(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(?:attentions|motion_modules|temp_attentions)\.\d+|transformer_in)"
    r"\.transformer_blocks\.\d+\."
    r"(?:(?P<attention>attn[12])\.to_(?:q|k|v|out\.0)|(?P<ff>ff)\.net\.(?:0\.proj|2))"
)
_AROUND = re.compile(r"(.*\.(attentions|motion_modules|temp_attentions)\.\d+|transformer_in)\.proj_(in|out)")
_OF_AUTHORS = {
    ".temporal_transformer": "",
    ".attention_blocks.0": ".attn1",
    ".attention_blocks.1": ".attn2",
    ".norms.0": ".norm1",
    ".norms.1": ".norm2",
    ".ff_norm": ".norm3",
}
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_TOGETHER = re.compile(
    r"(down|up)_blocks|mid_block|(transformer|attention)_blocks|motion_modules|temp_attentions|transformer_in"
    r"|to_(q|k|v)|to_out|proj_(in|out)"
)
"""Names with an underscore of their own, which kohya's files do not tell from those that stand for dots."""


class _UNetLayers:
    """The layers of UNets of Stable Diffusion and of clips, and of motion modules; see ``LayerNames``.

    Both attentions of a layer over time are of a frame's place with itself, as in AnimateDiff's own MotionLoRA: neither is
    cross-attention, and each of ``lora.targets`` names both.
    """

    title = "Stable Diffusion"

    def knows(self, module: str) -> bool:
        return is_adaptable(module)

    def target_of(self, module: str) -> str | None:
        form = _PROJECTION.fullmatch(module)
        if form is None:
            return None
        if form["ff"]:
            return "all_linear"
        return "attention" if form["attention"] == "attn1" and place_of(module) == "attentions" else "cross_attention"

    def taught_in(self, module: str) -> str | None:
        place = place_of(module)
        return _PLACES[place][0] if place else None

    def is_optional(self, module: str) -> bool:
        return False

    def lies_in(self, module: str, network: Network) -> bool:
        place = place_of(module)
        return place is not None and network.name in _PLACES[place][1]

    def width_of(self, module: str, width: int) -> tuple[int | None, ...]:
        return (None,)  # every level has a width of its own


UNET_LAYERS = _UNetLayers()


def place_of(module: str) -> str | None:
    """Where in a network a layer lies: ``attentions`` are those over space."""
    return next((place for place in _PLACES if f".{place}." in f".{module}"), None)


def diffusers_name(name: str) -> str:
    """What diffusers calls a layer of the authors' files."""
    name = name.removeprefix("module.")
    for theirs, ours in _OF_AUTHORS.items():
        name = name.replace(theirs, ours)
    return name


def part_of_authors(key: str) -> tuple[str, str] | None:
    """The layer that a key of the authors' MotionLoRA changes, and whether it holds A or B; None for any other key."""
    form = _PROCESSOR.search(key)
    if form is None:
        return None
    name = f"{diffusers_name(key[: form.start()].removeprefix('unet.'))}.to_{form[1]}{'.0' if form[1] == 'out' else ''}"
    return (name, "A" if form[2] == "down" else "B") if is_adaptable(name) else None


def is_adaptable(name: str) -> bool:
    """Whether a layer is one that adapters change: a projection, or what stands before and after all blocks of a place."""
    return _PROJECTION.fullmatch(name) is not None or _AROUND.fullmatch(name) is not None


def undo_kohya(name: str) -> str:
    """``down_blocks_0_attentions_1_…_attn1_to_out_0`` -> ``down_blocks.0.attentions.1.….attn1.to_out.0``."""
    kept = _TOGETHER.sub(lambda found: found[0].replace("_", "\0"), name)
    return kept.replace("_", ".").replace("\0", "_")


def authors_name(module: str, factor: str) -> str:
    """The key of a factor (A, B) of a projection in a motion module, as the authors' MotionLoRA files have it."""
    block, attention, projection = re.fullmatch(r"(.+)\.attn([12])\.to_(q|k|v|out)(?:\.0)?", module).groups()  # type: ignore[union-attr]
    block = re.sub(r"(\.motion_modules\.\d+)", r"\1.temporal_transformer", block)
    way = "down" if factor == "A" else "up"
    return f"{block}.attention_blocks.{int(attention) - 1}.processor.to_{projection}_lora.{way}.weight"
