"""Tensors from disk, or from a random source, into a module: one by one, straight to the device they are for.

Enters: the files of a part (``checkpoints.FoundPart``), a device and a dtype. Leaves: a frozen module in eval mode. At no
time is more on the host than the module itself (where it is to live there) and one tensor. What stays on the CPU as it is
stored is mapped, so that processes share it, where it lies at a multiple of 64 bytes: elsewhere torch's kernels would sum
in another order. All else is read, because mapped pages count beside their copies (ADR 15). It knows names and shapes, and
not what the parts are for.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from cinelora.errors import ModelError
from cinelora.families.family import Part
from cinelora.families.wan import checkpoint_layouts
from cinelora.families.wan.checkpoint_layouts import NAMES, FoundPart, bare, config_facts
from cinelora.families.wan.transformer_tensors import EXTRAS
from cinelora.families.wan21 import WAN21
from cinelora.io.gguf_file import GgufTensor, gguf_values, read_gguf
from cinelora.io.plain_data import opened
from cinelora.io.tensor_files import TENSOR_DTYPES, read_header
from cinelora.io.tensor_pickles import load_pickled
from cinelora.memory.weight_sharding import Shares
from cinelora.nn.fp8 import FP8, Fp8Linear, fp8_layers, swap_linears

Shapes = dict[str, tuple[int, ...]]
# I16, I8 and bool are written by nobody who publishes a Wan: a file that holds them is something else
DTYPES = {theirs: getattr(torch, ours) for ours, theirs in TENSOR_DTYPES.items() if theirs not in ("I16", "I8", "BOOL")}
HEAD_DIM = 128
"""Channels of an attention head of every published Wan; shapes alone do not say it."""
CLIP_HEADS = 16
"""Heads of the ViT-H that Wan reads images with, likewise. Source: Wan2.1 ``clip.py``."""
ALIGNMENT = 64
"""Bytes: torch's own tensors begin at multiples of it, and its CPU kernels sum in another order elsewhere."""
_SCALES = (".scale_weight", ".weight_scale")


# -- tensors on disk ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: known by shape and dtype, and read, or mapped where it can be, when it is asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    map: Callable[[], Tensor] | None = None


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Everything in safetensors, GGUF or ``.pth`` files, without their prefix; raises ``FileError`` or ``ModelError``."""
    readers = {".pth": _in_pickle, ".gguf": _in_gguf}
    return {bare(name): entry for path in files for name, entry in readers.get(path.suffix, _in_safetensors)(path)}


def _in_gguf(path: Path) -> Iterator[tuple[str, Stored]]:
    def read(tensor: GgufTensor) -> Tensor:
        return torch.from_numpy(gguf_values(path, tensor))

    for name, tensor in read_gguf(path)[0].items():
        yield name, Stored(tensor.shape, torch.float32, partial(read, tensor))


def _in_safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    header = read_header(path)
    with opened(path) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"{path.name} holds {name} as {entry['dtype']}, which is not read here")
        dtype, shape, (first, last) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        place = (path, start + first, last - first, dtype, shape)
        # a copy on writing: whoever changes the weights, as merging an adapter does, has pages of its own
        mapped = partial(_map_at, *place) if (start + first) % ALIGNMENT == 0 < last - first else None
        yield name, Stored(shape, dtype, partial(_read_at, *place), mapped)


def _read_at(path: Path, offset: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    content = torch.empty(size, dtype=torch.uint8)
    view = content.numpy().data
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while view:  # the kernel gives at most 2 GiB at a time
            taken = file.readinto(view)
            if not taken:
                raise ModelError(f"{path} was cut short by another program while it was read")
            view = view[taken:]
    return content.view(dtype).reshape(shape)


def _map_at(path: Path, offset: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    # a page of a map beyond the end of its file would kill the process when it is touched, long after this
    if os.path.getsize(path) < offset + size:
        raise ModelError(f"{path} was cut short by another program while it was read")
    content = np.memmap(path, np.uint8, "c", offset, (size,))
    return torch.from_numpy(content).view(dtype).reshape(shape)


def _in_pickle(path: Path) -> Iterator[tuple[str, Stored]]:
    """Tensors of a ``.pth``; the file is mapped, so nothing is read yet."""
    for name, tensor in load_pickled(path).items():
        yield name, Stored(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]


# -- names -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Where a module's tensor comes from: a stored one, or the ``third`` (0, 1, 2) of one that holds q, k and v."""

    name: str
    third: int | None = None


