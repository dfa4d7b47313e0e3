"""The forms in which tools write adapters: prefixes, names of layers, and endings, as one table.

Enters: keys of a file. Leaves: which layer of which family each one changes, in diffusers' names, and by which part of an update.
Names alone say which family a file is of, so that the tables of all families meet here. No file is read, and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cinelora.errors import AdapterError
from cinelora.families.family import LayerNames
from cinelora.families.unet_layers import (
    UNET_LAYERS,
    authors_name,
    diffusers_name,
    is_adaptable,
    part_of_authors,
    place_of,
    undo_kohya,
)
from cinelora.families.wan_layers import BLOCK_NAMES, OUTSIDE_NAMES, WAN_LAYERS, WAN_NAMES

ENDINGS = {
    **{f".lora_{name}.weight": "A" for name in ("A", "down", "A.default")},
    **{f".lora_{name}.weight": "B" for name in ("B", "up", "B.default")},
    **{".lora.down.weight": "A", ".lora.up.weight": "B", ".lora_B.bias": "B_bias", ".alpha": "alpha"},
    **dict.fromkeys((".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"), "magnitude"),
    **{".lora_magnitude_vector.default.weight": "magnitude", ".lora_magnitude_vector.default": "magnitude"},
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")},
    **{".diff": "diff", ".w_norm": "diff", ".diff_b": "diff_b", ".b_norm": "diff_b", ".diff_m": "diff_m"},
}
"""What part of an update each ending of a key is."""


@dataclass(frozen=True)
class Format:
    """How a tool names what it adapts: ``<prefix>blocks<dot>0<dot><name>``.

    ``names`` are the ``checkpoint``'s or ``diffusers``' own. ``scale`` says what a pair of factors without ``.alpha`` is worth:
    ``one`` is a convention that all of a format's readers share; ``header`` means that a header has to say it; ``assumed``
    that a header may, and that readers take 1 where none does (diffusers: ``get_peft_kwargs`` sets alpha to the rank).
    """

    tool: str
    prefix: str
    names: str
    dot: str = "."
    scale: str = "one"
    layers: LayerNames = WAN_LAYERS
    """Those of the family whose files these are."""
    folds: bool = True
    """Whether ``alpha / rank`` lies in B where this project writes the form, so that no reader can take another scale for it."""

    @cached_property
    def _tables(self) -> tuple[dict[str, str], dict[str, str]]:
        """The names in a block and those outside -> diffusers' names."""
        ours = self.names == "diffusers"
        block, outside = (
            {(key if ours else theirs).replace(".", self.dot): key for key, theirs in table.items()}
            for table in (BLOCK_NAMES, OUTSIDE_NAMES)
        )
        return block, outside

    def name(self, module: str) -> str:
        """The tool's name of ``blocks.N.…``; raises ``AdapterError`` for anything but a projection of a block."""
        _, _, rest = module.partition("blocks.")
        block, _, projection = rest.partition(".")
        if module != f"blocks.{block}.{projection}" or not block.isdecimal() or projection not in WAN_NAMES:
            raise AdapterError(
                f"{module} is no projection of a Wan block: there is no name for it in {self.tool} files"
            )
        theirs = projection if self.names == "diffusers" else WAN_NAMES[projection]
        return f"{self.prefix}blocks{self.dot}{block}{self.dot}{theirs.replace('.', self.dot)}"

    def key(self, module: str, factor: str) -> str:
        """The tool's key of the factor ``A`` or ``B`` of a projection; raises as ``name``."""
        return f"{self.name(module)}.lora_{factor}.weight"

    def module(self, name: str) -> str | None:
        """The layer that ``name`` means, in diffusers' names, or None."""
        if not name.startswith(self.prefix):
            return None
        block, outside = self._tables
        rest = name.removeprefix(self.prefix)
        form = re.fullmatch(rf"blocks{re.escape(self.dot)}([0-9]{{1,4}}){re.escape(self.dot)}(.+)", rest)
        if form is None:
            return outside.get(rest)
        return f"blocks.{int(form[1])}.{block[form[2]]}" if form[2] in block else None

    def part(self, key: str) -> tuple[str, str] | None:
        """The layer that a key of a file changes, and which part of the update it holds; None where that is not known."""
        ending = next((ending for ending in ENDINGS if key.endswith(ending)), None)
        if ending is None:
            return None
        name, part = key.removesuffix(ending), ENDINGS[ending]
        if part == "diff_m":  # the change of a modulation stands under the name of what is modulated
            name, part = f"{name}{self.dot}modulation", "diff"
        module = self.module(name)
        return (module, part) if module else None

    def is_left_out(self, key: str) -> bool:
        """Whether a key is of what is adapted nowhere here, such as a text encoder."""
        return False


