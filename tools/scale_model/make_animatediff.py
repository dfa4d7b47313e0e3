"""The embedded AnimateDiff from nothing, part by part: VAE, text encoder, image network, motion modules, and a report.

Enters: a request. Leaves: the model in ``out``, beside it ``report.json`` with what was measured, and ``pictures``. Each part
begins from what ``out`` holds, and writes it again: so parts may be trained in several sittings, and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelora.config.schema import SamplerConfig
from cinelora.io.atomic import sha256_file, sha256_json, write_json
from cinelora.io.hardware import default_device
from cinelora.io.media import contact_sheet, write_png
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.io.terminal import say
from tools.scale_model.animatediff_request import AnimateDiffRequest
from tools.scale_model.build_unets import UnetParts, bytes_of, load_parts, new_parts, save_parts
from tools.scale_model.optimise import Budget
from tools.scale_model.render import LOOKS
from tools.scale_model.render.scenes import VOCABULARY, Scene, describe, draw_scene
from tools.scale_model.rendered import FIRST_SEED, VERSION
from tools.scale_model.train_unet_encoders import encode_frames, picture_psnr, train_captions, train_picture_vae
from tools.scale_model.train_unets import (
    Lessons,
    build_network,
    draw_clips,
    encode_captions,
    encode_film,
    heldout_loss,
    pixels_of,
    train_network,
)
from tools.scale_model.training_film import Film, render_film

Report = dict[str, Any]
VAE_SEED, HELDOUT_SEED, SHOWN, ASKED_SEED = 500_000, 900_000, 900_100, 900_200
"""The first scenes that the VAE learns from, that it is measured on, whose clips are drawn, and whose stills are."""
ASKED: dict[str, tuple[Any, ...]] = {name: VOCABULARY[name] for name in ("coat", "time", "count", "place")}
"""What the stills of the report differ by."""


def make_animatediff(request: AnimateDiffRequest) -> Report:
    """Train the parts that are asked for, one after the other; returns and keeps what was measured."""
    out, device = Path(request.out), default_device()
    torch.manual_seed(request.seed)
    report: Report = read_json(out / "report.json") if (out / "report.json").exists() else {}
    for part in request.wanted:
        started = time.perf_counter()
        parts = load_parts(out) if (out / "base").is_dir() else new_parts(request.seed)
        for module in parts.modules().values():
            module.to(device).requires_grad_(
                (part == "vae" and module is parts.vae) or (part == "text" and module is parts.text)
            )
        found = WAYS[part](request, parts, device)
        if part != "report":
            save_parts(out, parts)
        report[part] = {**found, "seconds": round(time.perf_counter() - started), "on": device.type}
        report["bytes"] = bytes_of(out / "base") + bytes_of(out / "motion")
        say(f"{part}: {report[part]}; {report['bytes'] / 1e6:.2f} MB in all")
        write_json(out / "report.json", report)
    return report


# -- parts -------------------------------------------------------------------------------------------------------------


def vae(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Report:
    """The VAE, on frames of every look."""
    seeds = range(VAE_SEED, VAE_SEED + request.vae_clips)
    # most of what the networks see is daylight; noir, with its hard edges, is the hardest to rebuild
    film = render_film(seeds, [*LOOKS, "daylight", "noir"], request.size, request.fps, device, request.workers)
    budget = Budget(request.vae_steps, request.vae_batch, request.vae_limit_s)
    steps = train_picture_vae(parts.vae, film, budget, request.vae_rate)
    return {"steps": steps, "heldout_psnr_db": picture_psnr(parts.vae, _heldout_looks(request, device))}


def text(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Report:
    """The text encoder, on captions alone."""
    budget = Budget(request.text_steps, request.text_batch, request.text_limit_s)
    return {"read_rightly": train_captions(parts.text, parts.tokenizer, budget, request.text_rate)}


def image(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Report:
    """The image network, on single frames."""
    budget = Budget(request.image_steps, request.image_batch, request.image_limit_s)
    return _network("image", request, parts, device, budget, request.image_rate)


def motion(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Report:
    """The motion modules, on whole clips, above the frozen image network."""
    budget = Budget(request.motion_steps, request.motion_batch, request.motion_limit_s)
    return _network("motion", request, parts, device, budget, request.motion_rate)


def _network(
    kind: str, request: AnimateDiffRequest, parts: UnetParts, device: torch.device, budget: Budget, rate: float
) -> Report:
    lessons, network = encoded_footage(request, parts, device), build_network(kind, parts)
    others = lessons.part(slice(request.clips, None))
    before = heldout_loss(kind, network, others)["mean"]
    steps = train_network(kind, network, lessons.part(slice(request.clips)), budget, rate)
    if kind == "motion":
        parts.motion.load_state_dict(network.state_dict(), strict=False)
    return {"steps": steps, "heldout_loss_before": before, "heldout_loss": heldout_loss(kind, network, others)}


def encoded_footage(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Lessons:
    """The clips that networks learn from, and after them those held out; from ``work``, where these encoders left them."""
    base = Path(request.out, "base")
    encoders = [sha256_file(base / "vae" / "diffusion_pytorch_model.safetensors")]
    encoders.append(sha256_file(base / "text_encoder" / "model.safetensors"))
    key = sha256_json([VERSION, *encoders, *request.size, request.fps, request.clips, request.heldout])
    file = Path(request.work, f"latents-{key[:12]}.safetensors")
    if not file.exists():
        seeds = range(FIRST_SEED, FIRST_SEED + request.clips + request.heldout)
        film = render_film(seeds, ["daylight"], request.size, request.fps, device, request.workers)
        encoded = encode_film(parts, film)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, {name: value.cpu() for name, value in vars(encoded).items()}, {})
    return Lessons(**{name: value.to(device) for name, value in load_tensors(file)[0].items()})


# -- the report --------------------------------------------------------------------------------------------------------


def measure(request: AnimateDiffRequest, parts: UnetParts, device: torch.device) -> Report:
    """Pictures of what the VAE keeps, of stills by caption, and of clips beside the rendered ones; and how much these move."""
    looks = _heldout_looks(request, device)
    _sheet(request, "vae", [row for look in LOOKS for row in _rebuilt(parts, looks, look)])
    unet = build_network("image", parts)
    for name, scenes in asked_stills().items():
        stills = _drawn("image", unet, scenes, request, parts, device)[:, 0]
        _sheet(request, f"stills-{name}", [(_told(row), stills[at : at + len(row)]) for at, row in _rows(scenes)])
    film = render_film(range(SHOWN, SHOWN + 8), ["daylight"], request.size, request.fps, device, 0)
    scenes, rendered = film.scenes, film.clips_NTHWC.cpu()
    drawn = _drawn("motion", build_network("motion", parts), scenes, request, parts, device)
    captions = [describe(scene, "daylight") for scene in scenes]
    pairs = zip(captions, rendered, drawn, strict=True)
    _sheet(request, "clips", [row for told, true, own in pairs for row in ((told, true), ("drawn", own))])
    return {"motion_levels": {"rendered": _motion(rendered), "drawn": _motion(drawn)}}


def asked_stills() -> dict[str, list[Scene]]:
    """Scenes in two groups by attribute that share everything but it, and their noise: a group is a row of a sheet."""
    plain = {"place": "street", "weather": "dry", "camera": "stands still", "car": None, "time": "noon"}
    return {
        name: [
            replace(draw_scene(ASKED_SEED + group, **{**plain, name: values[0]}), **{name: value})
            for group in range(2)
            for value in values
        ]
        for name, values in ASKED.items()
    }


def _rows(scenes: list[Scene]) -> list[tuple[int, list[Scene]]]:
    half = len(scenes) // 2
    return [(0, scenes[:half]), (half, scenes[half:])]


def _told(scenes: list[Scene]) -> str:
    return " / ".join(describe(scene, "daylight") for scene in (scenes[0], scenes[-1]))


def _drawn(
    kind: str, network: Any, scenes: list[Scene], request: AnimateDiffRequest, parts: UnetParts, device: torch.device
) -> Tensor:
    captions = [describe(scene, "daylight") for scene in scenes]
    words = encode_captions(parts, [*captions, ""])
    size = (len(scenes), 4, request.frames, request.height // 8, request.width // 8)
    asked = Lessons(torch.empty(size, device=device), words[:-1], words[-1])
    sampler = SamplerConfig(steps=request.sampler_steps)
    return draw_clips(kind, network, asked, parts.vae, sampler, request.guidance, [scene.seed for scene in scenes])


def _heldout_looks(request: AnimateDiffRequest, device: torch.device) -> Film:
    seeds = range(HELDOUT_SEED, HELDOUT_SEED + 8 * len(LOOKS))
    return render_film(seeds, list(LOOKS), (1, request.height, request.width), request.fps, device, 0)


def _rebuilt(parts: UnetParts, film: Film, look: str) -> list[tuple[str, Tensor]]:
    which = [number for number, own in enumerate(film.looks) if own == look]
    frames = film.clips_NTHWC[which, 0]
    latents_CNHW = encode_frames(parts.vae, frames).transpose(0, 1)
    return [(look, frames.cpu()), (f"{look}, through the VAE", pixels_of(parts.vae, latents_CNHW[None])[0])]


def _motion(clips_NTHWC: Tensor) -> float:
    """Mean absolute difference of adjacent frames, in levels of 255."""
    return float(clips_NTHWC.float().diff(dim=1).abs().mean())


def _sheet(request: AnimateDiffRequest, name: str, rows: list[tuple[str, Tensor]]) -> None:
    write_png(
        Path(request.out, "pictures", f"{name}.png"), contact_sheet([(label, clip.numpy()) for label, clip in rows])
    )


WAYS: dict[str, Callable[[AnimateDiffRequest, UnetParts, torch.device], Report]] = {
    "vae": vae,
    "text": text,
    "image": image,
    "motion": motion,
    "report": measure,
}
"""What each part does."""
