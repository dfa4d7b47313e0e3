"""Takes from text to pixels: encode the prompts, make keyframes, expand them to clips, decode.

Enters: a ``ClipRequest``, its takes, and the variants of each (scales of the adapters). Leaves: each finished take, handed to
the caller's ``Write`` on rank 0. The work goes part by part over all takes, so that each network is loaded once and never beside
another. Latents are kept on disk from denoising to decoding, and where two experts make a clip from one to the other, so that a
run that is stopped loses the clip at hand alone.
What is written of a take is for the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count, groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinelora.adapters.run_directory import warn_of_other_weights
from cinelora.config.clip_request import ClipRequest, Take
from cinelora.config.schema import InferConfig, ScaleConfig
from cinelora.errors import FileError, InferenceError
from cinelora.families import experts_of, family_of
from cinelora.families.family import Expert
from cinelora.footage.captions import prompt_with_trigger
from cinelora.io.hardware import explained_out_of_memory, gpu_at_hand, limit_gpu_memory, quiet_libraries, say_of_others
from cinelora.io.live_bar import LiveBar
from cinelora.io.read_ahead import read_ahead
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.io.terminal import say, warn
from cinelora.io.waiting import waiting
from cinelora.parallel.launch import barrier, launch, process_group, rank_info, starting
from cinelora.planning.estimate import Drawing
from cinelora.planning.planner import choose_drawing, partition_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.families.model_bundle import Bundle
    from cinelora.sampling.denoise import Course
    from cinelora.sampling.sampler import Sampling, Shown, Texts

    Images = dict["Rendition", Any]
    Waypoints = dict["Rendition", dict[str, Tensor]]


# -- what is known of a take, step by step -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rendition:
    """One variant of a take before anything is made: what it is made from, and where its latents wait."""

    scales: dict[str, dict[str, float]]
    texts: Texts
    seed: int
    draft: Path
    made_of: str

    def keep(self, latents: Latents) -> None:
        """Write what must not be denoised a second time."""
        self._write(self.draft, {"latents": latents.of_clip}, latents.keyframe)
        self.half_draft.unlink(missing_ok=True)

    def kept(self) -> Latents | None:
        """What an earlier run kept, if that was made of the same."""
        tensors, keyframe = self._read(self.draft)
        return Latents(tensors["latents"], keyframe) if tensors else None

    def keep_half(self, half: Half) -> None:
        """Write what the first of two experts need not do a second time."""
        self._write(self.half_draft, half.waypoint, half.keyframe)

    def kept_half(self) -> Half | None:
        """What an earlier run kept of it, if that was made of the same."""
        tensors, keyframe = self._read(self.half_draft)
        return Half(tensors, keyframe) if tensors else None

    def forget(self) -> None:
        """Remove what was kept."""
        for path in (self.half_draft, self.draft):
            path.unlink(missing_ok=True)

    @property
    def half_draft(self) -> Path:
        """Where its course waits between two experts."""
        return self.draft.with_suffix(".course")

    def _write(self, path: Path, tensors: dict[str, Tensor], keyframe: np.ndarray | None) -> None:
        import torch

        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = {} if keyframe is None else {"keyframe": torch.from_numpy(keyframe)}
        save_tensors(path, {**tensors, **pixels}, {"made_of": self.made_of}, seals=True)

    def _read(self, path: Path) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """The tensors in a file that was made of the same, and the keyframe beside them; none where there is no such file."""
        try:
            tensors, facts = load_tensors(path) if path.exists() else ({}, None)
        except FileError as error:
            warn(f"{error}: it is drawn again")
            return {}, None
        if facts != {"made_of": self.made_of}:
            return {}, None
        keyframe = tensors.pop("keyframe", None)
        return tensors, None if keyframe is None else keyframe.numpy()


@dataclass(frozen=True, eq=False)
class Latents:
    """A denoised clip (1, 16, T, h, w), and the pixels (H, W, 3) of the keyframe that it was expanded from, if any."""

    of_clip: Tensor
    keyframe: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Half:
    """A clip between two experts: where its course stands, on the host, and the keyframe as in ``Latents``."""

    waypoint: dict[str, Tensor]
    keyframe: np.ndarray | None = None


@dataclass(frozen=True)
class Made:
    """A finished rendition: its adapters' scales on each transformer, its latents, its keyframe and its pixels (T, H, W, 3).

    Where none was made or given, the first frame stands for the keyframe.
    """

    scales: dict[str, dict[str, float]]
    latents: Tensor
    keyframe: np.ndarray
    video: np.ndarray


@dataclass(frozen=True)
class Finished:
    """A take of which all variants are there, by their names, and what is known of how they came to be."""

    take: Take
    made: dict[str, Made]
    adapters: dict[str, AdapterFile]
    seconds: dict[str, float]
    takes_in_run: int
    attention: dict[str, dict[str, Any]]
    """What was measured of attention that is not exact, by part of the work; empty where all is exact, or no clip was made."""


Variants = Mapping[str, ScaleConfig | None]
"""Scales of the adapters by a name for them; None: no adapter acts."""
Write = Callable[[ClipRequest, Finished], None]
"""Writes a take's files; a function of a module, since it goes to the ranks."""


