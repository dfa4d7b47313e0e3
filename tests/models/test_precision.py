"""Laws of fp8 layers: one quantised weight, forward and backward; nothing kept of the input; a model that loads so."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from wan_layouts import IMAGE, SHAPE

from cinelora.adapters.lora_layers import adapter_effect, add_adapter, merge, unmerge
from cinelora.config.schema import LoraSpec
from cinelora.families.wan.conditions import FirstFrameCondition, ImageCondition
from cinelora.nn.fp8 import FP8, Fp8Linear, fp8_layers, quantise_rows, swap_linears

BF16 = torch.bfloat16


def relative(error: Tensor, of: Tensor) -> float:
    return float(error.float().norm() / of.float().norm())


@pytest.fixture
def layer() -> Fp8Linear:
    torch.manual_seed(0)
    made = Fp8Linear(128, 96, bias=True)
    made.fill(torch.randn(96, 128) * torch.logspace(-3, 3, 96)[:, None])  # rows of very different sizes
    made.bias = nn.Parameter(torch.randn(96, dtype=BF16), requires_grad=False)
    return made


def test_rows_are_quantised_each_by_its_own_scale_and_zeros_stay_zeros():
    values = torch.tensor([[1e-6, -2e-6, 5e-7], [3e5, 1e5, -2e5], [0.0, 0.0, 0.0]])
    quantised, scale = quantise_rows(values)
    assert quantised.dtype == FP8
    back = quantised.float() * scale
    assert torch.equal(back[2], torch.zeros(3))
    assert ((back - values).abs() <= values.abs() * 2**-4 + 1e-12).all()  # three bits after the point
    assert torch.allclose(back.abs().amax(1), values.abs().amax(1))


def test_the_product_is_that_of_quantised_tokens_and_quantised_weight(layer: Fp8Linear):
    x = torch.randn(2, 5, 128, dtype=BF16)
    tokens, scale = quantise_rows(x.flatten(0, 1))
    expected = (tokens.float() * scale) @ layer.widened().T + layer.bias.float()
    assert relative(layer(x).flatten(0, 1) - expected, expected) < 2**-8
    assert layer(x).dtype == BF16


def test_the_gradient_goes_back_through_the_same_weight(layer: Fp8Linear):
    x = torch.randn(40, 128, dtype=BF16, requires_grad=True)
    gradient = torch.randn(40, 96, dtype=BF16)
    layer(x).backward(gradient)
    expected = gradient.float() @ layer.widened()
    assert x.grad is not None
    assert torch.cosine_similarity(x.grad.float().flatten(), expected.flatten(), dim=0) > 0.999
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_nothing_of_the_input_is_kept_for_the_backward_pass(layer: Fp8Linear):
    kept: list[torch.Size] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(40, 128, dtype=BF16, requires_grad=True))
    assert sorted(kept) == sorted([torch.Size([96, 128]), torch.Size([96, 1])])


def fp8_twin(wide: WanTransformer3DModel) -> WanTransformer3DModel:
    """The same transformer with fp8 blocks."""
    with torch.device("meta"):
        twin = WanTransformer3DModel(**wide.config)
    swap_linears(twin.blocks)
    sources = dict(wide.named_parameters())
    for name, _ in list(twin.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = twin.get_submodule(owner)
        if isinstance(module, Fp8Linear) and leaf == "weight":
            module.fill(sources[name])
        elif name in sources:
            setattr(module, leaf, nn.Parameter(sources[name].detach().clone(), requires_grad=False))
    for module, other in zip(twin.modules(), wide.modules(), strict=True):
        for name, buffer in other.named_buffers(recurse=False):
            setattr(module, name, buffer)
    return twin


@pytest.fixture
def pair_of_precisions() -> tuple[WanTransformer3DModel, WanTransformer3DModel]:
    torch.manual_seed(0)
    wide = WanTransformer3DModel(**{**SHAPE, **IMAGE}).requires_grad_(False).to(BF16)
    return wide, fp8_twin(wide)


def run(transformer: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(BF16)

    inputs = (draw(2, 36, 2, 4, 4), torch.tensor([300.0, 700.0]), draw(2, 512, 32), draw(2, 257, 32))
    out: Tensor = transformer(*inputs, return_dict=False)[0]
    return out.float()


def learnt(transformer: WanTransformer3DModel) -> Tensor:
    """Gradients of an adapter of which no factor is zero."""
    add_adapter(transformer, "style", LoraSpec(4, 8.0, 0.0, "cross_attention"), seed=0)
    generator = torch.Generator().manual_seed(2)
    factors = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for factor in factors:
        factor.data.copy_(torch.randn(factor.shape, generator=generator) * 0.1)
    run(transformer).square().mean().backward()
    return torch.cat([factor.grad.flatten() for factor in factors if factor.grad is not None])


def test_blocks_in_fp8_take_a_time_for_each_token():
    """As those of TI2V-5B, of whose given frame nothing is predicted."""
    torch.manual_seed(0)
    wide = WanTransformer3DModel(**SHAPE).requires_grad_(False).to(BF16)
    narrow = fp8_twin(wide)

    def given_first(transformer: WanTransformer3DModel) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        latents, text = (torch.randn(*size, generator=generator) for size in ((2, 16, 2, 4, 4), (2, 512, 32)))
        condition = FirstFrameCondition(text, ImageCondition(latents[:, :, :1]))
        return condition.predict(transformer, latents, torch.tensor([300.0, 700.0]))

    predicted, expected = given_first(narrow), given_first(wide)
    assert not predicted[:, :, 0].any()
    assert relative(predicted - expected, expected) < 0.1


def test_a_transformer_in_fp8_predicts_and_teaches_nearly_the_same(
    pair_of_precisions: tuple[WanTransformer3DModel, WanTransformer3DModel],
):
    wide, narrow = pair_of_precisions
    assert len(fp8_layers(narrow)) == 2 * 12
    assert relative(run(narrow) - run(wide), run(wide)) < 0.1
    assert torch.cosine_similarity(learnt(narrow), learnt(wide), dim=0) > 0.98


def test_merging_into_fp8_and_back_leaves_every_byte_as_it_was(
    pair_of_precisions: tuple[WanTransformer3DModel, WanTransformer3DModel],
):
    _, narrow = pair_of_precisions
    learnt(narrow)
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    effect = adapter_effect(narrow, "style")
    with torch.no_grad():
        live = run(narrow)
        merge(narrow, {"style": 1.0})
        assert relative(run(narrow) - live, live) < 0.1
        assert adapter_effect(narrow, "style") == pytest.approx(effect)
        unmerge(narrow)
        assert torch.equal(run(narrow), live)
    after = narrow.state_dict()
    assert all(torch.equal(after[name].float(), value.float()) for name, value in before.items())
