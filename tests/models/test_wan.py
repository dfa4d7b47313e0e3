"""Conditioning, number for number, against diffusers' own pipelines on the embedded model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from rounding import LAYERS, SUMS, units

from cinelora.config.schema import SamplerConfig
from cinelora.errors import ModelError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle, pixels_to_range
from cinelora.families.wan.conditions import Condition, ImageCondition, first_frame_mask, predict_velocity
from cinelora.families.wan21 import WAN21
from cinelora.nn.flow_matching import FlowMatching
from cinelora.nn.text_padding import pad_text
from cinelora.sampling.denoise import Guided, sample

PROMPT = "a man, smoking (alone), waits; a car's lamps = two moons &amp; rain"
NEGATIVE = "blur"
HEIGHT, WIDTH, FRAMES = 32, 48, 9
DIGITS = 1e-4
"""What the last digits of float32 may come to in one network; one letter of a prompt comes to 100 times that in a clip."""
CLIP_DIGITS = 2e-4
"""The same over a clip's steps with guidance; timesteps rounded to bf16 come to 100 times that, guidance 4.01 to 8 times."""


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth frame with a hard edge."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frame = np.stack([x * 5, y * 7, 255 * (x > 20)], axis=-1)
    return frame.astype(np.uint8)


def text_pair(bundle: WanBundle) -> tuple[torch.Tensor, torch.Tensor]:
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        positive, negative = (pad_text(bundle.encode_text([p]), 512) for p in (PROMPT, NEGATIVE))
    return positive, negative


