"""One study from settings to table: a clip or a few, drawn by every setting in one job, timed, measured, shown.

Enters: a checked ``StudyConfig`` and a run directory. Leaves there ``rows.json``, ``rows.csv``, ``study.html`` and
``pareto.png``, and an exit code. Rows that are there are not run again. Prompts are encoded and keyframes drawn once, by the
baseline, and shown to all settings; each transformer is loaded once for each dtype and partition, and its settings run by
turns. With ``latency_only`` nothing but the transformer is there, and no footage is read or written.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cinelora.adapters.further_adapters import further_adapters
from cinelora.adapters.run_directory import adapters_of
from cinelora.config.clip_request import ClipRequest, Further, Take, prompts_of, seeds_of
from cinelora.config.schema import LoraSpec, ScaleConfig, StudyConfig, drawn_by, shared_by
from cinelora.errors import ConfigError
from cinelora.families import experts_of, family_of
from cinelora.families.family import Expert
from cinelora.io.hardware import default_device, fingerprint, gpu_at_hand, limit_gpu_memory, quiet_libraries
from cinelora.io.tensor_files import save_tensors
from cinelora.io.terminal import say, warn
from cinelora.parallel.launch import Rank, barrier, launch, meeting_point, process_group, rank_info
from cinelora.parallel.partition import Partition
from cinelora.planning.estimate import Shape
from cinelora.planning.planner import choose_drawing, partition_of
from cinelora.studies.results import LATENTS, Result, Results, load_table, merged_results, middle
from cinelora.studies.study_report import BETWEEN_ROWS, between_rows, lines, show, to_wandb
from cinelora.studies.variants import (
    StudyVariant,
    acting,
    baseline,
    cannot,
    hung,
    key_of,
    model_of,
    sampler_of,
    study_variants,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.planning.estimate import Drawing
    from cinelora.sampling.sampler import Sampling, Shown
    from cinelora.studies.timing import Timed

DRAWN = "drawn"
"""What an adapter is called that latency_only draws, for want of a trained one."""


def study(config: StudyConfig, run_dir: Path) -> int:
    """Study into ``run_dir``; returns the exit code."""
    if config.merge:
        table = merged_results([load_table(Path(folder)) for folder in config.merge])
    else:
        sitting = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ranks: dict[str, Any] = {"ranks": config.gpus, "nodes": config.nodes, "log_dir": run_dir / "logs"}
        launch(
            study_rank,
            config,
            adapters_of(config.ckpt, config.model),
            run_dir,
            sitting,
            further_adapters(config),
            **ranks,
        )
        table = load_table(run_dir)
    table.sentences = [sentence for sentence in table.sentences if sentence not in BETWEEN_ROWS]
    table.say(*between_rows(table.rows))
    table.save(run_dir)
    say(*lines(table.rows))
    for sentence in table.sentences:
        warn(sentence)
    for path in (run_dir / "rows.csv", *show(table, config, run_dir)):
        say(f"study {path}")
    if "wandb" in config.logger.all and meeting_point(config.nodes, 0).is_host:
        to_wandb(table, config, run_dir)
    return 0


# -- on the ranks ------------------------------------------------------------------------------------------------------


def study_rank(
    config: StudyConfig,
    adapter_files: dict[str, Path],
    run_dir: Path,
    sitting: str,
    further: Mapping[str, Further] | None = None,
) -> int:
    """Time what is missing on this rank's share; rank 0 measures and keeps the rows. Returns their number: a whole result.

    Rows are kept as soon as their transformer is done, and looked at in the end, those too that an earlier run left unseen.
    """
    from cinelora.adapters.adapter_file import read_adapter

    quiet_libraries()
    limit_gpu_memory(config.memory.limit_gib)
    rank, table, machine = rank_info(), load_table(run_dir), fingerprint()
    further, first = further or {}, baseline(config)
    files = {**adapter_files, **{name: one.path for name, one in further.items()}}
    adapters = {name: read_adapter(path) for name, path in files.items()}
    keys = {setting: key_of(setting, config, adapter_files, further) for setting in study_variants(config)}
    impossible = {setting: why for setting in keys if (why := cannot(setting, config))}
    refuse_fp8(keys.keys() - impossible.keys())
    with process_group(rank) if rank.world_size > 1 else nullcontext():
        machine = from_rank_0(machine, rank)  # nodes may differ in what is theirs, and must agree on what is there
        names = {setting: setting.named(first) for setting in keys}
        fresh = {s: Result(key, names[s], asdict(s), facts_of_result(config, s), machine) for s, key in keys.items()}
        # A row that is there is kept, whatever is told of it by now; one that ran into trouble is run again.
        kept = {row.place: row for row in table.rows if not row.trouble}
        rows = {setting: kept.get(row.place, row) for setting, row in fresh.items()}
        missing = [setting for setting, row in rows.items() if not row.denoise_s]
        todo = from_rank_0([setting for setting in missing if setting not in impossible], rank)
        if rank.global_rank == 0:
            counts = f"{len(keys) - len(missing)} are there, {len(todo)} to run"
            say(f"{len(keys)} settings: {counts}{f', {len(impossible)} cannot be generated' if impossible else ''}")
        shown, seconds = list[Any](), dict[str, float]()
        if todo and not config.latency_only:
            shown, seconds = real_inputs(config, adapters, rank, further)
        desk = Desk(config, adapters, shown, rank, names, further)
        for settings in of_one_load(todo):
            for setting, timed in desk.timed(settings).items():
                row = rows[setting]
                row.facts["sitting"] = sitting
                take_up(row, timed, setting, seconds)
                if rank.global_rank == 0:
                    if not config.latency_only:
                        keep_clips(run_dir, row, timed)
                    table.put(row)
                    table.save(run_dir)
        if rank.global_rank == 0:
            for setting, why in impossible.items():
                rows[setting].trouble = why
            finish(config, run_dir, table, list(rows.values()), keys[first])
        barrier(rank)
    return len(todo)


def finish(config: StudyConfig, run_dir: Path, table: Results, rows: list[Result], first: str) -> None:
    """Keep the rows that could not be drawn, too, say what must be read beside them all, and look at the clips."""
    for row in rows:
        table.put(row)
    table.say(*caveats(config))
    if not config.latency_only:  # a machine that times steps alone may have nothing that reads footage
        from cinelora.studies.clip_numbers import look

        look(config, run_dir, table, rows, first)
    table.save(run_dir)


def keep_clips(run_dir: Path, row: Result, timed: Timed) -> None:
    """Write the latents of a row's clips, to be looked at."""
    if timed.latents and not timed.trouble:
        tensors = {f"clip-{number}": latents for number, latents in enumerate(timed.latents)}
        save_tensors(run_dir / LATENTS / f"{row.key}.safetensors", tensors, {}, seals=True)


