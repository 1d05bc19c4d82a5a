"""What is kept in RAM about a session that is being written: where its tail begins and ends.

A row is derived from the home and can be dropped at any time; the next write derives it again.
Only members of a commit read or change rows, so the commit lock is their lock; the table's own
lock guards the dictionary alone.
"""

import collections
import threading
from typing import Final

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError
from memopt.base.protocols import Tables
from memopt.base.records import SEQ_BITS, SEQ_MASK, LineRow, SessionRow
from memopt.sessions.names import SessionKey, tenant_of

ROW_BYTES: Final = 900
"""A row, its key with two strings of usual length, and its place in the table; measured in the
tests."""
_USUAL_BYTES: Final = 160
_OWNER: Final = "sessions"


class Resident:
    """One session that is being written."""

    __slots__ = (
        "base", "generation", "line", "next_seq", "scope_number", "sealing", "session",
        "tail_bytes", "tail_start", "tenant_number", "touched", "touched_us",
    )  # fmt: skip

    def __init__(self, row: SessionRow, tenant_number: int, line: LineRow) -> None:
        self.session = row.session
        self.scope_number = row.scope_number
        self.tenant_number = tenant_number
        self.line = line.line
        self.base = line.base
        self.next_seq = line.base
        self.tail_start = line.base
        self.tail_bytes = 0
        self.generation = 0
        """Counts what changes sealed or unsealed messages other than by appending."""
        self.sealing = False
        self.touched = 0.0
        self.touched_us = row.touched_us

    @property
    def head(self) -> int:
        return self.line << SEQ_BITS | self.next_seq


class Residents:
    """Rows by key, oldest touch first, at most `count_max`."""

    def __init__(self, budget: Budget, count_max: int) -> None:
        self._budget = budget
        self._count_max = count_max
        self._share = 1.0
        self._rows: collections.OrderedDict[SessionKey, Resident] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: SessionKey) -> Resident | None:
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def peek(self, key: SessionKey) -> Resident | None:
        return self._rows.get(key)

    def add(self, key: SessionKey, row: Resident) -> None:
        self._budget.reserve(_OWNER, _charge(key))
        with self._lock:
            if key in self._rows:
                self._budget.release(_OWNER, _charge(key))
            self._rows[key] = row
            while len(self._rows) > self._count_max * self._share:
                self._let_oldest_go()

    def drop(self, key: SessionKey) -> None:
        with self._lock:
            if self._rows.pop(key, None) is not None:
                self._budget.release(_OWNER, _charge(key))

    def shrink(self, share: float) -> None:
        """Let the oldest rows go, down to `share` of those there are."""
        with self._lock:
            for _ in range(int(len(self._rows) * (1 - share))):
                self._let_oldest_go()

    def limit(self, share: float) -> None:
        """From now on hold at most `share` of what the config allows."""
        self._share = share
        with self._lock:
            while len(self._rows) > self._count_max * share:
                self._let_oldest_go()

    def _let_oldest_go(self) -> None:
        key, _ = self._rows.popitem(last=False)
        self._budget.release(_OWNER, _charge(key))

    def idle_since(self, moment: float, limit: int) -> list[tuple[SessionKey, Resident]]:
        """Up to `limit` rows not touched since `moment`, oldest first."""
        found: list[tuple[SessionKey, Resident]] = []
        with self._lock:
            for key, row in self._rows.items():
                if row.touched >= moment or len(found) == limit:
                    break
                found.append((key, row))
        return found

    def rows(self) -> list[tuple[SessionKey, Resident]]:
        with self._lock:
            return list(self._rows.items())

    def close(self) -> None:
        with self._lock:
            self._budget.release(_OWNER, sum(map(_charge, self._rows)))
            self._rows.clear()


def _charge(key: SessionKey) -> int:
    # Names may be 512 bytes long, and a str takes up to four bytes a character.
    names_bytes = key.scope.__sizeof__() + key.id.__sizeof__()
    return ROW_BYTES + max(0, names_bytes - _USUAL_BYTES)


def load_resident(tables: Tables, row: SessionRow) -> Resident:
    """The row of a session, from the home. Raises CorruptionError where its pages and its tail do
    not join."""
    line = tables.lines.get(row.line)
    if line is None:
        raise CorruptionError(f"line {row.line} is missing", scope=row.scope, session=row.id)
    tenant = tables.scopes.number(tenant_of(row.scope))
    if tenant is None:
        raise CorruptionError("its tenant is missing", scope=row.scope, session=row.id)
    resident = Resident(row, tenant, line)
    pages = tables.pages.map(row.line, 0, SEQ_MASK + 1, last=1)
    if pages:
        resident.next_seq = resident.tail_start = pages[0].stop
    tail = tables.tail.range(row.line, 0, SEQ_MASK + 1)
    for seq, record in tail:
        if seq != resident.next_seq:
            raise CorruptionError(
                f"messages {resident.next_seq} to {seq - 1} are missing",
                scope=row.scope,
                session=row.id,
            )
        resident.next_seq += 1
        resident.tail_bytes += len(record)
    return resident
