"""Adapter files: the names and scales other tools rely on, what comes back, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from rounding import LAYERS, units
from safetensors.torch import load_file, save_file
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter, read_adapter_facts
from cinelora.adapters.adapter_header import adapter_header
from cinelora.adapters.formats import COMFY
from cinelora.adapters.lora_layers import add_adapter, load_adapter, set_scales
from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError, CineloraError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan_layers import WAN_NAMES

I2V_14B: dict[str, Any] = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "num_layers": 40,
    "ffn_dim": 13824,
    "in_channels": 36,
    "out_channels": 16,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
ORIGIN: dict[str, Any] = {
    "kind": "motion",
    "base_model": "wan21_14b_720p",
    "base_revision": "0123abc",
    "transformer": "i2v",
    "trigger": 'a "noir" look, in 雨',
    "data_hash": "feed",
    "config": {"seed": 3, "data": {"root": "/my/footage", "caption": None}},
}


def factors(modules: list[str], rank: int, width: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Random factors; B is wider than A, so that nothing fits the other way round."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for module in modules:
        state[f"{module}.lora_A.weight"] = torch.randn(rank, width, generator=generator)
        state[f"{module}.lora_B.weight"] = torch.randn(width + 1, rank, generator=generator)
    return state


def an_adapter(spec: LoraSpec, projections: tuple[str, ...] = ("attn2.to_q", "attn2.add_k_proj")) -> AdapterFile:
    modules = [f"blocks.{block}.{name}" for block in (0, 11) for name in projections]
    return AdapterFile(factors(modules, spec.rank), spec, **ORIGIN)


def update(state: dict[str, Tensor], module: str) -> Tensor:
    return state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]


# -- names -------------------------------------------------------------------------------------------------------------


def original_14b_projections() -> list[str]:
    """The linear layers of the blocks in the official I2V 14B checkpoint (``wan/modules/model.py`` of Wan2.1)."""
    attention = [f"self_attn.{name}" for name in "qkvo"] + [f"cross_attn.{name}" for name in "qkvo"]
    return [
        f"blocks.{block}.{name}"
        for block in range(40)
        for name in [*attention, "cross_attn.k_img", "cross_attn.v_img", "ffn.0", "ffn.2"]
    ]


@pytest.fixture
def wan_14b() -> WanTransformer3DModel:
    with torch.device("meta"):
        return WanTransformer3DModel(**I2V_14B)


def test_exported_names_are_those_of_the_original_14b_checkpoint(wan_14b: WanTransformer3DModel):
    linear = [
        name
        for name, module in wan_14b.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("blocks.")
    ]
    originals = {f"{name}.weight": torch.empty(0) for name in original_14b_projections()}
    converted = convert_wan_transformer_to_diffusers(dict(originals))  # diffusers' own table, in the order of originals
    assert set(converted) == {f"{name}.weight" for name in linear}
    for original, module in zip(originals, converted, strict=True):
        ours = COMFY.name(module.removesuffix(".weight"))
        assert ours == f"diffusion_model.{original.removesuffix('.weight')}"
        assert COMFY.module(ours) == module.removesuffix(".weight")


def test_a_14b_adapter_has_the_size_and_names_it_should(wan_14b: WanTransformer3DModel):
    modules = add_adapter(wan_14b, "style", LoraSpec(8, 16.0), seed=0)
    assert sum(p.numel() for p in wan_14b.parameters() if p.requires_grad) == 40 * 6 * 8 * 2 * 5120
    wanted = {f"diffusion_model.{name}" for name in original_14b_projections() if "cross_attn" in name}
    assert {COMFY.name(module) for module in modules} == wanted


@pytest.mark.parametrize(
    "name",
    ["proj_out", "blocks.x.attn2.to_q", "blocks.0.attn2.norm_q", "blocks.0.attn2", "transformer.blocks.0.attn2.to_q"],
)
def test_what_has_no_name_in_comfyui_is_refused(name: str):
    with pytest.raises(AdapterError, match=re.escape(name)):
        COMFY.name(name)


@pytest.mark.parametrize(
    "name", ["diffusion_model.head.norm", "diffusion_model.blocks.0.attn2.to_q", "blocks.0.self_attn.q"]
)
def test_what_is_no_name_of_comfyui_means_no_projection(name: str):
    assert COMFY.module(name) is None


# -- our files in other programs ---------------------------------------------------------------------------------------


def run(transformer: WanTransformer3DModel) -> Tensor:
    generator, config = torch.Generator().manual_seed(1), transformer.config
    image = torch.randn(1, 257, config.image_dim, generator=generator) if config.image_dim else None
    with torch.no_grad():
        velocity: Tensor = transformer(
            hidden_states=torch.randn(1, config.in_channels, 2, 6, 6, generator=generator),
            timestep=torch.tensor([700.0]),
            encoder_hidden_states=torch.randn(1, 512, config.text_dim, generator=generator),
            encoder_hidden_states_image=image,
            return_dict=False,
        )[0]
    return velocity


def learnt(transformer: WanTransformer3DModel, spec: LoraSpec, kind: str) -> AdapterFile:
    layers = dict(transformer.named_modules())
    generator, state = torch.Generator().manual_seed(2), {}
    for module in add_adapter(transformer, "probe", spec, seed=0):
        base = layers[module]
        state[f"{module}.lora_A.weight"] = torch.randn(spec.rank, base.in_features, generator=generator) * 0.1
        state[f"{module}.lora_B.weight"] = torch.randn(base.out_features, spec.rank, generator=generator) * 0.1
    return AdapterFile(state, spec, **{**ORIGIN, "transformer": kind, "base_model": "tiny"})


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")  # diffusers adds zeros for k_img, v_img
@pytest.mark.parametrize("layout", ["comfy", "diffusers"])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8.0), (12, 16.0), (8, 8.0)])
@pytest.mark.parametrize(
    ("trained_on", "used_on", "targets"),
    [
        ("t2v", "t2v", "cross_attention"),
        ("i2v", "i2v", "cross_attention"),
        ("t2v", "i2v", "cross_attention"),
        ("i2v", "t2v", "cross_attention"),
        ("t2v", "t2v", "all_linear"),
        ("i2v", "i2v", "all_linear"),
    ],
)
def test_stock_diffusers_gives_our_output(
    t2v: WanBundle,
    i2v: WanBundle,
    tmp_path: Path,
    trained_on: str,
    used_on: str,
    targets: str,
    rank: int,
    alpha: float,
    layout: Any,
):
    bundles = {"t2v": t2v, "i2v": i2v}
    pipelines = {"t2v": WanPipeline, "i2v": WanImageToVideoPipeline}
    adapter = learnt(bundles[trained_on].load_transformer(), LoraSpec(rank, alpha, targets=targets), trained_on)
    export_adapter(tmp_path / "adapter.safetensors", adapter, layout)

    folder = bundles[used_on].directory(Part.TRANSFORMER).parent
    pipeline = pipelines[used_on].from_pretrained(folder)
    before = run(pipeline.transformer)
    pipeline.load_lora_weights(tmp_path / "adapter.safetensors")
    theirs = run(pipeline.transformer)

    transformer = bundles[used_on].load_transformer()
    assert torch.equal(run(transformer), before)
    load_adapter(transformer, "motion", read_adapter(tmp_path / "adapter.safetensors"), "tiny")
    assert units(run(transformer), theirs) <= LAYERS
    assert (theirs - before).abs().max() > 1e-2


@pytest.mark.parametrize(("layout", "kind"), [("comfy", "i2v"), ("diffusers", "t2v")])
def test_stock_diffusers_gives_our_output_at_any_scale_fused_or_not(
    t2v: WanBundle, i2v: WanBundle, tmp_path: Path, kind: str, layout: Any
):
    bundle, pipe = {"t2v": (t2v, WanPipeline), "i2v": (i2v, WanImageToVideoPipeline)}[kind]
    adapter = learnt(bundle.load_transformer(), LoraSpec(12, 16.0, targets="all_linear"), kind)
    export_adapter(tmp_path / "adapter.safetensors", adapter, layout)
    transformer = bundle.load_transformer()
    base = run(transformer)
    load_adapter(transformer, "motion", read_adapter(tmp_path / "adapter.safetensors"), "tiny")
    pipeline = pipe.from_pretrained(bundle.directory(Part.TRANSFORMER).parent)
    pipeline.load_lora_weights(tmp_path / "adapter.safetensors", adapter_name="ours")
    for scale in (1.0, 0.7):
        set_scales(transformer, {"motion": scale})
        ours = run(transformer)
        assert (ours - base).abs().max() > 1e-2
        pipeline.set_adapters("ours", scale)
        assert units(run(pipeline.transformer), ours) <= LAYERS
        pipeline.set_adapters("ours", 1.0)
        pipeline.fuse_lora(lora_scale=scale)
        assert units(run(pipeline.transformer), ours) <= LAYERS
        pipeline.unfuse_lora()


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_names_of_diffusers_without_any_scale_are_read_as_diffusers_reads_them(
    prefix: str, make_wan: Any, tmp_path: Path
):
    """Of several ranks, too: each pair is worth 1."""
    path, generator = tmp_path / "theirs.safetensors", torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for module, rank in (("blocks.0.attn2.to_q", 4), ("blocks.1.attn2.to_k", 4), ("blocks.1.attn1.to_v", 2)):
        tensors[f"{prefix}{module}.lora_A.weight"] = torch.randn(rank, 128, generator=generator) * 0.2
        tensors[f"{prefix}{module}.lora_B.weight"] = torch.randn(128, rank, generator=generator) * 0.2
    save_file(tensors, path)
    theirs, ours = make_wan(), make_wan()
    theirs.load_lora_adapter(tensors, prefix=prefix.rstrip(".") or None)
    load_adapter(ours, "style", read_adapter(path), "tiny")
    assert units(run(ours), run(theirs)) <= LAYERS
    assert (run(ours) - run(make_wan())).abs().max() > 1e-2
    assert adapter_header(path).assumed


# How four programs read a pair, as facts: which weight of the checkpoint a key means, and what the pair is multiplied with.
READERS = {
    # model_lora_keys: the key of a weight without its ending is its own name; alpha / rank, 1 without alpha
    "ComfyUI": lambda key: re.fullmatch(r"diffusion_model\.(.+)\.lora_(A|B)\.weight", key),
    # convert_lora.py --target default takes the first word away; dots become underscores; alpha is set to the rank
    "musubi-tuner": lambda key: re.fullmatch(r"(?:diffusion_model|transformer)\.(.+)\.lora_(A|B)\.weight", key),
    # GeneralLoRALoader leaves out lora_B, what stands between it and the last word, and a leading diffusion_model
    "DiffSynth": lambda key: re.fullmatch(r"(?:diffusion_model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight", key),
    # the prefix is cut off; lora_A and lora_B are a pair of the weight of that name
    "lightx2v": lambda key: re.fullmatch(r"diffusion_model\.(.+)\.lora_(A|B)\.weight", key),
}


@pytest.mark.parametrize("reader", READERS)
def test_other_programs_find_every_pair_and_its_scale(reader: str, make_wan: Any, tmp_path: Path):
    adapter = learnt(make_wan("i2v"), LoraSpec(4, 8.0, targets="all_linear"), "i2v")
    export_adapter(tmp_path / "a.safetensors", adapter)
    tensors = load_file(tmp_path / "a.safetensors")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        form = READERS[reader](key)
        assert form, key
        name = form[1].replace(".", "_") if reader == "musubi-tuner" else form[1]
        found.setdefault(name, {})[form[2]] = tensor
    layers = [name for name in original_14b_projections() if name.startswith(("blocks.0.", "blocks.1."))]
    names = {name.replace(".", "_") if reader == "musubi-tuner" else name: name for name in layers}
    assert found.keys() == names.keys()
    for name, pair in found.items():
        module = COMFY.module(f"diffusion_model.{names[name]}")
        assert module
        assert torch.equal(pair["B"] @ pair["A"], (2 * adapter.state[f"{module}.lora_B.weight"]) @ pair["A"])


def test_the_scale_is_folded_into_b(tmp_path: Path):
    adapter = an_adapter(LoraSpec(4, 8.0))
    export_adapter(tmp_path / "a.safetensors", adapter)
    tensors = load_file(tmp_path / "a.safetensors")
    name, module = "diffusion_model.blocks.11.cross_attn.k_img", "blocks.11.attn2.add_k_proj"
    assert torch.equal(tensors[f"{name}.lora_A.weight"], adapter.state[f"{module}.lora_A.weight"])
    assert torch.equal(tensors[f"{name}.lora_B.weight"], 2 * adapter.state[f"{module}.lora_B.weight"])
    assert all(
        re.fullmatch(r"diffusion_model\.blocks\.\d+\.cross_attn\.\w+\.lora_[AB]\.weight", key) for key in tensors
    )


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["comfy", "diffusers"])
@pytest.mark.parametrize(
    ("rank", "alpha", "exact"), [(4, 8.0, True), (8, 16.0, True), (8, 4.0, True), (12, 16.0, False)]
)
def test_what_was_written_is_read(tmp_path: Path, layout: Any, rank: int, alpha: float, exact: bool):
    adapter = an_adapter(LoraSpec(rank, alpha, dropout=0.1, targets="cross_attention"))
    export_adapter(tmp_path / "a.safetensors", adapter, layout)
    again = read_adapter(tmp_path / "a.safetensors")
    assert replace(again, state={}) == replace(adapter, state={})
    assert again.state.keys() == adapter.state.keys()
    for key, factor in adapter.state.items():
        assert torch.allclose(
            again.state[key], factor, rtol=0.0 if exact or layout == "diffusers" else 2.4e-7, atol=0.0
        )


def test_no_trigger_stays_none_and_bf16_is_written_as_float32(tmp_path: Path):
    adapter = an_adapter(LoraSpec(4, 4.0))
    adapter = replace(adapter, trigger=None, state={key: factor.bfloat16() for key, factor in adapter.state.items()})
    export_adapter(tmp_path / "a.safetensors", adapter)
    again = read_adapter(tmp_path / "a.safetensors")
    assert again.trigger is None
    assert {tensor.dtype for tensor in load_file(tmp_path / "a.safetensors").values()} == {torch.float32}
    assert all(torch.equal(again.state[key], factor.float()) for key, factor in adapter.state.items())


def test_facts_come_from_the_header(tmp_path: Path):
    spec = LoraSpec(4, 8.0, 0.1)
    export_adapter(tmp_path / "a.safetensors", an_adapter(spec))
    facts = read_adapter_facts(tmp_path / "a.safetensors")
    wanted = {"tool": "cinelora", "rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": "cross_attention", **ORIGIN}
    wanted |= {"expert": None}
    assert facts == wanted
    foreign = bare("lora_unet_blocks_0_ffn_0", down="lora_down", up="lora_up")
    save_file(foreign, tmp_path / "b.safetensors")
    assert read_adapter_facts(tmp_path / "b.safetensors") == {
        **dict.fromkeys(wanted),
        "tool": "musubi-tuner",
        "rank": 4,
        "alpha": 4.0,
        "targets": "all_linear",
    }


# -- files of other tools ----------------------------------------------------------------------------------------------


def bare(
    name: str, rank: int = 4, alpha: float | None = None, down: str = "lora_A", up: str = "lora_B"
) -> dict[str, Tensor]:
    state = factors(["m"], rank)
    tensors = {f"{name}.{down}.weight": state["m.lora_A.weight"], f"{name}.{up}.weight": state["m.lora_B.weight"]}
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}


MUSUBI = {"down": "lora_down", "up": "lora_up"}


@pytest.mark.parametrize(
    ("tensors", "module", "scale"),
    [
        (bare("diffusion_model.blocks.3.self_attn.q"), "blocks.3.attn1.to_q", 1.0),
        (bare("diffusion_model.blocks.3.cross_attn.o", alpha=6.0), "blocks.3.attn2.to_out.0", 1.5),
        (bare("diffusion_model.blocks.3.ffn.2", alpha=6.0, **MUSUBI), "blocks.3.ffn.net.2", 1.5),
        (bare("lora_unet_blocks_13_cross_attn_k_img", alpha=1.0, **MUSUBI), "blocks.13.attn2.add_k_proj", 0.25),
        (bare("lora_unet_blocks_0_ffn_0", **MUSUBI), "blocks.0.ffn.net.0.proj", 1.0),
        (bare("blocks.0.self_attn.v", down="lora_A.default", up="lora_B.default"), "blocks.0.attn1.to_v", 1.0),
    ],
)
def test_a_foreign_file_is_read_with_its_scale(tmp_path: Path, tensors: dict[str, Tensor], module: str, scale: float):
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.modules == [module]
    assert adapter.spec.rank == 4
    assert adapter.spec.scale == scale
    assert torch.equal(update(adapter.state, module), update(factors(["m"], 4), "m"))
    assert adapter.base_model == ""
    assert adapter.transformer == ("i2v" if "add_k" in module else "")


def test_a_file_that_diffusers_wrote_is_read_with_its_scale(t2v: WanBundle, tmp_path: Path):
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    transformer = t2v.load_transformer()
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_out.0"], init_lora_weights=False))
    theirs = run(transformer)
    layers, metadata = get_peft_model_state_dict(transformer), _collate_lora_metadata({"transformer": transformer})
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers, **metadata)
    again = t2v.load_transformer()
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    assert adapter.spec == LoraSpec(4, 8.0, targets="attention")
    load_adapter(again, "style", adapter, "tiny")
    assert units(run(again), theirs) <= LAYERS


def diffusers_file(**header: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    said = {f"transformer.{key}": value for key, value in header.items()}
    return bare("transformer.blocks.0.attn1.to_q"), {"lora_adapter_metadata": json.dumps(said)}


def test_pefts_names_without_alpha_are_refused(tmp_path: Path):
    save_file(bare("base_model.model.blocks.0.attn1.to_q"), tmp_path / "a.safetensors")
    with pytest.raises(
        AdapterError, match="neither .alpha nor the header lora_adapter_metadata .* so its alpha is unknown"
    ):
        read_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"r": 4}, "does not say r and lora_alpha"),
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, r"says DoRA, but blocks\.0\.attn1\.to_q has no magnitude"),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": 3}, "does not say r and lora_alpha"),
        ({"r": 8, "lora_alpha": 8}, r"says rank 8, blocks\.0\.attn1\.to_q has rank 4"),
    ],
)
def test_a_diffusers_header_that_is_not_plain_is_refused(tmp_path: Path, header: dict[str, Any], words: str):
    tensors, metadata = diffusers_file(**header)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path / "a.safetensors")


# -- refused -----------------------------------------------------------------------------------------------------------

WHOLE = bare("diffusion_model.blocks.0.self_attn.q")
A, B = WHOLE


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"conv.weight": torch.zeros(1), "fc.weight": torch.zeros(1)},
            r"no adapter of Wan or Stable Diffusion: its keys are conv\.weight, fc\.weight",
        ),
        ({f"k{i}": torch.zeros(1) for i in range(9)}, "k0, k1, k2 and 6 more"),
        (
            {**WHOLE, "diffusion_model.head.head.lora_A.weight": WHOLE[A]},
            r"incomplete: proj_out has .*lora_A\.weight but no lora_B",
        ),
        ({**WHOLE, "diffusion_model.blocks.0.self_attn.q.bias": WHOLE[A]}, r"unknown: .*\.bias"),
        (
            {**WHOLE, "diffusion_model.blocks.0.self_attn.q.lora_down.weight": WHOLE[A]},
            r"two adapters of one layer, .*self_attn",
        ),
        ({**WHOLE, **bare("lora_unet_blocks_0_self_attn_q")}, r"unknown: lora_unet_blocks_0"),
        (bare("blocks.0.self_attn.x") | WHOLE, r"ComfyUI, but some of its keys are unknown: blocks\.0"),
        ({A: WHOLE[A]}, r"incomplete: blocks\.0\.attn1\.to_q has .*lora_A\.weight but no lora_B"),
        ({B: WHOLE[B]}, "no lora_A"),
        ({"diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(1.0)}, "no lora_A"),
        ({A: WHOLE[A], B: WHOLE[B][:, :3]}, r"do not fit each other: A \[4, 6\], B \[7, 3\]"),
        ({A: WHOLE[A], B: WHOLE[B] * float("nan")}, "damaged: .* not finite"),
        (
            bare("diffusion_model.blocks.0.self_attn.q", alpha=0.0),
            "has rank 4 and alpha 0: a LoRA needs an alpha above 0",
        ),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path: Path, tensors: dict[str, Tensor], words: str):
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=words) as refused:
        read_adapter(tmp_path / "a.safetensors")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("read", [read_adapter, read_adapter_facts])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_pickle_is_refused_unread(tmp_path: Path, read: Any, suffix: str):
    with pytest.raises(AdapterError, match="pickle, which can run any code"):
        read(tmp_path / f"adapter{suffix}")


@pytest.mark.parametrize("read", [read_adapter, read_adapter_facts])
def test_a_damaged_file_is_refused(tmp_path: Path, read: Any):
    path = tmp_path / "a.safetensors"
    export_adapter(path, an_adapter(LoraSpec(4, 8.0)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CineloraError, match="damaged"):
        read(path)


@pytest.mark.parametrize("read", [read_adapter, read_adapter_facts])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "cinelora-adapter/2"}, "cinelora-adapter/2, this version reads cinelora-adapter/1: update"),
        ({"rank": "many"}, "lacks or garbles"),
        ({"config": "{"}, "lacks or garbles"),
        ({"kind": None}, "lacks or garbles 'kind'"),
    ],
)
def test_a_header_of_ours_that_is_not_right_is_refused(tmp_path: Path, read: Any, change: dict[str, Any], words: str):
    header = {"format": "cinelora-adapter/1", "rank": "4", "alpha": "8", "dropout": "0", "targets": "attention"}
    origin = {key: value for key, value in ORIGIN.items() if key not in ("config", "trigger")}
    header = {**header, **origin, "config": "{}", **change}
    save_file(
        dict(WHOLE), tmp_path / "a.safetensors", {key: value for key, value in header.items() if value is not None}
    )
    with pytest.raises(AdapterError, match=words):
        read(tmp_path / "a.safetensors")


def test_a_rank_in_our_header_that_is_not_that_of_the_factors_counts_for_nothing(tmp_path: Path):
    adapter = an_adapter(LoraSpec(4, 8.0))
    export_adapter(tmp_path / "a.safetensors", replace(adapter, spec=LoraSpec(8, 8.0)))
    again = read_adapter(tmp_path / "a.safetensors")
    assert (again.spec.rank, again.spec.alpha, again.kind) == (4, 4.0, "motion")
    assert all(torch.equal(again.state[key], factor) for key, factor in adapter.state.items())


def test_every_projection_has_one_name_in_every_layout():
    assert len(set(WAN_NAMES.values())) == len(WAN_NAMES)
    assert len({name.replace(".", "_") for name in WAN_NAMES.values()}) == len(WAN_NAMES)
