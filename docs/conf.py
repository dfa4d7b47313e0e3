"""How the documentation site is built: ``make docs``. Sphinx reads the pages of this folder, and this file for settings.

Two pages are made from the code as the site is built, so that they are never out of date: ``settings.md`` from the
declarations of settings, and the pages of the API from docstrings.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cinelora
from tools.settings_page import page

project = "cinelora"
copyright = "the authors of cinelora, Apache License 2.0"
version = release = cinelora.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist", "attrs_inline"]
myst_heading_anchors = 4
highlight_language = "none"

# Docstrings put code between one or two backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = f"cinelora {cinelora.__version__}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

MADE = "<!-- settings -->"
"""Where a page says that the reference of settings belongs."""


def put_settings(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the reference of settings where a page asks for it."""
    source[0] = source[0].replace(MADE, page())


def keep_marks(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep marks of docstrings that Sphinx would obey.

    A name in bars would be substituted, and what a property's first line says before a colon would be shown as its type.
    """
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(":", r"\:", 1)


def setup(app: Sphinx) -> None:
    """Called by Sphinx once it has read this file."""
    app.connect("source-read", put_settings)
    app.connect("autodoc-process-docstring", keep_marks, priority=400)  # before napoleon
