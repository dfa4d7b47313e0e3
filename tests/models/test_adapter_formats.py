"""Adapters as other tools write them: each does what its method says, at the scale that its tensors say, or is refused."""

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from rounding import LAYERS, SUMS, units
from safetensors.torch import save_file
from torch import Tensor, nn

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.adapter_header import judge_adapter
from cinelora.adapters.formats import AUTHORS, FORMATS, Format, written_for
from cinelora.adapters.lora_layers import adapter_state, add_adapter, load_adapter, merge, set_scales, unmerge
from cinelora.adapters.resize_rank import at_rank
from cinelora.adapters.run_directory import RunDirectory
from cinelora.adapters.weight_deltas import Delta
from cinelora.config.schema import LoraSpec, ModelConfig, TrainConfig
from cinelora.errors import AdapterError, CineloraError, FileError
from cinelora.families.wan_layers import BLOCK_NAMES, OUTSIDE_NAMES
from cinelora.io.tensor_files import load_tensors
from cinelora.memory.block_swap import arrange
from cinelora.planning.estimate import Policy
from cinelora.training.run_stage import carry_style_adapter
from tools.adapter_formats import CLOSE, DOCS, apart, examples, outcome, updates, with_table

MakeWan = Callable[..., WanTransformer3DModel]
RunWan = Callable[[WanTransformer3DModel], Tensor]
MODULE = "blocks.1.attn2.to_q"


# -- every format ------------------------------------------------------------------------------------------------------


def test_the_shipped_table_is_what_the_script_makes():
    """Making it reads every example, and compares what is read with the formula of its method."""
    text = DOCS.read_text()
    assert with_table(text) == text
    assert len(examples()) >= 25


def test_a_refusal_is_one_sentence_that_names_the_file(tmp_path: Path):
    for example in examples():
        if outcome(example, tmp_path) != "yes":
            with pytest.raises(CineloraError) as refused:
                judge_adapter(tmp_path / example.file)
            assert str(refused.value).startswith(str(tmp_path / example.file)), example.who
            assert "\n" not in str(refused.value), example.who
        for left in tmp_path.iterdir():
            left.unlink()


def test_every_layer_of_wan_has_one_name_in_every_format(make_wan: MakeWan):
    """All parameters of a transformer but those of norms that have none can be named, so no delta is beyond a format."""
    parameters = {name for name, _ in make_wan("i2v").named_parameters()}
    modules = {name.removesuffix(".weight").removesuffix(".bias") for name in parameters}
    ours = {f"blocks.{number}.{name}" for number in range(2) for name in BLOCK_NAMES} | set(OUTSIDE_NAMES)
    assert modules == ours
    for table in (BLOCK_NAMES, OUTSIDE_NAMES):
        assert len(set(table.values())) == len(table)


# -- the scale ---------------------------------------------------------------------------------------------------------


def renamed(tensors: dict[str, Tensor], source: Format, target: Format) -> dict[str, Tensor]:
    """The same factors under the names of another tool."""
    found = {}
    for key, tensor in tensors.items():
        module, part = source.part(key) or ("", "")
        ends = {"A": "lora_down", "B": "lora_up"} if target.dot == "_" else {"A": "lora_A", "B": "lora_B"}
        found[f"{target.name(module)}.{ends[part]}.weight"] = tensor
    return found


def dense(tensors: dict[str, Tensor]) -> Tensor:
    """What the factors of a file are worth at scale 1."""
    down, up = (next(tensor for key, tensor in tensors.items() if f"_{part}" in key) for part in ("A", "B"))
    return up.double() @ down.double()


def scale_read(worth: float, target: Format, header: str, rank: int, alpha: str, with_peft: bool) -> float | None:
    """The scale that all who say one agree on; None where they do not, or nobody says one."""
    said = set()
    if alpha != "none":
        said.add(worth if alpha == "right" else worth / 2)
    elif target.scale == "one":
        said.add(1.0)
    if header == "whole" and with_peft:
        if rank != 8:
            return None
        said.add(2.0)
    if header != "none" and rank == 8:  # the mark is true
        said.add(worth)
    if not said and target.scale == "assumed":  # where our header is of other tensors, it must not say another one
        said |= {1.0} if header == "none" else {1.0, worth}
    return said.pop() if len(said) == 1 else None


