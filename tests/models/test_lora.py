"""The laws of LoRA, on small real Wan transformers."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from rounding import LAYERS, SUMS, units
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.lora_layers import (
    adapter_effect,
    adapter_state,
    add_adapter,
    check_fits,
    load_adapter,
    load_adapter_state,
    merge,
    set_scales,
    trainable,
    unmerge,
)
from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError
from tools.scale_model import build_pair

MakeWan = Callable[..., WanTransformer3DModel]
RunWan = Callable[[WanTransformer3DModel], Tensor]
STYLE, MOTION = LoraSpec(rank=4, alpha=8.0), LoraSpec(rank=3, alpha=5.0, targets="all_linear")


def learn(transformer: WanTransformer3DModel, name: str, seed: int = 7, size: float = 0.1) -> dict[str, Tensor]:
    """Give an adapter random factors, as if it had learnt."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: factor.shape for key, factor in adapter_state(transformer, name).items()}
    load_adapter_state(transformer, name, {k: torch.randn(s, generator=generator) * size for k, s in shapes.items()})
    return {key: factor.clone() for key, factor in adapter_state(transformer, name).items()}


def base_weights(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    return {
        key.replace(".base_layer", ""): value.clone()
        for key, value in transformer.state_dict().items()
        if "lora_" not in key
    }


def trains(transformer: WanTransformer3DModel) -> set[str]:
    """The names of what trains, without ``.weight``."""
    return {key.removesuffix(".weight") for key, p in transformer.named_parameters() if p.requires_grad}


@pytest.fixture
def pair(make_wan: MakeWan) -> WanTransformer3DModel:
    """I2V with a learnt style and a learnt motion adapter."""
    transformer = make_wan("i2v")
    add_adapter(transformer, "style", STYLE, seed=0)
    learn(transformer, "style", 1)
    add_adapter(transformer, "motion", MOTION, seed=0)
    learn(transformer, "motion", 2)
    return transformer


# -- what is adapted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "targets", "per_block"),
    [
        ("t2v", "cross_attention", 4),
        ("i2v", "cross_attention", 6),
        ("t2v", "attention", 8),
        ("i2v", "attention", 10),
        ("t2v", "all_linear", 10),
        ("i2v", "all_linear", 12),
    ],
)
def test_targets_name_the_projections_of_every_block(make_wan: MakeWan, kind: str, targets: str, per_block: int):
    transformer = make_wan(kind)
    modules = add_adapter(transformer, "style", LoraSpec(2, 4.0, targets=targets), seed=0)
    assert len(modules) == 2 * per_block
    assert set(adapter_state(transformer, "style")) == {f"{m}.lora_{f}.weight" for m in modules for f in "AB"}


def test_all_linear_is_every_linear_of_the_blocks(make_wan: MakeWan):
    linear = {
        name
        for name, module in make_wan("i2v").named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("blocks.")
    }
    assert set(add_adapter(make_wan("i2v"), "style", MOTION, seed=0)) == linear


def test_a_model_that_is_no_wan_is_refused():
    with pytest.raises(AdapterError, match="targets=cross_attention matches nothing in Linear"):
        add_adapter(torch.nn.Linear(2, 2), "style", STYLE, seed=0)


def test_a_name_is_given_once(pair: WanTransformer3DModel):
    with pytest.raises(ValueError, match="already has an adapter named style"):
        add_adapter(pair, "style", STYLE, seed=0)


# -- the start ---------------------------------------------------------------------------------------------------------


def test_a_new_adapter_changes_nothing(make_wan: MakeWan, run_wan: RunWan):
    transformer = make_wan("i2v")
    before = run_wan(transformer)
    add_adapter(transformer, "style", MOTION, seed=0)
    assert torch.equal(run_wan(transformer), before)


