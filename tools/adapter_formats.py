"""The table of adapter formats in ``docs/adapters.md``, made from files that this script writes and reads.

    python -m tools.adapter_formats            # prints the table
    python -m tools.adapter_formats --write    # puts it into docs/adapters.md

Each example is a file as a tool writes it, and what it does to the weights, worked out here in float64 by the formula of its
method. "yes" stands in the table where the file was read and does just that; a refusal shows the sentence that a user gets.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter, read_adapter
from cinelora.adapters.resize_rank import at_rank
from cinelora.config.schema import LoraSpec
from cinelora.errors import CineloraError

DOCS = Path(__file__).parents[1] / "docs" / "adapters.md"
BEGIN, END = "<!-- formats: made by tools/adapter_formats.py -->", "<!-- formats end -->"
WIDTH, RANK = 6, 4
QUERY, KEY, OUT = "blocks.0.attn2.to_q", "blocks.0.attn2.to_k", "blocks.0.attn2.to_out.0"
CLOSE = 1e-5
"""Relative to the largest value: the update was rounded to float32 a few times."""
Named = dict[str, Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Values that depend on shape and seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def base_weight(parameter: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that an example's change is worked out on."""
    return draw(*shape, seed=len(parameter)) + 0.5


@dataclass(frozen=True)
class Example:
    """A file as a tool writes it; ``changes`` are its updates by parameter, none where the file should be refused."""

    who: str
    tensors: Named
    scale: str
    changes: Named = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    beside: dict[str, Any] | None = None
    file: str = "adapter.safetensors"

    def write(self, folder: Path) -> Path:
        """The file, and peft's settings beside it where it has some."""
        path = folder / self.file
        save_file({key: tensor.contiguous() for key, tensor in self.tensors.items()}, path, self.metadata or None)
        if self.beside is not None:
            (folder / "adapter_config.json").write_text(json.dumps(self.beside))
        return path


# -- what is in a file -------------------------------------------------------------------------------------------------


def pair(
    module: str, name: str, rank: int = RANK, ends: tuple[str, str] = ("lora_A", "lora_B")
) -> tuple[Named, Tensor]:
    """The factors of a layer under a tool's ``name``, and their product in float64."""
    down, up = draw(rank, WIDTH, seed=len(module)), draw(WIDTH, rank, seed=len(module) + 1)
    return {f"{name}.{ends[0]}.weight": down, f"{name}.{ends[1]}.weight": up}, up.double() @ down.double()


def plain(
    who: str,
    name: str,
    scale: str,
    alpha: float | None = None,
    ends: tuple[str, str] = ("lora_A", "lora_B"),
    worth: float | None = None,
    **about: Any,
) -> Example:
    """One pair on ``QUERY``; ``worth`` is its scale where no ``.alpha`` says it."""
    tensors, product = pair(QUERY, name, ends=ends)
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    factor = worth if worth is not None else 1.0 if alpha is None else alpha / RANK
    return Example(who, tensors, scale, {f"{QUERY}.weight": factor * product}, **about)


def refused(who: str, key: str, *shape: int, dtype: torch.dtype = torch.float32, **about: Any) -> Example:
    """A file that holds one tensor that is not read."""
    return Example(who, {key: draw(*(shape or (RANK, WIDTH))).to(dtype)}, "", **about)


