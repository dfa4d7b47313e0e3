"""Training the small encoders of the embedded model from scratch: VAE, text encoder, image encoder. Plain loops.

Enters: clips and captions of the renderer, on a device. Leaves: trained modules and how well they do on other seeds. The
real Wan's encoders are never trained; this is how the embedded pair got its own (docs/scale-model.md).

Shape suffixes: N clips, B batch, C channels, T frames, H and W height and width, L bytes of text, D features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPVisionModel, UMT5EncoderModel

from cinelora.families.wan.embedded import Encoders
from cinelora.metrics.reference import SIGMA, WINDOW, windowed_ssim
from cinelora.nn import vae_unchunked
from tools.scale_model.render import LOOKS, render_scene
from tools.scale_model.render.scenes import VOCABULARY, Scene, describe, draw_scene

FPS = 16
WARM_UP = 200
PIECE, STILL = (48, 64), (96, 128)
"""Height and width of what the VAE is trained on at a time: of clips, and of stills."""
STILLS_PER_CLIP = 2
CAPTIONS, CAPTION_BYTES = 20_000, 224
"""Captions that the text encoder learns from, and the length they are padded to, in bytes."""
KL_WEIGHT = 3e-5
"""Weight of the mean divergence per latent value: enough to keep latents near a unit Gaussian, too little to blur."""
SSIM_WEIGHT = 0.6
"""Weight of ``1 - SSIM``, with which it is about as large as the rest of the reconstruction's loss."""
SSIM_EVERY = 4
"""Of the frames of a clip every fourth is compared in structure: neighbours say the same."""


@dataclass(frozen=True)
class Budget:
    """How long to train: ``steps``, or fewer where they would take longer than ``limit_s`` (0 = no limit)."""

    steps: int
    batch: int
    limit_s: int = 0

    def steps_at(self, step: Callable[[], Tensor]) -> int:
        """The steps there is time for, from the time that ten take."""
        if not self.limit_s:
            return self.steps
        started = time.perf_counter()
        float(sum(step() for _ in range(10)))
        return min(self.steps, int(self.limit_s * 10 / (time.perf_counter() - started)))


@dataclass(frozen=True)
class Film:
    """Rendered clips of several looks: ``clips_NTHWC`` uint8 on the device, with the scene and look of each."""

    clips_NTHWC: Tensor
    scenes: list[Scene]
    looks: list[str]


def render_film(seeds: range, looks: list[str], size: tuple[int, int, int], device: torch.device, workers: int) -> Film:
    """A clip (frames, height, width = ``size``) of each seed, the looks in turn, drawn by ``workers`` processes or here.

    Without grain: noise that nobody can predict teaches a VAE nothing.
    """
    scenes = [draw_scene(seed) for seed in seeds]
    chosen = [looks[i % len(looks)] for i in range(len(scenes))]
    draw = partial(_rendered, size=size, device=str(device))
    show = partial(tqdm, desc="rendering", unit="clip", total=len(scenes), mininterval=2)
    if workers:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            clips = [torch.from_numpy(clip) for clip in show(pool.map(draw, scenes, chosen, chunksize=4))]
    else:
        clips = [torch.from_numpy(draw(scene, look)) for scene, look in show(zip(scenes, chosen, strict=True))]
    return Film(torch.stack(clips).to(device), scenes, chosen)


def _rendered(scene: Scene, look: str, size: tuple[int, int, int], device: str) -> NDArray[np.uint8]:
    clip: NDArray[np.uint8] = render_scene(scene, look, *size, FPS, grain=False, device=device).cpu().numpy()
    return clip


Draw = Callable[[], tuple[Tensor, ...]]
Loss = Callable[..., Tensor]


