"""What only a clone can do: the factory of the embedded model lies in ``tools/scale_model``, which no wheel carries.

Enters: a part of that folder, and who asks. Leaves: its module, or a sentence. The package imports nothing of ``tools/`` by
name, so this is the one door between them. What is found there, and by whom it is used:

- ``pretrain``, where a stage trains every weight: ``check(config)`` refuses settings that do not go with that,
  ``trained(transformer, sharded)`` is what is trained (``models.trained.Trained``; ``sharded`` under ``strategy=zero3``),
  and ``export(folder, kind, state)`` writes it as the ``t2v`` or ``i2v`` transformer, or as the ``image`` network or the
  motion modules of the ``motion`` network, in diffusers' layout.
- ``rendered``, where data has a look: ``rendered_manifest(look, clips, heldout, num_frames, fps, in_part)`` is a manifest,
  in which captions leave most unsaid every second time where ``in_part``, and
  ``render_sample(sample, height, width, fps, device)`` gives the pixels of one of its samples, uint8 (T, H, W, 3).
- ``build_pair``, where ``data/scale_model`` is missing: ``materialise(folder)`` builds an untrained pair.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from cinelora.errors import ConfigError

CLONE = Path(__file__).resolve().parents[1]
SHIPPED = CLONE / "data" / "scale_model"
"""Trained weights of the embedded model, where they are shipped; else the model is built in the cache."""
SHIPPED_UNETS = CLONE / "data" / "tiny_animatediff"
"""Those of the embedded AnimateDiff."""


def need_clone(wanted_by: str) -> None:
    """Raise ``ConfigError`` where this is an installed package, without the folder that ``wanted_by`` needs."""
    if not (CLONE / "tools" / "scale_model").is_dir():
        raise ConfigError(
            f"{wanted_by} needs a clone of the project: the folder tools/scale_model is not in {CLONE}, where cinelora is "
            "installed; clone the repository, and run this command there"
        )


def scale_model(part: str, wanted_by: str) -> Any:
    """The module ``tools.scale_model.<part>``; raises ``ConfigError`` as ``need_clone``."""
    need_clone(wanted_by)
    # The clone is on the path where a script of its own was started, and not where cinelora is used from elsewhere. It has
    # to come first, as other packages bring a top-level ``tools`` of their own. Ranks get the path of their parent.
    if sys.path[:1] != [str(CLONE)]:
        sys.path.insert(0, str(CLONE))
    return import_module(f"tools.scale_model.{part}")
