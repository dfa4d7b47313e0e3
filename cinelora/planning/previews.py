"""How a run shows what it has learnt where nobody says: as often, in as many steps, and as long as costs at most 5 % of its
planned time.

Enters: checked settings, and whether there is a GPU. Leaves: the settings of previews, and a line that says why so. Seconds are
those of one kind of GPU whatever there is, as all ranks must come to the same answer; what counts is how previews compare with
training, and both take longer on a slower one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cinelora.config.rules import counted
from cinelora.config.schema import PreviewConfig, TrainConfig, zero_level
from cinelora.config.sentences import sentence
from cinelora.families import family_of
from cinelora.parallel.partition import Partition
from cinelora.planning.estimate import Policy, Shape
from cinelora.planning.planner import FULL_SIZE, preview_steps, step_of
from cinelora.planning.step_time import NOMINAL, ClipShape, Machine, clip_seconds

MOST = 0.05
"""The share of a run's planned time that previews may take."""
FEWER_STEPS = 4
"""Denoising steps of previews that in the usual number would be too dear. Assumed: fewer hardly show what was learnt."""
SHORTEST = 17
"""Frames of the shortest preview of a clip: a second of Wan's. Assumed: in less hardly anything moves."""
MOST_OFTEN = 250
"""Steps between previews, at least: what changes in fewer is hardly seen."""
UNCOMPILED = 1.2
"""What a prediction takes longer where its blocks are not compiled, as in a preview (H200: 10 to 18 %)."""
APART_S = 5.0
"""Taken for what a preview costs beside drawing: the VAE is loaded for it, files are written. Assumed."""


def planned_previews(config: TrainConfig, has_gpu: bool, heldout: int = 1) -> tuple[PreviewConfig, str]:
    """The previews of a run with so many held-out samples: what was typed, or what costs little; and a line about the latter.

    They become fewer first; where even one is too dear, it is drawn in fewer steps, then in fewer frames, unless these were
    typed; else there is none.
    """
    preview, steps = config.preview, config.stage.steps
    if preview.every_steps is not None:
        return preview, ""
    off = replace(preview, every_steps=0)
    reasons = {
        "previews_unseen": heldout == 0,
        "previews_zero3": zero_level(config.strategy) == 3,
        "previews_cpu": not has_gpu,
        # rates are those of large products: a small model's steps take what a processor needs to start them
        "previews_small": Shape.of(config.model, config.stage.transformer).parameters < FULL_SIZE,
    }
    for name, holds in reasons.items():
        if holds:
            return off, sentence("follows", name)
    whole, each = training_seconds(config), 0.0
    for way in _ways(config):
        each = preview_seconds(replace(config, preview=way))
        # the base model's clip is one more, drawn before the first
        count = min(int(MOST * whole / each) - 1, max(1, steps // MOST_OFTEN))
        if count >= 1:
            every = -(-steps // count)
            share = (steps // every + 1) * each / whole
            frames = counted(way.frames_of(config.stage), "frame")
            line = sentence("follows", "previews", every=every, frames=frames, steps=way.steps, share=share)
            return replace(way, every_steps=every), line
    return off, sentence("follows", "previews_dear", share=2 * each / whole, most=MOST)


def _ways(config: TrainConfig) -> Iterator[PreviewConfig]:
    """Ways to draw a preview, the dearest first, in which nothing is changed that was typed."""
    preview, frames = config.preview, config.stage.num_frames
    yield preview
    lean = preview if preview.sampler_steps else replace(preview, sampler_steps=FEWER_STEPS)
    yield lean
    if preview.num_frames is None:
        step = family_of(config.model).geometry.temporal
        yield from (replace(lean, num_frames=fewer) for fewer in range(frames - step, SHORTEST - 1, -step))


def training_seconds(config: TrainConfig) -> float:
    """Seconds of all steps where nothing has to be recomputed: the least they can take, so that previews seem dear, not cheap."""
    return config.stage.steps * config.stage.accumulation * step_of(config).seconds(Policy(), NOMINAL)


def preview_seconds(config: TrainConfig) -> float:
    """Seconds of one preview, of all its seeds, which one rank draws alone while the others wait."""
    model, stage, preview = config.model, config.stage, config.preview
    shape = Shape.of(model, stage.transformer)
    clip = ClipShape(
        shape, model.num_heads, preview.frames_of(stage), model.height, model.width, guided=True, dtype=model.dtype
    )
    drawing = clip_seconds(clip, preview_steps(config), Partition(1, 1, 1), Machine(NOMINAL))
    return preview.seeds * UNCOMPILED * drawing + APART_S
