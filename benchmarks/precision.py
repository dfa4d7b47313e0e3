"""What a frozen base in bf16 or fp8 costs in what is learnt: held-out loss after the same steps on the embedded model.

    python benchmarks/precision.py [style] [motion] [steps=400]

Each stage of ``train.py`` on the shipped noir clips, from the same seed, with the base in float32, bf16 and fp8. The loss is
at fixed sigmas on clips never trained on; ``change`` is against that of the base in the same precision.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import report, train

STAGES = ("style", "motion")
DTYPES = ("fp32", "bf16", "fp8")


def main(words: list[str]) -> None:
    """Train and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    steps, found = options.get("steps", "400"), dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        for stage in [stage for stage in STAGES if stage in words] or STAGES:
            for dtype in DTYPES:
                settings = (f"stage={stage}", "data=noir", f"model.dtype={dtype}", f"stage.steps={steps}")
                summary = train(Path(scratch) / f"{stage}-{dtype}", f"cache={scratch}/cache", *settings)
                loss, change = summary["heldout_loss"], summary["heldout_change"]
                found[f"{stage}-{dtype}"] = {"heldout_loss": loss, "change": change, "steps": summary["step"]}
                print(f"{stage}, {dtype}: held-out loss {loss:.4f}, {change:+.1%} against the base", flush=True)
    report("precision", found)


if __name__ == "__main__":
    main(sys.argv[1:])
