"""Rendered stills whose attributes are known, and a reader of attributes that has been tried on them.

The stills are the first and last frames of clips of dry streets, without a car and with a camera that stands still. Every
other one shows noon, the hour at which coats and people are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scale_tools.readers import Reader, planes, softened, train_reader
from scale_tools.studio import HELDOUT_SEED, Studio
from torch import Tensor

from cinelora.io.atomic import write_whole
from tools.scale_model.render.scenes import VOCABULARY, Scene, draw_scene

CHOICES: dict[str, tuple[Any, ...]] = {name: VOCABULARY[name] for name in ("coat", "time", "count")}
PLAIN: dict[str, Any] = {"place": "street", "weather": "dry", "camera": "stands still", "car": None}
TRAINING, TRIAL = 1200, 300
"""Scenes to learn from, both ends of their clips; and scenes to be tried on, their first frames alone."""


def labelled_scenes() -> list[Scene]:
    """The scenes of the stills, those of the trial last."""
    drawn = [draw_scene(HELDOUT_SEED + 10_000 + number, **PLAIN) for number in range(TRAINING + TRIAL)]
    return [scene if number % 2 else replace(scene, time="noon") for number, scene in enumerate(drawn)]


def rendered_ends(studio: Studio, scenes: list[Scene], file: Path) -> Tensor:
    """First and last frames, uint8 (N, 2, H, W, 3) on the device; kept in ``file``, as drawing them takes minutes."""
    if not file.exists():
        print(f"drawing {2 * len(scenes)} stills for the reader")
        drawn = torch.stack([studio.ends(scene, "daylight").cpu() for scene in scenes]).numpy()
        write_whole(file, lambda draft: np.save(draft, drawn, allow_pickle=False))
    return torch.from_numpy(np.load(file, allow_pickle=False)).to(studio.device)


def known_reader(studio: Studio, work: Path) -> tuple[Reader, dict[str, Any]]:
    """A reader, and what it reads rightly of stills that it has not learnt from, as they are, softened, and decoded."""
    scenes = labelled_scenes()
    ends = rendered_ends(studio, scenes, work / "reader.npy")
    labels = {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes[:TRAINING]], device=studio.device)
        for name, values in CHOICES.items()
    }
    reader = train_reader(
        CHOICES, ends[:TRAINING].flatten(0, 1), {name: value.repeat_interleave(2) for name, value in labels.items()}
    )
    sharp, trial = ends[TRAINING:, 0], scenes[TRAINING:]
    seen = {"as rendered": sharp, "softened": softened(sharp), "through the VAE": through_vae(studio, sharp)}
    own = {look: trial_of(reader, stills, trial) for look, stills in seen.items()}
    for look, accuracy in own.items():
        print(f"reader, stills {look}: {accuracy}")
    return reader, own


def trial_of(reader: Reader, stills_NHWC: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share read rightly: the hour of all stills, coats and people of those at noon."""
    read = reader.read(stills_NHWC)
    return {
        name: float(
            np.mean(
                [
                    row[name] == getattr(scene, name)
                    for row, scene in zip(read, scenes, strict=True)
                    if name == "time" or scene.time == "noon"
                ]
            )
        )
        for name in CHOICES
    }


def through_vae(studio: Studio, stills_NHWC: Tensor) -> Tensor:
    """What the VAE makes of stills, uint8 (N, H, W, 3): as soft as anything it decodes."""
    batches = (planes(stills)[:, :, None] for stills in stills_NHWC.split(32))
    return torch.cat([studio.pixels(studio.t2v.encode_video(batch))[:, 0] for batch in batches])