def decomposed(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's update by row: ``m (W + change) / |W + change| - W``."""
    changed = weight.double() + change
    update: Tensor = changed * (magnitude.double().reshape(-1, 1) / changed.norm(dim=1, keepdim=True)) - weight.double()
    return update


DOWN_UP = ("lora_down", "lora_up")
PEFT = {"r": RANK, "lora_alpha": 8}


def peft_header(**more: Any) -> dict[str, str]:
    """The header that diffusers writes."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in (PEFT | more).items()})}


# -- the examples ------------------------------------------------------------------------------------------------------


def ours(alpha: float = 8.0) -> AdapterFile:
    """An adapter of this project."""
    tensors, _ = pair(QUERY, QUERY)
    origin: dict[str, Any] = {"base_model": "tiny", "base_revision": "0", "data_hash": "0", "config": {}}
    return AdapterFile(tensors, LoraSpec(RANK, alpha), "style", **origin)


def exported(adapter: AdapterFile, layout: Any = "comfy") -> tuple[Named, dict[str, str]]:
    """The tensors and the header of an export."""
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        export_adapter(path, adapter, layout)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def own_examples() -> Iterator[Example]:
    """Exports, and what other tools make of them."""
    twice = {f"{QUERY}.weight": 2 * pair(QUERY, QUERY)[1]}
    comfy, header = exported(ours())
    diffusers, their_header = exported(ours(), "diffusers")
    yield Example("cinelora", comfy, "alpha / rank is folded into B", twice, header)
    old = {key: text for key, text in header.items() if key != "mark"}
    yield Example("cinelora 0.1", comfy, "the same", twice, old)
    yield Example("cinelora, in diffusers' layout", diffusers, "its header", twice, their_header)
    converted = {
        key.replace("diffusion_model.blocks.0.cross_attn.q", "lora_unet_blocks_0_cross_attn_q")
        .replace("lora_A", "lora_down")
        .replace("lora_B", "lora_up"): tensor
        for key, tensor in comfy.items()
    }
    converted["lora_unet_blocks_0_cross_attn_q.alpha"] = torch.tensor(float(RANK))
    yield Example(
        "cinelora, by musubi's converter", converted, "`.alpha` / rank; our header is not asked", twice, header
    )
    smaller, _ = exported(at_rank(ours(), 2))
    down, up = (smaller[f"diffusion_model.blocks.0.cross_attn.q.lora_{factor}.weight"].double() for factor in "AB")
    truth = up @ down
    yield Example(
        "cinelora, resized elsewhere", smaller, "1; our header is not asked", {f"{QUERY}.weight": truth}, header
    )
    yield Example(
        "cinelora, with an alpha put in", comfy | {"diffusion_model.blocks.0.cross_attn.q.alpha": torch.tensor(2.0)}, "",
        metadata=header,
    )  # fmt: skip


def named_examples() -> Iterator[Example]:
    """Plain LoRA under the names of each tool."""
    convention, alpha = "1", "`.alpha` / rank, 1 without"
    query, theirs, flat = "blocks.0.cross_attn.q", "blocks.0.attn2.to_q", "blocks_0_cross_attn_q"
    yield plain("diffusion-pipe, ai-toolkit, ComfyUI", f"diffusion_model.{query}", convention)
    yield plain("ComfyUI", f"diffusion_model.{query}", alpha, 2.0, DOWN_UP)
    yield plain("ComfyUI, by diffusers' names", f"diffusion_model.{theirs}", alpha, 2.0)
    yield plain("ComfyUI, whole checkpoints", f"model.diffusion_model.{query}", convention)
    yield plain("musubi-tuner", f"lora_unet_{flat}", alpha, 1.0, DOWN_UP)
    yield plain("musubi-tuner, by diffusers' names", "lora_unet_blocks_0_attn2_to_q", alpha, 1.0, DOWN_UP)
    yield plain("VideoX-Fun", f"lora_unet__{flat}", alpha, 2.0, DOWN_UP)
    yield plain("LyCORIS", f"lycoris_{flat}", alpha, 2.0, DOWN_UP)
    yield plain("SimpleTuner's LyCORIS", "lycoris_blocks_0_attn2_to_q", alpha, 2.0, DOWN_UP)
    yield plain("DiffSynth", query, convention, ends=("lora_A.default", "lora_B.default"))
    yield plain("DiffSynth, of a pipeline", f"pipe.dit.{query}", convention)
    yield plain("DiffSynth, with alpha", query, alpha, 2.0)
    yield plain("diffusers", f"transformer.{theirs}", "its header", worth=2.0, metadata=peft_header())
    yield plain("diffusers, without a header", f"transformer.{theirs}", "1, which a line says")
    yield plain("diffusers, with `.alpha`", f"transformer.{theirs}", "`.alpha` / rank", 2.0)
    header = peft_header()
    yield plain(
        "diffusers, by the checkpoint's names", f"transformer.{query}", "its header", worth=2.0, metadata=header
    )
    yield plain("diffusers, of a transformer alone", theirs, "its header", worth=2.0, metadata=header)
    yield plain("diffusers, of a transformer alone, without a header", theirs, "1, which a line says")
    peft: dict[str, Any] = {"file": "adapter_model.safetensors", "beside": PEFT}
    yield plain("a folder of peft", f"base_model.model.{theirs}", "adapter_config.json", worth=2.0, **peft)
    yield plain("peft without its adapter_config.json", f"base_model.model.{theirs}", "", file=str(peft["file"]))
    equal: dict[str, Any] = {**peft, "beside": PEFT | {"lora_alpha": RANK}}
    yield plain(
        "a folder of diffusion-pipe", f"diffusion_model.{query}", "1, which adapter_config.json has to say too", **equal
    )


def scaled_examples() -> Iterator[Example]:
    """Ranks and alphas that differ, and other rules of the scale."""
    query = "transformer.blocks.0.attn2.to_q"
    yield plain(
        "rsLoRA", query, "alpha / root of the rank", worth=8 / math.sqrt(RANK), metadata=peft_header(use_rslora=True)
    )
    pattern = peft_header(alpha_pattern={"to_q": 12})
    yield plain("peft's alpha_pattern and rank_pattern", query, "its header", worth=12 / RANK, metadata=pattern)
    tensors: Named = {}
    changes: Named = {}
    for module, name, rank, alpha in ((QUERY, "q", 4, 2.0), (KEY, "k", 2, 8.0)):
        both, product = pair(module, f"lora_unet_blocks_0_cross_attn_{name}", rank, DOWN_UP)
        tensors |= both | {f"lora_unet_blocks_0_cross_attn_{name}.alpha": torch.tensor(alpha)}
        changes[f"{module}.weight"] = alpha / rank * product
    yield Example(
        "several ranks and alphas", tensors, "`.alpha` / rank of each; filled up to the largest rank", changes
    )
    yield plain("a header of another rank", query, "", metadata=peft_header(r=8))
    yield plain("alpha not a number", "lora_unet_blocks_0_cross_attn_q", "", math.nan, DOWN_UP)
    yield plain("alpha below zero", "lora_unet_blocks_0_cross_attn_q", "", -4.0, DOWN_UP)
    yield plain("alpha of 1e38", "lora_unet_blocks_0_cross_attn_q", "", 1e38, DOWN_UP)


def other_methods() -> Iterator[Example]:
    """Updates that are no pair of factors: they change the weights, at any scale."""
    weight, name = base_weight(f"{QUERY}.weight", (WIDTH, WIDTH)), "diffusion_model.blocks.0.cross_attn.q"
    parameter, magnitude = f"{QUERY}.weight", draw(WIDTH, 1, seed=3).abs() + 1
    tensors, product = pair(QUERY, name, ends=DOWN_UP)
    tensors |= {f"{name}.alpha": torch.tensor(2.0), f"{name}.dora_scale": magnitude}
    change = decomposed(weight, product * 2 / RANK, magnitude)
    yield Example(
        "DoRA of LyCORIS, musubi, ComfyUI", tensors, "`.alpha` / rank, then the magnitude", {parameter: change}
    )
    theirs = "base_model.model.blocks.0.attn2.to_q"
    tensors, product = pair(QUERY, theirs)
    tensors[f"{theirs}.lora_magnitude_vector"] = magnitude.flatten()
    facts: dict[str, Any] = {"file": "adapter_model.safetensors", "beside": PEFT | {"use_dora": True}}
    change = decomposed(weight, product * 2, magnitude)
    yield Example("DoRA of peft", tensors, "adapter_config.json, then the magnitude", {parameter: change}, **facts)
    name = "lycoris_blocks_0_cross_attn_q"
    parts = {
        f"hada_w{n}_{end}": draw(*((WIDTH, 2) if end == "a" else (2, WIDTH)), seed=n) for n in (1, 2) for end in "ab"
    }
    product = (parts["hada_w1_a"].double() @ parts["hada_w1_b"].double()) * (
        parts["hada_w2_a"].double() @ parts["hada_w2_b"].double()
    )
    tensors = {f"{name}.{part}": tensor for part, tensor in parts.items()} | {f"{name}.alpha": torch.tensor(1.0)}
    yield Example("LoHa", tensors, "`.alpha` / rank", {parameter: product / 2})
    whole, left, right = draw(2, 2), draw(3, 1, seed=1), draw(1, 3, seed=2)
    product = torch.kron(whole.double(), left.double() @ right.double())
    tensors = {f"{name}.lokr_w1": whole, f"{name}.lokr_w2_a": left, f"{name}.lokr_w2_b": right}
    tensors[f"{name}.alpha"] = torch.tensor(0.5)
    yield Example("LoKr", tensors, "`.alpha` / rank of the smaller factors", {parameter: product / 2})
    tensors = {f"{name}.lokr_w1": whole, f"{name}.lokr_w2": draw(3, 3), f"{name}.alpha": torch.tensor(0.5)}
    product = torch.kron(whole.double(), draw(3, 3).double())
    yield Example("LoKr of whole factors", tensors, "1, whatever `.alpha` says", {parameter: product})


def distilled_examples() -> Iterator[Example]:
    """What step-distilled adapters hold beside their factors."""
    name = "diffusion_model.blocks.0.cross_attn.q"
    tensors, product = pair(QUERY, name, ends=DOWN_UP)
    vectors = {
        f"{name}.diff_b": f"{QUERY}.bias",
        "diffusion_model.blocks.0.cross_attn.norm_q.diff": "blocks.0.attn2.norm_q.weight",
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
    }
    tensors |= {key: draw(WIDTH, seed=len(key)) for key in vectors}
    changes = {vectors[key]: tensors[key].double() for key in vectors} | {f"{QUERY}.weight": product}
    tensors["diffusion_model.blocks.0.diff_m"] = draw(1, 6, WIDTH)
    changes["blocks.0.scale_shift_table"] = draw(1, 6, WIDTH).double()
    yield Example("lightx2v, distilled", tensors, "1; differences as they are", changes)
    tensors, changes = {}, {}
    for key, module in (("time_embedding.0", "time_embedder.linear_1"), ("text_embedding.2", "text_embedder.linear_2")):
        parameter = f"condition_embedder.{module}"
        both, product = pair(parameter, f"diffusion_model.{key}", ends=DOWN_UP)
        tensors |= both | {f"diffusion_model.{key}.diff_b": draw(WIDTH)}
        changes |= {f"{parameter}.weight": product, f"{parameter}.bias": draw(WIDTH).double()}
    tensors["diffusion_model.patch_embedding.diff"] = draw(WIDTH, 16, 1, 2, 2)
    tensors["diffusion_model.head.head.diff"] = draw(64, WIDTH)
    changes |= {
        "patch_embedding.weight": draw(WIDTH, 16, 1, 2, 2).double(),
        "proj_out.weight": draw(64, WIDTH).double(),
    }
    yield Example("CausVid, AccVideo", tensors, "1; differences as they are", changes)


def foreign_examples() -> Iterator[Example]:
    """What is not read, and is said to be."""
    yield refused("HunyuanVideo", "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight")
    yield refused("Flux", "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight")
    yield refused("LTX-Video, CogVideoX, Qwen-Image", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight")
    yield refused("Stable Diffusion, of convolutions", "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight")
    yield refused("Wan VACE", "diffusion_model.vace_blocks.0.cross_attn.q.lora_A.weight")
    yield refused("Nunchaku", "blocks.0.cross_attn.q.qweight")
    yield refused("OFT", "lycoris_blocks_0_cross_attn_q.oft_blocks")
    yield refused("LoHa with Tucker factors", "lycoris_blocks_0_cross_attn_q.hada_t1")
    tensors, _ = pair(QUERY, "diffusion_model.blocks.0.cross_attn.q")
    int8 = {key: (tensor * 9).to(torch.int8) for key, tensor in tensors.items()}
    yield Example("factors in int8", int8, "")
    yield refused("half a pair", "diffusion_model.blocks.0.cross_attn.q.lora_A.weight")
    yield refused("a whole transformer", "blocks.0.cross_attn.q.weight", WIDTH, WIDTH)
    yield refused("a pickle", "blocks.0.cross_attn.q.lora_A.weight", file="adapter.pt")


def examples() -> list[Example]:
    """Every one, in the order of the table."""
    makers: tuple[Callable[[], Iterator[Example]], ...] = (
        own_examples, named_examples, scaled_examples, other_methods, distilled_examples, foreign_examples,
    )  # fmt: skip
    return [example for maker in makers for example in maker()]


# -- reading them ------------------------------------------------------------------------------------------------------


def updates(adapter: AdapterFile) -> Named:
    """What an adapter adds to each parameter, by the factors and the deltas that were read."""
    found: Named = {}
    for module in adapter.modules:
        down, up = (adapter.state[f"{module}.lora_{factor}.weight"].double() for factor in "AB")
        found[f"{module}.weight"] = adapter.spec.scale * up @ down
    for parameter, deltas in adapter.deltas.items():
        weight = base_weight(parameter, deltas[0].shape)
        found[parameter] = found.get(parameter, torch.zeros(())) + sum(delta.change(weight) for delta in deltas)
    return found


def apart(found: Named, wanted: Named) -> float:
    """The largest difference, relative to the largest value; infinite where other parameters are changed."""
    if found.keys() != wanted.keys():
        return math.inf
    pairs = [(found[name].double(), wanted[name]) for name in wanted]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def outcome(example: Example, folder: Path) -> str:
    """``yes`` or the sentence of the refusal; raises ``AssertionError`` where a file does what it should not."""
    path = example.write(folder)
    try:
        found = updates(read_adapter(path))
    except CineloraError as error:
        # a way out that is certain from the file alone: no path, no name of this machine
        return str(error).removeprefix(f"{path}").lstrip(": ")
    assert apart(found, example.changes) < CLOSE, f"{example.who}: {found} instead of {example.changes}"
    return "yes"


def row(example: Example) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        said = outcome(example, Path(folder))
    key = next(iter(example.tensors))
    read, scale, way = ("yes", example.scale, "") if said == "yes" else ("no", "", said)
    return f"| {example.who} | `{key}` | {read} | {scale} | {way} |"


def table() -> str:
    """The table in Markdown."""
    head = ["| written by | such as | read | scale | why not, and what to do |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(row, examples())])


def with_table(text: str) -> str:
    """``docs/adapters.md`` with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Print the table, or write it."""
    if "--write" in sys.argv:
        DOCS.write_text(with_table(DOCS.read_text()))
    else:
        print(table())


if __name__ == "__main__":
    main()
