"""What is measured in the pixels: a small network that reads attributes off stills, flow, style, likeness.

The reader is trained on rendered stills and tried on others, so that its own errors are known and stand in the report.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cinelora.models.wan import WanBundle


def planes(stills_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) as float (N, 3, H, W) in [-1, 1]."""
    return stills_NHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


class Reader(nn.Module):
    """Attributes of stills (N, H, W, 3): five strided convolutions, their mean, and a linear layer for each attribute."""

    def __init__(self, choices: dict[str, tuple[object, ...]]) -> None:
        super().__init__()
        self.choices = choices
        widths = (3, 24, 48, 96, 128, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(values)) for name, values in choices.items()})

    def forward(self, stills_NHWC: Tensor) -> dict[str, Tensor]:
        features = self.trunk(planes(stills_NHWC))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, stills_NHWC: Tensor) -> list[dict[str, object]]:
        """The value of every attribute of each still."""
        device = next(self.parameters()).device
        scores = {name: score.argmax(1).tolist() for name, score in self(stills_NHWC.to(device)).items()}
        return [{name: self.choices[name][scores[name][i]] for name in scores} for i in range(len(stills_NHWC))]


def train_reader(
    choices: dict[str, tuple[object, ...]], stills_NHWC: Tensor, labels: dict[str, Tensor], epochs: int = 30
) -> Reader:
    """Fit a reader on stills with their labels (N,) by attribute; stills are mirrored, softened and made noisy at random.

    A generated still is softer than a rendered one: the reader must not lean on sharpness.
    """
    device = stills_NHWC.device
    torch.manual_seed(0)
    reader = Reader(choices).to(device)
    count, batch = len(stills_NHWC), 64
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (count // batch))
    for _ in range(epochs):
        for which in torch.randperm(count)[: count // batch * batch].view(-1, batch):
            stills = _disturbed(stills_NHWC[which.to(device)])
            losses = [F.cross_entropy(score, labels[n][which.to(device)]) for n, score in reader(stills).items()]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


def _disturbed(stills_NHWC: Tensor) -> Tensor:
    stills = stills_NHWC.float()
    if torch.rand(()) < 0.5:
        stills = stills.flip(2)
    if torch.rand(()) < 0.5:
        small = F.interpolate(stills.permute(0, 3, 1, 2), scale_factor=0.5, mode="area")
        stills = F.interpolate(small, scale_factor=2.0, mode="bilinear").permute(0, 2, 3, 1)
    return (stills + torch.randn_like(stills) * 6 * torch.rand((), device=stills.device)).clamp(0, 255)


def horizontal_flow(clip_THWC: Tensor, stride: int = 4) -> float:
    """Mean motion of the background in pixels a frame, positive to the right: phase correlation of the upper half.

    The upper half holds houses and walls, not the walking figures. Source: Kuglin and Hines 1975.
    """
    grey = clip_THWC[:, : clip_THWC.shape[1] // 2].float().mean(-1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    window = torch.hann_window(grey.shape[1])[:, None] * torch.hann_window(grey.shape[2])
    spectra = torch.fft.rfft2(grey * window)
    cross = spectra[:-stride] * spectra[stride:].conj()
    surface = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-6), s=grey.shape[1:])
    # a pan moves rows alike: only small vertical shifts count
    rows = torch.cat([surface[:, :3], surface[:, -2:]], dim=1).amax(1)
    peak = rows.argmax(1)
    width = grey.shape[2]
    shifts = torch.where(peak > width // 2, peak - width, peak)
    return -float(shifts.float().median()) / stride


def motion(clip_THWC: Tensor) -> float:
    """Mean absolute difference of adjacent frames, in levels of 255."""
    return float(clip_THWC.float().diff(dim=0).abs().mean())


def psnr(rebuilt: Tensor, original: Tensor) -> float:
    """``10 log10(255^2 / MSE)`` of uint8 pixels, in dB."""
    error = (rebuilt.float() - original.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


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


def style_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance of two sets of features as independent Gaussians, each measured in the reference's deviations.

    ``mean_k (m - m_ref)^2 + (s - s_ref)^2`` with means and deviations divided by ``s_ref``; the mean over features k. With
    some dozens of stills a full covariance would be of less than full rank. Source: Dowson and Landau 1982.
    """
    scale = reference.std(0).clamp(min=1e-4)
    means = ((features.mean(0) - reference.mean(0)) / scale).square()
    spreads = ((features.std(0) - reference.std(0)) / scale).square()
    return float((means + spreads).mean())


def composition(one_HWC: Tensor, other_HWC: Tensor) -> float:
    """Correlation of two stills' edges, softened: 1 where everything stands in the same place."""
    edges = []
    for still in (one_HWC, other_HWC):
        grey = still.float().mean(-1)[None, None]
        strength = F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=3).abs(), (0, 1))
        edges.append(F.avg_pool2d(strength.sqrt(), 7, stride=2).flatten())
    return float(torch.corrcoef(torch.stack(edges))[0, 1])
