"""What a directory from somebody else may decide: shapes and numbers, never places, programs or accounts."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from composed import compose_evaluate, compose_infer
from safetensors.numpy import save_file

from cinelora.cli.compose import compose_train
from cinelora.cli.main import main
from cinelora.cli.programs import PROGRAMS
from cinelora.config.fields import Field, assign, fields_of, pick
from cinelora.config.schema import EvaluateConfig, InferConfig, MetricsConfig, ModelConfig, TrainConfig
from cinelora.config.store import anchored, load_config, portable, save_config
from cinelora.config.trust import SHOWN, hashes, is_own, note_as_own, of_model, of_run, refuse_foreign_settings, word_of
from cinelora.errors import ConfigError, FileError
from cinelora.evaluation.clip_list import PLAN, Plan, Prompt, load_plan
from cinelora.io import state_folder

LABELS = {"model.name", "data.name", "recipe.name", "recipe.stage", "recipe.known", "recipe.ours"}
LABELS |= {"data.description", "checkpoint.best", "stopping.monitor", "description", "logger.tags", "logger.notes"}
"""Texts that stand for themselves: nothing is opened, started or spoken to by them."""
STYLE = ["stage=style", "data=folder", "data.root=clips"]
RUN = [*STYLE, "model=wan21_14b_480p", "logger=csv", "lora.rank=3"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and a state folder that nothing has been noted in."""
    (tmp_path / "work/clips").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(state_folder.INHERITED, raising=False)
    state_folder._say_ignored.cache_clear()
    return tmp_path / "work"


