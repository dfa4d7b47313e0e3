"""The fixed numbers of Wan2.1's latent space, and how many latent frames and tokens a clip has.

Enters: frames and pixels. Leaves: counts. No torch: plans are made from these before anything is loaded.
"""

from __future__ import annotations

TEXT_TOKENS, IMAGE_TOKENS = 512, 257
"""Wan's cross-attention takes the last 512 context tokens for text and whatever precedes them for the image."""
SPATIAL, TEMPORAL = 8, 4
"""Pixels per latent along each side, and frames per latent frame after the first."""


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of ``num_frames`` = 4n+1 frames: n+1."""
    return (num_frames - 1) // TEMPORAL + 1


def num_tokens(num_frames: int, height: int, width: int) -> int:
    """Sequence length in the transformer, whose patches are 1x2x2 latents."""
    return num_latent_frames(num_frames) * (height // (2 * SPATIAL)) * (width // (2 * SPATIAL))


CHANNELS = {"t2v": 16, "i2v": 36}
"""Input channels of the two transformers: 16 noisy, and for I2V 4 of mask and 16 of condition."""
LATENT_CHANNELS = 16
