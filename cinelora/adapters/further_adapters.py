"""The adapters of ``adapters=``: which files they are, how strongly each acts in which part of a clip, which are distilled.

Enters: settings. Leaves: ``Further`` by name, or one sentence. Headers are read alone, so that a plan is answered at once.

A part of a clip is the keyframe or the clip itself; the request says which transformer makes each. Where no part is named, an
adapter acts wherever its tensors, and our header where it has one, say that it fits (``AdapterHeader.suits``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cinelora.adapters.adapter_header import AdapterHeader, adapter_header
from cinelora.adapters.run_directory import adapter_paths, expert_for
from cinelora.config.adapter_words import PARTS, AdapterWord
from cinelora.config.clip_request import ClipRequest, Further
from cinelora.config.schema import EvaluateConfig, InferConfig, ModelConfig, StudyConfig
from cinelora.errors import AdapterError, ConfigError
from cinelora.families import family_of, has_experts
from cinelora.io.atomic import sha256_file
from cinelora.io.hub import resolve

DISTILLED = "distilled"
"""In the settings of our header: what an adapter was distilled for (``tools/scale_model/distil.py``)."""
_KNOWN_AS = re.compile(
    r"lightx2v|caus[-_]?vid|acc[-_]?vid|distill|lightning|fast[-_]?wan|self[-_]?forcing", re.IGNORECASE
)
"""Names that step-distilled adapters go by, where no header says what a file is."""
USUAL_SHIFT = 5.0
"""The shift that these are published with."""


def further_adapters(config: InferConfig | EvaluateConfig | StudyConfig) -> dict[str, Further]:
    """What ``adapters=`` names, by a name for each file: its own, and the first digits of its content's hash.

    A file that is named twice acts with both scales together. Raises ``ConfigError``, ``ModelError``, ``AdapterError`` or
    ``FileError`` for what cannot be read, and for an adapter that acts in no part of the clips that are asked for.
    """
    request, found = ClipRequest.of(config), dict[str, Further]()
    for text in getattr(config, "adapters", ()):
        word = AdapterWord.of(text)
        files = {path: adapter_header(path) for path in files_of(word, config.model)}
        parts = {path: parts_of(word, header, request) for path, header in files.items()}
        if not any(parts.values()):
            raise ConfigError(f"adapters=[{text}]: {_nowhere(word, files, request)}")
        for path, of in parts.items():
            name = name_of(path)
            expert = expert_for(path, named=True) if has_experts(config.model) else ""
            before = found.get(name, Further(path, shift=distilled_shift(files[path]), expert=expert))
            found[name] = replace(before, **{part: getattr(before, part) + word.scale for part in of})
    return dict(sorted(found.items()))


def name_of(path: Path) -> str:
    """What a file is called on a transformer and in a summary: no two of other content alike, wherever they lie."""
    return f"{re.sub(r'[^a-zA-Z0-9_]+', '_', path.stem)}-{sha256_file(path)[:8]}"


def files_of(word: AdapterWord, model: ModelConfig) -> list[Path]:
    """The adapter files of one item of ``adapters=``: a file, or the style and motion adapters of a run, of each expert."""
    path = resolve(word.source, "adapters")
    return list(adapter_paths(path, model).values()) if path.is_dir() else [path]


def parts_of(word: AdapterWord, header: AdapterHeader, request: ClipRequest) -> list[str]:
    """The parts of a clip that an adapter acts in. Raises ``AdapterError`` where it is put on a transformer of other channels."""
    family = family_of(request.config.model)
    made_by = {part: family.network(name) for part, name in request.made_by.items()}
    if word.part is None:
        return [part for part in PARTS if part in made_by and header.suits(made_by[part])]
    if word.part not in made_by:
        return []
    network = made_by[word.part]
    if header.channels not in (None, network.channels):
        raise AdapterError(
            f"adapters=[{word}]: {header.path} changes a patch embedding of {header.channels} channels, that of {network.name}, "
            f"which makes the {word.part}, has {network.channels}: leave :{word.part} away"
        )
    return [word.part]


def _nowhere(word: AdapterWord, files: Iterable[Path], request: ClipRequest) -> str:
    made = " and ".join(f"the {part} by {kind}" for part, kind in request.made_by.items())
    if word.part:
        return f"no {word.part} is made here, {made} alone: leave :{word.part} away"
    headers, networks = [adapter_header(path) for path in files], family_of(request.config.model).networks
    kind = "/".join(one.name for one in networks if any(header.suits(one) for header in headers)) or "another model"
    return (
        f"it is an adapter of {kind}, and this makes {made}: choose another mode=, or add :clip to use it all the same"
    )


def distilled_shift(header: AdapterHeader) -> float | None:
    """The sigma shift of the few unguided steps that an adapter was made for; None for one that was not distilled.

    Its header says so, or else its name does, or its repository's.
    """
    if header.ours is not None:
        said = header.ours["config"].get(DISTILLED)
        return float(said["shift"]) if said else None
    # the hub's client keeps a repository as models--owner--name/snapshots/<revision>/<file>
    repository = next((part for part in header.path.parts if part.startswith("models--")), "")
    return USUAL_SHIFT if _KNOWN_AS.search(f"{repository} {header.path.stem}") else None
