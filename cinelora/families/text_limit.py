"""Texts that are longer than a text encoder reads: what of them is lost, counted by the encoder's own tokenizer.

Enters: texts, and a tokenizer where one of them may be too long. Leaves: a line to print, or a refusal where what would be lost
is meant for every sample. No torch is imported here: most texts are short, and that is seen without a tokenizer.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cinelora.config.schema import DataConfig
from cinelora.config.sentences import sentence
from cinelora.errors import ConfigError

_SHOWN = 40
"""Characters of what is lost that a line shows; of a word that is longer its own beginning is not sought."""


@dataclass(frozen=True)
class Lost:
    """What an encoder does not see of a text: the first ``words`` of that, and how many ``tokens`` the whole text has."""

    tokens: int
    words: str
    limit: int
    """How many tokens are read."""


LostAmong = Callable[[Iterable[str | None]], dict[str, Lost]]
"""What is lost of those of some texts that are cut: ``Bundle.lost``, or what stands for it."""


def may_be_long(text: str, limit: int) -> bool:
    """Whether a text can have more tokens than the ``limit`` that are read, by any tokenizer; False is certain."""
    # Tokenizers fall back on bytes, so that no text has more tokens than bytes, one for its start and one for its end. Some
    # spell ligatures and the like out first (NFKC), which makes more bytes of them.
    return max(len(form.encode()) for form in (text, unicodedata.normalize("NFKC", text))) > limit - 2


def lost_of(text: str, tokenizer: Any, limit: int) -> Lost | None:
    """What is lost of a text, cleaned as the encoder gets it, of which ``limit`` tokens are read; None where all of it is."""

    def tokens(length: int) -> int:
        return len(tokenizer(text[:length], truncation=False, verbose=False).input_ids)

    whole = tokens(len(text))
    if whole <= limit:
        return None
    # more characters are more tokens: the longest beginning that is read is found by halving, in a dozen countings
    read = bisect_left(range(len(text)), True, key=lambda length: tokens(length) > limit) - 1
    start = text.rfind(" ", 0, read + 1) + 1
    start = start if read - start < _SHOWN else read
    return Lost(whole, text[start : start + _SHOWN].strip(), limit)


def lost_line(what: str, texts: Sequence[str], lost: Mapping[str, Lost]) -> list[str]:
    """A warning of those of ``texts`` that are cut, in one line, or none; ``what`` names one of them, and ``s`` makes it many."""
    cut = [lost[text] for text in texts if text in lost]
    if not cut:
        return []
    words = {"what": what, "cut": len(cut), "total": len(texts), "limit": cut[0].limit, "first": cut[0]}
    return [sentence("texts", "cut" if len(texts) == 1 else "some_cut", **words)]


def refuse_lost(texts: Mapping[str, str | None], lost_among: LostAmong) -> None:
    """Refuse texts that belong to every sample or clip, by their names, if one is cut. Raises ``ConfigError``."""
    lost = lost_among(texts.values())
    for name, text in texts.items():
        if text in lost:
            raise ConfigError(sentence("texts", "too_long", name=name, first=lost[text], limit=lost[text].limit))


def look_of(data: DataConfig) -> dict[str, str | None]:
    """What the settings of the data put into every caption, by key; the captions of a manifest or a renderer are whole."""
    put = not (data.look or data.manifest)
    return {"data.trigger": data.trigger, "data.description": data.description} if put else {}


def caption_lines(captions: Mapping[str, str], lost_among: LostAmong, description: str | None) -> list[str]:
    """A warning of whole captions, by their samples, that are cut.

    Raises ``ConfigError`` where they end in a ``description`` of the look, which would be lost first.
    """
    lost = lost_among(captions.values())
    cut = {name: lost[caption] for name, caption in captions.items() if caption in lost}
    if description and cut:
        name, longest = max(cut.items(), key=lambda one: one[1].tokens)
        words = {"cut": len(cut), "total": len(captions), "name": name, "longest": longest, "limit": longest.limit}
        raise ConfigError(sentence("texts", "description", **words))
    return lost_line("caption", list(captions.values()), lost)
