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
    """model family: decides the latent space, the networks and their inputs"""
    t2v: str | None = _source(read_when="t2v")
    """text-to-video checkpoint: embedded:tiny-t2v, hub repository, directory, or a transformer as .safetensors or .gguf"""
    i2v: str | None = _source(read_when="i2v")
    """image-to-video checkpoint, named in the same ways; null = the family has none"""
    t2v_high: str | None = _source(read_when="t2v experts teaches_high", since=True)
    """Wan2.2 A14B: file or folder of the high-noise expert of t2v; null = taken from model.t2v"""
    t2v_low: str | None = _source(read_when="t2v experts teaches_low", since=True)
    """Wan2.2 A14B: file or folder of the low-noise expert of t2v; null = taken from model.t2v"""
    i2v_high: str | None = _source(read_when="i2v experts teaches_high", since=True)
    """Wan2.2 A14B: file or folder of the high-noise expert of i2v; null = taken from model.i2v"""
    i2v_low: str | None = _source(read_when="i2v experts teaches_low", since=True)
    """Wan2.2 A14B: file or folder of the low-noise expert of i2v; null = taken from model.i2v"""
    base: str | None = _source(read_when="base", since=True)
    """AnimateDiff: Stable Diffusion 1.5 or a fine-tune of it; ModelScope and its relatives: the whole model. Hub repository
    or diffusers directory"""
    tuned: str | None = _source(read_when="base", since=True)
    """one .safetensors or .ckpt file that replaces the weights of model.base: a fine-tune of SD1.5, or VideoCrafter2's
    published file"""
    motion_adapter: str | None = _source(read_when="motion", since=True)
    """AnimateDiff's motion modules: hub repository, directory, or the authors' file"""
    domain_adapter: str | None = _source(read_when="motion", since=True)
    """AnimateDiff's domain adapter: the file that its authors publish; null = none"""
    sparse_control: str | None = _source(read_when="motion", since=True)
    """SparseCtrl-RGB, which lets AnimateDiff start a clip from a picture: hub repository or directory; null = text only"""
    domain_scale: float = _scale(1.0, read_when="motion domain", since=True)
    """scale of AnimateDiff's domain adapter; 0 = off"""
    vae: str | None = _source(read_when="encodes")
    """VAE of all networks: file, folder or repository; null = the checkpoint's own"""
    text_encoder: str | None = _source(read_when="encodes")
    """text encoder (UMT5 for Wan) of all networks: file, folder or repository; null = the checkpoint's own"""
    tokenizer: str | None = _source(read_when="encodes")
    """tokenizer of the text encoder: folder or repository; null = the checkpoint's own"""
    image_encoder: str | None = _source(read_when="encodes image_shown")
    """CLIP image encoder: file, folder or repository; null = the checkpoint's own"""
    weights: str = setting("stored", ("stored", "random"))
    """random = the full shapes with random values, nothing is downloaded: to measure time and memory, not for pictures"""
    t2v_revision: str = setting("main", private=True, read_when="t2v t2v_on_hub")
    """hub revision of model.t2v: branch, tag or commit"""
    i2v_revision: str = setting("main", private=True, read_when="i2v i2v_on_hub")
    """hub revision of model.i2v: branch, tag or commit"""
    base_revision: str = setting("main", private=True, read_when="base base_on_hub", since=True)
    """hub revision of model.base: branch, tag or commit"""
    dtype: str = setting("bf16", DTYPES)
    """number format of the frozen transformer; fp8 = one byte per weight in its blocks, and fp8 arithmetic on GPUs that have
    it"""
    compile_blocks: bool | None = setting()
    """compile the transformer's blocks: faster steps, for half a minute at the start and a C++ compiler; null = on a GPU when
    the run is long enough to gain"""
    # another exact backend draws the same clip; a machine may lack the one that a run began with
    attention: str | None = setting(
        None, (*ATTENTION_BACKENDS, INT8), resumable=True, changes_clip=(INT8,), hashed_as=None
    )
    """attention backend, by diffusers' names; null = the fastest exact one, measured on this GPU; int8 = 8-bit attention for
    faster clips (not for training), used in the layers where its measured error is small enough"""
    num_layers: int = _count(40, at_most=MOST_BLOCKS)
    """number of transformer blocks"""
    num_heads: int = _count(40)
    """number of attention heads; limits over how many GPUs a sequence can be split"""
    hidden_size: int = _count(5120)
    """width of the transformer in channels"""
    ffn_dim: int = _count(13824)
    """width of the feed-forward layers in channels; needed with model.weights=random only"""
    height: int = _count(480, is_side=True)
    """frame height in pixels: a multiple of 16, and of 32 with Wan2.2 TI2V-5B"""
    width: int = _count(832, is_side=True)
    """frame width in pixels: a multiple of 16, and of 32 with Wan2.2 TI2V-5B"""
    fps: int = setting(16, at_least=1)
    """frames per second the model was trained at"""
    num_frames: int = _frames(81, read_when="own_frames")
    """frames of a generated clip, 4n+1 (33, 81)"""
    sampling_shift: float = setting(5.0, above=0, read_when="flows own_shift")
    """sigma shift when clips are generated, as the model's authors publish it"""
    t2v_shift: float | None = setting(above=0, since=True, read_when="own_shift t2v")
    """sigma shift of t2v when it differs from that of i2v; null = model.sampling_shift"""
    guidance: float | None = setting(at_least=0, since=True)
    """guidance of generated clips when sampler.guidance is null; null = the value that the family's authors publish"""
    t2v_boundary: float | None = setting(above=0, below=1, since=True, read_when="experts t2v")
    """noise level (0 to 1) at which t2v switches from its high-noise to its low-noise expert; null = the authors' value"""
    i2v_boundary: float | None = setting(above=0, below=1, since=True, read_when="experts i2v")
    """noise level (0 to 1) at which i2v switches from its high-noise to its low-noise expert; null = the authors' value"""
    negative_prompt: str = _text("", read_when="guided own_negative")
    """the model's default negative prompt: what guidance steers away from when negative_prompt is null"""

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
    """what is trained: style, motion, or every weight (pretrain)"""
    expert: str = setting("both", ("both", "high", "low"), resumable=True, since=True, read_when="experts")
    """Wan2.2 A14B: which expert is trained; both = one after the other"""
    transformer: str = setting("t2v", NETWORKS)
    """which network of the model the adapter is trained on"""
    num_frames: int = _frames(1)
    """frames of a training sample: 1 = stills, otherwise 4n+1"""
    image_condition: bool = setting(False)
    """give the transformer the first frame as its condition (i2v only)"""
    stills: float = _fraction(0.0, read_when="pretrains")
    """fraction of pretraining steps that train on the first latent frame of each window only"""
    allow_leak: bool = setting(False, read_when="leaks")
    """train stills on i2v, although its condition already contains the picture to be predicted"""
    steps: int = _count(1000, resumable=True)
    """optimizer steps of the run"""
    batch_size: int = _count(4, resumable=True)
    """samples in a micro-batch, per GPU"""
    accumulation: int = _count(1, resumable=True)
    """micro-batches per optimizer step: more of them stand in for a larger batch"""
    high_steps: int | None = _count(resumable=True, since=True, read_when="experts teaches_high")
    """Wan2.2 A14B: steps of the high-noise expert; null = stage.steps"""
    low_steps: int | None = _count(resumable=True, since=True, read_when="experts teaches_low")
    """Wan2.2 A14B: steps of the low-noise expert; null = stage.steps"""

    @property
    def trains_every_weight(self) -> bool:
        """Whether it trains the transformer itself, which only a clone can do (``clone_only``), and no adapter."""
        return self.name not in ADAPTER_STAGES


