"""The typed settings that every other room receives. No Hydra, no torch: ranks unpickle these and nothing else.

Values live in ``conf/``; a default stands here only where no file in ``conf/`` sets it.
All that is known of a setting is said here, once: ``--help``, the checks, hashes and paths are derived from it. The text
after a setting is its help, and the docstring of a command's settings the head of its ``--help``.
"""

# ruff: noqa: RUF009 - fields are made by functions, each by one of its own
from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

from cinelora.families import FAMILIES, family_of
from cinelora.families.family import HIGH
from cinelora.io.hub import RANDOM_MEMBERS

CLIP_METRICS = (
    *"flicker tssim motion tssim_warped warping_error flow_motion shake temporal_flickering frames_scale".split(),
    *"consistency_scale clip_sim_frames clip_sim_text subject_consistency background_consistency".split(),
)
"""The measures that need one clip and at most its prompt; ``cinelora.metrics.suite`` knows how each is worked out."""

AGAINST_METRICS = (
    *"psnr ssim perceptual_scale temporal_perceptual_scale lpips_alex tlp_alex frechet_scale fvd_i3d".split(),
)
"""The measures that need the real clips: one that is like the clip, or a set of them."""

ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3")
"""The attention backends that are exact, as diffusers names them: torch's choice, two that torch can be made to take, and
flash-attn 2 and 3 where they are installed."""

INT8 = "int8"
"""The attention that rounds to 8 bits; it is for drawing clips, and never chosen by itself."""
INT8_TOKENS = 4096
"""Shorter sequences stay exact: of a still's step attention is a small part, and the whole clip rests on a keyframe."""
INT8_HEAD = 128
"""Channels of the heads that it is made for, which every Wan transformer of 1.3 B parameters and more has."""

DTYPES = ("bf16", "fp32", "fp8")
"""The dtypes a frozen transformer may have."""

CACHE_THRESHOLDS = {"first_block": 0.05, "taylorseer": 4.0, "magcache": 0.06}
"""The caches between denoising steps, and the threshold each has where none is given: diffusers' own."""


MOST_BLOCKS, MOST_PROCESSES, MOST_NODES = 1024, 1024, 4096
"""Of a model, on a machine and in a run. What a file says beyond that would fill the machine before anything could refuse it."""


def setting(default: Any = None, choices: tuple[str, ...] = (), **about: Any) -> Any:
    """A dataclass field with all that is known of it: see ``fields.Field``. Its help is the docstring after it."""
    # every object gets a list of its own; any other default is a value that cannot change, and all objects share it
    value = {"default_factory": list} if default == [] else {"default": default}
    return field(metadata={"choices": choices, **about}, **value)


def section(schema: type, **about: Any) -> Any:
    """A dataclass field that holds a section; ``about`` is said of each of its settings, in place of what they say."""
    return field(default_factory=schema, metadata=about)


