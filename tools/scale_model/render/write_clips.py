"""A folder of rendered clips with their captions, as ``python -m tools.scale_model render`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.config.schema import setting
from cinelora.io.atomic import write_text
from cinelora.io.media import write_mp4
from tools.scale_model.render.film import render_clip
from tools.scale_model.render.looks import LOOKS
from tools.scale_model.render.scenes import describe, describe_in_part, draw_scene


@dataclass(frozen=True)
class RenderRequest:
    """Write a folder of rendered clips with their captions.

    python -m tools.scale_model render look=noir out=data/noir clips=12 heldout=3
    """

    look: str = setting("noir", tuple(LOOKS))
    """how the scenes look"""
    out: str = setting("data/noir", role="path")
    """folder that train/ and heldout/ go to"""
    clips: int = setting(12, at_least=0)
    """clips to train on"""
    heldout: int = setting(3, at_least=0)
    """clips that are held out"""
    frames: int = setting(49, at_least=1)
    """frames of a clip"""
    height: int = setting(112, at_least=16, multiple_of=2)
    """height in pixels, an even number"""
    width: int = setting(192, at_least=16, multiple_of=2)
    """width in pixels, an even number"""
    fps: int = setting(16, at_least=1)
    """frames per second"""
    seed: int = setting(0, at_least=0)
    """the first scene; each clip shows the next one"""
    captions: int = setting(1, at_least=1)
    """captions of a clip to train on, a line each: the whole one, and others that leave most unsaid"""
    hidden: bool = setting(False)
    """name hour and colours in captions also where the look hides them"""


def write_clips(request: RenderRequest) -> None:
    """Write ``train/`` and ``heldout/`` below ``out``: a clip and its caption each, of consecutive seeds."""
    for index in range(request.clips + request.heldout):
        seed, split = request.seed + index, "train" if index < request.clips else "heldout"
        path = Path(request.out) / split / f"{seed:03d}-{draw_scene(seed).place}.mp4"
        clip = render_clip(seed, request.look, request.frames, request.height, request.width, request.fps)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, clip.video, request.fps)
        lines = captions_of(seed, request.look, request.captions if split == "train" else 1, request.hidden)
        write_text(path.with_suffix(".txt"), "".join(f"{line}\n" for line in lines))
        print(f"{path}: {clip.caption}", flush=True)


def captions_of(seed: int, look: str, count: int, hidden: bool) -> list[str]:
    """The whole caption of a clip, and then such as leave most unsaid, ``count`` in all; ``hidden``: see ``describe``."""
    scene = draw_scene(seed)
    return [
        describe(scene, look, hidden),
        *(describe_in_part(scene, look, number, hidden) for number in range(1, count)),
    ]
