"""Wan2.2's two families, number for number, against diffusers' own pipelines and the formulas of the official code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter
from cinelora.adapters.lora_layers import adapter_state, add_adapter
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import InferConfig, LoraSpec, ModelConfig, SamplerConfig
from cinelora.config.shipped import values
from cinelora.families import experts_of, family_of
from cinelora.families.family import Part
from cinelora.families.machinery import Bundle, machinery_of
from cinelora.families.wan.bundle import FirstFrameBundle
from cinelora.families.wan.conditions import FirstFrameCondition, ImageCondition, predict_velocity
from cinelora.nn.flow_matching import FlowMatching
from cinelora.nn.text_padding import pad_text
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.planning.estimate import Drawing
from cinelora.sampling.denoise import Course
from cinelora.sampling.make_clips import caveat
from cinelora.sampling.sampler import Sampling, Shown, Texts, acting, adapted_transformer
from cinelora.sampling.scene import TakeMaker

HEIGHT, WIDTH, FRAMES, STEPS = 64, 96, 9, 6
DIGITS = 1e-5
"""What a clip may differ by, of its largest value."""
PROMPT, NEGATIVE = "rain on a street", "blur"


def model_of(name: str) -> ModelConfig:
    return ModelConfig(**values(f"model/{name}"))


def bundle_of(model: ModelConfig, kind: str, cache: Path) -> Bundle:
    return machinery_of(model).from_config(model, kind, cache)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth frame with a hard edge."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 2, y * 3, 255 * (x > 20)], axis=-1).astype(np.uint8)


def drawn_adapter(bundle: Bundle, name: str) -> AdapterFile:
    """An adapter with values for an expert of the bundle's network."""
    transformer, spec = bundle.load_transformer(), LoraSpec(rank=4, alpha=8.0)
    add_adapter(transformer, name, spec, seed=1)
    generator = torch.Generator().manual_seed(len(name))
    state = {
        key: torch.randn(value.shape, generator=generator) * 0.2
        for key, value in adapter_state(transformer, name).items()
    }
    return AdapterFile(state, spec, "style", transformer=bundle.kind)


def ours(bundle: Bundle, noise: Tensor, image: Any, adapters: dict[str, AdapterFile]) -> Tensor:
    """A clip's latents as the product draws them: network by network, latents and solver carried across the change."""
    model = bundle.model
    assert model
    sampler = SamplerConfig(steps=STEPS, guidance=None, shift=model.shift_of(bundle.kind))
    sampling = Sampling(model, sampler, Partition(1, 1, 1), rank_info())
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        positive, negative = (pad_text(bundle.encode_text([text]), 512) for text in (PROMPT, NEGATIVE))
    shown = Shown(Texts(positive, negative), image, noise, bundle.kind)
    course = sampling.begin(shown)
    for expert in experts_of(model, bundle.kind):
        mine = {name: one for name, one in adapters.items() if name.endswith(expert.name)}
        part = bundle.of_expert(expert.name)
        with (
            adapted_transformer(part, mine, sampling, Drawing(together=True), FRAMES) as one,
            acting(one, dict.fromkeys(mine, 0.7), live=False, again=False),
        ):
            sampling.go_on(course, one, shown, "clip", True, expert)
    return sampling.settled(course, shown)


def theirs(pipeline: Any, model: ModelConfig, kind: str, noise: Tensor, **more: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    shift = model.shift_of(kind)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, flow_shift=shift)
    guidance = [expert.guidance for expert in experts_of(model, kind)]
    if len(guidance) == 2:
        more["guidance_scale_2"] = guidance[1]
    size = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": STEPS}
    clip: Tensor = pipeline(
        prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=guidance[0] or 5.0, latents=noise.clone(),
        output_type="latent", **size, **more,
    ).frames  # fmt: skip
    return clip


def noise_for(model: ModelConfig) -> Tensor:
    size = family_of(model).geometry.latent_size(FRAMES, HEIGHT, WIDTH)
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_a_clip_of_two_experts_equals_the_diffusers_pipeline(
    kind: str, adapted: bool, cache: Path, picture: np.ndarray, tmp_path: Path
):
    model = model_of("tiny_wan22_a14b")
    bundle, noise = bundle_of(model, kind, cache), noise_for(model)
    source = bundle.directory(Part.VAE).parent
    pipeline = (WanPipeline if kind == "t2v" else WanImageToVideoPipeline).from_pretrained(source)
    adapters = {}
    if adapted:
        for expert in experts_of(model, kind):
            name = expert.suffix("style")
            adapters[name] = drawn_adapter(bundle.of_expert(expert.name), name)
            export_adapter(tmp_path / f"{name}.safetensors", adapters[name])
            second = {"load_into_transformer_2": True} if expert.name == "low_noise" else {}
            pipeline.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name, **second)
        pipeline.set_adapters(list(adapters), [0.7, 0.7])
    image, more = None, {}
    if kind == "i2v":
        with bundle.loaded(*bundle.image_parts):
            image = bundle.encode_image(picture, FRAMES)
        more["image"] = Image.fromarray(picture)
    drawn, expected = ours(bundle, noise, image, adapters), theirs(pipeline, model, kind, noise, **more)
    assert (drawn - expected).abs().max() < DIGITS * expected.abs().max()


