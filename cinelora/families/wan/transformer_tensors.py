"""Every tensor of a Wan transformer, by name and shape: what the header of a file is held against before anything is loaded.

Enters: shapes by name, as a file has them, and the sizes that a ``config.json`` says. Leaves: nothing, or one sentence. It
needs no torch, so that a plan refuses what loading would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cinelora.errors import ModelError
from cinelora.families.wan_layers import BLOCK_NAMES, OUTSIDE_NAMES, is_image_part

EXTRAS = re.compile(
    r"scaled_fp8|spiece_model|log_scale|logit_scale|visual\.head|(textual|text_model|decoder\.block|lm_head|visual_projection"
    r"|text_projection)\..*|.*(position_ids|scale_input|input_scale|scale_weight|weight_scale|comfy_quant)"
)
"""Names in the files of the encoders, or of fp8 checkpoints, that are not of the modules built here."""

Shape = tuple[int, ...]
_SAID = {"ffn": "ffn_dim", "text": "text_dim", "freq": "freq_dim", "image": "image_dim"}
"""What sizes are called in diffusers' ``config.json``."""
_MEASURED = {
    "ffn": "blocks.0.ffn.net.0.proj.weight",
    "text": "condition_embedder.text_embedder.linear_1.weight",
    "freq": "condition_embedder.time_embedder.linear_1.weight",
    "image": "condition_embedder.image_embedder.norm1.weight",
}
"""The tensors that show a size where nothing says it: ``ffn`` by its rows, the others by what they take."""


def refuse_misfit(shapes: dict[str, Shape], config: dict[str, Any]) -> None:
    """Raise ``ModelError`` where a file lacks a tensor of Wan's transformer, holds another, or one of another shape.

    ``shapes`` are by name, in the checkpoint's names or diffusers'; ``config`` is diffusers' ``config.json``, or empty.
    """
    held = {name: shape for name, shape in shapes.items() if not EXTRAS.fullmatch(name)}
    layers = _layers(held, config)
    names = {name: (layer, leaf) for layer, theirs in layers.items() for name, leaf in _leaves(layer, theirs)}
    if missing := sorted(names.keys() - held.keys()):
        raise ModelError(f"it lacks {len(missing)} of its {len(names)} tensors, such as {missing[0]}")
    if strange := sorted(held.keys() - names.keys()):
        many = "1 tensor" if len(strange) == 1 else f"{len(strange)} tensors"
        raise ModelError(f"it holds {many} that this Wan does not have, such as {strange[0]}")
    sizes = _sizes({f"{layer}.{leaf}": held[name] for name, (layer, leaf) in names.items()}, config)
    for name, (layer, leaf) in names.items():
        wanted = weight_shape(layer, sizes) if leaf != "bias" else weight_shape(layer, sizes)[:1]
        # GGUF and fp8 drop or add sides of one value
        if [side for side in held[name] if side != 1] != [side for side in wanted if side != 1]:
            raise ModelError(f"{name} has the shape {list(held[name])} where {list(wanted)} is wanted")


def _layers(held: dict[str, Shape], config: dict[str, Any]) -> dict[str, str]:
    """Every layer in diffusers' names, and what the file calls it."""
    ours = any(".attn1." in name for name in held)
    numbers = [int(form[1]) for name in held if (form := re.match(r"blocks\.(\d{1,4})\.", name))]
    said = config.get("num_layers") or max(numbers, default=-1) + 1
    blocks = min(said, len(held))  # a made-up number of more is one with tensors missing, too
    image = config.get("image_dim") or any(".image_embedder." in name or name.startswith("img_emb.") for name in held)
    table = {f"blocks.{n}.{key}": f"blocks.{n}.{theirs}" for n in range(blocks) for key, theirs in BLOCK_NAMES.items()}
    table |= OUTSIDE_NAMES
    return {key: key if ours else theirs for key, theirs in table.items() if image or not is_image_part(key)}


def _leaves(layer: str, name: str) -> Iterator[tuple[str, str]]:
    """The tensors of a layer that is called ``name``: a weight, and a bias where it has one; a modulation is one itself."""
    if layer.endswith("scale_shift_table"):
        yield name, "weight"
        return
    yield f"{name}.weight", "weight"
    if not layer.endswith(("norm_q", "norm_k", "norm_added_k")):
        yield f"{name}.bias", "bias"


def _sizes(shapes: dict[str, Shape], config: dict[str, Any]) -> dict[str, int]:
    """The sizes that shapes follow from: said in the config, or else shown by one tensor each."""
    width, *patch = shapes["patch_embedding.weight"]
    values = {"width": width, "channels": patch[0], "out": shapes["proj_out.weight"][0]}
    for size, name in _MEASURED.items():
        shape = shapes.get(name, (0,))
        values[size] = config.get(_SAID[size]) or (shape[0] if size == "ffn" else shape[-1])
    return values


def weight_shape(layer: str, sizes: dict[str, int]) -> Shape:
    """The shape of a layer's weight, out and in."""
    width = sizes["width"]
    special: dict[str, Shape] = {
        "ffn.net.0.proj": (sizes["ffn"], width),
        "ffn.net.2": (width, sizes["ffn"]),
        "text_embedder.linear_1": (width, sizes["text"]),
        "time_embedder.linear_1": (width, sizes["freq"]),
        "time_proj": (6 * width, width),
        "proj_out": (sizes["out"], width),
        "patch_embedding": (width, sizes["channels"], 1, 2, 2),
        "image_embedder.ff.net.0.proj": (sizes["image"], sizes["image"]),
        "image_embedder.ff.net.2": (width, sizes["image"]),
        "image_embedder.norm1": (sizes["image"],),
        "scale_shift_table": (6 if layer.startswith("blocks.") else 2, width),
    }
    found = next((shape for end, shape in special.items() if layer.endswith(end)), None)
    return found or ((width,) if ".norm" in layer else (width, width))
