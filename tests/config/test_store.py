"""A run's settings are read back strictly: a stranger's file is data."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cinelora.cli.compose import compose_train
from cinelora.config.schema import InferConfig, TrainConfig
from cinelora.config.shipped import CONF, choices
from cinelora.config.store import load, load_config, save_config, to_yaml
from cinelora.errors import ConfigError
from cinelora.io.hub import resolve


def test_what_is_written_is_read(tmp_path: Path) -> None:
    config = compose_train(["stage=motion", "data=noir", "recipe=null", "metrics=temporal", "optimizer.lr=1"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path) == config


def test_a_key_of_a_newer_version_takes_its_default(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {name: tiny}\nseed: 7\n")
    assert (load_config(tmp_path).seed, load_config(tmp_path).lora.rank) == (7, 8)


def test_a_section_that_had_another_name_is_read_under_its_new_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("weights: {motion: 0.5}\nmodel: {weights: random}\n")
    config = load(InferConfig, tmp_path / "config.yaml")
    assert (config.scale.motion, config.scale.style, config.model.weights) == (0.5, 1.0, "random")
    with pytest.raises(ConfigError, match="unknown key weights: it is from another version"):
        load(TrainConfig, tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora: {rang: 8}", "unknown key lora.rang"),
        ("lora: {rank: eight}", "lora.rank cannot be 'eight'"),
        ("lora: {rank: true}", "lora.rank cannot be True"),
        ("lora: 8", "lora.* should hold settings, not 8"),
        ("metrics: {names: [1]}", "metrics.names.0 cannot be 1"),
        ("- a list", "the file should hold settings"),
        ("", "the file should hold settings"),
        ("a: [", "cannot be read as YAML"),
        ("lora: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("_target_: os.system", "unknown key _target_"),
    ],
)
def test_what_train_did_not_write_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path)


def test_a_run_without_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        load_config(tmp_path)


def test_references_in_a_file_stay_text(tmp_path: Path) -> None:
    config = compose_train(["stage=style", "data=noir", "description=${oc.env:HOME}"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path).description == "${oc.env:HOME}"


# Sources of an adapter ------------------------------------------------------------------------------------------------


def test_a_source_is_a_run_a_file_or_a_folder_with_one_file(tmp_path: Path) -> None:
    file = tmp_path / "a, b.safetensors"
    file.write_bytes(b"")
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path)) == file
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds 2 adapter files: name one of a, b.safetensors, other.safetensors"):
        resolve(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:a/b/c", "hub:a b/c", "hub:../x", "hub:a/b@"])
def test_a_hub_source_has_a_form(source: str) -> None:
    with pytest.raises(ConfigError, match=r"hub:owner/name|Repo id"):
        resolve(source)


@pytest.mark.parametrize("recipe", choices("recipe"))
def test_the_settings_of_every_recipe_are_read_back(recipe: str, tmp_path: Path) -> None:
    stage = yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text())["recipe"]["stage"]
    config = compose_train([f"stage={stage}", "data=noir", f"recipe={recipe}"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path) == config
