"""cinelora: two-stage LoRA fine-tuning of Wan2.1 for a film's look in motion.

The names in ``__all__`` are the public API; ``cinelora.api`` documents each. They are imported when they are first used, so
that ``import cinelora`` costs nothing.
"""

import sys

# `python -m cinelora.x` puts the working directory first among the places of modules, whatever lies in it: a `json.py` there
# would be imported for Python's own. So the directory is taken out before anything is imported, unless this package was found
# in it. `sys` is part of the interpreter, and argv[0] is "-m" while `python -m` looks for its module.
if (
    sys.argv[:1] == ["-m"]
    and any(word.startswith(("cinelora.", "-mcinelora.")) for word in sys.orig_argv)
    and not sys.flags.safe_path
    and __file__ != sys.path[0].rstrip("/") + "/cinelora/__init__.py"
):
    del sys.path[0]

from typing import TYPE_CHECKING, Any

from cinelora.moved import Moved

if TYPE_CHECKING:
    from cinelora.api import *  # noqa: F403 - its own ``__all__`` says what these are

__version__ = "0.1.0"
__all__ = "Run compose evaluate infer open_clip read_adapter read_frames read_manifest read_run train".split()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cinelora' has no attribute {name!r}; it has {', '.join(__all__)}")
    from cinelora import api

    return getattr(api, name)


if not any(isinstance(finder, Moved) for finder in sys.meta_path):
    sys.meta_path.append(Moved())
