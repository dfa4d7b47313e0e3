"""The UNet of clips: ModelScope against diffusers' own pipeline, VideoCrafter2 against a network of the tests', and adapters."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from rounding import LAYERS, SUMS, units, units_of
from safetensors.torch import save_file
from small_runs import run_here
from small_videocrafter import GROUPS, HEAD, TEXT, SmallVideoCrafter
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import CLIPTextModel, CLIPTokenizer

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.formats import AUTHORS, KOHYA, UNET
from cinelora.adapters.lora_layers import adapter_state, add_adapter, load_adapter, set_scales
from cinelora.adapters.trainable import TrainedAdapter
from cinelora.cli.compose import compose_train
from cinelora.config.schema import FlowConfig, LoraSpec, ModelConfig, SamplerConfig
from cinelora.errors import AdapterError, ConfigError, ModelError
from cinelora.families.animatediff import tiny_unets
from cinelora.families.animatediff.tiny_unets import WIDTH
from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from cinelora.families.family import Family, Part
from cinelora.families.layer_names import projections
from cinelora.families.machinery import machinery_of
from cinelora.families.noise_law import law_of
from cinelora.families.parts import parts_of
from cinelora.families.unet3d.clip_bundle import ClipBundle
from cinelora.families.unet3d.clip_condition import ClipCondition
from cinelora.families.unet3d.tiny_unet3d import UNET3D, write_tiny_unet3d
from cinelora.families.unet3d.videocrafter_file import load_videocrafter
from cinelora.families.unet3d.videocrafter_names import BEGINS, authors_names
from cinelora.families.unet3d_models import MODELSCOPE, UNET3D_MODELS, VIDEOCRAFTER2, ZEROSCOPE
from cinelora.families.unet_layers import UNET_LAYERS
from cinelora.nn.epsilon import Epsilon
from cinelora.nn.flow_matching import keyed_generator
from cinelora.planning.estimate import Policy
from cinelora.sampling.denoise import Guided, sample
from cinelora.training.fit import train_rank

SIZE, FRAMES, STEPS, GUIDANCE = 64, 4, 3, 9.0
DIGITS = 1e-5
"""What a clip may differ by, of its largest value."""
PROMPT, NEGATIVE = "rain on a street", "blur"
SPEC = LoraSpec(rank=3, alpha=6.0, targets="attention")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unet3d")
    write_tiny_unet3d(folder)
    return folder


def bundle_of(tiny: Path, family: Family = MODELSCOPE, **sources: Any) -> ClipBundle:
    model = ModelConfig(name="tiny", family=family.name, base=str(tiny), dtype="fp32", **sources)
    return ClipBundle.from_config(model, "t2v", tiny / "cache", torch.device("cpu"))


def drawn(*size: int, key: str = "noise") -> Tensor:
    return torch.randn(size, generator=keyed_generator(key))


def texts(bundle: ClipBundle) -> tuple[ClipCondition, ClipCondition]:
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        shown, other = bundle.encode_text([PROMPT, NEGATIVE])
    return ClipCondition(shown[None]), ClipCondition(other[None])


def adapter_of(tiny: Path, kind: str, **changes: Any) -> AdapterFile:
    """An adapter with values, on all that one of its kind is trained on."""
    unet, spec = bundle_of(tiny).load_transformer(), LoraSpec(**{**vars(SPEC), **changes})
    add_adapter(unet, kind, spec, 1, ClipBundle.taught_by(kind, "t2v"))
    state = {key: drawn(*value.shape, key=key) * 0.2 for key, value in adapter_state(unet, kind).items()}
    return AdapterFile(state, spec, kind, base_model="tiny", transformer="t2v", trigger="noir")


def stock(tiny: Path) -> TextToVideoSDPipeline:
    """diffusers' pipeline, with the solver of ModelScope's own configuration."""
    pipe = TextToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(tiny / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(tiny / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(tiny / "tokenizer"),
        unet=UNet3DConditionModel.from_pretrained(tiny / "unet"),
        scheduler=DDIMScheduler.from_pretrained(tiny / "scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- clips -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "scale"), [(FRAMES, 0.7), (FRAMES, 1.0), (1, 1.0)])
def test_clips_and_stills_equal_stock_diffusers(tiny: Path, frames: int, scale: float):
    """Adapters, which no stock class loads here, stand in its weights: each as ``scale * alpha / rank * B A``."""
    bundle, pipe, noise = bundle_of(tiny), stock(tiny), drawn(1, 4, frames, 8, 8)
    unet, adapters = bundle.load_transformer(), {kind: adapter_of(tiny, kind) for kind in ("style", "motion")}
    for kind, adapter in adapters.items():
        load_adapter(unet, kind, adapter, "tiny")
        for module in adapter.modules:
            down, up = (adapter.state[f"{module}.lora_{factor}.weight"] for factor in "AB")
            pipe.unet.get_submodule(module).weight.data += scale * adapter.spec.scale * up @ down
    set_scales(unet, dict.fromkeys(adapters, scale))
    solver = bundle.noise_law.solver(SamplerConfig(name="euler", steps=STEPS), 1.0)
    clip = sample(Guided(unet, *texts(bundle), GUIDANCE), noise, solver)
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "num_inference_steps": STEPS}
    size = {"num_frames": frames, "height": SIZE, "width": SIZE}
    expected = pipe(**words, **size, latents=noise.clone(), output_type="latent").frames
    assert (clip - expected).abs().max() < DIGITS * expected.abs().max()


def test_text_and_frames_are_encoded_and_decoded_as_stock_diffusers_does(tiny: Path):
    bundle, pipe = bundle_of(tiny), stock(tiny)
    expected = pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, True, NEGATIVE)
    assert all(torch.equal(ours.text, theirs) for ours, theirs in zip(texts(bundle), expected, strict=True))
    with bundle.loaded(Part.VAE), torch.no_grad():
        latents = bundle.encode_video(drawn(1, 3, 9, 32, 32).clamp(-1, 1))
        assert tuple(latents.shape[1:]) == MODELSCOPE.geometry.latent_size(9, 32, 32)
        assert units(bundle.decode(latents), (pipe.decode_latents(latents) / 2 + 0.5).clamp(0, 1)) < LAYERS


def test_a_batch_is_its_samples(tiny: Path):
    unet, latents, time = bundle_of(tiny).load_transformer(), drawn(2, 4, 3, 8, 8), torch.tensor([10, 900])
    both = ClipCondition(drawn(2, 77, WIDTH, key="text"))
    with torch.no_grad():
        predicted = both.predict(unet, latents, time)
        second = both.rows(torch.tensor([False, True])).predict(unet, latents[1:], time[1:])
    assert units(predicted[1:], second) < LAYERS


def test_frames_see_each_other_and_stills_are_clips_of_one_frame(tiny: Path):
    unet, latents, text = bundle_of(tiny).load_transformer(), drawn(1, 4, 3, 8, 8), ClipCondition(drawn(1, 77, WIDTH))
    with torch.no_grad():
        clip = text.predict(unet, latents, torch.tensor([500]))
        alone = [text.predict(unet, latents[:, :, [i]], torch.tensor([500])) for i in range(3)]
    assert (clip - torch.cat(alone, 2)).abs().max() > 0.05 * clip.abs().max()


@pytest.mark.parametrize("size", [(40, 8, 8), (3, 9, 5)])
def test_clips_of_any_length_and_sides_off_its_halvings_are_taken(tiny: Path, size: tuple[int, ...]):
    """No layer counts frames, and odd levels are brought back to their size."""
    unet, latents = bundle_of(tiny).load_transformer(), drawn(1, 4, *size)
    with torch.no_grad():
        predicted = ClipCondition(drawn(1, 77, WIDTH)).predict(unet, latents, torch.tensor([500]))
    assert predicted.shape == latents.shape
    assert predicted.isfinite().all()


def test_a_frozen_network_drops_nothing_in_training_mode(tiny: Path):
    unet, text = bundle_of(tiny).load_transformer(), ClipCondition(drawn(1, 77, WIDTH))
    with torch.no_grad():
        first, second = (
            text.predict(unet.train(mode), drawn(1, 4, 2, 8, 8), torch.tensor([5])) for mode in (False, True)
        )
    assert torch.equal(first, second)


def test_each_model_has_the_noise_it_was_taught_with():
    laws = [law_of(family.network("t2v")) for family in (MODELSCOPE, ZEROSCOPE, VIDEOCRAFTER2)]
    assert laws == [Epsilon("scaled_linear", fading, ends_clean=False) for fading in (1.0, 1.0, 0.7)]
    assert [family.experts("t2v", {})[0].guidance for family in (MODELSCOPE, ZEROSCOPE, VIDEOCRAFTER2)] == [9, 9, 12]


@pytest.mark.parametrize("family", UNET3D_MODELS)
def test_settings_find_each_model_and_say_its_licence(tiny: Path, tmp_path: Path, family: Family):
    save_file(checkpoint_of(small("two levels")), path := tmp_path / "model.safetensors")
    bundle = bundle_of(tiny, family, tuned=str(path) if family is VIDEOCRAFTER2 else None)
    assert machinery_of(bundle.model) is ClipBundle
    assert bundle.noise_law == law_of(family.network("t2v"))
    lines = parts_of(bundle.model).check(bundle.model, "t2v", [Part.TRANSFORMER, Part.VAE, Part.TOKENIZER], [])
    assert len(lines) == 1
    assert "non-commercial" in lines[0]


def test_settings_that_would_load_another_model_are_refused(tiny: Path, tmp_path: Path):
    UNet2DConditionModel(**tiny_unets.UNET).save_pretrained(tmp_path / "unet")
    for model, said in (
        (bundle_of(tmp_path).model, "UNet2DConditionModel, and no network of clips"),
        (bundle_of(tiny, VIDEOCRAFTER2).model, r"set model\.tuned="),
    ):
        with pytest.raises(ConfigError, match=said):
            parts_of(model).check(model, "t2v", [], [])


def test_the_full_size_is_the_published_one():
    with torch.device("meta"):
        unet = UNet3DConditionModel()
    assert sum(parameter.numel() for parameter in unet.parameters()) == 1_411_233_860


def test_tensors_alone_are_read_and_other_networks_refused(tiny: Path, tmp_path: Path):
    unet = bundle_of(tiny).load_transformer()
    unet.save_pretrained(tmp_path / "pickled" / "unet", safe_serialization=False)
    UNet2DConditionModel(**tiny_unets.UNET).save_pretrained(tmp_path / "frames" / "unet")
    for folder, said in (
        (tmp_path / "pickled", "a pickle, which is never loaded"),
        (tmp_path / "frames", "UNet2DConditionModel, and no network of clips"),
        (tiny / "vae", "AutoencoderKL, and no network of clips"),
    ):
        with pytest.raises(ModelError, match=said):
            bundle_of(folder).load_transformer()


# -- memory ------------------------------------------------------------------------------------------------------------


def test_recomputed_layers_keep_less_and_give_the_same_gradients(tiny: Path):
    gradients, kept = [], []
    for recomputes in (False, True):
        unet = bundle_of(tiny).load_transformer().train()
        add_adapter(unet, "one", SPEC, 0, ClipBundle.taught_by("motion", "t2v"))
        if recomputes:
            ClipBundle.arrange(unet, Policy(recompute=1))
        storages: dict[int, int] = {}

        def note(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        condition = ClipCondition(drawn(1, 77, WIDTH, key="text"))
        with saved_tensors_hooks(note, lambda tensor: tensor):
            predicted = condition.predict(unet, drawn(1, 4, FRAMES, 8, 8), torch.tensor([500]))
        kept.append(sum(storages.values()))
        predicted.square().mean().backward()
        gradients.append([factor.grad for factor in TrainedAdapter(unet, "one").parameters])
    assert units_of(gradients[1], gradients[0]) < LAYERS
    assert kept[1] < kept[0] / 3


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_style_is_on_attention_over_space_and_motion_on_that_over_time(tiny: Path):
    """Both attentions over time are of a frame's place with itself, and no target names the one without the other."""
    layers = dict(bundle_of(tiny).load_transformer().named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and ".transformer_blocks." in name]
    over_time = [name for name in linear if ".temp_attentions." in name or name.startswith("transformer_in.")]
    over_space = [name for name in linear if name not in over_time]

    def adapted(kind: str, targets: str) -> list[str]:
        return projections(UNET_LAYERS, layers, targets, ClipBundle.taught_by(kind, "t2v"))

    assert (adapted("style", "all_linear"), adapted("motion", "all_linear")) == (over_space, over_time)
    attention = {of: [name for name in names if ".ff." not in name] for of, names in ((0, over_space), (1, over_time))}
    assert [adapted(kind, "attention") for kind in ("style", "motion")] == [attention[0], attention[1]]
    crossing = [name for name in attention[0] if ".attn2." in name]
    assert [adapted(kind, "cross_attention") for kind in ("style", "motion")] == [crossing, attention[1]]
    one, (image, motion) = MODELSCOPE.network("t2v"), ANIMATEDIFF.networks
    assert all(UNET_LAYERS.lies_in(name, one) for name in linear)
    assert not any(UNET_LAYERS.lies_in(name, network) for name in over_time for network in (image, motion))


