"""The second launch of a run: train on encoded samples. ``train_rank`` is the order of a run, read from top to bottom.

Enters: settings, the run's index of encoded samples, and perhaps a checkpoint. Leaves: checkpoints, the product, a summary
and a card. The step itself is in ``module``; what happens after each step is in ``callbacks``.
"""

from __future__ import annotations

import math
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.utils.data import DataLoader

from cinelora.adapters.adapter_file import AdapterFile, read_adapter
from cinelora.adapters.lora_layers import add_adapter, load_adapter
from cinelora.adapters.run_directory import RunDirectory, RunSummary, warn_of_other_weights
from cinelora.adapters.trainable import Trained, TrainedAdapter
from cinelora.clone_only import scale_model
from cinelora.config.lessons import expert_of
from cinelora.config.schema import TrainConfig, data_ranks, zero_level
from cinelora.errors import ConfigError
from cinelora.families import family_of
from cinelora.families.family import Use
from cinelora.families.machinery import machinery_of
from cinelora.io.atomic import write_json
from cinelora.io.hardware import hardware, peak_memory_mib, quiet_libraries, quiet_lightning, say_of_others
from cinelora.io.hub import is_at_hand
from cinelora.io.terminal import say
from cinelora.latents.cache import Index
from cinelora.latents.dataset import BucketSampler, LatentDataset
from cinelora.memory.block_swap import MOST_LENGTHS
from cinelora.memory.weight_sharding import Shares
from cinelora.nn.attention_backend import choose
from cinelora.parallel.launch import Rank, rank_info
from cinelora.parallel.partition import partition, share_samples
from cinelora.planning.estimate import Policy
from cinelora.planning.previews import planned_previews
from cinelora.training.callbacks.ema import as_exported
from cinelora.training.callbacks.order import RunCallbacks, make_callbacks
from cinelora.training.checkpoint_files import Checkpoint, load_checkpoint
from cinelora.training.gpu_policy import attention_work, explained, policy_at_hand
from cinelora.training.loggers import Journal, make_journal
from cinelora.training.model_card import Record, write_card
from cinelora.training.module import Stage
from cinelora.training.resume_guard import origins, refuse_other_levels, refuse_other_origins
from cinelora.training.zero import ZeroStrategy


