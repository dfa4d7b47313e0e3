"""A folder of rendered clips with their captions, as ``python -m tools.scale_model render`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.config.schema import setting
from cinelora.io.atomic import write_text
from cinelora.io.media import write_mp4
from tools.scale_model.render.film import render_clip
from tools.scale_model.render.looks import LOOKS
from tools.scale_model.render.scenes import draw_scene


@dataclass(frozen=True)
class RenderRequest:
    """Write a folder of rendered clips with their captions.

    python -m tools.scale_model render look=noir out=data/noir clips=12 heldout=3
    """

    look: str = setting("how the scenes look", "noir", tuple(LOOKS))
    out: str = setting("folder that train/ and heldout/ go to", "data/noir", role="path")
    clips: int = setting("clips to train on", 12, at_least=0)
    heldout: int = setting("clips that are held out", 3, at_least=0)
    frames: int = setting("frames of a clip", 49, at_least=1)
    height: int = setting("height in pixels, an even number", 112, at_least=16, multiple_of=2)
    width: int = setting("width in pixels, an even number", 192, at_least=16, multiple_of=2)
    fps: int = setting("frames per second", 16, at_least=1)
    seed: int = setting("the first scene; each clip shows the next one", 0, at_least=0)


def write_clips(request: RenderRequest) -> None:
    """Write ``train/`` and ``heldout/`` below ``out``: a clip and its caption each, of consecutive seeds."""
    for index in range(request.clips + request.heldout):
        seed, split = request.seed + index, "train" if index < request.clips else "heldout"
        path = Path(request.out) / split / f"{seed:03d}-{draw_scene(seed).place}.mp4"
        clip = render_clip(seed, request.look, request.frames, request.height, request.width, request.fps)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, clip.video, request.fps)
        write_text(path.with_suffix(".txt"), clip.caption + "\n")
        print(f"{path}: {clip.caption}", flush=True)
