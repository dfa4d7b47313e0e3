"""Names of layers in UNets of Stable Diffusion and in motion modules: diffusers', the authors' of AnimateDiff, kohya's.

Enters: keys of a file, or the layers of a network. Leaves: the layers that an adapter changes, in diffusers' names. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEAVES = {
    "cross_attention": ("attn2",),
    "attention": ("attn1", "attn2"),
    "all_linear": ("attn1", "attn2", "ff"),
}
_PLACES = {"image": "attentions", "motion": "motion_modules"}
_PROJECTION = re.compile(
    r"(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(?P<place>attentions|motion_modules)\.\d+\.transformer_blocks\.\d+\."
    r"(?:(?P<attention>attn[12])\.to_(?:q|k|v|out\.0)|(?P<ff>ff)\.net\.(?:0\.proj|2))"
)
_OF_AUTHORS = {
    ".temporal_transformer": "",
    ".attention_blocks.0": ".attn1",
    ".attention_blocks.1": ".attn2",
    ".norms.0": ".norm1",
    ".norms.1": ".norm2",
    ".ff_norm": ".norm3",
}
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_ENDINGS = {
    **{f".lora_{name}.weight": "A" for name in ("A", "down", "A.default")},
    **{f".lora_{name}.weight": "B" for name in ("B", "up", "B.default")},
    **{".lora.down.weight": "A", ".lora.up.weight": "B", ".alpha": "alpha"},
}
_PREFIXES = ("base_model.model.", "unet.", "module.")
_KOHYA = "lora_unet_"
_TOGETHER = re.compile(
    r"(down|up)_blocks|mid_block|(transformer|attention)_blocks|motion_modules|to_(q|k|v)|to_out|proj_(in|out)"
)
"""Names with an underscore of their own, which kohya's files do not tell from those that stand for dots."""


def projections(layers: Iterable[str], network: str, targets: str) -> list[str]:
    """Those of ``layers`` that an adapter of ``network`` adapts: spatial ones of ``image``, temporal ones of ``motion``.

    Both attentions of a motion module are of a frame's place with itself over time; ``cross_attention`` is the second.
    """

    def is_wanted(layer: str) -> bool:
        form = _PROJECTION.fullmatch(layer)
        return (
            form is not None and form["place"] == _PLACES[network] and (form["attention"] or "ff") in _LEAVES[targets]
        )

    return [layer for layer in layers if is_wanted(layer)]


def network_of(layer: str) -> str:
    """The network that a layer is taught in: ``motion`` for those of motion modules."""
    return "motion" if ".motion_modules." in layer else "image"


def diffusers_name(name: str) -> str:
    """What diffusers calls a layer of the authors' files."""
    name = name.removeprefix("module.")
    for theirs, ours in _OF_AUTHORS.items():
        name = name.replace(theirs, ours)
    return name


def part_of(key: str) -> tuple[str, str] | None:
    """The layer that a key of an adapter's file changes, and whether it holds A, B or alpha; None where that is not known."""
    if form := _PROCESSOR.search(key):
        name = diffusers_name(key[: form.start()])
        return f"{name}.to_{form[1]}{'.0' if form[1] == 'out' else ''}", "A" if form[2] == "down" else "B"
    ending = next((ending for ending in _ENDINGS if key.endswith(ending)), None)
    if ending is None:
        return None
    name = key.removesuffix(ending)
    if name.startswith(_KOHYA):
        name = _undo_kohya(name.removeprefix(_KOHYA))
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = diffusers_name(name)
    is_known = _PROJECTION.fullmatch(name) or re.fullmatch(r".*\.(attentions|motion_modules)\.\d+\.proj_(in|out)", name)
    return (name, _ENDINGS[ending]) if is_known else None


def _undo_kohya(name: str) -> str:
    """``down_blocks_0_attentions_1_…_attn1_to_out_0`` -> ``down_blocks.0.attentions.1.….attn1.to_out.0``."""
    kept = _TOGETHER.sub(lambda found: found[0].replace("_", "\0"), name)
    return kept.replace("_", ".").replace("\0", "_")


def authors_name(module: str, factor: str) -> str:
    """The key of a factor (A, B) of a projection in a motion module, as the authors' MotionLoRA files have it."""
    block, attention, projection = re.fullmatch(r"(.+)\.attn([12])\.to_(q|k|v|out)(?:\.0)?", module).groups()  # type: ignore[union-attr]
    block = re.sub(r"(\.motion_modules\.\d+)", r"\1.temporal_transformer", block)
    way = "down" if factor == "A" else "up"
    return f"{block}.attention_blocks.{int(attention) - 1}.processor.to_{projection}_lora.{way}.weight"
