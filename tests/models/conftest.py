"""Small real Wan transformers, and inputs for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from wan_layouts import IMAGE, SHAPE

MakeWan = Callable[..., WanTransformer3DModel]


@pytest.fixture(scope="session")
def make_wan() -> MakeWan:
    """``make_wan("i2v", num_layers=3)``: the same weights at every call with the same arguments."""

    def make(kind: str = "t2v", **changes: Any) -> WanTransformer3DModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            shape = {**SHAPE, **(IMAGE if kind == "i2v" else {}), **changes}
            return WanTransformer3DModel(**shape).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def run_wan() -> Callable[[WanTransformer3DModel], torch.Tensor]:
    """The velocity of a transformer for an input that is always the same."""

    def run(transformer: WanTransformer3DModel) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        config, dtype = transformer.config, transformer.dtype

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        return transformer(
            hidden_states=draw(2, config.in_channels, 2, 6, 6),
            timestep=torch.tensor([300.0, 800.0]),
            encoder_hidden_states=draw(2, 512, config.text_dim),
            encoder_hidden_states_image=draw(2, 257, config.image_dim) if config.image_dim else None,
            return_dict=False,
        )[0]

    return run
