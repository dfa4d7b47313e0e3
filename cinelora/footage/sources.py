"""Where samples come from: a folder of clips, or the renderer; which it is, nobody above needs to know.

Enters: what ``data=`` says. Leaves: a manifest, and a function that gives the pixels of its samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.config.schema import DataConfig, ModelConfig
from cinelora.footage.samples import Manifest, Sample, read_frames, scan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cinelora.footage.decode import Pixels

    Read = Callable[[Sample], Pixels | Tensor]


def find(data: DataConfig, num_frames: int, fps: int, seed: int) -> Manifest:
    """The stills or windows that ``data`` gives; ``seed`` decides what is held out of a folder. Raises ``FootageError``."""
    if data.look:
        from cinelora.footage.rendered import rendered_manifest

        return rendered_manifest(data.look, data.clips, data.heldout_clips, num_frames, fps)
    return scan(
        Path(str(data.root)),
        num_frames=num_frames,
        fps=fps,
        caption=data.caption,
        trigger=data.trigger,
        holdout=data.holdout,
        stills_per_shot=data.stills_per_shot,
        window_stride=data.window_stride,
        seed=seed,
    )


def reader(data: DataConfig, model: ModelConfig, device: torch.device) -> Read:
    """What gives the pixels of a sample at the model's size, uint8 (T, H, W, 3)."""
    if data.look:
        from cinelora.footage.rendered import render_sample

        return partial(render_sample, height=model.height, width=model.width, fps=model.fps, device=device)
    return partial(read_frames, Path(str(data.root)), height=model.height, width=model.width)
