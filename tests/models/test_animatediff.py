"""AnimateDiff, number for number, against diffusers' own pipelines, on small networks of diffusers' own classes."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from rounding import LAYERS, SUMS, units, units_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.formats import AUTHORS
from cinelora.adapters.lora_layers import adapter_state, add_adapter, load_adapter, set_scales
from cinelora.adapters.trainable import TrainedAdapter
from cinelora.config.schema import FlowConfig, LoraSpec, ModelConfig, SamplerConfig
from cinelora.errors import AdapterError, ModelError
from cinelora.families.animatediff import tiny_unets
from cinelora.families.animatediff.long_clips import windowed_noise
from cinelora.families.animatediff.motion_modules import load_motion, refuse_other_base
from cinelora.families.animatediff.unet_bundle import AnimateDiffBundle
from cinelora.families.animatediff.unet_conditions import FrameCondition
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Part
from cinelora.families.layer_names import projections
from cinelora.families.noise_law import NoiseLaw
from cinelora.families.unet_layers import UNET_LAYERS
from cinelora.nn.epsilon import FIRST_BETA, LAST_BETA, alpha_bars
from cinelora.nn.flow_matching import keyed_generator
from cinelora.planning.estimate import Policy
from cinelora.sampling.denoise import Guided, sample

SIZE, FRAMES, STEPS, GUIDANCE = 64, 4, 2, 7.5
DIGITS = 1e-5
"""What a clip may differ by, of its largest value."""
PROMPT, NEGATIVE = "rain on a street", "blur"
SPEC = LoraSpec(rank=3, alpha=6.0, targets="attention")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animatediff")
    tiny_unets.write_tiny(folder)
    return folder


def bundle_of(tiny: Path, network: str, **changes: Any) -> AnimateDiffBundle:
    named = {"base": str(tiny / "base"), "motion_adapter": str(tiny / "motion"), **changes}
    model = ModelConfig(name="tiny", family=ANIMATEDIFF.name, dtype="fp32", **named)
    return AnimateDiffBundle(model, network, tiny / "cache", torch.device("cpu"))


def drawn(*size: int, key: str = "noise") -> Tensor:
    return torch.randn(size, generator=keyed_generator(key))


def adapter_of(tiny: Path, network: str, kind: str, **changes: Any) -> AdapterFile:
    """An adapter with values, on all attention of a network that it is of."""
    unet, spec = bundle_of(tiny, network).load_transformer(), LoraSpec(**{**vars(SPEC), **changes})
    add_adapter(unet, kind, spec, seed=1, network=network)
    state = {key: drawn(*value.shape, key=key) * 0.2 for key, value in adapter_state(unet, kind).items()}
    return AdapterFile(state, spec, kind, base_model="tiny", transformer=network, trigger="noir")


def texts(bundle: AnimateDiffBundle) -> tuple[FrameCondition, FrameCondition]:
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        shown, other = bundle.encode_text([PROMPT, NEGATIVE])
    return FrameCondition(shown[None]), FrameCondition(other[None])


def ours(
    bundle: AnimateDiffBundle, adapters: dict[str, AdapterFile], scale: float, noise: Tensor, frames: int | None = None
) -> Tensor:
    """Latents as the product draws them."""
    unet = bundle.load_transformer(num_frames=frames)
    for name, adapter in adapters.items():
        load_adapter(unet, name, adapter, "tiny")
    set_scales(unet, dict.fromkeys(adapters, scale))
    solver = bundle.noise_law.solver(SamplerConfig(name="euler", steps=STEPS), 1.0)
    return sample(Guided(unet, *texts(bundle), GUIDANCE), noise, solver)


def stock(tiny: Path, network: str) -> Any:
    """diffusers' pipeline of a network, with its solver as the family's authors set it."""
    betas = {"beta_start": FIRST_BETA, "beta_end": LAST_BETA, "steps_offset": 1, "clip_sample": False}
    scheduler = DDIMScheduler(**betas, beta_schedule=ANIMATEDIFF.network(network).betas)
    if network == "motion":
        modules = MotionAdapter.from_pretrained(tiny / "motion")
        pipe = AnimateDiffPipeline.from_pretrained(tiny / "base", motion_adapter=modules, scheduler=scheduler)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(tiny / "base", scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, noise: Tensor, **size: int) -> Tensor:
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "num_inference_steps": STEPS}
    made = pipe(**words, **size, height=SIZE, width=SIZE, latents=noise.clone(), output_type="latent")
    latents: Tensor = made[0]
    return latents


@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_a_clip_equals_stock_animatediff_with_both_adapters(tiny: Path, tmp_path: Path, scale: float):
    noise, pipe = drawn(1, 4, FRAMES, 8, 8), stock(tiny, "motion")
    adapters = {
        "style": adapter_of(tiny, "image", "style"),
        "motion": adapter_of(tiny, "motion", "motion", rank=2),
    }
    for name, adapter in adapters.items():
        export_adapter(tmp_path / f"{name}.safetensors", adapter, "diffusers")
        pipe.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(adapters), [scale, scale])
    expected, bare = theirs(pipe, noise, num_frames=FRAMES), ours(bundle_of(tiny, "motion"), {}, 1.0, noise)
    clip = ours(bundle_of(tiny, "motion"), adapters, scale, noise)
    assert (clip - expected).abs().max() < DIGITS * expected.abs().max()
    assert (clip - bare).abs().max() > 1000 * DIGITS * expected.abs().max()


@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_a_still_equals_stock_stable_diffusion_with_the_same_style_file(tiny: Path, tmp_path: Path, scale: float):
    noise, pipe, style = drawn(1, 4, 1, 8, 8), stock(tiny, "image"), adapter_of(tiny, "image", "style")
    export_adapter(tmp_path / "style.safetensors", style, "diffusers")
    pipe.load_lora_weights(tmp_path / "style.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], [scale])
    expected = theirs(pipe, noise[:, :, 0])
    still = ours(bundle_of(tiny, "image"), {"style": style}, scale, noise)
    assert (still[:, :, 0] - expected).abs().max() < DIGITS * expected.abs().max()


def test_a_clip_longer_than_the_modules_equals_stock_free_noise_with_an_adapter(tiny: Path, tmp_path: Path):
    """Of 24 frames by modules that take 16, the noise too."""
    pipe, motion, frames, window = stock(tiny, "motion"), adapter_of(tiny, "motion", "motion"), 24, 16
    pipe.enable_free_noise(context_length=window, context_stride=4)
    export_adapter(tmp_path / "motion.safetensors", motion, "diffusers")
    pipe.load_lora_weights(tmp_path / "motion.safetensors", adapter_name="motion")
    drawn_there = pipe.prepare_latents(1, 4, frames, SIZE, SIZE, torch.float32, "cpu", torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    noise = windowed_noise(torch.randn(1, 4, frames, 8, 8, generator=generator), window, generator)
    assert torch.equal(noise, drawn_there)
    expected = theirs(pipe, noise, num_frames=frames)
    clip = ours(bundle_of(tiny, "motion"), {"motion": motion}, 1.0, noise, frames)
    assert (clip - expected).abs().max() < DIGITS * expected.abs().max()


def test_frames_are_encoded_and_decoded_each_by_itself_as_stock_diffusers_does(tiny: Path):
    bundle, pipe = bundle_of(tiny, "motion"), stock(tiny, "motion")
    with bundle.loaded(Part.VAE), torch.no_grad():
        pixels = drawn(2, 3, 9, 32, 32).clamp(-1, 1)
        latents = bundle.encode_video(pixels)
        assert tuple(latents.shape[1:]) == ANIMATEDIFF.geometry.latent_size(9, 32, 32)
        fifth = pipe.vae.encode(pixels[1:, :, 4]).latent_dist.mode() * 0.18215
        assert units(latents[1:, :, 4], fifth) < LAYERS
        decoded = (pipe.decode_latents(latents[:1]) / 2 + 0.5).clamp(0, 1)
        assert units(bundle.decode(latents)[:1], decoded) < LAYERS


def test_text_is_encoded_with_its_padding_as_stock_diffusers_does(tiny: Path):
    shown, other = texts(bundle_of(tiny, "image"))
    expected = stock(tiny, "image").encode_prompt(PROMPT, torch.device("cpu"), 1, True, NEGATIVE)
    assert torch.equal(shown.text, expected[0])
    assert torch.equal(other.text, expected[1])
    assert shown.text.shape[1] == ANIMATEDIFF.text_tokens


def test_frames_by_the_image_network_are_stills_and_rows_are_samples(tiny: Path):
    unet, text = bundle_of(tiny, "image").load_transformer(), drawn(2, 77, tiny_unets.WIDTH, key="text")
    latents, time = drawn(2, 4, 3, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        predicted = FrameCondition(text).predict(unet, latents, time)
        alone = unet(latents[1:, :, 2], time[1:], text[1:]).sample
        row = FrameCondition(text).rows(torch.tensor([False, True])).predict(unet, latents[1:], time[1:])
    assert units(predicted[1:, :, 2], alone) < LAYERS
    assert units(predicted[1:], row) < LAYERS


@pytest.mark.parametrize(("frames", "said"), [(1, "image network"), (17, "longer than the 16 frames")])
def test_motion_modules_refuse_what_they_were_never_taught(tiny: Path, frames: int, said: str):
    unet = bundle_of(tiny, "motion").load_transformer()
    with pytest.raises(ModelError, match=said):
        FrameCondition(drawn(1, 77, tiny_unets.WIDTH)).predict(unet, drawn(1, 4, frames, 8, 8), torch.tensor([5]))


# -- the authors' files ------------------------------------------------------------------------------------------------


def authors_state(adapter: MotionAdapter) -> dict[str, Tensor]:
    """The tensors of a motion adapter under the names that AnimateDiff's own network gives them."""
    state = {}
    for name, tensor in adapter.state_dict().items():
        name = re.sub(r"(motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
        name = re.sub(r"\.norm([12])\.", lambda form: f".norms.{int(form[1]) - 1}.", name)
        name = re.sub(r"\.attn([12])\.", lambda form: f".attention_blocks.{int(form[1]) - 1}.", name)
        name = name.replace(".norm3.", ".ff_norm.")
        if not name.endswith("pos_embed.pe"):
            state[name] = tensor
        for number in range(2):
            block = name.removesuffix("pos_embed.pe")
            if name.endswith("pos_embed.pe"):
                state[f"{block}attention_blocks.{number}.pos_encoder.pe"] = tensor.clone()
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("mid", "longest", "nested"), [(False, 24, False), (True, 32, True)])
def test_the_authors_pickles_are_the_same_modules(tmp_path: Path, prefix: str, mid: bool, longest: int, nested: bool):
    """v1 has 24 frames and no modules in the middle, v2 32 and some; a training run's file has other things beside."""
    shape = {**tiny_unets.MOTION, "use_motion_mid_block": mid, "motion_max_seq_length": longest}
    torch.manual_seed(3)
    adapter = MotionAdapter(**shape)
    state = {f"{prefix}{name}": tensor for name, tensor in authors_state(adapter).items()}
    torch.save({"epoch": 1, "state_dict": state} if nested else state, path := tmp_path / "mm.ckpt")
    read = load_motion(path, heads=tiny_unets.HEADS, groups=tiny_unets.GROUPS)
    assert read.config.motion_max_seq_length == longest
    expected = adapter.state_dict()
    assert read.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read.state_dict().items())


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path):
    torch.save({"down_blocks.0.motion_modules.0.proj_out.bias": io.StringIO("code")}, path := tmp_path / "mm.ckpt")
    with pytest.raises(ModelError, match="more than tensors"):
        load_motion(path)


