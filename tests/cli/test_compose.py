"""What composes, what is refused, and which of two values wins."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from composed import compose_infer
from safetensors.numpy import save_file

from cinelora.cli.compose import compose_train
from cinelora.cli.preflight import check_infer, check_train
from cinelora.cli.programs import LAUNCHER, PROGRAMS
from cinelora.config import shipped
from cinelora.config.schema import effective_lr
from cinelora.config.store import load_config, save_config
from cinelora.config.trust import note_as_own
from cinelora.errors import ConfigError

STYLE = ["stage=style", "data=noir"]
GROUPS = PROGRAMS["train"].groups


@pytest.fixture
def clips(tmp_path: Path) -> str:
    return str(tmp_path)


def pairwise(*axes: list[str]) -> list[tuple[str, ...]]:
    """Rows of one value an axis in which any two values of two axes meet: the reasons to refuse concern two at most."""

    def pairs(row: tuple[str, ...]) -> set[tuple[tuple[int, str], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    every = list(itertools.product(*axes))
    missing, rows = set().union(*map(pairs, every)), []
    while missing:
        rows.append(max(every, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(rows[-1])
    return rows


@pytest.mark.parametrize(
    ("model", "stage", "data", "strategy"),
    pairwise(GROUPS["model"], GROUPS["stage"], GROUPS["data"], GROUPS["strategy"]),
)
def test_every_combination_composes_or_is_refused_with_its_reason(
    model: str, stage: str, data: str, strategy: str, clips: str
) -> None:
    choices = [f"model={model}", f"stage={stage}", f"data={data}", f"strategy={strategy}"]
    config = compose_train([*choices, *([] if data == "rendered" else [f"data.root={clips}"])])
    assert (config.model.name, config.stage.name) == (model, stage)
    assert (config.data.name, config.strategy.name) == (data, strategy)
    reason = expected_reason(model, stage, strategy)
    if reason is None:
        assert check_train(config)[0].startswith("batch ")
    else:
        with pytest.raises(ConfigError, match=reason):
            check_train(config)


def expected_reason(model: str, stage: str, strategy: str) -> str | None:
    if strategy == "zero3" and any(
        name in model for name in ("animatediff", "modelscope", "zeroscope", "videocrafter")
    ):
        return r"strategy\.name=zero3: .* is a UNet"
    if model == "videocrafter2":
        return "videocrafter2 needs its authors' checkpoint: set model.tuned="
    if stage == "motion" and model == "wan21_1_3b":
        return r"wan21_1_3b has no image-to-video transformer.*choose model=tiny\|.*wan21_14b_720p\|.*wan22_a14b"
    return None


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in GROUPS for choice in GROUPS[group] if group != LAUNCHER]
)
def test_every_choice_composes(group: str, choice: str) -> None:
    others = [choice for choice in STYLE if not choice.startswith(f"{group}=")]
    compose_train([*others, f"{group}={choice}"])


@pytest.mark.parametrize("group", ["model", "sampler", "metrics"])
def test_every_choice_of_inference_composes(group: str) -> None:
    for choice in PROGRAMS["infer"].groups[group]:
        compose_infer(["prompt=x", "mode=t2v", f"{group}={choice}"])


def test_the_defaults_of_stage_1() -> None:
    config = compose_train(STYLE)
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (8, 16.0, "cross_attention")
    assert (config.optimizer.lr, config.model.name, config.stage.transformer) == (3e-5, "tiny", "t2v")
    assert (config.stage.num_frames, config.stage.image_condition, config.logger.name) == (1, False, "wandb")


def test_the_defaults_of_stage_2() -> None:
    stage = compose_train(["stage=motion", "data=noir"]).stage
    assert (stage.transformer, stage.num_frames, stage.image_condition) == ("i2v", 33, True)


def test_precedence_schema_group_recipe_command_line() -> None:
    motion = ["stage=motion", "data=noir"]
    assert compose_train(motion).stage.batch_size == 1  # the group's, above the schema's 4
    assert compose_train([*motion, "stage.batch_size=2"]).stage.batch_size == 2
    recipe = compose_train([*STYLE, "recipe=paper"])
    assert recipe.model.name == "wan21_14b_720p"  # the recipe's, above the script's own tiny
    ours = compose_train(["recipe=paper", *STYLE, "model=tiny", "lora.rank=4"])
    assert (ours.model.name, ours.lora.rank, ours.lora.alpha) == ("tiny", 4, 16.0)
    assert compose_train([*STYLE, "recipe=null"]) == compose_train(STYLE)


def test_the_scripts_own_file_is_above_the_schema() -> None:
    own = yaml.safe_load((shipped.CONF / "model" / "wan21_1_3b.yaml").read_text(encoding="utf-8"))["negative_prompt"]
    asked = compose_infer(["prompt=x", "model=wan21_1_3b", "mode=t2v"])
    assert (asked.negative_prompt, asked.model.negative_prompt) == (None, own)
    assert compose_infer(["prompt=x", "negative_prompt="]).negative_prompt == ""


def test_the_recipe_says_what_is_known_and_what_is_ours(clips: str) -> None:
    config = compose_train(["stage=style", "data=folder", f"data.root={clips}", "recipe=paper"])
    printed = "\n".join(check_train(config))
    assert "the source states" in printed
    assert "rank 8, alpha 16" in printed
    assert "it does not state, and we chose" in printed
    assert effective_lr(config) == pytest.approx(3e-5)


def test_the_recipe_is_refused_for_another_stage() -> None:
    with pytest.raises(ConfigError, match=r"recipe=paper is written for stage=style, not stage=motion"):
        check_train(compose_train(["stage=motion", "data=noir", "recipe=paper"]))


def test_shipped_data_is_found_from_anywhere_and_the_users_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose_train(STYLE).data.root == str(shipped.PROJECT / "data/noir")
    assert compose_train([*STYLE, "data.root=mine"]).data.root == "mine"


def test_shipped_footage_says_itself_what_is_held_out() -> None:
    """A share in conf/data would have no effect on it."""
    for name in ("noir", "daylight"):
        root = shipped.PROJECT / "data" / name
        assert (root / "train").is_dir()
        assert (root / "heldout").is_dir()
        assert "holdout" not in yaml.safe_load((shipped.CONF / "data" / f"{name}.yaml").read_text(encoding="utf-8"))


def test_conf_holds_values_only() -> None:
    for path in shipped.CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text, path
        assert "${" not in text, path


REFUSED = [
    (["data=noir"], r"^stage is missing: choose stage=motion\|pretrain\|style$"),
    ([], r"^stage and data are missing: choose stage=motion\|pretrain\|style data=daylight\|folder\|noir\|rendered$"),
    (
        ["stage=stlye", "data=noir"],
        r"stage=stlye does not exist, did you mean style\?; choose stage=motion\|pretrain\|style",
    ),
    (
        ["stage=style", "data=nori"],
        r"did you mean noir\?; choose data=daylight\|folder\|noir\|rendered; .*data.root=<folder>",
    ),
    ([*STYLE, "model=wan21_14b"], r"model=wan21_14b does not exist.*wan21_14b_480p\|wan21_14b_720p"),
    ([*STYLE, "lora.rnak=4"], r"did you mean lora.rank.*lora has lora.rank, lora.alpha, lora.dropout, lora.targets"),
    ([*STYLE, "optimiser.lr=1"], r"did you mean optimizer.lr"),
    ([*STYLE, "gpu=2"], r"gpu is not a setting, did you mean gpus.*there are model, stage, data"),
    ([*STYLE, "rank=4"], r"did you mean lora.rank\?"),
    ([*STYLE, "lora.rank.x=4"], r"lora.rank.x is not a setting.*lora has"),
    ([*STYLE, "lora=4"], r"lora is a section.*lora.rank"),
    ([*STYLE, "lora.rank=eight"], r"lora.rank=eight: wants a whole number \(rank of the adapter"),
    ([*STYLE, "lora.rank=4.5"], r"wants a whole number"),
    ([*STYLE, "seed=null"], r"wants a whole number"),
    ([*STYLE, "seed="], r"wants a whole number"),
    ([*STYLE, "optimizer.lr=fast"], r"wants a number"),
    ([*STYLE, "stage.allow_leak=maybe"], r"wants true or false"),
    ([*STYLE, "lora.targets=ffn"], r"wants cross_attention\|attention\|all_linear"),
    ([*STYLE, "metrics.names=[fvd]"], r"wants a list \[...\] of flicker\|tssim\|motion"),
    ([*STYLE, "lora.rank=4,8"], r"lora.rank=4,8 is several values: add -m"),
    ([*STYLE, "seed=range(1,4)"], r"is several values: add -m"),
    ([*STYLE, "lora.rank=4", "lora.rank=8"], r"given twice: lora.rank=4 and lora.rank=8"),
    ([*STYLE, "out=a", "out=a"], r"out is given twice"),
    ([*STYLE, "stage=motion"], r"stage is given twice"),
    ([*STYLE, "+lora.rank=4"], r"neither added nor removed; write lora.rank=4"),
    ([*STYLE, "++new=4"], r"neither added nor removed"),
    ([*STYLE, "~lora"], r"not key=value"),
    ([*STYLE, "hydra.run.dir=/tmp"], r"hydra.run.dir is Hydra's own"),
    ([*STYLE, "hydra.callbacks.x=1"], r"Hydra's own"),
    ([*STYLE, "hydra/sweeper=basic"], r"Hydra's own"),
    ([*STYLE, "hydra.launcher.nodes=2"], r"choose hydra/launcher=slurm"),
    ([*STYLE, "hydra/launcher=slrum"], r"hydra/launcher=slrum does not exist, did you mean slurm"),
    ([*STYLE, "lora._target_=os.system"], r"never name code"),
    ([*STYLE, "metrics.names=[{_target_:os.system}]"], r"never name code"),
    ([*STYLE, "lora.rank=${oc.env:HOME}"], r"references are not read"),
    ([*STYLE, "stage.name=motion"], r"stage.name is set by its group: choose stage=motion\|pretrain\|style"),
    ([*STYLE, "recipe.stage=null"], r"is set by its group: choose recipe=paper\|scale_model"),
    ([*STYLE, "logger=null"], r"logger=null does not exist.*csv\|none\|tensorboard\|wandb"),
    ([*STYLE, "lora.rank=("], r"lora.rank=\( cannot be read"),
    ([*STYLE, "man,"], r"'man,' is not key=value.*quotes"),
    ([*STYLE, "out"], r"out has no value: write out=..."),
    ([*STYLE, "--gpus=2"], r"write gpus=..., without dashes"),
    ([*STYLE, "-v"], r"the flags are -m, --show, --help"),
    ([*STYLE, "prompt=x"], r"prompt is not a setting, did you mean preview.prompt"),
    ([*STYLE, "=4"], r"is not a setting"),
    ([*STYLE, "sampler.steps=4"], r"no effect in training: a preview takes preview.sampler_steps"),
    ([*STYLE, "sampler.guidance_mode=split"], r"no effect in training: a preview is made by one rank"),
]

UNWATCHED = [
    ("stopping.monitor=heldout/los", r"is not logged by this run, did you mean heldout/loss; there are train/loss, .*"),
    ("stopping.monitor=heldout/ssim", r"stopping.monitor=heldout/ssim is not logged by this run"),
    ("checkpoint.best=effect/prediction", r"better is not known; say checkpoint.best_mode=min\|max"),
    ("stopping.patience=5", r"needs a number to watch: add stopping.monitor=heldout/loss"),
    ("checkpoint.best_mode=max", r"needs checkpoint.best: add checkpoint.best=heldout/loss"),
    (
        "validation.clips=2 validation.every_steps=0",
        r"validation.clips are generated every validation.every_steps, and that is 0",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), UNWATCHED)
def test_a_number_that_decides_must_be_one_that_is_logged(words: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_train(compose_train([*STYLE, *words.split()]))


def test_the_numbers_that_there_are_are_listed_with_their_blocks_as_a_range() -> None:
    with pytest.raises(ConfigError) as refusal:
        check_train(compose_train([*STYLE, "checkpoint.best=heldout/fvd", "validation.clips=8"]))
    assert "effect/update, effect/update/block-00, ... effect/update/block-05, heldout/frechet_scale" in str(
        refusal.value
    )


@pytest.mark.parametrize(
    ("argv", "sentence"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_named_with_the_way_out(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        compose_train(argv)
    assert "\n" not in str(refusal.value)


# Inference and resuming start from a run ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a training run, as far as settings go."""
    folder = tmp_path / "a run, (1)"
    folder.mkdir()
    argv = ["model=wan21_14b_480p", "model.t2v=/my ${x}/wan", "lora.rank=4", "stage.steps=100", "data.caption=a, b"]
    config = compose_train([*STYLE, *argv])
    note_as_own(config)
    save_config(config, folder / "config.yaml")
    return folder


