"""Turns: one exchange of an agent, let in by the memory it is expected to need.

A turn reserves its predicted peak before it begins (pressure/admission.py). While it is open, what
its session reads and appends counts as its use, at what it occupies decoded, and so do values that
are read and set in the collections of both; the largest use is learnt when it ends. Collections of
a turn live as long as it does.

Not here: who is let in when (pressure/admission.py).
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.errors import UsageError
from memopt.base.forks import of_parent
from memopt.base.protocols import NEW, EntryName, TurnCollections
from memopt.base.units import parse_seconds
from memopt.codecs.message import DECODED_FACTOR
from memopt.pressure.admission import Admission
from memopt.pressure.ticket import Ticket
from memopt.sessions.names import SessionKey, check_count
from memopt.sessions.reading import Run

if TYPE_CHECKING:
    from memopt.sessions.session import Session

_owning: Final = threading.Lock()
"""Held for the moment in which a turn gets its collections."""
_KEYS_SEEN: Final = 4096
"""Bits by which a turn knows again which values it holds; they take half a KiB."""


class Turn:
    """One exchange: `with session.turn() as turn:`. A turn is entered once."""

    __slots__ = ("__weakref__", "_admission", "_agent", "_collections", "_endings",
                 "_expected_bytes", "_ticket", "_wait_seconds", "session")  # fmt: skip

    def __init__(
        self, admission: Admission, session: "Session", agent: str | None,
        expected_bytes: int | None, wait_seconds: float | None,
    ) -> None:  # fmt: skip
        self.session = session
        self._admission = admission
        self._agent = agent
        self._expected_bytes = expected_bytes
        self._wait_seconds = wait_seconds
        self._ticket: Ticket | None = None
        self._endings: list[Callable[[], None]] = []
        self._collections: TurnCollections | None = None

    def mapping(self, name: str) -> StoredMapping:
        """A dict of this turn, by name, which spills instead of growing. Not durable, and gone when
        the turn ends."""
        return self._owning().mapping(name)

    def sequence(self, name: str) -> StoredSequence:
        """The same as a list."""
        return self._owning().sequence(name)

    def _owning(self) -> TurnCollections:
        ticket = self._entered()
        if ticket.ended:
            raise UsageError("the turn has ended", field="turn")
        if self._admission.is_abandoned:
            # Before the lock: another thread of the parent may have held it.
            raise of_parent()
        with _owning:
            if self._collections is None:
                self._collections = self.session._sessions.turns.begin(
                    # It must not hold the turn, which may be dropped.
                    functools.partial(_holds, self._admission, ticket)
                )
                self.at_end(self._collections.close)
            return self._collections

    @property
    def used_bytes(self) -> int:
        """What the turn holds now, decoded: read, appended and collected."""
        return self._entered().used_bytes

    @property
    def admitted_bytes(self) -> int:
        """What it was let in with, or more once it used more."""
        return self._entered().charge_bytes

    def note(self, size_bytes: int) -> None:
        """It holds so many bytes more, or fewer where negative."""
        self._admission.note(self._entered(), check_change(size_bytes))

    def at_end(self, action: Callable[[], None]) -> None:
        """Run `action` when the turn ends, before what it was let in with is given back; the last
        one first."""
        self._entered()
        self._endings.append(action)

    def __enter__(self) -> Self:
        ticket = self._ticket = self._asking()
        self._admission.enter(ticket, self._wait_seconds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End it, or leave the queue. May be called twice."""
        ticket = self._ticket
        if ticket is None:
            return
        actions, self._endings = self._endings, []
        if self._admission.is_abandoned:
            # In a forked child they would act on what is the parent's.
            actions = []
        run_endings(actions, functools.partial(self._leave, ticket))

    def _leave(self, ticket: Ticket) -> None:
        if ticket.granted:
            self._admission.leave(ticket)
        else:
            self._admission.withdraw(ticket)

    # -- entering without blocking a thread -------------------------------------------------------

    def ask(self, wake: Callable[[], None]) -> bool:
        """Enter without waiting: True when it was let in. Else `wake` is called, on any thread,
        once it is decided, and `settle` says how. Raises BackpressureError as entering does."""
        ticket = self._ticket = self._asking()
        ticket.wake = wake
        return self._admission.ask(ticket, self.wait_seconds > 0)

    def settle(self) -> None:
        """After `wake`, or when the wait was long enough: raises what entering raises, unless it
        was let in."""
        ticket = self._entered()
        try:
            self._admission.give_up(ticket)
        except BaseException:
            self._admission.withdraw(ticket)
            raise

    def withdraw(self) -> None:
        """Instead of beginning: leave the queue, or give back what it was let in with."""
        if self._ticket is not None:
            self._admission.withdraw(self._ticket)

    @property
    def wait_seconds(self) -> float:
        """How long it may wait to be let in."""
        wait = self._wait_seconds
        return self._admission.wait_seconds if wait is None else wait

    def _asking(self) -> Ticket:
        if self._ticket is not None:
            raise UsageError("a turn is entered once", field="turn")
        if self._admission.is_abandoned:
            raise of_parent()
        key = (self.session.scope, self.session.id)
        ticket = self._admission.ticket(key, self._agent, self._expected_bytes)
        # One that a Ctrl-C meets in `__enter__` or `__exit__` is ended when this is dropped.
        self._admission.own(ticket, self)
        return ticket

    def _entered(self) -> Ticket:
        if self._ticket is None:
            raise UsageError("the turn was not entered", field="turn")
        return self._ticket


