"""Every page and every card shows what somebody typed, or what a file is called, as text and as nothing else."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PreviewConfig,
    StageConfig,
    StudyConfig,
    TrainConfig,
)
from cinelora.evaluation.blind_test import PREFERENCES, Preference, write_pairs
from cinelora.evaluation.clip_list import Plan, Prompt, clip_file, stages
from cinelora.evaluation.evaluation_report import write_report
from cinelora.evaluation.measure import REAL_CLIPS, Interval, Numbers, Row, save_numbers
from cinelora.families.wan21 import WAN21
from cinelora.footage import contact_sheet as footage
from cinelora.footage.build_dataset import Judged, Prepared, Wanted
from cinelora.footage.manifest import Manifest, Sample, Skipped, write_manifest
from cinelora.footage.shot_detection import About
from cinelora.footage.shot_filter import Shot
from cinelora.io.atomic import write_json
from cinelora.io.html.markdown import markdown
from cinelora.io.html.template import render
from cinelora.io.media import write_mp4
from cinelora.studies import results as study
from cinelora.studies.study_report import show
from cinelora.training.model_card import Record, card, diffusers_code

PLAIN = "quokka"
HOSTILE = (
    "@someone",
    "someone@example.com",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b",
    "](http://x)",
    "![x](http://x.y)",
    "see http://e.vil or www.e.vil",
    "`rm` ``` ~~~ $x$ **b** _i_ ~~s~~",
    "# heading",
    "- item",
    "1. item",
    "---",
    "===",
    "&lt; &copy; \\",
    "line\n\n# two\r\nthree\u2028four",
    "gpj\u202e.exe \u2066x\u2069 \u200b",
    "{{ 7 * 7 }} {% raw %}",
    "]]> --> <!--",
)


def shown(text: str) -> str:
    """What a reader sees of ``text`` on a card: one line, without what is not seen."""
    return " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())


# -- one of each -------------------------------------------------------------------------------------------------------


def prepared(name: str, folder: Path) -> tuple[Prepared, Manifest]:
    about = About(Fraction(24), (160, 240), Fraction(1), "pyav", name)
    shots = (
        Judged(f"{name}.mp4", "0" * 64, about, Shot(0, 24, measures={"dark": 0.5})),
        Judged(f"{name}.mp4", "0" * 64, about, Shot(24, 48, against=("dark: 1",)), twin=f"{name}.mp4"),
        Judged(f"{name}.mp4", "0" * 64, about, Shot(48, 72, against_motion=("shaken: 2",)), short=name),
    )
    sample = Sample("a", f"{name}.mp4", "0" * 64, (0,), name, "train", "still")
    found = Prepared(folder / "films", folder / "prepared", (), shots, (Skipped(f"{name}.mov", name),))
    return found, Manifest((sample,), ())


def dataset_card(name: str, folder: Path) -> str:
    data = DataConfig(name="folder", root="/nowhere", trigger=name)
    return footage.card(*prepared(name, folder), data, Wanted(17, 16, (160, 240), WAN21.geometry, 0))


def contact_sheet(name: str, folder: Path) -> str:
    return footage.sheet(*prepared(name, folder))


def plan_of(name: str) -> Plan:
    return Plan([Prompt(name, name, "real/0000.mp4")], [0], stages(["style"]), 16, ["real/0000.mp4"], ["style"])


def evaluation_report(name: str, folder: Path) -> str:
    plan = plan_of(name)
    config = EvaluateConfig(model=ModelConfig(name=name), data=DataConfig(name=name), ckpt=f"runs/{name}")
    rows = [Row(name, None, variant, Interval(1, 0.5, 2, 3)) for variant in (REAL_CLIPS, *plan.names())]
    facts: dict[str, Any] = {"settings": asdict(config), "sources": {name: name}, "seconds": {}, "hardware": {}}
    save_numbers(Numbers(rows, sentences=[name], networks=[name]), folder, facts)
    write_json(folder / PREFERENCES, [asdict(Preference("look", name, "style", "base", 1, 2, 0))])
    return write_report(plan, folder).read_text()


def blind_test(name: str, folder: Path) -> str:
    plan = plan_of(name)
    for number, file in enumerate(clip_file(folder, take, one) for take in plan.takes() for one in plan.names()):
        write_mp4(file, np.full((2, 32, 32, 3), 60 * number, np.uint8), plan.fps)
    written = write_pairs(plan, folder)
    assert written is not None
    return written.read_text()


def study_report(name: str, folder: Path) -> str:
    rows = [
        study.Result(
            str(n),
            name,
            {"cache": name},
            {"clip": name, "model": name},
            {"device": name},
            {"denoise": n},
            step_s=n,
            numbers={"psnr": n},
        )
        for n in (1.0, 2.0)
    ]
    show(study.Results(rows, [name]), StudyConfig(ckpt=f"runs/{name}"), folder)
    return (folder / "study.html").read_text()


def record(name: str, folder: Path) -> Record:
    run = RunDirectory(folder)
    write_manifest(run.manifest, Manifest((Sample("a", "a.mp4", "0" * 64, (0,), name, "train", "still"),), ()))
    run.adapter("style").touch()
    run.previews.mkdir(exist_ok=True)
    (run.previews / "step-00000002.png").touch()
    config = TrainConfig(
        stage=StageConfig(name="style", num_frames=1),
        model=ModelConfig(name=name, t2v="owner/base_1"),
        data=DataConfig(name=name, look=name, trigger=name),
        preview=PreviewConfig(prompt=name),
    )
    facts = {"step": 2, "steps": 9, "heldout_step": 2, "heldout_loss": 1.0, "prediction_effect": 0.0}
    early = {"name": name, "step": 1, "best": 0.5, "since": 3}
    summary = facts | {"adapter_effect": 0, "weights": "random", "interrupted": True, "stopped_early": early}
    clips = {"heldout_clips": {name: 1.0}, "data_hash": "0" * 12, "stage": "style"}
    return Record(run, config, summary | clips)


def model_card(name: str, folder: Path) -> str:
    return card(record(name, folder), "owner/name")


Made = Callable[[str, Path], str]
PAGES: tuple[Made, ...] = (contact_sheet, evaluation_report, blind_test, study_report)
CARDS: tuple[Made, ...] = (dataset_card, model_card)


# -- pages -------------------------------------------------------------------------------------------------------------


class Skeleton(HTMLParser):
    """The tags of a page with the names of their attributes; the words that it shows, and the values of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.words += [value for name, value in attrs if value and not value.startswith("data:")]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("made", PAGES, ids=lambda made: made.__name__)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_has_the_same_tags_whatever_anything_is_called(made: Made, name: str, tmp_path: Path) -> None:
    page = made(name, tmp_path)
    found, plain = Skeleton(page), Skeleton(made(PLAIN, tmp_path))
    assert found.tags == plain.tags
    assert found.words.count(name) == plain.words.count(PLAIN) > 0
    assert "default-src 'none'" in page
    assert "<script>alert" not in page


