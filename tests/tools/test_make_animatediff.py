"""The embedded AnimateDiff from nothing: whole words, a model that stock diffusers reads, each part's training in miniature."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from rounding import LAYERS, units
from small_runs import run_here
from transformers import CLIPTokenizer

from cinelora.cli.small_command import request_of
from cinelora.config.schema import ModelConfig, TrainConfig
from cinelora.config.store import save_config
from cinelora.errors import ConfigError, ModelError
from cinelora.families.animatediff.unet_bundle import AnimateDiffBundle
from cinelora.families.animatediff.unet_conditions import FrameCondition
from cinelora.families.family import Part
from cinelora.families.shipped_weights import HASHES
from cinelora.families.wan.embedded import WEIGHTS
from cinelora.io.atomic import sha256_file
from cinelora.io.plain_data import read_json
from cinelora.nn.flow_matching import keyed_generator
from tools.scale_model import optimise, train_unet_encoders
from tools.scale_model.__main__ import PROGRAMS, main
from tools.scale_model.build_unets import LIMIT, NETWORKS, UnetParts, bytes_of, load_parts, new_parts, save_parts
from tools.scale_model.optimise import Budget
from tools.scale_model.pretrain import export, trained
from tools.scale_model.render import LOOKS
from tools.scale_model.render.scenes import describe, draw_scene
from tools.scale_model.train_unet_encoders import (
    decode_frames,
    encode_frames,
    picture_psnr,
    standardise,
    strewn,
    train_captions,
    train_picture_vae,
)
from tools.scale_model.train_unets import Lessons, build_network, heldout_loss, train_network
from tools.scale_model.training_film import Film, render_film
from tools.scale_model.whole_transformer import WholeTransformer
from tools.scale_model.word_tokenizer import END, LETTERS, caption_words, merges_of, split

CPU = torch.device("cpu")
SMALL = ["frames=2", "height=64", "width=64", "vae_clips=3", "vae_batch=1", "text_batch=2", "clips=3", "heldout=12"]
SMALL += ["image_batch=2", "motion_batch=1", "sampler_steps=1"]
SMALL += [f"{name}_steps=2" for name in ("vae", "text", "image", "motion")]


@pytest.fixture(scope="module")
def parts() -> UnetParts:
    return new_parts(0)


@pytest.fixture(scope="module")
def saved(parts: UnetParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animatediff")
    save_parts(folder, parts)
    return folder


def drawn(*size: int, key: str = "values") -> torch.Tensor:
    return torch.randn(size, generator=keyed_generator(key))


def loud(parts: UnetParts) -> UNetMotionModel:
    """A motion network whose modules are heard."""
    network = build_network("motion", parts)
    for name, parameter in network.named_parameters():
        if ".motion_modules." in name and ".proj_out." in name:
            parameter.data.copy_(0.3 * drawn(*parameter.shape, key=name))
    return network


def model_in(folder: Path) -> ModelConfig:
    base, motion = str(folder / "base"), str(folder / "motion")
    shape = {"num_layers": 2, "num_heads": 2, "hidden_size": 48, "ffn_dim": 192, "height": 64, "width": 64, "fps": 8}
    names = {"name": "miniature", "family": "animatediff_sd15", "dtype": "fp32"}
    return ModelConfig(**names, **shape, base=base, motion_adapter=motion)


# -- words -------------------------------------------------------------------------------------------------------------


def test_each_word_of_every_caption_is_one_token(parts: UnetParts):
    for seed in range(0, 3000, 7):
        for look in LOOKS:
            caption = describe(draw_scene(seed), look)
            assert parts.tokenizer.tokenize(caption) == [word + END for word in split(caption)]


def test_other_words_are_read_by_their_letters_and_other_letters_are_one_unknown_token(parts: UnetParts):
    assert "".join(parts.tokenizer.tokenize("ozu 7")) == f"ozu{END}7{END}"
    assert "".join(parts.tokenizer.tokenize("streetcar!?")) == f"streetcar{END}!?{END}"  # no word inside another is one
    unknown = parts.tokenizer.unk_token_id
    assert unknown not in parts.tokenizer(LETTERS + " " + " ".join(LETTERS)).input_ids
    assert set(parts.tokenizer("日本").input_ids) == {
        parts.tokenizer.bos_token_id,
        unknown,
        parts.tokenizer.eos_token_id,
    }


def test_the_tokenizer_is_read_from_disk_as_it_was(parts: UnetParts, saved: Path):
    again = CLIPTokenizer.from_pretrained(saved / "base" / "tokenizer", local_files_only=True)
    texts = [describe(draw_scene(3), "noir"), "a streetcar in Ōsaka, 1953", ""]
    assert again(texts).input_ids == parts.tokenizer(texts).input_ids
    assert again.model_max_length == 77 >= max(len(parts.tokenizer(text).input_ids) for text in texts)


def test_merges_make_one_symbol_of_each_word_whatever_their_order():
    words = list(caption_words())
    for seed in range(3):
        random.Random(seed).shuffle(words)
        merges = merges_of(words)
        assert len(merges) == len(set(merges))
        assert not {word + END for word in words if len(word) > 1} - {"".join(pair) for pair in merges}


def test_strange_words_come_between_those_of_a_caption():
    caption = describe(draw_scene(3), "daylight")
    chance = random.Random(0)
    disturbed = [strewn(caption, chance) for _ in range(40)]
    counts = {len(text.split()) - len(caption.split()) for text in disturbed}
    assert counts == {0, 1, 2}
    assert all(not set(caption.split()) - set(text.split()) for text in disturbed)


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_whole_model_is_as_small_as_it_has_to_be(saved: Path):
    assert bytes_of(saved) < LIMIT
    hashes = read_json(saved / HASHES)
    assert len(hashes) == 4
    assert hashes == {name: sha256_file(saved / name) for name in hashes}


def test_stock_animatediff_and_the_family_draw_the_same_with_it(saved: Path):
    pipe = AnimateDiffPipeline.from_pretrained(
        saved / "base", motion_adapter=MotionAdapter.from_pretrained(saved / "motion"), torch_dtype=torch.float32
    )
    bundle = AnimateDiffBundle(model_in(saved), "motion", saved, CPU)
    latents = drawn(1, 4, 3, 2, 4)
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER), torch.no_grad():
        text = bundle.encode_text([describe(draw_scene(5), "daylight")])[0][None]
        stock = pipe.encode_prompt(describe(draw_scene(5), "daylight"), CPU, 1, False)[0]
        assert units(stock, text) <= LAYERS
        ours = FrameCondition(text).predict(bundle.load_transformer(), latents, torch.tensor([500]))
        theirs = pipe.unet(latents, torch.tensor([500]), stock.repeat_interleave(3, 0), return_dict=False)[0]
    assert units(theirs, ours) <= LAYERS


def test_motion_modules_begin_silent(parts: UnetParts):
    latents, text, at = drawn(1, 4, 3, 2, 4), drawn(1, 77, 64), torch.tensor([500])
    condition = FrameCondition(text)
    with torch.no_grad():
        alone = condition.predict(parts.unet, latents, at)
        assert units(alone, condition.predict(build_network("motion", parts), latents, at)) <= LAYERS
        assert units(alone, condition.predict(loud(parts), latents, at)) > 100 * LAYERS


def test_a_trained_network_is_written_as_the_family_reads_it(saved: Path, tmp_path: Path):
    parts = load_parts(saved)
    network = loud(parts)
    state = trained(network, sharded=False).state()
    with torch.no_grad():
        for value in state.values():
            value.copy_(value.half())  # what is written is half as exact
    export(tmp_path / "motion", "motion", state)
    export(tmp_path / "unet", "image", trained(parts.unet, sharded=False).state())
    again = MotionAdapter.from_pretrained(tmp_path / "motion").float()
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet").float()
    rebuilt = UNetMotionModel.from_unet2d(unet, again)
    latents, condition, at = drawn(1, 4, 3, 2, 4), FrameCondition(drawn(1, 77, 64)), torch.tensor([500])
    with torch.no_grad():
        first, second = (condition.predict(one, latents, at) for one in (network, rebuilt))
    assert (first - second).abs().max() < 2e-3 * first.abs().max()  # the positions, sines in half precision


def test_of_a_motion_network_its_motion_modules_are_trained_and_of_an_image_network_all(parts: UnetParts):
    whole = trained(build_network("motion", parts), sharded=False)
    names = {name for name, _ in parts.motion.named_parameters()}
    assert set(whole.state()) == names
    assert all(parameter.requires_grad for parameter in whole.parameters)
    image = trained(copied_unet(parts), sharded=False)
    assert type(image) is WholeTransformer
    assert set(image.state()) == {name for name, _ in parts.unet.named_parameters()}


def copied_unet(parts: UnetParts) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_config(parts.unet.config)
    unet.load_state_dict(parts.unet.state_dict())
    return unet


def test_a_network_of_another_shape_is_refused_before_it_is_trained(parts: UnetParts):
    wider = UNet2DConditionModel.from_config({**parts.unet.config, "block_out_channels": [32, 64]})
    with pytest.raises(
        ModelError, match="trains the embedded AnimateDiff alone, and this is another: take model.base="
    ):
        trained(wider, sharded=False)


@pytest.mark.parametrize(("kind", "frames"), [("image", 1), ("motion", 2)])
def test_the_projects_own_stage_trains_a_network_and_the_model_adopts_it(
    kind: str, frames: int, saved: Path, pretrain_config: TrainConfig, tmp_path: Path
):
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    stage = replace(pretrain_config.stage, transformer=kind, num_frames=frames, stills=0.0, steps=2, batch_size=2)
    config = replace(pretrain_config, model=model_in(folder), stage=stage, cache=str(tmp_path / "cache"))
    run = run_here(config, tmp_path / "run")
    save_config(config, run.config)
    before = read_json(folder / HASHES)
    assert main(["adopt", f"pair={folder}", f"run={run.path}"]) == 0
    after = read_json(folder / HASHES)
    place = (NETWORKS[kind][2] / WEIGHTS).as_posix()
    assert {name for name in after if after[name] != before[name]} == {place}
    again = load_parts(folder)
    assert build_network(kind, again)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film() -> Film:
    return render_film(range(4), ["daylight", "noir"], (2, 32, 48), 8, CPU, workers=0)


def test_standardised_latents_have_mean_0_and_deviation_1_and_show_the_same_pictures(film: Film):
    vae = new_parts(1).vae
    frames = film.clips_NTHWC[:, 0]
    with torch.no_grad():
        vae.post_quant_conv.bias.add_(0.1)
        before = encode_frames(vae, frames)
        pictures, spread = decode_frames(vae, before), vae.encode(torch.zeros(1, 3, 32, 48)).latent_dist.std
    standardise(vae, film)
    with torch.no_grad():
        after = encode_frames(vae, frames)
        values = after.transpose(0, 1).flatten(1)
        assert values.mean(1).abs().max() < 1e-5
        assert (values.std(1) - 1).abs().max() < 1e-5
        assert torch.allclose(decode_frames(vae, after), pictures, atol=1e-5)
        deviation = before.transpose(0, 1).flatten(1).std(1)[None, :, None, None]
        assert torch.allclose(vae.encode(torch.zeros(1, 3, 32, 48)).latent_dist.std, spread / deviation, rtol=1e-4)


def test_a_picture_vae_learns(film: Film, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimise, "WARM_UP", 3)
    vae = new_parts(0).vae
    before = picture_psnr(vae, film)
    train_picture_vae(vae, film, Budget(steps=8, batch=2), rate=2e-3)
    after = picture_psnr(vae, film)
    assert all(after[look] > before[look] + 1 for look in before)


def test_captions_are_read(parts: UnetParts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimise, "WARM_UP", 5)
    monkeypatch.setattr(train_unet_encoders, "CAPTIONS", 200)
    monkeypatch.setattr(train_unet_encoders, "HELDOUT_CAPTIONS", 64)
    found = train_captions(new_parts(0).text, parts.tokenizer, Budget(steps=60, batch=16), rate=3e-3)
    assert found["place"] > 0.9  # a coin finds two thirds
    assert {"coat", "time", "count", "camera", "hat"} <= found.keys()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_learns_to_predict_noise(kind: str, parts: UnetParts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimise, "WARM_UP", 3)
    own = new_parts(0)
    lessons = Lessons(drawn(4, 4, 3, 4, 4), drawn(4, 77, 64, key="text"), drawn(77, 64, key="null"))
    network = build_network(kind, own)
    before, frozen = heldout_loss(kind, network, lessons), parts.unet.state_dict()
    assert train_network(kind, network, lessons, Budget(steps=12, batch=4), rate=2e-3) == 12
    after = heldout_loss(kind, network, lessons)
    assert after["mean"] < before["mean"]
    moved = {
        name for name, value in network.state_dict().items() if name in frozen and not torch.equal(value, frozen[name])
    }
    assert bool(moved) == (kind == "image")


def test_the_held_out_loss_of_silence_is_the_noise_itself(parts: UnetParts):
    class Silent(UNet2DConditionModel):
        def forward(self, sample, *_, **__):
            return (torch.zeros_like(sample),)

    silent = Silent.from_config(parts.unet.config)
    lessons = Lessons(drawn(64, 4, 2, 4, 4), drawn(64, 77, 64), drawn(77, 64))
    assert heldout_loss("image", silent, lessons)["mean"] == pytest.approx(1.0, abs=0.05)


def test_parts_are_trained_one_after_the_other_and_each_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train_unet_encoders, "CAPTIONS", 20)
    monkeypatch.setattr(train_unet_encoders, "HELDOUT_CAPTIONS", 8)
    words = [*SMALL, f"out={tmp_path / 'out'}", f"work={tmp_path / 'work'}"]
    files = {
        "vae": "base/vae/diffusion_pytorch_model.safetensors",
        "text": "base/text_encoder/model.safetensors",
        "image": "base/unet/diffusion_pytorch_model.safetensors",
        "motion": "motion/diffusion_pytorch_model.safetensors",
    }
    before: dict[str, str] = {}
    for part in files:
        assert main(["animatediff", *words, f"parts={part}"]) == 0
        now = {name: sha256_file(tmp_path / "out" / file) for name, file in files.items()}
        assert {name for name in before if now[name] != before[name]} <= {part}
        assert part == "vae" or now[part] != before[part]
        before = now
    assert main(["animatediff", *words, "parts=report"]) == 0
    report = read_json(tmp_path / "out" / "report.json")
    assert report["bytes"] < LIMIT
    assert report["image"]["heldout_loss"]["mean"] > 0 < report["report"]["motion_levels"]["drawn"]
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} >= {
        "vae.png",
        "clips.png",
        "stills-coat.png",
    }
    assert len(list((tmp_path / "work").iterdir())) == 1  # footage was encoded once for both networks


def test_the_command_says_what_it_wants(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    request = request_of(PROGRAMS["animatediff"], ["parts=motion", "frames=8"])
    assert (request.wanted, request.size) == (("motion",), (8, 128, 192))
    assert replace(request, parts="all").wanted[0] == "vae"
    for words, part in [
        (["frames=17"], "frames=17: wants from 2 to 16"),
        (["height=100"], "height=100: wants a multiple of 64, such as 128"),
        (["parts=unet"], "parts=unet: wants all|vae|text|image|motion|report"),
        (["parts=image", f"out={tmp_path}"], "holds none: vae and text first"),
        (["image_rate=0"], "image_rate=0: wants more than 0 and at most 1"),
        (["heldout=3"], "heldout=3: wants 12 or more"),
        (["motion_step=3"], "did you mean motion_steps or motion_rate?"),
    ]:
        assert main(["animatediff", *words]) == ConfigError("").exit_code
        assert part in capsys.readouterr().err
