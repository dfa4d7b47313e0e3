"""Adapters of Wan2.1 on transformers of Wan2.2, and the other way round: what fits is used, the rest is counted and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor
from wan_layouts import EXPERT_OF_IMAGE, IMAGE, SHAPE

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter, read_adapter_facts
from cinelora.adapters.adapter_header import adapter_header
from cinelora.adapters.lora_layers import load_adapter
from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError
from cinelora.families.family import Family
from cinelora.families.wan21 import WAN21
from cinelora.families.wan22 import WAN22_5B, WAN22_A14B

WIDTH = 128
SHAPES: dict[str, dict[str, Any]] = {"2.1 i2v": IMAGE, "2.2 i2v": EXPERT_OF_IMAGE, "t2v": {}}


def network(kind: str) -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WanTransformer3DModel(**SHAPE | SHAPES[kind]).eval().requires_grad_(False)


def output(transformer: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, transformer.config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(1, 512, 32, generator=generator)
    tokens = torch.randn(1, 257, 32, generator=generator) if transformer.config.image_dim else None
    with torch.no_grad():
        made: Tensor = transformer(latents, torch.full((1,), 500.0), text, tokens, return_dict=False)[0]
    return made


def pair(name: str, width: int = WIDTH) -> dict[str, Tensor]:
    """Factors of one projection, as ComfyUI names them."""
    generator = torch.Generator().manual_seed(len(name))
    down, up = torch.randn(4, width, generator=generator), torch.randn(width, 4, generator=generator)
    return {f"diffusion_model.{name}.lora_A.weight": 0.1 * down, f"diffusion_model.{name}.lora_B.weight": 0.1 * up}


TEXT = pair("blocks.0.self_attn.q") | pair("blocks.1.cross_attn.v")
IMAGES = pair("blocks.0.cross_attn.k_img") | pair("blocks.1.cross_attn.v_img")
IMAGES |= {"diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.ones(WIDTH)}
IMAGES |= {"diffusion_model.img_emb.proj.3.diff_b": torch.ones(WIDTH)}


def file(folder: Path, tensors: dict[str, Tensor], name: str = "theirs") -> Path:
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.mark.parametrize(
    ("tensors", "kind", "left_out"),
    [(TEXT | IMAGES, "2.2 i2v", 4), (TEXT | IMAGES, "t2v", 4), (TEXT | IMAGES, "2.1 i2v", 0), (TEXT, "2.1 i2v", 0)]
    + [(TEXT, "2.2 i2v", 0)],
)
def test_what_fits_is_used_and_the_rest_counted(
    tensors: dict[str, Tensor], kind: str, left_out: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left out makes no difference: the others act as they do alone."""
    transformer, alone, plain = network(kind), network(kind), network(kind)
    load_adapter(transformer, "style", read_adapter(file(tmp_path, tensors)), "wan22_a14b")
    said = capsys.readouterr().out
    sentence = f"changes {left_out} image projections that this transformer of wan22_a14b does not have"
    assert (sentence in said, "and 2 other changes are used" in said) == (left_out > 0,) * 2
    assert not torch.equal(output(transformer), output(plain))
    if left_out:
        load_adapter(alone, "style", read_adapter(file(tmp_path, TEXT, "text")), "wan22_a14b")
        assert torch.equal(output(transformer), output(alone))


def test_one_of_another_width_is_refused(tmp_path: Path) -> None:
    adapter = read_adapter(file(tmp_path, pair("blocks.0.self_attn.q", 192)))
    with pytest.raises(AdapterError, match=r"an adapter whose blocks.0.attn1.to_q is 192x192 does not fit .* 128x128"):
        load_adapter(network("t2v"), "style", adapter, "wan22_5b")


# -- where each acts by itself -----------------------------------------------------------------------------------------

PATCH = {
    channels: {"diffusion_model.patch_embedding.diff": torch.ones(WIDTH, channels, 1, 2, 2)} for channels in (16, 36)
}
SUITED = [
    (TEXT, WAN22_A14B, ("t2v", "i2v")),
    (TEXT, WAN22_5B, ("t2v", "i2v")),
    (TEXT | IMAGES, WAN22_A14B, ("i2v",)),
    (TEXT | IMAGES, WAN21, ("i2v",)),
    (PATCH[16], WAN22_A14B, ("t2v",)),
    (PATCH[36], WAN22_A14B, ("i2v",)),
    (PATCH[36], WAN22_5B, ()),
]


@pytest.mark.parametrize(("tensors", "family", "networks"), SUITED)
def test_a_file_of_another_tool_acts_by_what_it_changes(
    tensors: dict[str, Tensor], family: Family, networks: tuple[str, ...], tmp_path: Path
) -> None:
    found = adapter_header(file(tmp_path, tensors))
    assert tuple(one.name for one in family.networks if found.suits(one)) == networks
    label = "i2v" if tensors.keys() & IMAGES.keys() else None
    assert found.transformer == label
    assert read_adapter_facts(found.path)["transformer"] == label
    assert read_adapter(found.path).transformer == (label or "")


@pytest.mark.parametrize(("label", "networks"), [("t2v", ("t2v", "i2v")), ("i2v", ("i2v",))])
def test_one_of_ours_acts_by_the_network_that_its_header_names(
    label: str, networks: tuple[str, ...], tmp_path: Path
) -> None:
    state = {
        f"blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(shape) for part, shape in (("A", (4, 8)), ("B", (8, 4)))
    }
    path = tmp_path / "mine.safetensors"
    export_adapter(path, AdapterFile(state, LoraSpec(4, 4.0), "style", transformer=label))
    for family in (WAN22_A14B, WAN21):
        assert tuple(one.name for one in family.networks if adapter_header(path).suits(one)) == networks