@dataclass(frozen=True)
class UNetFormat(Format):
    """How a tool names what it adapts of a UNet; ``names`` are ``diffusers``', or those of AnimateDiff's ``authors``."""

    names: str = "diffusers"
    layers: LayerNames = UNET_LAYERS

    def name(self, module: str) -> str:
        """The tool's name of a projection; raises ``AdapterError`` for anything else."""
        if self.layers.target_of(module) is None:
            raise AdapterError(f"{module} is no projection of a UNet: there is no name for it in {self.tool} files")
        return f"{self.prefix}{module.replace('.', self.dot)}"

    def module(self, name: str) -> str | None:
        """The layer that ``name`` means, in diffusers' names, or None."""
        if not name.startswith(self.prefix):
            return None
        name = name.removeprefix(self.prefix)
        name = diffusers_name(undo_kohya(name) if self.dot == "_" else name)
        return name if is_adaptable(name) else None

    def is_left_out(self, key: str) -> bool:
        """Whether a key is of the text encoder."""
        return key.startswith(("lora_te", "text_encoder."))


@dataclass(frozen=True)
class AuthorsFormat(UNetFormat):
    """AnimateDiff's own MotionLoRA, which ComfyUI-AnimateDiff-Evolved reads: it has names for motion modules' attention alone."""

    def key(self, module: str, factor: str) -> str:
        """The key of a factor; raises ``AdapterError`` for a layer that the authors' files have no name for."""
        if place_of(module) != "motion_modules" or ".attn" not in module:
            raise AdapterError(f"{module} is no attention of a motion module: the authors' files have no name for it")
        return authors_name(module, factor)

    def part(self, key: str) -> tuple[str, str] | None:
        """The layer that a key changes, and which factor it holds."""
        return part_of_authors(key)


COMFY = Format("ComfyUI", "diffusion_model.", "checkpoint")
MUSUBI = Format("musubi-tuner", "lora_unet_", "checkpoint", dot="_")
DIFFUSERS = Format("diffusers", "transformer.", "diffusers", scale="assumed", folds=False)
DIFFSYNTH = Format("DiffSynth", "", "checkpoint")
UNET = UNetFormat("diffusers", "unet.", scale="assumed")
KOHYA = UNetFormat("kohya", "lora_unet_", dot="_")
AUTHORS = AuthorsFormat("AnimateDiff", "", "authors")
FORMATS = (
    COMFY,
    Format("ComfyUI, by diffusers' names", "diffusion_model.", "diffusers"),
    Format("ComfyUI, whole checkpoints", "model.diffusion_model.", "checkpoint"),
    MUSUBI,
    Format("musubi-tuner, by diffusers' names", "lora_unet_", "diffusers", dot="_"),
    Format("VideoX-Fun", "lora_unet__", "checkpoint", dot="_"),
    Format("LyCORIS", "lycoris_", "checkpoint", dot="_"),
    Format("LyCORIS, by diffusers' names", "lycoris_", "diffusers", dot="_"),
    DIFFUSERS,
    Format("diffusers, by the checkpoint's names", "transformer.", "checkpoint", scale="assumed"),
    Format("peft", "base_model.model.", "diffusers", scale="header"),
    Format("peft, by the checkpoint's names", "base_model.model.", "checkpoint", scale="header"),
    Format("DiffSynth, of a pipeline", "pipe.dit.", "checkpoint"),
    DIFFSYNTH,
    Format("diffusers, of a transformer alone", "", "diffusers", scale="assumed"),
    UNET,
    AUTHORS,
    KOHYA,
    UNetFormat("peft", "base_model.model.", scale="header"),
    UNetFormat("diffusers, of a UNet alone", "", scale="assumed"),
)
"""Those that are read. Of two that know a file's keys equally well, the first counts."""


def format_of(keys: Iterable[str]) -> Format | None:
    """The format that knows most of ``keys``; None where none knows any."""
    keys = list(keys)
    found = max(FORMATS, key=lambda form: sum(form.part(key) is not None for key in keys))
    return found if any(found.part(key) for key in keys) else None


def parameter_of(module: str, leaf: str) -> str:
    """The name of a layer's ``weight`` or ``bias``; a modulation is a parameter itself."""
    return module if module.endswith("scale_shift_table") else f"{module}.{leaf}"


def layers_of(modules: Iterable[str]) -> LayerNames:
    """The family's layers that most of ``modules`` are; Wan's where none are known."""
    names = list(modules)
    families: tuple[LayerNames, ...] = (WAN_LAYERS, UNET_LAYERS)
    return max(families, key=lambda layers: sum(map(layers.knows, names)))


def exported_for(modules: Iterable[str]) -> Literal["comfy", "diffusers"]:
    """Whose names a run's adapter has: ComfyUI's where all programs read them, as Wan's, else those of diffusers."""
    return "comfy" if layers_of(modules) is WAN_LAYERS else "diffusers"


def written_for(reader: str, modules: Iterable[str]) -> Format:
    """The form in which an adapter is written for ``comfy`` or ``diffusers``, by the layers it adapts.

    ComfyUI reads spatial layers of UNets by kohya's names, and motion modules, through AnimateDiff-Evolved, by their authors'.
    Layers over time of UNets of clips are read by this project alone.
    """
    names = list(modules)
    if layers_of(names) is WAN_LAYERS:
        return COMFY if reader == "comfy" else DIFFUSERS
    places = set(map(place_of, names))
    if reader == "comfy" and places <= {"motion_modules"}:
        return AUTHORS
    return KOHYA if reader == "comfy" and places == {"attentions"} else UNET
