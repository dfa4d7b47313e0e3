"""Samples without a folder: every seed is a clip of the renderer, drawn when its pixels are asked for.

Enters: a look and a number of clips. Leaves: a manifest like a folder's, and later pixels on any device. Beside the
renderer this is the only part of ``footage`` that imports torch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cinelora.footage.holdout import Split
from cinelora.footage.manifest import Manifest, Sample
from cinelora.io.atomic import sha256_json
from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import describe, describe_in_part, draw_scene

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
"""Raised whenever a seed would be drawn to other pixels."""
FIRST_SEED = 1_000_000
"""Seeds below are for the sets that are shipped and for measuring: nothing is trained on them."""


def rendered_manifest(
    look: str, clips: int, heldout: int, num_frames: int, fps: int, in_part: bool = False
) -> Manifest:
    """``clips`` windows to train on and ``heldout`` others, of ``num_frames`` at ``fps``; 1 frame gives stills.

    With ``in_part`` every second clip to train on has a caption that leaves most unsaid.
    """
    sample = partial(_sample, look, num_frames, fps)
    train = [sample(seed, "train", in_part and seed % 2 == 1) for seed in range(FIRST_SEED, FIRST_SEED + clips)]
    others = [sample(FIRST_SEED + clips + number, "heldout", False) for number in range(heldout)]
    return Manifest(tuple(train + others), ())


def _sample(look: str, num_frames: int, fps: int, seed: int, split: Split, in_part: bool) -> Sample:
    path, scene = f"{look}/{seed}", draw_scene(seed)
    return Sample(
        id=f"{path}@0-{num_frames - 1}",
        path=path,
        file_hash=sha256_json(["rendered", VERSION, path, num_frames, fps]),
        frames=tuple(range(num_frames)),
        caption=describe_in_part(scene, look, 1) if in_part else describe(scene, look),
        split=split,
        kind="still" if num_frames == 1 else "window",
    )


def render_sample(sample: Sample, height: int, width: int, fps: int, device: torch.device) -> Tensor:
    """The pixels of a rendered sample, uint8 (T, H, W, 3), on ``device``; without grain, which nothing can predict."""
    look, seed = sample.path.split("/")
    return render_scene(draw_scene(int(seed)), look, len(sample.frames), height, width, fps, grain=False, device=device)
