"""A folder of rendered clips with their captions, as ``python -m tools.scale_model render`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.errors import ConfigError
from cinelora.io.atomic import write_text
from cinelora.io.media import write_mp4
from tools.scale_model.render.film import render_clip
from tools.scale_model.render.looks import LOOKS
from tools.scale_model.render.scenes import draw_scene


@dataclass(frozen=True)
class RenderRequest:
    """What ``render`` is asked for; every field is a key of it."""

    look: str = "noir"
    out: str = "data/noir"
    clips: int = 12
    heldout: int = 3
    frames: int = 49
    height: int = 112
    width: int = 192
    fps: int = 16
    seed: int = 0


def check_clips(request: RenderRequest) -> None:
    """Refuse what cannot be rendered; raises ``ConfigError`` with the value and what it may be."""
    if request.look not in LOOKS:
        raise ConfigError(f"look={request.look} is not rendered; use one of {', '.join(LOOKS)}")
    if request.height % 2 or request.width % 2 or min(request.height, request.width) < 16:
        raise ConfigError(f"height={request.height} width={request.width}: a clip takes even sizes of 16 and more")
    if request.frames < 1 or request.fps < 1:
        raise ConfigError(f"frames={request.frames} fps={request.fps}: both must be 1 or more")


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