@dataclass
class FootageLimits:
    """The limits that a shot must keep to be trained on; null switches a test off. docs/footage.md says how each is measured."""

    sharpness: float | None = setting(0.35)
    """least sharpness of a shot, relative to the median of its film"""
    dark: float | None = setting(0.97)
    """largest fraction of a frame's pixels that may be black"""
    bright: float | None = setting(0.6)
    """largest fraction of a frame's pixels that may be burnt out"""
    still: float | None = setting(0.002)
    """least motion, in frame widths per second"""
    fast: float | None = setting(3.0)
    """most motion, in frame widths per second"""
    shake: float | None = setting(0.5)
    """most back-and-forth motion of the camera, in frame widths per second"""
    text: float | None = setting(0.02)
    """largest fraction of the frame that lettering may cover"""
    logo: float | None = setting(0.004)
    """largest fraction of the frame that a logo may cover: a small thing that stands still while all else changes"""
    alike: float | None = setting(6.0)
    """two shots count as copies when their picture hashes differ by at most this many of 64 bits"""
    min_seconds: float | None = setting(0.5)
    """shortest shot, in seconds"""


_DESCRIBE = "Describe this shot in one sentence: who, what they do, where, light and camera."


@dataclass
class DataConfig:
    """Where clips and captions come from, and how samples are cut out of them."""

    name: str = setting("")
    """name of the data set"""
    root: str | None = _path()
    """folder with clips, and .txt captions beside them"""
    look: str | None = setting(None, ("daylight", "noir", "western", "neon"))
    """render the footage in this look instead of reading files"""
    clips: int = _count(5000, read_when="rendered")
    """number of clips to render for training"""
    heldout_clips: int = setting(64, at_least=0, read_when="rendered")
    """number of clips to render for validation"""
    manifest: str | None = _path(read_when="footage")
    """train on exactly the samples of this manifest.jsonl, and search for no others"""
    prepared: str | None = _path(read_when="surveyed")
    """folder for the prepared footage: manifest, contact sheet, statistics; null = outputs/datasets/<root>-<hash>"""
    overrides: str | None = _path(read_when="surveyed")
    """your keep and reject decisions, saved from the contact sheet; null = overrides.json in data.prepared"""
    follow_links: bool = setting(False, private=True, read_when="footage")
    """follow symbolic links that lead out of data.root"""
    judged: bool = setting(True, read_when="surveyed")
    """measure bars, titles, fades, blur and repetition, and leave out the shots that fail a limit"""
    limits: FootageLimits = section(FootageLimits, at_least=0, read_when="surveyed judged")
    exact: bool = setting(True, read_when="footage")
    """convert colours with FFmpeg's accurate conversion; false = decord's own, which is wrong at edges"""
    matrix: str = setting("auto", ("auto", "bt709", "bt601"), read_when="footage", since=True)
    """colour matrix of films that name none; auto = bt709 for HD and larger, as players assume"""
    interlaced: str = setting("auto", ("auto", "refuse", "keep"), read_when="surveyed", since=True)
    """interlaced film: auto = deinterlace it, and undo telecine; refuse = leave it out; keep = train on the combs"""
    cuts: str = setting("auto", ("auto", "plain", "learned"), read_when="surveyed", since=True)
    """how cuts are found: plain = by the pictures' own numbers; learned = by a network as well (cinelora[cuts]); auto = learned
    if there is a GPU"""
    cuts_weights: str | None = _path(read_when="surveyed", since=True)
    """weights of that network; null = those of the installed cinelora[cuts]"""
    subtitles: str = setting("refuse", ("refuse", "crop", "keep"), read_when="surveyed judged", since=True)
    """burnt-in subtitles: refuse = leave those shots out; crop = cut the lowest part off every shot of that film; keep =
    train on them"""
    lettering: str = setting("auto", ("auto", "plain"), read_when="surveyed judged", since=True)
    """how subtitles and titles are found: auto = by a network if cinelora[lettering] is installed; plain = by their strokes"""
    lettering_weights: str | None = _path(read_when="surveyed judged looks_learned", since=True)
    """the network's weights, PP-OCRv6_det_small.onnx; null = those of the installed wheel"""
    hdr: str = setting("refuse", ("refuse", "tone_map"), read_when="footage")
    """HDR footage (PQ, HLG, BT.2020): refuse = leave it out; tone_map = convert it to SDR"""
    lut: str | None = _path(read_when="footage")
    """a .cube LUT that is applied to every frame"""
    sequence_fps: float = setting(24.0, above=0, read_when="footage")
    """frames per second of image sequences (numbered pictures)"""
    resample: str = setting("nearest", ("nearest", "blend"), read_when="surveyed windows")
    """how frames are made at the model's rate: nearest = take the nearest frame; blend = mix the two around it"""
    buckets: bool = setting(True, read_when="surveyed own_shapes")
    """keep the footage's aspect ratio, at the model's number of pixels; false = crop it to the model's shape"""
    caption: str | None = _text(read_when="surveyed")
    """one caption for every clip, instead of the caption files beside them"""
    caption_lines: str = setting("joined", ("joined", "first", "each"), since=True, read_when="described")
    """a caption file of several lines: joined = one text; first = its first line; each = every line is a caption of its own
    (held-out clips use the first)"""
    trigger: str | None = _text()
    """word put before every caption and prompt, which calls up the look"""
    description: str | None = _note(read_when="surveyed")
    """the look, described once: added after every caption"""
    captioner: str | None = _path(read_when="surveyed uncaptioned")
    """folder of a vision-language model that writes the captions that are missing"""
    captioner_prompt: str = _text(_DESCRIBE, read_when="surveyed uncaptioned captioner")
    """what data.captioner is asked for each shot"""
    holdout: float = _fraction(0.1, read_when="surveyed")
    """fraction of the footage kept for validation; ignored where folders are named train and heldout"""
    split_by: str = setting("auto", ("auto", "file", "shot"), read_when="surveyed")
    """unit that validation is split by; auto = whole files, or shots when there are fewer than 10 files"""
    stills: str = setting("sharpest", ("sharpest", "even"), read_when="surveyed stills")
    """which frames of a shot become stills: the sharpest ones, or frames at even distances"""
    stills_per_shot: int = _count(2, read_when="surveyed stills")
    """stills taken from each shot"""
    window_stride: int = setting(33, at_least=1, read_when="surveyed windows")
    """distance between the starts of two windows, in frames at the model's fps"""
    min_frames: int | None = _frames(read_when="footage windows own_shapes")
    """shots too short for a window give shorter windows, of at least this many frames (4n+1); null = they give none"""


