"""Answers a query: opens the scopes, has their entries ranked, and reads what the best ones say.

Invariant: a hit's text is what can be read at its place now. What is visible is decided when a
scope is opened, and once more when its texts are read: a hit whose text is gone is no hit. Nothing
of one scope is counted in another. Not here: what is in RAM (resident.py), ranking (ranking.py).
"""

import heapq
import math
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError, MemoptError, UsageError
from memopt.base.events import Events, Recalled
from memopt.base.moments import NOW, Bound, check_time
from memopt.base.names import check_count, check_scope
from memopt.base.protocols import Clock, Compressor, Reader, Tables
from memopt.base.reaching import scopes_from
from memopt.base.recall_records import Hit, Kind, Recall, Span
from memopt.base.records import Reach, to_datetime, to_us
from memopt.recall.describing import Describing
from memopt.recall.index import ScopeIndex
from memopt.recall.indexing import EntryMaker
from memopt.recall.item_columns import Filter, ItemColumns
from memopt.recall.listing import check_kinds
from memopt.recall.loading import ScopeInRam
from memopt.recall.message_text import said_in
from memopt.recall.places import Place, PlaceReader, Places, Read, id_of
from memopt.recall.query import Query
from memopt.recall.ranking import CANDIDATES, Priors, Ranked, Ranker, work_bytes
from memopt.recall.resident import ResidentScopes
from memopt.recall.stating import IMPORTANCE, check_tags

LIMIT_MAX: Final = 1000
SCOPES_MAX: Final = 1000
"""That one recall may look at."""
OWNER: Final = "ranking"
_IMPORTANCE_WEIGHT: Final = 1.0
_FEEDBACK_WEIGHT: Final = 0.5
"""Of a sum of features, in which a word that a question asks for counts about as much."""
_LIMIT: Final = 10
_CHARS_A_TOKEN: Final = 4


class Asked(NamedTuple):
    """One question, checked."""

    query: str
    scope: str
    reach: Reach
    limit: int
    max_tokens: int | None
    kinds: frozenset[Kind] | None
    tags: frozenset[str]
    min_score: float | None
    valid_us: int | None
    bound: Bound
    now: datetime | None
    candidates: int
    shown: tuple[Places, ...]
    says_why: bool


def asked(
    query: Any, *, scope: Any, reach: Reach, limit: Any, max_tokens: Any, kinds: Any, tags: Any,
    min_score: Any, valid_at: Any, bound: Bound, now: Any, shown: tuple[Places, ...] = (),
    says_why: bool = True,
) -> Asked:  # fmt: skip
    """Raises UsageError that names the argument. What is `shown` is not looked for; without
    `says_why`, hits have neither reasons nor features."""
    if not isinstance(query, str):
        raise UsageError(f"expected text, got {type(query).__name__}", field="query")
    # By tokens alone, it is not known how many there will be.
    candidates = CANDIDATES if limit is None else limit
    if limit is None:
        limit = _LIMIT if max_tokens is None else LIMIT_MAX
    if max_tokens is not None:
        check_count(max_tokens, field="max_tokens", least=1)
    if min_score is not None and not _is_number(min_score):
        raise UsageError(f"expected a number, got {min_score!r}", field="min_score")
    if now is not None:
        check_time(now, field="now")
    return Asked(
        query=query, scope=check_scope(scope), reach=reach,
        limit=check_count(limit, field="limit", least=1, most=LIMIT_MAX), max_tokens=max_tokens,
        kinds=None if kinds is None else frozenset(check_kinds(kinds)),
        tags=frozenset(() if tags is None else check_tags(tags)), min_score=min_score,
        valid_us=None if valid_at is None else check_time(valid_at, field="valid_at"),
        bound=bound, now=now, candidates=max(CANDIDATES, candidates), shown=shown,
        says_why=says_why,
    )  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Opened(NamedTuple):
    number: int
    path: str
    scope: ScopeInRam


class _Candidate(NamedTuple):
    sum: float
    number: int
    """Of the scope."""
    source: int
    seq: int
    chars: int
    ranked: Ranked
    place: int
    """Among the ranked."""

    @property
    def score(self) -> float:
        return float(self.ranked.scores[self.place])

    @property
    def why(self) -> str:
        return self.ranked.why(self.place)

    @property
    def features(self) -> dict[str, float]:
        return self.ranked.features(self.place)