# The bounds and roles that come often. A role makes the value a free text, which reaches the program verbatim.
_count = partial(setting, at_least=1)
_frames = partial(setting, at_least=1, frames=True)
_fraction = partial(setting, at_least=0, below=1)
_scale = partial(setting, at_least=-10, at_most=10)
_expert_scale = partial(_scale, default=None, since=True)
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

    name: str = setting("")
    """name of the model"""
    family: str = setting(next(iter(FAMILIES)), tuple(FAMILIES), since=True)
    """what sort of model it is: its latents, its networks and how they are fed"""
    t2v: str | None = _source(read_when="t2v")
    """text-to-video checkpoint: embedded:tiny-t2v, hub repository, directory, or a transformer as .safetensors or .gguf"""
    i2v: str | None = _source(read_when="i2v")
    """image-to-video checkpoint, likewise; null where the family has none"""
    t2v_high: str | None = _source(read_when="t2v experts teaches_high", since=True)
    """high-noise expert of t2v as a file or folder of its own, where two experts make a network; null = in t2v"""
    t2v_low: str | None = _source(read_when="t2v experts teaches_low", since=True)
    """low-noise expert of t2v, likewise"""
    i2v_high: str | None = _source(read_when="i2v experts teaches_high", since=True)
    """high-noise expert of i2v, likewise"""
    i2v_low: str | None = _source(read_when="i2v experts teaches_low", since=True)
    """low-noise expert of i2v, likewise"""
    base: str | None = _source(read_when="base", since=True)
    """Stable Diffusion 1.5 or a fine-tune (AnimateDiff), or all of ModelScope's family: hub repository or diffusers directory"""
    tuned: str | None = _source(read_when="base", since=True)
    """one .safetensors or .ckpt in place of the base's weights: a fine-tune of SD1.5, or VideoCrafter2's file of its authors"""
    motion_adapter: str | None = _source(read_when="motion", since=True)
    """AnimateDiff's motion modules: hub repository, directory, or the authors' file"""
    domain_adapter: str | None = _source(read_when="motion", since=True)
    """AnimateDiff's domain adapter, as the authors' file; null = none"""
    sparse_control: str | None = _source(read_when="motion", since=True)
    """SparseCtrl-RGB, by which AnimateDiff begins a clip at a picture: hub repository or directory; null = by text alone"""
    domain_scale: float = _scale(1.0, read_when="motion domain", since=True)
    """how strongly the domain adapter acts"""
    vae: str | None = _source(read_when="encodes")
    """VAE for both, from a file, folder or repository; null = the checkpoint's own"""
    text_encoder: str | None = _source(read_when="encodes")
    """UMT5 for both, likewise"""
    tokenizer: str | None = _source(read_when="encodes")
    """tokenizer of UMT5, likewise, from a folder or repository"""
    image_encoder: str | None = _source(read_when="encodes image_shown")
    """CLIP image encoder, likewise"""
    weights: str = setting("stored", ("stored", "random"))
    """random = full shapes with random values, nothing fetched: for time and memory alone"""
    t2v_revision: str = setting("main", private=True, read_when="t2v t2v_on_hub")
    """hub revision of t2v"""
    i2v_revision: str = setting("main", private=True, read_when="i2v i2v_on_hub")
    """hub revision of i2v"""
    base_revision: str = setting("main", private=True, read_when="base base_on_hub", since=True)
    """hub revision of base"""
    dtype: str = setting("bf16", DTYPES)
    """dtype of the frozen transformer; fp8 = one byte a weight in its blocks, computed in fp8 on GPUs that can"""
    compile_blocks: bool | None = setting()
    """compile the transformer's blocks: half a minute at the start, and a C++ compiler; null = on a GPU, where it pays"""
    # another exact backend draws the same clip; a machine may lack the one that a run began with
    attention: str | None = setting(
        None, (*ATTENTION_BACKENDS, INT8), resumable=True, changes_clip=(INT8,), hashed_as=None
    )
    """attention backend, as diffusers names the exact ones; int8 = in 8 bits where a measurement finds it near enough,
    to draw clips faster; null = the fastest exact one measured on the GPU at hand"""
    num_layers: int = _count(40, at_most=MOST_BLOCKS)
    """transformer blocks"""
    num_heads: int = _count(40)
    """attention heads; bounds how the sequence can be split"""
    hidden_size: int = _count(5120)
    """transformer width in channels"""
    ffn_dim: int = _count(13824)
    """width inside the feed-forward layers; asked for where weights are random"""
    height: int = _count(480, is_side=True)
    """frame height in pixels, a multiple of 16, of 32 with Wan2.2 TI2V-5B"""
    width: int = _count(832, is_side=True)
    """frame width in pixels, a multiple of 16, of 32 with Wan2.2 TI2V-5B"""
    fps: int = setting(16, at_least=1)
    """frames per second the model was trained at"""
    num_frames: int = _frames(81, read_when="own_frames")
    """frames of a generated clip, 4n+1"""
    sampling_shift: float = setting(5.0, above=0, read_when="flows own_shift")
    """sigma shift at inference, as the model's authors publish it"""
    t2v_shift: float | None = setting(above=0, since=True, read_when="own_shift t2v")
    """sigma shift of t2v, where it has another than i2v"""
    guidance: float | None = setting(at_least=0, since=True)
    """guidance that clips are drawn with where sampler.guidance is null; null = as its family's authors publish it"""
    t2v_boundary: float | None = setting(above=0, below=1, since=True, read_when="experts t2v")
    """noise level at which t2v changes from its high-noise to its low-noise expert; null = as its authors publish it"""
    i2v_boundary: float | None = setting(above=0, below=1, since=True, read_when="experts i2v")
    """noise level at which i2v changes its expert, likewise"""
    negative_prompt: str = _text("", read_when="guided own_negative")
    """what guidance steers away from, unless the user says"""

    @property
    def boundaries(self) -> dict[str, float | None]:
        """The noise level at which each network changes its expert, where that is not the authors' own."""
        return {"t2v": self.t2v_boundary, "i2v": self.i2v_boundary}

    def source(self, network: str, expert: str = "") -> str | None:
        """Where the checkpoint of one of its networks, or of an ``expert`` of it, lies, as the user named it.

        None where the model lacks it.
        """
        whole: str | None = getattr(self, self.key_of(network))
        own: str | None = getattr(self, self.key_of(network, expert))
        if own is None and whole is None and family_of(self).one_checkpoint:
            return self.t2v
        return own or whole

    @property
    def expands(self) -> bool:
        """Whether it makes clips from a first frame: by its family, or by what is put into a network for that."""
        return family_of(self).expands or self.sparse_control is not None

    @property
    def is_random(self) -> bool:
        """Whether its weights are random, so that what it draws is noise."""
        return self.weights == "random" or any(source in RANDOM_MEMBERS for source in (self.t2v, self.i2v, self.base))

    @property
    def random_in_words(self) -> str:
        """What makes them random."""
        return "model.weights=random" if self.weights == "random" else f"{self.name} has no others"

    def key_of(self, network: str, expert: str = "") -> str:
        """The key, without ``model.``, that names the checkpoint of a network or of one of its experts."""
        if expert:
            return f"{network}_{'high' if expert == HIGH else 'low'}"
        return family_of(self).network(network).key or network

    def revision(self, network: str) -> str:
        """The revision that is asked for of a network's checkpoint, where that is on the hub."""
        return str(getattr(self, f"{self.key_of(network)}_revision"))

    def shift_of(self, network: str) -> float:
        """The sigma shift that a network samples with."""
        return self.sampling_shift if network != "t2v" or self.t2v_shift is None else self.t2v_shift


ADAPTER_STAGES = ("style", "motion")
NETWORKS = tuple(dict.fromkeys(network.name for family in FAMILIES.values() for network in family.networks))
"""What families call their networks."""


@dataclass
class StageConfig:
    """What is learnt, on which transformer, from what, and for how long."""

    name: str = setting("style", (*ADAPTER_STAGES, "pretrain"), by_group=True)
    """what is learnt; pretrain = every weight"""
    expert: str = setting("both", ("both", "high", "low"), resumable=True, since=True, read_when="experts")
    """which of the two experts of the network learn; both = one after the other"""
    transformer: str = setting("t2v", NETWORKS)
    """which network of the model is trained on"""
    num_frames: int = _frames(1)
    """frames of a training sample: 1 = stills, else 4n+1"""
    image_condition: bool = setting(False)
    """show the transformer its first frame (i2v only)"""
    stills: float = _fraction(0.0, read_when="pretrains")
    """share of pretraining steps that see the first latent frame of each window alone"""
    allow_leak: bool = setting(False, read_when="leaks")
    """train stills on i2v although the condition is the answer"""
    steps: int = _count(1000, resumable=True)
    """optimizer steps"""
    batch_size: int = _count(4, resumable=True)
    """samples per rank and micro-batch"""
    accumulation: int = _count(1, resumable=True)
    """micro-batches per optimizer step"""
    high_steps: int | None = _count(resumable=True, since=True, read_when="experts teaches_high")
    """steps of the high-noise expert; null = steps"""
    low_steps: int | None = _count(resumable=True, since=True, read_when="experts teaches_low")
    """steps of the low-noise expert; null = steps"""

    @property
    def trains_every_weight(self) -> bool:
        """Whether it trains the transformer itself, which only a clone can do (``clone_only``), and no adapter."""
        return self.name not in ADAPTER_STAGES


