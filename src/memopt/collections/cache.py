"""Records of entries in RAM: a cache over the home, which has all of them already.

A row is a record by its name: the collection's number with the key, or for sequences the entry's
number. Reserved before it is kept, chosen to go by a policy, dropped without writing anything.
Small records lie in the arena, those of turns in a pool of their own; larger ones are `bytes`.

Rows are found by a hash of the name, which is the policy's key, too: it stands for the same entry
when that comes back, so a policy may remember what has left. Two names of one hash are never here
together.

Invariant: what is here is what was committed last, or nothing. A commit is applied after it was
made and before its caller hears of it; whoever fills from a snapshot asks for a ticket first, which
a commit takes away.
"""

import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from memopt.base.budget import Budget
from memopt.base.events import EntriesEvicted, Events
from memopt.base.forks import LostLock
from memopt.base.heap import heap_bytes
from memopt.base.interrupts import mended_by
from memopt.base.protocols import Policy
from memopt.base.units import KIB
from memopt.collections.epochs import Epochs
from memopt.collections.names import Name, collection_of, lifetime_of
from memopt.paging.arena import Arena

OWNER: Final = "collections"
_POLICY_OWNER: Final = "collection policies"
ROW_BYTES: Final = 243
"""A row's places in the table, in six columns and in the index, and the headers and rounding of
its two byte strings; measured in the tests."""
_RECORD_HEADER_BYTES: Final = 48
"""Of a byte string, with its rounding: what a record in the arena has not."""
_SLOT_BYTES: Final = 12
"""What the arena adds to a record."""
_HASH_MASK: Final = (1 << 60) - 1
_SHARDS: Final = 64
_SHARD_MASK: Final = _SHARDS - 1
_IN_NO_ARENA: Final = -1
_POLICY_STEP: Final = 64
"""What the policy occupies is asked for once in so many changes."""
_OWN_SHARE: Final = 1 / 4
"""Of what others leave of the budget to entries and pages. Above it, what comes in takes the place
of what is here, and whoever needs room is given it from here; below it, others are asked."""
_PAGE_OWNERS: Final = ("pages", "texts")
_IDLE_AT_ONCE: Final = 1024
"""Let go of before others get the lock."""
_VALUE_SHARE: Final = 1 / 16
"""Values above this share of the budget are not kept."""
_FULL_SLACK: Final = 64 * KIB

Effect = tuple[Name, int, bytes | None]
"""A name, its place, and its record; None: it is gone."""

_whole = mended_by(lambda cache: cache.clear())
"""A Ctrl-C may come between two columns of a row. Everything here can be read again, so then
everything is let go."""


class _Row:
    """One that is paid for and is not in the table yet."""

    __slots__ = ("age", "collection", "handle", "name", "need", "place", "record")

    def __init__(self, collection: int, name: Name, place: int, record: bytes) -> None:
        self.collection = collection
        self.name = name
        self.place = place
        self.record: bytes | None = record
        """None: in the arena, by `handle`."""
        self.handle = _IN_NO_ARENA
        self.need = 0
        """What the budget holds for it; 0 before that, and once the table has it."""
        self.age = -1
        """How often everything had been let go of when it got its handle."""


