"""A blind test for people: ``pairs.html``, what it hands out, and the score.

Enters: an evaluation's clips; later files of answers, which come from anywhere and are only ever read as JSON. Leaves: the page,
``pairs-key.json``, which alone knows which side was what, and ``preferences``. Order and sides come from a secret in that file.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from cinelora.config.store import build
from cinelora.errors import ConfigError, FileError
from cinelora.evaluation.clip_list import Plan, clip_file
from cinelora.evaluation.measure import bounds
from cinelora.evaluation.page_clips import BUDGET, within_budget
from cinelora.evaluation.statistics import sign_test, wilson
from cinelora.io.atomic import sha256_file, write_json, write_text
from cinelora.io.html.template import render
from cinelora.io.plain_data import read_json

PAGE, KEY, PREFERENCES = "pairs.html", "pairs-key.json", "preferences.json"
ANSWERS_FORMAT = "cinelora-answers/1"
MOST_VOTES = 50_000
"""In all rows of ``preferences.json``: a sign test of that many takes a fifth of a second."""
SAME, EVERYBODY = "same", "all"
QUESTIONS = {
    "look": "Which looks more like the reference clips above?",
    "motion": "Which moves better?",
    "prompt": "Which shows better what the text says?",
}
ASKED = ("pair", "question", "choice")
"""What an answer in a file has."""
MOST_PAIRS = 60
"""Half an hour of looking."""
MOST_REFERENCES = 4
MOST_BYTES = 2_000_000
"""Of a file of answers: three to each of ``MOST_PAIRS`` are 30 kB."""


@dataclass(frozen=True)
class Side:
    """A clip of a pair, by a name that says nothing."""

    id: str
    variant: str


@dataclass(frozen=True)
class Pair:
    """Two variants of one take."""

    id: str
    take: str
    left: Side
    right: Side

    @property
    def variants(self) -> set[str]:
        """What is compared."""
        return {self.left.variant, self.right.variant}


@dataclass(frozen=True)
class PairsKey:
    """What the page must not say."""

    page: str
    secret: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Preference:
    """How often one variant was preferred to another, in one question, by one rater or by all."""

    question: str
    rater: str
    preferred: str
    to: str
    wins: int
    votes: int
    ties: int

    def cells(self) -> Iterator[str]:
        """Share with Wilson's interval and the sign test, in words."""
        words = ("", "", "")
        if self.votes:
            share = wilson(self.wins, self.votes)
            words = (f"{share.value:.0%}", bounds(share), f"p = {sign_test(self.wins, self.votes):.2g}")
        yield from (self.question, self.rater, self.preferred, self.to, *words, str(self.votes), str(self.ties))


# -- the page ----------------------------------------------------------------------------------------------------------


