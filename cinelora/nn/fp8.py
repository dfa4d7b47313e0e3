"""Frozen linear layers in fp8: one byte a weight, computed in fp8 forward and backward.

Enters: bf16 weights, one by one. Leaves: layers that hold e4m3 values with one scale for each output, and whose inputs
and gradients are scaled row by row as they come. It does not know what the layers are for, or what is trained on them.

With the quantised weight ``V = diag(s) Q`` the forward pass is ``y = x V' + b`` and the backward pass ``dx = dy V``: the
same ``V``, held once. Scales of the weight's rows become scales of ``dy``'s columns, ``dx = (dy diag(s)) Q``, so that no
second copy with other scales is needed; ``Q`` is transposed on the fly, which moves out x in bytes where the product
computes tokens x out x in. Nothing of ``x`` is kept for the backward pass: a frozen weight has no gradient.

e4m3 reaches 448 (Micikevicius et al. 2022, arXiv 2209.05433).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
TINY = 1e-12
"""A row of zeros has this scale times 448 as its largest value; it stays zero."""


def quantise_rows(values_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Each row over its largest magnitude, as e4m3 (M, K), and the scales (M, 1) in float32 that give it back."""
    # A scale for each row, as a row is one output of a weight or one token: a single large value then costs the precision of
    # its own row alone. Clamped once more after the division, whose rounding may land above 448, where e4m3 has only nan.
    wide = values_MK.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=TINY) / LARGEST
    return (wide / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


class _Product(torch.autograd.Function):
    """``x V' + b`` for tokens (M, K), values (N, K) in fp8, scales (N, 1), bias (N); the gradient is of ``x`` alone."""

    @staticmethod
    def forward(x_MK: Tensor, values_NK: Tensor, scale_N1: Tensor, bias_N: Tensor | None) -> Tensor:
        rows, row_scale = quantise_rows(x_MK)
        return _scaled_product(rows, row_scale, values_NK.t(), scale_N1.t(), bias_N, x_MK.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, values, scale, _ = inputs
        ctx.save_for_backward(values, scale)

    @staticmethod
    def backward(ctx: Any, gradient_MN: Tensor) -> tuple[Tensor | None, None, None, None]:
        # dx = (dy diag(s)) Q: the scales of V's rows go into dy before it is quantised, since a product takes a scale for each
        # row of its first factor and each column of its second, and a row of V is neither in dy V.
        values_NK, scale_N1 = ctx.saved_tensors
        rows, row_scale = quantise_rows(gradient_MN * scale_N1.t())
        turned_NK = values_NK.t().contiguous().t()  # the product wants its second factor column by column
        ones = torch.ones(1, values_NK.shape[1], device=values_NK.device)
        return _scaled_product(rows, row_scale, turned_NK, ones, None, gradient_MN.dtype), None, None, None


def _scaled_product(
    rows_MK: Tensor, scale_M1: Tensor, columns_KN: Tensor, scale_1N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    how: dict[str, Any] = {"bias": bias_N, "out_dtype": dtype, "use_fast_accum": rows_MK.is_cuda}
    product: Tensor = torch._scaled_mm(rows_MK, columns_KN, scale_a=scale_M1, scale_b=scale_1N, **how)
    return product


class Fp8Linear(nn.Module):
    """A frozen linear layer whose weight is one byte a value; input and output are bf16, (..., in) and (..., out).

    ``weight`` holds the e4m3 values (out, in), ``scale`` the float32 scales (out, 1).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, device: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=FP8, device=device), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(out_features, 1, device=device), requires_grad=False)
        empty = torch.empty(out_features, dtype=torch.bfloat16, device=device)
        self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

    def fill(self, weight_NK: Tensor) -> None:
        """Take a weight of any floating dtype, on whatever device it is."""
        values, scale = quantise_rows(weight_NK.detach())
        self.weight, self.scale = (nn.Parameter(tensor, requires_grad=False) for tensor in (values, scale))

    def widened(self) -> Tensor:
        """The weight as the layer computes with it, float32 (out, in)."""
        return self.weight.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of ``x``."""
        tokens = x.reshape(-1, self.in_features)
        product: Tensor = _Product.apply(tokens, self.weight, self.scale, self.bias)  # type: ignore[no-untyped-call]
        return product.view(*x.shape[:-1], self.out_features)


def swap_linears(blocks: nn.Module) -> None:
    """Put an empty ``Fp8Linear`` on the meta device in the place of every linear layer below ``blocks``."""
    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            empty = Fp8Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            setattr(blocks.get_submodule(owner), leaf, empty)


def frozen_weight(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as it computes with it, in float32 where it is held in fp8 or bf16."""
    return layer.widened() if isinstance(layer, Fp8Linear) else layer.weight.detach().float()  # type: ignore[operator]


def replace_weight(layer: nn.Module, weight_NK: Tensor) -> None:
    """Give a linear layer another weight, rounded once to what it is held in."""
    # In place, since what swaps, shares or compiles a layer holds on to its memory; `fill` is for a layer that has none yet.
    if isinstance(layer, Fp8Linear):
        values, scale = quantise_rows(weight_NK)
        layer.weight.data.copy_(values)
        layer.scale.data.copy_(scale)
    else:
        layer.weight.data.copy_(weight_NK)  # type: ignore[operator]


def fp8_layers(module: nn.Module) -> list[tuple[str, Fp8Linear]]:
    """The fp8 layers of a module, by name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, Fp8Linear)]


def missing_fp8(device: torch.device) -> str | None:
    """Why ``device`` cannot compute in fp8, or None where it can; every CPU can, slowly."""
    if device.type != "cuda" or (capability := torch.cuda.get_device_capability(device)) >= (8, 9):
        return None
    return f"{torch.cuda.get_device_name(device)} (compute capability {capability[0]}.{capability[1]}) has no fp8"


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.bfloat16}
"""What is computed in; with fp8, the linear layers of the transformer's blocks are one byte a weight beside it."""
