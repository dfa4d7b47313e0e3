"""The typed settings that every other room receives. No Hydra, no torch: ranks unpickle these and nothing else.

Values live in ``conf/``; a default stands here only where no file in ``conf/`` sets it.
All that is known of a setting is said here, once: ``--help``, the checks, hashes and paths are derived from it.
"""

# ruff: noqa: RUF009 - fields are made by functions, each by one of its own
from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

CLIP_METRICS = (
    "flicker",
    "tssim",
    "motion",
    "tssim_warped",
    "warping_error",
    "flow_motion",
    "shake",
    "temporal_flickering",
    "frames_scale",
    "consistency_scale",
    "clip_sim_frames",
    "clip_sim_text",
    "subject_consistency",
    "background_consistency",
)
"""The measures that need one clip and at most its prompt; ``cinelora.metrics.suite`` knows how each is worked out."""

AGAINST_METRICS = (
    *("psnr", "ssim", "perceptual_scale", "temporal_perceptual_scale", "lpips_alex", "tlp_alex"),
    *("frechet_scale", "fvd_i3d"),
)
"""The measures that need the real clips: one that is like the clip, or a set of them."""

RENAMED_KEYS = {f"weights.{name}": f"scale.{name}" for name in ("keyframe", "style", "motion")}
"""Keys that had another name once, and the name they have now: a command line and a stored run may still hold the old one."""

RENAMED_SECTIONS = {old.partition(".")[0]: new.partition(".")[0] for old, new in RENAMED_KEYS.items()}

ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""The attention backends that are exact, as diffusers names them: torch's choice, two that torch can be made to take, and
flash-attn 2 and 3 where they are installed."""

DTYPES = ("bf16", "fp32", "fp8")
"""The dtypes a frozen transformer may have."""

CACHE_THRESHOLDS = {"first_block": 0.05, "taylorseer": 4.0, "magcache": 0.06}
"""The caches between denoising steps, and the threshold each has where none is given: diffusers' own."""


def setting(help: str, default: Any = None, choices: tuple[str, ...] = (), **about: Any) -> Any:
    """A dataclass field with its one-line help and all else that is known of it: see ``fields.Field`` for the names."""
    metadata = {"help": help, "choices": choices, **about}
    # a list is made anew for each object, any other default is shared
    return (
        field(default_factory=list, metadata=metadata) if default == [] else field(default=default, metadata=metadata)
    )


def section(schema: type, **about: Any) -> Any:
    """A dataclass field that holds a section; ``about`` is said of each of its settings, in place of what they say."""
    return field(default_factory=schema, metadata=about)


# The bounds and roles that come often. A role makes the value a free text, which reaches the program verbatim.
_count = partial(setting, at_least=1)
_frames = partial(setting, at_least=1, frames=True)
_fraction = partial(setting, at_least=0, below=1)
_path = partial(setting, role="path")
_source = partial(setting, role="model")
_run = partial(setting, role="run")
_text = partial(setting, role="text")
_note = partial(setting, role="note")
# A list that a study varies. Which others it has, and what is asked of its clips, changes no row that is there.
_axis = partial(setting, default=[], changes_clip=False)


@dataclass
class ModelConfig:
    """A pair of transformers of one family, and the facts about them that are needed before anything is loaded."""

    name: str = setting("name of the model", "")
    t2v: str | None = _source(
        "text-to-video checkpoint: embedded:tiny-t2v, hub repository, directory, or a .safetensors transformer",
        read_when="t2v",
    )
    i2v: str | None = _source("image-to-video checkpoint, likewise; null where the family has none", read_when="i2v")
    vae: str | None = _source(
        "VAE for both, from a file, folder or repository; null = the checkpoint's own", read_when="encodes"
    )
    text_encoder: str | None = _source("UMT5 for both, likewise", read_when="encodes")
    tokenizer: str | None = _source("tokenizer of UMT5, likewise, from a folder or repository", read_when="encodes")
    image_encoder: str | None = _source("CLIP image encoder, likewise", read_when="encodes image_shown")
    weights: str = setting(
        "random = full shapes with random values, nothing fetched: for time and memory alone",
        "stored",
        ("stored", "random"),
    )
    t2v_revision: str = setting("hub revision of t2v", "main", read_when="t2v t2v_on_hub")
    i2v_revision: str = setting("hub revision of i2v", "main", read_when="i2v i2v_on_hub")
    dtype: str = setting(
        "dtype of the frozen transformer; fp8 = one byte a weight in its blocks, computed in fp8 on GPUs that can",
        "bf16",
        DTYPES,
    )
    compile_blocks: bool | None = setting(
        "compile the transformer's blocks: half a minute at the start, and a C++ compiler; null = on a GPU, where it pays"
    )
    # another exact backend draws the same clip; a machine may lack the one that a run began with
    attention: str | None = setting(
        "attention backend, as diffusers names them; null = the fastest measured on the GPU at hand",
        None,
        ATTENTION_BACKENDS,
        resumable=True,
        changes_clip=False,
        hashed_as=None,
    )
    num_layers: int = _count("transformer blocks", 40)
    num_heads: int = _count("attention heads; bounds how the sequence can be split", 40)
    hidden_size: int = _count("transformer width in channels", 5120)
    ffn_dim: int = _count("width inside the feed-forward layers; asked for where weights are random", 13824)
    height: int = _count("frame height in pixels, a multiple of 16", 480, multiple_of=16)
    width: int = _count("frame width in pixels, a multiple of 16", 832, multiple_of=16)
    fps: int = setting("frames per second the model was trained at", 16, at_least=1)
    num_frames: int = _frames("frames of a generated clip, 4n+1", 81, read_when="own_frames")
    sampling_shift: float = setting(
        "sigma shift at inference, as the model's authors publish it", 5.0, above=0, read_when="own_shift"
    )
    negative_prompt: str = _text(
        "what guidance steers away from, unless the user says", "", read_when="guided own_negative"
    )


