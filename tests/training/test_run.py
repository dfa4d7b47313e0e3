"""Whole runs: what they leave behind, and that interrupted, resumed and shared-out runs end at the same numbers."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from lightning import Trainer
from rank_pool import begin_command, command, on_ranks
from rounding import STEPS
from small_runs import (
    Scripted,
    assert_same_adapter,
    assert_same_end,
    logged,
    run_here,
    run_on_ranks,
    run_until_killed,
    stage_of,
)
from torch.utils.data import default_collate

from cinelora.adapters.adapter_file import export_adapter, read_adapter
from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.fields import fields_of
from cinelora.config.metric_names import HELDOUT_SIGMAS
from cinelora.config.schema import MemoryConfig, MetricsConfig, ModelConfig, OptimizerConfig, PreviewConfig, TrainConfig
from cinelora.errors import TrainingError
from cinelora.families.family import Part
from cinelora.families.wan import embedded
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.nn.text_padding import pad_text
from cinelora.parallel.launch import STOP_SIGNALS
from cinelora.planning.estimate import Policy
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.callbacks.stop import StopRequest
from cinelora.training.checkpoint_files import load_checkpoint, saved_checkpoints
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.gpu_policy import explained
from cinelora.training.run_stage import carry_style_adapter, closing_lines, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("pooled")
def test_a_run_leaves_everything_behind(style_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = RunDirectory(tmp_path)
    assert train(style_config, tmp_path) == 0
    summary = json.loads(run.summary.read_text())
    assert summary["step"] == 8
    assert summary["adapter_effect"] > 0
    assert summary["heldout_change"] < 0
    adapter = read_adapter(run.adapter("style"))
    assert adapter.spec.rank == 8
    assert (adapter.base_model, adapter.kind, adapter.transformer) == ("tiny", "style", "t2v")
    assert adapter.data_hash == summary["data_hash"]
    assert adapter.config["lora"]["alpha"] == 16.0
    losses = (run.logs / "csv" / "from-step-00000000" / "metrics.csv").read_text()
    assert "train/loss" in losses
    assert "heldout/loss@0.5" in losses
    assert [path.name for path in saved_checkpoints(run.checkpoints)] == ["step-00000008", "step-00000006"]
    printed = capsys.readouterr().out
    assert str(run.adapter("style")) in printed
    assert "against the start" in printed
    assert "| steps | 8, of 2 samples |" in run.card.read_text()
    sizes = [path.stat().st_size for path in run.checkpoints.rglob("*.safetensors")]
    assert max(sizes) < 1_000_000  # the base, 4 MB, is not in there


@pytest.mark.parametrize("stage", ["style", "motion"])
def test_a_killed_and_resumed_run_ends_bit_for_bit_like_one_never_killed(
    stage: str, style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config if stage == "style" else motion_config, ema_decay=0.9)
    config.optimizer = OptimizerConfig(warmup_steps=3, schedule="cosine")
    config.lora = replace(config.lora, dropout=0.1)
    whole = run_here(config, tmp_path / "whole")
    killed = RunDirectory(tmp_path / "killed")
    run_until_killed(4, config, killed)
    stopped_at = load_checkpoint(killed.checkpoints).step
    assert stopped_at in (2, 4, 6)  # 2 where the kill fell between a new directory and the pointer to it
    train_rank(replace(config, resume=str(killed.path)), killed)
    assert_same_end(whole, killed)
    assert_same_adapter(whole, killed, stage)


def test_a_run_whose_cosine_is_continued_ends_bit_for_bit_the_same_however_often_it_is_resumed(
    style_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config, optimizer=OptimizerConfig(warmup_steps=1, schedule="cosine"))
    killed = RunDirectory(tmp_path / "killed")
    run_until_killed(4, config, killed)
    stopped_at = load_checkpoint(killed.checkpoints).step
    config = replace(config, stage=replace(config.stage, steps=12))
    config.optimizer = replace(config.optimizer, extended=[stopped_at, 8])  # as optimizer.on_extend=continue writes it
    resumed = replace(config, resume=str(killed.path))
    run_until_killed(8, resumed, killed)
    train_rank(resumed, killed)
    whole = run_here(config, tmp_path / "whole")
    assert_same_end(whole, killed)
    assert logged(whole, "train/lr")[stopped_at] == logged(whole, "train/lr")[stopped_at - 1]


def test_random_weights_train_both_stages_beside_real_encoders_and_say_so(
    style_config: TrainConfig, motion_config: TrainConfig, i2v: WanBundle, tmp_path: Path
):
    encoders = str(i2v.directory(Part.VAE).parent)
    for config in (style_config, motion_config):
        config.model = replace(
            config.model,
            **{"t2v": "owner/t2v", "i2v": "owner/i2v", "weights": "random", "ffn_dim": 64, "num_layers": 1},
            **{"vae": encoders, "text_encoder": encoders, "tokenizer": encoders, "image_encoder": encoders},
        )
        config.stage.steps = 2
        run = run_here(config, tmp_path / config.stage.name)
        summary = read_json(run.summary)
        assert summary["weights"] == "random"
        assert math.isfinite(summary["loss"])
        assert any("trained on random weights" in line for line in closing_lines(summary, run))
        assert read_adapter(run.adapter(config.stage.name)).config["model"]["weights"] == "random"


def test_two_ranks_end_like_one_with_the_same_samples_per_step(
    style_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path
):
    style_config.optimizer = smooth
    one = run_here(style_config, tmp_path / "one")
    shared = replace(style_config, gpus=2, stage=replace(style_config.stage, batch_size=1))
    run = RunDirectory(tmp_path / "two")
    on_ranks(encode_rank, shared, run, ranks=2, log_dir=run.logs)
    run_on_ranks(shared, run)
    assert_same_end(one, run, STEPS)


def test_two_ranks_agree_although_one_of_them_drops_its_image(
    motion_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path
):
    config = replace(motion_config, optimizer=smooth, dropout=replace(motion_config.dropout, image=0.5))
    config.stage = replace(config.stage, accumulation=1, steps=4)
    one = run_here(config, tmp_path / "one")
    shared = replace(config, gpus=2, stage=replace(config.stage, batch_size=1))
    run = RunDirectory(tmp_path / "two")
    encode_rank(config, run)
    run_on_ranks(shared, run)
    assert_same_end(one, run, STEPS)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    style_config: TrainConfig, tmp_path: Path
):
    config = replace(style_config, stage=replace(style_config.stage, steps=40))
    config.optimizer = OptimizerConfig(lr=1e12, lr_for_width=None, clip_norm=0.0)
    config.checkpoint = replace(config.checkpoint, every_steps=1)
    kept = r"the loss is (nan|inf) at step \d+; the last checkpoint is kept: resume it with a lower optimizer\.lr"
    with pytest.raises(TrainingError, match=kept) as caught:
        run_here(config, tmp_path)
    named = re.findall(r"optimizer\.\w+", str(caught.value))
    assert all(fields_of(TrainConfig)[key].resumable for key in named)
    assert load_checkpoint(RunDirectory(tmp_path).checkpoints).step >= 1


def test_a_resume_that_cuts_its_steps_otherwise_ends_at_the_same_numbers(
    style_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path
):
    style_config.optimizer = smooth
    whole = run_here(style_config, tmp_path / "whole")
    run = run_here(replace(style_config, stage=replace(style_config.stage, steps=4)), tmp_path / "run")
    cut = replace(style_config.stage, batch_size=1, accumulation=2)
    train_rank(replace(style_config, resume=str(run.path), stage=cut), run)
    assert_same_end(whole, run, STEPS)


def test_a_resumed_run_takes_a_lower_rate(style_config: TrainConfig, tmp_path: Path):
    run = run_here(style_config, tmp_path)
    stage, optimizer = replace(style_config.stage, steps=10), replace(style_config.optimizer, lr=1e-7)
    train_rank(replace(style_config, resume=str(run.path), stage=stage, optimizer=optimizer), run)
    assert logged(run, "train/lr")[-1] == pytest.approx(3e-5 * 5120 / 192)
    assert logged(run, "train/lr", first_step=8) == pytest.approx([1e-7 * 5120 / 192] * 2)


def test_more_steps_go_on_from_a_finished_run(style_config: TrainConfig, tmp_path: Path):
    run = run_here(style_config, tmp_path)
    longer = replace(style_config, resume=str(run.path), stage=replace(style_config.stage, steps=10))
    assert train_rank(longer, run)["step"] == 10
    with pytest.raises(Exception, match=r"already has its 10 steps; continue with stage\.steps="):
        train_rank(longer, run)
    assert "| steps | 10, of 2 samples |" in RunDirectory(tmp_path).card.read_text()


def test_the_loss_that_is_logged_is_the_same_however_a_step_is_cut(style_config: TrainConfig, tmp_path: Path):
    whole = replace(style_config, stage=replace(style_config.stage, steps=3, batch_size=4))
    cut = replace(style_config, stage=replace(style_config.stage, steps=3, batch_size=1, accumulation=4))
    one, other = (logged(run_here(c, tmp_path / n), "train/loss") for c, n in ((whole, "one"), (cut, "other")))
    assert len(one) == 3
    assert one == pytest.approx(other, rel=1e-3)


def test_a_resume_on_other_footage_is_refused_and_overwrites_nothing(
    style_config: TrainConfig, footage: Path, tmp_path: Path
):
    clips = Path(shutil.copytree(footage, tmp_path / "clips"))
    config = replace(style_config, data=replace(style_config.data, root=str(clips)))
    run = run_here(config, tmp_path / "run")
    resumed = replace(config, resume=str(run.path), stage=replace(config.stage, steps=10))
    before = {path: path.read_bytes() for path in (run.manifest, run.dataset)}
    (clips / "clip3.txt").write_text("bars in other words")
    with pytest.raises(TrainingError, match=r"12 samples, now there are 12, and clip3\.mp4@\d+ has changed"):
        encode_rank(resumed, run)
    (clips / "clip3.txt").unlink()
    (clips / "clip3.mp4").unlink()
    with pytest.raises(TrainingError, match=r"12 samples, now there are 10, and clip3\.mp4@.*or start a new run"):
        encode_rank(resumed, run)
    assert {path: path.read_bytes() for path in before} == before


def copied_pair(config: TrainConfig, folder: Path) -> ModelConfig:
    """The same model, from a copy that a test may change."""
    copies = {kind: embedded.embedded(kind, Path(config.cache)) for kind in ("t2v", "i2v")}
    paths = {kind: str(shutil.copytree(source, folder / kind)) for kind, source in copies.items()}
    return replace(config.model, **paths)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_resume_on_another_base_is_refused(part: str, style_config: TrainConfig, tmp_path: Path):
    config = replace(style_config, model=copied_pair(style_config, tmp_path))
    run = run_here(config, tmp_path / "run")
    before = run.dataset.read_bytes()
    weights = tmp_path / "t2v" / part / "diffusion_pytorch_model.safetensors"
    tensors, facts = load_tensors(weights)
    save_tensors(weights, {name: tensor + 1e-3 for name, tensor in tensors.items()}, facts)
    resumed = replace(config, resume=str(run.path), stage=replace(config.stage, steps=10))
    what = {"transformer": "the weights of the base model", "vae": "the samples, or the encoders that read them,"}[part]
    with pytest.raises(TrainingError, match=rf"{what} had the hash \w{{12}} and now \w{{12}}; .*start a new run"):
        run_here(resumed, run.path)
    assert run.dataset.read_bytes() == before


def test_a_style_adapter_of_other_weights_of_the_same_model_is_named(
    style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    style = run_here(replace(style_config, stage=replace(style_config.stage, steps=1)), tmp_path / "style")
    config, run = replace(motion_config, stage=replace(motion_config.stage, steps=1)), RunDirectory(tmp_path / "run")
    carry_style_adapter(replace(motion_config, adapter=str(style.path)), run)
    run_here(config, run.path)
    assert "other weights" not in capsys.readouterr().out
    export_adapter(run.adapter("style"), replace(read_adapter(run.adapter("style")), base_revision="0123456789ab"))
    stage_of(config, run)
    assert "adapter was trained on other weights of tiny (t2v, 0123456789ab) than these" in capsys.readouterr().out


def test_a_resume_above_another_style_adapter_is_refused(
    style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path
):
    style = run_here(replace(style_config, stage=replace(style_config.stage, steps=1)), tmp_path / "style")
    carry_style_adapter(replace(motion_config, adapter=str(style.path)), RunDirectory(tmp_path / "run"))
    config = replace(motion_config, stage=replace(motion_config.stage, steps=1))
    run = run_here(config, tmp_path / "run")
    other = run_here(replace(style_config, stage=replace(style_config.stage, steps=2)), tmp_path / "other")
    carry_style_adapter(replace(motion_config, adapter=str(other.path)), run)
    with pytest.raises(TrainingError, match=r"the style adapter under it had the hash \w{12} and now \w{12}"):
        train_rank(replace(config, resume=str(run.path), stage=replace(config.stage, steps=2)), run)


@pytest.mark.parametrize(("stage", "suffix"), [("style", "png"), ("motion", "mp4")])
def test_previews_appear_and_change_nothing_that_is_learnt(
    stage: str, suffix: str, style_config: TrainConfig, motion_config: TrainConfig, tmp_path: Path
):
    config = style_config if stage == "style" else motion_config
    shown = replace(config, preview=PreviewConfig(every_steps=4, prompt="rain", sampler_steps=2))
    shown.metrics = MetricsConfig(names=["motion", "tssim"])
    without, run = run_here(config, tmp_path / "without"), run_here(shown, tmp_path / "with")
    files = {f"base.{suffix}", "base.json"} | {
        f"step-0000000{n}{end}" for n in (4, 8) for end in (f".{suffix}", "-sheet.png")
    }
    numbered = {f"step-0000000{n}.json" for n in (4, 8)} if stage == "motion" else set()
    assert {path.name for path in run.previews.iterdir()} == files | numbered
    assert_same_end(without, run)
    if stage == "motion":
        numbers = [json.loads(path.read_text()) for path in sorted(run.previews.glob("step-*.json"))]
        assert [list(beside) for beside in numbers] == [["motion", "tssim"]] * 2
        assert logged(run, "preview/motion") == [beside["motion"] for beside in numbers]


def test_the_preview_s_prompt_stands_behind_the_trigger_like_every_caption(
    style_config: TrainConfig, t2v: WanBundle, tmp_path: Path
):
    config = replace(style_config, data=replace(style_config.data, trigger="nwr"))
    config.preview = PreviewConfig(every_steps=4, prompt="rain")
    run = RunDirectory(tmp_path)
    encode_rank(config, run)
    heldout = LatentDataset(Path(config.cache), Index.load(run.dataset), "heldout")
    with t2v.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        expected = pad_text(t2v.encode_text(["nwr, rain"]), 512)[0]
    assert torch.equal(heldout.text(heldout.texts["preview"]), expected)
    assert all(entry.caption.startswith("nwr, ") for entry in heldout.entries)


def test_ema_is_exported_and_is_not_the_adapter_itself(style_config: TrainConfig, tmp_path: Path):
    run = run_here(replace(style_config, ema_decay=0.9), tmp_path)
    saved = load_checkpoint(run.checkpoints)
    exported = read_adapter(run.adapter("style")).state
    for name, value in exported.items():
        assert torch.equal(value, saved.group("ema")[name])
    assert any(not torch.equal(value, saved.group("adapter")[name]) for name, value in exported.items())


@pytest.mark.parametrize("kept", ["adapter", "pretrain"])
def test_what_is_measured_and_shown_is_what_is_exported(kept: str, style_config: TrainConfig, tmp_path: Path):
    config = replace(style_config, ema_decay=0.9, preview=PreviewConfig(every_steps=4, prompt="rain", sampler_steps=1))
    if kept == "pretrain":
        config.stage = replace(config.stage, name="pretrain", steps=4)
        config.optimizer = OptimizerConfig(lr=1e-3, lr_for_width=None)
    blind = replace(config, preview=PreviewConfig(), validation=replace(config.validation, every_steps=0))
    without, run = run_here(blind, tmp_path / "without"), run_here(config, tmp_path / "with")
    assert_same_end(without, run)
    averaged = load_checkpoint(run.checkpoints)
    stage, heldout = stage_of(config, run), LatentDataset(Path(config.cache), Index.load(run.dataset), "heldout")
    losses = {}
    for group in ("ema", "adapter"):
        stage.trained.load(averaged.group(group))
        stage.sample_ids = [entry.id for entry in heldout.entries]
        batches = [default_collate([heldout[i]]) for i in range(2)]
        with torch.no_grad():
            draws = [
                (batch, stage.draw_at(batch, step=0, sigma=sigma)) for batch in batches for sigma in HELDOUT_SIGMAS
            ]
            losses[group] = sum(float(stage.loss(*draw)) for draw in draws) / len(draws)
    reported = json.loads(run.summary.read_text())["heldout_loss"]
    assert reported == pytest.approx(losses["ema"], rel=1e-5)
    assert reported != pytest.approx(losses["adapter"], rel=1e-5)


def test_two_runs_can_share_a_cache_that_neither_has_filled(footage: Path, tmp_path: Path):
    settings = [
        "stage=style",
        "data=folder",
        f"data.root={footage}",
        "data.judged=false",
        f"data.prepared={footage}-prepared",
        f"cache={tmp_path / 'cache'}",
        "logger=none",
    ]
    settings += ["model.height=32", "model.width=48", "stage.steps=2", "stage.batch_size=1"]
    runs = [begin_command("train", *settings, f"out={tmp_path / name}", log=tmp_path / f"{name}.log") for name in "ab"]
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    printed = [(tmp_path / f"{name}.log").read_text() for name in "ab"]
    assert sum("is in use by another run" in text for text in printed) <= 1
    assert_same_end(RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b"))


def started_run(out: Path, *settings: str) -> subprocess.Popen[str]:
    """A run of ``train.py`` that has already logged a step."""
    words = [sys.executable, str(ROOT / "train.py"), "logger=csv", *settings, f"out={out}"]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, text=True)
    while not (out / "logs" / "csv" / "from-step-00000000" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.long
def test_a_stopped_run_saves_and_once_resumed_ends_like_one_left_alone(footage: Path, cache: Path, tmp_path: Path):
    """Stopped by Ctrl-C; two ranks and TERM are in test_recovery.py."""
    settings = [
        "stage=style",
        "data=folder",
        f"data.root={footage}",
        "data.judged=false",
        f"data.prepared={footage}-prepared",
        f"cache={cache}",
    ]
    settings += ["model.height=32", "model.width=48", "validation.every_steps=100000", "logger.every_steps=1"]
    settings += ["stage.batch_size=1", "stage.accumulation=3", "checkpoint.every_steps=0"]
    stopped = RunDirectory(tmp_path / "stopped's run")
    process = started_run(stopped.path, *settings, "stage.steps=100000")
    everyone = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert not psutil.wait_procs(everyone, timeout=600)[1]
    assert "held-out loss: not measured before the stop" in printed
    assert shlex.split(printed.partition("continue with: ")[2])[:3] == ["python", "train.py", f"resume={stopped.path}"]
    step = load_checkpoint(stopped.checkpoints).step
    assert "[transformers]" not in (stopped.logs / "rank-0.log").read_text(), "advice to programmers"
    summary = json.loads(stopped.summary.read_text())
    assert (summary["interrupted"], summary["step"], summary["heldout_step"]) == (True, step, None)
    whole = tmp_path / "whole"
    for place in ([f"resume={stopped.path}"], [*settings, f"out={whole}"]):
        code, said = command("train", *place, "logger=csv", f"stage.steps={step + 3}", log=tmp_path / "log")
        assert code == 0, said
    assert_same_end(RunDirectory(whole), stopped)


@pytest.fixture
def handlers() -> Iterator[None]:
    """What the three requests do is the test's own affair, however the tests themselves were started."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_interrupts_nothing_and_the_handlers_come_back(number: signal.Signals):
    stop = StopRequest()
    with stop.heeded():
        os.kill(os.getpid(), number)
        assert stop.received
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
def test_under_nohup_a_closed_terminal_is_no_request_to_stop():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    with stop.heeded():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.received