@dataclass
class FootageLimits:
    """What a shot must hold to be trained on; null switches a test off. docs/footage.md says how each is measured."""

    sharpness: float | None = setting(0.35)
    """least sharpness of a shot's frames, as a share of its film's own"""
    dark: float | None = setting(0.97)
    """largest share of a frame's pixels that are black"""
    bright: float | None = setting(0.6)
    """largest share of a frame's pixels that are burnt out"""
    still: float | None = setting(0.002)
    """least motion, widths of the frame a second"""
    fast: float | None = setting(3.0)
    """most motion, widths of the frame a second"""
    shake: float | None = setting(0.5)
    """most of the camera's motion that goes back and forth, widths a second"""
    text: float | None = setting(0.02)
    """largest share of the frame under lettering"""
    logo: float | None = setting(0.004)
    """largest share of the frame under what stands still while all else moves"""
    alike: float | None = setting(6.0)
    """two shots are the same when their pictures differ by less, of 64 bits"""
    min_seconds: float | None = setting(0.5)
    """shortest shot"""


_DESCRIBE = "Describe this shot in one sentence: who, what they do, where, light and camera."


@dataclass
class DataConfig:
    """Where clips and captions come from, and how samples are cut out of them."""

    name: str = setting("")
    """name of the data set"""
    root: str | None = _path()
    """folder with clips, and .txt captions beside them"""
    look: str | None = setting(None, ("daylight", "noir", "western", "neon"))
    """render the footage in this look, instead of reading any"""
    clips: int = _count(5000, read_when="rendered")
    """clips to render for training"""
    heldout_clips: int = setting(64, at_least=0, read_when="rendered")
    """clips to render for validation"""
    manifest: str | None = _path(read_when="footage")
    """take the samples of this manifest.jsonl, as they stand in it, and look for no others"""
    prepared: str | None = _path(read_when="surveyed")
    """folder of what was prepared from the footage; null = outputs/datasets/<root>-<hash>"""
    overrides: str | None = _path(read_when="surveyed")
    """verdicts by hand, from the contact sheet; null = overrides.json in data.prepared"""
    follow_links: bool = setting(False, private=True, read_when="footage")
    """follow links that lead out of data.root"""
    judged: bool = setting(True, read_when="surveyed")
    """look for bars, titles, fades, blur and repetition, and leave out shots with them"""
    limits: FootageLimits = section(FootageLimits, at_least=0, read_when="surveyed judged")
    exact: bool = setting(True, read_when="footage")
    """colours are FFmpeg's accurate ones; false = decord's own, which are off at edges"""
    matrix: str = setting("auto", ("auto", "bt709", "bt601"), read_when="footage", since=True)
    """matrix of films that name none; auto = bt709 from HD on, as players guess"""
    interlaced: str = setting("auto", ("auto", "refuse", "keep"), read_when="surveyed", since=True)
    """film of two moments a frame: auto deinterlaces it, telecined film is put together again; keep trains on its combs"""
    subtitles: str = setting("refuse", ("refuse", "crop", "keep"), read_when="surveyed judged", since=True)
    """captions that are part of the picture: refuse shots that bear them, or crop all shots of their film, or keep them"""
    lettering: str = setting("auto", ("auto", "plain"), read_when="surveyed judged", since=True)
    """captions and titles are looked for by a network where cinelora[lettering] is installed; plain = always by their strokes"""
    lettering_weights: str | None = _path(read_when="surveyed judged looks_learned", since=True)
    """the network's weights, PP-OCRv6_det_small.onnx; null = those of the installed wheel"""
    hdr: str = setting("refuse", ("refuse", "tone_map"), read_when="footage")
    """footage in PQ, HLG or bt.2020"""
    lut: str | None = _path(read_when="footage")
    """a .cube file that every frame goes through"""
    sequence_fps: float = setting(24.0, above=0, read_when="footage")
    """frames per second of numbered pictures"""
    resample: str = setting("nearest", ("nearest", "blend"), read_when="surveyed windows")
    """how frames are found between those of the footage"""
    buckets: bool = setting(True, read_when="surveyed own_shapes")
    """train footage in its own shape, in the model's pixels; false cuts it to the model's"""
    caption: str | None = _text(read_when="surveyed")
    """one caption for every clip, instead of the files beside them"""
    caption_lines: str = setting("joined", ("joined", "first", "each"), since=True, read_when="described")
    """a caption of several lines: one text, its first line, or as many captions, each trained with; held-out: the first"""
    trigger: str | None = _text()
    """word put before every caption, to call the look up later"""
    description: str | None = _note(read_when="surveyed")
    """the look, described once: put behind every caption"""
    captioner: str | None = _path(read_when="surveyed uncaptioned")
    """folder of a vision-language model that captions what has no caption"""
    captioner_prompt: str = _text(_DESCRIBE, read_when="surveyed uncaptioned captioner")
    """what it is asked"""
    holdout: float = _fraction(0.1, read_when="surveyed")
    """share of the footage kept for validation; folders named train and heldout decide instead"""
    split_by: str = setting("auto", ("auto", "file", "shot"), read_when="surveyed")
    """what is kept whole on one side; auto = file, or shot where there are few files"""
    stills: str = setting("sharpest", ("sharpest", "even"), read_when="surveyed stills")
    """which frames of a shot stills are"""
    stills_per_shot: int = _count(2, read_when="surveyed stills")
    """stills taken from each shot"""
    window_stride: int = setting(33, at_least=1, read_when="surveyed windows")
    """frames between the starts of two windows, at the model's fps"""
    min_frames: int | None = _frames(read_when="footage windows own_shapes")
    """shots too short for a window give shorter ones, of at least so many frames, 4n+1; null = none"""


