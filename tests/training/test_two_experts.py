"""A run of two experts: two lessons over one cache, each with its own files, and what reads them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rank_pool
import torch
from diffusers import WanPipeline
from rounding import STEPS
from small_runs import (
    SMOOTH,
    Scripted,
    assert_same_adapter,
    assert_same_end,
    logged,
    run_on_ranks,
    run_until_killed,
    stage_of,
    train_and_die,
)
from torch.utils.data import default_collate

from cinelora.adapters.adapter_file import export_adapter, read_adapter, read_adapter_facts
from cinelora.adapters.lora_layers import load_adapter
from cinelora.adapters.run_directory import RunDirectory, RunSummary, adapter_paths, adapters_of, lessons_in
from cinelora.cli.compose import compose_train
from cinelora.cli.one_run import is_complete
from cinelora.cli.preflight import check_infer, check_train
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import (
    CheckpointConfig,
    DataConfig,
    InferConfig,
    LoggerConfig,
    ModelConfig,
    PreviewConfig,
    ScaleConfig,
    StageConfig,
    StoppingConfig,
    TrainConfig,
    ValidationConfig,
)
from cinelora.config.shipped import values
from cinelora.config.store import save_config
from cinelora.errors import AdapterError, ConfigError, TrainingError
from cinelora.families import experts_of
from cinelora.families.family import EXPERTS, HIGH, LOW, Part, expert_in
from cinelora.families.machinery import machinery_of
from cinelora.families.wan.conditions import predict_velocity
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors
from cinelora.latents.cache import Index
from cinelora.latents.dataset import LatentDataset
from cinelora.nn.flow_matching import FlowMatching
from cinelora.sampling import scene
from cinelora.training import run_stage
from cinelora.training.callbacks.order import RunCallbacks
from cinelora.training.fit import train_rank
from cinelora.training.run_stage import carry_style_adapter, train


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return ModelConfig(**{**values("model/tiny_wan22_a14b"), "height": 32, "width": 48})


@pytest.fixture(scope="module")
def config(model: ModelConfig, footage: Path, cache: Path) -> TrainConfig:
    """Stage 1: four steps of the high-noise expert, six of the low-noise one."""
    return TrainConfig(
        model=model,
        stage=StageConfig(name="style", transformer="t2v", num_frames=1, steps=4, low_steps=6, batch_size=2),
        data=DataConfig(name="bars", root=str(footage), prepared=f"{footage}-prepared", judged=False, holdout=0.2),
        logger=LoggerConfig(name="csv", every_steps=1),
        checkpoint=CheckpointConfig(every_steps=2, keep=2, best="heldout/loss"),
        validation=ValidationConfig(every_steps=2, samples=2),
        preview=PreviewConfig(every_steps=0),
        optimizer=SMOOTH,
        cache=str(cache),
    )


@pytest.fixture(scope="module", autouse=True)
def pooled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (scene, run_stage):
            patch.setattr(module, "launch", rank_pool.on_ranks)
        yield


@pytest.fixture(scope="module")
def style_run(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("two") / "style")
    run.path.mkdir()
    save_config(config, run.config)
    assert train(config, run.path) == 0
    return run


def of(run: RunDirectory, expert: str) -> RunDirectory:
    return replace(run, expert=expert)


def content(run: RunDirectory) -> dict[str, bytes]:
    """All that a lesson has made."""
    made = [*run.folder.rglob("*"), *run.path.glob(f"*{run.expert}*.safetensors")]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in made if path.is_file()}


# -- what a run leaves ---------------------------------------------------------------------------------------------------


def test_each_expert_has_files_curves_and_numbers_of_its_own(style_run: RunDirectory, config: TrainConfig):
    names = {path.name for path in style_run.path.glob("*.safetensors")}
    assert names == {f"style_{expert}{end}.safetensors" for expert in EXPERTS for end in ("", "-best")}
    assert {path.name for path in style_run.path.iterdir() if path.is_dir()} == {"logs", *EXPERTS}
    assert style_run.manifest.is_file()
    assert style_run.dataset.is_file()
    whole = style_run.read_whole()
    assert (whole["step"], whole["steps"], whole["interrupted"]) == (10, 10, False)
    for expert, steps in zip(EXPERTS, (4, 6), strict=True):
        own, summary = of(style_run, expert), whole["lessons"][f"style_{expert}"]
        assert summary == own.read_summary()
        assert summary["step"] == steps
        assert len(logged(own, "train/loss")) == steps
        assert read_adapter_facts(own.adapter("style"))["expert"] == read_adapter(own.adapter("style")).expert == expert
    # their noise levels differ, and so do the levels at which they are looked at
    assert logged(of(style_run, HIGH), "heldout/loss@0.8875")
    assert logged(of(style_run, LOW), "heldout/loss@0.09")
    assert is_complete(config, style_run.path)
    assert not is_complete(replace(config, stage=replace(config.stage, low_steps=8)), style_run.path)


def test_the_last_lines_are_of_both(style_run: RunDirectory, config: TrainConfig):
    lines = run_stage.whole_lines(config, style_run, {})
    assert lines[0] == f"summary {style_run.summary}"
    for expert in EXPERTS:
        assert f"style_{expert}: adapter {style_run.path / f'style_{expert}.safetensors'}" in lines
        assert any(re.match(rf"style_{expert}: the adapter changes predictions by", line) for line in lines)


@pytest.mark.parametrize("expert", EXPERTS)
def test_levels_are_drawn_in_an_experts_range_as_they_lie_there_among_all(
    expert: str, style_run: RunDirectory, config: TrainConfig
):
    lesson = next(lesson for lesson, own in lessons_in(config, style_run.path) if own.expert == expert)
    stage, training = (
        stage_of(lesson, of(style_run, expert)),
        LatentDataset(Path(config.cache), Index.load(style_run.dataset), "train"),
    )
    batch = default_collate([training[0], training[1]])
    drawn = torch.cat([stage.draw_at(batch, step).sigma for step in range(400)])
    low, high = stage.levels
    assert (low, high) == {HIGH: (0.875, 1.0), LOW: (0.0, 0.9)}[expert]
    assert bool(((drawn >= low) & (drawn <= high)).all())
    # of levels drawn from all, those that fall into the range: the same quantiles, by Kolmogorov's bound for 800 draws
    everywhere = FlowMatching.from_config(config.flow, 32, 48).sigmas(
        torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    )
    inside = everywhere[(everywhere >= low) & (everywhere <= high)].sort().values
    found = torch.searchsorted(inside, drawn.sort().values) / len(inside)
    expected = torch.arange(1, len(drawn) + 1) / len(drawn)
    assert float((found - expected).abs().max()) < 1.95 / len(drawn) ** 0.5 + 1.95 / len(inside) ** 0.5


# -- stopped, resumed, shared --------------------------------------------------------------------------------------------


def test_a_run_killed_in_its_second_lesson_goes_on_there_and_leaves_the_first_alone(
    style_run: RunDirectory, config: TrainConfig, tmp_path: Path
):
    # the first expert alone, then the second until it is killed: what a run of both has when it dies
    run = RunDirectory(tmp_path)
    high_alone = replace(config, stage=replace(config.stage, expert="high"))
    assert train(high_alone, run.path) == 0
    first = content(of(run, HIGH))
    assert not run.adapters().keys() - {"style_high_noise"}
    run_until_killed(2, lessons_in(config, run.path)[1][0], of(run, LOW))
    assert train(replace(config, resume=str(run.path)), run.path) == 0
    assert content(of(run, HIGH)) == first
    for expert in EXPERTS:
        assert_same_end(of(run, expert), of(style_run, expert))
        assert_same_adapter(of(run, expert), of(style_run, expert), "style")
    assert of(run, LOW).best("style").read_bytes() == of(style_run, LOW).best("style").read_bytes()
    # killed after its last lesson and before its summary, it writes that alone
    run.summary.unlink()
    assert train(replace(config, resume=str(run.path)), run.path) == 0
    assert run.read_whole()["lessons"].keys() == run.adapters().keys()
    # nothing is left to do, and levels cannot change under a lesson that has begun
    with pytest.raises(ConfigError, match="already has the steps of high_noise and low_noise"):
        train(replace(config, resume=str(run.path)), run.path)
    other = replace(config, model=replace(config.model, t2v_boundary=0.8), resume=str(run.path))
    other = replace(other, stage=replace(other.stage, steps=6))
    with pytest.raises(TrainingError, match=r"high_noise was trained on noise levels from 0\.875 to 1, .* 0\.8 to 1"):
        train_rank(*lessons_in(other, run.path)[0])


def test_two_ranks_teach_an_expert_what_one_teaches_it(style_run: RunDirectory, config: TrainConfig, tmp_path: Path):
    run = RunDirectory(tmp_path, LOW)
    for shared in (style_run.manifest, style_run.dataset):
        (tmp_path / shared.name).write_bytes(shared.read_bytes())
    lesson = lessons_in(config, tmp_path)[1][0]
    run_on_ranks(replace(lesson, gpus=2, stage=replace(lesson.stage, batch_size=1)), run)
    assert_same_end(run, of(style_run, LOW), STEPS)
    assert_same_adapter(run, of(style_run, LOW), "style", STEPS)


def test_more_steps_continue_the_rates_of_each_lesson(style_run: RunDirectory, config: TrainConfig):
    cosine = replace(config, optimizer=replace(config.optimizer, schedule="cosine", on_extend="continue"))
    save_config(cosine, style_run.config)
    asked = compose_train([f"resume={style_run.path}", "stage.steps=9", "stage.low_steps=12", "trust=true"])
    high, low = (lesson for lesson, _ in lessons_in(asked, style_run.path))
    assert (high.optimizer.extended, low.optimizer.extended) == ([4, 4], [6, 6])  # from where each has got to
    assert (high.stage.steps, low.stage.steps) == (9, 12)
    alone = compose_train(
        [f"resume={style_run.path}", "stage.expert=low", "trust=true"]
    )  # experts rest on nothing of each other
    assert [own.expert for _, own in lessons_in(alone, style_run.path)] == [LOW]


# -- lost, learning no more, asked to end --------------------------------------------------------------------------------


def die_in(expert: str, config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """``fit`` of a rank that is killed in the first life of a lesson."""
    if run.expert == expert and not config.resume:
        train_and_die(2, config, run)
    return train_rank(config, run)


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_lesson_that_loses_a_rank_goes_on_by_itself_to_the_same_end(
    expert: str,
    style_run: RunDirectory,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(run_stage, "fit", partial(die_in, expert))
    run = RunDirectory(tmp_path)
    assert train(config, run.path) == 0
    said = capsys.readouterr().out
    assert re.findall(r"continues from step-\d+ by itself \((.*)\)", said) == ["restart 1 of max_restarts=3"]
    assert len(list(of(run, expert).logs.glob("csv/*"))) == 2
    assert_same_whole(run, style_run)


def assert_same_whole(run: RunDirectory, undisturbed: RunDirectory) -> None:
    """Both lessons end with the same bits and numbers, and so does the run of both."""
    for expert in EXPERTS:
        one, other = of(run, expert), of(undisturbed, expert)
        assert_same_end(one, other)
        assert_same_adapter(one, other, "style")
        assert one.best("style").read_bytes() == other.best("style").read_bytes()
        assert lasting(one.read_summary()) == lasting(other.read_summary())
    assert not run.read_whole()["interrupted"]


def lasting(summary: RunSummary) -> dict[str, Any]:
    """What does not depend on the clock or on memory."""
    return {key: value for key, value in summary.items() if not re.search("second|_per_s|memory", key)}


def test_a_lesson_that_learns_no_more_ends_and_the_next_is_taught(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # a constant rate gets no better after the first step
    flat = replace(config, stopping=StoppingConfig(monitor="train/lr", mode="max", patience=2))
    run = RunDirectory(tmp_path)

    def resumed(**stage: Any) -> list[int]:
        assert train(replace(flat, resume=str(run.path), stage=replace(flat.stage, **stage)), run.path) == 0
        return [of(run, expert).read_end()["step"] for expert in EXPERTS]

    assert train(flat, run.path) == 0
    assert [of(run, expert).read_end()["step"] for expert in EXPERTS] == [3, 3]
    said = capsys.readouterr().out
    assert "style_high_noise: stopped early, at step 3 of 4" in said
    assert "style_low_noise: stopped early, at step 3 of 6" in said
    whole = run.read_whole()
    assert (whole["step"], whole["steps"], whole["interrupted"]) == (6, 10, False)
    assert is_complete(flat, run.path)
    assert resumed() == [4, 5]  # each with its patience again, as a run of one lesson
    assert resumed() == [4, 6]  # the first has all its steps
    with pytest.raises(ConfigError, match="already has the steps of high_noise and low_noise"):
        resumed()
    # more steps of one are its own; it had not used up its patience at the fourth
    assert resumed(steps=6) == [5, 6]


def end_in(expert: str, step: int, config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """``fit`` of a rank that a scheduler asks to end while it computes a step of a lesson, in the lesson's first life."""
    if run.expert == expert and not config.resume:
        act, ours = Scripted(step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)), RunCallbacks.all
        RunCallbacks.all = lambda crew: [*ours(crew), act]  # type: ignore[method-assign]
    return train_rank(config, run)


