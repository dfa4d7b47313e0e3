"""Laws of memory policies: whatever a block keeps, fetches or computes again, numbers and gradients are the same."""

from collections.abc import Callable

import pytest
import torch
from diffusers import WanTransformer3DModel
from rounding import LAYERS, units, units_of
from torch import Tensor
from wan_layouts import SHAPE

from cinelora.adapters.lora_layers import add_adapter
from cinelora.config.schema import LoraSpec
from cinelora.families.wan.conditions import Condition, FirstFrameCondition, predict_velocity
from cinelora.families.wan.token_times import embed_each_time_once
from cinelora.memory.block_swap import Swap, arrange, as_they_are, large_frozen
from cinelora.planning.estimate import Policy

BLOCKS = 4
TIMES = (300.0, 700.0)
POLICIES = [
    Policy(recompute=2),
    Policy(recompute=4),
    Policy(recompute=4, offload=True),
    Policy(recompute=3, offload=True),
    Policy(recompute=4, swap=4),
    Policy(recompute=4, swap=3, offload=True),
    Policy(recompute=1, swap=1),
]


def adapted(each_time_once: bool = True) -> WanTransformer3DModel:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**{**SHAPE, "num_layers": BLOCKS}).requires_grad_(False)
    add_adapter(transformer, "style", LoraSpec(4, 8.0, 0.0, "attention"), seed=0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if each_time_once:
        embed_each_time_once(transformer)
    return transformer.train()


def forward(
    transformer: WanTransformer3DModel, shows_first: bool = False, times: tuple[float, float] = TIMES
) -> Tensor:
    """A prediction of two samples; ``shows_first``: as TI2V-5B, with a time for each token."""
    generator = torch.Generator().manual_seed(1)
    config = transformer.config
    latents = torch.randn(2, config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(2, 512, config.text_dim, generator=generator)
    condition = FirstFrameCondition.of_batch({"text": text, "latents": latents}, shows_first)
    return condition.predict(transformer, latents, torch.tensor(times))


def step(transformer: WanTransformer3DModel, shows_first: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    out = forward(transformer, shows_first)
    transformer.zero_grad()
    out.square().mean().backward()
    return out.detach(), {n: p.grad.clone() for n, p in transformer.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("shows_first", [False, True], ids=["one time", "a time for each token"])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_policy_gives_the_plain_loops_numbers_and_gradients_twice(policy: Policy, shows_first: bool):
    plain, arranged = adapted(), adapted()
    arrange(arranged, policy)
    expected_out, expected = step(plain, shows_first)
    assert all(gradient.any() for gradient in expected.values())
    for _ in range(2):
        out, gradients = step(arranged, shows_first)
        assert torch.equal(out, expected_out)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)


@pytest.mark.parametrize("times", [TIMES, (0.0, 700.0), (300.0, 0.0), (0.0, 0.0)])
def test_each_time_is_embedded_once_and_is_what_diffusers_embeds_for_every_token(times: tuple[float, float]):
    plain, once = adapted(each_time_once=False), adapted()
    seen: list[tuple[int, ...]] = []
    once.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[2].shape[:3])))
    expected, out = forward(plain, True, times), forward(once, True, times)
    assert units(out.detach(), expected.detach()) <= LAYERS
    assert seen == [(2, 2, 6)], "two times for each of two samples, and not one for each of their 8 tokens"
    for transformer, found in ((plain, expected), (once, out)):
        transformer.zero_grad()
        found.square().mean().backward()
    theirs, ours = (
        [parameter.grad for parameter in one.parameters() if parameter.requires_grad] for one in (plain, once)
    )
    assert units_of(ours, theirs) <= LAYERS
    assert torch.equal(forward(once), forward(plain)), "one time for all tokens is left alone"


