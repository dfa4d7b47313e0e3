"""The settings that a study compares: a baseline, and changes of it one at a time or all together.

Enters: a ``StudyConfig``. Leaves: its variants, the baseline first. It knows neither how any of them is drawn, nor torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cinelora.config import schema
from cinelora.config.clip_facts import without_newer
from cinelora.config.clip_request import ClipRequest, Further, prompts_of
from cinelora.families import family_of
from cinelora.families.family import Use
from cinelora.io.atomic import sha256_file, sha256_json

NEWER = ("distilled", "only")
"""What rows of older versions do not say of their settings."""


@dataclass(frozen=True)
class StudyVariant:
    """One way to draw a clip. ``rank`` None is the adapters' own; ``scale`` 0, or no adapter, is the base model.

    ``distilled``: unguided Euler steps, with the step-distilled adapters. ``only``: the one stage whose adapters act.
    """

    steps: int
    scale: float
    rank: int | None = None
    merged: bool = True
    cache: str = "none"
    threshold: float | None = None
    dtype: str = "bf16"
    partition: str = "alone"
    distilled: bool = False
    only: str = ""

    def named(self, baseline: StudyVariant) -> str:
        """What sets it apart from ``baseline``, in words."""
        if self == baseline:
            return "baseline"
        changed = {key for key, value in asdict(self).items() if value != getattr(baseline, key)}
        changed -= {"rank", "merged", "only"} if self.scale == 0 else set()
        changed -= {"threshold"} if "cache" in changed else set()
        changed |= {"steps"} if "distilled" in changed else set()
        kind = ("unguided " if self.scale == 0 else "distilled ") if self.distilled else ""
        words = {
            "scale": "base model" if self.scale == 0 else f"scale {self.scale:g}",
            "rank": "own rank" if self.rank is None else f"rank {self.rank}",
            "merged": "merged" if self.merged else "live",
            "only": f"{self.only} alone",
            "steps": f"{self.steps} {kind}steps",
            "cache": self.cache if self.threshold is None else f"{self.cache} {self.threshold:g}",
            "threshold": f"threshold {self.threshold}",
            "dtype": self.dtype,
            "partition": self.partition,
        }
        return ", ".join(words[key] for key in words if key in changed)


def baseline(config: schema.StudyConfig) -> StudyVariant:
    """What every other setting is compared with: no cache, one rank, adapters at scale 1 folded into the weights."""
    drawn = config.ckpt is None and bool(config.ranks)
    return StudyVariant(
        steps=config.latency_steps if config.latency_only else config.sampler.steps,
        scale=1.0 if config.ckpt or config.adapters or drawn else 0.0,
        rank=config.ranks[0] if drawn else None,
        dtype=config.model.dtype,
    )


def study_variants(config: schema.StudyConfig) -> list[StudyVariant]:
    """The baseline, then what the lists of ``config`` make of it, each once.

    ``ranks`` and ``merged`` are crossed in either way: a rank has its cost where an adapter is live.
    """
    first = baseline(config)
    found = [first]
    if config.grid:
        for changes in itertools.product(*([{}, *axis] for axis in axes(config))):
            found.append(replace(first, **{key: value for change in changes for key, value in change.items()}))
    else:
        found += [replace(first, **change) for axis in axes(config) for change in axis]
    return list(dict.fromkeys(map(_plain, found)))


def axes(config: schema.StudyConfig) -> list[list[dict[str, Any]]]:
    """The changes of the baseline, list by list."""
    ranks: list[dict[str, Any]] = [{"rank": rank} for rank in config.ranks] or [{}]
    merged: list[dict[str, Any]] = [{"merged": merged} for merged in config.merged] or [{}]
    # A list is an axis. Ranks and merged are one axis together: what an adapter costs depends on its rank where it is live, and
    # hardly at all where it is folded in.
    thresholds = {name: getattr(config, name) for name in schema.CACHE_THRESHOLDS}
    ways = config.partitions or (["alone", "sequence"] if config.gpus * config.nodes > 1 else [])
    return [
        [rank | way for rank in ranks for way in merged],
        [{"scale": scale} for scale in config.scales],
        [{"only": stage} for stage in config.only],
        [{"steps": n} for n in config.steps] + [{"steps": n, "distilled": True} for n in config.distilled],
        [{"cache": name, "threshold": float(value)} for name, values in thresholds.items() for value in values],
        [{"dtype": dtype} for dtype in config.dtypes],
        [{"partition": way} for way in ways],
    ]


def _plain(setting: StudyVariant) -> StudyVariant:
    """The same, with what has no effect at its default: without an adapter there is no rank and nothing to merge."""
    return replace(setting, rank=None, merged=True, only="") if setting.scale == 0 else setting


def cannot(setting: StudyVariant, config: schema.StudyConfig) -> str | None:
    """Why the networks of the model's family cannot draw by ``setting``; None where they can."""
    family = family_of(config.model)
    asked = {
        Use.CACHES: (setting.cache != "none", "to skip"),
        Use.FP8: (setting.dtype == "fp8", "to be held in fp8"),
        Use.SEQUENCE: (setting.partition in ("sequence", "ring"), "whose sequence ranks could share"),
    }
    why = [what for use, (is_asked, what) in asked.items() if is_asked and use not in family.uses]
    return f"{family.title} has no row of alike blocks {why[0]}" if why else None


