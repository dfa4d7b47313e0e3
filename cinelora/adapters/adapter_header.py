"""The one judge of adapter files: what a file changes and how strongly, or why it cannot be used, before torch is loaded.

Enters: the path of a safetensors file. Leaves: an ``AdapterHeader``, or one sentence. ``plan=true``, the checks before a run
and the reader itself all ask it, so that what passes the first is not refused by the last. It reads the header, the few
numbers that scale the update, and, when it is asked to ``judge_adapter``, every value once.

The tensors decide how strong an update is; a header tells where the adapter comes from. A format says where its scale
stands (``formats``). Our own header counts only where its ``mark``, a digest of the tensors, says that they are still those it
was written with. Two statements that contradict each other are refused with both numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cinelora.adapters.formats import (
    COMFY,
    DIFFUSERS,
    Format,
    format_of,
    parameter_of,
)
from cinelora.config.schema import LoraSpec, ModelConfig
from cinelora.errors import AdapterError, FileError, ModelError
from cinelora.families import family_of
from cinelora.families.family import EXPERTS, LayerNames, Network
from cinelora.families.layer_names import smallest_target
from cinelora.io.atomic import copy_file, sha256_json, write_bytes
from cinelora.io.plain_data import build, opened, parse_json, quoted, read_json, read_text, short_key
from cinelora.io.tensor_files import TENSOR_DTYPES, read_header, with_metadata

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "cinelora-adapter/1"
MARK = "mark"
"""In our header: ``folded`` or ``unfolded``, and the digest of the tensors of which this is true."""
DIFFUSERS_HEADER = "lora_adapter_metadata"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLES, PLAIN_PICKLE = (".pt", ".pth", ".bin"), ".ckpt"
"""Endings of pickles, and that of AnimateDiff's own adapters, of which tensors alone are read (ADR 10)."""
ORIGIN = ("kind", "base_model", "base_revision", "transformer", "data_hash")
"""Where an adapter comes from, as our header says it beside the facts of ``LoraSpec``."""
OUR_KEYS = ("format", "rank", "alpha", "dropout", "targets", *ORIGIN, "config", "trigger", "expert")
"""All of its keys but the mark."""
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
NUMBERS |= {"BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
"""How numpy reads what an adapter may hold; the last three as bits, which it has no numbers for."""
_EXPONENTS = {"BF16": 0x7F80, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C}
"""The bits that are all ones in an infinity or what is no number."""
LARGEST_SCALE = 1e4
"""An alpha / rank above it is a damaged number: trainers write 0.01 to 64."""
LARGEST_RANK = 2**20
CLOSE = 5e-3
"""Two scales nearer than this are one that was rounded to bf16."""
PRODUCTS = {
    "lora": ({"A", "B"},),
    "loha": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    "lokr": tuple(
        {*(("lokr_w1",) if one else ("lokr_w1_a", "lokr_w1_b")), *(("lokr_w2",) if two else ("lokr_w2_a", "lokr_w2_b"))}
        for one in (True, False)
        for two in (True, False)
    ),
}
"""The parts that a product of each kind is made of, in the ways it can be."""
OTHERS = {
    r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]": "an adapter of HunyuanVideo or Flux, and not of Wan",
    r"(^|[._])transformer_blocks[._]": "an adapter of LTX-Video, CogVideoX or Qwen-Image, and not of Wan",
    r"(^|[._])(down|up|mid|input|output|middle)_blocks?[._]": "an adapter of Stable Diffusion, of layers not adapted here",
    r"(^|[._])vace_blocks[._]": "an adapter of Wan VACE, whose control blocks are not in this version",
    r"\.(qweight|wscales|proj_down|smooth_factor)$": "an adapter in Nunchaku's form: give the one it was converted from",
    r"\.oft_blocks$|\.oft_diag$": "OFT and no LoRA: there is no form of it that is read",
    r"\.(hada_t1|hada_t2|lokr_t2|lora_mid\.weight)$": "a LyCORIS adapter with factors for convolutions",
    r"\.on_input$": "(IA)3 and no LoRA: there is no form of it that is read",
    r"((self|cross)_attn\.q|attn[12]\.to_q)\.weight$": "no adapter: it holds whole weights; give it as model.t2v= or model.i2v=",
}
"""What files are that are not read, by a key that each of them has."""