def from_rank_0(value: Any, rank: Rank) -> Any:
    """What rank 0 found, on every rank."""
    import torch

    box = [value]
    if rank.world_size > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def refuse_fp8(settings: Iterable[StudyVariant]) -> None:
    """Raise ``ConfigError`` before anything runs where a setting wants fp8 and the GPU has none."""
    from cinelora.nn.fp8 import missing_fp8

    if any(s.dtype == "fp8" for s in settings) and (reason := missing_fp8(default_device())):
        raise ConfigError(f"dtypes=[...,fp8]: {reason}; leave fp8 away")


def of_one_load(settings: list[StudyVariant]) -> Iterable[list[StudyVariant]]:
    """The settings that share a transformer as it is loaded, those of the first one first."""
    groups = defaultdict[tuple[str, str], list[StudyVariant]](list)
    for setting in settings:
        groups[setting.dtype, setting.partition].append(setting)
    return groups.values()


def facts_of_result(config: StudyConfig, setting: StudyVariant) -> dict[str, Any]:
    """What a row is of, beside the setting itself."""
    model, frames = config.model, ClipRequest.of(config).num_frames
    size = {"frames": frames, "height": model.height, "width": model.width, "fps": model.fps}
    what = "latency of steps" if config.latency_only else f"{config.seeds * len(prompts_of(config))} clips"
    return {
        "model": model.name,
        "weights": model.weights,
        "clip": f"{model.name}, {frames} frames of {model.height}x{model.width}, "
        f"guidance {ClipRequest.of(config).guidance_in_words}, {what}",
        "ranks": 1 if setting.partition == "alone" else config.gpus * config.nodes,
        **size,
    }


