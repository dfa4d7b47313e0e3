"""One HTML file that holds everything: style, script, pictures and clips, and a policy that lets it ask for nothing else.

Enters: a title, HTML that is escaped already, and the names of a style and a script that lie beside this module. Leaves: the
text of the file. It does not know what the page is about.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

HERE = Path(__file__).parent


def page(title: str, body: str, script: str | None = None) -> str:
    """A page that works from ``file://``, offline; ``body`` is HTML, every text in it escaped by who wrote it.

    The policy lets no request out, and no script or style run but the two that are named by their hash: were a prompt to get
    through unescaped, the browser would still not run it.
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    code = (HERE / script).read_text(encoding="utf-8") if script else ""
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(style)}; script-src {_hash(code)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{code}</script>\n</body>\n</html>\n"
    )


def data_url(kind: str, content: bytes) -> str:
    """``content`` as an address that holds it: ``kind`` is ``video/mp4``, ``image/jpeg``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def html_table(heading: list[str], rows: list[list[str]]) -> str:
    """A table of texts, which are escaped here; the first two columns hold words, the others numbers."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
