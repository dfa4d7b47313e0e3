"""What the VAEs of model families take: bytes, seconds, and how often ranks wait for each other in them.

No torch, and nothing of the package: a family states which of them is its own, and plans ask that.
``benchmarks/vae_bytes.py`` counts what these figures rest on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VaeFacts:
    """What one VAE takes, in float32."""

    parameters: int
    clip_bytes: int
    """Bytes a pixel of one frame that decoding a clip takes, beside the weights: frames come and go, with their caches."""
    still_bytes: int
    """The same of a still."""
    tiled_bytes: int
    """The same of the longest clip that its models make, in tiles."""
    decode_s: float
    """Seconds on an H200 that 81 frames of 720p take to decode as a whole."""
    encode_s: float
    """The same to encode, in tiles."""
    decoder_rows: int
    """Convolutions in the decoder that see neighbouring rows: ranks that share a picture exchange some before each of them."""
    encoder_rows: int
    """The same in the encoder."""
    is_measured: bool
    """Whether bytes and seconds were measured on a GPU, or counted and scaled by what was."""


WAN21_VAE = VaeFacts(
    parameters=126_892_531,
    clip_bytes=28_600,
    still_bytes=8_900,
    tiled_bytes=5_600,
    decode_s=6.6,
    encode_s=4.8,
    decoder_rows=33,
    encoder_rows=25,
    is_measured=True,
)
"""8x8x4, 16 channels. Bytes are of tensors and what lies between them (H200; 480p and 720p, 33 and 81 frames come out within 1 %;
encoding takes three quarters); in tiles, of 81 frames."""
WAN22_VAE = VaeFacts(
    parameters=704_688_668,
    clip_bytes=32_100,
    still_bytes=7_500,
    tiled_bytes=6_950,
    decode_s=14.2,
    encode_s=3.1,
    decoder_rows=33,
    encoder_rows=25,
    is_measured=False,
)
"""16x16x4, 48 channels, of Wan2.2 TI2V-5B. In tiles measured (H200, 121 frames of 704x1280: 8.44 GiB with the weights). The
others are not: living tensors (121 frames of 704x1280) and operations are counted; they are to these figures as Wan2.1's counts
are to its own (``benchmarks/vae_bytes.py``)."""
SD_VAE = VaeFacts(
    parameters=83_653_863,
    clip_bytes=8_200,
    still_bytes=4_100,
    tiled_bytes=8_200,
    decode_s=6.8,
    encode_s=3.3,
    decoder_rows=0,
    encoder_rows=0,
    is_measured=False,
)
"""8x8, 4 channels, of Stable Diffusion 1.5: each frame passes by itself, two at a time. Seconds are of 16 frames
of 512x512 (H200), by pixels; bytes are counted."""