def optimise(
    name: str, module: nn.Module, draw: Draw, loss_of: Loss, budget: Budget, rate: float, decay: float = 0.0
) -> int:
    """AdamW on ``module``: warm-up, half a cosine to zero, gradients clipped, an average kept at the end; gives the steps.

    ``draw`` gives the random numbers of a step, of the same shapes each time, and ``loss_of`` the loss from them. On a GPU
    the step is captured once and replayed (CUDA graphs): such small networks otherwise wait for Python.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device, on_gpu = parameters[0].device, parameters[0].is_cuda
    # The rate is a tensor, which a captured step reads each time it is replayed. Capturing and timing take steps of their own
    # before the warm-up: those are as small as its first.
    lr = torch.tensor(rate / WARM_UP, device=device)
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=decay, capturable=on_gpu)
    inputs = [value.to(device) for value in draw()]

    def step() -> Tensor:
        loss = loss_of(*inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    replay = _captured(step, optimizer) if on_gpu else step
    steps = budget.steps_at(replay)
    average = [parameter.detach().clone() for parameter in parameters]
    bar = tqdm(range(steps), desc=name, unit="step", mininterval=2)
    for number in bar:
        lr.fill_(rate * min(1.0, (number + 1) / WARM_UP) * (1 + math.cos(math.pi * number / steps)) / 2)
        # new numbers in the old places: a captured step reads the memory that it was captured with
        for kept, value in zip(inputs, draw(), strict=True):
            kept.copy_(value, non_blocking=True)
        if device.type == "cpu":
            optimizer.zero_grad()
        loss = replay()
        # an average over the latest steps: about a ninth of all so far, and 200 at most
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.995, number / (number + 9)))
        if number % 100 == 0:
            bar.set_postfix_str(f"loss {loss.item():.4f}")
    for parameter, value in zip(parameters, average, strict=True):
        parameter.data.copy_(value)
    return steps


def _captured(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    """``step`` as a CUDA graph, after three warm-up steps on a stream of their own, as torch asks for."""
    # Shapes never change, and the heuristics are poor at so few channels.
    torch.backends.cudnn.benchmark = True
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)
    # Gradients are None when capturing begins, so that the graph itself makes them: each replay writes them, and adds to none.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


# -- VAE ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """Pieces that are cut out of a film at random: ``count`` at a time, of (frames, height, width) = ``size``."""

    clips_NTHWC: Tensor
    count: int
    size: tuple[int, ...]

    @classmethod
    def of(cls, film: Film, count: int, *size: int) -> Cut:
        """Pieces of (frames, height, width) = ``size``, or of the film's where that is smaller."""
        return cls(film.clips_NTHWC, count, tuple(map(min, size, film.clips_NTHWC.shape[1:4])))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Of each piece its clip, first frame, top, left, and whether it is mirrored, (B,) each, on the host."""
        starts = (whole - size + 1 for whole, size in zip(self.clips_NTHWC.shape[1:4], self.size, strict=True))
        highest = (len(self.clips_NTHWC), *starts, 2)
        return tuple(torch.randint(limit, (self.count,), generator=generator) for limit in highest)

    def pieces(self, which_B: Tensor, first_B: Tensor, top_B: Tensor, left_B: Tensor, mirrored_B: Tensor) -> Tensor:
        """The pieces so drawn, float32 (B, 3, T, H, W) in [-1, 1]."""
        t, y, x = (
            start[:, None] + torch.arange(size, device=start.device)
            for start, size in zip((first_B, top_B, left_B), self.size, strict=True)
        )
        # One indexing for the batch: the four tensors broadcast to (B, T, H, W), clip, frame, row and column of each pixel.
        at = (which_B[:, None, None, None], t[:, :, None, None], y[:, None, :, None], x[:, None, None, :])
        picked = self.clips_NTHWC[at]
        pieces = torch.where(mirrored_B.bool()[:, None, None, None, None], picked.flip(3), picked)
        return to_range(pieces)


def train_vae(vae: AutoencoderKLWan, film: Film, budget: Budget, rate: float = 2e-3) -> int:
    """Reconstruct pieces of the film; then set the statistics its latents are normalised by; the steps taken.

    Small pieces (``PIECE``), because the network is convolutional, and more steps teach it more than more pixels; but whole
    clips in time, because past the length it was trained at a causal VAE drifts (docs/scale-model.md). Beside them each
    step sees stills, moments of any clip, with equal weight: the first frame has a latent frame of its own and everything
    else builds on it, and of a clip's loss it would have one part in 33.
    """
    vae.train()
    generator, device = torch.Generator().manual_seed(0), film.clips_NTHWC.device
    of_clips = Cut.of(film, budget.batch, film.clips_NTHWC.shape[1], *PIECE)
    of_stills = Cut.of(film, STILLS_PER_CLIP * budget.batch, 1, *STILL)

    def draw() -> tuple[Tensor, ...]:
        return of_clips.draw(generator) + of_stills.draw(generator)

    def loss(*places_B: Tensor) -> Tensor:
        return rebuilding_loss(of_clips.pieces(*places_B[:5])) + rebuilding_loss(of_stills.pieces(*places_B[5:]))

    def rebuilding_loss(video_BCTHW: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            posterior = vae_unchunked.encode(vae, video_BCTHW)
            rebuilt_BCTHW = vae_unchunked.decode(vae, posterior.sample())
        return reconstruction_loss(rebuilt_BCTHW.float(), video_BCTHW) + KL_WEIGHT * _divergence(posterior)

    # The statistics come last: they are of the latents that the finished encoder gives.
    with vae_unchunked.whole_clips(vae):
        steps = optimise("VAE", vae, draw, loss, budget, rate)
    vae.eval()
    mean, std = latent_statistics(vae, film)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return steps


def begin_simply(vae: AutoencoderKLWan) -> None:
    """Let residual branches begin silent (Goyal et al. 2017, section 5.1) and everything else as orthogonal maps.

    What is left at first is a chain of resampling convolutions, which carries the picture from end to end.
    """
    # A block comes before its convolutions in ``modules()``, so the silent ones need a second round.
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.orthogonal_(module.weight)
            nn.init.constant_(module.get_parameter("bias"), 0.0)
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            nn.init.zeros_(module.conv2.weight)


def reconstruction_loss(rebuilt_BCTHW: Tensor, video_BCTHW: Tensor) -> Tensor:
    """What two float32 videos in [-1, 1] differ by: pixels, edges, flicker and structure.

    Mean absolute error of pixels plus half that of their differences in space and in time, eight times the mean squared
    error, and ``SSIM_WEIGHT`` of what every fourth frame, the first included, lacks to an SSIM of 1.
    """
    error = rebuilt_BCTHW - video_BCTHW
    differences = (error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1)
    pixels = error.abs().mean() + 0.5 * sum(differences, torch.zeros((), device=error.device))
    structure = 1 - structural_similarity(rebuilt_BCTHW[:, :, ::SSIM_EVERY], video_BCTHW[:, :, ::SSIM_EVERY])
    return pixels + 8 * error.square().mean() + SSIM_WEIGHT * structure


def structural_similarity(one: Tensor, other: Tensor, data_range: float = 2.0) -> Tensor:
    """Mean SSIM (``windowed_ssim``) of float32 pictures (..., H, W), of which each channel counts alone.

    The Gaussian window stays inside the picture, where that of ``ssim_map`` mirrors its edges; in a picture narrower than
    the window it is cut to the picture. Its matrices are made on the device, so that a CUDA graph can hold them.
    """
    # A Gaussian window is separable: two products with banded matrices are its average around every place.
    rows_KH, columns_LW = (_windows(one.shape[dim], one.device) for dim in (-2, -1))
    return windowed_ssim(one, other, lambda values: rows_KH @ values @ columns_LW.T, data_range).mean()


def _windows(size: int, device: torch.device) -> Tensor:
    """Every place of the Gaussian window along ``size`` pixels, a row each, (size - window + 1, size)."""
    window = min(WINDOW, size)
    middle_K1 = torch.arange(size - window + 1, device=device)[:, None] + (window - 1) / 2
    distance_KH = torch.arange(size, device=device) - middle_K1
    weights_KH = torch.exp(-0.5 * (distance_KH / SIGMA).square()) * (distance_KH.abs() <= (window - 1) / 2)
    return weights_KH / weights_KH.sum(1, keepdim=True)


def _divergence(posterior: object) -> Tensor:
    """Mean per latent value of KL(N(mean, std) | N(0, 1))."""
    mean, logvar = posterior.mean.float(), posterior.logvar.float()  # type: ignore[attr-defined]
    divergence: Tensor = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return divergence.mean()


def to_range(clips_BTHWC: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) as float32 (B, 3, T, H, W) in [-1, 1]."""
    return clips_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLWan, film: Film, clips: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent channel, (16,), over some of the clips."""
    every = max(1, len(film.clips_NTHWC) // clips)
    latents = torch.cat([vae.encode(to_range(clip[None])).latent_dist.mode() for clip in film.clips_NTHWC[::every]])
    values = latents.float().transpose(0, 1).flatten(1)
    return values.mean(1).cpu(), values.std(1).cpu()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLWan, film: Film) -> dict[str, float]:
    """Mean PSNR in dB of whole clips by look: ``10 log10(1 / MSE)`` of pixels in [0, 1]."""
    found: dict[str, list[float]] = {}
    for clip, look in zip(film.clips_NTHWC, film.looks, strict=True):
        video = to_range(clip[None])
        rebuilt = vae.decode(vae.encode(video).latent_dist.mode(), return_dict=False)[0].clamp(-1, 1)
        error = float(((rebuilt - video) / 2).square().mean())
        found.setdefault(look, []).append(10 * math.log10(1 / error))
    return {look: sum(values) / len(values) for look, values in found.items()}


# -- text and images ---------------------------------------------------------------------------------------------------


CHOICES: dict[str, tuple[Any, ...]] = {**VOCABULARY, "hat": (False, True)}
"""The attributes that captions tell, and their values."""
UNSEEN = -100
"""The class of what is not there to be read: where a car drives that is not in the scene, a coat's colour in noir."""


