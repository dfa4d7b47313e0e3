"""The loops behind the embedded encoders, in miniature."""

import time
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from torchmetrics.functional.image import structural_similarity_index_measure
from transformers import ByT5Tokenizer

from tools.scale_model import optimise, rebuilding
from tools.scale_model import train_encoders as encoders
from tools.scale_model.attribute_readers import UNSEEN, labels_of
from tools.scale_model.build_pair import new_encoders
from tools.scale_model.optimise import Budget
from tools.scale_model.rebuilding import begin_simply, reconstruction_loss, structural_similarity
from tools.scale_model.render.scenes import describe, draw_scene
from tools.scale_model.train_encoders import contrastive_loss, to_bytes
from tools.scale_model.training_film import Cut, Film, render_film, to_range


@pytest.fixture(scope="module")
def film() -> Film:
    return render_film(range(66), ["daylight", "noir"], (5, 32, 48), encoders.FPS, torch.device("cpu"), workers=0)


def test_bytes_are_the_tokenizers():
    captions = [describe(draw_scene(seed), "daylight") for seed in range(40)]
    theirs = ByT5Tokenizer()(captions, padding="max_length", max_length=encoders.CAPTION_BYTES, return_tensors="pt")
    assert torch.equal(to_bytes(captions), theirs.input_ids)


def test_every_caption_fits():
    assert max(len(describe(draw_scene(seed), "daylight").encode()) for seed in range(3000)) < encoders.CAPTION_BYTES


@pytest.mark.long
def test_a_vae_learns_and_is_given_the_statistics_of_its_latents(film: Film, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimise, "WARM_UP", 5)
    film = Film(film.clips_NTHWC[:6], film.scenes[:6], film.looks[:6])
    vae = new_encoders(0).vae
    begin_simply(vae, WanResidualBlock)
    before = encoders.reconstruction_psnr(vae, film)
    encoders.train_vae(vae, film, Budget(steps=12, batch=2), rate=1e-3)
    after = encoders.reconstruction_psnr(vae, film)
    assert all(after[look] > before[look] + 1 for look in before)
    assert min(vae.config.latents_std) > 0
    assert vae.config.latents_std != [1.0] * 16


def test_text_and_image_encoder_are_read(film: Film, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders, "CAPTIONS", 64)
    small = new_encoders(0)
    found = encoders.train_text_and_image(small, film, Budget(steps=2, batch=8))
    assert {"match", "text/coat", "image/coat", "text/camera"} <= found.keys()
    assert all(0 <= share <= 1 for name, share in found.items() if name != "steps")


def test_what_cannot_be_seen_is_not_asked():
    scenes = [draw_scene(0, place="street", car=None), draw_scene(0, place="street", car="red", coat="blue")] * 2
    labels = labels_of(scenes, ["daylight", "daylight", "noir", "noir"], torch.device("cpu"))
    seen = {name: [number != UNSEEN for number in labels[name].tolist()] for name in labels}
    assert seen["car_direction"] == [False, True, False, True]
    assert seen["coat"] == seen["time"] == [True, True, False, False]
    assert seen["car"] == [True, True, True, False]
    assert all(seen["count"])


def test_losses_know_their_closed_forms():
    video = torch.rand(1, 3, 2, 4, 4)
    assert reconstruction_loss(video, video).abs() < 1e-5
    # 0.5 + 8 * 0.25, no differences; flat pictures have no structure, and their lightness is c1 / (0.5^2 + c1)
    flat, c1 = torch.zeros(1, 3, 2, 16, 4), 0.02**2
    expected = torch.tensor(2.5 + rebuilding.SSIM_WEIGHT * (1 - c1 / (0.25 + c1)))
    assert torch.allclose(reconstruction_loss(flat + 0.5, flat), expected)
    same = torch.eye(4)
    assert contrastive_loss(same, same) < 1e-4 < contrastive_loss(same, same.roll(1, 0))