def tensor_origins(part: Part, names: Iterable[str]) -> dict[str, Origin]:
    """Module's name -> where it is stored, for tensors named as diffusers and transformers do, or as Wan's own code does."""
    names = [name for name in names if not EXTRAS.fullmatch(name)]
    match part:
        case Part.TRANSFORMER if any(".self_attn." in name for name in names):
            return _renamed(convert_wan_transformer_to_diffusers({name: name for name in names}))
        case Part.VAE if any(name.startswith("decoder.middle.") for name in names):
            return _vae_names(names)
        case Part.TEXT_ENCODER:
            return _text_names(names)
        case Part.IMAGE_ENCODER:
            return _image_names(names)
    return {name: Origin(name) for name in names}


def _renamed(table: dict[str, str]) -> dict[str, Origin]:
    return {name: Origin(old) for name, old in table.items()}


def _vae_names(names: list[str]) -> dict[str, Origin]:
    """Names of the VAE in Wan's ``vae2_1.py`` or ``vae2_2.py`` -> those of diffusers."""
    # The VAE of 48 channels numbers the layers of each block, the last of which may resample; all else is called as in Wan2.1's.
    # Blocks of Wan2.1's have no second number.
    found: dict[str, Origin] = {}
    flat = []
    for name in names:
        form = re.fullmatch(r"(encoder|decoder)\.(down|up)samples\.(\d+)\.\2samples\.(\d+)\.(.+)\.(\w+)", name)
        if form is None:
            flat.append(name)
            continue
        coder, way, block, layer, module, leaf = form.groups()
        theirs = NAMES["residual_block"].get(module)
        place = f"resnets.{layer}.{theirs}" if theirs else f"{way}sampler.{module}"
        found[f"{coder}.{way}_blocks.{block}.{place}.{leaf}"] = Origin(name)
    return found | _renamed(convert_wan_vae_to_diffusers({name: name for name in flat}))


def _text_names(names: list[str]) -> dict[str, Origin]:
    """Names of UMT5 in Wan's ``t5.py`` or in transformers -> those of transformers."""

    # Wan's file numbers blocks at its top level and names what lies in them flatly; transformers nests each block's two
    # layers. The gate of the feed-forward layer is what passes through the GELU there, as ``wi_0`` is here.
    def theirs(name: str) -> str:
        form = re.fullmatch(r"blocks\.(\d+)\.(.+?)((?:\.[qkvo])?\.weight)", name)
        if form is None:
            return str(NAMES["text_ends"].get(name, name))
        return f"encoder.block.{form[1]}.{NAMES['text_block'].get(form[2], form[2])}{form[3]}"

    return {theirs(name): Origin(name) for name in names}


def _image_names(names: list[str]) -> dict[str, Origin]:
    """Names of CLIP in Wan's ``clip.py`` or in transformers -> those of transformers."""
    found: dict[str, Origin] = {}
    ends: dict[str, str] = NAMES["image_ends"]
    for name in names:
        module, _, kind = name.rpartition(".")
        form = re.fullmatch(r"visual\.transformer\.(\d+)\.(.+)", module)
        if form and form[2] == "attn.to_qkv":
            # one tensor of Wan's makes three here: queries, keys and values lie in it one below the other
            for third, letter in enumerate("qkv"):
                found[f"encoder.layers.{form[1]}.self_attn.{letter}_proj.{kind}"] = Origin(name, third)
        elif form:
            found[f"encoder.layers.{form[1]}.{NAMES['image_block'].get(form[2], form[2])}.{kind}"] = Origin(name)
        elif module in ends:
            found[f"{ends[module]}.{kind}"] = Origin(name)
        else:  # a parameter without a module, or a file of transformers'
            found[ends.get(name, name.removeprefix("vision_model."))] = Origin(name)
    return found


