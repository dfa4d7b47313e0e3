"""Make clips: ``python infer.py ckpt=<run> prompt="a man waits"``; ``--help`` lists every setting.

Composes and checks the settings, makes the run directory, and hands over to ``cinelora.sampling.make_clips``.
"""

import sys
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import InferConfig


def run(config: InferConfig, run_dir: Path) -> int:
    """Make the clips in ``run_dir``; the exit code."""
    from cinelora.sampling.make_clips import infer

    return infer(config, run_dir)


if __name__ == "__main__":
    sys.exit(main("infer", sys.argv[1:], run))
