"""Training the small encoders of the embedded model from scratch: VAE, text encoder, image encoder. Plain loops.

Enters: clips and captions of the renderer, on a device. Leaves: trained modules and how well they do on other seeds. The
real Wan's encoders are never trained; this is how the embedded pair got its own (docs/scale-model.md).

Shape suffixes: N clips, B batch, C channels, T frames, H and W height and width, L bytes of text, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import CLIPVisionModel, UMT5EncoderModel

from cinelora.families.wan.embedded import Encoders
from cinelora.nn import vae_unchunked
from tools.scale_model.attribute_readers import Readers, Told
from tools.scale_model.optimise import Budget, optimise
from tools.scale_model.rebuilding import KL_WEIGHT, divergence, psnr_by_look, reconstruction_loss
from tools.scale_model.render.scenes import draw_scene
from tools.scale_model.training_film import Cut, Film, to_range

FPS = 16
PIECE, STILL = (48, 64), (96, 128)
"""Height and width of what the VAE is trained on at a time: of clips, and of stills."""
STILLS_PER_CLIP = 2
CAPTIONS, CAPTION_BYTES = 20_000, 224
"""Captions that the text encoder learns from, and the length they are padded to, in bytes."""


# -- VAE ---------------------------------------------------------------------------------------------------------------


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
        return reconstruction_loss(rebuilt_BCTHW.float(), video_BCTHW) + KL_WEIGHT * divergence(posterior)

    # The statistics come last: they are of the latents that the finished encoder gives.
    with vae_unchunked.whole_clips(vae):
        steps = optimise("VAE", vae, draw, loss, budget, rate)
    vae.eval()
    mean, std = latent_statistics(vae, film)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return steps


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLWan, film: Film, clips: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent channel, (16,), over some of the clips."""
    every = max(1, len(film.clips_NTHWC) // clips)
    latents = torch.cat([vae.encode(to_range(clip[None])).latent_dist.mode() for clip in film.clips_NTHWC[::every]])
    values = latents.float().transpose(0, 1).flatten(1)
    return values.mean(1).cpu(), values.std(1).cpu()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLWan, film: Film) -> dict[str, float]:
    """``psnr_by_look`` of whole clips."""

    def rebuilt(video_BCTHW: Tensor) -> Tensor:
        latents = vae.encode(video_BCTHW).latent_dist.mode()
        video: Tensor = vae.decode(latents, return_dict=False)[0]
        return video

    return psnr_by_look(rebuilt, film)


# -- text and images ---------------------------------------------------------------------------------------------------


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
    told, shown = (
        Told.of(*shown, to_bytes, device) for shown in ((scenes, ["daylight"] * CAPTIONS), (film.scenes, film.looks))
    )
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
