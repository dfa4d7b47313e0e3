"""The card of an adapter says what is true in forms that hubs read, and an upload takes what is listed and nothing else."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import READER, WRITER, serve
from huggingface_hub import ModelCard
from PIL import Image
from rank_pool import Script, command_in

from cinelora.adapters.run_directory import RunDirectory
from cinelora.card import main
from cinelora.config.schema import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PreviewConfig,
    StageConfig,
    TrainConfig,
    ValidationConfig,
)
from cinelora.config.store import load_config, save_config
from cinelora.errors import ConfigError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.atomic import write_json
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors, read_header, with_metadata
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.model_card import card, diffusers_code, read_record, shareable

TRIGGER = 'n0ir: "x" | <b>a</b> `c` [l](http://e.vil) *'
ROOT = Path(__file__).parents[1]


def trained(
    footage: Path, model: ModelConfig, cache: Path, folder: Path, stage: StageConfig, style: Path | None
) -> Path:
    config = TrainConfig(
        model=model,
        stage=stage,
        data=DataConfig(
            name="bars", root=str(footage), prepared=f"{footage}-prepared", judged=False, holdout=0.2, trigger=TRIGGER
        ),
        checkpoint=CheckpointConfig(every_steps=0),
        validation=ValidationConfig(every_steps=2, samples=2),
        preview=PreviewConfig(every_steps=2, prompt="bars & more", sampler_steps=1),
        cache=str(cache),
        description="kept",
        out=str(folder),
    )
    run = RunDirectory(folder)
    folder.mkdir()
    save_config(config, run.config)
    if style:
        run.adapter("style").write_bytes(style.read_bytes())
    encode_rank(config, run)
    train_rank(config, run)
    return folder


@pytest.fixture(scope="module")
def style_run(footage: Path, small_model: ModelConfig, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = StageConfig(name="style", transformer="t2v", num_frames=1, steps=2, batch_size=2)
    return trained(footage, small_model, cache, tmp_path_factory.mktemp("runs") / "style", stage, None)


@pytest.fixture(scope="module")
def motion_run(style_run: Path, footage: Path, small_model: ModelConfig, cache: Path) -> Path:
    stage = StageConfig(name="motion", transformer="i2v", num_frames=9, image_condition=True, steps=2, batch_size=2)
    style = style_run / "style.safetensors"
    return trained(footage, small_model, cache, style_run.parent / "motion", stage, style)


@pytest.fixture
def copied(style_run: Path, tmp_path: Path) -> Path:
    """A run to spoil."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "summary.json", "manifest.jsonl", "style.safetensors"):
        (run / name).write_bytes((style_run / name).read_bytes())
    return run


# -- the card ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_a_card_that_the_hubs_client_reads(style_run: Path) -> None:
    read = ModelCard.load(style_run / "README.md")
    assert read.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["lora", "text-to-video", "diffusers", "wan"],
        "instance_prompt": TRIGGER,
        "widget": [{"text": f"{TRIGGER}, bars & more", "output": {"url": "previews/step-00000002.png"}}],
    }
    assert (style_run / "previews/step-00000002.png").is_file()
    assert "![step-00000002-sheet](previews/step-00000002-sheet.png)" in read.text


def test_a_card_tells_what_the_run_was(style_run: Path) -> None:
    text, summary = (style_run / "README.md").read_text(), read_json(style_run / "summary.json")
    assert "| rank, alpha | 8, 16;" in text
    assert "| learning rate | 0.0008, constant |" in text
    assert "| steps | 2, of 2 samples |" in text
    assert f"| held-out loss at fixed noise levels | {summary['heldout_loss']:.4f} |" in text
    assert f"{summary['samples']} stills of 5 clips" in text
    assert summary["data_hash"] in text


