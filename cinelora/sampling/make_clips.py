"""One inference run from settings to files: which clips are missing, and what is written of each.

Enters: a checked ``InferConfig`` and a run directory. Leaves: for each prompt ``clip.mp4``, ``keyframe.png``, ``contact.png`` and
``summary.json`` (last, so that it marks a finished clip), and an exit code. Making the clips is ``cinelora.sampling.scene``'s.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.run_directory import adapters_of
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import InferConfig, ScaleConfig
from cinelora.io.atomic import write_json
from cinelora.io.media import contact_sheet, write_mp4, write_png
from cinelora.io.terminal import say, warn
from cinelora.io.waiting import waiting
from cinelora.sampling.scene import Finished, make_takes

if TYPE_CHECKING:
    import numpy as np

    from cinelora.adapters.adapter_file import AdapterFile

CONTACT_FRAMES = 6


def infer(config: InferConfig, run_dir: Path) -> int:
    """Make the clips that ``config`` asks for; returns the exit code."""
    request = ClipRequest.with_files(config, adapters_of(config.ckpt, config.model), further_adapters(config))
    todo = [take for take in request.takes(run_dir) if not take.is_done(request)]
    if not todo:
        say(f"every clip is already in {run_dir}; change seed=, the settings or out= for others")
        return 0
    variants: dict[str, ScaleConfig | None] = {"adapted": config.scale}
    if config.compare and request.adapters:
        variants["base"] = None
    make_takes(request, todo, variants, write_take, run_dir / "logs")
    for take in todo:
        say(f"clip {take.folder / 'clip.mp4'}", f"contact sheet {take.folder / 'contact.png'}")
        say(f"summary {take.folder / 'summary.json'}")
    if config.model.is_random:
        warn(f"made with random weights ({config.model.random_in_words}): the clips are noise")
    return 0


def write_take(request: ClipRequest, done: Finished) -> None:
    """Write a take's files, the summary last."""
    from cinelora.io.hardware import hardware, peak_memory_mib
    from cinelora.metrics.suite import measure

    config, take = request.config, done.take
    take.folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, np.ndarray]] = []
    for name, made in done.made.items():
        prefix = "" if name == "adapted" else f"{name}-"
        write_mp4(take.folder / f"{prefix}clip.mp4", made.video, config.model.fps)
        write_png(take.folder / f"{prefix}keyframe.png", made.keyframe)
        rows.insert(0, ((name if done.adapters else "base") + caveat(config), made.video))
    write_png(take.folder / "contact.png", contact_sheet(rows, columns=CONTACT_FRAMES))
    with waiting("measuring"):
        report = measure(config.metrics, done.made["adapted"].video, take.prompt)
    for sentence in report.sentences:
        warn(f"{take.folder / 'clip.mp4'}: {sentence}")
    summary = {
        "settings": request.shown(take),
        "sources": request.sources,
        "adapters": {role: adapter_facts(adapter, request, role) for role, adapter in done.adapters.items()},
        "seconds": {part: round(total, 3) for part, total in done.seconds.items()},
        "takes_in_run": done.takes_in_run,
        "attention": done.attention,
        "weights": config.model.weights,
        "metrics": report.numbers,
        "metrics_notes": report.sentences,
        "metrics_networks": report.networks,
        "peak_memory_mib": peak_memory_mib(),
        "ranks": config.gpus * config.nodes,
        **hardware(),
    }
    write_json(take.folder / "summary.json", summary)


def caveat(config: InferConfig) -> str:
    """What a contact sheet must say beside its pictures where nobody has taught the model any."""
    from cinelora.families.wan.embedded import is_trained

    if config.model.is_random:
        return " (random weights: noise)"
    sources = (config.model.t2v, config.model.i2v)
    noise = any(s and s.startswith("embedded:") for s in sources) and not is_trained()
    return " (untrained embedded model: noise)" if noise else ""


def adapter_facts(adapter: AdapterFile, request: ClipRequest, role: str) -> dict[str, Any]:
    """What a summary says of an adapter; of one of ``adapters=`` also the file, and its scale in each part of the clip."""
    origin = {"base_model": adapter.base_model, "trigger": adapter.trigger, "data_hash": adapter.data_hash}
    one = request.further.get(role)
    scales = {"source": str(one.path), "keyframe": one.keyframe, "clip": one.clip} if one else {}
    return {**asdict(adapter.spec), **origin, **scales}