def labels_of(scenes: list[Scene], looks: list[str], device: torch.device) -> dict[str, Tensor]:
    """Class numbers (B,) by attribute; ``UNSEEN`` where neither picture nor caption can tell."""
    labels = {name: [choices.index(getattr(scene, name)) for scene in scenes] for name, choices in CHOICES.items()}
    for row, (scene, look) in enumerate(zip(scenes, looks, strict=True)):
        film = LOOKS[look]
        # a film without saturation shows no colours, and one whose hours are alike shows no time of day
        is_grey, times = not film.saturation, {hour.name for hour in film.hours.values()}
        hidden = {
            "coat": is_grey,
            "car": scene.car and is_grey,
            "car_direction": not scene.car,
            "time": len(times) == 1,
        }
        for name in (name for name, is_hidden in hidden.items() if is_hidden):
            labels[name][row] = UNSEEN
    return {name: torch.tensor(numbers, device=device) for name, numbers in labels.items()}


class Readers(nn.Module):
    """A linear reader of every attribute, and the projection for the contrastive loss. Thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attributes = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in CHOICES.items()})
        self.shared = nn.Linear(width, 64)

    def loss(self, pooled_BD: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy over the attributes."""
        heads = self.attributes.items()
        losses = [F.cross_entropy(head(pooled_BD).float(), labels[n], ignore_index=UNSEEN) for n, head in heads]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def accuracy(self, pooled_BD: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
        """Share read rightly, by attribute."""
        return {
            name: float((head(pooled_BD).argmax(1) == labels[name])[labels[name] != UNSEEN].float().mean())
            for name, head in self.attributes.items()
        }


def to_bytes(captions: list[str]) -> Tensor:
    """Captions as ByT5's tokens (B, L): each byte plus 3, then 1, then 0 to the length of ``CAPTION_BYTES``."""
    rows = ([*(byte + 3 for byte in caption.encode()), 1] for caption in captions)
    return torch.tensor([row + [0] * (CAPTION_BYTES - len(row)) for row in rows])


def pooled_text(text: UMT5EncoderModel, tokens_BL: Tensor) -> Tensor:
    """Mean over the bytes of each caption of the text encoder's features, (B, D)."""
    mask = tokens_BL != 0
    features = text(tokens_BL, mask.long()).last_hidden_state
    pooled: Tensor = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return pooled


def pooled_images(image: CLIPVisionModel, frames_BHWC: Tensor) -> Tensor:
    """The image encoder's class token, (B, D), of uint8 frames, squashed to its size."""
    frames = to_range(frames_BHWC[:, None])[:, :, 0]
    squashed = F.interpolate(frames, size=(224, 224), mode="bicubic", align_corners=False)
    pooled: Tensor = image(squashed).pooler_output
    return pooled


@dataclass(frozen=True)
class Told:
    """Captions as tokens (N, L), with the labels of their scenes by attribute, (N,) each, on the device."""

    tokens_NL: Tensor
    labels: dict[str, Tensor]

    @classmethod
    def of(cls, scenes: list[Scene], looks: list[str], device: torch.device) -> Told:
        """The captions of ``scenes`` in their looks."""
        captions = [describe(scene, look) for scene, look in zip(scenes, looks, strict=True)]
        return cls(to_bytes(captions).to(device), labels_of(scenes, looks, device))

    def rows(self, which: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens and labels of some."""
        return self.tokens_NL[which], {name: values[which] for name, values in self.labels.items()}


def train_text_and_image(encoders: Encoders, film: Film, budget: Budget, rate: float = 1e-3) -> dict[str, float]:
    """Read scenes' attributes off captions and off frames, and tell which frame belongs to which caption.

    Captions come from ``CAPTIONS`` scenes beside those of ``film``. Returns what is read rightly of captions and frames
    never trained on, as ``text/<attribute>`` and ``image/<attribute>``, and ``match``, the share of 64 frames that find
    their caption.
    """
    text, image = encoders.text.train(), encoders.image.train()
    device = text.device
    off_text = Readers(text.config.d_model).to(device)
    off_image = Readers(image.config.hidden_size).to(device)
    scenes = [draw_scene(seed) for seed in range(2_000_000, 2_000_000 + CAPTIONS)]
    told, shown = Told.of(scenes, ["daylight"] * CAPTIONS, device), Told.of(film.scenes, film.looks, device)
    # The last 64 clips are held out: the encoders are measured on them, and ``draw`` below stays before them.
    clips, generator, train_on = film.clips_NTHWC, torch.Generator().manual_seed(1), len(film.scenes) - 64

    def draw() -> tuple[Tensor, ...]:
        batch = budget.batch
        highest = ((CAPTIONS, batch), (train_on, batch // 2), (clips.shape[1], batch // 2))
        return tuple(torch.randint(limit, (count,), generator=generator) for limit, count in highest)

    def loss(captions_B: Tensor, clips_B: Tensor, moments_B: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            tokens, labels = told.rows(captions_B)
            reading = off_text.loss(pooled_text(text, tokens), labels)
            tokens, labels = shown.rows(clips_B)
            frames = pooled_images(image, clips[clips_B, moments_B])
            seeing = off_image.loss(frames, labels)
            matching = contrastive_loss(off_text.shared(pooled_text(text, tokens)), off_image.shared(frames))
        return reading + seeing + matching

    # Four modules as one, so that one optimiser and one average take them all; the readers are left behind afterwards.
    together = nn.ModuleList([text, image, off_text, off_image])
    steps = optimise("text and image encoder", together, draw, loss, budget, rate, decay=0.01)
    text.eval()
    image.eval()
    with torch.no_grad():
        others = torch.arange(train_on, train_on + 64, device=device)
        tokens, labels = shown.rows(others)
        words, frames = pooled_text(text, tokens), pooled_images(image, clips[others, clips.shape[1] // 2])
        match = similarity(off_text.shared(words), off_image.shared(frames)).argmax(0)
        found = {"steps": steps, "match": float((match == torch.arange(64, device=device)).float().mean())}
        for kind, reader, pooled in (("text", off_text, words), ("image", off_image, frames)):
            found |= {f"{kind}/{name}": share for name, share in reader.accuracy(pooled, labels).items()}
    return found


def similarity(text_BD: Tensor, image_BD: Tensor) -> Tensor:
    """Cosines between all captions (rows) and all frames (columns), times 14, CLIP's first temperature."""
    return 14 * F.normalize(text_BD.float(), dim=1) @ F.normalize(image_BD.float(), dim=1).T


def contrastive_loss(text_BD: Tensor, image_BD: Tensor) -> Tensor:
    """Each caption finds its frame among the batch's, and each frame its caption (Radford et al. 2021, figure 3)."""
    scores, own = similarity(text_BD, image_BD), torch.arange(len(text_BD), device=text_BD.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
