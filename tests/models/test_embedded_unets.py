"""The embedded AnimateDiff that was trained: it is what was shipped and draws what is asked for. Small random ones beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cinelora import clone_only
from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.config.shipped import values
from cinelora.errors import ModelError
from cinelora.families import shipped_weights
from cinelora.families.animatediff import embedded_unets
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.nn.flow_matching import keyed_generator
from cinelora.sampling.denoise import Guided, sample

HOME = clone_only.SHIPPED_UNETS
LIMIT = 8_000_000
"""Bytes on disk that the model may have."""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped folder where it can be damaged."""
    folder = tmp_path / "tiny_animatediff"
    shutil.copytree(HOME, folder)
    monkeypatch.setattr(embedded_unets, "SHIPPED_UNETS", folder)
    return folder


def test_it_is_small_and_every_weight_has_its_hash():
    files = [path for path in HOME.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    weights = {path.relative_to(HOME).as_posix() for path in files if path.suffix == ".safetensors"}
    assert weights == set(json.loads((HOME / shipped_weights.HASHES).read_text()))
    assert embedded_unets.embedded_member(embedded_unets.TRAINED, Path("never made")) == HOME


def test_what_is_not_as_it_was_shipped_is_named_with_the_way_out(copy: Path):
    weights = copy / "motion" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"motion/\S+ of the embedded model is damaged: .* git checkout -- data/tiny_animatediff$"
    ):
        embedded_unets.embedded_member(embedded_unets.TRAINED, copy)
    weights.unlink()
    with pytest.raises(ModelError, match=r"motion/\S+ of the embedded model is missing; restore it with: "):
        embedded_unets.embedded_member(embedded_unets.TRAINED, copy)


def test_a_coat_has_the_colour_that_is_asked_for_and_a_clip_moves(tmp_path: Path):
    """One prompt in three colours, from one noise, by the image network; and a clip of it by the motion network."""
    model = ModelConfig(**values("model/tiny_animatediff"))
    prompts = [
        f"On a dry street at noon, a man in a {coat} coat walks to the left; the camera stands still." for coat in COATS
    ]
    stills = drawn(model, "image", prompts, 1, tmp_path)[:, 0]
    for at, colour in enumerate(COATS.values()):
        # the picture in which most pixels have nearly the coat's colour is the one that was asked for it
        like = [(still.float() - torch.tensor(colour)).abs().amax(-1).lt(60).sum().item() for still in stills]
        assert like[at] == max(like) > 100, like
    clip = drawn(model, "motion", prompts[:1], 16, tmp_path)[0].float()
    assert 2 < clip.diff(dim=0).abs().mean() < 20, "rendered clips change by about 7 levels from frame to frame"


COATS = {"red": (230.0, 40.0, 40.0), "green": (50.0, 200.0, 70.0), "blue": (50.0, 80.0, 220.0)}


@torch.no_grad()
def drawn(model: ModelConfig, kind: str, prompts: list[str], frames: int, cache: Path) -> torch.Tensor:
    """Levels (N, T, H, W, 3), all from one noise, in eight steps."""
    machinery = machinery_of(model)
    bundle = machinery.from_config(model, kind, cache, torch.device("cpu"))
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        *text, nothing = bundle.encode_text([*prompts, ""])
    size = bundle.family.geometry.latent_size(frames, model.height, model.width)
    noise = torch.randn(1, *size, generator=keyed_generator("coats")).expand(len(prompts), -1, -1, -1, -1)
    shown, without = (machinery.condition(torch.stack(of)) for of in (text, [nothing] * len(prompts)))
    denoise = Guided(bundle.load_transformer(), shown, without, 4.0)
    latents = sample(denoise, noise, bundle.noise_law.solver(SamplerConfig(steps=8), 1.0))
    with bundle.loaded(Part.VAE):
        return torch.stack([bundle.decode(one[None])[0].permute(1, 2, 3, 0) * 255 for one in latents])


@pytest.mark.parametrize("name", ["tiny_animatediff_random", "tiny_modelscope_random"])
def test_small_ones_are_drawn_into_the_cache_once(name: str, tmp_path: Path):
    model = ModelConfig(**values(f"model/{name}"))
    kind = {"animatediff_sd15": "motion", "modelscope": "t2v"}[model.family]
    first, again = (machinery_of(model).from_config(model, kind, tmp_path, torch.device("cpu")) for _ in range(2))
    networks = [bundle.load_transformer().state_dict() for bundle in (first, again)]
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert model.is_random
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())
