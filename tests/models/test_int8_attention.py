"""Attention in int8: its arithmetic, the guard that keeps layers exact, and what of it a transformer and its ranks see.

The kernels need a GPU; ``benchmarks/int8_attention.py right`` holds them to the arithmetic that is tested here.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composed import compose_infer
from diffusers import WanTransformer3DModel
from rank_pool import on_ranks
from torch import Tensor

from cinelora.cli.compose import compose_train
from cinelora.cli.preflight import check_infer, check_train
from cinelora.config.clip_request import ClipRequest, deciding
from cinelora.errors import ConfigError
from cinelora.families.wan21 import WAN21
from cinelora.nn.attention_backend import Work, choose, require, rounds
from cinelora.nn.int8_attention import (
    TOLERANCE,
    Guard,
    RoundingKernel,
    distance,
    emulated,
    error_of,
    exact,
    guard_of,
    guarded_attention,
    hadamard,
    kernel_on,
    round_attention,
    video_like,
)
from cinelora.parallel.launch import process_group, rank_info
from cinelora.parallel.sequence_parallel import share

SMALL = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 128, "text_dim": 32, "freq_dim": 32}
TENSORS = video_like(300, 2, 128, "cpu")


def small() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**SMALL, in_channels=16, out_channels=16, ffn_dim=128).eval()


def predict(model: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, words = (torch.randn(size, generator=generator) for size in ((1, 16, 3, 8, 8), (1, 7, 32)))
    with torch.no_grad():
        velocity: Tensor = model(latents, torch.tensor([500.0]), words, return_dict=False)[0]
    return velocity


# -- the arithmetic ----------------------------------------------------------------------------------------------------


def test_it_is_attention_to_eight_bits() -> None:
    seen, weight = emulated(*TENSORS, weighs=True)
    assert distance(seen, exact(*TENSORS)[0]) < 0.025
    scores = TENSORS[0].float().transpose(1, 2) @ TENSORS[1].float().transpose(1, 2).mT * 128**-0.5
    assert weight is not None
    assert torch.allclose(weight, scores.logsumexp(-1), atol=0.05)
    assert emulated(*TENSORS)[1] is None


@pytest.mark.parametrize("tokens", [(1, 1), (5, 17), (64, 128), (65, 129), (127, 300)])
@pytest.mark.parametrize("width", [48, 128])
def test_any_number_of_queries_and_keys(tokens: tuple[int, int], width: int) -> None:
    query, key, value = (torch.randn(2, n, 3, width).bfloat16() for n in (tokens[0], tokens[1], tokens[1]))
    # random values attend to everything alike, which any 8-bit arithmetic puts 3 to 5 % off
    assert distance(emulated(query, key, value)[0], exact(query, key, value)[0]) < 0.06


@pytest.mark.parametrize("size", [1, 2, 64, 128])
def test_the_rotation_turns_and_stretches_alike(size: int) -> None:
    assert torch.equal(hadamard(size) @ hadamard(size).T, size * torch.eye(size))


def test_what_keys_have_in_common_costs_nothing() -> None:
    query, key, value = TENSORS
    far = key.clone()
    far[..., 5] += 60  # in bf16 this takes bits from the channel itself; from the others it takes none
    assert distance(emulated(query, far, value)[0], exact(query, far, value)[0]) < 0.06
    # and one channel that is large in both directions is spread over all
    wild = key * torch.where(torch.arange(128) == 5, 20.0, 1.0).bfloat16()
    assert distance(emulated(query, wild, value)[0], exact(query, wild, value)[0]) < 0.05


def test_next_to_nothing_stays_finite() -> None:
    for scale in (0.0, 1e-6):
        seen, weight = emulated(*(x * scale for x in TENSORS), weighs=True)
        assert weight is not None
        assert bool(seen.isfinite().all())
        assert bool(weight.isfinite().all())


def test_the_kernel_names_what_it_is_not_made_for() -> None:
    kernel = RoundingKernel(torch.device("cpu"), True)
    for tensor in (
        *TENSORS[:1],
        torch.zeros(1, 4, 2, 64).bfloat16(),
        torch.zeros(1, 4, 2, 128),
        torch.zeros(4, 2, 128),
    ):
        with pytest.raises(ValueError, match=r"takes bf16 tensors \(B, N, H, 128\) on a GPU, and was given torch"):
            kernel(tensor, tensor, tensor)


# -- the guard ---------------------------------------------------------------------------------------------------------


def one_hot(strength: float) -> tuple[Tensor, ...]:
    """Queries that each look at one key alone, by scores whose deviation is ``strength``."""
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(1, 600, 2, 128, generator=generator).bfloat16() * scale for scale in (strength, 1.0, 1.0))


def test_peaked_attention_is_found_out_and_stays_exact() -> None:
    guard = Guard(emulated)
    calm, peaked = video_like(2048, 2, 128, "cpu", seed=1), one_hot(60.0)
    calm = (calm[0] * 0.2, calm[1], calm[2] + 3)  # each query looks at many keys, whose rounding averages out
    for layer, tensors in enumerate((calm, peaked)):
        guard.result(layer, exact, *tensors, weighs=False)
    assert guard.errors[0] < TOLERANCE < guard.errors[1]
    assert guard.kept == [1]
    assert torch.equal(guard.result(1, exact, *peaked, weighs=False)[0], exact(*peaked)[0])
    assert torch.equal(guard.result(0, exact, *calm, weighs=False)[0], emulated(*calm)[0])
    assert guard.line().endswith("1 layers are more than 3% off and stay exact: 1")
    assert guard.line().startswith("attention: int8 in 1 of 2 layers")
    assert guard.facts["exact_layers"] == [1]


def test_what_is_only_reported_is_rounded_all_the_same() -> None:
    guard, peaked = Guard(emulated, keeps=False), one_hot(60.0)
    guard.result(0, exact, *peaked, weighs=False)
    assert torch.equal(guard.result(0, exact, *peaked, weighs=False)[0], emulated(*peaked)[0])
    assert (guard.kept, guard.beyond) == ([], [0])
    assert guard.line().endswith("1 layers are more than 3% off and are not kept exact")


def test_what_is_too_short_is_neither_rounded_nor_measured() -> None:
    guard = Guard(emulated, rests=True)
    assert torch.equal(guard.result(0, exact, *TENSORS, weighs=False)[0], exact(*TENSORS)[0])
    assert guard.errors == {}


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 480, 832), (81, 480, 832), (33, 112, 192)])
def test_tokens_are_counted_from_latents_as_from_pixels(frames: int, height: int, width: int) -> None:
    geometry = WAN21.geometry
    latents = (1, *geometry.latent_size(frames, height, width))
    assert geometry.tokens_of(latents) == geometry.num_tokens(frames, height, width)


def test_one_head_that_is_off_is_not_lost_among_the_others() -> None:
    rounded, expected = exact(*TENSORS)[0].clone(), exact(*TENSORS)[0]
    rounded[:, :, 1] *= 1.1
    assert error_of(rounded, *TENSORS) == pytest.approx(0.1, rel=0.1)
    assert distance(rounded, expected) < 0.09
    rounded[0, 0, 0, 0] = torch.nan
    assert error_of(rounded, *TENSORS) == math.inf


def test_what_is_no_number_is_further_off_than_anything() -> None:
    def broken(query: Tensor, key: Tensor, value: Tensor, weighs: bool) -> tuple[Tensor, None]:
        return torch.full_like(query, torch.nan), None

    guard = Guard(broken)
    assert torch.equal(guard.result(0, exact, *TENSORS, weighs=False)[0], exact(*TENSORS)[0])
    assert guard.kept == [0]


# -- in a transformer --------------------------------------------------------------------------------------------------


def test_exact_steps_are_diffusers_own_to_the_bit_and_others_are_near() -> None:
    model = small()
    expected = predict(model)
    assert guard_of(model) is None
    guard = round_attention(model, emulated, keeps=False)
    assert guard_of(model) is guard
    near = predict(model)
    assert 0 < distance(near, expected) < 0.02
    assert sorted(guard.errors) == [0, 1, 2]
    guard.exact_now = True
    assert torch.equal(predict(model), expected)


def test_a_block_stays_whole_under_compile_and_layers_share_its_graph() -> None:
    model, graphs = small(), list[torch.fx.GraphModule]()

    def note(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    guard = round_attention(model, emulated, keeps=False)
    expected = predict(model)
    for block in model.blocks:
        block.compile(backend=note, fullgraph=True)
    assert distance(predict(model), expected) < 1e-5
    guard.exact_now = True
    predict(model)
    guard.exact_now, guard.keeps = False, True
    predict(model)
    assert len(graphs) == 1


def test_the_operator_keeps_torchs_rules() -> None:
    round_attention(model := small(), emulated, keeps=False)
    place = model.blocks[0].attn1.processor.place
    torch.library.opcheck(guarded_attention, (*TENSORS, place), test_utils=("test_schema", "test_faketensor"))


def shared_by_two() -> dict[str, float]:
    """How far a sequence that two ranks share is from one rank's: rounded both times, and exact."""
    whole, found = small(), dict[str, float]()
    exactly = predict(whole)
    round_attention(whole, emulated, keeps=False)
    rounded = predict(whole)
    with process_group(rank_info()):
        for name, way in {"ulysses": (1, 2), "ring": (2, 1)}.items():
            model = small()
            share(model, *way)
            guard = round_attention(model, emulated, keeps=False)
            assert guard_of(model) is guard
            found[f"{name}, rounded"] = distance(predict(model), rounded)
            before = dict(guard.errors)
            guard.settle(2, torch.device("cpu"))
            found[f"{name}, errors"] = min(guard.errors[layer] - before[layer] for layer in before)
            guard.exact_now = True
            found[f"{name}, exact"] = distance(predict(model), exactly)
    return found


