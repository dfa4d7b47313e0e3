"""Caches between steps: at threshold 0 nothing changes, above it blocks are skipped, and no clip knows of the one before."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.launch import Rank, launch, process_group, rank_info
from cinelora.models.footprint import Policy
from cinelora.models.memory import arrange
from cinelora.models.wan import WanBundle
from cinelora.sampling.caches import cached
from cinelora.sampling.generate import Sampling, Texts, initial_noise
from cinelora.sampling.partition import Partition, partition

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
) -> torch.Tensor:
    noise = initial_noise(seed, "clip", model, 5, torch.device("cpu"))
    return Sampling(model, sampler, plan, rank).run(transformer, texts, None, noise, "clip", together)


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
    with cached(transformer, CACHES[name]):
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


def across_ranks(plan: Partition, name: str, model: ModelConfig) -> float:
    """How far a clip of all ranks is from that of one."""
    torch.manual_seed(3)
    whole, split = (WanTransformer3DModel(**SMALL, num_layers=3).eval() for _ in range(2))
    split.load_state_dict(whole.state_dict())
    generator = torch.Generator().manual_seed(5)
    texts = Texts(*(torch.randn(1, 512, 32, generator=generator) for _ in range(2)))
    rank = rank_info()
    with process_group(rank):
        partition(split, plan, rank)
        ours = drawn(split, texts, model, CACHES[name], plan=plan, rank=rank)
        alone = drawn(whole, texts, model, CACHES[name], together=False)
    return float((ours - alone).abs().max())


@pytest.mark.parametrize(
    ("plan", "name"), [(Partition(1, 1, 2), "taylorseer"), *((Partition(2, 1, 1), name) for name in CACHES)], ids=str
)
def test_ranks_skip_together(plan: Partition, name: str, small_model: ModelConfig, tmp_path: Path):
    assert launch(across_ranks, plan, name, small_model, ranks=2, log_dir=tmp_path) <= 1e-4
