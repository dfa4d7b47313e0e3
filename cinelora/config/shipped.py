"""The settings that ship with the project: the groups of ``conf/``, with their choices and values.

Leaves: plain data of the YAML files. It does not know which keys a command takes, and Hydra is not known.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cinelora
from cinelora.errors import ConfigError
from cinelora.families import FAMILIES
from cinelora.io.plain_data import read_yaml

PROJECT = Path(cinelora.__file__).resolve().parents[1]
"""The folder where ``train.py`` lies: relative paths inside ``conf/`` start here."""
CONF = PROJECT / "conf"


@cache
def choices(group: str) -> list[str]:
    """The files of a group, without their endings."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def values(name: str) -> dict[str, Any]:
    """What one file of ``conf/`` sets, such as ``model/tiny``."""
    if not CONF.is_dir():
        raise ConfigError(f"there is no conf/ beside {PROJECT / 'cinelora'}: run from a clone")
    return read_yaml(CONF / f"{name}.yaml", dict[str, Any])


def models_with_i2v() -> list[str]:
    """The models that have an image-to-video transformer."""
    return [name for name in choices("model") if values(f"model/{name}").get("i2v") or _is_one(values(f"model/{name}"))]


def _is_one(model: dict[str, Any]) -> bool:
    """Whether all networks of the model's family are one transformer."""
    return "family" in model and FAMILIES[model["family"]].one_checkpoint


def trained_shape(model: str) -> tuple[int, int, int] | None:
    """Frames, height and width of the clips a model of ``conf/`` was trained on, whatever a run sets; None for others."""
    if model not in choices("model"):
        return None
    trained = values(f"model/{model}")
    largest = FAMILIES[trained["family"]].largest if "family" in trained else None
    return trained["num_frames"], *(largest or (trained["height"], trained["width"]))
