"""Numbers that tell how well an entry answers a query: what all ranking is made of.

Owns: the features of candidates, by name. `Scan` has looked at every entry; `examine` looks closely
at a few: at the turns around them, their word pieces, and the best among them. Invariant: features
are finite whatever the texts, and come in the same order. Not here: weights (ranking), features
that come from pages and other candidates (links).

What is divided is divided by what the query could reach at most, or by the best that the scope
has, so a feature means the same in a scope of ten messages and in one of ten thousand.
"""

from typing import Any, Final

import numpy as np

from memopt.recall.entries import Role
from memopt.recall.index import ScopeIndex
from memopt.recall.links import paged_features
from memopt.recall.query import Asks
from memopt.recall.ragged import ragged
from memopt.recall.scan import SCANNED, TINY, Scan, standard
from memopt.text.analysis import Flag

Array = np.ndarray[Any, Any]
Features = dict[str, Array]

AROUND: Final = 2
"""Turns before and after a candidate that are looked at with it."""
WINDOW: Final = 3
"""Turns whose word pieces are: those next to it."""
PIECES_KNOWN: Final = 8192
"""About as many different word pieces as the texts of all windows have."""
_PIECES_FEW: Final = 2048
_PIECES_AT_ONCE: Final = 8192
"""What is compared together stays in the processor's cache."""
_SOFT_LEAST: Final = 0.35
_SOFT_MOST: Final = 0.8
"""What the likeness of a word counts at most, beside the word itself."""

# Within, flags are plain integers: an operation of IntFlag costs as much as one of an array.
_QUESTION, _FIRST_PERSON = int(Flag.QUESTION), int(Flag.FIRST_PERSON)
_SECOND_PERSON, _NEGATION = int(Flag.SECOND_PERSON), int(Flag.NEGATION)
_NUMBER, _NAME, _TIME = int(Flag.NUMBER), int(Flag.NAME), int(Flag.TIME)


def examine(scan: Scan, chosen: Array, scores: Array) -> tuple[tuple[str, ...], Array]:
    """(names, features): float32 (features, candidates) of the entries `chosen`, at least one, best
    first; `scores` are all entries' by the scan."""
    f: Features = dict(zip(SCANNED, scan.table[:, chosen], strict=True))
    around = _around(scan.index, chosen)
    top, least = float(scores[chosen[0]]), float(scores[chosen[-1]])
    f["score"] = scores[chosen] - top
    f["score_near"] = (scores[chosen] - least) / max(top - least, TINY)
    _coverage(f, scan, chosen, around)
    _shape(f, scan, chosen, around)
    _speakers(f, scan, chosen)
    paged_features(f, scan, chosen, around, scores)
    table = np.empty((len(f), len(chosen)), np.float32)
    for at, row in enumerate(f.values()):
        table[at] = row
    return tuple(f), table


def _around(index: ScopeIndex, chosen: Array) -> Array:
    """Entries (2 AROUND + 1, candidates): those before, the candidate, those after; NONE where is
    none."""
    rows = [chosen]
    for _ in range(AROUND):
        rows.insert(0, index.before[rows[0]])
        rows.append(index.after[rows[-1]])
    return np.stack(rows)


def _coverage(f: Features, scan: Scan, chosen: Array, around: Array) -> None:
    """How much of the query's terms is there, rare ones counting more; one that is not there counts
    by the piece of the text that is nearest to it, where there are pieces."""
    window = around[1:-1]
    has = scan.parts[:, window] > 0  # (terms, window, candidates)
    # All that anybody has: whoever asks by a rare word or two wants that text, not its neighbours.
    known = scan.known
    f["has_all"] = np.asarray(has[known, 1].all(axis=0) & bool(known.any()))
    f["window_meaning_best"] = scan.meaning[around].max(axis=0)
    soft = _pieces(f, scan, window, has.astype(np.float32))
    idf = scan.idf / scan.full
    widest = soft.max(axis=1)
    f["soft"] = idf @ soft[:, 1]
    f["soft_before"] = idf @ soft[:, 0]
    f["soft_pair"] = idf @ soft[:, :2].max(axis=1)
    f["soft_window"] = idf @ widest
    f["soft_count"] = widest.mean(axis=0) if len(widest) else np.zeros_like(f["soft"])


_PIECES: Final = ("met", "met_best", "met_before", "pair_met", "window_met_best")


