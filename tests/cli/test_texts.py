"""Free texts reach the program, and the run's file, character by character."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from composed import compose_infer

from cinelora.cli.compose import compose, compose_train
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.config.fields import MAY_BE_NONE, Field, pick
from cinelora.config.schema import InferConfig
from cinelora.config.store import load, load_config, save_config
from cinelora.errors import ConfigError

TEXTS = [
    "a man, smoking (alone), waits; a car's lamps = two moons",
    "null",
    "true",
    "42",
    "${oc.env:HOME}",
    "${model.name} and \\${more}",
    'she says "no", twice',
    "it's [a] {list}: of=things",
    "two\nlines\r\nand\ttab",
    "back\\slash \\' and %s $HOME ~ +x ++y",
    "ночь, дождь \N{CINEMA} \N{BUG}",
    "  spaces around  ",
    "# no comment: &anchor *alias !tag",
    "a\x85b\u2028c\x1b[31m",
    "bytes \udcff no UTF-8",
    "1,2,3",
    "choice(a,b)",
    "-m",
    "_target_",
]


@pytest.mark.parametrize("text", [*TEXTS, ""])
def test_a_prompt_is_verbatim_from_the_shell_to_the_file(text: str, tmp_path: Path) -> None:
    config = compose_infer([f"prompt={text}", f"negative_prompt={text}"])
    assert (config.prompt, config.negative_prompt) == (text, text)
    save_config(config, tmp_path / "config.yaml")
    assert load(InferConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", TEXTS)
def test_every_free_text_of_training_is_verbatim(text: str, tmp_path: Path) -> None:
    keys = ["data.root", "data.caption", "data.trigger", "out", "cache", "adapter", "preview.prompt", "model.t2v"]
    config = compose_train(["stage=motion", "data=folder", *(f"{key}={text}" for key in keys)])
    found = [config.data.root, config.data.caption, config.data.trigger, config.out, config.cache, config.adapter]
    assert [*found, config.preview.prompt, config.model.t2v] == [text] * len(keys)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path) == config


def test_an_empty_path_is_no_path_and_an_empty_caption_is_a_caption() -> None:
    config = compose_train(["stage=motion", "data=folder", "adapter=", "model.t2v=", "data.caption="])
    assert (config.adapter, config.model.t2v, config.data.caption) == (None, None, "")


FREE_TEXTS = {
    "train": "out cache adapter resume description push stopping.monitor checkpoint.best preview.prompt "
    "logger.project logger.entity logger.group logger.notes metrics.i3d_sha256",
    "infer": "ckpt prompt prompts negative_prompt image out cache",
    "evaluate": "answers data.root data.manifest data.prepared data.overrides data.lut data.description data.captioner "
    "data.captioner_prompt data.caption data.trigger",
    "study": "model.t2v model.i2v model.vae model.text_encoder model.tokenizer model.image_encoder model.negative_prompt "
    "metrics.clip metrics.dino metrics.alexnet metrics.i3d",
}


@pytest.mark.parametrize("script", FREE_TEXTS)
def test_every_text_and_path_is_taken_verbatim(script: str) -> None:
    for key in FREE_TEXTS[script].split():
        assert PROGRAMS[script].fields[key].is_text, key


def may_be_empty(key: str, field: Field) -> bool:
    """Whether a path may be left empty by itself; the others are what a command goes on with, or of pretraining alone."""
    named = field.is_text and field.role in MAY_BE_NONE and field.optional
    return named and key not in ("resume", "answers") and not field.not_in_training


def test_an_empty_path_is_none_whichever_it_is() -> None:
    for script, program in PROGRAMS.items():
        required = ["stage=style", "data=noir"][script != "train" :] if program.mandatory else []
        paths = [key for key, field in program.fields.items() if may_be_empty(key, field)]
        config = compose(parse(program, [*required, *(f"{key}=" for key in paths)]))
        assert {key for key in paths if pick(config, key) is not None} == set(), script
    with pytest.raises(ConfigError, match="^cache= is empty: give a path"):
        compose_infer(["prompt=x", "cache="])


def test_the_file_is_plain_yaml(tmp_path: Path) -> None:
    save_config(compose_train(["stage=style", "data=noir", "data.trigger=ночь"]), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["data"]["trigger"] == "ночь"
    assert "ночь" in text
    assert "!!" not in text
