"""What held-out loss and effect cost, as a share of the time of the training that they watch: floor 5 % at the defaults.

    python benchmarks/validation_cost.py [steps=100] [motion_steps=24] [cache=<folder>]

Both stages of ``train.py`` on the shipped noir clips, stage 2 above the adapter of stage 1. Short runs give the seconds of a step
and of a pass over the held-out samples; the share is that of a run of the length and the intervals that are the defaults. One
pass more than there are measurements is made at the start, of the base model, and in stage 2 one of base and style adapter.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import report, train

from cinelora.cli.compose import compose_train

AT_MOST = 0.05


def share(stage: str, summary: dict[str, Any], passes_at_start: int) -> dict[str, Any]:
    """Seconds of a step and of a pass, and what the passes of a whole run are beside its steps."""
    config = compose_train([f"stage={stage}", "data=noir"])
    pass_s = summary["heldout_seconds"] / (passes_at_start + 1)  # short runs measure once, at their end
    step_s = (summary["seconds"] - summary["heldout_seconds"]) / summary["step"]
    steps, every = config.stage.steps, config.validation.every_steps
    passes = passes_at_start + steps // every
    found = passes * pass_s / (steps * step_s)
    return {"pass_s": pass_s, "step_s": step_s, "steps": steps, "every_steps": every, "passes": passes, "share": found}


def main(words: list[str]) -> None:
    """Train, divide, report."""
    options = {"steps": "100", "motion_steps": "24"} | dict(word.split("=") for word in words)
    results: dict[str, Any] = {"at_most": AT_MOST}
    with tempfile.TemporaryDirectory() as scratch:
        style = Path(scratch) / "style"
        shared = ("data=noir", f"cache={options.get('cache', f'{scratch}/cache')}")
        first = train(style, "stage=style", *shared, f"stage.steps={options['steps']}")
        results["style"] = share("style", first, 1)
        settings = ("stage=motion", f"adapter={style}", *shared, f"stage.steps={options['motion_steps']}")
        results["motion"] = share("motion", train(Path(scratch) / "motion", *settings), 2)
    for stage in ("style", "motion"):
        r = results[stage]
        print(
            f"{stage}: {r['passes']} passes of {r['pass_s']:.2f} s beside {r['steps']} steps of {r['step_s']:.3f} s: "
            f"{r['share']:.2%} of training"
        )
    results["floor_met"] = all(results[stage]["share"] <= AT_MOST for stage in ("style", "motion"))
    report("validation_cost", results)


if __name__ == "__main__":
    main(sys.argv[1:])