@dataclass(frozen=True)
class Change:
    """The change of one parameter: of which ``form`` it is, the keys of its parts, and the shape it has.

    A product is worth ``alpha / rank``, where alpha is what the file says, by whatever convention.
    """

    parameter: str
    form: str
    keys: dict[str, str]
    shape: tuple[int, ...]
    layers: LayerNames
    rank: int = 1
    alpha: float = 1.0
    values: int = 0
    """Values of its parts, in all."""

    @property
    def module(self) -> str:
        """The layer it changes."""
        return self.parameter.removesuffix(".weight").removesuffix(".bias")

    @property
    def scale(self) -> float:
        """What the product is multiplied with."""
        return self.alpha / self.rank

    @property
    def is_factors(self) -> bool:
        """Whether it is a plain pair of factors on a projection of a block, which can act beside the weight."""
        is_plain = self.form == "lora" and "magnitude" not in self.keys and len(self.shape) == 2
        return is_plain and self.layers.target_of(self.module) is not None


@dataclass(frozen=True)
class AdapterHeader:
    """What a file says before its tensors are loaded. ``ours`` are the facts of our own header, where it has one."""

    path: Path
    form: Format
    changes: tuple[Change, ...]
    ours: dict[str, Any] | None
    marked: bool | None
    """Whether our mark is there and true of the tensors; None where there is none, as in files of version 0.1."""
    assumed: bool = False
    """Whether a scale is 1 only because nothing says another one, as diffusers reads such files."""

    @cached_property
    def factors(self) -> list[Change]:
        """The plain pairs of factors in blocks."""
        return [change for change in self.changes if change.is_factors]

    @property
    def transformer(self) -> str | None:
        """The network that it was trained on, as our header says.

        Files of other tools do not say it: where a layer is taught in one network alone, such as an image projection of Wan2.1's
        image-to-video or a motion module of AnimateDiff, it is that one; else None.
        """
        if self.ours:
            return str(self.ours["transformer"])
        taught = (self.form.layers.taught_in(change.module) for change in self.changes)
        return next(filter(None, taught), None)

    @property
    def kind(self) -> str:
        """What our header says that it is of, ``style`` or ``motion``; of another tool's file its network decides.

        Whether one on a network that both stages can teach is of style or motion nobody can know: style is assumed.
        """
        return str(self.ours["kind"]) if self.ours else "motion" if self.transformer == "motion" else "style"

    @property
    def channels(self) -> int | None:
        """The channels of the latents that it is for; None where it does not change what reads them."""
        wide = (change.shape[1] for change in self.changes if change.parameter == "patch_embedding.weight")
        return next(wide, None)

    def suits(self, network: Network) -> bool:
        """Whether it acts on a network where nobody says otherwise: by what it changes, and what our header says.

        One of a network that is shown a first frame acts where one is shown; one that changes the patch embedding where that has
        as many channels. Which expert it acts on is asked elsewhere.
        """
        # The experts of Wan2.2 have no image projections: what one was shown cannot be seen in a file of another tool, which then
        # acts on any of them, as it does on both transformers of Wan2.1.
        fits = self.channels in (None, network.channels)
        there = any(self.form.layers.lies_in(change.module, network) for change in self.changes)
        return fits and there and (network.shows_first_frame or self.transformer != "i2v")

    @cached_property
    def spec(self) -> LoraSpec:
        """Rank and alpha of its pairs: those of our header, of all pairs, or, where these differ, of the largest at scale 1."""
        if self.ours and self._ours_counts:
            return LoraSpec(*(self.ours[key] for key in ("rank", "alpha", "dropout", "targets")))
        pairs = {(change.rank, change.alpha) for change in self.factors}
        targets = smallest_target(self.form.layers, (change.module for change in self.factors))
        if len(pairs) == 1:
            return LoraSpec(*pairs.pop(), targets=targets)
        rank = max((change.rank for change in self.factors or self.changes), default=1)
        return LoraSpec(rank, float(rank), targets=targets)

    @property
    def _ours_counts(self) -> bool:
        # Version 0.1 wrote no mark. Its header is believed where nothing has changed that can be seen: names, ranks, the scale.
        assert self.ours is not None
        if self.marked is not None:
            return self.marked
        scale = 1.0 if self.form is COMFY else self.ours["alpha"] / self.ours["rank"]
        known = self.form in (COMFY, DIFFUSERS) and bool(self.factors)
        return known and all(
            c.rank == self.ours["rank"] and "alpha" not in c.keys and math.isclose(c.scale, scale, rel_tol=CLOSE)
            for c in self.factors
        )

    def refuse_above(self, key: str) -> None:
        """Raise ``AdapterError`` where nothing can be trained above this adapter: it is more than pairs of factors."""
        more = [change for change in self.changes if not change.is_factors]
        if more:
            raise AdapterError(
                f"{key}: {self.path} changes {some([change.parameter for change in more])} by other means than plain LoRA: such "
                "adapters act at inference, and training goes above plain LoRA alone"
            )

    def copy(self, place: Path) -> None:
        """Write the file to ``place``, with peft's settings in its header where they stand beside it."""
        beside = self.path.with_name(PEFT_CONFIG)
        if self.path.suffix == PLAIN_PICKLE:
            from cinelora.io.tensor_files import save_tensors

            save_tensors(place, tensors_of(self.path), {})
            return
        if self.path.name != PEFT_FILE or not beside.is_file():
            copy_file(self.path, place)
            return
        metadata = read_header(self.path).get("__metadata__", {}) | {PEFT_CONFIG: read_text(beside)}
        with opened(self.path) as file:
            write_bytes(place, with_metadata(file.read(), metadata))

    def refuse_other_model(self, model: ModelConfig) -> None:
        """Raise ``AdapterError`` where it is of another family, has another width, or lies in a deeper block, than ``model``."""
        family, layers = family_of(model), self.form.layers
        if layers is not family.layers:
            raise AdapterError(
                f"{self.path} is an adapter of {layers.title}, and model={model.name} is of {family.title}, which "
                f"needs adapters of "
                f"{family.layers.title}: choose the model it was trained on"
            )
        trained, networks = (self.ours or {}).get("transformer"), [network.name for network in family.networks]
        if trained and trained not in networks:
            raise AdapterError(
                f"{self.path} was trained on the {trained} network of {layers.title}, and model={model.name} is of "
                f"{family.title}, which has {' and '.join(networks)} alone: choose the model it was trained on"
            )
        for change in self.changes:
            number = re.match(r"blocks\.([0-9]+)\.", change.parameter)
            if number and int(number[1]) >= model.num_layers:
                raise AdapterError(
                    f"{self.path} changes block {number[1]}, model={model.name} has {model.num_layers} blocks: "
                    "choose the model it was trained on"
                )
            wanted = zip(change.shape, layers.width_of(change.module, model.hidden_size), strict=False)
            if any(theirs != ours for theirs, ours in wanted if ours):
                raise AdapterError(
                    f"{self.path}: {change.parameter} is {'x'.join(map(str, change.shape))}, which does not fit "
                    f"model={model.name} of width {model.hidden_size}: choose the model it was trained on"
                )


