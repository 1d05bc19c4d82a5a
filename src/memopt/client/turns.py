"""A turn at the owner: it is carried by a connection of its own, and ends with it.

So a client that dies leaves no turn open, and none in the queue. Not here: who is let in when
(pressure/admission.py).
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.errors import UsageError
from memopt.client.connection import CarriedCall, Pool
from memopt.owner import Target
from memopt.sessions.session import Session
from memopt.sessions.turns import Turn, run_endings

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
        self._decision: Future[None] = Future()
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
        carrier = self._carry()
        try:
            carrier.begun()
        except BaseException:
            self._carrier = None
            raise
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
        actions, self._endings = self._endings, []
        run_endings(actions, functools.partial(carrier.end, "turn_end"))

    def ask(self, wake: Callable[[], None]) -> bool:
        """Always False: a thread of its own waits for the owner's word, and calls `wake`. There is
        one for each connection that waits, so no more than `socket_clients_max`."""
        carrier, decision = self._carry(), self._decision
        decision.add_done_callback(lambda _: wake())
        waiting = threading.Thread(
            target=_wait, args=(carrier, decision), name="memopt-client-turn", daemon=True
        )
        try:
            waiting.start()
        except BaseException:
            self.withdraw()
            raise
        return False

    def settle(self) -> None:
        self._decision.result()

    def withdraw(self) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.drop()

    @property
    def wait_seconds(self) -> float:
        """The owner counts, and says when it was long enough."""
        return threading.TIMEOUT_MAX

    def _carry(self) -> CarriedCall:
        if self._was_entered:
            raise UsageError("a turn is entered once", field="turn")
        self._was_entered = True
        carrier = self._carrier = self._pool.carry(self._target, "turn", self._arguments)
        return carrier

    def _figures(self, size_bytes: int) -> tuple[int, int]:
        used, admitted = self._carried().call("turn_note", {"size_bytes": size_bytes})
        return int(used), int(admitted)

    def _carried(self) -> CarriedCall:
        if self._carrier is None:
            raise UsageError("the turn was not entered, or is over", field="turn")
        return self._carrier


def _wait(carrier: CarriedCall, decision: "Future[None]") -> None:
    try:
        carrier.begun()
    except BaseException as error:  # noqa: BLE001 - handed to whoever asked
        decision.set_exception(error)
    else:
        decision.set_result(None)
