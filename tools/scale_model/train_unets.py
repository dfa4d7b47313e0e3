"""Training the networks of the embedded AnimateDiff: the image network on stills, then its motion modules on whole clips.

Enters: encoded clips with the text of each, on a device. Leaves: a trained network, its held-out loss, and what it draws. It is
what ``stage=pretrain`` does, without files: the noise law, the condition and the trained weights are the stage's own.

Shape suffixes: N clips, B batch, C channels, T frames, H and W latent height and width, L tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNetMotionModel
from torch import Tensor
from tqdm.auto import tqdm

from cinelora.config.schema import FlowConfig, SamplerConfig
from cinelora.families.animatediff.unet_conditions import FrameCondition, UNet
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.noise_law import NoiseLaw, law_of
from cinelora.nn.flow_matching import keyed_generator
from cinelora.sampling.denoise import Guided, sample
from tools.scale_model.build_unets import UnetParts
from tools.scale_model.optimise import Budget, optimise
from tools.scale_model.pretrain import trained
from tools.scale_model.render.scenes import describe
from tools.scale_model.train_unet_encoders import AT_ONCE, decode_frames, encode_frames, to_tokens
from tools.scale_model.training_film import Film

DROPOUT = 0.1
"""Chance of a caption to be dropped, without which there is no guidance."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels that the held-out loss is measured at."""


@dataclass(frozen=True)
class Lessons:
    """Encoded clips, the text of each, and the text of no caption, all on the device."""

    latents_NCTHW: Tensor
    text_NLD: Tensor
    null_LD: Tensor

    def part(self, which: slice) -> Lessons:
        """Some of the clips."""
        return Lessons(self.latents_NCTHW[which], self.text_NLD[which], self.null_LD)


@torch.no_grad()
def encode_film(parts: UnetParts, film: Film) -> Lessons:
    """Latents of every frame, and the text of every caption."""
    clips = film.clips_NTHWC
    frames = tqdm(torch.split(clips.flatten(0, 1), AT_ONCE), "encoding", unit="batch", mininterval=2)
    latents = torch.cat([encode_frames(parts.vae, some) for some in frames])
    latents_NTCHW = latents.view(*clips.shape[:2], *latents.shape[1:])
    captions = [describe(scene, look) for scene, look in zip(film.scenes, film.looks, strict=True)]
    text = encode_captions(parts, [*captions, ""])
    return Lessons(latents_NTCHW.transpose(1, 2).contiguous(), text[:-1], text[-1])


@torch.no_grad()
def encode_captions(parts: UnetParts, captions: list[str]) -> Tensor:
    """CLIP's features (N, L, D) of captions, padding included."""
    tokens = to_tokens(parts.tokenizer, captions).to(parts.text.device)
    return torch.cat([parts.text(some).last_hidden_state for some in torch.split(tokens, AT_ONCE)])


def build_network(kind: str, parts: UnetParts) -> UNet:
    """The ``image`` network, or the ``motion`` network: the same weights with the motion modules between them."""
    # diffusers makes the second on the host, wherever its parts are
    return (
        parts.unet if kind == "image" else UNetMotionModel.from_unet2d(parts.unet, parts.motion).to(parts.unet.device)
    )


def law_of_kind(kind: str) -> NoiseLaw:
    """The noise law that a network of the family is taught by."""
    return law_of(ANIMATEDIFF.network(kind))


