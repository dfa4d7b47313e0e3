"""The one place where a value becomes Markdown: text that shows itself, and fences around code.

Enters: anything that somebody typed or a file is called. Leaves: Markdown, as CommonMark and GitHub's dialect read it.
"""

from __future__ import annotations

import re

from markupsafe import Markup

MARKS = re.compile(
    r"""
      [\\`*_{}\[\]<>|\#~&!$]    # emphasis, code, links, HTML and entities, table cells, headings, formulas
    | :(?=//)                   # an address becomes a link without any mark-up: https://...
    | (?<=www)\.                # and so does www....
    | ^[-+=](?=[-+=\s]|$)       # at the beginning of a line: an item, a rule, a heading of the line above
    | (?<=^\d)[.)](?=\s|$)      # 1. or 1) is an item
    | (?<=^\d\d)[.)](?=\s|$)
    """,
    re.VERBOSE,
)
"""What means something in Markdown. A backslash before a punctuation mark makes it stand for itself, everywhere but in code."""
MENTION = re.compile(r"@(?=\w)")


def markdown(value: str) -> str:
    """One line of Markdown that shows ``value`` as it is: no mark-up, HTML, link or mention, and no end of a table's cell.

    Line breaks become spaces. Characters that are not seen, such as those that turn the direction of text, are left out.
    """
    line = " ".join("".join(char for char in value if char.isprintable() or char.isspace()).split())
    # GitHub looks for @someone and for mail addresses when the backslashes are gone already, so that "\@" would not help.
    # An empty comment between the two does: it is not shown, and it is not copied with the text.
    return MENTION.sub("@<!-- -->", MARKS.sub(r"\\\g<0>", line))


def fenced(code: str, language: str) -> Markup:
    """Code in a fence that is longer than any in it; nothing in it is read as Markdown."""
    # A fence ends at the first line with as many backticks as it began with: one more than the code holds cannot be in it.
    longest = max((len(ticks) for ticks in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{code.strip(chr(10))}\n{fence}")
