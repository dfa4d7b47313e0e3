"""Training the encoders of the embedded AnimateDiff from nothing: a VAE of single pictures, and CLIP's text encoder.

Enters: clips and captions of the renderer, on a device. Leaves: trained modules, and how well they do on other seeds.

Shape suffixes: N clips or captions, B batch, C channels, T frames, H and W height and width, L tokens, D features.
"""

from __future__ import annotations

import random
import string
from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tools.scale_model.attribute_readers import Readers, Told
from tools.scale_model.optimise import Budget, optimise
from tools.scale_model.rebuilding import KL_WEIGHT, divergence, psnr_by_look, reconstruction_loss
from tools.scale_model.render.scenes import Scene, draw_scene
from tools.scale_model.training_film import Cut, Film, to_range

CAPTIONS, HELDOUT_CAPTIONS = 20_000, 512
FIRST_CAPTION, FIRST_HELDOUT = 2_000_000, 900_000
AT_ONCE = 128
"""Frames that pass the VAE together, or captions the text encoder, where nothing is learnt."""


# -- VAE ---------------------------------------------------------------------------------------------------------------


def train_picture_vae(vae: AutoencoderKL, film: Film, budget: Budget, rate: float) -> int:
    """Rebuild frames of the film; then bring the latents to mean 0 and deviation 1 by channel; the steps taken.

    Whole frames, as its normalisation is over all of a picture: what it learnt on pieces would not hold for the whole.
    """
    vae.train()
    generator, device = torch.Generator().manual_seed(0), film.clips_NTHWC.device
    frames = Cut.of(film, budget.batch, 1, *film.clips_NTHWC.shape[2:4])

    def loss(*places_B: Tensor) -> Tensor:
        still_BC1HW = frames.pieces(*places_B)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            posterior = vae.encode(still_BC1HW[:, :, 0]).latent_dist
            rebuilt_BCHW = vae.decode(posterior.sample(), return_dict=False)[0]
        rebuilt = reconstruction_loss(rebuilt_BCHW.float()[:, :, None], still_BC1HW)
        return rebuilt + KL_WEIGHT * divergence(posterior)

    steps = optimise("VAE", vae, partial(frames.draw, generator), loss, budget, rate)
    vae.eval()
    standardise(vae, film)
    return steps


@torch.no_grad()
def standardise(vae: AutoencoderKL, film: Film, clips: int = 256) -> None:
    """Bring each channel of the film's latents to mean 0 and deviation 1, in the layers around them: pictures stay as they are.

    Bundles and pipelines know one number for all channels, ``scaling_factor``; what channels differ by is best in the weights.
    """
    every = max(1, len(film.clips_NTHWC) // clips)
    frames = film.clips_NTHWC[::every, 0]
    values = torch.cat([encode_frames(vae, some) for some in torch.split(frames, AT_ONCE)]).transpose(0, 1).flatten(1)
    mean, deviation = values.mean(1), values.std(1)
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    # out(latents) = out(deviation * standardised + mean), so what ``out`` adds takes the mean before its weights change
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[:, None, None]
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    # its other half is the logarithm of the posterior's variance
    into.bias[channels:] -= 2 * deviation.log()


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, frames_NHWC: Tensor) -> Tensor:
    """Latents (N, 4, h, w) of uint8 frames: the posterior's mean, scaled as the family's bundle scales it."""
    posterior = vae.encode(to_range(frames_NHWC[:, None])[:, :, 0]).latent_dist
    latents: Tensor = posterior.mode() * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode_frames(vae: AutoencoderKL, latents_NCHW: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) in [-1, 1] of scaled latents."""
    pixels: Tensor = vae.decode(latents_NCHW / vae.config.scaling_factor, return_dict=False)[0]
    return pixels


def picture_psnr(vae: AutoencoderKL, film: Film) -> dict[str, float]:
    """``psnr_by_look``, each frame by itself."""

    def rebuilt(video_1CTHW: Tensor) -> Tensor:
        frames = video_1CTHW[0].transpose(0, 1)
        latents = vae.encode(frames).latent_dist.mode() * vae.config.scaling_factor
        return decode_frames(vae, latents).transpose(0, 1)[None]

    with torch.no_grad():
        return psnr_by_look(rebuilt, film)


# -- text --------------------------------------------------------------------------------------------------------------


def to_tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions as tokens (N, L), padded to the length that the networks are shown."""
    shape = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    tokens: Tensor = tokenizer(captions, return_tensors="pt", **shape).input_ids
    return tokens


def strewn(caption: str, chance: random.Random) -> str:
    """A caption with up to two words in it that no caption has, as prompts and triggers do."""
    words = caption.split(" ")
    for _ in range(chance.choice((0, 0, 1, 2))):
        strange = "".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 7)))
        words.insert(chance.randint(0, len(words)), strange)
    return " ".join(words)


def train_captions(text: CLIPTextModel, tokenizer: CLIPTokenizer, budget: Budget, rate: float) -> dict[str, float]:
    """Read scenes' attributes off the feature at a caption's end, which is the one that knows all words; strange words or not.

    Returns the steps taken, and what is read rightly of captions never trained on, by attribute.
    """
    text.train()
    device, chance = text.device, random.Random(0)
    readers = Readers(text.config.hidden_size).to(device)

    def plain(captions: list[str]) -> Tensor:
        return to_tokens(tokenizer, captions)

    def disturbed(captions: list[str]) -> Tensor:
        return plain([strewn(caption, chance) for caption in captions])

    told = Told.of(*_daylight(FIRST_CAPTION, CAPTIONS), disturbed, device)
    others = Told.of(*_daylight(FIRST_HELDOUT, HELDOUT_CAPTIONS), plain, device)
    generator = torch.Generator().manual_seed(1)

    def loss(captions_B: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            tokens, labels = told.rows(captions_B)
            return readers.loss(text(tokens).pooler_output, labels)

    def draw() -> tuple[Tensor, ...]:
        return (torch.randint(CAPTIONS, (budget.batch,), generator=generator),)

    steps = optimise("text encoder", nn.ModuleList([text, readers]), draw, loss, budget, rate, decay=0.01)
    text.eval()
    with torch.no_grad():
        found = readers.accuracy(text(others.tokens_NL).pooler_output, others.labels)
    return {"steps": steps, **found}


def _daylight(first: int, count: int) -> tuple[list[Scene], list[str]]:
    """Scenes from a seed on, and the look that names most."""
    return [draw_scene(seed) for seed in range(first, first + count)], ["daylight"] * count