def test_half_a_motion_adapter_is_refused(tmp_path: Path):
    state = authors_state(MotionAdapter(**tiny_unets.MOTION))
    state.pop(next(name for name in state if name.endswith("proj_in.weight")))
    save_file(state, path := tmp_path / "mm.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are off, such as down_blocks\.0"):
        load_motion(path, heads=tiny_unets.HEADS, groups=tiny_unets.GROUPS)
    save_file({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="no motion modules"):
        load_motion(path)


def test_other_bases_are_refused_by_name():
    inpainting = UNet2DConditionModel(**{**tiny_unets.UNET, "in_channels": 9})
    with pytest.raises(ModelError, match="inpainting"):
        refuse_other_base(inpainting, None)
    with torch.device("meta"):
        sdxl = MotionAdapter(**{**tiny_unets.MOTION, "block_out_channels": (320, 640, 1280)})
    with pytest.raises(ModelError, match="SDXL"):
        refuse_other_base(UNet2DConditionModel(**tiny_unets.UNET), sdxl)


UNET_NAMES = {
    "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    ".norm1.": ".in_layers.0.", ".conv1.": ".in_layers.2.", ".time_emb_proj.": ".emb_layers.1.",
    ".norm2.": ".out_layers.0.", ".conv2.": ".out_layers.3.", ".conv_shortcut.": ".skip_connection.",
}  # fmt: skip
"""The small network's layers, and what they are called in a checkpoint of Stable Diffusion's authors."""
VAE_NAMES = {
    **{f"encoder.down_blocks.{level}.resnets.": f"encoder.down.{level}.block." for level in range(4)},
    **{f"decoder.up_blocks.{level}.resnets.": f"decoder.up.{3 - level}.block." for level in range(4)},
    **{f"encoder.down_blocks.{level}.downsamplers.0": f"encoder.down.{level}.downsample" for level in range(4)},
    **{f"decoder.up_blocks.{level}.upsamplers.0": f"decoder.up.{3 - level}.upsample" for level in range(4)},
    **{f"mid_block.resnets.{number}": f"mid.block_{number + 1}" for number in range(2)},
    "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
    "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out",
}  # fmt: skip


def authors_checkpoint(pipe: Any) -> dict[str, Tensor]:
    """The weights of a pipeline as its authors' tools keep them in one file."""
    state = {}
    for name, tensor in pipe.unet.state_dict().items():
        inside = ".transformer_blocks." in name
        for ours, theirs in UNET_NAMES.items():
            name = name if inside and ours.startswith(".") else name.replace(ours, theirs)
        state[f"model.diffusion_model.{name}"] = tensor
    for name, tensor in pipe.vae.state_dict().items():
        # there an attention's projections are convolutions of 1x1
        tensor = tensor[:, :, None, None] if "attentions" in name and tensor.ndim == 2 else tensor
        for ours, theirs in VAE_NAMES.items():
            name = name.replace(ours, theirs)
        state[f"first_stage_model.{name}"] = tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    return state


def test_a_fine_tune_as_one_file_takes_the_place_of_the_bases_weights(tiny: Path, tmp_path: Path):
    other, noise = stock(tiny, "image"), drawn(1, 4, 1, 8, 8)
    for part in (other.unet, other.vae, other.text_encoder):
        for name, tensor in part.state_dict().items():
            if tensor.is_floating_point():
                tensor += 0.05 * drawn(*tensor.shape, key=name)
    save_file(authors_checkpoint(other), file := tmp_path / "tuned.safetensors")
    bundle = bundle_of(tiny, "image", tuned=str(file))
    expected = theirs(other, noise[:, :, 0])
    still = ours(bundle, {}, 1.0, noise)
    assert (still[:, :, 0] - expected).abs().max() < DIGITS * expected.abs().max()
    with bundle.loaded(Part.VAE), torch.no_grad():
        decoded = other.vae.decode(expected / other.vae.config.scaling_factor).sample
        assert units(bundle.decode(expected[:, :, None])[:, :, 0], (decoded / 2 + 0.5).clamp(0, 1)) < LAYERS


def test_one_file_of_another_model_is_refused(tiny: Path, tmp_path: Path):
    state = authors_checkpoint(stock(tiny, "image"))
    wide = state["model.diffusion_model.input_blocks.0.0.weight"].repeat(1, 3, 1, 1)[:, :9].clone()
    save_file({**state, "model.diffusion_model.input_blocks.0.0.weight": wide}, file := tmp_path / "a.safetensors")
    bundle = bundle_of(tiny, "image", tuned=str(file))
    with pytest.raises(ModelError, match=r"conv_in\.weight, \[32, 9, 3, 3\] where \[32, 4, 3, 3\]"):
        bundle.load_transformer()
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match="holds no unet"):
        bundle.load_transformer()


