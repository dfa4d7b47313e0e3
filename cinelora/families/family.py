"""What differs between model families and must be known before anything is loaded: latent space, tokens, networks.

Enters: frames and pixels. Leaves: counts. No torch, and nothing of the package but facts: settings, checks and plans ask this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

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
    """A family's latent space, and how its transformers cut it into tokens; a UNet's tokens are its latents."""

    spatial: int
    """Pixels a latent, along each side."""
    temporal: int
    """Frames a latent frame; the first latent frame holds one frame."""
    patch: int
    """Latents a token, along each side; a token is of one latent frame."""
    channels: int
    """Channels of a latent."""
    halvings: int = 0
    """How often a network halves the sides of its latents on its way down."""

    @property
    def cell(self) -> int:
        """Pixels that heights and widths are multiples of: those of a token, or of what a network halves its sides to."""
        return self.spatial * self.patch << self.halvings

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
        side = self.spatial * self.patch
        return self.num_latent_frames(num_frames) * (height // side) * (width // side)

    def tokens_of(self, latents_BCTHW: tuple[int, ...]) -> int:
        """The same from the shape of its latents."""
        frames, height, width = latents_BCTHW[2:]
        return frames * (height // self.patch) * (width // self.patch)


def suffixed(stage: str, expert: str) -> str:
    """What files and adapters of a stage, and of an expert if any, are called: ``style``, or ``style_high_noise``."""
    return f"{stage}_{expert}" if expert else stage


@dataclass(frozen=True)
class Expert:
    """A transformer that denoises a range of noise levels: ``levels`` from 0 (clean) to 1 (noise), as (low, high).

    ``name`` is empty where one does it alone. ``taught`` are the levels it is trained on, which are those of all networks that
    its adapter is carried over to; ``guidance`` is its authors' scale, None where the sampler's settings have it.
    """

    name: str = ""
    levels: tuple[float, float] = (0.0, 1.0)
    taught: tuple[float, float] = (0.0, 1.0)
    guidance: float | None = None

    def suffix(self, stage: str) -> str:
        """What files and adapters of ``stage`` are called: ``style``, or ``style_high_noise``."""
        return suffixed(stage, self.name)


ALONE = Expert()
"""A transformer that denoises at all levels."""


@dataclass(frozen=True)
class NoiseFacts:
    """What a network taught by betas has of its own; the defaults are those of Ho et al. (2020), sampled to the end."""

    fading: float = 1.0
    """What the clean latents are multiplied with at timestep 399 and later; from timestep 0 on it falls linearly from 1."""
    ends_clean: bool = True
    """Whether sampling ends at latents without noise; else at those of timestep 0, as in latent diffusion's own sampler."""


@dataclass(frozen=True)
class Network:
    """What a family denoises one sort of clip with: a transformer, or two experts that share the noise levels."""

    name: str
    """What settings, files and messages call it."""
    channels: int
    """Channels that go in: the noisy latents, and what it is shown of the first frame beside them."""
    image_tokens: int = 0
    """Context tokens of the first frame; 0 where there are none."""
    shows_first_frame: bool = False
    """Whether it is shown the first frame of what it makes."""
    boundary: float | None = None
    """The noise level above which the first of its two experts denoises, and below which the second; None for one transformer."""
    guidance: tuple[float, ...] = ()
    """Guidance of each expert, as the authors publish it; empty where the sampler's settings have it."""
    betas: str | None = None
    """The schedule of betas by which it was taught noise, ``linear`` or ``scaled_linear``; None for flow matching."""
    longest: int | None = None
    """Frames that it takes at most; None where nothing in it bounds them."""
    key: str = ""
    """The setting of a model that names where it lies; its own name where empty."""
    beside: tuple[str, ...] = ()
    """Settings that name what is put into it from elsewhere."""
    noise: NoiseFacts = NoiseFacts()
    """What its law of betas has of its own."""

    @property
    def makes_stills_alone(self) -> bool:
        """Whether it makes stills, and clips are another network's."""
        return self.longest == 1

    @property
    def task(self) -> str:
        """What it does, in words."""
        if self.longest == 1:
            return "text-to-image"
        return "image-to-video" if self.shows_first_frame else "text-to-video"


class Use(StrEnum):
    """What is done with a transformer's blocks, and wants a row of them that are alike."""

    SWAP = "swap"
    FP8 = "fp8"
    SEQUENCE = "sequence"
    CACHES = "caches"
    SHARES = "zero3"
    BACKENDS = "attention"


EXPERTS = HIGH, LOW = "high_noise", "low_noise"
"""The experts of a network, in the order in which a clip passes them. They are named and never numbered: tools disagree
about which is the first."""


# "high" and "low" are said of much: of these words they say nothing about noise
_OF_OTHERS = "v?ram|mem|res|quality|rank|fps|contrast|key|speed|poly|angle|light"
_NOISE = re.compile(r"(high|low)[ ._-]?noise")
_LONE = re.compile(rf"(?<![a-z])(high|low)(?![a-z])(?![ ._-]?(?:{_OF_OTHERS}))")


def expert_in(name: str, lone: bool = True) -> str:
    """The expert that a file or folder is for by its name, such as ``style_high_noise``: a hint and no more.

    ``lone``: also by ``high`` or ``low`` without ``noise``. Empty where a name says neither, or both.
    """
    said = {*_NOISE.findall(name.lower()), *(_LONE.findall(name.lower()) if lone else ())}
    return f"{said.pop()}_noise" if len(said) == 1 else ""