@pytest.mark.parametrize("layout", ["diffusers", "comfy"])
@pytest.mark.parametrize(("kind", "targets"), [("style", "attention"), ("motion", "all_linear")])
def test_an_adapter_comes_back_from_its_file(tiny: Path, tmp_path: Path, kind: str, targets: str, layout: Any):
    adapter = adapter_of(tiny, kind, targets=targets)
    export_adapter(path := tmp_path / "a.safetensors", adapter, layout)
    read = read_adapter(path)
    assert read.state.keys() == adapter.state.keys()
    assert units_of((read.state[key] for key in adapter.state), adapter.state.values()) < SUMS
    facts = ("spec", "kind", "base_model", "transformer", "trigger", "deltas")
    assert [getattr(read, fact) for fact in facts] == [getattr(adapter, fact) for fact in facts]


@pytest.mark.parametrize("form", [KOHYA, UNET])
def test_a_motion_file_of_another_tool_says_by_its_layers_what_it_is(tiny: Path, tmp_path: Path, form: Any):
    motion, ending, state = adapter_of(tiny, "motion", alpha=3.0), {"A": "lora_down", "B": "lora_up"}, {}
    for module in motion.modules:
        for factor in "AB":
            name = f"{form.name(module)}.{ending[factor]}.weight" if form is KOHYA else form.key(module, factor)
            state[name] = motion.state[f"{module}.lora_{factor}.weight"]
    save_file(state, path := tmp_path / "a.safetensors")
    read = read_adapter(path)
    assert (read.kind, read.spec.rank) == ("motion", motion.spec.rank)
    assert all(torch.equal(read.state[key], factor) for key, factor in motion.state.items())