def test_a_key_that_had_another_name_works_and_says_its_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert compose_infer(["prompt=x", "weights.motion=0.5"]) == compose_infer(["prompt=x", "scale.motion=0.5"])
    assert capsys.readouterr() == ("", "weights.motion is now scale.motion\n")
    with pytest.raises(ConfigError, match=r"scale.motion is given twice: scale.motion=1 and scale.motion=2"):
        compose_infer(["prompt=x", "weights.motion=1", "scale.motion=2"])
    with pytest.raises(ConfigError, match=r"there is no section weights"):
        compose_train(["stage=style", "data=noir", "weights.motion=1"])


def test_inference_takes_the_model_of_its_checkpoint(run: Path) -> None:
    config = compose_infer([f"ckpt={run}", "prompt=x", "model.width=1280"])
    assert (config.model.name, config.model.t2v, config.model.width) == ("wan21_14b_480p", "/my ${x}/wan", 1280)
    assert config.model.height == 480
    assert compose_infer([f"ckpt={run}", "prompt=x", "model=tiny"]).model.name == "tiny"


def adapter_file(path: Path, metadata: dict[str, str]) -> Path:
    names = ("lora_A", "lora_B")
    tensors = {f"diffusion_model.blocks.0.cross_attn.q.{name}.weight": np.ones((1, 1), np.float32) for name in names}
    save_file(tensors, path, metadata)
    return path


