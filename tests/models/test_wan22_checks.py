"""What is said of Wan2.2's files before anything is loaded, and which of its settings go together."""

from __future__ import annotations

import copy
import functools
import itertools
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composed import compose_infer
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from cinelora.cli.compose import compose_train
from cinelora.cli.one_run import planned
from cinelora.cli.preflight import check_infer, check_train
from cinelora.cli.programs import PROGRAMS
from cinelora.config.fields import assign
from cinelora.config.rules import refuse
from cinelora.config.shipped import values
from cinelora.config.unread import unread_lines
from cinelora.errors import ConfigError
from cinelora.families.wan.random_members import I2V, TI2V, TRANSFORMER

A14B, TI2V_5B = "model=tiny_wan22_a14b", "model=tiny_wan22_5b"
NAMES = {
    "high": ("wan2.2_t2v_high_noise_14B_fp16", TRANSFORMER),
    "low": ("wan2.2_t2v_low_noise_14B_fp16", TRANSFORMER),
    "older": ("wan2.1_t2v_14B_bf16", TRANSFORMER),
    "i2v": ("wan2.2_i2v_high_noise_14B_fp16", I2V),
    "older_i2v": ("wan2.1_i2v_480p_14B_bf16", {**I2V, "image_dim": 96, "added_kv_proj_dim": 96}),
    "5b": ("wan2.2_ti2v_5B_fp16", TI2V),
}
"""Single files as ComfyUI has them, in small."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Transformers, each a file of its own; ``again`` is the high-noise one under another name."""
    folder, found = tmp_path_factory.mktemp("experts"), {}
    for seed, (short, (name, settings)) in enumerate(NAMES.items()):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(**settings)
        found[short] = str(folder / f"{name}.safetensors")
        save_file({key: value.contiguous() for key, value in transformer.state_dict().items()}, found[short])
    found["again"] = shutil.copy(found["high"], folder / "mine.safetensors")
    return found


def infer(*words: str) -> list[str]:
    return check_infer(compose_infer(["prompt=x", *words]))


def train(*words: str) -> list[str]:
    return check_train(compose_train(["stage=style", f"data.root={Path.cwd()}", "data=folder", *words]))


def given(files: dict[str, str], high: str = "", low: str = "", whole: str | None = None) -> list[str]:
    keys = {
        "t2v": files.get(whole, "") if whole is not None else None,
        "t2v_high": files.get(high),
        "t2v_low": files.get(low),
    }
    return [A14B, "mode=t2v", *(f"model.{key}={value}" for key, value in keys.items() if value is not None)]


@pytest.mark.parametrize(
    ("high", "low", "said"),
    [
        ("high", "low", None),
        ("low", "high", r"WARNING: model.t2v: the experts look swapped: .*low_noise_14B.* is given as high_noise"),
        ("older", "low", r"WARNING: model.t2v: .*wan2.1_t2v.* is given as high_noise, and its name says Wan2.1"),
        ("high", "", r"model.t2v_low is not given: that expert is taken from model.t2v=embedded:tiny-wan22-t2v-a14b"),
        ("", "low", r"model.t2v_high is not given: that expert is taken from model.t2v=embedded:tiny-wan22-t2v-a14b"),
    ],
)
def test_what_names_say_of_experts_is_said(files: dict[str, str], high: str, low: str, said: str | None) -> None:
    about = [line for line in infer(*given(files, high, low)) if "model.t2v" in line]
    if said is None:
        assert about == []
    else:
        [line] = about
        assert re.match(said, line)


REFUSED = [
    (("high", "again", None), r"model.t2v: both experts are the same weights .*high noise and low noise are two files"),
    (
        ("high", "", ""),
        r"model.t2v_low is not given, but the other expert is: .*give both, or model.t2v=<the folder or repository",
    ),
    (("", "low", ""), "model.t2v_high is not given, but the other expert is"),
    (("", "", ""), "model.t2v is empty: give model.t2v=<checkpoint>"),
    (
        ("high", "low", ""),
        "model.t2v is empty, and no other setting says where text_encoder, tokenizer, vae are: add model.text_",
    ),
    (
        ("", "", "high"),
        r"model.t2v=.*high_noise.* is one transformer, and t2v of tiny_wan22_a14b is two experts: give model.t2v_high=<file> "
        r"and model.t2v_low=<file>; by its name it is high_noise",
    ),
    (("", "", "older"), "is one transformer, and t2v of tiny_wan22_a14b is two experts"),
    (("i2v", "low", None), "this is the image-to-video transformer.*give it as model.i2v_high or model.i2v_low"),
    (("older_i2v", "low", None), "this is the image-to-video transformer of Wan2.1"),
    (
        ("5b", "low", None),
        "takes 48 channels .*t2v of model=tiny_wan22_a14b takes 16 channels; choose model=tiny_wan22_5b",
    ),
]