# -- files of adapters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "layout"), [(network, layout) for network in ("image", "motion") for layout in ("diffusers", "comfy")]
)
def test_an_adapter_comes_back_from_its_file(tiny: Path, tmp_path: Path, network: str, layout: Any):
    adapter = adapter_of(tiny, network, "style" if network == "image" else "motion")
    export_adapter(path := tmp_path / "a.safetensors", adapter, layout)
    read = read_adapter(path)
    assert read.state.keys() == adapter.state.keys()
    assert all(torch.equal(factor, adapter.state[key]) for key, factor in read.state.items())
    facts = ("spec", "kind", "base_model", "transformer", "trigger", "deltas")
    assert [getattr(read, fact) for fact in facts] == [getattr(adapter, fact) for fact in facts]


def test_the_authors_motion_lora_round_trips_and_is_what_diffusers_own_script_reads(tiny: Path, tmp_path: Path):
    """The renaming of ``convert_animatediff_motion_lora_to_diffusers.py``, then stock AnimateDiff."""
    noise, pipe = drawn(1, 4, FRAMES, 8, 8), stock(tiny, "motion")
    motion = adapter_of(tiny, "motion", "motion")
    export_adapter(path := tmp_path / "motion.safetensors", motion, "comfy")
    pickled = tmp_path / "motion.ckpt"
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in load_file(path).items()}}, pickled)
    renamed = {}
    for key, tensor in load_file(path).items():
        key = key.replace(".attention_blocks.0", ".attn1").replace(".attention_blocks.1", ".attn2")
        renamed[f"unet.{key.replace('.temporal_transformer', '')}"] = tensor
    pipe.load_lora_weights(renamed, adapter_name="motion")
    expected = theirs(pipe, noise, num_frames=FRAMES)
    clip = ours(bundle_of(tiny, "motion"), {"motion": read_adapter(pickled)}, 1.0, noise)
    assert (clip - expected).abs().max() < DIGITS * expected.abs().max()