def test_inference_takes_the_model_of_an_adapter_file(run: Path) -> None:
    origin = dict.fromkeys(("base_revision", "data_hash"), "x") | {"kind": "style", "transformer": "t2v"}
    spec = {"rank": "1", "alpha": "1.0", "dropout": "0.0", "targets": "cross_attention"}
    settings = {"base_model": "wan21_14b_480p", "config": json.dumps(dataclasses.asdict(load_config(run)))}
    file = adapter_file(run.parent / "a.safetensors", {"format": "cinelora-adapter/1", **origin, **spec, **settings})
    config = compose_infer([f"ckpt={file}", "prompt=x"])
    assert config.model == load_config(run).model
    mistaken = r"a.safetensors was trained on wan21_14b_480p \(40 blocks of width 5120\), this run is on tiny"
    with pytest.raises(ConfigError, match=f"^ckpt=.*{mistaken}.*: choose model=wan21_14b_480p"):
        check_infer(compose_infer([f"ckpt={file}", "prompt=x", "model=tiny"]))
    with pytest.raises(ConfigError, match=f"^adapter=.*{mistaken}"):
        check_train(compose_train(["stage=motion", "data=noir", f"adapter={file}"]))


def test_the_attention_backend_is_that_of_the_machine_not_of_the_checkpoint(run: Path) -> None:
    config = load_config(run)
    config.model.attention = "flash"
    save_config(config, run / "config.yaml")
    assert compose_infer([f"ckpt={run}", "prompt=x"]).model.attention is None
    assert compose_infer([f"ckpt={run}", "prompt=x", "model.attention=_flash_3"]).model.attention == "_flash_3"
    assert compose_train([f"resume={run}"]).model.attention == "flash"
    assert compose_train([f"resume={run}", "model.attention=null"]).model.attention is None


