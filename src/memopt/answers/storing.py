"""Storing answers: room for them, verdicts on them, and vectors of another space.

Owns: what a store and a verdict change. Invariant: an answer and what it takes the place of are one
commit, and no quota is exceeded after it. Not here: looking up (cache.py), rows (rows.py), what is
taken away by others (keeper.py).
"""

from collections.abc import Sequence
from typing import Any, Final

from memopt.answers.bodies import open_body, pack_body
from memopt.answers.categories import kinds_of, open_category
from memopt.answers.comparing import LazyComparer
from memopt.answers.entry import PENDING_SPACE, entry_of, number_of, open_entry, pack_entry
from memopt.answers.hits import id_of, read_id, tag_row
from memopt.answers.parts import AnswerParts
from memopt.answers.replay import said
from memopt.answers.request import QUESTION_CHARACTERS_MAX, Asked, digest_of
from memopt.answers.rows import ROW_BYTES
from memopt.base.answer_records import (
    AnswerRow,
    Cached,
    Category,
    CategoryRow,
    History,
    Match,
    Miss,
    MissReason,
    UseRow,
    Verdict,
)
from memopt.base.errors import CapacityError, MemoptError, NotFoundError, UsageError
from memopt.base.events import AnswersEvicted, AnswerStored
from memopt.base.item_records import FOREVER
from memopt.codecs.message import encode_json
from memopt.journal.commit import CommitTransaction

_EVICTED_AT_ONCE: Final = 64


