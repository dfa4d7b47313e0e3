"""A key that was typed and that nothing in this run reads is named, with the reason, and the run goes on."""

from __future__ import annotations

import pytest

from cinelora.cli.compose import compose
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.config import unread
from cinelora.config.sentences import sentences
from cinelora.config.unread import unread_lines

TRAIN = "stage=style data=noir "
MOTION = "stage=motion data=noir "
BOTH = ("style", "motion")


def lines(script: str, words: str, adapters: tuple[str, ...] = ()) -> list[str]:
    command = parse(PROGRAMS[script], words.split())
    return unread_lines(compose(command), command.given | command.texts, adapters)


UNREAD = [
    # adapters, guidance and networks of clips
    ("infer", "prompt=x scale.motion=0.1", ("style",), "scale.motion=0.1", "no motion adapter takes part"),
    ("infer", "prompt=x scale.style=0.1", ("motion",), "scale.style=0.1", "no style adapter takes part"),
    ("infer", "prompt=x mode=t2v scale.style=0.1", BOTH, "scale.style=0.1", "in an expansion"),
    ("infer", "prompt=x image=a.png scale.keyframe=0.1", BOTH, "scale.keyframe=0.1", "in a keyframe"),
    ("infer", "prompt=x compare=true", (), "compare=true", "no adapter takes part"),
    ("infer", "prompt=x negative_prompt=blur sampler.guidance=1", (), "negative_prompt=blur", "sampler.guidance=1"),
    ("infer", "prompt=x model.negative_prompt=blur negative_prompt=fog", (), "model.negative_prompt=blur", "takes its"),
    ("infer", "prompt=x mode=t2v model.i2v=a/b", (), "model.i2v=a/b", "no image-to-video transformer takes part"),
    ("infer", "prompt=x image=a.png model.t2v=a/b", (), "model.t2v=a/b", "no text-to-video transformer takes part"),
    ("infer", "prompt=x mode=t2v model.image_encoder=a/b", (), "model.image_encoder=a/b", "given a picture"),
    ("infer", "prompt=x model.t2v_revision=v2", (), "model.t2v_revision=v2", "not on the hub"),
    ("infer", "prompt=x num_frames=9 model.num_frames=17", (), "model.num_frames=17", "num_frames=9 takes its place"),
    ("infer", "prompt=x sampler.shift=3 model.sampling_shift=4", (), "model.sampling_shift=4", "sampler.shift=3.0"),
    ("infer", "prompt=x sampler.ulysses=1", (), "sampler.ulysses=1", "several GPUs, and there is one"),
    (
        "infer",
        "prompt=x sampler.guidance_mode=batch",
        (),
        "sampler.guidance_mode=batch",
        "several GPUs, and there is one",
    ),
    ("infer", "prompt=x metrics.clip=a/b", (), "metrics.clip=a/b", "none of the chosen numbers needs it"),
    ("infer", "prompt=x metrics.alexnet=a.pth", (), "metrics.alexnet=a.pth", "numbers needs it"),
    # previews, validation and the end of a run
    (
        "train",
        TRAIN + "preview.every_steps=2000",
        (),
        "preview.every_steps=2000",
        "stage.steps=1000: no preview is made",
    ),
    ("train", TRAIN + "optimizer.warmup_steps=2000", (), "optimizer.warmup_steps=2000", "rate is never reached"),
    ("train", TRAIN + "validation.every_steps=2000", (), "validation.every_steps=2000", "after the last step alone"),
    ("train", TRAIN + "checkpoint.every_steps=2000", (), "checkpoint.every_steps=2000", "the last step alone is saved"),
    ("train", TRAIN + "preview.every_steps=0 preview.prompt=x", (), "preview.prompt=x", "this run makes no preview"),
    ("train", TRAIN + "preview.every_steps=0 preview.seeds=2", (), "preview.seeds=2", "this run makes no preview"),
    (
        "train",
        TRAIN + "preview.every_steps=0 preview.sampler_steps=2",
        (),
        "preview.sampler_steps=2",
        "this run generates no clip",
    ),
    ("train", TRAIN + "preview.every_steps=0 sampler=euler", (), "sampler=euler", "this run generates no clip"),
    (
        "train",
        TRAIN + "preview.every_steps=0 sampler.guidance=2",
        (),
        "sampler.guidance=2",
        "this run generates no clip",
    ),
    ("train", TRAIN + "metrics=temporal", (), "metrics=temporal", "no clip of this run is measured"),
    (
        "train",
        TRAIN + "metrics=temporal preview.every_steps=5",
        (),
        "metrics=temporal",
        "no clip of this run is measured",
    ),
    (
        "train",
        TRAIN + "validation.every_steps=0 validation.samples=4",
        (),
        "validation.samples=4",
        "measures no held-out sample",
    ),
    # one rank, one logger, one stage
    ("train", TRAIN + "strategy=ddp", (), "strategy=ddp", "several GPUs, and there is one"),
    ("train", TRAIN + "strategy=zero2", (), "strategy=zero2", "several GPUs, and there is one"),
    ("train", TRAIN + "strategy.sequence=1", (), "strategy.sequence=1", "several GPUs, and there is one"),
    ("train", TRAIN + "max_restarts=1 nodes=2", (), "max_restarts=1", "several machines"),
    ("train", TRAIN + "logger=csv logger.project=x", (), "logger.project=x", "it is for logger=wandb"),
    ("train", TRAIN + "logger=csv logger.offline=true", (), "logger.offline=true", "it is for logger=wandb"),
    ("train", TRAIN + "stage.stills=0.5", (), "stage.stills=0.5", "it is for stage=pretrain"),
    ("train", MOTION + "stage.allow_leak=true", (), "stage.allow_leak=true", "it is for stage=style"),
    ("train", TRAIN + "dropout.image=0.2", (), "dropout.image=0.2", "no transformer is given a picture"),
    ("train", TRAIN + "model.i2v=a/b", (), "model.i2v=a/b", "no image-to-video transformer takes part"),
    ("train", "stage=pretrain data=rendered lora.rank=4", (), "lora.rank=4", "trains every weight"),
    # footage
    ("train", TRAIN + "data.window_stride=5", (), "data.window_stride=5", "takes stills, and no windows"),
    ("train", MOTION + "data.stills=even", (), "data.stills=even", "takes windows, and no stills"),
    ("train", TRAIN + "data.clips=5", (), "data.clips=5", "footage is read"),
    ("train", "stage=motion data=rendered data.hdr=tone_map", (), "data.hdr=tone_map", "footage is rendered"),
    ("train", "stage=motion data=rendered data.holdout=0.2", (), "data.holdout=0.2", "exactly those of"),
    ("train", TRAIN + "data.manifest=m data.holdout=0.2", (), "data.holdout=0.2", "exactly those of"),
    ("train", TRAIN + "data.judged=false data.limits.still=null", (), "data.limits.still=null", "leaves no shot out"),
    (
        "prepare",
        "data=folder data.root=f data.lettering=plain data.lettering_weights=a",
        (),
        "data.lettering_weights=a",
        "without a network",
    ),
    ("train", TRAIN + "data.captioner_prompt=x", (), "data.captioner_prompt=x", "no data.captioner= is given"),
    ("train", TRAIN + "data.caption=x data.captioner=m", (), "data.captioner=m", "the caption of every clip"),
    ("prepare", "data=noir model.dtype=bf16", (), "model.dtype=bf16", "footage is prepared without a network"),
    ("prepare", "data=noir model.num_frames=5", (), "model.num_frames=5", "footage is prepared without a network"),
    # evaluations and studies
    ("evaluate", "prompts=p clips=2", (), "clips=2", "no data= is given"),
    ("evaluate", "prompts=p against=[ssim]", (), "against=[ssim]", "no data= is given"),
    ("evaluate", "prompts=p data.holdout=0.2", (), "data.holdout=0.2", "no data= is given"),
    ("evaluate", "data=noir data.stills_per_shot=3", (), "data.stills_per_shot=3", "windows, and no stills"),
    ("evaluate", "data=noir data.buckets=false", (), "data.buckets=false", "cuts clips to the model's size"),
    ("study", "prompt=x latency_steps=5", (), "latency_steps=5", "latency_only=false"),
    ("study", "latency_only=true seeds=2", (), "seeds=2", "encodes and decodes nothing"),
    ("study", "latency_only=true sampler.steps=2", (), "sampler.steps=2", "latency_only=true times latency_steps=3"),
    ("study", "latency_only=true metrics=temporal", (), "metrics=temporal", "no clip of this run is measured"),
    ("study", "prompt=x grid=true steps=[1,2]", (), "grid=true", "fewer than two lists vary"),
    ("study", "prompt=x logger=wandb logger.every_steps=5", (), "logger.every_steps=5", "a study logs once"),
    ("study", "merge=[a,b] out=c steps=[1]", (), "steps=[1]", "merge= puts rows together"),
]