def test_an_adapter_of_another_tool_needs_its_model_named(tmp_path: Path) -> None:
    file = adapter_file(tmp_path / "a.safetensors", {})
    with pytest.raises(ConfigError, match="does not say which model it was trained on: add model=.*tiny"):
        compose_infer([f"ckpt={file}", "prompt=x"])
    assert compose_infer([f"ckpt={file}", "prompt=x", "model=tiny"]).model.name == "tiny"


def test_inference_needs_a_checkpoint_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*nope; give a run, a .safetensors file or hub:owner/name"):
        compose_infer([f"ckpt={tmp_path}/nope", "prompt=x"])
    with pytest.raises(ConfigError, match=r"holds neither config.yaml nor an adapter"):
        compose_infer([f"ckpt={tmp_path}", "prompt=x"])


def test_resume_alone_is_enough(run: Path) -> None:
    config = compose_train([f"resume={run}"])
    assert (config.lora.rank, config.stage.steps, config.data.caption) == (4, 100, "a, b")
    assert config.resume == str(run)


def test_resume_changes_what_may_change(run: Path) -> None:
    argv = [
        "stage.steps=200",
        "logger=csv",
        "checkpoint.keep=5",
        "gpus=2",
        "stage.batch_size=2",
        "optimizer.lr=1e-6",
        "optimizer.clip_norm=0.1",
        "strategy=zero2",
        "strategy.cpu_offload=true",
        "preview.prompt=a = b",
        "logger.project=p, q",
    ]
    config = compose_train([f"resume={run}", *argv])
    assert (config.stage.steps, config.logger.name, config.checkpoint.keep, config.gpus) == (200, "csv", 5, 2)
    assert (config.preview.prompt, config.logger.project) == ("a = b", "p, q")
    assert (config.checkpoint.every_steps, config.lora.rank, config.stage.batch_size) == (250, 4, 2)
    assert (config.optimizer.lr, config.optimizer.clip_norm) == (1e-6, 0.1)
    assert (config.strategy.name, config.strategy.cpu_offload) == ("zero2", True)


