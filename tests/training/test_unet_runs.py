"""Runs of AnimateDiff from settings to files: a style on the image network, motion above it, and clips of both."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_pool
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSparseControlNetPipeline,
    DDIMScheduler,
    MotionAdapter,
    SparseControlNetModel,
    StableDiffusionPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from rounding import STEPS
from small_runs import SMOOTH, assert_same_adapter, assert_same_end, logged, run_on_ranks, run_until_killed, stage_of
from torch import Tensor
from torch.utils.data import default_collate

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.adapter_header import adapter_header, judge_adapter
from cinelora.adapters.formats import AUTHORS, KOHYA, UNET
from cinelora.adapters.run_directory import RunDirectory, adapters_of
from cinelora.cli.compose import compose_train
from cinelora.cli.preflight import check_infer, check_train
from cinelora.config.clip_request import ClipRequest, Take
from cinelora.config.schema import (
    CheckpointConfig,
    DataConfig,
    InferConfig,
    LoggerConfig,
    LoraSpec,
    ModelConfig,
    PreviewConfig,
    SamplerConfig,
    ScaleConfig,
    StageConfig,
    TrainConfig,
    ValidationConfig,
)
from cinelora.config.shipped import values
from cinelora.config.store import save_config
from cinelora.errors import AdapterError, ConfigError
from cinelora.families.animatediff import tiny_unets
from cinelora.families.animatediff.embedded_unets import embedded_member
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.nn.epsilon import FIRST_BETA, LAST_BETA, alpha_bars
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.sampling import scene
from cinelora.sampling.sampler import Sampling
from cinelora.sampling.scene import TakeMaker
from cinelora.training import run_stage
from cinelora.training.run_stage import train

FRAMES, STEPS_DRAWN, GUIDANCE = 4, 2, 7.5
DIGITS = 1e-5
"""What a clip may differ by, of its largest value."""


@pytest.fixture(scope="module", autouse=True)
def pooled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (scene, run_stage):
            patch.setattr(module, "launch", rank_pool.on_ranks)
        yield


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return ModelConfig(**{**values("model/tiny_animatediff_random"), "fps": 16})


@pytest.fixture(scope="module")
def style_config(model: ModelConfig, footage: Path, cache: Path) -> TrainConfig:
    return TrainConfig(
        model=model,
        stage=StageConfig(name="style", transformer="image", num_frames=1, steps=4, batch_size=2),
        data=DataConfig(name="bars", root=str(footage), prepared=f"{footage}-prepared", judged=False, holdout=0.2),
        lora=LoraSpec(rank=3, alpha=6.0, targets="attention"),
        logger=LoggerConfig(name="csv", every_steps=1),
        checkpoint=CheckpointConfig(every_steps=2, keep=2),
        validation=ValidationConfig(every_steps=2, samples=2),
        preview=PreviewConfig(every_steps=0),
        optimizer=SMOOTH,
        cache=str(cache),
    )


@pytest.fixture(scope="module")
def motion_config(style_config: TrainConfig, style_run: RunDirectory) -> TrainConfig:
    stage = StageConfig(name="motion", transformer="motion", num_frames=FRAMES, steps=4, batch_size=2)
    return replace(style_config, stage=stage, adapter=str(style_run.path))


@pytest.fixture(scope="module")
def style_run(style_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return trained(style_config, tmp_path_factory.mktemp("unets") / "style")


@pytest.fixture(scope="module")
def motion_run(motion_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return trained(motion_config, tmp_path_factory.mktemp("unets") / "motion")


def trained(config: TrainConfig, folder: Path) -> RunDirectory:
    run = RunDirectory(folder)
    run.path.mkdir(parents=True)
    save_config(config, run.config)
    assert train(config, run.path) == 0
    return run


# -- what a run leaves ---------------------------------------------------------------------------------------------------


def test_each_stage_teaches_its_own_layers_and_leaves_both_names(style_run: RunDirectory, motion_run: RunDirectory):
    style, motion = judge_adapter(style_run.adapter("style")), judge_adapter(motion_run.adapter("motion"))
    assert (style.transformer, motion.transformer) == ("image", "motion")
    assert all(".attentions." in change.module for change in style.changes)
    assert all(".motion_modules." in change.module for change in motion.changes)
    assert motion_run.adapter("style").read_bytes() == style_run.adapter("style").read_bytes()
    assert [header.form for header in (style, motion)] == [UNET, UNET]
    for run, kind, form in ((style_run, "style", KOHYA), (motion_run, "motion", AUTHORS)):
        assert adapter_header(run.for_comfy(kind)).form is form
        ours, theirs = read_adapter(run.adapter(kind)), read_adapter(run.for_comfy(kind))
        assert ours.state.keys() == theirs.state.keys()
        assert all(torch.equal(ours.state[key], theirs.state[key]) for key in ours.state)


def test_losses_are_those_of_the_noise_that_was_added(style_config: TrainConfig, style_run: RunDirectory):
    """Epsilon against its closed form, at the levels, noise and times that a step draws."""
    stage = stage_of(style_config, style_run)
    stage.transformer.eval()
    dataset = LatentDataset(Path(style_config.cache), Index.load(style_run.dataset), "train", 77)
    batch = default_collate([dataset[0], dataset[1]])
    draw = stage.draw_at(batch, step=3)
    times = (draw.sigma * 1000).long()
    left = alpha_bars("scaled_linear")[times].view(2, 1, 1, 1, 1)
    noisy = left.sqrt() * batch["latents"] + (1 - left).sqrt() * draw.noise
    with torch.no_grad():
        text = torch.where(torch.tensor(draw.drop_caption)[:, None, None], stage.null_text, batch["text"])
        predicted = stage.transformer(noisy[:, :, 0], times, text).sample
        expected = (predicted - draw.noise[:, :, 0]).square().flatten(1).mean(1)
        torch.testing.assert_close(stage.loss(batch, draw), expected, rtol=1e-6, atol=0)
    assert stage.levels == (0.0, 1.0)
    assert batch["text"].shape[1:] == (77, 64), "CLIP's own padding, and no other"


@pytest.mark.parametrize("kind", ["style", "motion"])
def test_a_killed_run_resumes_to_the_same_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    config, whole = (request.getfixturevalue(f"{kind}_{what}") for what in ("config", "run"))
    run = RunDirectory(tmp_path)
    if kind == "motion":
        run_stage.carry_style_adapter(config, run)
    run_until_killed(2, config, run)
    assert train(replace(config, resume=str(run.path)), run.path) == 0
    assert_same_end(run, whole)
    assert_same_adapter(run, whole, kind)


def test_two_ranks_teach_what_one_teaches(motion_config: TrainConfig, motion_run: RunDirectory, tmp_path: Path):
    run = RunDirectory(tmp_path)
    for shared in (motion_run.manifest, motion_run.dataset, motion_run.adapter("style")):
        (tmp_path / shared.name).write_bytes(shared.read_bytes())
    run_on_ranks(replace(motion_config, gpus=2, stage=replace(motion_config.stage, batch_size=1)), run)
    assert_same_end(run, motion_run, STEPS)
    assert logged(run, "train/loss") == pytest.approx(logged(motion_run, "train/loss"), rel=1e-5)


# -- clips ---------------------------------------------------------------------------------------------------------------


def drawn(config: InferConfig, folder: Path) -> Tensor:
    """Latents of a clip, as ``infer`` makes them."""
    request = ClipRequest.with_files(config, adapters_of(config.ckpt, config.model))
    adapters = {role: read_adapter(path) for role, path in request.adapters.items()}
    sampling = Sampling(config.model, request.clip_sampler, Partition(1, 1, 1), rank_info())
    maker = TakeMaker.on_this_rank(request, adapters, sampling)
    (takes,) = maker.planned([Take("rain on a street", 0, folder)], {"adapted": config.scale})
    return next(iter(maker.denoised([takes["adapted"]]).values())).of_clip


def asked(model: ModelConfig, run: RunDirectory | None, scale: float, **changes: Any) -> InferConfig:
    sampler = SamplerConfig(name="euler", steps=STEPS_DRAWN, guidance=GUIDANCE)
    own = {"num_frames": FRAMES, "mode": "t2v", "scale": ScaleConfig(scale, scale, scale), **changes}
    return InferConfig(model=model, sampler=sampler, ckpt=run and str(run.path), prompt="rain on a street", **own)


def stock(run: RunDirectory | None, cache: Path, scale: float, frames: int) -> Any:
    """diffusers' pipeline with the run's files, as its card says."""
    folder = embedded_member("embedded:tiny-animatediff-random", cache)
    betas = {"beta_start": FIRST_BETA, "beta_end": LAST_BETA, "steps_offset": 1, "clip_sample": False}
    schedule = DDIMScheduler(**betas, beta_schedule="linear" if frames > 1 else "scaled_linear")
    if frames > 1:
        modules = MotionAdapter.from_pretrained(folder / "motion")
        pipe = AnimateDiffPipeline.from_pretrained(folder / "base", motion_adapter=modules, scheduler=schedule)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(folder / "base", scheduler=schedule)
    pipe.set_progress_bar_config(disable=True)
    names = [] if run is None else [name for name in run.adapters() if frames > 1 or name == "style"]
    for name in names:
        pipe.load_lora_weights(run.path, weight_name=f"{name}.safetensors", adapter_name=name)  # type: ignore[union-attr]
    if names:
        pipe.set_adapters(names, [scale] * len(names))
    return pipe


@pytest.mark.parametrize(("scale", "frames"), [(1.0, FRAMES), (0.7, FRAMES), (0.7, 1)])
def test_a_clip_of_both_stages_is_that_of_stock_diffusers(
    motion_run: RunDirectory, model: ModelConfig, cache: Path, tmp_path: Path, scale: float, frames: int
):
    from cinelora.sampling.sampler import initial_noise

    network = "motion" if frames > 1 else "image"
    ours = drawn(asked(model, motion_run, scale, num_frames=frames), tmp_path / "a")
    bare = drawn(asked(model, None, scale, num_frames=frames), tmp_path / "b")
    noise = initial_noise(0, f"{network}-{frames}", model, frames, torch.device("cpu"))
    latents, more = (noise, {"num_frames": frames}) if frames > 1 else (noise[:, :, 0], {})
    made = stock(motion_run, cache, scale, frames)(
        prompt="rain on a street",
        negative_prompt="",
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS_DRAWN,
        height=model.height,
        width=model.width,
        latents=latents.clone(),
        output_type="latent",
        **more,
    )[0]
    theirs = made if frames > 1 else made[:, :, None]
    assert (ours - theirs).abs().max() < DIGITS * theirs.abs().max()
    assert (ours - bare).abs().max() > 10 * DIGITS * theirs.abs().max()


def test_a_clip_longer_than_the_modules_is_made_in_windows(model: ModelConfig, tmp_path: Path):
    config = asked(model, None, 1.0, num_frames=20)
    assert drawn(config, tmp_path).shape[2] == 20
    assert check_infer(config)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SparseCtrl-RGB whose answers are not zero."""
    folder = tmp_path_factory.mktemp("control")
    torch.manual_seed(5)
    network = SparseControlNetModel(
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        block_out_channels=tiny_unets.CHANNELS,
        layers_per_block=1,
        norm_num_groups=tiny_unets.GROUPS,
        cross_attention_dim=tiny_unets.WIDTH,
        attention_head_dim=tiny_unets.HEADS,
        motion_num_attention_heads=tiny_unets.HEADS,
        motion_max_seq_length=16,
    )
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return folder


