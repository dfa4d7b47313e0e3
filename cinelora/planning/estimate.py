"""What a Wan transformer takes on a device, from its shape alone: parameters, bytes, and the peak of a training step.

Enters: the shape in the settings, and a ``Policy``. Leaves: numbers, before anything is loaded. It needs no torch.

The peak is a sum of what must be there at once. Activations are counted in units of one bf16 tensor as wide as the
transformer, tokens x hidden x 2 bytes; how many of them a block keeps was measured, and ``benchmarks/memory.py`` measures
it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cinelora.config.schema import ModelConfig
from cinelora.families import family_of
from cinelora.families.family import Family
from cinelora.families.vae_facts import WAN21_VAE, VaeFacts
from cinelora.planning.cards import GPUS, Gpu

GIB = 2**30


class Kept(NamedTuple):
    """Units that a block keeps for its backward pass, and that come and go while it is computed.

    ``tokens`` and, for each unit of width inside the feed-forward layers, ``ffn`` are of its own tokens, ``image`` too, where
    cross-attention sees one; ``context`` is of the context's tokens.
    """

    tokens: float
    image: float
    ffn: float
    context: float
    passing: float


ADAPTER = Kept(12.97, 1.97, 1.0, 3.93, 5.50)
"""A compiled block under an adapter: fitted to fourteen peaks of the I2V shape (H200, torch 2.11), all of which come out within
0.6 %. What of it is the image's and the feed-forward layers' is counted from the tensors that torch's partitioner saves, which
says 18.44 units where the fit says 18.45."""
PASSING_FP8 = 11.39
"""What comes and goes where the block is fp8, with its rounded inputs and turned weights."""
ADAPTER_EAGER = Kept(17.03, 1.97, 1.0, 0.0, 9.8)
"""Without a compiler, from peft's own layers (60.9 GiB for 3,600 tokens, all kept; 40.4 GiB for 14,040, recomputed)."""
WHOLE, WHOLE_EAGER = Kept(19.4, 0.0, 2.0, 2.0, 5.3), Kept(33.8, 0.0, 2.16, 6.9, 10.9)
"""Where every weight is trained, under autocast: inputs of all products are kept for the weights' gradients. From six peaks of
the embedded model (H200: batches of 32 and 64 windows, kept and recomputed), shared out by counting saved tensors; the eager one
predicts the 1.3B shape within 1 % (H100, one window of 33 frames: 63.9 GiB in the first step, and AdamW's moments after it)."""
WHOLE_COPY = 2.0
"""Bytes of the bf16 copy that a trained weight computes with. Beside it are itself and AdamW's two moments in float32 when its
step's backward pass begins, and its gradient when that ends (1.3B shape: 24.3 GiB for stills, recomputed)."""
EXCHANGED, EXCHANGED_IN_A_RING = 1.0, 12.0
"""Units more that come and go where ranks share a sequence: by Ulysses (two H100: 0.2 with 7,020 tokens a rank, 0.9 with 37,800,
beyond what one rank took), and in a ring, with float32 sums and gradients on their way (counted from ``sequence.py``, and not
measured)."""
TIMED_STEP, TIMED_DRAWN = 2.3, 13.4
"""Units where each token has a time of its own (TI2V-5B that is shown a first frame) and blocks are compiled: those that a
training step takes more, and those of a prediction at its height, which is in the last norm. From two peaks each (H200: bf16
and fp8, 49 frames of 704x1280 trained and 121 drawn), which come out within 0.2 %."""
TIMES, TIMED_BLOCK, TIMED_DRAWING = 7.0, 16.0, 12.0
"""The same in uncompiled blocks: the embedded times and their six projections, which all blocks read; what a block keeps for its
backward pass; and what is there while one is computed without gradients. The last two are float32 sums of the projections and the
block's own table. Counted from the tensors that diffusers' block saves; the plain loop's peaks come out within 2 %."""
IN_FLIGHT = 1.46
"""Units on their way from or to the host, with ``offload``."""
DRAWN, DRAWN_FP8, DRAWN_EAGER = 6.2, 7.4, 14.2
"""Units that come and go while a prediction is made without gradients (75,600 tokens of the I2V shape, H200)."""
CONTEXT_GIB, IN_PIECES = 1.0, 0.025
"""What is not to be planned with: CUDA's own memory (0.7 GiB on an H200), and the share that lies between tensors."""


