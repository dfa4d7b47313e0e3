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

    look: str = setting("how the scenes look", "noir", tuple(LOOKS))
    out: str = setting("folder that train/ and heldout/ go to", "data/noir", role="path")
    clips: int = setting("clips to train on", 12, at_least=0)
    heldout: int = setting("clips that are held out", 3, at_least=0)
    frames: int = setting("frames of a clip", 49, at_least=1)
    height: int = setting("height in pixels, an even number", 112, at_least=16, multiple_of=2)
    width: int = setting("width in pixels, an even number", 192, at_least=16, multiple_of=2)
    fps: int = setting("frames per second", 16, at_least=1)
    seed: int = setting("the first scene; each clip shows the next one", 0, at_least=0)


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
