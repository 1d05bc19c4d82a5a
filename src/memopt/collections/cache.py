"""Records of entries in RAM: a cache over the home, which has all of them already.

A row is a record by its name: the collection's number with the key, or for sequences the entry's
number. Reserved before it is kept, chosen to go by a policy, dropped without writing anything.

Invariant: what is here is what was committed last, or nothing. A commit is applied after it was
made and before its caller hears of it; whoever fills from a snapshot asks for a ticket first, which
a commit takes away.
"""

import functools
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

from memopt.base.budget import Budget
from memopt.base.events import EntriesEvicted, Events
from memopt.base.protocols import Policy
from memopt.base.records import PLACE_BITS
from memopt.base.units import KIB

OWNER: Final = "collections"
ROW_BYTES: Final = 260
"""A row's places in the table, in three columns and in the index, and the headers and rounding of
its two byte strings; measured in the tests."""
_POLICY_STEP: Final = 64
"""What the policy occupies is asked for once in so many changes."""
_OWN_SHARE: Final = 1 / 4
"""Above this share of the budget, what comes in takes the place of what is here; below it, room is
asked of others."""
_VALUE_SHARE: Final = 1 / 16
"""Values above this share of the budget are not kept."""
_FULL_SLACK: Final = 64 * KIB

Name = bytes | int
Effect = tuple[Name, int, bytes | None]
"""A name, its place, and its record; None: it is gone."""
F = TypeVar("F", bound=Callable[..., Any])