def train_network(kind: str, network: UNet, lessons: Lessons, budget: Budget, rate: float) -> int:
    """Learn to predict the noise in single frames of any clip (``image``), or in whole clips (``motion``); the steps taken.

    Of a motion network the motion modules alone are trained.
    """
    trained(network, sharded=False)
    network.train()
    law, device, generator = law_of_kind(kind), lessons.latents_NCTHW.device, torch.Generator().manual_seed(2)
    levels = law.from_config(FlowConfig(), 0, 0)
    clips, _, frames = lessons.latents_NCTHW.shape[:3]

    def draw() -> tuple[Tensor, ...]:
        which, moment = (torch.randint(limit, (budget.batch,), generator=generator) for limit in (clips, frames))
        normal, chance = torch.randn(budget.batch, generator=generator), torch.rand(budget.batch, generator=generator)
        return which, moment, levels.sigmas(normal), chance < DROPOUT

    def chosen(which_B: Tensor, moment_B: Tensor) -> Tensor:
        if kind == "motion":
            return lessons.latents_NCTHW[which_B]
        return lessons.latents_NCTHW[which_B, :, moment_B][:, :, None]

    def loss(which_B: Tensor, moment_B: Tensor, level_B: Tensor, dropped_B: Tensor) -> Tensor:
        clean_BCTHW = chosen(which_B, moment_B)
        text_BLD = torch.where(dropped_B[:, None, None], lessons.null_LD, lessons.text_NLD[which_B])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            return noise_loss(network, law, clean_BCTHW, torch.randn_like(clean_BCTHW), level_B, text_BLD).mean()

    steps = optimise(f"{kind} network", network, draw, loss, budget, rate, decay=0.01)
    network.eval()
    return steps


def noise_loss(
    network: UNet, law: NoiseLaw, clean_BCTHW: Tensor, noise_BCTHW: Tensor, level_B: Tensor, text_BLD: Tensor
) -> Tensor:
    """Loss of each sample, (B,), at its noise level."""
    noisy_BCTHW = law.add_noise(clean_BCTHW, noise_BCTHW, level_B)
    predicted = FrameCondition(text_BLD).predict(network, noisy_BCTHW, law.timestep(level_B))
    return law.loss(predicted, law.target(clean_BCTHW, noise_BCTHW))


@torch.no_grad()
def heldout_loss(kind: str, network: UNet, lessons: Lessons) -> dict[str, float]:
    """Mean loss over clips never trained on at each of ``LEVELS``, with noise from the host, and the mean of these."""
    law, device = law_of_kind(kind), lessons.latents_NCTHW.device
    clean = lessons.latents_NCTHW[:, :, :1] if kind == "image" else lessons.latents_NCTHW
    noise = torch.randn(clean.shape, generator=keyed_generator("held out")).to(device)
    found: dict[str, float] = {}
    for level in LEVELS:
        losses = [
            noise_loss(network, law, some, its_noise, torch.full((len(some),), level, device=device), text)
            for some, its_noise, text in zip(
                *(torch.split(of, 16) for of in (clean, noise, lessons.text_NLD)), strict=True
            )
        ]
        found[str(level)] = float(torch.cat(losses).mean())
    return {"mean": sum(found.values()) / len(found), **found}


@torch.no_grad()
def draw_clips(
    kind: str,
    network: UNet,
    lessons: Lessons,
    vae: AutoencoderKL,
    sampler: SamplerConfig,
    guidance: float,
    seeds: list[int],
) -> Tensor:
    """Pixels uint8 (N, T, H, W, 3) on the host, of the text of each of ``lessons``: stills, or clips as long as theirs.

    Clip i is drawn from the noise of ``seeds[i]``, which no device changes.
    """
    shape = lessons.latents_NCTHW[0, :, :1].shape if kind == "image" else lessons.latents_NCTHW.shape[1:]
    drawn, at_once = [], AT_ONCE // 4 // shape[1] or 1
    for first in range(0, len(seeds), at_once):
        part = slice(first, first + at_once)
        text, own = lessons.text_NLD[part], seeds[part]
        noise = torch.stack([torch.randn(shape, generator=keyed_generator("drawn", seed)) for seed in own]).to(
            text.device
        )
        denoise = Guided(
            network, FrameCondition(text), FrameCondition(lessons.null_LD.expand(len(text), -1, -1)), guidance
        )
        latents = sample(denoise, noise, law_of_kind(kind).solver(sampler, 1.0))
        drawn.append(pixels_of(vae, latents))
    return torch.cat(drawn)


@torch.no_grad()
def pixels_of(vae: AutoencoderKL, latents_NCTHW: Tensor) -> Tensor:
    """Latents as uint8 (N, T, H, W, 3) on the host."""
    frames = latents_NCTHW.transpose(1, 2).flatten(0, 1)
    pixels = torch.cat([decode_frames(vae, some) for some in torch.split(frames, AT_ONCE // 4)])
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return levels.permute(0, 2, 3, 1).reshape(len(latents_NCTHW), -1, *levels.shape[2:], 3)
