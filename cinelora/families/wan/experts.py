"""The two experts of Wan2.2's A14B: which one a file is, as far as its name says, and whether two files are the same.

Enters: paths or names of repositories. Leaves: a hint, lines to print, or one sentence that refuses. High and low expert, and
the text-to-video transformer of Wan2.1, have the same tensors, so no header tells them apart. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cinelora.config.schema import ModelConfig
from cinelora.config.sentences import sentence
from cinelora.errors import ConfigError, ModelError
from cinelora.families.family import HIGH, LOW, Expert, Part, expert_in
from cinelora.families.wan.checkpoint_layouts import bare, locate
from cinelora.io.gguf_file import read_gguf
from cinelora.io.plain_data import opened
from cinelora.io.tensor_files import read_header

_WAN22, _WAN21 = re.compile(r"wan[ ._-]?2[ ._-]?2(?!\d)|a14b"), re.compile(r"wan[ ._-]?2[ ._-]?1(?!\d)")
_SAMPLES, _SAMPLE_BYTES = 16, 2**16
"""Tensors of two files that are compared, and bytes of each: training changes every value of a matrix."""


def expert_hint(source: Path | str) -> str | None:
    """Which expert a file or folder is by its name, or by that of the folder it lies in; None where neither says it.

    Such as ``wan2.2_t2v_high_noise_14B_fp16.safetensors``, ``Wan2_2-T2V-A14B-LOW_fp8.safetensors``, ``low_noise_model/``;
    ``transformer_2/`` is the low one of diffusers' layout, and ``transformer/`` beside it the high one.
    """
    path = Path(source)
    for name in (path.name, path.parent.name):
        # elsewhere than in names of Wan2.2 "high" and "low" are said of much
        if said := expert_in(name, lone=_WAN22.search(name.lower()) is not None):
            return said
    for folder in (path, path.parent):
        if folder.name == "transformer_2" or (
            folder.name == "transformer" and folder.with_name("transformer_2").is_dir()
        ):
            return LOW if folder.name == "transformer_2" else HIGH
    return None


def is_wan21_by_name(source: Path | str) -> bool:
    """Whether the names of a file and its folder, or of a repository, say Wan2.1 and nowhere Wan2.2."""
    names = " ".join(Path(source).parts[-2:]).lower()
    return _WAN21.search(names) is not None and _WAN22.search(names) is None


def refuse_one_for_two(model: ModelConfig, kind: str, experts: Sequence[Expert]) -> None:
    """Raise ``ConfigError`` where the checkpoint of a network is one transformer, and both experts are wanted of it."""
    whole, own = model.source(kind), [getattr(model, model.key_of(kind, expert.name)) for expert in experts]
    if len(experts) < 2 or model.weights == "random" or whole is None or any(own) or not _is_one_transformer(whole):
        return
    hint = expert_hint(whole)
    told = f"; by its name it is {hint}" if hint else ""
    raise ConfigError(sentence("files", "one_for_two", model=model, network=kind, source=whole, hint=told))


def _is_one_transformer(source: str) -> bool:
    """Whether a checkpoint on this machine is the same transformer whichever expert is asked for."""
    try:
        high, low = (_weights(source, expert) for expert in (HIGH, LOW))
    except ModelError:  # what is missing is said where all parts are looked at
        return False
    return bool(high) and high == low


def expert_lines(model: ModelConfig, kind: str, experts: Sequence[Expert]) -> list[str]:
    """What is doubtful about the experts of a network that take part, and where those that are not named come from.

    Raises ``ConfigError`` where two have the same weights.
    """
    if not experts or model.weights == "random":
        return []
    try:
        found = judge_experts({expert.name: str(model.source(kind, expert.name)) for expert in experts})
    except ModelError as error:
        raise ConfigError(f"model.{kind}: {error}") from error
    keys = [model.key_of(kind, expert.name) for expert in experts]
    missing = [key for key in keys if getattr(model, key) is None and any(getattr(model, other) for other in keys)]
    source = model.source(kind)
    return [f"WARNING: model.{kind}: {line}" for line in found] + [
        sentence("files", "fellow", missing=key, network=kind, source=source) for key in missing
    ]


def judge_experts(sources: Mapping[str, str]) -> list[str]:
    """What is doubtful about the experts of one task, by where each comes from: a line for each.

    Raises ``ModelError`` where both have the same values, as far as they lie on this machine.
    """
    # One directory of both is named twice: its own folders are then what is looked at.
    found = {expert: _weights(source, expert) for expert, source in sources.items()}
    if len(found) > 1 and all(found.values()) and same_tensors(*found.values()):
        given = " and ".join(f"{expert}={source}" for expert, source in sources.items())
        raise ModelError(f"both experts are the same weights ({given}): high noise and low noise are two files")
    hints = {expert: expert_hint(source) for expert, source in sources.items()}
    against = [expert for expert, hint in hints.items() if hint not in (None, expert)]
    lines = [f"{sources[expert]} is given as {expert}, and its name says {hints[expert]}" for expert in against]
    if len(against) > 1:
        lines = [f"the experts look swapped: {'; '.join(lines)}"]
    older = [expert for expert, source in sources.items() if is_wan21_by_name(source)]
    return lines + [f"{sources[expert]} is given as {expert}, and its name says Wan2.1" for expert in older]


def _weights(source: str, expert: str) -> tuple[Path, ...]:
    return locate(Part.TRANSFORMER, Path(source), expert).weights if Path(source).exists() else ()


# -- equal tensors -----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a tensor lies in a file."""

    path: Path
    first: int
    size: int


def same_tensors(one: Iterable[Path], other: Iterable[Path]) -> bool:
    """Whether the files of two transformers hold the same tensors, however these are shared out among files.

    Names, dtypes and shapes are compared, then the beginnings of ``_SAMPLES`` tensors: some hundredths of a second for 14B.
    Raises ``FileError`` for a damaged file.
    """
    ours, theirs = _places(one), _places(other)
    if {name: facts for name, (facts, _) in ours.items()} != {name: facts for name, (facts, _) in theirs.items()}:
        return False
    largest = sorted(ours, key=lambda name: (-ours[name][1].size, name))[: 8 * _SAMPLES : 8] or list(ours)
    return all(_sample(ours[name][1]) == _sample(theirs[name][1]) for name in largest)


def _places(files: Iterable[Path]) -> dict[str, tuple[tuple[str, tuple[int, ...]], _Place]]:
    """Dtype and shape of each tensor, and where it lies."""
    found: dict[str, tuple[tuple[str, tuple[int, ...]], _Place]] = {}
    for path in files:
        if path.suffix == ".gguf":
            for name, one in read_gguf(path)[0].items():
                found[bare(name)] = (one.kind, one.shape), _Place(path, one.first, one.size)
            continue
        with opened(path) as file:
            start = 8 + int.from_bytes(file.read(8), "little")
        for name, entry in read_header(path).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                found[bare(name)] = (entry["dtype"], tuple(entry["shape"])), _Place(path, start + first, last - first)
    return found


def _sample(place: _Place) -> bytes:
    with opened(place.path) as file:
        file.seek(place.first)
        return file.read(min(place.size, _SAMPLE_BYTES))