@dataclass
class LoraSpec:
    """The adapter: how wide, how strong, and where. A run's settings hold one, and so does every adapter file."""

    rank: int = _count(8)
    """rank of the two factors"""
    alpha: float = setting(16.0, above=0)
    """the update is scaled by alpha / rank"""
    dropout: float = _fraction(0.0)
    """dropout before the first factor; another cut of the batch draws it anew"""
    targets: str = setting("cross_attention", ("cross_attention", "attention", "all_linear"))
    """which projections"""

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / self.rank


@dataclass
class OptimizerConfig:
    """AdamW and its rate over time."""

    # a lower rate, or a tighter norm, is what calms a run whose loss was no longer finite
    lr: float = setting(3e-5, above=0, resumable=True)
    """AdamW learning rate"""
    high_lr: float | None = setting(above=0, resumable=True, since=True, read_when="experts teaches_high")
    """rate of the high-noise expert; null = lr. Stills alone overtrain it soon"""
    low_lr: float | None = setting(above=0, resumable=True, since=True, read_when="experts teaches_low")
    """rate of the low-noise expert; null = lr"""
    lr_for_width: int | None = _count(5120)
    """width the rate was found at: other widths get lr x this / hidden_size; null takes lr as it is"""
    beta1: float = _fraction(0.9)
    """first moment"""
    beta2: float = _fraction(0.999)
    """second moment"""
    eps: float = setting(1e-8, above=0)
    """AdamW epsilon"""
    weight_decay: float = setting(0.01, at_least=0)
    """decoupled weight decay"""
    warmup_steps: int = setting(0, at_least=0, read_when="within_run")
    """steps of linear warm-up"""
    schedule: str = setting("constant", ("constant", "cosine"))
    """rate after the warm-up"""
    on_extend: str = setting("rescale", ("rescale", "continue"), resumable=True)
    """a cosine whose stage.steps a resume changes: drawn over all steps, or from the rate it has got to down to zero"""
    extended: list[int] = setting([], by_group=True)
    """written by on_extend=continue: pairs of a step at which a resume changed stage.steps, and what those were before"""
    high_extended: list[int] = setting([], by_group=True, since=True)
    """the same of the high-noise expert's steps"""
    low_extended: list[int] = setting([], by_group=True, since=True)
    """the same of the low-noise expert's steps"""
    clip_norm: float = setting(1.0, at_least=0, resumable=True)
    """gradient norm is clipped to this; 0 = never"""


@dataclass
class FlowConfig:
    """Which noise levels are trained on."""

    sigma_mean: float = setting(0.0)
    """mean of the normal behind the logit-normal sigma"""
    sigma_std: float = setting(1.0, above=0)
    """its standard deviation"""
    shift: float | None = setting(above=0)
    """sigma shift; null = 2 at 480p, grown with the square root of the pixels"""


@dataclass
class DropoutConfig:
    """What is hidden from the transformer now and then, so that guidance has something to steer against."""

    caption: float = _fraction(0.1)
    """share of samples trained without caption, for guidance"""
    image: float = _fraction(0.1, read_when="image_shown")
    """share of i2v samples trained without image condition"""


@dataclass
class CheckpointConfig:
    """When a run is saved."""

    every_steps: int = setting(250, at_least=0, read_when="within_run")
    """optimizer steps between checkpoints; 0 = only at the end"""
    keep: int = _count(2)
    """newest checkpoints kept"""
    best: str | None = _note()
    """a logged number, such as heldout/loss: the adapter with the best of it is kept as <stage>-best.safetensors"""
    best_mode: str | None = setting(None, ("min", "max"))
    """which is best, the lowest or highest; null = as the number says"""


@dataclass
class StoppingConfig:
    """When a run ends before its last step, because it learns no more."""

    monitor: str | None = _note()
    """a logged number, such as heldout/loss; null = never stop early"""
    patience: int = _count(3)
    """times in a row that it may be logged without having become better"""
    mode: str | None = setting(None, ("min", "max"))
    """which is better, lower or higher; null = as the number says"""
    min_change: float = setting(0.0, at_least=0)
    """what it must change by, to count as better"""


@dataclass
class ValidationConfig:
    """When held-out samples are looked at."""

    every_steps: int = setting(250, at_least=0, read_when="within_run")
    """optimizer steps between held-out losses; 0 = never"""
    samples: int = _count(8, read_when="validates")
    """held-out samples looked at, at most"""
    clips: int = setting(0, at_least=0)
    """held-out samples drawn anew and measured, at most; 0 = none"""


USUAL_STEPS = 8
"""Denoising steps of a clip that is made while a run trains."""


@dataclass
class PreviewConfig:
    """When a clip is made during training."""

    every_steps: int | None = setting(at_least=0, read_when="within_run")
    """optimizer steps between previews; 0 = never, null = as often as is estimated to take 5 % of the run at most"""
    seeds: int = _count(1, read_when="previews")
    """clips of each preview, from as many seeds"""
    prompt: str | None = _text(read_when="previews")
    """what the preview shows; null = the first held-out caption"""
    sampler_steps: int | None = setting(at_least=1, read_when="draws")
    """denoising steps of a preview, or of a held-out clip; null = 8, or 4 for previews that else were too dear"""
    num_frames: int | None = _frames(read_when="previews")
    """frames of a preview, 4n+1; null = the stage's, or fewer for previews that else were too dear"""

    def frames_of(self, stage: StageConfig) -> int:
        """Frames of a preview: those that were typed or chosen, else the stage's."""
        return self.num_frames or stage.num_frames

    @property
    def steps(self) -> int:
        """Denoising steps: those that were typed or chosen, else the usual number."""
        return USUAL_STEPS if self.sampler_steps is None else self.sampler_steps


_STRATEGIES = ("auto", "single", "ddp", "zero1", "zero2", "zero3")