def _pieces(f: Features, scan: Scan, window: Array, has: Array) -> Array:
    """How well each piece of the query is met by the nearest piece of an entry: late interaction,
    as in Khattab and Zaharia, "ColBERT", 2020, on static vectors. Returns `has` with the likeness
    of terms that are not there."""
    asked = scan.query.pieces
    if asked is None or not len(scan.index.entries.pieces):
        f.update(dict.fromkeys(_PIECES, np.zeros(window.shape[1], np.float32)))
        return has
    some, places = np.unique(window, return_inverse=True)
    both = _met(scan, some)[:, places.reshape(window.shape)]
    weights = asked.weights
    met = both[: len(weights)]
    f["met"] = weights @ met[:, 1]
    f["met_best"] = standard(f["met"])
    f["met_before"] = weights @ met[:, 0]
    f["pair_met"] = weights @ met[:, :2].max(axis=1)
    f["window_met_best"] = standard(weights @ met.max(axis=1))
    like = np.clip((both[asked.terms] - _SOFT_LEAST) / (1 - _SOFT_LEAST), 0, 1) * _SOFT_MOST
    soft: Array = np.where(has > 0, 1, like).astype(np.float32)
    return soft


def _met(scan: Scan, some: Array) -> Array:
    """float32 (vectors of the query, some): the likeness of the nearest piece of each of
    the sorted entries `some`, never below 0; zeros where one is NONE."""
    asked, entries = scan.query.pieces, scan.index.entries
    assert asked is not None
    met = np.zeros((len(asked.vectors), len(some)), np.float32)
    there = np.flatnonzero(some >= 0)
    owners, pieces = ragged(entries.pieces_start, entries.pieces, some[there])
    if not len(pieces):
        return met
    known, places = _each_once(pieces)
    alike = np.asarray(asked.embedder.piece_likeness(known, asked.vectors), np.float32)
    begins = np.empty(len(owners), bool)
    begins[0] = True
    np.not_equal(owners[1:], owners[:-1], out=begins[1:])
    starts = begins.nonzero()[0]
    having = there[owners[starts]]
    first = 0
    while first < len(starts):
        begin = starts[first]
        last = max(int(np.searchsorted(starts, begin + _PIECES_AT_ONCE)), first + 1)
        end = starts[last] if last < len(starts) else len(pieces)
        near = alike.take(places[begin:end], axis=0)
        met[:, having[first:last]] = np.maximum.reduceat(near, starts[first:last] - begin).T
        first = last
    return np.maximum(met, 0, out=met)


def _each_once(pieces: Array) -> tuple[Array, Array]:
    """(known, places): the different ones in order, and where among them each is."""
    if len(pieces) < _PIECES_FEW:
        known, places = np.unique(pieces, return_inverse=True)
        return known, places
    # A table of all there may be is quicker than sorting many.
    count = int(pieces.max()) + 1
    seen = np.zeros(count, bool)
    seen[pieces] = True
    known = np.flatnonzero(seen).astype(np.uint16)
    place = np.empty(count, np.int32)
    place[known] = np.arange(len(known))
    return known, place[pieces]


def _shape(f: Features, scan: Scan, chosen: Array, around: Array) -> None:
    """The kind of sentence, beside the kind of question."""
    entries, query = scan.index.entries, scan.query
    flags = entries.flags[chosen]
    beside = np.append(entries.flags, 0)[around[1:4:2]] & _QUESTION > 0
    asks = query.asks
    f["question_before"], f["question_after"] = beside.astype(np.float32)
    f["second_person"] = flags & _SECOND_PERSON > 0
    f["number"] = flags & _NUMBER > 0
    f["name"] = flags & _NAME > 0
    f["time"] = flags & _TIME > 0
    f["negation"] = flags & _NEGATION > 0
    nothing = np.zeros(len(chosen), np.float32)
    f["when_number"] = f["number"] if asks & Asks.WHEN else nothing
    f["who_name"] = f["name"] if asks & Asks.WHO else nothing
    f["where_name"] = f["name"] if asks & Asks.WHERE else nothing
    f["how_many_number"] = f["number"] if asks & Asks.HOW_MANY else nothing
    mine = query.flags & _FIRST_PERSON > 0
    f["my_user"] = (entries.role[chosen] == Role.USER).astype(np.float32) if mine else nothing
    f["my_first_person"] = f["my_user"] * f["first_person"]
    f["at_start"] = around[AROUND - 1] < 0
    f["at_start2"] = around[AROUND - 2] < 0
    f["at_end"] = around[AROUND + 1] < 0
    f["length_2"] = f["length"] ** 2
    f["first_person_words"] = f["first_person"] * f["words"]
    f["answer_words"] = f["question_before"] * f["words_before"]
    f["answer_meaning"] = f["question_before"] * f["meaning_before"]


def _speakers(f: Features, scan: Scan, chosen: Array) -> None:
    said, names = f["said"], scan.query.names
    other = 1 - said if names else said
    subject = scan.index.entries.speaker[chosen] == names[0] if len(names) > 1 else 0 * said
    f["said_subject"] = subject
    for name in ("words", "meaning", "length", "first_person"):
        f["said_" + name] = said * f[name]
    f["other_words"] = other * f["words"]
    f["other_meaning"] = other * f["meaning"]
