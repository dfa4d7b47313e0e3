"""One training run from settings to adapter: encode, then train, each on ranks of their own.

Enters: a checked ``TrainConfig`` and a run directory. Leaves: the files of ``RunDirectory`` and an exit code. The parent
only launches; encoders live in the first launch and die with it, so training never shares memory with them.
"""

from __future__ import annotations

import logging
import math
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinelora.adapters.run_directory import RunDirectory, adapter_paths, other_weights
from cinelora.config.check import effective_lr
from cinelora.config.metric_names import logged, monitors
from cinelora.config.schema import TrainConfig, data_ranks, samples_per_step, zero_level
from cinelora.config.store import portable
from cinelora.errors import AdapterError, ConfigError, TrainingError
from cinelora.geometry import num_tokens
from cinelora.io.atomic import read_json, sweep_temporaries, write_json, write_whole
from cinelora.io.hardware import (
    gpu_at_hand,
    hardware,
    limit_gpu_memory,
    peak_memory_mib,
    quiet_libraries,
    say_of_others,
)
from cinelora.io.hub import is_at_hand, resolve
from cinelora.io.locks import lock
from cinelora.parallel.launch import (
    LaunchError,
    Rank,
    RankKilled,
    barrier,
    launch,
    meeting_point,
    process_group,
    rank_info,
)
from cinelora.parallel.partition import partition, share_samples
from cinelora.planning.estimate import Policy, Shape, leaner
from cinelora.planning.planner import choose_policy
from cinelora.training.model_card import Record, push, read_record, write_card
from cinelora.training.origins import origins, refuse_other_origins, refuse_other_samples
from cinelora.verdict import effect_line, heldout_line, stopped_line

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from lightning import Callback, Trainer
    from lightning.pytorch.strategies import Strategy
    from torch import Tensor

    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.adapters.trainable import TrainedAdapter, WholeTransformer
    from cinelora.footage.buckets import Size
    from cinelora.footage.manifest import Sample
    from cinelora.latents.cache import Index
    from cinelora.latents.dataset import LatentDataset
    from cinelora.memory.weight_sharding import Shares
    from cinelora.nn.attention_backend import Work
    from cinelora.training.callbacks import Ema, Keeper, Progress, Resume, StopRequest
    from cinelora.training.checkpoints import Checkpoint
    from cinelora.training.heldout import HeldoutLoss
    from cinelora.training.heldout_clips import HeldoutClips
    from cinelora.training.judge import Judge
    from cinelora.training.loggers import Journal
    from cinelora.training.preview import Preview
    from cinelora.training.stage import Stage

log = logging.getLogger(__name__)
INTERRUPTED = 130


def train(config: TrainConfig, run_dir: Path) -> int:
    """Run a stage to its end; returns the exit code (130 where it was stopped, after a checkpoint)."""
    run = RunDirectory(run_dir)
    sweep(run)
    if config.adapter:
        carry_style_adapter(config.adapter, run)
    Path(config.cache).mkdir(parents=True, exist_ok=True)
    # the cache is safe to share without a lock, which only spares two runs the same work; the nodes of one run all come here
    alone = lock(Path(config.cache) / "encoding.lock", waiting=print) if config.nodes == 1 else nullcontext()
    with alone:
        launched(encode_rank, config, run)
    result: dict[str, Any] = launched(train_rank, config, run)
    try:
        if config.push and not result["interrupted"] and meeting_point(config.nodes, 0).is_host:
            upload(run, config.push, config.private)
    finally:
        for line in closing_lines(result, run):
            print(line)
    return INTERRUPTED if result["interrupted"] else 0


def sweep(run: RunDirectory) -> None:
    """Remove what a killed run left half-written."""
    from cinelora.training.checkpoints import sweep_drafts

    sweep_drafts(run.checkpoints)
    sweep_temporaries(run.path)