@dataclass(frozen=True)
class Clock:
    """Seconds spent per part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, shown: str = "") -> Iterator[None]:
        """Add the time of the block to ``name``; ``shown`` is what is said of it where it takes long, by the first rank."""
        import torch

        started = time.perf_counter()
        with waiting(shown, bool(shown) and rank_info().global_rank == 0):
            yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


# -- all takes, on all ranks ---------------------------------------------------------------------------------------------


def make_takes(request: ClipRequest, todo: list[Take], variants: Variants, write: Write, log_dir: Path) -> None:
    """Make each take in each of the ``variants``, from the same noise, and ``write`` it as soon as all of it is decoded."""
    config = request.config
    launch(rank_makes, request, todo, variants, write, ranks=config.gpus, nodes=config.nodes, log_dir=log_dir)


def rank_makes(request: ClipRequest, todo: list[Take], variants: Variants, write: Write) -> int:
    """Make all takes on this rank's part of sequence and picture; rank 0 writes them. Returns how many: a whole result."""
    with starting():
        from cinelora.adapters.adapter_file import read_adapter
        from cinelora.nn.attention_backend import require
        from cinelora.sampling.sampler import Sampling

        quiet_libraries()
    config, rank = request.config, rank_info()
    adapters = {role: read_adapter(path) for role, path in request.adapters.items()}
    sampling = Sampling(config.model, request.clip_sampler, partition_of(config)[0], rank)
    limit_gpu_memory(config.memory.limit_gib)
    maker = TakeMaker.on_this_rank(request, adapters, sampling)
    if rank.global_rank == 0:
        warn_of_other_weights(config.model, adapters, maker.bundles)
    # A backend that cannot run here is refused now, and not after the text encoder has been at work for minutes.
    require(config.model.attention, sampling.attention_work(request.clip_maker, request.num_frames), maker.last.device)
    with memory_explained(config), process_group(rank) if rank.world_size > 1 else nullcontext():
        # Each part goes over all takes before the next begins, and each holds one network alone: the text encoder; for a scene
        # the t2v transformer and the VAE (keyframes), the VAE and the image encoder (what i2v is shown of them); then the
        # transformer of the clips; the VAE again (pixels). All ranks go the same way, since each part may exchange tensors.
        takes = maker.planned(todo, variants)
        latents = maker.denoised([rendition for take in takes for rendition in take.values()])
        for done, renditions in zip(maker.decoded(todo, takes, latents), takes, strict=True):
            if rank.global_rank == 0:
                write(request, done)
                # The draft goes only after the files are whole: a run that ends amid them decodes this take again.
                for rendition in renditions.values():
                    rendition.forget()
        barrier(rank)  # a rank that leaves the group ends it for rank 0 as well, which may still be writing
    return len(todo)


def memory_explained(config: InferConfig) -> AbstractContextManager[None]:
    """Turn running out of GPU memory into the peak, and the next setting to try."""
    ways = ["memory.swap=1"] if config.memory.swap != 1 else []
    ways += [] if config.memory.tile else ["memory.tile=true"]
    tip = " and ".join(ways) or "fewer frames or a smaller size"
    rest = f"what was drawn so far is kept: start again with {tip}"
    return explained_out_of_memory(InferenceError, lambda: ("", rest))


