"""The command that writes a folder of rendered clips with their captions.

python -m cinelora.footage.render look=noir out=data/noir clips=12 heldout=3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cinelora.config.words import parse_words
from cinelora.errors import CineloraError, ConfigError
from cinelora.footage.render.film import render_clip
from cinelora.footage.render.looks import LOOKS
from cinelora.footage.render.scenes import draw_scene
from cinelora.io.atomic import write_text
from cinelora.io.media import write_mp4


@dataclass(frozen=True)
class Request:
    """What the command is asked for; every field is a key of it."""

    look: str = "noir"
    out: str = "data/noir"
    clips: int = 12
    heldout: int = 3
    frames: int = 49
    height: int = 112
    width: int = 192
    fps: int = 16
    seed: int = 0


def parse_request(argv: list[str]) -> Request:
    """``key=value`` words as a request. Raises ``ConfigError`` naming the keys for any other word."""
    request = parse_words(Request, argv)
    if request.look not in LOOKS:
        raise ConfigError(f"look={request.look} is not rendered; use one of {', '.join(LOOKS)}")
    if request.height % 2 or request.width % 2 or min(request.height, request.width) < 16:
        raise ConfigError(f"height={request.height} width={request.width}: a clip takes even sizes of 16 and more")
    if request.frames < 1 or request.fps < 1:
        raise ConfigError(f"frames={request.frames} fps={request.fps}: both must be 1 or more")
    return request


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
    try:
        render_set(parse_request(argv))
    except CineloraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