# -- the judge ---------------------------------------------------------------------------------------------------------


def judge_adapter(path: Path, model: ModelConfig | None = None) -> AdapterHeader:
    """What the adapter in ``path`` changes, after every value was looked at once.

    Raises ``AdapterError`` or ``FileError``, one sentence, for a file that cannot be used, or not with ``model``.
    """
    header = _entries(path)
    values = dict(_values(path, header))
    for name, array in values.items():
        if not _is_finite(array, header[name]["dtype"]):
            raise AdapterError(f"{path} is damaged: {short_key(name)} holds numbers that are not finite")
    found = _judged(path, header, values)
    if model is not None:
        found.refuse_other_model(model)
    return found


def adapter_header(path: Path) -> AdapterHeader:
    """The same from its header and the few numbers that scale it: quick, and blind to a mark that is no longer true."""
    return _judged(path, _entries(path), None)


def _judged(path: Path, header: dict[str, Any], values: Mapping[str, np.ndarray] | None) -> AdapterHeader:
    metadata = header.get("__metadata__", {})
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    form = format_of(tensors)
    if form is None:
        _refuse_others(path, list(tensors))
        raise AdapterError(f"{path} is no adapter of Wan or Stable Diffusion: its keys are {some(list(tensors))}")
    tensors = {name: entry for name, entry in tensors.items() if not form.is_left_out(name)}
    parts = _parts(path, form, tensors)
    ours, peft = our_facts(path, metadata), _peft_facts(path, metadata)
    changes = [
        change for module, keys in parts.items() for change in _changes(path, module, keys, tensors, form.layers)
    ]
    if len(networks := {form.layers.taught_in(change.module) for change in changes} - {None}) > 1:
        raise AdapterError(
            f"{path} changes layers of the {' and '.join(sorted(map(str, networks)))} networks: give each as a file of its own"
        )
    marked = _marked(metadata, changes, tensors, values, ours)
    changes = [replace(change, values=_values_of(change, tensors)) for change in changes]
    scales = Scales(path, form, _alphas(path, header), peft, _scale_by(ours, metadata), bool(marked))
    return AdapterHeader(path, form, tuple(map(scales.of, changes)), ours, marked, any(map(scales.is_assumed, changes)))


