"""Room for what is being read, in the budget of the store that it goes into.

A line or a conversation is there several times while it is read: as its bytes, as what they mean,
as messages. Owns: what an import has reserved for that. Invariant: it is reserved before it is
read, and given back when it is let go; what finds no room is not read. Not here: what the store
reserves for what it is given, and how large anything may be at most.
"""

from typing import Final

from memopt.base.budget import Budget
from memopt.base.units import MIB, format_bytes
from memopt.memory import Memory

_OWNER: Final = "importing"
_SHARE: Final = 0.5
"""Of the budget at most: the store needs room for the same messages."""
_ALONE_BYTES: Final = 256 * MIB
"""Where there is no store yet, or another process has it."""


_TIMES_READ: Final = 2
_TIMES_SAID: Final = 5
_OBJECT_BYTES: Final = 256
_LIST_BYTES: Final = 64


def reading_bytes(size_bytes: int) -> int:
    """What text takes while it is gathered: once as it is held, and once as it grows."""
    return _TIMES_READ * size_bytes


def saying_bytes(size_bytes: int) -> int:
    """What text takes while it becomes a message: as it was gathered, whole, and on its way."""
    return _TIMES_SAID * size_bytes


def decoding_bytes(raw: bytes) -> int:
    """What JSON takes while it is decoded and said, at most: its texts as they were read, as
    strings, as a message, and on its way; and what its objects take beside them. As measured."""
    return (
        saying_bytes(len(raw))
        + _OBJECT_BYTES * raw.count(b"{")
        + _LIST_BYTES * raw.count(b"[")
    )  # fmt: skip


class Room:
    """What one import may hold."""

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget if budget is not None else Budget(_ALONE_BYTES)
        self._parts: list[Part] = []

    @classmethod
    def of(cls, memory: Memory | None) -> "Room":
        """Room in the budget of a store that is open in this process."""
        return cls(memory._parts.budget if isinstance(memory, Memory) else None)

    def part(self) -> "Part":
        """Room for one thing, until `clear`."""
        part = Part(self._budget)
        self._parts.append(part)
        return part

    def clear(self) -> None:
        """Give back all of it: nothing is held any more."""
        for part in self._parts:
            part.fit(0)
        self._parts.clear()


class Part:
    """Room for one thing that grows and shrinks."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def fit(self, size_bytes: int) -> bool:
        """Hold so much in all from now on. False, and nothing changes, where there is no room."""
        more = size_bytes - self._held_bytes
        if more < 0:
            self._budget.release(_OWNER, -more)
        elif more:
            held_bytes = self._budget.held_bytes(_OWNER) + more
            if held_bytes > _SHARE * self._budget.limit_bytes:
                return False
            if not self._budget.try_reserve(_OWNER, more):
                self._budget.ask(more)
                if not self._budget.try_reserve(_OWNER, more):
                    return False
        self._held_bytes = size_bytes
        return True

    @property
    def refusal(self) -> str:
        """Why something more did not fit."""
        return f"there is no room for it in the budget of {format_bytes(self._budget.limit_bytes)}"
