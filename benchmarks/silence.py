"""How long commands are silent: the longest time between two writes to the terminal, for each of the product's commands.

    python benchmarks/silence.py

Runs the real commands on the embedded model, one after the other, and reads what they write as it comes. Until a command says
its first word nobody is told anything either, so that its start counts as well. Prints a line for each command, and leaves
``benchmarks/results/silence.json``. The parts of a large model take longer than these; they are what ``io/waiting.py`` is for.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
MOST_S = 5.0


def longest_silence(words: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """Seconds of the longest silence and of the whole command, and what was last written before the silence."""
    process = subprocess.Popen(words, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    began = last = time.monotonic()
    longest, before, said = 0.0, "", ""
    while True:
        select.select([process.stdout], [], [])
        text = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
        now = time.monotonic()
        if now - last > longest:
            longest, before = now - last, said
        last = now
        if not text:
            break
        said = next((line for line in reversed(text.replace("\r", "\n").splitlines()) if line.strip()), said)
    if process.wait():
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}: {said}")
    return longest, now - began, before


def commands(home: Path) -> dict[str, list[str]]:
    """One of each, later ones on what earlier ones leave."""
    run, small = home / "style", ["model.height=64", "model.width=96", f"cache={home / 'cache'}"]
    train = ["train.py", "stage=style", "data=noir", "data.clips=12", "data.heldout_clips=4", "stage.steps=20"]
    draw = ["mode=t2v", "num_frames=9", "sampler.steps=4", f"ckpt={run}", *small]
    return {
        "train": [*train, "validation.every_steps=10", "preview.every_steps=10", "logger=csv", f"out={run}", *small],
        "infer": ["infer.py", "prompt=rain", f"out={home / 'clip'}", *draw],
        "evaluate": ["-m", "cinelora.evaluate", f"prompts={home / 'prompts.txt'}", f"out={home / 'evaluation'}", *draw],
        "study": ["-m", "cinelora.study", "prompt=rain", "steps=[2]", "repetitions=1", f"out={home / 'study'}", *draw],
    }


def main() -> int:
    """Measure all commands; the exit code is 1 where one was silent for longer than ``MOST_S``."""
    rows, env = [], os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "prompts.txt").write_text("rain\n# a comment\nsnow\n")
        for name, words in commands(home).items():
            longest, whole, before = longest_silence([sys.executable, *words], env)
            rows.append({"command": name, "longest_s": round(longest, 1), "whole_s": round(whole, 1), "after": before})
            print(f"{name}: silent for {longest:.1f} of {whole:.1f} s, after: {before}", flush=True)
    result = {"most_s": MOST_S, "rows": rows}
    (REPO / "benchmarks/results/silence.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(any(float(str(row["longest_s"])) > MOST_S for row in rows))


if __name__ == "__main__":
    sys.exit(main())
