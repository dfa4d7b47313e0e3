"""What a denoising step costs when several GPUs share a clip: arithmetic, bytes between them, seconds. All of it estimated.

Enters: a transformer's shape, tokens, a partition, a kind of GPU and what lies between two of them. Leaves: numbers, before
anything is loaded; no torch.

- Arithmetic is that of ``estimate``, at the rates measured on one H200 and scaled by what is published for other cards.
- Bytes are those that one rank sends, exactly as ``parallel.sequence_parallel`` counts them.
- An exchange for Ulysses is waited for. A ring's is hidden behind the attention of one block of keys, as far as that lasts.
- Links are published rates, times the share of them that NCCL is known to reach.

``benchmarks/many_gpus.py`` holds the model against the official table of Wan2.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cinelora.config.schema import INT8, INT8_TOKENS, SamplerConfig
from cinelora.families.family import Geometry
from cinelora.parallel.partition import Partition
from cinelora.planning.cards import GPUS, Gpu, Link
from cinelora.planning.estimate import Prediction, Shape, block_seconds

MERGE_BYTES = 30
"""Bytes of its memory that a GPU moves for each value that a ring merges into another, in float32: two read, one written, and
what comes and goes between."""


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind in nodes of ``per_node``."""

    gpu: Gpu
    per_node: int = 8

    def between(self, ranks: Iterator[tuple[int, int]]) -> Link:
        """The slower link, if any of these pairs of ranks needs it."""
        apart = any(a // self.per_node != b // self.per_node for a, b in ranks)
        return self.gpu.network if apart else self.gpu.link


NOMINAL = GPUS[0]
"""The GPU whose links and rates a partition is chosen by, whatever there is: all nodes must choose alike."""


@dataclass(frozen=True)
class ClipShape:
    """What is drawn: frames of a size, with or without guidance."""

    shape: Shape
    heads: int
    num_frames: int
    height: int
    width: int
    guided: bool
    dtype: str = "bf16"
    attention: str | None = None

    @property
    def geometry(self) -> Geometry:
        """Of its latents."""
        return self.shape.family.geometry

    @property
    def tokens(self) -> int:
        """Of the sequence."""
        return self.geometry.num_tokens(self.num_frames, self.height, self.width)

    @property
    def rounded(self) -> bool:
        """Whether attention is in int8, as it is where that pays."""
        return self.attention == INT8 and self.tokens >= INT8_TOKENS

    @property
    def value_bytes(self) -> int:
        """Of a value that is computed with."""
        return 4 if self.dtype == "fp32" else 2

    def predictions(self, plan: Partition) -> int:
        """That a rank takes part in, in each step."""
        return 2 if self.guided and plan.groups == 1 else 1

    def on_a_rank(self, plan: Partition) -> Prediction:
        """What each rank computes at once: its tokens, of both halves of guidance where it has both."""
        own = tokens_a_rank(self.tokens, plan)
        return Prediction(self.shape, own, self.dtype, self.predictions(plan) == 2, self.rounded)


@dataclass(frozen=True)
class Cost:
    """Of one step on one rank: seconds of arithmetic, seconds of exchanges that are waited for and that are not, bytes sent."""

    compute_s: float
    exposed_s: float
    hidden_s: float
    sent: dict[str, int]

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.compute_s + self.exposed_s


def tokens_a_rank(tokens: int, plan: Partition) -> int:
    """Tokens of each rank; those of the last are filled up."""
    return -(-tokens // plan.sequence)


def sent_bytes(clip: ClipShape, plan: Partition) -> dict[str, int]:
    """What a rank sends to others in one step: ``heads`` (Ulysses), ``ring``, ``gather`` (the output) and ``guidance``.

    Ulysses: queries, keys, values and what they saw, of all but its own heads. Ring: keys and values, to the next, as often as
    there are others. The output goes to all in the sequence. The halves of guidance exchange a velocity in float32.
    """
    own, times = tokens_a_rank(clip.tokens, plan), clip.predictions(plan)
    wide = own * clip.shape.hidden * clip.value_bytes
    latents = math.prod(clip.geometry.latent_size(clip.num_frames, clip.height, clip.width))
    return {
        "heads": times * clip.shape.layers * 4 * (wide // plan.ulysses) * (plan.ulysses - 1),
        "ring": times * clip.shape.layers * 2 * wide * (plan.ring - 1),
        "gather": times * own * clip.geometry.token_values * clip.value_bytes * (plan.sequence - 1),
        "guidance": latents * 4 * (plan.groups - 1),
    }


def step_cost(clip: ClipShape, plan: Partition, machine: Machine) -> Cost:
    """One denoising step of ``clip`` by ``plan``."""
    # What is paid for: arithmetic of every block and prediction; then, one after the other, exchanges that nothing hides. Ulysses
    # exchanges before and after attention, the output is gathered once a prediction, the halves of guidance meet once a step.
    own, times, sent = tokens_a_rank(clip.tokens, plan), clip.predictions(plan), sent_bytes(clip, plan)
    dtype = "fp8" if clip.dtype == "fp8" else "bf16"
    linear, attention = block_seconds(clip.shape, clip.tokens, dtype, machine.gpu, own, clip.rounded)
    merging = own * clip.shape.hidden * MERGE_BYTES / machine.gpu.memory_rate if plan.ring > 1 else 0.0
    # A ring hops as often as it has ranks. While a hop's attention is computed, the next keys and values travel: only what they
    # take longer than it is waited for. What each hop finds is merged into what the earlier ones found.
    hop_s = attention / plan.ring + merging
    blocks = times * clip.shape.layers
    ring = machine.between(_next_in_ring(plan))
    passing = ring.seconds(2 * own * clip.shape.hidden * clip.value_bytes) + ring.latency_s if plan.ring > 1 else 0.0
    waited = blocks * (plan.ring - 1) * max(0.0, passing - hop_s)
    hidden = blocks * (plan.ring - 1) * passing - waited
    exposed = waited + _heads_seconds(sent["heads"], 2 * blocks, plan, machine)
    everywhere = machine.between((0, rank) for rank in range(plan.sequence))
    exposed += everywhere.seconds(sent["gather"]) + (times * everywhere.latency_s if plan.sequence > 1 else 0.0)
    if plan.groups > 1:
        across = machine.between((rank, rank + plan.sequence) for rank in range(plan.sequence))
        exposed += across.seconds(sent["guidance"]) + across.latency_s
    return Cost(blocks * (linear + plan.ring * hop_s), exposed, hidden, sent)


def _heads_seconds(sent: int, exchanges: int, plan: Partition, machine: Machine) -> float:
    """Of Ulysses' all-to-alls: what stays in a node and what leaves it go at once, each over its own link."""
    if plan.ulysses == 1:
        return 0.0
    # How many of a rank's partners are in another node, for the rank that has most: all wait for it. Each partner gets an equal
    # part, and the two links carry theirs at the same time.
    strangers = max(
        sum(rank // machine.per_node != other // machine.per_node for other in _ulysses_group(rank, plan))
        for rank in range(plan.ranks)
    )
    away = sent * strangers / (plan.ulysses - 1)
    slowest = machine.gpu.network if strangers else machine.gpu.link
    return max(machine.gpu.link.seconds(sent - away), machine.gpu.network.seconds(away)) + exchanges * slowest.latency_s


def _ulysses_group(rank: int, plan: Partition) -> range:
    first = rank - rank % plan.ulysses
    return range(first, first + plan.ulysses)


def _next_in_ring(plan: Partition) -> Iterator[tuple[int, int]]:
    """Every rank with the one that its keys and values go to."""
    for rank in range(plan.ranks):
        first = rank - rank % plan.sequence
        yield rank, first + (rank - first + plan.ulysses) % plan.sequence


# -- the rest of a clip ------------------------------------------------------------------------------------------------

TEXT_S = 1.1
"""Seconds on an H200 that both prompts of a clip take."""
MEASURED_PIXELS = 81 * 720 * 1280
"""Of the clip whose seconds ``VaeFacts`` has: decoded as a whole, and encoded in tiles as the condition of an image."""


def rest_seconds(clip: ClipShape, ranks: int, machine: Machine) -> float:
    """Of a clip beside its steps: every rank encodes the prompts, and some rows of an image's condition and of the clip."""
    slower = NOMINAL.bf16 / machine.gpu.bf16
    size = clip.num_frames * clip.height * clip.width / MEASURED_PIXELS
    vae, rows, conditioned = clip.shape.family.vae, clip.height // clip.geometry.spatial, clip.shape.encodes_clip
    # The rank with most rows sets the pace, and a convolution that sees neighbouring rows waits for them at every latent frame.
    shared = (vae.decode_s + (vae.encode_s if conditioned else 0.0)) * size * -(-rows // min(ranks, rows)) / rows
    latency = machine.gpu.link.latency_s if ranks <= machine.per_node else machine.gpu.network.latency_s
    exchanges = vae.decoder_rows + (vae.encoder_rows if conditioned else 0) if ranks > 1 else 0
    return slower * (TEXT_S + shared) + clip.geometry.num_latent_frames(clip.num_frames) * exchanges * latency


def steps_inside(sampler: SamplerConfig, steps: int, shift: float, levels: tuple[float, float]) -> int:
    """How many of ``steps`` denoising steps lie inside a range of noise levels, of which the upper end is the noisy one.

    As diffusers' solvers have them, noise levels fall evenly before they are shifted: Euler's from 0.999 towards 0, UniPC's from
    1 towards 0.001. UniPC then tells the transformer times of whole thousandths.
    """
    first, last = (1.0, 0.001) if sampler.name == "unipc" else (0.999, 0.0)
    even = [first + (last - first) * done / steps for done in range(steps)]
    times = [1000 * shift * level / (1 + (shift - 1) * level) for level in even]
    if sampler.name == "unipc":
        times = [min(math.floor(time), 999) for time in times]
    low, high = (1000 * level for level in levels)
    return sum(low <= time < high for time in times)


def clip_seconds(clip: ClipShape, steps: int, plan: Partition, machine: Machine) -> float:
    """Of a clip from prompt to pixels, its keyframe aside."""
    return steps * step_cost(clip, plan, machine).seconds + rest_seconds(clip, plan.ranks, machine)
