"""The clips of an evaluation: real ones cut out of held-out footage, and every variant of every take drawn.

Enters: settings and a run directory. Leaves: a ``Plan``, and its clips as mp4 with their first frames. Making them
is ``cinelora.sampling.scene``'s; what is there already is not drawn again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.run_directory import RunDirectory, adapters_of
from cinelora.config.adapter_words import AdapterWord
from cinelora.config.clip_request import ClipRequest, Take, read_prompts, seeds_of
from cinelora.config.schema import EvaluateConfig, StudyConfig, drawn_by
from cinelora.config.store import load_config
from cinelora.errors import FootageError
from cinelora.evaluation.clip_list import REAL, Plan, Prompt, clip_file, stages, take_folder, troubles
from cinelora.footage.manifest import Manifest, Sample, read_manifest
from cinelora.footage.sample_source import find, reader, wanted_by
from cinelora.io.atomic import write_json
from cinelora.io.hub import is_run, resolve
from cinelora.io.media import write_mp4, write_png
from cinelora.io.plain_data import read_json
from cinelora.io.terminal import say
from cinelora.sampling.scene import Finished, make_takes

if TYPE_CHECKING:
    from cinelora.footage.sample_source import Read

MOST_REAL = 200
"""Held-out windows that make up the real set, at most: half a minute of the offline set measure on two cores."""


def plan(config: EvaluateConfig, run_dir: Path) -> Plan:
    """Choose what is drawn, and put the real clips beside it. Raises ``FootageError`` where nothing is held out."""
    adapters, further = list(adapters_of(config.ckpt, config.model)), further_adapters(config)
    prompts, real, sentences = list[Prompt](), list[str](), list[str]()
    if config.data.name:
        samples, sentences = heldout(config)
        chosen, others = chosen_and_others(samples, config.clips)
        real = write_real(config, [*chosen, *others][:MOST_REAL], run_dir)
        prompts += [Prompt(s.caption, s.id, file) for s, file in zip(chosen, real, strict=False)]
    if config.prompts:
        lines = read_prompts(config.prompts)
        prompts += [Prompt(line, f"line {number} of the prompts") for number, line in lines.items()]
    variants = stages(adapters, further=not all(one.shift for one in further.values()))
    return Plan(prompts, seeds_of(config), variants, config.model.fps, real, [*adapters, *further], sentences)


# -- held-out clips ----------------------------------------------------------------------------------------------------


def heldout(config: EvaluateConfig | StudyConfig) -> tuple[list[Sample], list[str]]:
    """Held-out windows in the order of their paths, and sentences about what was left out.

    The split is that of the run behind ``ckpt``; what it or a run in ``adapters`` was trained on is left out, whatever that says.
    """
    run = RunDirectory(resolve(config.ckpt)) if config.ckpt and is_run(resolve(config.ckpt)) else None
    others = [path for word in map(AdapterWord.of, config.adapters) if is_run(path := resolve(word.source, "adapters"))]
    seed = load_config(run.path).seed if run else config.seed
    frames = ClipRequest.of(config).num_frames
    manifest = find(config.data, wanted_by(config.model, frames, seed, own_shapes=False))
    samples = [sample for sample in manifest.samples if sample.split == "heldout"]
    seen = [Seen.by(trained.manifest) for trained in [*([run] if run else []), *map(RunDirectory, others)]]
    kept = [sample for sample in samples if not any(sample in one for one in seen)]
    sentences = [f"{clip.path} is left out: {clip.reason}" for clip in manifest.skipped]
    if len(kept) < len(samples):
        sentences.append(
            f"{len(samples) - len(kept)} held-out windows are left out: the adapters were trained on those clips"
        )
    if not kept:
        raise FootageError(
            f"data={config.data.name} holds out no clip that the adapters were not trained on: raise data.holdout, give other "
            "footage, or leave data= away and say prompts=<file>"
        )
    return kept, sentences


@dataclass(frozen=True)
class Seen:
    """What a run was trained on: first and last frames by the hash of the clip, and clips of which it held out shots."""

    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    @classmethod
    def by(cls, manifest: Path) -> Seen:
        """The samples of a run's manifest; none where there is no such file."""
        found = read_manifest(manifest) if manifest.is_file() else Manifest((), ())
        spans = defaultdict[str, list[tuple[int, int]]](list)
        for sample in (sample for sample in found.samples if sample.split == "train"):
            spans[sample.file_hash].append((sample.frames[0], sample.frames[-1]))
        return cls(spans, frozenset(s.file_hash for s in found.samples if s.split == "heldout"))

    def __contains__(self, sample: Sample) -> bool:
        """Whether the run saw the sample's clip, or, where it was split by shot, frames of the sample."""
        # A clip that lies on one side of the split as a whole was seen or was not. One that was split by shot has shots on both:
        # then the frames decide, and a window that touches a trained one by a single frame was seen.
        spans = self.spans.get(sample.file_hash, [])
        if sample.file_hash not in self.shared:
            return bool(spans)
        return any(first <= sample.frames[-1] and sample.frames[0] <= last for first, last in spans)


