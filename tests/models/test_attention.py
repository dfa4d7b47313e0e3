"""Laws of attention backends: a faster one is taken, a wrong or failing one never, and each gives native's numbers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from rounding import EPS, LAYERS, SUMS, units
from torch import Tensor
from torch.profiler import profile

from cinelora.config.schema import ATTENTION_BACKENDS, ModelConfig
from cinelora.errors import ConfigError
from cinelora.memory.block_swap import arrange
from cinelora.nn.attention_backend import (
    MOST_TOKENS,
    NATIVE,
    ROUNDING,
    STRIDE,
    Comparison,
    Trial,
    Work,
    choose,
    compare,
    distance,
    is_installed,
    require,
    set_backend,
)
from cinelora.planning.estimate import Policy

CPU = torch.device("cpu")
MODEL = ModelConfig(name="tiny", hidden_size=128, num_heads=4, dtype="bf16")
WORK = Work.of(MODEL, "i2v", 70, backward=True)
MATH = "_native_math"  # no candidate, but the one other backend that a CPU always has
RunWan = Callable[[WanTransformer3DModel], Tensor]


def kernels(call: Callable[[], object]) -> set[str]:
    """The attention kernels that torch runs in a call."""
    with profile() as seen:
        call()
    return {event.key for event in seen.key_averages() if event.key.startswith("aten::_scaled_dot_product")}


FUSED, PLAIN = {"aten::_scaled_dot_product_flash_attention_for_cpu"}, {"aten::_scaled_dot_product_attention_math"}


# -- the choice --------------------------------------------------------------------------------------------------------


def timed(**milliseconds: float) -> Comparison:
    """What comparing finds where every backend is right, and takes so long."""
    right = [torch.ones(3)]
    return compare(milliseconds, lambda _: right, milliseconds.__getitem__)


def test_the_fastest_is_taken_and_native_unless_another_is_faster_by_three_percent():
    assert timed(native=6.4, _native_cudnn=7.1, _native_flash=11.9).fastest == NATIVE
    assert timed(native=6.4, _native_cudnn=7.1, _flash_3=5.0, flash=6.0).fastest == "_flash_3"
    assert timed(native=100.0, flash=97.1).fastest == NATIVE
    assert timed(native=100.0, flash=96.9).fastest == "flash"
    assert timed(native=1.0).fastest == NATIVE


def test_the_median_of_samples_taken_in_turns_counts():
    samples = {"native": iter((9.0, 5.0, 5.0)), "flash": iter((4.0, 4.0, 99.0))}
    order: list[str] = []

    def clock(name: str) -> float:
        order.append(name)
        return next(samples[name])

    found = compare(["flash"], lambda _: [torch.ones(3)], clock)
    assert found.milliseconds == {"native": 5.0, "flash": 4.0}
    assert order == ["native", "flash"] * 3


def test_the_line_names_what_is_taken_then_the_others_by_time_then_what_is_left_out():
    found = Comparison({"native": 6.42, "_native_flash": 11.9, "_native_cudnn": 7.14}, {})
    short, long = Work.of(MODEL, "t2v", 14_040), Work.of(MODEL, "t2v", 75_600)
    assert found.line(short) == "attention: native, 6.4 ms; _native_cudnn 7.1, _native_flash 11.9"
    alone = Comparison({"native": 8.7}, {"flash": "no kernel image"})
    assert (
        alone.line(long) == "attention: native, 8.7 ms for 16,384 of 75,600 tokens; left out: flash (no kernel image)"
    )
    assert long.measured.tokens == MOST_TOKENS


def test_a_candidate_that_raises_is_left_out_with_its_reason_however_fast_it_is():
    """cuDNN has no kernels for a CPU, and torch says so."""
    clock = {"native": 2.0, "_native_cudnn": 0.1, "_native_flash": 1.0}
    found = compare(clock, Trial(WORK, CPU).results, clock.__getitem__)
    assert found.milliseconds == {"native": 2.0, "_native_flash": 1.0}
    assert found.fastest == "_native_flash"
    reason = "No viable backend for scaled_dot_product_attention was found"
    assert found.left_out == {"_native_cudnn": reason}
    assert f"left out: _native_cudnn ({reason})" in found.line(WORK)


@pytest.mark.parametrize("spoilt", [0, 1, 2, 3, 7, 11], ids=["output", "dq", "dk", "dv", "text-dv", "image-dv"])
@pytest.mark.parametrize("how", [1 + 2 * ROUNDING, 0.0, float("nan")])
def test_a_candidate_with_other_results_or_gradients_is_left_out(spoilt: int, how: float):
    trial = Trial(WORK, CPU)

    def results(name: str) -> list[Tensor]:
        found = trial.results(NATIVE)
        assert len(found) == 12
        if name == "flash":
            found[spoilt] *= how
        return found

    found = compare(["flash"], results, {"native": 2.0, "flash": 0.1}.__getitem__)
    assert found.fastest == NATIVE
    assert found.left_out["flash"].startswith("its results differ by")


@pytest.mark.parametrize("backward", [False, True])
def test_rounding_explains_what_exact_backends_differ_by_but_not_a_wrong_scale_or_fewer_bits(backward: bool):
    work = Work.of(MODEL, "t2v", 2048, backward=backward)
    clock = {"native": 1.0, MATH: 1.0}
    trial = Trial(work, CPU)
    assert compare([MATH], trial.results, clock.__getitem__).left_out == {}
    narrow = Trial(work, CPU)
    narrow.queries.data = narrow.queries.data.to(torch.float8_e4m3fn).bfloat16()
    both = {"native": trial, MATH: narrow}
    assert compare([MATH], lambda name: both[name].results(name), clock.__getitem__).left_out.keys() == {MATH}


def test_what_is_compared_are_rows_of_the_outputs_and_their_gradients():
    trial = Trial(replace(WORK, dtype=torch.float32), CPU)
    expected = []
    for keys, values in trial.keys_values:
        scores = torch.einsum("bnhd,bmhd->bhnm", trial.queries, keys) / WORK.head_dim**0.5
        out = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), values)
        expected += [out, *torch.autograd.grad(out, (trial.queries, keys, values), trial.gradient)]
    found = trial.results(NATIVE)
    assert distance(found, [whole[:, ::STRIDE] for whole in expected]) <= SUMS * EPS
    assert [len(rows[0]) for rows in found[:8]] == [5, 5, 5, 5, 5, 5, 31, 31]


def test_a_trial_draws_nothing_from_the_runs_own_chance():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Trial(WORK, CPU).results(NATIVE)
    assert torch.equal(torch.rand(1), expected)


# -- the transformer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("name", [NATIVE, "_native_flash", MATH])
def test_a_named_backend_acts_in_every_attention_and_gives_natives_output(
    kind: str, name: str, make_wan: Callable[..., WanTransformer3DModel], run_wan: RunWan
):
    plain, changed = make_wan(kind), make_wan(kind)
    set_backend(changed, name)
    expected, found = run_wan(plain), run_wan(changed)
    assert units(found, expected) <= LAYERS
    assert kernels(lambda: run_wan(changed)) == (PLAIN if name == MATH else FUSED)


def test_a_backend_reaches_neither_other_transformers_nor_diffusers_default(
    make_wan: Callable[..., WanTransformer3DModel], run_wan: RunWan
):
    before, changed = make_wan(), make_wan()
    default = _AttentionBackendRegistry.get_active_backend()
    set_backend(changed, MATH)
    assert _AttentionBackendRegistry.get_active_backend() == default
    assert kernels(lambda: run_wan(before)) == FUSED
    assert kernels(lambda: run_wan(make_wan())) == FUSED
    assert kernels(lambda: run_wan(changed)) == PLAIN


@pytest.mark.parametrize("policy", [Policy(compile=True), Policy(recompute=2, swap=2, compile=True)], ids=str)
def test_compiled_blocks_run_on_the_backend_set_before(
    policy: Policy,
    make_wan: Callable[..., WanTransformer3DModel],
    run_wan: RunWan,
    monkeypatch: pytest.MonkeyPatch,
):
    """Blocks are traced as ever; that code is generated from the trace takes a C++ compiler, and is left out here."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    torch._dynamo.reset()
    expected = run_wan(make_wan())
    for name, kernel in ((MATH, PLAIN), (NATIVE, FUSED)):
        transformer = make_wan()
        set_backend(transformer, name)
        arrange(transformer, policy)
        assert units(run_wan(transformer), expected) <= LAYERS
        assert kernels(partial(run_wan, transformer)) == kernel


