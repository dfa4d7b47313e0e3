"""From adapters to files: what a run writes, that ranks and repeats make the same clip, and what an adapter does to it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import (
    DrawingMemoryConfig,
    InferConfig,
    MetricsConfig,
    ModelConfig,
    SamplerConfig,
    ScaleConfig,
)
from cinelora.errors import AdapterError, ConfigError, FootageError, InferenceError
from cinelora.families.family import Part
from cinelora.families.wan import embedded
from cinelora.families.wan.bundle import WanBundle
from cinelora.footage.captions import prompt_with_trigger
from cinelora.parallel.launch import LaunchError
from cinelora.sampling.make_clips import caveat, infer
from cinelora.sampling.scene import memory_explained

PROMPT = "a man, smoking (alone), waits; a car's lamps = two moons"
ROUNDING = 0.1
"""Mean difference of sheets of the same clip with other last digits (other addresses in memory): a level here and there."""


pytestmark = pytest.mark.usefixtures("pooled")


@pytest.fixture(scope="module")
def run(both_adapters: RunDirectory) -> RunDirectory:
    return both_adapters


@pytest.fixture
def config(run: RunDirectory, small_model: ModelConfig, cache: Path) -> InferConfig:
    return InferConfig(
        model=small_model,
        sampler=SamplerConfig(steps=2, guidance=3.0),
        metrics=MetricsConfig(names=["tssim", "motion", "flicker"]),
        ckpt=str(run.path),
        prompt=PROMPT,
        cache=str(cache),
    )


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sheet(folder: Path) -> np.ndarray:
    """Frames as they are before h264, which makes of one level in one pixel a level everywhere."""
    return np.asarray(Image.open(folder / "contact.png")).astype(int)


def distance_to_base(folder: Path) -> float:
    """From the frames with adapters, 32 rows at the sheet's end and a gap of 4, to the base's, somewhere above them."""
    drawn = sheet(folder)
    ours, above = drawn[-36:-4], drawn[:-36]
    return min(float(np.abs(above[top : top + 32] - ours).mean()) for top in range(len(above) - 31))


def test_a_scene_of_random_weights_says_so(
    config: InferConfig, i2v: WanBundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    encoders = str(i2v.directory(Part.VAE).parent)
    model = replace(
        config.model,
        **{"t2v": "owner/t2v", "i2v": "owner/i2v", "weights": "random", "ffn_dim": 64, "num_layers": 1},
        **{"vae": encoders, "text_encoder": encoders, "tokenizer": encoders, "image_encoder": encoders},
    )
    config = replace(config, model=model, ckpt=None)
    assert caveat(config) == " (random weights: noise)"
    assert infer(config, tmp_path) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["weights"] == "random"
    assert "WARNING: made with random weights (model.weights=random): the clips are noise" in capfd.readouterr().out


def test_a_scene_leaves_clip_keyframe_contact_sheet_and_summary(config: InferConfig, tmp_path: Path):
    assert infer(replace(config, compare=True), tmp_path) == 0
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16
    assert frames(tmp_path / "clip.mp4").shape == (9, 32, 48, 3)
    assert Image.open(tmp_path / "keyframe.png").size == (48, 32)
    assert Image.open(tmp_path / "contact.png").size[1] > 2 * 32
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["prompt"] == PROMPT
    assert summary["settings"]["seed"] == 0
    assert set(summary["seconds"]) == {"text", "keyframe", "condition", "denoise", "decode"}
    assert set(summary["metrics"]) == {"tssim", "motion", "flicker"}
    assert summary["adapters"]["motion"]["trigger"] == "nwr"
    assert distance_to_base(tmp_path) > 10 * ROUNDING


@pytest.mark.parametrize(
    ("gpus", "settings"),
    [
        (2, {"guidance_mode": "batch"}),
        (4, {"guidance_mode": "split", "ulysses": 2}),
        (4, {"guidance_mode": "batch", "ring": 2}),
        (3, {"guidance": 1.0}),
    ],
    ids=str,
)
def test_ranks_make_the_clip_that_one_makes(
    config: InferConfig, gpus: int, settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """At 32x48 pixels a keyframe is 6 tokens, a clip of 9 frames 18, and latents have 4 rows: not all divide."""
    config.sampler = replace(config.sampler, guidance=settings.get("guidance", 3.0))
    infer(config, tmp_path / "one")
    many = replace(config, gpus=gpus, sampler=replace(config.sampler, **settings))
    infer(many, tmp_path / "many")
    assert np.abs(sheet(tmp_path / "one") - sheet(tmp_path / "many")).mean() < ROUNDING
    assert infer(many, tmp_path / "one") == 0
    assert "every clip is already in" in capfd.readouterr().out, "another partition draws the same clip"


@pytest.mark.parametrize("swap", [0.0, 1.0], ids=["merged", "live"])
def test_adapters_beside_ckpt_are_those_of_ckpt(config: InferConfig, run: RunDirectory, swap: float, tmp_path: Path):
    """A run by either name is the same clip, and half of it by each, too; who asks in another order finds it done."""
    config = replace(config, memory=DrawingMemoryConfig(swap=swap, tile=False))
    infer(config, tmp_path / "ckpt")
    named = replace(
        config,
        ckpt=None,
        adapters=[f"{run.path}@0.25", f"{run.adapter('style')}@0.75", f"{run.adapter('motion')}@0.75"],
    )
    infer(named, tmp_path / "named")
    halves = replace(config, scale=ScaleConfig(0.5, 0.5, 0.5), adapters=[f"{run.path}@0.5"])
    infer(halves, tmp_path / "halves")
    for folder in ("named", "halves"):
        assert np.abs(sheet(tmp_path / "ckpt") - sheet(tmp_path / folder)).mean() < ROUNDING, folder
    summary = json.loads((tmp_path / "halves" / "summary.json").read_text())
    assert {name.partition("-")[0] for name in summary["sources"]} == {"style", "motion"}
    assert len(summary["sources"]) == len(summary["adapters"]) == 4
    scales = {
        name.partition("-")[0]: (one["keyframe"], one["clip"])
        for name, one in summary["adapters"].items()
        if "-" in name
    }
    assert scales == {"style": (0.5, 0.5), "motion": (0.0, 0.5)}


def test_weights_on_the_host_make_the_same_clip(config: InferConfig, tmp_path: Path):
    assert infer(replace(config, compare=True), tmp_path / "there") == 0
    swapped = replace(config, compare=True, memory=DrawingMemoryConfig(swap=1.0, tile=True))
    assert infer(swapped, tmp_path / "fetched") == 0
    there, fetched = sheet(tmp_path / "there"), sheet(tmp_path / "fetched")
    assert np.abs(there - fetched).mean() < ROUNDING
    said = (tmp_path / "fetched" / "logs" / "rank-0.log").read_text()
    assert re.search(r"clip: .*weights of (\d) of \1 blocks on the host", said)


def test_a_named_attention_backend_makes_the_same_clip(
    config: InferConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    asked = replace(config, model=replace(config.model, attention="_native_flash"))
    infer(config, tmp_path / "own")
    assert "attention:" not in capfd.readouterr().out
    infer(asked, tmp_path / "asked")
    lines = capfd.readouterr().out.splitlines()
    beside = [i for i, line in enumerate(lines) if line.startswith(("keyframe: ", "clip: "))]
    assert len(beside) == 2
    assert all(lines[i + 1] == "attention: _native_flash, as asked for" for i in beside)
    assert np.abs(sheet(tmp_path / "own") - sheet(tmp_path / "asked")).mean() < ROUNDING
    assert infer(asked, tmp_path / "own") == 0
    assert "every clip is already in" in capfd.readouterr().out


def test_an_attention_backend_that_cannot_run_here_is_refused_before_prompts_are_encoded(
    config: InferConfig, tmp_path: Path
):
    config.model = replace(config.model, attention="_native_cudnn", text_encoder=str(tmp_path))
    with pytest.raises(
        ConfigError, match="model.attention=_native_cudnn cannot run here: No viable.*model.attention=null"
    ):
        infer(config, tmp_path / "out")


def test_running_out_of_gpu_memory_says_what_to_try(config: InferConfig):
    swapped = replace(config, memory=DrawingMemoryConfig(swap=1.0, tile=True))
    for settings, way in ((config, "memory.swap=1 and memory.tile=true"), (swapped, "fewer frames or a smaller size")):
        with (
            pytest.raises(InferenceError, match=rf"out of GPU memory at 0\.0 GiB; .* is kept: start again with {way}$"),
            memory_explained(settings),
        ):
            raise torch.OutOfMemoryError("tried to allocate")


def test_straight_from_text_the_same_seed_makes_the_same_clip_and_another_another(config: InferConfig, tmp_path: Path):
    t2v = replace(config, mode="t2v", sampler=replace(config.sampler, name="euler"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        infer(replace(t2v, seed=seed, num_frames=5), tmp_path / name)
    first, again, another = (sheet(tmp_path / name) for name in "abc")
    assert np.abs(first - again).mean() < ROUNDING
    assert np.abs(first - another).mean() > 10 * ROUNDING
    assert frames(tmp_path / "a" / "clip.mp4").shape[0] == 5


def test_weights_of_zero_make_the_base_models_clip(config: InferConfig, tmp_path: Path):
    infer(replace(config, scale=ScaleConfig(0.0, 0.0, 0.0), compare=True), tmp_path)
    assert distance_to_base(tmp_path) < ROUNDING


def test_a_given_picture_is_the_keyframe(config: InferConfig, tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    alone = replace(config.model, t2v=None)  # the picture is there, so that nothing of this transformer is needed
    infer(replace(config, image=str(tmp_path / "mine.png"), model=alone), tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "keyframe.png")), picture)
    assert "keyframe" not in json.loads((tmp_path / "out" / "summary.json").read_text())["seconds"]


def test_a_picture_that_is_none_is_named(config: InferConfig, tmp_path: Path):
    (tmp_path / "mine.png").write_text("no picture")
    with pytest.raises(FootageError, match=r"mine\.png cannot be read as a picture"):
        infer(replace(config, image=str(tmp_path / "mine.png")), tmp_path / "out")


def test_a_file_of_prompts_goes_on_where_it_stopped(
    config: InferConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("first, with a comma\n\nsecond = last\n")
    many = replace(config, prompt=None, prompts=str(prompts))
    infer(many, tmp_path / "out")
    first, second = (tmp_path / "out" / number for number in ("0000", "0001"))
    assert json.loads((second / "summary.json").read_text())["settings"]["prompt"] == "second = last"
    (second / "summary.json").unlink()
    untouched, drawn = first.joinpath("clip.mp4").stat().st_mtime_ns, sheet(second)
    infer(many, tmp_path / "out")
    assert first.joinpath("clip.mp4").stat().st_mtime_ns == untouched
    assert np.abs(sheet(second) - drawn).mean() < ROUNDING
    capsys.readouterr()
    infer(many, tmp_path / "out")
    assert "every clip is already in" in capsys.readouterr().out


def test_a_stopped_file_of_prompts_does_not_denoise_twice(config: InferConfig, tmp_path: Path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("first\nsecond\n")
    many = replace(config, prompt=None, prompts=str(prompts), compare=True)
    (out / "0001" / "clip.mp4").mkdir(parents=True)  # a folder in the way ends the run once all is denoised
    with pytest.raises(LaunchError):
        infer(many, out)
    assert [path.parent.name for path in out.rglob("summary.json")] == ["0000"]
    assert {path.name for path in out.rglob("*.latents")} == {"adapted.latents", "base.latents"}
    (out / "0001" / "clip.mp4").rmdir()
    log = out / "logs" / "rank-0.log"
    before = len(log.read_text())
    infer(many, out)
    assert not any(word in log.read_text()[before:] for word in ("clip 1/", "keyframe 1/"))
    assert not list(out.rglob("*.latents"))
    infer(many, tmp_path / "whole")
    assert np.abs(sheet(out / "0001") - sheet(tmp_path / "whole" / "0001")).mean() < ROUNDING


def test_other_adapters_behind_the_same_path_make_the_clip_anew(config: InferConfig, run: RunDirectory, tmp_path: Path):
    from cinelora.adapters.adapter_file import export_adapter, read_adapter

    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    config = replace(config, ckpt=str(copy), mode="t2v", num_frames=5)
    infer(config, tmp_path / "out")
    first = sheet(tmp_path / "out")
    style = read_adapter(copy / "style.safetensors")
    export_adapter(copy / "style.safetensors", replace(style, state={k: v * 2 for k, v in style.state.items()}))
    infer(config, tmp_path / "out")
    assert np.abs(sheet(tmp_path / "out") - first).mean() > 10 * ROUNDING


def test_a_clip_that_is_not_finite_is_refused_naming_the_adapter(
    config: InferConfig, run: RunDirectory, tmp_path: Path
):
    from cinelora.adapters.adapter_file import export_adapter, read_adapter

    style = read_adapter(run.adapter("style"))
    damaged = tmp_path / "mine.safetensors"
    export_adapter(damaged, replace(style, state={key: factor * 1e38 for key, factor in style.state.items()}))
    config = replace(config, ckpt=str(damaged), mode="t2v", num_frames=5)
    with pytest.raises(InferenceError, match=r"clip 1/1: .* not finite; .* style \(.*mine\.safetensors\)") as refused:
        infer(config, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "out").rglob("summary.json"))
    assert not list((tmp_path / "out").rglob("*.latents"))


def test_a_prompt_is_shown_as_training_showed_its_captions():
    from cinelora.footage.captions import whole_caption

    assert prompt_with_trigger("rain", "nwr") == whole_caption("rain", "nwr") == "nwr, rain"
    assert prompt_with_trigger("nwr, rain", "nwr") == "nwr, rain"
    assert prompt_with_trigger("rain", None) == "rain"


def test_an_adapter_of_other_weights_of_the_same_model_is_named(
    run: RunDirectory, config: InferConfig, t2v: WanBundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from cinelora.adapters.adapter_file import export_adapter, read_adapter

    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    config = replace(config, ckpt=str(copy), mode="t2v", num_frames=5)
    infer(config, tmp_path / "same")
    assert "other weights" not in capfd.readouterr().out
    style = replace(read_adapter(copy / "style.safetensors"), base_revision="0123456789ab")
    export_adapter(copy / "style.safetensors", style)
    infer(config, tmp_path / "other")
    told = "WARNING: the style adapter was trained on other weights of tiny (t2v, 0123456789ab) than these ("
    assert capfd.readouterr().out.count(told + t2v.fingerprint(Part.TRANSFORMER)) == 1


def test_a_contact_sheet_says_where_its_pictures_are_noise(
    config: InferConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "HOME", tmp_path / "nothing")
    assert "noise" in caveat(config)
    assert "noise" in caveat(replace(config, model=replace(config.model, t2v=None)))
    own = replace(config.model, t2v=str(tmp_path), i2v=str(tmp_path))
    assert caveat(replace(config, model=own)) == ""
    monkeypatch.setattr(embedded, "HOME", tmp_path)
    assert caveat(config) == ""


def test_a_run_without_adapters_is_said(config: InferConfig, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds neither config.yaml nor an adapter"):
        infer(replace(config, ckpt=str(tmp_path / "empty")), tmp_path / "out")


def test_an_adapter_of_a_deeper_model_is_refused(config: InferConfig, run: RunDirectory, tmp_path: Path):
    from cinelora.adapters.adapter_file import export_adapter, read_adapter

    style = read_adapter(run.adapter("style"))
    deeper = {key.replace("blocks.3.", "blocks.29."): value for key, value in style.state.items()}
    export_adapter(tmp_path / "style.safetensors", replace(style, state=deeper))
    with pytest.raises(AdapterError, match="block"):
        infer(replace(config, ckpt=str(tmp_path / "style.safetensors")), tmp_path / "out")