def _entries(path: Path) -> dict[str, Any]:
    """The header of a file that may be an adapter."""
    if path.suffix in PICKLES:
        raise AdapterError(
            f"{path} is a pickle, which can run any code while it is read: "
            "convert it to .safetensors where it came from"
        )
    header = _pickled_header(path) if path.suffix == PLAIN_PICKLE else read_header(path)
    for name, entry in header.items():
        if name != "__metadata__" and 0 in entry["shape"]:
            raise AdapterError(f"{path} is damaged: {short_key(name)} holds nothing (its shape is {entry['shape']})")
    return header


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file. Raises ``AdapterError`` for a pickle that is more than tensors, and ``FileError``."""
    from cinelora.io.tensor_files import load_tensors
    from cinelora.io.tensor_pickles import load_pickled

    try:
        return load_pickled(path) if path.suffix == PLAIN_PICKLE else load_tensors(path)[0]
    except ModelError as error:
        raise AdapterError(str(error)) from error


def _pickled_header(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file of the same tensors would say of them."""
    return {
        name: {"dtype": TENSOR_DTYPES.get(str(tensor.dtype).removeprefix("torch."), ""), "shape": list(tensor.shape)}
        for name, tensor in tensors_of(path).items()
    }


def _refuse_others(path: Path, keys: list[str]) -> None:
    for pattern, words in OTHERS.items():
        if any(re.search(pattern, key) for key in keys):
            raise AdapterError(f"{path} is {words}")