def test_ranks_share_a_rounded_sequence(tmp_path: Path) -> None:
    found = on_ranks(shared_by_two, ranks=2, log_dir=tmp_path)
    # heads are rounded as on one rank; a ring rounds each block of keys by itself
    assert found["ulysses, rounded"] < 1e-5
    assert 0 < found["ring, rounded"] < 0.02
    assert found["ulysses, exact"] < 1e-5
    assert found["ring, exact"] < 1e-5
    assert min(found["ulysses, errors"], found["ring, errors"]) >= 0


# -- settings ----------------------------------------------------------------------------------------------------------


def test_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(
        ConfigError, match=r"model.attention=int8 cannot be used in training, because it has no gradients"
    ):
        check_train(compose_train(["stage=style", "data=noir", "model=wan21_1_3b", "model.attention=int8"]))
    with pytest.raises(
        ConfigError,
        match=r"works with attention heads of 128 channels in bf16 or fp8, and tiny has heads of 48 in fp32",
    ):
        check_infer(compose_infer(["model=tiny", "prompt=x", "model.attention=int8"]))
    with pytest.raises(ConfigError, match=r"wan21_14b_480p has heads of 128 in fp32"):
        check_infer(compose_infer(["model=wan21_14b_480p", "model.dtype=fp32", "prompt=x", "model.attention=int8"]))
    with pytest.raises(ConfigError, match=r"model.attention=int8: AnimateDiff"):
        check_infer(compose_infer(["model=tiny_animatediff", "prompt=x", "model.attention=int8"]))
    work = Work(8192, 2, 128, (7,), torch.bfloat16)
    with pytest.raises(
        ConfigError, match=r"model.attention=int8 cannot run here: it needs an NVIDIA GPU, and there is none here"
    ):
        require("int8", work, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        kernel_on(torch.device("cpu"))


def test_few_tokens_stay_exact() -> None:
    work = Work(8192, 2, 128, (7,), torch.bfloat16)
    assert rounds(work)
    assert not rounds(replace(work, tokens=3600))


def test_it_decides_a_clip_and_exact_backends_do_not() -> None:
    words = ["model=wan21_1_3b", "prompt=x"]
    told = {
        name: ClipRequest.of(compose_infer([*words, f"model.attention={name}"]))
        for name in ("null", "native", "flash", "int8")
    }
    facts = {name: request.deciding(request.takes(Path("x"))[0]) for name, request in told.items()}
    assert facts["null"] == facts["native"] == facts["flash"] != facts["int8"]
    assert facts["int8"]["model"]["attention"] == "int8"
    # what a summary wrote down is found again
    for name, request in told.items():
        shown = request.shown(request.takes(Path("x"))[0])
        assert deciding(shown) == facts[name]
    ends = ClipRequest.of(compose_infer([*words, "model.attention=int8", "sampler.exact_steps=2"]))
    assert ends.deciding(ends.takes(Path("x"))[0]) != facts["int8"]


def test_nothing_is_chosen_by_itself() -> None:
    assert choose(small(), Work(8192, 2, 128, (7,), torch.bfloat16), None) is None