@dataclass(frozen=True)
class Policy:
    """How many blocks, from the first, are recomputed, whether their inputs wait on the host, and how many are swapped.

    Swapped blocks have their weights on the host. They are recomputed as well, as a graph would hold what is fetched.
    """

    recompute: int = 0
    offload: bool = False
    swap: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.swap <= self.recompute:
            raise ValueError(f"{self.swap} swapped blocks want as many recomputed ones, not {self.recompute}")

    def in_words(self, shape: Shape) -> str:
        """The policy in words."""
        if not self.recompute:
            return "all activations kept"
        words = [shape.recomputed_in_words(self.recompute)]
        if self.offload:
            words.append("their inputs on the host")
        if self.swap:
            words.append(f"weights of {self.swap} blocks on the host")
        return ", ".join(words)


@dataclass(frozen=True)
class Shape:
    """The sizes that a transformer's bytes and operations follow from."""

    layers: int
    hidden: int
    ffn: int
    text: int
    image: int | None
    network: str
    family: Family
    freq: int = 256

    @classmethod
    def of(cls, model: ModelConfig, kind: str) -> Shape:
        """A network of a model; the embedded one's encoders are narrow, where they are not random ones of full shape."""
        if not family_of(model).uses:
            from cinelora.planning.unet_shape import UNetShape

            return UNetShape.of_model(model, kind)
        narrow = model.name.startswith("tiny") and model.weights == "stored"
        text, image, freq = (128, 96, 128) if narrow else (4096, 1280, 256)
        sizes = (model.num_layers, model.hidden_size, model.ffn_dim, text)
        family = family_of(model)
        return cls(*sizes, image if family.network(kind).image_tokens else None, kind, family, freq)

    @property
    def context(self) -> int:
        """Tokens that cross-attention looks at."""
        return sum(self.family.context(self.network))

    @property
    def has_time_per_token(self) -> bool:
        """Whether it is told a time for each token."""
        return self.family.has_time_per_token(self.network)

    @property
    def encodes_clip(self) -> bool:
        """Whether what it is shown of a first frame is encoded as long as the clip: the frame, and grey after it."""
        return self.family.network(self.network).shows_first_frame and self.family.image_is_encoded

    @property
    def block_matrices(self) -> int:
        """Values in the matrices of one block."""
        attention = 8 + (2 if self.image else 0)
        return attention * self.hidden**2 + 2 * self.hidden * self.ffn

    @property
    def block_rest(self) -> int:
        """Values in the norms, biases and modulation of one block."""
        shown = 3 * self.hidden if self.image else 0
        return 8 * self.hidden + 4 * self.hidden + 2 * self.hidden + self.ffn + self.hidden + 6 * self.hidden + shown

    @property
    def around(self) -> int:
        """Values outside the blocks."""
        width, geometry, channels = self.hidden, self.family.geometry, self.family.network(self.network).channels
        ends = (channels * geometry.patch**2 + 1) * width + (width + 1) * geometry.token_values + 2 * width
        text = (self.text + 1) * width + (width + 1) * width
        time = (self.freq + 1) * width + (width + 1) * width + (width + 1) * 6 * width
        image = 0 if self.image is None else (self.image + 1) * self.image + (self.image + 1) * width
        norms = 0 if self.image is None else 2 * self.image + 2 * width
        return ends + text + time + image + norms

    @property
    def parameters(self) -> int:
        """All values."""
        return self.layers * (self.block_matrices + self.block_rest) + self.around

    def products(self, tokens: int, dtype: str, gpu: Gpu, own: int) -> tuple[float, float]:
        """Of one block and ``own`` of the tokens: seconds of its linear layers forward, and attention's operations."""
        return _products(self, tokens, dtype, gpu, own)

    def recomputed_in_words(self, count: int) -> str:
        """What a policy computes again, in words."""
        return f"{count} of {self.layers} blocks recomputed"

    def pays_to_compile(self, seconds: float) -> bool:
        """Whether compiling saves more than it takes where a run takes ``seconds`` without: it does in any run of these."""
        return True

    def step_peak(self, step: Step, policy: Policy) -> dict[str, float] | None:
        """Bytes at the height of a training step where they are known for the whole network; None where block by block."""
        return None

    def step_seconds(self, step: Step, policy: Policy, gpu: Gpu) -> float | None:
        """Seconds of a micro-batch, likewise."""
        return None

    def drawn_peak(self, prediction: Prediction, drawing: Drawing) -> dict[str, float] | None:
        """Bytes while a prediction is made without gradients, likewise."""
        return None

    def adapter(self, rank: int, targets: str) -> int:
        """Values of an adapter's factors."""
        wide, shown = 2 * self.hidden * rank, 2 if self.image else 0
        projections = {"cross_attention": 4 + shown, "attention": 8 + shown, "all_linear": 8 + shown}[targets]
        ffn = 2 * (self.hidden + self.ffn) * rank if targets == "all_linear" else 0
        return self.layers * (projections * wide + ffn)


