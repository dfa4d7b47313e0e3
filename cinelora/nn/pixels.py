"""Frames as numbers of a picture, and as what networks read and write.

Enters: uint8 frames, or a VAE's output. Leaves: the other of the two.

Shape suffixes: B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pixels_to_range(video_THWC: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 frames (T, H, W, 3) as float32 (1, 3, T, H, W) in [-1, 1]."""
    # frames of a decoder may not be writable, and torch warns of sharing their memory: so an array is copied
    video = torch.as_tensor(np.array(video_THWC) if isinstance(video_THWC, np.ndarray) else video_THWC, device=device)
    return video.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def range_to_pixels(video_BCTHW: Tensor) -> np.ndarray:
    """The first clip of (B, 3, T, H, W) in [0, 1] as uint8 (T, H, W, 3)."""
    video = (video_BCTHW[0] * 255).round().clamp(0, 255).to(torch.uint8)
    return video.permute(1, 2, 3, 0).cpu().numpy()
