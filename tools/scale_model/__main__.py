"""The embedded model from nothing: its footage, its encoders, and the places where trained transformers go.

python -m tools.scale_model render look=noir out=data/noir clips=12   writes a folder of clips with their captions
python -m tools.scale_model encoders out=outputs/scale-model         trains VAE, text and image encoder into a new pair
python -m tools.scale_model adopt pair=outputs/scale-model run=...   puts a stage=pretrain run's transformer into the pair

The transformers themselves are trained by ``train.py stage=pretrain``; docs/scale-model.md has the whole sequence.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.config.words import parse_words
from cinelora.errors import CineloraError, ConfigError
from cinelora.io.atomic import write_json
from tools.scale_model.render.write_clips import RenderRequest, check_clips, write_clips


@dataclass(frozen=True)
class EncodersRequest:
    """What ``encoders`` is asked for; every field is a key of it."""

    out: str = "outputs/scale-model"
    parts: str = "all"
    start: str = ""
    clips: int = 1600
    frames: int = 33
    height: int = 112
    width: int = 192
    vae_steps: int = 36_000
    vae_batch: int = 8
    vae_limit_s: int = 0
    vae_rate: float = 2e-3
    text_steps: int = 8000
    text_batch: int = 128
    text_limit_s: int = 0
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class AdoptRequest:
    """What ``adopt`` is asked for."""

    pair: str = "outputs/scale-model"
    run: str = ""


PARTS = ("all", "vae", "text")
Request = RenderRequest | EncodersRequest | AdoptRequest
REQUESTS: dict[str, type[Request]] = {"render": RenderRequest, "encoders": EncodersRequest, "adopt": AdoptRequest}
HELD_OUT = 64
"""Clips that text and image encoder are measured on; they are the last of ``clips``."""


def parse_request(argv: list[str]) -> Request:
    """A verb and ``key=value`` words as a request. Raises ``ConfigError`` naming verbs or keys for any other word."""
    if not argv or argv[0] not in REQUESTS:
        raise ConfigError(f"say what to do: python -m tools.scale_model {'|'.join(REQUESTS)} key=value ...")
    request = parse_words(REQUESTS[argv[0]], argv[1:])
    match request:
        case RenderRequest():
            check_clips(request)
        case EncodersRequest():
            check_encoders(request)
    return request


def check_encoders(request: EncodersRequest) -> None:
    """Refuse what no encoder can be trained with; raises ``ConfigError`` with the value and what it may be."""
    least = {"clips": HELD_OUT + 1 if request.parts in ("all", "text") else 1, "text_batch": 2}
    least |= dict.fromkeys(("vae_steps", "vae_batch", "text_steps"), 1)
    least |= dict.fromkeys(("vae_limit_s", "text_limit_s", "seed", "workers"), 0)
    start = not request.start or Path(request.start, "t2v", "vae").is_dir()
    wants = {
        "parts": (request.parts in PARTS, "|".join(PARTS)),
        "frames": (request.frames > 0 and request.frames % 4 == 1, "4n+1, such as 33"),
        "height": (request.height > 0 and request.height % 16 == 0, "a multiple of 16, such as 112"),
        "width": (request.width > 0 and request.width % 16 == 0, "a multiple of 16, such as 192"),
        **{key: (getattr(request, key) >= low, f"{low} or more") for key, low in least.items()},
        "start": (start, "the pair whose encoders go on learning"),
        "vae_rate": (0 < request.vae_rate <= 1, "more than 0 and at most 1"),
    }
    for key, (holds, what) in wants.items():
        if not holds:
            raise ConfigError(f"{key}={getattr(request, key)}: wants {what}")


def train_encoders(request: EncodersRequest) -> None:
    """Train the encoders on rendered footage of every look, and write a pair with untrained transformers."""
    import torch

    from cinelora.families.wan.embedded import Encoders, load_encoders
    from cinelora.io.hardware import default_device
    from tools.scale_model.build_pair import grow, new_encoders, new_transformer, save_pair
    from tools.scale_model.render import LOOKS
    from tools.scale_model.train_encoders import (
        Budget,
        begin_simply,
        reconstruction_psnr,
        render_film,
        train_text_and_image,
        train_vae,
    )

    device, started = default_device(), time.perf_counter()
    torch.manual_seed(request.seed)
    fresh = load_encoders(Path(request.start)) if request.start else new_encoders(request.seed)
    if not request.start:
        begin_simply(fresh.vae)
    encoders = Encoders(fresh.vae.to(device), fresh.text.to(device), fresh.image.to(device))
    size = (request.frames, request.height, request.width)
    # most of what the transformers see is daylight; noir, with its hard edges, is the hardest to rebuild
    looks = [*LOOKS, "daylight", "noir"]
    film = render_film(range(500_000, 500_000 + request.clips), looks, size, device, request.workers)
    heldout = render_film(range(900_000, 900_000 + 4 * len(LOOKS)), list(LOOKS), size, device, 0)
    report: dict[str, Any] = {"rendering_s": time.perf_counter() - started}
    if request.parts != "vae":
        budget = Budget(request.text_steps, request.text_batch, request.text_limit_s)
        report["read_rightly"] = train_text_and_image(encoders, film, budget)
    if request.parts != "text":
        budget = Budget(request.vae_steps, request.vae_batch, request.vae_limit_s)
        report["vae_steps"] = train_vae(encoders.vae, film, budget, request.vae_rate)
        report["heldout_psnr_db"] = reconstruction_psnr(encoders.vae, heldout)
    report["seconds"] = time.perf_counter() - started
    print(json.dumps(report, indent=1))
    out = Path(request.out)
    t2v = new_transformer(request.seed)
    on_host = Encoders(encoders.vae.cpu(), encoders.text.cpu(), encoders.image.cpu())
    save_pair(out, on_host, t2v, grow(t2v, request.seed))
    write_json(out / "encoders.json", report)


def adopt_run(request: AdoptRequest) -> None:
    """Put the transformer of a finished ``stage=pretrain`` run into its pair."""
    from cinelora.adapters.run_directory import RunDirectory
    from cinelora.config.store import load_config
    from cinelora.families.wan.embedded import HASHES
    from tools.scale_model.build_pair import adopt

    run = RunDirectory(Path(request.run))
    if not run.transformer.is_dir():
        raise ConfigError(f"run={request.run} holds no transformer/; give a finished run of stage=pretrain")
    if not (Path(request.pair) / HASHES).is_file():
        raise ConfigError(f"pair={request.pair} holds no {HASHES}; give a pair that encoders made")
    adopt(Path(request.pair), run.transformer, load_config(run.path).stage.transformer)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    try:
        match parse_request(argv):
            case RenderRequest() as request:
                write_clips(request)
            case EncodersRequest() as request:
                train_encoders(request)
            case AdoptRequest() as request:
                adopt_run(request)
    except CineloraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