def test_a_style_of_kohyas_trainer_acts_as_in_stock_diffusers(tiny: Path, tmp_path: Path):
    """With alphas, a convolution, and a text encoder's part, which is left out."""
    style, state = adapter_of(tiny, "image", "style", targets="all_linear"), {}
    for key, factor in style.state.items():
        module, _, which = key.removesuffix(".weight").rpartition(".lora_")
        name = f"lora_unet_{module.replace('.', '_')}"
        state[f"{name}.lora_{'down' if which == 'A' else 'up'}.weight"] = factor
        state[f"{name}.alpha"] = torch.tensor(2.0)
    conv = "lora_unet_down_blocks_0_attentions_0_proj_in"
    state |= {f"{conv}.lora_down.weight": drawn(3, 32, 1, 1, key="down") * 0.2, f"{conv}.alpha": torch.tensor(1.5)}
    state[f"{conv}.lora_up.weight"] = drawn(32, 3, 1, 1, key="up") * 0.2
    save_file(state, path := tmp_path / "kohya.safetensors")
    noise, pipe = drawn(1, 4, 1, 8, 8), stock(tiny, "image")
    pipe.load_lora_weights(path, adapter_name="style")
    expected = theirs(pipe, noise[:, :, 0])
    still = ours(bundle_of(tiny, "image"), {"style": read_adapter(path)}, 1.0, noise)
    assert (still[:, :, 0] - expected).abs().max() < DIGITS * expected.abs().max()