@dataclass
class LoraSpec:
    """The adapter: how wide, how strong, and where. A run's settings hold one, and so does every adapter file."""

    rank: int = _count(8)
    """rank of the adapter: higher learns more, in a larger file"""
    alpha: float = setting(16.0, above=0)
    """strength of the adapter: its output is multiplied by alpha / rank"""
    dropout: float = _fraction(0.0)
    """dropout on the adapter's input; its random numbers depend on how a step is split into GPUs and micro-batches"""
    targets: str = setting("cross_attention", ("cross_attention", "attention", "all_linear"))
    """which layers the adapter changes: cross-attention, all attention, or every linear layer"""

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / self.rank


@dataclass
class OptimizerConfig:
    """AdamW and its rate over time."""

    # a lower rate, or a tighter norm, is what calms a run whose loss was no longer finite
    lr: float = setting(3e-5, above=0, resumable=True)
    """learning rate of AdamW, at the width in optimizer.lr_for_width"""
    high_lr: float | None = setting(above=0, resumable=True, since=True, read_when="experts teaches_high")
    """Wan2.2 A14B: learning rate of the high-noise expert; null = optimizer.lr. Trained on stills only, it soon overfits"""
    low_lr: float | None = setting(above=0, resumable=True, since=True, read_when="experts teaches_low")
    """Wan2.2 A14B: learning rate of the low-noise expert; null = optimizer.lr"""
    lr_for_width: int | None = _count(5120)
    """model width that optimizer.lr is meant for: other widths get lr x lr_for_width / hidden_size; null = lr is used as it is"""
    beta1: float = _fraction(0.9)
    """decay of AdamW's first moment"""
    beta2: float = _fraction(0.999)
    """decay of AdamW's second moment"""
    eps: float = setting(1e-8, above=0)
    """epsilon of AdamW"""
    weight_decay: float = setting(0.01, at_least=0)
    """weight decay of AdamW (decoupled)"""
    warmup_steps: int = setting(0, at_least=0, read_when="within_run")
    """steps of linear warm-up"""
    schedule: str = setting("constant", ("constant", "cosine"))
    """learning rate after the warm-up: constant, or a cosine down to 0 at the last step"""
    on_extend: str = setting("rescale", ("rescale", "continue"), resumable=True)
    """when a resume changes stage.steps under schedule=cosine: rescale = one cosine over all steps; continue = from the rate
    reached so far down to 0"""
    extended: list[int] = setting([], by_group=True)
    """written by on_extend=continue, not typed: pairs of the step at which a resume changed stage.steps, and the steps before"""
    high_extended: list[int] = setting([], by_group=True, since=True)
    """the same pairs for the steps of the high-noise expert"""
    low_extended: list[int] = setting([], by_group=True, since=True)
    """the same pairs for the steps of the low-noise expert"""
    clip_norm: float = setting(1.0, at_least=0, resumable=True)
    """largest gradient norm, larger ones are scaled down to it; 0 = no clipping"""


