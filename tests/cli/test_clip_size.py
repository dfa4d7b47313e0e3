"""The size of a clip: the picture's shape, else what the adapters learnt from, at the model's own number of pixels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import run_here

from cinelora.adapters.run_directory import RunDirectory, learnt_size
from cinelora.api import compose
from cinelora.cli.one_run import planned
from cinelora.cli.run_dir import begun_in
from cinelora.config.clip_facts import clip_hash
from cinelora.config.schema import EvaluateConfig, InferConfig, PreviewConfig, StudyConfig, TrainConfig
from cinelora.config.store import anchored, save_config
from cinelora.errors import AdapterError, FootageError
from cinelora.footage.image_reader import read_picture
from cinelora.footage.manifest import Manifest, Sample, write_manifest
from cinelora.io.hub import CONFIG_FILE
from cinelora.io.tensor_files import read_header, with_metadata
from cinelora.sampling.make_clips import infer

FULL = ["prompt=x", "model=wan21_14b_480p", "model.weights=random"]
Put = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def portrait(path: Path) -> np.ndarray:
    """300x600, upright: a light head on a dark body."""
    pixels = np.full((600, 300, 3), 40, np.uint8)
    pixels[:150, 100:200] = 230
    Image.fromarray(pixels).save(path)
    return pixels


def size(config: Any) -> tuple[int, int]:
    return config.model.height, config.model.width


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["image=p.png"], (880, 448)),
        (["image=p.png", "model.height=480"], (480, 832)),
        (["image=p.png", "model.width=480", "model.height=480"], (480, 480)),
        ([], (480, 832)),
    ],
)
def test_a_picture_gives_the_clip_its_shape_unless_a_size_is_typed(words: list[str], expected: tuple[int, int]) -> None:
    portrait(Path("p.png"))
    assert size(compose("infer", *FULL, *words)) == expected


def test_the_size_and_what_is_cut_are_said_and_the_plan_is_of_that_size(capsys: pytest.CaptureFixture[str]) -> None:
    from cinelora.cli.main import main

    portrait(Path("p.png"))
    said = {}
    for words in ("", "model.height=480", "model.height=480 fit=contain"):
        assert main("infer", [*FULL, "image=p.png", "plan=true", *words.split()], lambda *_: 1) == 0
        said[words] = capsys.readouterr().out
    assert "clips are 880x448, the shape of image=p.png (600x300); fit=cover cuts 1.8% of it away" in said[""]
    assert "81 frames of 880x448, 40 steps" in said[""]
    assert (
        "480x832, as typed; image=p.png is 600x300: fit=cover cuts 71.2% of it away, at top and bottom"
        in (said["model.height=480"])
    )
    assert (
        "fit=contain shows all of it, with 71.2% of the clip black at left and right"
        in said["model.height=480 fit=contain"]
    )


def test_a_picture_that_cannot_be_read_is_refused_with_the_settings() -> None:
    Path("p.png").write_text("no picture")
    with pytest.raises(FootageError, match=r"image=p\.png cannot be read as a picture: it is no picture, or damaged"):
        compose("infer", *FULL, "image=p.png")


@pytest.fixture
def learnt(both_adapters: RunDirectory, style_config: TrainConfig, tmp_path: Path) -> RunDirectory:
    """A run of which most samples are of 2.39:1, at 16 x 48 of a model of 32x48."""
    run = RunDirectory(shutil.copytree(both_adapters.path, tmp_path / "run"))
    save_config(style_config, run.path / CONFIG_FILE)
    sizes = [None, (16, 64), (16, 64), (48, 32)]
    samples = [Sample(str(i), "a", "", (0,), "", "train", "still", size=one) for i, one in enumerate(sizes)]
    heldout = [replace(sample, split="heldout", size=(48, 32)) for sample in samples]
    write_manifest(run.manifest, Manifest((*samples, *heldout), ()))
    return run


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("infer", ["prompt=x"]),
        ("evaluate", ["prompts=p.txt"]),
        ("study", ["prompt=x", "scales=[0,1]"]),
        ("study", ["latency_only=true"]),
    ],
)
def test_every_command_takes_the_size_that_the_run_learnt_from(
    command: str, words: list[str], learnt: RunDirectory
) -> None:
    Path("p.txt").write_text("a street\n")
    ckpt = f"ckpt={learnt.path}"
    config = compose(command, ckpt, *words)
    assert size(config) == (16, 64)
    assert any("16x64" in line for line in planned(config))
    assert size(compose(command, ckpt, *words, "model.width=48")) == (32, 48)
    portrait(Path("p.png"))
    if command == "infer":
        assert size(compose("infer", ckpt, *words, "image=p.png")) == (48, 32)


def test_a_size_of_small_footage_is_drawn_with_all_of_the_models_pixels(learnt: RunDirectory) -> None:
    write_manifest(learnt.manifest, Manifest((Sample("a", "a", "", (0,), "", "train", "still", size=(16, 16)),), ()))
    assert size(compose("infer", f"ckpt={learnt.path}", "prompt=x")) == (32, 32)


@pytest.mark.parametrize(
    "said", ["ab", 5, [], [32], [32, 48, 16], [0, 48], [-32, 48], [32, 1 << 60], [33, 48], [32.0, 48]]
)
def test_a_size_in_a_header_that_no_sample_has_is_refused(said: Any, learnt: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    content, told = learnt.adapter("style").read_bytes(), read_header(learnt.adapter("style"))["__metadata__"]
    settings = json.dumps(json.loads(told["config"]) | {"size": said})
    path.write_bytes(with_metadata(content, told | {"config": settings}))
    with pytest.raises(AdapterError, match="says that it learnt from samples of"):
        learnt_size(path)


def test_a_size_in_a_manifest_that_no_sample_has_is_refused(learnt: RunDirectory) -> None:
    write_manifest(learnt.manifest, Manifest((Sample("a", "a", "", (0,), "", "train", "still", size=(0, 16)),), ()))
    with pytest.raises(
        AdapterError, match=r"samples of \(0, 16\): their height and width are multiples of 16 up to 8192"
    ):
        learnt_size(learnt.path)


def test_a_run_of_an_older_version_goes_on_with_the_models_own_size(learnt: RunDirectory) -> None:
    """Its clips of one request must not come in two sizes."""
    Path("p.txt").write_text("one\ntwo\n")
    words = [f"ckpt={learnt.path}", "prompts=p.txt"]
    old = anchored(compose("infer", *words, "model.height=32"))
    for place, more in ((Path("elsewhere"), ["out=elsewhere"]), (Path(f"outputs/infer/p-{clip_hash(old)[:8]}"), [])):
        assert size(compose("infer", *words, *more)) == (16, 64)
        place.mkdir(parents=True)
        save_config(replace(old, out=None), place / CONFIG_FILE)
        found = compose("infer", *words, *more)
        assert size(found) == (32, 48)
        assert begun_in(anchored(found)) == place


def test_a_setting_that_came_later_changes_no_hash_of_before() -> None:
    before = InferConfig(prompt="x")
    assert clip_hash(before) == clip_hash(replace(before, fit="cover")) != clip_hash(replace(before, fit="contain"))
    assert "fit" not in {name for config in (EvaluateConfig, StudyConfig) for name in config.__dataclass_fields__}


def test_a_run_tells_its_adapter_and_draws_its_previews_in_the_size_of_most_samples(
    style_config: TrainConfig, tmp_path: Path, cache: Path
) -> None:
    footage = tmp_path / "upright"
    footage.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(footage / f"{'abcdef'[number]}.png")
    data = replace(style_config.data, root=str(footage), prepared=str(tmp_path / "p"), caption="a tower", holdout=0.4)
    config = replace(
        style_config,
        data=data,
        stage=replace(style_config.stage, steps=2),
        preview=PreviewConfig(every_steps=2, sampler_steps=1),
    )
    run = run_here(config, tmp_path / "run")
    save_config(config, run.path / CONFIG_FILE)
    assert learnt_size(run.path) == learnt_size(run.adapter("style")) == (48, 32)
    assert read_picture(run.previews / "step-00000002.png").shape == (48, 32, 3)
    for ckpt in (run.path, run.adapter("style")):
        assert size(compose("infer", f"ckpt={ckpt}", "prompt=x")) == (48, 32)


@pytest.mark.usefixtures("pooled")
def test_an_upright_picture_keeps_its_head(both_adapters: RunDirectory, tmp_path: Path, cache: Path) -> None:
    pixels = portrait(tmp_path / "p.png")
    words = [
        f"ckpt={both_adapters.path}",
        "prompt=x",
        f"image={tmp_path / 'p.png'}",
        "sampler.steps=1",
        f"cache={cache}",
    ]
    config = compose("infer", *words)
    assert size(config) == (48, 32)
    assert infer(config, tmp_path / "out") == 0
    keyframe = read_picture(tmp_path / "out" / "keyframe.png")
    assert keyframe.shape == (48, 32, 3)
    assert keyframe[:7, 14:18].min() > 200
    assert pixels[300, 150, 0] == 40
    assert keyframe[30:].max() < 60
    summary = (tmp_path / "out" / "summary.json").read_text()
    assert re.search(r'"height": 48,\s+"width": 32', summary)