@pytest.mark.parametrize(("expert", "not_begun"), [(HIGH, True), (LOW, False)])
def test_a_lesson_that_is_asked_to_end_is_saved_and_goes_on_to_the_same_end(
    expert: str,
    not_begun: bool,
    style_run: RunDirectory,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(run_stage, "fit", partial(end_in, expert, 3))
    run = RunDirectory(tmp_path)
    assert train(config, run.path) == run_stage.INTERRUPTED
    said = capsys.readouterr().out
    assert f"style_{expert}: stopped at step 3 of" in said
    assert ("style_low_noise: not begun" in said) == not_begun
    assert of(run, expert).last_step == 3
    assert run.read_whole()["interrupted"]
    assert not is_complete(config, run.path)
    assert train(replace(config, resume=str(run.path)), run.path) == 0
    assert_same_whole(run, style_run)


def test_a_stop_while_a_lesson_starts_says_how_to_go_on(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real, stop_in = run_stage.launch, [HIGH]

    def stopped(work: Any, own: TrainConfig, run: RunDirectory, *rest: Any, **more: Any) -> Any:
        if run.expert in stop_in:
            raise KeyboardInterrupt  # as launch does where Ctrl-C comes before its ranks have begun
        return real(work, own, run, *rest, **more)

    monkeypatch.setattr(run_stage, "launch", stopped)
    run = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, run.path)
    assert "continue with" not in capsys.readouterr().out  # nothing is saved yet
    stop_in[:] = [LOW]
    with pytest.raises(KeyboardInterrupt):
        train(config, run.path)
    assert f"stopped before the first step; continue with: python train.py resume={run.path}" in capsys.readouterr().out
    stop_in.clear()
    assert train(replace(config, resume=str(run.path)), run.path) == 0


# -- motion above style --------------------------------------------------------------------------------------------------


@pytest.fixture
def motion_config(config: TrainConfig, style_run: RunDirectory) -> TrainConfig:
    stage = StageConfig(
        name="motion", transformer="i2v", num_frames=9, image_condition=True, steps=2, batch_size=1, accumulation=2
    )
    return replace(config, stage=stage, adapter=str(style_run.path), checkpoint=CheckpointConfig(every_steps=0))


def test_motion_is_learnt_above_the_style_of_the_same_expert(
    motion_config: TrainConfig, style_run: RunDirectory, tmp_path: Path
):
    run = RunDirectory(tmp_path)
    assert train(motion_config, run.path) == 0
    assert list(run.adapters()) == [f"{stage}_{expert}" for stage in ("style", "motion") for expert in EXPERTS]
    for lesson, own in lessons_in(motion_config, run.path):
        below = own.style_below
        assert below
        assert below.read_bytes() == of(style_run, own.expert).adapter("style").read_bytes()
        stage = stage_of(lesson, own)
        factors = {name: value for name, value in stage.transformer.named_parameters() if ".style." in name}
        ours = load_tensors(below)[0]
        assert len(factors) == len(ours) > 0
        assert not any(value.requires_grad for value in factors.values())


def test_a_style_of_one_expert_or_of_none_is_used_where_it_fits_and_said(
    motion_config: TrainConfig, style_run: RunDirectory, tmp_path: Path
):
    one = replace(motion_config, adapter=str(of(style_run, LOW).adapter("style")))
    run = RunDirectory(tmp_path / "one")
    run.path.mkdir()
    carry_style_adapter(one, run)
    assert of(run, HIGH).style_below is None
    assert of(run, LOW).style_below == run.path / "style_low_noise.safetensors"
    assert any(
        "style adapter is for the low_noise expert, and acts on that one only" in line for line in check_train(one)
    )
    older = tmp_path / "look.safetensors"
    export_adapter(older, replace(read_adapter(of(style_run, LOW).adapter("style")), expert=""))
    both = replace(motion_config, adapter=str(older))
    run = RunDirectory(tmp_path / "both")
    run.path.mkdir()
    carry_style_adapter(both, run)
    assert {of(run, expert).style_below for expert in EXPERTS} == {run.path / "style.safetensors"}
    assert any("acts on both" in line for line in check_train(both))


# -- reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("style_high_noise", HIGH),
        ("Wan2_2-T2V-A14B-LOW_fp16", LOW),
        ("mylook-highnoise", HIGH),
        ("high_noise_model", HIGH),
        ("lowres", ""),
        ("a-high-quality-look", ""),
        ("low-key-light", ""),
        ("highway", ""),
        ("slow_pan", ""),
        ("high_and_low_noise", ""),
    ],
)
def test_a_name_is_a_hint(name: str, expert: str):
    assert expert_in(name) == expert