class LayerNames(Protocol):
    """The layers of a family's networks that adapters change, by diffusers' names."""

    title: str
    """Whose layers they are, in messages."""

    def knows(self, module: str) -> bool:
        """Whether it is a layer of these networks that an adapter can change."""
        ...

    def target_of(self, module: str) -> str | None:
        """The smallest of ``lora.targets`` that a projection is one of; None for a layer that no pair of factors acts beside."""
        ...

    def taught_in(self, module: str) -> str | None:
        """The network that alone teaches a layer; None where several can."""
        ...

    def is_optional(self, module: str) -> bool:
        """Whether an adapter acts without its change of a layer that a network lacks, such as one that is shown no image."""
        ...

    def lies_in(self, module: str, network: Network) -> bool:
        """Whether the network has such a layer."""
        ...

    def width_of(self, module: str, width: int) -> tuple[int | None, ...]:
        """How wide a layer is, out and in, in a network of ``width``; None for sides that other numbers decide."""
        ...


@dataclass(frozen=True)
class Family:
    """The facts of a family; ``text_tokens`` is the length that a prompt's embedding is filled up to."""

    name: str
    title: str
    """What messages call it."""
    geometry: Geometry
    text_tokens: int
    layers: LayerNames
    networks: tuple[Network, ...]
    largest: tuple[int, int] | None = None
    """Height and width of the largest frames that it was trained on, where those are not the model's own."""
    vae: VaeFacts = WAN21_VAE
    text_parameters: int = 5_680_910_336
    """Values in the text encoder; UMT5-XXL's."""
    one_checkpoint: bool = False
    """Whether all networks are one transformer, which is told by its input what to do."""
    image_is_encoded: bool = True
    """Whether what is shown of a first frame is encoded by itself; else it is the first latent frame of the clip."""
    uses: frozenset[Use] = frozenset(Use)
    """What can be done with the blocks of its networks; the rest is refused by name."""
    window: int | None = None
    """Frames of a training window that it was taught, where that is not the stage's own."""
    steps: int | None = None
    """Denoising steps that its authors take, where those are not the sampler's own."""
    tag: str = "wan"
    """What hubs know its models by."""
    code: str | None = "adapter_code.py.j2"
    """The template of a program that draws with an adapter by diffusers; None where diffusers cannot."""
    use_on_card: str = "use_wan.md.j2"
    """The template of what a card says of other programs."""
    licence: str = ""
    """What its weights must not be used for, in a sentence; empty where they are free."""

    def network(self, name: str) -> Network:
        """The network of that name; there is one."""
        return next(network for network in self.networks if network.name == name)

    @property
    def stills(self) -> Network:
        """The network that makes stills from text, and is taught a look by them."""
        return self.networks[0]

    @property
    def clips(self) -> Network:
        """The network that makes clips, and is taught motion."""
        return self.networks[-1]

    @property
    def expands(self) -> bool:
        """Whether a clip is expanded from a first frame."""
        return self.clips.shows_first_frame

    def from_text(self, num_frames: int) -> Network:
        """The network that makes a clip of ``num_frames`` frames from text alone."""
        made = [one for one in self.networks if not one.shows_first_frame]
        return next((one for one in made if one.makes_stills_alone == (num_frames == 1)), made[0])

    def of_stage(self, stage: str) -> dict[str, Any]:
        """Settings of a stage that are other for this family than the stage's own."""
        if self.expands:
            return {}
        if stage == "style":
            return {"transformer": self.stills.name}
        return {"transformer": self.clips.name, "num_frames": self.window, "image_condition": False}

    def context(self, name: str) -> tuple[int, ...]:
        """Tokens that the network's cross-attention looks at: of text, and of the first frame where it has any."""
        image = self.network(name).image_tokens
        return (self.text_tokens, image) if image else (self.text_tokens,)

    def has_time_per_token(self, name: str) -> bool:
        """Whether each token of the network has a time of its own: where a first frame stands clean among noisy latents."""
        return self.network(name).shows_first_frame and not self.image_is_encoded

    def experts(self, name: str, boundaries: Mapping[str, float | None]) -> tuple[Expert, ...]:
        """The experts of a network in order of falling noise; ``boundaries`` by network take the place of the authors'.

        The second of text-to-video is taught up to the highest boundary of all networks: its adapter is carried over to the
        second of image-to-video, which is used up to there.
        """
        network = self.network(name)
        limits = {one.name: boundaries.get(one.name) or one.boundary for one in self.networks}
        boundary = limits[name]
        if boundary is None:
            return (Expert(guidance=network.guidance[0] if network.guidance else None),)
        highest = max(limit for limit in limits.values() if limit is not None)
        high, low = network.guidance
        return (
            Expert(HIGH, (boundary, 1.0), (boundary, 1.0), high),
            Expert(LOW, (0.0, boundary), (0.0, boundary if network.shows_first_frame else highest), low),
        )

    def image_parts(self, name: str) -> tuple[Part, ...]:
        """The parts that encode what the network is shown of a first frame; none where it is shown nothing."""
        network = self.network(name)
        if not network.shows_first_frame:
            return ()
        return (Part.VAE, Part.IMAGE_ENCODER) if network.image_tokens else (Part.VAE,)
