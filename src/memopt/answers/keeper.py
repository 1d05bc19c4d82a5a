"""What others ask of answers: whatever is taken away takes along the answers it was used for.

An answer hangs on the items and messages that its caller named. What a request said before its last
question is not kept, only its digest; so where a conversation loses a message, every answer of the
scope goes that was given within a conversation, and where a text is forgotten, every answer to a
request that said more than its question. A cache may always let go of more than it must.

Owns: that rule. Invariant: after a commit that takes something away, no answer is left that it
could be in. Not here: forgetting itself (sessions/forgetting.py), and rows (rows.py).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from memopt.answers.bodies import open_body
from memopt.answers.categories import open_category
from memopt.answers.rows import AnswerRows, checked_counts, heads, note_gone
from memopt.answers.takings import Takings
from memopt.base.answer_records import AnswerRow, History, Use
from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.item_records import Mark
from memopt.base.protocols import Compressor, Reader
from memopt.base.records import Selector, to_us
from memopt.codecs.message import contains
from memopt.journal.commit import CommitTransaction, GroupCommitter

_ROWS_AT_ONCE: Final = 256
_FORGOTTEN_A_COMMIT: Final = 512
_ALL: Final = 2**62


class Keeper:
    """The AnswerKeeper of a store, and an ItemWatcher. Thread-safe."""

    def __init__(
        self, home: Reader, committer: GroupCommitter, compressor: Compressor, rows: AnswerRows,
        budget: Budget,
    ) -> None:  # fmt: skip
        self._home = home
        self._committer = committer
        self._compressor = compressor
        self._rows = rows
        self.takings = Takings(committer, budget)

    # -- forgetting -------------------------------------------------------------------------------

    def matching(self, scope_number: int, selector: Selector) -> list[int]:
        by_time = selector.since is not None or selector.until is not None
        if selector.items or selector.source is not None or selector.tags:
            return []
        if not by_time and selector.containing is None and not selector.whole_scope:
            return []
        return [
            answer
            for answer, row in self._all(scope_number)
            if row is None or self._matches(row, selector)
        ]

    def _matches(self, row: AnswerRow, selector: Selector) -> bool:
        if selector.since is not None and row.made_us < to_us(selector.since):
            return False
        if selector.until is not None and row.made_us >= to_us(selector.until):
            return False
        text = selector.containing
        return text is None or row.history != History.NONE or self._holds(row, text)

    def _holds(self, row: AnswerRow, text: str) -> bool:
        with self._home.snapshot() as tables:
            whole = tables.answers.get(row.answer)
            category = tables.answer_categories.get(row.category)
        if whole is None:
            return False
        try:
            body = open_body(self._compressor, whole)
        except (CorruptionError, StoreVersionError):
            # It may hold the text.
            return True
        names = [row.model or "", category.name if category is not None else ""]
        return contains([body.question, body.response, *body.tags, *body.uses, *names], text)

    def forget(self, scope: str, answers: Sequence[int], text: str | None) -> None:
        for at in range(0, len(answers), _FORGOTTEN_A_COMMIT):
            some = answers[at : at + _FORGOTTEN_A_COMMIT]
            self._committer.commit(
                lambda t, some=some: self._forget(t, scope, some, text)  # type: ignore[misc]
            )

    def _forget(
        self, transaction: CommitTransaction, scope: str, some: Sequence[int], text: str | None
    ) -> None:
        self.takings.took_answers(scope)
        if not self._rows.delete_for_good(transaction, some):
            return
        number = transaction.tables.scopes.number(scope)
        if number is not None and text is not None:
            self._rows.delete_categories(transaction, number, text)
        note_gone(transaction, scope)

    def drop_all(self, transaction: CommitTransaction, scope_number: int) -> int:
        return self._rows.delete_all(transaction, scope_number)

    # -- items ------------------------------------------------------------------------------------

    def stated(
        self, transaction: CommitTransaction, scope_number: int, item: int, version: int
    ) -> None:
        """A new text of an item; or of another one that has the place of older ones."""
        tables = transaction.tables
        items = [item] if version > 1 else []
        row = tables.items.get(item)
        if row is not None and row.topic and not row.document:
            same = tables.item_topics.of_topic(scope_number, row.topic)
            items += [older.item for older in same if older.item != item]
        for one in items:
            self._drop_of(transaction, Use.ITEM, one, None)

    def marked(self, transaction: CommitTransaction, scope_number: int, item: int) -> None:
        """It is so no longer, or is again; a pin or a rating changes no answer."""
        marks = transaction.tables.item_marks.of_item(item)
        if marks and marks[-1].mark == Mark.END and marks[-1].lsn == transaction.lsn:
            self._drop_of(transaction, Use.ITEM, item, None)

    def forgotten(
        self, transaction: CommitTransaction, scope_number: int, item: int, versions: int
    ) -> None:
        self._drop_of(transaction, Use.ITEM, item, None)

    # -- messages ---------------------------------------------------------------------------------

    def taken(
        self, transaction: CommitTransaction, scope_number: int, line: int, seq: int | None
    ) -> None:
        """A message, or all of a line."""
        self._drop_of(transaction, Use.LINE, line, seq)
        self.takings.took_turn(scope_number)
        found = transaction.tables.answer_order.of_turns(scope_number, _ALL)
        if found:
            self._rows.delete_for_good(transaction, found)

    def _drop_of(
        self, transaction: CommitTransaction, kind: int, source: int, seq: int | None
    ) -> None:
        self.takings.took(kind, source, seq)
        found = transaction.tables.answer_uses.of(kind, source, seq, _ALL)
        if found:
            self._rows.delete_for_good(transaction, found)

    # -- checking ---------------------------------------------------------------------------------

    def check(self, scope_number: int) -> tuple[int, int, list[str]]:
        """Verify every answer, its entry, and the counts: (answers, bytes, what is damaged)."""
        from memopt.answers.entry import open_entry

        answers = size = 0
        damages: list[str] = []
        try:
            for answer, _ in self._all(scope_number):
                answers += 1
                try:
                    with self._home.snapshot() as tables:
                        row = tables.answers.get(answer)
                        record = tables.answer_entries.get(scope_number, answer)
                    if row is None:
                        answers -= 1
                        continue
                    size += len(row.body)
                    open_body(self._compressor, row)
                    open_entry(scope_number, row.answer, record or b"")
                except (CorruptionError, StoreVersionError) as error:
                    damages.append(str(getattr(error, "reason", error)))
            with self._home.snapshot() as tables:
                counted = checked_counts(tables, scope_number)
                for category in tables.answer_categories.of_scope(scope_number):
                    open_category(category)
                    found = counted.get(category.category, (0, 0))
                    if found != (category.answers, category.size_bytes):
                        damages.append(
                            f"answer category {category.name!r} counts {category.answers} of "
                            f"{category.size_bytes} bytes, and there are {found[0]} of {found[1]}"
                        )
        except (CorruptionError, StoreVersionError) as error:
            damages.append(f"its answers: {getattr(error, 'reason', error)}")
        return answers, size, damages

    def _all(self, scope_number: int) -> Iterator[tuple[int, AnswerRow | None]]:
        after = 0
        while True:
            with self._home.snapshot() as tables:
                rows = heads(tables, scope_number, after, _ROWS_AT_ONCE)
            if not rows:
                return
            yield from rows
            after = rows[-1][0]
