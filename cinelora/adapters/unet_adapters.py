"""Adapters of UNets and of their motion modules as files, in diffusers' names and in those of AnimateDiff's authors.

Enters: an ``AdapterFile`` whose layers are a UNet's. Leaves: one safetensors file, and back; also what kohya's trainer writes for
Stable Diffusion 1.5, and the authors' own files, of which tensors alone are read (ADR 10).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import pad

from cinelora.adapters.adapter_file import AdapterFile, origin_of
from cinelora.adapters.adapter_header import FORMAT
from cinelora.adapters.formats import format_of
from cinelora.adapters.weight_deltas import Delta
from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError
from cinelora.families.animatediff.unet_names import authors_name, network_of, part_of
from cinelora.io.plain_data import quoted
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.io.tensor_pickles import load_pickled
from cinelora.io.terminal import warn

Layout = Literal["diffusers", "authors"]
Factors = dict[str, dict[str, Tensor]]
"""A, B and alpha of each layer."""


def export_unet_adapter(path: Path, adapter: AdapterFile, layout: Layout = "diffusers") -> None:
    """Write the factors of ``adapter``, whole or not at all, ``alpha / rank`` folded into B, so that every reader takes 1.

    ``diffusers``: what ``load_lora_weights`` of stock pipelines reads, a style in ``StableDiffusionPipeline`` too. ``authors``:
    as in their MotionLoRA, which ComfyUI-AnimateDiff-Evolved reads; they have names for motion modules' attention alone.
    Raises ``AdapterError`` for other layers, ``TrainingError`` where the disk is full.
    """
    tensors = {}
    for module in adapter.modules:
        if layout == "authors" and (network_of(module) != "motion" or ".attn" not in module):
            raise AdapterError(f"{module} is no attention of a motion module: the authors' files have no name for it")
        for factor, scale in (("A", 1.0), ("B", adapter.spec.scale)):
            ours = f"{module}.lora_{factor}.weight"
            name = authors_name(module, factor) if layout == "authors" else f"unet.{ours}"
            tensors[name] = adapter.state[ours].float() * scale
    save_tensors(path, tensors, origin_of(adapter))


def read_unet_adapter(path: Path) -> AdapterFile:
    """The adapter in ``path``, in float32, whoever wrote it; ``transformer`` says of which network, ``image`` or ``motion``.

    What kohya's trainer changes of the text encoder is left out, with a warning. Raises ``AdapterError`` for layers that no UNet
    has, half a pair, and one file of both networks.
    """
    is_pickle = path.suffix in (".ckpt", ".pt", ".pth")
    tensors, header = (load_pickled(path), {}) if is_pickle else load_tensors(path)
    factors = _factors(path.name, tensors)
    networks = {network_of(layer) for layer in factors}
    if len(networks) > 1:
        raise AdapterError(f"{path.name} changes the image network and motion modules: give each as a file of its own")
    network = networks.pop()
    pairs = {layer: parts for layer, parts in factors.items() if parts["A"].ndim == 2}
    rank = max((len(parts["A"]) for parts in factors.values()), default=1)
    ours = header.get("format") == FORMAT
    alpha = float(header["alpha"]) if ours else float(rank)
    targets = header["targets"] if ours else _targets(pairs)
    return AdapterFile(
        state={key: factor for layer, parts in pairs.items() for key, factor in _of_rank(layer, parts, rank, alpha)},
        spec=LoraSpec(rank=rank, alpha=alpha, targets=targets),
        deltas={f"{layer}.weight": (_delta(parts),) for layer, parts in factors.items() if layer not in pairs},
        source=str(path),
        **(_said(header) if ours else {"kind": "style" if network == "image" else "motion", "transformer": network}),
    )


def _said(header: Mapping[str, str]) -> dict[str, Any]:
    """What our own header says of where an adapter comes from."""
    said: dict[str, Any] = {
        key: header[key] for key in ("kind", "base_model", "base_revision", "transformer", "data_hash")
    }
    return said | {"trigger": header.get("trigger")}


def _factors(name: str, tensors: Mapping[str, Tensor]) -> Factors:
    """The parts of each layer in a file; raises ``AdapterError`` where one is not known, or lacks its other half."""
    text = [key for key in tensors if key.startswith(("lora_te", "text_encoder."))]
    if text:
        warn(f"{name}: {len(text)} tensors change the text encoder, which is not adapted here: they are left out")
    found: Factors = defaultdict(dict)
    for key in tensors.keys() - set(text):
        part = part_of(key)
        if part is None:
            tool = format_of(tensors)
            whose = f": it is one of Wan, by {tool.tool}'s names" if tool else ", or by none that is adapted here"
            raise AdapterError(f"{name} holds {quoted(key)}, which is no layer of a UNet{whose}")
        found[part[0]][part[1]] = tensors[key].float()
    if not found:
        raise AdapterError(f"{name} changes nothing of a UNet")
    for layer, parts in found.items():
        if not {"A", "B"} <= parts.keys() or len(parts["A"]) != parts["B"].shape[1]:
            raise AdapterError(f"{name} has no whole pair of factors for {layer}")
    return dict(sorted(found.items()))


def _scale(parts: Mapping[str, Tensor]) -> float:
    """What a pair is worth: alpha / rank where a file says alpha, else 1, as all readers of these files have it."""
    return float(parts["alpha"]) / len(parts["A"]) if "alpha" in parts else 1.0


def _of_rank(layer: str, parts: Mapping[str, Tensor], rank: int, alpha: float) -> list[tuple[str, Tensor]]:
    """A pair filled up to ``rank`` with zeros, which change no product, and worth ``alpha / rank``."""
    more = rank - len(parts["A"])
    up = parts["B"] * (_scale(parts) / (alpha / rank))
    return [
        (f"{layer}.lora_A.weight", pad(parts["A"], (0, 0, 0, more))),
        (f"{layer}.lora_B.weight", pad(up, (0, more))),
    ]


def _delta(parts: Mapping[str, Tensor]) -> Delta:
    """A pair on a convolution, which changes its weight."""
    shape = (len(parts["B"]), *parts["A"].shape[1:])
    return Delta("lora", {"A": parts["A"], "B": parts["B"]}, _scale(parts), shape)


def _targets(layers: Mapping[str, Any]) -> str:
    """The smallest of ``lora.targets`` that names all of them."""
    if any(".ff." in layer for layer in layers):
        return "all_linear"
    return "attention" if any(".attn1." in layer for layer in layers) else "cross_attention"
