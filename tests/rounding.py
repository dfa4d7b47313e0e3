"""How far apart two results are, counted in rounding units, so that a bound holds on every CPU.

Two ways to one number round differently: a wider vector unit, a fused multiply-add or another number of ranks adds the same
terms in another order, and each addition is rounded to float32's 24 bits. The error grows with the largest numbers that
took part, not with the result at hand. So a bound such as ``2e-6`` says nothing by itself: it holds on one CPU and for
one size of number. A unit is the distance from the largest expected number to the next one that float32 can hold, at
most. Results of a few sums are a few units apart, and those of a network of many layers, or of several training steps,
some dozens. An error in the mathematics (a seam, a sample that counts twice, a rank left out) is thousands of units.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
SUMS = 64
"""Units: a few sums in another order. (Found: up to 10.)"""
LAYERS = 512
"""Units: a network, all sums of it in another order; a tenth of an 8-bit level where 1 is white. (Found: up to 40.)"""
STEPS = 4096
"""Units: some training steps. AdamW divides by the root of a small number, and weights that began at zero are still small.
(Found: up to 170. Other noise of one sample in the last step: over 100,000.)"""


def units(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors, in rounding units of the largest number in ``theirs``."""
    return units_of([ours], [theirs])


def units_of(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The same for two lists of tensors; infinite where all of ``theirs`` are zero and ``ours`` are not."""
    pairs = list(zip(ours, theirs, strict=True))
    eps = torch.finfo(pairs[0][1].dtype).eps if pairs[0][1].is_floating_point() else EPS
    difference = max(float((one.double() - other.double()).abs().max()) for one, other in pairs)
    largest = max(float(other.double().abs().max()) for _, other in pairs)
    if difference == 0:
        return 0.0
    return difference / (eps * largest) if largest else float("inf")