@pytest.mark.parametrize("size", [(48, 64), (11, 30), (33, 12)])
def test_structural_similarity_is_the_published_one(size: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(3, 3, *size, generator=generator) * 2 - 1
    other = (one + 0.3 * torch.randn(one.shape, generator=generator)).clamp(-1, 1)
    _, theirs = structural_similarity_index_measure(other, one, data_range=2.0, return_full_image=True)
    inside = theirs[..., 5 : size[0] - 5, 5 : size[1] - 5].mean()  # their margin is of windows over mirrored pixels
    assert 0.3 < inside < 0.97
    assert torch.allclose(structural_similarity(other, one), inside, atol=1e-5)


@pytest.mark.parametrize("size", [(10, 40), (3, 5), (1, 1)])
def test_pictures_narrower_than_the_window_have_a_structure_too(size: tuple[int, int]):
    one, other = torch.rand(2, 2, 3, *size).unbind()
    assert torch.allclose(structural_similarity(one, one), torch.ones(()))
    assert -1 <= structural_similarity(one, other) < 0.99


def test_structure_is_compared_in_every_fourth_frame():
    video = torch.rand(1, 3, 9, 16, 16)
    blurred = video.clone()
    blurred[:, :, 1:4] = blurred[:, :, 1:4].mean()
    without = reconstruction_loss(blurred, video)
    error = blurred - video
    differences = [error.diff(dim=dim).abs().mean() for dim in (2, 3, 4)]
    assert torch.allclose(without, error.abs().mean() + 0.5 * sum(differences) + 8 * error.square().mean(), atol=1e-5)
    blurred[:, :, 4] = blurred[:, :, 4].mean()
    assert reconstruction_loss(blurred, video) > without + 0.1 * rebuilding.SSIM_WEIGHT


def test_pieces_are_cut_where_they_were_drawn(film: Film):
    cut = Cut.of(film, 3, 1, 16, 99)
    assert cut.size == (1, 16, 48)
    drawn = [cut.draw(torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {int(moment) for places in drawn for moment in places[1]} == set(range(5))  # stills are of any moment
    which, first, top, left, mirrored = drawn[0]
    pieces = cut.pieces(*drawn[0])
    assert pieces.shape == (3, 3, 1, 16, 48)
    for i, piece in enumerate(pieces):
        clip = to_range(film.clips_NTHWC[int(which[i])][None])[0]
        part = clip[:, first[i] : first[i] + 1, top[i] : top[i] + 16, left[i] : left[i] + 48]
        assert torch.equal(piece, part.flip(3) if mirrored[i] else part)


def test_the_first_frame_is_taught_by_stills(film: Film, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def noted(rebuilt: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(video.shape))
        return (rebuilt - video).square().mean()

    monkeypatch.setattr(encoders, "reconstruction_loss", noted)
    encoders.train_vae(new_encoders(0).vae, film, Budget(steps=2, batch=3))
    assert seen == [(3, 3, 5, 32, 48), (6, 3, 1, 32, 48)] * 2


def test_the_first_steps_are_small():
    weight = torch.nn.Linear(1, 1, bias=False)
    before = weight.weight.item()

    class OneStep(Budget):
        def steps_at(self, step):
            step()
            assert 0 < abs(weight.weight.item() - before) <= 1.01 / optimise.WARM_UP
            return 1

    optimise.optimise("one", weight, lambda: (torch.ones(1, 1),), lambda x: weight(x).mean(), OneStep(1, 1), rate=1.0)


def test_a_budget_of_seconds_gives_fewer_steps():
    assert Budget(steps=7, batch=1).steps_at(lambda: torch.zeros(())) == 7
    took = []

    def slow() -> torch.Tensor:
        started = time.perf_counter()
        time.sleep(0.01)
        took.append(time.perf_counter() - started)
        return torch.zeros(())

    steps = Budget(steps=1000, batch=1, limit_s=1).steps_at(slow)
    there_is_time_for = len(took) / sum(took)  # in one second, on a machine that may be busy with other things
    assert 0.2 * there_is_time_for < steps <= there_is_time_for <= 100


def test_film_drawn_by_other_processes_is_the_same(film: Film, tmp_path: Path):
    again = render_film(range(2), ["daylight", "noir"], (5, 32, 48), encoders.FPS, torch.device("cpu"), workers=1)
    assert torch.equal(again.clips_NTHWC, film.clips_NTHWC[:2])
