"""Nothing is silent for long: what goes on is said with its seconds, and what is over at once is not."""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from cinelora.io import waiting as module
from cinelora.io.live_bar import LiveBar
from cinelora.io.terminal import say
from cinelora.io.waiting import Turn, waiting


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


def test_a_bar_is_drawn_while_one_step_takes_long_and_not_over_what_goes_on_within(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LiveBar(total=2, desc="steps", mininterval=60) as bar:
        capsys.readouterr()
        assert "\rsteps:   0%" in wait_for("steps", capsys)
        with waiting("held-out samples"):
            wait_for("held-out", capsys)
            time.sleep(0.2)
            assert "steps" not in capsys.readouterr().err
        assert "steps" in wait_for("steps", capsys)
        bar.update()
    assert module._under_way == []


def test_a_bar_that_is_dropped_or_not_shown_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    LiveBar(total=2, disable=True)
    bar = LiveBar(total=2)
    del bar
    gc.collect()
    assert module._under_way == []
    end = time.monotonic() + 60
    while threading.active_count() > before + 1 and time.monotonic() < end:  # tqdm has a thread of its own
        time.sleep(0.01)
    assert threading.active_count() <= before + 1
    assert capsys.readouterr().out == ""


def test_two_that_are_short_are_not_silent_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is how long nothing was said, and not how long each of them takes."""
    monkeypatch.setattr(module, "TICK_S", 0.8)
    say("loading")
    seen = ""
    for number in range(4):
        with waiting(f"part {number}"):
            time.sleep(0.5)
        seen += capsys.readouterr().err
    assert "part" in seen


@pytest.mark.parametrize(("word", "ended"), [("encoding", "\n"), ("\rencoding: 4 s", "")])
def test_a_terminal_is_the_parent_s_until_its_child_s_first_word(
    word: str, ended: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = Turn(tmp_path / "terminal"), Turn(tmp_path / "terminal")
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    with waiting("starting", write=parent.write):
        assert "starting" in wait_for("starting", capsys)
        child.take(word)
        time.sleep(0.2)
        said = capsys.readouterr().err
        assert re.fullmatch(rf"(\rstarting: \d+ s)*{ended}", said)
        child.take("more")
    assert capsys.readouterr().err == ""


def test_a_child_that_speaks_first_begins_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Turn(tmp_path / "terminal").take("encoding")
    Turn(tmp_path / "terminal").write("\rstarting: 4 s")
    assert capsys.readouterr().err == ""