def test_a_name_that_turns_text_around_turns_nothing_beside_it(tmp_path: Path) -> None:
    name = "gpj\u202e.exe"
    assert f"<bdi>{name}.mp4</bdi> <small>" in contact_sheet(name, tmp_path)
    assert f"<bdi>{name}</bdi> <span" in evaluation_report(name, tmp_path)


def test_a_carriage_return_in_a_name_is_still_one_in_a_browser(tmp_path: Path) -> None:
    assert 'data-shot="a&#13;.mp4@0-24"' in contact_sheet("a\r", tmp_path)


# -- cards -------------------------------------------------------------------------------------------------------------


def prose(made: str) -> str:
    """A card without its front matter, which is YAML, and without what its fences hold, which is code."""
    return re.sub(r"^(`{3,})\w+\n.*?\n\1$", r"\1\n\1", made.split("\n---\n", 1)[1], flags=re.S | re.M)


def parsed(text: str) -> tuple[list[str], str]:
    """The kinds of a card's parts as a Markdown parser finds them, and what a reader sees; empty comments are neither."""
    kinds, words = [], []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        for part in [token, *(token.children or [])]:
            if part.type in ("text", "text_special", "code_inline", "fence"):
                words.append(part.content)
            elif part.type == "html_inline" and part.content == "<!-- -->":
                continue
            if part.type not in ("text", "text_special"):
                kinds.append(part.type)
    return kinds, "".join(words)


@pytest.mark.parametrize("made", CARDS, ids=lambda made: made.__name__)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_card_has_the_same_parts_whatever_anything_is_called(made: Made, name: str, tmp_path: Path) -> None:
    text, plain = made(name, tmp_path), made(PLAIN, tmp_path)
    (kinds, words), (plain_kinds, plain_words) = parsed(prose(text)), parsed(prose(plain))
    assert kinds == plain_kinds
    assert words.count(shown(name)) >= plain_words.count(PLAIN) > 0
    assert not re.search(r"@\w|(?<!\\)://e\.vil|www\.e|[\u200b-\u206f]", prose(text))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front.keys() == yaml.safe_load(plain.split("---\n")[1]).keys()


@pytest.mark.parametrize("form", ["{}", "# {}", "- {}", "| {} |\n|---|\n| {} |", "[{}](http://here)", "**{}**"])
@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_a_value_as_it_is_wherever_it_stands(form: str, name: str) -> None:
    kinds, words = parsed(form.replace("{}", markdown(name)))
    plain_kinds, plain_words = parsed(form.replace("{}", PLAIN))
    assert kinds == plain_kinds
    assert words == plain_words.replace(PLAIN, shown(name))


@pytest.mark.parametrize("value", ["-1.5%", "+0.3%", "3.5", "1.2.3", "a-b", "5 of 9", "2:30"])
def test_numbers_and_plain_words_need_no_escape(value: str) -> None:
    assert markdown(value) == value


@pytest.mark.parametrize("name", HOSTILE)
def test_the_code_on_a_card_holds_a_prompt_as_a_string(name: str, tmp_path: Path) -> None:
    code = ast.parse(diffusers_code(record(name, tmp_path), "owner/name"))
    constants = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}
    assert record(name, tmp_path).prompt in constants


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_template_that_lacks_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'machines' is undefined"):
        render("study_report.html.j2", title="a", about="b", sentences=[], plots=[], head=[], rows=[])


def test_what_a_page_runs_is_what_its_policy_names(tmp_path: Path) -> None:
    page = contact_sheet(PLAIN, tmp_path)
    policy = html.unescape(re.search('content="(default-src.*?)"', page)[1])  # type: ignore[index]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
