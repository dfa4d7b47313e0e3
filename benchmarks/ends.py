"""Every way to end a run's parent, for each command and number of ranks: what is left of its processes, and how soon.

    python benchmarks/ends.py [ranks=1,2]

``train.py`` is ended in the middle of training, with a loader's process beside each rank, and ``infer.py`` as its ranks begin.
The exit code is to be 130 where the parent was asked, and no process may outlive it.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, report
from kills import environment, until

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SMALL = ["model.height=32", "model.width=48"]
COMMANDS = {
    "train.py": [
        *(*SMALL, "stage=style", "data=noir", "logger=csv", "logger.every_steps=1", "stage.batch_size=1"),
        *("validation.every_steps=0", "workers=1", "stage.steps=100000"),
    ],
    "infer.py": [*SMALL, "mode=t2v", "prompt=rain", "sampler.steps=1000"],
}
GONE_S = 120.0
"""A process that lives longer after its parent has outlived it."""


def has_begun(script: str, ranks: int, out: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether all ranks are there and at work; an end before that is an error."""
    if process.poll() is not None:
        raise RuntimeError(f"{script} ended with {process.returncode}; see {out}.log")
    csv = out / "logs" / "csv" / "from-step-00000000" / "metrics.csv"
    there = csv if script == "train.py" else out / "logs" / f"rank-{ranks - 1}.log"
    below = psutil.Process(process.pid).children()
    return there.exists() and sum("RANK" in environment(child) for child in below) == ranks


def end(script: str, ranks: int, number: signal.Signals, folder: Path) -> dict[str, Any]:
    """Start the command, end its parent by ``number``, and see what is left."""
    out = folder / f"{script}-{ranks}-{number.name}"
    settings = [*COMMANDS[script], f"gpus={ranks}", f"cache={folder / 'cache'}", f"out={out}"]
    with Path(f"{out}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(ROOT / script), *settings], stdout=log, stderr=log)
    until(lambda: has_begun(script, ranks, out, process), pause_s=0.05)
    parent = psutil.Process(process.pid)
    everyone = [parent, *parent.children(recursive=True)]
    began = time.perf_counter()
    process.send_signal(number)
    exit_code = process.wait(GONE_S)
    _, alive = psutil.wait_procs(everyone, timeout=GONE_S)
    seconds = time.perf_counter() - began
    for one in alive:
        one.kill()
    expected = -number if number == signal.SIGKILL else 130
    return {
        "processes": len(everyone),
        "outlived": len(alive),
        "exit_code": exit_code,
        "as_expected": exit_code == expected,
        "seconds": seconds,
    }


def main(words: list[str]) -> int:
    """End every command in every way, and report; 1 where something was left, or said another exit code."""
    ranks = dict(word.split("=", 1) for word in words).get("ranks", "1,2")
    results: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="ends-"))
    try:
        for script in COMMANDS:
            for count in map(int, ranks.split(",")):
                for number in NUMBERS:
                    name = f"{script} on {count}, {number.name}"
                    found = results[name] = end(script, count, number, folder)
                    print(f"{name}: {found['outlived']} of {found['processes']} processes left", end="", flush=True)
                    print(f" after {found['seconds']:.1f} s, exit code {found['exit_code']}", flush=True)
        report("ends", results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(found["outlived"] or not found["as_expected"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
