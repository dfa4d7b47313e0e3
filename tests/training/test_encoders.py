"""The loops behind the embedded encoders, in miniature."""

from pathlib import Path

import pytest
import torch
from transformers import ByT5Tokenizer

from cinelora.footage.render.scenes import describe, draw_scene
from cinelora.models.tiny import new_encoders
from cinelora.training import encoders
from cinelora.training.encoders import Budget, contrastive_loss, labels_of, reconstruction_loss, to_bytes


@pytest.fixture(scope="module")
def film() -> encoders.Film:
    return encoders.render_film(range(66), ["daylight", "noir"], (5, 32, 48), torch.device("cpu"), workers=0)


def test_bytes_are_the_tokenizers():
    captions = [describe(draw_scene(seed), "daylight") for seed in range(40)]
    theirs = ByT5Tokenizer()(captions, padding="max_length", max_length=encoders.CAPTION_BYTES, return_tensors="pt")
    assert torch.equal(to_bytes(captions), theirs.input_ids)


def test_every_caption_fits():
    assert max(len(describe(draw_scene(seed), "daylight").encode()) for seed in range(3000)) < encoders.CAPTION_BYTES


def test_a_vae_learns_and_is_given_the_statistics_of_its_latents(film: encoders.Film):
    vae = new_encoders(0).vae
    before = encoders.reconstruction_psnr(vae, film)
    encoders.train_vae(vae, film, Budget(steps=60, batch=4), rate=2e-3)
    after = encoders.reconstruction_psnr(vae, film)
    assert all(after[look] > before[look] + 1 for look in before)
    assert min(vae.config.latents_std) > 0
    assert vae.config.latents_std != [1.0] * 16


def test_text_and_image_encoder_are_read(film: encoders.Film, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders, "CAPTIONS", 64)
    small = new_encoders(0)
    found = encoders.train_text_and_image(small, film, Budget(steps=2, batch=8))
    assert {"match", "text/coat", "image/coat", "text/camera"} <= found.keys()
    assert all(0 <= share <= 1 for name, share in found.items() if name != "steps")


def test_what_cannot_be_seen_is_not_asked():
    scenes = [draw_scene(0, place="street", car=None), draw_scene(0, place="street", car="red", coat="blue")] * 2
    labels = labels_of(scenes, ["daylight", "daylight", "noir", "noir"], torch.device("cpu"))
    seen = {name: [number != encoders.UNSEEN for number in labels[name].tolist()] for name in labels}
    assert seen["car_direction"] == [False, True, False, True]
    assert seen["coat"] == seen["time"] == [True, True, False, False]
    assert seen["car"] == [True, True, True, False]
    assert all(seen["count"])


def test_losses_know_their_closed_forms():
    video = torch.rand(1, 3, 2, 4, 4)
    assert reconstruction_loss(video, video) == 0
    assert torch.allclose(reconstruction_loss(video + 0.5, video), torch.tensor(2.5))  # 0.5 + 8 * 0.25, no differences
    same = torch.eye(4)
    assert contrastive_loss(same, same) < 1e-4 < contrastive_loss(same, same.roll(1, 0))


def test_a_budget_of_seconds_gives_fewer_steps():
    assert Budget(steps=7, batch=1).steps_at(lambda: torch.zeros(())) == 7
    import time

    def slow() -> torch.Tensor:
        time.sleep(0.01)
        return torch.zeros(())

    assert 20 < Budget(steps=1000, batch=1, limit_s=1).steps_at(slow) <= 100


def test_film_drawn_by_other_processes_is_the_same(film: encoders.Film, tmp_path: Path):
    again = encoders.render_film(range(2), ["daylight", "noir"], (5, 32, 48), torch.device("cpu"), workers=1)
    assert torch.equal(again.clips_NTHWC, film.clips_NTHWC[:2])
