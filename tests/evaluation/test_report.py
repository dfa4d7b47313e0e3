"""Numbers and pages of what is there: cut off, damaged or hostile."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from drifting_clips import FRAMES, HOSTILE, clip

from cinelora.config.schema import EvaluateConfig
from cinelora.evaluation import evaluation_report, page_clips
from cinelora.evaluation.clip_list import Plan, clip_file
from cinelora.evaluation.measure import load_numbers
from cinelora.evaluation.run_evaluation import evaluate
from cinelora.io.media import write_mp4

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
READY = """new Promise((done) => { const look = () =>
  [...document.querySelectorAll("video")].every((clip) => clip.readyState >= 2) ? done(true) : setTimeout(look, 20); look(); })"""
TIMES = "[...document.querySelectorAll('video')].map((clip) => clip.currentTime)"


@pytest.fixture
def again(settings: EvaluateConfig, run_dir: Path) -> EvaluateConfig:
    return dataclasses.replace(settings, report=True, out=str(run_dir))


def test_numbers_of_every_variant_with_paired_differences(again: EvaluateConfig, run_dir: Path) -> None:
    assert evaluate(again, run_dir) == 0
    numbers = load_numbers(run_dir)
    assert numbers.measures() == ["flicker", "motion", "psnr", "frechet_scale"]
    assert [row.variant for row in numbers.of("motion")] == ["real", "base", "style", "style+motion"]
    assert [row.variant for row in numbers.of("psnr")] == ["base", "style", "style+motion"]
    base, style = numbers.of("motion")[1:3]
    assert (base.mean.count, base.difference) == (6, None)
    assert style.difference is not None
    assert style.difference.value == pytest.approx(style.mean.value - base.mean.value)
    assert numbers.of("psnr")[0].mean.count == 4  # the third prompt has no real clip
    assert numbers.of("frechet_scale")[0].mean.count == 6
    rows = list(csv.DictReader((run_dir / "numbers.csv").open()))
    assert float(rows[1]["mean"]) == pytest.approx(numbers.rows[1].mean.value, rel=1e-5)
    whole = json.loads((run_dir / "numbers.json").read_text())
    assert whole["settings"]["against"] == ["psnr", "frechet_scale"]
    assert whole["hardware"]["torch"]
    assert whole["seconds"] == {"denoise": 1.0}


def test_a_run_that_was_cut_off_reports_what_is_there(again: EvaluateConfig, plan: Plan, run_dir: Path) -> None:
    first, *_, last = plan.takes()
    clip_file(run_dir, first, "style").write_bytes(b"no clip")
    clip_file(run_dir, last, "base").unlink()
    write_mp4(run_dir / "real/0001.mp4", clip(1)[:, :32, :32], 16)
    assert evaluate(again, run_dir) == 0
    numbers = load_numbers(run_dir)
    assert numbers.missing == ["clips/0002-seed-1/base.mp4"]
    said = "\n".join(numbers.sentences)
    assert "1 of 18 clips are not generated yet" in said
    assert "0000-seed-0 style cannot be read and is left out" in said
    assert "0001-seed-0 base is 9x48x64 and its reference 9x32x32" in said
    assert "real/0001.mp4 is 9x32x32 and the set 9x48x64" in said
    style = numbers.of("motion")[2]
    assert style.mean.count == 5
    assert style.difference is not None
    assert style.difference.count == 4  # takes that both have
    assert (run_dir / "report.html").read_text().count('class="none"') == 2


def test_an_empty_evaluation_is_said(again: EvaluateConfig, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_dir / "clips")
    shutil.rmtree(run_dir / "real")
    assert evaluate(again, run_dir) == 0
    said = capsys.readouterr().out
    assert "18 of 18 clips are not generated yet" in said
    assert "real/0000.mp4 is not there any more, and is left out" in said
    assert load_numbers(run_dir).rows == []


def test_the_page_lets_nothing_in_and_nothing_out(again: EvaluateConfig, run_dir: Path) -> None:
    evaluate(again, run_dir)
    text = (run_dir / "report.html").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text
    assert "default-src 'none'" in text
    assert "http://www.w3.org/2000/svg" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_clips_too_large_for_a_page_are_made_smaller(run_dir: Path, plan: Plan) -> None:
    files = [clip_file(run_dir, take, "base") for take in plan.takes()]
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 480, 832, 3), dtype=np.uint8)
    write_mp4(files[0], noise, 16)
    budget = sum(file.stat().st_size for file in files[1:]) + 100_000
    found, note = page_clips.within_budget(files, budget)
    assert sum(map(len, found.values())) <= budget
    assert note is not None
    assert "copies of at most" in note
    (run_dir / "small.mp4").write_bytes(found[files[0]])
    reader = page_clips.open_video(run_dir / "small.mp4")
    assert (reader.num_frames, round(reader.fps)) == (FRAMES, 16)
    assert max(reader.size) < 832


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_one_play_head_moves_every_clip_in_a_browser(again: EvaluateConfig, run_dir: Path, tmp_path: Path) -> None:
    evaluate(again, run_dir)
    with browser(str(CHROMIUM), tmp_path / "profile", tmp_path) as page:
        page.open(run_dir / evaluation_report.REPORT)
        page.run(READY)
        assert page.run("document.querySelectorAll('video').length") == 6 * 3 + 4
        assert page.run("document.title") == "Evaluation of tiny"
        page.run(
            "(() => { const s = document.querySelector('.bar input'); s.value = 5; s.dispatchEvent(new Event('input')); })()"
        )
        assert page.run(TIMES) == [pytest.approx(5.5 / 16)] * 22
        page.key("ArrowRight")
        assert page.run(TIMES) == [pytest.approx(6.5 / 16)] * 22
        assert page.run("document.querySelector('output').value") == f"frame 7 of {FRAMES}"
        page.key(" ")
        deadline = time.monotonic() + 300
        while not page.run("[...document.querySelectorAll('video')].slice(0, 4).every((clip) => !clip.paused)"):
            assert time.monotonic() < deadline
        page.key(" ")
        assert page.run("[...document.querySelectorAll('video')].every((clip) => clip.paused)")
        assert len(set(page.run(TIMES))) == 1
        assert (page.requests(), page.complaints()) == ([], [])
