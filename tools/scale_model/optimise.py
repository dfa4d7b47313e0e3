"""One loop for every small network that the factory trains: AdamW, a budget of steps and seconds, an average at the end.

Enters: a module, what is drawn for a step, and the loss of it. Leaves: the trained module. What it learns it does not know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

WARM_UP = 200
"""Steps over which the learning rate rises."""


@dataclass(frozen=True)
class Budget:
    """How long to train: ``steps``, or fewer where they would take longer than ``limit_s`` (0 = no limit)."""

    steps: int
    batch: int
    limit_s: int = 0

    def steps_at(self, step: Callable[[], Tensor]) -> int:
        """The steps there is time for, from the time that ten take."""
        if not self.limit_s:
            return self.steps
        started = time.perf_counter()
        float(sum(step() for _ in range(10)))
        return min(self.steps, int(self.limit_s * 10 / (time.perf_counter() - started)))


Draw = Callable[[], tuple[Tensor, ...]]
Loss = Callable[..., Tensor]


def optimise(
    name: str, module: nn.Module, draw: Draw, loss_of: Loss, budget: Budget, rate: float, decay: float = 0.0
) -> int:
    """AdamW on ``module``: warm-up, half a cosine to zero, gradients clipped, an average kept at the end; gives the steps.

    ``draw`` gives the random numbers of a step, of the same shapes each time, and ``loss_of`` the loss from them. On a GPU
    the step is captured once and replayed (CUDA graphs): such small networks otherwise wait for Python.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device, on_gpu = parameters[0].device, parameters[0].is_cuda
    # The rate is a tensor, which a captured step reads each time it is replayed. Capturing and timing take steps of their own
    # before the warm-up: those are as small as its first.
    lr = torch.tensor(rate / WARM_UP, device=device)
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=decay, capturable=on_gpu)
    inputs = [value.to(device) for value in draw()]

    def step() -> Tensor:
        loss = loss_of(*inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    replay = _captured(step, optimizer) if on_gpu else step
    steps = budget.steps_at(replay)
    average = [parameter.detach().clone() for parameter in parameters]
    bar = tqdm(range(steps), desc=name, unit="step", mininterval=2)
    for number in bar:
        lr.fill_(rate * min(1.0, (number + 1) / WARM_UP) * (1 + math.cos(math.pi * number / steps)) / 2)
        # new numbers in the old places: a captured step reads the memory that it was captured with
        for kept, value in zip(inputs, draw(), strict=True):
            kept.copy_(value, non_blocking=True)
        if device.type == "cpu":
            optimizer.zero_grad()
        loss = replay()
        # an average over the latest steps: about a ninth of all so far, and 200 at most
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.995, number / (number + 9)))
        if number % 100 == 0:
            bar.set_postfix_str(f"loss {loss.item():.4f}")
    for parameter, value in zip(parameters, average, strict=True):
        parameter.data.copy_(value)
    return steps


def _captured(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    """``step`` as a CUDA graph, after three warm-up steps on a stream of their own, as torch asks for."""
    # Shapes never change, and the heuristics are poor at so few channels.
    torch.backends.cudnn.benchmark = True
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)
    # Gradients are None when capturing begins, so that the graph itself makes them: each replay writes them, and adds to none.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay
