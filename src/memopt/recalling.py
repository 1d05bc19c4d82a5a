"""The verbs of recall: what a Memory and a view of it can do with memories, beside sessions.

They are classes that Memory and MemoryView inherit from, so that each file stays small. Not here:
how anything is found, stated or forgotten (recall/).
"""

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from memopt.base.document_records import Ingested
from memopt.base.errors import UsageError
from memopt.base.item_records import Contradiction, Decision, Item
from memopt.base.moments import NOW, Bound, bound_of
from memopt.base.recall_records import Kind, Recall
from memopt.base.records import Reach
from memopt.parts import Parts
from memopt.recall.listing import wanted
from memopt.recall.stating import draft

T = TypeVar("T")


class Recalling:
    """The verbs of recall of a Memory."""

    _parts: Parts

    if TYPE_CHECKING:

        def _ready(self) -> None: ...
        def _writable(self) -> None: ...
        def _with_room(self, action: Callable[[], T]) -> T: ...

    # -- recalling --------------------------------------------------------------------------------

    def recall(
        self, query: str, *, scope: str, reach: Reach | str = Reach.EXACT,
        limit: int | None = None, max_tokens: int | None = None,
        kinds: Iterable[Kind | str] | None = None, tags: Iterable[str] | None = None,
        min_score: float | None = None, valid_at: datetime | None = None,
        known_at: int | datetime | None = None, now: datetime | None = None,
    ) -> Recall:  # fmt: skip
        """What answers a query, best first: messages, stated memories and pieces of documents of a
        scope, or of those that `reach` says.

        Up to `limit` hits (10, unless `max_tokens` is given), whose texts have up to `max_tokens`
        tokens together, taken as four characters each. `kinds`: any of them; `tags`: all of them,
        which messages have none of. Stated memories are left out that were not so at `valid_at`
        (now), and whatever was not known at `known_at`, an LSN or a time. Times in the query, such
        as "last week", are relative to `now`. Raises UsageError that names the argument, and
        BudgetError where the index of a scope does not fit into the budget.
        """
        self._ready()
        return self._parts.recall.engine.recall(
            query, scope=scope, reach=check_reach(reach), limit=limit, max_tokens=max_tokens,
            kinds=kinds, tags=tags, min_score=min_score, valid_at=valid_at, bound=_known(known_at),
            now=now,
        )  # fmt: skip

    # -- stating ----------------------------------------------------------------------------------

    def remember(
        self, text: str, *, scope: str, kind: Kind | str = Kind.FACT, subject: str | None = None,
        attribute: str | None = None, valid_from: datetime | None = None,
        valid_to: datetime | None = None, importance: float | None = None,
        source: str | None = None, tags: Iterable[str] = (), pin: bool = False,
        key: str | None = None,
    ) -> Item:  # fmt: skip
        """State something, to be recalled later.

        It is so from `valid_from` (now, unless it is over already) until `valid_to`. What was
        stated before about the same subject and attribute was so until then; it is not deleted.
        What seems to contradict it otherwise is in the item's `contradictions`, and left alone.
        `importance` is from 0 to 1, `key` an idempotency key within the scope. Raises UsageError
        that names the argument.
        """
        self._writable()
        parts = self._parts
        return parts.recall.items.remember(
            draft(
                text, scope=scope, kind=kind, subject=subject, attribute=attribute,
                valid_from=valid_from, valid_to=valid_to, importance=importance, source=source,
                tags=tags, pin=pin, key=key, bytes_max=parts.config.item_bytes_max,
            )
        )  # fmt: skip

    def ingest(
        self, document: str | bytes | os.PathLike[str], *, scope: str, source: str | None = None,
        tags: Iterable[str] = (), name: str | None = None,
    ) -> Ingested:  # fmt: skip
        """Keep a document in pieces, to be recalled later: a text, the bytes of a file, or the
        Path of one. Text, Markdown, HTML, and PDF with the extra `pdf`.

        It is cut along its structure. `source` says where it is from: its `name` unless that is
        said, which is the path of a file. Ingested again, it takes the place of what is there from
        that source, and pieces that are the same stay. What it is written in is told by what it
        begins with, then by the suffix of its name. Raises UsageError for what is binary, too
        large or damaged.
        """
        self._writable()
        return self._parts.recall.documents.ingest(
            document, scope=scope, source=source, tags=tags, name=name
        )

    def revise(self, item_id: str, text: str, *, scope: str | None = None) -> Item:
        """Say it in other words, from now on: when it is so stays as it was, and what was known
        before is kept. With `scope`, an item of another one is not found."""
        self._writable()
        return self._parts.recall.items.revise(item_id, text, scope)

    def end(self, item_id: str, *, at: datetime | None = None, scope: str | None = None) -> Item:
        """It was so until `at` (now, unless that is said), and nothing takes its place."""
        self._writable()
        return self._parts.recall.items.end(item_id, at, scope)

    def pin(self, item_id: str, *, until: datetime | None = None, scope: str | None = None) -> Item:
        """Nothing that is stated while it is pinned ends it, and no context leaves it out."""
        self._writable()
        return self._parts.recall.items.pin(item_id, until, scope)

    def unpin(self, item_id: str, *, scope: str | None = None) -> Item:
        self._writable()
        return self._parts.recall.items.unpin(item_id, scope)

    def feedback(self, item_ids: Iterable[str], reward: float, *, scope: str | None = None) -> int:
        """How useful items were, from -1 to 1: recall heeds the average, a little. How many were
        rated; all of them or none."""
        self._writable()
        return self._parts.recall.items.feedback(item_ids, reward, scope)

    # -- looking ----------------------------------------------------------------------------------

    def item(
        self, item_id: str, *, scope: str | None = None, known_at: int | datetime | None = None
    ) -> Item:
        """One stated memory; as it was known at an LSN or a time, if that is said."""
        self._ready()
        return self._parts.recall.listing.item(item_id, scope, _known(known_at))

    def items(
        self, scope: str | None = None, *, reach: Reach | str = Reach.EXACT,
        kinds: Iterable[Kind | str] | None = None, tags: Iterable[str] | None = None,
        valid_at: datetime | None = None, known_at: int | datetime | None = None,
        after: tuple[str, str] | None = None, limit: int = 100,
    ) -> list[Item]:  # fmt: skip
        """Up to `limit` stated memories of a scope (None: of all), in the order in which they were
        stated, behind `after`: the (scope, item_id) of the last one that was seen.

        Former ones, too, unless `valid_at` says when they must have been so; as they were known at
        `known_at`. `kinds`: any of them; `tags`: all of them.
        """
        self._ready()
        which = wanted(kinds, tags, valid_at)
        return self._parts.recall.listing.items(
            scope, check_reach(reach), which, after, limit, _known(known_at)
        )

    def history(
        self, item_id: str, *, scope: str | None = None, after: int = 0, limit: int = 100
    ) -> list[Item]:
        """An item as it was after each change that touched it, oldest first: up to `limit` of
        those behind LSN `after`."""
        self._ready()
        return self._parts.recall.listing.history(item_id, scope, after, limit)

    # -- contradictions ---------------------------------------------------------------------------

    def contradictions(
        self, scope: str | None = None, *, reach: Reach | str = Reach.EXACT,
        after: tuple[str, str] | None = None, limit: int = 100,
    ) -> list[Contradiction]:  # fmt: skip
        """Memories that seem to contradict each other, and nobody decided: about `limit` of them,
        behind the (scope, item_id) of the last one that was seen."""
        self._ready()
        return self._parts.recall.listing.contradictions(scope, check_reach(reach), after, limit)

    def decide(
        self, item_id: str, other_id: str, decision: Decision | str, *, scope: str | None = None
    ) -> Item:
        """Settle a contradiction: the older one was so until the newer one began, or both are so.
        The older one, as it is then."""
        self._writable()
        return self._parts.recall.items.decide(item_id, other_id, decision, scope)