def test_recomputed_blocks_find_the_times_of_samples_that_others_were_predicted_after():
    """As a step does whose samples are shown their frame or not, by chance."""
    plain, arranged = adapted(), adapted()
    arrange(arranged, Policy(recompute=4))
    found = []
    for transformer in (plain, arranged):
        transformer.zero_grad()
        (forward(transformer, True).square().mean() + forward(transformer, False).square().mean()).backward()
        found.append([parameter.grad for parameter in transformer.parameters() if parameter.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_between_steps_a_forward_pass_without_gradients_finds_its_weights_too():
    plain, arranged = adapted(), adapted()
    arrange(arranged, Policy(recompute=4, swap=4))
    for _ in range(2):
        out, _ = step(arranged)
        with torch.no_grad():
            again = forward(arranged)
        assert torch.equal(again, out)
    assert torch.equal(forward(plain), out)


def test_only_two_swapped_blocks_are_on_the_device_at_a_time_and_all_weights_stay_readable():
    arranged = adapted()
    before = {name: value.clone() for name, value in arranged.state_dict().items()}
    arrange(arranged, Policy(recompute=4, swap=4))
    step(arranged)
    owner: Swap = arranged.blocks[0].forward.func.__self__  # type: ignore[attr-defined]
    spans = [(slot.data_ptr(), slot.data_ptr() + slot.numel()) for slot in owner.slots]
    there = [
        number
        for number, block in enumerate(arranged.blocks)
        if any(first <= large_frozen(block)[0].data_ptr() < end for first, end in spans)
    ]
    assert sorted(there) == sorted(number for number in owner.in_slots if number is not None)
    assert len(there) == 2
    after = arranged.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The sizes of the inputs of each graph that is compiled from now on.

    Graphs are counted and run as they are: code that is really generated takes a C++ compiler and a minute.
    """
    sizes: list[tuple[object, ...]] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        sizes.append(tuple(size for tensor in inputs if isinstance(tensor, Tensor) for size in tensor.shape))
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **named: compiler(function, backend=counted, **named))
    torch.compiler.reset()
    return sizes


def predict(transformer: WanTransformer3DModel, samples: int = 1, width: int = 4) -> Tensor:
    """A prediction of latents 4 high, from the same noise and text each time."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(samples, 16, 1, 4, width, generator=generator)
    text = torch.randn(samples, 512, transformer.config.text_dim, generator=generator)
    return predict_velocity(transformer, latents, torch.full((samples,), 500.0), Condition(text))


def test_blocks_are_compiled_for_each_shape_anew_and_measures_compile_nothing(
    make_wan: Callable[..., WanTransformer3DModel], compiled: list[tuple[object, ...]]
):
    transformer = make_wan("t2v")
    arrange(transformer, Policy(compile=True))
    with as_they_are():
        predict(transformer)
    assert compiled == []
    for samples in (3, 2, 5):
        predict(transformer, samples)
    assert len(compiled) == 3
    assert all(isinstance(size, int) for graph in compiled for size in graph)


def test_a_time_for_each_token_is_compiled_once_for_a_shape(compiled: list[tuple[object, ...]]):
    """Its modulation is as long as the sequence: what the first step compiles serves the next ones."""
    plain, transformer = adapted(), adapted()
    arrange(transformer, Policy(compile=True))
    expected_out, expected = step(plain, shows_first=True)
    step(transformer, shows_first=True)
    graphs = len(compiled)
    out, gradients = step(transformer, shows_first=True)
    assert torch.equal(out, expected_out)
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    assert len(compiled) == graphs == 2, "the first block's input has no gradient, and is a graph of its own"


def test_many_lengths_share_their_kernels(
    make_wan: Callable[..., WanTransformer3DModel], compiled: list[tuple[object, ...]]
):
    transformer = make_wan("t2v")
    plain = [predict(transformer, width=width) for width in range(4, 20, 2)]
    arrange(transformer, Policy(compile=True), num_lengths=len(plain))
    for width, expected in zip(range(4, 20, 2), plain, strict=True):
        assert torch.equal(predict(transformer, width=width), expected)
    assert len(compiled) <= 2
