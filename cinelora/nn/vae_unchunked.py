"""Wan's VAE over whole clips: what diffusers computes chunk by chunk with caches, in one pass.

Enters: an ``AutoencoderKLWan``. Leaves: the same values to rounding, from a small part of the kernels.

A causal convolution over a whole clip sees exactly what the caches carry from chunk to chunk. Only the layers that change
the number of frames treat the first frame apart: in diffusers it is a chunk of its own.

Wan2.2's VAE of 48 channels folds squares of pixels into channels at both ends, and its blocks have shortcuts that average or
repeat. A shortcut that halves the frames puts zeros before an odd number of them, and one that doubles them drops what comes of
the first too much where it is told that this is the first chunk. A whole clip has an odd number of frames at every depth, and is
the first chunk: so both shortcuts do for it what they do chunk by chunk.

Shape suffixes: B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


@contextmanager
def whole_clips(vae: AutoencoderKLWan) -> Iterator[None]:
    """Inside, ``vae``'s layers take whole clips, for ``encode`` and ``decode`` of this module; its own two do not work."""
    with ExitStack() as undo:
        for module in vae.modules():
            if forward := WHOLE.get(type(module)):
                module.forward = partial(forward, module)
                undo.callback(delattr, module, "forward")
        yield


def encode(vae: AutoencoderKLWan, video_BCTHW: Tensor) -> DiagonalGaussianDistribution:
    """The posterior, (B, 16, (T-1)/4+1, H/8, W/8), of 4n+1 frames in [-1, 1]; of Wan2.2's VAE (B, 48, (T-1)/4+1, H/16, W/16)."""
    folded = patchify(video_BCTHW, vae.config.patch_size or 1)
    return DiagonalGaussianDistribution(vae.quant_conv(vae.encoder(_fast(folded))))


def decode(vae: AutoencoderKLWan, latents_BCTHW: Tensor) -> Tensor:
    """Pixels around [-1, 1]. Not clamped, as diffusers does: pixels out of range would have no gradient."""
    folded = vae.decoder(vae.post_quant_conv(_fast(latents_BCTHW)), first_chunk=True)
    pixels: Tensor = unpatchify(folded, vae.config.patch_size or 1)
    return pixels


def widest_bytes(vae: AutoencoderKLWan, num_frames: int, height: int, width: int) -> int:
    """Bytes in float32 of the widest of a whole clip's tensors that pass from block to block."""
    # The decoder's last block has all frames and the most places. In Wan2.1 it gets as many channels as it gives; in Wan2.2's VAE
    # of 48 channels it gets twice as many, on squares of pixels.
    config = vae.config
    channels = 2 * (config.decoder_base_dim or config.base_dim) if config.is_residual else config.base_dim
    places = height * width // (config.patch_size or 1) ** 2
    return int(4 * channels * num_frames * places)


def causal_conv(conv: WanCausalConv3d, x_BCTHW: Tensor) -> Tensor:
    """The convolution in 2D, the frames that a kernel sees stacked as channels: cuDNN is at its best there."""
    # A 3D convolution of kernel (kt, kh, kw) is a 2D one over kt frames stacked as channels: frame t of the output sees the
    # frames t to t + kt - 1 of what is padded at its start. In the weight, (out, in, kt, kh, kw), time moves before the input's
    # channels, so that the stacked channels and the stacked weights stand in one order.
    weight = conv.weight
    kernel, (left, _, above, _, before, _) = weight.shape[2], conv._padding
    padded = F.pad(x_BCTHW, (0, 0, 0, 0, before, 0)) if before else x_BCTHW
    last = padded.shape[2] - kernel + 1
    seen = [padded[:, :, first : last + first : conv.stride[0]] for first in range(kernel)]
    stacked = torch.cat(seen, dim=1) if kernel > 1 else seen[0]
    planes = F.conv2d(_frames(stacked), weight.transpose(1, 2).flatten(1, 2), conv.bias, padding=(above, left))
    return _clips(planes, len(x_BCTHW))


def resample(layer: WanResample, x_BCTHW: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
    """Resampling in space, with the first frame left out of what happens in time. Callers say that there are no caches."""
    # Upwards, each frame but the first becomes two: the time convolution gives twice the channels, and each half of them is a
    # frame. Downwards, it halves the frames with stride 2, and the first is put before them as it is.
    batch, first, rest = len(x_BCTHW), x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]
    if layer.mode == "upsample3d" and rest.shape[2]:
        twice = layer.time_conv(rest)
        doubled = twice.reshape(batch, 2, -1, *twice.shape[2:])  # which of the two, then channels
        x_BCTHW = torch.cat([first, doubled.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    x_BCTHW = _clips(layer.resample(_frames(x_BCTHW)), batch)
    if layer.mode == "downsample3d" and rest.shape[2]:
        x_BCTHW = torch.cat([x_BCTHW[:, :, :1], layer.time_conv(x_BCTHW)], dim=2)
    return x_BCTHW


def rms_norm(norm: WanRMS_norm, x: Tensor) -> Tensor:
    """``x / rms(x) * gamma`` over the channels, (B, C, ...), in the precision of ``x`` but for the mean."""
    mean_square = x.square().mean(1, keepdim=True, dtype=torch.float32)
    normed: Tensor = x * torch.rsqrt(mean_square + 1e-12).to(x.dtype) * norm.gamma.to(x.dtype)
    return normed


def _fast(x_BCTHW: Tensor) -> Tensor:
    """The same values, channels last: what 2D convolutions are fast in, on CPUs and GPUs."""
    return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


def _frames(x_BCTHW: Tensor) -> Tensor:
    """(B*T, C, H, W)."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def _clips(x: Tensor, batch: int) -> Tensor:
    """(B, C, T, H, W) of (B*T, C, H, W)."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


WHOLE: dict[type, Callable[..., Any]] = {WanCausalConv3d: causal_conv, WanResample: resample, WanRMS_norm: rms_norm}
