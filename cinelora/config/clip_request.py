"""What a clip is asked to be: the transformers that make it, its frames and takes, and all that decides how it looks.

Enters: the settings of a script that makes clips, and the adapter files. Leaves: one ``ClipRequest``, which planning, the checks,
the ranks, studies and evaluations all ask. It knows neither torch nor a network, so that a command line is answered at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from cinelora.config.clip_facts import clip_facts
from cinelora.config.schema import (
    GUIDANCE,
    INT8,
    SHARING,
    EvaluateConfig,
    InferConfig,
    SamplerConfig,
    ScaleConfig,
    StudyConfig,
    as_stored,
    drawn_by,
    own_guidance,
)
from cinelora.config.shipped import values
from cinelora.errors import ConfigError, FileError
from cinelora.families import experts_of, family_of
from cinelora.families.family import ALONE, HIGH, LOW, Expert, Family
from cinelora.io.atomic import sha256_file, sha256_json
from cinelora.io.plain_data import read_json, read_text

BASE_SCALE = ScaleConfig(0.0, 0.0, 0.0)
"""No adapter of ``ckpt=`` acts."""
_NOT_OF_THE_CLIP = ("prompts", "cache", "gpus", "nodes", "memory", "plan")
"""Settings that change no clip but for rounding: where it is written, how many ranks make it, out of how much memory."""


@dataclass(frozen=True)
class Further:
    """An adapter file of ``adapters=``, with its scale in each part of a clip.

    ``shift`` is the sigma shift of the few unguided steps that it was distilled for; None for one that was not distilled.
    ``expert`` is the one it is for, where its name says so.
    ``only_in`` is the variant of a take that it acts in; None for all that have adapters.
    """

    path: Path
    keyframe: float = 0.0
    clip: float = 0.0
    shift: float | None = None
    expert: str = ""
    only_in: str | None = None


def stage_and_expert(name: str) -> tuple[str, str]:
    """The stage that an adapter of ``ckpt=`` is of, and the expert that it is for: ``style_high_noise`` is of both."""
    stage, _, expert = name.partition("_")
    return (stage, expert) if expert in (HIGH, LOW) else (name, "")


@dataclass(frozen=True)
class ClipRequest:
    """Everything but the prompt and the seed that decides a clip.

    ``adapters`` are all files by name: ``style`` and ``motion`` of ``ckpt=``, and the ``further`` ones of ``adapters=``.
    ``sources`` are hashes of these and of the user's picture. All are empty where clips are only planned.
    """

    config: InferConfig
    adapters: Mapping[str, Path] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    further: Mapping[str, Further] = field(default_factory=dict)

    @classmethod
    def of(cls, config: InferConfig | EvaluateConfig | StudyConfig) -> ClipRequest:
        """The request of a script's settings, for planning."""
        return cls(config if isinstance(config, InferConfig) else drawn_by(config))

    @classmethod
    def with_files(
        cls, config: InferConfig, adapters: Mapping[str, Path], further: Mapping[str, Further] | None = None
    ) -> ClipRequest:
        """The request with the content of its files: a path may lead to another run tomorrow."""
        pictures = {"image": Path(config.image)} if config.image else {}
        files = {**adapters, **{name: one.path for name, one in (further or {}).items()}}
        hashes = {name: sha256_file(path) for name, path in {**files, **pictures}.items()}
        return cls(config, files, hashes, further or {})

    # -- what takes part ---------------------------------------------------------------------------------------------

    @property
    def is_scene(self) -> bool:
        """Whether the clip is expanded from a keyframe, and not made straight from the prompt."""
        return self.config.mode == "scene"

    @property
    def makes_keyframe(self) -> bool:
        """Whether a keyframe is made, which is the user's picture otherwise."""
        return self.is_scene and self.config.image is None

    @property
    def transformers(self) -> tuple[str, ...]:
        """The networks that take part, such as ``t2v`` and ``i2v``, in their order."""
        # A scene whose picture is given needs nothing of t2v, not even its encoders: i2v's own read the prompt then.
        if not self.is_scene:
            return (self.family.from_text(self.num_frames).name,)
        clips = self.family.clips.name
        return (self.family.stills.name, clips) if self.makes_keyframe else (clips,)

    @property
    def family(self) -> Family:
        """The facts of the model's family."""
        return family_of(self.config.model)

    @property
    def prompt_reader(self) -> str:
        """The transformer whose encoders read the prompts: the first, so that no other has to be loaded for that."""
        return self.transformers[0]

    @property
    def clip_maker(self) -> str:
        """The transformer that makes the clip itself."""
        return self.transformers[-1]

    @property
    def made_by(self) -> dict[str, str]:
        """The transformer that makes each part of a clip: the keyframe, where one is made, and the clip."""
        keyframe = {"keyframe": self.family.stills.name} if self.makes_keyframe else {}
        return keyframe | {"clip": self.clip_maker}

    @property
    def num_frames(self) -> int:
        """Frames of a clip: as asked for, or as the model was trained on."""
        return self.config.num_frames or self.config.model.num_frames

    @property
    def passes(self) -> list[tuple[str, int]]:
        """Each transformer that takes part with the frames that it makes: a keyframe's one, then the clip's."""
        keyframe = [(self.family.stills.name, 1)] if self.makes_keyframe else []
        return [*keyframe, (self.clip_maker, self.num_frames)]

    def scales_on(
        self, transformer: str, scale: ScaleConfig | None, adapters: Iterable[str], variant: str = ""
    ) -> dict[str, float]:
        """Those of ``adapters`` that act on a network, each with its scale; none for ``scale`` None.

        A keyframe is a still, on which the motion adapter has nothing to say; without one, t2v makes the whole clip. The style
        adapter acts by ``scale.keyframe`` on the network that makes stills, and by ``scale.style`` on that of clips.
        """
        if scale is None:
            return {}
        part = "clip" if transformer == self.clip_maker else "keyframe"
        network, clips = self.family.network(transformer), self.family.clips
        style, motion = ("style" if network is clips else "keyframe"), "motion"
        is_still = network is not clips and (self.is_scene or network.makes_stills_alone)
        silent = {"motion"} if is_still else set()
        found: dict[str, float] = {}
        for name in adapters:
            if one := self.further.get(name):
                found[name] = getattr(one, part) if one.only_in in (None, variant) else 0.0
                continue
            # an adapter of one expert is called after it, and may have a scale of its own
            stage, expert = stage_and_expert(name)
            key = style if stage == "style" else motion
            own = getattr(scale, f"{key}_{expert}") if expert else None
            found[name] = 0.0 if stage in silent else getattr(scale, key) if own is None else own
        return {name: value for name, value in found.items() if value}

    def on_expert(self, scales: Mapping[str, float], expert: Expert) -> dict[str, float]:
        """Of the adapters that act on a network those that act on one of its experts: its own, and those of none."""
        return {
            name: value
            for name, value in scales.items()
            if self.expert_of(name) in ("", expert.name) or not expert.name
        }

    def expert_of(self, name: str) -> str:
        """The expert that an adapter is for; empty for one that acts on whatever transformer there is."""
        return self.further[name].expert if name in self.further else stage_and_expert(name)[1]

    def shift_of(self, part: str) -> float | None:
        """The sigma shift that the step-distilled adapter that acts in a part of the clip was made for; None without one."""
        return next((one.shift for one in self.further.values() if one.shift and getattr(one, part)), None)

    @property
    def clip_sampler(self) -> SamplerConfig:
        """How the clip is made: as the settings say, at the shift of a step-distilled adapter where they leave it open."""
        return self._shifted(self.config.sampler, "clip", self.clip_maker)

    def _shifted(self, sampler: SamplerConfig, part: str, network: str) -> SamplerConfig:
        """The sampler with its own shift, else that of a distilled adapter that acts in the part, else the network's."""
        model = self.config.model
        own = sampler.shift or self.shift_of(part) or (model.shift_of(network) if model.t2v_shift else None)
        return replace(sampler, shift=own)

    @property
    def keyframe_sampler(self) -> SamplerConfig:
        """How the keyframe is made: as the clip is, or in full where few steps are an adapter's that does not act on it."""
        sampler = self.config.sampler
        if sampler.guidance == 1 and self.shift_of("clip") and not self.shift_of("keyframe"):
            own = {"guidance": own_guidance(self.config.model)}
            sampler = replace(sampler, shift=None, **{**values("sampler/unipc"), **own})
        return self._shifted(sampler, "keyframe", self.family.stills.name)

    @property
    def guidance_in_words(self) -> str:
        """Guidance of a clip, part by part and expert by expert where each network has its own."""

        def on(network: str) -> str:
            experts = experts_of(self.config.model, network)
            return " and ".join(dict.fromkeys(f"{guidance_of(self.config.sampler, expert):g}" for expert in experts))

        parts = {part: on(network) for part, network in self.made_by.items()}
        if len(set(parts.values())) == 1:
            return parts["clip"]
        return ", ".join(f"{guidance} ({part})" for part, guidance in parts.items())

    # -- what decides the clip ---------------------------------------------------------------------------------------

    def takes(self, run_dir: Path) -> list[Take]:
        """The prompts in order: a single one goes straight into the run directory, those of a file into numbered folders."""
        # Numbers count prompts, not lines: a blank line or comment put in later must not move the folders of those done.
        prompts, seed = prompts_of(self.config), self.config.seed
        if self.config.prompts is None:
            return [Take(prompt, seed, run_dir) for prompt in prompts]
        return [Take(prompt, seed, run_dir / f"{number:04d}") for number, prompt in enumerate(prompts)]

    def shown(self, take: Take) -> dict[str, Any]:
        """The settings that the summary of ``take`` keeps beside its numbers: how it looks, and what was measured."""
        settings = {key: value for key, value in as_stored(self.config).items() if key not in _NOT_OF_THE_CLIP}
        # ``as_stored`` has copied the sections, so that what is left out here stays in the settings themselves.
        if settings["model"]["attention"] != INT8:
            settings["model"].pop("attention")
        for key in SHARING:
            settings["sampler"].pop(key)
        return settings | {"prompt": take.prompt, "seed": take.seed}

    def deciding(self, take: Take) -> dict[str, Any]:
        """All settings that decide how the clip of ``take`` looks, and no others."""
        return deciding(self.shown(take))

    def made_of(self, take: Take, variant: str, scale: ScaleConfig | None) -> str:
        """A hash of everything that the latents of one variant of ``take`` rest on."""
        return sha256_json([self.deciding(take), self.sources, variant, _as_typed(scale or BASE_SCALE)])


