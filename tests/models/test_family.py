"""The facts of a family, against the modules they are the facts of."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from rounding import LAYERS, units

from cinelora.cli.compose import compose_train
from cinelora.config.rules import check_values
from cinelora.config.schema import ModelConfig
from cinelora.errors import ConfigError
from cinelora.families import family_of
from cinelora.families.family import Geometry, Part
from cinelora.families.vae_facts import WAN21_VAE, WAN22_VAE, VaeFacts
from cinelora.families.wan.checkpoint_layouts import NAMES
from cinelora.families.wan.conditions import Condition, ImageCondition
from cinelora.families.wan.load_weights import empty_module
from cinelora.nn.vae_parallel import sees_rows

SMALL = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "ffn_dim": 16, "num_layers": 1}
WIDE = Geometry(spatial=16, temporal=4, patch=2, channels=48)
"""Latents of Wan2.2's TI2V-5B."""
WIDE_VAE = {"z_dim": 48, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
WIDE_VAE |= {"scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}


@pytest.mark.parametrize(("geometry", "vae"), [(family_of(ModelConfig()).geometry, {}), (WIDE, WIDE_VAE)])
@pytest.mark.parametrize("frames", [1, 5, 9])
def test_latents_have_the_size_that_the_facts_say(geometry: Geometry, vae: dict[str, object], frames: int) -> None:
    encoder = AutoencoderKLWan(base_dim=8, decoder_base_dim=8, **vae).eval()
    with torch.no_grad():
        latents = encoder.encode(torch.zeros(1, 3, frames, 64, 96)).latent_dist.mode()
    assert tuple(latents.shape[1:]) == geometry.latent_size(frames, 64, 96)


def test_a_transformer_has_the_tokens_that_the_facts_say() -> None:
    """Counted where the blocks see them."""
    geometry, seen = family_of(ModelConfig()).geometry, []
    transformer = WanTransformer3DModel(**SMALL).eval()
    transformer.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0].shape[1]))
    with torch.no_grad():
        latents, text = torch.zeros(1, *geometry.latent_size(9, 64, 96)), torch.zeros(1, 512, SMALL["text_dim"])
        predicted = transformer(latents, torch.ones(1), text, return_dict=False)[0]
    assert seen == [geometry.num_tokens(9, 64, 96)]
    assert predicted.numel() == seen[0] * geometry.token_values


@pytest.mark.parametrize(("facts", "name"), [(WAN21_VAE, "vae"), (WAN22_VAE, "residual_vae")])
def test_a_vae_has_the_size_and_convolutions_that_the_facts_say(facts: VaeFacts, name: str) -> None:
    vae = empty_module(Part.VAE, NAMES["full_shapes"][name])
    assert sum(parameter.numel() for parameter in vae.parameters()) == facts.parameters
    rows = [sum(map(sees_rows, coder.modules())) for coder in (vae.decoder, vae.encoder)]
    assert rows == [facts.decoder_rows, facts.encoder_rows]


def test_a_wider_latent_space_has_fewer_tokens() -> None:
    """121 frames of 704x1280 in TI2V-5B, as its authors count them."""
    assert WIDE.num_tokens(121, 704, 1280) == 27_280
    assert WIDE.cell == 32


REFUSED = [("height", 250, "multiple of 16, such as 256"), ("num_frames", 34, r"4n\+1, such as 33")]


@pytest.mark.parametrize(("key", "value", "near"), REFUSED)
def test_settings_are_refused_by_the_numbers_of_the_family(key: str, value: int, near: str) -> None:
    config = compose_train(["stage=style", "data=daylight", "model=tiny"])
    check_values(config)
    with pytest.raises(ConfigError, match=near):
        check_values(replace(config, model=replace(config.model, **{key: value})))


def condition(number: int) -> Condition:
    """Of one sample, unlike that of any other number."""
    generator = torch.Generator().manual_seed(number)
    image = ImageCondition(torch.randn(1, 16, 3, 4, 6, generator=generator), torch.randn(1, 7, 10, generator=generator))
    return Condition(torch.randn(1, 5, 8, generator=generator), image)


def test_rows_of_conditions_side_by_side_are_the_conditions() -> None:
    one, other = condition(1), condition(2)
    both = one.beside(other)
    for chosen, alone in (([True, False], one), ([False, True], other)):
        found = both.rows(torch.tensor(chosen))
        assert found.image is not None
        assert alone.image is not None
        assert torch.equal(found.text, alone.text)
        assert torch.equal(found.image.latents, alone.image.latents)
        assert torch.equal(found.image.tokens, alone.image.tokens)
    assert both.without_image().image is None
    assert both.without_image().rows(torch.tensor([False, True])).image is None
    assert torch.equal(both.without_image().text, torch.cat([one.text, other.text]))


def test_a_prediction_beside_another_is_that_of_its_own_condition() -> None:
    """What guidance in one batch rests on, and what a batch rests on whose samples lose their image apart."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**SMALL, in_channels=36, image_dim=10, added_kv_proj_dim=24).eval()
    latents, time = torch.randn(1, 16, 3, 4, 6), torch.full((1,), 500.0)
    one, other = condition(1), condition(2)
    with torch.no_grad():
        together = one.beside(other).predict(transformer, latents.repeat(2, 1, 1, 1, 1), time.repeat(2))
        alone = torch.cat([each.predict(transformer, latents, time) for each in (one, other)])
        bare = one.without_image().predict(transformer, latents, time)
    assert units(together, alone) <= LAYERS
    assert not torch.allclose(bare, alone[:1], atol=1e-3)