@dataclass
class FlowConfig:
    """Which noise levels are trained on."""

    sigma_mean: float = setting(0.0)
    """mean of the normal distribution that the logit-normal sigma is sampled from"""
    sigma_std: float = setting(1.0, above=0)
    """standard deviation of that normal distribution (see flow.sigma_mean)"""
    shift: float | None = setting(above=0)
    """sigma shift in training; null = 2 at 480p, and for other sizes in proportion to the square root of the number of pixels"""


@dataclass
class DropoutConfig:
    """Which conditions are dropped at random in training, so that guidance can compare with and without them."""

    caption: float = _fraction(0.1)
    """fraction of samples trained without their caption, which guidance needs"""
    image: float = _fraction(0.1, read_when="image_shown")
    """fraction of i2v samples trained without their first frame"""


@dataclass
class CheckpointConfig:
    """When a run is saved."""

    every_steps: int = setting(250, at_least=0, read_when="within_run")
    """optimizer steps between checkpoints; 0 = only at the end"""
    keep: int = _count(2)
    """how many of the newest checkpoints are kept"""
    best: str | None = _note()
    """a logged number, such as heldout/loss: the adapter at its best value is kept as <stage>-best.safetensors; null = none"""
    best_mode: str | None = setting(None, ("min", "max"))
    """whether the lowest or the highest value of checkpoint.best is the best; null = what is usual for that number"""


@dataclass
class StoppingConfig:
    """When a run ends before its last step, because it learns no more."""

    monitor: str | None = _note()
    """a logged number, such as heldout/loss: the run stops when it no longer improves; null = never stop early"""
    patience: int = _count(3)
    """how many times in a row the number may be logged without improving"""
    mode: str | None = setting(None, ("min", "max"))
    """whether lower or higher values of stopping.monitor are better; null = what is usual for that number"""
    min_change: float = setting(0.0, at_least=0)
    """smallest change that counts as an improvement"""


@dataclass
class ValidationConfig:
    """When held-out samples are measured."""

    every_steps: int = setting(250, at_least=0, read_when="within_run")
    """optimizer steps between measurements of the held-out loss; 0 = never"""
    samples: int = _count(8, read_when="validates")
    """largest number of held-out samples that the loss is measured on"""
    clips: int = setting(0, at_least=0)
    """largest number of held-out clips that are generated and measured; 0 = none"""


USUAL_STEPS = 8
"""Denoising steps of a clip that is made while a run trains."""


