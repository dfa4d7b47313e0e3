"""Nothing is silent for long: what goes on is said with its seconds, and what is over at once is not."""

from __future__ import annotations

import re
import time

import pytest

from cinelora.io import waiting as module
from cinelora.io.waiting import waiting


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.05)


def wait_for(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What was written until ``text`` was."""
    seen, end = "", time.monotonic() + 60
    while text not in seen and time.monotonic() < end:
        time.sleep(0.01)
        seen += capsys.readouterr().err
    return seen


def test_what_takes_long_counts_its_seconds_and_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading vae"):
        assert re.fullmatch(r"(\rloading vae: \d+ s)+", wait_for("loading", capsys))
    assert re.fullmatch(r"(\rloading vae: \d+ s)+\n", capsys.readouterr().err)


def test_of_what_goes_on_inside_of_something_the_innermost_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("encoding prompts"):
        with waiting("loading text_encoder"):
            assert "loading" in wait_for("loading", capsys)
            time.sleep(0.2)
            assert "prompts" not in capsys.readouterr().err
        assert "prompts" in wait_for("prompts", capsys)


def test_nothing_is_said_of_what_is_over_at_once_or_by_other_ranks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting("loading vae", show=False):
        time.sleep(0.2)
    monkeypatch.setattr(module, "TICK_S", 60.0)
    with pytest.raises(ValueError, match="its own"), waiting("loading vae"):
        raise ValueError("its own")
    assert capsys.readouterr().err == ""
    assert module._under_way == []
