"""Checking what is kept of contexts: windows, recalled blocks, what models wrote, and pins.

A row is damaged where its checksum or its form is wrong, where its line or its message is gone, and
where it names another scope than its session has, for then forgetting would not find it.

Owns: that rule. Invariant: only what is damaged is dropped. All but a pin is made again when
somebody asks for it; one that cannot be read pins nothing, and keeps contexts from being made. Not
here: what is read of a damaged row meanwhile, which is nothing (windows.py).
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import Damage, LineRow
from memopt.context.windows import Block, open_row
from memopt.journal.commit import GroupCommitter
from memopt.sessions.reading import length_of

_ROWS_AT_ONCE: Final = 256
_Key = tuple[int, Any]


class _Wrong(NamedTuple):
    key: _Key
    damage: Damage


class ContextChecking:
    """The ContextChecker of a store. Thread-safe."""

    def __init__(self, home: Reader, committer: GroupCommitter, compressor: Compressor) -> None:
        self._home = home
        self._committer = committer
        self._compressor = compressor

    def check(self) -> tuple[int, list[Damage]]:
        sizes: list[int] = []
        damages: list[Damage] = []
        for what, wrong in (("contexts", self._contexts(sizes)), ("pins", self._pins(sizes))):
            try:
                damages += [one.damage for one in wrong]
            except CorruptionError as error:
                damages.append(Damage(what=f"the list of its {what}: {error.reason}"))
        return sum(sizes), damages

    def mend(self) -> int:
        """A commit for each, for they are few."""
        dropped = 0
        for wrong, drop in (
            (self._contexts([]), self._drop_context), (self._pins([]), self._drop_pin)
        ):  # fmt: skip
            for one in wrong:
                self._committer.commit(lambda t, key=one.key, drop=drop: drop(t.tables, *key))  # type: ignore[misc]
                dropped += 1
        return dropped

    def _drop_context(self, tables: Tables, line: int, name: str) -> None:
        # It may have been made again meanwhile.
        if self._wrong_context(tables, line, name, []) is not None:
            tables.contexts.delete(line, name)

    def _drop_pin(self, tables: Tables, line: int, seq: int) -> None:
        if _wrong_pin(tables, line, seq) is not None:
            tables.message_pins.delete(line, seq)

    # -- rows -------------------------------------------------------------------------------------

    def _contexts(self, sizes: list[int]) -> Iterator[_Wrong]:
        def look(tables: Tables, key: _Key) -> str | None:
            return self._wrong_context(tables, *key, sizes)

        return self._wrong(lambda tables, after: tables.contexts.scan(after, _ROWS_AT_ONCE),
                           (-1, ""), look)  # fmt: skip

    def _pins(self, sizes: list[int]) -> Iterator[_Wrong]:
        return self._wrong(lambda tables, after: tables.message_pins.scan(after, _ROWS_AT_ONCE),
                           (-1, 0), lambda tables, key: _wrong_pin(tables, *key))  # fmt: skip

    def _wrong(
        self, scan: Callable[[Tables, Any], list[Any]], after: _Key,
        look: Callable[[Tables, _Key], str | None],
    ) -> Iterator[_Wrong]:  # fmt: skip
        while True:
            with self._home.snapshot() as tables:
                keys = scan(tables, after)
                found = [
                    _Wrong(key, _damage(tables, key[0], what))
                    for key in keys
                    if (what := look(tables, key)) is not None
                ]
            yield from found
            if len(keys) < _ROWS_AT_ONCE:
                return
            after = keys[-1]

    def _wrong_context(self, tables: Tables, line: int, name: str, sizes: list[int]) -> str | None:
        """What is wrong with a row; None where it is whole, or gone."""
        try:
            row = tables.contexts.get(line, name)
            if row is None:
                return None
            sizes.append(len(row.body))
            value = open_row(self._compressor, row)
            of = tables.lines.get(line)
            if of is None:
                raise CorruptionError(f"its line {line} is gone")
            last = value.seq if isinstance(value, Block) else value.start - 1
            _check_place(tables, of, last)
            session = tables.sessions.get(of.session) if of.session else None
            if session is not None and session.scope_number != row.scope_number:
                raise CorruptionError(f"it names scope {row.scope_number}")
        except (CorruptionError, StoreVersionError) as error:
            return f"context {name!r}: {getattr(error, 'reason', error)}; compact() drops it"
        return None


def _wrong_pin(tables: Tables, line: int, seq: int) -> str | None:
    try:
        if not tables.message_pins.of_line(line, seq, seq + 1):
            return None
        of = tables.lines.get(line)
        if of is None:
            raise CorruptionError(f"its line {line} is gone")
        _check_place(tables, of, seq)
    except CorruptionError as error:
        return f"the pin of message {seq}: {error.reason}; compact() drops it"
    return None


def _check_place(tables: Tables, line: LineRow, seq: int) -> None:
    if not line.base <= seq < length_of(tables, line):
        raise CorruptionError(f"line {line.line} has no message {seq}")


def _damage(tables: Tables, line: int, what: str) -> Damage:
    of = tables.lines.get(line)
    session = tables.sessions.get(of.session) if of is not None and of.session else None
    if session is None:
        return Damage(what=what)
    return Damage(what=what, scope=session.scope, session=session.id)