def train_rank(config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """Train on this rank; returns the summary, which rank 0 also writes."""
    quiet_libraries()
    quiet_lightning()
    rank = rank_info()

    # Data: what the first launch has encoded. A rank reads latents from the cache and never sees a pixel.
    index = Index.load(run.dataset)
    run.folder.mkdir(exist_ok=True)
    texts = family_of(config.model).text_tokens
    training, heldout = (LatentDataset(Path(config.cache), index, split, texts) for split in ("train", "heldout"))

    # A resumed run begins at its checkpoint's step. It is refused where the data or the weights are no longer those that
    # the checkpoint was trained on, because its numbers would then be of neither the old run nor a new one.
    resumed = load_checkpoint(run.checkpoints) if config.resume else None
    facts = facts_of(config, run, index, resumed)
    first_step = resumed.step if resumed else 0
    refuse_ended(config, run, first_step)
    loader = make_loader(config, rank, training, first_step)

    # Model: the memory policy first, as it decides whether blocks are loaded to this device or stay on the host. Then the
    # transformer, and what of it is trained.
    preview, about_previews = planned_previews(config, torch.cuda.is_available(), len(heldout))
    config, asked = replace(config, preview=preview), config
    if rank.global_rank == 0 and about_previews:
        say(about_previews)
    policy, why = policy_at_hand(config)
    if rank.global_rank == 0 and torch.cuda.is_available():
        say_of_others()
        say(why)
    stage = build_stage(config, run, training, policy)

    # What happens after each step, and the loop that calls both.
    journal = make_journal(config, run.folder, first_step)
    callbacks = make_callbacks(config, run, index, heldout, resumed, facts, journal, asked.preview.steps)
    trainer = make_trainer(config, run, rank, journal, callbacks.all(), stage)

    started = time.perf_counter()
    with callbacks.stop.heeded(), explained(config, policy, run, trainer):
        trainer.fit(stage, loader)
        summary = summarise(config, index, trainer.global_step, time.perf_counter() - started, stage, callbacks)
        if rank.global_rank == 0:
            # of two experts the card is written when both have ended
            if not config.stage.trains_every_weight and not run.expert:
                write_card(Record(run, config, cast("RunSummary", summary)))
            write_json(run.summary, summary)  # by which a run is known to have ended: what comes after it is for others
            if not summary["interrupted"]:
                journal.keep(run.product(config.stage.name), config.logger)
    return summary


# -- data --------------------------------------------------------------------------------------------------------------


def facts_of(config: TrainConfig, run: RunDirectory, index: Index, resumed: Checkpoint | None) -> dict[str, Any]:
    """What goes into every checkpoint beside tensors and memories: what the run rests on, and an expert's noise levels."""
    rests_on, levels = origins(config, run, index.data_hash), expert_of(config).taught
    if resumed:
        refuse_other_origins(run, resumed.facts.get("rests_on", {}), rests_on)
        refuse_other_levels(run, resumed.facts.get("levels", levels), levels)
    return {"rests_on": rests_on, **({"levels": list(levels)} if run.expert else {})}


def refuse_ended(config: TrainConfig, run: RunDirectory, step: int) -> None:
    """Refuse to resume after ``step`` where nothing is left to do."""
    # A run that was killed between its last checkpoint and its summary has all steps and no end: it may resume, and
    # does what is missing (``callbacks.resume.Duties``).
    if step > config.stage.steps or (step == config.stage.steps and run.has_ended(step)):
        raise ConfigError(f"{run.path} already has its {step} steps; continue with stage.steps=<more>")


def make_loader(config: TrainConfig, rank: Rank, training: LatentDataset, first_step: int) -> DataLoader[Any]:
    """The batches of this rank from ``first_step`` on, in an order that (seed, step) alone decide."""
    # Ranks that share each sample's sequence have one place together, and so the same samples.
    place = {"rank": rank.global_rank // config.strategy.sequence, "world_size": data_ranks(config)}
    step = {"batch_size": config.stage.batch_size, "accumulation": config.stage.accumulation}
    sampler = BucketSampler(training.shapes, **step, **place, seed=config.seed, first_step=first_step)
    number = config.workers
    workers: dict[str, Any] = {"num_workers": number, "persistent_workers": number > 0, "worker_init_fn": heed_nothing}
    return DataLoader(training, batch_sampler=sampler, pin_memory=torch.cuda.is_available(), **workers)


def heed_nothing(_worker: int) -> None:
    """Let a loader's process work on when all processes of a job are asked to end: its rank needs one more batch."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# -- model -------------------------------------------------------------------------------------------------------------


def build_stage(config: TrainConfig, run: RunDirectory, training: LatentDataset, policy: Policy) -> Stage:
    """Load the transformer, choose what of it is trained, and wrap both in the stage; its blocks run by ``policy``.

    Its attention runs on the backend that is asked for or found fastest, which rank 0 prints.
    """
    model = config.model
    bundle = machinery_of(model).from_config(model, config.stage.transformer, Path(config.cache)).of_expert(run.expert)
    shares = shares_of(config)
    transformer = bundle.load_transformer(policy.swap, shares)
    trained = make_trained(config, run, transformer)

    # Adapters are in place by now, and have to be: from here on modules are wrapped. ``partition`` gives attention its
    # part of the tokens, ``choose`` times backends on attention as it then is, and ``arrange`` comes last, since it
    # compiles, recomputes or moves whole blocks with everything that is in them.
    partition(transformer, share_samples(config))
    lengths = set(map(math.prod, training.shapes))
    said = (
        Use.BACKENDS in bundle.family.uses and choose(transformer, attention_work(config), model.attention),
        policy.compile and compiled_line(len(lengths)),
    )
    for line in filter(None, said):
        if rank_info().global_rank == 0:
            say(line)
    bundle.arrange(transformer, policy, shares.shards if shares else (), len(lengths))
    return Stage(config, transformer, trained, training)


def shares_of(config: TrainConfig) -> Shares | None:
    """How this rank shares the frozen weights with the others, where it does."""
    # Pretraining has no frozen weights to share: there DeepSpeed cuts the trained ones into pieces (see `make_strategy`).
    rank = rank_info()
    if zero_level(config.strategy) < 3 or config.stage.trains_every_weight:
        return None
    return Shares(rank.global_rank, rank.world_size, config.strategy.cpu_offload)


def make_trained(config: TrainConfig, run: RunDirectory, transformer: nn.Module) -> Trained:
    """What is trained: the adapter, on top of the style adapter where the run carries one, or every weight."""
    if config.stage.trains_every_weight:
        partitioned = zero_level(config.strategy) == 3
        whole: Trained = scale_model("pretrain", "stage=pretrain").trained(transformer, partitioned)
        return whole
    below = run.style_below if config.stage.name == "motion" else None
    if below:
        style = read_adapter(below)
        style = replace(
            style, source=config.adapter or style.source
        )  # in sentences the user's own file, and not its copy here
        load_adapter(transformer, "style", style, config.model.name)
        if rank_info().global_rank == 0:
            warn_of_styles_weights(config, style)
    taught = machinery_of(config.model).taught_by(config.stage.name, config.stage.transformer)
    add_adapter(transformer, config.stage.name, config.lora, config.seed, taught)
    return TrainedAdapter(transformer, config.stage.name)


def warn_of_styles_weights(config: TrainConfig, style: AdapterFile) -> None:
    """Say where the style adapter was trained on other weights; nothing is fetched from the hub to find that out."""
    source = config.model.source(style.transformer, expert_of(config).name)
    if style.transformer != config.stage.transformer and (source is None or not is_at_hand(source)):
        return
    bundle = machinery_of(config.model).from_config(config.model, style.transformer, Path(config.cache))
    bundle = bundle.of_expert(expert_of(config).name)
    warn_of_other_weights(config.model, {"style": style}, {style.transformer: bundle})


def compiled_line(num_lengths: int) -> str:
    """What compiling means where sequences are of several lengths."""
    if num_lengths == 1:
        return ""
    how = "for any length" if num_lengths > MOST_LENGTHS else "for each, in the first step that has it"
    return f"sequences have {num_lengths} lengths: blocks are compiled {how}"


# -- loop --------------------------------------------------------------------------------------------------------------


def make_strategy(config: TrainConfig, rank: Rank, stage: Stage) -> Strategy | str:
    """How the ranks share the work; all of them average their gradients over all ranks."""
    gpu = torch.cuda.is_available()
    if level := zero_level(config.strategy):
        # Of an adapter run's zero3, DeepSpeed sees gradients and moments alone, as under zero2: the frozen weights are
        # shared by ``Shares``, not by DeepSpeed.
        level = level if stage.trained.partitioned else min(2, level)
        return ZeroStrategy(level, config.strategy.cpu_offload, stage.trained, gpu)
    return DDPStrategy(process_group_backend="nccl" if gpu else "gloo") if rank.world_size > 1 else "auto"


OUR_OWN: dict[str, Any] = dict.fromkeys(("limit_val_batches", "num_sanity_val_steps"), 0) | dict.fromkeys(
    ("use_distributed_sampler", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""What a trainer shall leave to us: checkpoints, bars, sampling, sanity checks."""


def make_trainer(
    config: TrainConfig, run: RunDirectory, rank: Rank, journal: Journal, callbacks: list[Callback], stage: Stage
) -> Trainer:
    """Lightning's trainer without what is ``OUR_OWN``."""
    # Steps alone end a run: no epochs are counted, as a pass over the samples means nothing to what is learnt from them.
    steps: dict[str, Any] = {"max_steps": config.stage.steps, "max_epochs": -1}
    steps |= {"accumulate_grad_batches": config.stage.accumulation}
    steps |= {"gradient_clip_val": config.optimizer.clip_norm or None}
    ranks: dict[str, Any] = {"devices": config.gpus, "num_nodes": config.nodes}
    ranks |= {
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
        "strategy": make_strategy(config, rank, stage),
    }
    return Trainer(logger=journal, callbacks=callbacks, default_root_dir=run.path, **steps, **ranks, **OUR_OWN)


# -- summary -----------------------------------------------------------------------------------------------------------


def summarise(
    config: TrainConfig, index: Index, step: int, seconds: float, stage: Stage, callbacks: RunCallbacks
) -> dict[str, Any]:
    """What came out, in numbers, with what it ran on."""
    # Of what a user gets, which is the average where one is kept; every other number is of the training itself.
    with as_exported(stage, callbacks.ema):
        effect = stage.trained.effect()
    # What was trained and on what, how far, what came out, and at what cost.
    summary: dict[str, Any] = {
        "stage": config.stage.name,
        "model": config.model.name,
        "weights": "random" if config.model.is_random else "stored",
    }
    summary |= {"data": config.data.name, "data_hash": index.data_hash, "samples": len(index.split("train"))}
    summary |= {"step": step, "steps": config.stage.steps}
    summary |= {"interrupted": step < config.stage.steps and not callbacks.early_stopping.stopped}
    summary |= {"loss": callbacks.progress.latest_loss, "adapter_effect": effect.overall}
    summary |= {"adapter_effect_by_block": list(effect.by_block.values())}
    summary |= {"seconds": seconds, "samples_per_s": callbacks.progress.samples_per_s}
    summary |= {"peak_memory_mib": peak_memory_mib(), **callbacks.early_stopping.report(), **hardware()}
    for measured in (callbacks.validation_loss, callbacks.validation_clips):
        summary |= measured.report() if measured else {}
    return summary