ADAPTER_STAGES = ("style", "motion")


@dataclass
class StageConfig:
    """What is learnt, on which transformer, from what, and for how long."""

    name: str = setting(
        "what is learnt; pretrain = every weight", "style", (*ADAPTER_STAGES, "pretrain"), by_group=True
    )
    transformer: str = setting("which transformer of the pair is trained on", "t2v", ("t2v", "i2v"))
    num_frames: int = _frames("frames of a training sample: 1 = stills, else 4n+1", 1)
    image_condition: bool = setting("show the transformer its first frame (i2v only)", False)
    stills: float = _fraction(
        "share of pretraining steps that see the first latent frame of each window alone", 0.0, read_when="pretrains"
    )
    allow_leak: bool = setting("train stills on i2v although the condition is the answer", False, read_when="leaks")
    steps: int = _count("optimizer steps", 1000, resumable=True)
    batch_size: int = _count("samples per rank and micro-batch", 4, resumable=True)
    accumulation: int = _count("micro-batches per optimizer step", 1, resumable=True)

    @property
    def trains_every_weight(self) -> bool:
        """Whether it trains the transformer itself, which only a clone can do (``clone_only``), and no adapter."""
        return self.name not in ADAPTER_STAGES


@dataclass
class FootageLimits:
    """What a shot must hold to be trained on; null switches a test off. docs/footage.md says how each is measured."""

    sharpness: float | None = setting("least sharpness of a shot's frames, as a share of its film's own", 0.35)
    dark: float | None = setting("largest share of a frame's pixels that are black", 0.97)
    bright: float | None = setting("largest share of a frame's pixels that are burnt out", 0.6)
    still: float | None = setting("least motion, widths of the frame a second", 0.002)
    fast: float | None = setting("most motion, widths of the frame a second", 3.0)
    shake: float | None = setting("most of the camera's motion that goes back and forth, widths a second", 0.5)
    text: float | None = setting("largest share of the frame under lettering", 0.02)
    logo: float | None = setting("largest share of the frame under what stands still while all else moves", 0.004)
    alike: float | None = setting("two shots are the same when their pictures differ by less, of 64 bits", 6.0)
    min_seconds: float | None = setting("shortest shot", 0.5)