def test_without_a_gpu_nothing_is_measured_and_diffusers_default_stays(make_wan: Callable[..., WanTransformer3DModel]):
    transformer = make_wan()
    assert choose(transformer, WORK, None) is None
    assert all(block.attn1.processor._attention_backend is None for block in transformer.blocks)


@pytest.mark.parametrize("name", [NATIVE, "_native_flash"])
def test_a_name_is_set_without_measuring(name: str, make_wan: Callable[..., WanTransformer3DModel]):
    transformer = make_wan()
    assert choose(transformer, WORK, name) == f"attention: {name}, as asked for"
    assert all(block.attn2.processor._attention_backend == name for block in transformer.blocks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a GPU")
@pytest.mark.parametrize("backward", [False, True])
def test_on_a_gpu_every_backend_is_timed_or_named_with_its_reason(
    backward: bool, make_wan: Callable[..., WanTransformer3DModel]
):
    transformer = make_wan(num_attention_heads=8, attention_head_dim=128).to("cuda", torch.bfloat16)
    line = choose(transformer, Work(4096, 8, 128, (512,), torch.bfloat16, backward), None)
    assert line is not None
    assert all((name in line) == is_installed(name) for name in ATTENTION_BACKENDS if name != "flash")
    assert transformer.blocks[0].attn1.processor._attention_backend == line.split()[1].rstrip(",")


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusal(name: str, work: Work = WORK) -> str:
    with pytest.raises(ConfigError) as error:
        require(name, work, CPU)
    return str(error.value)


def test_a_backend_that_cannot_run_here_is_refused_with_the_way_out():
    assert refusal("_native_cudnn") == (
        "model.attention=_native_cudnn cannot run here: No viable backend for scaled_dot_product_attention was found; "
        "choose model.attention=null, the fastest that can"
    )


@pytest.mark.skipif(is_installed("_flash_3"), reason="flash-attn 3 is installed")
def test_a_backend_that_is_not_installed_is_refused():
    assert "model.attention=_flash_3 cannot run here: its package is missing" in refusal("_flash_3")


def test_a_refused_backend_is_not_set(make_wan: Callable[..., WanTransformer3DModel]):
    transformer = make_wan()
    with pytest.raises(ConfigError):
        choose(transformer, WORK, "_native_cudnn")
    assert transformer.blocks[0].attn1.processor._attention_backend is None


def test_in_a_ring_only_backends_that_tell_their_weights_are_taken():
    require(NATIVE, Work.of(MODEL, "t2v", 64, ring=2), CPU)
    require("_native_math", Work.of(MODEL, "t2v", 64, ulysses=2), CPU)
    assert "a ring merges what ranks see by the weights behind it, which only native" in refusal(
        "_native_math", Work.of(MODEL, "t2v", 64, ring=2)
    )


def test_work_is_of_the_models_shape():
    model = ModelConfig(name="wan21_14b_480p", dtype="fp8")
    assert Work.of(model, "i2v", 14_040) == Work(14_040, 40, 128, (512, 257), torch.bfloat16)
    assert Work.of(model, "t2v", 1_560, backward=True) == Work(1_560, 40, 128, (512,), torch.bfloat16, True)
