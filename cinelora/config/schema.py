"""The typed settings that every other room receives. No Hydra, no torch: ranks unpickle these and nothing else.

Values live in ``conf/``; a default stands here only where no file in ``conf/`` sets it.
``metadata={"help": ..., "choices": ...}`` feeds ``--help`` and the checks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

FREE_TEXT_KEYS = frozenset(
    {
        "prompt",
        "negative_prompt",
        "model.negative_prompt",
        "prompts",
        "image",
        "out",
        "ckpt",
        "adapter",
        "resume",
        "answers",
        "cache",
        "data.root",
        "data.manifest",
        "data.prepared",
        "data.overrides",
        "data.lut",
        "data.description",
        "data.captioner",
        "data.captioner_prompt",
        "data.caption",
        "data.trigger",
        "model.t2v",
        "model.i2v",
        "model.vae",
        "model.text_encoder",
        "model.tokenizer",
        "model.image_encoder",
        "metrics.clip",
        "metrics.dino",
        "metrics.alexnet",
        "metrics.i3d",
        "metrics.i3d_sha256",
        "preview.prompt",
        "checkpoint.best",
        "stopping.monitor",
        "logger.project",
        "logger.group",
        "description",
        "push",
    }
)
"""Keys whose value reaches the program verbatim, whatever characters it holds: Hydra's grammar never sees them."""

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

RENAMED_KEYS = {
    "weights.keyframe": "scale.keyframe",
    "weights.style": "scale.style",
    "weights.motion": "scale.motion",
}
"""Keys that had another name once, and the name they have now: a command line and a stored run may still hold the old one."""

RENAMED_SECTIONS = {old.partition(".")[0]: new.partition(".")[0] for old, new in RENAMED_KEYS.items()}

ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""The attention backends that are exact, as diffusers names them: torch's choice, two that torch can be made to take, and
flash-attn 2 and 3 where they are installed."""

CACHE_THRESHOLDS = {"first_block": 0.05, "taylorseer": 4.0, "magcache": 0.06}
"""The caches between denoising steps, and the threshold each has where none is given: diffusers' own."""