@dataclass
class DataConfig:
    """Where clips and captions come from, and how samples are cut out of them."""

    name: str = setting("name of the data set", "")
    root: str | None = _path("folder with clips, and .txt captions beside them")
    look: str | None = setting(
        "render the footage in this look, instead of reading any", None, ("daylight", "noir", "western", "neon")
    )
    clips: int = _count("clips to render for training", 5000, read_when="rendered")
    heldout_clips: int = setting("clips to render for validation", 64, at_least=0, read_when="rendered")
    manifest: str | None = _path(
        "take the samples of this manifest.jsonl, as they stand in it, and look for no others", read_when="footage"
    )
    prepared: str | None = _path(
        "folder of what was prepared from the footage; null = outputs/datasets/<root>-<hash>", read_when="surveyed"
    )
    overrides: str | None = _path(
        "verdicts by hand, from the contact sheet; null = overrides.json in data.prepared", read_when="surveyed"
    )
    follow_links: bool = setting("follow links that lead out of data.root", False, read_when="footage")
    judged: bool = setting(
        "look for bars, titles, fades, blur and repetition, and leave out shots with them", True, read_when="surveyed"
    )
    limits: FootageLimits = section(FootageLimits, at_least=0, read_when="surveyed judged")
    exact: bool = setting(
        "colours are FFmpeg's accurate ones; false = decord's own, which are off at edges", True, read_when="footage"
    )
    hdr: str = setting("footage in PQ, HLG or bt.2020", "refuse", ("refuse", "tone_map"), read_when="footage")
    lut: str | None = _path("a .cube file that every frame goes through", read_when="footage")
    sequence_fps: float = setting("frames per second of numbered pictures", 24.0, above=0, read_when="footage")
    resample: str = setting(
        "how frames are found between those of the footage",
        "nearest",
        ("nearest", "blend"),
        read_when="surveyed windows",
    )
    buckets: bool = setting(
        "train footage in its own shape, in the model's pixels; false cuts it to the model's",
        True,
        read_when="surveyed own_shapes",
    )
    caption: str | None = _text("one caption for every clip, instead of the files beside them", read_when="surveyed")
    trigger: str | None = _text("word put before every caption, to call the look up later")
    description: str | None = _note("the look, described once: put behind every caption", read_when="surveyed")
    captioner: str | None = _path(
        "folder of a vision-language model that captions what has no caption", read_when="surveyed uncaptioned"
    )
    captioner_prompt: str = _text(
        "what it is asked",
        "Describe this shot in one sentence: who, what they do, where, light and camera.",
        read_when="surveyed uncaptioned captioner",
    )
    holdout: float = _fraction(
        "share of the footage kept for validation; folders named train and heldout decide instead",
        0.1,
        read_when="surveyed",
    )
    split_by: str = setting(
        "what is kept whole on one side; auto = file, or shot where there are few files",
        "auto",
        ("auto", "file", "shot"),
        read_when="surveyed",
    )
    stills: str = setting(
        "which frames of a shot stills are", "sharpest", ("sharpest", "even"), read_when="surveyed stills"
    )
    stills_per_shot: int = _count("stills taken from each shot", 2, read_when="surveyed stills")
    window_stride: int = setting(
        "frames between the starts of two windows, at the model's fps", 33, at_least=1, read_when="surveyed windows"
    )
    min_frames: int | None = _frames(
        "shots too short for a window give shorter ones, of at least so many frames, 4n+1; null = none",
        read_when="footage windows own_shapes",
    )


@dataclass
class LoraSpec:
    """The adapter: how wide, how strong, and where. A run's settings hold one, and so does every adapter file."""

    rank: int = _count("rank of the two factors", 8)
    alpha: float = setting("the update is scaled by alpha / rank", 16.0, above=0)
    dropout: float = _fraction("dropout before the first factor; another cut of the batch draws it anew", 0.0)
    targets: str = setting("which projections", "cross_attention", ("cross_attention", "attention", "all_linear"))

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / self.rank


@dataclass
class OptimizerConfig:
    """AdamW and its rate over time."""

    # a lower rate, or a tighter norm, is what calms a run whose loss was no longer finite
    lr: float = setting("AdamW learning rate", 3e-5, above=0, resumable=True)
    lr_for_width: int | None = _count(
        "width the rate was found at: other widths get lr x this / hidden_size; null takes lr as it is", 5120
    )
    beta1: float = _fraction("first moment", 0.9)
    beta2: float = _fraction("second moment", 0.999)
    eps: float = setting("AdamW epsilon", 1e-8, above=0)
    weight_decay: float = setting("decoupled weight decay", 0.01, at_least=0)
    warmup_steps: int = setting("steps of linear warm-up", 0, at_least=0, read_when="within_run")
    schedule: str = setting("rate after the warm-up", "constant", ("constant", "cosine"))
    clip_norm: float = setting("gradient norm is clipped to this; 0 = never", 1.0, at_least=0, resumable=True)


@dataclass
class FlowConfig:
    """Which noise levels are trained on."""

    sigma_mean: float = setting("mean of the normal behind the logit-normal sigma", 0.0)
    sigma_std: float = setting("its standard deviation", 1.0, above=0)
    shift: float | None = setting("sigma shift; null = 2 at 480p, grown with the square root of the pixels", above=0)


@dataclass
class DropoutConfig:
    """What is hidden from the transformer now and then, so that guidance has something to steer against."""

    caption: float = _fraction("share of samples trained without caption, for guidance", 0.1)
    image: float = _fraction("share of i2v samples trained without image condition", 0.1, read_when="image_shown")


