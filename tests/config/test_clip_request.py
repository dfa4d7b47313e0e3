"""What takes part in a clip and what decides it: one request that planning, checks, ranks, studies and evaluations ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from cinelora.config.clip_request import ClipRequest, Take, prompts_of, read_prompts, seeds_of
from cinelora.config.schema import EvaluateConfig, InferConfig, ModelConfig, ScaleConfig, StudyConfig
from cinelora.errors import ConfigError
from cinelora.io.atomic import write_json

MODEL = ModelConfig(name="tiny", num_frames=33)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, [("t2v", 1), ("i2v", 33)]),
        ({"num_frames": 5}, [("t2v", 1), ("i2v", 5)]),
        ({"image": "mine.png"}, [("i2v", 33)]),
        ({"mode": "t2v", "num_frames": 1}, [("t2v", 1)]),
    ],
)
def test_the_transformers_take_part_in_their_order_and_the_first_reads_the_prompts(
    settings: dict[str, object], passes: list[tuple[str, int]]
) -> None:
    request = ClipRequest(InferConfig(model=MODEL, **settings))  # type: ignore[arg-type]
    assert request.passes == passes
    assert request.transformers == tuple(kind for kind, _ in passes)
    assert (request.prompt_reader, request.clip_maker) == (passes[0][0], passes[-1][0])
    assert request.makes_keyframe == (len(passes) == 2)


def test_studies_and_evaluations_ask_for_clips_in_the_same_way() -> None:
    for schema in (StudyConfig, EvaluateConfig):
        assert ClipRequest.of(schema(model=MODEL, mode="t2v")).passes == [("t2v", 33)]
        assert ClipRequest.of(schema(model=MODEL, num_frames=9)).passes == [("t2v", 1), ("i2v", 9)]


def test_each_transformer_has_the_scales_of_what_it_makes() -> None:
    scale, both = ScaleConfig(keyframe=0.1, style=0.2, motion=0.3), ("style", "motion")
    scene, straight = (ClipRequest(InferConfig(mode=mode)) for mode in ("scene", "t2v"))
    assert scene.scales_on("t2v", scale, both) == {"style": 0.1}, "a still has no motion"
    assert scene.scales_on("i2v", scale, both) == {"style": 0.2, "motion": 0.3}
    assert straight.scales_on("t2v", scale, both) == {"style": 0.1, "motion": 0.3}
    assert scene.scales_on("i2v", scale, ["style"]) == {"style": 0.2}
    assert scene.scales_on("i2v", ScaleConfig(style=0.0), both) == {"motion": 1.0}, "at 0 an adapter does not act"


def test_a_file_of_prompts_is_read_in_one_way(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffone, two\n \nthree = 3\n", encoding="utf-8")
    assert read_prompts(str(file)) == {1: "one, two", 3: "three = 3"}
    config = InferConfig(prompts=str(file), seed=4)
    assert prompts_of(config) == ["one, two", "three = 3"]
    assert ClipRequest(config).takes(tmp_path) == [
        Take("one, two", 4, tmp_path / "0000"),
        Take("three = 3", 4, tmp_path / "0001"),
    ]
    assert ClipRequest(InferConfig(prompt="rain")).takes(tmp_path) == [Take("rain", 0, tmp_path)]
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_prompts(str(file))
    assert seeds_of(StudyConfig(seed=3, seeds=2)) == [3, 4]


def test_comments_in_a_file_of_prompts_are_none_of_its_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# the first act\nrain # and fog\n  #snow\n\\#1 hit\n \\# \\# two\n", encoding="utf-8")
    assert read_prompts(str(file)) == {2: "rain # and fog", 4: "#1 hit", 5: " # \\# two"}
    for content, words in (("# alone\n\n", r"holds comments \(#\) alone"), ("\n", "is empty")):
        file.write_text(content)
        with pytest.raises(ConfigError, match=f"{words}: it wants one prompt a line"):
            read_prompts(str(file))


def test_a_clip_of_an_earlier_version_is_known_by_the_names_it_was_stored_under(tmp_path: Path) -> None:
    request = ClipRequest(InferConfig(model=MODEL, scale=ScaleConfig(motion=0.5)))
    take = Take("rain", 0, tmp_path)
    stored = request.deciding(take)
    assert stored["weights"] == {"keyframe": 1.0, "style": 1.0, "motion": 0.5}
    assert "scale" not in stored
    assert not take.is_done(request)
    write_json(tmp_path / "summary.json", {"settings": stored, "sources": {}})
    assert take.is_done(request)
    assert not Take("snow", 0, tmp_path).is_done(request)


def test_what_changes_no_clip_decides_none(tmp_path: Path) -> None:
    take, one = Take("rain", 0, tmp_path), InferConfig(model=MODEL)
    other = InferConfig(model=MODEL, gpus=8, out="elsewhere", cache="elsewhere", prompts="many.txt")
    other.sampler.ring, other.memory.swap = 2, 1.0
    assert ClipRequest(one).deciding(take) == ClipRequest(other).deciding(take)
    made = {ClipRequest(one, sources=sources).made_of(take, "base", one.scale) for sources in ({}, {"style": "ab"})}
    assert len(made) == 2, "another adapter makes another clip"
