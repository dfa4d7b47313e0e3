"""Peak host memory of each CPU rank while a model of 1 GB is loaded and trained: shared by the ranks, beside whole on each.

What was there when all packages were imported and nothing was loaded is taken off; ``whole_mib`` is the frozen transformer,
``block_mib`` the matrices of one of its blocks. Three steps under ``zero3``, with and without the host, and ``ddp``.

    python benchmarks/zero_memory.py [ranks ...]
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import report

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.compose import compose_train
from cinelora.config.schema import StrategyConfig, TrainConfig
from cinelora.io.atomic import write_json
from cinelora.io.plain_data import read_json
from cinelora.parallel.launch import launch, rank_info
from cinelora.planning.estimate import Shape, weight_bytes
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank

MIB = 2**20
STRATEGIES = (StrategyConfig("ddp"), StrategyConfig("zero3"), StrategyConfig("zero3", cpu_offload=True))
SETTINGS = (
    *(
        "stage=style",
        "data=noir",
        "logger=none",
        "stage.steps=3",
        "validation.every_steps=0",
        "checkpoint.every_steps=0",
    ),
    *("model.weights=random", "model.dtype=fp32", "model.num_layers=16", "model.num_heads=8", "model.hidden_size=1024"),
    *("model.ffn_dim=4096", "model.t2v=owner/random", "optimizer.lr_for_width=null", "stage.batch_size=1"),
)


def settings(scratch: Path) -> TrainConfig:
    """A random transformer of 16 blocks beside the embedded model's encoders."""
    from cinelora.families.wan import embedded

    encoders = embedded.embedded("t2v", scratch)
    parts = [f"model.{part}={encoders}" for part in ("vae", "text_encoder", "tokenizer")]
    return compose_train([*SETTINGS, *parts, f"cache={scratch}"])


def resident(field: str) -> float:
    """MiB of this process by the kernel: ``VmRSS`` now, ``VmHWM`` at its height."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measured_rank(config: TrainConfig, run: RunDirectory) -> None:
    """Train, and leave this rank's memory behind."""
    import deepspeed  # noqa: F401

    before = resident("VmRSS")
    train_rank(config, run)
    write_json(run.path / f"memory-{rank_info().global_rank}.json", {"mib": resident("VmHWM") - before})


def main(rank_counts: list[int]) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = settings(Path(folder))
        shape = Shape.of(config.model, "t2v")
        for ranks in rank_counts:
            for strategy in STRATEGIES:
                name = strategy.name + (" cpu_offload" if strategy.cpu_offload else "")
                run = RunDirectory(Path(folder) / f"{name}-{ranks}")
                shared = replace(config, gpus=ranks, strategy=strategy)
                launch(encode_rank, shared, run, ranks=1, log_dir=run.logs)
                launch(measured_rank, shared, run, ranks=ranks, log_dir=run.logs)
                peaks = [read_json(run.path / f"memory-{rank}.json")["mib"] for rank in range(ranks)]
                rows.append({"strategy": name, "ranks": ranks, "peak_mib_by_rank": [round(peak, 1) for peak in peaks]})
                print(f"{ranks} ranks, {name}: {', '.join(f'{peak:.0f}' for peak in peaks)} MiB", flush=True)
        whole, block = weight_bytes(shape, "fp32") / MIB, shape.block_matrices * 4 / MIB
        report("zero_memory", {"whole_mib": round(whole, 1), "block_mib": round(block, 1), "rows": rows})


if __name__ == "__main__":
    import zero_memory  # ranks find functions by the names of their modules, which is none for a script

    zero_memory.main([int(word) for word in sys.argv[1:]] or [1, 2, 4])