@pytest.mark.parametrize("steps", [4])
def test_t2v_clip_equals_the_diffusers_pipeline(t2v: WanBundle, steps: int):
    pipeline = WanPipeline.from_pretrained(t2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    noise = torch.randn(1, 16, 3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        PROMPT, NEGATIVE, HEIGHT, WIDTH, FRAMES, steps, guidance_scale=4.0, latents=noise.clone(), output_type="latent"
    ).frames
    positive, negative = text_pair(t2v)
    guided = Guided(t2v.load_transformer(), Condition(positive), Condition(negative), 4.0)
    ours = sample(guided, noise, FlowMatching.solver(SamplerConfig(steps=steps), shift=3.0))
    assert (ours - theirs).abs().max() < CLIP_DIGITS
    in_turn = sample(replace(guided, together=False), noise, FlowMatching.solver(SamplerConfig(steps=steps), shift=3.0))
    assert (in_turn - theirs).abs().max() < CLIP_DIGITS


def test_i2v_clip_equals_the_diffusers_pipeline_given_the_same_clip_features(i2v: WanBundle, picture: np.ndarray):
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    noise = torch.randn(1, 16, 3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    with i2v.loaded(Part.VAE, Part.IMAGE_ENCODER):
        image = i2v.encode_image(picture, FRAMES)
    theirs = pipeline(
        Image.fromarray(picture),
        PROMPT,
        NEGATIVE,
        HEIGHT,
        WIDTH,
        FRAMES,
        4,
        guidance_scale=4.0,
        latents=noise.clone(),
        output_type="latent",
    ).frames
    positive, negative = text_pair(i2v)
    shown = ImageCondition(image.latents, pipeline.encode_image(Image.fromarray(picture), "cpu"))
    guided = Guided(i2v.load_transformer(), Condition(positive, shown), Condition(negative, shown), 4.0)
    ours = sample(guided, noise, FlowMatching.solver(SamplerConfig(steps=4), shift=3.0))
    assert (ours - theirs).abs().max() < CLIP_DIGITS


def test_condition_latents_and_mask_are_those_of_the_diffusers_pipeline(i2v: WanBundle, picture: np.ndarray):
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    _, theirs = pipeline.prepare_latents(
        pixels_to_range(picture[None], torch.device("cpu"))[:, :, 0], 1, 16, HEIGHT, WIDTH, FRAMES, torch.float32, "cpu"
    )
    with i2v.loaded(Part.VAE, Part.IMAGE_ENCODER):
        image = i2v.encode_image(picture, FRAMES)
    ours = torch.cat([first_frame_mask(image.latents), image.latents], dim=1)
    assert (ours - theirs).abs().max() < DIGITS


def test_a_shorter_clip_is_shown_the_first_latents_of_a_longer_one(i2v: WanBundle, picture: np.ndarray):
    """The VAE only looks back; previews that are shorter than the samples rest on it."""
    with i2v.loaded(Part.VAE, Part.IMAGE_ENCODER):
        longer, shorter = (i2v.encode_image(picture, frames).latents for frames in (FRAMES, FRAMES - 4))
    assert units(shorter, longer[:, :, : shorter.shape[2]]) <= SUMS


def test_clip_features_differ_from_diffusers_in_the_resize_alone(i2v: WanBundle, picture: np.ndarray):
    """Wan's code resizes without antialiasing, diffusers' PIL processor with it: equal where nothing is resized."""
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    square = np.asarray(Image.fromarray(picture).resize((224, 224)))
    with i2v.loaded(Part.VAE, Part.IMAGE_ENCODER):
        ours = [i2v.encode_image(frame, 1).tokens for frame in (square, picture)]
    theirs = [pipeline.encode_image(Image.fromarray(frame), "cpu")[0] for frame in (square, picture)]
    assert (ours[0] - theirs[0]).abs().max() < DIGITS
    assert (ours[1] - theirs[1]).abs().max() > 10 * DIGITS


def test_text_is_cut_at_its_true_length_and_zero_padded_as_in_the_diffusers_pipeline(t2v: WanBundle):
    pipeline = WanPipeline.from_pretrained(t2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    theirs, _ = pipeline.encode_prompt(PROMPT, max_sequence_length=512, do_classifier_free_guidance=False)
    with t2v.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        [text] = t2v.encode_text([PROMPT])
    ours = pad_text([text], 512)
    assert (ours - theirs).abs().max() < DIGITS
    assert not ours[0, len(text) :].any()
    assert len(text) < 512


def test_latents_are_the_posterior_mean_normalised_and_decode_undoes_it(t2v: WanBundle, picture: np.ndarray):
    video = pixels_to_range(np.stack([picture] * 5), torch.device("cpu"))
    with t2v.loaded(Part.VAE):
        vae = t2v._part(Part.VAE)
        latents = t2v.encode_video(video)
        assert torch.equal(latents, t2v.encode_video(video))
        with torch.no_grad():
            raw = vae.encode(video).latent_dist.mean
            expected = (vae.decode(raw).sample + 1) / 2
        mean, std = (torch.tensor(vae.config[name]).view(1, 16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
        assert units(latents * std + mean, raw) <= LAYERS
        assert torch.allclose(t2v.decode(latents), expected.clamp(0, 1), atol=1e-3)  # a quarter of a level


def test_dropping_the_image_means_no_tokens_and_zero_mask_and_zero_latents(i2v: WanBundle):
    transformer = i2v.load_transformer()
    latents, timestep = torch.randn(1, 16, 2, 4, 6), torch.tensor([500.0])
    text = torch.randn(1, 512, 128)
    dropped = predict_velocity(transformer, latents, timestep, Condition(text))
    by_hand = transformer(torch.cat([latents, torch.zeros(1, 20, 2, 4, 6)], 1), timestep, text).sample
    zero_tokens = ImageCondition(torch.zeros_like(latents), torch.zeros(1, 257, 96))
    assert torch.equal(dropped, by_hand)
    assert not torch.allclose(dropped, predict_velocity(transformer, latents, timestep, Condition(text, zero_tokens)))


def test_token_counts_are_those_of_wan():
    assert WAN21.geometry.num_tokens(1, 480, 832) == 1560
    assert WAN21.geometry.num_tokens(1, 720, 1280) == 3600
    assert WAN21.geometry.num_tokens(33, 480, 832) == 14040
    assert WAN21.geometry.num_tokens(81, 720, 1280) == 75600


def copy_of(bundle: WanBundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.directory(Part.VAE).parent, folder / "copy"))


def test_a_local_directory_loads_part_by_part(t2v: WanBundle, tmp_path: Path):
    folder = copy_of(t2v, tmp_path)
    shutil.rmtree(folder / "vae")
    bundle = WanBundle(str(folder), dtype="bf16", cache=tmp_path)
    assert bundle.load_transformer().dtype == torch.bfloat16
    with pytest.raises(ModelError, match=r"vae of .*copy: no folder vae/"):
        bundle.directory(Part.VAE)


def test_pickled_weights_are_refused(t2v: WanBundle, tmp_path: Path):
    folder = copy_of(t2v, tmp_path)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"no \.safetensors file but .*\.bin in vae/; pickled weights are never"):
        WanBundle(str(folder), cache=tmp_path).directory(Part.VAE)


def test_damaged_parts_are_named(t2v: WanBundle, tmp_path: Path):
    folder = copy_of(t2v, tmp_path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="transformer of .* does not load"):
        WanBundle(str(folder), dtype="fp32", cache=tmp_path).load_transformer()
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"')
    with pytest.raises(ModelError, match="tokenizer of .* does not load"):
        WanBundle(str(folder), cache=tmp_path)._part(Part.TOKENIZER)


def test_a_fingerprint_covers_content_not_dates(t2v: WanBundle, tmp_path: Path):
    folder = copy_of(t2v, tmp_path)
    bundle = WanBundle(str(folder), cache=tmp_path)
    before = bundle.fingerprint(Part.VAE)
    assert before == t2v.fingerprint(Part.VAE)
    config = folder / "vae" / "config.json"
    config.touch()
    assert bundle.fingerprint(Part.VAE) == before
    config.write_text(json.dumps(json.loads(config.read_text()) | {"z_dim": 17}))
    assert bundle.fingerprint(Part.VAE) != before


def test_a_source_that_is_neither_directory_nor_repository_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="neither a directory, a file, nor a hub repository"):
        WanBundle("./nowhere/at/all", cache=tmp_path).directory(Part.VAE)


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path):
    with pytest.raises(ModelError, match=r"cannot fetch vae of owner/name@main from the hub: .*; give a local"):
        WanBundle("owner/name", cache=tmp_path).directory(Part.VAE)
