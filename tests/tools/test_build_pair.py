"""A new pair of the embedded model: I2V grows from T2V as Wan's did, and a trained transformer takes its place."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from rounding import LAYERS, units

from cinelora.families.shipped_weights import HASHES
from cinelora.families.wan import embedded
from cinelora.families.wan.conditions import Condition, ImageCondition, predict_velocity
from tools.scale_model import build_pair

KINDS = ("t2v", "i2v")


@pytest.fixture(scope="module")
def pair(cache: Path) -> Path:
    """The pair that ``embedded:`` names."""
    return embedded.embedded("t2v", cache).parent


def test_a_grown_transformer_begins_as_the_one_it_grew_from():
    t2v = build_pair.new_transformer(3).eval()
    i2v = build_pair.silence_image(build_pair.grow(t2v, 3)).eval()
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 512, 128, generator=generator)
    image = ImageCondition(
        torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 257, 96, generator=generator)
    )
    at = torch.tensor([500.0])
    with torch.no_grad():
        before = predict_velocity(t2v, latents, at, Condition(text))
        after = predict_velocity(i2v, latents, at, Condition(text, image))
    assert units(before, after) <= LAYERS
    assert any(float(v.abs().max()) > 0 for n, v in i2v.named_parameters() if "add_k_proj" in n)
    with torch.no_grad():
        loud = predict_velocity(build_pair.grow(t2v, 3).eval(), latents, at, Condition(text, image))
    assert not torch.allclose(before, loud, atol=1e-2)


def test_a_trained_transformer_takes_its_place_and_grows_the_other(pair: Path, tmp_path: Path):
    before = json.loads((pair / HASHES).read_text())
    pair = Path(shutil.copytree(pair, tmp_path / "pair", symlinks=True))
    trained = {
        name: torch.full_like(value, 0.125) for name, value in build_pair.new_transformer(0).state_dict().items()
    }
    build_pair.save_transformer(tmp_path / "run", "t2v", trained)
    build_pair.adopt(pair, tmp_path / "run", "t2v")
    for kind in KINDS:
        loaded = WanTransformer3DModel.from_pretrained(pair / kind / "transformer")
        assert torch.equal(
            loaded.blocks[0].ffn.net[2].weight, torch.full_like(loaded.blocks[0].ffn.net[2].weight, 0.125)
        )
    hashes = json.loads((pair / HASHES).read_text())
    changed = {name for name in hashes if hashes[name] != before[name]}
    assert changed == {f"{kind}/transformer/{embedded.WEIGHTS}" for kind in KINDS}
