"""Previews where nobody says how often: as far as they are estimated to take 5 % of the run, and off elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cinelora.cli.compose import compose_train
from cinelora.config.schema import USUAL_STEPS, TrainConfig
from cinelora.planning.previews import (
    APART_S,
    FEWER_STEPS,
    MOST,
    SHORTEST,
    planned_previews,
    preview_seconds,
    training_seconds,
)


def run(*words: str) -> TrainConfig:
    stage = () if any(word.startswith("stage=") for word in words) else ("stage=motion",)
    return compose_train([*stage, "data=folder", "data.root=clips", *words])


LARGE = [
    ("model=wan21_14b_480p",),
    ("model=wan21_14b_720p", "stage.batch_size=1"),
    ("model=wan21_1_3b",),
    ("model=wan21_14b_480p", "stage=style", "stage.steps=600"),
    ("model=wan21_14b_480p", "preview.seeds=8"),
    ("model=wan21_14b_480p", "stage.steps=90", "preview.sampler_steps=4"),
    ("model=wan21_14b_480p", "stage.steps=90", "preview.num_frames=17"),
]


@pytest.mark.parametrize("words", LARGE)
def test_previews_that_nobody_asked_for_stay_below_their_share(words: tuple[str, ...]) -> None:
    config = run(*words)
    preview, line = planned_previews(config, has_gpu=True)
    assert preview.every_steps
    count = config.stage.steps // preview.every_steps
    share = (count + 1) * preview_seconds(config) / training_seconds(config)
    assert 1 <= count <= max(1, config.stage.steps // 250)
    assert share <= MOST
    frames = preview.frames_of(config.stage)
    drawn = f"{frames} frame{'' if frames == 1 else 's'} in {preview.steps} denoising steps"
    assert line.startswith(
        f"previews every {preview.every_steps} steps, {drawn}, an estimated {share:.1%} of the run's time; "
    )
    assert replace(preview, every_steps=None) == config.preview


def test_where_one_preview_is_too_dear_it_is_drawn_in_fewer_steps_unless_these_were_typed() -> None:
    words = ("model=wan21_14b_480p", "stage.batch_size=1")
    whole = "preview.num_frames=33"
    base = run(*words, whole)
    lengths = ((n, replace(base, stage=replace(base.stage, steps=n))) for n in range(20, 500))
    steps = next(n for n, config in lengths if planned_previews(config, True)[0].every_steps)
    short = run(*words, f"stage.steps={steps}")
    preview, line = planned_previews(short, has_gpu=True)
    assert preview == replace(short.preview, every_steps=steps, sampler_steps=FEWER_STEPS)
    share = 2 * preview_seconds(replace(short, preview=preview)) / training_seconds(short)
    assert share <= MOST < 2 * preview_seconds(short) / training_seconds(short)
    assert line.startswith(
        f"previews every {steps} steps, 33 frames in {FEWER_STEPS} denoising steps, an estimated {share:.1%} "
    )
    typed = run(*words, whole, f"stage.steps={steps}", f"preview.sampler_steps={USUAL_STEPS}")
    assert planned_previews(typed, has_gpu=True)[0] == replace(typed.preview, every_steps=0)


def test_where_fewer_steps_are_still_too_dear_it_is_as_long_as_can_be() -> None:
    words, found = ("model=wan21_14b_480p", "stage.batch_size=1"), set[int]()
    for steps in range(20, 90):
        config = run(*words, f"stage.steps={steps}")
        preview, _ = planned_previews(config, has_gpu=True)
        if preview.num_frames is None:
            continue
        assert preview == replace(
            config.preview, every_steps=steps, sampler_steps=FEWER_STEPS, num_frames=preview.num_frames
        )
        shares = []
        for frames in (preview.num_frames, preview.num_frames + 4):
            drawn = replace(config, preview=replace(preview, num_frames=frames))
            shares.append(2 * preview_seconds(drawn) / training_seconds(config))
        assert shares[0] <= MOST < shares[1], steps
        found.add(preview.num_frames)
    assert min(found) == SHORTEST
    assert max(found) < config.stage.num_frames
    stills = run("model=wan21_14b_480p", "stage=style", "stage.steps=5")
    assert planned_previews(stills, has_gpu=True)[0] == replace(stills.preview, every_steps=0)


def test_a_run_that_is_too_short_has_none_and_says_so() -> None:
    config = run("model=wan21_14b_480p", "stage.steps=20", "stage.batch_size=1")
    preview, line = planned_previews(config, has_gpu=True)
    assert preview.every_steps == 0
    fewer = replace(config, preview=replace(config.preview, sampler_steps=FEWER_STEPS, num_frames=SHORTEST))
    share = 2 * preview_seconds(fewer) / training_seconds(config)
    assert line.startswith(
        f"no previews: the first one, with the base model's, would take an estimated {share:.1%} of the run's"
    )
    assert share > MOST


@pytest.mark.parametrize(
    ("words", "has_gpu", "heldout", "why"),
    [
        (("model=tiny",), True, 1, "for a model this small"),
        (("model=wan21_14b_480p",), False, 1, "without a GPU"),
        (("model=wan21_14b_480p",), True, 0, "there are none"),
        (("model=wan21_14b_480p", "strategy=zero3"), True, 1, "no rank can generate one alone"),
    ],
)
def test_why_there_are_none_is_said(words: tuple[str, ...], has_gpu: bool, heldout: int, why: str) -> None:
    preview, line = planned_previews(run(*words), has_gpu, heldout)
    assert preview.every_steps == 0
    assert line.startswith("no previews: ")
    assert why in line


@pytest.mark.parametrize("every", [0, 1, 250])
def test_what_is_typed_is_obeyed_without_a_word(every: int) -> None:
    config = run("model=wan21_14b_480p", f"preview.every_steps={every}")
    assert planned_previews(config, has_gpu=False, heldout=0) == (config.preview, "")


def test_what_a_preview_costs_grows_with_seeds_and_steps() -> None:
    one, more, longer = (
        preview_seconds(run("model=wan21_14b_480p", *words)) - APART_S
        for words in ((), ("preview.seeds=3",), ("preview.sampler_steps=16",))
    )
    assert more == pytest.approx(3 * one)
    assert one < longer < 2 * one, "text and decoding do not take longer"
