"""The rows of answers: what a commit changes of them, and what it has to keep true.

Owns: storing and taking away. Invariant: a category's counts are those of its answers, an answer
has its entry, and what it hangs on goes with it. Memory is told after the commit. Not here: what
is stored (cache.py), and who may ask for it to go (keeper.py). Imports no numpy, for whoever takes
away a message has to come by here.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from memopt.answers.categories import (
    CATEGORIES_MAX,
    Learnt,
    Settings,
    open_category,
    pack_category,
)
from memopt.answers.residents import ResidentQuestions
from memopt.base.answer_records import AnswerRow, CategoryRow, UseRow
from memopt.base.errors import CapacityError, CorruptionError
from memopt.base.protocols import Tables
from memopt.base.records import EventRow, JournalRecord, RecordKind, to_datetime
from memopt.journal.commit import CommitTransaction

if TYPE_CHECKING:
    from memopt.answers.entry import Entry

ROW_BYTES: Final = 256
"""What an answer occupies beside its body and its entry."""
_RECORD_BYTES: Final = 512
_UNTOLD: Final = pack_category(Settings(), Learnt())
"""Of a category of which nothing was said."""


class AnswerRows:
    """For members of a commit."""

    def __init__(self, residents: ResidentQuestions) -> None:
        self._residents = residents

    # -- categories -------------------------------------------------------------------------------

    def category(self, transaction: CommitTransaction, scope_number: int, name: str) -> CategoryRow:
        """Made if it is not there. Raises CapacityError where a scope has too many."""
        table = transaction.tables.answer_categories
        row = table.find(scope_number, name)
        if row is None:
            if len(table.of_scope(scope_number)) >= CATEGORIES_MAX:
                raise CapacityError(
                    f"the scope has {CATEGORIES_MAX} categories of answers", limit="categories"
                )
            row = CategoryRow(0, scope_number, name, transaction.next_lsn(), 0, 0, _UNTOLD)
            row = row._replace(category=table.put(row))
        return row

    def learn(
        self, transaction: CommitTransaction, row: CategoryRow, bin: int, is_right: bool
    ) -> None:
        settings, learnt = open_category(row)
        self.put_category(transaction, row, settings, learnt.told(bin, is_right))

    def put_category(
        self, transaction: CommitTransaction, row: CategoryRow, settings: Settings, learnt: Learnt
    ) -> None:
        body = pack_category(settings, learnt)
        row = row._replace(body=body, lsn=transaction.next_lsn())
        transaction.tables.answer_categories.put(row)
        self._tell_kinds(transaction, row.scope_number)

    def _tell_kinds(self, transaction: CommitTransaction, scope_number: int) -> None:
        transaction.after_commit(lambda: self._residents.forget_kinds(scope_number))

    # -- answers ----------------------------------------------------------------------------------

    def put(
        self, transaction: CommitTransaction, row: AnswerRow, entry: "Entry", record: bytes,
        uses: Iterable[UseRow],
    ) -> None:  # fmt: skip
        """A new one, whose key nobody has, and whose category is there."""
        tables = transaction.tables
        tables.answers.put(row)
        tables.answer_entries.put(row.scope_number, row.answer, record)
        for use in uses:
            tables.answer_uses.put(use)
        self._count(transaction, row.category, 1, row.size_bytes)
        scope_number, answer = row.scope_number, row.answer
        transaction.after_commit(lambda: self._residents.changed(scope_number, answer, entry))

    def replace_entry(
        self, transaction: CommitTransaction, row: AnswerRow, entry: "Entry", record: bytes
    ) -> None:
        """An answer is compared otherwise from now on, or not at all."""
        transaction.tables.answer_entries.put(row.scope_number, row.answer, record)
        scope_number, answer = row.scope_number, row.answer
        if entry.is_exact:
            transaction.after_commit(lambda: self._residents.changed(scope_number, answer, None))
        else:
            transaction.after_commit(lambda: self._residents.drop(scope_number))

    def delete_for_good(self, transaction: CommitTransaction, answers: Iterable[int]) -> int:
        """The same, and the categories that are left with nothing: no answer, no setting, no
        verdict."""
        tables = transaction.tables
        heads = {answer: tables.answer_order.whereabouts(answer) for answer in answers}
        categories = {answer: head[1] for answer, head in heads.items() if head is not None}
        count = self.delete(transaction, categories)
        for category in set(categories.values()):
            row = tables.answer_categories.get(category)
            if row is not None and not row.answers and row.body == _UNTOLD:
                tables.answer_categories.delete(category)
                self._tell_kinds(transaction, row.scope_number)
        return count

    def delete(self, transaction: CommitTransaction, answers: Iterable[int]) -> int:
        """How many of them were there."""
        tables = transaction.tables
        gone: dict[int, list[int]] = {}
        whole: list[tuple[int, int]] = []
        for answer in dict.fromkeys(answers):
            # Not verified: what is damaged has to go as well.
            head = tables.answer_order.whereabouts(answer)
            if head is None:
                continue
            scope_number, category, size_bytes = head
            tables.answers.delete(answer)
            tables.answer_entries.delete(scope_number, answer)
            tables.answer_uses.delete(answer)
            gone.setdefault(category, []).append(size_bytes)
            whole.append((scope_number, answer))
        for category, sizes in gone.items():
            self._count(transaction, category, -len(sizes), -sum(sizes))
        if whole:
            transaction.after_commit(lambda: self._tell_gone(whole))
        return len(whole)

    def _tell_gone(self, answers: list[tuple[int, int]]) -> None:
        for scope_number, answer in answers:
            self._residents.changed(scope_number, answer, None)

    def _count(
        self, transaction: CommitTransaction, category: int, answers: int, size_bytes: int
    ) -> None:
        table = transaction.tables.answer_categories
        row = table.get(category)
        assert row is not None, f"answer category {category} is missing"
        table.put(
            row._replace(
                lsn=transaction.next_lsn(), answers=row.answers + answers,
                size_bytes=row.size_bytes + size_bytes,
            )
        )  # fmt: skip

    def delete_categories(
        self, transaction: CommitTransaction, scope_number: int, text: str
    ) -> None:
        """Those without answers whose names hold a text."""
        tables = transaction.tables
        for row in tables.answer_categories.of_scope(scope_number):
            if text in row.name and not row.answers:
                tables.answer_categories.delete(row.category)
                self._tell_kinds(transaction, scope_number)

    def delete_all(self, transaction: CommitTransaction, scope_number: int) -> int:
        """Everything of a scope, and what was learnt of it; how many answers."""
        tables = transaction.tables
        count = 0
        while rows := tables.answer_entries.range(scope_number, 0, 1024):
            for answer, _ in rows:
                tables.answers.delete(answer)
                tables.answer_entries.delete(scope_number, answer)
                tables.answer_uses.delete(answer)
            count += len(rows)
        categories = tables.answer_categories.of_scope(scope_number)
        for row in categories:
            tables.answer_categories.delete(row.category)
        if count or categories:
            transaction.after_commit(lambda: self._residents.drop(scope_number))
        return count


def note_gone(transaction: CommitTransaction, scope: str | None) -> int:
    """In a commit: a record of its own for what a user had taken away; its LSN."""
    lsn, kind = transaction.next_lsn(), RecordKind.ANSWERS_DELETED
    at_us = transaction.at_us
    transaction.tables.events.put(EventRow(lsn, at_us, kind, 0, 0, -1, None))
    record = JournalRecord(lsn=lsn, at=to_datetime(at_us), kind=kind, scope=scope)
    transaction.publish(record, _RECORD_BYTES)
    return lsn


def heads(
    tables: Tables, scope_number: int, after: int, limit: int
) -> list[tuple[int, AnswerRow | None]]:
    """Answers by their numbers, without their bodies; None for a row that is damaged, of which
    nothing is known: whoever takes away takes it, too."""
    try:
        return [(row.answer, row) for row in tables.answers.page(scope_number, after, limit)]
    except CorruptionError:
        numbers = [answer for answer, _ in tables.answer_entries.range(scope_number, after, limit)]
    return [(answer, _head(tables, answer)) for answer in numbers]


def _head(tables: Tables, answer: int) -> AnswerRow | None:
    try:
        return tables.answers.get(answer)
    except CorruptionError:
        return None


def checked_counts(tables: Tables, scope_number: int) -> dict[int, tuple[int, int]]:
    """Answers and bytes of each category, as their rows have them."""
    found: dict[int, tuple[int, int]] = {}
    after = 0
    while rows := tables.answers.page(scope_number, after, 1024):
        for row in rows:
            count, size = found.get(row.category, (0, 0))
            found[row.category] = (count + 1, size + row.size_bytes)
        after = rows[-1].answer
    return found
