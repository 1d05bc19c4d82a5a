"""The answer cache of a store, put together: what is asked of it, what others tell it, its upkeep.

numpy, the embedder and the models are brought in by the first lookup or the first store, not by
opening a store. Owns: what arguments may be. Not here: each part's own work (cache.py, keeper.py,
flights.py, residents.py).
"""

import threading
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from memopt.answers.categories import GENERAL, check_settings, kinds_of, open_category
from memopt.answers.flights import Flights
from memopt.answers.keeper import Keeper
from memopt.answers.parts import AnswerParts
from memopt.answers.rows import heads, note_gone
from memopt.base.answer_records import (
    Answer,
    AnswerRow,
    Cached,
    Category,
    Made,
    Miss,
    MissReason,
    Verdict,
)
from memopt.base.errors import CapacityError, MemoptError, UsageError
from memopt.base.events import AnswerJudged, AnswersEvicted
from memopt.base.moments import check_time
from memopt.base.names import check_name, check_scope
from memopt.journal.commit import CommitTransaction

if TYPE_CHECKING:
    from memopt.answers.cache import AnswerCache
    from memopt.answers.comparing import LazyComparer
    from memopt.answers.matching import Matcher
    from memopt.answers.storing import AnswerStoring

USES_MAX: Final = 256
TAGS_MAX: Final = 64
ALLOWED: Final = (
    MissReason.TOOLS, MissReason.MANY, MissReason.IMAGES, MissReason.LOG_PROBABILITIES,
    MissReason.TEMPERATURE,
)  # fmt: skip
"""What is not cached unless it is asked for."""
_EXPIRED_A_COMMIT: Final = 256
_EXPIRED_COMMITS_MAX: Final = 16
_RENEWED_AT_ONCE: Final = 128
_ROWS_AT_ONCE: Final = 512
_ALL: Final = 2**62


class _Made(NamedTuple):
    """What the first use brings in."""

    comparer: "LazyComparer"
    cache: "AnswerCache"
    storing: "AnswerStoring"


