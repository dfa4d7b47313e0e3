"""Every command in a working directory full of modules named like those that we import: how many are imported from there?

    python benchmarks/planted_modules.py

The directory holds a module for each of Python's own and for each package that is installed, which leaves a mark when it is
imported (tests/foreign_modules.py). In it each command is typed as a user does: with loader processes, one and two ranks, a
survey with processes of its own, blocks that are compiled, W&B, a sweep whose members submitit starts. Each has to end with exit
code 0 and without a mark. That a mark would be seen is shown first, by what Python itself does with ``-c``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, report

from cinelora.io.media import write_mp4

sys.path.insert(0, str(ROOT / "tests"))
from foreign_modules import imported, plant

TRAIN, INFER = str(ROOT / "train.py"), str(ROOT / "infer.py")
SMALL = "model.height=32 model.width=48 model.dtype=fp32".split()


def commands(home: Path) -> dict[str, list[str]]:
    """What is typed after ``python``, by what it is to show; later ones use what earlier ones have made."""
    cache, prepared = f"cache={home / 'cache'}", f"data.prepared={home / 'prepared'}"
    footage = ["data=folder", f"data.root={home / 'clips'}", "data.caption=bars", "data.judged=false", prepared]
    trained = [TRAIN, "stage=style", *footage, *SMALL, "stage.steps=1", "stage.batch_size=1", cache]
    quiet = [*trained, "logger=csv", "validation.every_steps=0", "workers=1"]
    drawn = ["ckpt=" + str(home / "run-1"), "sampler.steps=1", "num_frames=5", cache]
    again = ["seeds=1", "metrics.names=[motion]", *drawn]
    return {
        "prepare, two processes": ["-m", "cinelora.prepare", *footage, *SMALL, "workers=2"],
        "train, one rank": [*quiet, f"out={home / 'run-1'}"],
        "train, two ranks": [*quiet, "gpus=2", f"out={home / 'run-2'}"],
        "train, compiled": [*quiet, "model.compile_blocks=true", f"out={home / 'run-3'}"],
        "train, W&B": [*trained, "logger=wandb", "logger.offline=true", f"out={home / 'run-4'}"],
        "resume": [TRAIN, f"resume={home / 'run-1'}", "stage.steps=2"],
        "infer": [INFER, *drawn, "prompt=bars", f"out={home / 'clip'}"],
        "evaluate": ["-m", "cinelora.evaluate", *again, f"prompts={home / 'prompts'}", f"out={home / 'evaluation'}"],
        "study": ["-m", "cinelora.study", *again, "prompt=bars", "repetitions=1", f"out={home / 'study'}"],
        "card": ["-m", "cinelora.card", f"run={home / 'run-1'}"],
        "sweep, submitit": [
            *(TRAIN, "-m", "hydra/launcher=local", *quiet[1:]),
            *("lora.rank=2,4", f"out={home / 'sweep'}"),
        ],
    }


def run(words: list[str], folder: Path, marks: Path) -> dict[str, object]:
    """Type one command in ``folder``; its exit code and what was imported from there."""
    own = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=own, capture_output=True, text=True)
    found = imported(marks)
    for name in found:
        (marks / name).unlink()
    if done.returncode:
        print(done.stdout[-1500:], done.stderr[-3000:], file=sys.stderr)
    return {"exit_code": done.returncode, "imported": found}


def main() -> int:
    """Type all of them; the exit code is 1 where one failed, or imported anything."""
    with tempfile.TemporaryDirectory() as temporary:
        home, folder, marks = (Path(temporary) / name for name in ("home", "theirs", "marks"))
        (home / "clips").mkdir(parents=True)
        (home / "prompts").write_text("bars\n")
        for number in range(2):
            frames = np.random.default_rng(number).integers(0, 255, (24, 32, 48, 3), np.uint8)
            write_mp4(home / "clips" / f"{number}.mp4", frames, 16)
        planted = plant(folder, marks)
        if run(["-c", "import json"], folder, marks)["imported"] != ["json"]:
            raise RuntimeError("a planted module left no mark: nothing is shown by this")
        rows = {}
        for name, words in commands(home).items():
            rows[name] = run(words, folder, marks)
            print(f"{name:24} exit code {rows[name]['exit_code']}, imported: {rows[name]['imported'] or 0}", flush=True)
    report("planted_modules", {"planted": planted, "commands": rows})
    return int(any(row["exit_code"] or row["imported"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