# -- rates -------------------------------------------------------------------------------------------------------------


LINEAR = {"bf16": 590 / 989, "fp8": 830 / 1979}
"""The fraction of the published rate that linear layers, with all that is not attention, reach in compiled blocks (H200)."""
ATTENTION, ATTENTION_BACKWARD = 575 / 989, 530 / 989
"""The same for attention, forward and backward (H200, cuDNN)."""
ATTENTION_INT8 = 870 / 989
"""And for attention in int8 with its quantisation, as a fraction of the rate in bf16 (H200, 75,600 tokens)."""
ROUNDED_BYTES = 3
"""Of a token's channel there: queries, keys and values in 8 bits beside those in bf16."""


WAITS = 0.075
"""The fraction of an H200's seconds in linear layers that its memory sets the pace of. An H100, whose rates are the same and
whose memory has 0.70 of the bandwidth, takes 1.015 times its step of 32,760 tokens, of which 46 % are linear layers."""


def block_seconds(
    shape: Shape, tokens: int, dtype: str, gpu: Gpu, own: int | None = None, rounded: bool = False
) -> tuple[float, float]:
    """Seconds of one block without gradients: its linear layers with all that is not attention, and its attention.

    Of a rank that computes ``own`` of the tokens, or as many heads' worth of attention, where ranks share a sequence.
    """
    linear, attention = shape.products(tokens, dtype, gpu, tokens if own is None else own)
    return linear, attention / ((ATTENTION_INT8 if rounded else ATTENTION) * gpu.bf16)


def _products(shape: Shape, tokens: int, dtype: str, gpu: Gpu, own: int) -> tuple[float, float]:
    """Of one block and ``own`` of the tokens: seconds of its linear layers forward, and attention's operations."""
    # A multiply and an add for each value of a matrix and each token. Six of the eight square matrices see the block's own
    # tokens; keys and values of cross-attention see the context, which every rank has as a whole. Attention has two products,
    # scores and what they weigh, each of every own query with every key of the sequence and of the context.
    width, context = shape.hidden, shape.context
    linear = own * 2 * (6 * width**2 + 2 * width * shape.ffn) + context * 4 * width**2
    # What the memory sets the pace of follows the card's bandwidth, the rest its rate.
    here, there = (LINEAR[dtype] * ((one.fp8 or one.bf16) if dtype == "fp8" else one.bf16) for one in (gpu, GPUS[0]))
    seconds = (1 - WAITS) * linear / here + WAITS * linear / there * GPUS[0].memory_rate / gpu.memory_rate
    return seconds, 4 * width * own * (tokens + context)


