"""Laws of memory policies: whatever a block keeps, fetches or computes again, numbers and gradients are the same."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from wan_layouts import SHAPE

from cinelora.models.adapter_file import LoraSpec
from cinelora.models.footprint import Policy
from cinelora.models.lora import add_adapter
from cinelora.models.memory import arrange

BLOCKS = 4
POLICIES = [
    Policy(recompute=2),
    Policy(recompute=4),
    Policy(recompute=4, offload=True),
    Policy(recompute=3, offload=True),
    Policy(recompute=4, swap=4),
    Policy(recompute=4, swap=3, offload=True),
    Policy(recompute=1, swap=1),
]


def adapted(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(**{**SHAPE, "num_layers": BLOCKS}).requires_grad_(False)
    add_adapter(transformer, "style", LoraSpec(4, 8.0, 0.0, "attention"), seed=0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return transformer.train()


def step(transformer: WanTransformer3DModel) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    config = transformer.config
    latents = torch.randn(2, config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(2, 512, config.text_dim, generator=generator)
    out = transformer(latents, torch.tensor([300.0, 700.0]), text, return_dict=False)[0]
    transformer.zero_grad()
    out.square().mean().backward()
    return out.detach(), {n: p.grad.clone() for n, p in transformer.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_policy_gives_the_plain_loops_numbers_and_gradients_twice(policy: Policy):
    plain, arranged = adapted(), adapted()
    arrange(arranged, policy)
    expected_out, expected = step(plain)
    for _ in range(2):
        out, gradients = step(arranged)
        assert torch.equal(out, expected_out)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)
