"""Did it work: ``python -m cinelora.evaluate ckpt=<run> data=noir``; ``--help`` lists every setting.

Composes and checks the settings, makes the run directory, and hands over to ``cinelora.evaluation``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import EvaluateConfig


def run(config: EvaluateConfig, run_dir: Path) -> int:
    """Evaluate into ``run_dir``; the exit code."""
    from cinelora.io.hardware import quiet_libraries

    quiet_libraries()  # before they are imported: some speak as they are
    from cinelora.evaluation.run_evaluation import evaluate

    return evaluate(config, run_dir)


if __name__ == "__main__":
    sys.exit(main("evaluate", sys.argv[1:], run))
