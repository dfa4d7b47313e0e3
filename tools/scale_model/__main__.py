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

from cinelora.cli.help import help_text, say
from cinelora.cli.programs import Program
from cinelora.cli.small_command import request_of, run_small
from cinelora.config.schema import setting
from cinelora.errors import ConfigError
from cinelora.io.atomic import write_json
from tools.scale_model.render.write_clips import RenderRequest, write_clips

PARTS = ("all", "vae", "text")
HELD_OUT = 64
"""Clips that text and image encoder are measured on; they are the last of ``clips``."""


@dataclass(frozen=True)
class EncodersRequest:
    """Train VAE, text and image encoder of the embedded model on rendered footage, into a new pair.

    python -m tools.scale_model encoders out=outputs/scale-model
    """

    out: str = setting("folder of the new pair", "outputs/scale-model", role="path")
    parts: str = setting("which encoders are trained", "all", PARTS)
    start: str = setting("the pair whose encoders go on learning; none = new ones", "", role="path")
    clips: int = setting("clips that are rendered", 1600, at_least=1)
    frames: int = setting("frames of a clip, 4n+1", 33, at_least=1, frames=True)
    height: int = setting("height in pixels, a multiple of 16", 112, at_least=1, multiple_of=16)
    width: int = setting("width in pixels, a multiple of 16", 192, at_least=1, multiple_of=16)
    vae_steps: int = setting("steps of the VAE", 36_000, at_least=1)
    vae_batch: int = setting("clips of a step of the VAE", 8, at_least=1)
    vae_limit_s: int = setting("seconds after which the VAE is done; 0 = none", 0, at_least=0)
    vae_rate: float = setting("learning rate of the VAE", 2e-3, above=0, at_most=1)
    text_steps: int = setting("steps of text and image encoder", 8000, at_least=1)
    text_batch: int = setting("clips of a step of text and image encoder", 128, at_least=2)
    text_limit_s: int = setting("seconds after which text and image encoder are done; 0 = none", 0, at_least=0)
    seed: int = setting("seeds the weights at first", 0, at_least=0)
    workers: int = setting("processes that render; 0 = none of their own", 0, at_least=0)


@dataclass(frozen=True)
class AdoptRequest:
    """Put the transformer of a finished stage=pretrain run into the pair whose encoders it was trained with.

    python -m tools.scale_model adopt pair=outputs/scale-model run=outputs/pretrain/rendered/last
    """

    pair: str = setting("folder of the pair", "outputs/scale-model", role="path")
    run: str = setting("directory of the run", "", role="run")


Request = RenderRequest | EncodersRequest | AdoptRequest
REQUESTS: dict[str, type[Request]] = {"render": RenderRequest, "encoders": EncodersRequest, "adopt": AdoptRequest}
PROGRAMS = {verb: Program(f"tools.scale_model {verb}", schema) for verb, schema in REQUESTS.items()}


def program_of(argv: list[str]) -> Program:
    """What the first word asks for; raises ``ConfigError`` naming the verbs."""
    if not argv or argv[0] not in PROGRAMS:
        raise ConfigError(f"say what to do: python -m tools.scale_model {'|'.join(PROGRAMS)} key=value ...")
    return PROGRAMS[argv[0]]


def parse_request(argv: list[str]) -> Request:
    """A verb and ``key=value`` words as a request. Raises ``ConfigError`` for other words, values and contradictions."""
    request: Request = request_of(program_of(argv), argv[1:])
    if isinstance(request, EncodersRequest):
        check_encoders(request)
    return request


def check_encoders(request: EncodersRequest) -> None:
    """Refuse too few clips to hold some out, and a start that is no pair; raises ``ConfigError``."""
    if request.parts in ("all", "text") and request.clips <= HELD_OUT:
        raise ConfigError(f"clips={request.clips}: wants {HELD_OUT + 1} or more")
    if request.start and not Path(request.start, "t2v", "vae").is_dir():
        raise ConfigError(f"start={request.start}: wants the pair whose encoders go on learning")


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
    if {"-h", "--help"} & {*argv[:1]}:
        return say("\n\n".join(map(help_text, PROGRAMS.values())))
    try:
        program = program_of(argv)
    except ConfigError as error:
        print(f"tools.scale_model: {error}", file=sys.stderr)
        return error.exit_code
    return run_small(program, argv[1:], do)


def do(request: Request) -> None:
    """What was asked for."""
    match request:
        case RenderRequest():
            write_clips(request)
        case EncodersRequest():
            check_encoders(request)
            train_encoders(request)
        case AdoptRequest():
            adopt_run(request)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
