"""One inference run from settings to clips: encode the prompts, make keyframes, expand them, measure.

Enters: a checked ``InferConfig`` and a run directory. Leaves: for each prompt ``clip.mp4``, ``keyframe.png``,
``contact.png`` and ``summary.json`` (last, so that it marks a finished clip), and an exit code. The work goes part by part
over all prompts, so that each network is loaded once and never beside another. The latents of a clip are kept from
denoising to decoding, so that a run that is stopped loses the clip at hand alone. Which variants are drawn of each take, and
what is written of them, is for the caller of ``draw_rank``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from cinelora.adapters.run_directory import adapter_paths, other_weights
from cinelora.config.schema import SHARING, InferConfig, ModelConfig, WeightsConfig
from cinelora.errors import CineloraError
from cinelora.footage.captions import prompt_with_trigger
from cinelora.io.atomic import read_json, sha256_file, sha256_json, write_json
from cinelora.io.hardware import gpu_at_hand, limit_gpu_memory, quiet_libraries, say_of_others
from cinelora.io.hub import resolve
from cinelora.io.media import contact_sheet, write_mp4, write_png
from cinelora.io.tensor_files import load_tensors, save_tensors
from cinelora.parallel.launch import barrier, launch, process_group, rank_info, without_collecting
from cinelora.planning.planner import choose_drawing, partition_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.families.wan.bundle import ImageCondition, WanBundle
    from cinelora.sampling.sampler import Sampling, Texts

CONTACT_FRAMES = 6
BASE = WeightsConfig(0.0, 0.0, 0.0)
"""No adapter speaks: the base model."""


class InferenceError(CineloraError):
    """Clips that could not be made."""


def infer(config: InferConfig, run_dir: Path) -> int:
    """Make the clips that ``config`` asks for; returns the exit code."""
    adapters = adapter_paths(resolve(config.ckpt)) if config.ckpt else {}
    sources = source_hashes(config, adapters)
    todo = [take for take in takes(config, run_dir) if not take.is_done(config, sources)]
    if not todo:
        print(f"every clip is already in {run_dir}; change seed=, the settings or out= for others")
        return 0
    variants = {"adapted": config.weights}
    if config.compare and adapters:
        variants["base"] = BASE
    draw(config, todo, adapters, sources, variants, write_take, run_dir / "logs")
    for take in todo:
        print(f"clip {take.folder / 'clip.mp4'}\ncontact sheet {take.folder / 'contact.png'}")
        print(f"summary {take.folder / 'summary.json'}")
    if config.model.weights == "random":
        print("WARNING: made with random weights (model.weights=random): the clips are noise")
    return 0


@dataclass(frozen=True)
class Take:
    """One prompt, the seed of its noise, and the folder its clips go to."""

    prompt: str
    seed: int
    folder: Path

    def is_done(self, config: InferConfig, sources: dict[str, str]) -> bool:
        """Whether an earlier run finished this very clip, from the same adapters and picture."""
        path = self.folder / "summary.json"
        if not path.exists():
            return False
        summary = read_json(path)
        return (summary["settings"], summary["sources"]) == (settings_of(config, self), sources)


def takes(config: InferConfig, run_dir: Path) -> list[Take]:
    """The prompts in order: one goes straight into the run directory, a file's into numbered folders."""
    if config.prompts is None:
        return [Take(config.prompt or "", config.seed, run_dir)]
    lines = Path(config.prompts).read_text(encoding="utf-8-sig").splitlines()
    return [Take(line, config.seed, run_dir / f"{i:04d}") for i, line in enumerate(filter(str.strip, lines))]


def settings_of(config: InferConfig, take: Take) -> dict[str, Any]:
    """Everything that decides how the clip looks, and nothing else."""
    settings = asdict(config)
    for key in ("prompts", "out", "cache", "gpus", "nodes", "memory", "plan"):
        del settings[key]
    del settings["model"]["attention"]  # another exact backend draws the same clip
    for key in SHARING:
        del settings["sampler"][key]  # and so does another partition, to rounding
    return settings | {"prompt": take.prompt, "seed": take.seed}