@dataclass
class CheckpointConfig:
    """When a run is saved."""

    every_steps: int = setting(
        "optimizer steps between checkpoints; 0 = only at the end", 250, at_least=0, read_when="within_run"
    )
    keep: int = _count("newest checkpoints kept", 2)
    best: str | None = _note(
        "a logged number, such as heldout/loss: the adapter with the best of it is kept as <stage>-best.safetensors"
    )
    best_mode: str | None = setting(
        "which is best, the lowest or highest; null = as the number says", None, ("min", "max")
    )


@dataclass
class StoppingConfig:
    """When a run ends before its last step, because it learns no more."""

    monitor: str | None = _note("a logged number, such as heldout/loss; null = never stop early")
    patience: int = _count("times in a row that it may be logged without having become better", 3)
    mode: str | None = setting("which is better, lower or higher; null = as the number says", None, ("min", "max"))
    min_change: float = setting("what it must change by, to count as better", 0.0, at_least=0)


@dataclass
class ValidationConfig:
    """When held-out samples are looked at."""

    every_steps: int = setting(
        "optimizer steps between held-out losses; 0 = never", 250, at_least=0, read_when="within_run"
    )
    samples: int = _count("held-out samples looked at, at most", 8, read_when="validates")
    clips: int = setting("held-out samples drawn anew and measured, at most; 0 = none", 0, at_least=0)


@dataclass
class PreviewConfig:
    """When a clip is made during training."""

    every_steps: int = setting("optimizer steps between previews; 0 = never", 0, at_least=0, read_when="within_run")
    seeds: int = _count("clips of each preview, from as many seeds", 1, read_when="previews")
    prompt: str | None = _text("what the preview shows; null = the first held-out caption", read_when="previews")
    sampler_steps: int = _count("denoising steps of a preview, or of a held-out clip", 8, read_when="draws")


@dataclass
class StrategyConfig:
    """How ranks share the work."""

    name: str = setting(
        "auto = ddp when there are several ranks; zero = DeepSpeed, which shards what training keeps (docs/strategies.md)",
        "auto",
        ("auto", "single", "ddp", "zero1", "zero2", "zero3"),
        by_group=True,
        read_when="strategy_shares",
    )
    sequence: int = _count(
        "ranks that share each sample's sequence, a divisor of gpus x nodes", 1, read_when="several_ranks"
    )
    cpu_offload: bool = setting("zero1-3: moments, and with zero3 the frozen weights, lie on the host", False)


def zero_level(strategy: StrategyConfig) -> int:
    """1, 2 or 3 of ZeRO, and 0 for another strategy."""
    return int(strategy.name[-1]) if strategy.name.startswith("zero") else 0


_SWAP = setting(
    "share of the blocks whose weights stay on the host, and are fetched as they are used", at_least=0, at_most=1
)
_LIMIT_GIB = setting("GPU memory to live in; null = all there is", above=0)


@dataclass
class MemoryConfig:
    """What the transformer's blocks keep on the GPU in training, as shares of the blocks; null = what fits fastest."""

    name: str = setting(
        "auto = the fastest that fits the GPU at hand; the others from fast to lean",
        "auto",
        ("auto", "plain", "recompute", "offload", "swap"),
        by_group=True,
    )
    recompute: float | None = setting(
        "share of the blocks that run again in the backward pass, instead of being kept", at_least=0, at_most=1
    )
    offload: bool | None = setting("keep the inputs of recomputed blocks on the host")
    swap: float | None = _SWAP
    limit_gib: float | None = _LIMIT_GIB


@dataclass
class DrawingMemoryConfig:
    """What lies on the GPU while clips are drawn; null = what fits fastest."""

    swap: float | None = _SWAP
    tile: bool | None = setting("VAE in overlapping tiles, whose seams are blended", read_when="encodes")
    limit_gib: float | None = _LIMIT_GIB


_ALONE = "a preview is made by one rank"
_IN_FULL = "a preview is drawn in full"


