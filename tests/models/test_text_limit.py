"""Texts that the text encoder does not read to their end: said, or refused where every sample would lose the same.

The embedded model's tokenizer counts bytes and one for the end, and its encoder reads 512 tokens as Wan's does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.clip_request import ClipRequest, Take
from cinelora.config.schema import InferConfig, ModelConfig, PrepareConfig, PreviewConfig, ScaleConfig, TrainConfig
from cinelora.errors import ConfigError
from cinelora.families.family import Part
from cinelora.families.text_limit import Lost, may_be_long
from cinelora.families.wan.bundle import WanBundle
from cinelora.parallel.launch import rank_info
from cinelora.parallel.partition import Partition
from cinelora.prepare import lost_of_captions
from cinelora.prepare import run as prepare
from cinelora.sampling.sampler import Sampling
from cinelora.sampling.scene import TakeMaker
from cinelora.training.encode import encode_rank

LONG = "rain " * 101 + "neverread in the night"  # 505 characters, then a word of which 6 letters are read

LENGTHS = (
    ("a" * 511, None),
    ("a" * 512, Lost(513, "a", 512)),
    ("é" * 256, Lost(513, "é", 512)),
    (LONG, Lost(528, "neverread in the night", 512)),
    ("&amp;" * 400 + " x", None),
    ("夜" * 171, Lost(514, "夜", 512)),
    ("rain " * 102 + "ab", Lost(513, "ab", 512)),
    ("rain " * 102 + "a the end", Lost(520, "the end", 512)),
    ("x " + "y" * 600, Lost(603, "y" * 40, 512)),
)


@pytest.mark.parametrize(("text", "lost"), LENGTHS)
def test_what_is_lost_of_a_text_is_what_the_encoder_does_not_see(text: str, lost: Lost | None, t2v: WanBundle) -> None:
    assert t2v.lost([text]) == ({} if lost is None else {text: lost})


def test_words_that_are_lost_change_nothing_and_those_before_them_do(t2v: WanBundle) -> None:
    with t2v.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        whole, other_end, other_middle = t2v.encode_text(
            [LONG, LONG[:-5] + "mrning", LONG.replace("rain never", "snow never")]
        )
    assert torch.equal(whole, other_end)
    assert not torch.equal(whole, other_middle)


def test_a_text_is_short_without_a_tokenizer_only_where_none_could_make_it_long() -> None:
    assert not may_be_long("a" * 510, 512)
    assert may_be_long("a" * 511, 512)
    assert may_be_long("\ufdfa" * 30, 512), "one character that some tokenizers spell out in 18"


def with_captions(config: TrainConfig, folder: Path, **data: object) -> TrainConfig:
    """The style run's settings with what is given, in a prepared folder of its own."""
    return replace(config, data=replace(config.data, prepared=str(folder / "prepared"), **data))


def test_training_says_in_one_line_how_many_samples_lose_their_end(
    style_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_captions(style_config, tmp_path, caption=LONG, stills_per_shot=1)
    encode_rank(
        replace(config, preview=PreviewConfig(every_steps=4, prompt=f"x{LONG}")), RunDirectory(tmp_path / "run")
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "tokens" in line]
    assert lines == [
        "WARNING: 6 of 6 captions are longer than the 512 tokens that the text encoder reads; of the first, with 528, "
        'everything from "neverread in the night" on is ignored',
        "WARNING: the preview's prompt has 529 tokens and the text encoder reads 512: everything from "
        '"neverread in the night" on is ignored',
    ]


def test_a_look_that_would_be_cut_is_refused_before_anything_is_read_or_encoded(
    style_config: TrainConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    for key in ("trigger", "description"):
        with pytest.raises(
            ConfigError,
            match=rf"data\.{key} has 528 tokens .* from \"neverread in the night\" on would be ignored in every sample",
        ):
            encode_rank(with_captions(style_config, tmp_path, **{key: LONG}), run)
    assert not (tmp_path / "prepared").exists()
    config = with_captions(style_config, tmp_path, caption="rain " * 90, description="hard light " * 6)
    with pytest.raises(
        ConfigError, match=r"data\.description would be cut in 12 of 12 samples: the .* has 51\d; shorten"
    ):
        encode_rank(config, run)
    assert not run.dataset.exists()


def test_a_run_that_an_earlier_version_began_with_such_a_look_resumes(
    style_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = with_captions(style_config, tmp_path, description=LONG), RunDirectory(tmp_path / "run")
    with monkeypatch.context() as earlier:
        earlier.setattr(WanBundle, "lost", lambda *_: {})
        encode_rank(config, run)
    before = run.dataset.read_bytes()
    encode_rank(replace(config, resume=str(run.path)), run)
    assert run.dataset.read_bytes() == before


def planned(prompts: list[str], model: ModelConfig, cache: Path, **settings: object) -> TakeMaker:
    config = InferConfig(model=model, mode="t2v", cache=str(cache), **settings)
    rank = rank_info()
    maker = TakeMaker.on_this_rank(ClipRequest(config), {}, Sampling(model, config.sampler, Partition(1, 1, 1), rank))
    maker.planned([Take(prompt, 0, Path()) for prompt in prompts], {"adapted": ScaleConfig()})
    return maker


def test_prompts_that_are_cut_are_said_before_they_are_encoded(
    small_model: ModelConfig, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned([LONG], small_model, cache, negative_prompt=f"y{LONG}")
    assert capsys.readouterr().out.splitlines() == [
        f"WARNING: the {what} has {tokens} tokens and the text encoder reads 512: "
        'everything from "neverread in the night" on is ignored'
        for what, tokens in (("prompt", 528), ("negative prompt", 529))
    ]
    planned(["rain", LONG, "snow"], small_model, cache)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("WARNING: 1 of 3 prompts are longer than the 512 tokens")


def test_prepared_captions_are_counted_where_the_tokenizer_is_on_this_machine(
    style_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_captions(style_config, tmp_path, caption=LONG).data
    config = PrepareConfig(model=style_config.model, data=data, num_frames=9, workers=0)
    prepare(config, Path())
    line = "captions are longer than the 512 tokens that the text encoder reads; of the first, with 528"
    assert capsys.readouterr().out.count(line) == 1
    with pytest.raises(ConfigError, match=r"data\.description would be cut in \d+ of"):
        prepare(replace(config, data=replace(data, description="x")), Path())
    hub = replace(config, model=replace(config.model, t2v="owner/nowhere"))
    assert lost_of_captions(hub, [LONG, "short", None]) == {}
    assert "some texts (1) may be longer than the text encoder reads" in capsys.readouterr().out
