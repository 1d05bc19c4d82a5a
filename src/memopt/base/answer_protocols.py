"""The plug points of the answer cache: its tables in a home, and what others tell it.

As in protocols.py, each is narrow: at most five methods.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from memopt.base.answer_records import AnswerRow, CategoryRow, UseRow
from memopt.base.records import Selector


class AnswerTable(Protocol):
    """Answers by number and by key."""

    def get(self, answer: int) -> AnswerRow | None: ...
    def find(self, scope_number: int, context: bytes, question: bytes) -> AnswerRow | None: ...
    def put(self, row: AnswerRow) -> None:
        """Store a new one, whose key no other has."""
        ...

    def delete(self, answer: int) -> None: ...
    def page(self, scope_number: int, after: int, limit: int) -> list[AnswerRow]:
        """Up to `limit` of a scope with numbers above `after`, in order, without bodies."""
        ...


class AnswerOrder(Protocol):
    """The same answers by their age."""

    def oldest(self, category: int, after: int, limit: int) -> list[int]:
        """Up to `limit` of a category with numbers above `after`, in order."""
        ...

    def expired(self, at_us: int, limit: int) -> list[int]:
        """Up to `limit` of any scope that expired before a time, the longest first."""
        ...

    def whereabouts(self, answer: int) -> tuple[int, int, int] | None:
        """(scope, category, bytes), not verified: for whoever takes away what is damaged."""
        ...

    def of_turns(self, scope_number: int, limit: int) -> list[int]:
        """Up to `limit` of a scope that answer within a conversation."""
        ...

    def highest_lsn(self) -> int:
        """Of any answer, and of any change of a category."""
        ...


class AnswerEntryTable(Protocol):
    """What is compared of the questions of a scope, apart from the answers."""

    def get(self, scope_number: int, answer: int) -> bytes | None: ...
    def put(self, scope_number: int, answer: int, record: bytes) -> None: ...
    def delete(self, scope_number: int, answer: int) -> None: ...
    def range(self, scope_number: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` (answer, record) with numbers above `after`, in order."""
        ...


class AnswerUseTable(Protocol):
    """What answers hang on."""

    def put(self, row: UseRow) -> None: ...
    def of(self, kind: int, source: int, seq: int | None, limit: int) -> list[int]:
        """Up to `limit` answers that hang on it; `seq` None: on anything of that source."""
        ...

    def delete(self, answer: int) -> None: ...


class AnswerCategoryTable(Protocol):
    """Kinds of questions by scope."""

    def get(self, category: int) -> CategoryRow | None: ...
    def find(self, scope_number: int, name: str) -> CategoryRow | None: ...
    def put(self, row: CategoryRow) -> int:
        """Store it, in the place of what was there; 0 asks for the next number. The number."""
        ...

    def of_scope(self, scope_number: int) -> list[CategoryRow]:
        """By name."""
        ...

    def delete(self, category: int) -> None: ...


class AnswerKeeper(Protocol):
    """What scopes ask of the answers in them. Those that were made of something that is taken away
    go in the commit that takes it."""

    def matching(self, scope_number: int, selector: Selector) -> list[int]:
        """The answers of a scope that a selector chooses: by time, and by a text that may be in
        them, for what was said before the question is not kept."""
        ...

    def forget(self, scope: str, answers: Sequence[int], text: str | None) -> None:
        """Take them away; and what else holds `text`."""
        ...

    def drop_all(self, transaction: Any, scope_number: int) -> int:
        """In a commit: everything of a scope, with what was learnt of it; how many answers."""
        ...

    def check(self, scope_number: int) -> tuple[int, int, list[str]]:
        """Verify every answer: (answers, bytes, what is damaged)."""
        ...