def as_somebody_else(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """From now on nothing is known of what was started before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(here.parent / "another state"))


class Trains:
    """Stands for the work: keeps the settings that it was handed, and leaves a checkpoint."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, config: Any, run_dir: Path) -> int:
        self.seen.append(config)
        (run_dir / "checkpoints/step-00000001").mkdir(parents=True, exist_ok=True)
        return 0


@pytest.fixture
def train() -> Trains:
    return Trains()


# What is private ------------------------------------------------------------------------------------------------------


def schemas() -> Iterator[Field]:
    for program in PROGRAMS.values():
        yield from program.fields.values()


def test_every_setting_is_private_or_can_name_nothing() -> None:
    """A number, a yes or no, a word of a list, a text that a network reads: all else is private, or one of a few labels."""
    open_ended = {
        field.key
        for field in schemas()
        if not (field.is_private or field.kind in (int, float, bool) or field.choices or field.role == "text")
    }
    assert open_ended == LABELS


def test_what_names_a_place_a_program_or_an_account_is_private() -> None:
    private = {field.key for field in schemas() if field.is_private}
    assert private >= {"data.root", "cache", "ckpt", "adapter", "model.t2v", "model.vae", "model.t2v_revision", "push"}
    assert private >= {"metrics.i3d", "metrics.i3d_sha256", "logger.name", "logger.project", "logger.offline", "trust"}
    assert private >= {"data.captioner", "data.prepared", "data.follow_links", "prompts", "image", "merge", "answers"}
    assert not private & {"lora.rank", "stage.steps", "preview.prompt", "model.width", "sampler.name", "gpus"}


def other_value(field: Field) -> Any:
    if field.is_list:
        return ["/theirs"]
    if field.choices:
        return next(word for word in field.choices if word != field.default)
    return (not field.default) if field.kind is bool else f"/theirs/{field.key}"


@pytest.mark.parametrize("script", PROGRAMS)
def test_each_private_setting_by_itself_makes_a_file_foreign_and_is_named(script: str) -> None:
    schema = PROGRAMS[script].schema
    for key, field in fields_of(schema).items():
        if not of_run(field):
            continue
        theirs = schema()
        assign(theirs, key, other_value(field))
        assert not is_own(theirs), key
        with pytest.raises(ConfigError) as refusal:
            refuse_foreign_settings(theirs, schema(), "resume=x")
        shown = "logger=" if key == "logger.name" else f"{key}="
        assert shown in str(refusal.value), key
        refuse_foreign_settings(theirs, schema(), "resume=x", [key])
        refuse_foreign_settings(theirs, theirs, "resume=x")
        note_as_own(theirs)
        assert is_own(theirs), key


def test_numbers_need_no_trust_and_change_no_hash() -> None:
    theirs = TrainConfig(seed=9, cache="/theirs")
    note_as_own(theirs)
    assert is_own(dataclasses.replace(theirs, seed=10, gpus=4, push="somebody/else", out="/x", resume="/y", trust=True))
    assert not is_own(dataclasses.replace(theirs, cache="/theirs/other"))


def test_a_value_from_a_file_is_printed_on_one_line_and_short() -> None:
    field = fields_of(TrainConfig)["cache"]
    assert word_of(field, "/a\x1b[2J\nb\u202e") == r"$'cache=/a\033[2J\012b\342\200\256'"
    assert len(word_of(field, "x" * 10**6)) < SHOWN + 20


# Resuming -------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_started_here_is_resumed_wherever_it_lies(here: Path, train: Trains) -> None:
    assert main("train", [*RUN, "out=a", "model.t2v=org/own"], train) == 0
    assert main("train", ["resume=a"], train) == 0
    shutil.copytree("a", here.parent / "copied")
    shutil.rmtree("a")
    assert main("train", [f"resume={here.parent / 'copied'}"], train) == 0
    first, *rest = train.seen
    for config in rest:
        assert (config.data.root, config.model.t2v, config.cache) == (first.data.root, "org/own", first.cache)
    noted = [*(here.parent / "state/cinelora").iterdir()]
    assert noted
    assert all(len(path.name) == 64 and path.stat().st_size == 0 for path in noted)
    assert stat.S_IMODE((here.parent / "state/cinelora").stat().st_mode) == 0o700


def test_a_run_of_somebody_else_is_resumed_as_typed_or_trusted_once(
    here: Path, train: Trains, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("train", [*RUN, "out=a", "model.t2v=org/theirs", "model.t2v_revision=theirs", "cache=c"], train) == 0
    as_somebody_else(monkeypatch, here)
    shutil.copytree("a", "b")
    assert main("train", ["resume=a"], train) == 2
    said = capsys.readouterr().err
    assert said.startswith("train.py: resume=a does not seem to be yours, and names places")
    for word in ("data.root=", "model.t2v=org/theirs", "model.t2v_revision=theirs", "cache="):
        assert word in said
    assert "i2v" not in said  # the model's own
    assert "logger" not in said
    typed = ["data.root=clips", "model.t2v=org/mine", "model.t2v_revision=main", "cache=mine"]
    assert main("train", ["resume=a", *typed], train) == 0
    config = train.seen[-1]
    assert (config.model.t2v, config.model.t2v_revision, config.cache) == ("org/mine", "main", str(here / "mine"))
    assert (config.lora.rank, config.logger.name, config.data.name) == (3, "csv", "folder")
    assert main("train", ["resume=b"], train) == 2
    assert main("train", ["resume=b", "trust=true"], train) == 0
    assert main("train", ["resume=b"], train) == 0
    assert [one.model.t2v for one in train.seen[-2:]] == ["org/theirs", "org/theirs"]


def test_a_run_of_an_older_version_with_nothing_but_what_is_shipped_goes_on(
    here: Path, train: Trains, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main("train", ["stage=style", "data=noir", "out=a"], train) == 0
    as_somebody_else(monkeypatch, here)
    assert main("train", ["resume=a"], train) == 0


def test_an_edited_file_is_not_ones_own(here: Path, train: Trains) -> None:
    assert main("train", [*RUN, "out=a"], train) == 0
    settings = yaml.safe_load(Path("a/config.yaml").read_text())
    Path("a/config.yaml").write_text(yaml.safe_dump(settings | {"seed": 7}))
    assert compose_train(["resume=a"]).seed == 7
    settings["logger"]["name"] = "tensorboard"
    Path("a/config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"data.root=\S+ .*logger=tensorboard; type each"):
        compose_train(["resume=a"])
    assert compose_train(["resume=a", "data.root=clips", "logger=csv"]).logger.name == "csv"


def test_the_same_words_go_on_without_any_note_and_obey_no_file(
    here: Path, train: Trains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another node after a preemption, or in a container: nobody is asked for a word."""
    words = [*RUN, "out=a", "resume=auto"]
    assert main("train", words, train) == 0
    as_typed = train.seen[-1]
    theirs = load_config(Path("a"))
    for key, field in fields_of(TrainConfig).items():
        if field.is_private:
            assign(theirs, key, other_value(field))
    theirs.adapter = None
    theirs.dropout.caption = 0.5
    save_config(theirs, Path("a/config.yaml"))
    as_somebody_else(monkeypatch, here)
    assert main("train", words, train) == 0
    config = train.seen[-1]
    assert config.dropout.caption == 0.5
    assert config.resume == str(here / "a")
    for key, field in fields_of(TrainConfig).items():
        if of_run(field) or key in ("push", "private", "trust"):
            assert pick(config, key) == pick(as_typed, key), key


def test_no_file_uploads(here: Path, train: Trains, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose_train([*RUN, "push=me/mine", "private=true"])
    Path("a").mkdir()
    save_config(config, Path("a/config.yaml"))
    note_as_own(config)
    for words in ([], ["trust=true"]):
        again = compose_train(["resume=a", *words])
        assert (again.push, again.private) == (None, False)
        assert capsys.readouterr().err == (
            "push=me/mine is in the run's settings, but uploads must be typed: type it again to upload\n"
        )
    assert compose_train(["resume=a", "push=me/mine"]).push == "me/mine"
    assert capsys.readouterr().err == ""


def test_a_style_adapter_that_the_run_carries_is_no_place_elsewhere(here: Path) -> None:
    Path("a").mkdir()
    config = compose_train(["stage=motion", "data=noir", "adapter=/theirs/style.safetensors"])
    save_config(config, Path("a/config.yaml"))
    with pytest.raises(ConfigError, match=r"names .*: adapter=/theirs/style.safetensors; type"):
        compose_train(["resume=a"])
    assert compose_train(["resume=a", "adapter=mine"]).adapter == "mine"
    Path("a/style.safetensors").write_bytes(b"")
    assert compose_train(["resume=a"]).adapter == "a/style.safetensors"
    with pytest.raises(
        ConfigError, match="the resumed run has its own style adapter, a/style.safetensors: leave adapter= away"
    ):
        compose_train(["resume=a", "adapter=mine"])


# Adapters and evaluations ---------------------------------------------------------------------------------------------


def adapter_file(path: Path, config: TrainConfig) -> Path:
    names = ("lora_A", "lora_B")
    tensors = {f"diffusion_model.blocks.0.cross_attn.q.{name}.weight": np.ones((1, 1), np.float32) for name in names}
    origin = dict.fromkeys(("base_revision", "data_hash"), "x") | {"kind": "style", "transformer": "t2v"}
    spec = {"rank": "1", "alpha": "1.0", "dropout": "0.0", "targets": "cross_attention"}
    says = {"base_model": config.model.name, "config": json.dumps(portable(dataclasses.asdict(config)))}
    save_file(tensors, path, {"format": "cinelora-adapter/1", **origin, **spec, **says})
    return path


def test_an_adapter_says_which_model_and_not_where_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = compose_train([*RUN, "model.t2v=org/theirs", "model.width=640"])
    Path("a").mkdir()
    save_config(theirs, Path("a/config.yaml"))
    adapter_file(Path("a/style.safetensors"), theirs)
    shutil.copy("a/style.safetensors", "b.safetensors")
    for source in ("a", "b.safetensors"):
        with pytest.raises(ConfigError, match=rf"^ckpt={source} .*: model.t2v=org/theirs; type each"):
            compose_infer([f"ckpt={source}", "prompt=x"])
        typed = compose_infer([f"ckpt={source}", "prompt=x", "model.t2v=org/mine"]).model
        assert (typed.t2v, typed.width, typed.name) == ("org/mine", 640, "wan21_14b_480p")
        trusted = compose_infer([f"ckpt={source}", "prompt=x", "trust=true"])
        assert trusted.model.t2v == "org/theirs"
    note_as_own(trusted)  # as the run does that it is typed for
    assert compose_infer(["ckpt=a", "prompt=x"]).model.t2v == "org/theirs"
    assert is_own(InferConfig(model=theirs.model), of_model)


def test_an_adapter_of_a_shipped_model_needs_no_word(here: Path) -> None:
    for model in ("tiny", "wan21_1_3b"):
        file = adapter_file(Path(f"{model}.safetensors"), compose_train([*STYLE, f"model={model}"]))
        assert compose_infer([f"ckpt={file}", "prompt=x"]).model.name == model


def test_a_report_runs_no_program_and_opens_no_file_that_the_evaluation_names(here: Path) -> None:
    Path("e").mkdir()
    os.mkfifo("pipe")  # whoever opens it waits for ever
    metrics = MetricsConfig(names=["flicker"], i3d=str(here / "i3d.pt"), i3d_sha256="0" * 64)
    Path("i3d.pt").write_bytes(b"")
    model = ModelConfig("tiny", t2v="org/theirs")
    theirs = EvaluateConfig(model=model, metrics=metrics, ckpt="/theirs", prompts="pipe", cache="/theirs")
    save_config(theirs, Path("e/config.yaml"))
    evaluate = Trains()
    for what in ("report=true", "answers=i3d.pt"):
        with pytest.raises(ConfigError, match=r"^out=e does .*: metrics.i3d=\S+/i3d.pt metrics.i3d_sha256=000"):
            compose_evaluate(["out=e", what])
    assert main("evaluate", ["out=e", "report=true", "metrics.i3d=", "metrics.i3d_sha256="], evaluate) == 0
    config = evaluate.seen[-1]
    assert (config.metrics.i3d, config.metrics.i3d_sha256, config.metrics.names) == (None, None, ["flicker"])
    # what it was drawn by stands there as before, and is not taken for one's own
    assert (config.ckpt, config.model.t2v) == ("/theirs", "org/theirs")
    assert not is_own(InferConfig(model=model), of_model)
    save_config(theirs, Path("e/config.yaml"))
    assert main("evaluate", ["out=e", "report=true", "trust=true"], evaluate) == 0
    assert main("evaluate", ["out=e", "report=true"], evaluate) == 0
    assert [one.metrics.i3d for one in evaluate.seen[-2:]] == [str(here / "i3d.pt")] * 2


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.mp4", "real/../../secret.mp4"])
def test_a_plan_names_clips_of_its_own_directory(here: Path, name: str) -> None:
    for plan in (Plan([], [], [], 16, real=[name]), Plan([Prompt("x", "file", name)], [], [], 16)):
        plan.save(here)
        with pytest.raises(FileError, match=rf"{PLAN} is damaged: it names clips as none are named"):
            load_plan(here)


# The state folder -----------------------------------------------------------------------------------------------------


def noted_here() -> bool:
    config = TrainConfig(cache="/mine")
    note_as_own(config)
    return is_own(config)


def test_a_folder_is_made_where_the_user_keeps_state(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted_here()
    for base in ("", "relative"):  # neither is a place, says the XDG specification
        monkeypatch.setenv("XDG_STATE_HOME", base)
        monkeypatch.setenv("HOME", str(here / f"home{base}"))
        assert noted_here()
        assert (here / f"home{base}/.local/state/cinelora").is_dir()


def test_without_a_place_nothing_is_noted_and_that_is_no_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    for base in (str(here / "file"), "/proc", str(here / ("x" * 300))):
        monkeypatch.setenv("XDG_STATE_HOME", base)
        assert not noted_here()
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    assert not noted_here()
    assert capsys.readouterr().err == ""


def make_link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir()
    folder.symlink_to("elsewhere")


def make_open(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def make_movable(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


@pytest.mark.parametrize("make", [Path.touch, make_link, make_open, make_movable, os.mkfifo])
def test_a_folder_that_others_could_write_to_is_left_alone_and_said_so(
    here: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = here.parent / "state"
    base.mkdir()
    make(base / "cinelora")
    assert not noted_here()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"WARNING: {base / 'cinelora'} is not used, because others can write to it or own it")
    assert [path for path in base.rglob("*") if len(path.name) == 64] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_left_alone(here: Path) -> None:
    (here.parent / "state/cinelora").mkdir(parents=True)
    os.chown(here.parent / "state/cinelora", 12345, 12345)
    assert not noted_here()


def test_jobs_inherit_what_is_their_users_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc")
    one, other = TrainConfig(cache="/one"), TrainConfig(cache="/other")
    for config in (one, other, one):
        state_folder.hand_down([state_hash(config)])
    assert is_own(one)
    assert is_own(other)
    assert not is_own(TrainConfig(cache="/third"))
    assert len(os.environ[state_folder.INHERITED]) == 2 * 64 + 1


def state_hash(config: TrainConfig) -> str:
    return next(hashes(config))


def test_a_sweep_hands_down_what_its_members_obey(here: Path, train: Trains, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the launchers come with cinelora[slurm]")
    monkeypatch.setenv(state_folder.INHERITED, "")  # so that it is as before when the test ends
    # its one member is done, so that no process is started
    Path("s/0").mkdir(parents=True)
    Path("s/sweep.json").write_text('{"overrides": [], "statuses": []}')
    Path("s/0/summary.json").write_text('{"interrupted": false, "step": 1000, "steps": 1000}')
    assert main("train", ["-m", *RUN, "hydra/launcher=local", "out=s", "resume=auto"], train) == 0
    monkeypatch.setenv("XDG_STATE_HOME", "/proc")
    assert train.seen == []
    assert is_own(anchored(compose_train(RUN)))
    assert not is_own(anchored(compose_train([*RUN, "model.t2v=org/theirs"])))
