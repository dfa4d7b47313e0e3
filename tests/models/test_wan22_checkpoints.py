"""Wan2.2's transformers and its VAE of 48 channels are read from every layout that users have them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn
from wan_layouts import (
    EXPERT_OF_IMAGE,
    FIVE,
    IMAGE,
    SHAPE,
    residual_vae,
    save,
    save_shards,
    to_fp8,
    wan22_vae,
    wan_transformer,
)

from cinelora.errors import ModelError
from cinelora.families.family import Family, Part
from cinelora.families.wan.checkpoint_layouts import (
    NAMES,
    FoundPart,
    locate,
    patterns,
    refuse_other_transformer,
)
from cinelora.families.wan.experts import expert_hint, judge_experts, same_tensors
from cinelora.families.wan.load_weights import (
    Destination,
    empty_module,
    load_part,
    num_parameters,
    settings_of,
    tensor_origins,
    transformer_settings,
)
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B

A14B, TI2V = WAN22_A14B, WAN22_5B
SHAPES: dict[str, dict[str, Any]] = {"t2v": {}, "i2v": EXPERT_OF_IMAGE, "5b": FIVE}
BOTH = ("high_noise", "low_noise")
HOST = Destination(torch.device("cpu"), torch.float32)


def transformer(kind: str, seed: int = 0) -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = WanTransformer3DModel(**SHAPE | SHAPES[kind])
        for parameter in made.parameters():  # norms and biases too: a mix-up must show
            parameter.data.normal_(std=0.2)
    return made.eval().requires_grad_(False)


def assert_same(loaded: nn.Module, kept: nn.Module) -> None:
    ours, theirs = loaded.state_dict(), kept.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def save_own(folder: Path, module: WanTransformer3DModel) -> None:
    """A transformer's folder as Wan's authors publish it."""
    folder.mkdir(parents=True)
    save_shards(folder, wan_transformer(module.state_dict()), 2)
    config = {"_class_name": "WanModel", "dim": 128, "num_heads": 4, "model_type": "ti2v"}
    (folder / "config.json").write_text(json.dumps(config))


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("layout", ["diffusers", "own"])
def test_each_expert_is_found_in_a_checkpoint_of_both(kind: str, layout: str, tmp_path: Path) -> None:
    """Also by its own folder, where it is named for it."""
    experts = {expert: transformer(kind, seed) for seed, expert in enumerate(BOTH)}
    for (expert, module), folder in zip(experts.items(), ("transformer", "transformer_2"), strict=True):
        if layout == "diffusers":
            module.save_pretrained(tmp_path / folder)
        else:
            save_own(tmp_path / f"{expert}_model", module)
    for expert, module in experts.items():
        found = locate(Part.TRANSFORMER, tmp_path, expert)
        assert_same(load_part(found, HOST, 4), module)
        assert settings_of(found)["num_attention_heads"] == 4
        assert_same(load_part(locate(Part.TRANSFORMER, found.folder, expert), HOST, 4), module)


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_one_file_says_by_its_shapes_which_transformer_it_is(kind: str, prefix: str, tmp_path: Path) -> None:
    """Computed with, too: a setting that shapes do not say would show."""
    kept = transformer(kind)
    state = {prefix + name: tensor for name, tensor in wan_transformer(kept.state_dict()).items()}
    found = locate(Part.TRANSFORMER, save(tmp_path / "wan2.2_ti2v_5B_fp16.safetensors", state))
    loaded = load_part(found, HOST, 4)
    assert_same(loaded, kept)
    latents, text = torch.ones(1, kept.config.in_channels, 2, 4, 4), torch.ones(1, 512, 32)
    given = (latents, torch.full((1,), 500.0), text)
    assert torch.equal(loaded(*given).sample, kept(*given).sample)
    assert loaded.config.image_dim is None


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_widened_with_its_scale(kind: str, scaled: bool, tmp_path: Path) -> None:
    stored, worth = to_fp8(wan_transformer(transformer(kind).state_dict()), scaled=scaled)
    file = save(tmp_path / "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", stored)
    loaded = wan_transformer(load_part(locate(Part.TRANSFORMER, file, "high_noise"), HOST, 4).state_dict())
    assert loaded.keys() == worth.keys()
    assert all(torch.equal(loaded[name], worth[name]) for name in worth)


PUBLISHED = {
    14_288_491_584: {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    14_288_901_184: {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 36},
    4_999_787_712: {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30} | FIVE,
}
"""Wan2.2's T2V and I2V experts and TI2V-5B, by their number of values."""


@pytest.mark.parametrize("count", list(PUBLISHED))
def test_the_published_shapes_give_the_published_settings(count: int) -> None:
    with torch.device("meta"):
        module = WanTransformer3DModel(**PUBLISHED[count])
    named = wan_transformer(module.state_dict())
    sources = tensor_origins(Part.TRANSFORMER, named)
    settings = transformer_settings({name: tuple(named[of.name].shape) for name, of in sources.items()}, None)
    assert num_parameters(module) == count
    assert {name: module.config[name] for name in settings} == settings


