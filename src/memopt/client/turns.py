"""A turn at the owner: it is carried by a connection of its own, and ends with it.

So a client that dies leaves no turn open. Not here: who is let in when (pressure/admission.py).
"""

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.errors import StoreClosedError, UsageError
from memopt.client.connection import CarriedCall, Pool
from memopt.owner import Target
from memopt.sessions.session import Session
from memopt.sessions.turns import Turn

if TYPE_CHECKING:
    # What a RemoteTurn can do is what a Turn can do; for a type checker it is one.
    _TurnVerbs = Turn
else:
    _TurnVerbs = object


def collections_are_elsewhere(verb: str) -> UsageError:
    """What a client gets that asks for a mapping or a sequence."""
    return UsageError("collections are at hand in the process that owns the store", field=verb)


class RemoteTurn(_TurnVerbs):
    """One exchange: `with session.turn() as turn:`. The owner's turn, as long as a connection."""

    def __init__(
        self, pool: Pool, target: Target, session: Session, arguments: dict[str, Any]
    ) -> None:
        self.session = session
        self._pool = pool
        self._target = target
        self._arguments = arguments
        self._carrier: CarriedCall | None = None
        self._was_entered = False
        self._endings: list[Callable[[], None]] = []

    def mapping(self, name: str) -> StoredMapping:
        raise collections_are_elsewhere("turn.mapping")

    def sequence(self, name: str) -> StoredSequence:
        raise collections_are_elsewhere("turn.sequence")

    @property
    def used_bytes(self) -> int:
        """What its session appended through this owner, and what was noted."""
        return self._figures(0)[0]

    @property
    def admitted_bytes(self) -> int:
        return self._figures(0)[1]

    def note(self, size_bytes: int) -> None:
        self._figures(size_bytes)

    def at_end(self, action: Callable[[], None]) -> None:
        self._carried()
        self._endings.append(action)

    def __enter__(self) -> Self:
        if self._was_entered:
            raise UsageError("a turn is entered once", field="turn")
        self._was_entered = True
        self._carrier = self._pool.carry(self._target, "turn", self._arguments)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is None:
            return
        with contextlib.ExitStack() as endings:
            # Each of them, whatever happens to the others. Where the owner is gone, so is the turn.
            endings.enter_context(contextlib.suppress(StoreClosedError))
            endings.callback(carrier.end, "turn_end")
            actions, self._endings = self._endings, []
            for action in actions:
                endings.callback(action)

    def ask(self, wake: Callable[[], None]) -> bool:
        self.__enter__()
        return True

    def settle(self) -> None:
        """`ask` has waited already."""

    @property
    def wait_seconds(self) -> float:
        wait = self._arguments["wait_seconds"]
        return float(self._pool.config.turn_wait_seconds if wait is None else wait)

    def _figures(self, size_bytes: int) -> tuple[int, int]:
        used, admitted = self._carried().call("turn_note", {"size_bytes": size_bytes})
        return int(used), int(admitted)

    def _carried(self) -> CarriedCall:
        if self._carrier is None:
            raise UsageError("the turn was not entered, or is over", field="turn")
        return self._carrier