# -- part by part --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TakeMaker:
    """Makes takes on this rank, one part of the work after the other; ``bundles`` are of the transformers that take part."""

    request: ClipRequest
    adapters: dict[str, AdapterFile]
    bundles: dict[str, Bundle]
    sampling: Sampling
    clock: Clock = field(default_factory=Clock)
    attention: dict[str, dict[str, Any]] = field(default_factory=dict)
    """See ``Finished``."""
    held: dict[str, nn.Module] = field(default_factory=dict)
    """The one transformer of a family that has one for keyframe and clip, from the one to the other."""
    letting_go: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def on_this_rank(cls, request: ClipRequest, adapters: dict[str, AdapterFile], sampling: Sampling) -> TakeMaker:
        """A maker whose networks are found, and not loaded yet."""
        from cinelora.families.machinery import machinery_of

        model, cache = request.config.model, Path(request.config.cache)
        bundles = {kind: machinery_of(model).from_config(model, kind, cache) for kind in request.transformers}
        for bundle in bundles.values():
            bundle.tile = request.config.memory.tile
        return cls(request, adapters, bundles, sampling)

    @property
    def last(self) -> Bundle:
        """The bundle of the transformer that makes the clip itself."""
        return self.bundles[self.request.clip_maker]

    @property
    def triggers(self) -> list[str]:
        """The words that call the looks up: that of ``ckpt=``, and those of the adapters beside it."""
        own = [adapter.trigger for name, adapter in self.adapters.items() if name not in self.request.further]
        others = [adapter.trigger for name, adapter in self.adapters.items() if name in self.request.further]
        return list(dict.fromkeys(word for word in [*list(filter(None, own))[:1], *others] if word))

    def planned(self, todo: list[Take], variants: Variants) -> list[dict[str, Rendition]]:
        """Encode every prompt once; returns the renditions of each take, by variant."""
        from cinelora.families.family import Part
        from cinelora.families.text_limit import lost_line, refuse_lost
        from cinelora.nn.text_padding import pad_text
        from cinelora.sampling.sampler import Texts

        config, request = self.request.config, self.request
        # Training put the trigger word before every caption; a prompt without it would not call the look up.
        triggers = self.triggers
        prompts = [reduce(prompt_with_trigger, triggers, take.prompt) for take in todo]
        networks = [network.name for network in family_of(config.model).networks]
        avoided = config.model.negative_prompt if config.negative_prompt is None else config.negative_prompt
        reader = self.bundles[request.prompt_reader]
        if self.sampling.rank.global_rank == 0:
            refuse_lost({f"the adapter's trigger {trigger}": trigger for trigger in triggers}, reader.lost)
            lost = reader.lost([*prompts, avoided])
            for line in [*lost_line("prompt", prompts, lost), *lost_line("negative prompt", [avoided], lost)]:
                say(line)
        # One prompt at a time: in a batch the last digits of each would depend on the prompts beside it.
        with self.clock.part("text", "encoding prompts"), reader.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
            encoded = (reader.encode_text([prompt])[0] for prompt in [avoided, *prompts])
            negative, *positives = (pad_text([one], reader.family.text_tokens) for one in encoded)

        def rendition_of(take: Take, positive: Tensor, name: str) -> Rendition:
            # The draft is named after the variant, and what it was made of stands in it: with another seed it is made again.
            scale = variants[name]
            scales = {kind: request.scales_on(kind, scale, self.adapters, name) for kind in networks}
            draft, made_of = take.folder / f"{name}.latents", request.made_of(take, name, scale)
            return Rendition(scales, Texts(positive, negative), take.seed, draft, made_of)

        pairs = zip(todo, positives, strict=True)
        return [{name: rendition_of(take, positive, name) for name in variants} for take, positive in pairs]

    def denoised(self, renditions: list[Rendition]) -> dict[Rendition, Latents]:
        """The latents of all renditions; those that are new are kept on disk as soon as each is there."""
        done = {rendition: kept for rendition in renditions if (kept := rendition.kept())}
        begun = {one: half for one in renditions if one not in done and (half := one.kept_half())}
        # rank 0 removes the drafts that are decoded: none may go before all ranks have read the same ones
        barrier(self.sampling.rank)
        missing = [rendition for rendition in renditions if rendition not in done]
        if not missing:
            return done
        # Keyframes of the missing ones alone: a draft has kept the keyframe that it was expanded from.
        fresh, is_first = [one for one in missing if one not in begun], self.sampling.rank.global_rank == 0
        keyframes = self.keyframes(fresh) if self.request.is_scene and fresh else {}
        keyframes |= {one: half.keyframe for one, half in begun.items() if half.keyframe is not None}
        images = self.conditions(keyframes)
        waypoints = {one: half.waypoint for one, half in begun.items()}

        def keep_half(rendition: Rendition, waypoint: dict[str, Tensor]) -> None:
            if is_first:
                rendition.keep_half(Half(waypoint, keyframes.get(rendition)))

        with self.clock.part("denoise"):
            made = self.latents("clip", missing, *self.request.passes[-1], images, waypoints, keep_half)
            for rendition, latents in made:
                done[rendition] = Latents(latents, keyframes.get(rendition))
                if is_first:
                    rendition.keep(done[rendition])
        return done

    def keyframes(self, renditions: list[Rendition]) -> dict[Rendition, np.ndarray]:
        """The first frame of each rendition, made with the style adapter; or the user's picture for all of them."""
        from cinelora.families.family import Part
        from cinelora.footage.keyframe_image import fitted, read_keyframe
        from cinelora.nn.pixels import range_to_pixels

        config = self.request.config
        if config.image is not None:
            picture = fitted(read_keyframe(Path(config.image)), config.model.height, config.model.width, config.fit)
            return dict.fromkeys(renditions, picture)
        # Without a cache between steps, nor the few steps of an adapter that does not act on it: a still costs little, and the
        # whole clip rests on it.
        maker, bundle = (
            replace(self, sampling=self.sampling.in_full(self.request.keyframe_sampler)),
            self.bundles[self.request.passes[0][0]],
        )
        with self.clock.part("keyframe"):
            stills = dict(maker.latents("keyframe", renditions, *self.request.passes[0], {}))
            with waiting("decoding keyframes", self.sampling.rank.global_rank == 0), bundle.loaded(Part.VAE):
                return {still: range_to_pixels(bundle.decode(latents))[0] for still, latents in stills.items()}

    def conditions(self, keyframes: dict[Rendition, np.ndarray]) -> Images:
        """What the I2V transformer is shown of each keyframe."""
        conditions: Images = {}
        if not keyframes:
            return conditions
        with self.clock.part("condition", "encoding keyframes"), self.last.loaded(*self.last.image_parts):
            for rendition, keyframe in keyframes.items():
                conditions[rendition] = self.last.encode_image(keyframe, self.request.num_frames, together=True)
        return conditions

    def shown(self, renditions: list[Rendition], kind: str, frames: int, images: Images) -> dict[Rendition, Shown]:
        """What a network makes so many frames of each rendition from: one seed is one noise."""
        from cinelora.sampling.sampler import Shown, initial_noise

        model, bundle = self.request.config.model, self.bundles[kind]
        seeds = {rendition.seed for rendition in renditions}
        drawn = {seed: initial_noise(seed, f"{kind}-{frames}", model, frames, bundle.device) for seed in seeds}
        noise = {seed: bundle.settled_noise(one, seed) for seed, one in drawn.items()}
        return {one: Shown(one.texts, images.get(one), noise[one.seed], kind) for one in renditions}

    def latents(
        self,
        what: str,
        renditions: list[Rendition],
        kind: str,
        frames: int,
        images: Images,
        waypoints: Waypoints | None = None,
        keep_half: Callable[[Rendition, dict[str, Tensor]], None] | None = None,
    ) -> Iterator[tuple[Rendition, Tensor]]:
        """Denoise the keyframe or clip of every rendition by one network, and hand each out as soon as it is there.

        Of two experts the first goes its part of all of them before the second is loaded, and ``keep_half`` is given where each
        course then stands. Those that have ``waypoints`` begin there.
        """
        sampling, shown = self.sampling, self.shown(renditions, kind, frames, images)
        # a transformer that makes keyframe and clip runs as the clip wants it, and stays until that is done
        drawn = self.request.passes[-1] if self.stays else (kind, frames)
        drawing, why = choose_drawing(self.request.config, *drawn, len(renditions), *gpu_at_hand())
        if sampling.rank.global_rank == 0:
            say_of_others()
            say(f"{what}: {why}")
        waypoints, left, number = dict(waypoints or {}), dict(shown), count(1)
        experts = experts_of(self.request.config.model, kind)
        for expert, following in zip_longest(experts, experts[1:]):
            for rendition, course in self.advanced(what, waypoints, left, kind, frames, expert, following, drawing):
                if course.ahead():
                    # on the host meanwhile: the solvers of many clips would fill a GPU
                    waypoints[rendition] = course.waypoint()
                    if keep_half:
                        keep_half(rendition, waypoints[rendition])
                    continue
                sampling.say_ratios(course, f"{what} {next(number)}/{len(renditions)}")
                yield rendition, sampling.settled(course, left.pop(rendition))
        if (kind, frames) == self.request.passes[-1]:
            self.let_go()

    def let_go(self) -> None:
        """Release the transformer that was held for the clips; where no clips are made after keyframes, the caller says so."""
        self.held.clear()
        self.letting_go.close()

    @property
    def stays(self) -> bool:
        """Whether one transformer makes the keyframe and then the clip."""
        return family_of(self.request.config.model).one_checkpoint and len(self.request.passes) > 1

    @contextmanager
    def at_work(
        self, kind: str, expert: Expert, adapters: dict[str, AdapterFile], drawing: Drawing, frames: int
    ) -> Iterator[nn.Module]:
        """The transformer of an expert with ``adapters`` on it, loaded for the block; or once, for keyframe and clip."""
        from cinelora.sampling.sampler import adapted_transformer

        bundle = self.bundles[kind].of_expert(expert.name)
        if not self.stays:
            with adapted_transformer(bundle, adapters, self.sampling, drawing, frames) as transformer:
                yield transformer
            return
        if "" not in self.held:
            one = adapted_transformer(bundle, self.adapters, self.sampling, drawing, self.request.num_frames)
            self.held[""] = self.letting_go.enter_context(one)
        yield self.held[""]

    def reading_ahead(self, kind: str, expert: Expert | None) -> AbstractContextManager[object]:
        """Inside the block the next ``expert``, if any, is read from the disk, by one rank of each node."""
        from cinelora.families.family import Part

        if expert is None or self.sampling.rank.local_rank > 0:
            return nullcontext()
        return read_ahead(self.bundles[kind].of_expert(expert.name).files_at_hand(Part.TRANSFORMER))

    def advanced(
        self,
        what: str,
        waypoints: Waypoints,
        shown: dict[Rendition, Shown],
        kind: str,
        frames: int,
        expert: Expert,
        following: Expert | None,
        drawing: Drawing,
    ) -> Iterator[tuple[Rendition, Course]]:
        """Take the steps of all clips that are one transformer's, which is loaded once; each course as it gets there.

        A clip begins at its waypoint, or at its noise. Meanwhile the files of the ``following`` expert are read.
        """
        from cinelora.nn.int8_attention import guard_of
        from cinelora.sampling.sampler import acting

        sampling = self.sampling

        def scales_of(rendition: Rendition) -> dict[str, float]:
            return self.request.on_expert(rendition.scales[kind], expert)

        due = [one for one in shown if sampling.begin(shown[one], waypoints.get(one)).ahead(expert.levels)]
        if not due:
            return  # a clip of few steps may have none for the last expert
        # Scenes whose adapters have the same scales are made one after the other: adapters are folded into the weights once
        # for all of them, and out again only where renditions with other scales follow.
        ordered = sorted(due, key=lambda rendition: sorted(scales_of(rendition).items()))
        alike = [(scales, list(group)) for scales, group in groupby(ordered, scales_of)]
        number, live, named = count(1), drawing.swap > 0, f"{what}, {expert.name}" if expert.name else what
        # what acts in no rendition, such as the motion adapter on a keyframe, is not even loaded
        acts = {name for scales, _ in alike for name in scales}
        adapters = {name: adapter for name, adapter in self.adapters.items() if name in acts}
        again = len(alike) > 1 or (self.stays and frames < self.request.num_frames)
        with (
            self.at_work(kind, expert, adapters, drawing, frames) as transformer,
            self.reading_ahead(kind, following),
        ):
            for scales, group in alike:
                with acting(transformer, scales, live, again):
                    for one in group:
                        label = f"{named} {next(number)}/{len(ordered)}"
                        course = sampling.begin(shown[one], waypoints.get(one))
                        sampling.go_on(course, transformer, shown[one], label, drawing.together, expert)
                        if (guard := guard_of(transformer)) and guard.errors:
                            self.attention[named] = guard.facts
                        yield one, course

    def decoded(
        self, todo: list[Take], takes: list[dict[str, Rendition]], latents: dict[Rendition, Latents]
    ) -> Iterator[Finished]:
        """Each take as soon as all of it is decoded, by all ranks together: each decodes some rows of the picture.

        The pixels arrive at rank 0; on the others nothing is ``made``.
        """
        from cinelora.families.family import Part
        from cinelora.nn.pixels import range_to_pixels

        parts = {part: total / len(todo) for part, total in self.clock.seconds.items()}
        quiet = self.sampling.rank.global_rank > 0 or len(todo) == 1
        with self.last.loaded(Part.VAE):
            pairs = zip(todo, takes, strict=True)
            for take, renditions in LiveBar(pairs, "decoding", len(todo), unit="take", disable=quiet):
                made, clock = dict[str, Made](), Clock()
                for name, rendition in renditions.items():
                    clip, keyframe = latents[rendition].of_clip, latents[rendition].keyframe
                    with clock.part("decode", "decoding"):
                        pixels = self.last.decode_together(clip)
                        video = None if pixels is None else range_to_pixels(pixels)
                    if video is not None:
                        made[name] = Made(rendition.scales, clip, video[0] if keyframe is None else keyframe, video)
                yield Finished(take, made, self.adapters, parts | clock.seconds, len(todo), self.attention)