# -- the VAE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["diffusers", "own .pth", "own .safetensors", "one file"])
def test_the_vae_of_48_channels_is_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    kept = residual_vae()
    named = wan22_vae(kept.state_dict())
    source = tmp_path
    match layout:
        case "diffusers":
            kept.save_pretrained(tmp_path / "vae")
        case "own .pth":
            torch.save(named, tmp_path / "Wan2.2_VAE.pth")
        case "own .safetensors":
            save(tmp_path / "Wan2.2_VAE.safetensors", named)
        case _:
            source = save(tmp_path / "wan2.2_vae.safetensors", named)
    found = locate(Part.VAE, source)
    loaded = load_part(found, HOST, latent_channels=48)
    assert_same(loaded, kept)
    video = torch.rand(1, 3, 5, 32, 32)
    assert torch.equal(loaded(video).sample, kept(video).sample)
    with pytest.raises(ModelError, match=r"this is a VAE of 48 latent channels, that of Wan2.2 TI2V-5B: .* one of 16"):
        load_part(found, HOST)


def test_names_and_shapes_of_the_published_vae_are_complete() -> None:
    """Every tensor of it has a place, and no place stays empty."""
    module = empty_module(Part.VAE, NAMES["full_shapes"]["residual_vae"])
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    named = wan22_vae(dict(module.named_parameters()))
    assert "decoder.upsamples.0.upsamples.3.time_conv.weight" in named
    assert not named.keys() & wanted.keys()
    assert {name: tuple(named[of.name].shape) for name, of in tensor_origins(Part.VAE, named).items()} == wanted
    assert num_parameters(module) == 704_688_668
    assert (len(module.config.latents_mean), len(module.config.latents_std)) == (48, 48)