def source_hashes(config: InferConfig, adapters: dict[str, Path]) -> dict[str, str]:
    """The content of the files that decide how the clip looks: behind one path there may be another run tomorrow."""
    pictures = {"image": Path(config.image)} if config.image else {}
    return {name: sha256_file(path) for name, path in (adapters | pictures).items()}


def draw(
    config: InferConfig,
    todo: list[Take],
    adapters: dict[str, Path],
    sources: dict[str, str],
    variants: dict[str, WeightsConfig],
    write: Write,
    log_dir: Path,
) -> None:
    """Draw each take in each of the ``variants``, from the same noise, and ``write`` it as soon as all of it is decoded."""
    arguments = (config, todo, adapters, sources, variants, write)
    launch(draw_rank, *arguments, ranks=config.gpus, nodes=config.nodes, log_dir=log_dir)


# -- on the ranks ------------------------------------------------------------------------------------------------------


@dataclass
class Shot:
    """What is known of one variant (adapted, or the base beside it) of a take so far."""

    weights: dict[str, dict[str, float]]
    texts: Texts
    seed: int
    draft: Path
    made_of: str
    keyframe: np.ndarray | None = None
    image: ImageCondition | None = None
    latents: Tensor | None = None

    def keep(self) -> None:
        """Write what must not be denoised a second time."""
        import torch

        assert self.latents is not None
        self.draft.parent.mkdir(parents=True, exist_ok=True)
        keyframe = {} if self.keyframe is None else {"keyframe": torch.from_numpy(self.keyframe)}
        save_tensors(self.draft, {"latents": self.latents, **keyframe}, {"made_of": self.made_of})

    def recall(self) -> None:
        """Take up what an earlier run kept, if it was made of the same."""
        if self.draft.exists():
            tensors, facts = load_tensors(self.draft)
            if facts == {"made_of": self.made_of}:
                self.latents = tensors["latents"]
                self.keyframe = tensors["keyframe"].numpy() if "keyframe" in tensors else None


@dataclass
class Clock:
    """Seconds spent per part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        import torch

        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Finished:
    """A take whose latents and pixels (T, H, W, 3) are all there, and what is known of how they came to be."""

    take: Take
    shots: dict[str, Shot]
    videos: dict[str, np.ndarray]
    adapters: dict[str, AdapterFile]
    sources: dict[str, str]
    seconds: dict[str, float]
    takes_in_run: int


Write = Callable[[InferConfig, Finished], None]
"""Writes a take's files; a function of a module, since it goes to the ranks."""


