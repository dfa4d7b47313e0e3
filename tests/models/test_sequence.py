"""A sequence shared by real ranks: outputs and gradients are those of one rank."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from rank_pool import on_ranks
from rounding import EPS, LAYERS, SUMS, units

from cinelora.adapters.adapter_file import LoraSpec
from cinelora.adapters.lora_layers import adapter_state, add_adapter, merge, trainable
from cinelora.families.wan.conditions import Condition, FirstFrameCondition, ImageCondition
from cinelora.families.wan.token_times import embed_each_time_once
from cinelora.memory.block_swap import arrange
from cinelora.parallel.launch import process_group, rank_info
from cinelora.parallel.sequence_parallel import SENT, alone, share
from cinelora.planning.estimate import Policy

SMALL = {"num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
SMALL |= {"num_layers": 2}
IMAGE = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 128}
KINDS = {"t2v": {}, "i2v": IMAGE, "TI2V-5B": {}}
"""What each is made with; TI2V-5B is shown its first frame by a time for each token."""
EVEN, UNEVEN, FEW = (3, 8, 16), (3, 10, 6), (2, 2, 2)
"""Latent frames, height and width: of 96 tokens, of 45, and of 2, which is fewer than some ranks' number."""


def transformer(kind: str) -> WanTransformer3DModel:
    """A small Wan with an adapter that does something."""
    torch.manual_seed(3)
    model = WanTransformer3DModel(**SMALL, **KINDS[kind]).eval()
    if kind == "TI2V-5B":
        embed_each_time_once(model)
    add_adapter(model, "style", LoraSpec(4, 8.0, targets="attention"), seed=0)
    generator = torch.Generator().manual_seed(4)
    for factor in adapter_state(model, "style").values():
        factor.copy_(torch.randn(factor.shape, generator=generator) * 0.1)
    return model


# What one rank computes by itself is the same whatever the ranks share: each computes it once.


@cache
def whole(kind: str, how: str) -> WanTransformer3DModel:
    """The same, shared with nobody, its adapter ``live`` or ``merged``."""
    with torch.inference_mode(False):
        model = transformer(kind)
        if how == "merged":
            merge(model, {"style": 1.0}, keep=False)
        return model


@cache
def expected_output(kind: str, how: str, size: tuple[int, int, int]) -> torch.Tensor:
    return predicted(whole(kind, how), kind, size)


@cache
def expected_gradient(kind: str, size: tuple[int, int, int], number: int) -> torch.Tensor:
    return flat(list(gradients(whole(kind, "live"), kind, size, number)))


def predicted(model: WanTransformer3DModel, kind: str, size: tuple[int, int, int], number: int = 0) -> torch.Tensor:
    """The velocity of a sample."""
    generator = torch.Generator().manual_seed(5 + number)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    images = {
        "i2v": lambda: ImageCondition(draw(1, 16, *size), draw(1, 257, 32)),
        "TI2V-5B": lambda: ImageCondition(draw(1, 16, 1, *size[1:])),
    }
    image, family = images[kind]() if kind in images else None, FirstFrameCondition if kind == "TI2V-5B" else Condition
    latents = draw(1, 16, *size)
    return family(draw(1, 512, 32), image).predict(model, latents, torch.tensor([700.0]))


@dataclass(frozen=True)
class Found:
    """What a rank found of a way to share: how far outputs and gradients are from one rank's, and the bytes it sent."""

    outputs: dict[str, float]
    gradients: dict[str, float]
    sent: dict[str, int]
    sent_in_training: dict[str, int]


def examine(ways: list[tuple[int, int]]) -> list[Found]:
    """All ways to share that this many ranks have."""
    with process_group(rank_info()):
        return [examined_as(*way) for way in ways]


def examined_as(ring: int, ulysses: int) -> Found:
    with torch.inference_mode():
        outputs = differences(ring, ulysses)
    return Found(outputs, gradient_differences(ring, ulysses), *bytes_sent(ring, ulysses))


def differences(ring: int, ulysses: int) -> dict[str, float]:
    """How far the shared transformer's outputs are from the whole one's, which each rank also has, in units."""
    found = {}
    for kind in KINDS:
        shared = transformer(kind)
        share(shared, ring, ulysses)
        for how in ("live", "merged"):
            if how == "merged":
                merge(shared, {"style": 1.0}, keep=False)
            for size in (EVEN, UNEVEN, FEW):
                found[f"{kind} {how} {size}"] = units(predicted(shared, kind, size), expected_output(kind, how, size))
        with alone(shared):
            assert torch.equal(predicted(shared, kind, UNEVEN), expected_output(kind, "merged", UNEVEN))
    return found