@dataclass
class StrategyConfig:
    """How ranks share the work."""

    name: str = setting("auto", _STRATEGIES, by_group=True, read_when="strategy_shares")
    """auto = ddp when there are several ranks; zero = DeepSpeed, which shards what training keeps (docs/strategies.md)"""
    sequence: int = _count(1, read_when="several_ranks")
    """ranks that share each sample's sequence, a divisor of gpus x nodes"""
    cpu_offload: bool = setting(False)
    """zero1-3: moments, and with zero3 the frozen weights, lie on the host"""


def zero_level(strategy: StrategyConfig) -> int:
    """1, 2 or 3 of ZeRO, and 0 for another strategy."""
    return int(strategy.name[-1]) if strategy.name.startswith("zero") else 0


_SWAP = setting(at_least=0, at_most=1)
"""share of the blocks whose weights stay on the host, and are fetched as they are used"""
_LIMIT_GIB = setting(above=0)
"""GPU memory to live in; null = all there is"""


@dataclass
class MemoryConfig:
    """What the transformer's blocks keep on the GPU in training, as shares of the blocks; null = what fits fastest."""

    name: str = setting("auto", ("auto", "plain", "recompute", "offload", "swap"), by_group=True)
    """auto = the fastest that fits the GPU at hand; the others from fast to lean"""
    recompute: float | None = setting(at_least=0, at_most=1)
    """share of the blocks that run again in the backward pass, instead of being kept"""
    offload: bool | None = setting()
    """keep the inputs of recomputed blocks on the host"""
    swap: float | None = _SWAP
    limit_gib: float | None = _LIMIT_GIB


@dataclass
class DrawingMemoryConfig:
    """What lies on the GPU while clips are drawn; null = what fits fastest."""

    swap: float | None = _SWAP
    tile: bool | None = setting(read_when="encodes")
    """VAE in overlapping tiles, whose seams are blended"""
    limit_gib: float | None = _LIMIT_GIB


_ALONE = "a preview is made by one rank"
_IN_FULL = "a preview is drawn in full"


GUIDANCE = 5.0
"""Guidance where neither the settings nor the model's authors name one."""


def own_guidance(model: ModelConfig) -> float | None:
    """Guidance where none was typed; None where each network of the model has its own."""
    if model.guidance is not None:
        return model.guidance
    return None if any(network.guidance for network in family_of(model).networks) else GUIDANCE


@dataclass
class SamplerConfig:
    """How noise becomes a clip."""

    name: str = setting("unipc", ("unipc", "euler"), by_group=True)
    """solver"""
    steps: int = _count(40, not_in_training="a preview takes preview.sampler_steps", read_when="whole_clips")
    """denoising steps"""
    guidance: float | None = setting(GUIDANCE, at_least=0)
    """classifier-free guidance scale; 1 = unguided; null = each network's own, as its authors publish it"""
    guidance_mode: str = setting(
        "auto", ("auto", "batch", "split"), changes_clip=False, not_in_training=_ALONE, read_when="several_ranks guided"
    )
    """the guided pair: on the same ranks, or one half each on two groups of them; auto = as is foretold to be faster"""
    ulysses: int | None = _count(changes_clip=False, not_in_training=_ALONE, read_when="several_ranks")
    """ranks that share a sequence by attention heads; null = as is foretold to be fastest"""
    ring: int | None = _count(changes_clip=False, not_in_training=_ALONE, read_when="several_ranks")
    """groups of such ranks that share it by passing keys and values round; null = likewise"""
    shift: float | None = setting(above=0, read_when="flows")
    """sigma shift; null = the model's own"""
    cache: str = setting("none", ("none", *CACHE_THRESHOLDS, "calibrate"), not_in_training=_IN_FULL)
    """what a clip's steps take up from those before; calibrate = nothing, and says the ratios for magcache"""
    cache_threshold: float | None = setting(at_least=0, not_in_training=_IN_FULL)
    """first_block, magcache: change, or foretold error, that is let pass; taylorseer: steps foretold after each; 0 =
    none"""
    cache_ratios: list[float] = setting([], not_in_training=_IN_FULL)
    """magcache: the model's ratios, as sampler.cache=calibrate says them"""
    exact_steps: int = setting(1, at_least=0, since=True, not_in_training=_IN_FULL, read_when="int8")
    """steps at the beginning and at the end of a clip whose attention stays exact"""
    attention_guard: str = setting("exact", ("exact", "report"), since=True, not_in_training=_IN_FULL, read_when="int8")
    """layers whose attention int8 would put further off than its tolerance: exact = they stay exact; report = they do not"""


SHARING = tuple(entry.name for entry in fields(SamplerConfig) if not entry.metadata.get("changes_clip", True))
"""Settings of the sampler by which several ranks draw the clip that one draws."""
PARTITIONS = ("alone", "sequence", "ring", "halves")
"""How a study's ranks share a clip: not at all, its sequence, that in a ring, or first the halves of guidance."""


@dataclass
class MetricsConfig:
    """Which numbers are written beside a clip, in training a preview of one; and where networks lie that some rest on."""

    names: list[str] = setting([], CLIP_METRICS)
    """numbers written beside a clip or a preview (docs/metrics.md)"""
    clip: str | None = _source(read_when="needs_clip")
    """CLIP ViT-B/32 for clip_sim_* and background_consistency: a directory or hub repository"""
    dino: str | None = _source(read_when="needs_dino")
    """DINO ViT-B/16 for subject_consistency, likewise"""
    alexnet: str | None = _path(read_when="needs_alexnet")
    """torchvision's alexnet-owt-7be5be79.pth for lpips_alex and tlp_alex: a file"""
    i3d: str | None = _path(read_when="needs_i3d")
    """i3d_torchscript.pt for fvd_i3d: a file, and a program, so that i3d_sha256 goes with it"""
    i3d_sha256: str | None = _note(private=True, read_when="needs_i3d")
    """SHA-256 of the i3d that may be run, 64 hexadecimal digits"""