@dataclass
class PreviewConfig:
    """When a clip is made during training."""

    every_steps: int | None = setting(at_least=0, read_when="within_run")
    """optimizer steps between previews; 0 = never; null = as often as fits into an estimated 5 % of the run's time"""
    seeds: int = _count(1, read_when="previews")
    """clips in each preview, each from a seed of its own"""
    prompt: str | None = _text(read_when="previews")
    """what the preview shows; null = the first held-out caption"""
    sampler_steps: int | None = setting(at_least=1, read_when="draws")
    """denoising steps of a preview or held-out clip; null = 8, or 4 if previews would take too much of the run's time"""
    num_frames: int | None = _frames(read_when="previews")
    """frames of a preview, 4n+1; null = the stage's, or fewer if previews would take too much of the run's time"""

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
    """auto = ddp when there are several GPUs; zero1 to zero3 = DeepSpeed, which shards optimizer, gradients, weights
    (docs/strategies.md)"""
    sequence: int = _count(1, read_when="several_ranks")
    """GPUs that share the sequence of each sample; must divide gpus x nodes"""
    cpu_offload: bool = setting(False)
    """zero1 to zero3: keep the optimizer's moments in host memory, and with zero3 the frozen weights too"""


def zero_level(strategy: StrategyConfig) -> int:
    """1, 2 or 3 of ZeRO, and 0 for another strategy."""
    return int(strategy.name[-1]) if strategy.name.startswith("zero") else 0


_SWAP = setting(at_least=0, at_most=1)
"""fraction of the blocks whose weights stay in host memory and are copied to the GPU as each block runs"""
_LIMIT_GIB = setting(above=0)
"""GPU memory in GiB that the run may use; null = all of the card's"""


@dataclass
class MemoryConfig:
    """What the transformer's blocks keep on the GPU in training, as fractions of the blocks; null = the fastest setting that
    fits."""

    name: str = setting("auto", ("auto", "plain", "recompute", "offload", "swap"), by_group=True)
    """auto = the fastest that fits this GPU; plain is the fastest of the others, swap needs the least memory"""
    recompute: float | None = setting(at_least=0, at_most=1)
    """fraction of the blocks that are recomputed in the backward pass, so that their activations need not be kept"""
    offload: bool | None = setting()
    """keep the inputs of recomputed blocks in host memory"""
    swap: float | None = _SWAP
    limit_gib: float | None = _LIMIT_GIB


@dataclass
class DrawingMemoryConfig:
    """What is kept on the GPU while clips are generated; null = the fastest setting that fits."""

    swap: float | None = _SWAP
    tile: bool | None = setting(read_when="encodes")
    """run the VAE in overlapping tiles with blended seams: slower, in less memory"""
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
    """solver of the denoising steps"""
    steps: int = _count(40, not_in_training="a preview takes preview.sampler_steps", read_when="whole_clips")
    """denoising steps of a clip: more take longer and add detail"""
    guidance: float | None = setting(GUIDANCE, at_least=0)
    """classifier-free guidance scale: higher follows the prompt more closely; 1 = no guidance; null = the value that each
    network's authors publish"""
    guidance_mode: str = setting(
        "auto", ("auto", "batch", "split"), changes_clip=False, not_in_training=_ALONE, read_when="several_ranks guided"
    )
    """several GPUs: batch = every GPU computes the prompted and the unprompted prediction; split = two groups compute one
    each; auto = whichever is estimated faster"""
    ulysses: int | None = _count(changes_clip=False, not_in_training=_ALONE, read_when="several_ranks")
    """GPUs that share a sequence by attention heads (Ulysses); null = whatever is estimated fastest"""
    ring: int | None = _count(changes_clip=False, not_in_training=_ALONE, read_when="several_ranks")
    """groups of GPUs that share a sequence by passing keys and values round (ring); null = whatever is estimated fastest"""
    shift: float | None = setting(above=0, read_when="flows")
    """sigma shift when clips are generated; null = the model's own"""
    cache: str = setting("none", ("none", *CACHE_THRESHOLDS, "calibrate"), not_in_training=_IN_FULL)
    """step cache: reuse results of earlier denoising steps to skip work; calibrate = skip nothing, and print the ratios for
    magcache"""
    cache_threshold: float | None = setting(at_least=0, not_in_training=_IN_FULL)
    """how much the step cache may skip. first_block and magcache: largest change or estimated error of a skipped step;
    taylorseer: steps extrapolated after each computed one; 0 = skip none; null = diffusers' default"""
    cache_ratios: list[float] = setting([], not_in_training=_IN_FULL)
    """magcache: the model's ratios, as sampler.cache=calibrate prints them"""
    exact_steps: int = setting(1, at_least=0, since=True, not_in_training=_IN_FULL, read_when="int8")
    """model.attention=int8: number of first and of last denoising steps that keep exact attention"""
    attention_guard: str = setting("exact", ("exact", "report"), since=True, not_in_training=_IN_FULL, read_when="int8")
    """model.attention=int8, for layers whose error is above the tolerance: exact = keep exact attention there; report = use
    int8 and report the error"""


