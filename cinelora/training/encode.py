"""The first launch of a run: the samples are found, and those that the cache lacks are encoded.

Enters: settings and a run directory, on every rank. Leaves: the run's manifest and its index of encoded samples. Encoders
live here alone: when this launch ends, so does their memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import TrainConfig, samples_per_step
from cinelora.families.machinery import machinery_of
from cinelora.families.text_limit import caption_lines, look_of, lost_line, refuse_lost
from cinelora.footage.buckets import Size
from cinelora.footage.captions import prompt_with_trigger
from cinelora.footage.manifest import Manifest, Sample, read_manifest, write_manifest
from cinelora.footage.sample_source import find, reader, wanted_by
from cinelora.io.hardware import default_device, quiet_libraries
from cinelora.io.terminal import say, warn
from cinelora.latents.cache import Framing, Index, LatentCache
from cinelora.nn.attention_backend import require
from cinelora.parallel.launch import barrier, process_group, rank_info
from cinelora.training.gpu_policy import attention_work, policy_at_hand
from cinelora.training.resume_guard import refuse_other_origins, refuse_other_samples, with_older_captions


def encode_rank(config: TrainConfig, run: RunDirectory) -> None:
    """Find the samples and encode this rank's share of those the cache lacks; rank 0 writes manifest and index."""
    quiet_libraries()
    rank = rank_info()
    # What training will need is asked for now, so that it is refused before hours of encoding and not after them.
    policy_at_hand(config)
    require(config.model.attention, attention_work(config), default_device())
    with process_group(rank) if rank.world_size > 1 else nullcontext():
        stage, model, cache = config.stage, config.model, Path(config.cache)
        bundle = machinery_of(model).from_config(model, stage.transformer, cache)
        # Texts that belong to no sample: the empty one, for dropped captions and guidance, and the preview's prompt.
        texts = {"null": ""} | preview_text(config)
        if rank.global_rank == 0:
            # a run that began with a look that is cut continues with it, to the same numbers
            look = None if config.resume else look_of(config.data)
            refuse_lost(look or {}, bundle.lost)
            captions = {sample.id: sample.caption for sample in find_samples(config, run).samples}
            lines = caption_lines(captions, bundle.lost, (look or {}).get("data.description"))
            prompts = [text for name, text in texts.items() if name == "preview"]
            for line in [*lines, *lost_line("preview's prompt", prompts, bundle.lost(prompts))]:
                say(line)
        barrier(rank)  # from here on every rank reads one and the same manifest
        manifest = read_manifest(run.manifest)
        latents = LatentCache(cache, bundle, Framing(model.height, model.width, stage.image_condition), config.workers)
        index = latents.index(manifest, texts)
        read = reader(config.data, model, bundle.device)
        skipped = latents.encode(read, manifest, index, texts, rank.global_rank, rank.world_size)
        for clip in skipped:
            warn(f"skipped {clip.path}: {clip.reason}")
        barrier(rank)  # every rank's part is in the cache before rank 0 says that the index is whole
        if rank.global_rank == 0:
            whole = latents.complete(index, skipped)
            if config.resume:
                refuse_other_origins(run, {"data": Index.load(run.dataset).data_hash}, {"data": whole.data_hash})
            whole.save(run.dataset)


def preview_text(config: TrainConfig) -> dict[str, str]:
    """The preview's prompt, if there is one, as inference would give it to the adapter: after the trigger word."""
    prompt = config.preview.prompt
    return {"preview": prompt_with_trigger(prompt, config.data.trigger)} if prompt else {}


def find_samples(config: TrainConfig, run: RunDirectory) -> Manifest:
    """Find the samples, write the run's manifest, and say what was found and what was left out."""
    manifest = find(config.data, wanted_by(config.model, config.stage.num_frames, config.seed))
    if config.resume:
        before = read_manifest(run.manifest)
        manifest = with_older_captions(before, manifest, config.data.trigger)
        refuse_other_samples(run, before, manifest)
    write_manifest(run.manifest, manifest)
    heldout = sum(sample.split == "heldout" for sample in manifest.samples)
    clips = [left for left in manifest.skipped if left.shot is None]
    say(f"{len(manifest.samples) - heldout} samples to train on, {heldout} held out, {len(clips)} clips skipped")
    for line in sizes_lines(manifest.samples, (config.model.height, config.model.width), samples_per_step(config)):
        say(f"  {line}")
    for clip in clips:
        say(f"  skipped {clip.path}: {clip.reason}")
    shots = Counter(left.reason.partition(":")[0] for left in manifest.skipped if left.shot is not None)
    for reason, count in shots.most_common():
        say(f"  {count} {'shot' if count == 1 else 'shots'} left out: {reason} (which, says {run.manifest.name})")
    return manifest


def sizes_lines(samples: Sequence[Sample], model_size: Size, step: int) -> list[str]:
    """How many samples to train on are of each size, in pixels and frames, where they are not all of one.

    ``step`` is the number of samples in a step, all of one size: of a size with fewer samples, some are repeated in a step.
    """
    # A step takes its samples of one size, so that they fit into one tensor. Of a size that has fewer than half a step's samples,
    # each comes twice or more in such a step, and is learnt by heart before the others: that is worth a warning.
    training = (sample for sample in samples if sample.split == "train")
    sizes = Counter((*(sample.size or model_size), len(sample.frames)) for sample in training)
    if len(sizes) == 1:
        return []
    named = {f"{height}x{width} x {frames}": count for (height, width, frames), count in sizes.most_common()}
    rare = [f"{name}: {step / count:.3g} times" for name, count in named.items() if 2 * count <= step]
    lines = [f"sizes: {', '.join(f'{name} ({count})' for name, count in named.items())}; a step sees {step} of one"]
    if rare:
        way_out = "data.buckets=false or a smaller batch evens that out"
        lines.append(f"WARNING: a step takes each sample of a rare size more than once ({', '.join(rare)}); {way_out}")
    return lines