def test_a_clip_from_a_picture_is_that_of_stock_sparse_ctrl(
    model: ModelConfig, cache: Path, control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from cinelora.sampling.sampler import initial_noise

    picture = np.random.default_rng(0).integers(0, 256, (model.height, model.width, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "frame.png")
    model = replace(model, sparse_control=str(control))
    config = asked(model, None, 1.0, mode="scene", image=str(tmp_path / "frame.png"))
    assert check_infer(config)
    ours = drawn(config, tmp_path / "a")
    folder = embedded_member("embedded:tiny-animatediff-random", cache)
    betas = {"beta_start": FIRST_BETA, "beta_end": LAST_BETA, "steps_offset": 1, "clip_sample": False}
    pipe = AnimateDiffSparseControlNetPipeline.from_pretrained(
        folder / "base",
        motion_adapter=MotionAdapter.from_pretrained(folder / "motion"),
        controlnet=SparseControlNetModel.from_pretrained(control),
        scheduler=DDIMScheduler(**betas, beta_schedule="linear"),
    )
    pipe.set_progress_bar_config(disable=True)
    # stock diffusers draws the picture's latents from the posterior; its mean is what is encoded here
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_: self.mode())
    theirs = pipe(
        prompt="rain on a street",
        negative_prompt="",
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS_DRAWN,
        height=model.height,
        width=model.width,
        num_frames=FRAMES,
        conditioning_frames=[Image.fromarray(picture)],
        latents=initial_noise(0, f"motion-{FRAMES}", model, FRAMES, torch.device("cpu")),
        output_type="latent",
    )[0]
    assert (ours - theirs).abs().max() < DIGITS * theirs.abs().max()
    from_text = drawn(asked(model, None, 1.0), tmp_path / "b")
    assert (ours - from_text).abs().max() > 100 * DIGITS * theirs.abs().max()


def test_a_scene_begins_at_a_keyframe_of_the_image_network(model: ModelConfig, control: Path, tmp_path: Path):
    config = asked(replace(model, sparse_control=str(control)), None, 1.0, mode="scene")
    assert ClipRequest(config).passes == [("image", 1), ("motion", FRAMES)]
    assert drawn(config, tmp_path).shape[2] == FRAMES


def test_a_picture_without_sparse_ctrl_is_refused(model: ModelConfig, tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "frame.png")
    for changes in ({"image": str(tmp_path / "frame.png")}, {"mode": "scene"}):
        with pytest.raises(ConfigError, match="name SparseCtrl-RGB as model.sparse_control="):
            check_infer(asked(model, None, 1.0, **changes))


def test_the_programs_on_the_cards_are_of_stock_diffusers(style_run: RunDirectory, motion_run: RunDirectory):
    for run, pipeline in ((style_run, "StableDiffusionPipeline"), (motion_run, "AnimateDiffPipeline")):
        text = run.card.read_text()
        (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        compile(program, "card", "exec")
        assert pipeline in program
        assert "comfyui/" in text
        assert "Wan" not in text
        assert "sigma shift" not in text


def test_a_motion_adapter_that_comfyui_has_no_names_for_is_kept_and_that_is_said(
    motion_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """The authors' files name attention alone: an adapter of other layers, too, ends its run like any."""
    stage, wide = replace(motion_config.stage, steps=1), replace(motion_config.lora, targets="all_linear")
    run = trained(replace(motion_config, stage=stage, lora=wide), tmp_path / "run")
    assert any(".ff.net." in change.module for change in judge_adapter(run.adapter("motion")).changes)
    assert run.all_for_comfy() == []
    assert "no file for ComfyUI, which reads other adapters of this model: " in capfd.readouterr().out
    assert "trained with `lora.targets=attention` loads there" in run.card.read_text()


# -- refusals ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "stage.num_frames=33": "takes 32 frames at most",
    "stage.num_frames=1": "stage=motion needs 2 or more, such as 16",
    "stage.transformer=t2v": r"are image and motion",
    "stage.transformer=image": "trains the text-to-video transformer; leave it at motion",
    "stage.image_condition=true": "cannot be given a first frame",
    "memory=swap": "memory.swap=1.0: AnimateDiff",
    "model.dtype=fp8": "model.dtype=fp8: AnimateDiff",
    "model.attention=flash": "model.attention=flash: AnimateDiff",
    "strategy.sequence=2 gpus=2": "strategy.sequence=2: AnimateDiff",
    "model.motion_adapter=": "model.motion_adapter is empty",
    "model.base=": "model.base is empty",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_refused_by_name(words: str, tmp_path: Path):
    asked_for = ["stage=motion", "data=folder", f"data.root={tmp_path}", "model=tiny_animatediff_random"]
    with pytest.raises(ConfigError, match=REFUSED[words]):
        check_train(compose_train([*asked_for, *words.split()]))


def base_with(cache: Path, folder: Path, part: str, **changes: Any) -> Path:
    """A copy of the small base or its motion modules, whose settings say something else."""
    shutil.copytree(embedded_member("embedded:tiny-animatediff-random", cache), folder, dirs_exist_ok=True)
    config = folder / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


def test_parts_of_other_models_are_refused_before_anything_is_loaded(model: ModelConfig, cache: Path, tmp_path: Path):
    inpainting = base_with(cache, tmp_path / "a", "base/unet", in_channels=9)
    sdxl = base_with(cache, tmp_path / "b", "motion", block_out_channels=[320, 640, 1280])
    pickled = base_with(cache, tmp_path / "c", "motion")
    (pickled / "base" / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "base" / "unet" / "model.bin")
    cases = {
        "the base has 9 input channels and is an inpainting network": {"base": inpainting / "base"},
        "was made for SDXL and does not fit this base with 2 levels, 32 64": {
            "base": sdxl / "base",
            "motion_adapter": sdxl / "motion",
        },
        r"no \.safetensors file in unet/ but model\.bin, a pickle": {"base": pickled / "base"},
        "is no file: give one": {"tuned": tmp_path},
        "is one file: leave model.base as it is": {"base": sdxl / "motion" / "config.json"},
        "no config.json or no .safetensors": {"motion_adapter": tmp_path},
    }
    for said, changes in cases.items():
        other = replace(model, **{key: str(path) for key, path in changes.items()})
        with pytest.raises(ConfigError, match=said):
            check_infer(asked(other, None, 1.0))


def test_a_clip_says_where_its_motion_modules_are_too_short(model: ModelConfig, cache: Path, tmp_path: Path):
    """v1 takes 24 frames: a longer training window is refused by its own config, a longer clip made in windows."""
    short = base_with(cache, tmp_path, "motion", motion_max_seq_length=24)
    words = [
        "stage=motion",
        "data=folder",
        f"data.root={tmp_path}",
        "model=tiny_animatediff_random",
        "stage.num_frames=28",
    ]
    with pytest.raises(ConfigError, match="stage.num_frames=28: these motion modules take 24 frames at most"):
        check_train(compose_train([*words, f"model.motion_adapter={short / 'motion'}"]))
    with pytest.raises(ConfigError, match="stage.num_frames=28: these motion modules take 16 frames at most"):
        check_train(compose_train(words))
    other = replace(model, motion_adapter=str(short / "motion"))
    assert any("in windows of 16" in line for line in check_infer(asked(other, None, 1.0, num_frames=28)))


def test_adapters_of_other_families_are_refused(
    model: ModelConfig, style_run: RunDirectory, both_adapters: RunDirectory
):
    with pytest.raises(AdapterError, match=r"an adapter of Wan, and model=tiny_animatediff_random is of AnimateDiff"):
        judge_adapter(both_adapters.adapter("style"), model)
    with pytest.raises(
        AdapterError,
        match=r"trained on the image network of .*, and model=zeroscope is of ZeroScope v2 576w, which has t2v",
    ):
        judge_adapter(style_run.adapter("style"), ModelConfig(**values("model/zeroscope")))
    with pytest.raises(AdapterError, match=r"an adapter of Stable Diffusion, and model=tiny is of Wan2\.1"):
        judge_adapter(style_run.adapter("style"), ModelConfig(**values("model/tiny")))
