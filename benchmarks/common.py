"""What the benchmarks share: running train.py as a user does, and a line about the machine."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from cinelora.io.hardware import hardware
from cinelora.parallel.launch import let_gpu_memory_grow

let_gpu_memory_grow()  # as every rank of train.py and infer.py does

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))  # for tools/, which is not installed as the package is


def train(out: Path, *settings: str) -> dict[str, Any]:
    """Run ``train.py`` into ``out`` and return its summary; raises ``RuntimeError`` with what it said where it fails."""
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        f"out={out}",
        "logger=csv",
        *settings,
    ]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def report(name: str, results: dict[str, Any]) -> None:
    """Keep ``results`` with the hardware and versions they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**results, **hardware()}, indent=1) + "\n")
    print(f"results in {path.relative_to(ROOT)}")
