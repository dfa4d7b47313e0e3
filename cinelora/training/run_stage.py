"""One training run from settings to adapter: encode, then train, each on ranks of their own.

Enters: a checked ``TrainConfig`` and a run directory. Leaves: the files of ``RunDirectory`` and an exit code. The parent
only launches. Encoders live in the first launch and die with it, so training never shares memory with them. Where a network
has two experts, each lesson is a launch of its own, over what the first has encoded: never are both in memory. What a rank
does is in ``encode`` and ``fit``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cinelora.adapters.adapter_header import judge_adapter
from cinelora.adapters.run_directory import RunDirectory, lessons_in, styles_of
from cinelora.config.lessons import expert_of
from cinelora.config.schema import ADAPTER_STAGES, TrainConfig
from cinelora.errors import ConfigError, EncodingLost
from cinelora.families import has_experts
from cinelora.families.family import suffixed
from cinelora.io.atomic import sweep_temporaries
from cinelora.io.locks import lock
from cinelora.io.own_files import drop_wandb_links
from cinelora.io.own_folders import tag_cache
from cinelora.io.terminal import say, shell_word
from cinelora.parallel.launch import LaunchError, RankHung, RankKilled, launch, meeting_point, starting
from cinelora.training.checkpoint_files import saved_checkpoints, sweep_drafts
from cinelora.training.model_card import push, read_record, resume_command
from cinelora.training.verdict import effect_line, heldout_line, stopped_line
from cinelora.training.whole_run import write_whole

INTERRUPTED = 130
MOST_MENDED = 16
"""Times that a lesson continues after an encoding was damaged or lost: a disk that damages more is to be replaced."""


def train(config: TrainConfig, run_dir: Path) -> int:
    """Run a stage to its end; returns the exit code (130 where it was stopped, after a checkpoint)."""
    run = RunDirectory(run_dir)
    lessons = lessons_to_teach(config, run)
    for place in run.places:
        sweep_drafts(place.checkpoints)  # what a killed run left half-written
    sweep_temporaries(run.path)
    if config.adapter:
        carry_style_adapter(config, run)
    if lessons:
        encoded(config, run)
    results: dict[str, dict[str, Any]] = {}
    for lesson, own in lessons:
        try:
            results[own.expert] = teach(lesson, own)
        except KeyboardInterrupt:  # while its ranks started; the lesson before, or the run that is resumed, has saved
            if any(saved_checkpoints(place.checkpoints) for place in run.places):
                say(f"stopped before the first step; continue with: {resume_command(run)}")
            raise
        if results[own.expert]["interrupted"]:
            break
    interrupted = any(result["interrupted"] for result in results.values())
    drop_wandb_links(run.path)
    # Uploading comes last and may fail for reasons of the network: the lines that say what the run has made are printed anyway.
    # Of several nodes one uploads.
    is_host = meeting_point(config.nodes, 0).is_host
    if is_host and has_experts(config.model):
        write_whole(config, run)
    try:
        if config.push and not interrupted and is_host:
            upload(run, config.push, config.private)
    finally:
        say(*whole_lines(config, run, results))
    return INTERRUPTED if interrupted else 0


def lessons_to_teach(config: TrainConfig, run: RunDirectory) -> list[tuple[TrainConfig, RunDirectory]]:
    """The lessons that have not ended, in their order; of those that all have, such as stopped early get their patience again.

    Raises ``ConfigError`` where nothing is left to do. One lesson alone says that by itself.
    """
    lessons = lessons_in(config, run.path)
    if not has_experts(config.model):
        return lessons
    left = [(lesson, own) for lesson, own in lessons if not own.is_complete(lesson.stage.steps)]
    if left or not run.summary.is_file():  # without a summary the run was killed after its last lesson
        return left
    early = [(lesson, own) for lesson, own in lessons if own.read_end()["step"] < lesson.stage.steps]
    if not early:
        raise ConfigError(
            f"{run.path} already has the steps of {' and '.join(own.expert for _, own in lessons)}; continue with "
            f"stage.steps=<more>"
        )
    return early


def teach(lesson: TrainConfig, own: RunDirectory) -> dict[str, Any]:
    """Train one lesson, from its own checkpoint where it has one; its summary."""
    if own.expert:
        low, high = expert_of(lesson).taught
        name, steps = suffixed(lesson.stage.name, own.expert), lesson.stage.steps
        say(f"{name}: {steps} steps at noise levels from {low:g} to {high:g}")
        # of a run that is resumed, the lesson may be one that it never got to
        if not saved_checkpoints(own.checkpoints):
            lesson = replace(lesson, resume=None)
    for _ in range(MOST_MENDED):
        try:
            return cast("dict[str, Any]", launched(fit, lesson, own))
        except EncodingLost as error:
            # Nodes have a parent each, and would encode each for itself.
            if lesson.nodes > 1:
                raise
            say(f"WARNING: {str(error).partition(': ')[0]}: it is encoded again, and the run continues")
            encoded(replace(lesson, resume=None), RunDirectory(own.path))
            lesson = replace(lesson, resume=str(own.path) if saved_checkpoints(own.checkpoints) else None)
    return cast("dict[str, Any]", launched(fit, lesson, own))


def encoded(config: TrainConfig, run: RunDirectory) -> None:
    """Encode the samples, once for all lessons."""
    tag_cache(Path(config.cache))
    # The cache is safe to share without a lock, which only spares two runs the same work. The nodes of one run all come
    # here and encode together, so among them nobody may hold it.
    alone = lock(Path(config.cache) / "encoding.lock", waiting=say) if config.nodes == 1 else nullcontext()
    with alone:
        launched(encode, config, run)


# The two launches. Each rank imports the heavy half by itself, which keeps models out of the parent, Lightning out of the
# ranks that encode, and the decoders of footage out of those that train.


def encode(config: TrainConfig, run: RunDirectory) -> None:
    """What each rank of the first launch does."""
    with starting():
        from cinelora.training.encode import encode_rank

    encode_rank(config, run)


def fit(config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """What each rank of the second launch does; returns the run's summary."""
    with starting():
        from cinelora.training.fit import train_rank

    return train_rank(config, run)


