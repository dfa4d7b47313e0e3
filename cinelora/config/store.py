"""A run's settings as a file: ``config.yaml``, whole, with every text as it was typed.

What enters and leaves is a dataclass of the schema; a file is data and read strictly, so a key or type that does not
belong is refused. No Hydra here, hence no references that could resolve to anything.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cinelora.config.adapter_words import AdapterWord
from cinelora.config.fields import PLACES, Field, assign, fields_of, pick
from cinelora.config.model_words import ModelWord
from cinelora.config.schema import EvaluateConfig, InferConfig, StudyConfig, TrainConfig
from cinelora.errors import ConfigError, FileError
from cinelora.io import plain_data
from cinelora.io.atomic import write_text
from cinelora.io.hub import CONFIG_FILE, EMBEDDED, EMBEDDED_ADAPTER, PREFIX, is_hub_name
from cinelora.io.plain_data import read_yaml, sealed

T = TypeVar("T")


def to_yaml(config: TrainConfig | InferConfig | EvaluateConfig | StudyConfig) -> str:
    """The settings as YAML; ``yaml.safe_load`` gives every text back character by character."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=120)


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """A training run's settings as plain data for others, without places on this machine; what is left out takes its default."""
    return _portable(settings, "")


def _portable(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    fields = fields_of(TrainConfig)
    kept = {name: value for name, value in settings.items() if _is_portable(fields.get(prefix + name), value)}
    return {
        name: _portable(value, f"{prefix}{name}.") if isinstance(value, dict) else value for name, value in kept.items()
    }


def _is_portable(field: Field | None, value: Any) -> bool:
    if field is None:
        return True
    is_local = field.role == "model" and value is not None and value not in EMBEDDED and not is_hub_name(value)
    return not (field.role in PLACES or field.typed_only or is_local)


def anchored(config: T) -> T:
    """The same settings with paths that hold from any working directory; the text stays the end of the path.

    A model is a path where there is such a directory or file, else a name on the hub. A run that is named by a link, such as
    ``last``, gets its own name, since the link will point elsewhere. A directory to be made stays as it was typed.
    """
    config = copy.deepcopy(config)
    for key, field in fields_of(type(config)).items():
        value = pick(config, key) if field.role in ("path", "run", "model", "models") else None
        if field.is_list and value:
            assign(config, key, [_anchored_word(field, text) for text in value])
        elif value:
            assign(config, key, _anchored_text(field.role, value))
    return config


def _anchored_text(role: str, text: str) -> str:
    if role == "model" and not os.path.exists(text):
        return text
    path = os.path.join(os.getcwd(), text)
    # joined and not resolved, so that what was typed stays readable as the end of the path
    is_link = role == "run" and os.path.isdir(path) and os.path.islink(path.rstrip("/"))
    return os.path.realpath(path) if is_link else path


def _anchored_word(field: Field, text: str) -> str:
    if field.role == "models":
        one = ModelWord.of(text)
        is_here = one.ckpt is not None and not one.ckpt.startswith(PREFIX)
        return str(dataclasses.replace(one, ckpt=_anchored_text("run", str(one.ckpt)))) if is_here else text
    if field.role != "run":
        return os.path.abspath(text)
    word = AdapterWord.of(text)
    if word.source == EMBEDDED_ADAPTER:
        return text
    return str(dataclasses.replace(word, source=_anchored_text(field.role, word.source)))


def save_config(config: TrainConfig | InferConfig | EvaluateConfig | StudyConfig, path: Path) -> None:
    """Write the settings to ``path``, whole or not at all."""
    write_text(path, sealed(to_yaml(config), "yaml"))


def load_config(run_dir: Path) -> TrainConfig:
    """The settings of a training run.

    Raises:
        ConfigError: no such file, or not one that ``train.py`` wrote.
    """
    return load(TrainConfig, run_dir / CONFIG_FILE)


def load(schema: type[T], path: Path) -> T:
    """Read settings of a script; keys that a newer version added take their defaults.

    Raises:
        ConfigError: unreadable, an unknown key, or a value of another type.
    """
    try:
        return read_yaml(path, schema)
    except FileError as error:
        raise ConfigError(str(error)) from error


def build(schema: type[T], data: Any, origin: Path) -> T:
    """A dataclass of the schema from plain data; ``origin`` is the file it was read from. Raises as ``load``."""
    try:
        return plain_data.build(schema, data, origin)
    except FileError as error:
        raise ConfigError(str(error)) from error
