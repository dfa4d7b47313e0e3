"""How the layers of a UNet run: compiled, computed again in the backward pass, and replayed from CUDA graphs.

Enters: a network and a ``Policy``. Leaves: the same network, which gives the same numbers. diffusers' own checkpointing keeps
what attention needs; here each layer of a block keeps its input alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cinelora.nn.replayed import Replayed
from cinelora.parallel.launch import rank_info
from cinelora.planning.estimate import Policy

LAYERS = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel, AnimateDiffTransformer3D)
"""What blocks are made of, and what is computed again as one. Not whole blocks, as a transformer's: a UNet has few, and the
largest holds a third of all that is kept (``benchmarks/recomputed_unet3d.py``)."""
SHAPES = 256
"""Shapes that transformer blocks are compiled for: every level has its own."""


def arrange_unet(unet: Any, policy: Policy) -> None:
    """Let the layers of ``unet`` run by ``policy``; on a GPU one rank's steps are replayed, where nothing in them is drawn."""
    is_gpu = unet.conv_in.weight.is_cuda
    if policy.compile:
        torch._dynamo.config.recompile_limit = SHAPES
        for block in _of(unet, BasicTransformerBlock):
            block.forward = torch.compile(block.forward, dynamic=False)
    if policy.recompute:
        for layer in _of(unet, *LAYERS):
            layer.forward = partial(_recomputed, unet, layer.forward)
    if is_gpu and rank_info().world_size == 1 and not _has_dropout(unet):
        unet.forward = _Forward(unet)
        unet.__dict__["replayed"] = unet.forward.replayed


def _of(unet: nn.Module, *classes: type) -> list[nn.Module]:
    return [module for module in unet.modules() if isinstance(module, classes)]


def _has_dropout(unet: nn.Module) -> bool:
    """Whether a step draws from chance: a graph would draw the same again."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in unet.modules())


def _recomputed(unet: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not (unet.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)
    # nothing in a layer is drawn, and a graph could not ask for the generator's state
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its ways for each size of a convolution, which in a UNet are few; elsewhere, as in the VAE, it may not.

    Of the VAE's large pictures in float32 it would try ways that take all memory there is.
    """
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Forward:
    """What stands for ``unet.forward``: noisy latents, times and text in, the prediction out."""

    def __init__(self, unet: Any) -> None:
        self.whole = whole = unet.forward

        def predict(*inputs: Tensor) -> Tensor:
            with fastest_convolutions():
                predicted: Tensor = whole(*inputs, return_dict=False)[0]
            return predicted

        self.replayed = Replayed(unet, predict)

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: Tensor, return_dict: bool = False, **shown: Any
    ) -> tuple[Tensor]:
        if shown:  # what another network adds is of other memory in each step
            predicted: tuple[Tensor] = self.whole(latents, timestep, text, return_dict=False, **shown)
            return predicted
        return (self.replayed(latents, timestep, text),)
