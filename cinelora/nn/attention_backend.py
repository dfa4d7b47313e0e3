"""Which of diffusers' attention backends a transformer runs on: the fastest exact one at the shape of the run, as measured.

Enters: a Wan transformer, the attention that its run is made of (``Work``), and the user's word, if any. Leaves: the same
transformer with a backend set, and a line for the user. It does not know what is trained or drawn. To be called before
``memory.arrange``: what compiles a block takes the backend into its graph.

torch's own choice (``native``) is not always the fastest, and third-party kernels come and go with machines: so they are
timed where they are to run, never looked up. All candidates compute the same softmax; none rounds to fewer bits.

Shapes, as diffusers' processors pass them: (1, N, H, D), batch 1, N tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch import Tensor

from cinelora.config.schema import ATTENTION_BACKENDS, INT8, INT8_TOKENS, ModelConfig
from cinelora.errors import ConfigError, first_line
from cinelora.families import family_of
from cinelora.nn.fp8 import DTYPES
from cinelora.nn.int8_attention import kernel_on
from cinelora.parallel.sequence_parallel import RING_BACKENDS

NATIVE = "native"
MARGIN = 0.03
"""How much less time another backend must take: everything was tested with native, a forced kernel sets torch's flags at every
call, and a timing as short as ours is no surer than this."""
MOST_TOKENS = 16_384
"""Tokens measured at most, about 9 ms forward with 40 heads of 128 on an H200. Longer sequences only add to what is alike: 14,040
tokens took 6.4 ms native, 7.1 cuDNN, 11.9 flash, and 75,600 took 203, 207, 327 (H200, torch 2.11)."""
TRIAL_TOKENS = 256
ROUNDS, SAMPLE_MS, MOST_CALLS = 3, 10.0, 100
"""Samples of each backend, of as many calls as take so long: one call of a short sequence is mostly its launch."""
ROUNDING = 2**-6
"""Relative distance (2-norm) that rounding explains: four times bf16's unit roundoff of 2^-8. Exact kernels in bf16 were 0.0025
apart, with gradients 0.0072; queries, keys and values that were rounded to fp8 put them 0.05 apart (8,192 tokens, CPU)."""
STRIDE = 17
"""One row in this many of a result is compared: odd, so that each place in a kernel's tiles is among them, and few, so that
no second whole result lies on a GPU that a run is about to fill."""

Results = Callable[[str], list[Tensor]]
Clock = Callable[[str], float]


@dataclass(frozen=True)
class Work:
    """The attention of one block: ``tokens`` that look at each other and, in turn, at each length of ``context``.

    ``backward``: gradients are taken too. ``heads`` are those of one rank; ``ring``: it sees the tokens block by block.
    """

    tokens: int
    heads: int
    head_dim: int
    context: tuple[int, ...]
    dtype: torch.dtype
    backward: bool = False
    ring: bool = False

    @classmethod
    def of(
        cls, model: ModelConfig, kind: str, tokens: int, *, backward: bool = False, ring: int = 1, ulysses: int = 1
    ) -> Work:
        """Of the ``t2v`` or ``i2v`` transformer of a model, on one of the ``ring * ulysses`` ranks that share a sequence."""
        context, head_dim = family_of(model).context(kind), model.hidden_size // model.num_heads
        return cls(tokens, model.num_heads // ulysses, head_dim, context, DTYPES[model.dtype], backward, ring > 1)

    @property
    def measured(self) -> Work:
        """The part of it that is timed."""
        return replace(self, tokens=min(self.tokens, MOST_TOKENS))


def choose(transformer: WanTransformer3DModel, work: Work, name: str | None) -> str | None:
    """Set the backend ``name``, or the fastest measured where it is None, and say so in one line; ``int8`` is not a backend.

    None where nothing is chosen, and diffusers' default stays (native, unless its environment says otherwise): on the CPU,
    in another dtype than bf16, which most candidates are for, and in a ring, which has kernels of its own. Ranks choose each
    for its own GPU. Raises as ``require``.
    """
    device = transformer.patch_embedding.weight.device
    if name == INT8:
        require(name, work, device)
        return None if rounds(work) else f"attention: exact, as {work.tokens:,} tokens are too few for int8 to pay"
    if name is not None:
        require(name, work, device)
        set_backend(transformer, name)
        return f"attention: {name}, as asked for"
    if device.type != "cuda" or work.ring or work.dtype != torch.bfloat16:
        return None
    trial = Trial(work.measured, device)
    comparison = compare(filter(is_installed, ATTENTION_BACKENDS), trial.results, trial.milliseconds)
    set_backend(transformer, comparison.fastest)
    return comparison.line(work)


def rounds(work: Work) -> bool:
    """Whether the sequence is long enough for int8 attention to pay."""
    return work.tokens >= INT8_TOKENS


def require(name: str | None, work: Work, device: torch.device) -> None:
    """Refuse a backend that cannot do ``work`` on ``device``; found out by a small trial, so it may be asked early.

    Raises ``ConfigError`` with the reason and the way out.
    """
    if name is None or name == NATIVE:
        return
    if name == INT8:
        try:
            kernel_on(device)
        except RuntimeError as error:
            raise ConfigError(
                f"model.attention=int8 cannot run here: {error}; choose model.attention=null, the fastest exact one"
            ) from error
        return
    trial = Trial(replace(work, tokens=min(work.tokens, TRIAL_TOKENS)), device)
    missing = "" if is_installed(name) else "its package is missing, or too old for diffusers"
    if reason := missing or _cannot_go_round(name, work) or unfit(name, trial.results, trial.results(NATIVE)):
        raise ConfigError(
            f"model.attention={name} cannot run here: {reason}; choose model.attention=null, the fastest that can"
        )


def set_backend(transformer: WanTransformer3DModel, name: str) -> None:
    """Let all attention of ``transformer`` run on ``name``, and that of no other.

    diffusers notes a backend with each attention processor, and makes it the default of the whole process besides, for all
    processors that have none of their own. That default is put back here to what it was.
    """
    with attention_backend(AttentionBackendName.NATIVE):  # whichever it names: what was active before is so after it
        transformer.set_attention_backend(name)


def is_installed(name: str) -> bool:
    """Whether diffusers finds the package behind a backend, in a version it takes."""
    with suppress(RuntimeError), attention_backend(AttentionBackendName(name)):
        return True
    return False


def _cannot_go_round(name: str, work: Work) -> str | None:
    """Why a backend cannot do its part in a ring, or None."""
    says = f"a ring merges what ranks see by the weights behind it, which only {', '.join(RING_BACKENDS)} tell"
    return says if work.ring and name not in RING_BACKENDS else None


# -- comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of the backends that were timed, native among them, and why others were left out."""

    milliseconds: dict[str, float]
    left_out: dict[str, str]

    @property
    def fastest(self) -> str:
        """The backend to take: native, unless the fastest is so by ``MARGIN``."""
        best = min(self.milliseconds, key=self.milliseconds.__getitem__)
        return best if self.milliseconds[best] <= (1 - MARGIN) * self.milliseconds[NATIVE] else NATIVE

    def line(self, work: Work) -> str:
        """``attention: native, 6.4 ms; _native_cudnn 7.1, _native_flash 11.9; left out: flash (why)``."""
        tokens = work.measured.tokens
        part = f" for {tokens:,} of {work.tokens:,} tokens" if tokens < work.tokens else ""
        parts = [f"attention: {self.fastest}, {self.milliseconds[self.fastest]:.1f} ms{part}"]
        others = sorted((ms, name) for name, ms in self.milliseconds.items() if name != self.fastest)
        if others:
            parts.append(", ".join(f"{name} {ms:.1f}" for ms, name in others))
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{name} ({reason})" for name, reason in self.left_out.items()))
        return "; ".join(parts)