def test_a_base_on_the_hub_is_named_and_one_on_this_machine_is_not(style_run: Path) -> None:
    record = read_record(RunDirectory(style_run))
    theirs = replace(record, config=replace(record.config, model=replace(record.config.model, t2v="Wan-AI/Wan2.1-T2V")))
    assert ModelCard(card(theirs, "owner/name")).data.base_model == "Wan-AI/Wan2.1-T2V"
    assert 'from_pretrained("Wan-AI/Wan2.1-T2V"' in card(theirs, "owner/name")
    here = replace(record, config=replace(record.config, model=replace(record.config.model, t2v=str(style_run))))
    assert ModelCard(card(here, "owner/name")).data.base_model is None
    assert str(style_run) not in card(here, "owner/name")


@pytest.mark.parametrize(
    "typed",
    [
        "a\n---\nlicense: mit\n---\n# owned",
        "yes",
        "!!python/object/apply:os.system [ls]",
        "```\n<script>alert(1)</script>\n```",
        'x\' \\ $(touch owned) """ é \u202e',
        "{{ jinja }} %tag: &anchor *alias | > @someone www.e.vil https://e.vil",
    ],
)
def test_what_was_typed_stays_text(style_run: Path, typed: str) -> None:
    record = read_record(RunDirectory(style_run))
    config = replace(
        record.config,
        data=replace(record.config.data, trigger=typed),
        preview=replace(record.config.preview, prompt=f"{typed} walks"),
    )
    record = replace(record, config=config)
    text = card(record, "owner/name")
    data = ModelCard(text).data
    assert data.instance_prompt == typed
    assert data.license is None
    assert data.widget[0]["text"] == f"{typed} walks"
    body = re.sub(
        r"^(`{3,})\w+\n.*?\n\1$", "", ModelCard(text).text, flags=re.S | re.M
    )  # what code fences hold is shown as it is
    assert not re.search(r"^# owned", body, flags=re.M)
    assert not re.search(r"(?<!\\)(<script|@someone)", body)
    assert "//e.vil" not in body.replace("\\://", "")
    program = ast.parse(diffusers_code(record, "owner/name"))
    assert f"{typed} walks" in [node.value for node in ast.walk(program) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("stage", ["style", "motion"])
def test_the_cards_own_code_makes_a_clip_with_the_adapter(
    stage: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, t2v: WanBundle, i2v: WanBundle
) -> None:
    folder: Path = request.getfixturevalue(f"{stage}_run")
    bundle = t2v if stage == "style" else i2v
    code = re.search(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), flags=re.S)
    assert code is not None
    program = code[1].replace('"cuda"', '"cpu"').replace("bfloat16", "float32")
    program = re.sub(r'from_pretrained\("<.*?>"', f'from_pretrained("{bundle.directory(Part.VAE).parent}"', program)
    program = program.replace("num_frames=9", "num_frames=5, num_inference_steps=1")
    monkeypatch.chdir(folder)
    Image.new("RGB", (64, 64)).save("keyframe.png")
    program, _, export = program.rpartition("\n")  # which wants imageio or OpenCV, and neither is ours
    told: dict[str, Any] = {}
    exec(program, told)
    assert told["pipeline"].get_active_adapters() == (["style"] if stage == "style" else ["style", "motion"])
    assert told["video"].shape == (5, 32, 48, 3)
    assert export == 'export_to_video(video, "clip.mp4", fps=16)'
    Path("keyframe.png").unlink()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"adapter_effect": 0}, "the adapter changed nothing: its update is exactly zero"),
        ({"weights": "random"}, "Trained on random weights"),
        ({"interrupted": True, "steps": 9}, "Stopped at step 2 of 9"),
        (
            {"steps": 9, "stopped_early": {"name": "heldout/loss", "best": 0.5, "step": 1, "since": 3}},
            "stopped early, at step 2 of 9",
        ),
    ],
)
def test_a_card_says_what_the_adapter_is_not_good_for(copied: Path, changed: dict[str, Any], sentence: str) -> None:
    write_json(copied / "summary.json", read_json(copied / "summary.json") | changed)
    assert main([f"run={copied}"]) == 0
    limits = (copied / "README.md").read_text().partition("## Limits")[2]
    assert sentence in limits


# -- the upload --------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def files() -> dict[str, bytes]:
    return {}


@pytest.fixture
def hub(files: dict[str, bytes], asked: list[tuple[str, Any]]) -> Iterator[str]:
    with serve(files, asked) as address:
        yield address