def write_pairs(plan: Plan, run_dir: Path) -> Path | None:
    """Write page and key; None where there are no two variants of any take."""
    # A page that is written again keeps its secret, so that pairs whose clips are the same keep their names, and answers to the
    # earlier page still count. The key is written first: a page without its key could never be scored.
    secret = load_key(run_dir).secret if (run_dir / KEY).is_file() else secrets.token_hex(16)
    chosen = sorted(pairs_of(plan, run_dir, secret), key=lambda pair: pair.id)[:MOST_PAIRS]
    if not chosen:
        return None
    key = PairsKey(_opaque(secret, "page"), secret, chosen)
    write_json(run_dir / KEY, {"format": "cinelora-pairs/1", **asdict(key)})
    takes = {take.name: take for take in plan.takes()}
    files = {side.id: clip_file(run_dir, takes[p.take], side.variant) for p in chosen for side in (p.left, p.right)}
    references = [run_dir / name for name in plan.real[:MOST_REFERENCES]]
    # a clip stands in as many pairs as it has rivals
    clips, _ = within_budget([*references, *files.values()], budget=BUDGET // max(1, len(plan.variants) - 1))
    shown = [pair for pair in chosen if all(files[side.id] in clips for side in (pair.left, pair.right))]
    questions = {name: text for name, text in QUESTIONS.items() if references or name != "look"}
    text = render(
        "blind_test.html.j2",
        page=key.page,
        references=[clips[file] for file in references if file in clips],
        pairs=[(pair, takes[pair.take].prompt.text) for pair in shown],
        clips={name: clips[file] for name, file in files.items() if file in clips},
        questions=questions,
        same=SAME,
    )
    write_text(run_dir / PAGE, text)
    return run_dir / PAGE


def pairs_of(plan: Plan, run_dir: Path, secret: str) -> Iterator[Pair]:
    """Every two variants of every take of which both are there; names change with the clips, so that old answers stay theirs."""
    for take in plan.takes():
        files = {name: clip_file(run_dir, take, name) for name in plan.names()}
        hashes = {name: sha256_file(file) for name, file in files.items() if file.is_file()}
        for one, other in combinations(hashes, 2):
            # Everything about a pair follows from the secret and the clips: its name, the names of its sides, and which of them
            # is on the left. Whoever has the page alone can work out none of it, nor tell variants apart across pairs.
            what = json.dumps([take.name, one, other, hashes[one], hashes[other]])
            sides = [Side(_opaque(secret, f"{what} {name}"), name) for name in (one, other)]
            if int(_opaque(secret, f"{what} turned"), 16) % 2:
                sides.reverse()
            yield Pair(_opaque(secret, what), take.name, *sides)


def _opaque(secret: str, what: str) -> str:
    return hmac.new(secret.encode(), what.encode(), "sha256").hexdigest()[:16]


# -- the score ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vote:
    """One answer, by what the sides were; ``winner`` is None for no difference."""

    rater: str
    pair: Pair
    question: str
    winner: str | None


def score(plan: Plan, run_dir: Path, source: Path) -> list[Preference]:
    """Score a file of answers, or all ``.json`` of a folder, and write ``preferences.json``.

    Raises ``ConfigError`` for a file that is none of this page's, whatever it holds.
    """
    key = load_key(run_dir)
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not files:
        raise ConfigError(f"answers={source} holds no .json file")
    # Answers come from strangers' files. One rater's file copied under another name would count twice, and a rater who answered
    # again may have changed their mind: which of both counts is not for this program to say.
    votes: dict[tuple[str, str, str], Vote] = {}
    for file in files:
        for vote in read_votes(file, key):
            if votes.setdefault((vote.rater, vote.pair.id, vote.question), vote) is not vote:
                raise ConfigError(
                    f"{file}: {vote.rater} has answered that already, in another file or twice: keep one of them"
                )
    found = preferences(plan, list(votes.values()))
    write_json(run_dir / PREFERENCES, [asdict(one) for one in found])
    return found


def load_key(run_dir: Path) -> PairsKey:
    """What ``write_pairs`` kept. Raises ``ConfigError`` where there is none."""
    if not (run_dir / KEY).is_file():
        raise ConfigError(f"{run_dir} holds no {KEY}: answers are scored where their page was made")
    data = read_json(run_dir / KEY, dict[str, Any])
    data.pop("format", None)
    return build(PairsKey, data, run_dir / KEY)


def load_preferences(run_dir: Path) -> list[Preference]:
    """What was scored so far; raises ``FileError`` for counts that no vote can have given."""
    file = run_dir / PREFERENCES
    found = read_json(file, list[Preference]) if file.is_file() else []
    counted = all(0 <= one.wins <= one.votes and one.ties >= 0 for one in found)
    if not counted or sum(one.votes for one in found) > MOST_VOTES:
        raise FileError(f"{file} counts more wins than votes, or more than {MOST_VOTES} votes: score the answers again")
    return found


def read_votes(file: Path, key: PairsKey) -> Iterator[Vote]:
    """The answers in a file, each checked against the key."""
    answers = _parsed(file)
    if not isinstance(answers, dict) or answers.get("format") != ANSWERS_FORMAT:
        raise ConfigError(f"{file} is no file of answers that pairs.html hands out")
    if answers.get("page") != key.page:
        raise ConfigError(f"{file} answers another page than this run's pairs.html")
    rater, told = answers.get("rater"), answers.get("answers")
    if not isinstance(rater, str) or not rater.strip() or len(rater) > 100 or not isinstance(told, list):
        raise ConfigError(f"{file} does not say who answered, or what")
    pairs = {pair.id: pair for pair in key.pairs}
    for number, answer in enumerate(told, start=1):
        # whatever is no text becomes an empty one, which is no name of anything on the page
        fields = answer if isinstance(answer, dict) else {}
        named, question, choice = (found if isinstance(found := fields.get(name), str) else "" for name in ASKED)
        pair = pairs.get(named)
        if pair is None:
            raise ConfigError(
                f"{file}, answer {number} belongs to a pair that is not on this page (were the clips generated again since?)"
            )
        sides = {pair.left.id: pair.left.variant, pair.right.id: pair.right.variant}
        if question not in QUESTIONS or choice not in {*sides, SAME}:
            raise ConfigError(f"{file}, answer {number} is not one that this page offers")
        yield Vote(rater.strip(), pair, question, sides.get(choice))


def _parsed(file: Path) -> Any:
    try:
        return read_json(file, object, limit=MOST_BYTES)
    except FileError as error:
        raise ConfigError(str(error)) from error


def preferences(plan: Plan, votes: list[Vote]) -> list[Preference]:
    """For each question and two variants, how often the later stage won: by all raters, then by each; ties stand apart."""
    found, raters = [], sorted({vote.rater for vote in votes})
    asked = product(QUESTIONS, combinations(plan.names(), 2), [EVERYBODY, *(raters if len(raters) > 1 else [])])
    for question, (earlier, later), rater in asked:
        of_both = [v for v in votes if v.question == question and v.pair.variants == {earlier, later}]
        if own := [vote.winner for vote in of_both if rater in (EVERYBODY, vote.rater)]:
            wins, ties = own.count(later), own.count(None)
            found.append(Preference(question, rater, later, earlier, wins, len(own) - ties, ties))
    return found