def launched(work: Callable[[TrainConfig, RunDirectory], Any], config: TrainConfig, run: RunDirectory) -> Any:
    """``work`` of the ranks, begun again from the last checkpoint where it lost one, up to ``max_restarts`` times.

    A rank that was killed may live the next time. Another error is met again unless chance had a part in it, which is tried
    where the run has come further since it last started. What the user has to mend, or asked for, ends it at once.
    """
    reached = last_saved(run)
    for restart in range(1, config.max_restarts + 2):
        try:
            return launch(work, config, run, ranks=config.gpus, nodes=config.nodes, log_dir=run.logs)
        except LaunchError as error:
            before, reached = reached, last_saved(run)
            worth_it = reached != before or isinstance(error, RankKilled)
            if restart > config.max_restarts or config.nodes > 1 or not worth_it:
                raise
            if reached:
                config = replace(config, resume=str(run.path))
            since = f"goes on from {reached}" if reached else "starts anew"
            print(
                f"{error}; the run {since} by itself (restart {restart} of max_restarts={config.max_restarts})",
                flush=True,
            )
    raise AssertionError("the last try returns or raises")


def last_saved(run: RunDirectory) -> str | None:
    """The name of the run's newest checkpoint."""
    from cinelora.training.checkpoints import saved_checkpoints

    return next((path.name for path in saved_checkpoints(run.checkpoints)), None)


def upload(run: RunDirectory, repository: str, private: bool) -> None:
    """Upload what a run has made, or say how to do that later."""
    try:
        print(f"uploaded: {push(read_record(run), repository, private)}")
    except ConfigError as error:
        again = shlex.join(
            [
                "python",
                "-m",
                "cinelora.card",
                f"run={run.path}",
                f"push={repository}",
                *(["private=true"] if private else []),
            ]
        )
        raise ConfigError(f"{error}; the adapter is in {run.path}: {again} tries again") from error


def carry_style_adapter(source: str, run: RunDirectory) -> None:
    """Copy the style adapter that stage 2 trains on top of into the run, so that the run carries both."""
    paths = adapter_paths(resolve(source))
    if "style" not in paths:
        raise AdapterError(f"adapter={source} holds no style adapter, only {', '.join(paths)}")

    def copy(draft: Path) -> None:
        shutil.copyfile(paths["style"], draft)

    write_whole(run.adapter("style"), copy)


def closing_lines(result: dict[str, Any], run: RunDirectory) -> list[str]:
    """What a user wants to know when a run ends; the last line says whether anything was learnt."""
    product = run.transformer if result["stage"] == "pretrain" else run.adapter(result["stage"])
    lines = [f"{'transformer' if product == run.transformer else 'adapter'} {product}", f"summary {run.summary}"]
    if "heldout_step" in result:
        lines.insert(0, heldout_line(result))
    if result["interrupted"]:
        lines.append(
            f"stopped at step {result['step']} of {result['steps']}; "
            f"go on with: python train.py {shlex.quote(f'resume={run.path}')}"
        )
    if early := result.get("stopped_early"):
        lines.append(stopped_line(early, result))
    if best := result.get("best"):
        lines.append(best_line(best, result, run))
    if result["weights"] == "random":
        lines.append(f"WARNING: trained on random weights (model.weights=random): {product} is worth nothing")
    return [*lines, effect_line(result)]


def best_line(best: dict[str, Any], result: dict[str, Any], run: RunDirectory) -> str:
    """Where the best adapter is, or that there is none yet."""
    if best["step"] is None:
        return f"no best adapter: {best['name']} was not logged before the run ended"
    path = run.best("transformer" if result["stage"] == "pretrain" else result["stage"])
    return f"best {best['name']}: {best['value']:.4g} at step {best['step']}, kept in {path}"


# -- first launch: encode ----------------------------------------------------------------------------------------------


def bundle_kind(config: TrainConfig) -> str:
    """The checkpoint of the pair whose transformer is trained, and whose encoders therefore encode."""
    return config.stage.transformer


