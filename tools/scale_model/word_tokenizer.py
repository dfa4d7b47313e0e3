"""CLIP's tokenizer of whole words: each word that a caption of the renderer can hold is one token, and any other its letters.

Enters: the renderer's vocabulary. Leaves: a ``CLIPTokenizer`` of transformers, made of a vocabulary and merges as any other.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from transformers import CLIPTokenizer

from cinelora.families.animatediff_sd15 import ANIMATEDIFF
from tools.scale_model.render import LOOKS
from tools.scale_model.render.scenes import VOCABULARY, describe, draw_scene

LETTERS = string.ascii_lowercase + string.digits + string.punctuation
END = "</w>"
"""What CLIP's vocabulary ends the last letter of a word with."""
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "<|unknown|>")


@cache
def caption_words() -> tuple[str, ...]:
    """Every word and mark that a caption can hold, in the order of the alphabet."""
    return tuple(sorted({word for caption in _telling_captions() for word in split(caption)}))


def _telling_captions() -> Iterable[str]:
    """Captions that between them hold every word: each value of each attribute, with the others as some seeds have them."""
    streets = [scene for scene in map(draw_scene, range(64)) if scene.place == "street"][:24]
    rooms = [replace(scene, place="room", weather="dry", car=None) for scene in streets]
    changed = (
        replace(scene, **{name: value})
        for name, values in VOCABULARY.items()
        for value, scene in itertools.product(values, streets)
        if name != "place"
    )
    return (describe(scene, look) for scene in (*streets, *rooms, *changed) for look in LOOKS)


def split(caption: str) -> list[str]:
    """Words, single digits and marks, as CLIP takes text apart."""
    return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption.lower())


def word_tokenizer() -> CLIPTokenizer:
    """The tokenizer; letters that are not English, and what else it does not know, are one token each."""
    merges = merges_of(caption_words())
    letters = [*LETTERS, *(letter + END for letter in LETTERS)]
    # a word of one letter, and what two words build on, would come twice
    symbols = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *SPECIAL])
    start, end, unknown = SPECIAL
    return CLIPTokenizer(
        {symbol: number for number, symbol in enumerate(symbols)},
        merges,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=ANIMATEDIFF.text_tokens,
    )


def merges_of(words: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of symbols, in the order in which they are merged, that make one symbol of each word (Sennrich et al. 2016)."""
    # What is added for a word comes after all merges of the words before it. These are whole by then, so nothing that is added
    # can take them apart; and a word of which earlier merges have made other pieces is joined from those.
    merges: list[tuple[str, str]] = []
    for word in words:
        while len(symbols := merged(word, merges)) > 1:
            merges.append((symbols[0], symbols[1]))
    return merges


def merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The symbols that a word comes down to: of all pairs in it that can be merged, always the first of ``merges``."""
    symbols, ranks = [*word[:-1], word[-1] + END], {pair: rank for rank, pair in enumerate(merges)}
    while pairs := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        best = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for symbol in symbols:
            if joined and (joined[-1], symbol) == best:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return symbols
