"""Laws of the training step, on real samples and the embedded model, in this process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from rounding import LAYERS, STEPS, units
from torch.utils.data import default_collate

from cinelora.adapters.lora_layers import adapter_state
from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import DropoutConfig, TrainConfig
from cinelora.errors import ConfigError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.conditions import Condition, predict_velocity
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.nn.flow_matching import FlowMatching
from cinelora.training.encode import encode_rank
from cinelora.training.fit import build_stage
from cinelora.training.gpu_policy import policy_at_hand
from cinelora.training.module import Draw, Stage


def prepared(config: TrainConfig, folder: Path) -> tuple[Stage, LatentDataset]:
    """The stage of ``config`` and its training samples, encoded."""
    run = RunDirectory(folder)
    encode_rank(config, run)
    training = LatentDataset(Path(config.cache), Index.load(run.dataset), "train")
    return build_stage(config, run, training, policy_at_hand(config)[0]), training


def batch_of(training: LatentDataset, *positions: int) -> dict[str, torch.Tensor]:
    return default_collate([training[i] for i in positions])


def test_the_frozen_base_is_untouched_by_a_step_and_the_adapter_is_not(style_config: TrainConfig, tmp_path: Path):
    stage, training = prepared(style_config, tmp_path)
    before = {name: value.clone() for name, value in stage.transformer.state_dict().items()}
    optimizer = stage.configure_optimizers()
    batch = batch_of(training, 0, 1)
    for _ in range(2):  # B is zero at first, so that A moves from the second step on
        stage.loss(batch, stage.draw_at(batch, step=0)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in stage.transformer.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_the_loss_is_the_velocity_error_of_what_the_official_model_is_shown(motion_config: TrainConfig, tmp_path: Path):
    """Assembled a second time by hand: mask, whole-clip condition, 1000 * sigma, noise - clean."""
    stage, training = prepared(motion_config, tmp_path)
    batch = batch_of(training, 0)
    draw = stage.draw_at(batch, step=3, sigma=0.3)
    clean, sigma = batch["latents"], 0.3
    mask = torch.zeros(1, 4, *clean.shape[2:])
    mask[:, :, 0] = 1
    noisy = (1 - sigma) * clean + sigma * draw.noise
    with torch.no_grad():
        velocity = stage.transformer(
            torch.cat([noisy, mask, batch["image_latents"]], dim=1),
            torch.tensor([1000 * 0.3]),
            batch["text"],
            batch["image_tokens"],
        ).sample
        expected = (velocity - (draw.noise - clean)).square().mean()
        assert units(stage.loss(batch, draw), expected[None]) <= LAYERS


def test_a_trained_sample_is_conditioned_like_the_diffusers_pipeline_conditions_its_first_frame(
    motion_config: TrainConfig, i2v: WanBundle, tmp_path: Path
):
    from cinelora.footage.manifest import read_manifest
    from cinelora.footage.read_frames import read_frames

    _, training = prepared(motion_config, tmp_path)
    entry = training.entries[0]
    sample = next(s for s in read_manifest(RunDirectory(tmp_path).manifest).samples if s.id == entry.id)
    first = read_frames(Path(str(motion_config.data.root)), sample, 32, 48)[0]
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v.directory(Part.VAE).parent, torch_dtype=torch.float32)
    pixels = torch.from_numpy(first.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    _, condition = pipeline.prepare_latents(pixels, 1, 16, 32, 48, 9, torch.float32, "cpu")
    assert units(training[0]["image_latents"], condition[0, 4:]) <= LAYERS


def test_draws_depend_on_seed_sample_step_and_slot_alone(style_config: TrainConfig, tmp_path: Path):
    stage, training = prepared(style_config, tmp_path)
    pair, alone = batch_of(training, 0, 1), batch_of(training, 1)
    both, second = stage.draw_at(pair, step=7, first_slot=4), stage.draw_at(alone, step=7, first_slot=5)
    assert torch.equal(both.noise[1], second.noise[0])
    assert torch.equal(both.sigma[1], second.sigma[0])
    assert both.drop_caption[1] == second.drop_caption[0]
    later, elsewhere = stage.draw_at(alone, step=8, first_slot=5), stage.draw_at(alone, step=7, first_slot=6)
    assert not torch.equal(second.noise, later.noise)
    assert not torch.equal(second.noise, elsewhere.noise)  # a sample repeated within a step gets noise of its own


def test_dropout_happens_at_its_rate(motion_config: TrainConfig, tmp_path: Path):
    config = replace(motion_config, dropout=DropoutConfig(caption=0.3, image=0.1))
    stage, training = prepared(config, tmp_path)
    draws = [stage.draw_at(batch_of(training, 0), step) for step in range(600)]
    assert abs(sum(d.drop_caption[0] for d in draws) / 600 - 0.3) < 0.06
    assert abs(sum(d.drop_image[0] for d in draws) / 600 - 0.1) < 0.04


def test_a_batch_with_some_images_dropped_equals_its_samples_one_by_one(motion_config: TrainConfig, tmp_path: Path):
    stage, training = prepared(motion_config, tmp_path)
    batch = batch_of(training, 0, 1, 2)
    draw = stage.draw_at(batch, step=0)
    mixed = Draw(draw.noise, draw.sigma, [False, True, False], [True, False, True])
    together = stage.loss(batch, mixed)
    for i in range(3):
        single = Draw(draw.noise[i : i + 1], draw.sigma[i : i + 1], [mixed.drop_caption[i]], [mixed.drop_image[i]])
        assert units(together[i], stage.loss(batch_of(training, i), single)[0]) <= LAYERS


def test_stills_on_i2v_see_no_image(style_config: TrainConfig, tmp_path: Path):
    """The mask of a single frame is all ones and its condition is the answer: so neither is shown."""
    config = replace(style_config, stage=replace(style_config.stage, transformer="i2v"))
    stage, training = prepared(config, tmp_path)
    batch = batch_of(training, 0)
    assert "image_tokens" not in batch
    draw = stage.draw_at(batch, step=0, sigma=0.5)
    condition = stage.condition(batch)
    assert isinstance(condition, Condition)
    assert condition.image is None
    noisy = FlowMatching.add_noise(batch["latents"], draw.noise, draw.sigma)
    velocity = predict_velocity(stage.transformer, noisy, draw.sigma * 1000, condition)
    expected = (velocity - (draw.noise - batch["latents"])).square().mean()
    assert units(stage.loss(batch, draw)[0], expected) <= LAYERS


def test_compiled_blocks_keep_names_and_losses(style_config: TrainConfig, tmp_path: Path):
    """The wiring alone: code that is really generated takes a C++ compiler and a minute."""
    plain, training = prepared(style_config, tmp_path / "plain")
    batch = batch_of(training, 0, 1)
    style_config.model = replace(style_config.model, compile_blocks=True)
    with torch.compiler.set_stance("force_eager"):
        compiled, _ = prepared(style_config, tmp_path / "compiled")
        assert all("forward" in vars(block) for block in compiled.transformer.blocks)
        draw = plain.draw_at(batch, step=0)
        assert torch.equal(compiled.loss(batch, draw), plain.loss(batch, draw))
    assert compiled.trained.state().keys() == plain.trained.state().keys()


def test_a_named_attention_backend_keeps_losses_and_gradients_and_is_told(
    motion_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plain, training = prepared(motion_config, tmp_path / "plain")
    assert "attention" not in capsys.readouterr().out
    motion_config.model = replace(motion_config.model, attention="_native_flash")
    asked, _ = prepared(motion_config, tmp_path / "asked")
    assert "attention: _native_flash, as asked for" in capsys.readouterr().out.splitlines()
    batch = batch_of(training, 0, 1)
    losses = [stage.loss(batch, plain.draw_at(batch, step=0)) for stage in (plain, asked)]
    assert units(losses[1], losses[0]) <= LAYERS
    for loss in losses:
        loss.sum().backward()
    for ours, theirs in zip(asked.trained.parameters, plain.trained.parameters, strict=True):
        assert units(ours.grad, theirs.grad) <= STEPS


def test_an_attention_backend_that_cannot_run_here_is_refused_before_encoding(
    style_config: TrainConfig, tmp_path: Path
):
    style_config.model = replace(style_config.model, attention="_native_cudnn")
    with pytest.raises(ConfigError, match="model.attention=_native_cudnn cannot run here"):
        encode_rank(style_config, RunDirectory(tmp_path))
    assert not list(tmp_path.iterdir())


def test_only_the_motion_adapter_trains_on_top_of_a_style_adapter(
    style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path
):
    from cinelora.training.export import export
    from cinelora.training.run_stage import carry_style_adapter

    style, _ = prepared(style_config, tmp_path / "style")
    state = {k: torch.randn_like(v) * 0.1 for k, v in adapter_state(style.transformer, "style").items()}
    style_run, run = RunDirectory(tmp_path / "style"), RunDirectory(tmp_path / "motion")
    export(style_config, style_run, Index.load(style_run.dataset), state)
    run.path.mkdir()
    carry_style_adapter(replace(motion_config, adapter=str(style_run.path)), run)
    stage, training = prepared(motion_config, run.path)
    for name, value in adapter_state(stage.transformer, "style").items():
        assert torch.equal(value, state[name])
    batch = batch_of(training, 0)
    loss = stage.loss(batch, stage.draw_at(batch, step=0, sigma=0.5))
    without, _ = prepared(motion_config, tmp_path / "bare")
    assert not torch.allclose(loss, without.loss(batch, without.draw_at(batch, step=0, sigma=0.5)))
    loss.sum().backward()
    trained = {name for name, parameter in stage.transformer.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(".motion." in name for name in trained)