def possible_variants(config: schema.StudyConfig) -> list[StudyVariant]:
    """The settings that the model's family can draw by."""
    return [setting for setting in study_variants(config) if not cannot(setting, config)]


def left_as_settled(setting: StudyVariant, config: schema.StudyConfig) -> StudyVariant:
    """The setting with 0 steps, and no dtype, where these are the model's own: so it is the same one for any model."""
    first = baseline(config)
    steps, dtype = setting.steps, setting.dtype
    return replace(setting, steps=0 if steps == first.steps else steps, dtype="" if dtype == first.dtype else dtype)


def sampler_of(
    setting: StudyVariant, config: schema.StudyConfig, ratios: list[float], further: Mapping[str, Further]
) -> schema.SamplerConfig:
    """The sampler that draws by ``setting``; ``ratios`` are magcache's."""
    sampler = ClipRequest(
        schema.shared_by(config, setting.partition), further=acting(setting, config, further)
    ).clip_sampler
    if setting.distilled:
        sampler = replace(sampler, name="euler", guidance=1.0)
    ratios = ratios if setting.cache == "magcache" else []
    cache: dict[str, Any] = {"cache": setting.cache, "cache_threshold": setting.threshold, "cache_ratios": ratios}
    return replace(sampler, steps=setting.steps, **cache)


def acting(setting: StudyVariant, config: schema.StudyConfig, further: Mapping[str, Further]) -> dict[str, Further]:
    """The adapters of ``adapters=`` that act by ``setting``; with ``distilled=``, those that are in its rows alone."""
    quiet = config.distilled and not setting.distilled
    return {name: one for name, one in further.items() if setting.scale and not (quiet and one.shift)}


def hung(kind: str, rank: int | None) -> str:
    """What an adapter of a rank is called on the transformer."""
    return kind if rank is None else f"{kind}-{rank}"


def model_of(setting: StudyVariant, config: schema.StudyConfig) -> schema.ModelConfig:
    """The model that ``setting`` is drawn by."""
    return replace(config.model, dtype=setting.dtype)


def key_of(
    setting: StudyVariant,
    config: schema.StudyConfig,
    adapters: Mapping[str, Path],
    further: Mapping[str, Further] | None = None,
) -> str:
    """A hash of everything that a row rests on, but for the machine."""
    # What the setting itself says, or what changes no clip, is left out, so that a row is found again by a study that asks for
    # other settings beside it. Files count by their content, and so do adapters: a run that went on gives other rows.
    shared = schema.as_stored(schema.drawn_by(config))
    for key in ("sampler", "gpus", "nodes", "cache", "ckpt", "adapters", "prompts", "metrics"):
        del shared[key]
    for section, newer in (("model", schema.ModelConfig), ("weights", schema.ScaleConfig)):
        shared[section] = without_newer(newer, shared[section])
    sampler = without_newer(schema.SamplerConfig, asdict(config.sampler))
    sampler = {key: value for key, value in sampler.items() if key not in ("steps", *schema.SHARING)}
    ranks = config.gpus * config.nodes if setting.partition != "alone" else 1
    files: dict[str, Any] = {name: sha256_file(path) for name, path in adapters.items()}
    texts = [] if config.latency_only else prompts_of(config)
    seeds = [config.seed, config.seeds]
    # what is newer than the first rows stands in the hash where it is used, so that they are found
    named = {key: value for key, value in asdict(setting).items() if key not in NEWER or value}
    beside = acting(setting, config, further or {})
    files |= {name: [sha256_file(one.path), one.keyframe, one.clip] for name, one in beside.items()}
    return sha256_json([named, shared, sampler, ranks, files, texts, seeds, config.latency_only])[:12]