@pytest.mark.parametrize(("names", "sentence"), REFUSED)
def test_what_no_two_experts_can_be_is_refused(
    files: dict[str, str], names: tuple[str, str, str | None], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        infer(*given(files, *names))
    assert "\n" not in str(refused.value)


def test_an_expert_given_as_the_one_transformer_of_another_model_is_named(files: dict[str, str]) -> None:
    for words, way_out in (
        ([TI2V_5B, "mode=t2v", f"model.t2v={files['high']}"], "choose model=tiny_wan22_a14b"),
        ([TI2V_5B, "mode=t2v", f"model.t2v={files['i2v']}"], "choose model=tiny_wan22_a14b"),
        (["model=tiny", "mode=t2v", f"model.t2v={files['5b']}"], "choose model=tiny_wan22_5b"),
    ):
        with pytest.raises(ConfigError, match=way_out):
            infer(*words)


def test_a_run_of_one_expert_needs_that_one_alone(files: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = [f"model.{part}=embedded:tiny-wan22-t2v-a14b" for part in ("vae", "text_encoder", "tokenizer")]
    alone = [A14B, "model.t2v=", f"model.t2v_high={files['high']}", *others]
    assert train(*alone, "stage.expert=high")
    assert train(A14B, f"model.t2v={files['high']}", "stage.expert=high", *others)
    for expert in ("low", "both"):
        with pytest.raises(ConfigError, match=r"model.t2v_low is not given.* or stage.expert=high"):
            train(*alone, f"stage.expert={expert}")
    [line] = [line for line in train(A14B, f"model.t2v_high={files['low']}", "stage.expert=high") if "WARN" in line]
    assert "is given as high_noise, and its name says low_noise" in line


def test_what_experts_are_not_there_for_is_not_read(tmp_path: Path) -> None:
    typed = {"stage.expert": "high", "stage.high_steps": "4", "optimizer.low_lr": "1e-4", "model.t2v_low": "x"}
    data = ["stage=style", "data=noir"]
    found = [unread_lines(compose_train([*data, *words]), typed) for words in ([], [A14B], [A14B, "stage.expert=high"])]
    assert [len(lines) for lines in found] == [4, 0, 2]
    assert all(line.endswith("each network of model=tiny is one transformer, without experts") for line in found[0])
    assert all(line.endswith("stage.expert=high leaves the low-noise expert out") for line in found[2])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["model=wan22_5b", "model.height=80", "model.width=112"],
            "model.height=80: wants a multiple of 32, such as 64",
        ),
        ([TI2V_5B, "model.width=112"], "model.width=112: wants a multiple of 32, such as 96|128"),
        ([A14B, "model.height=100"], "model.height=100: wants a multiple of 16, such as 96"),
        (["model=wan22_5b", "num_frames=122"], r"num_frames=122: wants 4n\+1, such as 121"),
    ],
)
def test_sizes_off_the_cell_are_refused_with_the_models_own(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        infer(*words)
    assert "of 32 with Wan2.2 TI2V-5B" in str(refused.value) or "frames" in str(refused.value)


def test_models_are_measured_by_the_largest_clips_they_were_trained_on() -> None:
    words = ("model.weights=random", "mode=t2v")
    for model, height, width, frames, warnings in (
        ("wan22_a14b", 720, 1280, 81, 0),
        ("wan22_a14b", 1088, 1920, 81, 1),
        ("wan22_5b", 704, 1280, 121, 0),
        ("wan22_5b", 704, 1280, 125, 1),
    ):
        lines = infer(
            f"model={model}", *words, f"model.height={height}", f"model.width={width}", f"num_frames={frames}"
        )
        assert sum("was trained on" in line for line in lines) == warnings, (model, height, frames)


# -- what goes together ------------------------------------------------------------------------------------------------

MODELS = ("wan22_a14b", "wan22_5b", "tiny_wan22_a14b", "tiny_wan22_5b")
REASONS = (
    "strategy=single runs one rank",
    "memory.swap=1 with strategy=zero3",
    "memory.recompute=0 with strategy=zero3",
    "with strategy=zero3 and stage.batch_size=",
    "stills cannot be learnt on the image-to-video experts",
    "gets a first frame as the clip's own first latents",
    "stage.image_condition=true: a t2v transformer takes no image",
    "sampler.cache=magcache needs sampler.cache_ratios",
    "there is no GPU here",
)
"""All that may be said against a combination."""


Pair = tuple[tuple[int, str], tuple[int, str]]
"""A value of each of two axes, by number."""


def rows(*axes: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Rows of one value an axis in which any two values of two axes meet: the reasons to refuse concern two at most."""
    numbered = [[(number, value) for value in axis] for number, axis in enumerate(axes)]
    missing: set[Pair] = {
        pair for one, other in itertools.combinations(numbered, 2) for pair in itertools.product(one, other)
    }

    def worth(value: tuple[int, str], row: list[tuple[int, str]]) -> int:
        return sum((earlier, value) in missing for earlier in row)

    while missing:
        row, wanted = list[tuple[int, str]](), dict(min(missing))
        for number, axis in enumerate(numbered):
            fixed = [(number, wanted[number])] if number in wanted else axis
            row.append(max(fixed, key=functools.partial(worth, row=row)))
        missing -= {*itertools.combinations(row, 2)}
        yield tuple(value for _, value in row)


def of(config: Any, *settings: str) -> Any:
    """A copy of a composed configuration with some groups chosen and some keys set, which costs less than composing it."""
    found = copy.deepcopy(config)
    for setting in " ".join(settings).split():
        key, _, text = setting.partition("=")
        if text in PROGRAMS["train"].groups.get(key, ()):
            setattr(found, key, type(getattr(found, key))(**values(f"{key}/{text}")))
        else:
            assign(found, key, yaml.safe_load(text))
    return found


def judged(check: Callable[[Any], list[str]], config: Any) -> str:
    """How the plan of a combination begins, or the reason that it is refused for."""
    try:
        refuse(config)
        assert check(config)
        return planned(config)[0]
    except ConfigError as error:
        return next((reason for reason in REASONS if re.search(reason, str(error))), f"no reason: {error}")


STAGES = ("stage=style", "stage=motion")
STRATEGIES, MEMORIES = (
    tuple(f"{name}={one}" for one in PROGRAMS["train"].groups[name]) for name in ("strategy", "memory")
)


def test_every_pair_of_training_settings_goes_together_or_is_refused_with_its_reason(tmp_path: Path) -> None:
    begun = {
        (model, stage): compose_train([f"model={model}", stage, "data=folder", f"data.root={tmp_path}"])
        for model in MODELS
        for stage in STAGES
    }
    shown = ("", "stage.transformer=i2v", "stage.image_condition=true")
    experts = tuple(f"stage.expert={one}" for one in ("both", "high", "low"))
    targets = tuple(f"lora.targets={one}" for one in ("cross_attention", "attention", "all_linear"))
    ranks = ("gpus=1", "gpus=2", "gpus=2 strategy.sequence=2")
    counts = Counter[bool]()
    for model, stage, *words in rows(MODELS, STAGES, STRATEGIES, MEMORIES, shown, experts, targets, ranks):
        verdict = judged(check_train, of(begun[model, stage], *words, "plan=h200"))
        assert verdict.startswith("Fits H200") or verdict in REASONS, (model, stage, words, verdict)
        counts[verdict in REASONS] += 1
    assert min(counts.values()) > 5


def test_every_pair_of_drawing_settings_goes_together_or_is_refused_with_its_reason() -> None:
    samplers = ("sampler=unipc", "sampler=euler", "sampler=distilled_4")
    begun = {(model, one): compose_infer(["prompt=x", f"model={model}", one]) for model in MODELS for one in samplers}
    caches = (*(f"sampler.cache={one}" for one in ("none", "first_block", "taylorseer", "magcache", "calibrate")),
              "sampler.cache=magcache sampler.cache_ratios=[1,0.9]")  # fmt: skip
    modes, ranks = ("mode=scene", "mode=t2v"), ("gpus=1", "gpus=2", "gpus=8")
    room = ("memory.swap=null", "memory.swap=1", "memory.limit_gib=24")
    dtypes = tuple(f"model.dtype={one}" for one in ("bf16", "fp8", "fp32"))
    plans = ("plan=h200", "plan=rtx4090", "plan=cluster")
    counts = Counter[bool]()
    for model, sampler, *words in rows(MODELS, samplers, modes, caches, ranks, room, dtypes, plans):
        verdict = judged(check_infer, of(begun[model, sampler], *words))
        planned_so = verdict.startswith(("Fits ", "Does not fit ", "No GPU here"))
        assert planned_so or verdict in REASONS, (model, sampler, words, verdict)
        counts[planned_so] += 1
    assert counts[True] > 3 * counts[False] > 0


def test_a_cache_of_other_files_is_refused_before_a_member_is_drawn_into_it(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"cache=.* holds 'thesis.tex'"):
        check_infer(compose_infer(["model=tiny_wan22_5b", "prompt=x", f"cache={tmp_path}"]))
