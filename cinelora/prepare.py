"""Footage in, dataset out: ``python -m cinelora.prepare data=folder data.root=/my/footage``; ``--help`` lists every setting.

Composes and checks the settings, and hands over to ``cinelora.footage``. What it leaves lies in the prepared folder, where
the stages find it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import PrepareConfig
from cinelora.io.terminal import say


def run(config: PrepareConfig, _run_dir: Path) -> int:
    """Prepare the footage, write what came out, and say where; the exit code."""
    from cinelora.footage.build_dataset import prepare_each, whole_dataset
    from cinelora.footage.contact_sheet import lines, write_all
    from cinelora.footage.sample_source import wanted_by

    stills, windows = (wanted_by(config.model, frames, config.seed) for frames in (1, config.num_frames))
    prepared, of_stills = prepare_each(config.data, [windows, stills], config.workers)
    manifest = whole_dataset(prepared, of_stills, config.data, windows)
    write_all(prepared, manifest, config.data, windows)
    say(*lines(prepared, manifest))
    return 0


if __name__ == "__main__":
    sys.exit(main("prepare", sys.argv[1:], run))