@pytest.mark.parametrize("shown", [False, True])
def test_a_clip_of_one_network_for_both_equals_the_diffusers_pipeline(shown: bool, cache: Path, picture: np.ndarray):
    model = model_of("tiny_wan22_5b")
    bundle, noise = bundle_of(model, "i2v" if shown else "t2v", cache), noise_for(model)
    source = bundle.directory(Part.VAE).parent
    image, more, pipeline = None, {}, WanPipeline.from_pretrained(source)
    if shown:
        pipeline = WanImageToVideoPipeline.from_pretrained(source, image_encoder=None, image_processor=None)
        with bundle.loaded(*bundle.image_parts):
            image = bundle.encode_image(picture, FRAMES)
        more["image"] = Image.fromarray(picture)
    drawn, expected = ours(bundle, noise, image, {}), theirs(pipeline, model, bundle.kind, noise, **more)
    assert (drawn - expected).abs().max() < DIGITS * expected.abs().max()


def test_a_given_first_frame_has_no_time_and_is_not_judged():
    """The official formula: mask * noisy + (1 - mask) * given, time * mask of each token, loss where the mask is 1."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=48, out_channels=48,
        text_dim=16, freq_dim=32, ffn_dim=96, num_layers=2,
    ).eval()  # fmt: skip
    clean, noise, text = torch.randn(2, 48, 3, 4, 6), torch.randn(2, 48, 3, 4, 6), torch.randn(2, 16, 16)
    sigma = torch.tensor([0.3, 0.8])
    noisy = FlowMatching.add_noise(clean, noise, sigma)
    mask = torch.ones(2, 1, 3, 4, 6)
    mask[:, :, 0] = 0
    times = (mask[:, 0, :, ::2, ::2] * 1000 * sigma.view(-1, 1, 1, 1)).flatten(1)
    condition = FirstFrameCondition.of_batch({"text": text, "latents": clean}, True)
    with torch.no_grad():
        expected = transformer(
            hidden_states=mask * noisy + (1 - mask) * clean,
            timestep=times,
            encoder_hidden_states=text,
            return_dict=False,
        )[0]
        predicted = condition.predict(transformer, noisy, FlowMatching.timestep(sigma))
    assert torch.equal(predicted[:, :, 1:], expected[:, :, 1:])
    target = FlowMatching.target(clean, noise)
    squares = ((expected - target).square() * mask).flatten(1).sum(1) / (48 * mask.flatten(1).sum(1))
    assert torch.allclose(FlowMatching.loss(predicted, target, condition.counts(clean)), squares, rtol=1e-6)
    # without its frame it is a clip from text alone, all of it judged, at one time for all tokens
    bare = condition.without_image()
    with torch.no_grad():
        whole = predict_velocity(transformer, noisy, sigma * 1000, bare)
        assert torch.equal(bare.predict(transformer, noisy, sigma * 1000), whole)
    assert bare.counts(clean) is None


def test_the_first_latents_of_a_clip_are_those_of_its_first_frame(cache: Path):
    """Which is why training encodes nothing a second time."""
    bundle = bundle_of(model_of("tiny_wan22_5b"), "i2v", cache)
    clip = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with bundle.loaded(Part.VAE):
        whole, alone = bundle.encode_video(clip), bundle.encode_images(clip[:, :, 0], FRAMES)
    assert isinstance(alone, ImageCondition)
    assert alone.tokens is None
    assert (whole[:, :, :1] - alone.latents).abs().max() < DIGITS * whole.abs().max()


@pytest.mark.parametrize("levels", [(0.875, 1.0), (0.0, 0.9), (0.0, 0.875)])
@pytest.mark.parametrize("shift", [1.0, 3.04])
def test_levels_inside_a_range_are_drawn_as_they_lie_there_among_all(levels: tuple[float, float], shift: float):
    """Drawing again until a level is inside gives the same distribution, of as many draws as chance wants."""
    law, normals = FlowMatching(shift), torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    every = law.sigmas(normals)
    inside = every[(every >= levels[0]) & (every <= levels[1])]
    drawn = law.sigmas(normals, levels)
    assert levels[0] <= drawn.min() <= drawn.max() <= levels[1]
    quantiles = torch.linspace(0.05, 0.95, 19)
    far = (drawn.quantile(quantiles) - inside.quantile(quantiles)).abs().max()
    assert far < 0.01 * (levels[1] - levels[0]) + 3 / len(inside) ** 0.5 * (levels[1] - levels[0])
    assert drawn[normals.argsort()].diff().min() > -1e-6  # one draw a sample stays one, in the same order


def test_the_second_expert_is_taught_up_to_where_its_adapter_will_be_used():
    model = model_of("wan22_a14b")
    (high, low), (image_high, image_low) = experts_of(model, "t2v"), experts_of(model, "i2v")
    assert (high.levels, high.taught, low.levels, low.taught) == ((0.875, 1.0), (0.875, 1.0), (0.0, 0.875), (0.0, 0.9))
    assert (image_high.taught, image_low.taught) == ((0.9, 1.0), (0.0, 0.9))
    assert [e.guidance for e in (high, low, image_high, image_low)] == [4.0, 3.0, 3.5, 3.5]
    assert (model.shift_of("t2v"), model.shift_of("i2v")) == (12.0, 5.0)


@pytest.mark.parametrize(("kind", "steps"), [("t2v", (26, 14)), ("i2v", (15, 25))])
def test_the_high_noise_expert_has_the_steps_that_the_authors_shift_gives_it(kind: str, steps: tuple[int, int]):
    """Of 40 steps; with the shift 3 that copies on the hub say it would have 13 and 11."""
    model = model_of("wan22_a14b")
    course = Course(torch.zeros(1), FlowMatching.solver(SamplerConfig(steps=40), model.shift_of(kind)))
    high, low = experts_of(model, kind)
    course.done = first = course.ahead(high.levels)
    assert (first, course.ahead(low.levels)) == steps


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_a_preview_of_one_expert_is_its_own_part_of_the_way(solver: str):
    """With the velocity that leads straight to a clip, each part ends at that clip: from noise, and from the clip noised."""
    clip, noise = torch.randn(2, 1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    asked: list[float] = []

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        asked.append(float(timestep[0]))
        return noise - clip

    def course() -> Course:
        return Course(noise, FlowMatching.solver(SamplerConfig(name=solver, steps=20), 5.0))

    high = course()
    high.go(denoise, high.ahead((0.9, 1.0)))
    assert min(asked) >= 900
    assert (high.clean(denoise) - clip).abs().max() < 5e-3  # noise itself stands for the first level, 0.999
    asked.clear()
    low = course()
    low.begin_at(0.9, FlowMatching.add_noise, clip)
    low.go(denoise, low.ahead((0.0, 0.9)))
    assert max(asked) < 900
    assert len(asked) == 20 - high.done
    assert (low.latents_BCTHW - clip).abs().max() < 1e-4


def test_one_network_is_loaded_once_for_keyframe_and_clip(cache: Path, tmp_path: Path):
    model = model_of("tiny_wan22_5b")
    config = InferConfig(model=model, prompt="rain", cache=str(cache), sampler=SamplerConfig(steps=2))
    request = ClipRequest(config)
    sampling = Sampling(model, request.clip_sampler, Partition(1, 1, 1), rank_info())
    loads: list[str] = []

    class Counted(FirstFrameBundle):
        def load_transformer(self, *args: Any, **named: Any) -> WanTransformer3DModel:
            loads.append(self.kind)
            return super().load_transformer(*args, **named)

    bundles: dict[str, Bundle] = {kind: Counted.from_config(model, kind, cache) for kind in request.transformers}
    maker = TakeMaker(request, {}, bundles, sampling)
    takes = request.takes(tmp_path)
    [planned] = maker.planned(takes, {"adapted": None})
    [latents] = maker.denoised(list(planned.values())).values()
    assert loads == ["t2v"]
    assert latents.of_clip.shape == (1, 48, 3, 4, 6)
    assert not maker.held


@pytest.mark.parametrize("name", ["tiny_wan22_5b", "tiny_wan22_a14b"])
def test_small_members_say_that_their_pictures_are_noise(name: str):
    model = model_of(name)
    assert model.is_random
    assert caveat(InferConfig(model=model)) == " (random weights: noise)"
    assert not model_of("tiny").is_random