WIDTHS = {"bf16": 2.0, "fp32": 4.0, "fp8": 1.0}


def weight_bytes(shape: Shape, dtype: str, swap: int = 0) -> float:
    """Bytes of the frozen weights on the device, ``swap`` of the blocks having theirs elsewhere."""
    width, rest = WIDTHS[dtype], 4.0 if dtype == "fp32" else 2.0
    # two blocks are on the device at any time: the one that computes, and the next one on its way
    there = shape.layers - swap + min(2, swap)
    return there * shape.block_matrices * width + (shape.layers * shape.block_rest + shape.around) * rest


def shared_weight_bytes(shape: Shape, dtype: str, ranks: int, parked: bool) -> float:
    """The same where ``ranks`` share the blocks' matrices: a piece of all, or none where it is parked, and two blocks whole."""
    pieces = 0.0 if parked else shape.layers / ranks
    return weight_bytes(shape, dtype, shape.layers) + pieces * shape.block_matrices * WIDTHS[dtype]


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What one training step on one device is of, and what it takes there: samples of so many tokens, on a transformer of a
    shape and dtype, and an adapter, or the ``whole`` transformer.

    ``averaged``: what is trained has a moving average beside it. The ``tokens`` are this device's, of a sequence that so
    many others like it share: ``sequence`` in all, ``ring`` of them or of groups of them in a ring. ``zero`` is the level of
    ZeRO over ``ranks``, 0 for none; ``parked``: what it shards lies on the host.
    """

    shape: Shape
    dtype: str
    tokens: int
    samples: int
    rank: int
    targets: str
    whole: bool = False
    averaged: bool = False
    sequence: int = 1
    ring: int = 1
    zero: int = 0
    ranks: int = 1
    parked: bool = False

    @property
    def shared(self) -> bool:
        """Whether the ranks share the weights of the blocks."""
        return self.zero == 3

    @property
    def stays(self) -> bool:
        """Whether no block's weights can be swapped: those that are trained, or lie in the ranks' pieces."""
        return self.whole or self.shared

    @property
    def kept(self) -> float:
        """Bytes of a trained float32 value and AdamW's two moments; ZeRO has the value once more, in shards with the moments."""
        if not self.zero:
            return 12.0
        value = 4.0 / self.ranks if self.shared and self.whole else 4.0
        return value if self.parked else value + 12.0 / self.ranks

    @property
    def gradient(self) -> float:
        """Bytes of its gradient."""
        return 4.0 / self.ranks if self.zero >= 2 else 4.0

    def peak(self, policy: Policy) -> dict[str, float]:
        """Bytes on the device at the height of the step, by what they are for."""
        shape, dtype = self.shape, self.dtype
        if (whole := shape.step_peak(self, policy)) is not None:
            return whole
        # The unit is one tensor as wide as the transformer, of all tokens of the micro-batch; ``block`` is what a block keeps
        # for its backward pass, ``passing`` what comes and goes while one is computed.
        row = self.samples * shape.hidden * (4 if dtype == "fp32" and not self.whole else 2)
        unit, context = self.tokens * row, shape.context * row
        trained, eager = (WHOLE, WHOLE_EAGER) if self.whole else (ADAPTER, ADAPTER_EAGER)
        kept = trained if policy.compile else eager
        wide = kept.tokens + kept.ffn * shape.ffn / shape.hidden + (kept.image if shape.image else 0.0)
        timed = shape.has_time_per_token
        wide += TIMED_BLOCK if timed and not policy.compile else 0.0
        block = wide * unit + kept.context * context
        exchanged = 0.0 if self.sequence == 1 else EXCHANGED if self.ring == 1 else EXCHANGED_IN_A_RING
        passing = unit * (exchanged + (PASSING_FP8 if dtype == "fp8" and policy.compile else kept.passing))
        # A recomputed block keeps its input alone. While it is computed again it is a kept one for a moment, so one block's
        # activations are there at the least; and of inputs that wait on the host, those on their way are still here.
        plain = shape.layers - policy.recompute
        inputs = min(IN_FLIGHT, policy.recompute) if policy.offload else policy.recompute
        activations = {"inputs of recomputed blocks": unit * inputs, "activations": block * max(plain, 1) + passing}
        activations |= {"times of tokens": unit * (TIMED_STEP if policy.compile else TIMES)} if timed else {}
        average = 4.0 if self.averaged else 0.0
        if self.whole:
            # The bf16 copies, and the values themselves where they are in pieces, are there for one block at a time. The height
            # is where the backward pass begins, with all activations, or where it ends, with all gradients.
            average = average / self.ranks if self.shared else average
            held = self.kept + average + (0.0 if self.shared else WHOLE_COPY)
            first = {"weights and optimizer": held * shape.parameters} | activations
            ended = (held + self.gradient) * shape.parameters
            last = {"weights, gradients and optimizer": ended, "activations": block + passing}
            return max(first, last, key=lambda parts: sum(parts.values()))
        shared = shared_weight_bytes(shape, dtype, self.ranks, self.parked) if self.shared else None
        adapter = (self.kept + self.gradient + average) * shape.adapter(self.rank, self.targets)
        weights = weight_bytes(shape, dtype, policy.swap) if shared is None else shared
        return {"weights": weights, "adapter, gradients and optimizer": adapter} | activations

    def seconds(self, policy: Policy, gpu: Gpu) -> float:
        """Seconds of one micro-batch in bf16 or fp8, from its products; blocks are taken to be compiled, transfers and
        exchanges to be hidden.

        Trained weights take as much again in the backward pass as what lies before them.
        """
        if (whole := self.shape.step_seconds(self, policy, gpu)) is not None:
            return whole
        dtype = "fp8" if self.dtype == "fp8" and not self.whole else "bf16"
        linear, attention = self.shape.products(self.tokens * self.sequence, dtype, gpu, self.tokens)
        forward = linear + attention / (ATTENTION * gpu.bf16)
        backward = (2 if self.whole else 1) * linear + 2.5 * attention / (ATTENTION_BACKWARD * gpu.bf16)
        return self.samples * (forward * (self.shape.layers + policy.recompute) + backward * self.shape.layers)

    def fastest(self, room: float, compile: bool) -> Policy | None:
        """The policy that costs least time of those that fit into ``room`` bytes; None where none does.

        In order of what a block costs: nothing kept back, one more forward pass for as few blocks as will do, transfers of
        inputs, transfers of weights, which trained ones do not make. Blocks whose weights ranks share are recomputed, as a
        graph would hold what is brought.
        """
        layers = self.shape.layers
        ways = [Policy(count, compile=compile) for count in range(layers if self.shared else 0, layers + 1)]
        ways += [Policy(layers, True, count, compile) for count in range(1 if self.stays else layers + 1)]
        return next((way for way in ways if sum(self.peak(way).values()) <= room), None)

    def least(self, compile: bool) -> float:
        """Bytes that the leanest policy takes."""
        layers = self.shape.layers
        return sum(self.peak(Policy(layers, True, 0 if self.stays else layers, compile)).values())


