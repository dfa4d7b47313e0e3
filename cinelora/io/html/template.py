"""Renders the templates beside this module: HTML pages, SVG figures, Markdown cards, and the code that a card shows.

Enters: the name of a template and its values. Leaves: text in which every value stands for itself, whatever it looks like: a
value is escaped by the kind of its template, without the template asking for it. It does not know what a page is about.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from cinelora.io.html.markdown import fenced, markdown
from cinelora.io.terminal import visible

HERE = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The text of ``template``, a file in ``templates/``; a name that it asks for and does not get is an error."""
    return ENVIRONMENT.get_template(template).render(values)


@pass_context
def escaped(context: Context, value: Any) -> Any:
    """``value`` as the template that shows it needs it; what is ``Markup`` is trusted and stays."""
    # jinja2 calls this for every {{ value }} of every template, and escapes what comes back as HTML unless it is Markup. So it is
    # the one place that decides. A macro's result is Markup by then, as all its values came through here: nothing is escaped
    # twice.
    if hasattr(value, "__html__"):
        return value
    kind = str(context.name).removesuffix(".j2").rpartition(".")[2]
    return Markup(ESCAPES[kind](value))


def html(value: Any) -> str:
    """Text for HTML, in an element or inside quotes. A browser reads a bare carriage return as a line feed; this one stays."""
    return escape(str(value)).replace("\r", Markup("&#13;"))


def literal(value: Any) -> str:
    """A string, number or list in Python, in ASCII where it has to be."""
    return json.dumps(value, ensure_ascii=not str(value).isprintable())


ESCAPES: dict[str, Callable[[Any], str]] = {
    "html": html,
    "svg": html,
    "md": lambda value: markdown(str(value)),
    "py": literal,
}
"""How a value is written, by the last name of the template before ``.j2``."""


def front_matter(facts: dict[str, Any]) -> Markup:
    """The head of a card, which hubs read, without empty facts; a YAML library writes it, so that no value can end it."""
    known = {key: value for key, value in facts.items() if value}
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=120)
    if any(line != visible(line) for line in text.split("\n")):  # what turns text around, and the like, as an escape
        text = yaml.safe_dump(known, sort_keys=False, width=120)
    return Markup(text)


def package_file(name: str) -> Markup:
    """A style or a script that lies beside this module: it is ours, and goes into the page as it is."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def data_url(content: bytes, kind: str) -> Markup:
    """``content`` as an address that holds it: ``kind`` is ``video/mp4``, ``image/jpeg``."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def sha256(text: str) -> Markup:
    """What a page's policy calls a style or a script that it lets run."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


ENVIRONMENT = Environment(
    # no template comes from anywhere else, so none can be typed by somebody
    loader=FileSystemLoader(HERE / "templates"),
    # also where the text is no HTML: it is what makes the results of macros Markup
    autoescape=True,
    finalize=escaped,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.globals["package_file"] = package_file
ENVIRONMENT.filters.update(
    counted=counted, data_url=data_url, fenced=fenced, form=format, front_matter=front_matter, sha256=sha256
)