def _whole(method: F) -> F:
    """A Ctrl-C may come between two columns of a row. Everything here can be read again, so then
    everything is let go."""

    @functools.wraps(method)
    def guarded(self: "EntryCache", *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except Exception:
            raise
        except BaseException:
            self.clear()
            raise

    return cast("F", guarded)


class EntryCache:
    """Thread-safe."""

    def __init__(self, budget: Budget, make_policy: Callable[[], Policy], events: Events) -> None:
        self._budget = budget
        self._make_policy = make_policy
        self._events = events
        self._lock = threading.RLock()
        self._tickets: dict[Name, object] = {}
        self._value_bytes_max = int(budget.limit_bytes * _VALUE_SHARE)
        self._own_bytes = int(budget.limit_bytes * _OWN_SHARE)
        self._policy_bytes = 0
        self._bytes_max = budget.limit_bytes
        self.freed_bytes = 0
        """Of everything that was let go of so far."""
        self._start()

    def _start(self) -> None:
        self._slots: dict[Name, int] = {}
        self._names: list[Name | None] = []
        self._records: list[bytes | None] = []
        self._places = array("q")
        self._free: list[int] = []
        self._counts: dict[int, int] = {}
        """Rows by collection, so that one without any is dropped for nothing."""
        self._policy = self._make_policy()
        self._changes = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    # -- reading ----------------------------------------------------------------------------------

    def get(self, name: Name) -> bytes | None:
        """The record, which was verified when it came in."""
        try:
            with self._lock:
                slot = self._slots.get(name)
                if slot is None:
                    return None
                self._policy.touched(slot)
                return self._records[slot]
        except KeyboardInterrupt:
            # As `_whole` says, which costs a call more.
            self.clear()
            raise

    def place(self, name: Name) -> int | None:
        """Where a key is, if it is here. Under the commit lock that is where it is."""
        with self._lock:
            slot = self._slots.get(name)
            return None if slot is None else self._places[slot]

    def ticket(self, name: Name) -> object:
        """To be asked for before the snapshot is taken that a row is filled from."""
        ticket = object()
        self._tickets[name] = ticket
        return ticket

    def fill(self, collection: int, name: Name, ticket: object, place: int, record: bytes) -> None:
        """Keep what a snapshot held, unless it was changed since the ticket."""
        need = self._charge(name, record)
        reserved = self._reserve(need)
        with self._lock:
            if self._tickets.get(name) is ticket:
                del self._tickets[name]
                if reserved and name not in self._slots:
                    self._add(collection, name, place, record, need)
                    return
        if reserved:
            self._budget.release(OWNER, need)

    def give_back(self, name: Name, ticket: object) -> None:
        """There was nothing to fill with."""
        with self._lock:
            if self._tickets.get(name) is ticket:
                del self._tickets[name]

    # -- changing ---------------------------------------------------------------------------------

    def apply(self, collection: int, effects: Sequence[Effect]) -> None:
        """What a commit has done to entries of a collection, in order."""
        unkept: list[Effect] = []
        self._apply(collection, effects, unkept)
        for name, place, record in unkept:
            # Room has to be asked for, and not under the lock.
            assert record is not None
            need = self._charge(name, record)
            if self._reserve(need):
                with self._lock:
                    if name not in self._slots:
                        self._add(collection, name, place, record, need)
                    else:
                        self._budget.release(OWNER, need)

    @_whole
    def _apply(self, collection: int, effects: Sequence[Effect], unkept: list[Effect]) -> None:
        with self._lock:
            for effect in effects:
                name, place, record = effect
                if self._tickets:
                    self._tickets.pop(name, None)
                slot = self._slots.get(name)
                if slot is not None:
                    old = self._records[slot]
                    assert old is not None
                    if record is not None and len(record) == len(old):
                        self._records[slot] = record
                        self._places[slot] = place
                        self._policy.touched(slot)
                        continue
                    self._remove(collection, slot)
                if record is None:
                    continue
                need = self._charge(name, record)
                fits = need <= self._value_bytes_max and self.size_bytes + need <= self._bytes_max
                if fits and self._budget.try_reserve(OWNER, need):
                    self._add(collection, name, place, record, need)
                else:
                    unkept.append(effect)

    @_whole
    def drop(self, collection: int) -> None:
        """Let go of everything of a collection."""
        with self._lock:
            self._tickets.clear()
            if not self._counts.get(collection):
                return
            for name, slot in list(self._slots.items()):
                if collection_of(name) == collection:
                    self._remove(collection, slot)

    # -- room -------------------------------------------------------------------------------------

    @_whole
    def make_free(self, size_bytes: int) -> int:
        """Evict until so much came free; how much did."""
        freed = count = 0
        with self._lock:
            # What the policy came to occupy meanwhile takes of the room, too.
            self._charge_policy()
            size_bytes += max(0, self._policy.charged_bytes() - self._policy_bytes)
            while freed < size_bytes:
                slot = self._policy.victim()
                if slot is None:
                    break
                name = self._names[slot]
                assert name is not None
                freed += self._remove(collection_of(name), slot)
                count += 1
            self._charge_policy()
        if count:
            self._events.emit(EntriesEvicted(count, freed))
        return freed

    def limit(self, share: float) -> None:
        """Hold at most `share` of what is here now, until the limit is 1 again."""
        with self._lock:
            self._bytes_max = self._budget.limit_bytes
            if share < 1:
                self._bytes_max = int(self.size_bytes * share)
                self.make_free(self.size_bytes - self._bytes_max)

    def clear(self) -> None:
        with self._lock:
            self._tickets.clear()
            self._budget.release(OWNER, self.size_bytes)
            self._start()
            self._charge_policy()

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            size = 0
            for name, slot in self._slots.items():
                record = self._records[slot]
                assert self._names[slot] == name
                assert record is not None
                size += self._charge(name, record)
            assert size == self.size_bytes
            assert sum(self._counts.values()) == len(self._slots)

    def _charge(self, name: Name, record: bytes) -> int:
        key_bytes = len(name) if type(name) is bytes else 0
        # Bytes of many sizes that come and go leave holes: a twelfth, as for pages.
        size = key_bytes + len(record)
        return ROW_BYTES + size + size // 12

    def _reserve(self, need: int) -> bool:
        # Not under the lock: whom the budget asks for room has a lock of its own.
        if need > self._value_bytes_max:
            return False
        if self.size_bytes + need > self._bytes_max:
            self.make_free(need)
            if self.size_bytes + need > self._bytes_max:
                return False
        if self._budget.try_reserve(OWNER, need):
            return True
        if self.size_bytes < self._own_bytes:
            self._budget.ask(need)
        else:
            self.make_free(need + _FULL_SLACK)
        return self._budget.try_reserve(OWNER, need)

    def _add(self, collection: int, name: Name, place: int, record: bytes, need: int) -> None:
        if self._free:
            slot = self._free.pop()
            self._names[slot] = name
            self._records[slot] = record
            self._places[slot] = place
        else:
            slot = len(self._names)
            self._names.append(name)
            self._records.append(record)
            self._places.append(place)
        self._slots[name] = slot
        self._counts[collection] = self._counts.get(collection, 0) + 1
        self.size_bytes += need
        self._policy.admitted(slot, need)
        self._changed()

    def _remove(self, collection: int, slot: int) -> int:
        name, record = self._names[slot], self._records[slot]
        assert name is not None
        assert record is not None
        del self._slots[name]
        self._names[slot] = self._records[slot] = None
        self._free.append(slot)
        count = self._counts[collection] - 1
        if count:
            self._counts[collection] = count
        else:
            del self._counts[collection]
        size = self._charge(name, record)
        self.size_bytes -= size
        self.freed_bytes += size
        self._policy.removed(slot)
        self._budget.release(OWNER, size)
        self._changed()
        return size

    def _changed(self) -> None:
        self._changes += 1
        if self._changes >= _POLICY_STEP:
            self._charge_policy()

    def _charge_policy(self) -> None:
        """Grows after the fact, by a few bytes a row: what does not fit waits for the next time."""
        self._changes = 0
        wanted = self._policy.charged_bytes()
        change = wanted - self._policy_bytes
        if change < 0:
            self._budget.release("policies", -change)
        elif not self._budget.try_reserve("policies", change):
            return
        self._policy_bytes = wanted

    def close(self) -> None:
        with self._lock:
            self.clear()
            self._budget.release("policies", self._policy_bytes)
            self._policy_bytes = 0


def name_of_key(collection: int, key: bytes) -> bytes:
    return collection.to_bytes(8, "big") + key


def name_of_place(collection: int, place: int) -> int:
    return collection << PLACE_BITS | place


def collection_of(name: Name) -> int:
    return name >> PLACE_BITS if type(name) is int else int.from_bytes(name[:8], "big")  # type: ignore[index]