def gradients(
    model: WanTransformer3DModel, kind: str, size: tuple[int, int, int], number: int
) -> Iterator[torch.Tensor]:
    """Of the mean square of the velocity of a sample, for every factor of the adapter."""
    model.zero_grad()
    predicted(model, kind, size, number).square().mean().backward()
    for parameter in trainable(model, "style"):
        assert parameter.grad is not None
        yield parameter.grad.clone()


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def gradient_differences(ring: int, ulysses: int) -> dict[str, float]:
    """How far the mean of all ranks' gradients is from one process', which sees all data ranks' samples, relatively,
    in rounding units."""
    found, rank = {}, rank_info()
    sequences = rank.world_size // (ring * ulysses)
    for kind in KINDS:
        shared = transformer(kind)
        share(shared, ring, ulysses)
        arrange(shared.train(), Policy(recompute=1))
        for size in (EVEN, UNEVEN, FEW):
            ours = list(gradients(shared, kind, size, rank.global_rank // (ring * ulysses)))
            for gradient in ours:
                dist.all_reduce(gradient)
            expected = sum(expected_gradient(kind, size, number) for number in range(sequences)) / sequences
            found[f"{kind} {size}"] = float((flat(ours) / rank.world_size - expected).norm() / expected.norm()) / EPS
    return found


def bytes_sent(ring: int, ulysses: int) -> Iterator[dict[str, int]]:
    """In a prediction, and in a step without recomputed blocks."""
    model = transformer("t2v")
    share(model, ring, ulysses)
    for training in (False, True):
        SENT.clear()
        with torch.set_grad_enabled(training):
            velocity = predicted(model, "t2v", UNEVEN)
        if training:
            velocity.sum().backward()
        yield dict(SENT)


ULYSSES, RING, BOTH = [(2, 1, 2), (4, 1, 4)], [(2, 2, 1), (3, 3, 1), (4, 4, 1)], [(4, 2, 2)]
SEVERAL = [(4, 1, 2), (4, 2, 1)]
"""Ranks, ring, ulysses; the last of two sequences at once."""


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], Found]:
    """What ranks find, who are started once for each number of them."""

    @cache
    def of_ranks(ranks: int) -> dict[tuple[int, int, int], Found]:
        ways = [way for way in (*ULYSSES, *RING, *BOTH, *SEVERAL) if way[0] == ranks]
        log_dir = tmp_path_factory.mktemp("logs")
        told = on_ranks(examine, [way[1:] for way in ways], ranks=ranks, log_dir=log_dir)
        said = (log_dir / "rank-0.log").read_text().splitlines()[1:]
        assert said == [], "to share a sequence is no reason to warn"
        return dict(zip(ways, told, strict=True))

    return lambda *way: of_ranks(way[0])[way]


Examined = Callable[[int, int, int], Found]


@pytest.mark.parametrize("ways", ULYSSES, ids=str)
def test_ulysses_changes_no_bit(ways: tuple[int, int, int], examined: Examined):
    outputs = examined(*ways).outputs
    few = {name: off for name, off in outputs.items() if str(FEW) in name}
    assert {off for name, off in outputs.items() if name not in few} == {0.0}, outputs
    assert max(few.values()) <= SUMS, "a matrix of one row is multiplied by another kernel"


@pytest.mark.parametrize("ways", [*RING, *BOTH], ids=str)
def test_a_ring_rounds_otherwise_and_no_more(ways: tuple[int, int, int], examined: Examined):
    outputs = examined(*ways).outputs
    assert max(outputs.values()) <= LAYERS, outputs


@pytest.mark.parametrize("ways", [*ULYSSES, *RING, *BOTH, *SEVERAL], ids=str)
def test_gradients_are_those_of_one_process(ways: tuple[int, int, int], examined: Examined):
    gradients = examined(*ways).gradients
    few = {name: off for name, off in gradients.items() if str(FEW) in name}
    assert max(off for name, off in gradients.items() if name not in few) <= SUMS, gradients
    assert max(few.values()) <= LAYERS, gradients


@pytest.mark.parametrize("ways", [*ULYSSES, *RING, *BOTH], ids=str)
def test_bytes_sent_are_those_of_the_formulas(ways: tuple[int, int, int], examined: Examined):
    """Of 45 tokens, 128 wide in float32.

    In a block Ulysses sends queries, keys, values and outputs, the ring keys and values. Backwards heads go once more, keys
    and values too, and their gradients all the way round.
    """
    (ranks, ring, ulysses), found = ways, examined(*ways)
    unit = SMALL["num_layers"] * -(-45 // ranks) * 128 * 4
    heads, hop = 4 * unit * (ulysses - 1) / ulysses, 2 * unit
    gathered = -(-45 // ranks) * 64 * 4 * (ranks - 1)
    drawing = {"heads": heads, "ring": (ring - 1) * hop, "gather": gathered}
    training = {"heads": 2 * heads, "ring": (2 * (ring - 1) + ring * (ring > 1)) * hop, "gather": gathered}
    assert {kind: found.sent.get(kind, 0) for kind in drawing} == drawing
    assert {kind: found.sent_in_training.get(kind, 0) for kind in training} == training
