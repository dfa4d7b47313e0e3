"""What does it cost: ``python -m cinelora.study ckpt=<run> prompts=<file>``; ``--help`` lists every setting.

Composes and checks the settings, makes the run directory, and hands over to ``cinelora.studies``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import StudyConfig


def run(config: StudyConfig, run_dir: Path) -> int:
    """Study into ``run_dir``; the exit code."""
    from cinelora.studies.run_study import study

    return study(config, run_dir)


if __name__ == "__main__":
    sys.exit(main("study", sys.argv[1:], run))
