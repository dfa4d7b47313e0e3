"""Settings that contradict each other are refused with the way out; derived numbers are printed with their reason."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from composed import compose_infer, compose_study
from safetensors.numpy import save_file

from cinelora.cli.compose import compose_train
from cinelora.cli.preflight import check_infer, check_study, check_train
from cinelora.config.schema import effective_lr
from cinelora.config.store import save_config
from cinelora.errors import AdapterError, ConfigError


@pytest.fixture(autouse=True)
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder of clips and files to point at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "frame.png").write_bytes(b"")
    (tmp_path / "prompts.txt").write_text("one, two\n\nthree\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    return tmp_path


def train(*argv: str) -> list[str]:
    stage = [] if any(word.startswith("stage=") for word in argv) else ["stage=style"]
    root = [] if any(word.startswith("data.root=") for word in argv) else ["data.root=clips"]
    return check_train(compose_train([*stage, "data=folder", *root, *argv]))


def infer(*argv: str) -> list[str]:
    return check_infer(compose_infer(list(argv)))


def study(*argv: str) -> list[str]:
    return check_study(compose_study(list(argv)))


def test_batch_and_rate_are_printed_with_their_reason() -> None:
    lines = train("stage.batch_size=8", "gpus=4", "stage.accumulation=2")
    assert lines[0] == "batch 8 x 4 GPUs x 2 accumulation = 64"
    assert lines[1] == "learning rate 0.0008 (3e-05 for width 5120, scaled to this model's width 192)"
    assert train("gpus=2", "nodes=3")[0] == "batch 4 x 2 GPUs x 3 nodes x 1 accumulation = 24"
    assert train("gpus=2", "nodes=3", "strategy.sequence=6")[:2] == [
        "batch 4 x 2 GPUs x 3 nodes / 6 a sequence x 1 accumulation = 4",
        "strategy.sequence=6: 84 tokens / 6 = 14 a rank; 4 heads do not divide by 6: groups of 2 share heads, and keys go "
        "round a ring of 3",
    ]
    assert train("optimizer.lr_for_width=null")[1] == "lr 3e-05, as given"


def test_the_rate_follows_the_width() -> None:
    assert effective_lr(compose_train(["stage=style", "data=noir"])) == pytest.approx(8e-4)
    wide = compose_train(["stage=style", "data=noir", "model=wan21_14b_480p", "optimizer.lr=1e-4"])
    assert effective_lr(wide) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("metrics.alexnet=gone.pth", "metrics.alexnet=gone.pth: there is no file"),
        ("metrics.i3d=gone.pt", "metrics.i3d=gone.pt: there is no file"),
        (
            "metrics.i3d=frame.png",
            "metrics.i3d=frame.png contains a program, which is run only if you state its SHA-256",
        ),
        ("metrics.i3d_sha256=12e4", "metrics.i3d_sha256=12e4: wants 64 hexadecimal digits"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused_before_the_run(setting: str, sentence: str) -> None:
    for check in (lambda: train(setting), lambda: infer("prompt=x", setting)):
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            check()


def factors(name: str, width: int = 192) -> dict[str, np.ndarray]:
    pair = {"lora_A": (2, width), "lora_B": (width, 2)}
    return {f"{name}.{factor}.weight": np.ones(shape, np.float32) for factor, shape in pair.items()}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            factors("diffusion_model.blocks.0.cross_attn.q", width=64),
            "64x64, which does not fit model=tiny of width 192",
        ),
        (factors("diffusion_model.blocks.6.cross_attn.q"), "changes block 6, model=tiny has 6 blocks"),
        (factors("base_model.model.blocks.0.attn2.to_q"), "so its alpha is unknown"),
        (factors("transformer.single_transformer_blocks.0.attn.to_q"), "is an adapter of HunyuanVideo or Flux"),
        ({"diffusion_model.blocks.0.cross_attn.q.alpha": np.float32(1)} | factors("blocks.0.cross_attn.q"), "unknown"),
        (
            {"diffusion_model.blocks.0.cross_attn.q.alpha": np.array(np.inf, np.float32)}
            | factors("diffusion_model.blocks.0.cross_attn.q"),
            "has rank 2 and alpha inf",
        ),
    ],
)
def test_an_adapter_is_judged_before_anything_is_encoded(
    tensors: dict[str, np.ndarray], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    for plan in ("plan=true", "plan=false"):
        for check in (
            lambda: infer(f"ckpt={path}", "model=tiny", "prompt=x", plan),  # noqa: B023  # called at once
            lambda: train("stage=motion", f"adapter={path}", plan),  # noqa: B023
        ):
            with pytest.raises(AdapterError, match=re.escape(sentence)) as refused:
                check()
            assert str(path) in str(refused.value)
            assert "\n" not in str(refused.value)


def test_a_scale_that_nothing_says_is_one_and_said_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(factors("transformer.blocks.0.attn2.to_q"), path)
    said = [
        infer(f"ckpt={path}", f"adapters=[{path}@0.5]", "model=tiny", "prompt=x"),
        study(f"adapters=[{path}@0.5]", "model=tiny", "prompt=x", "scales=[0,1]"),
        train("stage=motion", f"adapter={path}"),
    ]
    line = f"{path} uses the tensor names of diffusers, and its alpha is stated neither in it nor beside it: "
    assert [sum(one.startswith(line) for one in lines) for lines in said] == [1, 1, 1]


def test_training_goes_above_plain_lora_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    name = "diffusion_model.blocks.0.cross_attn.q"
    save_file(factors(name) | {f"{name}.diff_b": np.ones(192, np.float32)}, path)
    assert infer(f"ckpt={path}", "model=tiny", "prompt=x")
    with pytest.raises(AdapterError, match=r"adapter: .*mine.safetensors changes blocks\.0\.attn2\.to_q\.bias"):
        train("stage=motion", f"adapter={path}")


def test_scales_are_bounded() -> None:
    for scale in ("11", "-1e38", "inf"):
        with pytest.raises(ConfigError, match="scale.style=.*: wants (from -10 to 10|a finite number)"):
            infer("prompt=x", f"scale.style={scale}")


def test_of_thirty_adapters_in_a_folder_one_has_to_be_named(tmp_path: Path) -> None:
    for number in range(30):
        save_file(factors("blocks.0.cross_attn.q"), tmp_path / f"lora-{number:02}.safetensors")
    with pytest.raises(ConfigError, match=r"holds 30 adapter files: name one of lora-00.* and 25 more"):
        infer(f"ckpt={tmp_path}", "model=tiny", "prompt=x")


def test_motion_without_a_style_adapter_says_so() -> None:
    assert "without a style adapter" in train("stage=motion")[-1]


def test_random_weights_say_so_and_what_is_drawn() -> None:
    warning, size = train("model=wan21_14b_480p", "model.weights=random")[-2:]
    assert warning.startswith(
        "WARNING: model.weights=random: the values of transformer, vae, text_encoder, tokenizer are"
    )
    assert size == "prompts are encoded by a full UMT5-XXL, 11 GB; model.text_encoder=<folder> uses another"
    [alone] = train("model=wan21_14b_480p", "model.weights=random", "model.text_encoder=owner/name")[2:]
    assert "the values of transformer, vae, tokenizer are random" in alone
    scene = infer("prompt=x", "model=wan21_14b_480p", "model.weights=random")
    assert "the values of transformer, text_encoder, tokenizer, vae, image_encoder are random" in scene[1]


def test_attention_backends_are_the_exact_ones_and_int8() -> None:
    exact = "native|_native_cudnn|_native_flash|flash|_flash_3|int8 or null"
    for script in (train, lambda *argv: infer("prompt=x", *argv)):
        assert script("model.attention=_native_cudnn")
        assert script("model.attention=null")
        for other in ("sage", "_native_math", "Native"):
            with pytest.raises(ConfigError, match=rf"^model.attention={other}: wants {re.escape(exact)} \(attention"):
                script(f"model.attention={other}")


NUMBERS = [
    ("gpus=0", "from 1 to 1024"),
    ("nodes=0", "from 1 to 4096"),
    ("lora.rank=0", "at least 1"),
    ("lora.rank=-4", "at least 1"),
    ("lora.alpha=0", "more than 0"),
    ("stage.steps=0", "at least 1"),
    ("stage.batch_size=0", "at least 1"),
    ("optimizer.lr=nan", "a finite number"),
    ("optimizer.lr=inf", "a finite number"),
    ("optimizer.lr=0", "more than 0"),
    ("optimizer.beta2=1", "from 0 to below 1"),
    ("ema_decay=1.0", "from 0 to below 1"),
    ("data.holdout=1", "from 0 to below 1"),
    ("data.holdout=-0.1", "from 0 to below 1"),
    ("dropout.caption=1", "from 0 to below 1"),
    ("model.height=100", "a multiple of 16, such as 96"),
    ("model.num_frames=32", "4n+1, such as 33"),
    ("flow.shift=0", "more than 0"),
    ("checkpoint.every_steps=-1", "0 or more"),
    ("checkpoint.keep=0", "at least 1"),
    ("seed=-1", "0 or more"),
    ("workers=-1", "from 0 to 1024"),
]


@pytest.mark.parametrize(("setting", "wants"), NUMBERS)
def test_a_number_out_of_bounds_is_refused(setting: str, wants: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        train(setting)
    assert str(refusal.value).startswith(setting.partition("=")[0])
    assert f"wants {wants}" in str(refusal.value)


TRAINING = [
    (
        ["stage.transformer=i2v", "stage.image_condition=true"],
        "the still that it should predict.*stage.allow_leak=true",
    ),
    (["stage.image_condition=true"], "t2v transformer takes no image"),
    (["stage.transformer=i2v", "model=wan21_1_3b"], "wan21_1_3b has no image-to-video transformer"),
    (["stage.num_frames=33"], "stage=style learns from stills"),
    (["model.t2v="], "model.t2v is empty"),
    (["stage=motion", "model.i2v="], "has no image-to-video transformer"),
    (["stage=motion", "stage.transformer=t2v"], "stage=motion trains the image-to-video transformer"),
    (["stage=motion", "stage.image_condition=false"], "with the first frame given, as the model is used"),
    (["stage=motion", "stage.num_frames=1"], "one frame holds no motion"),
    (["stage=motion", "stage.num_frames=32"], r"wants 4n\+1, such as 33"),
    (["adapter=x"], "belongs to stage=motion"),
    (["stage=motion", "adapter=nope"], "adapter=nope: there is no .*nope; give a run"),
    (["stage=motion", "adapter=null"], "adapter=null: there is no .*null"),
    (["stage=motion", "adapter=prompts.txt"], "should end in .safetensors"),
    (["strategy=single", "gpus=2"], "strategy=single runs one rank, not 2"),
    (["strategy=single", "nodes=2"], "strategy=single runs one rank, not 2"),
    (
        ["strategy.sequence=3", "gpus=2", "nodes=2"],
        r"strategy.sequence=3 does not divide 4 ranks \(gpus x nodes\): use one of 1, 2, 4, or another number of gpus",
    ),
    (["strategy.sequence=0"], "strategy.sequence=0: wants at least 1"),
    (["gpus=1000000000"], r"gpus=1e\+09: wants from 1 to 1024"),
    (["workers=1000000000"], r"workers=1e\+09: wants from 0 to 1024"),
    (["nodes=1000000000"], r"nodes=1e\+09: wants from 1 to 4096"),
    (["model.num_layers=1000000000"], r"model.num_layers=1e\+09: wants from 1 to 1024"),
    (["data.name=../up"], "wants one word"),
    (["model.num_heads=5"], "does not divide into 5 heads"),
    (["cache=prompts.txt"], "cache=prompts.txt is a file"),
    (["model.t2v=./gone"], r"model.t2v=./gone: wants a directory or file that is there, a hub repository owner/name"),
    (["stage=motion", "model.i2v=embedded:huge"], r"model.i2v=embedded:huge: wants .*embedded:tiny-i2v"),
    (["data.trigger=a\udcff"], "data.trigger is not UTF-8 text from character 2 on"),
    (["data.root=~/clips"], r"does not exist \(the shell leaves ~ as it is here: write \$HOME\)"),
]


@pytest.mark.parametrize(("argv", "sentence"), TRAINING)
def test_training_that_contradicts_itself_is_refused(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train(*argv)


def test_a_leak_can_be_asked_for_and_a_dropped_condition_needs_no_asking() -> None:
    assert train("stage.transformer=i2v")
    assert train("stage.transformer=i2v", "stage.image_condition=true", "stage.allow_leak=true")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["data=folder"], "data=folder needs a folder with clips: data.root=<folder>"),
        (["data=folder", "data.root=gone"], r"data.root=gone: /.*/gone does not exist"),
        (["data=folder", "data.root=frame.png"], "is a file, not a folder"),
    ],
)
def test_missing_footage_is_named_by_its_whole_path(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_train(compose_train(["stage=style", *argv]))


def style_run(folder: Path, *argv: str, finished: bool = True) -> Path:
    folder.mkdir()
    save_config(compose_train(["stage=style", "data=noir", *argv]), folder / "config.yaml")
    if finished:
        save_file(factors("diffusion_model.blocks.0.cross_attn.q"), folder / "style.safetensors")
    return folder


def test_a_style_run_is_taken_by_motion(clips: Path) -> None:
    assert len(train("stage=motion", f"adapter={style_run(clips / 'it, (1)')}")) == 2


def test_a_style_run_of_another_model_is_refused(clips: Path) -> None:
    run = style_run(clips / "run", "model=wan21_14b_480p")
    with pytest.raises(ConfigError, match=r"40 blocks of width 5120.*this run is on tiny.*choose model=wan21_14b_480p"):
        train("stage=motion", f"adapter={run}")


def test_an_unfinished_style_run_is_refused(clips: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no style.safetensors; give a finished run of stage=style"):
        train("stage=motion", f"adapter={style_run(clips / 'run', finished=False)}")


INFERENCE = [
    ([], "there is no prompt: say prompt="),
    (["prompt=x", "prompts=prompts.txt"], "are both given"),
    (["prompts=gone.txt"], "there is no file /.*/gone.txt"),
    (["prompts=empty.txt"], "prompts=empty.txt is empty: it wants one prompt a line"),
    (["prompt=x", "image=gone.png"], "image=gone.png: there is no file /.*/gone.png"),
    (["prompt=x", "image=frame.png", "mode=t2v"], "that transformer takes no image"),
    (["prompt=x", "model=wan21_1_3b"], "mode=scene needs: mode=t2v, or model=tiny"),
    (["prompt=x", "model.t2v="], "model.t2v is empty"),
    (["prompt=x", "model.i2v=nowhere"], "model.i2v=nowhere: wants a directory or file that is there"),
    (["prompt=\udcff"], "prompt is not UTF-8 text"),
    (["prompt=x", "num_frames=10"], r"num_frames=10: wants 4n\+1, such as 9"),
    (["prompt=x", "model.num_frames=34"], r"model.num_frames=34: wants 4n\+1, such as 33"),
    (["prompt=x", "model.height=100"], "model.height=100: wants a multiple of 16, such as 96"),
    (["prompt=x", "model.width=8"], "model.width=8: wants a multiple of 16, such as 16"),
    (["prompt=x", "sampler.steps=0"], "at least 1"),
    (["prompt=x", "sampler.guidance=nan"], "a finite number"),
    (["prompt=x", "mode=clip"], r"wants scene\|t2v"),
    (["prompt=x", "gpus=3", "sampler.ulysses=3"], "sampler.ulysses=3 cannot split 4 heads; use one of 1, 2, 4"),
    (["prompt=x", "gpus=4", "sampler.ring=3"], "sampler.ring=3 cannot be with 4 ranks; leave it away, or use one of"),
    (["prompt=x", "model.vae=gone.safetensors"], "model.vae=gone.safetensors: wants a directory or file that is there"),
    (["prompt=x", "model.weights=drawn"], r"model.weights=drawn: wants stored\|random"),
    (["prompt=x", "sampler.guidance_mode=split", "gpus=3"], "even number of ranks"),
    (["prompt=x", "sampler.guidance_mode=split", "gpus=2", "sampler.guidance=1"], "no pair to split"),
    (["prompt=x", "sampler.cache_threshold=0.1"], "has no effect with sampler.cache=none"),
    (["prompt=x", "sampler.cache=taylorseer", "sampler.cache_threshold=0.1"], "a whole number"),
    (["prompt=x", "sampler.cache=first_block", "sampler.cache_threshold=-1"], "wants 0 or more"),
    (["prompt=x", "sampler.cache=magcache"], "generate one clip with sampler.cache=calibrate"),
    (["prompt=x", "sampler.cache_ratios=[1,0.9]"], "is for sampler.cache=magcache"),
    (["prompt=x", "sampler.cache=magcache", "sampler.cache_ratios=[1,0]"], "wants numbers above 0"),
]


@pytest.mark.parametrize(("argv", "sentence"), INFERENCE)
def test_inference_that_contradicts_itself_is_refused(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        infer(*argv)


def test_inference_that_holds_together() -> None:
    assert infer("prompt=x", "image=frame.png", "model.t2v=")
    assert infer("prompts=prompts.txt", "mode=t2v", "model=wan21_1_3b")
    assert infer("prompt=x", "gpus=3")[1].startswith("3 ranks: ring 3: ")
    asked = infer("prompt=x", "gpus=4", "sampler.guidance_mode=batch", "sampler.ulysses=4")
    assert asked[1] == "4 ranks: ulysses 4 (1 of 4 heads each): as asked for"
    assert infer("prompt=x", "gpus=4", "sampler.cache=taylorseer", "sampler.cache_threshold=2")
    assert infer("prompt=x", "gpus=3", "sampler.cache=first_block")
    assert infer("prompt=x", "sampler.cache=magcache", "sampler.cache_ratios=[1,0.98,1.01]")
    split = infer("prompt=x", "gpus=4", "sampler.guidance_mode=split")
    assert split[1].startswith("4 ranks: 2 halves of guidance x ulysses 2 (2 of 4 heads each): ")


LONG, LARGE = "longer than the 33 frames tiny was trained on", "larger than the 112x192 tiny was trained on"
BEYOND = [
    (infer, ["prompt=x", "num_frames=37"], [f"num_frames=37 is {LONG}"]),
    (infer, ["prompt=x", "model.num_frames=81"], [f"num_frames=81 is {LONG}"]),
    (infer, ["prompt=x", "model.height=224", "model.width=384"], [f"224x384 is {LARGE}"]),
    (infer, ["prompt=x", "num_frames=49", "model.width=208"], [f"num_frames=49 is {LONG}", f"112x208 is {LARGE}"]),
    (infer, ["prompt=x", "num_frames=33", "model.height=192", "model.width=112"], []),
    (infer, ["prompt=x", "num_frames=81", "model=wan21_14b_720p"], []),
    (train, ["stage=motion", "stage.num_frames=49"], [f"stage.num_frames=49 is {LONG}"]),
    (train, ["model.height=128"], [f"128x192 is {LARGE}"]),
    (train, ["model.height=128", "model.name=mine"], []),
    (train, [], []),
]


@pytest.mark.parametrize(("check", "argv", "sentences"), BEYOND)
def test_clips_beyond_what_the_model_was_trained_on_are_made_with_a_warning(
    check: Callable[..., list[str]], argv: list[str], sentences: list[str]
) -> None:
    warnings = [line for line in check(*argv) if line.startswith("WARNING: ")]
    assert [line.removeprefix("WARNING: ").partition(":")[0] for line in warnings] == sentences
    assert all(line.endswith(" is safe") for line in warnings)


def test_a_model_a_run_was_trained_at_longer_is_measured_by_what_the_model_was_trained_on(clips: Path) -> None:
    run = style_run(clips / "run", "model.num_frames=81")
    assert any(LONG in line for line in infer("prompt=x", f"ckpt={run}"))


ZERO = "sampler.guidance=0 ignores the prompt and follows the negative prompt; 1 means no guidance"
LOW = "sampler.guidance=0.25 is below 1: the negative prompt takes 0.75 of the prompt's part; 1 means no guidance"
EMPTY = "prompt= is empty: the clip shows whatever tiny makes without a text; say prompt='what the clip shows'"
ASKED = [
    (infer, ["prompt=x", "sampler.guidance=0"], [ZERO]),
    (infer, ["prompt=", "sampler.guidance=0.25"], [LOW, EMPTY]),
    (infer, ["prompt=  "], [EMPTY]),
    (infer, ["prompts=prompts.txt", "sampler.guidance=1"], []),
    (study, ["prompt=x", "steps=[1,2]", "sampler.guidance=0"], [ZERO]),
    (train, ["sampler.guidance=0"], [ZERO]),
]


@pytest.mark.parametrize(("check", "argv", "sentences"), ASKED)
def test_clips_that_follow_no_prompt_are_made_with_a_warning(
    check: Callable[..., list[str]], argv: list[str], sentences: list[str]
) -> None:
    assert [line for line in check(*argv) if line.startswith("WARNING: ")] == [f"WARNING: {one}" for one in sentences]


def test_clips_without_an_adapter_are_said_to_be_the_base_models(clips: Path) -> None:
    line = "no ckpt=: the clips are the base model's, without an adapter; ckpt=<run> adds one"
    assert infer("prompt=x")[-1] == line
    assert line not in infer("prompt=x", f"ckpt={style_run(clips / 'run')}")


MOTION = ("stage=motion", "stage.batch_size=1", "gpus=2")
PRETRAIN = ("stage=pretrain", "gpus=2")
SHOWN = ("stage.transformer=i2v", "stage.image_condition=true", "stage.stills=0")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ("strategy=ddp", "strategy.cpu_offload=true"),
            "strategy.cpu_offload=true with strategy=ddp: .*strategy=zero2",
        ),
        (
            (*PRETRAIN, *SHOWN, "strategy=zero3"),
            "dropout.image=0.1 with strategy=zero3 and stage=pretrain: .*or strategy=zero2",
        ),
        ((*PRETRAIN, "strategy=zero2", "memory=swap"), "memory.swap=1 moves frozen weights.*choose memory=recompute"),
        ((*PRETRAIN, "strategy=zero2", "model.dtype=fp8"), "model.dtype=fp8 is for frozen weights"),
        (("strategy=zero3", "memory=swap"), "memory.swap=1 with strategy=zero3: .*strategy.cpu_offload=true"),
        (("strategy=zero3", "memory=plain"), "memory.recompute=0 with strategy=zero3: .*choose memory=recompute"),
        (("strategy=zero3", "memory.recompute=0.5"), "memory.recompute=0.5 with strategy=zero3"),
        (("strategy=zero3", "preview.every_steps=5"), "preview.every_steps=5 with strategy=zero3: .*=0, or .*zero2"),
        (("strategy=zero3", "validation.clips=2"), "validation.clips=2 with strategy=zero3: .*=0, or .*zero2"),
        (
            ("stage=motion", "gpus=2", "strategy=zero3", "stage.batch_size=2"),
            "dropout.image=0.1 with strategy=zero3 and stage.batch_size=2",
        ),
    ],
)
def test_what_does_not_go_with_a_strategy_is_refused_with_the_way_out(argv: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train(*argv)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp8"])
def test_the_rest_of_the_table_goes_together(strategy: str, dtype: str) -> None:
    memories = (
        ("auto", "recompute", "offload") if strategy == "zero3" else ("auto", "plain", "recompute", "offload", "swap")
    )
    for memory in memories:
        for offload in ("false", "true") if strategy != "ddp" else ("false",):
            settings = (f"strategy={strategy}", f"strategy.cpu_offload={offload}", f"memory={memory}")
            assert train(*MOTION, *settings, f"model.dtype={dtype}")


def test_a_missing_deepspeed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match=re.escape('not installed: pip install "cinelora[sharding]"')):
        train("strategy=zero2")
    assert train("strategy=ddp")
