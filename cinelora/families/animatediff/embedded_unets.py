"""The embedded members of AnimateDiff's family: one that was trained, and small ones of random weights.

Enters: a source such as ``embedded:tiny-animatediff``. Leaves: a folder with ``base`` and ``motion`` in it. The trained one is
in ``data/tiny_animatediff`` (docs/scale-model.md); others are drawn into the cache where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from cinelora.clone_only import SHIPPED_UNETS
from cinelora.families.animatediff import tiny_unets
from cinelora.families.shipped_weights import check_files
from cinelora.io.atomic import sha256_json
from cinelora.io.own_folders import CACHE, refuse_occupied, tag_cache

TRAINED = "embedded:tiny-animatediff"


def embedded_member(source: str, folder: Path) -> Path:
    """The folder of an embedded member: the shipped one, or one drawn below ``folder``.

    Raises ``ModelError`` as ``check_files``, and ``ConfigError`` as ``drawn_member``.
    """
    if source == TRAINED:
        check_files(SHIPPED_UNETS, "restore it with: git checkout -- data/tiny_animatediff")
        return SHIPPED_UNETS
    recipe = [tiny_unets.UNET, tiny_unets.MOTION, tiny_unets.VAE, 1]
    return drawn_member(source, folder, recipe, tiny_unets.write_tiny)


def drawn_member(source: str, folder: Path, recipe: object, write: Callable[[Path], None]) -> Path:
    """The folder below ``folder`` of a member that ``write`` draws by ``recipe``, once.

    Raises ``ConfigError`` where ``folder`` is somebody else's.
    """
    made = folder / "models" / f"{source.removeprefix('embedded:')}-{sha256_json(recipe)[:12]}"
    if made.is_dir():
        return made
    refuse_occupied("cache", folder, CACHE)
    tag_cache(folder)
    made.parent.mkdir(parents=True, exist_ok=True)
    # drawn beside its place and renamed in one step: nobody ever finds half a model
    with TemporaryDirectory(dir=made.parent, prefix=".building-") as building:
        draft = Path(building) / "model"
        write(draft)
        try:
            draft.rename(made)
        except OSError:
            if not made.is_dir():  # unless another run was faster
                raise
    return made
