"""What every test may ask for: the embedded model, built once per session, and small settings."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from cinelora.models.wan import WanBundle


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session, so that the embedded model is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def t2v(cache: Path) -> WanBundle:
    return WanBundle("embedded:tiny-t2v", dtype="fp32", cache=cache)


@pytest.fixture(scope="session")
def i2v(cache: Path) -> WanBundle:
    return WanBundle("embedded:tiny-i2v", dtype="fp32", cache=cache)