def test_the_authors_domain_adapter_is_one_of_the_image_network(tiny: Path, tmp_path: Path):
    """``v3_sd15_adapter.ckpt``: on all spatial attention, by the names of attention processors."""
    domain, state = adapter_of(tiny, "image", "style", alpha=3.0), {}
    for key, factor in domain.state.items():
        way = "down" if ".lora_A." in key else "up"
        name = re.sub(r"\.to_(q|k|v|out)(\.0)?\.lora_[AB]\.weight", rf".processor.to_\1_lora.{way}.weight", key)
        state[f"module.{name}"] = factor
    torch.save({"state_dict": state, "global_step": 1}, path := tmp_path / "v3_sd15_adapter.ckpt")
    read = read_adapter(path)
    assert (read.transformer, read.spec) == ("image", domain.spec)
    assert read.state.keys() == domain.state.keys()
    assert all(torch.equal(factor, domain.state[key]) for key, factor in read.state.items())


def test_layers_of_other_ranks_are_filled_up_and_worth_the_same(tiny: Path, tmp_path: Path):
    low, high = (adapter_of(tiny, "image", "style", rank=rank) for rank in (2, 5))
    chosen = sorted(high.modules)[::2]
    state = {key: (high if key.rsplit(".", 2)[0] in chosen else low).state[key] for key in high.state}
    alphas = {f"{module}.alpha": torch.tensor(2.0) for module in high.modules}
    save_file(
        {f"unet.{key}": tensor for key, tensor in {**state, **alphas}.items()}, path := tmp_path / "a.safetensors"
    )
    read = read_adapter(path)
    assert read.spec.rank == 5
    for module in high.modules:
        down, up = (state[f"{module}.lora_{factor}.weight"] for factor in "AB")
        found = (read.state[f"{module}.lora_{factor}.weight"] for factor in "BA")
        assert units(read.spec.scale * torch.matmul(*found), 2.0 / len(down) * up @ down) < SUMS