@dataclass
class SamplerConfig:
    """How noise becomes a clip."""

    name: str = setting("solver", "unipc", ("unipc", "euler"), by_group=True)
    steps: int = _count(
        "denoising steps", 40, not_in_training="a preview takes preview.sampler_steps", read_when="whole_clips"
    )
    guidance: float = setting("classifier-free guidance scale; 1 = unguided", 5.0, at_least=0)
    guidance_mode: str = setting(
        "the guided pair: on the same ranks, or one half each on two groups of them; auto = as is foretold to be faster",
        "auto",
        ("auto", "batch", "split"),
        changes_clip=False,
        not_in_training=_ALONE,
        read_when="several_ranks guided",
    )
    ulysses: int | None = _count(
        "ranks that share a sequence by attention heads; null = as is foretold to be fastest",
        changes_clip=False,
        not_in_training=_ALONE,
        read_when="several_ranks",
    )
    ring: int | None = _count(
        "groups of such ranks that share it by passing keys and values round; null = likewise",
        changes_clip=False,
        not_in_training=_ALONE,
        read_when="several_ranks",
    )
    shift: float | None = setting("sigma shift; null = the model's own", above=0)
    cache: str = setting(
        "what a clip's steps take up from those before; calibrate = nothing, and says the ratios for magcache",
        "none",
        ("none", *CACHE_THRESHOLDS, "calibrate"),
        not_in_training=_IN_FULL,
    )
    cache_threshold: float | None = setting(
        "first_block, magcache: change, or foretold error, that is let pass; taylorseer: steps foretold after each; 0 = none",
        at_least=0,
        not_in_training=_IN_FULL,
    )
    cache_ratios: list[float] = setting(
        "magcache: the model's ratios, as sampler.cache=calibrate says them", [], not_in_training=_IN_FULL
    )


SHARING = tuple(entry.name for entry in fields(SamplerConfig) if not entry.metadata.get("changes_clip", True))
"""Settings of the sampler by which several ranks draw the clip that one draws."""
PARTITIONS = ("alone", "sequence", "ring", "halves")
"""How a study's ranks share a clip: not at all, its sequence, that in a ring, or first the halves of guidance."""


@dataclass
class MetricsConfig:
    """Which numbers are written beside a clip, in training a preview of one; and where networks lie that some rest on."""

    names: list[str] = setting("numbers written beside a clip or a preview (docs/metrics.md)", [], CLIP_METRICS)
    clip: str | None = _source(
        "CLIP ViT-B/32 for clip_sim_* and background_consistency: a directory or hub repository", read_when="needs_clip"
    )
    dino: str | None = _source("DINO ViT-B/16 for subject_consistency, likewise", read_when="needs_dino")
    alexnet: str | None = _path(
        "torchvision's alexnet-owt-7be5be79.pth for lpips_alex and tlp_alex: a file", read_when="needs_alexnet"
    )
    i3d: str | None = _path(
        "i3d_torchscript.pt for fvd_i3d: a file, and a program, so that i3d_sha256 goes with it", read_when="needs_i3d"
    )
    i3d_sha256: str | None = _note("SHA-256 of the i3d that may be run, 64 hexadecimal digits", read_when="needs_i3d")


@dataclass
class LoggerConfig:
    """Where curves go."""

    name: str = setting("where curves go", "csv", ("wandb", "csv", "tensorboard", "none"), by_group=True)
    project: str = _note("project name at the logger", "cinelora", read_when="wandb")
    group: str | None = _note("wandb: group of the run; null = the sweep it is a member of", read_when="wandb")
    offline: bool | None = setting("wandb: null = offline unless a key is there", read_when="wandb")
    every_steps: int = _count("optimizer steps between logged losses", 10, read_when="trains")


@dataclass
class RecipeConfig:
    """A named whole experiment: what its source states, and what we chose."""

    name: str | None = setting("name of the whole experiment")
    stage: str | None = setting("the stage the recipe is written for; null = any")
    known: list[str] = setting("what the source states", [])
    ours: list[str] = setting("what the source does not state and we chose", [])


# Settings that several commands share. What does not change a clip but for rounding stands in no hash of it: where it is
# written, how many ranks make it, and out of how much memory.

_CKPT = _run("adapter(s): a run, an adapter file or hub:owner/name; null = the base model alone")
_NEGATIVE_PROMPT = _text("what guidance steers away from; null = the model's own", read_when="guided encodes")
_MODE = setting("scene = keyframe, then expansion; t2v = straight from the t2v transformer", "scene", ("scene", "t2v"))
_NUM_FRAMES = _frames("frames, 4n+1; null = the model's own")
_SEEDS = _count("clips of each prompt, from as many seeds", 1, read_when="encodes")
_FIRST_SEED = setting("the first seed", 0, at_least=0)
_RANKS = _count("ranks on each node the sequence is split over", 1, changes_clip=False)
_NODES = _count("machines", 1, resumable=True, changes_clip=False)
_PLAN = setting(
    "say what a clip takes, in memory and time here and on other GPUs, and do nothing", False, changes_clip=False
)
_MODELS_CACHE = _path("folder of models built or fetched", "outputs/cache", changes_clip=False, without_drawing=True)