class Recaller:
    """Thread-safe. Holds nothing between calls."""

    def __init__(
        self, home: Reader, scopes: ResidentScopes, maker: EntryMaker, reader: PlaceReader,
        compressor: Compressor, budget: Budget, *, clock: Clock, events: Events,
        tool_chars_max: int,
    ) -> None:  # fmt: skip
        self._home = home
        self._scopes = scopes
        self._maker = maker
        self._reader = reader
        self._compressor = compressor
        self._budget = budget
        self._clock = clock
        self._events = events
        self._tool_chars_max = tool_chars_max
        self.ranker = Ranker.shipped()

    def recall(self, question: Asked) -> Recall:
        """Raises BudgetError where the index of a scope does not fit, CorruptionError where it is
        damaged."""
        started = time.perf_counter()
        with self._home.snapshot() as tables:
            reached = list(scopes_from(tables, question.scope, question.reach, None))
        notes: list[str] = []
        if not reached:
            notes.append(f"there is nothing in scope {question.scope!r}")
        if len(reached) > SCOPES_MAX:
            raise UsageError(
                f"{len(reached)} scopes are below it, at most {SCOPES_MAX}", field="reach"
            )
        opened = {
            number: _Opened(number, path, self._scopes.open(number)) for number, path in reached
        }
        entries = sum(len(one.scope.index) for one in opened.values())
        query = self._query(question, opened.values(), notes)
        # What is near to nothing in particular answers nothing.
        asked_of = opened.values() if query.says_something else ()
        ranked = [(one, self._ranked(question, query, one)) for one in asked_of]
        count = sum(len(best) for _, best in ranked)
        # Of equals the one of the older scope; within a scope, the order that it has.
        several = (_candidates(*one) for one in ranked)
        hits = self._hits(question, heapq.merge(*several, key=lambda one: -one.sum), opened)
        if reached and not hits:
            notes.append(_why_none(question, query, entries, count))
        recall = Recall(
            hits=tuple(hits), query=question.query, candidates=count, entries=entries,
            tokens=sum(hit.tokens for hit in hits), notes=tuple(notes),
        )  # fmt: skip
        self._events.emit(Recalled(len(hits), count, time.perf_counter() - started))
        return recall

    # -- ranking ----------------------------------------------------------------------------------

    def _query(self, question: Asked, opened: Iterable[_Opened], notes: list[str]) -> Query:
        """Once for all scopes: an embedder may be far away."""
        speakers = frozenset[int]().union(*(one.scope.index.speakers for one in opened))
        now = to_datetime(self._clock.now_us()) if question.now is None else question.now
        embedder: Any = None
        try:
            embedder = self._maker.embedder
            return Query.of(
                question.query, analyser=self._maker.analyser, embedder=embedder,
                speakers=speakers, now=now,
            )  # fmt: skip
        except (MemoptError, OSError) as error:
            notes.append(f"found by words alone: the embedder failed: {error}")
        return Query.of(
            question.query, analyser=self._maker.analyser, embedder=None, speakers=speakers,
            now=now,
        )  # fmt: skip

    def _ranked(self, question: Asked, query: Query, one: _Opened) -> Ranked:
        index = one.scope.index
        need = work_bytes(index, query)
        self._scopes.reserve(OWNER, need)
        try:
            items = one.scope.items
            if question.bound != NOW:
                with self._home.snapshot() as tables:
                    items = ItemColumns.load(tables, one.number, self._compressor, question.bound)
            return self.ranker.rank(
                index, query, among=self._allowed(question, one, items),
                priors=_priors(index, items),
                candidates=question.candidates,
            )  # fmt: skip
        finally:
            self._budget.release(OWNER, need)

    def _allowed(self, question: Asked, one: _Opened, items: ItemColumns) -> Any:
        """A mask of the entries that may be found."""
        entries = one.scope.index.entries
        which = Filter(question.kinds, question.tags, question.valid_us, self._now_us(question))
        allowed = items.visible(entries.source, entries.seq, which)
        if not question.tags and (question.kinds is None or Kind.EPISODE in question.kinds):
            allowed |= entries.source > 0
        if question.shown:
            sessions, seqs = one.scope.visible.seen_at(question.shown)
            for session in np.unique(sessions):
                own = np.flatnonzero(entries.source == session)
                allowed[own[np.isin(entries.seq[own], seqs[sessions == session])]] = False
        return allowed

    def _now_us(self, question: Asked) -> int:
        return self._clock.now_us() if question.now is None else to_us(question.now)

    # -- reading ----------------------------------------------------------------------------------

    def _hits(
        self, question: Asked, rest: Iterator[_Candidate], opened: dict[int, _Opened]
    ) -> list[Hit]:
        """The best that can be read, as many as were asked for and as fit."""
        hits: list[Hit] = []
        left = question.max_tokens
        # What was not known then takes nobody's room, and only its text tells.
        at_once = 1 if question.bound != NOW and left is not None else question.limit
        while len(hits) < question.limit:
            some = list(_fitting(rest, min(at_once, question.limit - len(hits)), left))
            if not some:
                break
            places = [_place(one, opened) for one in some]
            texts = self._read(some, places)
            with self._home.snapshot() as tables:
                names = _SessionNames(tables)
                for one, place in zip(some, places, strict=True):
                    if question.min_score is not None and one.score < question.min_score:
                        return hits
                    where = opened[one.number]
                    if place is None:
                        hit = self._item(tables, question, one, where)
                    else:
                        read = texts.get((one.number, place))
                        hit = read and self._hit(names, question, one, where, read)
                    if hit is None or (left is not None and hit.tokens > left):
                        continue
                    if left is not None:
                        left -= hit.tokens
                    hits.append(hit)
        return hits

    def _read(
        self, some: list[_Candidate], places: list[Place | None]
    ) -> dict[tuple[int, Place], Read]:
        wanted: dict[int, list[Place]] = {}
        for one, place in zip(some, places, strict=True):
            if place is not None:
                wanted.setdefault(one.number, []).append(place)
        return {
            (number, read.place): read
            for number, several in wanted.items()
            for read in self._reader.read(number, several)
        }

    def _hit(
        self, names: "_SessionNames", question: Asked, one: _Candidate, opened: _Opened,
        read: Read,
    ) -> Hit | None:  # fmt: skip
        record = read.record
        if not question.bound.sees(record.lsn, record.committed_us):
            return None
        said = said_in(read.message, record.actor, tool_chars_max=self._tool_chars_max)
        if said is None:
            return None
        session = names.of(one.source)
        if session is None:
            return None
        at_us = record.committed_us if record.said_us is None else record.said_us
        return Hit(
            item_id=id_of(one.number, read.place), text=said.text, tokens=tokens_of(said.text),
            score=one.score, why=one.why if question.says_why else "", kind=Kind.EPISODE,
            role=said.role, scope=opened.path,
            spans=(Span(session=session, start=one.seq, stop=one.seq + 1),),
            at=to_datetime(at_us), features=one.features if question.says_why else {},
        )  # fmt: skip

    def _item(
        self, tables: Tables, question: Asked, one: _Candidate, opened: _Opened
    ) -> Hit | None:
        """What was stated, as it was known."""
        row = tables.items.get(-one.source)
        if row is None or row.scope_number != one.number:
            return None
        describing = Describing(tables, self._compressor, self._now_us(question), question.bound)
        try:
            item = describing.item(row, opened.path)
        except CorruptionError:
            return None
        # Tags are compared by their numbers before.
        if item.version != one.seq or not question.tags.issubset(item.tags):
            return None
        return Hit(
            item_id=item.item_id, text=item.text, tokens=tokens_of(item.text), score=one.score,
            why=one.why if question.says_why else "", kind=item.kind, role=None, scope=opened.path,
            spans=(), at=item.stated_at, valid=item.valid, tags=item.tags, pinned=item.pinned,
            source=item.source, features=one.features if question.says_why else {},
        )  # fmt: skip


