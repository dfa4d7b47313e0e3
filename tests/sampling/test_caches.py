"""Caches between steps: at threshold 0 nothing changes, above it blocks are skipped, and no clip knows of the one before."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from rank_pool import on_ranks
from rounding import EPS, LAYERS, units

from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.families.wan.bundle import WanBundle
from cinelora.memory.block_swap import arrange
from cinelora.parallel.launch import Rank, process_group, rank_info
from cinelora.parallel.partition import Partition, partition
from cinelora.planning.estimate import Policy
from cinelora.sampling.sampler import Sampling, Shown, Texts, initial_noise
from cinelora.sampling.step_cache import cached

STEPS = 6
RATIOS = [1.0, *(0.99 for _ in range(STEPS - 1))]
SAMPLER = SamplerConfig(steps=STEPS, guidance=3.0)
ALONE = Partition(1, 1, 1)
ONE = Rank(0, 0, 1)
CACHES = {
    "first_block": replace(SAMPLER, cache="first_block", cache_threshold=0.5),
    "taylorseer": replace(SAMPLER, cache="taylorseer", cache_threshold=2.0),
    "magcache": replace(SAMPLER, cache="magcache", cache_threshold=0.5, cache_ratios=RATIOS),
}


@pytest.fixture(scope="module")
def transformer(t2v: WanBundle) -> WanTransformer3DModel:
    return t2v.load_transformer().eval()


@pytest.fixture(scope="module")
def texts(t2v: WanBundle) -> Texts:
    generator = torch.Generator().manual_seed(1)
    width = t2v.load_transformer().config.text_dim
    return Texts(*(torch.randn(1, 512, width, generator=generator) for _ in range(2)))


@contextmanager
def counted(transformer: WanTransformer3DModel) -> Iterator[Counter[int]]:
    """How often each block is really computed."""
    found: Counter[int] = Counter()
    hooks = [
        block.attn1.register_forward_hook(lambda *_, number=number: found.update([number]))
        for number, block in enumerate(transformer.blocks)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def drawn(
    transformer: WanTransformer3DModel,
    texts: Texts,
    model: ModelConfig,
    sampler: SamplerConfig,
    seed: int = 0,
    together: bool = True,
    plan: Partition = ALONE,
    rank: Rank = ONE,
    frames: int = 5,
) -> torch.Tensor:
    noise = initial_noise(seed, "clip", model, frames, torch.device("cpu"))
    return Sampling(model, sampler, plan, rank).run(transformer, Shown(texts, None, noise, "t2v"), "clip", together)


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("together", [True, False])
def test_a_threshold_of_nothing_changes_nothing(
    name: str, together: bool, transformer: WanTransformer3DModel, texts: Texts, small_model: ModelConfig
):
    never = replace(CACHES[name], cache_threshold=0.0)
    with counted(transformer) as computed:
        ours = drawn(transformer, texts, small_model, never, together=together)
    plain = drawn(transformer, texts, small_model, SAMPLER, together=together)
    assert torch.equal(ours, plain)
    assert set(computed.values()) == {STEPS if together else 2 * STEPS}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("together", [True, False])
def test_above_it_blocks_are_skipped_and_the_clip_is_another(
    name: str, together: bool, transformer: WanTransformer3DModel, texts: Texts, small_model: ModelConfig
):
    with counted(transformer) as computed:
        ours = drawn(transformer, texts, small_model, CACHES[name], together=together)
    plain = drawn(transformer, texts, small_model, SAMPLER, together=together)
    whole = STEPS if together else 2 * STEPS
    last = len(transformer.blocks) - 1
    assert 0 < computed[last] < whole
    assert computed[0] == (whole if name == "first_block" else computed[last])
    assert torch.isfinite(ours).all()
    assert not torch.equal(ours, plain)
    assert (ours - plain).norm() < plain.norm()


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("together", [True, False])
def test_each_clip_of_a_row_is_the_clip_alone(
    name: str, together: bool, transformer: WanTransformer3DModel, texts: Texts, small_model: ModelConfig
):
    row = [drawn(transformer, texts, small_model, CACHES[name], seed, together) for seed in (0, 1, 0)]
    assert torch.equal(row[0], row[2])
    assert not torch.equal(row[0], row[1])


def test_the_halves_of_guidance_remember_their_own_steps(
    transformer: WanTransformer3DModel, texts: Texts, small_model: ModelConfig
):
    """Taylor's series is the same in one batch and in turn only where each half is foretold from itself."""
    pair = (drawn(transformer, texts, small_model, CACHES["taylorseer"], together=t) for t in (True, False))
    torch.testing.assert_close(*pair, rtol=0, atol=1e-3)


