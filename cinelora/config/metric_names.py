"""The names of the numbers that a run logs, as its settings decide them before anything is loaded, and which way is better.

Enters: a ``TrainConfig``. Leaves: names. It does not know how any number is worked out.
"""

from __future__ import annotations

from typing import Literal

from cinelora.config.lessons import expert_of, lessons_of
from cinelora.config.schema import TrainConfig
from cinelora.families import family_of

HELDOUT_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which held-out samples are looked at, as parts of the range that is taught: clean and noisy ones teach
different things, and move apart."""
PAIRED_METRICS = ("psnr", "ssim", "perceptual_scale", "temporal_perceptual_scale")
"""Measures of a clip beside the real one that it was drawn from, offline; see ``cinelora.metrics.suite``."""
SET_METRICS = ("frechet_scale",)
"""Measures of many clips beside as many real ones, offline."""
HIGHER_IS_BETTER = (
    *"psnr ssim tssim tssim_warped temporal_flickering frames_scale consistency_scale clip_sim_frames".split(),
    *"clip_sim_text subject_consistency background_consistency".split(),
)
NEITHER_IS_BETTER = ("motion", "flow_motion")
"""Of motion there can be too little and too much."""


def heldout_sigmas(config: TrainConfig) -> tuple[float, ...]:
    """The noise levels at which held-out samples are looked at: the middles of the fifths of what the lesson teaches."""
    low, high = expert_of(config).taught
    return tuple(round(low + (high - low) * part, 6) for part in HELDOUT_SIGMAS)


def heldout_loss_at(sigma: float) -> str:
    """The name of the held-out loss at one noise level."""
    return f"heldout/loss@{sigma}"


def update_of_block(number: int) -> str:
    """The name of the size of the update in one block."""
    return f"effect/update/block-{number:02d}"


def heldout_metrics(config: TrainConfig) -> list[str]:
    """The measures of clips drawn from held-out samples.

    Those that ``metrics`` names; with an image shown, which fixes what is to be seen, those beside the real clip; and distances
    to the set of real ones. Of stills none that looks at motion.
    """
    names = [*config.metrics.names, *(PAIRED_METRICS if config.stage.image_condition else ()), *SET_METRICS]
    return names if config.stage.num_frames > 1 else list(SET_METRICS)


def logged(config: TrainConfig) -> list[str]:
    """Every number that a run with these settings logs, where it has held-out samples and the networks it asks for.

    Of a run of several lessons those that each of them logs.
    """
    first, *others = [_logged(lesson) for lesson in lessons_of(config)]
    return [name for name in first if all(name in other for other in others)]


def _logged(config: TrainConfig) -> list[str]:
    names = [f"train/{name}" for name in ("loss", "gradient_norm", "lr", "samples_per_s", "step_s", "peak_memory_mib")]
    if config.validation.every_steps:
        names += ["heldout/loss", "heldout/change", "heldout/vs_base", *map(heldout_loss_at, heldout_sigmas(config))]
        names += ["effect/prediction", *(["effect/prediction_vs_base"] if config.adapter else []), "effect/update"]
        # blocks of a UNet are of many sizes, and stand in no row
        names += map(update_of_block, range(config.model.num_layers if family_of(config.model).uses else 0))
        names += [f"heldout/{name}" for name in heldout_metrics(config) if config.validation.clips]
    if config.preview.every_steps and config.stage.num_frames > 1:
        names += [f"preview/{name}" for name in config.metrics.names]
    return names


def monitors(config: TrainConfig) -> list[tuple[str, str]]:
    """The numbers that decide something in this run, by the setting that names each."""
    named = {"stopping.monitor": config.stopping.monitor, "checkpoint.best": config.checkpoint.best}
    return [(key, name) for key, name in named.items() if name is not None]


def better(name: str) -> Literal["min", "max"] | None:
    """``min`` or ``max``, or None for a number of which neither more nor less is better in itself."""
    # Losses on held-out samples are the better the lower, and so is every distance. A noise level after @ changes nothing in
    # that. Of a rate, a time or the size of an update nobody can say which way is better.
    room, _, measure = name.partition("/")
    if name == "train/loss" or (room == "heldout" and measure.split("@")[0] in ("loss", "change", "vs_base")):
        return "min"
    if room not in ("heldout", "preview") or measure in NEITHER_IS_BETTER:
        return None
    return "max" if measure in HIGHER_IS_BETTER else "min"
