"""The embedded model: what is shipped is whole, small, and read by stock diffusers; a new one grows as Wan's did."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel

from cinelora.errors import ModelError
from cinelora.models import tiny
from cinelora.models.wan import Condition, ImageCondition, predict_velocity


@pytest.fixture(scope="module")
def pair(cache: Path) -> Path:
    """The pair that ``embedded:`` names."""
    return tiny.embedded("t2v", cache).parent


def test_it_is_small_and_whole(pair: Path):
    files = [path for path in pair.rglob("*") if path.is_file() and not path.parent.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    weights = {path.relative_to(pair).as_posix() for path in files if path.suffix == ".safetensors"}
    assert weights == set(json.loads((pair / tiny.HASHES).read_text()))
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]


@pytest.mark.parametrize(("kind", "pipeline"), [("t2v", WanPipeline), ("i2v", WanImageToVideoPipeline)])
def test_stock_diffusers_loads_it(pair: Path, kind: str, pipeline: type):
    loaded = pipeline.from_pretrained(pair / kind)
    assert loaded.transformer.config.num_layers == tiny.TRANSFORMER["num_layers"]
    assert loaded.vae.config.latents_std != [1.0] * 16


def test_a_damaged_or_missing_shipped_file_is_named_with_its_hash(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = Path(shutil.copytree(pair, tmp_path / "model", symlinks=True))
    monkeypatch.setattr(tiny, "HOME", home)
    assert tiny.embedded("t2v", tmp_path) == home / "t2v"
    file = home / "t2v" / "vae" / tiny.WEIGHTS
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    tiny.check_shipped.cache_clear()
    with pytest.raises(ModelError, match=r"vae/.*is damaged: its SHA-256 is [0-9a-f]{12}, [0-9a-f]{12} was shipped"):
        tiny.embedded("t2v", tmp_path)
    file.unlink()
    with pytest.raises(ModelError, match="its SHA-256 is nothing"):
        tiny.embedded("t2v", tmp_path)


def test_a_grown_transformer_begins_as_the_one_it_grew_from():
    t2v = tiny.new_transformer(3).eval()
    i2v = tiny.silence_image(tiny.grow(t2v, 3)).eval()
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 512, 128, generator=generator)
    image = ImageCondition(
        torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 257, 96, generator=generator)
    )
    at = torch.tensor([500.0])
    with torch.no_grad():
        before = predict_velocity(t2v, latents, at, Condition(text))
        after = predict_velocity(i2v, latents, at, Condition(text, image))
    assert torch.allclose(before, after, atol=1e-5)
    assert any(float(v.abs().max()) > 0 for n, v in i2v.named_parameters() if "add_k_proj" in n)
    with torch.no_grad():
        loud = predict_velocity(tiny.grow(t2v, 3).eval(), latents, at, Condition(text, image))
    assert not torch.allclose(before, loud, atol=1e-2)


def test_a_trained_transformer_takes_its_place_and_grows_the_other(pair: Path, tmp_path: Path):
    before = json.loads((pair / tiny.HASHES).read_text())
    pair = Path(shutil.copytree(pair, tmp_path / "pair", symlinks=True))
    trained = {name: torch.full_like(value, 0.125) for name, value in tiny.new_transformer(0).state_dict().items()}
    tiny.save_transformer(tmp_path / "run", "t2v", trained)
    tiny.adopt(pair, tmp_path / "run", "t2v")
    for kind in ("t2v", "i2v"):
        loaded = WanTransformer3DModel.from_pretrained(pair / kind / "transformer")
        assert torch.equal(
            loaded.blocks[0].ffn.net[2].weight, torch.full_like(loaded.blocks[0].ffn.net[2].weight, 0.125)
        )
    hashes = json.loads((pair / tiny.HASHES).read_text())
    changed = {name for name in hashes if hashes[name] != before[name]}
    assert changed == {f"{kind}/transformer/{tiny.WEIGHTS}" for kind in ("t2v", "i2v")}