class AnswerStoring:
    """Thread-safe."""

    def __init__(self, parts: AnswerParts, comparer: LazyComparer, served: set[int]) -> None:
        """`served`: answers that were served since somebody looked for room; they are passed over
        once."""
        self._parts = parts
        self._comparer = comparer
        self._served = served

    # -- storing ----------------------------------------------------------------------------------

    def store(
        self, asked: Asked, response: Any, scope: str, category: str, uses: Sequence[str],
        use_rows: Sequence[tuple[int, int, int]], tags: Sequence[str], begun: int,
    ) -> Cached | Miss:  # fmt: skip
        """`use_rows`: (kind, source, seq) of `uses`; `begun`: what `takings` said before the
        response was made. Raises UsageError, BudgetError and CapacityError."""
        parts = self._parts
        config = parts.config
        raw = encode_json(
            response, bytes_max=config.message_bytes_max, depth_max=config.message_depth_max,
            field="response",
        )  # fmt: skip
        is_stream = isinstance(response, list)
        if is_stream and not response:
            raise UsageError("a stream without a chunk", field="response")
        gone = next((use for use in uses if not parts.sources.is_said(use)), None)
        if gone is not None:
            return Miss(reason=MissReason.USES, detail=f"there is no {gone}, or no longer")
        parts.admit(len(raw))
        question = asked.question
        vector, space = self._embedded(question)
        body = pack_body(
            parts.compressor, asked.context, asked.key, question=question,
            is_stream=is_stream, response=response, uses=tuple(uses), tags=tuple(tags),
        )  # fmt: skip
        digest = number_of(digest_of(said(response)))

        def member(transaction: CommitTransaction) -> Cached | Miss:
            until_us = self._until(transaction, asked, scope, uses, use_rows, begun)
            if isinstance(until_us, Miss):
                # What began before this commit is refused, and not what begins after it.
                transaction.next_lsn()
                return until_us
            number, _ = parts.owners.make(transaction, scope, None, None)
            kind = parts.rows.category(transaction, number, category)
            settings, _ = open_category(kind)
            ttl = settings.ttl_seconds or config.answer_ttl_seconds
            at_us = transaction.at_us
            lives_us = until_us if ttl is None else min(until_us, at_us + int(ttl * 1e6))
            expires_us = None if lives_us == FOREVER else lives_us
            entry = entry_of(
                vector, context=asked.context, response=digest, expires_us=expires_us, space=space
            )
            same = transaction.tables.answers.find(number, asked.context, asked.key)
            if same is not None:
                parts.rows.delete(transaction, [same.answer])
            answer = transaction.next_lsn()
            record = pack_entry(number, answer, entry)
            size_bytes = len(body) + len(record) + ROW_BYTES
            most = settings.answers_max or config.answers_max
            evicted = self._make_room(transaction, number, kind, most, size_bytes)
            row = AnswerRow(
                answer, number, kind.category, asked.context, asked.key, asked.model,
                asked.history, at_us, expires_us, size_bytes, body,
            )  # fmt: skip
            named = [*use_rows, *(tag_row(number, tag) for tag in tags)]
            parts.rows.put(transaction, row, entry, record, [UseRow(*use, answer) for use in named])
            return Cached(
                answer_id=id_of(answer, kind.category, Match.EXACT, 1.0), lsn=answer,
                category=category, size_bytes=size_bytes, evicted=evicted,
            )  # fmt: skip

        cached = parts.committer.commit(member)
        if isinstance(cached, Miss):
            return cached
        parts.events.emit(AnswerStored(cached.size_bytes))
        if cached.evicted:
            parts.events.emit(AnswersEvicted(cached.evicted))
        return cached

    def _until(
        self, transaction: CommitTransaction, asked: Asked, scope: str, uses: Sequence[str],
        use_rows: Sequence[tuple[int, int, int]], begun: int,
    ) -> int | Miss:  # fmt: skip
        """Until when all is so that an answer was made of; or why it may not be stored."""
        tables, until_us = transaction.tables, FOREVER
        has_turns = asked.history == History.TURNS
        if self._parts.takings.taken_since(
            begun, scope, tables.scopes.number(scope), use_rows, has_turns=has_turns
        ):
            detail = "what it was made of was changed or taken away meanwhile"
            return Miss(reason=MissReason.USES, detail=detail)
        for use, (kind, source, _) in zip(uses, use_rows, strict=True):
            stop = self._parts.sources.until(tables, kind, source, transaction.at_us)
            if stop is None:
                return Miss(
                    reason=MissReason.USES, detail=f"there is no {use}, or it is so no longer"
                )
            until_us = min(until_us, stop)
        return until_us

    def _embedded(self, question: str | None) -> tuple[Any, int]:
        """(vector, space); where there is no vector now and may be one later, a space of its own,
        for maintenance to see."""
        if question is None or len(question) > QUESTION_CHARACTERS_MAX:
            return None, 0
        try:
            comparer = self._comparer.get()
            if comparer is None:
                return None, 0
            vector = comparer.vector(question)
        except MemoptError:
            return None, PENDING_SPACE
        return vector, comparer.space if vector is not None else 0

    def _make_room(
        self, transaction: CommitTransaction, scope_number: int, kind: CategoryRow, most: int,
        size_bytes: int,
    ) -> int:  # fmt: skip
        """Let the oldest go, until one more answer of a category fits; how many went."""
        limit = self._parts.config.answer_bytes_max
        if size_bytes > limit:
            raise UsageError(
                f"{size_bytes} bytes, and all answers of a scope may take {limit}", field="response"
            )
        table, evicted = transaction.tables.answer_categories, 0
        while True:
            rows = table.of_scope(scope_number)
            full = next(
                (r for r in rows if r.category == kind.category and r.answers >= most), None
            )
            if full is None and sum(row.size_bytes for row in rows) + size_bytes > limit:
                full = max(rows, key=lambda row: row.size_bytes)
            if full is None:
                return evicted
            excess = max(1, min(full.answers - most + 1, _EVICTED_AT_ONCE))
            gone = self._evict(transaction, full.category, excess)
            if not gone:
                raise CapacityError("the answers of a scope are full", limit="answers_max")
            evicted += gone

    def _evict(self, transaction: CommitTransaction, category: int, count: int) -> int:
        """The oldest of a category, but that those which were served lately are passed over."""
        order = transaction.tables.answer_order
        oldest = order.oldest(category, 0, count + _EVICTED_AT_ONCE)
        fresh = [answer for answer in oldest if answer not in self._served]
        self._served.difference_update(oldest)
        return self._parts.rows.delete(transaction, (fresh or oldest)[:count])

    # -- feedback ---------------------------------------------------------------------------------

    def feedback(self, answer_id: Any, verdict: Verdict) -> Category:
        """What became of a hit. Raises UsageError for what is no id, NotFoundError where its
        category is gone."""
        answer, category, match, bin = read_id(answer_id)

        def member(transaction: CommitTransaction) -> Category:
            tables = transaction.tables
            kind = tables.answer_categories.get(category)
            row = tables.answers.get(answer)
            if kind is None or (row is not None and row.category != category):
                raise NotFoundError(f"there is no answer {answer_id!r}, or no longer")
            is_near = match in (Match.QUESTION, Match.NEIGHBOURS)
            if is_near and verdict is not Verdict.STALE:
                self._parts.rows.learn(transaction, kind, bin, verdict is Verdict.RIGHT)
            if row is not None and verdict is Verdict.WRONG and is_near:
                self._narrow(transaction, row)
            elif row is not None and verdict is not Verdict.RIGHT:
                self._parts.rows.delete(transaction, [answer])
            share = self._parts.config.answer_wrong_share
            return kinds_of(tables, kind.scope_number, share).described(category)

        self._parts.admit(0)
        return self._parts.committer.commit(member)

    def _narrow(self, transaction: CommitTransaction, row: AnswerRow) -> None:
        """Only an equal request gets it from now on."""
        record = transaction.tables.answer_entries.get(row.scope_number, row.answer)
        entry = open_entry(row.scope_number, row.answer, record or b"")._replace(is_exact=True)
        packed = pack_entry(row.scope_number, row.answer, entry)
        self._parts.rows.replace_entry(transaction, row, entry, packed)

    # -- another space ----------------------------------------------------------------------------

    def renew(self, limit: int) -> int:
        """Embed up to `limit` questions of scopes in RAM anew, whose vectors are of another space;
        how many."""
        parts, comparer = self._parts, self._comparer.get()
        if comparer is None:
            return 0
        renewed = 0
        for number in parts.residents.foreign(1):
            rows = self._of_another_space(number, limit, comparer.space)
            for row in rows:
                question = open_body(parts.compressor, row).question or ""
                vector = comparer.vector(question)

                def member(
                    t: CommitTransaction, row: AnswerRow = row, vector: Any = vector
                ) -> None:
                    self._renew(t, row, vector, comparer.space)

                parts.committer.commit(member)
                renewed += 1
            parts.residents.drop(number)
        return renewed

    def _of_another_space(self, number: int, limit: int, space: int) -> list[AnswerRow]:
        after = 0
        found: list[AnswerRow] = []
        while True:
            with self._parts.home.snapshot() as tables:
                records = tables.answer_entries.range(number, after, 256)
                for answer, record in records:
                    if open_entry(number, answer, record).space in (0, space):
                        continue
                    row = tables.answers.get(answer)
                    if row is not None:
                        found.append(row)
            if not records or len(found) >= limit:
                return found[:limit]
            after = records[-1][0]

    def _renew(
        self, transaction: CommitTransaction, row: AnswerRow, vector: Any, space: int
    ) -> None:
        record = transaction.tables.answer_entries.get(row.scope_number, row.answer)
        if record is None:
            return
        old = open_entry(row.scope_number, row.answer, record)
        new = entry_of(
            vector, context=row.context, response=old.response, expires_us=row.expires_us,
            space=space, is_exact=old.is_exact,
        )  # fmt: skip
        packed = pack_entry(row.scope_number, row.answer, new)
        self._parts.rows.replace_entry(transaction, row, new, packed)