@dataclass(frozen=True)
class Take:
    """One prompt, the seed of its noise, and the folder its clips go to."""

    prompt: str
    seed: int
    folder: Path

    def is_done(self, request: ClipRequest) -> bool:
        """Whether an earlier run finished this very clip, from the same adapters and picture."""
        path = self.folder / "summary.json"
        if not path.exists():
            return False
        summary = read_json(path, _Summary, measured=True)
        # what was measured, or on how many ranks, may differ: it is the same clip
        return (deciding(summary["settings"]), summary["sources"]) == (request.deciding(self), request.sources)


def _as_typed(scale: ScaleConfig) -> dict[str, float]:
    """The scales that were given, so that hashes of versions that knew fewer hold."""
    return {name: value for name, value in asdict(scale).items() if value is not None}


class _Summary(TypedDict):
    settings: dict[str, Any]
    sources: dict[str, Any]


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Of settings as a summary keeps them those that decide the clip; the prompt stands for the file it came from."""
    facts = clip_facts(InferConfig, settings)
    if facts["model"].get("attention") != INT8:
        facts["model"].pop("attention", None)
    return facts


def guidance_of(sampler: SamplerConfig, expert: Expert = ALONE) -> float:
    """The guidance scale that a transformer draws with: the settings', else its authors'."""
    own = expert.guidance if sampler.guidance is None else sampler.guidance
    return GUIDANCE if own is None else own


# -- prompts and seeds ---------------------------------------------------------------------------------------------------


def read_prompts(file: str) -> dict[int, str]:
    """The prompts of a text file by the number of their line, without blank lines and comments.

    A line that begins with ``#`` is a comment; a prompt that does is written ``\\#``.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 text, or it holds no prompt.
    """
    path, one = Path(file), "a single prompt is given as prompt='...'"
    if not path.is_file():
        raise ConfigError(f"prompts={file}: there is no file {path.absolute()}; {one}")
    try:
        lines = read_text(path).splitlines()
    except FileError as error:
        raise ConfigError(f"prompts={file}: {error}") from error
    found = {number: line for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")}
    if not found:
        only = "holds comments (#) alone" if any(line.strip() for line in lines) else "is empty"
        raise ConfigError(f"prompts={file} {only}: it wants one prompt a line")
    return {number: re.sub(r"^(\s*)\\#", r"\1#", line) for number, line in found.items()}


def prompts_of(config: InferConfig | StudyConfig) -> list[str]:
    """The prompts of a run, in order; raises as ``read_prompts``."""
    return [config.prompt or ""] if config.prompts is None else list(read_prompts(config.prompts).values())


def seeds_of(config: EvaluateConfig | StudyConfig) -> list[int]:
    """The seeds that each prompt is made from."""
    return list(range(config.seed, config.seed + config.seeds))
