"""What is measured in the pixels: a small network that reads attributes off stills, flow, flicker, style, likeness.

``stills.py`` trains the reader on rendered stills and tries it on others, so that its own errors stand in the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from cinelora.families.wan.bundle import WanBundle


def planes(stills_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) as float (N, 3, H, W) in [-1, 1]."""
    return stills_NHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


class Reader(nn.Module):
    """Attributes of stills (N, H, W, 3), read at half their size: a generated still is softer than a rendered one.

    Five convolutions, mean and greatest value of their features, and a linear layer for each attribute.
    """

    def __init__(self, choices: dict[str, tuple[Any, ...]]) -> None:
        super().__init__()
        self.choices = choices
        widths, strides = (3, 24, 48, 96, 128, 128), (1, 2, 2, 2, 1)
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(values)) for name, values in choices.items()})

    def forward(self, small_NCHW: Tensor) -> dict[str, Tensor]:
        """Scores (N, values) of each attribute."""
        features = self.trunk(small_NCHW)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, stills_NHWC: Tensor) -> list[dict[str, Any]]:
        """The value of every attribute of each still (uint8)."""
        small = F.avg_pool2d(planes(stills_NHWC.to(next(self.parameters()).device)), 2)
        best = {name: score.argmax(1).tolist() for name, score in self(small).items()}
        return [{name: self.choices[name][best[name][i]] for name in best} for i in range(len(small))]