def test_files_are_told_apart_by_their_headers_then_by_their_names(
    style_run: RunDirectory, model: ModelConfig, small_model: ModelConfig, tmp_path: Path
):
    assert adapter_paths(style_run.path, model) == {f"style_{e}": of(style_run, e).adapter("style") for e in EXPERTS}
    # ours under the other's name: the header counts, and the contradiction is said
    swapped = tmp_path / "look_high_noise.safetensors"
    swapped.write_bytes(of(style_run, LOW).adapter("style").read_bytes())
    assert adapter_paths(swapped, model) == {"style_low_noise": swapped}
    lines = check_infer(InferConfig(model=model, ckpt=str(swapped), mode="t2v", prompt="x", num_frames=9))
    assert any("for low_noise by its header and for high_noise by its file name" in line for line in lines)
    assert any("is for the low_noise expert, and acts on that one only" in line for line in lines)
    # another tool's: the name is all there is, and a pair in a folder is both
    pair = tmp_path / "pair"
    pair.mkdir()
    for expert in EXPERTS:
        adapter = replace(read_adapter(of(style_run, expert).adapter("style")), expert="")
        export_adapter(pair / f"mine_{expert}.safetensors", adapter)
    found = {f"style_{expert}": pair / f"mine_{expert}.safetensors" for expert in EXPERTS}
    assert adapters_of(str(pair), model) == found
    # a model without experts takes any one file, and no pair
    assert adapter_paths(pair / "mine_high_noise.safetensors", small_model) == {
        "style": pair / "mine_high_noise.safetensors"
    }
    with pytest.raises(AdapterError, match="style adapters of two experts, and model=tiny is one transformer"):
        adapter_paths(style_run.path, small_model)