def caveats(config: StudyConfig) -> list[str]:
    """What must be read beside the rows of this study."""
    told = []
    if config.latency_only:
        told.append(
            f"{config.model.name}: latency_only timed {config.latency_steps} denoising steps from drawn inputs, not whole clips; "
            "text, keyframe, condition and decoding are not in it, and nothing was measured in pixels"
        )
    if config.model.weights == "random":
        told.append(
            f"{config.model.name}: random weights draw noise, so quality is left out; whether first_block skips a step depends "
            "on values, so its share of computed predictions says nothing of a trained model"
        )
    elif config.model.is_random and not config.latency_only:
        told.append(f"{config.model.name} has random weights: its clips are noise, and so is what is measured of them")
    if any(setting.scale for setting in study_variants(config)) and not (config.ckpt or config.adapters):
        told.append(f"{config.model.name}: the adapters are drawn, not trained")
    return told


# -- what is shown to the transformer ----------------------------------------------------------------------------------


def drawn_inputs(config: StudyConfig, facts: Mapping[str, Any]) -> list[Shown]:
    """What one clip is drawn from, of the right shapes and no meaning; ``facts`` are the transformer's own."""
    import torch

    from cinelora.families.machinery import machinery_of
    from cinelora.sampling.sampler import Shown, Texts

    device = default_device()
    kind, num_frames = ClipRequest.of(config).passes[-1]
    model, family = config.model, family_of(config.model)
    shape = Shape.of(model, kind)
    generator = torch.Generator(device).manual_seed(config.seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(1, *sizes, device=device, generator=generator)

    size, text = (
        family.geometry.latent_size(num_frames, model.height, model.width),
        (family.text_tokens, facts.get("text_dim") or facts["cross_attention_dim"]),
    )
    image = machinery_of(model).condition.drawn_image(family.network(kind), size, shape.image, draw)
    return [Shown(Texts(draw(*text), draw(*text)), image, draw(*size), kind)]


def real_inputs(
    config: StudyConfig, adapters: dict[str, AdapterFile], rank: Rank, further: Mapping[str, Further]
) -> tuple[list[Shown], dict[str, float]]:
    """What every clip is drawn from, and the seconds of its parts: keyframes are the baseline's, each rank's own."""
    from cinelora.sampling.sampler import Sampling
    from cinelora.sampling.scene import TakeMaker

    # Every setting is shown the same keyframe and the same embeddings, so that clips differ by what draws them alone. Each rank
    # makes them for itself: what the ranks of a partition share is the clip, and settings that draw alone have rank 0's.
    first = baseline(config)
    beside = acting(first, config, further)
    request, sampler = ClipRequest(shared_by(config, "alone"), further=beside), sampler_of(first, config, [], beside)
    adapters = {name: adapter for name, adapter in adapters.items() if name in beside or name not in further}
    sampling = Sampling(config.model, sampler, Partition(1, 1, 1), on_its_own(rank))
    maker = TakeMaker.on_this_rank(request, adapters, sampling)
    takes = [Take(prompt, seed, Path()) for prompt in prompts_of(config) for seed in seeds_of(config)]
    clips = [planned["adapted"] for planned in maker.planned(takes, {"adapted": ScaleConfig()})]
    images = maker.conditions(maker.keyframes(clips)) if request.is_scene else {}
    maker.let_go()
    shown = maker.shown(clips, *request.passes[-1], images)
    return list(shown.values()), {part: seconds / len(clips) for part, seconds in maker.clock.seconds.items()}


def on_its_own(rank: Rank) -> Rank:
    """The same rank, with nobody to share a clip with."""
    return replace(rank, world_size=1)


# -- timing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """What every setting of a study is timed with: the adapters, what the transformer is shown, the rank; and their names.

    Where nothing is ``shown``, the transformer is timed on inputs that are drawn.
    """

    config: StudyConfig
    adapters: dict[str, AdapterFile]
    shown: list[Shown]
    rank: Rank
    names: dict[StudyVariant, str]
    further: Mapping[str, Further]

    def timed(self, settings: list[StudyVariant]) -> dict[StudyVariant, Timed]:
        """Load the transformer as ``settings``, which are alike in that, want it, and time them; of two experts one at a time."""
        from cinelora.sampling.sampler import Sampling
        from cinelora.studies.timing import Timed

        config, one, (kind, frames) = self.config, settings[0], ClipRequest.of(self.config).passes[-1]
        model, place = model_of(one, config), on_its_own(self.rank) if one.partition == "alone" else self.rank
        sampler = sampler_of(replace(one, cache="none", threshold=None), config, [], self.further)
        request = replace(shared_by(config, one.partition), model=model, sampler=sampler)
        plan, shared = partition_of(request)
        sampling = Sampling(model, sampler, plan, place)
        # Whether compiling pays is decided from all clips of the study, and so alike for everything that is loaded: rows of
        # compiled and of other blocks could not be compared.
        clips = len(self.names) * (config.repetitions + max(1, len(self.shown)))
        drawing, why = choose_drawing(request, kind, frames, clips, *gpu_at_hand())
        if self.rank.global_rank == 0:
            told = f"{shared}; {why}" if plan.ranks > 1 else why
            say(f"{one.dtype}, {one.partition}, {len(settings)} settings: {told}")

        def untimed() -> Timed:
            return Timed(ratios=list(config.sampler.cache_ratios), compiled=drawing.compile, swap=drawing.swap)

        found = {setting: untimed() for setting in settings}
        for expert in experts_of(model, kind):
            self.time_expert(expert, found, sampling, drawing)
        return found

    def time_expert(
        self, expert: Expert, found: dict[StudyVariant, Timed], sampling: Sampling, drawing: Drawing
    ) -> None:
        """Load an expert, or the only transformer, and add what it takes to what is ``found`` of each setting."""
        from cinelora.adapters.resize_rank import at_rank
        from cinelora.families.machinery import machinery_of
        from cinelora.sampling.sampler import adapted_transformer
        from cinelora.studies.timing import Bench

        config, request = self.config, ClipRequest(drawn_by(self.config), further=self.further)
        kind, frames = request.passes[-1]
        # Adapters of every rank that is asked for hang on it at the same time, and those of a setting act in its turn: so the
        # transformer is loaded once, and neighbours in a round differ in nothing else.
        ranks = list(dict.fromkeys(setting.rank for setting in found if setting.scale))
        own = request.on_expert(dict.fromkeys(self.adapters, 1.0), expert)
        kinds = [name for name in own if name not in self.further]
        named = ((name, self.adapters[name], r) for name in kinds for r in ranks)
        files = {hung(name, r): adapter if r is None else at_rank(adapter, r) for name, adapter, r in named}
        beside = {n for s in found for n, one in acting(s, config, self.further).items() if one.clip and n in own}
        files |= {name: self.adapters[name] for name in sorted(beside)}
        bundle = machinery_of(sampling.model).from_config(sampling.model, kind, Path(config.cache))
        with adapted_transformer(bundle.of_expert(expert.name), files, sampling, drawing, frames) as transformer:
            if any(ranks) and not self.adapters.keys() - self.further.keys():
                hang_drawn(transformer, [r for r in ranks if r])
                kinds = [DRAWN]
            facts: Mapping[str, Any] = cast(Any, transformer.config)  # which torch's types do not know
            shown = self.shown or drawn_inputs(config, facts)
            bench = Bench(config, expert, transformer, sampling, drawing, shown, kinds, self.further)
            bench.run(found, self.names)


def hang_drawn(transformer: Any, ranks: list[int]) -> None:
    """Adapters with values, on cross-attention as the project trains them."""
    import torch

    from cinelora.adapters.lora_layers import adapter_state, add_adapter
    from cinelora.nn.flow_matching import keyed_generator

    # A fresh adapter has zeros in its second factor and would be no adapter at all for a cache that asks how much changes.
    for rank in ranks:
        add_adapter(transformer, hung(DRAWN, rank), LoraSpec(rank, 2.0 * rank), seed=0)
        for key, factor in adapter_state(transformer, hung(DRAWN, rank)).items():
            if "lora_B" in key:
                factor.copy_(torch.randn(factor.shape, generator=keyed_generator(0, key)) * 1e-3)
    transformer.requires_grad_(False)


def take_up(row: Result, timed: Timed, setting: StudyVariant, parts: dict[str, float]) -> None:
    """Put what was timed into the row."""
    # Medians, as a round after a pause, or beside a neighbour's burst, is slower and never faster. Parts that all settings share
    # were timed once, and stand in every row beside the one that differs.
    row.trouble, row.ratios = timed.trouble, timed.ratios if setting.cache == "magcache" else []
    if not timed.seconds:
        return
    seconds = statistics.median(timed.seconds)
    row.facts |= {"compiled": timed.compiled, "swap": timed.swap}
    row.seconds = {part: round(took, 4) for part, took in {**parts, "denoise": seconds}.items()}
    row.denoise_s, row.step_s = [round(took, 4) for took in timed.seconds], round(seconds / setting.steps, 5)
    row.whole_s, row.skipped_s, row.computed = middle(timed.whole), middle(timed.skipped), timed.computed
    row.peak_gib = round(timed.peak_mib / 1024, 2)
