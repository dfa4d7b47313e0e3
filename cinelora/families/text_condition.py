"""What conditions of every family have in common: a text, and perhaps what is shown of a first frame, by samples of a batch.

Enters and leaves: batches. How a network is fed with them, the family's own class knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextCondition:
    """Text (B, N, D), and the image, or None where none is shown: an object with ``beside`` and ``rows`` of its own."""

    text: Tensor
    image: Any = None

    def beside(self, other: Self) -> Self:
        """This batch and another after it as one batch; both have an image or neither has."""
        text = torch.cat([self.text, other.text])
        if self.image is None or other.image is None:
            return type(self)(text)
        return type(self)(text, self.image.beside(other.image))

    def rows(self, chosen_B: Tensor) -> Self:
        """That of the chosen samples of the batch."""
        return type(self)(self.text[chosen_B], self.image and self.image.rows(chosen_B))

    def without_image(self) -> Self:
        """The text alone."""
        return type(self)(self.text)

    def counts(self, latents_BCTHW: Tensor) -> Tensor | None:
        """Every predicted value is judged."""
        return None

    def settled(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents as they were denoised."""
        return latents_BCTHW