def encode_rank(config: TrainConfig, run: RunDirectory) -> None:
    """Find the samples and encode this rank's share of those the cache lacks; rank 0 writes manifest and index."""
    from cinelora.families.wan.bundle import WanBundle
    from cinelora.footage.manifest import read_manifest
    from cinelora.footage.sample_source import reader
    from cinelora.io.hardware import default_device
    from cinelora.latents.cache import Framing, Index, LatentCache
    from cinelora.nn.attention_backend import require

    quiet_libraries()
    rank = rank_info()
    policy_at_hand(config)  # refused before hours of encoding
    require(config.model.attention, attention_work(config), default_device())
    with process_group(rank) if rank.world_size > 1 else nullcontext():
        if rank.global_rank == 0:
            find_samples(config, run)
        barrier(rank)
        manifest = read_manifest(run.manifest)
        stage, model, cache = config.stage, config.model, Path(config.cache)
        bundle = WanBundle.from_config(model, bundle_kind(config), cache)
        framing = Framing(model.height, model.width, stage.image_condition)
        latents = LatentCache(cache, bundle, framing, config.workers)
        texts = {"null": ""} | preview_text(config)
        index = latents.index(manifest, texts)
        read = reader(config.data, model, bundle.device)
        skipped = latents.encode(read, manifest, index, texts, rank.global_rank, rank.world_size)
        for clip in skipped:
            log.warning("skipped %s: %s", clip.path, clip.reason)
        barrier(rank)
        if rank.global_rank == 0:
            whole = latents.complete(index, skipped)
            if config.resume:
                refuse_other_origins(run, {"data": Index.load(run.dataset).data_hash}, {"data": whole.data_hash})
            whole.save(run.dataset)


def preview_text(config: TrainConfig) -> dict[str, str]:
    """The preview's prompt, if there is one, as inference would give it to the adapter: behind the trigger word."""
    from cinelora.footage.captions import prompt_with_trigger

    prompt = config.preview.prompt
    return {"preview": prompt_with_trigger(prompt, config.data.trigger)} if prompt else {}


def find_samples(config: TrainConfig, run: RunDirectory) -> None:
    """Write the run's manifest, and say what was found and what was left out."""
    from cinelora.footage.manifest import read_manifest, write_manifest
    from cinelora.footage.sample_source import find, wanted_by

    manifest = find(config.data, wanted_by(config.model, config.stage.num_frames, config.seed))
    if config.resume:
        refuse_other_samples(run, read_manifest(run.manifest), manifest)
    write_manifest(run.manifest, manifest)
    heldout = sum(sample.split == "heldout" for sample in manifest.samples)
    clips = [left for left in manifest.skipped if left.shot is None]
    print(f"{len(manifest.samples) - heldout} samples to train on, {heldout} held out, {len(clips)} clips skipped")
    for line in sizes_lines(manifest.samples, (config.model.height, config.model.width), samples_per_step(config)):
        print(f"  {line}")
    for clip in clips:
        print(f"  skipped {clip.path}: {clip.reason}")
    shots = Counter(left.reason.partition(":")[0] for left in manifest.skipped if left.shot is not None)
    for reason, count in shots.most_common():
        print(f"  {count} {'shot' if count == 1 else 'shots'} left out: {reason} (which, says {run.manifest.name})")


def sizes_lines(samples: Sequence[Sample], model_size: Size, step: int) -> list[str]:
    """How many samples to train on are of each size, in pixels and frames, where they are not all of one.

    A ``step`` takes so many of one size; where there are fewer they come more than once in it.
    """
    training = (sample for sample in samples if sample.split == "train")
    sizes = Counter((*(sample.size or model_size), len(sample.frames)) for sample in training)
    if len(sizes) == 1:
        return []
    named = {f"{height}x{width} x {frames}": count for (height, width, frames), count in sizes.most_common()}
    rare = [f"{name}: {step / count:.3g} times" for name, count in named.items() if 2 * count <= step]
    lines = [f"sizes: {', '.join(f'{name} ({count})' for name, count in named.items())}; a step sees {step} of one"]
    if rare:
        way_out = "data.buckets=false or a smaller batch evens that out"
        lines.append(f"WARNING: a step takes each sample of a rare size more than once ({', '.join(rare)}); {way_out}")
    return lines