def train_reader(
    choices: dict[str, tuple[Any, ...]], stills_NHWC: Tensor, labels: dict[str, Tensor], epochs: int = 8
) -> Reader:
    """Fit a reader on stills (uint8) with their labels (N,), all on one device."""
    device, count, batch = stills_NHWC.device, len(stills_NHWC), 64
    small = torch.cat([F.avg_pool2d(planes(stills), 2) for stills in stills_NHWC.split(batch)])
    torch.manual_seed(0)
    reader = Reader(choices).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * (count // batch))
    for _ in range(epochs):
        for which in torch.randperm(count)[: count // batch * batch].view(-1, batch).to(device):
            scores = reader(_disturbed(small[which]))
            losses = [F.cross_entropy(scores[name], labels[name][which]) for name in choices]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


def _disturbed(stills_NCHW: Tensor) -> Tensor:
    """Mirrored, softened, and a little brighter, darker and noisier at random: what a drawing may get wrong."""
    stills = stills_NCHW
    if torch.rand(()) < 0.5:
        stills = stills.flip(3)
    if torch.rand(()) < 0.6:
        small = F.interpolate(stills, scale_factor=1 / (2 + int(torch.rand(()) < 0.3)), mode="area")
        stills = F.interpolate(small, size=stills.shape[2:], mode="bilinear")
    contrast, light = (2 * torch.rand(2, len(stills), 1, 1, 1, device=stills.device) - 1).unbind()
    return stills * (1 + 0.1 * contrast) + 0.06 * light + torch.randn_like(stills) * 0.06 * float(torch.rand(()))


def softened(stills_NHWC: Tensor) -> Tensor:
    """uint8 stills at half their size and back, and blurred over three pixels."""
    half = F.avg_pool2d(stills_NHWC.permute(0, 3, 1, 2).float(), 2)
    back = F.interpolate(half, scale_factor=2.0, mode="bilinear")
    blurred = F.avg_pool2d(F.pad(back, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return blurred.permute(0, 2, 3, 1).round().to(torch.uint8)


def horizontal_flow(clip_THWC: Tensor, stride: int = 8, reach: int = 24) -> float:
    """Motion of the background in pixels a frame, positive to the right: the shift under which frames match best.

    Of frames ``stride`` apart the upper halves, which hold houses and not the figures, are laid over one another at up to
    ``reach`` pixels to either side. The least squared difference finds its place between pixels by a parabola, and the
    median over the clip counts. Unlike phase correlation it does not hear faint patterns that stand still, as decoders
    leave them.
    """
    grey = clip_THWC[:, : clip_THWC.shape[1] // 2].float().mean(-1)
    rows = F.avg_pool2d(grey[:, None], (4, 3), stride=(4, 1))[:, 0]
    rows = rows - rows.mean((1, 2), keepdim=True)
    before, after, width = rows[:-stride], rows[stride:], rows.shape[-1]
    errors = torch.stack(
        [
            (before[..., max(0, -shift) : width - max(0, shift)] - after[..., max(0, shift) : width - max(0, -shift)])
            .square()
            .mean((1, 2))
            for shift in range(-reach, reach + 1)
        ]
    )
    best = errors.argmin(0).clamp(1, 2 * reach - 1)
    left, least, right = (errors.gather(0, (best + step)[None])[0] for step in (-1, 0, 1))
    between = 0.5 * (left - right) / (left - 2 * least + right).clamp(min=1e-6)
    return float((best - reach + between.clamp(-1, 1)).median()) / stride


def motion(clip_THWC: Tensor) -> float:
    """Mean absolute difference of adjacent frames, in levels of 255."""
    return float(clip_THWC.float().diff(dim=0).abs().mean())


def flicker(rebuilt_THWC: Tensor, original_THWC: Tensor) -> float:
    """Mean absolute difference of adjacent frames, in levels of 255, of the pixels that stand still in the original."""
    still = original_THWC.float().diff(dim=0).abs().amax(-1) <= 1
    return float(rebuilt_THWC.float().diff(dim=0).abs().mean(-1)[still].mean())


def psnr(rebuilt: Tensor, original: Tensor) -> float:
    """``10 log10(255^2 / MSE)`` of uint8 pixels, in dB."""
    error = (rebuilt.float() - original.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def likeness(one_HWC: Tensor, other_HWC: Tensor) -> float:
    """SSIM of two uint8 stills (Wang et al. 2004), 1 where they are equal."""
    one, other = (still.permute(2, 0, 1)[None].float() / 255 for still in (one_HWC, other_HWC))
    return float(ssim(one, other, data_range=1.0))


# -- style -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def style_features(bundle: WanBundle, stills_NHWC: Tensor) -> Tensor:
    """What a look is made of, (N, 14 + 32): statistics of the picture, and of its latents.

    Brightness at its 5, 25, 50, 75 and 95 % quantiles, mean and spread; saturation's mean and spread; mean colour against
    grey (2); edges' mean strength; the share of nearly black and of nearly white. Then mean and spread of each latent
    channel.
    """
    device = bundle.device
    rgb = stills_NHWC.to(device).float().permute(0, 3, 1, 2) / 255
    grey = (rgb * torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)).sum(1)
    flat = grey.flatten(1)
    quantiles = torch.quantile(flat, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], device=device), dim=1).T
    saturation = (rgb.amax(1) - rgb.amin(1)).flatten(1)
    colour = torch.stack([(rgb[:, 0] - rgb[:, 1]).flatten(1).mean(1), (rgb[:, 2] - rgb[:, 1]).flatten(1).mean(1)], 1)
    edges = grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))
    extremes = torch.stack([(flat < 0.08).float().mean(1), (flat > 0.9).float().mean(1)], 1)
    spread = [flat.mean(1), flat.std(1), saturation.mean(1), saturation.std(1), edges]
    latents = bundle.encode_video(planes(stills_NHWC.to(device))[:, :, None]).flatten(2)
    return torch.cat([quantiles, torch.stack(spread, 1), colour, extremes, latents.mean(2), latents.std(2)], 1).cpu()


@dataclass(frozen=True)
class Style:
    """A look: the features (N, F) of its stills, and the deviation (F) of each feature over stills of all looks."""

    features: Tensor
    scale: Tensor

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of other features (M, F) as independent Gaussians: ``mean_k (m - m_k)^2 + (s - s_k)^2``.

        Means m and deviations s are divided by ``scale``; the look's own deviations would not do, since what a look lacks,
        as noir does colour, has none, and would be all that counts. With some dozens of stills a full covariance would be
        of less than full rank. Source: Dowson and Landau 1982.
        """
        means = (features.mean(0) - self.features.mean(0)) / self.scale
        spreads = (features.std(0) - self.features.std(0)) / self.scale
        return float((means.square() + spreads.square()).mean())


def composition(one_HWC: Tensor, other_HWC: Tensor) -> float:
    """Correlation of two stills' edges, softened: 1 where everything stands in the same place."""
    edges = []
    for still in (one_HWC, other_HWC):
        grey = still.float().mean(-1)[None, None]
        strength = F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=3).abs(), (0, 1))
        edges.append(F.avg_pool2d(strength.sqrt(), 7, stride=2).flatten())
    return float(torch.corrcoef(torch.stack(edges))[0, 1])
