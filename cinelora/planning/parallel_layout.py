"""Which partition several GPUs draw a clip by: the one that is estimated fastest, or the one asked for; and why.

Enters: a clip, the sampler's settings, heads, GPUs of a node and nodes. Leaves: a partition and a line, or a refusal that
names what works; no torch, so that a command line can be refused at once.

Ranks are split between the halves of guidance, which exchange a velocity a step and nothing else, then Ulysses and a ring
share each half's sequence. Ulysses sends less but wants whole heads for everyone; a ring takes any number, hides what it
sends behind attention, and merges what it finds. What is chosen must not differ between nodes, so it is estimated for one
kind of GPU, whatever there is.
"""

from __future__ import annotations

from cinelora.config.schema import SamplerConfig
from cinelora.errors import ConfigError
from cinelora.parallel.partition import Partition
from cinelora.planning.step_time import NOMINAL, ClipShape, Machine, sent_bytes, step_cost


def choose_partition(clip: ClipShape, sampler: SamplerConfig, gpus: int, nodes: int = 1) -> tuple[Partition, str]:
    """The partition of ``gpus`` ranks on each of ``nodes``, and a line that says why.

    Raises ``ConfigError`` for what cannot be, naming what can.
    """
    ranks, machine = gpus * nodes, Machine(NOMINAL, gpus)
    _check_split(clip, sampler, ranks)
    # In float32 a ring holds all scores of a block at once: it is the last resort then, and the shorter the better.
    ranked = sorted(
        (way for way in ways(clip, sampler, ranks) if _as_asked(way, sampler)),
        key=lambda way: (way.ring if clip.dtype == "fp32" else 1, step_cost(clip, way, machine).seconds),
    )
    if not ranked:
        raise ConfigError(_refusal(clip, sampler, ranks))
    any_asked = sampler.guidance_mode != "auto" or sampler.ulysses is not None or sampler.ring is not None
    why = "as asked for" if len(ranked) == 1 and ranks > 1 and any_asked else _why(clip, ranked, machine)
    return ranked[0], f"{ranks} ranks: {partition_in_words(ranked[0], clip.heads)}: {why}"


def ways(clip: ClipShape, sampler: SamplerConfig, ranks: int) -> list[Partition]:
    """Every partition that works, whatever ``ulysses`` and ``ring`` ask for."""
    found = []
    # Ulysses needs whole heads on every rank, so its degree divides both the heads and the ranks; the ring takes the rest.
    for groups in _groups(clip, sampler, ranks):
        sequence = ranks // groups
        degrees = [n for n in range(1, sequence + 1) if sequence % n == 0 and clip.heads % n == 0]
        found += [Partition(groups, sequence // n, n) for n in degrees if sequence <= clip.tokens]
    return found


def partition_in_words(plan: Partition, heads: int) -> str:
    """A partition in words."""
    words = ["2 halves of guidance"] if plan.groups == 2 else []
    if plan.ring > 1:
        words.append(f"ring {plan.ring}")
    if plan.ulysses > 1:
        words.append(f"ulysses {plan.ulysses} ({heads // plan.ulysses} of {heads} heads each)")
    return " x ".join(words) or "alone"


def _check_split(clip: ClipShape, sampler: SamplerConfig, ranks: int) -> None:
    """Refuse a split of guidance that has no two halves, or no two groups of ranks."""
    if sampler.guidance_mode != "split":
        return
    if ranks % 2:
        raise ConfigError(
            f"sampler.guidance_mode=split needs an even number of ranks, not {ranks}: gpus=2, or "
            "sampler.guidance_mode=auto"
        )
    if not clip.guided:
        raise ConfigError(
            f"sampler.guidance_mode=split with sampler.guidance={sampler.guidance:g}: there is no pair to split; "
            "use sampler.guidance_mode=auto"
        )


def _groups(clip: ClipShape, sampler: SamplerConfig, ranks: int) -> list[int]:
    if sampler.guidance_mode == "split":
        return [2]
    return [1, 2] if sampler.guidance_mode == "auto" and clip.guided and ranks % 2 == 0 else [1]


def _as_asked(way: Partition, sampler: SamplerConfig) -> bool:
    return sampler.ulysses in (None, way.ulysses) and sampler.ring in (None, way.ring)


def _refusal(clip: ClipShape, sampler: SamplerConfig, ranks: int) -> str:
    """What was asked for that cannot be, and what can."""
    if sampler.ulysses is not None and clip.heads % sampler.ulysses:
        degrees = ", ".join(str(n) for n in range(1, clip.heads + 1) if clip.heads % n == 0)
        return f"sampler.ulysses={sampler.ulysses} cannot split {clip.heads} heads; use one of {degrees}"
    there = ways(clip, sampler, ranks)
    if not there:
        return f"gpus={ranks} are more than the {clip.tokens} tokens of a clip: use gpus={clip.tokens} or fewer"
    asked = [f"sampler.{name}={value}" for name in ("ulysses", "ring") if (value := getattr(sampler, name)) is not None]
    pairs = [f"ulysses={way.ulysses} ring={way.ring}" + (" in halves" if way.groups == 2 else "") for way in there]
    return f"{' and '.join(asked)} cannot be with {ranks} ranks; leave it away, or use one of {', '.join(pairs)}"


def _why(clip: ClipShape, ranked: list[Partition], machine: Machine) -> str:
    """What the best sends, and what the next best of other kinds send and take beside it."""
    best, *others = ranked
    if not others:
        return f"the only way that works, sends {_gb(clip, best)} a step and rank"
    seconds = step_cost(clip, best, machine).seconds
    # Whoever doubts the choice wonders about the other kinds: the best one that splits guidance where this does not, or the
    # other way about, and the best one with a ring where this has none, or the other way about.
    kinds = (lambda way: way.groups != best.groups, lambda way: (way.ring > 1) != (best.ring > 1))
    rivals = dict.fromkeys(way for kind in kinds if (way := next(filter(kind, others), None)))
    longer = {way: step_cost(clip, way, machine).seconds / seconds - 1 for way in rivals or others[:1]}
    told = [
        f"{partition_in_words(way, clip.heads)} sends {_gb(clip, way)} and takes {abs(more):.1%} "
        f"{'longer' if more >= 0 else 'less'}"
        for way, more in longer.items()
    ]
    shortest = "the fastest whose ring, which in fp32 holds all scores, is the shortest"
    reason = shortest if clip.dtype == "fp32" else "estimated to be fastest"
    return f"{reason}, sends {_gb(clip, best)} a step and rank; {'; '.join(told)}"


def _gb(clip: ClipShape, way: Partition) -> str:
    return f"{sum(sent_bytes(clip, way).values()) / 1e9:.3g} GB"
