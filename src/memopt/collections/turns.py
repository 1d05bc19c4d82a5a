"""Collections that live as long as a turn: the same code on a scratch file, without commits.

Nothing of them is durable, journalled, or found by a forgetting; they are gone when the turn ends.
"""

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from memopt.base.errors import MemoptError, UsageError
from memopt.base.forks import LostLock
from memopt.base.protocols import Clock, EntryName, Held, Tables
from memopt.collections.maker import Collections
from memopt.collections.mapping import Mapping
from memopt.collections.sequence import Sequence
from memopt.journal.commit import CommitTransaction
from memopt.stores.scratch import Scratch

T = TypeVar("T")

_SCOPE: Final = "turn"


class ScratchCommitter:
    """Members run one at a time, in a transaction each, on the scratch file."""

    def __init__(self, scratch: Scratch, clock: Clock) -> None:
        self._scratch = scratch
        self._clock = clock
        self._lsn = 0
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when a change may have been made and its conclusion was interrupted."""

    def commit(self, member: Callable[[CommitTransaction], T]) -> T:
        return self._run(member, is_one=False)

    def commit_one(self, member: Callable[[CommitTransaction], T]) -> T:
        return self._run(member, is_one=True)

    def _run(self, member: Callable[[CommitTransaction], T], *, is_one: bool) -> T:
        transaction: CommitTransaction | None = None

        def act(tables: Tables) -> T:
            nonlocal transaction
            transaction = CommitTransaction(tables, self._scratch.begin)
            transaction.lsn, transaction.at_us = self._lsn, self._clock.now_us()
            return member(transaction)

        with self._scratch.exclusive():
            is_made = False
            try:
                result = self._scratch.write(act, is_one=is_one)
                is_made = True
                assert transaction is not None
                self._lsn = transaction.lsn
                for action in transaction.actions:
                    action()
            except BaseException as error:
                while transaction is not None and transaction.undo:
                    undo, argument = transaction.undo.pop()
                    undo(argument)
                if is_made or not isinstance(error, Exception):
                    # A Ctrl-C may come on the way out of COMMIT, too.
                    self.on_doubt()
                raise
            return result


class TurnOwners:
    """The CollectionOwners of turns that are open."""

    def __init__(self) -> None:
        self.open: dict[int, Held] = {}

    def find(self, tables: Tables, scope: str, session: str | None) -> tuple[int, int]:
        del tables
        number = int(session or 0)
        if scope != _SCOPE or number not in self.open:
            raise UsageError("the turn has ended, and its collections with it", field="turn")
        return number, 0

    def held(self, scope: str, session: str | None, entry: EntryName, size_bytes: int) -> None:
        """Tell a turn what of its collections was read or set."""
        del scope
        note = self.open.get(int(session or 0))
        if note is not None:
            note(entry, size_bytes)

    def make(
        self, transaction: Any, scope: str, session: str | None, agent: str | None
    ) -> tuple[int, int]:
        del agent
        return self.find(transaction.tables, scope, session)


class Turns:
    """Makes the collections of turns. Thread-safe."""

    def __init__(self, scratch: Scratch, owners: TurnOwners, collections: Collections) -> None:
        self._scratch = scratch
        self._owners = owners
        self._collections = collections
        committer = collections.engine.committer
        if isinstance(committer, ScratchCommitter):
            committer.on_doubt = collections.rows.distrust
        self._numbers = itertools.count(1)
        self._lock: contextlib.AbstractContextManager[Any] = threading.Lock()
        self._left: deque[int] = deque()
        """Of turns that nobody ended; their finalizer may run anywhere, so it takes no lock."""

    def begin(self, held: Held) -> "TurnCollections":
        """Those of one turn, from now on. `held(key, size_bytes)` is told what is read and set."""
        while self._left:
            with contextlib.suppress(IndexError, MemoptError):
                self.end(self._left.popleft())
        with self._lock:
            number = next(self._numbers)
            self._owners.open[number] = held
        return TurnCollections(self, number)

    def leave(self, number: int) -> None:
        """For a finalizer: they are deleted when the next turn comes."""
        if number in self._owners.open:
            self._left.append(number)

    def end(self, number: int) -> None:
        with self._lock:
            # First of all: what is written from here on has no owner, and is refused.
            if self._owners.open.pop(number, None) is None:
                return
        kept, id = self._collections, str(number)
        try:
            kept.engine.committer.commit(lambda t: kept.keeper.delete(t, _SCOPE, id, number, 0))
        except BaseException:
            with self._scratch.exclusive():
                kept.rows.distrust()
            raise
        finally:
            with self._lock:
                if not self._owners.open:
                    self._scratch.shrink()

    def mapping(self, number: int, name: str) -> Mapping:
        return self._collections.mapping(name, _SCOPE, str(number))

    def sequence(self, number: int, name: str) -> Sequence:
        return self._collections.sequence(name, _SCOPE, str(number))

    def close(self) -> None:
        self._collections.rows.close()
        self._scratch.close()

    def abandon(self) -> None:
        """In a forked child: every handle refuses, and waits for no lock."""
        self._lock = LostLock()
        self._scratch.abandon()
        self._collections.abandon()


class TurnCollections:
    """The mappings and sequences of one turn."""

    def __init__(self, turns: Turns, number: int) -> None:
        self._turns = turns
        self._number = number

    def mapping(self, name: str) -> Mapping:
        return self._turns.mapping(self._number, name)

    def sequence(self, name: str) -> Sequence:
        return self._turns.sequence(self._number, name)

    def close(self) -> None:
        """They are gone. May be called twice."""
        self._turns.end(self._number)

    def __del__(self) -> None:
        self._turns.leave(self._number)