class RecallingView:
    """The same of a store as it was."""

    _memory: Recalling
    bound: Bound

    def recall(
        self, query: str, *, scope: str, reach: Reach | str = Reach.EXACT,
        limit: int | None = None, max_tokens: int | None = None,
        kinds: Iterable[Kind | str] | None = None, tags: Iterable[str] | None = None,
        min_score: float | None = None, valid_at: datetime | None = None,
        now: datetime | None = None,
    ) -> Recall:  # fmt: skip
        """What answered a query then, of what is still there."""
        self._memory._ready()
        return self._memory._parts.recall.engine.recall(
            query, scope=scope, reach=check_reach(reach), limit=limit, max_tokens=max_tokens,
            kinds=kinds, tags=tags, min_score=min_score, valid_at=valid_at, bound=self.bound,
            now=now,
        )  # fmt: skip

    def item(self, item_id: str, *, scope: str | None = None) -> Item:
        """A stated memory as it was known then."""
        self._memory._ready()
        return self._memory._parts.recall.listing.item(item_id, scope, self.bound)

    def items(
        self, scope: str | None = None, *, reach: Reach | str = Reach.EXACT,
        kinds: Iterable[Kind | str] | None = None, tags: Iterable[str] | None = None,
        valid_at: datetime | None = None, after: tuple[str, str] | None = None, limit: int = 100,
    ) -> list[Item]:  # fmt: skip
        """Stated memories as they were known then."""
        self._memory._ready()
        which = wanted(kinds, tags, valid_at)
        return self._memory._parts.recall.listing.items(
            scope, check_reach(reach), which, after, limit, self.bound
        )


def check_reach(reach: Reach | str) -> Reach:
    """Raises UsageError for what is none."""
    try:
        return Reach(reach)
    except ValueError:
        raise UsageError(
            f"expected one of {', '.join(Reach)}, got {reach!r}", field="reach"
        ) from None


def _known(moment: int | datetime | None) -> Bound:
    return NOW if moment is None else bound_of(moment, field="known_at")
