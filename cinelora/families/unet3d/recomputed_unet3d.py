"""diffusers' UNet of clips, with what its class lacks: layers that are computed again in the backward pass.

Enters: noisy latents, times, text. Leaves: the predicted noise, the same with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint


class RecomputedUNet3D(UNet3DConditionModel):  # type: ignore[misc]
    """The same network."""

    _supports_gradient_checkpointing = True

    def enable_gradient_checkpointing(self) -> None:
        """From now on keep the inputs of layers alone, and run each once more in the backward pass (Chen et al. 2016)."""
        for layer in self._layers():
            layer.forward = partial(_again, layer.forward)

    # Not whole blocks, as a transformer's: a UNet has few, and the largest holds a third of all that is kept. A motion step of 16
    # frames of 320x512 in bf16 holds 16.5 GiB beside the weights, 6.7 with blocks computed again, 2.2 with layers
    # (benchmarks/recomputed_unet3d.py).
    def _layers(self) -> Iterator[nn.Module]:
        yield self.transformer_in
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            for name in ("resnets", "temp_convs", "attentions", "temp_attentions"):
                yield from getattr(block, name, ())


def _again(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