def _out(place: str) -> Any:
    help = f"run directory; null = outputs/{place}"
    return setting(help, role="directory", resumable=True, changes_clip=False, without_drawing=True)


@dataclass
class TrainConfig:
    """Train a LoRA adapter of Wan2.1: stage=style on stills, then stage=motion on windows above it.

    python train.py stage=style data=noir
    python train.py stage=motion data=noir adapter=outputs/style/noir/last
    python train.py stage=style data=folder data.root=/my/footage model=wan21_14b_720p gpus=4
    python train.py -m stage=style data=noir lora.rank=4,8,16
    python train.py resume=outputs/style/noir/last stage.steps=2000
    """

    model: ModelConfig = section(ModelConfig)
    stage: StageConfig = section(StageConfig)
    data: DataConfig = section(DataConfig)
    strategy: StrategyConfig = section(StrategyConfig, resumable=True)
    memory: MemoryConfig = section(MemoryConfig, resumable=True)
    logger: LoggerConfig = section(LoggerConfig, resumable=True)
    metrics: MetricsConfig = section(MetricsConfig, read_when="measures")
    sampler: SamplerConfig = section(SamplerConfig, read_when="draws")
    recipe: RecipeConfig = section(RecipeConfig, by_group=True)
    lora: LoraSpec = section(LoraSpec, read_when="adapts")
    optimizer: OptimizerConfig = section(OptimizerConfig)
    flow: FlowConfig = section(FlowConfig)
    dropout: DropoutConfig = section(DropoutConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig, resumable=True)
    stopping: StoppingConfig = section(StoppingConfig, resumable=True)
    validation: ValidationConfig = section(ValidationConfig, resumable=True)
    preview: PreviewConfig = section(PreviewConfig, resumable=True)
    ema_decay: float = _fraction("moving average of the adapter, exported instead of it; 0 = off", 0.0)
    seed: int = setting("seeds weights, order, noise and dropout", 0, at_least=0)
    gpus: int = _count("ranks on each node: GPUs, or CPU processes where there are none", 1, resumable=True)
    nodes: int = _NODES
    workers: int = setting(
        "processes reading footage and cache, per rank; 0 reads in the rank itself", 0, at_least=0, resumable=True
    )
    max_restarts: int = setting(
        "times a run on one machine starts again by itself after it lost a rank",
        3,
        at_least=0,
        resumable=True,
        read_when="one_machine",
    )
    plan: bool = setting(
        "say what the run takes, in memory and time here and on other GPUs, and do nothing", False, resumable=True
    )
    out: str | None = _out("<stage>/<data>/<time>")
    adapter: str | None = _run("style adapter under stage=motion: a run, a file or hub:owner/name")
    resume: str | None = _run(
        "run to go on with: its directory, a file in it, or hub:owner/name; auto = the one in out=, if it has begun",
        resumable=True,
    )
    cache: str = _path("folder of encoded samples, shared between runs", "outputs/cache", resumable=True)
    description: str | None = _note("a note kept with the run", resumable=True)
    # who goes on with a run elsewhere must not upload to the same repository
    push: str | None = _note(
        "hub repository, owner/name, that the adapter and its card are uploaded to at the end",
        resumable=True,
        ones_own=True,
    )
    private: bool = setting("push: make a new repository a private one", False, resumable=True, ones_own=True)


@dataclass
class ScaleConfig:
    """How strongly each adapter acts; 0 = not at all."""

    keyframe: float = setting(
        "scale of the style adapter while the keyframe is made", 1.0, read_when="style_in_keyframe"
    )
    style: float = setting("scale of the style adapter while the clip is expanded", 1.0, read_when="style_in_clip")
    motion: float = setting("scale of the motion adapter while the clip is expanded", 1.0, read_when="motion_in_clip")


# Until 0bea4b3 the directory of prompts= was named after the numbers that are measured, too: what they were by default
# stays in the hash, so that such a run is found.
_MEASURED_BY_DEFAULT = {"names": ["flicker", "tssim", "motion"]}


