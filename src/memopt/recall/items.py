"""Stated memories: what changes them. Every change is one commit, with a record in the journal.

Invariant: nothing that was stated is overwritten. A revision is another version, and an end, a pin
or a decision is a mark with its LSN; so what was known at any moment can be told. Taking away is
the exception (forgetting.py). Not here: what may be stated (stating.py), when it is so
(standing.py), and how it is listed (listing.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from memopt.base.errors import CapacityError, NotFoundError, UsageError
from memopt.base.item_protocols import ItemWatcher
from memopt.base.item_records import (
    FOREVER,
    REASONS,
    UNKNOWN_US,
    Decision,
    Item,
    ItemRow,
    ItemText,
    Mark,
    MarkRow,
    Reason,
    item_id_of,
    item_number,
)
from memopt.base.moments import NOW, Bound, check_time
from memopt.base.names import check_scope
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Tables
from memopt.base.records import EventRow, JournalRecord, KeyRow, RecordKind, to_datetime
from memopt.codecs.item_text import open_text, pack_text
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.recall.contradicting import Contradicting, Suspect
from memopt.recall.describing import Describing
from memopt.recall.stating import Draft, check_text, topic_of

VERSIONS_MAX: Final = (1 << 20) - 1
RATED_MAX: Final = 1000
"""Items of one call of feedback."""
_REWARDS_HEEDED: Final = 16
"""Feedback is averaged over about so many calls: what is useful changes."""
_RECORD_BYTES: Final = 1024


class Items:
    """Thread-safe."""

    def __init__(
        self,
        committer: GroupCommitter,
        owners: CollectionOwners,
        compressor: Compressor,
        contradicting: Contradicting,
        clock: Clock,
        *,
        bytes_max: int,
        admit: Callable[[int], None],
    ) -> None:
        self._committer = committer
        self._owners = owners
        self._compressor = compressor
        self._contradicting = contradicting
        self._clock = clock
        self._bytes_max = bytes_max
        self._admit = admit
        self.watchers: list[ItemWatcher] = []

    # -- stating ----------------------------------------------------------------------------------

    def remember(self, draft: Draft) -> Item:
        """State something. A second call with the same key states nothing, and gets the item."""
        self._admit(len(draft.text.encode()))
        suspects = self._contradicting.find(
            draft.scope, draft.text, kind=draft.kind, subject=draft.subject,
            topic=topic_of(draft.subject, draft.attribute), at_us=self._clock.now_us(),
        )  # fmt: skip
        return self._committer.commit(lambda t: self._remember(t, draft, suspects))

    def _remember(
        self, transaction: CommitTransaction, draft: Draft, suspects: Sequence[Suspect]
    ) -> Item:
        tables = transaction.tables
        if draft.key is not None:
            known = self._answered(tables, draft.scope, draft.key)
            if known is not None:
                return self._described(transaction, known, draft.scope)
        scope, _ = self._owners.make(transaction, draft.scope, None, None)
        lsn, at_us = transaction.next_lsn(), transaction.at_us
        row = _row_of(draft, scope, lsn, at_us)
        row = row._replace(item=tables.items.put(row))
        self._put_text(transaction, ItemText(row.item, 1, lsn, at_us, draft.text), scope)
        if draft.pin:
            tables.item_marks.put(MarkRow(row.item, lsn, at_us, Mark.PIN, FOREVER, 0))
        if draft.key is not None:
            tables.keys.put(_key_row(row, draft.key))
        suspects = [*suspects, *self._pinned_about(transaction, row, draft.text)]
        _note_suspects(transaction, row, lsn, suspects)
        note_item(transaction, RecordKind.ITEM_STATED, row, draft.scope, lsn, draft.text)
        return self._described(transaction, row, draft.scope)

    def _pinned_about(
        self, transaction: CommitTransaction, row: ItemRow, text: str
    ) -> Iterator[Suspect]:
        """What is pinned about the same and says something else for the same time: it is not
        ended, so both are there."""
        tables = transaction.tables
        for other in tables.item_topics.pinned(row.scope_number, row.topic):
            if other.item == row.item or other.pinned_until_us <= transaction.at_us:
                continue
            starts = max(other.valid_from_us, row.valid_from_us)
            if starts >= min(other.valid_to_us, row.valid_to_us):
                continue
            record = tables.item_texts.get(other.item, other.version)
            if record is not None:
                old = open_text(self._compressor, other.item, other.version, record)
                if old.text != text:
                    yield Suspect(other.item, other.version, Reason.PINNED)

    def _answered(self, tables: Tables, scope: str, key: str) -> ItemRow | None:
        """What was stated with this key."""
        owner = self._owners.find(tables, scope, None)
        known = tables.keys.find(-owner[0], key) if owner is not None else None
        return tables.items.get(known.head) if known is not None else None

    def revise(self, item_id: str, text: object, scope: str | None) -> Item:
        """A new version of its text. The same text again changes nothing."""
        checked = check_text(text, bytes_max=self._bytes_max)
        self._admit(len(checked.encode()))
        suspects = self._suspects_of(number_of(item_id), checked)

        def change(transaction: CommitTransaction, row: ItemRow, path: str) -> None:
            _stated(row)
            record = transaction.tables.item_texts.get(row.item, row.version)
            if record is not None:
                old = open_text(self._compressor, row.item, row.version, record)
                if old.text == checked:
                    return
            if row.version >= VERSIONS_MAX:
                raise CapacityError(f"{item_id} has {row.version} versions", limit="versions")
            lsn, version = transaction.next_lsn(), row.version + 1
            row = row._replace(version=version, changed_lsn=lsn)
            transaction.tables.items.put(row)
            new = ItemText(row.item, version, lsn, transaction.at_us, checked)
            self._put_text(transaction, new, row.scope_number)
            _note_suspects(transaction, row, lsn, suspects)
            note_item(transaction, RecordKind.ITEM_REVISED, row, path, lsn, checked)

        return self._change(item_id, scope, change)

    def _suspects_of(self, number: int, text: str) -> list[Suspect]:
        """What an item contradicts once it says this."""
        found = self._contradicting.place_of(number)
        if found is None:
            return []
        row, scope = found
        return self._contradicting.find(
            scope, text, kind=row.kind, subject=row.subject, topic=row.topic,
            at_us=self._clock.now_us(), besides=number,
        )  # fmt: skip

    # -- marks ------------------------------------------------------------------------------------

    def pin(self, item_id: str, until: datetime | None, scope: str | None) -> Item:
        """Nothing that is stated later ends it, for ever or until a time."""
        until_us = FOREVER if until is None else check_time(until, field="until")

        def change(transaction: CommitTransaction, row: ItemRow, path: str) -> None:
            if until_us <= transaction.at_us:
                raise UsageError(f"expected a time to come, got {until}", field="until")
            if row.pinned_until_us != until_us:
                kind = RecordKind.ITEM_PINNED
                self._pinned(transaction, row, path, until_us, kind)

        self._admit(0)
        return self._change(item_id, scope, change)

    def unpin(self, item_id: str, scope: str | None) -> Item:
        def change(transaction: CommitTransaction, row: ItemRow, path: str) -> None:
            if row.pinned_until_us:
                self._pinned(transaction, row, path, 0, RecordKind.ITEM_UNPINNED)

        return self._change(item_id, scope, change)

    def _pinned(
        self, transaction: CommitTransaction, row: ItemRow, path: str, until_us: int,
        kind: RecordKind,
    ) -> None:  # fmt: skip
        row = row._replace(pinned_until_us=until_us)
        self._mark(transaction, row, path, kind, Mark.PIN, until_us)

    def end(self, item_id: str, at: datetime | None, scope: str | None) -> Item:
        """It was so until `at` (now, unless that is said)."""
        at_us = None if at is None else check_time(at, field="at")

        def change(transaction: CommitTransaction, row: ItemRow, path: str) -> None:
            _stated(row)
            ended_us = transaction.at_us if at_us is None else at_us
            if ended_us < row.valid_from_us:
                begun = to_datetime(row.valid_from_us)
                raise UsageError(f"{item_id} begins at {begun}, later than that", field="at")
            kind = RecordKind.ITEM_ENDED
            self._mark(transaction, row, path, kind, Mark.END, ended_us)

        self._admit(0)
        return self._change(item_id, scope, change)

    def decide(self, item_id: str, other_id: str, decision: Any, scope: str | None) -> Item:
        """Say what becomes of two that seem to contradict each other; the older one is returned."""
        try:
            decided = Decision(decision)
        except ValueError:
            raise UsageError(
                f"expected one of {', '.join(Decision)}, got {decision!r}", field="decision"
            ) from None
        number, other_number = number_of(item_id), number_of(other_id, field="other_id")
        path = None if scope is None else check_scope(scope)

        def member(transaction: CommitTransaction) -> Item:
            tables = transaction.tables
            row, where = found_item(tables, number, path)
            other, _ = found_item(tables, other_number, where)
            marks = tables.item_marks.of_item(number)
            if not any(m.mark == Mark.CONTRADICTION and m.other == other_number for m in marks):
                raise NotFoundError(f"{item_id} was not found to contradict {other_id}")
            kind = RecordKind.ITEM_DECIDED
            self._mark(transaction, row, where, kind, Mark.DECIDED, 0, other_number)
            if decided is Decision.END:
                begun = row.valid_from_us if row.valid_from_us != UNKNOWN_US else row.made_us
                kind = RecordKind.ITEM_ENDED
                self._mark(transaction, other, where, kind, Mark.END, begun)
            return self._described(transaction, found_item(tables, other_number, path)[0], where)

        self._admit(0)
        return self._committer.commit(member)

    def _mark(
        self, transaction: CommitTransaction, row: ItemRow, path: str, kind: RecordKind,
        mark: Mark, value: int, other: int = 0,
    ) -> None:  # fmt: skip
        lsn = transaction.next_lsn()
        transaction.tables.items.put(row._replace(changed_lsn=lsn))
        transaction.tables.item_marks.put(
            MarkRow(row.item, lsn, transaction.at_us, mark, value, other)
        )
        for watcher in self.watchers:
            watcher.marked(transaction, row.scope_number, row.item)
        note_item(transaction, kind, row, path, lsn)

    # -- feedback ---------------------------------------------------------------------------------

    def feedback(self, item_ids: Iterable[str], reward: Any, scope: str | None) -> int:
        """How useful items were, from -1 to 1; how many were rated. All of them or none."""
        if isinstance(item_ids, str) or not isinstance(item_ids, Iterable):
            raise UsageError(f"expected ids, got {item_ids!r}", field="item_ids")
        numbers = list(
            dict.fromkeys(number_of(one, field=f"item_ids[{n}]") for n, one in enumerate(item_ids))
        )
        if len(numbers) > RATED_MAX:
            raise UsageError(f"{len(numbers)} ids, at most {RATED_MAX}", field="item_ids")
        is_number = isinstance(reward, int | float) and not isinstance(reward, bool)
        if not is_number or not -1 <= reward <= 1:
            raise UsageError(f"expected a number from -1 to 1, got {reward!r}", field="reward")
        path = None if scope is None else check_scope(scope)

        def member(transaction: CommitTransaction) -> int:
            found = [found_item(transaction.tables, number, path) for number in numbers]
            for row, where in found:
                count = row.rewards + 1
                share = 1 / min(count, _REWARDS_HEEDED)
                average = row.reward + (float(reward) - row.reward) * share
                lsn = transaction.next_lsn()
                rated = row._replace(reward=average, rewards=count, changed_lsn=lsn)
                transaction.tables.items.put(rated)
                for watcher in self.watchers:
                    watcher.marked(transaction, row.scope_number, row.item)
                note_item(transaction, RecordKind.ITEM_RATED, row, where, lsn)
            return len(found)

        self._admit(0)
        return self._committer.commit(member) if numbers else 0

    # -- what they share --------------------------------------------------------------------------

    def _change(
        self, item_id: str, scope: str | None,
        change: Callable[[CommitTransaction, ItemRow, str], None],
    ) -> Item:  # fmt: skip
        """Commit a change of one item, and describe it as it is then."""
        number = number_of(item_id)
        path = None if scope is None else check_scope(scope)

        def member(transaction: CommitTransaction) -> Item:
            row, where = found_item(transaction.tables, number, path)
            change(transaction, row, where)
            return self._described(
                transaction, found_item(transaction.tables, number, path)[0], where
            )

        return self._committer.commit(member)

    def _described(self, transaction: CommitTransaction, row: ItemRow, path: str) -> Item:
        return Describing(transaction.tables, self._compressor, transaction.at_us).item(row, path)

    def _put_text(self, transaction: CommitTransaction, text: ItemText, scope_number: int) -> None:
        record = pack_text(self._compressor, text)
        transaction.tables.item_texts.put(text.item, text.version, record)
        for watcher in self.watchers:
            watcher.stated(transaction, scope_number, text.item, text.version)


def note_item(
    transaction: CommitTransaction, kind: RecordKind, row: ItemRow, path: str | None, lsn: int,
    text: str | None = None,
) -> None:  # fmt: skip
    """In a commit: a record of what happened to an item, for the journal and for subscribers."""
    at_us = transaction.at_us
    transaction.tables.events.put(EventRow(lsn, at_us, kind, 0, row.item, row.version, None))
    if transaction.watched:
        transaction.publish(
            JournalRecord(
                lsn=lsn, at=to_datetime(at_us), kind=kind, scope=path, seq=row.version,
                item=item_id_of(row.item), text=text,
            ),
            _RECORD_BYTES + 2 * len(text or ""),
        )  # fmt: skip


def _note_suspects(
    transaction: CommitTransaction, row: ItemRow, lsn: int, suspects: Iterable[Suspect]
) -> None:
    """In a commit: contradictions with what is still there as it was looked at."""
    tables = transaction.tables
    for item, version, reason in suspects:
        other = tables.items.get(item)
        if other is not None and other.version == version:
            value = REASONS.index(reason)
            tables.item_marks.put(
                MarkRow(row.item, lsn, transaction.at_us, Mark.CONTRADICTION, value, item)
            )


def _row_of(draft: Draft, scope_number: int, lsn: int, at_us: int) -> ItemRow:
    start, stop = draft.valid_from_us, draft.valid_to_us
    if start is None:
        # What is over already began before it was stated.
        start = at_us if stop is None or stop > at_us else UNKNOWN_US
    return ItemRow(
        item=0, scope_number=scope_number, document=0, kind=draft.kind,
        topic=topic_of(draft.subject, draft.attribute), subject=draft.subject,
        attribute=draft.attribute, source=draft.source, tags=draft.tags,
        importance=draft.importance, valid_from_us=start,
        valid_to_us=FOREVER if stop is None else stop, version=1, made_lsn=lsn, made_us=at_us,
        changed_lsn=lsn, pinned_until_us=FOREVER if draft.pin else 0, reward=0.0, rewards=0,
    )  # fmt: skip


def _key_row(row: ItemRow, key: str) -> KeyRow:
    return KeyRow(-row.scope_number, key, row.made_lsn, 0, row.item, row.made_us)


def number_of(item_id: object, *, field: str = "item_id") -> int:
    """Raises UsageError for what no item is called, whether there is one or not."""
    number = item_number(item_id)
    if number is None:
        raise UsageError(f"expected the id of an item, such as i17, got {item_id!r}", field=field)
    return number


def found_item(
    tables: Tables, number: int, path: str | None, bound: Bound = NOW
) -> tuple[ItemRow, str]:
    """An item and its scope. Raises NotFoundError where it is not there, or in another scope than
    the caller names: who asks for his own learns nothing of others."""
    row = tables.items.get(number)
    if row is not None and not bound.sees(row.made_lsn, row.made_us):
        row = None
    where = tables.scopes.path(row.scope_number) if row is not None else None
    if row is None or where is None or path not in (None, where):
        there = "" if path is None else f" in scope {path!r}"
        raise NotFoundError(f"there is no item {item_id_of(number)}{there}")
    return row, where


def _stated(row: ItemRow) -> None:
    if row.document:
        raise UsageError(
            f"{item_id_of(row.item)} is a piece of a document: ingest that again", field="item_id"
        )
