"""The embedded members of AnimateDiff's family: one of random weights, drawn into the cache where it is asked for.

Enters: a source such as ``embedded:tiny-animatediff-random``. Leaves: a folder with ``base`` and ``motion`` in it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from cinelora.families.animatediff import tiny_unets
from cinelora.io.atomic import sha256_json
from cinelora.io.own_folders import CACHE, refuse_occupied, tag_cache


def embedded_member(source: str, folder: Path) -> Path:
    """The folder of an embedded member, drawn below ``folder`` once. Raises ``ConfigError`` where that is somebody else's."""
    recipe = sha256_json([tiny_unets.UNET, tiny_unets.MOTION, tiny_unets.VAE, 1])[:12]
    made = folder / "models" / f"{source.removeprefix('embedded:')}-{recipe}"
    if (made / "motion" / "config.json").is_file():
        return made
    refuse_occupied("cache", folder, CACHE)
    tag_cache(folder)
    made.parent.mkdir(parents=True, exist_ok=True)
    # drawn beside its place and renamed in one step: nobody ever finds half a model
    with TemporaryDirectory(dir=made.parent, prefix=".building-") as building:
        draft = Path(building) / "model"
        tiny_unets.write_tiny(draft)
        try:
            draft.rename(made)
        except OSError:
            if not (made / "motion" / "config.json").is_file():  # unless another run was faster
                raise
    return made