@dataclass
class InferConfig:
    """Make clips: a keyframe with the style adapter, expanded with the style and motion adapters.

    python infer.py ckpt=outputs/motion/noir/last prompt='a man, smoking (alone), waits'
    python infer.py ckpt=outputs/motion/noir/last prompts=prompts.txt gpus=4
    python infer.py ckpt=outputs/motion/noir/last image=frame.png prompt='rain on a window'
    python infer.py mode=t2v prompt='a street at night'
    """

    model: ModelConfig = section(ModelConfig)
    sampler: SamplerConfig = section(SamplerConfig)
    metrics: MetricsConfig = section(MetricsConfig, changes_clip=False, hashed_as=_MEASURED_BY_DEFAULT)
    scale: ScaleConfig = section(ScaleConfig)
    memory: DrawingMemoryConfig = section(DrawingMemoryConfig, changes_clip=False)
    ckpt: str | None = _run("adapter(s): a run, an adapter file or hub:owner/name; null = the base model")
    prompt: str | None = _text("what the clip shows")
    prompts: str | None = _path("file with one prompt a line; makes a clip of each, goes on where it stopped")
    negative_prompt: str | None = _NEGATIVE_PROMPT
    image: str | None = _path("keyframe to start from, instead of making one")
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    compare: bool = setting("also make the clip without adapters, for the contact sheet", False, read_when="adapted")
    seed: int = setting("same seed, same clip", 0, at_least=0)
    gpus: int = _RANKS
    nodes: int = _NODES
    plan: bool = _PLAN
    out: str | None = _out("infer/<time>")
    cache: str = _MODELS_CACHE


@dataclass
class PrepareConfig:
    """Footage in, dataset out: shots found, judged and cut into samples, with a contact sheet to look at.

    python -m cinelora.prepare data=folder data.root=/my/footage
    python -m cinelora.prepare data=folder data.root=/my/footage model=wan21_14b_720p data.limits.still=null
    python -m cinelora.prepare data=folder data.root=/my/footage data.captioner=/models/captioner data.trigger=myfilm
    """

    model: ModelConfig = section(ModelConfig, only=("name", "height", "width", "fps"))
    data: DataConfig = section(DataConfig)
    num_frames: int = _frames("frames of a window, 4n+1", 33)
    seed: int = setting("decides what is held out", 0, at_least=0)
    workers: int | None = setting("processes that read footage; null = one a core, 0 = none of their own", at_least=0)


@dataclass
class EvaluateConfig:
    """Did it work? The base against its adapters, stage by stage: numbers, a page to look at, a blind test.

    python -m cinelora.evaluate ckpt=outputs/motion/noir/last data=noir
    python -m cinelora.evaluate ckpt=outputs/motion/noir/last data=noir prompts=prompts.txt seeds=4 gpus=4
    python -m cinelora.evaluate out=outputs/evaluate/last report=true
    python -m cinelora.evaluate out=outputs/evaluate/last answers=answers.json
    """

    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig, read_when="data_named")
    sampler: SamplerConfig = section(SamplerConfig)
    metrics: MetricsConfig = section(MetricsConfig, changes_clip=False, without_drawing=True, read_when="measures")
    memory: DrawingMemoryConfig = section(DrawingMemoryConfig, changes_clip=False)
    ckpt: str | None = _CKPT
    prompts: str | None = _path("file with one prompt a line, drawn beside the captions of held-out clips")
    against: list[str] = setting(
        "numbers that compare with held-out clips (docs/metrics.md)",
        [],
        AGAINST_METRICS,
        changes_clip=False,
        without_drawing=True,
        read_when="data_named measures",
    )
    clips: int = _count("held-out clips whose captions are drawn, at most", 4, read_when="data_named")
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    gpus: int = _RANKS
    nodes: int = _NODES
    report: bool = setting(
        "draw nothing: tables and page anew, of what out=<run> holds", False, changes_clip=False, without_drawing=True
    )
    answers: str | None = _path(
        "answers to out=<run>'s pairs.html, to be scored: a file, or a folder of them",
        changes_clip=False,
        without_drawing=True,
    )
    plan: bool = _PLAN
    out: str | None = _out("evaluate/<ckpt>-<hash of the settings>")
    cache: str = _MODELS_CACHE


