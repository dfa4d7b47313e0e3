"""Embeddings of texts as networks are given them: all of one length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_text(embeddings: list[Tensor], length: int) -> Tensor:
    """Embeddings (n_i, D) cut at their true length, zero-padded and stacked to (B, ``length``, D)."""
    return torch.stack([F.pad(embedding, (0, 0, 0, length - len(embedding))) for embedding in embeddings])
