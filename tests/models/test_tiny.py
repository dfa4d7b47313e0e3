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


def test_it_is_small_and_whole():
    files = [path for path in tiny.HOME.rglob("*") if path.is_file() and not path.parent.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    weights = {path.relative_to(tiny.HOME).as_posix() for path in files if path.suffix == ".safetensors"}
    assert weights == set(json.loads((tiny.HOME / tiny.HASHES).read_text()))
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]


@pytest.mark.parametrize(("kind", "pipeline"), [("t2v", WanPipeline), ("i2v", WanImageToVideoPipeline)])
def test_stock_diffusers_loads_it(kind: str, pipeline: type):
    loaded = pipeline.from_pretrained(tiny.embedded(kind))
    assert loaded.transformer.config.num_layers == tiny.TRANSFORMER["num_layers"]
    assert loaded.vae.config.latents_std != [1.0] * 16


def test_a_damaged_or_missing_file_is_named_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = Path(shutil.copytree(tiny.HOME, tmp_path / "model", symlinks=True))
    monkeypatch.setattr(tiny, "HOME", copy)
    tiny.embedded.cache_clear()
    try:
        assert tiny.embedded("t2v") == copy / "t2v"
        tiny.embedded.cache_clear()
        file = copy / "t2v" / "vae" / tiny.WEIGHTS
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(
            ModelError, match=r"vae/.*is damaged: its SHA-256 is [0-9a-f]{12}, [0-9a-f]{12} was shipped"
        ):
            tiny.embedded("t2v")
        file.unlink()
        with pytest.raises(ModelError, match="its SHA-256 is nothing"):
            tiny.embedded("t2v")
    finally:
        tiny.embedded.cache_clear()


def test_a_grown_transformer_begins_as_the_one_it_grew_from():
    t2v = tiny.new_transformer(3).eval()
    i2v = tiny.grow(t2v, 3).eval()
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


def test_a_trained_transformer_takes_its_place_and_grows_the_other(tmp_path: Path):
    pair = Path(shutil.copytree(tiny.HOME, tmp_path / "pair", symlinks=True))
    trained = {name: torch.full_like(value, 0.125) for name, value in tiny.new_transformer(0).state_dict().items()}
    tiny.save_transformer(tmp_path / "run", "t2v", trained)
    tiny.adopt(pair, tmp_path / "run", "t2v")
    for kind in ("t2v", "i2v"):
        loaded = WanTransformer3DModel.from_pretrained(pair / kind / "transformer")
        assert torch.equal(
            loaded.blocks[0].ffn.net[2].weight, torch.full_like(loaded.blocks[0].ffn.net[2].weight, 0.125)
        )
    hashes, shipped = (json.loads((home / tiny.HASHES).read_text()) for home in (pair, tiny.HOME))
    changed = {name for name in hashes if hashes[name] != shipped[name]}
    assert changed == {f"{kind}/transformer/{tiny.WEIGHTS}" for kind in ("t2v", "i2v")}
