"""What a plan says adapters take of the host is what they take, byte for byte."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wan_layouts import miniature, save_files

from cinelora.adapters.adapter_file import AdapterFile, read_adapter
from cinelora.adapters.host_copies import host_copies
from cinelora.adapters.lora_layers import ORIGINAL, load_adapter, merge, set_scales, unmerge
from cinelora.adapters.weight_deltas import deltas_of
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import InferConfig, ModelConfig
from cinelora.families.wan.bundle import WanBundle
from cinelora.planning.estimate import Drawing

WIDTH = 128


def of_every_kind() -> dict[str, Tensor]:
    """Pairs of two ranks, LoKr, LoHa, DoRA, and differences in and outside of blocks."""
    shapes = {
        "blocks.0.self_attn.q.lora_A.weight": (4, WIDTH),
        "blocks.0.self_attn.q.lora_B.weight": (WIDTH, 4),
        "blocks.1.ffn.2.lora_A.weight": (2, 64),
        "blocks.1.ffn.2.lora_B.weight": (WIDTH, 2),
        "blocks.0.cross_attn.q.lokr_w1": (8, 4),
        "blocks.0.cross_attn.q.lokr_w2": (16, 32),
        **{f"blocks.1.cross_attn.k.hada_w{n}_a": (WIDTH, 2) for n in (1, 2)},
        **{f"blocks.1.cross_attn.k.hada_w{n}_b": (2, WIDTH) for n in (1, 2)},
        "blocks.0.cross_attn.v.lora_A.weight": (4, WIDTH),
        "blocks.0.cross_attn.v.lora_B.weight": (WIDTH, 4),
        "blocks.0.cross_attn.v.dora_scale": (WIDTH, 1),
        "blocks.0.self_attn.q.diff_b": (WIDTH,),
        "blocks.0.self_attn.norm_q.diff": (WIDTH,),
        "blocks.0.norm3.diff": (WIDTH,),
        "blocks.0.diff_m": (1, 6, WIDTH),
        "time_embedding.0.lora_A.weight": (4, 32),
        "time_embedding.0.lora_B.weight": (WIDTH, 4),
        "patch_embedding.diff": (WIDTH, 16, 1, 2, 2),
    }
    generator = torch.Generator().manual_seed(0)
    return {f"diffusion_model.{key}": torch.rand(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


def own_bytes(adapter: AdapterFile) -> int:
    parts = [part for deltas in adapter.deltas.values() for delta in deltas for part in delta.parts.values()]
    return sum(tensor.nbytes for tensor in [*adapter.state.values(), *parts])


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_adapters_and_the_weights_that_are_kept_are_counted(dtype: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_file(of_every_kind(), first)
    save_file({key: tensor for key, tensor in of_every_kind().items() if "cross_attn" in key}, second)
    shape = {"num_layers": 2, "num_heads": 4, "hidden_size": WIDTH, "ffn_dim": 64, "dtype": dtype}
    model = ModelConfig(name="mini", **shape, **save_files(tmp_path, miniature("t2v")))  # type: ignore[arg-type]
    transformer = WanBundle.from_config(model, "t2v", tmp_path).load_transformer()
    adapters = {"style": read_adapter(first), "motion": read_adapter(second)}
    for name, adapter in adapters.items():
        load_adapter(transformer, name, adapter, "mini", changed_now=False)
    request = ClipRequest(InferConfig(prompt="x", mode="t2v", model=model), {"style": first, "motion": second})
    planned = host_copies(request, several=True)
    assert planned.own == sum(map(own_bytes, adapters.values()))

    def kept() -> int:
        layers = (layer for layer in transformer.modules() if hasattr(layer, ORIGINAL))
        merged = (tensor for layer in layers for tensor in getattr(layer, ORIGINAL)[0].parameters())
        changed = (tensor for of in deltas_of(transformer).originals.values() for tensor in of)
        return sum(tensor.nbytes for tensor in [*merged, *changed])

    merge(transformer, {"style": 1.0, "motion": 1.0})
    assert planned.on("t2v", Drawing(swap=0)) == kept() > 0
    unmerge(transformer)
    set_scales(transformer, {"style": 0.5, "motion": 1.0})
    assert planned.on("t2v", Drawing(swap=1)) == kept() > 0
    assert host_copies(request, several=False).on("t2v", Drawing()) == 0