@dataclass
class LoggerConfig:
    """Where curves go."""

    name: str = setting("csv", ("wandb", "csv", "tensorboard", "none"), by_group=True, private=True)
    """where curves go"""
    also: list[str] = setting([], ("wandb", "tensorboard"), private=True, read_when="trains")
    """and where else, as in logger=wandb logger.also=[tensorboard]; logs/csv is always written"""
    project: str = _note("cinelora", private=True, read_when="wandb")
    """project name at the logger"""
    entity: str | None = _note(private=True, read_when="wandb")
    """wandb: user or team; null = your own default"""
    group: str | None = _note(private=True, read_when="wandb")
    """wandb: group of the run; null = the sweep it is a member of"""
    tags: list[str] = setting([], read_when="wandb")
    """wandb: tags of the run"""
    notes: str | None = _note(read_when="wandb")
    """wandb: notes of the run; null = description"""
    offline: bool | None = setting(private=True, read_when="wandb")
    """wandb: null = offline unless a key is there"""
    artifact: bool | None = setting(read_when="wandb trains")
    """wandb: keep the finished adapter there; null = where it is online, true = offline too, for wandb sync"""
    every_steps: int = _count(10, read_when="trains")
    """optimizer steps between logged losses"""

    @property
    def all(self) -> set[str]:
        """The names of all loggers that are asked for."""
        return {self.name, *self.also} - {"none"}


@dataclass
class RecipeConfig:
    """A named whole experiment: what its source states, and what we chose."""

    name: str | None = setting()
    """name of the whole experiment"""
    stage: str | None = setting()
    """the stage the recipe is written for; null = any"""
    known: list[str] = setting([])
    """what the source states"""
    ours: list[str] = setting([])
    """what the source does not state and we chose"""


# Settings that several commands share. What does not change a clip but for rounding stands in no hash of it: where it is
# written, how many ranks make it, and out of how much memory.

_CKPT = _run()
"""adapter(s): a run, an adapter file or hub:owner/name[/file.safetensors]; null = the base model alone"""
_ADAPTERS = setting([], role="run", since=True)
"""adapters beside those of ckpt, or without it, any number: [file@0.8,hub:owner/name@0.5], each on keyframe and clip where it
fits; file@0.8:clip or :keyframe = there alone (docs/adapters.md)"""
_NEGATIVE_PROMPT = _text(read_when="guided encodes")
"""what guidance steers away from; null = the model's own"""
_MODE = setting("scene", ("scene", "t2v"))
"""scene = keyframe, then expansion; t2v = straight from the t2v transformer"""
_NUM_FRAMES = _frames()
"""frames, 4n+1; null = the model's own"""
_SEEDS = _count(1, read_when="encodes")
"""clips of each prompt, from as many seeds"""
_FIRST_SEED = setting(0, at_least=0)
"""the first seed"""
_RANKS = _count(1, at_most=MOST_PROCESSES, changes_clip=False)
"""ranks on each node the sequence is split over"""
_NODES = _count(1, at_most=MOST_NODES, resumable=True, changes_clip=False)
"""machines"""
_PLAN = setting(False, changes_clip=False)
"""true = say what a clip takes, in memory and time, here and on other cards, and do nothing; rtx4090 (or another) = as if on that
card; cluster = also on up to 64 GPUs"""
_MODELS_CACHE = _path("outputs/cache", changes_clip=False, without_drawing=True)
"""folder of models built or fetched"""


_OUT = setting(role="directory", resumable=True, changes_clip=False, without_drawing=True, typed_only=True)
_TRUST = setting(False, resumable=True, changes_clip=False, without_drawing=True, typed_only=True)
"""take places, programs and accounts from a directory or adapter file of somebody else as they stand there"""


@dataclass
class TrainConfig:
    """Train a LoRA adapter of an open video generator: stage=style on stills, then stage=motion on windows above it.

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
    flow: FlowConfig = section(FlowConfig, read_when="flows")
    dropout: DropoutConfig = section(DropoutConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig, resumable=True)
    stopping: StoppingConfig = section(StoppingConfig, resumable=True)
    validation: ValidationConfig = section(ValidationConfig, resumable=True)
    preview: PreviewConfig = section(PreviewConfig, resumable=True)
    ema_decay: float = _fraction(0.0)
    """moving average of the adapter, exported instead of it; 0 = off"""
    seed: int = setting(0, at_least=0)
    """seeds weights, order, noise and dropout"""
    gpus: int = _count(1, at_most=MOST_PROCESSES, resumable=True)
    """ranks on each node: GPUs, or CPU processes where there are none"""
    nodes: int = _NODES
    workers: int = setting(0, at_least=0, at_most=MOST_PROCESSES, resumable=True)
    """processes reading footage and cache, per rank; 0 reads in the rank itself"""
    max_restarts: int = setting(3, at_least=0, resumable=True, read_when="one_machine")
    """times a run on one machine starts again by itself after it lost a rank"""
    hang_minutes: float = setting(15.0, at_least=0, resumable=True, since=True)
    """minutes after which a step that does not end is given up, and the run starts again as after a lost rank; 0 = never"""
    plan: bool | str = setting(False, resumable=True)
    """true = say what the run takes, in memory and time, here and on other cards, and do nothing; rtx4090 (or another) = as if on
    that card"""
    out: str | None = _OUT
    """run directory; null = outputs/<stage>/<data>/<time>"""
    adapter: str | None = _run()
    """style adapter under stage=motion: a run, a file or hub:owner/name"""
    resume: str | None = _run(resumable=True, typed_only=True)
    """run to go on with: its directory, a file in it, or hub:owner/name; auto = the one in out=, if it has begun"""
    cache: str = _path("outputs/cache", resumable=True)
    """folder of encoded samples, shared between runs"""
    description: str | None = _note(resumable=True)
    """a note kept with the run"""
    trust: bool = _TRUST
    push: str | None = _note(resumable=True, typed_only=True)
    """hub repository, owner/name, that the adapter and its card are uploaded to at the end"""
    private: bool = setting(False, resumable=True, typed_only=True)
    """push: make a new repository a private one"""


@dataclass
class ScaleConfig:
    """How strongly each adapter acts; 0 = not at all."""

    keyframe: float = _scale(1.0, read_when="style_in_keyframe")
    """scale of the style adapter while the keyframe is made"""
    style: float = _scale(1.0, read_when="style_in_clip")
    """scale of the style adapter while the clip is expanded"""
    motion: float = _scale(1.0, read_when="motion_in_clip")
    """scale of the motion adapter while the clip is expanded"""
    keyframe_high_noise: float | None = _expert_scale(read_when="style_in_keyframe experts")
    """scale of the high-noise expert's style adapter while the keyframe is made; null = scale.keyframe"""
    keyframe_low_noise: float | None = _expert_scale(read_when="style_in_keyframe experts")
    """the same of the low-noise expert's"""
    style_high_noise: float | None = _expert_scale(read_when="style_in_clip experts")
    """scale of the high-noise expert's style adapter while the clip is expanded; null = scale.style"""
    style_low_noise: float | None = _expert_scale(read_when="style_in_clip experts")
    """the same of the low-noise expert's"""
    motion_high_noise: float | None = _expert_scale(read_when="motion_in_clip experts")
    """scale of the high-noise expert's motion adapter; null = scale.motion"""
    motion_low_noise: float | None = _expert_scale(read_when="motion_in_clip experts")
    """the same of the low-noise expert's"""


