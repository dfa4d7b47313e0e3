"""What Wan's transformers are conditioned on, and how each family of them is fed: text, and what is shown of the first frame.

Enters: embeddings, encoded first frames, noisy latents. Leaves: predicted velocities. Which class a family has, ``machinery``
says; training and sampling know these by ``conditioning`` alone.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width, N tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor

from cinelora.families.family import Network
from cinelora.families.text_condition import TextCondition
from cinelora.families.wan21 import WAN21

Size = tuple[int, int, int, int]
"""Channels, frames, height and width of latents."""


@dataclass(frozen=True)
class ImageCondition:
    """What the I2V transformer is shown of the first frame.

    ``latents``: normalised VAE latents of the clip [first frame, mid-grey ...], ([B,] 16, T, H, W); of TI2V-5B those of the frame
    alone, ([B,] 48, 1, H, W). ``tokens``: CLIP features before the last layer, ([B,] 257, D); None in Wan2.2.
    """

    latents: Tensor
    tokens: Tensor | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor]) -> ImageCondition:
        """That of a batch of the data set."""
        return cls(batch["image_latents"], batch.get("image_tokens"))

    def beside(self, other: ImageCondition) -> ImageCondition:
        """This batch and another after it as one."""
        both = None if self.tokens is None or other.tokens is None else torch.cat([self.tokens, other.tokens])
        return ImageCondition(torch.cat([self.latents, other.latents]), both)

    def rows(self, chosen_B: Tensor) -> ImageCondition:
        """That of the chosen samples."""
        return ImageCondition(self.latents[chosen_B], None if self.tokens is None else self.tokens[chosen_B])


@dataclass(frozen=True)
class Condition(TextCondition):
    """What a prediction is conditioned on: text (B, 512, D), and for I2V the image, or None where it is dropped."""

    text: Tensor
    image: ImageCondition | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], shows_image: bool) -> Self:
        """That of a batch of the data set; ``shows_image``: with what is encoded of the first frame."""
        return cls(batch["text"], ImageCondition.of_batch(batch) if shows_image else None)

    @staticmethod
    def drawn_image(
        network: Network, size: Size, width: int | None, draw: Callable[..., Tensor]
    ) -> ImageCondition | None:
        """What would be shown of a first frame, of no meaning: ``draw`` fills the sizes after the batch's.

        ``size`` is that of a clip's latents, ``width`` of an image token. None where the network is shown none.
        """
        if not network.shows_first_frame:
            return None
        return ImageCondition(draw(*size), draw(network.image_tokens, width) if network.image_tokens else None)

    def predict(self, transformer: WanTransformer3DModel, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """``predict_velocity`` under this condition."""
        return predict_velocity(transformer, latents_BCTHW, timestep_B, self)


@dataclass(frozen=True)
class FirstFrameCondition(Condition):
    """What Wan2.2's TI2V-5B is conditioned on: text, and the first latent frame, which stands clean among the noisy ones.

    One transformer makes clips from text and expands frames. It sees which is asked of it by the time of each token: 0 for those
    of a frame that is given. Source: Wan2.2 ``textimage2video.py``.
    """

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], shows_image: bool) -> Self:
        """That of a batch of the data set; a causal VAE makes of the first frame the same latents alone and in its clip."""
        return cls(batch["text"], ImageCondition(batch["latents"][:, :, :1]) if shows_image else None)

    @staticmethod
    def drawn_image(
        network: Network, size: Size, width: int | None, draw: Callable[..., Tensor]
    ) -> ImageCondition | None:
        """A first latent frame of no meaning, likewise."""
        channels, _, *sides = size
        return ImageCondition(draw(channels, 1, *sides)) if network.shows_first_frame else None

    def predict(self, transformer: WanTransformer3DModel, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The velocity (B, 48, T, H, W) in float32; that of a given frame means nothing, and is 0."""
        if self.image is None:
            return predict_velocity(transformer, latents_BCTHW, timestep_B, self)
        patch = transformer.config.patch_size[-1]
        frames, tokens = latents_BCTHW.shape[2], latents_BCTHW.shape[3] * latents_BCTHW.shape[4] // patch**2
        time_BN = timestep_B[:, None].repeat(1, frames * tokens)
        time_BN[:, :tokens] = 0
        velocity = predict_velocity(transformer, self.settled(latents_BCTHW), time_BN, self.without_image())
        velocity[:, :, :1] = 0
        return velocity

    def counts(self, latents_BCTHW: Tensor) -> Tensor | None:
        """All but the given frame, (B, 1, T, 1, 1)."""
        if self.image is None:
            return None
        batch, _, frames = latents_BCTHW.shape[:3]
        counts = torch.ones(batch, 1, frames, 1, 1, dtype=torch.bool, device=latents_BCTHW.device)
        counts[:, :, 0] = False
        return counts

    def settled(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents with the given frame in its place."""
        if self.image is None:
            return latents_BCTHW
        return torch.cat([self.image.latents.to(latents_BCTHW), latents_BCTHW[:, :, 1:]], dim=2)


def first_frame_mask(latents_BCTHW: Tensor) -> Tensor:
    """Wan's I2V mask (B, 4, T, H, W): one where pixels are given, four pixel frames to a latent frame; so frame 0 is ones."""
    batch, _, frames, height, width = latents_BCTHW.shape
    mask = latents_BCTHW.new_zeros(batch, WAN21.geometry.temporal, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def predict_velocity(
    transformer: WanTransformer3DModel, latents_BCTHW: Tensor, timestep_B: Tensor, condition: Condition
) -> Tensor:
    """The transformer's velocity (B, C, T, H, W) in float32.

    ``timestep_B``, or a time for each token (B, N), is 1000 * sigma and stays float32: bf16 steps are 2 to 4 wide above 256. An
    I2V transformer without ``condition.image`` sees zero mask and zero condition latents and no image tokens (zero tokens would
    say something else). Source: Wan2.1 ``image2video.py``.
    """
    latents, tokens = latents_BCTHW, None
    # transformer.dtype would walk over every module, which a small model feels
    dtype = transformer.patch_embedding.weight.dtype
    # What an I2V transformer takes more than the noisy latents: 4 channels of mask and 16 of condition latents, in this order.
    if (more := transformer.config.in_channels - latents.shape[1]) > 0:
        if condition.image is None:
            latents = F.pad(latents, (0, 0, 0, 0, 0, 0, 0, more))
        else:
            latents = torch.cat([latents, first_frame_mask(latents), condition.image.latents.to(latents)], dim=1)
            tokens = condition.image.tokens if condition.image.tokens is None else condition.image.tokens.to(dtype)
    velocity: Tensor = transformer(
        hidden_states=latents.to(dtype),
        timestep=timestep_B,
        encoder_hidden_states=condition.text.to(dtype),
        encoder_hidden_states_image=tokens,
        return_dict=False,
    )[0]
    return velocity.float()