REFUSED = {
    "unet.conv_in.lora_A.weight": "no adapter of Wan or Stable Diffusion",
    "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": "of layers not adapted here",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": "but no lora_B",
}


@pytest.mark.parametrize("key", REFUSED)
def test_files_of_other_networks_are_refused(tmp_path: Path, key: str):
    save_file({key: torch.zeros(2, 4)}, path := tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=REFUSED[key]):
        read_adapter(path)


def test_adapters_hang_where_they_belong_alone(tiny: Path, tmp_path: Path):
    motion, unet = adapter_of(tiny, "motion", "motion"), bundle_of(tiny, "image").load_transformer()
    with pytest.raises(AdapterError, match="motion_modules"):
        load_adapter(unet, "motion", motion, "tiny")
    both = {**motion.state, **adapter_of(tiny, "image", "style").state}
    export_adapter(
        path := tmp_path / "both.safetensors", AdapterFile(both, SPEC, "motion", transformer="motion"), "diffusers"
    )
    with pytest.raises(AdapterError, match="file of its own"):
        read_adapter(path)
    with pytest.raises(AdapterError, match="no attention of a motion module"):
        AUTHORS.key(adapter_of(tiny, "image", "style").modules[0], "A")


def test_every_layer_of_the_style_is_in_the_motion_network(tiny: Path):
    image, motion = (dict(bundle_of(tiny, name).load_transformer().named_modules()) for name in ("image", "motion"))
    for targets in ("cross_attention", "attention", "all_linear"):
        assert (
            projections(UNET_LAYERS, image, targets, "image")
            == projections(UNET_LAYERS, motion, targets, "image")
            != []
        )
        assert projections(UNET_LAYERS, image, targets, "motion") == []
    linear = [name for name, layer in motion.items() if isinstance(layer, torch.nn.Linear) and "motion_modules" in name]
    inside = [name for name in linear if ".proj_" not in name]
    assert projections(UNET_LAYERS, motion, "all_linear", "motion") == inside


