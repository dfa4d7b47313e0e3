"""What a run must keep to resume as if it had never stopped: adapter, moments of the optimizer, EMA and the step.

Enters: named tensors and a step. Leaves: ``checkpoints/step-00000250/`` (safetensors + JSON, no pickle), whole or absent,
and a pointer ``checkpoints/last``. The base is never saved, and no random state either: every draw and the order of the
samples are functions of (seed, step). The JSON holds the SHA-256 of the tensors, as safetensors would load a flipped byte.
It does not know what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from cinelora.errors import CineloraError, FileError, TrainingError
from cinelora.io.atomic import make_folder, sha256_file, sweep_temporaries, write_json, write_text
from cinelora.io.plain_data import read_json, read_text
from cinelora.io.tensor_files import load_tensors, read_header, save_tensors
from cinelora.io.terminal import warn

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, DRAFT, POINTER = "step-", ".draft-", "last"
TENSORS, FACTS = "state.safetensors", "state.json"
DIGEST = "digest"
"""In ``state.json``: what all else in it comes to."""
DIGESTED = {"beside": "state.json with a digest"}
"""In the header of the tensors: so no damage can make a file pass for one of an older version, which had no digest."""


class _Seen(TypedDict):
    """What was seen of a number that a run is judged by."""

    name: str
    lower: bool
    best: float | None
    step: int | None
    since: int


class _BaseClips(TypedDict):
    """What the base model's held-out clips measured, and how they were drawn."""

    manner: dict[str, Any]
    base: dict[str, float]


class _OfProgress(TypedDict):
    """The losses of every rank since the last line, and what else the next one needs."""

    losses: list[list[float]]
    accumulation: int
    lr: float
    gradient_norm: float
    latest_loss: float | None
    told_at: int | None


class _OfJournal(TypedDict):
    """What was logged for this very step."""

    step: int
    numbers: dict[str, float]


class _OfStopping(TypedDict):
    """What the judge has seen."""

    best: NotRequired[_Seen]
    stopping: NotRequired[_Seen]
    stopped: NotRequired[bool]
    judged_at: NotRequired[int | None]


class _OfLoss(TypedDict):
    """The latest held-out numbers."""

    latest: dict[str, float]
    measured_at: int | None


class _OfClips(TypedDict):
    """Those of held-out clips, and the base model's."""

    manner: NotRequired[dict[str, Any]]
    base: NotRequired[dict[str, float]]
    latest: NotRequired[dict[str, float]]


class _Memory(TypedDict):
    """What callbacks remember, by their names (``callbacks/order.py``)."""

    progress: NotRequired[_OfProgress]
    journal: NotRequired[_OfJournal]
    early_stopping: NotRequired[_OfStopping]
    validation_loss: NotRequired[_OfLoss]
    validation_clips: NotRequired[_OfClips]


class _State(TypedDict):
    """What ``state.json`` holds; the last three are as version 0.1 had them."""

    step: int
    rests_on: NotRequired[dict[str, str]]
    levels: NotRequired[list[float]]
    sha256: NotRequired[str | None]
    digest: NotRequired[str]
    settled: NotRequired[bool]
    memory: NotRequired[_Memory]
    best: NotRequired[_Seen]
    stopping: NotRequired[_Seen]
    heldout_clips: NotRequired[_BaseClips]