def test_two_vaes_in_one_directory_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("Wan2.1_VAE", "Wan2.2_VAE"):
        save(tmp_path / f"{name}.safetensors", {"conv2.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"Wan2.1_VAE and Wan2.2_VAE; name one with model.vae="):
        locate(Part.VAE, tmp_path)


# -- what a transformer is not -----------------------------------------------------------------------------------------

REFUSED = [
    (
        A14B,
        "t2v",
        "i2v",
        r"image-to-video transformer.* give it as model.i2v_high or model.i2v_low$",
    ),
    (A14B, "i2v", "21", r"image-to-video transformer of Wan2.1, whose .* takes 36 channels$"),
    (A14B, "i2v", "5b", r"takes 48 channels and which takes no image tokens: i2v .* takes 36"),
    (TI2V, "t2v", "t2v", r"text-to-video transformer of Wan2.1, or an expert of Wan2.2 T2V-A14B.* t2v .* takes 48"),
    (WAN21, "i2v", "i2v", r"an expert of Wan2.2 I2V-A14B.* i2v of model=wan21 takes 36 channels and image tokens"),
    (WAN21, "t2v", "5b", r"takes 48 channels .* t2v of model=wan21 takes 16 channels"),
]


@pytest.mark.parametrize(("family", "network", "given", "sentence"), REFUSED)
def test_another_transformer_is_named_as_what_it_is(family: Family, network: str, given: str, sentence: str) -> None:
    shape = SHAPE | (IMAGE if given == "21" else SHAPES[given])
    with torch.device("meta"):
        named = wan_transformer(WanTransformer3DModel(**shape).state_dict())
    with pytest.raises(ModelError, match=sentence):
        refuse_other_transformer({name: tuple(t.shape) for name, t in named.items()}, family, network, None)


@pytest.mark.parametrize(("family", "kind"), [(A14B, "t2v"), (A14B, "i2v"), (TI2V, "5b")])
def test_the_right_transformer_is_taken(family: Family, kind: str) -> None:
    shapes = {name: tuple(t.shape) for name, t in wan_transformer(transformer(kind).state_dict()).items()}
    networks = [network.name for network in family.networks if kind in ("5b", network.name)]
    for network in networks:
        refuse_other_transformer(shapes, family, network, None)
    assert len(networks) == (2 if kind == "5b" else 1)


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    transformer("t2v").save_pretrained(tmp_path / "transformer")
    with pytest.raises(ModelError, match="no folder transformer_2/ or low_noise_model/"):
        locate(Part.TRANSFORMER, tmp_path, "low_noise")
    with pytest.raises(ModelError, match="its transformer/ has no other expert beside it, so name that folder"):
        locate(Part.TRANSFORMER, tmp_path, "high_noise")
    # fetched alone, it has its sibling in the list of the pipeline's parts
    (tmp_path / "model_index.json").write_text('{"transformer_2": ["diffusers", "WanTransformer3DModel"]}')
    assert locate(Part.TRANSFORMER, tmp_path, "high_noise").folder == tmp_path / "transformer"


def test_an_experts_folder_needs_no_config_and_is_missed_in_its_checkpoint(tmp_path: Path) -> None:
    kept = transformer("i2v")
    save_own(tmp_path / "low_noise_model", kept)
    (tmp_path / "low_noise_model" / "config.json").unlink()
    assert_same(load_part(locate(Part.TRANSFORMER, tmp_path, "low_noise"), HOST, 4), kept)
    with pytest.raises(ModelError, match="no folder transformer/ or high_noise_model/$"):
        locate(Part.TRANSFORMER, tmp_path, "high_noise")


def test_what_is_fetched_of_an_expert_is_its_own_folder() -> None:
    assert "transformer_2/*.safetensors" in patterns(Part.TRANSFORMER, "low_noise")
    assert "low_noise_model/*.json" in patterns(Part.TRANSFORMER, "low_noise")
    assert not [name for name in patterns(Part.TRANSFORMER, "low_noise") if name.startswith("transformer/")]
    assert patterns(Part.VAE, "low_noise") == patterns(Part.VAE)
    assert "Wan2.2_VAE.pth" in patterns(Part.VAE)


# -- which expert ------------------------------------------------------------------------------------------------------

HINTS = {
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": "high_noise",
    "wan2.2_i2v_low_noise_14B_fp16.safetensors": "low_noise",
    "Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors": "low_noise",
    "HighNoise/Wan2.2-T2V-A14B-HighNoise-Q8_0.gguf": "high_noise",
    "Wan2.2-I2V-A14B/low_noise_model": "low_noise",
    "high_noise_model/diffusion_pytorch_model-00001-of-00006.safetensors": "high_noise",
    "Wan2.2-T2V-A14B-Diffusers/transformer_2": "low_noise",
    "transformer_2/diffusion_pytorch_model.safetensors": "low_noise",
    "Wan2.1-T2V-14B-Diffusers/transformer": None,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": None,
    "wan2.2_high_noise_and_low_noise.safetensors": None,
    "wan2.2_5B_low_vram.safetensors": None,
    "high_quality_wan2.1.safetensors": None,
    "flow-a14b.safetensors": None,
}


@pytest.mark.parametrize("name", list(HINTS))
def test_names_say_which_expert_a_file_is(name: str) -> None:
    assert expert_hint(name) == HINTS[name]


def test_a_transformer_with_its_sibling_is_the_high_one(tmp_path: Path) -> None:
    for folder in ("transformer", "transformer_2"):
        (tmp_path / folder).mkdir()
    assert (expert_hint(tmp_path / "transformer"), expert_hint(tmp_path / "transformer_2")) == BOTH


def test_equal_tensors_are_told_from_equal_headers(tmp_path: Path) -> None:
    state, other = (wan_transformer(transformer("t2v", seed).state_dict()) for seed in (0, 1))
    whole = save(tmp_path / "whole.safetensors", state)
    prefixed = save(tmp_path / "prefixed.safetensors", {f"model.diffusion_model.{n}": t for n, t in state.items()})
    (tmp_path / "shards").mkdir()
    save_shards(tmp_path / "shards", state, 3)
    assert same_tensors([whole], (tmp_path / "shards").glob("*.safetensors"))
    assert same_tensors([whole], [prefixed])
    assert not same_tensors([whole], [save(tmp_path / "other.safetensors", other)])
    assert not same_tensors([whole], [save(tmp_path / "half.safetensors", {n: t.half() for n, t in state.items()})])
    few = {name: state[name] for name in list(state)[:9]}
    assert not same_tensors([whole], [save(tmp_path / "few.safetensors", few)])


def test_experts_that_look_wrong_are_said_and_equal_ones_refused(tmp_path: Path) -> None:
    files = {}
    for seed, expert in enumerate(BOTH):
        state = wan_transformer(transformer("t2v", seed).state_dict())
        files[expert] = str(save(tmp_path / f"wan2.2_t2v_{expert}_14B_fp16.safetensors", state))
    high, low = files.values()
    assert judge_experts({"high_noise": high, "low_noise": low}) == []
    assert judge_experts({"high_noise": low}) == [f"{low} is given as high_noise, and its name says low_noise"]
    [swapped] = judge_experts({"high_noise": low, "low_noise": high})
    assert swapped.startswith(f"the experts look swapped: {low} is given as high_noise")
    [older] = judge_experts({"high_noise": high, "low_noise": "Wan-AI/Wan2.1-T2V-14B-Diffusers"})
    assert older == "Wan-AI/Wan2.1-T2V-14B-Diffusers is given as low_noise, and its name says Wan2.1"
    again = save(tmp_path / "again.safetensors", wan_transformer(transformer("t2v", 0).state_dict()))
    with pytest.raises(ModelError, match=r"both experts are the same weights \(high_noise=.*low_noise="):
        judge_experts({"high_noise": high, "low_noise": str(again)})


def test_a_checkpoint_of_both_may_be_named_for_each(tmp_path: Path) -> None:
    for seed, folder in enumerate(("transformer", "transformer_2")):
        transformer("i2v", seed).save_pretrained(tmp_path / folder)
    assert judge_experts(dict.fromkeys(BOTH, str(tmp_path))) == []
    assert isinstance(locate(Part.TRANSFORMER, tmp_path, "low_noise"), FoundPart)