class _SessionNames:
    """Of sessions by their numbers; hits are often of the same ones."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[int, str | None] = {}

    def of(self, number: int) -> str | None:
        if number not in self._known:
            row = self._tables.sessions.get(number)
            self._known[number] = None if row is None else row.id
        return self._known[number]


def _place(one: _Candidate, opened: dict[int, _Opened]) -> Place | None:
    """Where a message is; None for what was stated."""
    if one.source < 0:
        return None
    return Place(opened[one.number].scope.visible.line(one.source, one.seq), one.seq)


def tokens_of(text: str) -> int:
    """An estimate that needs no tokenizer: characters by four, rounded up."""
    return -(-len(text) // _CHARS_A_TOKEN)


def _candidates(one: _Opened, ranked: Ranked) -> Iterator[_Candidate]:
    """One by one: most are never asked for."""
    entries = one.scope.index.entries
    for place, (at, total) in enumerate(zip(ranked.numbers, ranked.sums, strict=True)):
        yield _Candidate(
            float(total), one.number, int(entries.source[at]), int(entries.seq[at]),
            int(entries.chars[at]), ranked, place,
        )  # fmt: skip


def _priors(index: ScopeIndex, items: ItemColumns) -> Priors | None:
    """Importance as it was stated, and what feedback said. None where there are no items."""
    if not len(items):
        return None
    rows = items.rows_of(index.entries.source, index.entries.seq)
    importance = np.where(rows >= 0, (items.importance[rows] - IMPORTANCE) * _IMPORTANCE_WEIGHT, 0)
    feedback = np.where(rows >= 0, items.reward[rows] * _FEEDBACK_WEIGHT, 0)
    return Priors(importance.astype(np.float32), feedback.astype(np.float32))


def _fitting(rest: Iterator[_Candidate], count: int, tokens: int | None) -> Iterable[_Candidate]:
    """The next `count` at most, those that fit one after the other: what does not is left out. An
    item's entry is longer than its text, so that one is tried."""
    left = tokens
    for one in rest:
        need = -(-one.chars // _CHARS_A_TOKEN)
        if left is not None:
            if need > left and one.source > 0:
                continue
            left -= min(need, left)
        yield one
        count -= 1
        if not count:
            return


def _why_none(question: Asked, query: Query, entries: int, candidates: int) -> str:
    if not entries:
        return f"nothing in scope {question.scope!r} has text"
    if not query.says_something:
        return "the query has no word that says anything"
    if candidates:
        return "nothing there is good enough, short enough, or was known then"
    filters = [name for name in ("kinds", "tags", "valid_at") if _is_given(question, name)]
    return f"nothing there passes {' and '.join(filters)}" if filters else "nothing there is so now"


def _is_given(question: Asked, name: str) -> bool:
    if name == "valid_at":
        return question.valid_us is not None
    return bool(question.tags) if name == "tags" else question.kinds is not None