class AnswerEngine:
    """Thread-safe."""

    def __init__(self, parts: AnswerParts, keeper: Keeper) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._made: _Made | None = None
        self.flights = Flights(parts.config.answer_waiters_max)
        self.keeper = keeper

    def _work(self) -> "_Made":
        if self._made is None:
            from memopt.answers.cache import AnswerCache
            from memopt.answers.comparing import LazyComparer
            from memopt.answers.storing import AnswerStoring

            parts = self._parts
            with self._lock:
                if self._made is None:
                    comparer = LazyComparer(parts.embedder, parts.make_lexicon, parts.budget)
                    served: set[int] = set()
                    self._made = _Made(
                        comparer, AnswerCache(parts, comparer, served),
                        AnswerStoring(parts, comparer, served),
                    )  # fmt: skip
        return self._made

    def use_matcher(self, matcher: "Matcher") -> None:
        """Other models than the shipped ones, for whoever measures them."""
        comparer = self._work().comparer.get()
        if comparer is None:
            raise UsageError("the store has no embedder", field="embedder")
        comparer.matcher = matcher

    # -- verbs ------------------------------------------------------------------------------------

    def lookup(self, request: Any, scope: str, allow: Any) -> Answer | Miss:
        path, allowed = check_scope(scope), _allowed(allow)
        cache = self._work().cache
        return cache.lookup(cache.asked(request), path, allowed)

    def store(
        self, request: Any, response: Any, scope: str, category: str | None, uses: Any, tags: Any,
        allow: Any,
    ) -> Cached | Miss:  # fmt: skip
        begun = self._parts.takings.begun()
        return self._store(request, response, scope, category, uses, tags, allow, begun)

    def _store(
        self, request: Any, response: Any, scope: str, category: str | None, uses: Any, tags: Any,
        allow: Any, begun: int,
    ) -> Cached | Miss:  # fmt: skip
        """`begun`: when the response was begun to be made."""
        path, allowed = check_scope(scope), _allowed(allow)
        cache = self._work().cache
        asked = cache.asked(request)
        named = _strings(uses, "uses", USES_MAX)
        refusal = next((reason for reason in asked.refusals if reason not in allowed), None)
        if refusal is not None:
            return Miss(reason=refusal)
        return self._work().storing.store(
            asked, response, path, _category(category), named,
            [self._place_of(use, number) for number, use in enumerate(named)],
            _names(tags, "tags", TAGS_MAX), begun,
        )  # fmt: skip

    def _place_of(self, use: str, number: int) -> tuple[int, int, int]:
        try:
            return self._parts.sources.place_of(use)
        except UsageError as error:
            raise UsageError(error.reason, field=f"uses[{number}]") from None

    def through(
        self, request: Any, make: Callable[[], Any], scope: str, category: str | None, uses: Any,
        tags: Any, allow: Any, wait_seconds: float | None,
    ) -> Answer | Made:  # fmt: skip
        """An answer, or what `make` gives, stored; of equal calls at once, one makes it."""
        if not callable(make):
            raise UsageError(f"expected a callable, got {type(make).__name__}", field="make")
        wait = self._parts.config.answer_wait_seconds if wait_seconds is None else wait_seconds
        if not isinstance(wait, int | float) or isinstance(wait, bool) or wait < 0:
            raise UsageError(f"expected seconds, got {wait_seconds!r}", field="wait_seconds")
        path, allowed = check_scope(scope), _allowed(allow)
        cache = self._work().cache
        asked = cache.asked(request)
        found = cache.lookup(asked, path, allowed)
        if isinstance(found, Answer):
            return found
        if any(reason not in allowed for reason in asked.refusals):
            return Made(response=make(), miss=found, is_shared=False, is_stored=False)

        def make_and_store() -> Answer | Made:
            # Somebody may have stored it between the lookup and here.
            again = cache.lookup(asked, path, allowed)
            if isinstance(again, Answer):
                return again
            begun = self._parts.takings.begun()
            response = make()
            try:
                kept = self._store(request, response, path, category, uses, tags, allow, begun)
            except CapacityError:
                # It was paid for, and whoever asked gets it; it is not there the next time.
                return Made(response=response, miss=again, is_shared=False, is_stored=False)
            if isinstance(kept, Miss):
                return Made(response=response, miss=kept, is_shared=False, is_stored=False)
            return Made(response=response, miss=again, is_shared=False)

        key = path, asked.context, asked.key, asked.wants_stream
        landed = self.flights.join(key, make_and_store, wait_seconds=wait)
        if isinstance(landed.result, Made) and landed.is_shared:
            return msgspec.structs.replace(landed.result, is_shared=True)
        return landed.result

    def feedback(self, answer_id: Any, verdict: Any) -> Category:
        try:
            judged = Verdict(verdict)
        except ValueError:
            choices = ", ".join(Verdict)
            raise UsageError(
                f"expected one of {choices}, got {verdict!r}", field="verdict"
            ) from None
        category = self._work().storing.feedback(answer_id, judged)
        self._parts.events.emit(AnswerJudged(judged))
        return category

    # -- categories -------------------------------------------------------------------------------

    def set_category(self, name: str, scope: str, **settings: Any) -> Category:
        """Made if it is not there; what is None is as the store is configured."""
        path, checked = check_scope(scope), check_settings(**settings)
        name = _category(name)
        parts = self._parts

        def member(transaction: CommitTransaction) -> Category:
            number, _ = parts.owners.make(transaction, path, None, None)
            row = parts.rows.category(transaction, number, name)
            _, learnt = open_category(row)
            parts.rows.put_category(transaction, row, checked, learnt)
            share = parts.config.answer_wrong_share
            return kinds_of(transaction.tables, number, share).described(row.category)

        parts.admit(0)
        return parts.committer.commit(member)

    def categories(self, scope: str) -> list[Category]:
        path = check_scope(scope)
        with self._parts.home.snapshot() as tables:
            number = tables.scopes.number(path)
            if number is None:
                return []
            kinds = kinds_of(tables, number, self._parts.config.answer_wrong_share)
        return [kinds.described(category) for category in kinds.rows]

    # -- taking away ------------------------------------------------------------------------------

    def invalidate(
        self, scope: str, uses: Any, tags: Any, model: str | None, category: str | None,
        before: datetime | None,
    ) -> int:  # fmt: skip
        """Take away the answers of a scope that all of this is true of, and those that are
        damaged; how many."""
        path = check_scope(scope)
        named, tagged = _strings(uses, "uses", USES_MAX), _names(tags, "tags", TAGS_MAX)
        if not (named or tagged) and model is None and category is None and before is None:
            raise UsageError(
                "say which: uses=…, tags=…, model=…, category=… or before=…", field="uses"
            )
        before_us = None if before is None else check_time(before, field="before")
        # Of its own, and first: an answer that is being made is not among those that are there.
        self._parts.committer.commit(lambda t: self._note(t, path))
        with self._parts.home.snapshot() as tables:
            number = tables.scopes.number(path)
            kind = None
            if number is not None and category is not None:
                kind = tables.answer_categories.find(number, _category(category))
        if number is None or (category is not None and kind is None):
            return 0
        hanging = self._hanging(number, named, tagged)

        def chosen(row: AnswerRow) -> bool:
            return (
                (hanging is None or row.answer in hanging)
                and (model is None or row.model == model)
                and (kind is None or row.category == kind.category)
                and (before_us is None or row.made_us < before_us)
            )

        gone = 0
        for some in self._chosen(number, chosen):
            gone += self._parts.committer.commit(lambda t, some=some: self._take(t, path, some))  # type: ignore[misc]
        return gone

    def _note(self, transaction: CommitTransaction, path: str) -> None:
        self._parts.takings.took_answers(path)
        transaction.next_lsn()

    def _hanging(self, number: int, uses: Iterable[str], tags: Iterable[str]) -> set[int] | None:
        """The answers that hang on any of these; None where none is named."""
        from memopt.answers.hits import tag_row

        rows = [self._place_of(use, n) for n, use in enumerate(uses)]
        rows += [tag_row(number, tag) for tag in tags]
        if not rows:
            return None
        found: set[int] = set()
        with self._parts.home.snapshot() as tables:
            for kind, source, seq in rows:
                found.update(tables.answer_uses.of(kind, source, seq, _ALL))
        return found

    def _chosen(self, number: int, chosen: Callable[[AnswerRow], bool]) -> Iterable[list[int]]:
        after = 0
        while True:
            with self._parts.home.snapshot() as tables:
                rows = heads(tables, number, after, _ROWS_AT_ONCE)
            if not rows:
                return
            some = [answer for answer, row in rows if row is None or chosen(row)]
            if some:
                yield some
            after = rows[-1][0]

    def _take(self, transaction: CommitTransaction, path: str, answers: list[int]) -> int:
        gone = self._parts.rows.delete_for_good(transaction, answers)
        if gone:
            note_gone(transaction, path)
        return gone

    # -- upkeep -----------------------------------------------------------------------------------

    def maintain(self) -> None:
        self.expire()
        self.renew()

    def expire(self) -> int:
        """Take away what has expired, some commits' worth; how many."""
        parts, gone = self._parts, 0
        for _ in range(_EXPIRED_COMMITS_MAX):
            now_us = parts.clock.now_us()
            with parts.home.snapshot() as tables:
                some = tables.answer_order.expired(now_us, _EXPIRED_A_COMMIT)
            if not some:
                break
            gone += parts.committer.commit(lambda t, some=some: parts.rows.delete_for_good(t, some))  # type: ignore[misc]
        if gone:
            parts.events.emit(AnswersEvicted(gone))
        return gone

    def renew(self) -> None:
        """Embed some questions anew whose vectors are of another space."""
        if self._made is not None and self._parts.residents.foreign(1):
            try:
                self._made.storing.renew(_RENEWED_AT_ONCE)
            except MemoptError:
                # An embedder that fails is asked again the next time.
                return

    def close(self) -> None:
        self.flights.close()
        self._parts.residents.clear()
        if self._made is not None:
            self._made.comparer.close()

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._parts.residents.abandon()


def _allowed(allow: Any) -> Collection[MissReason]:
    if isinstance(allow, str) or not isinstance(allow, Iterable):
        raise UsageError(f"expected a sequence, got {allow!r}", field="allow")
    found = []
    for number, one in enumerate(allow):
        if one not in ALLOWED:
            raise UsageError(
                f"expected one of {', '.join(ALLOWED)}, got {one!r}", field=f"allow[{number}]"
            )
        found.append(MissReason(one))
    return found


def _category(name: Any) -> str:
    return GENERAL if name is None else check_name(name, field="category")


def _strings(values: Any, field: str, most: int) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"expected a sequence of texts, got {values!r}", field=field)
    several = tuple(values)
    for number, value in enumerate(several):
        if not isinstance(value, str) or not value:
            raise UsageError(f"expected a text, got {value!r:.80}", field=f"{field}[{number}]")
    found = tuple(dict.fromkeys(several))
    if len(found) > most:
        raise UsageError(f"{len(found)} of them, at most {most}", field=field)
    return found


def _names(values: Any, field: str, most: int) -> tuple[str, ...]:
    return tuple(
        check_name(value, field=f"{field}[{number}]")
        for number, value in enumerate(_strings(values, field, most))
    )