@pytest.mark.parametrize(("script", "words", "adapters", "key", "why"), UNREAD)
def test_a_key_that_nothing_reads_is_named(
    script: str, words: str, adapters: tuple[str, ...], key: str, why: str
) -> None:
    [line] = [line for line in lines(script, words, adapters) if line.startswith(f"WARNING: {key} is ")]
    assert why in line


READ = [
    ("infer", "prompt=x scale.motion=0.1 scale.style=0.1 scale.keyframe=0.1 compare=true ckpt=", BOTH),
    ("infer", "prompt=x mode=t2v scale.keyframe=0.1 scale.motion=0.5", BOTH),
    ("infer", "prompt=x negative_prompt=blur num_frames=9 sampler.steps=2 memory.tile=true out=o seed=3", ()),
    ("infer", "prompt=x gpus=2 sampler.ulysses=2 sampler.guidance_mode=batch model.attention=native", ()),
    ("infer", "prompt=x metrics.clip=a/b metrics.names=[clip_sim_text]", ()),
    ("infer", "prompt=x model.t2v=a/b model.t2v_revision=v2 model.negative_prompt=blur model.num_frames=9", ()),
    ("train", TRAIN + "preview.every_steps=5 preview.prompt=x preview.seeds=2 sampler=euler sampler.guidance=2", ()),
    ("train", MOTION + "preview.every_steps=5 metrics=temporal dropout.image=0.2 data.window_stride=5", ()),
    ("train", TRAIN + "validation.clips=2 metrics=temporal preview.sampler_steps=2 optimizer.warmup_steps=10", ()),
    ("train", TRAIN + "gpus=2 strategy=zero2 strategy.sequence=2 logger.project=x data.stills=even lora.rank=4", ()),
    ("train", TRAIN + "strategy=single model.num_frames=9 model.negative_prompt=x model.sampling_shift=2 seed=1", ()),
    ("train", "stage=motion data=rendered data.clips=5 data.trigger=x checkpoint.keep=1 ema_decay=0.9", ()),
    ("train", "stage=motion data=rendered data.caption_lines=each", ()),
    ("train", TRAIN + "data.caption_lines=first lora.targets=all_linear", ()),
    ("prepare", "data=noir model.height=128 num_frames=5 data.stills=even data.window_stride=5 data.buckets=false", ()),
    ("evaluate", "data=noir clips=2 against=[ssim,lpips_alex] metrics.alexnet=a.pth data.holdout=0.2 seeds=2", ()),
    (
        "study",
        "prompt=x steps=[1,2] dtypes=[fp32,bf16] grid=true seeds=2 repetitions=1 logger=wandb logger.group=g",
        (),
    ),
    ("study", "merge=[a,b] out=c logger=wandb logger.project=p", ()),
]


@pytest.mark.parametrize(("script", "words", "adapters"), READ)
def test_a_key_that_is_read_is_not_named(script: str, words: str, adapters: tuple[str, ...]) -> None:
    assert lines(script, words, adapters) == []


def test_every_condition_that_a_setting_names_is_known_and_every_one_is_named() -> None:
    named = {name for program in PROGRAMS.values() for field in program.fields.values() for name in field.read_when}
    assert named == {*unread.OF_SETTINGS, *unread.OF_ADAPTERS, "within_run"}
    assert {*sentences("unread")} == named - {"within_run"}
    beyond = {key for key, field in PROGRAMS["train"].fields.items() if "within_run" in field.read_when}
    assert beyond == {*sentences("beyond_the_end")}