SPATIAL = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.mark.parametrize(
    ("layout", "worth", "module"), [("comfy", 1.0, MODULE), ("diffusers", 2.0, MODULE), ("diffusers", 1.0, SPATIAL)]
)
def test_whatever_a_tool_does_to_our_file_it_stays_as_strong_or_is_refused(
    layout: str, worth: float, module: str, tmp_path: Path
):
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{module}.lora_A.weight": torch.randn(8, 6, generator=generator),
        f"{module}.lora_B.weight": torch.randn(7, 8, generator=generator),
    }
    adapter = AdapterFile(state, LoraSpec(8, 16.0), "style", base_model="tiny")
    path, files = tmp_path / "ours.safetensors", {}
    for rank in (4, 8):
        export_adapter(path, at_rank(adapter, rank), layout)  # type: ignore[arg-type]  # both are layouts
        files[rank], metadata = load_tensors(path)
    headers = {"whole": metadata, "ours alone": dict(metadata), "none": None}
    headers["ours alone"].pop("lora_adapter_metadata", None)  # type: ignore[union-attr]
    source = written_for(layout, [module])
    targets = [form for form in FORMATS if form.layers is source.layers and form is not AUTHORS]
    met = {"read": 0, "refused": 0}
    for target, header, rank, alpha in product(targets, headers, (8, 4), ("none", "right", "wrong")):
        tensors = renamed(files[rank], source, target)
        if alpha != "none":
            tensors[f"{target.name(module)}.alpha"] = torch.tensor(rank * worth * (1.0 if alpha == "right" else 0.5))
        save_file(tensors, path, headers[header])
        case = f"{target.tool}, header {header}, rank {rank}, alpha {alpha}"
        scale = scale_read(worth, target, header, rank, alpha, with_peft=not source.folds)
        # The law itself: a file in which nothing untrue was written is as strong as it was. What nobody can know is left out:
        # factors worth twice as much, under names that mean once.
        unknowable = worth != 1 and alpha == "none" and target.scale in ("one", "assumed")
        assert alpha == "wrong" or scale in (worth, None) or unknowable, case
        if scale is None:
            with pytest.raises(AdapterError) as refused:
                read_adapter(path)
            assert "\n" not in str(refused.value), case
            met["refused"] += 1
        else:
            wanted = {f"{module}.weight": scale * dense(files[rank])}
            assert apart(updates(read_adapter(path)), wanted) < CLOSE, case
            met["read"] += 1
    assert met["read"] > 10 * len(targets) - 20, met


