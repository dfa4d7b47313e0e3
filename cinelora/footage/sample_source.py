"""Where samples come from: a folder of clips, or the renderer; which it is, nobody above needs to know.

Enters: what ``data=`` says. Leaves: a manifest, and a function that gives the pixels of its samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.clone_only import scale_model
from cinelora.config.schema import DataConfig, ModelConfig
from cinelora.families import family_of
from cinelora.footage.build_dataset import Wanted, chosen, dataset, handling_of, prepare
from cinelora.footage.manifest import Manifest, Sample
from cinelora.footage.read_frames import read_frames

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cinelora.footage.video_reader import Pixels

    Read = Callable[[Sample], Pixels | Tensor]


def wanted_by(model: ModelConfig, num_frames: int, seed: int, own_shapes: bool = True) -> Wanted:
    """Samples of so many frames for a model; ``seed`` decides what is held out.

    With ``own_shapes`` footage is cut to train on, in its own sizes and lengths where the data's settings say so.
    """
    return Wanted(num_frames, model.fps, (model.height, model.width), family_of(model).geometry, seed, own_shapes)


def find(data: DataConfig, wanted: Wanted, processes: int | None = None) -> Manifest:
    """The stills or windows that are ``wanted`` of ``data``, surveyed by so many ``processes``; None = as it pays.

    Raises ``FootageError`` where there is none, a caption is missing, or a manifest that is named holds none of the kind.
    """
    if data.look:
        rendered: Manifest = scale_model("rendered", f"data={data.name}").rendered_manifest(
            data.look, data.clips, data.heldout_clips, wanted.num_frames, wanted.fps, data.caption_lines == "each"
        )
        return rendered
    if data.manifest:
        return chosen(data, wanted)
    return dataset(prepare(data, wanted, processes), data, wanted)


def reader(data: DataConfig, model: ModelConfig, device: torch.device) -> Read:
    """What gives the pixels of a sample at its own size, or else the model's, uint8 (T, H, W, 3)."""
    if data.look:
        render_sample = scale_model("rendered", f"data={data.name}").render_sample
        return partial(render_sample, height=model.height, width=model.width, fps=model.fps, device=device)
    return partial(
        read_frames, Path(str(data.root)), height=model.height, width=model.width, handling=handling_of(data)
    )
