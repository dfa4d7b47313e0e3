"""What a prediction is conditioned on, as training and sampling see it: closed, but for what every family can do with it.

Enters and leaves: batches. What lies inside, and how a transformer is fed with it, the family knows alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor


class Conditioning(Protocol):
    """Conditions of B samples."""

    def predict(self, transformer: Any, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """What ``transformer`` predicts of noisy latents under these conditions, (B, C, T, H, W) in float32."""
        ...

    def beside(self, other: Self) -> Self:
        """Those of another batch after these, as one batch."""
        ...

    def rows(self, chosen_B: Tensor) -> Self:
        """Those of the samples that are ``chosen_B`` (bool)."""
        ...

    def without_image(self) -> Self:
        """The same without what is shown of the first frame."""
        ...

    def counts(self, latents_BCTHW: Tensor) -> Tensor | None:
        """Which of the predicted values are judged in training (bool, broadcast to them); None for all."""
        ...

    def settled(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents with what is known of them in its place, once they are denoised."""
        ...