SHARING = tuple(entry.name for entry in fields(SamplerConfig) if not entry.metadata.get("changes_clip", True))
"""Settings of the sampler by which several ranks draw the clip that one draws."""
PARTITIONS = ("alone", "sequence", "ring", "halves")
"""How a study's ranks share a clip: not at all, its sequence, that in a ring, or first the halves of guidance."""


@dataclass
class MetricsConfig:
    """Which numbers are measured of clips, and where the networks are that some of them need."""

    names: list[str] = setting([], CLIP_METRICS)
    """numbers that are measured of each clip or preview (docs/metrics.md)"""
    clip: str | None = _source(read_when="needs_clip")
    """CLIP ViT-B/32 for clip_sim_* and background_consistency: a directory or hub repository"""
    dino: str | None = _source(read_when="needs_dino")
    """DINO ViT-B/16 for subject_consistency: a directory or hub repository"""
    alexnet: str | None = _path(read_when="needs_alexnet")
    """torchvision's alexnet-owt-7be5be79.pth for lpips_alex and tlp_alex: a file"""
    i3d: str | None = _path(read_when="needs_i3d")
    """i3d_torchscript.pt for fvd_i3d: a file that contains a program, so metrics.i3d_sha256 must be given too"""
    i3d_sha256: str | None = _note(private=True, read_when="needs_i3d")
    """SHA-256 (64 hexadecimal digits) of the metrics.i3d file that you allow to be run"""


@dataclass
class LoggerConfig:
    """Where logged numbers go."""

    name: str = setting("csv", ("wandb", "csv", "tensorboard", "none"), by_group=True, private=True)
    """where logged numbers go"""
    also: list[str] = setting([], ("wandb", "tensorboard"), private=True, read_when="trains")
    """further loggers, as in logger=wandb logger.also=[tensorboard]; logs/csv is always written"""
    project: str = _note("cinelora", private=True, read_when="wandb")
    """project name at the logger"""
    entity: str | None = _note(private=True, read_when="wandb")
    """wandb: user or team; null = your own default"""
    group: str | None = _note(private=True, read_when="wandb")
    """wandb: group of the run; null = the name of its sweep"""
    tags: list[str] = setting([], read_when="wandb")
    """wandb: tags of the run"""
    notes: str | None = _note(read_when="wandb")
    """wandb: notes of the run; null = description"""
    offline: bool | None = setting(private=True, read_when="wandb")
    """wandb: log to disk only; null = offline unless an API key is set"""
    artifact: bool | None = setting(read_when="wandb trains")
    """wandb: store the finished adapter as an artifact; null = only when online; true = offline too, for a later wandb sync"""
    every_steps: int = _count(10, read_when="trains")
    """optimizer steps between two logged losses"""

    @property
    def all(self) -> set[str]:
        """The names of all loggers that are asked for."""
        return {self.name, *self.also} - {"none"}


@dataclass
class RecipeConfig:
    """A whole experiment by name: what its source states, and what we chose."""

    name: str | None = setting()
    """name of the experiment"""
    stage: str | None = setting()
    """the stage the recipe is written for; null = any"""
    known: list[str] = setting([])
    """what the source states"""
    ours: list[str] = setting([])
    """what the source does not state and we chose"""


# Settings that several commands share. What does not change a clip but for rounding stands in no hash of it: where it is
# written, how many ranks make it, and out of how much memory.

_CKPT = _run()
"""adapters: a run, an adapter file or hub:owner/name[/file.safetensors]; null = the base model alone"""
_ADAPTERS = setting([], role="run", since=True)
"""further adapters with their scales, with or without ckpt: [file@0.8,hub:owner/name@0.5]. Each acts on keyframe and clip;
file@0.8:clip or file@0.8:keyframe limits it to one (docs/adapters.md)"""
_NEGATIVE_PROMPT = _text(read_when="guided encodes")
"""what the clip should not show: guidance steers away from it; null = the model's default"""
_MODE = setting("scene", ("scene", "t2v"))
"""scene = generate a keyframe, then expand it to a clip; t2v = generate the clip from text in one pass"""
_NUM_FRAMES = _frames()
"""frames of a clip, 4n+1 (33, 81); null = the model's own"""
_SEEDS = _count(1, read_when="encodes")
"""clips of each prompt, each from a seed of its own"""
_FIRST_SEED = setting(0, at_least=0)
"""seed of the first clip; the others follow it"""
_RANKS = _count(1, at_most=MOST_PROCESSES, changes_clip=False)
"""GPUs per machine that each clip is split over"""
_NODES = _count(1, at_most=MOST_NODES, resumable=True, changes_clip=False)
"""number of machines (nodes); each starts gpus= processes"""
_PLAN = setting(False, changes_clip=False)
"""true = print the memory and time that a clip needs, here and on other cards, and stop; rtx4090 (or another card) = for that
card; cluster = also for up to 64 GPUs"""
_MODELS_CACHE = _path("outputs/cache", changes_clip=False, without_drawing=True)
"""folder for downloaded and generated models"""