@dataclass(frozen=True)
class Checkpoint:
    """``tensors`` are grouped by the part before the first dot: ``adapter.``, ``moments.``, ``ema.``."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, without its prefix."""
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``checkpoint`` below ``folder``, point ``last`` at it, and delete all but the ``keep`` newest up to it.

    Those of later steps go too: the run was resumed from before them, and they did not load or were not wanted.
    Raises ``TrainingError`` where a number is not finite or the disk is full; older checkpoints are then untouched.
    """
    broken = [name for name, tensor in checkpoint.tensors.items() if not _is_finite(tensor)]
    if broken:
        raise TrainingError(
            f"after step {checkpoint.step} the adapter is not finite ({broken[0]}, {len(broken)} tensors in all); "
            "the last checkpoint is kept: resume it with a lower optimizer.lr or optimizer.clip_norm"
        )
    # A directory cannot be replaced in one step, but renamed to a name that is free. So a new checkpoint is written under a
    # draft's name and renamed when it is whole: whoever looks sees all of it or nothing. The pointer moves only then, and old
    # ones go last, so that at any moment of a kill there is one that loads.
    target = folder / f"{PREFIX}{checkpoint.step:08d}"
    if target.exists():  # the same step once more has the same tensors, so each file may take its predecessor's place
        _write(target, checkpoint)
    else:
        draft = folder / f"{DRAFT}{checkpoint.step:08d}"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            make_folder(draft)
            _write(draft, checkpoint)
            os.rename(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    write_text(folder / POINTER, target.name)
    newest_first = saved_checkpoints(folder)
    own = newest_first.index(target)
    for other in newest_first[:own] + newest_first[own + keep :]:
        doomed = folder / f"{DRAFT}{other.name}"  # half of one must not pass for a checkpoint
        os.rename(other, doomed)
        shutil.rmtree(doomed)
    return target


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    digest = save_tensors(folder / TENSORS, checkpoint.tensors, {"step": str(checkpoint.step), **DIGESTED})
    _write_facts(folder / FACTS, checkpoint.step, {"step": checkpoint.step, "sha256": digest, **checkpoint.facts})


def _write_facts(path: Path, step: int, facts: dict[str, Any]) -> None:
    """Write ``state.json`` with a digest of itself and of the step that its folder is named for."""
    said = {key: value for key, value in facts.items() if key != DIGEST}
    write_json(path, {**said, DIGEST: _digest(step, said)}, seals=False)  # it has a seal of its own


def _digest(step: int, facts: Mapping[str, Any]) -> str:
    """24 hex digits of facts, as they are read back from JSON, and of the step of their folder."""
    # as read back: there tuples are lists and keys texts. NaN is a number here, as measures may be none
    text = json.dumps(json.loads(json.dumps([step, facts])), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _is_finite(tensor: Tensor) -> bool:
    # a sum reads memory once, five times as fast as looking at each number; only finite ones that overflow need the look
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def amend_facts(folder: Path, step: int, facts: dict[str, Any]) -> None:
    """Let the checkpoint of ``step``, where it was just saved, carry ``facts`` that became known after that."""
    state = folder / f"{PREFIX}{step:08d}" / FACTS
    if state.exists():
        _write_facts(state, step, {**read_json(state, dict[str, Any], measured=True), **facts})


def sweep_drafts(folder: Path) -> None:
    """Remove what killed saves left below ``folder``."""
    sweep_temporaries(folder)
    for draft in folder.glob(f"{DRAFT}*"):
        shutil.rmtree(draft, ignore_errors=True)


def saved_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below ``folder``, newest first."""
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint that ``last`` points at, or else the newest that loads; one that does not is named and passed over.

    Raises ``TrainingError`` where there is none.
    """
    # The pointed one first, then the newest (the sort is stable): `last` may lag one behind where a save was killed between its
    # rename and its pointer, and then names a checkpoint that is whole as well.
    sweep_drafts(folder)
    pointer = folder / POINTER
    pointed = None
    with suppress(FileError):
        pointed = read_text(pointer)
    for path in sorted(saved_checkpoints(folder), key=lambda path: path.name != pointed):
        try:
            return read_checkpoint(path)
        except (CineloraError, OSError) as error:
            warn(f"checkpoint {path} does not load ({error}); the one before it is tried")
    raise TrainingError(f"{folder} holds no checkpoint that loads; start the run again without resume=")


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the directory ``path``.

    Raises ``FileError`` or ``OSError`` where it is damaged.
    """
    facts: dict[str, Any] = {**read_json(path / FACTS, _State, measured=True)}
    _refuse_changed(path)
    if facts["step"] < 0:
        raise FileError(f"{path / FACTS}: step cannot be {facts['step']}")
    digest = facts.pop("sha256", None)  # those of earlier versions have none
    if digest and sha256_file(path / TENSORS) != digest:
        raise FileError(f"{path / TENSORS} is not what was written")
    facts.pop(DIGEST, None)
    return Checkpoint(facts.pop("step"), load_tensors(path / TENSORS)[0], facts)


def _refuse_changed(path: Path) -> None:
    """Raise ``FileError`` where ``state.json`` is not what was written, or lies in another step's folder."""
    raw = read_json(path / FACTS, dict[str, Any], measured=True)
    digest, named = raw.pop(DIGEST, None), re.fullmatch(rf"{PREFIX}(\d+)", path.name)
    step = int(named[1]) if named else raw["step"]
    is_older = digest is None and not DIGESTED.items() <= read_header(path / TENSORS).get("__metadata__", {}).items()
    if not is_older and digest != _digest(step, raw):
        raise FileError(f"{path / FACTS} is not what was written")
