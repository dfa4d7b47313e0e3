"""The command that writes a folder of rendered clips with their captions.

python -m cinelora.footage.render look=noir out=data/noir clips=12 heldout=3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cinelora.cli.programs import Program
from cinelora.cli.small_command import run_small
from cinelora.config.schema import setting
from cinelora.footage.render.film import render_clip
from cinelora.footage.render.looks import LOOKS
from cinelora.footage.render.scenes import draw_scene
from cinelora.io.atomic import write_text
from cinelora.io.media import write_mp4


@dataclass(frozen=True)
class Request:
    """Write a folder of rendered clips with their captions.

    python -m cinelora.footage.render look=noir out=data/noir clips=12 heldout=3
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


PROGRAM = Program("cinelora.footage.render", Request)


def render_set(request: Request) -> None:
    """Write ``train/`` and ``heldout/`` below ``out``: a clip and its caption each, of consecutive seeds."""
    for index in range(request.clips + request.heldout):
        seed, split = request.seed + index, "train" if index < request.clips else "heldout"
        path = Path(request.out) / split / f"{seed:03d}-{draw_scene(seed).place}.mp4"
        clip = render_clip(seed, request.look, request.frames, request.height, request.width, request.fps)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, clip.video, request.fps)
        write_text(path.with_suffix(".txt"), clip.caption + "\n")
        print(f"{path}: {clip.caption}", flush=True)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return run_small(PROGRAM, argv, render_set)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