def test_a_contradiction_is_refused_with_both_numbers(tmp_path: Path):
    adapter = AdapterFile(two(MODULE), LoraSpec(4, 8.0), "style")
    export_adapter(tmp_path / "a.safetensors", adapter)
    tensors, metadata = load_tensors(tmp_path / "a.safetensors")
    tensors["diffusion_model.blocks.1.cross_attn.q.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(AdapterError, match=r"the scale 0\.5 by \.alpha and 1 by our header"):
        read_adapter(tmp_path / "a.safetensors")


def test_a_folder_of_peft_that_is_carried_into_a_run_keeps_its_scale(tmp_path: Path):
    example = next(example for example in examples() if example.who == "a folder of peft")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run").mkdir()
    example.write(tmp_path / "theirs")
    run = RunDirectory(tmp_path / "run")
    carry_style_adapter(TrainConfig(adapter=str(tmp_path / "theirs")), run)
    assert apart(updates(read_adapter(run.adapter("style"))), example.changes) < CLOSE


def test_an_adapter_that_is_spoilt_is_named_by_the_users_own_file(tmp_path: Path):
    (tmp_path / "run").mkdir()
    mine = saved(tmp_path / "mine.safetensors", {name: tensor * float("nan") for name, tensor in two(QUERY).items()})
    with pytest.raises(AdapterError, match=r"mine\.safetensors is damaged"):
        carry_style_adapter(TrainConfig(adapter=str(mine)), RunDirectory(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


# -- what changes weights ----------------------------------------------------------------------------------------------


def distilled(transformer: WanTransformer3DModel, seed: int = 0) -> AdapterFile:
    """An adapter that changes every parameter there is: projections by factors, all else by differences."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    deltas: dict[str, tuple[Delta, ...]] = {}
    layers = dict(transformer.named_modules())
    for name, parameter in transformer.named_parameters():
        module = name.removesuffix(".weight")
        shape = tuple(parameter.shape)
        if name.startswith("blocks.") and isinstance(layers.get(module), nn.Linear) and "ffn.net.2" not in name:
            state[f"{module}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator) * 0.1
            state[f"{module}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.1
        else:
            delta = torch.randn(shape, generator=generator) * 0.02
            deltas[name] = (Delta("diff", {"diff": delta}, 1.0, shape),)
    return AdapterFile(state, LoraSpec(4, 8.0, targets="all_linear"), "style", deltas=deltas)


@torch.no_grad()
def by_hand(transformer: WanTransformer3DModel, adapters: list[tuple[AdapterFile, float]]) -> WanTransformer3DModel:
    parameters = dict(transformer.named_parameters())
    before = {name: parameter.double() for name, parameter in parameters.items()}
    for adapter, scale in adapters:
        for module in adapter.modules:
            down, up = (adapter.state[f"{module}.lora_{factor}.weight"].double() for factor in "AB")
            before[f"{module}.weight"] += scale * adapter.spec.scale * up @ down
        for name, deltas in adapter.deltas.items():
            before[name] += scale * sum(delta.parts["diff"].double() for delta in deltas)
    for name, parameter in parameters.items():
        parameter.copy_(before[name])
    return transformer


def parameters_of(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    return {
        name.replace(".base_layer", ""): parameter.clone()
        for name, parameter in transformer.named_parameters()
        if "lora_" not in name
    }


@torch.no_grad()
@pytest.mark.parametrize("way", ["live", "merged", "swapped"])
def test_differences_of_all_weights_act_at_any_scale_and_go_again(way: str, make_wan: MakeWan, run_wan: RunWan):
    first, second = (distilled(make_wan("i2v", num_layers=3), seed) for seed in (0, 1))
    transformer = make_wan("i2v", num_layers=3)
    before, output = parameters_of(transformer), run_wan(transformer)
    for name, adapter in (("first", first), ("second", second)):
        load_adapter(transformer, name, adapter, "tiny", changed_now=False)
    if way == "swapped":  # three blocks in two slots: what is changed in a slot alone is lost
        arrange(transformer, Policy(recompute=3, swap=3))
    for scales in ({"first": 1.0, "second": 0.5}, {"second": -0.3}, {}):
        if way == "merged":
            merge(transformer, scales)
        else:
            set_scales(transformer, scales)
        expected = by_hand(
            make_wan("i2v", num_layers=3), [({"first": first, "second": second}[name], s) for name, s in scales.items()]
        )
        assert units(run_wan(transformer), run_wan(expected)) <= LAYERS
        if way == "merged":
            unmerge(transformer)
    assert torch.equal(run_wan(transformer), output)
    after = parameters_of(transformer)
    assert all(torch.equal(after[name], before[name]) for name in before)


@torch.no_grad()
def test_in_bf16_a_weight_is_rounded_once_and_comes_back(make_wan: MakeWan):
    transformer = make_wan().to(torch.bfloat16)
    before = parameters_of(transformer)
    adapter = distilled(make_wan())
    load_adapter(transformer, "first", adapter, "tiny")
    name = "blocks.1.ffn.net.2.weight"
    wanted = (before[name].float() + adapter.deltas[name][0].parts["diff"]).to(torch.bfloat16)
    assert torch.equal(parameters_of(transformer)[name], wanted)
    set_scales(transformer, {})
    after = parameters_of(transformer)
    assert all(torch.equal(after[name], before[name]) for name in before)


@torch.no_grad()
def test_scales_for_good_keep_no_copies(make_wan: MakeWan):
    transformer = make_wan()
    load_adapter(transformer, "first", distilled(make_wan()), "tiny", changed_now=False)
    merge(transformer, {"first": 1.0}, keep=False)
    assert not transformer.weight_deltas.originals
    with pytest.raises(RuntimeError, match="merged into the weights permanently"):
        unmerge(transformer)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_other_methods_on_a_real_transformer(kind: str, make_wan: MakeWan, run_wan: RunWan, tmp_path: Path):
    """Read from a file, at scale 0.7, they give what the formula does to the weight."""
    transformer, width = make_wan(), 128
    weight = transformer.get_submodule(MODULE).weight.double()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    name = "lycoris_blocks_1_cross_attn_q"
    if kind == "dora":
        down, up, magnitude = draw(4, width), draw(width, 4), 1 + draw(width, 1)
        parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0), "dora_scale": magnitude}
        changed = weight + 0.5 * up.double() @ down.double()
        change = magnitude.double() * changed / changed.norm(dim=1, keepdim=True) - weight
    elif kind == "loha":
        factors = [draw(*shape) for shape in ((width, 2), (2, width)) * 2]
        parts = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), factors, strict=True))
        one, two, three, four = (factor.double() for factor in factors)
        change = (one @ two) * (three @ four)
    else:
        parts = {"lokr_w1": draw(4, 8), "lokr_w2": draw(32, 16)}
        change = torch.kron(parts["lokr_w1"].double(), parts["lokr_w2"].double())
    save_file({f"{name}.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert not adapter.modules
    load_adapter(transformer, "style", adapter, "tiny", changed_now=False)
    set_scales(transformer, {"style": 0.7})
    assert units(transformer.get_submodule(MODULE).weight, (weight + 0.7 * change).float()) <= SUMS
    expected = make_wan()
    expected.get_submodule(MODULE).weight.copy_(weight + 0.7 * change)
    assert units(run_wan(transformer), run_wan(expected)) <= LAYERS
    merge(transformer, {"style": 0.0})
    assert torch.equal(run_wan(transformer), run_wan(make_wan()))


def test_deltas_of_another_width_are_refused_before_a_weight_is_touched(make_wan: MakeWan):
    transformer = make_wan()
    before = parameters_of(transformer)
    adapter = distilled(make_wan("i2v"))  # its patch embedding takes 36 channels
    with pytest.raises(AdapterError, match="patch_embedding.weight is .*36.* does not fit model=tiny"):
        load_adapter(transformer, "style", adapter, "tiny")
    assert all(torch.equal(now, before[name]) for name, now in parameters_of(transformer).items())


# -- the judge ---------------------------------------------------------------------------------------------------------


def saved(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata)
    return path


def two(name: str, width: int = 128, rank: int = 4) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": torch.ones(rank, width), f"{name}.lora_B.weight": torch.ones(width, rank)}


QUERY = "diffusion_model.blocks.0.self_attn.q"
MODEL = ModelConfig(name="mini", num_layers=2, num_heads=4, hidden_size=128)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (two(QUERY, width=64), "64x64, which does not fit model=mini of width 128"),
        (two("diffusion_model.blocks.7.self_attn.q"), "changes block 7, model=mini has 2 blocks"),
        ({QUERY + ".diff_b": torch.ones(64)}, "bias is 64, which does not fit model=mini of width 128"),
        ({"diffusion_model.time_projection.1.diff_b": torch.ones(128)}, "time_proj.bias is 128, which does not fit"),
        (
            {**two(QUERY), f"{QUERY}.lora_down.weight": torch.ones(4, 128)},
            r"holds two adapters of one layer, .*self_attn\.q\.lora_A\.weight and .*self_attn\.q\.lora_down\.weight: export",
        ),
        (
            two(QUERY) | two("diffusion_model.blocks.1.self_attn.q") | two("diffusion_model.blocks.0.attn1.to_q"),
            r"looks like an adapter of ComfyUI, but some of its keys are unknown: .*attn1\.to_q",
        ),
        ({**two(QUERY), QUERY + ".diff": torch.zeros(0, 128)}, r"holds nothing \(its shape is \[0, 128\]\)"),
        (
            {f"{QUERY}.lora_A.weight": torch.ones(4, 128), f"{QUERY}.lora_B.weight": torch.ones(128, 3)},
            "do not fit each other",
        ),
        ({**two(QUERY), QUERY + ".alpha": torch.tensor(float("inf"))}, "holds numbers that are not finite"),
        ({**two(QUERY), QUERY + ".alpha": torch.ones(4)}, r"should be one number and has the shape \[4\]"),
        ({**two(QUERY), QUERY + ".dora_scale": torch.ones(5, 1)}, "the magnitude of .* has the shape"),
        ({name: tensor.bfloat16() * float("nan") for name, tensor in two(QUERY).items()}, "not finite"),
        ({name: tensor.half() * float("inf") for name, tensor in two(QUERY).items()}, "not finite"),
    ],
)
def test_what_does_not_fit_or_is_damaged_is_named_by_the_header(tensors: dict[str, Tensor], words: str, tmp_path: Path):
    path = saved(tmp_path / "mine.safetensors", tensors)
    with pytest.raises(AdapterError, match=words) as refused:
        judge_adapter(path, MODEL)
    assert str(refused.value).startswith(str(path))


def test_a_header_of_many_megabytes_is_called_so_and_not_read(tmp_path: Path):
    path = saved(tmp_path / "mine.safetensors", two(QUERY), {"said": "a" * 5_000_000})
    with pytest.raises(
        FileError, match=r"mine.safetensors has a header of 5,000,\d+ bytes, and none of more than 4,194,304"
    ):
        judge_adapter(path, MODEL)


@pytest.mark.parametrize("alpha", ["inf", "nan", "-16", "0", "1e38"])
def test_an_alpha_in_our_header_that_is_no_scale_is_refused(alpha: str, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    module = "blocks.0.attn1.to_q"
    state = {f"{module}.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    export_adapter(path, AdapterFile(state, LoraSpec(4, 8.0), "style"))
    tensors, metadata = load_tensors(path)
    save_file(tensors, path, metadata | {"alpha": alpha})
    with pytest.raises(AdapterError, match=r"a\.safetensors: a LoRA needs a rank of at least 1 and an alpha above 0"):
        judge_adapter(path)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), -1.0, 1e38])
def test_an_alpha_in_diffusers_header_likewise(alpha: float, tmp_path: Path):
    header = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": alpha})}
    path = saved(tmp_path / "a.safetensors", two("transformer.blocks.0.attn1.to_q"), header)
    with pytest.raises(AdapterError, match=r"a\.safetensors.* (an alpha above 0|is not a number that can be used)"):
        judge_adapter(path)


PEFT = {"transformer.r": 4, "transformer.lora_alpha": 8.0}
SLOW = ("(a+)+b", "(.|.)(.|.)", "(.*)*", ".*.*.*.*x", "a{1,9}", "[", "to_q|to_k", "(?:x)")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        *(({"alpha_pattern": {pattern: 4.0}}, "is not read: write the layers' names out") for pattern in SLOW),
        ({"alpha_pattern": {f".*{n}": 4.0 for n in range(40)}}, "is not read: write the layers' names out"),
        ({"alpha_pattern": {"to_q": "4"}}, "does not say r and lora_alpha"),
        ({"rank_pattern": ["to_q"]}, "does not say r and lora_alpha"),
        ({"rank_pattern": {"to_k": 0}}, "says a rank below 1"),
        ({"transformer.r": 0}, "says a rank below 1"),
    ],
)
def test_patterns_of_ranks_and_alphas_are_names_or_quick_expressions(
    header: dict[str, Any], words: str, tmp_path: Path
) -> None:
    said = {"lora_adapter_metadata": json.dumps(PEFT | header)}
    with pytest.raises(AdapterError, match=words):
        judge_adapter(saved(tmp_path / "a.safetensors", two("transformer.blocks.0.attn1.to_q"), said))


@pytest.mark.parametrize(
    "pattern",
    ["to_q", "attn1.to_q", r"attn1\.to_q$", "^blocks.0.attn1.to_q", r"blocks\.\d+\.attn1.*", "blocks.*q", "^blocks.*"],
)
def test_a_pattern_is_looked_for_as_peft_does(pattern: str, tmp_path: Path) -> None:
    said = {"lora_adapter_metadata": json.dumps(PEFT | {"alpha_pattern": {"attn2.to_q": 1.0, pattern: 3.0}})}
    path = saved(tmp_path / "a.safetensors", two("transformer.blocks.0.attn1.to_q"), said)
    assert [change.alpha for change in judge_adapter(path).changes] == [3.0]
    assert re.match(rf"(.*\.)?({pattern})$", "blocks.0.attn1.to_q")  # which is how peft does it


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("alpha", [0.0078125, 1.0, 3.0, 16.0, 448.0])
def test_an_alpha_is_the_number_that_torch_reads(dtype: torch.dtype, alpha: float, tmp_path: Path) -> None:
    stored = torch.tensor(alpha if dtype.is_floating_point else max(1, int(alpha))).to(dtype)
    path = saved(tmp_path / "a.safetensors", {**two(QUERY), QUERY + ".alpha": stored})
    assert [change.alpha for change in judge_adapter(path).changes] == [stored.double().item()]


@pytest.mark.parametrize(
    "changed",
    [
        *({"mark": mark} for mark in ("", " ", "folded", "\x1b", "folded a b")),
        *({"rank": rank} for rank in ("9" * 400, "9" * 5000, "0", "-1", "1048577")),
        *({"alpha": alpha} for alpha in ("1e400", "a" * 5000)),
        *({"dropout": dropout} for dropout in ("nan", "inf", "-1", "1")),
        {"format": "cinelora-adapter/" + "9" * 5000},
    ],
)
def test_our_header_made_up_is_judged_or_refused_in_a_sentence(changed: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {f"blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    export_adapter(path, AdapterFile(state, LoraSpec(4, 8.0), "style"))
    tensors, metadata = load_tensors(path)
    save_file(tensors, path, metadata | changed)
    if "mark" in changed:
        assert judge_adapter(path).marked is False
    else:
        with pytest.raises(AdapterError) as refused:
            judge_adapter(path)
        assert len(str(refused.value)) < 600


def test_names_that_no_transformer_has_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in (f"diffusion_model.blocks.{'9' * 5000}.self_attn.q", "diffusion_model." + "x" * 5000):
        with pytest.raises(AdapterError) as refused:
            judge_adapter(saved(tmp_path / "a.safetensors", two(name)))
        assert len(str(refused.value)) < 900
    lokr = {f"{QUERY}.lokr_w1": torch.ones(4, 4), f"{QUERY}.lokr_w2_a": torch.ones(4, 4)}
    with pytest.raises(AdapterError, match="do not fit each other"):
        judge_adapter(saved(tmp_path / "a.safetensors", lokr | {f"{QUERY}.lokr_w2_b": torch.tensor(1.0)}))


def test_a_trained_adapter_is_exported_with_a_mark_that_is_true(make_wan: MakeWan, tmp_path: Path):
    transformer = make_wan()
    add_adapter(transformer, "style", LoraSpec(3, 5.0), seed=0)
    adapter = AdapterFile(adapter_state(transformer, "style"), LoraSpec(3, 5.0), "style")
    for layout in ("comfy", "diffusers"):
        export_adapter(tmp_path / "a.safetensors", adapter, layout)  # type: ignore[arg-type]
        found = judge_adapter(tmp_path / "a.safetensors")
        assert found.marked is True
        assert found.spec == adapter.spec