_OUT = setting(role="directory", resumable=True, changes_clip=False, without_drawing=True, typed_only=True)
_TRUST = setting(False, resumable=True, changes_clip=False, without_drawing=True, typed_only=True)
"""trust a run or adapter from somebody else: use the paths, programs and accounts that it names"""


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
    """decay of a moving average of the adapter, which is exported in its place; 0 = off"""
    seed: int = setting(0, at_least=0)
    """seed of everything random: initial weights, order of samples, noise, dropout"""
    gpus: int = _count(1, at_most=MOST_PROCESSES, resumable=True)
    """GPUs per machine; without a GPU, CPU processes"""
    nodes: int = _NODES
    workers: int = setting(0, at_least=0, at_most=MOST_PROCESSES, resumable=True)
    """processes per GPU that read footage and cache; 0 = the training process reads"""
    max_restarts: int = setting(3, at_least=0, resumable=True, read_when="one_machine")
    """how often a run on one machine restarts by itself after one of its processes died"""
    hang_minutes: float = setting(15.0, at_least=0, resumable=True, since=True)
    """minutes after which a step counts as hung: the run is ended and restarted, as after a process that died; 0 = never"""
    plan: bool | str = setting(False, resumable=True)
    """true = print the memory and time that the run needs, here and on other cards, and stop; rtx4090 (or another card) = for
    that card"""
    out: str | None = _OUT
    """run directory; null = outputs/<stage>/<data>/<time>"""
    adapter: str | None = _run()
    """stage=motion: the style adapter to train on top of: a run, a file or hub:owner/name"""
    resume: str | None = _run(resumable=True, typed_only=True)
    """run to continue: its directory, a file in it, or hub:owner/name; auto = continue the run in out= if there is one, else
    start it"""
    cache: str = _path("outputs/cache", resumable=True)
    """folder for encoded samples, which runs share"""
    description: str | None = _note(resumable=True)
    """a note of your own, kept with the run"""
    trust: bool = _TRUST
    push: str | None = _note(resumable=True, typed_only=True)
    """hub repository (owner/name) that the adapter and its card are uploaded to at the end; null = no upload"""
    private: bool = setting(False, resumable=True, typed_only=True)
    """with push=: create the repository as a private one"""


@dataclass
class ScaleConfig:
    """How strongly each adapter acts; 0 = off."""

    keyframe: float = _scale(1.0, read_when="style_in_keyframe")
    """scale of the style adapter on the keyframe"""
    style: float = _scale(1.0, read_when="style_in_clip")
    """scale of the style adapter on the clip"""
    motion: float = _scale(1.0, read_when="motion_in_clip")
    """scale of the motion adapter on the clip"""
    keyframe_high_noise: float | None = _expert_scale(read_when="style_in_keyframe experts")
    """Wan2.2 A14B: scale of the high-noise expert's style adapter on the keyframe; null = scale.keyframe"""
    keyframe_low_noise: float | None = _expert_scale(read_when="style_in_keyframe experts")
    """Wan2.2 A14B: scale of the low-noise expert's style adapter on the keyframe; null = scale.keyframe"""
    style_high_noise: float | None = _expert_scale(read_when="style_in_clip experts")
    """Wan2.2 A14B: scale of the high-noise expert's style adapter on the clip; null = scale.style"""
    style_low_noise: float | None = _expert_scale(read_when="style_in_clip experts")
    """Wan2.2 A14B: scale of the low-noise expert's style adapter on the clip; null = scale.style"""
    motion_high_noise: float | None = _expert_scale(read_when="motion_in_clip experts")
    """Wan2.2 A14B: scale of the high-noise expert's motion adapter; null = scale.motion"""
    motion_low_noise: float | None = _expert_scale(read_when="motion_in_clip experts")
    """Wan2.2 A14B: scale of the low-noise expert's motion adapter; null = scale.motion"""


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
    """adapters to use: a run, an adapter file or hub:owner/name; null = the base model alone"""
    adapters: list[str] = _ADAPTERS
    prompt: str | None = _text()
    """what the clip shows"""
    prompts: str | None = _path()
    """file with one prompt per line; a clip is generated for each, and finished ones are not repeated"""
    negative_prompt: str | None = _NEGATIVE_PROMPT
    image: str | None = _path()
    """picture to start the clip from, instead of a generated keyframe; it decides the clip's shape, unless model.height or
    model.width is given"""
    fit: str = setting("cover", ("cover", "contain"), since=True, read_when="image_given")
    """when image has another shape than the clip: cover = crop it; contain = add black bars"""
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    compare: bool = setting(False, read_when="adapted")
    """also generate the clip without adapters, for comparison on the contact sheet"""
    seed: int = setting(0, at_least=0)
    """seed of the noise: the same seed gives the same clip"""
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
    """Prepare footage: find shots, filter them, cut them into training samples, and write a contact sheet to look at.

    python -m cinelora.prepare data=folder data.root=/my/footage
    python -m cinelora.prepare data=folder data.root=/my/footage model=wan21_14b_720p data.limits.still=null
    python -m cinelora.prepare data=folder data.root=/my/footage data.captioner=/models/captioner data.trigger=myfilm
    """

    model: ModelConfig = section(ModelConfig, only=_READ_TO_PREPARE)
    data: DataConfig = section(DataConfig)
    num_frames: int = _frames(33)
    """frames of a training window, 4n+1"""
    seed: int = setting(0, at_least=0)
    """seed that decides which footage is held out for validation"""
    workers: int | None = setting(at_least=0, at_most=MOST_PROCESSES)
    """processes that read footage; null = one per core; 0 = read in this process"""