@pytest.mark.parametrize(
    ("change", "asked", "way_out"),
    [
        (["gpus=2"], "4 x 2 ranks x 1 = 8", "add stage.batch_size=2 stage.accumulation=1"),
        (
            ["gpus=2", "nodes=2", "stage.batch_size=8"],
            "8 x 4 ranks x 1 = 32",
            "add stage.batch_size=1 stage.accumulation=1",
        ),
        (["stage.batch_size=3"], "3 x 1 ranks x 1 = 3", "add stage.batch_size=2 stage.accumulation=2"),
        (["gpus=3"], "4 x 3 ranks x 1 = 12", "take a number of ranks that divides 4"),
        (
            ["gpus=4", "strategy.sequence=2"],
            "4 x 4 ranks / 2 a sequence x 1 = 8",
            "add stage.batch_size=2 stage.accumulation=1",
        ),
    ],
)
def test_resume_keeps_the_samples_of_a_step_and_says_how(
    run: Path, change: list[str], asked: str, way_out: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^the resumed run has 4 samples per step, but .* is {asked}: {way_out}$"):
        compose_train([f"resume={run}", *change])
    if way_out.startswith("add"):
        given = [word for word in change if not word.startswith("stage.")]
        compose_train([f"resume={run}", *given, *way_out.split()[1:]])


@pytest.mark.parametrize("change", ["lora.rank=8", "stage=style", "data=noir", "recipe=paper", "optimizer.beta1=0"])
def test_resume_refuses_what_its_numbers_rest_on(run: Path, change: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"{change.partition('=')[0]} cannot change; these can: model.attention, stage.expert, stage.steps, ",
    ):
        compose_train([f"resume={run}", change])


def test_resume_wants_a_run(tmp_path: Path) -> None:
    adapter = tmp_path / "style.safetensors"
    adapter.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds an adapter but no run"):
        compose_train([f"resume={adapter}"])


def test_an_adapter_file_in_a_run_resumes_the_run(run: Path) -> None:
    (run / "style.safetensors").write_bytes(b"")
    assert compose_train([f"resume={run}/style.safetensors"]).resume == str(run)


def test_resume_rests_on_the_style_adapter_in_the_run_not_on_what_lies_where_it_came_from(run: Path) -> None:
    argv = ["stage=motion", "data=noir", "model=wan21_14b_480p", "adapter=outputs/style/noir/last"]
    save_config(compose_train(argv), run / "config.yaml")
    (run / "style.safetensors").write_bytes(b"")
    assert compose_train([f"resume={run}"]).adapter == str(run / "style.safetensors")


def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = compose_train(STYLE)
    monkeypatch.chdir(tmp_path)
    assert compose_train(STYLE) == here
    assert os.listdir(tmp_path) == []


def test_inference_lines_count_tokens() -> None:
    assert check_infer(compose_infer(["prompt=x"]))[0] == "33 frames of 112x192 at 16 fps = 2.06 s, 756 tokens"