def chosen_and_others(samples: Sequence[Sample], count: int) -> tuple[list[Sample], list[Sample]]:
    """The first window of ``count`` clips, spread over all of them, and all other windows."""
    # the dictionary keeps the last sample of a path, which is the first of them when all pass in reverse
    first = list({sample.path: sample for sample in reversed(samples)}.values())[::-1]
    picks = set(np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int).tolist())
    chosen = [sample for i, sample in enumerate(first) if i in picks]
    return chosen, [sample for sample in samples if sample not in chosen]


def write_real(config: EvaluateConfig, samples: list[Sample], run_dir: Path) -> list[str]:
    """Write real clips as drawn ones are written, so that both have gone through the same codec; their names in the run."""
    import torch

    read: Read = reader(config.data, config.model, torch.device("cpu"))
    names = [f"{REAL}/{number:04d}.mp4" for number in range(len(samples))]
    for name, sample in zip(names, samples, strict=True):
        facts = run_dir / name.replace(".mp4", ".json")
        made_of = {"id": sample.id, "file": sample.file_hash, "size": [config.model.height, config.model.width]}
        if facts.is_file() and (run_dir / name).is_file() and read_json(facts, dict[str, Any]) == made_of:
            continue
        pixels = read(replace(sample, size=None))  # cut to the model's size, at which clips are drawn
        write_mp4(run_dir / name, np.asarray(torch.as_tensor(pixels).cpu()), config.model.fps)
        write_json(facts, made_of)
    return names


# -- drawn clips -------------------------------------------------------------------------------------------------------


def draw_missing(config: EvaluateConfig, plan: Plan, run_dir: Path) -> None:
    """Draw every take of which a clip is missing, or was drawn from other adapters or settings."""
    # Few unguided steps show nothing without the adapter that was distilled for them, so that it acts in all variants alike.
    # The others of `adapters=` are a stage of their own, the last one.
    last = plan.names()[-1]
    found = further_adapters(config).items()
    further = {name: one if one.shift else replace(one, only_in=last) for name, one in found}
    request = ClipRequest.with_files(drawn_by(config), adapters_of(config.ckpt, config.model), further)
    variants = {variant.name: variant.scale for variant in plan.variants}
    todo = []
    for take in plan.takes():
        one = Take(take.prompt.text, take.seed, take_folder(run_dir, take))
        files = [clip_file(run_dir, take, name) for name in variants]
        finished = {file.stem for file in files if file.is_file()} | set(troubles(run_dir, take))
        # Done is what has a summary of these settings and adapters, and for each variant a clip or a reason why there is none.
        if not (one.is_done(request) and finished == set(variants)):
            for file in files:
                file.unlink(missing_ok=True)  # an old clip must not pass for the new
            todo.append(one)
    total = len(plan.prompts) * len(plan.seeds)
    say(f"{total} clips of {', '.join(variants)}: {total - len(todo)} exist, {len(todo)} to generate")
    if todo:
        make_takes(request, todo, variants, write_clips, run_dir / "logs")


def write_clips(request: ClipRequest, done: Finished) -> None:
    """Write a take's variants as mp4 and first frame each, the summary last; latents that are not finite give no clip."""
    # The summary says that a take is done, so it comes last: whatever stops this before, the take is drawn again.
    folder, trouble = done.take.folder, {}
    for name, made in done.made.items():
        if made.latents.isfinite().all():
            write_png(folder / f"{name}.png", made.keyframe)
            write_mp4(folder / f"{name}.mp4", made.video, request.config.model.fps)
        else:
            trouble[name] = "its latents are not finite"
    summary = {
        "settings": request.shown(done.take),
        "sources": request.sources,
        "variants": {name: made.scales for name, made in done.made.items()},
        "seconds": {part: round(total, 3) for part, total in done.seconds.items()},
        "trouble": trouble,
    }
    write_json(folder / "summary.json", summary)