@dataclass
class EvaluateConfig:
    """Did the training work? Compare the base model with its adapters, stage by stage: numbers, a report page, a blind test.

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
    """file with one prompt per line, in addition to the captions of held-out clips"""
    against: list[str] = setting(
        [], AGAINST_METRICS, changes_clip=False, without_drawing=True, read_when="data_named measures"
    )
    """numbers that compare generated clips with held-out ones (docs/metrics.md)"""
    clips: int = _count(4, read_when="data_named")
    """largest number of held-out clips whose captions are used as prompts"""
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    gpus: int = _RANKS
    nodes: int = _NODES
    report: bool = setting(False, changes_clip=False, without_drawing=True, typed_only=True)
    """generate nothing: write tables and page again from the clips in out=<run>"""
    answers: str | None = _path(changes_clip=False, without_drawing=True, typed_only=True)
    """answers given in pairs.html of out=<run>, to be scored: a file, or a folder of files"""
    plan: bool | str = _PLAN
    out: str | None = _OUT
    """run directory; null = outputs/evaluate/<ckpt>-<hash of the settings>"""
    cache: str = _MODELS_CACHE
    trust: bool = _TRUST


@dataclass
class StudyConfig:
    """Compare settings: the same clips generated by each, in seconds, memory, steadiness and similarity.

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
    """models to compare, each with or without a run of adapters: [tiny@outputs/motion/noir/last,tiny_animatediff_random]"""
    geometry: str = setting("both", ("own", "common", "both"), changes_clip=False, read_when="several_models")
    """size, frames and steps of the clips of models=: own = each model's own; common = the largest that all of them can make;
    both = both"""
    prompt: str | None = _text()
    """what the clips show"""
    prompts: str | None = _path()
    """file with one prompt per line; every setting generates a clip of each"""
    seeds: int = _SEEDS
    seed: int = _FIRST_SEED
    negative_prompt: str | None = _NEGATIVE_PROMPT
    mode: str = _MODE
    num_frames: int | None = _NUM_FRAMES
    against: list[str] = _axis(choices=AGAINST_METRICS, read_when="measures")
    """numbers that compare with the baseline's clips; those of sets compare with held-out footage of data= (docs/metrics.md)"""
    ranks: list[int] = _axis(at_least=1)
    """adapter ranks to try: adapters of ckpt are cut or padded to them; without ckpt, random adapters of these ranks"""
    scales: list[float] = _axis(at_least=-10, at_most=10)
    """adapter scales to try; 0 = the base model"""
    merged: list[bool] = _axis()
    """whether adapters are merged into the weights: [true,false] tries both"""
    only: list[str] = _axis(choices=ADAPTER_STAGES)
    """use only the style or only the motion adapter of ckpt: [style,motion] tries both"""
    steps: list[int] = _axis(at_least=1)
    """numbers of denoising steps to try"""
    distilled: list[int] = _axis(at_least=1)
    """numbers of denoising steps to try with the step-distilled adapters of adapters=, unguided, with Euler; other rows leave
    those adapters out"""
    first_block: list[float] = _axis(at_least=0)
    """thresholds of sampler.cache=first_block to try"""
    taylorseer: list[int] = _axis(at_least=0)
    """thresholds of sampler.cache=taylorseer to try"""
    magcache: list[float] = _axis(at_least=0)
    """thresholds of sampler.cache=magcache to try; without sampler.cache_ratios the ratios are measured first"""
    dtypes: list[str] = _axis(choices=DTYPES)
    """number formats of the frozen transformer to try"""
    partitions: list[str] = _axis(choices=PARTITIONS)
    """ways to share a clip between GPUs: alone = not shared; sequence; ring = sequence in a ring; halves = first the two
    halves of guidance"""
    grid: bool = setting(False, changes_clip=False, read_when="several_axes")
    """try every combination of the lists, instead of changing one thing of the baseline at a time"""
    controls: bool = setting(False, changes_clip=False, since=True)
    """also measure the baseline's clips frozen and with their frames shuffled, to see which numbers notice"""
    repetitions: int = _count(3, changes_clip=False)
    """timed rounds over all settings, after one round that is not counted"""
    latency_only: bool = setting(False)
    """only time denoising steps on random inputs; nothing is decoded or measured"""
    latency_steps: int = _count(3, read_when="latency_only")
    """number of denoising steps that latency_only times"""
    merge: list[str] = _axis(role="path", without_drawing=True)
    """run directories of finished studies that are combined in out=<directory>"""
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
