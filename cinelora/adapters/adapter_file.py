"""The adapter file: safetensors that diffusers, ComfyUI and this project read alike.

Enters: the two factors of each adapted projection, and where they come from. Leaves: one file, and back. It reads what other
trainers write where the meaning is certain (``formats`` lists it, ``adapter_header`` judges), and refuses the rest. It does not
know a transformer; facts of a file are read from its header alone, without torch.

A projection is named as in diffusers, ``blocks.0.attn2.to_q``; its factors are A (rank, in) and B (out, rank), and the
update is ``alpha / rank * B @ A`` (Hu et al. 2021, section 4.1). What is no such pair is a ``Delta``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cinelora.adapters.adapter_header import (
    DIFFUSERS_HEADER,
    FORMAT,
    MARK,
    ORIGIN,
    AdapterHeader,
    Change,
    adapter_header,
    digest,
    facts_digest,
    judge_adapter,
    tensors_of,
)
from cinelora.adapters.formats import KOHYA, layers_of, written_for
from cinelora.config.schema import LoraSpec
from cinelora.families.family import LayerNames
from cinelora.io.tensor_files import TENSOR_DTYPES, save_tensors
from cinelora.io.terminal import warn

if TYPE_CHECKING:
    from torch import Tensor

    from cinelora.adapters.weight_deltas import Delta


@dataclass(frozen=True)
class AdapterFile:
    """An adapter with its origin.

    ``state`` holds the factors, alpha not folded in, as ``blocks.0.attn2.to_q.lora_A.weight``; ``deltas`` what changes
    parameters in other ways, by their names. ``base_model`` is empty for a file of another tool, and so is ``transformer`` where
    it could be of several; ``source`` is where it was read; ``expert`` is the one that it was trained on, empty for a
    transformer of its own.
    """

    state: dict[str, Tensor]
    spec: LoraSpec
    kind: str
    base_model: str = ""
    base_revision: str = ""
    transformer: str = ""
    expert: str = ""
    trigger: str | None = None
    data_hash: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    deltas: dict[str, tuple[Delta, ...]] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    @property
    def modules(self) -> list[str]:
        """The projections it adapts."""
        return [key.removesuffix(".lora_A.weight") for key in self.state if key.endswith(".lora_A.weight")]

    @cached_property
    def layers(self) -> LayerNames:
        """Those of the family that it is of."""
        changed = (name.removesuffix(".weight").removesuffix(".bias") for name in self.deltas)
        return layers_of([*self.modules, *changed])

    @property
    def num_blocks(self) -> int:
        """How deep the transformer must be at least."""
        names = [*self.modules, *self.deltas]
        return max((1 + int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=0)


# -- writing -----------------------------------------------------------------------------------------------------------


def export_adapter(
    path: Path, adapter: AdapterFile, layout: Literal["comfy", "diffusers"] = "comfy", dtype: str = "float32"
) -> None:
    """Write the factors of ``adapter``, whole or not at all, in ``dtype``; bfloat16 halves the file and rounds.

    ``comfy``: the names that ComfyUI reads, ``alpha / rank`` folded into B, so that no reader can get the scale wrong.
    ``diffusers``: diffusers' names; those of Wan unfolded, alpha in the header that diffusers reads.
    Both load into stock diffusers, but for motion modules' in ComfyUI's. Raises ``AdapterError`` for layers that have no name
    there, and ``TrainingError`` where the disk is full.
    """
    # An update is scale * B @ A, and half of the readers look for the scale in another place than the other half. Folded into
    # B there is nothing to look for: each reader, whatever it takes for the scale of a file without alpha, takes 1.
    import torch

    kept: torch.dtype = getattr(torch, dtype)
    wanted = written_for(layout, adapter.modules)
    scale = adapter.spec.scale if wanted.folds else 1.0
    tensors: dict[str, Tensor] = {}
    written: dict[str, Tensor] = {}
    metadata = origin_of(adapter)
    for module in adapter.modules:
        for factor, by in (("A", 1.0), ("B", scale)):
            own = f"{module}.lora_{factor}.weight"
            written[own] = (adapter.state[own].float() * by).to(kept)
            tensors[wanted.key(module, factor)] = written[own]
        if wanted is KOHYA:  # of whose files readers want an alpha
            tensors[f"{wanted.name(module)}.alpha"] = torch.tensor(float(adapter.spec.rank))
    metadata[MARK] = f"{'folded' if wanted.folds else 'unfolded'} {tensors_digest(written)} {facts_digest(metadata)}"
    if not wanted.folds:
        metadata[DIFFUSERS_HEADER] = json.dumps(_peft_facts(adapter))
    save_tensors(path, tensors, metadata)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """The digest of tensors by their names, as ``adapter_header`` finds it in a file."""
    import torch

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {name: tensor.flatten().view(torch.uint8).numpy().data for name, tensor in flat.items()}
    dtypes = {name: TENSOR_DTYPES[str(tensor.dtype).removeprefix("torch.")] for name, tensor in flat.items()}
    return digest((name, dtypes[name], tuple(tensor.shape), content[name]) for name, tensor in flat.items())


def origin_of(adapter: AdapterFile) -> dict[str, str]:
    """What our header says of an adapter."""
    facts: dict[str, Any] = {key: getattr(adapter.spec, key) for key in ("rank", "alpha", "dropout", "targets")}
    facts |= {key: getattr(adapter, key) for key in ORIGIN} | {"config": json.dumps(adapter.config)}
    if adapter.trigger is not None:
        facts["trigger"] = adapter.trigger
    if adapter.expert:
        facts["expert"] = adapter.expert
    return {"format": FORMAT, **{key: str(value) for key, value in facts.items()}}


def _peft_facts(adapter: AdapterFile) -> dict[str, Any]:
    spec, targets = adapter.spec, sorted({module.split(".", 2)[2] for module in adapter.modules})
    facts = {"r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "target_modules": targets}
    return {f"transformer.{key}": value for key, value in facts.items()}


# -- reading -----------------------------------------------------------------------------------------------------------


def read_adapter_facts(path: Path) -> dict[str, Any]:
    """What the header of an adapter file says, without its tensors and without torch.

    Always the same keys: ``tool``, ``rank``, ``alpha``, ``dropout``, ``targets``, ``kind``, ``base_model``,
    ``base_revision``, ``transformer``, ``expert``, ``trigger``, ``data_hash``, ``config``; None where the file does not say, or
    where rank and alpha differ from layer to layer. Raises ``AdapterError`` or ``FileError``.
    """
    found = adapter_header(path)
    if found.ours:
        return {"tool": "cinelora", **found.ours}
    unsaid = ("dropout", "base_model", "base_revision", "expert", "trigger", "data_hash", "config")
    said = dict.fromkeys(unsaid)
    ranks, alphas = ({getattr(change, key) for change in found.factors} for key in ("rank", "alpha"))
    facts = {key: of.pop() if len(of) == 1 else None for key, of in (("rank", ranks), ("alpha", alphas))}
    return {
        "tool": found.form.tool,
        **said,
        **facts,
        "targets": found.spec.targets,
        "transformer": found.transformer,
        "kind": found.kind if found.transformer == "motion" else None,
    }


def read_adapter(path: Path) -> AdapterFile:
    """The adapter in ``path``, in float32 and unfolded, whoever wrote it; ``docs/adapters.md`` lists what is read.

    Raises ``AdapterError`` for a pickle, keys nobody knows, half a pair, a scale that is not certain, and numbers that are not
    finite; ``FileError`` for a damaged file.
    """
    found = judge_adapter(path)
    tensors = tensors_of(path)
    if found.marked is False:
        warn(
            f"{path}: its values, or what its header says of them, are not what cinelora wrote: "
            "another tool changed it, or it is damaged"
        )
    if left := len(tensors) - sum(len(change.keys) for change in found.changes):
        warn(f"{path.name}: {left} tensors change the text encoder, which is not adapted here: they are left out")
    # Our own header says where it comes from.
    spec = found.spec
    facts: dict[str, Any] = {
        "kind": {"motion": "motion"}.get(found.transformer or ""),
        "transformer": found.transformer or "",
    }
    if found.ours:
        facts = {key: found.ours[key] for key in (*ORIGIN, "trigger", "config")} | {
            "expert": found.ours["expert"] or ""
        }
    state = {key: factor for change in found.factors for key, factor in _factors(change, spec, tensors).items()}
    return AdapterFile(state=state, spec=spec, deltas=_deltas(found, tensors), source=str(path), **facts)


def _factors(change: Change, spec: LoraSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pair as the adapter holds it: of its rank, filled up with zeros, and worth its scale."""
    from torch.nn.functional import pad

    # One adapter has one rank and one scale, a file may have others in each layer: zeros in A and B change no product, and what
    # the scales differ by goes into B. Of a file that `export_adapter` wrote this takes out again what it folded in.
    more = spec.rank - change.rank
    down, up = (tensors[change.keys[part]].float() for part in "AB")
    if change.scale != 1:
        up = up * change.scale
    if spec.scale != 1:
        up = up / spec.scale
    if change.scale == spec.scale:
        up = tensors[change.keys["B"]].float()  # nothing was folded in: not even the last bit changes
    named = {"A": pad(down, (0, 0, 0, more)) if more else down, "B": pad(up, (0, more)) if more else up}
    return {f"{change.module}.lora_{part}.weight": factor for part, factor in named.items()}


def _deltas(found: AdapterHeader, tensors: dict[str, Tensor]) -> dict[str, tuple[Delta, ...]]:
    if len(found.factors) == len(found.changes):
        return {}  # as most: diffusers need not be imported to read them
    from cinelora.adapters.weight_deltas import Delta

    deltas: dict[str, tuple[Delta, ...]] = {}
    for change in found.changes:
        if not change.is_factors:
            parts = {part: tensors[key].float() for part, key in change.keys.items() if part != "alpha"}
            scale = 1.0 if change.form == "diff" else change.scale
            deltas[change.parameter] = (
                *deltas.get(change.parameter, ()),
                Delta(change.form, parts, scale, change.shape),
            )
    return deltas