# -- second launch: train ----------------------------------------------------------------------------------------------


def train_rank(config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """Train on this rank; returns the summary, which rank 0 also writes."""
    from torch.utils.data import DataLoader

    from cinelora.latents.cache import Index
    from cinelora.latents.dataset import BucketSampler, LatentDataset
    from cinelora.training.checkpoints import load_checkpoint
    from cinelora.training.loggers import make_journal

    quiet_libraries()
    rank, index = rank_info(), Index.load(run.dataset)
    training, heldout = (LatentDataset(Path(config.cache), index, split) for split in ("train", "heldout"))
    resumed = load_checkpoint(run.checkpoints) if config.resume else None
    rests_on = origins(config, run, index.data_hash)
    if resumed:
        refuse_other_origins(run, resumed.facts["rests_on"], rests_on)
    first_step = resumed.step if resumed else 0
    if first_step > config.stage.steps or (first_step == config.stage.steps and has_ended(run, first_step)):
        raise ConfigError(f"{run.path} already has its {first_step} steps; go on with stage.steps=<more>")
    sampler = BucketSampler(
        training.shapes,
        batch_size=config.stage.batch_size,
        accumulation=config.stage.accumulation,
        rank=rank.global_rank // config.strategy.sequence,
        world_size=data_ranks(config),
        seed=config.seed,
        first_step=first_step,
    )
    loader = DataLoader(
        training,
        batch_sampler=sampler,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=torch_has_gpu(),
        worker_init_fn=heed_nothing,
    )
    policy, why = policy_at_hand(config)
    if rank.global_rank == 0 and torch_has_gpu():
        say_of_others()
        print(why)
    stage = build_stage(config, run, training, policy)
    facts = resumed.facts if resumed else {"rests_on": rests_on}
    journal = make_journal(config, run.path, first_step)
    crew = make_callbacks(config, run, index, heldout, sampler.group_size, resumed, facts, journal)
    trainer = make_trainer(config, run, rank, journal, crew.all(), stage)
    started = time.perf_counter()
    with crew.stop.heeded(), explained(config, policy, run, trainer):
        trainer.fit(stage, loader)
        summary = summarise(config, index, trainer.global_step, time.perf_counter() - started, stage, crew)
        if rank.global_rank == 0:
            if config.stage.name != "pretrain":
                write_card(Record(run, config, summary))
            write_json(run.summary, summary)  # the last thing a run does, by which it is known to have ended
    return summary


def has_ended(run: RunDirectory, step: int) -> bool:
    """Whether the run that was saved after ``step`` came to its end there, and was not killed before."""
    return run.summary.exists() and bool(read_json(run.summary)["step"] == step)


def heed_nothing(_worker: int) -> None:
    """Let a loader's process work on when all processes of a job are asked to end: its rank needs one more batch."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def explained(config: TrainConfig, policy: Policy, run: RunDirectory, trainer: Trainer) -> Iterator[None]:
    """Turn running out of GPU memory into the step, the peak, and the next setting to try."""
    import torch

    from cinelora.training.checkpoints import saved_checkpoints

    try:
        yield
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() / 2**30
        tip = leaner_setting(config, policy) or "a smaller size or fewer frames"
        again = "the last checkpoint is kept: resume it" if saved_checkpoints(run.checkpoints) else "start again"
        raise TrainingError(
            f"out of GPU memory in step {trainer.global_step + 1}, at {peak:.1f} GiB; {again} with {tip}"
        ) from error


def leaner_setting(config: TrainConfig, policy: Policy) -> str | None:
    """What takes less than ``policy``, or None where there is nothing."""
    next_one = leaner(policy, Shape.of(config.model, config.stage.transformer))
    if next_one == "swap" and zero_level(config.strategy) == 3:
        return None if config.strategy.cpu_offload else "strategy.cpu_offload=true"
    return next_one and f"memory={next_one}"


def policy_at_hand(config: TrainConfig) -> tuple[Policy, str]:
    """The memory policy for the GPU of this rank, and why; from here on the process keeps to ``memory.limit_gib``.

    Raises ``ConfigError`` where none fits.
    """
    limit_gpu_memory(config.memory.limit_gib)
    return choose_policy(config, gpu_at_hand()[1])


def attention_work(config: TrainConfig) -> Work:
    """The attention of one sample of a training step."""
    from cinelora.nn.attention_backend import Work

    model, plan = config.model, share_samples(config)
    tokens = num_tokens(config.stage.num_frames, model.height, model.width)
    return Work.of(model, config.stage.transformer, tokens, backward=True, ring=plan.ring, ulysses=plan.ulysses)


def build_stage(config: TrainConfig, run: RunDirectory, training: LatentDataset, policy: Policy) -> Stage:
    """Load the transformer, choose what of it is trained, and wrap both in the stage; its blocks run by ``policy``.

    Its attention runs on the backend that is asked for or found fastest, which rank 0 prints.
    """
    from cinelora.families.wan.bundle import WanBundle
    from cinelora.memory.block_swap import arrange
    from cinelora.nn.attention_backend import choose
    from cinelora.training.stage import ImageConditionedStage, Stage

    model = config.model
    bundle = WanBundle.from_config(model, bundle_kind(config), Path(config.cache))
    shares = shares_of(config)
    transformer = bundle.load_transformer(policy.swap, shares)
    pretrains = config.stage.name == "pretrain"
    trained = whole_transformer(config, transformer) if pretrains else hang_adapters(config, run, transformer)
    partition(transformer, share_samples(config))
    lengths = set(map(math.prod, training.shapes))
    said = [choose(transformer, attention_work(config), model.attention)]
    said += [compiled_line(len(lengths))] if policy.compile else []
    for line in filter(None, said):
        if rank_info().global_rank == 0:
            print(line)
    arrange(transformer, policy, shares.homes if shares else (), len(lengths))
    return (ImageConditionedStage if config.stage.image_condition else Stage)(
        config,
        transformer,
        trained,
        [entry.id for entry in training.entries],
        training.text(training.texts["null"]),
        effective_lr(config),
    )


def compiled_line(num_lengths: int) -> str:
    """What compiling means where sequences are of several lengths."""
    from cinelora.memory.block_swap import MOST_LENGTHS

    if num_lengths == 1:
        return ""
    how = "for any length" if num_lengths > MOST_LENGTHS else "for each anew, in the first step that sees it"
    return f"sequences have {num_lengths} lengths: blocks are compiled {how}"


def shares_of(config: TrainConfig) -> Shares | None:
    """How this rank shares the frozen weights with the others, where it does."""
    from cinelora.memory.weight_sharding import Shares

    rank = rank_info()
    if zero_level(config.strategy) < 3 or config.stage.name == "pretrain":
        return None
    return Shares(rank.global_rank, rank.world_size, config.strategy.cpu_offload)


def whole_transformer(config: TrainConfig, transformer: WanTransformer3DModel) -> WholeTransformer:
    """Every weight, on every rank or in pieces."""
    from cinelora.adapters.trainable import WholeTransformer
    from cinelora.training.zero import PartitionedTransformer

    return (PartitionedTransformer if zero_level(config.strategy) == 3 else WholeTransformer)(transformer)


def hang_adapters(config: TrainConfig, run: RunDirectory, transformer: WanTransformer3DModel) -> TrainedAdapter:
    """The adapter to train, on top of the style adapter where the run carries one."""
    from cinelora.adapters.adapter_file import LoraSpec, read_adapter
    from cinelora.adapters.lora_layers import add_adapter, load_adapter
    from cinelora.adapters.trainable import TrainedAdapter

    lora = config.lora
    if config.stage.name == "motion" and run.adapter("style").exists():
        style = read_adapter(run.adapter("style"))
        load_adapter(transformer, "style", style, config.model.name)
        if rank_info().global_rank == 0:
            warn_of_other_weights(config, style)
    spec = LoraSpec(lora.rank, lora.alpha, lora.dropout, lora.targets)
    add_adapter(transformer, config.stage.name, spec, config.seed)
    return TrainedAdapter(transformer, config.stage.name)


def warn_of_other_weights(config: TrainConfig, style: AdapterFile) -> None:
    """Say where the style adapter was trained on other weights; nothing is fetched from the hub to find that out."""
    from cinelora.families.wan.bundle import WanBundle

    source = config.model.t2v if style.transformer == "t2v" else config.model.i2v
    if style.transformer != config.stage.transformer and (source is None or not is_at_hand(source)):
        return
    bundle = WanBundle.from_config(config.model, style.transformer, Path(config.cache))
    if warning := other_weights("style", style, config.model, bundle):
        print(f"WARNING: {warning}")


@dataclass(frozen=True)
class Crew:
    """The callbacks of a run, in the order they act: restore, stop, average, log, save, measure, show, judge.

    A step is logged before it is saved: were it the other way round, a kill between the two would leave a gap in the curves.
    """

    resume: Resume | None
    stop: StopRequest
    ema: Ema | None
    keeper: Keeper
    heldout: HeldoutLoss | None
    clips: HeldoutClips | None
    preview: Preview | None
    progress: Progress
    judge: Judge

    def all(self) -> list[Callback]:
        """Those there are."""
        from cinelora.training.callbacks import Finish

        behind = (self.keeper, self.heldout, self.clips, self.preview, self.judge)
        finish = Finish([callback for callback in behind if callback])
        before = (self.resume, self.stop, self.ema, self.progress)
        return [callback for callback in (*before, *behind, finish) if callback]


def make_callbacks(
    config: TrainConfig,
    run: RunDirectory,
    index: Index,
    heldout: LatentDataset,
    samples_per_step: int,
    resumed: Checkpoint | None,
    facts: dict[str, Any],
    journal: Journal,
) -> Crew:
    """What happens beside the optimisation, as the settings ask for it."""
    from cinelora.training.callbacks import Ema, Keeper, Progress, Resume, StopRequest
    from cinelora.training.heldout import HeldoutLoss
    from cinelora.training.judge import Judge

    ema = Ema(config.ema_decay) if config.ema_decay else None
    keeper = Keeper(config.checkpoint, run, partial(export, config, run, index), ema, facts)
    measured = config.validation.every_steps and len(heldout)
    refuse_unseen(config, bool(measured))
    return Crew(
        Resume(resumed, ema) if resumed else None,
        StopRequest(),
        ema,
        keeper,
        HeldoutLoss(config.validation, heldout, [e.id for e in heldout.entries], ema) if measured else None,
        make_heldout_clips(config, heldout, keeper, journal) if measured and config.validation.clips else None,
        make_preview(config, run, heldout, ema, journal) if config.preview.every_steps else None,
        Progress(config.logger, samples_per_step),
        Judge(config.stopping, config.checkpoint, journal, keeper),
    )


def refuse_unseen(config: TrainConfig, measured: bool) -> None:
    """Refuse to wait for a number of held-out samples where there are none; settings alone do not tell."""
    for key, name in monitors(config):
        if not measured and name.startswith(("heldout/", "effect/")):
            there = ", ".join(name for name in logged(config) if name.startswith("train/"))
            raise ConfigError(
                f"{key}={name} is measured on held-out samples and there are none: raise data.holdout, or take one of {there}"
            )


def make_heldout_clips(config: TrainConfig, heldout: LatentDataset, keeper: Keeper, journal: Journal) -> HeldoutClips:
    """What draws and measures held-out samples, whose imports other runs do not wait for."""
    from cinelora.training.heldout_clips import HeldoutClips

    return HeldoutClips(config, heldout, keeper, journal)


def make_preview(
    config: TrainConfig, run: RunDirectory, heldout: LatentDataset, ema: Ema | None, journal: Journal
) -> Preview:
    """The preview, likewise."""
    from cinelora.training.preview import Preview

    return Preview(config, run, heldout, ema, journal)


def make_strategy(config: TrainConfig, rank: Rank, stage: Stage) -> Strategy | str:
    """How the ranks share the work; all of them average their gradients over all ranks."""
    from lightning.pytorch.strategies import DDPStrategy

    gpu = torch_has_gpu()
    if level := zero_level(config.strategy):
        from cinelora.training.zero import ZeroStrategy

        frozen = config.stage.name != "pretrain"  # what zero3 then shards beside what zero2 does is not DeepSpeed's
        return ZeroStrategy(min(2, level) if frozen else level, config.strategy.cpu_offload, stage.trained, gpu)
    return DDPStrategy(process_group_backend="nccl" if gpu else "gloo") if rank.world_size > 1 else "auto"


def make_trainer(
    config: TrainConfig, run: RunDirectory, rank: Rank, journal: Journal, callbacks: list[Callback], stage: Stage
) -> Trainer:
    """Lightning's trainer without what we do ourselves: checkpoints, bars, sampling, sanity checks."""
    from lightning import Trainer

    return Trainer(
        accelerator="gpu" if torch_has_gpu() else "cpu",
        devices=config.gpus,
        num_nodes=config.nodes,
        strategy=make_strategy(config, rank, stage),
        logger=journal,
        callbacks=callbacks,
        max_steps=config.stage.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.stage.accumulation,
        gradient_clip_val=config.optimizer.clip_norm or None,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
    )


def export(config: TrainConfig, run: RunDirectory, index: Index, state: dict[str, Tensor], best: bool = False) -> None:
    """Write what was trained, last or at its best: an adapter file, or the transformer in diffusers' layout."""
    if config.stage.name == "pretrain":
        from cinelora.families.wan.embedded import save_transformer

        save_transformer(run.best("transformer") if best else run.transformer, config.stage.transformer, state)
        return
    from cinelora.adapters.adapter_file import AdapterFile, LoraSpec, export_adapter, is_image_projection
    from cinelora.families.wan.bundle import WanBundle
    from cinelora.families.wan.checkpoint_layouts import Part

    bundle = WanBundle.from_config(config.model, bundle_kind(config), Path(config.cache))
    lora = config.lora
    if not config.stage.image_condition:  # on i2v these never ran: they would say nothing in the file
        state = {key: value for key, value in state.items() if not is_image_projection(key.rsplit(".", 2)[0])}
    file = AdapterFile(
        state=state,
        spec=LoraSpec(lora.rank, lora.alpha, lora.dropout, lora.targets),
        kind=config.stage.name,
        base_model=config.model.name,
        base_revision=bundle.fingerprint(Part.TRANSFORMER),
        transformer=config.stage.transformer,
        trigger=config.data.trigger,
        data_hash=index.data_hash,
        config=portable(asdict(config)),
    )
    export_adapter(run.best(config.stage.name) if best else run.adapter(config.stage.name), file)


def summarise(config: TrainConfig, index: Index, step: int, seconds: float, stage: Stage, crew: Crew) -> dict[str, Any]:
    """What came out, in numbers, with what it ran on."""
    from cinelora.training.callbacks import as_exported

    with as_exported(stage, crew.ema):
        effect = stage.trained.effect()
    summary: dict[str, Any] = {
        "stage": config.stage.name,
        "model": config.model.name,
        "weights": config.model.weights,
        "data": config.data.name,
        "data_hash": index.data_hash,
        "samples": len(index.split("train")),
        "step": step,
        "steps": config.stage.steps,
        "interrupted": step < config.stage.steps and not crew.judge.stopped,
        "loss": crew.progress.latest_loss,
        "adapter_effect": effect.overall,
        "adapter_effect_by_block": list(effect.by_block.values()),
        "seconds": seconds,
        "samples_per_s": crew.progress.samples_per_s,
        "peak_memory_mib": peak_memory_mib(),
        **crew.judge.report(),
        **hardware(),
    }
    for watcher in (crew.heldout, crew.clips):
        summary |= watcher.report() if watcher else {}
    return summary


def torch_has_gpu() -> bool:
    """Whether there is a GPU to train on."""
    import torch

    return torch.cuda.is_available()