def launched(work: Callable[[TrainConfig, RunDirectory], Any], config: TrainConfig, run: RunDirectory) -> Any:
    """``work`` of the ranks, begun again from the last checkpoint where it lost one, up to ``max_restarts`` times.

    A rank that was killed may live the next time. Another error is met again unless chance had a part in it, which is tried
    where the run has come further since it last started. What the user has to mend, or asked for, ends it at once. A rank that
    is lost when the summary is written is missed by nobody: that is the last thing a run does.
    """
    reached, ended = last_saved(run), written_at(run.summary)
    for restart in range(1, config.max_restarts + 2):
        try:
            place: dict[str, Any] = {"ranks": config.gpus, "nodes": config.nodes, "log_dir": run.logs}
            return launch(work, config, run, **place, hang_minutes=config.hang_minutes or None)
        except LaunchError as error:
            if written_at(run.summary) != ended:
                return run.read_summary()
            # A restart is worth trying where the cause need not come again: a killed rank (the kernel was short of
            # memory, a machine hiccuped), or any failure after a checkpoint that this very start has written. An error
            # at the same checkpoint as before would only be met once more.
            before, reached = reached, last_saved(run)
            worth_it = reached != before or isinstance(error, RankKilled | RankHung)
            # Nodes have a parent each, and each would restart by its own count: their scheduler does that instead.
            if restart > config.max_restarts or config.nodes > 1 or not worth_it:
                raise
            # Encoding leaves no checkpoint and needs none, since what is in the cache is not encoded twice.
            if reached:
                config = replace(config, resume=str(run.path))
            since = f"continues from {reached}" if reached else "starts over"
            count = f"restart {restart} of max_restarts={config.max_restarts}"
            say(f"{error}; the run {since} by itself ({count})")
    raise AssertionError("the last try returns or raises")


def last_saved(run: RunDirectory) -> str | None:
    """The name of the run's newest checkpoint."""
    return next((path.name for path in saved_checkpoints(run.checkpoints)), None)


def written_at(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def carry_style_adapter(config: TrainConfig, run: RunDirectory) -> None:
    """Copy the style adapters that stage 2 trains on top of into the run, so that the run carries both."""
    for role, path in styles_of(config).items():
        found = judge_adapter(path)
        found.refuse_above("adapter")
        found.copy(run.path / f"{role}.safetensors")


def upload(run: RunDirectory, repository: str, private: bool) -> None:
    """Upload what a run has made, or say how to do that later."""
    try:
        say(f"uploaded: {push(read_record(run), repository, private)}")
    except ConfigError as error:
        words = [f"run={run.path}", f"push={repository}", *(["private=true"] if private else [])]
        again = " ".join(map(shell_word, ["python", "-m", "cinelora.card", *words]))
        raise ConfigError(f"{error}; the adapter is in {run.path}: {again} tries again") from error


def whole_lines(config: TrainConfig, run: RunDirectory, results: dict[str, dict[str, Any]]) -> list[str]:
    """``closing_lines`` of each lesson, by its result or, where it had ended before, its summary."""
    if not has_experts(config.model):
        return closing_lines(results[""], run)
    lines = [f"summary {run.summary}"]
    for lesson, own in lessons_in(config, run.path):
        before = own.read_summary() if own.summary.is_file() else None
        result = results.get(own.expert, before)
        found = closing_lines({**result}, own) if result else ["not begun"]
        lines += [f"{suffixed(lesson.stage.name, own.expert)}: {line}" for line in found]
    return lines


def closing_lines(result: dict[str, Any], run: RunDirectory) -> list[str]:
    """What a user wants to know when a run ends; the last line says whether anything was learnt."""
    product = run.product(result["stage"])
    what = "adapter" if result["stage"] in ADAPTER_STAGES else "transformer"
    lines = [f"{what} {product}", f"summary {run.summary}"]
    if "heldout_step" in result:
        lines.insert(0, heldout_line(result))
    if result["interrupted"]:
        lines.append(f"stopped at step {result['step']} of {result['steps']}; continue with: {resume_command(run)}")
    if early := result.get("stopped_early"):
        lines.append(stopped_line(early, result))
    if best := result.get("best"):
        lines.append(best_line(best, result, run))
    if result["weights"] == "random":
        lines.append(f"WARNING: trained on random weights: {product} is worth nothing")
    return [*lines, effect_line(result)]


def best_line(best: dict[str, Any], result: dict[str, Any], run: RunDirectory) -> str:
    """Where the best adapter is, or that there is none yet."""
    if best["step"] is None:
        return f"no best adapter: {best['name']} was not logged before the run ended"
    path = run.product(result["stage"], best=True)
    return f"best {best['name']}: {best['value']:.4g} at step {best['step']}, kept in {path}"
