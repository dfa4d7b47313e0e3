"""The forms in which tools write adapters: prefixes, names of layers, and endings, as one table.

Enters: keys of a file. Leaves: which layer of the transformer each one changes, in diffusers' names, and by which part of
an update. It knows names alone: no file, no tensor, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cinelora.errors import AdapterError

# diffusers renamed every layer of Wan's checkpoint, and most tools write the checkpoint's names. Both stand here in pairs.
_PROJECTIONS = """
    attn1.to_q self_attn.q   attn1.to_k self_attn.k   attn1.to_v self_attn.v   attn1.to_out.0 self_attn.o
    attn2.to_q cross_attn.q  attn2.to_k cross_attn.k  attn2.to_v cross_attn.v  attn2.to_out.0 cross_attn.o
    attn2.add_k_proj cross_attn.k_img  attn2.add_v_proj cross_attn.v_img  ffn.net.0.proj ffn.0  ffn.net.2 ffn.2
""".split()
_REST_OF_A_BLOCK = """
    attn1.norm_q self_attn.norm_q   attn1.norm_k self_attn.norm_k   attn2.norm_q cross_attn.norm_q
    attn2.norm_k cross_attn.norm_k  attn2.norm_added_k cross_attn.norm_k_img  norm2 norm3
    scale_shift_table modulation
""".split()
_OUTSIDE = """
    patch_embedding patch_embedding  proj_out head.head  scale_shift_table head.modulation
    condition_embedder.text_embedder.linear_1 text_embedding.0  condition_embedder.text_embedder.linear_2 text_embedding.2
    condition_embedder.time_embedder.linear_1 time_embedding.0  condition_embedder.time_embedder.linear_2 time_embedding.2
    condition_embedder.time_proj time_projection.1
    condition_embedder.image_embedder.norm1 img_emb.proj.0  condition_embedder.image_embedder.ff.net.0.proj img_emb.proj.1
    condition_embedder.image_embedder.ff.net.2 img_emb.proj.3  condition_embedder.image_embedder.norm2 img_emb.proj.4
""".split()


def _pairs(names: list[str]) -> dict[str, str]:
    return dict(zip(names[::2], names[1::2], strict=True))


WAN_NAMES = _pairs(_PROJECTIONS)
"""Every projection of a block, on which a pair of factors can act beside the weight: diffusers' name, and the checkpoint's."""
BLOCK_NAMES = WAN_NAMES | _pairs(_REST_OF_A_BLOCK)
"""Everything in a block that has weights."""
OUTSIDE_NAMES = _pairs(_OUTSIDE)
"""Everything outside the blocks."""
IMAGE_PARTS = ("attn2.add_k_proj", "attn2.add_v_proj", "attn2.norm_added_k")
"""What only the blocks of an image-to-video transformer have."""

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
    ``one`` is a convention that all of a format's readers share; ``header`` means that a header has to say it.
    """

    tool: str
    prefix: str
    names: str
    dot: str = "."
    scale: str = "one"

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


COMFY = Format("ComfyUI", "diffusion_model.", "checkpoint")
MUSUBI = Format("musubi-tuner", "lora_unet_", "checkpoint", dot="_")
DIFFUSERS = Format("diffusers", "transformer.", "diffusers", scale="header")
DIFFSYNTH = Format("DiffSynth", "", "checkpoint")
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
    Format("diffusers, by the checkpoint's names", "transformer.", "checkpoint", scale="header"),
    Format("peft", "base_model.model.", "diffusers", scale="header"),
    Format("peft, by the checkpoint's names", "base_model.model.", "checkpoint", scale="header"),
    Format("DiffSynth, of a pipeline", "pipe.dit.", "checkpoint"),
    DIFFSYNTH,
    Format("diffusers, of a transformer alone", "", "diffusers", scale="header"),
)
"""Those that are read. Of two that know a file's keys equally well, the first counts."""


def format_of(keys: Iterable[str]) -> Format | None:
    """The format that knows most of ``keys``; None where none knows any."""
    keys = list(keys)
    found = max(FORMATS, key=lambda form: sum(form.part(key) is not None for key in keys))
    return found if any(found.part(key) for key in keys) else None


def is_image_part(module: str) -> bool:
    """Whether only an image-to-video transformer has ``module``."""
    return module.endswith(IMAGE_PARTS) or ".image_embedder." in module


def parameter_of(module: str, leaf: str) -> str:
    """The name of a layer's ``weight`` or ``bias``; a modulation is a parameter itself."""
    return module if module.endswith("scale_shift_table") else f"{module}.{leaf}"