def test_a_new_adapter_is_uniform_in_a_and_zero_in_b(make_wan: MakeWan):
    transformer = make_wan()
    random_state = torch.get_rng_state()
    add_adapter(transformer, "style", LoraSpec(8, 8.0), seed=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, factor in adapter_state(transformer, "style").items():
        assert factor.dtype is torch.float32
        if ".lora_A." in key:
            assert 0.95 / 128**0.5 < factor.abs().max() <= 1 / 128**0.5
            assert abs(factor.std() * (3 * 128) ** 0.5 - 1) < 0.1
        else:
            assert not factor.any()


def test_the_start_depends_on_seed_name_and_projection_alone(make_wan: MakeWan):
    def start(seed: int, order: list[str], name: str = "style", kind: str = "t2v") -> dict[str, Tensor]:
        transformer = make_wan(kind)
        for added in order:
            add_adapter(transformer, added, MOTION if added == "motion" else STYLE, seed)
        return adapter_state(transformer, name)

    first, later = start(0, ["style"]), start(0, ["motion", "style"])
    other_kind, other_seed = start(0, ["style"], kind="i2v"), start(1, ["style"])
    assert all(torch.equal(first[key], later[key]) and torch.equal(first[key], other_kind[key]) for key in first)
    drawn = [first[key] for key in first if ".lora_A." in key]
    assert not any(torch.equal(first[key], other_seed[key]) for key in first if ".lora_A." in key)
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


# -- training ----------------------------------------------------------------------------------------------------------


def step(transformer: WanTransformer3DModel, run_wan: RunWan, name: str) -> None:
    optimizer = torch.optim.SGD(trainable(transformer, name), lr=1.0)
    run_wan(transformer).square().mean().backward()
    optimizer.step()


def test_a_step_moves_the_adapter_and_nothing_else(make_wan: MakeWan, run_wan: RunWan):
    transformer = make_wan("i2v")
    before, output = base_weights(transformer), run_wan(transformer)
    add_adapter(transformer, "style", STYLE, seed=0)
    step(transformer, run_wan, "style")
    after = base_weights(transformer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(factor.any() for factor in adapter_state(transformer, "style").values())
    assert not torch.equal(run_wan(transformer), output)


def test_a_second_adapter_trains_on_top_of_the_first(pair: WanTransformer3DModel, run_wan: RunWan):
    style = {key: factor.clone() for key, factor in adapter_state(pair, "style").items()}
    assert len(trains(pair)) == 48
    assert all(key.endswith(".motion") for key in trains(pair))
    step(pair, run_wan, "motion")
    assert all(torch.equal(style[key], factor) for key, factor in adapter_state(pair, "style").items())
    both = run_wan(pair)
    set_scales(pair, {"motion": 1.0})
    assert not torch.equal(run_wan(pair), both)


def test_choosing_weights_leaves_training_alone(pair: WanTransformer3DModel):
    before = trains(pair)
    for weights in ({}, {"style": 1.0}, {"motion": 0.0}, {"style": 1.0, "motion": 1.0}):
        set_scales(pair, weights)
        assert trains(pair) == before


def test_dropout_acts_in_training_alone_and_only_on_what_trains(make_wan: MakeWan, run_wan: RunWan):
    spec = replace(STYLE, dropout=0.5)
    teacher = make_wan()
    add_adapter(teacher, "style", spec, seed=0)
    state = learn(teacher, "style")
    still = run_wan(teacher)
    assert torch.equal(run_wan(teacher), still)
    assert not torch.equal(run_wan(teacher.train()), still)
    frozen = make_wan().train()
    load_adapter(frozen, "style", AdapterFile(state, spec, "style"), "tiny")
    assert torch.equal(run_wan(frozen), still)


# -- weights -----------------------------------------------------------------------------------------------------------


def by_hand(make_wan: MakeWan, run_wan: RunWan, pair: WanTransformer3DModel, weights: dict[str, float]) -> Tensor:
    """The output of a base whose weights were changed by the formula."""
    base = make_wan("i2v")
    layers = dict(base.named_modules())
    for name, weight in weights.items():
        state, scale = adapter_state(pair, name), {"style": STYLE, "motion": MOTION}[name].scale
        for key in [key for key in state if ".lora_A." in key]:
            update = state[key.replace("lora_A", "lora_B")].double() @ state[key].double()
            layer = layers[key.removesuffix(".lora_A.weight")]
            layer.weight.copy_(layer.weight.double() + weight * scale * update)
    return run_wan(base)


@torch.no_grad()
@pytest.mark.parametrize(
    "weights", [{"style": 1.0}, {"motion": 0.7}, {"style": 0.5, "motion": 1.3}, {"style": -0.4, "motion": 1.0}]
)
def test_adapters_sum_with_their_weights(
    make_wan: MakeWan, run_wan: RunWan, pair: WanTransformer3DModel, weights: dict[str, float]
):
    expected = by_hand(make_wan, run_wan, pair, weights)
    set_scales(pair, weights)
    live = run_wan(pair)
    assert units(live, expected) <= LAYERS
    assert (live - run_wan(make_wan("i2v"))).abs().max() > 1e-2
    set_scales(pair, dict(reversed(weights.items())))
    assert torch.equal(run_wan(pair), live)


@torch.no_grad()
@pytest.mark.parametrize("weights", [{}, {"style": 0.0}, {"style": 0.0, "motion": 0.0}])
def test_weight_zero_is_the_base(
    make_wan: MakeWan, run_wan: RunWan, pair: WanTransformer3DModel, weights: dict[str, float]
):
    for name in ("style", "motion"):  # off, not times zero: even a broken adapter does no harm
        state = adapter_state(pair, name)
        load_adapter_state(pair, name, {key: factor * float("nan") for key, factor in state.items()})
    set_scales(pair, weights)
    assert torch.equal(run_wan(pair), run_wan(make_wan("i2v")))


def test_weights_of_an_adapter_that_is_not_there_are_refused(pair: WanTransformer3DModel):
    with pytest.raises(ValueError, match="no adapter named styl"):
        set_scales(pair, {"styl": 1.0})


# -- merging -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_merged_equals_live_and_unmerged_equals_before(pair: WanTransformer3DModel, run_wan: RunWan):
    weights = {"style": 0.5, "motion": 1.25}
    before, states = base_weights(pair), {name: adapter_state(pair, name) for name in weights}
    set_scales(pair, weights)
    live = run_wan(pair)
    merge(pair, weights)
    assert units(run_wan(pair), live) <= LAYERS
    after = base_weights(pair)
    for key in before:
        module, expected = key.removesuffix(".weight"), before[key]
        for name, spec in (("style", STYLE), ("motion", MOTION)):
            if key.endswith(".weight") and f"{module}.lora_A.weight" in states[name]:
                down, up = (states[name][f"{module}.lora_{factor}.weight"] for factor in "AB")
                expected = expected + weights[name] * spec.scale * up @ down
        assert units(after[key], expected) <= SUMS
    unmerge(pair)
    restored = base_weights(pair)
    assert all(torch.equal(restored[key], before[key]) for key in before)
    assert torch.equal(run_wan(pair), live)


@torch.no_grad()
def test_merging_one_adapter_silences_the_other(pair: WanTransformer3DModel, run_wan: RunWan):
    set_scales(pair, {"style": 0.8})
    alone = run_wan(pair)
    merge(pair, {"style": 0.8})
    assert units(run_wan(pair), alone) <= LAYERS


def test_what_is_merged_cannot_be_merged_weighted_or_loaded_again(pair: WanTransformer3DModel):
    merge(pair, {"style": 1.0})
    state = adapter_state(pair, "style")
    attempts: list[Callable[[], object]] = [
        lambda: merge(pair, {"style": 1.0}),
        lambda: set_scales(pair, {"style": 0.5}),
        lambda: load_adapter_state(pair, "style", state),
        lambda: add_adapter(pair, "third", STYLE, seed=0),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match="unmerge it first"):
            attempt()
    unmerge(pair)
    unmerge(pair)
    set_scales(pair, {"style": 0.5})


@torch.no_grad()
def test_what_is_merged_for_good_equals_live_and_stays(pair: WanTransformer3DModel, run_wan: RunWan):
    set_scales(pair, {"style": 0.5})
    live = run_wan(pair)
    merge(pair, {"style": 0.5}, keep=False)
    assert units(run_wan(pair), live) <= LAYERS
    with pytest.raises(RuntimeError, match="merged into the weights permanently: load the transformer again"):
        unmerge(pair)


@torch.no_grad()
def test_a_bf16_base_takes_float32_adapters_and_rounds_once(make_wan: MakeWan, run_wan: RunWan):
    base = make_wan("i2v").to(torch.bfloat16)
    before, output = base_weights(base), run_wan(base)
    add_adapter(base, "style", STYLE, seed=0)
    assert torch.equal(run_wan(base), output)
    state = learn(base, "style", size=0.2)
    assert {factor.dtype for factor in adapter_state(base, "style").values()} == {torch.float32}
    live = run_wan(base)
    assert live.dtype is torch.bfloat16
    assert not torch.equal(live, output)
    merge(base, {"style": 1.0})
    for key, after in base_weights(base).items():
        down = state.get(key.replace(".weight", ".lora_A.weight"))
        if down is not None:
            up = state[key.replace(".weight", ".lora_B.weight")]
            assert torch.equal(after, (before[key].float() + up @ down * STYLE.scale).to(torch.bfloat16))
    unmerge(base)
    assert all(torch.equal(value, before[key]) for key, value in base_weights(base).items())


# -- state -------------------------------------------------------------------------------------------------------------


def test_factors_load_strictly(make_wan: MakeWan):
    transformer = make_wan()
    add_adapter(transformer, "style", STYLE, seed=0)
    state = learn(transformer, "style")
    missing, strange = dict(state), {**state, "blocks.9.attn2.to_q.lora_A.weight": torch.zeros(1)}
    del missing["blocks.1.attn2.to_q.lora_B.weight"]
    wide = {**state, "blocks.0.attn2.to_q.lora_A.weight": torch.zeros(16, 128)}
    with pytest.raises(AdapterError, match=r"1 missing: blocks\.1\.attn2\.to_q\.lora_B"):
        load_adapter_state(transformer, "style", missing)
    with pytest.raises(AdapterError, match=r"1 unknown: blocks\.9\.attn2"):
        load_adapter_state(transformer, "style", strange)
    with pytest.raises(AdapterError, match=r"\(16, 128\), the style adapter has \(4, 128\)"):
        load_adapter_state(transformer, "style", wide)
    assert all(torch.equal(state[key], factor) for key, factor in adapter_state(transformer, "style").items())


@torch.no_grad()
def test_saved_and_loaded_gives_the_same_output(make_wan: MakeWan, run_wan: RunWan, tmp_path: Path):
    first, second = make_wan("i2v"), make_wan("i2v")
    add_adapter(first, "motion", MOTION, seed=0)
    state = learn(first, "motion")
    exact = replace(MOTION, rank=4, alpha=8.0)
    for spec, tolerance in ((exact, 0.0), (MOTION, 1e-6)):
        first = make_wan("i2v")
        add_adapter(first, "motion", spec, seed=0)
        state = learn(first, "motion")
        export_adapter(tmp_path / "motion.safetensors", AdapterFile(state, spec, "motion", transformer="i2v"))
        second = make_wan("i2v")
        load_adapter(second, "motion", read_adapter(tmp_path / "motion.safetensors"), "tiny")
        assert (run_wan(first) - run_wan(second)).abs().max() <= tolerance
        assert not trains(second)


# -- other transformers ------------------------------------------------------------------------------------------------


def adapter_of(transformer: WanTransformer3DModel, spec: LoraSpec = STYLE, base_model: str = "tiny") -> AdapterFile:
    add_adapter(transformer, "style", spec, seed=0)
    kind = "i2v" if transformer.config.image_dim else "t2v"
    return AdapterFile(learn(transformer, "style"), spec, "style", base_model=base_model, transformer=kind)


@torch.no_grad()
def test_a_t2v_adapter_leaves_the_image_projections_of_i2v_alone(make_wan: MakeWan, run_wan: RunWan):
    style, transformer = adapter_of(make_wan("t2v")), make_wan("i2v")
    before = run_wan(transformer)
    assert set(load_adapter(transformer, "style", style, "tiny")) == set(style.modules)
    assert len(style.modules) == 8
    assert not torch.equal(run_wan(transformer), before)


def test_an_i2v_adapter_on_t2v_says_what_it_leaves_out(make_wan: MakeWan, capsys: pytest.CaptureFixture[str]):
    modules = load_adapter(make_wan("t2v"), "style", adapter_of(make_wan("i2v")), "tiny")
    assert len(modules) == 8
    assert (
        "changes 4 image projections that this transformer of tiny does not have: they are left out"
        in capsys.readouterr().out
    )


def test_an_adapter_of_another_base_is_refused_with_both_sides(make_wan: MakeWan):
    deep = adapter_of(make_wan("t2v", num_layers=3), base_model="deep")
    with pytest.raises(AdapterError, match=r"of deep .* 3 blocks does not fit model=tiny with 2"):
        check_fits(deep, make_wan("t2v"), "tiny")
    with pytest.raises(AdapterError, match=r"of tiny .* 2 blocks does not fit model=deep with 3"):
        check_fits(adapter_of(make_wan("t2v")), make_wan("t2v", num_layers=3), "deep")
    wide = adapter_of(make_wan("t2v", num_attention_heads=6), base_model="wide")
    with pytest.raises(AdapterError, match="192x192 does not fit model=tiny with 128x128"):
        load_adapter(make_wan("t2v"), "style", wide, "tiny")


def test_an_adapter_still_fits_beside_another(make_wan: MakeWan):
    transformer = make_wan("i2v")
    load_adapter(transformer, "style", adapter_of(make_wan("t2v")), "tiny")
    load_adapter(transformer, "motion", adapter_of(make_wan("i2v"), MOTION), "tiny")


def test_a_foreign_adapter_may_leave_projections_out(make_wan: MakeWan):
    whole = adapter_of(make_wan("i2v", num_layers=4), MOTION, base_model="")
    # 24 projections: peft shortens lists of 20 and more, which must not widen them
    some = {key: factor for key, factor in whole.state.items() if key.startswith(("blocks.0.", "blocks.2."))}
    transformer = make_wan("i2v", num_layers=4)
    modules = load_adapter(transformer, "style", replace(whole, state=some), "tiny")
    assert len(modules) == 24
    assert set(adapter_state(transformer, "style")) == set(some)


def test_use_on_a_sibling_model_is_told(make_wan: MakeWan, capsys: pytest.CaptureFixture[str]):
    check_fits(adapter_of(make_wan("t2v"), base_model="small"), make_wan("t2v"), "tiny")
    assert "trained on small and is used on tiny" in capsys.readouterr().out


# -- effect ------------------------------------------------------------------------------------------------------------


def relative_norm(transformer: WanTransformer3DModel, state: dict[str, torch.Tensor]) -> float:
    """``|scale B A| / |W|`` over all projections of a ``STYLE`` adapter, formed in full."""
    weights = base_weights(transformer)
    downs = [key for key in state if ".lora_A." in key]
    updates = [STYLE.scale * (state[key.replace("lora_A", "lora_B")] @ state[key]) for key in downs]
    bases = [weights[key.replace("lora_A.", "")] for key in downs]
    changed, there = (torch.stack([value.norm() for value in values]).norm() for values in (updates, bases))
    return float(changed / there)


def test_effect_is_the_relative_norm_over_all_projections(make_wan: MakeWan):
    transformer = make_wan("i2v")
    add_adapter(transformer, "style", STYLE, seed=0)
    assert adapter_effect(transformer, "style") == 0
    state = learn(transformer, "style")
    expected = pytest.approx(relative_norm(transformer, state), rel=1e-5)
    assert adapter_effect(transformer, "style") == expected
    set_scales(transformer, {"style": 0.5})
    assert adapter_effect(transformer, "style") == expected
    merge(transformer, {"style": 1.0})
    assert adapter_effect(transformer, "style") == expected
    unmerge(transformer)
    broken = {key: factor * float("nan") for key, factor in state.items()}
    load_adapter_state(transformer, "style", broken)
    assert adapter_effect(transformer, "style") != adapter_effect(transformer, "style")


def test_effect_on_projections_that_are_still_zero_is_a_number(make_wan: MakeWan):
    transformer = build_pair.silence_image(make_wan("i2v"))
    add_adapter(transformer, "style", STYLE, seed=0)
    assert adapter_effect(transformer, "style") == 0
    state = learn(transformer, "style")
    assert 0 < adapter_effect(transformer, "style") == pytest.approx(relative_norm(transformer, state), rel=1e-5)


def test_the_file_room_needs_no_torch():
    code = (
        "import sys, cinelora.adapters.adapter_file; sys.exit(bool({'torch', 'peft', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_factors_lie_where_the_transformer_computes_wherever_its_weights_wait(make_wan: MakeWan):
    transformer = make_wan("t2v")
    transformer.patch_embedding.to("meta")
    add_adapter(transformer, "style", STYLE, seed=0)
    assert {factor.device.type for factor in adapter_state(transformer, "style").values()} == {"meta"}