def _parts(path: Path, form: Format, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The keys of each layer's parts."""
    # One that no table knows is not passed over: it may be a part of the update, and an adapter without it would be another
    # one. Of the same part twice nobody can know which is meant.
    parts: dict[str, dict[str, str]] = {}
    unknown = []
    for key in keys:
        module, part = form.part(key) or ("", "")
        if module and part in parts.get(module, {}):
            both = f"{short_key(parts[module][part])} and {short_key(key)}"
            raise AdapterError(f"{path} holds two adapters of one layer, {both}: export it again where it came from")
        if not module:
            unknown.append(key)
        else:
            parts.setdefault(module, {})[part] = key
    if unknown:
        _refuse_others(path, unknown)
        raise AdapterError(
            f"{path} looks like an adapter of {form.tool}, but some of its keys are unknown: {some(unknown)}"
        )
    return parts


def some(keys: list[str], count: int = 3) -> str:
    """The first few of many names."""
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return (", ".join(map(short_key, keys[:count])) or "none") + more


# -- what is changed ---------------------------------------------------------------------------------------------------


def _changes(
    path: Path, module: str, keys: dict[str, str], header: dict[str, Any], layers: LayerNames
) -> Iterator[Change]:
    """The changes of one layer: a product, a difference of its weight, one of its bias."""
    shapes = {part: tuple(header[key]["shape"]) for part, key in keys.items()}
    product = {part: key for part, key in keys.items() if part not in ("diff", "diff_b", "B_bias")}
    if product:
        form = _form(path, module, product)
        shape, rank = _product_shape(path, module, form, shapes)
        if "magnitude" in shapes and math.prod(shapes["magnitude"]) not in shape[:2]:
            found, sides = list(shapes["magnitude"]), "x".join(map(str, shape))
            raise AdapterError(f"{path}: the magnitude of {module} has the shape {found}, which is none for {sides}")
        yield Change(parameter_of(module, "weight"), form, product, shape, layers, rank)
        if "B_bias" in keys:
            bias = {"diff": keys["B_bias"], **({"alpha": keys["alpha"]} if "alpha" in keys else {})}
            yield Change(parameter_of(module, "bias"), "bias", bias, shapes["B_bias"], layers, rank)
    for part, leaf in (("diff", "weight"), ("diff_b", "bias")):
        if part in keys:
            yield Change(parameter_of(module, leaf), "diff", {"diff": keys[part]}, shapes[part], layers)


def _values_of(change: Change, header: dict[str, Any]) -> int:
    return sum(math.prod(header[key]["shape"]) for part, key in change.keys.items() if part != "alpha")


def _form(path: Path, module: str, keys: dict[str, str]) -> str:
    """Which product the parts of a layer make; raises ``AdapterError`` for half of one."""
    held = keys.keys() - {"alpha", "magnitude"}
    for form, ways in PRODUCTS.items():
        if held in ways:
            return form
    # what lacks least is what was meant
    meant = [way for several in PRODUCTS.values() for way in several if held <= way]
    lacking = sorted(min(meant, key=lambda way: len(way - held)) - held) if meant else ["part that fits"]
    lacks = f"lora_{lacking[0]}" if lacking[0] in "AB" else lacking[0]
    raise AdapterError(f"{path} is incomplete: {module} has {some(list(keys.values()))} but no {lacks}")


def _product_shape(
    path: Path, module: str, form: str, shapes: dict[str, tuple[int, ...]]
) -> tuple[tuple[int, ...], int]:
    """The shape of a product and its rank; raises ``AdapterError`` where its parts cannot be multiplied."""
    if form == "lora":
        down, up = shapes["A"], shapes["B"]
        fits = len(down) == len(up) >= 2 and up[1] == down[0] and set(up[2:]) <= {1}
        whole, rank = (up[0], *down[1:]) if fits else (), down[0] if down else 0
    elif form == "loha":
        first, second = ((shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"]) for n in (1, 2))
        wholes = {_matrix(*first), _matrix(*second)}
        fits = len(wholes) == 1 and () not in wholes
        whole, rank = wholes.pop(), first[1][0] if first[1] else 0
    else:
        sides = [shapes.get(f"lokr_w{n}") or _matrix(shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"]) for n in (1, 2)]
        fits = all(len(side) == 2 for side in sides)
        whole = (sides[0][0] * sides[1][0], sides[0][1] * sides[1][1]) if fits else ()
        # two whole factors have no rank, and are worth 1 whatever alpha says
        rank = next((shapes[part][0] for part in ("lokr_w1_b", "lokr_w2_b") if shapes.get(part)), 1)
    if not fits:
        said = ", ".join(
            f"{part} {list(shape)}" for part, shape in shapes.items() if part not in ("alpha", "magnitude")
        )
        raise AdapterError(f"{path}: the parts of {module} do not fit each other: {said}")
    return whole, rank


def _matrix(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return (left[0], right[1]) if len(left) == len(right) == 2 and left[1] == right[0] else ()


# -- how strongly ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """Everything in and about a file that says how strong its products are.

    ``ours`` is what our own header says, if there is one; it is ``marked`` where it is true of the tensors.
    """

    path: Path
    form: Format
    alphas: dict[str, float]
    peft: PeftFacts | None
    ours: float | None
    marked: bool

    def of(self, change: Change) -> Change:
        """``change`` with its alpha; raises ``AdapterError`` where nothing is said, or two things that differ."""
        if change.form == "diff":
            return change
        said = self._said(change)
        if not said:
            raise AdapterError(
                f"{self.path} has the names of {self.form.tool} but neither .alpha nor the header {DIFFUSERS_HEADER} nor an "
                f"{PEFT_CONFIG}, so its alpha is unknown: put its {PEFT_CONFIG} beside it, as {PEFT_FILE}"
            )
        (first, alpha), *others = said.items()
        for where, other in others:
            if not math.isclose(alpha, other, rel_tol=CLOSE):
                raise AdapterError(
                    f"{self.path} contradicts itself: {change.module} has the scale {alpha / change.rank:g} by {first} and "
                    f"{other / change.rank:g} by {where}; export it again where it came from"
                )
        if not 0 < alpha <= LARGEST_SCALE * change.rank:
            raise AdapterError(
                f"{self.path}: {change.module} has rank {change.rank} and alpha {alpha:g}: a LoRA needs an alpha above 0, and "
                f"at most {LARGEST_SCALE:g} times its rank"
            )
        return replace(change, alpha=alpha)

    def _said(self, change: Change) -> dict[str, float]:
        """Alpha by who says it; the first one is as it was written."""
        said: dict[str, float] = {}
        if self._has_alpha(change):
            said[".alpha"] = self.alphas[change.keys["alpha"]]
        if self.peft is not None:
            said[self.peft.where] = self.peft.alpha_on(self.path, change)
        if (self.form.scale == "one" and ".alpha" not in said) or self.is_assumed(change):
            said[f"the convention of {self.form.tool}"] = float(change.rank)
        if self.ours is not None and self.marked:
            said["our header"] = self.ours * change.rank
        elif self.ours is not None and self.is_assumed(change):
            # its alpha may be that of the tensors before another tool changed them: no guess where it says another one
            said["our header, which is not of these tensors"] = self.ours * change.rank
        return said

    def is_assumed(self, change: Change) -> bool:
        """Whether a product is worth 1 because readers take that where nothing is said."""
        says = self._has_alpha(change) or self.peft is not None or self.marked
        return self.form.scale == "assumed" and change.form != "diff" and not says

    def _has_alpha(self, change: Change) -> bool:
        # LyCORIS and ComfyUI ignore the alpha of a LoKr whose two factors are whole
        return "alpha" in change.keys and (
            change.form != "lokr" or bool(change.keys.keys() & {"lokr_w1_b", "lokr_w2_b"})
        )


@dataclass(frozen=True)
class PeftFacts:
    """What peft's settings say of rank and alpha; ``where`` they stand."""

    where: str
    rank: float
    alpha: float
    rank_of: Patterns
    alpha_of: Patterns
    rslora: bool
    dora: bool

    def alpha_on(self, path: Path, change: Change) -> float:
        """The alpha of a change; raises ``AdapterError`` where its rank is another one."""
        rank, alpha = self.rank_of.get(change.module, self.rank), self.alpha_of.get(change.module, self.alpha)
        if change.form in ("lora", "loha") and rank != change.rank:
            raise AdapterError(f"{path}: {self.where} says rank {rank:g}, {change.module} has rank {change.rank}")
        if self.dora and "magnitude" not in change.keys:
            raise AdapterError(f"{path}: {self.where} says DoRA, but {change.module} has no magnitude")
        if self.rslora:  # scales by the root of the rank (Kalajdzievski 2023)
            alpha *= math.sqrt(rank)
        # a LoKr is worth alpha / r, whatever its parts are
        return alpha if rank == change.rank else alpha / rank * change.rank


class Patterns:
    """Numbers of layers, by the end of a layer's name or by an expression for it, as peft has them.

    Raises ``ValueError`` for an expression that is more than a name with ``.*`` and ``\\d+`` in it, or for many.
    """

    # An expression is a stranger's program: one of thirty characters can keep Python's matcher busy for years. Names, which
    # nearly all of them are, are looked up; what is left is of a form that cannot be slow.
    NAME = re.compile(r"\^?[\w.-]+")
    EXPRESSION = re.compile(r"\^?(?:[\w-]|\\?\.|\.\*|\\d\+){1,200}")
    MOST, MOST_OPEN = 32, 3

    def __init__(self, said: dict[str, float]) -> None:
        self.names: dict[str, float] = {}
        self.expressions: dict[re.Pattern[str], float] = {}
        for key, value in said.items():
            plain = key.removesuffix("$").replace("\\.", ".")
            if self.NAME.fullmatch(plain):
                self.names[plain] = value
            elif not self._is_quick(key.removesuffix("$")) or len(self.expressions) == self.MOST:
                raise ValueError(f"the pattern {quoted(key)} is not read: write the layers' names out")
            else:
                self.expressions[re.compile(rf"(.*\.)?({key})$")] = value

    def _is_quick(self, key: str) -> bool:
        return self.EXPRESSION.fullmatch(key) is not None and key.count("*") + key.count("+") <= self.MOST_OPEN

    def get(self, module: str, default: float) -> float:
        """The number of a layer: peft looks for a pattern at the end of its name."""
        words = module.split(".")
        for name in (f"^{module}", *(".".join(words[first:]) for first in range(len(words)))):
            if name in self.names:
                return self.names[name]
        return next((value for pattern, value in self.expressions.items() if pattern.match(module)), default)


def _peft_facts(path: Path, metadata: dict[str, str]) -> PeftFacts | None:
    """peft's settings in the file's header, or in the file that peft writes beside it."""
    beside = path.with_name(PEFT_CONFIG)
    try:
        if DIFFUSERS_HEADER in metadata:
            where, said = f"its header {DIFFUSERS_HEADER}", parse_json(metadata[DIFFUSERS_HEADER], dict[str, Any], path)
        elif PEFT_CONFIG in metadata:
            where, said = PEFT_CONFIG, parse_json(metadata[PEFT_CONFIG], dict[str, Any], path)
        elif path.name == PEFT_FILE and beside.is_file():
            where, said = PEFT_CONFIG, read_json(beside, dict[str, Any])
        else:
            return None
    except FileError as error:
        raise AdapterError(str(error)) from error
    said = {key.removeprefix("transformer.").removeprefix("unet."): value for key, value in said.items()}
    try:
        rank = build(float, said.get("r"), "")
        alpha = build(float, said.get("lora_alpha", said.get("alpha")), "")
        ranks, alphas = (build(dict[str, float], said.get(f"{of}_pattern") or {}, "") for of in ("rank", "alpha"))
    except FileError as error:
        raise AdapterError(f"{path}: {where} does not say r and lora_alpha") from error
    if not all(one >= 1 for one in (rank, *ranks.values())):
        raise AdapterError(f"{path}: {where} says a rank below 1")
    try:
        patterns = Patterns(ranks), Patterns(alphas)
    except ValueError as error:
        raise AdapterError(f"{path}: {where}: {error}") from error
    return PeftFacts(where, rank, alpha, *patterns, bool(said.get("use_rslora")), bool(said.get("use_dora")))


# -- our own header ----------------------------------------------------------------------------------------------------


def our_facts(path: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    """What our header says; None where it is another tool's. Raises ``AdapterError`` for one that is not right."""
    written = metadata.get("format", "")
    if written.startswith("cinelora-adapter/") and written != FORMAT:
        raise AdapterError(f"{path} is {short_key(written)}, this version reads {FORMAT}: update cinelora")
    if written != FORMAT:
        return None
    numbers = {"rank": int, "alpha": float, "dropout": float}
    try:
        facts: dict[str, Any] = {key: number(metadata[key]) for key, number in numbers.items()}
        facts |= {key: metadata[key] for key in ("targets", *ORIGIN)}
        facts |= {key: metadata.get(key) for key in ("trigger", "expert")}
        facts["config"] = parse_json(metadata["config"], dict[str, Any], path)
    except (KeyError, ValueError, FileError) as error:
        raise AdapterError(
            f"{path} calls itself {FORMAT}, but its header lacks or garbles {short_key(str(error))}"
        ) from error
    if facts["expert"] not in (None, *EXPERTS):
        raise AdapterError(
            f"{path} calls itself an adapter for the expert {quoted(facts['expert'])}; this version knows {' and '.join(EXPERTS)}"
        )
    # A header is a stranger's data: a rank of 0 would divide by zero later, and an alpha that is no number fails every ``>``.
    rank, alpha = facts["rank"], facts["alpha"]
    if not (1 <= rank <= LARGEST_RANK and 0 < alpha <= LARGEST_SCALE * rank and 0 <= facts["dropout"] < 1):
        raise AdapterError(
            f"{path}: a LoRA needs a rank of at least 1 and an alpha above 0, and at most {LARGEST_SCALE:g} times its rank, "
            f"not {quoted(rank)} and {alpha:g}, and a dropout from 0 to below 1, not {facts['dropout']:g}"
        )
    return facts


def digest(tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """24 hex digits of tensors: name, dtype, shape and bytes of each, in any order."""
    whole = hashlib.sha256()
    for name, dtype, shape, content in sorted(tensors, key=lambda item: item[0]):
        whole.update(f"{name} {dtype} {list(shape)}\n".encode())
        whole.update(content)
    return whole.hexdigest()[:24]


def facts_digest(metadata: Mapping[str, str]) -> str:
    """24 hex digits of what our header says; other tools may say more beside it."""
    said = {key: text for key, text in metadata.items() if key in OUR_KEYS}
    return sha256_json(said)[:24]


def _marked(
    metadata: dict[str, str],
    changes: list[Change],
    header: dict[str, Any],
    values: Mapping[str, np.ndarray] | None,
    ours: dict[str, Any] | None,
) -> bool | None:
    """Whether our mark is true of the tensors; None where there is none, or it was not looked at."""
    # Layers go into the digest by diffusers' names, whatever they are called in the file: a file that was only renamed is
    # still known. Of .alpha it says nothing: whoever adds it has said something about the tensors, and did not change them.
    if MARK not in metadata:
        return None
    if ours is None or not all(change.is_factors for change in changes):
        return False
    if values is None:
        return True
    parts = {f"{c.module}.lora_{part}.weight": c.keys[part] for c in changes for part in "AB"}
    found = digest((name, header[k]["dtype"], tuple(header[k]["shape"]), values[k].data) for name, k in parts.items())
    values_then, *facts_then = metadata[MARK].split()[1:] or [""]
    # older files say nothing of their facts
    facts_hold = not facts_then or facts_then == [facts_digest(metadata)]
    return values_then == found and facts_hold and {change.rank for change in changes} == {ours["rank"]}


def _scale_by(ours: dict[str, Any] | None, metadata: dict[str, str]) -> float | None:
    """The scale that our header says; None without one."""
    if ours is None:
        return None
    return 1.0 if metadata.get(MARK, "").startswith("folded ") else float(ours["alpha"] / ours["rank"])


# -- values ------------------------------------------------------------------------------------------------------------


def _values(path: Path, header: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the file, mapped, as numpy reads its bits."""
    if path.suffix == PLAIN_PICKLE:
        yield from _pickled_values(path, header)
        return
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in NUMBERS:
            found = f"{short_key(name)} as {short_key(entry['dtype'])}"
            raise AdapterError(f"{path} holds {found}, from which no adapter is read: convert it to bf16")
        first, last = entry["data_offsets"]
        flat, dtype = content[start + first : start + last], np.dtype(NUMBERS[entry["dtype"]])
        if flat.nbytes != math.prod(entry["shape"]) * dtype.itemsize:
            raise AdapterError(f"{path} is damaged: {name} has {flat.nbytes} bytes for the shape {entry['shape']}")
        yield name, flat.view(dtype)


def _pickled_values(path: Path, header: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    import torch

    tensors = tensors_of(path)
    for name, entry in header.items():
        if entry["dtype"] not in NUMBERS:
            raise AdapterError(
                f"{path} holds {short_key(name)} in a form from which no adapter is read: convert it to bf16"
            )
        bits = tensors[name].contiguous().flatten().view(torch.uint8).numpy()
        yield name, bits.view(np.dtype(NUMBERS[entry["dtype"]]))


def _alphas(path: Path, header: dict[str, Any]) -> dict[str, float]:
    """The numbers called ``.alpha``."""
    found = {}
    for name, values in _values(path, {name: entry for name, entry in header.items() if name.endswith(".alpha")}):
        if values.size != 1:
            raise AdapterError(f"{path}: {name} should be one number and has the shape {header[name]['shape']}")
        found[name] = float(_widened(values, header[name]["dtype"])[0])
    return found


def _widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers that are read as bits, as numbers."""
    if dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4")
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (values.astype("<u2") << 8).view("<f2")
    if dtype == "F8_E4M3":
        # put where a float16 has exponent and mantissa, which counts from 2**-15 where this counts from 2**-7
        bits = values.astype("<u2")
        return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).view("<f2").astype("<f4") * 2.0**8
    return values


def _is_finite(values: np.ndarray, dtype: str) -> bool:
    if dtype not in _EXPONENTS:
        return bool(np.isfinite(values).all())
    mask = _EXPONENTS[dtype]
    return not bool(((values & mask) == mask).any())
