"""Entries by position. A position is a place less the first: so both ends grow and shrink by one
row, and a change in the middle moves the entries of the shorter side, one by one.

A read takes the bounds and then a place; it is believed if no change began or ended meanwhile, and
done again within one snapshot if one did. Every change is one commit.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from memopt.base.errors import CorruptionError, UsageError
from memopt.base.protocols import NEW, Tables
from memopt.base.records import LARGE_RECORD_BYTES, EntryHead, EntryRow, RecordKind
from memopt.codecs.entry import Packed, moved, raw_bytes_of, verify_entry
from memopt.collections.engine import BATCH_ROWS, Engine, Reading, check_place
from memopt.collections.mappings import MISSING
from memopt.collections.names import name_of_place
from memopt.collections.rows import MIDDLE, SEQUENCE, Draft, Ref, Row, damaged, publish
from memopt.journal.commit import CommitTransaction

_ATTEMPTS_MAX: Final = 3


class Run(NamedTuple):
    """Neighbouring values, and what they are true of."""

    entries: list[EntryRow]
    """The next one last, for whoever takes them out."""
    row: Row
    version: int
    """They are what is there for as long as the row has this version; -1 when it never had."""


class Sequences:
    """Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.limits = engine.limits

    # -- reading ----------------------------------------------------------------------------------

    def count(self, ref: Ref) -> int:
        row = self._engine.rows.find(ref)
        if row is None:
            return 0
        first, behind = row.bounds
        return behind - first

    def value(self, ref: Ref, index: int) -> Any:
        """The value at a position, which may count from the end, fresh; MISSING outside."""
        engine = self._engine
        try:
            for _ in range(_ATTEMPTS_MAX):
                row = engine.rows.find(ref)
                if row is None:
                    return MISSING
                version, is_still = row.version, not row.writers
                place = _place(row.bounds, index)
                if place is not None and is_still:
                    record = self._record(row.number, place)
                    if record is not None and row.version == version and not row.is_gone:
                        return self._value(ref, place, record)
                elif is_still and row.version == version:
                    return MISSING
            return self._at_once(ref, index)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def _record(self, number: int, place: int) -> bytes | None:
        name = name_of_place(number, place)
        record = self._engine.cached(name)
        if record is not None:
            return record
        engine = self._engine
        return engine.faulted(number, name, lambda tables: engine.at(tables, number, place))

    def _at_once(self, ref: Ref, index: int) -> Any:
        """In one snapshot, while others write."""
        engine = self._engine
        row = engine.rows.find(ref)
        if row is None:
            return MISSING
        with engine.home.snapshot() as tables:
            place = _place(tables.entries.bounds(row.number), index)
            entry = None if place is None else engine.at(tables, row.number, place)
        if entry is None:
            return MISSING
        verify_entry(entry)
        return self._value(ref, entry.place, entry.record)

    def _value(self, ref: Ref, place: int, record: bytes) -> Any:
        if self._engine.turns_open:
            self._engine.tell_turn(ref, place, raw_bytes_of(record))
        return self._engine.value(record)

    def value_of(self, ref: Ref, entry: EntryRow) -> Any:
        """Of an entry of a run."""
        try:
            return self._value(ref, entry.place, entry.record)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def run(self, ref: Ref, start: int, stop: int, *, descending: bool = False) -> Run | None:
        """The first values of positions [start, stop), as many as fit a batch; the last ones, from
        the end, when descending. None when there is no sequence."""
        engine = self._engine
        row = engine.rows.find(ref)
        if row is None:
            return None
        version = row.version if not row.writers else -1
        try:
            with engine.home.snapshot() as tables:
                bounds = tables.entries.bounds(row.number)
                if bounds is None:
                    return Run([], row, version)
                first, behind = bounds
                entries = engine.scan(
                    tables, row.number, first + start, min(behind, first + stop),
                    descending=descending,
                )  # fmt: skip
        except CorruptionError as error:
            raise damaged(error, ref) from error
        entries.reverse()
        return Run(entries, row, version)

    def part(self, ref: Ref, where: slice) -> list[Any]:
        """The values of a slice, of one moment."""
        engine = self._engine
        row = engine.rows.find(ref)
        if row is None:
            return []
        found: dict[int, Any] = {}
        try:
            with engine.home.snapshot() as tables:
                first, behind = tables.entries.bounds(row.number) or (0, 0)
                positions = range(behind - first)[where]
                ascending = positions[::-1] if positions.step < 0 else positions
                at, stop = first + ascending.start, first + ascending.stop
                while positions and at < stop:
                    entries = engine.scan(tables, row.number, at, stop)
                    if not entries:
                        break
                    at = entries[-1].place + 1
                    while entries:
                        place, record = entries[-1].place, entries.pop().record
                        if place - first in positions:
                            found[place - first] = self._value(ref, place, record)
                        del record
            if len(found) != len(positions):
                raise CorruptionError(f"{len(positions) - len(found)} entries are missing")
        except CorruptionError as error:
            raise damaged(error, ref) from error
        return [found[position] for position in positions]

    # -- changing ---------------------------------------------------------------------------------

    def put(self, ref: Ref, index: int, raw: bytes) -> bool:
        """Replace the value at a position; False outside."""

        def member(transaction: CommitTransaction, packed: Packed) -> bool:
            draft = self._draft(transaction, ref, None)
            place = None if draft is None else _place((draft.first, draft.next), index)
            if draft is None or place is None:
                return False
            self._put(transaction, ref, draft, place, packed)
            return True

        done = self._engine.write_one(raw, member)
        if done and self._engine.turns_open:
            self._engine.tell_turn(ref, ("at", index), len(raw))
        return done

    def append(self, ref: Ref, agent: str | None, raws: Sequence[bytes]) -> None:
        def member(transaction: CommitTransaction, packed: list[Packed]) -> None:
            draft = self._engine.rows.draft(transaction, ref, agent=agent)
            self._append(transaction, ref, draft, packed)

        if len(raws) == 1:
            self._engine.write_one(raws[0], lambda t, packed: member(t, [packed]))
        else:
            self._engine.write(raws, member, is_one_write=False)
        self._tell_new(ref, raws)

    def _tell_new(self, ref: Ref, raws: Sequence[bytes]) -> None:
        if self._engine.turns_open:
            # None of them was there before, so none has been counted.
            self._engine.tell_turn(ref, NEW, sum(map(len, raws)))

    def insert(self, ref: Ref, agent: str | None, index: int, raw: bytes) -> None:
        """Before a position, as list.insert takes it."""

        def member(transaction: CommitTransaction, packed: list[Packed]) -> None:
            draft = self._engine.rows.draft(transaction, ref, agent=agent)
            length = draft.next - draft.first
            at = max(0, index + length) if index < 0 else min(index, length)
            if 0 < at < length:
                transaction.begin()
            self._splice(transaction, ref, draft, at, at, packed)

        self._engine.write([raw], member, is_one_write=True)
        self._tell_new(ref, [raw])

    def put_slice(self, ref: Ref, agent: str | None, where: slice, raws: Sequence[bytes]) -> None:
        """As `list[where] = values`. Raises UsageError, which is a ValueError, where an extended
        slice has another length."""
        if not raws and where.step in (None, 1):
            self.delete(ref, where)
            return

        def member(transaction: CommitTransaction, packed: list[Packed]) -> None:
            draft = self._engine.rows.draft(transaction, ref, agent=agent)
            start, stop, step = where.indices(draft.next - draft.first)
            if step == 1:
                self._splice(transaction, ref, draft, start, max(start, stop), packed)
                return
            positions = range(start, stop, step)
            if len(positions) != len(packed):
                raise UsageError(
                    f"{len(packed)} values for an extended slice of {len(positions)}",
                    field="values",
                )
            for position, value in zip(positions, packed, strict=True):
                self._put(transaction, ref, draft, draft.first + position, value)

        self._engine.write(raws, member, is_one_write=False)
        self._tell_new(ref, raws)

    def pop(self, ref: Ref, index: int) -> Any:
        """The value at a position, which is taken out; MISSING outside."""

        def member(transaction: CommitTransaction) -> Any:
            draft = self._draft(transaction, ref, None)
            place = None if draft is None else _place((draft.first, draft.next), index)
            if draft is None or place is None:
                return MISSING
            entry = self._engine.at(transaction.tables, draft.number, place)
            if entry is None:
                raise CorruptionError(f"entry {place} is missing")
            verify_entry(entry)
            # Before it goes: where there is no room for the value, it stays where it is.
            value = self._engine.value(entry.record)
            self._cut(transaction, ref, draft, place - draft.first, place - draft.first + 1)
            return value

        try:
            return self._engine.take_away(member)
        except CorruptionError as error:
            raise damaged(error, ref) from error

    def delete(self, ref: Ref, where: int | slice) -> bool:
        """Take out a position or a slice; False for a position outside. Damaged ones go, too."""

        def member(transaction: CommitTransaction) -> bool:
            draft = self._draft(transaction, ref, None)
            if draft is None:
                return isinstance(where, slice)
            length = draft.next - draft.first
            if not isinstance(where, slice):
                place = _place((draft.first, draft.next), where)
                if place is None:
                    return False
                self._cut(transaction, ref, draft, place - draft.first, place - draft.first + 1)
                return True
            positions = range(length)[where]
            if positions.step < 0:
                positions = positions[::-1]
            if positions and positions.step == 1:
                self._cut(transaction, ref, draft, positions.start, positions.stop)
            elif positions:
                places = [draft.first + position for position in positions]
                self._thin_out(transaction, ref, draft, places)
            return True

        return self._engine.take_away(member)

    def discard(self, transaction: CommitTransaction, ref: Ref, heads: Sequence[EntryHead]) -> None:
        """In a commit: take these entries out."""
        draft = self._engine.rows.draft(transaction, ref)
        self._thin_out(transaction, ref, draft, [head.place for head in heads])

    def reverse(self, ref: Ref) -> None:
        """In place, in one commit."""

        def member(transaction: CommitTransaction) -> None:
            draft = self._draft(transaction, ref, None)
            if draft is None:
                return
            low, high = draft.first, draft.next - 1
            while low < high:
                self._swap(transaction, draft, low, high)
                low, high = low + 1, high - 1
            draft.drop_all()

        self._engine.change(member)

    # -- within a commit --------------------------------------------------------------------------

    def _draft(self, transaction: CommitTransaction, ref: Ref, agent: str | None) -> Draft | None:
        """Of a sequence that is there."""
        if self._engine.rows.peek(transaction, ref) is None:
            return None
        return self._engine.rows.draft(transaction, ref, agent=agent)

    def _swap(self, transaction: CommitTransaction, draft: Draft, low: int, high: int) -> None:
        number, tables = draft.number, transaction.tables
        last = self._engine.at(tables, number, high)
        if last is None:
            raise CorruptionError(f"entry {high} is missing")
        if len(last.record) < LARGE_RECORD_BYTES:
            self._move(tables, number, low, high)
            tables.entries.put(moved(last, low))
            return
        # By way of a free place, so that one of them at a time is in RAM.
        del last
        check_place(draft.next, SEQUENCE)
        self._move(tables, number, high, draft.next)
        self._move(tables, number, low, high)
        self._move(tables, number, draft.next, low)
        tables.entries.delete(number, draft.next, draft.next + 1)

    def _move(self, tables: Tables, number: int, place: int, to: int) -> None:
        with Reading(self._engine.budget) as room:
            rows = self._engine.batch(tables, number, place, place + 1, room)
            if not rows:
                raise CorruptionError(f"entry {place} is missing")
            tables.entries.put(moved(rows.pop(), to))

    def _put(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, place: int, value: Packed
    ) -> None:
        name = name_of_place(draft.number, place)
        lsn = self._engine.put(transaction, draft, name, place, None, value)
        if transaction.watched:
            seq = place - draft.first
            publish(transaction, lsn, RecordKind.ENTRY_SET, ref, seq=seq)

    def _append(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, values: Sequence[Packed]
    ) -> None:
        check_place(draft.next + len(values), SEQUENCE)
        for value in values:
            place = draft.next
            draft.next += 1
            draft.moves += 1
            self._put(transaction, ref, draft, place, value)

    def _splice(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, start: int, stop: int,
        values: Sequence[Packed],
    ) -> None:  # fmt: skip
        """Values in the place of positions [start, stop)."""
        count, replaced = len(values), stop - start
        if start == draft.next - draft.first:
            self._append(transaction, ref, draft, values)
            return
        if count > replaced:
            self._open(transaction, draft, stop, count - replaced)
        elif count < replaced:
            self._cut(transaction, ref, draft, start + count, stop)
        for position, value in enumerate(values, start):
            self._put(transaction, ref, draft, draft.first + position, value)

    def _open(self, transaction: CommitTransaction, draft: Draft, at: int, count: int) -> None:
        """Make room for `count` entries before position `at`."""
        length = draft.next - draft.first
        draft.moves += 1
        if at > length - at:
            check_place(draft.next + count, SEQUENCE)
            self._shift(transaction, draft, draft.first + at, draft.next, count)
            draft.next += count
        else:
            check_place(draft.first - count, SEQUENCE)
            self._shift(transaction, draft, draft.first, draft.first + at, -count)
            draft.first -= count

    def _cut(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, start: int, stop: int
    ) -> None:
        """Take positions [start, stop) out, and close the gap."""
        number, count = draft.number, stop - start
        first, behind = draft.first + start, draft.first + stop
        delete = transaction.tables.entries.delete
        delete(number, first, behind)
        _uncache(draft, first, behind)
        draft.moves += 1
        if draft.next - behind <= start:
            self._shift(transaction, draft, behind, draft.next, -count)
            draft.next -= count
        else:
            self._shift(transaction, draft, draft.first, first, count)
            draft.first += count
        if draft.first == draft.next:
            draft.first = draft.next = MIDDLE
        self._engine.deleted(transaction, ref, number)

    def _thin_out(
        self, transaction: CommitTransaction, ref: Ref, draft: Draft, places: Sequence[int]
    ) -> None:
        """Take out places, lowest first, and close the gaps."""
        number, tables = draft.number, transaction.tables
        to = at = places[0]
        for place in places:
            tables.entries.delete(number, place, place + 1)
        while at < draft.next:
            with Reading(self._engine.budget) as room:
                rows = self._engine.batch(tables, number, at, draft.next, room)
                if not rows:
                    break
                at = rows[-1].place + 1
                rows.reverse()
                while rows:
                    place = rows[-1].place
                    if place == to:
                        rows.pop()
                    else:
                        tables.entries.put(moved(rows.pop(), to))
                        tables.entries.delete(number, place, place + 1)
                    to += 1
        draft.next = to
        draft.moves += 1
        if draft.first == draft.next:
            draft.first = draft.next = MIDDLE
        draft.drop_all()
        self._engine.deleted(transaction, ref, number)

    def _shift(
        self, transaction: CommitTransaction, draft: Draft, start: int, stop: int, by: int
    ) -> None:
        """Move the entries of places [start, stop), which are followed by free ones."""
        if start == stop:
            return
        number, tables = draft.number, transaction.tables
        entries = tables.entries
        _uncache(draft, min(start, start + by), max(stop, stop + by))
        low, high = start, stop
        while low < high:
            # What stands in the direction of the move goes first, out of the way of the rest.
            with Reading(self._engine.budget) as room:
                rows = self._engine.batch(tables, number, low, high, room, descending=by > 0)
                if not rows:
                    break
                if by > 0:
                    high = rows[-1].place
                else:
                    low = rows[-1].place + 1
                rows.reverse()
                while rows:
                    to = rows[-1].place + by
                    entries.put(moved(rows.pop(), to))
        if by > 0:
            entries.delete(number, start, min(start + by, stop))
        else:
            entries.delete(number, max(stop + by, start), stop)


def _uncache(draft: Draft, start: int, stop: int) -> None:
    if stop - start > BATCH_ROWS:
        draft.drop_all()
        return
    draft.effects += [
        (name_of_place(draft.number, place), place, None) for place in range(start, stop)
    ]


def _place(bounds: tuple[int, int] | None, index: int) -> int | None:
    if bounds is None:
        return None
    first, behind = bounds
    place = first + index if index >= 0 else behind + index
    return place if first <= place < behind else None