def at(home: Path, environment: dict[str, str]) -> dict[str, str]:
    """This process's environment, with a hub's client that has its files in ``home``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)} | environment


def typed(program: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *program], at(home, environment)
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=600)


def forked(script: Script, words: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same without the seconds that an interpreter imports for."""
    return command_in(home, script, *words, environment=at(home, environment))


def test_an_upload_is_one_commit_of_what_is_listed(
    motion_run: Path, hub: str, files: dict[str, bytes], asked: list[tuple[str, Any]], tmp_path: Path, footage: Path
) -> None:
    words = ["-m", "cinelora.card", f"run={motion_run}", "push=owner/name", "private=true"]
    done = typed(words, tmp_path, HF_ENDPOINT=hub, HF_TOKEN=WRITER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"uploaded: {hub}/owner/name/commit/")
    previews = {"previews/step-00000002.mp4", "previews/step-00000002-sheet.png"}
    assert set(files) == {"README.md", "config.yaml", "style.safetensors", "motion.safetensors", *previews}
    assert sum(path.endswith("/commit/main") for path, _ in asked) == 1
    assert dict(asked)["/api/repos/create"]["visibility"] == "private"
    for name, content in files.items():
        for place in (footage, motion_run.parent, ROOT):
            assert str(place).encode() not in content, name
    assert b'load_lora_weights("owner/name", weight_name="motion.safetensors"' in files["README.md"]
    assert ModelCard(files["README.md"].decode()).data.pipeline_tag == "image-to-video"
    assert yaml.safe_load(files["config.yaml"])["data"]["trigger"] == TRIGGER