def draw_rank(
    config: InferConfig,
    todo: list[Take],
    adapter_files: dict[str, Path],
    sources: dict[str, str],
    variants: dict[str, WeightsConfig],
    write: Write,
) -> int:
    """Make all takes on this rank's share of sequence and picture; rank 0 writes them. Returns how many: a whole result."""
    with without_collecting():
        from cinelora.adapters.adapter_file import read_adapter
        from cinelora.families.wan.bundle import WanBundle
        from cinelora.families.wan.checkpoint_layouts import Part
        from cinelora.nn.attention_backend import require
        from cinelora.sampling.sampler import Sampling

        quiet_libraries()
    rank, clock, model, cache = rank_info(), Clock(), config.model, Path(config.cache)
    adapters = {kind: read_adapter(path) for kind, path in adapter_files.items()}
    sampling = Sampling(model, config.sampler, partition_of(config)[0], rank)
    limit_gpu_memory(config.memory.limit_gib)
    bundles = {kind: WanBundle.from_config(model, kind, cache) for kind in kinds(config)}
    for bundle in bundles.values():
        bundle.tile = config.memory.tile
    if rank.global_rank == 0:
        warn_of_other_weights(model, adapters, bundles)
    first, last = bundles[kinds(config)[0]], bundles[kinds(config)[-1]]
    require(model.attention, sampling.attention_work(last.kind, num_frames(config)), last.device)
    with explained(config), process_group(rank) if rank.world_size > 1 else nullcontext():
        with clock.part("text"):
            shots = plan_shots(config, todo, adapters, sources, variants, first)
        flat = [shot for take in shots for shot in take.values()]
        for shot in flat:
            shot.recall()
        barrier(rank)  # rank 0 removes what it has decoded, and all ranks must have seen the same
        if missing := [shot for shot in flat if shot.latents is None]:
            if config.mode == "scene":
                make_keyframes(config, first, adapters, missing, sampling, clock)
                with clock.part("condition"):
                    encode_keyframes(config, last, missing)
            with clock.part("denoise"):
                make_clips(config, last, adapters, missing, sampling)
        parts = {part: total / len(todo) for part, total in clock.seconds.items()}
        with last.loaded(Part.VAE):
            off = rank.global_rank > 0 or len(todo) == 1
            for take, drawn in tqdm(zip(todo, shots, strict=True), "decoding", len(todo), unit="take", disable=off):
                videos, seconds = decoded(drawn, last)
                if rank.global_rank == 0:
                    write(config, Finished(take, drawn, videos, adapters, sources, parts | seconds, len(todo)))
                    for shot in drawn.values():
                        shot.draft.unlink(missing_ok=True)
        barrier(rank)  # who leaves the group ends it for rank 0 as well, which may still be writing
    return len(todo)


@contextmanager
def explained(config: InferConfig) -> Iterator[None]:
    """Turn running out of GPU memory into a sentence with the next setting to try."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() / 2**30
        ways = [
            *(["memory.swap=1"] if config.memory.swap != 1 else []),
            *(["memory.tile=true"] if not config.memory.tile else []),
        ]
        tip = " and ".join(ways) or "fewer frames or a smaller size"
        raise InferenceError(
            f"out of GPU memory at {peak:.1f} GiB; what was drawn so far is kept: start again with {tip}"
        ) from error


def warn_of_other_weights(model: ModelConfig, adapters: dict[str, AdapterFile], bundles: dict[str, WanBundle]) -> None:
    """Say where an adapter was trained on other weights than the transformer of its kind that takes part."""
    for kind, adapter in adapters.items():
        bundle = bundles.get(adapter.transformer)
        if bundle and (warning := other_weights(kind, adapter, model, bundle)):
            print(f"WARNING: {warning}")


def kinds(config: InferConfig) -> tuple[str, ...]:
    """The transformers of the pair that take part, in their order; the first one's encoders read the prompts."""
    if config.mode == "t2v":
        return ("t2v",)
    return ("t2v", "i2v") if makes_keyframes(config) else ("i2v",)


def makes_keyframes(config: InferConfig) -> bool:
    """Whether the T2V transformer draws the first frame."""
    return config.mode == "scene" and config.image is None


def num_frames(config: InferConfig) -> int:
    """Frames of a clip: as asked, or as the model was trained for."""
    return config.num_frames or config.model.num_frames


def plan_shots(
    config: InferConfig,
    todo: list[Take],
    adapters: dict[str, AdapterFile],
    sources: dict[str, str],
    variants: dict[str, WeightsConfig],
    bundle: WanBundle,
) -> list[dict[str, Shot]]:
    """Encode every prompt once and lay out the variants of each take."""
    from cinelora.families.wan.bundle import pad_text
    from cinelora.families.wan.checkpoint_layouts import Part
    from cinelora.sampling.sampler import Texts

    trigger = next((a.trigger for a in adapters.values() if a.trigger), None)
    prompts = [prompt_with_trigger(take.prompt, trigger) for take in todo]
    avoided = config.model.negative_prompt if config.negative_prompt is None else config.negative_prompt
    with bundle.loaded(Part.TOKENIZER, Part.TEXT_ENCODER):
        negative, *positives = (pad_text([e]) for p in [avoided, *prompts] for e in bundle.encode_text([p]))

    def shot(take: Take, positive: Tensor, name: str) -> Shot:
        made_of = sha256_json([settings_of(config, take), sources, name, asdict(variants[name])])
        weights = {kind: acting_on(kind, variants[name], adapters, config.mode) for kind in ("t2v", "i2v")}
        return Shot(weights, Texts(positive, negative), take.seed, take.folder / f"{name}.latents", made_of)

    return [{name: shot(take, p, name) for name in variants} for take, p in zip(todo, positives, strict=True)]