def run_endings(actions: list[Callable[[], None]], leave: Callable[[], None]) -> None:
    """What was to be done when a turn ends, the last one first, and `leave` behind them all: each,
    whatever happens to the others."""
    with contextlib.ExitStack() as endings:
        endings.callback(leave)
        for action in actions:
            endings.callback(action)


def check_turn(
    expected_bytes: int | None, wait_seconds: float | None
) -> tuple[int | None, float | None]:
    """What was asked of a turn. Raises UsageError naming what is wrong."""
    if expected_bytes is not None:
        check_count(expected_bytes, field="expected_bytes")
    if wait_seconds is not None:
        wait_seconds = parse_seconds(wait_seconds, field="wait_seconds")
    return expected_bytes, wait_seconds


def check_change(size_bytes: int) -> int:
    """What a turn holds more, or fewer. Raises UsageError."""
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
        raise UsageError(f"expected a whole number, got {size_bytes!r}", field="size_bytes")
    return size_bytes


def wrote(admission: Admission, key: SessionKey, size_bytes: int) -> None:
    """A session that has a turn appended so many encoded bytes: its caller holds them decoded."""
    ticket = _newest(admission, key)
    if ticket is not None:
        admission.note(ticket, DECODED_FACTOR * size_bytes)


def reading(admission: Admission, key: SessionKey) -> Callable[[Run], None] | None:
    """What notes the runs that a session with a turn reads; None when it has none. What the turn
    has seen already does not count again: it is read again, and held once."""
    ticket = _newest(admission, key)
    if ticket is None:
        return None

    def note(run: Run) -> None:
        stop = run.first + run.length
        if ticket.seen_start <= run.first and stop <= ticket.seen_stop:
            return
        if ticket.seen_stop == 0:
            ticket.seen_start = run.first
        ticket.seen_start = min(ticket.seen_start, run.first)
        ticket.seen_stop = max(ticket.seen_stop, stop)
        admission.note(ticket, DECODED_FACTOR * run.encoded_bytes())

    return note


def collecting(admission: Admission) -> Callable[[str, str | None, EntryName, int], None]:
    """What notes the values that a session with a turn reads and sets in its collections."""

    def held(scope: str, session: str | None, entry: EntryName, size_bytes: int) -> None:
        # A scope's own collections are no session's.
        ticket = None if session is None else _newest(admission, SessionKey(scope, session))
        if ticket is not None:
            _holds(admission, ticket, entry, size_bytes)

    return held


def _holds(admission: Admission, ticket: Ticket, entry: EntryName, size_bytes: int) -> None:
    """A value counts once a turn, however often it is read or set: an agent that asks for the same
    note again and again holds it once. By a bit for each key, so of many thousand keys the later
    ones count less."""
    if entry[2] is not NEW:
        seen = ticket.seen_keys
        if seen is None:
            seen = ticket.seen_keys = bytearray(_KEYS_SEEN // 8)
        index = hash(entry) % _KEYS_SEEN
        bit = 1 << index % 8
        if seen[index // 8] & bit:
            return
        seen[index // 8] |= bit
    admission.note(ticket, DECODED_FACTOR * size_bytes)


def _newest(admission: Admission, key: SessionKey) -> Ticket | None:
    mine = admission.open_turns.get(key)
    try:
        return mine[-1] if mine else None
    except IndexError:
        return None  # It ended this very moment.
