"""A working directory of somebody else's: modules under the names of all that we import, each of which leaves a mark when it is.

Enters: two folders. Leaves: one full of ``json.py``, ``torch.py`` and their like, and one where an imported one leaves its name.
"""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

STARTED_BY_PYTHON = {"sitecustomize", "usercustomize"}
PLUGINS = "hydra_plugins"
"""A namespace package, of which Hydra imports every module that it finds."""
OURS = {"tools", "train", "infer"}
"""Modules of a clone. ``cinelora`` is left out: where the directory holds it, ``python -m cinelora.x`` asks for that one."""
WANDB_HOST = "http://127.0.0.1:9"


def names() -> set[str]:
    """Every module of Python's own, every package that is installed, and what is imported by itself where it is found."""
    known = sys.stdlib_module_names | set(packages_distributions()) | STARTED_BY_PYTHON | OURS
    return {name for name in known if name.isidentifier()} - {"cinelora", PLUGINS}


def plant(folder: Path, marks: Path) -> int:
    """Fill ``folder``; ``marks`` then holds a file for each module that was imported from it. Returns how many there are."""
    marks.mkdir(parents=True)
    (folder / PLUGINS).mkdir(parents=True)
    planted = {name: folder / f"{name}.py" for name in names()} | {PLUGINS: folder / PLUGINS / "planted.py"}
    for name, path in planted.items():
        path.write_text(
            f"open({str(marks / name)!r}, 'w').close()\nraise ImportError('{name} of the working directory')\n"
        )
    (folder / "wandb").mkdir()
    (folder / "wandb" / "settings").write_text(f"[default]\nbase_url = {WANDB_HOST}\nentity = somebody\n")
    return len(planted)


def imported(marks: Path) -> list[str]:
    """The modules that were imported."""
    return sorted(path.name for path in marks.iterdir())