def setting(help: str, default: Any = None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its one-line help and, where the value is a word, the words it may be."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass
class ModelConfig:
    """A pair of transformers of one family, and the facts about them that are needed before anything is loaded."""

    name: str = setting("name of the model", "")
    t2v: str | None = setting(
        "text-to-video checkpoint: embedded:tiny-t2v, hub repository, directory, or a .safetensors transformer"
    )
    i2v: str | None = setting("image-to-video checkpoint, likewise; null where the family has none")
    vae: str | None = setting("VAE for both, from a file, folder or repository; null = the checkpoint's own")
    text_encoder: str | None = setting("UMT5 for both, likewise")
    tokenizer: str | None = setting("tokenizer of UMT5, likewise, from a folder or repository")
    image_encoder: str | None = setting("CLIP image encoder, likewise")
    weights: str = setting(
        "random = full shapes with random values, nothing fetched: for time and memory alone",
        "stored",
        ("stored", "random"),
    )
    t2v_revision: str = setting("hub revision of t2v", "main")
    i2v_revision: str = setting("hub revision of i2v", "main")
    dtype: str = setting(
        "dtype of the frozen transformer; fp8 = one byte a weight in its blocks, computed in fp8 on GPUs that can",
        "bf16",
        ("bf16", "fp32", "fp8"),
    )
    compile_blocks: bool | None = setting(
        "compile the transformer's blocks: half a minute at the start, and a C++ compiler; null = on a GPU, where it pays"
    )
    attention: str | None = setting(
        "attention backend, as diffusers names them; null = the fastest measured on the GPU at hand",
        None,
        ATTENTION_BACKENDS,
    )
    num_layers: int = setting("transformer blocks", 40)
    num_heads: int = setting("attention heads; bounds how the sequence can be split", 40)
    hidden_size: int = setting("transformer width in channels", 5120)
    ffn_dim: int = setting("width inside the feed-forward layers; asked for where weights are random", 13824)
    height: int = setting("frame height in pixels, a multiple of 16", 480)
    width: int = setting("frame width in pixels, a multiple of 16", 832)
    fps: int = setting("frames per second the model was trained at", 16)
    num_frames: int = setting("frames of a generated clip, 4n+1", 81)
    sampling_shift: float = setting("sigma shift at inference, as the model's authors publish it", 5.0)
    negative_prompt: str = setting("what guidance steers away from, unless the user says", "")


ADAPTER_STAGES = ("style", "motion")


@dataclass
class StageConfig:
    """What is learnt, on which transformer, from what, and for how long."""

    name: str = setting("what is learnt; pretrain = every weight", "style", (*ADAPTER_STAGES, "pretrain"))
    transformer: str = setting("which transformer of the pair is trained on", "t2v", ("t2v", "i2v"))
    num_frames: int = setting("frames of a training sample: 1 = stills, else 4n+1", 1)
    image_condition: bool = setting("show the transformer its first frame (i2v only)", False)
    stills: float = setting("share of pretraining steps that see the first latent frame of each window alone", 0.0)
    allow_leak: bool = setting("train stills on i2v although the condition is the answer", False)
    steps: int = setting("optimizer steps", 1000)
    batch_size: int = setting("samples per rank and micro-batch", 4)
    accumulation: int = setting("micro-batches per optimizer step", 1)

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
    root: str | None = setting("folder with clips, and .txt captions beside them")
    look: str | None = setting(
        "render the footage in this look, instead of reading any", None, ("daylight", "noir", "western", "neon")
    )
    clips: int = setting("clips to render for training", 5000)
    heldout_clips: int = setting("clips to render for validation", 64)
    manifest: str | None = setting(
        "take the samples of this manifest.jsonl, as they stand in it, and look for no others"
    )
    prepared: str | None = setting(
        "folder of what was prepared from the footage; null = outputs/datasets/<root>-<hash>"
    )
    overrides: str | None = setting("verdicts by hand, from the contact sheet; null = overrides.json in data.prepared")
    follow_links: bool = setting("follow links that lead out of data.root", False)
    judged: bool = setting("look for bars, titles, fades, blur and repetition, and leave out shots with them", True)
    limits: FootageLimits = field(default_factory=FootageLimits)
    exact: bool = setting("colours are FFmpeg's accurate ones; false = decord's own, which are off at edges", True)
    hdr: str = setting("footage in PQ, HLG or bt.2020", "refuse", ("refuse", "tone_map"))
    lut: str | None = setting("a .cube file that every frame goes through")
    sequence_fps: float = setting("frames per second of numbered pictures", 24.0)
    resample: str = setting("how frames are found between those of the footage", "nearest", ("nearest", "blend"))
    buckets: bool = setting("train footage in its own shape, in the model's pixels; false cuts it to the model's", True)
    caption: str | None = setting("one caption for every clip, instead of the files beside them")
    trigger: str | None = setting("word put before every caption, to call the look up later")
    description: str | None = setting("the look, described once: put behind every caption")
    captioner: str | None = setting("folder of a vision-language model that captions what has no caption")
    captioner_prompt: str = setting(
        "what it is asked", "Describe this shot in one sentence: who, what they do, where, light and camera."
    )
    holdout: float = setting(
        "share of the footage kept for validation; folders named train and heldout decide instead", 0.1
    )
    split_by: str = setting(
        "what is kept whole on one side; auto = file, or shot where there are few files",
        "auto",
        ("auto", "file", "shot"),
    )
    stills: str = setting("which frames of a shot stills are", "sharpest", ("sharpest", "even"))
    stills_per_shot: int = setting("stills taken from each shot", 2)
    window_stride: int = setting("frames between the starts of two windows, at the model's fps", 33)
    min_frames: int | None = setting(
        "shots too short for a window give shorter ones, of at least so many frames, 4n+1; null = none"
    )


@dataclass
class LoraSpec:
    """The adapter: how wide, how strong, and where. A run's settings hold one, and so does every adapter file."""

    rank: int = setting("rank of the two factors", 8)
    alpha: float = setting("the update is scaled by alpha / rank", 16.0)
    dropout: float = setting("dropout before the first factor; another cut of the batch draws it anew", 0.0)
    targets: str = setting("which projections", "cross_attention", ("cross_attention", "attention", "all_linear"))

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / self.rank


@dataclass
class OptimizerConfig:
    """AdamW and its rate over time."""

    lr: float = setting("AdamW learning rate", 3e-5)
    lr_for_width: int | None = setting(
        "width the rate was found at: other widths get lr x this / hidden_size; null takes lr as it is", 5120
    )
    beta1: float = setting("first moment", 0.9)
    beta2: float = setting("second moment", 0.999)
    eps: float = setting("AdamW epsilon", 1e-8)
    weight_decay: float = setting("decoupled weight decay", 0.01)
    warmup_steps: int = setting("steps of linear warm-up", 0)
    schedule: str = setting("rate after the warm-up", "constant", ("constant", "cosine"))
    clip_norm: float = setting("gradient norm is clipped to this; 0 = never", 1.0)


@dataclass
class FlowConfig:
    """Which noise levels are trained on."""

    sigma_mean: float = setting("mean of the normal behind the logit-normal sigma", 0.0)
    sigma_std: float = setting("its standard deviation", 1.0)
    shift: float | None = setting("sigma shift; null = 2 at 480p, grown with the square root of the pixels")


@dataclass
class DropoutConfig:
    """What is hidden from the transformer now and then, so that guidance has something to steer against."""

    caption: float = setting("share of samples trained without caption, for guidance", 0.1)
    image: float = setting("share of i2v samples trained without image condition", 0.1)


@dataclass
class CheckpointConfig:
    """When a run is saved."""

    every_steps: int = setting("optimizer steps between checkpoints; 0 = only at the end", 250)
    keep: int = setting("newest checkpoints kept", 2)
    best: str | None = setting(
        "a logged number, such as heldout/loss: the adapter with the best of it is kept as <stage>-best.safetensors"
    )
    best_mode: str | None = setting(
        "which is best, the lowest or highest; null = as the number says", None, ("min", "max")
    )


@dataclass
class StoppingConfig:
    """When a run ends before its last step, because it learns no more."""

    monitor: str | None = setting("a logged number, such as heldout/loss; null = never stop early")
    patience: int = setting("times in a row that it may be logged without having become better", 3)
    mode: str | None = setting("which is better, lower or higher; null = as the number says", None, ("min", "max"))
    min_change: float = setting("what it must change by, to count as better", 0.0)


@dataclass
class ValidationConfig:
    """When held-out samples are looked at."""

    every_steps: int = setting("optimizer steps between held-out losses; 0 = never", 250)
    samples: int = setting("held-out samples looked at, at most", 8)
    clips: int = setting("held-out samples drawn anew and measured, at most; 0 = none", 0)


@dataclass
class PreviewConfig:
    """When a clip is made during training."""

    every_steps: int = setting("optimizer steps between previews; 0 = never", 0)
    seeds: int = setting("clips of each preview, from as many seeds", 1)
    prompt: str | None = setting("what the preview shows; null = the first held-out caption")
    sampler_steps: int = setting("denoising steps of a preview, or of a held-out clip", 8)


@dataclass
class StrategyConfig:
    """How ranks share the work."""

    name: str = setting(
        "auto = ddp when there are several ranks; zero = DeepSpeed, which shards what training keeps (docs/strategies.md)",
        "auto",
        ("auto", "single", "ddp", "zero1", "zero2", "zero3"),
    )
    sequence: int = setting("ranks that share each sample's sequence, a divisor of gpus x nodes", 1)
    cpu_offload: bool = setting("zero1-3: moments, and with zero3 the frozen weights, lie on the host", False)


def zero_level(strategy: StrategyConfig) -> int:
    """1, 2 or 3 of ZeRO, and 0 for another strategy."""
    return int(strategy.name[-1]) if strategy.name.startswith("zero") else 0


@dataclass
class MemoryConfig:
    """What the transformer's blocks keep on the GPU in training, as shares of the blocks; null = what fits fastest."""

    name: str = setting(
        "auto = the fastest that fits the GPU at hand; the others from fast to lean",
        "auto",
        ("auto", "plain", "recompute", "offload", "swap"),
    )
    recompute: float | None = setting("share of the blocks that run again in the backward pass, instead of being kept")
    offload: bool | None = setting("keep the inputs of recomputed blocks on the host")
    swap: float | None = setting("share of the blocks whose weights stay on the host, and are fetched as they are used")
    limit_gib: float | None = setting("GPU memory to live in; null = all there is")


@dataclass
class DrawingMemoryConfig:
    """What lies on the GPU while clips are drawn; null = what fits fastest."""

    swap: float | None = setting("share of the blocks whose weights stay on the host, and are fetched as they are used")
    tile: bool | None = setting("VAE in overlapping tiles, whose seams are blended")
    limit_gib: float | None = setting("GPU memory to live in; null = all there is")


@dataclass
class SamplerConfig:
    """How noise becomes a clip."""

    name: str = setting("solver", "unipc", ("unipc", "euler"))
    steps: int = setting("denoising steps", 40)
    guidance: float = setting("classifier-free guidance scale; 1 = unguided", 5.0)
    guidance_mode: str = setting(
        "the guided pair: on the same ranks, or one half each on two groups of them; auto = as is foretold to be faster",
        "auto",
        ("auto", "batch", "split"),
    )
    ulysses: int | None = setting("ranks that share a sequence by attention heads; null = as is foretold to be fastest")
    ring: int | None = setting("groups of such ranks that share it by passing keys and values round; null = likewise")
    shift: float | None = setting("sigma shift; null = the model's own")
    cache: str = setting(
        "what a clip's steps take up from those before; calibrate = nothing, and says the ratios for magcache",
        "none",
        ("none", *CACHE_THRESHOLDS, "calibrate"),
    )
    cache_threshold: float | None = setting(
        "first_block, magcache: change, or foretold error, that is let pass; taylorseer: steps foretold after each; 0 = none"
    )
    cache_ratios: list[float] = field(
        default_factory=list, metadata={"help": "magcache: the model's ratios, as sampler.cache=calibrate says them"}
    )


SHARING = ("guidance_mode", "ulysses", "ring")
"""Settings of the sampler by which several ranks draw the clip that one draws."""
PARTITIONS = ("alone", "sequence", "ring", "halves")
"""How a study's ranks share a clip: not at all, its sequence, that in a ring, or first the halves of guidance."""


@dataclass
class MetricsConfig:
    """Which numbers are written beside a clip, in training a preview of one; and where networks lie that some rest on."""

    names: list[str] = field(
        default_factory=list,
        metadata={"help": "numbers written beside a clip or a preview (docs/metrics.md)", "choices": CLIP_METRICS},
    )
    clip: str | None = setting("CLIP ViT-B/32 for clip_sim_* and background_consistency: a directory or hub repository")
    dino: str | None = setting("DINO ViT-B/16 for subject_consistency, likewise")
    alexnet: str | None = setting("torchvision's alexnet-owt-7be5be79.pth for lpips_alex and tlp_alex: a file")
    i3d: str | None = setting("i3d_torchscript.pt for fvd_i3d: a file, and a program, so that i3d_sha256 goes with it")
    i3d_sha256: str | None = setting("SHA-256 of the i3d that may be run, 64 hexadecimal digits")


@dataclass
class LoggerConfig:
    """Where curves go."""

    name: str = setting("where curves go", "csv", ("wandb", "csv", "tensorboard", "none"))
    project: str = setting("project name at the logger", "cinelora")
    group: str | None = setting("wandb: group of the run; null = the sweep it is a member of")
    offline: bool | None = setting("wandb: null = offline unless a key is there")
    every_steps: int = setting("optimizer steps between logged losses", 10)


@dataclass
class RecipeConfig:
    """A named whole experiment: what its source states, and what we chose."""

    name: str | None = setting("name of the whole experiment")
    stage: str | None = setting("the stage the recipe is written for; null = any")
    known: list[str] = field(default_factory=list, metadata={"help": "what the source states"})
    ours: list[str] = field(default_factory=list, metadata={"help": "what the source does not state and we chose"})


@dataclass
class TrainConfig:
    """Everything ``train.py`` runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    lora: LoraSpec = field(default_factory=LoraSpec)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    ema_decay: float = setting("moving average of the adapter, exported instead of it; 0 = off", 0.0)
    seed: int = setting("seeds weights, order, noise and dropout", 0)
    gpus: int = setting("ranks on each node: GPUs, or CPU processes where there are none", 1)
    nodes: int = setting("machines", 1)
    workers: int = setting("processes reading footage and cache, per rank; 0 reads in the rank itself", 0)
    max_restarts: int = setting("times a run on one machine starts again by itself after it lost a rank", 3)
    plan: bool = setting("say what the run takes, in memory and time here and on other GPUs, and do nothing", False)
    out: str | None = setting("run directory; null = outputs/<stage>/<data>/<time>")
    adapter: str | None = setting("style adapter under stage=motion: a run, a file or hub:owner/name")
    resume: str | None = setting(
        "run to go on with: its directory, a file in it, or hub:owner/name; auto = the one in out=, if it has begun"
    )
    cache: str = setting("folder of encoded samples, shared between runs", "outputs/cache")
    description: str | None = setting("a note kept with the run")
    push: str | None = setting("hub repository, owner/name, that the adapter and its card are uploaded to at the end")
    private: bool = setting("push: make a new repository a private one", False)


@dataclass
class ScaleConfig:
    """How strongly each adapter acts; 0 = not at all."""

    keyframe: float = setting("scale of the style adapter while the keyframe is made", 1.0)
    style: float = setting("scale of the style adapter while the clip is expanded", 1.0)
    motion: float = setting("scale of the motion adapter while the clip is expanded", 1.0)


@dataclass
class InferConfig:
    """Everything ``infer.py`` runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    memory: DrawingMemoryConfig = field(default_factory=DrawingMemoryConfig)
    ckpt: str | None = setting("adapter(s): a run, an adapter file or hub:owner/name; null = the base model")
    prompt: str | None = setting("what the clip shows")
    prompts: str | None = setting("file with one prompt a line; makes a clip of each, goes on where it stopped")
    negative_prompt: str | None = setting("what guidance steers away from; null = the model's own")
    image: str | None = setting("keyframe to start from, instead of making one")
    mode: str = setting(
        "scene = keyframe, then expansion; t2v = straight from the t2v transformer", "scene", ("scene", "t2v")
    )
    num_frames: int | None = setting("frames, 4n+1; null = the model's own")
    compare: bool = setting("also make the clip without adapters, for the contact sheet", False)
    seed: int = setting("same seed, same clip", 0)
    gpus: int = setting("ranks on each node the sequence is split over", 1)
    nodes: int = setting("machines", 1)
    plan: bool = setting("say what a clip takes, in memory and time here and on other GPUs, and do nothing", False)
    out: str | None = setting("run directory; null = outputs/infer/<time>")
    cache: str = setting("folder of models built or fetched", "outputs/cache")


@dataclass
class PrepareConfig:
    """Everything ``cinelora.prepare`` runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    num_frames: int = setting("frames of a window, 4n+1", 33)
    seed: int = setting("decides what is held out", 0)
    workers: int | None = setting("processes that read footage; null = one a core, 0 = none of their own")


@dataclass
class EvaluateConfig:
    """Everything ``cinelora.evaluate`` runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    memory: DrawingMemoryConfig = field(default_factory=DrawingMemoryConfig)
    ckpt: str | None = setting("adapter(s): a run, an adapter file or hub:owner/name; null = the base model alone")
    prompts: str | None = setting("file with one prompt a line, drawn beside the captions of held-out clips")
    against: list[str] = field(
        default_factory=list,
        metadata={"help": "numbers that compare with held-out clips (docs/metrics.md)", "choices": AGAINST_METRICS},
    )
    clips: int = setting("held-out clips whose captions are drawn, at most", 4)
    seeds: int = setting("clips of each prompt, from as many seeds", 1)
    seed: int = setting("the first seed", 0)
    negative_prompt: str | None = setting("what guidance steers away from; null = the model's own")
    mode: str = setting(
        "scene = keyframe, then expansion; t2v = straight from the t2v transformer", "scene", ("scene", "t2v")
    )
    num_frames: int | None = setting("frames, 4n+1; null = the model's own")
    gpus: int = setting("ranks on each node the sequence is split over", 1)
    nodes: int = setting("machines", 1)
    report: bool = setting("draw nothing: tables and page anew, of what out=<run> holds", False)
    answers: str | None = setting("answers to out=<run>'s pairs.html, to be scored: a file, or a folder of them")
    plan: bool = setting("say what a clip takes, in memory and time here and on other GPUs, and do nothing", False)
    out: str | None = setting("run directory; null = outputs/evaluate/<ckpt>-<hash of the settings>")
    cache: str = setting("folder of models built or fetched", "outputs/cache")


@dataclass
class StudyConfig:
    """Everything ``cinelora.study`` runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    memory: DrawingMemoryConfig = field(default_factory=DrawingMemoryConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    ckpt: str | None = setting("adapter(s): a run, an adapter file or hub:owner/name; null = the base model alone")
    prompt: str | None = setting("what the clips show")
    prompts: str | None = setting("file with one prompt a line; each is drawn by every setting")
    seeds: int = setting("clips of each prompt, from as many seeds", 1)
    seed: int = setting("the first seed", 0)
    negative_prompt: str | None = setting("what guidance steers away from; null = the model's own")
    mode: str = setting(
        "scene = keyframe, then expansion; t2v = straight from the t2v transformer", "scene", ("scene", "t2v")
    )
    num_frames: int | None = setting("frames, 4n+1; null = the model's own")
    against: list[str] = field(
        default_factory=list,
        metadata={
            "help": "numbers that compare with the baseline's clips (docs/metrics.md)",
            "choices": AGAINST_METRICS,
        },
    )
    ranks: list[int] = field(
        default_factory=list,
        metadata={"help": "ranks that the adapters are cut or padded to; without ckpt, those of drawn ones"},
    )
    scales: list[float] = field(default_factory=list, metadata={"help": "scales of the adapters; 0 = the base model"})
    merged: list[bool] = field(
        default_factory=list, metadata={"help": "adapters folded into the weights (true), or live beside them"}
    )
    steps: list[int] = field(default_factory=list, metadata={"help": "denoising steps"})
    first_block: list[float] = field(default_factory=list, metadata={"help": "thresholds of sampler.cache=first_block"})
    taylorseer: list[int] = field(default_factory=list, metadata={"help": "thresholds of sampler.cache=taylorseer"})
    magcache: list[float] = field(
        default_factory=list,
        metadata={"help": "thresholds of sampler.cache=magcache; without sampler.cache_ratios they are measured first"},
    )
    dtypes: list[str] = field(
        default_factory=list,
        metadata={"help": "dtypes of the frozen transformer", "choices": ("bf16", "fp32", "fp8")},
    )
    partitions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "how gpus share a clip: not at all, its sequence, that in a ring, or first the halves of guidance",
            "choices": PARTITIONS,
        },
    )
    grid: bool = setting("every combination of the lists, instead of one change of the baseline at a time", False)
    repetitions: int = setting("timed rounds over all settings, after one that is not counted", 3)
    latency_only: bool = setting("time steps of one clip from drawn inputs; nothing is decoded or measured", False)
    latency_steps: int = setting("denoising steps that latency_only times", 3)
    merge: list[str] = field(
        default_factory=list, metadata={"help": "studies to be put into one, out=<directory>: their run directories"}
    )
    gpus: int = setting("ranks on each node the sequence is split over", 1)
    nodes: int = setting("machines", 1)
    plan: bool = setting("say what a clip takes, in memory and time here and on other GPUs, and do nothing", False)
    out: str | None = setting("run directory; null = outputs/study/<ckpt>-<hash of the settings>")
    cache: str = setting("folder of models built or fetched", "outputs/cache")


def pick(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


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