def acting_on(kind: str, scale: WeightsConfig, adapters: dict[str, AdapterFile], mode: str) -> dict[str, float]:
    """The adapters that speak on the ``t2v`` or ``i2v`` transformer, with their weights."""
    on_t2v = {"style": scale.keyframe, "motion": scale.motion if mode == "t2v" else 0.0}
    weights = on_t2v if kind == "t2v" else {"style": scale.style, "motion": scale.motion}
    return {name: weights[name] for name in adapters if weights[name]}


def make_clips(
    config: InferConfig, bundle: WanBundle, adapters: dict[str, AdapterFile], shots: list[Shot], sampling: Sampling
) -> None:
    """Fill in the latents of all shots, and keep each as soon as it is there."""
    for shot in denoise(config, bundle, adapters, shots, sampling, kinds(config)[-1], "clip"):
        if sampling.rank.global_rank == 0:
            shot.keep()


def denoise(
    config: InferConfig,
    bundle: WanBundle,
    adapters: dict[str, AdapterFile],
    shots: list[Shot],
    sampling: Sampling,
    kind: str,
    what: str,
) -> Iterator[Shot]:
    """Fill in the latents of all shots with one transformer, a ``keyframe``'s or a ``clip``'s; each when it is done."""
    from cinelora.sampling.sampler import acting, adapted_transformer, initial_noise

    frames = 1 if what == "keyframe" else num_frames(config)
    noise = {
        seed: initial_noise(seed, f"{kind}-{frames}", config.model, frames, bundle.device)
        for seed in {shot.seed for shot in shots}
    }
    drawing, why = choose_drawing(config, kind, frames, len(shots), *gpu_at_hand())
    if sampling.rank.global_rank == 0:
        say_of_others()
        print(f"{what}: {why}", flush=True)
    alike = groupby(sorted(shots, key=lambda shot: sorted(shot.weights[kind].items())), lambda shot: shot.weights[kind])
    sets = [(weights, list(group)) for weights, group in alike]
    number, live = count(1), drawing.swap > 0
    with adapted_transformer(bundle, adapters, sampling, drawing, frames) as transformer:
        for weights, group in sets:
            with acting(transformer, weights, live, again=len(sets) > 1):
                for shot in group:
                    label = f"{what} {next(number)}/{len(shots)}"
                    drawn = (shot.texts, shot.image, noise[shot.seed])
                    shot.latents = sampling.run(transformer, *drawn, label, drawing.together)
                    yield shot


def make_keyframes(
    config: InferConfig,
    bundle: WanBundle,
    adapters: dict[str, AdapterFile],
    shots: list[Shot],
    sampling: Sampling,
    clock: Clock,
) -> None:
    """Draw each shot's first frame with the style adapter, or take the user's picture for all."""
    from cinelora.families.wan.bundle import range_to_pixels
    from cinelora.families.wan.checkpoint_layouts import Part
    from cinelora.footage.keyframe_image import read_image

    if config.image is not None:
        picture = read_image(Path(config.image), config.model.height, config.model.width)
        for shot in shots:
            shot.keyframe = picture
        return
    with clock.part("keyframe"):
        style = {kind: adapter for kind, adapter in adapters.items() if kind == "style"}
        sampling = sampling.in_full()  # a still costs little, and the whole clip rests on it
        for shot in shots:
            shot.weights["t2v"] = {kind: weight for kind, weight in shot.weights["t2v"].items() if kind in style}
        drawn = list(denoise(config, bundle, style, shots, sampling, "t2v", "keyframe"))
        with bundle.loaded(Part.VAE):
            for shot in drawn:
                assert shot.latents is not None
                shot.keyframe, shot.latents = range_to_pixels(bundle.decode(shot.latents))[0], None