def test_each_file_acts_on_its_own_expert_and_scales_reach_both_or_one(style_run: RunDirectory, model: ModelConfig):
    scale = ScaleConfig(keyframe=0.5, keyframe_low_noise=0.25, style=0.75, style_high_noise=0.0)
    request = ClipRequest(InferConfig(model=model, scale=scale), adapters_of(str(style_run.path), model))
    found = {"t2v": [{"style_high_noise": 0.5}, {"style_low_noise": 0.25}], "i2v": [{}, {"style_low_noise": 0.75}]}
    for network, wanted in found.items():
        scales = request.scales_on(network, scale, request.adapters)
        assert [request.on_expert(scales, expert) for expert in experts_of(model, network)] == wanted


def test_the_loads_on_the_card_make_stock_diffusers_predict_as_we_do(
    style_run: RunDirectory, model: ModelConfig, cache: Path
):
    bundle = machinery_of(model).from_config(model, "t2v", cache)
    pipeline = WanPipeline.from_pretrained(bundle.directory(Part.VAE).parent)
    for line in re.findall(r"^pipeline\.(?:load_lora_weights|set_adapters)\(.*\)$", style_run.card.read_text(), re.M):
        exec(line.replace('"."', repr(str(style_run.path))), {"pipeline": pipeline})
    generator = torch.Generator().manual_seed(0)
    width = int(read_json(bundle.directory(Part.TEXT_ENCODER) / "config.json")["d_model"])
    noisy, text = (torch.randn(size, generator=generator) for size in ((1, 16, 1, 4, 6), (1, 512, width)))
    for expert, theirs in zip(EXPERTS, (pipeline.transformer, pipeline.transformer_2), strict=True):
        time = torch.tensor([950.0 if expert == HIGH else 300.0])
        own = bundle.of_expert(expert).load_transformer()
        with torch.no_grad():
            bare = predict_velocity(own, noisy, time, bundle.condition(text))
            load_adapter(own, "style", read_adapter(of(style_run, expert).adapter("style")), model.name)
            ours = predict_velocity(own, noisy, time, bundle.condition(text))
            stock = theirs(noisy, time, text, return_dict=False)[0]
        assert float((ours - bare).abs().max()) > 1e-4  # the adapter acts
        torch.testing.assert_close(stock, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))
