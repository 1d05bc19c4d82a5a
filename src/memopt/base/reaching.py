"""Which scopes a call looks at: by whole path components, in one order."""

from collections.abc import Iterator
from typing import Final

from memopt.base.names import ancestors_of
from memopt.base.protocols import Tables
from memopt.base.records import Reach

_SCOPES_AT_ONCE: Final = 256


def scope_numbers(tables: Tables, scope: str, reach: Reach) -> list[int]:
    """The scopes that `reach` looks at, nearest first; those that exist."""
    if reach is Reach.SUBTREE:
        return [number for number, _ in tables.scopes.subtree(scope)]
    paths = [scope] if reach is Reach.EXACT else list(reversed(ancestors_of(scope)))
    numbers = (tables.scopes.number(path) for path in paths)
    return [number for number in numbers if number is not None]


def scopes_from(
    tables: Tables, scope: str | None, reach: Reach, start: str | None
) -> Iterator[tuple[int, str]]:
    """The scopes that are looked at, as (number, path), from `start` on: by path, or nearest
    first. `scope` None: all of them."""
    if scope is None:
        path = start or ""
        while rows := tables.scopes.page(path, _SCOPES_AT_ONCE):
            yield from rows
            path = rows[-1][1] + "\0"
    elif reach is Reach.SUBTREE:
        yield from ((n, path) for n, path in tables.scopes.subtree(scope) if path >= (start or ""))
    else:
        paths = [scope] if reach is Reach.EXACT else reversed(ancestors_of(scope))
        for path in paths:
            number = tables.scopes.number(path)
            if number is not None and (start is None or len(path) <= len(start)):
                yield number, path
