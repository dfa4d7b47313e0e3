"""What captions and frames tell of a scene, and linear readers of it by which an encoder is taught to tell it.

Enters: scenes, and features of an encoder. Leaves: labels, losses, and what is read rightly. Readers are thrown away afterwards.

Shape suffixes: N captions, B batch, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.scale_model.render import LOOKS
from tools.scale_model.render.scenes import VOCABULARY, Scene, describe

CHOICES: dict[str, tuple[Any, ...]] = {**VOCABULARY, "hat": (False, True)}
"""The attributes that captions tell, and their values."""
UNSEEN = -100
"""The class of what is not there to be read: where a car drives that is not in the scene, a coat's colour in noir."""


def labels_of(scenes: list[Scene], looks: list[str], device: torch.device) -> dict[str, Tensor]:
    """Class numbers (B,) by attribute; ``UNSEEN`` where neither picture nor caption can tell."""
    labels = {name: [choices.index(getattr(scene, name)) for scene in scenes] for name, choices in CHOICES.items()}
    for row, (scene, look) in enumerate(zip(scenes, looks, strict=True)):
        film = LOOKS[look]
        # a film without saturation shows no colours, and one whose hours are alike shows no time of day
        is_grey, times = not film.saturation, {hour.name for hour in film.hours.values()}
        hidden = {
            "coat": is_grey,
            "car": scene.car and is_grey,
            "car_direction": not scene.car,
            "time": len(times) == 1,
        }
        for name in (name for name, is_hidden in hidden.items() if is_hidden):
            labels[name][row] = UNSEEN
    return {name: torch.tensor(numbers, device=device) for name, numbers in labels.items()}


class Readers(nn.Module):
    """A linear reader of every attribute, and the projection for the contrastive loss. Thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attributes = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in CHOICES.items()})
        self.shared = nn.Linear(width, 64)

    def loss(self, pooled_BD: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy over the attributes."""
        heads = self.attributes.items()
        losses = [F.cross_entropy(head(pooled_BD).float(), labels[n], ignore_index=UNSEEN) for n, head in heads]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def accuracy(self, pooled_BD: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
        """Share read rightly, by attribute."""
        return {
            name: float((head(pooled_BD).argmax(1) == labels[name])[labels[name] != UNSEEN].float().mean())
            for name, head in self.attributes.items()
        }


@dataclass(frozen=True)
class Told:
    """Captions as tokens (N, L), with the labels of their scenes by attribute, (N,) each, on the device."""

    tokens_NL: Tensor
    labels: dict[str, Tensor]

    @classmethod
    def of(
        cls, scenes: list[Scene], looks: list[str], tokenise: Callable[[list[str]], Tensor], device: torch.device
    ) -> Told:
        """The captions of ``scenes`` in their looks, as ``tokenise`` gives them."""
        captions = [describe(scene, look) for scene, look in zip(scenes, looks, strict=True)]
        return cls(tokenise(captions).to(device), labels_of(scenes, looks, device))

    def rows(self, which: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens and labels of some."""
        return self.tokens_NL[which], {name: values[which] for name, values in self.labels.items()}
