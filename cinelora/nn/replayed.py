"""A network's steps replayed from CUDA graphs: a small network waits for Python more than for the GPU.

Enters: a function of tensors, and the parameters that it trains. Leaves: a function of the same values and gradients, which
launches hundreds of kernels as one. A graph is of one shape of inputs; of more shapes than a few, the others run as
they always did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOST_SHAPES = 4
"""Shapes that have graphs: each holds the activations of a step of its own."""
WARM_UP = 3
"""Runs before a graph is captured, in which libraries choose their kernels and take their memory."""

Function = Callable[..., Tensor]


class Replayed:
    """``function`` of a ``network`` from graphs: its training steps, or, where nothing of it is trained, its predictions.

    Whatever else is asked of it runs as it always did.
    """

    def __init__(self, network: nn.Module, function: Function) -> None:
        self.network, self.function = network, function
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.graphs: dict[tuple[Any, ...], Captured] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's output for ``inputs``."""
        key = tuple((tuple(one.shape), one.dtype) for one in inputs)
        is_step = torch.is_grad_enabled() and self.network.training
        is_known = key in self.graphs
        if is_step != bool(self.trained) or (not is_known and len(self.graphs) >= MOST_SHAPES):
            return self.function(*inputs)
        if not is_known:
            self.graphs[key] = Captured(self.function, inputs, self.trained)
        captured = self.graphs[key]
        out: Tensor = _Replay.apply(captured, len(inputs), *inputs, *captured.trained)  # type: ignore[no-untyped-call]
        return out


def is_replayed(network: nn.Module) -> bool:
    """Whether predictions of a network come from graphs, where that can be."""
    return "replayed" in network.__dict__


def forget_predictions(network: nn.Module) -> None:
    """Capture predictions again: what acts on the network has changed, which a graph would not see."""
    replayed: Replayed | None = network.__dict__.get("replayed")
    if replayed and not replayed.trained:
        replayed.graphs.clear()


class Captured:
    """The passes of one shape of inputs, and the memory that they read and write; without ``trained``, the forward one alone."""

    def __init__(self, function: Function, inputs: Sequence[Tensor], trained: list[nn.Parameter]) -> None:
        self.trained, self.inputs = trained, [one.detach().clone() for one in inputs]
        self._warm_up(function)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward):
            self.out = function(*self.inputs)
        if not trained:
            return
        self.gradient = torch.empty_like(self.out)
        with torch.cuda.graph(self.backward, pool=self.forward.pool()):
            parts = torch.autograd.grad(self.out, trained, self.gradient)
            # in one piece, so that one copy takes all gradients out of the graph's memory
            self.gradients = torch.cat([part.flatten() for part in parts])
        self.sizes = [parameter.numel() for parameter in trained]

    def _warm_up(self, function: Function) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                out = function(*self.inputs)
                if self.trained:
                    torch.autograd.grad(out, self.trained, torch.zeros_like(out))
        torch.cuda.current_stream().wait_stream(stream)


class _Replay(torch.autograd.Function):
    """One step of ``Captured`` as autograd sees it: a function of the trained parameters."""

    @staticmethod
    def forward(ctx: Any, captured: Captured, count: int, *tensors: Tensor) -> Tensor:
        for held, given in zip(captured.inputs, tensors[:count], strict=True):
            held.copy_(given)
        captured.forward.replay()
        ctx.captured, ctx.count = captured, count
        return captured.out.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        captured: Captured = ctx.captured
        captured.gradient.copy_(gradient)
        captured.backward.replay()
        # a copy: the next replay writes over the graph's own memory, while gradients add up over micro-batches
        parts = torch.split(captured.gradients.clone(), captured.sizes)
        shaped = (part.view(trained.shape) for part, trained in zip(parts, captured.trained, strict=True))
        return (None, None, *(None,) * ctx.count, *shaped)
