"""What differs between model families and must be known before anything is loaded: latent space, tokens, networks.

Enters: frames and pixels. Leaves: counts. No torch, and nothing of the package but facts: settings, checks and plans ask this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cinelora.families.vae_facts import WAN21_VAE, VaeFacts


class Part(StrEnum):
    """The parts of a checkpoint, by the names of diffusers' folders."""

    TRANSFORMER = "transformer"
    VAE = "vae"
    TEXT_ENCODER = "text_encoder"
    TOKENIZER = "tokenizer"
    IMAGE_ENCODER = "image_encoder"


@dataclass(frozen=True)
class Geometry:
    """A family's latent space, and how its transformers cut it into tokens."""

    spatial: int
    """Pixels a latent, along each side."""
    temporal: int
    """Frames a latent frame; the first latent frame holds one frame."""
    patch: int
    """Latents a token, along each side; a token is of one latent frame."""
    channels: int
    """Channels of a latent."""

    @property
    def cell(self) -> int:
        """Pixels a token, along each side: heights and widths are multiples of it."""
        return self.spatial * self.patch

    @property
    def token_values(self) -> int:
        """Values of the latents in one token, which are what a transformer predicts of it."""
        return self.patch**2 * self.channels

    def fills_latent_frames(self, num_frames: float) -> bool:
        """Whether the VAE takes so many frames: one, and whole latent frames after it (4n+1 where ``temporal`` is 4)."""
        return (num_frames - 1) % self.temporal == 0

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of ``num_frames`` frames, of 4n+1 n+1."""
        return (num_frames - 1) // self.temporal + 1

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of a clip's latents."""
        return self.channels, self.num_latent_frames(num_frames), height // self.spatial, width // self.spatial

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Sequence length of a clip in the transformer."""
        return self.num_latent_frames(num_frames) * (height // self.cell) * (width // self.cell)


@dataclass(frozen=True)
class Network:
    """One transformer of a family."""

    name: str
    """What settings, files and messages call it."""
    channels: int
    """Channels that go in: the noisy latents, and what it is shown of the first frame beside them."""
    image_tokens: int = 0
    """Context tokens of the first frame; 0 where there are none."""
    shows_first_frame: bool = False
    """Whether it is shown the first frame of what it makes."""

    @property
    def task(self) -> str:
        """What it does, in words."""
        return "image-to-video" if self.shows_first_frame else "text-to-video"


@dataclass(frozen=True)
class Family:
    """The facts of a family; ``text_tokens`` is the length that a prompt's embedding is filled up to."""

    name: str
    geometry: Geometry
    text_tokens: int
    networks: tuple[Network, ...]
    vae: VaeFacts = WAN21_VAE

    def network(self, name: str) -> Network:
        """The network of that name; there is one."""
        return next(network for network in self.networks if network.name == name)

    def context(self, name: str) -> tuple[int, ...]:
        """Tokens that the network's cross-attention looks at: of text, and of the first frame where it has any."""
        image = self.network(name).image_tokens
        return (self.text_tokens, image) if image else (self.text_tokens,)