def vae_bytes(num_frames: int, height: int, width: int, vae: VaeFacts = WAN21_VAE) -> float:
    """Bytes that a VAE takes to encode or decode a clip as a whole."""
    return float(height * width * (vae.still_bytes if num_frames == 1 else vae.clip_bytes))


def tiled_vae_bytes(height: int, width: int, vae: VaeFacts = WAN21_VAE) -> float:
    """The same in tiles: little more than the clip, in pieces and whole."""
    return float(height * width * vae.tiled_bytes)


def usable_bytes(gib: float) -> float:
    """What of a GPU of ``gib`` GiB can be planned with."""
    return (gib * (1 - IN_PIECES) - CONTEXT_GIB) * GIB


@dataclass(frozen=True)
class HostCopies:
    """Bytes on the host for the adapters of a clip: their ``own``, and, by transformer, of weights that are kept as they were.

    ``live``: pairs of factors act beside the weights, so that copies are of what other changes are added to alone; ``merged``:
    of the projections that factors are folded into, too.
    """

    own: float = 0.0
    live: Mapping[str, float] = field(default_factory=dict)
    merged: Mapping[str, float] = field(default_factory=dict)

    def on(self, kind: str, drawing: Drawing) -> float:
        """Of the copies of the ``t2v`` or ``i2v`` transformer: nothing is folded into weights that come and go."""
        return (self.live if drawing.swap else self.merged).get(kind, 0.0)


