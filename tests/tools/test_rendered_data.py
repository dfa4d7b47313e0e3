"""Samples without a folder."""

import torch

from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import describe, draw_scene
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


def test_pixels_are_the_renderers_without_grain():
    sample = rendered_manifest("noir", 1, 0, 2, 16).samples[0]
    video = render_sample(sample, 32, 48, 16, torch.device("cpu"))
    assert torch.equal(video, render_scene(draw_scene(FIRST_SEED), "noir", 2, 32, 48, 16, grain=False))