def test_adapters_of_other_networks_and_of_both_kinds_in_one_are_refused(tiny: Path, tmp_path: Path):
    style, motion = adapter_of(tiny, "style"), adapter_of(tiny, "motion")
    both = AdapterFile({**style.state, **motion.state}, SPEC, "motion", transformer="t2v")
    export_adapter(path := tmp_path / "a.safetensors", both)
    with pytest.raises(AdapterError, match="file of its own"):
        read_adapter(path)
    with pytest.raises(AdapterError, match="no attention of a motion module"):
        AUTHORS.key(motion.modules[0], "A")
    key = next(key for key in style.state if "attn2.to_k.lora_A" in key)
    narrow = AdapterFile({**style.state, key: style.state[key][:, :48]}, SPEC, "style", base_model="Stable Diffusion")
    with pytest.raises(AdapterError, match="does not fit"):
        load_adapter(bundle_of(tiny).load_transformer(), "style", narrow, "tiny")


def test_style_learns_on_stills_and_motion_above_it_on_clips_and_nothing_else_moves(tiny: Path):
    """Both stages by the parts that training takes, on VideoCrafter2's noise: the law, the condition, the adapter."""
    bundle = bundle_of(tiny, VIDEOCRAFTER2)
    unet, law = bundle.load_transformer().train(), bundle.noise_law
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    styles: dict[str, Tensor] = {}
    for kind, frames in (("style", 1), ("motion", FRAMES)):
        add_adapter(unet, kind, SPEC, 0, ClipBundle.taught_by(kind, "t2v"))
        optimizer = torch.optim.AdamW(TrainedAdapter(unet, kind).parameters, lr=0.03)
        clean, text = drawn(1, 4, frames, 8, 8, key="clean"), ClipCondition(drawn(1, 77, WIDTH, key="text"))
        losses = []
        for step in range(15):
            noise, level = (
                drawn(*clean.shape),
                law.from_config(FlowConfig(), 64, 64).sigmas(drawn(1, key=f"{step % 2}")),
            )
            predicted = text.predict(unet, law.add_noise(clean, noise, level), law.timestep(level))
            loss = law.loss(predicted, law.target(clean, noise)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        styles = styles or {key: factor.clone() for key, factor in adapter_state(unet, "style").items()}
    assert all(torch.equal(factor, styles[key]) for key, factor in adapter_state(unet, "style").items())
    after = {name.replace(".base_layer", ""): value for name, value in unet.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_runs_teach_what_their_stage_does_and_resume_bit_for_bit(tiny: Path, tmp_path: Path):
    """By settings: windows of 3 frames with layers computed again, 2 steps at once, and 1 before 1."""
    sizes = ["model.height=64", "model.width=64", "model.hidden_size=64", "model.dtype=fp32"]
    steps = ["stage.batch_size=2", "stage.num_frames=3", "memory.recompute=1", "validation.every_steps=1000"]
    words = ["stage=motion", "data=daylight", "model=modelscope", f"model.base={tiny}", *sizes, *steps, "logger=csv"]
    config = compose_train([*words, f"cache={tmp_path / 'cache'}", "stage.steps=2"])
    whole = run_here(config, tmp_path / "whole")
    part = run_here(replace(config, stage=replace(config.stage, steps=1)), tmp_path / "part")
    train_rank(config, part)
    one, other = (read_adapter(run.folder / "motion.safetensors") for run in (whole, part))
    assert (one.kind, one.transformer, one.base_model) == ("motion", "t2v", "modelscope")
    assert all(UNET_LAYERS.taught_in(module) == "motion" for module in one.modules)
    assert all(torch.equal(other.state[key], factor) for key, factor in one.state.items())
    assert any(factor.any() for key, factor in one.state.items() if ".lora_B." in key)


# -- VideoCrafter2 -----------------------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "two levels": UNET3D,
    "as published": {
        "down_block_types": ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
        "up_block_types": ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
        "block_out_channels": (16, 32, 64, 64),
        "layers_per_block": 2,
        **{"cross_attention_dim": TEXT, "attention_head_dim": HEAD, "norm_num_groups": GROUPS},
    },
}


def small(shape: str, seed: int = 0) -> SmallVideoCrafter:
    torch.manual_seed(seed)
    return SmallVideoCrafter(SHAPES[shape]["block_out_channels"], SHAPES[shape]["layers_per_block"]).eval()


def checkpoint_of(network: SmallVideoCrafter) -> dict[str, Tensor]:
    """Its weights as its authors keep them, beside a VAE's."""
    weights = {f"{BEGINS}{name}": tensor for name, tensor in network.state_dict().items()}
    return {**weights, "first_stage_model.encoder.conv_in.bias": torch.zeros(2)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fps", [28, 8])
def test_videocrafter2_is_the_same_network_under_other_names(tmp_path: Path, shape: str, fps: float):
    theirs = small(shape)
    torch.save({"state_dict": checkpoint_of(theirs)}, path := tmp_path / "model.ckpt")
    ours = load_videocrafter(path, SHAPES[shape], fps).eval()
    latents, times, text = drawn(2, 4, 3, 8, 8), torch.tensor([40, 900]), drawn(2, 77, TEXT, key="text")
    with torch.no_grad():
        expected = theirs(latents, times, text, fps)
        predicted = ClipCondition(text).predict(ours, latents, times)
        other = theirs(latents, times, text, fps + 10)
    assert (predicted - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (other - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_has_one_name_and_only_the_frame_rates_are_left_over(shape: str):
    names = authors_names(UNet3DConditionModel(**SHAPES[shape]).state_dict(), *_levels_and_layers(shape))
    theirs = [name for name in small(shape).state_dict() if not name.startswith("fps_embedding.")]
    assert sorted(names.values()) == sorted(theirs)


def _levels_and_layers(shape: str) -> tuple[int, int]:
    return len(SHAPES[shape]["block_out_channels"]), SHAPES[shape]["layers_per_block"]


def test_a_bundle_takes_the_network_of_the_file_and_the_rest_of_the_base(tiny: Path, tmp_path: Path):
    """Linear layers may be convolutions of 1x1 there."""
    state = {
        name: tensor[:, :, None, None].half() if "proj_in.weight" in name else tensor.half()
        for name, tensor in checkpoint_of(small("two levels")).items()
    }
    save_file(state, path := tmp_path / "model.safetensors")
    bundle, theirs = bundle_of(tiny, VIDEOCRAFTER2, tuned=str(path)), small("two levels").half().float()
    latents, time, (text, _) = drawn(1, 4, 2, 8, 8), torch.tensor([700]), texts(bundle)
    with torch.no_grad():
        expected = theirs(latents, time, text.text, 28)
        predicted = text.predict(bundle.load_transformer(), latents, time)
    assert (predicted - expected).abs().max() < 1e-4 * expected.abs().max()


DAMAGED = {
    "lacks 1 tensors, such as out.2.bias": lambda state: state.pop(f"{BEGINS}out.2.bias"),
    "lacks 1 tensors, such as fps_embedding.0.bias": lambda state: state.pop(f"{BEGINS}fps_embedding.0.bias"),
    "has in another shape 1 tensors, such as out.2.bias": lambda state: state.update(
        {f"{BEGINS}out.2.bias": torch.zeros(8)}
    ),
    "has besides 1 tensors, such as out.3.bias": lambda state: state.update({f"{BEGINS}out.3.bias": torch.zeros(8)}),
    "is VideoCrafter1": lambda state: state.update({f"{BEGINS}a.relative_position_k.table": torch.zeros(2)}),
    "no network of VideoCrafter": lambda state: [state.pop(key) for key in list(state) if key.startswith(BEGINS)],
}


@pytest.mark.parametrize("said", DAMAGED)
def test_what_is_no_whole_videocrafter2_is_refused(tmp_path: Path, said: str):
    state = checkpoint_of(small("two levels"))
    DAMAGED[said](state)
    save_file(state, path := tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=said.replace(".", r"\.")):
        load_videocrafter(path, UNET3D, 28)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path):
    torch.save({f"{BEGINS}out.2.bias": io.StringIO("code")}, path := tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match="more than tensors"):
        load_videocrafter(path, UNET3D, 28)
