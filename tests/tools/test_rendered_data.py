"""Samples without a folder."""

import torch

from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import describe, describe_in_part, draw_scene
from tools.scale_model.rendered import FIRST_SEED, render_sample, rendered_manifest


def test_every_seed_is_a_sample_with_its_true_caption():
    manifest = rendered_manifest("daylight", 3, 2, 9, 16)
    assert [sample.split for sample in manifest.samples] == ["train"] * 3 + ["heldout"] * 2
    assert len({sample.file_hash for sample in manifest.samples}) == 5
    for number, sample in enumerate(manifest.samples):
        assert sample.caption == describe(draw_scene(FIRST_SEED + number), "daylight")
        assert sample.frames == tuple(range(9))
    other = rendered_manifest("noir", 3, 2, 9, 16)
    assert not {s.file_hash for s in manifest.samples} & {s.file_hash for s in other.samples}


def test_every_second_clip_to_train_on_may_be_described_in_part():
    samples = rendered_manifest("daylight", 4, 2, 9, 16, in_part=True).samples
    for number, sample in enumerate(samples):
        scene = draw_scene(FIRST_SEED + number)
        part = number in (1, 3)
        assert sample.caption == (describe_in_part(scene, "daylight", 1) if part else describe(scene, "daylight"))
    whole = rendered_manifest("daylight", 4, 2, 9, 16).samples
    assert [s.file_hash for s in samples] == [s.file_hash for s in whole]


def test_pixels_are_the_renderers_without_grain():
    sample = rendered_manifest("noir", 1, 0, 2, 16).samples[0]
    video = render_sample(sample, 32, 48, 16, torch.device("cpu"))
    assert torch.equal(video, render_scene(draw_scene(FIRST_SEED), "noir", 2, 32, 48, 16, grain=False))
