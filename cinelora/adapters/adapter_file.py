"""The adapter file: safetensors that diffusers, ComfyUI and this project read alike.

Enters: the two factors of each adapted projection, and where they come from. Leaves: one file, and back. It reads
what other trainers write where the scale of the update is certain, and refuses the rest. It does not know a
transformer; facts of a file are read from its header alone, without torch.

A projection is named as in diffusers, ``blocks.0.attn2.to_q``; its factors are A (rank, in) and B (out, rank), and the
update is ``alpha / rank * B @ A`` (Hu et al. 2021, section 4.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError
from cinelora.io.tensor_files import load_tensors, read_header, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "cinelora-adapter/1"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
DIFFUSERS_HEADER = "lora_adapter_metadata"
ORIGIN = ("kind", "base_model", "base_revision", "transformer", "data_hash")
"""Where an adapter comes from, as our header says it beside the facts of ``LoraSpec``."""
# diffusers renamed every layer of Wan's checkpoint, and most tools write the checkpoint's names. Both stand here in pairs.
_NAMES = """
    attn1.to_q self_attn.q   attn1.to_k self_attn.k   attn1.to_v self_attn.v   attn1.to_out.0 self_attn.o
    attn2.to_q cross_attn.q  attn2.to_k cross_attn.k  attn2.to_v cross_attn.v  attn2.to_out.0 cross_attn.o
    attn2.add_k_proj cross_attn.k_img  attn2.add_v_proj cross_attn.v_img  ffn.net.0.proj ffn.0  ffn.net.2 ffn.2
""".split()
WAN_NAMES = dict(zip(_NAMES[::2], _NAMES[1::2], strict=True))
"""Every projection of a block that can be adapted: diffusers' name, and the official checkpoint's."""
IMAGE_PROJECTIONS = ("attn2.add_k_proj", "attn2.add_v_proj")
"""Those that only an image-to-video transformer has."""
TARGETS = {
    "cross_attention": tuple(name for name in WAN_NAMES if name.startswith("attn2")),
    "attention": tuple(name for name in WAN_NAMES if name.startswith("attn")),
    "all_linear": tuple(WAN_NAMES),
}
"""What ``lora.targets`` can say, smallest first."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter with its origin.

    ``state`` holds the factors, alpha not folded in, as ``blocks.0.attn2.to_q.lora_A.weight``; ``base_model`` is empty
    for a file of another tool.
    """

    state: dict[str, Tensor]
    spec: LoraSpec
    kind: str
    base_model: str = ""
    base_revision: str = ""
    transformer: str = "t2v"
    trigger: str | None = None
    data_hash: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """The projections it adapts."""
        return [key.removesuffix(".lora_A.weight") for key in self.state if key.endswith(".lora_A.weight")]

    @property
    def num_blocks(self) -> int:
        """How deep the transformer must be at least."""
        return 1 + max(int(module.split(".")[1]) for module in self.modules)


def is_image_projection(module: str) -> bool:
    """Whether only an image-to-video transformer has ``module``."""
    return module.endswith(IMAGE_PROJECTIONS)


# -- names -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a tool names a projection: ``<start><block><separator><projection>``; whether ``.alpha`` may be beside it."""

    tool: str
    start: str
    separator: str
    projections: dict[str, str]
    takes_alpha: bool

    def name(self, module: str) -> str:
        """The tool's name of ``blocks.N.…``; raises ``AdapterError`` for anything but a projection of a block."""
        _, _, rest = module.partition("blocks.")
        block, _, projection = rest.partition(".")
        if module != f"blocks.{block}.{projection}" or not block.isdecimal() or projection not in self.projections:
            raise AdapterError(
                f"{module} is no projection of a Wan block: there is no name for it in {self.tool} files"
            )
        return f"{self.start}{block}{self.separator}{self.projections[projection]}"

    def module(self, name: str) -> str | None:
        """The projection that ``name`` means, or None."""
        block, _, rest = name.removeprefix(self.start).partition(self.separator)
        found = [projection for projection, theirs in self.projections.items() if theirs == rest]
        return f"blocks.{block}.{found[0]}" if name.startswith(self.start) and block.isdecimal() and found else None