@pytest.mark.parametrize(("network", "frames"), [("image", 1), ("motion", 4)])
def test_a_gradient_by_recomputed_blocks_is_the_same(tiny: Path, network: str, frames: int):
    """Of both networks, with an adapter: of every factor, and none of it is lost."""
    gradients = []
    for recomputes in (False, True):
        unet = bundle_of(tiny, network).load_transformer().train()
        layers = add_adapter(unet, "one", SPEC, 0, network)
        bundle_of(tiny, network).arrange(unet, Policy(recompute=int(recomputes)))
        condition = FrameCondition(drawn(1, 77, tiny_unets.WIDTH, key="text"))
        condition.predict(unet, drawn(1, 4, frames, 8, 8), torch.tensor([500])).square().mean().backward()
        gradients.append([factor.grad for factor in TrainedAdapter(unet, "one").parameters])
    assert len(gradients[0]) == 2 * len(layers)
    assert units_of(gradients[1], gradients[0]) < LAYERS


@pytest.mark.parametrize("network", ["image", "motion"])
def test_what_is_left_of_the_latents_is_that_of_the_networks_own_schedule(tiny: Path, network: str):
    law = bundle_of(tiny, network).noise_law
    noisy = law.add_noise(torch.ones(1, 4, 1, 2, 2), torch.zeros(1, 4, 1, 2, 2), torch.tensor([0.5]))
    schedule = {"image": "scaled_linear", "motion": "linear"}[network]
    assert torch.equal(noisy, alpha_bars(schedule)[500].sqrt().expand_as(noisy))


def test_full_sizes_are_the_published_ones():
    """Parameters of SD1.5's network, and with the motion modules of v1 and v3."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        modules = MotionAdapter(use_motion_mid_block=False)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    assert sum(parameter.numel() for parameter in modules.parameters()) == 417_137_600


# -- learning ----------------------------------------------------------------------------------------------------------


def taught(unet: Any, law: NoiseLaw, kind: str, frames: int, steps: int = 15) -> list[float]:
    """The loss of one sample, step by step, at levels and noise of its own, while the adapter ``kind`` learns."""
    trained = TrainedAdapter(unet, kind)
    optimizer = torch.optim.AdamW(trained.parameters, lr=0.03)
    clean, text = drawn(1, 4, frames, 8, 8, key="clean"), FrameCondition(drawn(1, 77, tiny_unets.WIDTH, key="text"))
    losses = []
    for step in range(steps):
        noise = drawn(*clean.shape, key="noise")
        level = law.from_config(FlowConfig(), 64, 64).sigmas(drawn(1, key=f"level {step % 2}"))
        predicted = text.predict(unet, law.add_noise(clean, noise, level), law.timestep(level))
        loss = law.loss(predicted, law.target(clean, noise)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def test_style_learns_on_stills_and_motion_above_it_on_clips_and_nothing_else_moves(tiny: Path):
    """Both stages by the parts that training takes: the law, the condition, the adapter."""
    image, spec = bundle_of(tiny, "image"), LoraSpec(rank=4, alpha=8.0, targets="attention")
    unet = image.load_transformer().train()
    add_adapter(unet, "style", spec, 0, "image")
    losses = taught(unet, image.noise_law, "style", frames=1)
    assert losses[-1] < 0.8 * losses[0]
    style = AdapterFile({key: f.clone() for key, f in adapter_state(unet, "style").items()}, spec, "style")

    clips = bundle_of(tiny, "motion")
    network = clips.load_transformer().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_adapter(network, "style", style, "tiny")
    add_adapter(network, "motion", spec, 0, "motion")
    losses = taught(network, clips.noise_law, "motion", frames=4)
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(factor, style.state[key]) for key, factor in adapter_state(network, "style").items())
    after = {name.replace(".base_layer", ""): value for name, value in network.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert TrainedAdapter(network, "motion").effect().overall > 0
