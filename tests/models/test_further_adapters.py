"""Any number of adapters at once: the weights are W and the sum of all changes, in any order, live and merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composed import compose_infer
from diffusers import WanTransformer3DModel
from rounding import LAYERS, units
from safetensors.torch import save_file
from torch import Tensor

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.lora_layers import load_adapter
from cinelora.cli.preflight import check_infer
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import InferConfig, ModelConfig, ScaleConfig
from cinelora.errors import CineloraError
from cinelora.sampling.sampler import acting

MakeWan = Callable[..., WanTransformer3DModel]
RunWan = Callable[[WanTransformer3DModel], Tensor]
MODEL = ModelConfig(name="mini", num_layers=2, num_heads=4, hidden_size=128)

PAIRS = {
    "blocks.0.attn1.to_q.weight": "blocks.0.self_attn.q",
    "blocks.1.ffn.net.0.proj.weight": "blocks.1.ffn.0",
    "condition_embedder.time_embedder.linear_2.weight": "time_embedding.2",
    "proj_out.weight": "head.head",
}
DIFFERENCES = {
    "blocks.0.attn1.to_q.bias": "blocks.0.self_attn.q.diff_b",
    "blocks.1.norm2.weight": "blocks.1.norm3.diff",
    "patch_embedding.bias": "patch_embedding.diff_b",
}
"""What a step-distilled adapter changes: projections, layers outside the blocks, biases and norms; by both their names."""


def distilled(path: Path, transformer: WanTransformer3DModel, seed: int) -> dict[str, Tensor]:
    """Write an adapter as lightx2v does, of rank 2 and alpha 4; the change of each parameter, float64."""
    generator, parameters = torch.Generator().manual_seed(seed), dict(transformer.named_parameters())
    tensors, changes = dict[str, Tensor](), dict[str, Tensor]()
    for ours, theirs in PAIRS.items():
        rows, columns = parameters[ours].shape
        down, up = (torch.randn(size, generator=generator) * 0.05 for size in ((2, columns), (rows, 2)))
        names = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(4.0)}
        tensors |= {f"diffusion_model.{theirs}.{name}": tensor for name, tensor in names.items()}
        changes[ours] = 2 * up.double() @ down.double()
    for ours, theirs in DIFFERENCES.items():
        tensors[f"diffusion_model.{theirs}"] = torch.randn(parameters[ours].shape, generator=generator) * 0.02
        changes[ours] = tensors[f"diffusion_model.{theirs}"].double()
    save_file(tensors, path)
    return changes


def drawn_by(words: list[str], transformer: WanTransformer3DModel, run_wan: RunWan, live: bool) -> Tensor:
    """The velocity with the adapters of ``words``, after which the transformer is as it was."""
    config = InferConfig(model=MODEL, mode="t2v", adapters=words)
    request = ClipRequest.with_files(config, {}, further_adapters(config))
    scales = request.scales_on("t2v", ScaleConfig(), request.adapters)
    before = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    for name, path in request.adapters.items():
        load_adapter(transformer, name, read_adapter(path), "mini", changed_now=False)
    with acting(transformer, scales, live, again=True):
        velocity = run_wan(transformer)
    with acting(transformer, {}, live, again=True):
        after = {name.replace(".base_layer", ""): value for name, value in transformer.named_parameters()}
        assert all(torch.equal(after[name], before[name]) for name in before)
    return velocity


def summed(transformer: WanTransformer3DModel, changes: list[tuple[dict[str, Tensor], float]]) -> WanTransformer3DModel:
    for name, parameter in transformer.named_parameters():
        total = sum((scale * change[name] for change, scale in changes if name in change), parameter.double())
        parameter.copy_(total)
    return transformer


@torch.no_grad()
@pytest.mark.parametrize("live", [True, False])
def test_adapters_add_up(live: bool, make_wan: MakeWan, run_wan: RunWan, tmp_path: Path):
    """One of them at 0.8 twice is 1.6 of it; two files of one name are two; the order does not even change a bit."""
    (tmp_path / "other").mkdir()
    first, second = tmp_path / "same@0.3.safetensors", tmp_path / "other" / "same@0.3.safetensors"
    changes = [distilled(path, make_wan(), seed) for seed, path in enumerate((first, second))]
    words = [f"{first}@0.8", f"{second}@-0.5", f"{first}@0.8"]
    found = drawn_by(words, make_wan(), run_wan, live)
    expected = run_wan(summed(make_wan(), [(changes[0], 1.6), (changes[1], -0.5)]))
    assert units(found, expected) <= LAYERS
    assert units(run_wan(make_wan()), expected) > 100 * LAYERS
    assert torch.equal(drawn_by(words[::-1], make_wan(), run_wan, live), found)


@torch.no_grad()
def test_thirty_adapters_are_thirty(make_wan: MakeWan, run_wan: RunWan, tmp_path: Path):
    changes = [distilled(tmp_path / f"a{seed}.safetensors", make_wan(), seed) for seed in range(30)]
    words = [f"{tmp_path}/a{seed}.safetensors@0.1" for seed in range(30)]
    expected = run_wan(summed(make_wan(), [(change, 0.1) for change in changes]))
    for live in (True, False):
        assert units(drawn_by(words, make_wan(), run_wan, live), expected) <= LAYERS


# -- where each acts ---------------------------------------------------------------------------------------------------

QUERY = "diffusion_model.blocks.0.self_attn.q"
IMAGE_KEY = "diffusion_model.blocks.0.cross_attn.k_img"


def two(name: str, width: int = 192) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": torch.ones(4, width), f"{name}.lora_B.weight": torch.ones(width, 4)}


def patch(channels: int) -> dict[str, Tensor]:
    return {**two(QUERY), "diffusion_model.patch_embedding.diff": torch.ones(192, channels, 1, 2, 2)}


KINDS = {"both": two(QUERY), "i2v": two(IMAGE_KEY), "t2v": patch(16), "wide": patch(36)}


@pytest.mark.parametrize(
    ("kind", "part", "settings", "scales"),
    [
        ("both", "", {}, (0.5, 0.5)),
        ("both", ":clip", {}, (0.0, 0.5)),
        ("both", ":keyframe", {}, (0.5, 0.0)),
        ("both", "", {"mode": "t2v"}, (0.0, 0.5)),
        ("both", "", {"image": "p.png"}, (0.0, 0.5)),
        ("i2v", "", {}, (0.0, 0.5)),
        ("i2v", ":keyframe", {}, (0.5, 0.0)),
        ("i2v", ":clip", {"mode": "t2v"}, (0.0, 0.5)),
        ("wide", "", {}, (0.0, 0.5)),
        ("t2v", "", {}, (0.5, 0.0)),
        ("t2v", "", {"mode": "t2v"}, (0.0, 0.5)),
        ("i2v", "", {"mode": "t2v"}, "an adapter of i2v, and this makes the clip by t2v: choose another mode="),
        ("t2v", "", {"image": "p.png"}, "an adapter of t2v, and this makes the clip by i2v"),
        ("both", ":keyframe", {"mode": "t2v"}, "no keyframe is made here, the clip by t2v alone: leave :keyframe away"),
        ("t2v", ":clip", {}, "a patch embedding of 16 channels, that of i2v, which makes the clip, has 36"),
        ("wide", ":keyframe", {}, "a patch embedding of 36 channels, that of t2v, which makes the keyframe, has 16"),
    ],
)
def test_an_adapter_acts_where_it_fits_or_is_put(
    kind: str, part: str, settings: dict[str, str], scales: tuple[float, float] | str, tmp_path: Path
):
    path = tmp_path / "mine.safetensors"
    save_file(KINDS[kind], path)
    config = InferConfig(prompt="x", adapters=[f"{path}@0.5{part}"], **settings)
    if isinstance(scales, str):
        with pytest.raises(CineloraError, match=scales):
            further_adapters(config)
        return
    (found,) = further_adapters(config).values()
    assert (found.keyframe, found.clip) == scales


# -- what is refused before a text is encoded --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (two(QUERY, width=64), "is 64x64, which does not fit model=tiny of width 192"),
        (two("diffusion_model.blocks.9.self_attn.q"), "changes block 9, model=tiny has 6 blocks"),
        (two("transformer.single_transformer_blocks.0.attn.to_q"), "HunyuanVideo or Flux, and not of Wan"),
        ({**two(QUERY), f"{QUERY}.diff_b": torch.full((192,), float("inf"))}, "holds numbers that are not finite"),
        (None, "there is no .*mine.safetensors"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(tensors: dict[str, Tensor] | None, words: str, tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(CineloraError, match=words) as refused:
        check_infer(compose_infer([f"adapters=[embedded:distilled,{path}@0.5]", "prompt=x"]))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("scale", ["nan", "1e38", "-11"])
def test_a_scale_that_is_none_is_refused(scale: str):
    with pytest.raises(CineloraError, match=f"a scale is a number from -10 to 10, not {scale}"):
        compose_infer([f"adapters=[embedded:distilled@{scale}]", "prompt=x"])


def test_an_empty_list_is_none():
    config = compose_infer(["adapters=[]", "prompt=x"])
    assert (config.adapters, further_adapters(config)) == ([], {})
    assert any("no ckpt=: the clips are the base model's" in line for line in check_infer(config))


# -- few steps ---------------------------------------------------------------------------------------------------------

FEW = ["sampler=distilled_4", "prompt=x"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["adapters=[embedded:distilled]", *FEW], ["the keyframe is made in all steps, with sampler=unipc"]),
        (
            ["adapters=[embedded:distilled]", "prompt=x"],
            ["sampler.guidance=5 and sampler.steps=40 the clip takes longer"],
        ),
        (
            ["adapters=[embedded:distilled]", *FEW, "sampler.steps=30"],
            ["and sampler.steps=30 the clip takes", "in all steps"],
        ),
        (["adapters=[embedded:distilled@0]", *FEW], ["no such adapter acts on the clip"]),
        (FEW, ["sampler.steps=4 with sampler.guidance=1 is for step-distilled models and adapters"]),
        (["prompt=x", "sampler.steps=4"], []),
    ],
)
def test_few_steps_and_distilled_adapters_belong_together(argv: list[str], words: list[str]):
    lines = [line for line in check_infer(compose_infer(argv)) if "distill" in line]
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


@pytest.mark.parametrize(
    "name", ["Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32", "Wan21_CausVid_bidirect2", "AccVid_I2V"]
)
def test_well_known_names_are_distilled_at_their_shift(name: str, tmp_path: Path):
    path = tmp_path / f"{name}.safetensors"
    save_file(two(QUERY), path)
    config = compose_infer([f"adapters=[{path}]", *FEW])
    request = ClipRequest(config, further=further_adapters(config))
    assert (request.clip_sampler.shift, request.keyframe_sampler.shift) == (5.0, 5.0)
    typed = compose_infer([f"adapters=[{path}]", *FEW, "sampler.shift=7"])
    request = ClipRequest(typed, further=further_adapters(typed))
    assert (request.clip_sampler.shift, request.keyframe_sampler.shift) == (7.0, 7.0)


def test_several_shifts_are_said_unless_one_is_typed(tmp_path: Path):
    path = tmp_path / "lightx2v.safetensors"
    save_file(two(QUERY), path)
    for typed, count in (([], 1), (["sampler.shift=4"], 0)):
        lines = check_infer(compose_infer([f"adapters=[embedded:distilled,{path}]", *FEW, *typed]))
        said = [
            line
            for line in lines
            if line.startswith("the clip is made at sigma shift 3: its adapters were distilled at")
        ]
        assert len(said) == count
        assert all("(distilled.safetensors at 3, lightx2v.safetensors at 5)" in line for line in said)


def test_the_keyframe_is_made_in_full_where_few_steps_are_the_clips_alone():
    config = compose_infer(["adapters=[embedded:distilled]", *FEW])
    request = ClipRequest(config, further=further_adapters(config))
    clip, keyframe = request.clip_sampler, request.keyframe_sampler
    assert (clip.name, clip.steps, clip.guidance, clip.shift) == ("euler", 4, 1.0, 3.0)
    assert (keyframe.name, keyframe.steps, keyframe.guidance, keyframe.shift) == ("unipc", 40, 5.0, None)