COMFY = Layout("ComfyUI", "diffusion_model.blocks.", ".", WAN_NAMES, takes_alpha=True)
MUSUBI = Layout(
    "musubi-tuner", "lora_unet_blocks_", "_", {k: v.replace(".", "_") for k, v in WAN_NAMES.items()}, takes_alpha=True
)
DIFFSYNTH = Layout("DiffSynth", "blocks.", ".", WAN_NAMES, takes_alpha=False)
DIFFUSERS = Layout("diffusers", "transformer.blocks.", ".", {name: name for name in WAN_NAMES}, takes_alpha=False)
LAYOUTS = (COMFY, MUSUBI, DIFFSYNTH, DIFFUSERS)

FACTORS = {f".lora_{name}.weight": "A" for name in ("A", "down", "A.default")}
FACTORS |= {f".lora_{name}.weight": "B" for name in ("B", "up", "B.default")} | {".alpha": "alpha"}
"""What each ending of a key means."""


# -- writing -----------------------------------------------------------------------------------------------------------


def export_adapter(path: Path, adapter: AdapterFile, layout: Literal["comfy", "diffusers"] = "comfy") -> None:
    """Write ``adapter``, whole or not at all, in float32.

    ``comfy``: ComfyUI's names, ``alpha / rank`` folded into B, so that no reader can get the scale wrong.
    ``diffusers``: diffusers' names, unfolded, alpha in the header that diffusers reads.
    Both load into stock diffusers. Raises ``TrainingError`` where the disk is full.
    """
    # An update is scale * B @ A, and half of the readers look for the scale in another place than the other half. Folded into
    # B there is nothing to look for: each reader, whatever it takes for the scale of a file without alpha, takes 1.
    wanted = COMFY if layout == "comfy" else DIFFUSERS
    scale = adapter.spec.scale if layout == "comfy" else 1.0
    tensors, metadata = {}, _origin(adapter)
    for module in adapter.modules:
        name = wanted.name(module)
        tensors[f"{name}.lora_A.weight"] = adapter.state[f"{module}.lora_A.weight"].float()
        tensors[f"{name}.lora_B.weight"] = adapter.state[f"{module}.lora_B.weight"].float() * scale
    if layout == "diffusers":
        metadata[DIFFUSERS_HEADER] = json.dumps(_peft_facts(adapter))
    save_tensors(path, tensors, metadata)


def _origin(adapter: AdapterFile) -> dict[str, str]:
    facts: dict[str, Any] = {key: getattr(adapter.spec, key) for key in ("rank", "alpha", "dropout", "targets")}
    facts |= {key: getattr(adapter, key) for key in ORIGIN} | {"config": json.dumps(adapter.config)}
    if adapter.trigger is not None:
        facts["trigger"] = adapter.trigger
    return {"format": FORMAT, **{key: str(value) for key, value in facts.items()}}


