"""What the numbers of a run rest on beside its settings, by hash: a resume that finds something else is refused.

Enters: settings, a run, and what was found for it now. Leaves: hashes for the checkpoint, or an error. It does not know
how any of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import TrainConfig
from cinelora.errors import TrainingError
from cinelora.io.atomic import sha256_file

if TYPE_CHECKING:
    from cinelora.footage.manifest import Manifest, Sample

WHAT = {
    "data": "the samples, or the encoders that read them,",
    "base": "the weights of the base model",
    "style adapter": "the style adapter under it",
}


def origins(config: TrainConfig, run: RunDirectory, data_hash: str) -> dict[str, str]:
    """12 hex digits for each of ``WHAT``; the style adapter only where stage 2 trains above one."""
    from cinelora.families.family import Part
    from cinelora.families.machinery import machinery_of

    bundle = machinery_of(config.model).from_config(config.model, config.stage.transformer, Path(config.cache))
    found = {"data": data_hash, "base": bundle.of_expert(run.expert).fingerprint(Part.TRANSFORMER)}
    below = run.style_below if config.stage.name == "motion" else None
    return found | ({"style adapter": sha256_file(below)[:12]} if below else {})


def refuse_other_origins(run: RunDirectory, before: dict[str, str], now: dict[str, str]) -> None:
    """Raise ``TrainingError``, naming both hashes, where something is not what it was."""
    for name, what in WHAT.items():
        old, new = (hashes.get(name, "none") for hashes in (before, now))
        if old != new:
            raise TrainingError(
                f"resume={run.path} cannot continue to the same result: {what} had the hash {old} and now {new}; "
                "restore the old one, or start a new run"
            )


def refuse_other_levels(run: RunDirectory, before: Sequence[float], now: Sequence[float]) -> None:
    """Raise ``TrainingError``, naming both, where an expert would be taught other noise levels than before."""
    if list(before) != list(now):
        old, new = (f"{low:g} to {high:g}" for low, high in (before, now))
        raise TrainingError(
            f"resume={run.path} cannot be resumed: {run.expert} was trained on noise levels from {old}, and would now be "
            f"trained on {new}; set "
            "model.t2v_boundary and model.i2v_boundary back, or start a new run"
        )


def with_older_captions(before: Manifest, now: Manifest, trigger: str | None) -> Manifest:
    """``now`` with those captions of the run that an earlier rule wrote: it put the trigger even before one that had it."""
    # The run was trained on those very texts. With others it could not go on to the same numbers.
    theirs = {sample.id: sample.caption for sample in before.samples}

    def kept(sample: Sample) -> Sample:
        older = f"{trigger}, {sample.caption}"
        return replace(sample, caption=older) if theirs.get(sample.id) == older else sample

    return replace(now, samples=tuple(map(kept, now.samples))) if trigger else now


def refuse_other_samples(run: RunDirectory, before: Manifest, now: Manifest) -> None:
    """Raise ``TrainingError``, naming the first that differs, where other footage or captions are found than before."""
    # Samples are compared whole (frames, size, caption), not counted: one that was replaced leaves the number as it was.
    theirs, ours = ({sample.id: sample for sample in manifest.samples} for manifest in (before, now))
    changed = [name for name in [*theirs, *ours] if theirs.get(name) != ours.get(name)]
    if changed:
        raise TrainingError(
            f"resume={run.path} cannot continue to the same result: it was trained on {len(theirs)} samples, now there are "
            f"{len(ours)}, and {changed[0]} has changed; restore footage and captions, or start a new run"
        )
