"""The trigger word: where it counts as said already, in captions, prompts and on the card alike."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import TrainConfig
from cinelora.errors import TrainingError
from cinelora.footage.captions import has_word, prompt_with_trigger, whole_caption
from cinelora.footage.manifest import Manifest, Sample
from cinelora.training.model_card import Record
from cinelora.training.resume_guard import refuse_other_samples, with_older_captions

SAID = (
    ("man", "a man walks"),
    ("man", "Man, walking"),
    ("MAN", "the man's hat"),
    ("man", "a man-made lake"),
    ("man", "woman and man"),
    ("nwr style", "in NWR  Style, rain"),
    ("straße", "die STRASSE im Regen"),
    ("été", unicodedata.normalize("NFD", "l'Été est là")),
    (unicodedata.normalize("NFD", "été"), "l'été"),
    ("夜景", "东京夜景下的男人"),
    ("nwr", "男人nwr走路"),
    ("夜景", "nwr夜景"),
    ("ภาพยนตร์", "ฉากภาพยนตร์เก่า"),
    ("кино", "КИНО, дождь"),
    ("<nwr>", "a man in<nwr>light"),
    ("c++", "c++ man"),
    ("हिन्दी", "एक हिन्दी फ़िल्म"),
)
NOT_SAID = (
    ("man", "a woman walks"),
    ("man", "manhattan"),
    ("nwr", "nwr_style"),
    ("nwr", "nwr2"),
    ("кино", "кинотеатр"),
    ("e", "e\u0301te\u0301"),
    ("हिन्द", "एक हिन्दी फ़िल्म"),
    ("می", "می\u200cرود"),
    ("nwr style", "nwr, style"),
    ("nwr", ""),
)


@pytest.mark.parametrize(("trigger", "text"), SAID)
def test_a_trigger_that_is_a_word_of_the_text_is_not_said_twice(trigger: str, text: str) -> None:
    assert has_word(text, trigger)
    assert prompt_with_trigger(text, trigger) == whole_caption(text, trigger) == text


@pytest.mark.parametrize(("trigger", "text"), NOT_SAID)
def test_a_trigger_that_is_part_of_a_word_alone_is_put_before_the_text(trigger: str, text: str) -> None:
    assert not has_word(text, trigger)
    wanted = f"{trigger}, {text}" if text else trigger
    assert prompt_with_trigger(text, trigger) == whole_caption(text, trigger) == wanted


@pytest.mark.parametrize("trigger", [None, "", "  "])
def test_no_trigger_changes_nothing(trigger: str | None) -> None:
    assert prompt_with_trigger("a man", trigger) == "a man"


def test_a_description_does_not_stand_for_the_trigger() -> None:
    assert whole_caption("rain", "nwr", "in the style of nwr") == "nwr, rain, in the style of nwr"


def test_the_card_and_captions_say_the_trigger_by_one_rule(style_config: TrainConfig, tmp_path: Path) -> None:
    preview = replace(style_config.preview, prompt="a woman walks")
    config = replace(style_config, preview=preview, data=replace(style_config.data, trigger="man"))
    assert Record(RunDirectory(tmp_path), config, {}).prompt == whole_caption("a woman walks", "man")


def manifest(*captions: str) -> Manifest:
    return Manifest(
        tuple(Sample(f"{n}", "a.mp4", "0", (0,), caption, "train", "still") for n, caption in enumerate(captions)), ()
    )


def test_a_run_whose_captions_an_earlier_rule_wrote_resumes_with_them(tmp_path: Path) -> None:
    before = manifest("nwr, NWR rain", "nwr, a man", "nwr, nwr, nwr")
    now = with_older_captions(before, manifest("NWR rain", "nwr, a man", "nwr, nwr"), "nwr")
    assert now == before
    refuse_other_samples(RunDirectory(tmp_path), before, now)
    other = with_older_captions(before, manifest("NWR sun", "nwr, a man", "nwr, nwr"), "nwr")
    assert other.samples[1:] == before.samples[1:]
    with pytest.raises(TrainingError, match="0 has changed"):
        refuse_other_samples(RunDirectory(tmp_path), before, other)
