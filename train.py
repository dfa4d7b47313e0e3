"""Train a style or motion adapter: ``python train.py stage=style data=noir``; ``--help`` lists every setting.

Composes and checks the settings, makes the run directory, and hands over to ``cinelora.training.run_stage``.
"""

import sys
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import TrainConfig


def run(config: TrainConfig, run_dir: Path) -> int:
    """Train in ``run_dir``; the exit code."""
    from cinelora.training.run_stage import train

    return train(config, run_dir)


if __name__ == "__main__":
    sys.exit(main("train", sys.argv[1:], run))