def _peft_facts(adapter: AdapterFile) -> dict[str, Any]:
    spec, targets = adapter.spec, sorted({module.split(".", 2)[2] for module in adapter.modules})
    facts = {"r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "target_modules": targets}
    return {f"transformer.{key}": value for key, value in facts.items()}


# -- reading -----------------------------------------------------------------------------------------------------------


def read_adapter_facts(path: Path) -> dict[str, Any]:
    """What the header of an adapter file says, without its tensors and without torch.

    Always the same keys: ``tool``, ``rank``, ``alpha``, ``dropout``, ``targets``, ``kind``, ``base_model``,
    ``base_revision``, ``transformer``, ``trigger``, ``data_hash``, ``config``; None where the file does not say.
    Raises ``AdapterError`` or ``FileError``.
    """
    _refuse_pickle(path)
    header = read_header(path)
    metadata = header.pop("__metadata__", {})
    layout = _layout(path, header)
    if _is_ours(path, metadata):
        return {"tool": "cinelora", **_facts(path, metadata)}
    parts = _parts(path, layout, header)
    ranks = {header[part["A"]]["shape"][0] for part in parts.values()}
    rank = ranks.pop() if len(ranks) == 1 else None
    said = dict.fromkeys(("alpha", "dropout", "kind", "base_model", "base_revision", "trigger", "data_hash", "config"))
    return {"tool": layout.tool, **said, "rank": rank, "targets": _targets(parts), "transformer": _transformer(parts)}


def read_adapter(path: Path) -> AdapterFile:
    """The adapter in ``path``, in float32 and unfolded, whoever wrote it.

    ============ ============================================== ======================================
    tool         projection                                     scale
    ============ ============================================== ======================================
    cinelora     as ComfyUI's or diffusers', own header         rank and alpha in the header
    ComfyUI      ``diffusion_model.blocks.0.self_attn.q``       ``.alpha`` / rank, 1 without ``.alpha``
    musubi-tuner ``lora_unet_blocks_0_self_attn_q``             the same
    DiffSynth    ``blocks.0.self_attn.q``                       1
    diffusers    ``transformer.blocks.0.attn1.to_q``            in its header, refused without
    ============ ============================================== ======================================

    Raises ``AdapterError`` for a pickle, keys nobody knows, half a pair, several ranks or scales, shapes that
    contradict the rank, and numbers that are not finite; ``FileError`` for a damaged file.
    """
    _refuse_pickle(path)
    tensors, metadata = load_tensors(path)
    layout = _layout(path, tensors)
    ours = _is_ours(path, metadata)
    parts = _parts(path, layout, tensors)
    # Our own header says everything. Of another tool's file the names say which projections it adapts and which transformer
    # has them, and the tensors say rank and alpha; whether it is of style or motion nobody can know, so style is assumed.
    if ours:
        facts = _facts(path, metadata)
        spec = LoraSpec(*(facts.pop(key) for key in ("rank", "alpha", "dropout", "targets")))
    else:
        facts = {"kind": "style", "transformer": _transformer(parts)}
        spec = _foreign_spec(path, layout, parts, tensors, metadata)
    # A header is a stranger's data: a rank of 0 would divide by zero below, and an alpha that is no number fails every ``>``.
    if spec.rank < 1 or not spec.alpha > 0:
        raise AdapterError(
            f"a LoRA needs a rank of at least 1 and an alpha above 0, not {spec.rank} and {spec.alpha:g}"
        )
    # The way back from what `export_adapter` folded in, so that an adapter that is read and written again stays the same.
    folded = spec.scale if ours and layout is COMFY else 1.0
    state = {}
    for module, part in parts.items():
        state[f"{module}.lora_A.weight"] = tensors[part["A"]].float()
        state[f"{module}.lora_B.weight"] = tensors[part["B"]].float() / folded
    _check_tensors(path, spec.rank, state)
    return AdapterFile(state=state, spec=spec, **facts)


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise AdapterError(
            f"{path} is a pickle, which can run any code while it is read: "
            "convert it to .safetensors where it came from"
        )


def _layout(path: Path, keys: Iterable[str]) -> Layout:
    keys = list(keys)
    for layout in LAYOUTS:
        if any(key.startswith(layout.start) for key in keys):
            return layout
    raise AdapterError(f"{path} is no Wan adapter: its keys are {_first(keys)}")


def _parts(path: Path, layout: Layout, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The key of A, of B and, where there is one, of alpha, for each projection."""
    # Each key is cut into a module and an ending. One that no table knows is not passed over: it may be a part of the update
    # (a DoRA magnitude, a bias), and an adapter without it would be another one. The same factor twice is as doubtful.
    parts: dict[str, dict[str, str]] = {}
    unknown = []
    for key in keys:
        ending = next((ending for ending in FACTORS if key.endswith(ending)), "")
        module = layout.module(key.removesuffix(ending)) if ending else None
        factor = FACTORS.get(ending, "")
        if module is None or factor in parts.get(module, {}) or (factor == "alpha" and not layout.takes_alpha):
            unknown.append(key)
        else:
            parts.setdefault(module, {})[factor] = key
    if unknown:
        raise AdapterError(
            f"{path} looks like an adapter of {layout.tool}, but some of its keys are unknown: {_first(unknown)}"
        )
    for (module, part), factor in product(parts.items(), "AB"):
        if factor not in part:
            raise AdapterError(f"{path} is incomplete: {module} has {_first(list(part.values()))} but no lora_{factor}")
    return parts


def _is_ours(path: Path, metadata: dict[str, str]) -> bool:
    written = metadata.get("format", "")
    if written.startswith("cinelora-adapter/") and written != FORMAT:
        raise AdapterError(f"{path} is {written}, this version reads {FORMAT}: update cinelora")
    return written == FORMAT


def _facts(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    numbers = {"rank": int, "alpha": float, "dropout": float}
    try:
        facts: dict[str, Any] = {key: number(metadata[key]) for key, number in numbers.items()}
        facts |= {key: metadata[key] for key in ("targets", *ORIGIN)}
        return facts | {"trigger": metadata.get("trigger"), "config": json.loads(metadata["config"])}
    except (KeyError, ValueError) as error:
        raise AdapterError(f"{path} calls itself {FORMAT}, but its header lacks or garbles {error}") from error


def _foreign_spec(
    path: Path, layout: Layout, parts: dict[str, dict[str, str]], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> LoraSpec:
    if layout is DIFFUSERS:
        return _diffusers_spec(path, parts, metadata)
    # A file may say alpha for each projection, or nowhere; then alpha is the rank, and the scale 1. peft holds one rank and
    # one alpha an adapter, so a file in which they differ from layer to layer cannot be loaded as it is.
    found = set()
    for part in parts.values():
        rank = tensors[part["A"]].shape[0]
        found.add((rank, float(tensors[part["alpha"]]) if "alpha" in part else float(rank)))
    if len(found) > 1:
        pairs = ", ".join(f"{rank}/{alpha:g}" for rank, alpha in sorted(found))
        raise AdapterError(f"{path} mixes several ranks or alphas (rank/alpha {pairs}): give one with a single rank")
    return LoraSpec(*found.pop(), targets=_targets(parts))


def _diffusers_spec(path: Path, parts: dict[str, dict[str, str]], metadata: dict[str, str]) -> LoraSpec:
    if DIFFUSERS_HEADER not in metadata:
        raise AdapterError(
            f"{path} has diffusers' names but not the header {DIFFUSERS_HEADER}, so its alpha is lost: "
            "save it again with its adapter metadata, or under ComfyUI's names"
        )
    try:
        header = json.loads(metadata[DIFFUSERS_HEADER]).items()
        said = {key.removeprefix("transformer."): value for key, value in header}
        rank, alpha = int(said["r"]), float(said["lora_alpha"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(f"{path}: its header {DIFFUSERS_HEADER} does not say r and lora_alpha") from error
    special = [key for key in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora") if said.get(key)]
    if special:
        raise AdapterError(f"{path} is no plain LoRA: {', '.join(special)} is set, which is not read here")
    return LoraSpec(rank, alpha, targets=_targets(parts))


def _targets(modules: Iterable[str]) -> str:
    # The smallest of our sets that holds them all: TARGETS is in that order, and its last has every projection there is.
    projections = {module.split(".", 2)[2] for module in modules}
    return next(name for name, target in TARGETS.items() if projections <= set(target))


def _transformer(modules: Iterable[str]) -> str:
    return "i2v" if any(map(is_image_projection, modules)) else "t2v"


def _check_tensors(path: Path, rank: int, state: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        if tensor.ndim != 2 or tensor.shape[key.endswith("lora_B.weight")] != rank:
            raise AdapterError(f"{path} should have rank {rank}, but {key} has shape {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise AdapterError(f"{path} is spoilt: {key} holds numbers that are not finite")


def _first(keys: list[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return (", ".join(keys[:count]) or "none") + more