def test_what_was_uploaded_is_what_infer_takes(style_run: Path, hub: str, tmp_path: Path, cache: Path) -> None:
    words = [f"run={style_run}", "push=owner/name"]
    assert forked("card", words, tmp_path, HF_ENDPOINT=hub, HF_TOKEN=WRITER).returncode == 0
    words = [
        "mode=t2v",
        "num_frames=5",
        "sampler.steps=1",
        "sampler.guidance=1",
        "metrics=none",
        f"cache={cache}",
        "out=clip",
    ]
    done = forked("infer", ["ckpt=hub:owner/name", "prompt=bars", *words], tmp_path, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clip/clip.mp4").is_file()


def test_places_in_an_older_adapters_header_are_taken_out(copied: Path) -> None:
    path = copied / "style.safetensors"
    metadata = read_header(path)["__metadata__"]
    settings = json.loads(metadata["config"])
    assert "root" not in settings["data"]
    settings["data"]["root"] = "/home/someone/secret"
    before = load_tensors(path)[0]
    path.write_bytes(with_metadata(path.read_bytes(), metadata | {"config": json.dumps(settings)}))
    assert b"/home/someone" in path.read_bytes()
    path.write_bytes(shareable(path))
    assert b"/home/someone" not in path.read_bytes()
    after = load_tensors(path)[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


REFUSED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "no token": (["push=owner/name"], {}, "push=owner/name needs a token that may write there"),
    "no network": (
        ["push=owner/name"],
        {"HF_TOKEN": WRITER, "HF_ENDPOINT": "http://127.0.0.1:9"},
        "push=owner/name: nothing was uploaded: ",
    ),
    "offline": (
        ["push=owner/name"],
        {"HF_TOKEN": WRITER, "HF_HUB_OFFLINE": "1"},
        "push=owner/name: nothing was uploaded: ",
    ),
    "a token that may not write": (
        ["push=owner/name"],
        {"HF_TOKEN": READER},
        "push=owner/name: nothing was uploaded: 403",
    ),
    "no owner": (["push=name"], {"HF_TOKEN": WRITER}, "push=name: a repository on the hub is written owner/name"),
    "a name that cannot be": (
        ["push=owner/na me"],
        {"HF_TOKEN": WRITER},
        "push=owner/na me: a repository on the hub is written",
    ),
    "a name that the hub does not take": (
        ["push=owner/name.git"],
        {"HF_TOKEN": WRITER},
        "push=owner/name.git: nothing was uploaded: ",
    ),
    "another's": (["push=gone/name"], {"HF_TOKEN": WRITER}, "push=gone/name: nothing was uploaded: "),
    "half a key": (
        ["push=owner/name", "private=yes"],
        {"HF_TOKEN": WRITER},
        "private=yes: wants true or false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_uploaded_is_a_sentence(
    case: str, style_run: Path, hub: str, files: dict[str, bytes], asked: list[tuple[str, Any]], tmp_path: Path
) -> None:
    words, environment, sentence = REFUSED[case]
    done = forked("card", [f"run={style_run}", *words], tmp_path, **({"HF_ENDPOINT": hub} | environment))
    assert done.returncode == 2
    assert done.stderr.startswith(f"cinelora.card: {sentence}")
    assert len(done.stderr.splitlines()) == 1
    assert (files, asked) == ({}, [])


def spoil(run: Path, case: str) -> None:
    if case == "interrupted":
        write_json(run / "summary.json", read_json(run / "summary.json") | {"interrupted": True, "steps": 9})
    elif case == "pretrain":
        config = load_config(run)
        save_config(replace(config, stage=replace(config.stage, name="pretrain")), run / "config.yaml")
    else:
        (run / case).unlink()


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("interrupted", "stopped at step 2 of 9; continue with python train.py resume="),
        ("pretrain", "stage=pretrain, which trains no adapter"),
        ("summary.json", "is not finished: continue with python train.py resume="),
        ("style.safetensors", "holds no style.safetensors"),
        ("config.yaml", "holds no config.yaml: give the directory of a run"),
    ],
)
def test_a_run_that_cannot_be_shared_is_a_sentence(
    copied: Path, case: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(copied, case)
    assert main([f"run={copied}", "push=owner/name"]) == 2
    captured = capsys.readouterr().err
    assert sentence in captured
    assert len(captured.splitlines()) == 1


def test_a_run_uploads_itself_when_it_ends(
    hub: str, files: dict[str, bytes], footage: Path, cache: Path, tmp_path: Path
) -> None:
    words = [
        "stage=style",
        "data=folder",
        f"data.root={footage}",
        "data.judged=false",
        f"data.prepared={footage}-prepared",
        "model=tiny",
        "stage.steps=1",
        "stage.batch_size=1",
    ]
    words += ["checkpoint.every_steps=0", "validation.every_steps=0", "logger=none", f"cache={cache}", "out=run"]
    done = forked("train", [*words, "push=owner/name"], tmp_path, HF_ENDPOINT=hub, HF_TOKEN=WRITER)
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub}/owner/name/commit/" in done.stdout
    assert "uploaded" not in done.stdout.splitlines()[-1], "the last line says what was learnt"
    assert {"README.md", "config.yaml", "style.safetensors"} <= set(files)
    assert "push" not in yaml.safe_load(files["config.yaml"]), "who goes on with it has a repository of their own"

    again = [*words[:-1], "out=again", "push=owner/name", "private=true"]
    late = forked("train", again, tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN=WRITER)
    assert late.returncode == ConfigError("").exit_code
    assert (tmp_path / "again" / "style.safetensors").is_file()
    remedy = "the adapter is in again: python -m cinelora.card run=again push=owner/name private=true tries again"
    assert re.search(f"nothing was uploaded: .*; {remedy}", late.stderr)
    assert "moves its weights by" in late.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["push=name"], "push=name: a repository on the hub is written owner/name"),
        (["push=owner/name"], "push=owner/name needs a token that may write there"),
        (["private=true"], "private=true is about the repository of push="),
        (["push=owner/name", "-m", "lora.rank=4,8"], "push=owner/name is one repository for 2 runs"),
    ],
)
def test_what_could_not_be_uploaded_is_refused_before_training(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = typed([str(ROOT / "train.py"), "stage=style", "data=noir", *words], tmp_path)
    assert done.returncode == ConfigError("").exit_code
    assert sentence in done.stderr
    assert not (tmp_path / "outputs").exists()