# Version 0.1 named the directory of prompts= after the numbers that are measured, too: what they were by default stays in
# the hash, so that such a run is found.
_MEASURED_BY_DEFAULT = {"names": ["flicker", "tssim", "motion"]}


@dataclass
class InferConfig:
    """Make clips: a keyframe with the style adapter, expanded with the style and motion adapters.

    python infer.py ckpt=outputs/motion/noir/last prompt='a man, smoking (alone), waits'
    python infer.py ckpt=outputs/motion/noir/last prompts=prompts.txt gpus=4
    python infer.py ckpt=outputs/motion/noir/last image=frame.png prompt='rain on a window'
    python infer.py mode=t2v prompt='a street at night'
    python infer.py adapters=[embedded:distilled] sampler=distilled_4 prompt='a man waits'
    """

    model: ModelConfig = section(ModelConfig)
    sampler: SamplerConfig = section(SamplerConfig)
    metrics: MetricsConfig = section(MetricsConfig, changes_clip=False, hashed_as=_MEASURED_BY_DEFAULT)
    scale: ScaleConfig = section(ScaleConfig, was="weights")
    memory: DrawingMemoryConfig = section(DrawingMemoryConfig, changes_clip=False)
    ckpt: str | None = _run()
    """adapter(s): a run, an adapter file or hub:owner/name; null = the base model"""
    adapters: list[str] = _ADAPTERS
    prompt: str | None = _text()
    """what the clip shows"""
    prompts: str | None = _path()
    """file with one prompt a line; makes a clip of each, goes on where it stopped"""
    negative_prompt: str | None = _NEGATIVE_PROMPT
    image: str | None = _path()
    """keyframe to start from, instead of making one; it gives the clip its shape, unless model.height or model.width is typed"""
    fit: str = setting("cover", ("cover", "contain"), since=True, read_when="image_given")
    """image in another shape than the clip's: cover cuts its sides, contain puts black beside it"""
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    compare: bool = setting(False, read_when="adapted")
    """also make the clip without adapters, for the contact sheet"""
    seed: int = setting(0, at_least=0)
    """same seed, same clip"""
    gpus: int = _RANKS
    nodes: int = _NODES
    plan: bool | str = _PLAN
    out: str | None = _OUT
    """run directory; null = outputs/infer/<time>"""
    cache: str = _MODELS_CACHE
    trust: bool = _TRUST


_READ_TO_PREPARE: tuple[str, ...] = ("name", "family", "height", "width", "fps")
_READ_TO_PREPARE += ("t2v", "t2v_revision", "base", "base_revision", "tokenizer")


@dataclass
class PrepareConfig:
    """Footage in, dataset out: shots found, judged and cut into samples, with a contact sheet to look at.

    python -m cinelora.prepare data=folder data.root=/my/footage
    python -m cinelora.prepare data=folder data.root=/my/footage model=wan21_14b_720p data.limits.still=null
    python -m cinelora.prepare data=folder data.root=/my/footage data.captioner=/models/captioner data.trigger=myfilm
    """

    model: ModelConfig = section(ModelConfig, only=_READ_TO_PREPARE)
    data: DataConfig = section(DataConfig)
    num_frames: int = _frames(33)
    """frames of a window, 4n+1"""
    seed: int = setting(0, at_least=0)
    """decides what is held out"""
    workers: int | None = setting(at_least=0, at_most=MOST_PROCESSES)
    """processes that read footage; null = one a core, 0 = none of their own"""


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
    adapters: list[str] = _ADAPTERS
    prompts: str | None = _path()
    """file with one prompt a line, drawn beside the captions of held-out clips"""
    against: list[str] = setting(
        [], AGAINST_METRICS, changes_clip=False, without_drawing=True, read_when="data_named measures"
    )
    """numbers that compare with held-out clips (docs/metrics.md)"""
    clips: int = _count(4, read_when="data_named")
    """held-out clips whose captions are drawn, at most"""
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    gpus: int = _RANKS
    nodes: int = _NODES
    report: bool = setting(False, changes_clip=False, without_drawing=True, typed_only=True)
    """draw nothing: tables and page anew, of what out=<run> holds"""
    answers: str | None = _path(changes_clip=False, without_drawing=True, typed_only=True)
    """answers to out=<run>'s pairs.html, to be scored: a file, or a folder of them"""
    plan: bool | str = _PLAN
    out: str | None = _OUT
    """run directory; null = outputs/evaluate/<ckpt>-<hash of the settings>"""
    cache: str = _MODELS_CACHE
    trust: bool = _TRUST


