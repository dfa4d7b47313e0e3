"""The embedded model from nothing: its footage, its encoders, and the places where trained transformers go.

python -m tools.scale_model render look=noir out=data/noir clips=12   writes a folder of clips with their captions
python -m tools.scale_model encoders out=outputs/scale-model         trains VAE, text and image encoder into a new pair
python -m tools.scale_model adopt pair=outputs/scale-model run=...   puts a stage=pretrain run's transformer into the pair
python -m tools.scale_model distil out=outputs/distilled.safetensors  trains an adapter for few unguided steps
python -m tools.scale_model animatediff out=outputs/animatediff      trains the embedded AnimateDiff, part by part

The transformers themselves are trained by ``train.py stage=pretrain``; docs/scale-model.md has the whole sequence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.cli.help import answer, help_text
from cinelora.cli.parse import Command
from cinelora.cli.programs import Program
from cinelora.cli.small_command import run_small
from cinelora.config.schema import setting
from cinelora.errors import ConfigError
from cinelora.io.atomic import write_json
from tools.scale_model.animatediff_request import AnimateDiffRequest, check_animatediff
from tools.scale_model.distil_request import DistilRequest
from tools.scale_model.render.write_clips import RenderRequest, write_clips

PARTS = ("all", "vae", "text")
HELD_OUT = 64
"""Clips that text and image encoder are measured on; they are the last of ``clips``."""


@dataclass(frozen=True)
class EncodersRequest:
    """Train VAE, text and image encoder of the embedded model on rendered footage, into a new pair.

    python -m tools.scale_model encoders out=outputs/scale-model
    """

    out: str = setting("outputs/scale-model", role="path")
    """folder of the new pair"""
    parts: str = setting("all", PARTS)
    """which encoders are trained"""
    start: str = setting("", role="path")
    """the pair whose encoders go on learning; none = new ones"""
    clips: int = setting(1600, at_least=1)
    """clips that are rendered"""
    frames: int = setting(33, at_least=1, frames=True)
    """frames of a clip, 4n+1"""
    height: int = setting(112, at_least=1, multiple_of=16)
    """height in pixels, a multiple of 16"""
    width: int = setting(192, at_least=1, multiple_of=16)
    """width in pixels, a multiple of 16"""
    vae_steps: int = setting(36_000, at_least=1)
    """steps of the VAE"""
    vae_batch: int = setting(8, at_least=1)
    """clips of a step of the VAE"""
    vae_limit_s: int = setting(0, at_least=0)
    """seconds after which the VAE is done; 0 = none"""
    vae_rate: float = setting(2e-3, above=0, at_most=1)
    """learning rate of the VAE"""
    text_steps: int = setting(8000, at_least=1)
    """steps of text and image encoder"""
    text_batch: int = setting(128, at_least=2)
    """clips of a step of text and image encoder"""
    text_limit_s: int = setting(0, at_least=0)
    """seconds after which text and image encoder are done; 0 = none"""
    seed: int = setting(0, at_least=0)
    """seeds the weights at first"""
    workers: int = setting(0, at_least=0)
    """processes that render; 0 = none of their own"""


@dataclass(frozen=True)
class AdoptRequest:
    """Put the network of a finished stage=pretrain run into the pair, or the AnimateDiff, whose encoders it was trained with.

    python -m tools.scale_model adopt pair=outputs/scale-model run=outputs/pretrain/rendered/last
    """

    pair: str = setting("outputs/scale-model", role="path")
    """folder of the pair, or of the AnimateDiff"""
    run: str = setting("", role="run")
    """directory of the run"""


def check_encoders(request: EncodersRequest) -> None:
    """Refuse too few clips to hold some out, and a start that is no pair; raises ``ConfigError``."""
    if request.parts in ("all", "text") and request.clips <= HELD_OUT:
        raise ConfigError(f"clips={request.clips}: wants {HELD_OUT + 1} or more")
    if request.start and not Path(request.start, "t2v", "vae").is_dir():
        raise ConfigError(f"start={request.start}: wants the pair whose encoders go on learning")


def encoders(request: EncodersRequest) -> None:
    """Train the encoders on rendered footage of every look, and write a pair with untrained transformers."""
    check_encoders(request)
    # Only now is torch imported: a refusal, and the help, cost no seconds.
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock

    from cinelora.families.wan.embedded import Encoders, load_encoders
    from cinelora.io.hardware import default_device
    from tools.scale_model import build_pair, train_encoders
    from tools.scale_model.optimise import Budget
    from tools.scale_model.rebuilding import begin_simply
    from tools.scale_model.render import LOOKS
    from tools.scale_model.training_film import render_film

    device, started = default_device(), time.perf_counter()
    torch.manual_seed(request.seed)
    fresh = load_encoders(Path(request.start)) if request.start else build_pair.new_encoders(request.seed)
    if not request.start:
        begin_simply(fresh.vae, WanResidualBlock)
    networks = Encoders(fresh.vae.to(device), fresh.text.to(device), fresh.image.to(device))
    size = (request.frames, request.height, request.width)
    # most of what the transformers see is daylight; noir, with its hard edges, is the hardest to rebuild
    looks = [*LOOKS, "daylight", "noir"]
    seeds, others = range(500_000, 500_000 + request.clips), range(900_000, 900_000 + 4 * len(LOOKS))
    film = render_film(seeds, looks, size, train_encoders.FPS, device, request.workers)
    heldout = render_film(others, list(LOOKS), size, train_encoders.FPS, device, 0)
    report: dict[str, Any] = {"rendering_s": time.perf_counter() - started}
    if request.parts != "vae":
        budget = Budget(request.text_steps, request.text_batch, request.text_limit_s)
        report["read_rightly"] = train_encoders.train_text_and_image(networks, film, budget)
    if request.parts != "text":
        budget = Budget(request.vae_steps, request.vae_batch, request.vae_limit_s)
        report["vae_steps"] = train_encoders.train_vae(networks.vae, film, budget, request.vae_rate)
        report["heldout_psnr_db"] = train_encoders.reconstruction_psnr(networks.vae, heldout)
    report["seconds"] = time.perf_counter() - started
    print(json.dumps(report, indent=1))
    # The transformers are untrained; they make the pair whole, so that ``stage=pretrain`` reads it like any other.
    t2v = build_pair.new_transformer(request.seed)
    on_host = Encoders(networks.vae.cpu(), networks.text.cpu(), networks.image.cpu())
    build_pair.save_pair(Path(request.out), on_host, t2v, build_pair.grow(t2v, request.seed))
    write_json(Path(request.out, "encoders.json"), report)


def adopt(request: AdoptRequest) -> None:
    """Put the network of a finished ``stage=pretrain`` run into its pair, or its AnimateDiff."""
    from cinelora.adapters.run_directory import RunDirectory
    from cinelora.config.store import load_config
    from cinelora.families.shipped_weights import HASHES
    from tools.scale_model import build_pair, build_unets

    run = RunDirectory(Path(request.run))
    if not run.transformer.is_dir():
        raise ConfigError(f"run={request.run} holds no transformer/; give a finished run of stage=pretrain")
    if not (Path(request.pair) / HASHES).is_file():
        raise ConfigError(f"pair={request.pair} holds no {HASHES}; give a pair that encoders made")
    kind = load_config(run.path).stage.transformer
    put = build_unets.adopt_network if kind in build_unets.NETWORKS else build_pair.adopt
    put(Path(request.pair), run.transformer, kind)


def distil(request: DistilRequest) -> None:
    """Train, measure and write a step-distilled adapter."""
    from tools.scale_model import distil as distilling

    print(json.dumps(distilling.distil(request), indent=1))


def animatediff(request: AnimateDiffRequest) -> None:
    """Train parts of the embedded AnimateDiff, and look at it."""
    check_animatediff(request)
    from tools.scale_model.make_animatediff import make_animatediff

    print(json.dumps(make_animatediff(request), indent=1))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "render": (RenderRequest, write_clips),
    "encoders": (EncodersRequest, encoders),
    "adopt": (AdoptRequest, adopt),
    "distil": (DistilRequest, distil),
    "animatediff": (AnimateDiffRequest, animatediff),
}
"""What each verb takes, and the function that does it."""
PROGRAMS = {verb: Program(f"tools.scale_model {verb}", schema) for verb, (schema, _) in COMMANDS.items()}


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & {*argv[:1]}:
        asked = [help_text(Command(program, help=True)) for program in PROGRAMS.values()]
        return answer(*"\n\n".join(asked).split("\n"))
    if not argv or argv[0] not in PROGRAMS:
        wanted = f"say what to do: python -m tools.scale_model {'|'.join(PROGRAMS)} key=value ..."
        print(f"tools.scale_model: {wanted}", file=sys.stderr)
        return ConfigError.exit_code
    verb, *words = argv
    return run_small(PROGRAMS[verb], words, COMMANDS[verb][1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
