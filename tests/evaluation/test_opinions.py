"""The blind test: what its page must not say, what its answers are worth, and which files are none of its answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import browser

from cinelora.config.schema import EvaluateConfig
from cinelora.errors import ConfigError, FileError
from cinelora.evaluation.blind_test import KEY, PAGE, load_key, load_preferences, score, write_pairs
from cinelora.evaluation.clip_list import Plan, clip_file
from cinelora.evaluation.run_evaluation import evaluate

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(plan: Plan, run_dir: Path) -> str:
    written = write_pairs(plan, run_dir)
    assert written is not None
    return written.read_text()


def answers(run_dir: Path, rater: str, wins: dict[str, bool | None], question: str = "look") -> dict[str, Any]:
    """Answers of somebody who, for every pair of base and style+motion, says who of the takes wins: True is style+motion."""
    key = load_key(run_dir)
    told = []
    for pair in key.pairs:
        if pair.variants == {"base", "style+motion"} and pair.take in wins:
            later, base = (pair.left, pair.right) if pair.left.variant != "base" else (pair.right, pair.left)
            choice = {True: later.id, False: base.id, None: "same"}[wins[pair.take]]
            told.append({"pair": pair.id, "question": question, "choice": choice})
    return {"format": "cinelora-answers/1", "page": key.page, "rater": rater, "answers": told}


def test_the_page_does_not_say_which_side_is_which(page: str, plan: Plan, run_dir: Path) -> None:
    key = load_key(run_dir)
    assert len(key.pairs) == 18
    for word in ("base", "style+motion", "0000-seed-0", key.secret):
        assert word not in page.replace("base64", "").replace("base-uri", "")
    turned = [pair.left.variant == "base" for pair in key.pairs if "base" in pair.variants]
    assert 0 < sum(turned) < len(turned)
    assert [pair.take for pair in key.pairs] != sorted(pair.take for pair in key.pairs)


def test_the_same_clips_keep_their_names_and_new_ones_get_new(page: str, plan: Plan, run_dir: Path) -> None:
    before = load_key(run_dir)
    write_pairs(plan, run_dir)
    assert load_key(run_dir) == before
    takes = list(plan.takes())
    shutil.copyfile(clip_file(run_dir, takes[1], "style"), clip_file(run_dir, takes[0], "style"))
    write_pairs(plan, run_dir)
    after = load_key(run_dir)
    assert after.page == before.page
    assert len({pair.id for pair in after.pairs} & {pair.id for pair in before.pairs}) == 16


def test_votes_are_counted_for_all_and_for_each(page: str, plan: Plan, run_dir: Path) -> None:
    takes = [take.name for take in plan.takes()]
    folder = run_dir / "answers"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(answers(run_dir, "Ann", dict.fromkeys(takes, True))))
    mixed = dict(zip(takes, [True, True, False, None, None, None], strict=True))
    (folder / "b.json").write_text(json.dumps(answers(run_dir, "Bo", mixed)))
    found = {one.rater: one for one in score(plan, run_dir, folder)}
    assert {name: (one.wins, one.votes, one.ties) for name, one in found.items()} == {
        "all": (8, 9, 3),
        "Ann": (6, 6, 0),
        "Bo": (2, 3, 3),
    }
    assert list(found["all"].cells()) == [
        *("look", "all", "style+motion", "base", "89%", "0.565 to 0.9801", "p = 0.039", "9", "3")
    ]


def test_the_score_is_printed_and_put_into_the_report(
    settings: EvaluateConfig, plan: Plan, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(dataclasses.replace(settings, report=True), run_dir)
    file = run_dir / "mine.json"
    told = answers(run_dir, "<i>Ann</i>", {take.name: True for take in plan.takes()}, "motion")
    file.write_text(json.dumps(told))
    assert evaluate(dataclasses.replace(settings, answers=str(file)), run_dir) == 0
    assert (
        "motion, all: style+motion preferred to base in 100% (0.6097 to 1), sign test p = 0.031"
        in capsys.readouterr().out
    )
    assert "What people preferred" in (run_dir / "report.html").read_text()


MALFORMED = {
    "not JSON": ("damaged or no JSON", lambda told: "{"),
    "deep": ("damaged or no JSON", lambda told: "[" * 100_000),
    "a list": ("is no file of answers", lambda told: []),
    "another format": ("is no file of answers", lambda told: told | {"format": "x/2"}),
    "another page": ("answers another page", lambda told: told | {"page": "0" * 16}),
    "no rater": ("does not say who", lambda told: told | {"rater": 3}),
    "no answers": ("does not say who", lambda told: told | {"answers": "all left"}),
    "a word": ("answer 1 belongs to a pair", lambda told: told | {"answers": ["left"]}),
    "unknown pair": ("answer 1 belongs to a pair", lambda told: told | {"answers": [{"pair": "x"}]}),
    "unknown side": ("answer 1 is not one", lambda told: told | {"answers": [told["answers"][0] | {"choice": "base"}]}),
    "unknown question": (
        "answer 1 is not one",
        lambda told: told | {"answers": [told["answers"][0] | {"question": ["look"]}]},
    ),
    "twice": ("has answered that already", lambda told: told | {"answers": told["answers"] * 2}),
    "too large": ("is too large", lambda told: told | {"rater": "x" * 3_000_000}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_file_that_is_no_answer_is_refused_in_a_sentence(kind: str, page: str, plan: Plan, run_dir: Path) -> None:
    sentence, spoil = MALFORMED[kind]
    told = spoil(answers(run_dir, "Ann", {"0000-seed-0": True}))
    file = run_dir / "answers.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(ConfigError, match=sentence) as refusal:
        score(plan, run_dir, file)
    assert "\n" not in str(refusal.value)
    assert not (run_dir / "preferences.json").exists()


@pytest.mark.parametrize("counts", [(1, 2**63, 0), (2, 1, 0), (-1, 1, 0), (1, 1, -1), (1, 50_001, 0)])
def test_counts_that_no_vote_can_have_given_are_refused(counts: tuple[int, int, int], tmp_path: Path) -> None:
    names = {"question": "look", "rater": "a", "preferred": "style", "to": "base"}
    row = names | dict(zip(("wins", "votes", "ties"), counts, strict=True))
    (tmp_path / "preferences.json").write_text(json.dumps([row]))
    with pytest.raises(FileError, match="more wins than votes, or more than 50000 votes"):
        load_preferences(tmp_path)


def test_answers_want_the_run_that_asked(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"holds no {KEY}"):
        score(plan, tmp_path, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_answers_given_in_a_browser_come_out_as_a_file(page: str, plan: Plan, run_dir: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with browser(str(CHROMIUM), tmp_path / "profile", downloads) as chromium:
        chromium.open(run_dir / PAGE)
        first = chromium.run("document.querySelector('.pair:not([hidden])').dataset.pair")
        for name in ("ArrowLeft", "ArrowDown", "ArrowRight"):
            chromium.key(name)
        chromium.run("new Promise((done) => setTimeout(done, 600))")
        assert chromium.run("document.querySelector('.pair:not([hidden])').dataset.pair") != first
        chromium.run("document.querySelector('#rater').value = 'Ann B'")
        chromium.run("document.querySelector('#save').click()")
        chromium.run("new Promise((done) => setTimeout(done, 600))")
        assert (chromium.requests(), chromium.complaints()) == ([], [])
    (file,) = downloads.glob("answers-Ann_B*.json")
    told = json.loads(file.read_text())
    pair = next(pair for pair in load_key(run_dir).pairs if pair.id == first)
    assert [answer["choice"] for answer in told["answers"]] == [pair.left.id, "same", pair.right.id]
    assert [answer["question"] for answer in told["answers"]] == ["look", "motion", "prompt"]
    score(plan, run_dir, file)
