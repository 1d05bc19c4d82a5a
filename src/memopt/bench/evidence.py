"""Whether the evidence is found: questions beside the index of their memory, and what is counted.

Owns: the measures. Invariant: a measure depends on an order of entries alone, so every method is
judged by the same code; every character of every text that is returned is charged; intervals are
drawn from a seed. Not here: the sets themselves (questions), the methods (recall).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.recall_protocols import Embedder
from memopt.base.records import to_datetime
from memopt.bench.questions import CHARS_PER_TOKEN, Material, Question
from memopt.recall.entries import Entries, Role
from memopt.recall.index import ScopeIndex
from memopt.recall.query import Query
from memopt.recall.scan import TINY, Scan
from memopt.text.analysis import Analyser

Array = np.ndarray[Any, Any]

DRAWS: Final = 2_000
_LOW, _HIGH = 2.5, 97.5


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A question of one memory, with one look at all of its entries."""

    question: Question
    fold: int
    scan: Scan
    gold: Array
    """Entries that hold the evidence."""
    returnable: Array
    """Entries that may be returned: all but headings."""

    @property
    def index(self) -> ScopeIndex:
        return self.scan.index


def ask(materials: Iterable[Material], embedder: Embedder | None) -> list[Asked]:
    """Every question of these memories."""
    analyser = Analyser()
    asked = []
    for material in materials:
        entries = Entries.of(material.drafts, embedder=embedder, analyser=analyser)
        order = np.lexsort((entries.seq, entries.source))
        number_of = np.argsort(order)
        index = ScopeIndex.of([entries])
        returnable = np.flatnonzero(index.entries.role != Role.HEADING)
        for question in material.questions:
            query = Query.of(
                question.text,
                analyser=analyser,
                embedder=embedder,
                speakers=index.speakers,
                now=to_datetime(question.now_us),
            )
            gold = np.sort(number_of[np.array(question.gold, np.int64)])
            asked.append(Asked(question, material.fold, Scan(index, query), gold, returnable))
    return asked


# -- what nobody fitted ---------------------------------------------------------------------------


def plain_words(one: Asked) -> Array:
    """float32 (entries): BM25 in which every term of the query counts the same, by the best."""
    scan = one.scan
    words: Array = (scan.parts[:, : len(one.index)] / scan.query.weights[:, None]).sum(axis=0)
    return words / max(float(words.max(initial=0)), TINY)


def plain_sum(one: Asked) -> Array:
    """BM25, cosine and the neighbours' BM25 by three fixed weights: what ranking has to beat."""
    words, index = np.append(plain_words(one), np.float32(0)), one.index
    count = len(index)
    near = words[index.before[:count]] + words[index.after[:count]]
    scores: Array = words[:count] + 0.15 * one.scan.meaning[:count] + 0.35 * near
    return scores


# -- measures of one order ------------------------------------------------------------------------


def evidence_at(one: Asked, order: Array, count: int) -> float:
    """The share of the evidence among the first `count` entries."""
    return float(np.isin(one.gold, order[:count]).mean())


def evidence_within(one: Asked, order: Array, tokens: int) -> float:
    """The share of the evidence within so many tokens: the best first, what does not fit is left
    out and the next one tried."""
    left = tokens * CHARS_PER_TOKEN
    chars = one.index.entries.chars
    taken = []
    for number in order.tolist():
        if chars[number] <= left:
            left -= int(chars[number])
            taken.append(number)
    return float(np.isin(one.gold, taken).mean())


def user_turns_at(one: Asked, order: Array, count: int) -> float:
    """The share of the evidence among the first `count` entries that a user said."""
    own = order[one.index.entries.role[order] == Role.USER]
    return evidence_at(one, own, count)


def sessions_at(one: Asked, order: Array, count: int) -> float:
    """The share of the sessions with evidence among the first `count` sessions, which stand in the
    order of their best entries."""
    sources = one.index.entries.source[order].tolist()
    first = list(dict.fromkeys(sources))[:count]
    return float(np.isin(one.question.gold_sources, first).mean())


# -- over many questions --------------------------------------------------------------------------


class Figure(NamedTuple):
    mean: float
    low: float
    high: float
    """The interval that holds 95 % of bootstrap means."""
    questions: int


def figure(values: Sequence[float], seed: int) -> Figure:
    means = _bootstrap(values, seed)
    low, high = np.percentile(means, (_LOW, _HIGH))
    mean, low, high = (round(float(v), 4) for v in (np.mean(values), low, high))
    return Figure(mean, low, high, len(values))


def difference(values: Sequence[float], others: Sequence[float], seed: int) -> Figure:
    """Of `values` above `others`, question by question: a paired bootstrap."""
    return figure(np.subtract(values, others).tolist(), seed)


def _bootstrap(values: Sequence[float], seed: int) -> Array:
    chance = np.random.default_rng(seed)
    known = np.asarray(values, np.float64)
    draws = chance.integers(0, len(known), (DRAWS, len(known)))
    means: Array = known[draws].mean(axis=1)
    return means


Measure = Callable[[Asked, Array], float]


def measures_of(name: str) -> Mapping[str, tuple[Measure, Callable[[Asked], bool]]]:
    """By name: how an order is judged, and which questions count."""
    every = _has_gold
    measures: dict[str, dict[str, tuple[Measure, Callable[[Asked], bool]]]] = {
        "locomo": {
            "evidence_at_10": (lambda one, order: evidence_at(one, order, 10), every),
            "evidence_within_1024_tokens": (
                lambda one, order: evidence_within(one, order, 1024),
                lambda one: one.question.category != "5",
            ),
        },
        "longmemeval": {
            "sessions_at_5": (lambda one, order: sessions_at(one, order, 5), lambda one: True),
            "user_turns_at_10": (lambda one, order: user_turns_at(one, order, 10), every),
        },
        "hotpotqa": {
            "evidence_within_256_tokens": (
                lambda one, order: evidence_within(one, order, 256),
                every,
            ),
        },
    }
    return measures[name]


def _has_gold(one: Asked) -> bool:
    return len(one.gold) > 0