def test_calibration_changes_nothing_and_gives_a_ratio_for_each_step(
    transformer: WanTransformer3DModel,
    texts: Texts,
    small_model: ModelConfig,
    capsys: pytest.CaptureFixture[str],
):
    calibrating = replace(SAMPLER, cache="calibrate")
    ours = drawn(transformer, texts, small_model, calibrating)
    assert torch.equal(ours, drawn(transformer, texts, small_model, SAMPLER))
    said = capsys.readouterr().out.split("sampler.cache=magcache sampler.cache_ratios=")[1]
    ratios = [float(word) for word in said.strip().strip("[]").split(",")]
    assert len(ratios) == STEPS
    assert ratios[0] == 1.0
    assert all(0.1 < ratio < 10 for ratio in ratios)


@pytest.mark.parametrize("name", CACHES)
def test_the_transformer_is_afterwards_as_it_was(
    name: str, transformer: WanTransformer3DModel, small_model: ModelConfig
):
    whole = [block.forward for block in transformer.blocks]
    with cached(transformer, CACHES[name], range(CACHES[name].steps)):
        assert transformer.is_cache_enabled
        assert all(block.forward != before for block, before in zip(transformer.blocks, whole, strict=True))
    assert not transformer.is_cache_enabled
    assert [block.forward for block in transformer.blocks] == whole


@pytest.mark.parametrize("name", CACHES)
def test_blocks_with_weights_on_the_host_are_skipped_alike(
    name: str, t2v: WanBundle, transformer: WanTransformer3DModel, texts: Texts, small_model: ModelConfig
):
    swapped = t2v.load_transformer(on_host=4).eval()
    arrange(swapped, Policy(recompute=4, swap=4))
    ours = drawn(swapped, texts, small_model, CACHES[name])
    assert torch.equal(ours, drawn(transformer, texts, small_model, CACHES[name]))


SMALL = {"num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}


def across_ranks(plan: Partition, model: ModelConfig) -> dict[str, tuple[float, bool]]:
    """With each cache: how many units a clip of all ranks is from that of one, and whether they skipped the same blocks."""
    torch.manual_seed(3)
    whole, split = (WanTransformer3DModel(**SMALL, num_layers=3).eval() for _ in range(2))
    split.load_state_dict(whole.state_dict())
    generator = torch.Generator().manual_seed(5)
    texts = Texts(*(torch.randn(1, 512, 32, generator=generator) for _ in range(2)))
    found, rank = {}, rank_info()
    with process_group(rank):
        partition(split, plan)
        for name, sampler in CACHES.items():
            with counted(split) as ours_ran, counted(whole) as whole_ran:
                ours = drawn(split, texts, model, sampler, together=False, plan=plan, rank=rank, frames=9)
                alone = drawn(whole, texts, model, sampler, together=False, frames=9)
            alike = ours_ran == whole_ran or plan.groups == 2
            found[name] = (units(ours, alone), alike)
        sampler = replace(SAMPLER, cache="calibrate")
        clips = [(split, plan, rank), (whole, ALONE, ONE)]
        ours, alone = (ratios_of(one, texts, model, sampler, where, who) for one, where, who in clips)
        found["calibrate"] = (max(abs(a - b) for a, b in zip(ours, alone, strict=True)) / EPS, True)
    return found


def ratios_of(
    one: WanTransformer3DModel, texts: Texts, model: ModelConfig, sampler: SamplerConfig, plan: Partition, rank: Rank
) -> list[float]:
    noise = initial_noise(1, "t2v-9", model, 9, torch.device("cpu"))
    sampling, shown = Sampling(model, sampler, plan, rank), Shown(texts, None, noise, "t2v")
    course = sampling.begin(shown)
    sampling.go_on(course, one, shown, "clip", together=False)
    return course.ratios


@pytest.mark.parametrize("plan", [Partition(1, 1, 4), Partition(1, 2, 1), Partition(2, 1, 1)], ids=str)
def test_ranks_skip_together(plan: Partition, small_model: ModelConfig, tmp_path: Path):
    """A clip of 18 tokens, which four ranks cannot share evenly."""
    found = on_ranks(across_ranks, plan, small_model, ranks=plan.ranks, log_dir=tmp_path)
    assert all(off <= STEPS * LAYERS and alike for off, alike in found.values()), found