def compare(names: Iterable[str], results: Results, clock: Clock) -> Comparison:
    """Time native, and those of ``names`` whose ``results`` are native's; ``clock`` gives milliseconds of one sample.

    Asking for results has warmed each up. Samples are taken in turns, so that a GPU whose clock rises or falls meanwhile
    does so for all alike; the median counts.
    """
    expected = results(NATIVE)
    reasons = {name: unfit(name, results, expected) for name in names if name != NATIVE}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    fit = [NATIVE, *(name for name in reasons if name not in left_out)]
    rounds = [{name: clock(name) for name in fit} for _ in range(ROUNDS)]
    return Comparison({name: statistics.median(times[name] for times in rounds) for name in fit}, left_out)


def unfit(name: str, results: Results, expected: list[Tensor]) -> str | None:
    """Why a backend cannot take native's place: it raises, or its results differ by more than rounding; else None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once for each kernel it rules out; the reason says it once
            found = results(name)
    except (RuntimeError, ValueError, TypeError, ImportError, AssertionError) as error:  # the trade's ways to say no
        return first_line(error).split(". ")[0].rstrip(".")
    off = distance(found, expected)
    return None if off <= ROUNDING else f"its results differ by {off:.1%}"


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative distance, in the 2-norm, of two lists of tensors; not a number where a value is none."""
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([(ours - theirs).norm() / theirs.norm() for ours, theirs in pairs]).max())


# -- measuring ---------------------------------------------------------------------------------------------------------


class Trial:
    """The attention of ``work`` on values drawn at random, through the function that diffusers' processors call."""

    def __init__(self, work: Work, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)  # of its own: the run's chance stays as it is

        def draw(tokens: int) -> Tensor:
            size = (1, tokens, work.heads, work.head_dim)
            drawn = torch.randn(size, generator=generator, device=device, dtype=work.dtype)
            return drawn.requires_grad_(work.backward)

        self.queries = draw(work.tokens)
        self.keys_values = [(draw(tokens), draw(tokens)) for tokens in (work.tokens, *work.context)]
        self.gradient = draw(work.tokens).detach() if work.backward else None
        self.calls: int | None = None

    def results(self, backend: str) -> list[Tensor]:
        """Every ``STRIDE``th row, in float32, of what the block's attentions give: outputs and, in training, gradients."""
        # Copies, not views: a view would keep each whole result in memory until all are there.
        results = (result for keys, values in self.keys_values for result in self._run(backend, keys, values))
        return [result[:, ::STRIDE].to(torch.float32, copy=True) for result in results]

    def milliseconds(self, backend: str) -> float:
        """GPU time of the attention of the tokens to each other, forward and, in training, backward."""
        # How many calls make a sample is found with the backend that is timed first, and is then the same for all.
        if self.calls is None:
            self.calls = min(MOST_CALLS, math.ceil(SAMPLE_MS / self._timed(backend, 1)))
        return self._timed(backend, self.calls)

    def _timed(self, backend: str, calls: int) -> float:
        # Events are noted on the GPU itself, in the order of its queue: what Python does between the calls is not counted.
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            self._run(backend, *self.keys_values[0])
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls

    def _run(self, backend: str, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        inputs = (self.queries, keys, values)
        with torch.set_grad_enabled(self.gradient is not None):
            out: Tensor = dispatch_attention_fn(*inputs, backend=AttentionBackendName(backend))
        if self.gradient is None:
            return (out,)
        return (out.detach(), *torch.autograd.grad(out, inputs, self.gradient))