@dataclass(frozen=True)
class Drawing:
    """How a transformer draws: both halves of guidance in one batch or in turn, and blocks with weights on the host."""

    together: bool = False
    swap: int = 0
    compile: bool = False


@dataclass(frozen=True)
class Prediction:
    """One prediction without gradients on one device.

    ``tokens`` are of one half of guidance; ``guided``: both halves are predicted; ``rounded``: attention is in int8.
    """

    shape: Shape
    tokens: int
    dtype: str
    guided: bool = False
    rounded: bool = False

    def peak(self, drawing: Drawing) -> dict[str, float]:
        """Bytes on the device while it is made, by what they are for."""
        if (whole := self.shape.drawn_peak(self, drawing)) is not None:
            return whole
        values = self.tokens * self.shape.hidden * (2 if drawing.together else 1)
        unit = values * (4 if self.dtype == "fp32" else 2)
        passing = DRAWN_EAGER if not drawing.compile else DRAWN_FP8 if self.dtype == "fp8" else DRAWN
        if self.shape.has_time_per_token:
            passing = TIMED_DRAWN if drawing.compile else passing + TIMES + TIMED_DRAWING
        taken = unit * passing + values * ROUNDED_BYTES * self.rounded
        return {"weights": weight_bytes(self.shape, self.dtype, drawing.swap), "activations": taken}

    def fastest(self, room: float, compile: bool, swap: int | None = None) -> Drawing | None:
        """The way to draw that costs least time of those that fit into ``room`` bytes; None where none does.

        Both halves of guidance in one batch (which small pictures gain by), in turn, then transfers of weights; ``swap`` says
        of how many blocks these are.
        """
        swaps = range(self.shape.layers + 1) if swap is None else [swap]
        ways = [Drawing(self.guided, swaps[0], compile), *(Drawing(False, count, compile) for count in swaps)]
        return next((way for way in ways if sum(self.peak(way).values()) <= room), None)

    def seconds(self, gpu: Gpu) -> float:
        """Seconds in bf16 or fp8; guidance makes two of them a step."""
        dtype = "fp8" if self.dtype == "fp8" else "bf16"
        return self.shape.layers * sum(block_seconds(self.shape, self.tokens, dtype, gpu, rounded=self.rounded))

    def in_words(self, drawing: Drawing) -> str:
        """A way to draw it in words."""
        words = ["blocks compiled" if drawing.compile else "blocks not compiled"]
        if self.guided:
            words.append(f"both halves of guidance {'in one batch' if drawing.together else 'in turn'}")
        if drawing.swap:
            words.append(f"weights of {drawing.swap} of {self.shape.layers} blocks on the host")
        return ", ".join(words)


def leaner(policy: Policy, shape: Shape) -> str | None:
    """The ``memory=`` that takes less than ``policy``, or None where there is none."""
    if policy.recompute < shape.layers:
        return "recompute"
    if not policy.offload:
        return "offload"
    return "swap" if policy.swap < shape.layers else None


def share_of(blocks: int, share: float) -> int:
    """How many of ``blocks`` a share is, rounded up."""
    return math.ceil(round(blocks * share, 6))