@dataclass
class StudyConfig:
    """What does it cost: the same clips by many settings, in seconds, memory, steadiness and likeness.

    python -m cinelora.study ckpt=outputs/motion/noir/last prompts=prompts.txt merged=[true,false] scales=[0,1]
    python -m cinelora.study ckpt=outputs/motion/noir/last prompt='a man waits' steps=[10,25] first_block=[0.05,0.1]
    python -m cinelora.study model=wan21_14b_480p model.weights=random latency_only=true ranks=[8,32]
    python -m cinelora.study models=[tiny@outputs/motion/noir/last,tiny_animatediff_random] prompts=prompts.txt steps=[10]
    python -m cinelora.study merge=[outputs/study/a,outputs/study/b] out=outputs/study/both
    """

    model: ModelConfig = section(ModelConfig, changes_clip=True)  # a row rests on the attention backend, too
    data: DataConfig = section(DataConfig, changes_clip=False, read_when="data_named measures")
    sampler: SamplerConfig = section(SamplerConfig)
    metrics: MetricsConfig = section(MetricsConfig, changes_clip=False, read_when="measures")
    memory: DrawingMemoryConfig = section(DrawingMemoryConfig, changes_clip=False)
    logger: LoggerConfig = section(LoggerConfig, changes_clip=False, without_drawing=True)
    ckpt: str | None = _CKPT
    adapters: list[str] = _ADAPTERS
    models: list[str] = setting([], role="models", private=True, since=True)
    """several models, each with its adapters or none: [tiny@outputs/motion/noir/last,tiny_animatediff_random]"""
    geometry: str = setting("both", ("own", "common", "both"), changes_clip=False, read_when="several_models")
    """size, frames and steps of the clips of models=: each model's own, the largest that all make, or both"""
    prompt: str | None = _text()
    """what the clips show"""
    prompts: str | None = _path()
    """file with one prompt a line; each is drawn by every setting"""
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    against: list[str] = _axis(choices=AGAINST_METRICS, read_when="measures")
    """numbers that compare with the baseline's clips, and of sets with held-out footage of data= (docs/metrics.md)"""
    ranks: list[int] = _axis(at_least=1)
    """ranks that the adapters are cut or padded to; without ckpt, those of drawn ones"""
    scales: list[float] = _axis(at_least=-10, at_most=10)
    """scales of the adapters; 0 = the base model"""
    merged: list[bool] = _axis()
    """adapters folded into the weights (true), or live beside them"""
    only: list[str] = _axis(choices=ADAPTER_STAGES)
    """the style or the motion adapter of ckpt alone"""
    steps: list[int] = _axis(at_least=1)
    """denoising steps"""
    distilled: list[int] = _axis(at_least=1)
    """denoising steps of the step-distilled ones of adapters=, unguided and by Euler; they act in these rows alone"""
    first_block: list[float] = _axis(at_least=0)
    """thresholds of sampler.cache=first_block"""
    taylorseer: list[int] = _axis(at_least=0)
    """thresholds of sampler.cache=taylorseer"""
    magcache: list[float] = _axis(at_least=0)
    """thresholds of sampler.cache=magcache; without sampler.cache_ratios they are measured first"""
    dtypes: list[str] = _axis(choices=DTYPES)
    """dtypes of the frozen transformer"""
    partitions: list[str] = _axis(choices=PARTITIONS)
    """how gpus share a clip: not at all, its sequence, that in a ring, or first the halves of guidance"""
    grid: bool = setting(False, changes_clip=False, read_when="several_axes")
    """every combination of the lists, instead of one change of the baseline at a time"""
    controls: bool = setting(False, changes_clip=False, since=True)
    """measure the baseline's clips once more, frozen and with their frames shuffled: whether measures tell these apart"""
    repetitions: int = _count(3, changes_clip=False)
    """timed rounds over all settings, after one that is not counted"""
    latency_only: bool = setting(False)
    """time steps of one clip from drawn inputs; nothing is decoded or measured"""
    latency_steps: int = _count(3, read_when="latency_only")
    """denoising steps that latency_only times"""
    merge: list[str] = _axis(role="path", without_drawing=True)
    """studies to be put into one, out=<directory>: their run directories"""
    gpus: int = _RANKS
    nodes: int = _NODES
    plan: bool | str = _PLAN
    out: str | None = _OUT
    """run directory; null = outputs/study/<ckpt>-<hash of the settings>"""
    cache: str = _MODELS_CACHE
    trust: bool = _TRUST


def as_stored(config: InferConfig | EvaluateConfig | StudyConfig) -> dict[str, Any]:
    """The settings as plain data, for hashes and summaries, under the names that these were first written with; none that
    only a command line can give.

    A renamed section keeps its old name here: with the new one every hash would change, and a run that an earlier version
    began would find none of its clips again.
    """
    about = {entry.name: entry.metadata for entry in fields(config)}
    stored = {name: value for name, value in asdict(config).items() if not about[name].get("typed_only")}
    return {about[name].get("was", name): value for name, value in stored.items()}


def drawn_by(config: EvaluateConfig | StudyConfig) -> InferConfig:
    """The settings by which an evaluation's or a study's clips are drawn, all but prompt and seed."""
    sections, words = ("model", "sampler", "memory"), ("ckpt", "negative_prompt", "mode", "cache")
    names = (*sections, *words, "num_frames", "seed", "gpus", "nodes")
    return InferConfig(prompt="", adapters=list(config.adapters), **{name: getattr(config, name) for name in names})


def shared_by(config: StudyConfig, partition: str) -> InferConfig:
    """``drawn_by`` on ranks that share a clip by one of ``PARTITIONS``."""
    # Halves of guidance on two groups of ranks, and keys round a ring, are both laws of the sampler. What a study does not
    # name stays open, so that the rest is decided as for any other clip on as many ranks.
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