class EntryCache:
    """Thread-safe."""

    def __init__(
        self, budget: Budget, make_policy: Callable[[], Policy], events: Events, arena: Arena
    ) -> None:
        """`arena` is for this cache alone."""
        self._arena = arena
        self._budget = budget
        self._make_policy = make_policy
        self._events = events
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self._tickets: dict[Name, object] = {}
        self._value_bytes_max = int(budget.limit_bytes * _VALUE_SHARE)
        self._bytes_max = budget.limit_bytes
        self.freed_bytes = 0
        """Of everything that was let go of so far."""
        self._age = 0
        self.epochs = Epochs()
        """Of the entries here, and of what is known of their collections."""
        self._start()

    def _start(self) -> None:
        self._slots: list[dict[int, int]] = [{} for _ in range(_SHARDS)]
        """By hash of the name. In many tables: one that grows holds the old one meanwhile."""
        self._names: list[Name | None] = []
        self._records: list[bytes | None] = []
        self._handles = array("q")
        self._hashes = array("q")
        self._places = array("q")
        self._used = array("I")
        """The epoch in which each was used last."""
        self._free: list[int] = []
        self._counts: dict[int, int] = {}
        """Rows by collection, so that one without any is dropped for nothing."""
        self._policy = self._make_policy()
        self._changes = 0
        self.size_bytes = 0
        """Charged to this cache: everything but what lies in the arena."""
        self._arena_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    @property
    def held_bytes(self) -> int:
        """With what lies in the arena."""
        return self.size_bytes + self._arena_bytes

    @property
    def excess_bytes(self) -> int:
        """What the budget holds for this cache, holes in the arena too, beyond its own share."""
        charged_bytes = self.size_bytes + self._arena.charged_bytes
        page_bytes = sum(map(self._budget.held_bytes, _PAGE_OWNERS))
        shared_bytes = self._budget.free_bytes() + page_bytes + charged_bytes
        return charged_bytes - int(shared_bytes * _OWN_SHARE)

    # -- reading ----------------------------------------------------------------------------------

    def get(self, name: Name) -> bytes | None:
        """The record, which was verified when it came in."""
        try:
            with self._lock:
                key = hash(name) & _HASH_MASK
                slot = self._slots[key & _SHARD_MASK].get(key)
                if slot is None or self._names[slot] != name:
                    return None
                self._policy.touched(key)
                self._used[slot] = self.epochs.now
                record = self._records[slot]
                return self._arena.get(self._handles[slot]) if record is None else record
        except KeyboardInterrupt:
            # As `_whole` says, which costs a call more.
            self.clear()
            raise

    def place(self, name: Name) -> int | None:
        """Where a key is, if it is here. Under the commit lock that is where it is."""
        with self._lock:
            slot = self._find(name)
            return None if slot is None else self._places[slot]

    def _find(self, name: Name) -> int | None:
        key = hash(name) & _HASH_MASK
        slot = self._slots[key & _SHARD_MASK].get(key)
        return slot if slot is not None and self._names[slot] == name else None

    def ticket(self, name: Name) -> object:
        """To be asked for before the snapshot is taken that a row is filled from."""
        ticket = object()
        self._tickets[name] = ticket
        return ticket

    @_whole
    def fill(self, collection: int, name: Name, ticket: object, place: int, record: bytes) -> None:
        """Keep what a snapshot held, unless it was changed since the ticket."""
        self._bring_in(_Row(collection, name, place, record), ticket)

    def _bring_in(self, row: _Row, ticket: object | None) -> None:
        """Ask for room, which is not done under the lock. Nothing is kept where somebody else holds
        a ticket meanwhile: what they read is as new."""
        try:
            if self._pay(row):
                with self._lock:
                    if self._tickets.get(row.name) is ticket and self._find(row.name) is None:
                        self._add(row)
        finally:
            self._throw_away(row)

    def give_back(self, name: Name, ticket: object) -> None:
        """There was nothing to fill with."""
        with self._lock:
            if self._tickets.get(name) is ticket:
                del self._tickets[name]

    # -- changing ---------------------------------------------------------------------------------

    def apply(self, collection: int, effects: Sequence[Effect]) -> None:
        """What a commit has done to entries of a collection, in order."""
        try:
            for name, (place, record) in self._apply(collection, effects).items():
                self._bring_in(_Row(collection, name, place, record), None)
        except KeyboardInterrupt:
            # As in `get`.
            self.clear()
            raise

    def _apply(self, collection: int, effects: Sequence[Effect]) -> dict[Name, tuple[int, bytes]]:
        """What there was no room for."""
        unkept: dict[Name, tuple[int, bytes]] = {}
        with self._lock:
            for name, place, record in effects:
                if self._tickets:
                    self._tickets.pop(name, None)
                if unkept:
                    # The same name again in one batch: what came before is no more.
                    unkept.pop(name, None)
                key = hash(name) & _HASH_MASK
                slot = self._slots[key & _SHARD_MASK].get(key)
                if slot is not None and self._names[slot] == name:
                    if record is not None and self._replace(collection, slot, place, record):
                        continue
                    self._remove(slot)
                if record is None:
                    continue
                row = _Row(collection, name, place, record)
                try:
                    if self._try_to_pay(row):
                        self._add(row)
                    else:
                        unkept[name] = (place, record)
                finally:
                    self._throw_away(row)
        return unkept

    @_whole
    def drop(self, collection: int) -> None:
        """Let go of everything of a collection."""
        with self._lock:
            self._tickets.clear()
            if not self._counts.get(collection):
                return
            for slot, name in enumerate(self._names):
                if name is not None and collection_of(name) == collection:
                    self._remove(slot)

    # -- room -------------------------------------------------------------------------------------

    @_whole
    def make_free(self, size_bytes: int) -> int:
        """Evict until so much came free; how much did."""
        freed = self._evict(size_bytes)
        # What went from the arena left holes there.
        self._arena.make_free(size_bytes)
        return freed

    def _evict(self, size_bytes: int) -> int:
        freed = count = 0
        with self._lock:
            # What the policy came to occupy meanwhile takes of the room, too.
            self._charge_policy()
            charged_bytes = self._budget.held_bytes(_POLICY_OWNER)
            size_bytes += max(0, self._policy.charged_bytes() - charged_bytes)
            while freed < size_bytes:
                key = self._policy.victim()
                if key is None:
                    break
                freed += self._remove(self._slots[key & _SHARD_MASK][key])
                count += 1
            self._charge_policy()
        if count:
            self._events.emit(EntriesEvicted(count, freed))
        return freed

    @_whole
    def make_free_of_excess(self, size_bytes: int) -> bool:
        """Let go of so much for somebody else, as far as there is an excess; whether anything
        went."""
        excess_bytes = self.excess_bytes
        if excess_bytes <= 0:
            return False
        # What is dead goes before what is not.
        charged_bytes = self._arena.charged_bytes
        self._arena.make_free(size_bytes)
        if self._arena.charged_bytes < charged_bytes:
            return True
        # The arena gives back whole extents.
        freed = self._evict(min(size_bytes, excess_bytes + self._arena.extent_bytes))
        self._arena.make_free(size_bytes)
        return freed > 0

    @_whole
    def let_idle_go(self, idle_seconds: float, now: float) -> int:
        """Evict what nobody used for so long, or an eighth longer, when that eighth is over; the
        last epoch that is so long ago, or -1."""
        count = freed = 0
        with self._lock:
            oldest = self.epochs.end(idle_seconds, now)
            if oldest < 0:
                return oldest
            idle = [slot for slot, epoch in enumerate(self._used) if epoch <= oldest]
        for at in range(0, len(idle), _IDLE_AT_ONCE):
            with self._lock:
                # Whatever was done to them meanwhile.
                for slot in idle[at : at + _IDLE_AT_ONCE]:
                    is_here = slot < len(self._names) and self._names[slot] is not None
                    if is_here and self._used[slot] <= oldest:
                        freed += self._remove(slot)
                        count += 1
        with self._lock:
            if count and not len(self):
                # The table that they were in is as large as it ever was.
                self.clear()
        if count:
            self._events.emit(EntriesEvicted(count, freed))
        return oldest

    def limit(self, share: float) -> None:
        """Hold at most `share` of what is here now, until the limit is 1 again."""
        with self._lock:
            self._bytes_max = self._budget.limit_bytes
            if share < 1:
                self._bytes_max = int(self.held_bytes * share)
                self.make_free(self.held_bytes - self._bytes_max)

    def clear(self) -> None:
        with self._lock:
            self._tickets.clear()
            self._budget.release(OWNER, self.size_bytes)
            self._arena.clear()
            self._age += 1
            self._start()
            self._charge_policy()

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            size = in_arena = 0
            for slot, name in enumerate(self._names):
                record, handle = self._records[slot], self._handles[slot]
                if name is None:
                    assert record is None
                    continue
                assert self._find(name) == slot
                assert hash(name) & _HASH_MASK == self._hashes[slot]
                assert (record is None) == (handle != _IN_NO_ARENA)
                if record is None:
                    in_arena += self._arena.size(handle) + _SLOT_BYTES
                    size += self._charge(name, None)
                else:
                    size += self._charge(name, record)
            assert (size, in_arena) == (self.size_bytes, self._arena_bytes)
            assert len(self._arena) == sum(handle != _IN_NO_ARENA for handle in self._handles)
            self._arena.check()
            assert sum(self._counts.values()) == len(self)

    # -- rows -------------------------------------------------------------------------------------

    def _is_small(self, record: bytes) -> bool:
        return len(record) <= self._arena.value_bytes_max

    def _charge(self, name: Name, record: bytes | None) -> int:
        """Of a row; of a record in the arena, which charges for itself, without it."""
        key_bytes = len(name) if type(name) is bytes else 0
        if record is None:
            return ROW_BYTES - _RECORD_HEADER_BYTES + key_bytes
        return ROW_BYTES + heap_bytes(key_bytes + len(record))

    def _pay(self, row: _Row) -> bool:
        """For a row, and give its record a place; False where there is no room. Not under the lock:
        whom the budget asks for room has a lock of its own."""
        record = row.record
        assert record is not None
        need = self._charge(row.name, None if self._is_small(record) else record)
        whole = need + len(record)
        if whole > self._value_bytes_max:
            return False
        if self.held_bytes + whole > self._bytes_max:
            self.make_free(whole)
        if self._try_to_pay(row):
            return True
        if self.held_bytes + whole > self._bytes_max:
            return False
        if not row.need:
            self._ask(need)
            if self._try_to_pay(row):
                return True
        if not row.need:
            return False
        self._ask(self._arena.extent_bytes)
        return self._try_to_pay(row)

    def _ask(self, size_bytes: int) -> None:
        """For room: others up to this cache's own share, and what is here beyond it."""
        if self.excess_bytes < 0:
            self._budget.ask(max(size_bytes, self._arena.growth_bytes))
        else:
            self.make_free(size_bytes + _FULL_SLACK)

    def _try_to_pay(self, row: _Row) -> bool:
        """The same without asking anybody."""
        record = row.record
        assert record is not None
        small = self._is_small(record)
        need = self._charge(row.name, None if small else record)
        whole = need + len(record)
        if whole > self._value_bytes_max or self.held_bytes + whole > self._bytes_max:
            return False
        if not row.need:
            if not self._budget.try_reserve(OWNER, need):
                return False
            row.need = need
        if small:
            # Under the lock: else everything might be let go of between the age and the handle.
            with self._lock:
                handle = self._arena.try_put(lifetime_of(row.collection), record)
                if handle is None:
                    return False
                row.age, row.handle, row.record = self._age, handle, None
        return True

    def _throw_away(self, row: _Row) -> None:
        """Give back what was paid for a row, unless the table has it."""
        if not row.need:
            return
        with self._lock:
            need, row.need = row.need, 0
            self._budget.release(OWNER, need)
            if row.handle != _IN_NO_ARENA and row.age == self._age:
                self._arena.delete(row.handle)

    def _replace(self, collection: int, slot: int, place: int, record: bytes) -> bool:
        """Another record in the place of one; False, and no change, where it does not fit there."""
        old, handle, key = self._records[slot], self._handles[slot], self._hashes[slot]
        growth = 0
        if old is not None:
            if len(record) != len(old):
                return False
            self._records[slot] = record
        elif not self._arena.overwrite(handle, record):
            growth = len(record) - self._arena.size(handle)
            fits = self._is_small(record) and self.held_bytes + growth <= self._bytes_max
            new = self._arena.try_put(lifetime_of(collection), record) if fits else None
            if new is None:
                return False
            self._arena_bytes += growth
            self._handles[slot] = new
            self._arena.delete(handle)
        self._places[slot] = place
        self._used[slot] = self.epochs.now
        if growth:
            # A policy knows of a member what it was told when that came.
            self._policy.removed(key)
            name = self._names[slot]
            assert name is not None
            self._policy.admitted(key, self._charge(name, None) + len(record) + _SLOT_BYTES)
            self._changed()
        self._policy.touched(key)
        return True

    def _add(self, row: _Row) -> None:
        if row.handle != _IN_NO_ARENA and row.age != self._age:
            # Its place in the arena is gone with everything else.
            return
        key = hash(row.name) & _HASH_MASK
        table = self._slots[key & _SHARD_MASK]
        other = table.get(key)
        if other is not None:
            self._remove(other)
        if self._free:
            slot = self._free.pop()
            self._names[slot] = row.name
            self._records[slot] = row.record
            self._handles[slot] = row.handle
            self._hashes[slot] = key
            self._places[slot] = row.place
            self._used[slot] = self.epochs.now
        else:
            slot = len(self._names)
            self._names.append(row.name)
            self._records.append(row.record)
            self._handles.append(row.handle)
            self._hashes.append(key)
            self._places.append(row.place)
            self._used.append(self.epochs.now)
        table[key] = slot
        self._counts[row.collection] = self._counts.get(row.collection, 0) + 1
        size = row.need
        # No call between these two, for a Ctrl-C comes after calls.
        self.size_bytes += size
        row.need = 0
        if row.record is None:
            in_arena = self._arena.size(row.handle) + _SLOT_BYTES
            self._arena_bytes += in_arena
            size += in_arena
        self._policy.admitted(key, size)
        self._changed()

    def _remove(self, slot: int) -> int:
        """How much came free, in the arena as well."""
        name, record, handle = self._names[slot], self._records[slot], self._handles[slot]
        assert name is not None
        collection, key = collection_of(name), self._hashes[slot]
        del self._slots[key & _SHARD_MASK][key]
        self._names[slot] = self._records[slot] = None
        self._handles[slot] = _IN_NO_ARENA
        self._free.append(slot)
        count = self._counts[collection] - 1
        if count:
            self._counts[collection] = count
        else:
            del self._counts[collection]
        size = self._charge(name, record)
        self.size_bytes -= size
        self._budget.release(OWNER, size)
        self._policy.removed(key)
        if record is None:
            in_arena = self._arena.size(handle) + _SLOT_BYTES
            self._arena.delete(handle)
            self._arena_bytes -= in_arena
            size += in_arena
        self.freed_bytes += size
        self._changed()
        return size

    def _changed(self) -> None:
        self._changes += 1
        if self._changes >= _POLICY_STEP:
            self._charge_policy()

    def _charge_policy(self) -> None:
        """Grows after the fact, by a few bytes a row: what does not fit waits for the next time."""
        self._changes = 0
        self._budget.try_settle(_POLICY_OWNER, self._policy.charged_bytes())

    def close(self) -> None:
        with self._lock:
            self.clear()
            self._budget.release_all(_POLICY_OWNER)

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._lock = LostLock()