# -- modules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Destination:
    """Where a part's tensors go, and as what.

    With ``fp8`` the linear layers of a transformer's blocks are ``Fp8Linear``, each filled as it is read. The matrices of
    its first ``on_host`` blocks go back to the host one by one; with ``shares`` this rank keeps its pieces of all of them.
    """

    device: torch.device
    dtype: torch.dtype
    fp8: bool = False
    on_host: int = 0
    shares: Shares | None = None

    def filled(self, module: nn.Module, value: Callable[[str, nn.Parameter, torch.dtype], Tensor | None]) -> nn.Module:
        """The empty ``module`` with all values in it, frozen; ``value`` gives one by its name, or None where none is kept."""
        if self.shares:
            # every rank works out the same layout from names and dtypes alone, before any value is there
            dtypes = {name: self.dtype_of(module, name) for name, _ in module.named_parameters()}
            self.shares.lay_out(module, dtypes | {f"{name}.weight": FP8 for name, _ in fp8_layers(module)}, self.device)
        for name, parameter in _to_fill(module):
            self._place(module, name, value(name, parameter, self.dtype_of(module, name)))
        if isinstance(module, UMT5EncoderModel):
            module.encoder.embed_tokens.weight = module.shared.weight
        for owner in module.modules():  # parameters are where they should be
            for name, buffer in owner.named_buffers(recurse=False):
                setattr(owner, name, buffer.to(self.device))
        return module.eval().requires_grad_(False)

    def dtype_of(self, module: nn.Module, name: str) -> torch.dtype:
        """``dtype``, or float32 for what diffusers keeps so in every precision (norms, modulation, time embedding)."""
        kept = module._keep_in_fp32_modules if isinstance(module, WanTransformer3DModel) else ()
        return torch.float32 if set(name.split(".")) & set(kept) else self.dtype

    def _place(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        owner, _, leaf = name.rpartition(".")
        layer, block = module.get_submodule(owner), re.match(r"blocks\.(\d+)\.", name)
        if tensor is None:
            assert self.shares is not None  # nothing else leaves tensors out
        elif leaf == "weight" and isinstance(layer, Fp8Linear):
            layer.fill(tensor)
        else:
            setattr(layer, leaf, nn.Parameter(tensor, requires_grad=False))
        if self.shares:
            self.shares.take(name, layer, leaf)
        elif block and int(block[1]) < self.on_host and tensor is not None and tensor.ndim == 2:
            # A matrix of a swapped block was converted, or turned to fp8, where that is fast. It goes back at once, so that the
            # device never holds more than one of them.
            parameter = getattr(layer, leaf)
            parameter.data = parameter.data.cpu()


def load_part(
    found: FoundPart, to: Destination, num_heads: int | None = None, latent_channels: int = WAN21.geometry.channels
) -> nn.Module:
    """The part as a frozen module; ``num_heads`` is the transformer's, where no ``config.json`` says it.

    A VAE has to have ``latent_channels``. Of a part that ranks share, only what this one has a piece of is read. Raises
    ``ModelError`` or ``FileError``, before a tensor is read, where names or shapes are not those of the part.
    """
    headers = [checkpoint_layouts.entries_of(path) for path in found.weights if path.suffix != ".pth"]
    checkpoint_layouts.refuse_unread(found, {name: entry for header in headers for name, entry in header.items()})
    stored = stored_tensors(found.weights)
    checkpoint_layouts.refuse_other_part(found.part, stored)
    if found.part is Part.VAE:
        checkpoint_layouts.refuse_other_vae({name: entry.shape for name, entry in stored.items()}, latent_channels)
    # Names and shapes first, values last: what is wrong with a file is said in a second, and not after gigabytes of it.
    sources = tensor_origins(found.part, stored)
    shapes = {name: _shape(stored, origin) for name, origin in sources.items()}
    module = empty_module(found.part, _settings(found, shapes, num_heads), to.fp8)
    sources = _as_spelt(module, sources)
    _refuse_misfit(module, sources, stored)

    def value(name: str, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor | None:
        if to.shares and not to.fp8 and not to.shares.has_part_of(name):  # scales of fp8 are every rank's
            return None
        return _read(stored, sources[name], to.device, dtype).reshape(parameter.shape)

    return to.filled(module, value)


def _shape(stored: dict[str, Stored], origin: Origin) -> tuple[int, ...]:
    first, *rest = stored[origin.name].shape or (1,)
    return (first if origin.third is None else first // 3, *rest)


def empty_module(part: Part, settings: dict[str, Any], fp8: bool = False) -> nn.Module:
    """The part's module with its parameters on the meta device: a shape without memory."""
    with init_empty_weights():
        match part:
            case Part.TRANSFORMER:
                module = WanTransformer3DModel.from_config(settings)
            case Part.VAE:
                module = AutoencoderKLWan.from_config(settings)
            case Part.TEXT_ENCODER:
                module = UMT5EncoderModel(UMT5Config.from_dict(settings))
            case Part.IMAGE_ENCODER:
                module = CLIPVisionModel(CLIPVisionConfig.from_dict(settings))
            case _:
                raise AssertionError(f"{part} has no tensors")
    if fp8:
        swap_linears(module.blocks)
    return module  # type: ignore[no-any-return]


def _to_fill(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    # the embedding of UMT5 is registered twice; its second name is tied to the first once all is in place. Scales of fp8
    # come with their weights
    made = {"encoder.embed_tokens.weight"} | {f"{name}.scale" for name, _ in fp8_layers(module)}
    return [entry for entry in module.named_parameters() if entry[0] not in made]


def _as_spelt(module: nn.Module, sources: dict[str, Origin]) -> dict[str, Origin]:
    """``sources`` under the names of this version of transformers, some of which put CLIP's behind ``vision_model.``."""
    if any(name.startswith("vision_model.") for name, _ in module.named_parameters()):
        return {f"vision_model.{name}": origin for name, origin in sources.items()}
    return sources


def _refuse_misfit(module: nn.Module, sources: dict[str, Origin], stored: dict[str, Stored]) -> None:
    wanted = {name: tuple(parameter.shape) for name, parameter in _to_fill(module)}
    if missing := sorted(wanted.keys() - sources.keys()):
        raise ModelError(f"{len(missing)} of {len(wanted)} tensors are missing, such as {missing[0]}")
    if strange := sorted(origin.name for name, origin in sources.items() if name not in wanted):
        raise ModelError(f"it holds {len(strange)} tensors that this Wan has not, such as {strange[0]}")
    for name, shape in wanted.items():
        found = _shape(stored, sources[name])
        if math.prod(found) != math.prod(shape):
            raise ModelError(f"{sources[name].name} has the shape {list(found)} where {list(shape)} is wanted")


def _read(stored: dict[str, Stored], origin: Origin, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One tensor on ``device`` in ``dtype``; fp8 is multiplied with its scale in float32, where it has one."""
    # What stays on the CPU as it is stored is mapped, and shared with every process that maps it. All else is read, as a mapped
    # page and the copy made of it would both count as this process's memory.
    entry = stored[origin.name]
    if entry.map and device.type == "cpu" and entry.dtype == dtype and origin.third is None:
        return entry.map()
    tensor = entry.read()
    if origin.third is not None:
        tensor = tensor.chunk(3)[origin.third].clone()  # a view would keep all three
    # A checkpoint in fp8 has a scale beside each weight: one for the whole tensor, or one for each row of it.
    scale = next((stored[name] for name in _scale_names(origin.name) if name in stored), None)
    if scale is None or not tensor.dtype.is_floating_point or tensor.dtype.itemsize > 1:
        return tensor.to(device).to(dtype)  # converted where it is to be: a GPU does it in no time
    factor = scale.read().to(device, torch.float32)
    factor = factor.reshape(-1, *[1] * (tensor.ndim - 1)) if factor.numel() > 1 else factor.reshape(())
    return tensor.to(device).float().mul_(factor).to(dtype)


def _scale_names(name: str) -> list[str]:
    return [name.removesuffix(".weight") + end for end in _SCALES] if name.endswith(".weight") else []


# -- shapes ------------------------------------------------------------------------------------------------------------


def settings_of(found: FoundPart) -> dict[str, Any]:
    """The settings of a stored part, of which no tensor is read."""
    stored = stored_tensors(found.weights)
    shapes = {name: _shape(stored, origin) for name, origin in tensor_origins(found.part, stored).items()}
    return _settings(found, shapes, None)


def _settings(found: FoundPart, shapes: Shapes, num_heads: int | None) -> dict[str, Any]:
    """The module's settings: what its ``config.json`` says, or for Wan's own layout and single files, what shapes say."""
    said = config_facts(found.config)
    if said.get("_class_name", "").endswith("WanModel"):
        num_heads, said = said.get("num_heads", num_heads), {}
    if said:
        return said.get("vision_config", said) if found.part is Part.IMAGE_ENCODER else said
    match found.part:
        case Part.TRANSFORMER:
            return transformer_settings(shapes, num_heads)
        case Part.VAE:
            return vae_settings(shapes)
        case Part.TEXT_ENCODER:
            return text_settings(shapes)
        case _:
            return image_settings(shapes)


def num_blocks(shapes: Shapes, beginning: str) -> int:
    """How many blocks are numbered after ``beginning``."""
    numbers = {name.removeprefix(beginning).split(".")[0] for name in shapes if name.startswith(beginning)}
    return len(numbers)


def transformer_settings(shapes: Shapes, num_heads: int | None) -> dict[str, Any]:
    """The settings of the Wan transformer whose tensors, in diffusers' names, have these shapes."""
    hidden, channels, *patch = shapes["patch_embedding.weight"]
    heads = num_heads or hidden // HEAD_DIM
    image = shapes.get("condition_embedder.image_embedder.norm1.weight")
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": hidden // heads,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": num_blocks(shapes, "blocks."),
        "image_dim": image[0] if image else None,
        "added_kv_proj_dim": hidden if image else None,
    }


def vae_settings(shapes: Shapes) -> dict[str, Any]:
    """The settings of the Wan VAE whose tensors, in diffusers' names, have these shapes."""
    # Those of 48 channels are told by their blocks, which hold layers; all of them are alike but in width, as Wan2.1's are.
    width = {"base_dim": shapes["encoder.conv_in.weight"][0]}
    if "encoder.down_blocks.0.resnets.0.conv1.weight" not in shapes:
        return width
    return {**NAMES["full_shapes"]["residual_vae"], **width, "decoder_base_dim": shapes["decoder.conv_out.weight"][1]}


def text_settings(shapes: Shapes) -> dict[str, Any]:
    """The settings of the UMT5 whose tensors, in transformers' names, have these shapes."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
    vocabulary, width = shapes["shared.weight"]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{attention}.q.weight"][0] // heads,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": num_blocks(shapes, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }


def image_settings(shapes: Shapes) -> dict[str, Any]:
    """The settings of the CLIP image encoder whose tensors, in transformers' names, have these shapes."""
    width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    positions = shapes["embeddings.position_embedding.weight"][-2]
    return {
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": num_blocks(shapes, "encoder.layers."),
        "num_attention_heads": CLIP_HEADS,
        "image_size": patch * math.isqrt(positions - 1),
        "patch_size": patch,
        "hidden_act": "gelu",
    }


# -- random values -----------------------------------------------------------------------------------------------------


def random_part(part: Part, settings: dict[str, Any], to: Destination) -> nn.Module:
    """The part at its full shape with values drawn on its device from a fixed seed: right in time and memory, no more.

    Matrices have a spread of one over the square root of their inputs, norms are one, biases zero: activations then
    keep their size from layer to layer, so that bf16 stays finite.
    """
    generator = torch.Generator(to.device).manual_seed(0)

    def value(name: str, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        # all ranks draw all values, also those that another one keeps: the generators then stay in step
        tensor = torch.empty(parameter.shape, device=to.device, dtype=dtype)
        if name.endswith(".bias"):
            return tensor.zero_()
        if name.endswith("gamma") or (tensor.ndim == 1 and name.endswith(".weight")):
            return tensor.fill_(1)
        return tensor.normal_(std=math.prod(tensor.shape[1:]) ** -0.5, generator=generator)

    return to.filled(empty_module(part, settings, to.fp8), value)


def num_parameters(module: nn.Module) -> int:
    """How many values a module has; a tied one counts once."""
    return sum(parameter.numel() for _, parameter in _to_fill(module))
