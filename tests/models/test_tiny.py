"""The embedded model: what is shipped is whole, small, and read by stock diffusers; a new one grows as Wan's did."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel

from cinelora.errors import ModelError
from cinelora.families.shipped_weights import HASHES
from cinelora.families.wan import embedded
from tools.scale_model import build_pair

KINDS = ("t2v", "i2v")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pair(cache: Path) -> Path:
    """The pair that ``embedded:`` names."""
    return embedded.embedded("t2v", cache).parent


def test_it_is_small_and_whole(pair: Path):
    files = [path for path in pair.rglob("*") if path.is_file() and not path.parent.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= 26_000_000
    weights = {path.relative_to(pair).as_posix() for path in files if path.suffix == ".safetensors"}
    assert weights == set(json.loads((pair / HASHES).read_text()))
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]


@pytest.mark.parametrize(("kind", "pipeline"), [("t2v", WanPipeline), ("i2v", WanImageToVideoPipeline)])
def test_stock_diffusers_loads_it(pair: Path, kind: str, pipeline: type):
    loaded = pipeline.from_pretrained(pair / kind)
    assert loaded.transformer.config.num_layers == build_pair.SHAPES["t2v"]["num_layers"]
    assert loaded.vae.config.latents_std != [1.0] * 16


@pytest.fixture
def shipped(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped pair that a test may damage."""
    home = Path(shutil.copytree(pair, tmp_path / "model", symlinks=True))
    monkeypatch.setattr(embedded, "HOME", home)
    assert embedded.embedded("t2v", tmp_path) == home / "t2v"
    embedded.check_shipped.cache_clear()
    return home


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_as_text(path: Path) -> None:
    target = path.readlink()
    path.unlink()
    path.write_text(str(target))


def list_a_file_that_is_gone(path: Path) -> None:
    hashes = json.loads(path.read_text())
    path.write_text(json.dumps({**hashes, "t2v/vae/gone.safetensors": "0" * 64}))


HASH = "[0-9a-f]{12}"
NO_LIST = r"hashes\.json lists no files with their hashes"
DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (
        f"t2v/vae/{embedded.WEIGHTS}",
        flip_a_bit,
        rf"t2v/vae/\S+ .* is damaged: its SHA-256 is {HASH}, {HASH} was shipped",
    ),
    (
        f"i2v/transformer/{embedded.WEIGHTS}",
        lambda path: path.write_bytes(b""),
        "i2v/transformer.* SHA-256 is e3b0c44298fc",
    ),
    ("t2v/text_encoder/model.safetensors", Path.unlink, r"t2v/text_encoder/model\.safetensors .* is missing"),
    ("t2v/text_encoder", shutil.rmtree, r"t2v/text_encoder/model\.safetensors .* is missing"),
    ("i2v/vae", link_as_text, r"i2v/vae .* is not the link to \.\./t2v/vae that was shipped; allow links with: "),
    ("i2v/tokenizer", Path.unlink, r"i2v/tokenizer .* is not the link to \.\./t2v/tokenizer"),
    (HASHES, list_a_file_that_is_gone, r"t2v/vae/gone\.safetensors .* is missing"),
    (HASHES, lambda path: path.write_text('{"t2v/'), r"hashes\.json is damaged or no JSON"),
    (HASHES, lambda path: path.write_bytes(b"\xff\xfe"), r"hashes\.json is not UTF-8 text"),
    (HASHES, lambda path: path.write_text('["t2v"]'), r"hashes\.json: the file cannot be \['t2v'\]"),
    (HASHES, lambda path: path.write_text('{"t2v": 1}'), r"hashes\.json: t2v cannot be 1"),
    (HASHES, lambda path: path.write_text("{}"), NO_LIST),
    (HASHES, Path.unlink, r"cannot read \S+hashes\.json"),
]


@pytest.mark.parametrize(("name", "damage", "sentence"), DAMAGE)
def test_what_is_not_as_it_was_shipped_is_named_with_the_way_out(
    shipped: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], sentence: str
):
    damage(shipped / name)
    for kind in KINDS:
        with pytest.raises(ModelError, match=sentence) as refusal:
            embedded.embedded(kind, tmp_path)
        assert str(refusal.value).endswith("restore it with: git checkout -- data/scale_model")
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "models").exists()


def test_without_shipped_weights_a_pair_is_drawn_from_its_recipe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "HOME", tmp_path / "nothing")
    assert not embedded.is_trained()
    built = embedded.embedded("t2v", tmp_path / "one").parent
    torch.manual_seed(1234)
    again = build_pair.materialise(tmp_path / "two")
    assert (built / HASHES).read_bytes() == (again / HASHES).read_bytes()
    assert embedded.embedded("i2v", tmp_path / "one") == built / "i2v"
    t2v, i2v = (WanTransformer3DModel.from_pretrained(built / kind / "transformer").state_dict() for kind in KINDS)
    assert all(torch.equal(value, i2v[name]) for name, value in t2v.items() if name != "patch_embedding.weight")
    assert [path for path in built.rglob("*.safetensors") if not path.stat().st_mode & stat.S_IROTH] == []


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git (Debian package)")
@pytest.mark.parametrize("setting", ["core.symlinks=true", "core.autocrlf=true", "core.symlinks=false"])
def test_a_pair_survives_git_and_where_links_do_not_it_is_said(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
):
    source, clone = tmp_path / "source", tmp_path / "clone"
    shutil.copytree(pair, source / "data" / "scale_model", symlinks=True)
    shutil.copyfile(ROOT / ".gitattributes", source / ".gitattributes")
    git("init", "--quiet", str(source))
    git("-C", str(source), "add", ".")
    git("-C", str(source), "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "--message=x")
    git("clone", "--quiet", "--config", setting, str(source), str(clone))
    monkeypatch.setattr(embedded, "HOME", clone / "data" / "scale_model")
    if setting == "core.symlinks=false":
        with pytest.raises(ModelError, match="allow links with: git config core.symlinks true, then restore") as told:
            embedded.embedded("t2v", tmp_path)
        way_out = str(told.value).partition("allow links with: ")[2].replace("restore it with: ", "")
        for command in way_out.split(", then "):
            git("-C", str(clone), *command.split()[1:])
    assert embedded.embedded("i2v", tmp_path) == clone / "data" / "scale_model" / "i2v"


def git(*arguments: str) -> None:
    """As on a machine where nobody has settings of their own."""
    nobody = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *arguments], check=True, capture_output=True, env=nobody)
