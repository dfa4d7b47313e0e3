"""Where modules of earlier versions are now: their import answers with one sentence that names the new place.

``moved.json`` lists every module that was renamed, with the new one. The finder stands last in ``sys.meta_path``, so it is
asked only for modules that nobody else finds.
"""

import json
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("moved.json")


class Moved(MetaPathFinder):
    """Raises ``ImportError`` for a module of the table."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """An empty package where modules of the table lay in it, an error for each of them, and None for all others."""
        if not name.startswith("cinelora."):
            return None
        table: dict[str, str] = json.loads(TABLE.read_text(encoding="utf-8"))
        if name in table:
            # not a ModuleNotFoundError: `from package import module` would swallow that and say less
            raise ImportError(f"{name} has moved: it is now {table[name]} (docs/architecture.md lists all)", name=name)
        if any(module.startswith(f"{name}.") for module in table):
            return ModuleSpec(name, None, is_package=True)
        return None
