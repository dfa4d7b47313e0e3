"""What a word of ``adapters=`` can say: a table, and the order that words are kept in."""

import pytest

from cinelora.config.adapter_words import AdapterWord, in_order
from cinelora.config.clip_facts import clip_hash
from cinelora.config.schema import InferConfig
from cinelora.config.store import anchored
from cinelora.errors import ConfigError

WORDS = {
    "style.safetensors": ("style.safetensors", 1.0, None),
    "style.safetensors@0.8": ("style.safetensors", 0.8, None),
    "style.safetensors@-.5:clip": ("style.safetensors", -0.5, "clip"),
    "style.safetensors:keyframe": ("style.safetensors", 1.0, "keyframe"),
    "C:/my@2x/a:b.safetensors@1e-1": ("C:/my@2x/a:b.safetensors", 0.1, None),
    "hub:owner/name@0.5": ("hub:owner/name", 0.5, None),
    "hub:owner/name/deep/a.safetensors@main@-1": ("hub:owner/name/deep/a.safetensors@main", -1.0, None),
    "hub:owner/name@main": ("hub:owner/name@main", 1.0, None),
    "hub:owner/name@1.0@2:clip": ("hub:owner/name@1.0", 2.0, "clip"),
    "run@2@1": ("run@2", 1.0, None),
    "two\nlines@0": ("two\nlines", 0.0, None),
}


@pytest.mark.parametrize("text", WORDS)
def test_the_last_number_after_an_at_sign_is_the_scale(text: str):
    word = AdapterWord.of(text)
    assert (word.source, word.scale, word.part) == WORDS[text]
    assert AdapterWord.of(str(word)) == word


@pytest.mark.parametrize("text", ["a@nan", "a@-inf:clip", "a@1e38", "a@10.5", "@0.5", "", ":clip"])
def test_no_scale_and_no_source_are_refused_with_the_word(text: str):
    with pytest.raises(ConfigError) as refused:
        AdapterWord.of(text)
    assert f"adapters=[{text}]" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_words_are_kept_in_one_order_and_from_any_directory(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["b@0.5", "embedded:distilled", "a:clip"]
    kept = [in_order(map(AdapterWord.of, order)) for order in (words, words[::-1])]
    assert kept[0] == kept[1]
    config = anchored(InferConfig(adapters=kept[0]))
    assert config.adapters == [f"{tmp_path}/a@1.0:clip", f"{tmp_path}/b@0.5", "embedded:distilled@1.0"]


def test_a_clip_without_any_is_the_clip_it_was():
    config = InferConfig(prompts="p.txt")
    assert clip_hash(config) == clip_hash(InferConfig(prompts="p.txt", adapters=[]))
    assert clip_hash(config) != clip_hash(InferConfig(prompts="p.txt", adapters=["a@1.0"]))