@dataclass
class StudyConfig:
    """What does it cost: the same clips by many settings, in seconds, memory, steadiness and likeness.

    python -m cinelora.study ckpt=outputs/motion/noir/last prompts=prompts.txt merged=[true,false] scales=[0,1]
    python -m cinelora.study ckpt=outputs/motion/noir/last prompt='a man waits' steps=[10,25] first_block=[0.05,0.1]
    python -m cinelora.study model=wan21_14b_480p model.weights=random latency_only=true ranks=[8,32]
    python -m cinelora.study merge=[outputs/study/a,outputs/study/b] out=outputs/study/both
    """

    model: ModelConfig = section(ModelConfig, changes_clip=True)  # a row rests on the attention backend, too
    sampler: SamplerConfig = section(SamplerConfig)
    metrics: MetricsConfig = section(MetricsConfig, changes_clip=False, read_when="measures")
    memory: DrawingMemoryConfig = section(DrawingMemoryConfig, changes_clip=False)
    logger: LoggerConfig = section(LoggerConfig, changes_clip=False, without_drawing=True)
    ckpt: str | None = _CKPT
    prompt: str | None = _text("what the clips show")
    prompts: str | None = _path("file with one prompt a line; each is drawn by every setting")
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    against: list[str] = _axis(
        "numbers that compare with the baseline's clips (docs/metrics.md)",
        choices=AGAINST_METRICS,
        read_when="measures",
    )
    ranks: list[int] = _axis(
        "ranks that the adapters are cut or padded to; without ckpt, those of drawn ones", at_least=1
    )
    scales: list[float] = _axis("scales of the adapters; 0 = the base model")
    merged: list[bool] = _axis("adapters folded into the weights (true), or live beside them")
    steps: list[int] = _axis("denoising steps", at_least=1)
    first_block: list[float] = _axis("thresholds of sampler.cache=first_block", at_least=0)
    taylorseer: list[int] = _axis("thresholds of sampler.cache=taylorseer", at_least=0)
    magcache: list[float] = _axis(
        "thresholds of sampler.cache=magcache; without sampler.cache_ratios they are measured first", at_least=0
    )
    dtypes: list[str] = _axis("dtypes of the frozen transformer", choices=DTYPES)
    partitions: list[str] = _axis(
        "how gpus share a clip: not at all, its sequence, that in a ring, or first the halves of guidance",
        choices=PARTITIONS,
    )
    grid: bool = setting(
        "every combination of the lists, instead of one change of the baseline at a time",
        False,
        changes_clip=False,
        read_when="several_axes",
    )
    repetitions: int = _count("timed rounds over all settings, after one that is not counted", 3, changes_clip=False)
    latency_only: bool = setting("time steps of one clip from drawn inputs; nothing is decoded or measured", False)
    latency_steps: int = _count("denoising steps that latency_only times", 3, read_when="latency_only")
    merge: list[str] = _axis(
        "studies to be put into one, out=<directory>: their run directories", role="path", without_drawing=True
    )
    gpus: int = _RANKS
    nodes: int = _NODES
    plan: bool = _PLAN
    out: str | None = _out("study/<ckpt>-<hash of the settings>")
    cache: str = _MODELS_CACHE


def as_stored(config: InferConfig | EvaluateConfig | StudyConfig) -> dict[str, Any]:
    """The settings as plain data, for hashes and summaries, under the names that these were first written with.

    A renamed section keeps its old name here: with the new one every hash would change, and a run that an earlier version
    began would find none of its clips again.
    """
    first_names = {new: old for old, new in RENAMED_SECTIONS.items()}
    return {first_names.get(name, name): value for name, value in asdict(config).items()}


def drawn_by(config: EvaluateConfig | StudyConfig) -> InferConfig:
    """The settings by which an evaluation's or a study's clips are drawn, all but prompt and seed."""
    sections, words = ("model", "sampler", "memory"), ("ckpt", "negative_prompt", "mode", "cache")
    names = (*sections, *words, "num_frames", "seed", "gpus", "nodes")
    return InferConfig(prompt="", **{name: getattr(config, name) for name in names})


def shared_by(config: StudyConfig, partition: str) -> InferConfig:
    """``drawn_by`` on ranks that share a clip by one of ``PARTITIONS``."""
    drawing = drawn_by(config)
    if partition == "alone":
        return replace(drawing, gpus=1, nodes=1)
    halves, ring = partition == "halves", config.gpus * config.nodes if partition == "ring" else None
    sampler = replace(config.sampler, guidance_mode="split" if halves else "batch", ring=ring)
    return replace(drawing, sampler=sampler)


def effective_lr(config: TrainConfig) -> float:
    """The rate AdamW gets: ``lr x lr_for_width / hidden_size``, so that one rate holds for every width.

    Source: notes on the scale model (3e-5 at 5120 and 1.2e-3 at 128 move an adapter alike); muP says the same of
    hidden matrices under Adam (arXiv 2203.03466, table 3).
    """
    rate = config.optimizer
    return rate.lr if rate.lr_for_width is None else rate.lr * rate.lr_for_width / config.model.hidden_size


def samples_per_step(config: TrainConfig) -> int:
    """Samples of an optimizer step, over all ranks and micro-batches."""
    return config.stage.batch_size * data_ranks(config) * config.stage.accumulation


def data_ranks(config: TrainConfig) -> int:
    """Groups of ranks that have samples of their own: all ranks, unless some share each sample's sequence."""
    return config.gpus * config.nodes // config.strategy.sequence