def run_with_signal_in_step(step: int, config: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Train in this process, which gets TERM while optimizer step ``step`` (from 1) is computed; the summary."""
    ours = RunCallbacks.all
    act = Scripted(step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(RunCallbacks, "all", lambda crew: [*ours(crew), act])
    return json.loads(run_here(config, folder).summary.read_text())


def test_a_run_stopped_early_says_what_it_knows(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(style_config, logger=replace(style_config.logger, every_steps=100))
    summary = run_with_signal_in_step(6, config, tmp_path, monkeypatch)
    assert (summary["step"], summary["interrupted"], summary["heldout_step"]) == (6, True, 4)
    assert 0 < summary["loss"] < 100
    assert "against the start, measured at step 4" in closing_lines(summary, RunDirectory(tmp_path))[0]


def test_a_run_stopped_between_two_lines_of_its_curve_is_judged_and_logged_on_as_one_left_alone(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(style_config, logger=replace(style_config.logger, every_steps=4))
    config.checkpoint = replace(config.checkpoint, best="train/loss")
    whole, run = run_here(config, tmp_path / "whole"), RunDirectory(tmp_path / "stopped")
    with monkeypatch.context() as signalled:
        assert run_with_signal_in_step(6, config, run.path, signalled)["interrupted"]
    summary = train_rank(replace(config, resume=str(run.path)), run)
    assert summary["best"] == read_json(whole.summary)["best"]
    assert logged(run, "train/loss", first_step=6) == logged(whole, "train/loss")[1:]


def test_what_a_stopped_run_prints_can_be_typed(tmp_path: Path):
    run = RunDirectory(tmp_path / "it's, (1) $HOME")
    result = {"stage": "style", "interrupted": True, "step": 3, "steps": 8, "adapter_effect": 1.0, "weights": "stored"}
    typed = closing_lines(result, run)[-2].partition("continue with: ")[2]
    assert shlex.split(typed) == ["python", "train.py", f"resume={run.path}"]


def test_a_signal_in_the_last_step_interrupts_nothing(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    summary = run_with_signal_in_step(8, style_config, tmp_path, monkeypatch)
    assert (summary["step"], summary["interrupted"], summary["heldout_step"]) == (8, False, 8)


@pytest.mark.parametrize(
    "memory",
    [
        MemoryConfig("recompute", 0.5, False, 0.0),
        MemoryConfig("offload", 1.0, True, 0.0),
        MemoryConfig("swap", 1.0, True, 1.0),
    ],
    ids=lambda memory: memory.name,
)
def test_a_run_ends_the_same_whatever_its_blocks_keep(motion_config: TrainConfig, memory: MemoryConfig, tmp_path: Path):
    config = replace(motion_config, stage=replace(motion_config.stage, steps=3))
    plain = run_here(config, tmp_path / "plain")
    lean = run_here(replace(config, memory=memory), tmp_path / "lean")
    assert_same_end(plain, lean)
    losses = [read_json(run.summary)["heldout_loss"] for run in (plain, lean)]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("pooled")
def test_ranks_that_swap_end_as_one_that_does_not(style_config: TrainConfig, smooth: OptimizerConfig, tmp_path: Path):
    config = replace(style_config, optimizer=smooth, stage=replace(style_config.stage, steps=3))
    plain = run_here(config, tmp_path / "plain")
    halved = replace(config.stage, batch_size=config.stage.batch_size // 2)
    swapping = replace(config, stage=halved, gpus=2, memory=MemoryConfig("swap", 1.0, True, 1.0))
    assert train(swapping, tmp_path / "ranks") == 0
    assert_same_end(plain, RunDirectory(tmp_path / "ranks"), STEPS)


def test_a_frozen_base_in_fp8_learns_as_much(style_config: TrainConfig, tmp_path: Path):
    wide = run_here(style_config, tmp_path / "wide")
    model = replace(style_config.model, dtype="fp8")
    narrow = run_here(replace(style_config, model=model), tmp_path / "narrow")
    changes = [read_json(run.summary)["heldout_change"] for run in (wide, narrow)]
    assert changes[1] < 0
    assert changes[1] == pytest.approx(changes[0], rel=0.25)


@pytest.mark.parametrize(
    ("policy", "tip"),
    [
        (Policy(), "memory=recompute"),
        (Policy(6), "memory=offload"),
        (Policy(6, True, 2), "memory=swap"),
        (Policy(6, True, 6), "a smaller size or fewer frames"),
    ],
)
def test_out_of_gpu_memory_names_the_step_and_what_to_try(
    style_config: TrainConfig, policy: Policy, tip: str, tmp_path: Path
):
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    told = rf"out of GPU memory in step 1, at .* GiB; start again with {tip}"
    with (
        pytest.raises(TrainingError, match=told),
        explained(style_config, policy, RunDirectory(tmp_path), trainer),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