def encode_keyframes(config: InferConfig, bundle: WanBundle, shots: list[Shot]) -> None:
    """Turn every keyframe into what the I2V transformer is shown."""
    from cinelora.families.wan.bundle import ImageCondition
    from cinelora.families.wan.checkpoint_layouts import Part

    with bundle.loaded(Part.VAE, Part.IMAGE_ENCODER):
        for shot in shots:
            assert shot.keyframe is not None
            image = bundle.encode_image(shot.keyframe, num_frames(config), together=True)
            shot.image = ImageCondition(image.latents[None], image.tokens[None])


def decoded(shots: dict[str, Shot], bundle: WanBundle) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What all ranks decode together, and the seconds; pixels are on rank 0 alone."""
    from cinelora.families.wan.bundle import range_to_pixels

    videos, clock = {}, Clock()
    for name, shot in shots.items():
        assert shot.latents is not None
        with clock.part("decode"):
            pixels = bundle.decode_together(shot.latents)
            if pixels is not None:
                videos[name] = range_to_pixels(pixels)
    return videos, clock.seconds


def write_take(config: InferConfig, done: Finished) -> None:
    """Write a take's files, the summary last."""
    from cinelora.io.hardware import hardware, peak_memory_mib
    from cinelora.metrics.suite import measure

    take, adapters = done.take, done.adapters
    take.folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, np.ndarray]] = []
    for name, shot in done.shots.items():
        video = done.videos[name]
        prefix = "" if name == "adapted" else f"{name}-"
        write_mp4(take.folder / f"{prefix}clip.mp4", video, config.model.fps)
        write_png(take.folder / f"{prefix}keyframe.png", video[0] if shot.keyframe is None else shot.keyframe)
        rows.insert(0, ((name if adapters else "base") + caveat(config), video))
    write_png(take.folder / "contact.png", contact_sheet(rows, columns=CONTACT_FRAMES))
    report = measure(config.metrics, done.videos["adapted"], take.prompt)
    for sentence in report.sentences:
        print(f"WARNING: {take.folder / 'clip.mp4'}: {sentence}")
    summary = {
        "settings": settings_of(config, take),
        "sources": done.sources,
        "adapters": {kind: adapter_facts(adapter) for kind, adapter in adapters.items()},
        "seconds": {part: round(total, 3) for part, total in done.seconds.items()},
        "takes_in_run": done.takes_in_run,
        "weights": config.model.weights,
        "metrics": report.numbers,
        "metrics_notes": report.sentences,
        "metrics_networks": report.networks,
        "peak_memory_mib": peak_memory_mib(),
        "ranks": config.gpus * config.nodes,
        **hardware(),
    }
    write_json(take.folder / "summary.json", summary)


def caveat(config: InferConfig) -> str:
    """What a contact sheet must say beside its pictures where nobody has taught the model any."""
    from cinelora.families.wan.embedded import is_trained

    if config.model.weights == "random":
        return " (random weights: noise)"
    sources = (config.model.t2v, config.model.i2v)
    noise = any(s and s.startswith("embedded:") for s in sources) and not is_trained()
    return " (untrained embedded model: noise)" if noise else ""


def adapter_facts(adapter: AdapterFile) -> dict[str, Any]:
    """What a summary says of an adapter."""
    spec = asdict(adapter.spec)
    return {**spec, "base_model": adapter.base_model, "trigger": adapter.trigger, "data_hash": adapter.data_hash}
