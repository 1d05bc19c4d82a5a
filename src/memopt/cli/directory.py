"""Gets hold of a store: opens a directory nobody owns, or speaks to the one who owns it.

Invariant: a command that reads never makes a directory, and a missing one is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final

import typer

import memopt
from memopt import Memory, Session
from memopt.base.errors import MemoptError, NotFoundError, StoreLockedError, UsageError
from memopt.base.records import Reach, SessionInfo

_LISTED_AT_ONCE: Final = 500

config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)
"""What `memopt --config FILE …` named."""

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A store's directory.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, complete and exact.")]


def refuse_config() -> None:
    """For commands that open no store of theirs. Raises UsageError where --config was given."""
    if config_file.get() is not None:
        raise UsageError("goes with commands that open a store", field="--config")


@contextmanager
def attached(directory: Path, *, writable: bool, create: bool = False) -> Iterator[Memory]:
    """The store in `directory`: opened here, or reached through the process that has it open.

    Either way it answers the same verbs. Raises NotFoundError where there is none and `create`
    was not asked for.
    """
    with _reach(directory, writable=writable, create=create) as memory:
        yield memory


def _reach(directory: Path, *, writable: bool, create: bool) -> Memory:
    try:
        return memopt.open(
            directory, read_only=not writable, create=create, config=config_file.get()
        )
    except StoreLockedError as locked:
        try:
            return memopt.connect(directory)
        except (MemoptError, OSError) as error:
            raise StoreLockedError(
                f"{locked}; its owner does not answer: {error}", owner=locked.owner
            ) from error


def every_session(memory: Memory, scope: str | None, reach: Reach) -> Iterator[SessionInfo]:
    """The sessions of a scope, or of all scopes, page by page."""
    after = None
    while True:
        infos = memory.sessions(scope, reach=reach, after=after, limit=_LISTED_AT_ONCE)
        yield from infos
        if len(infos) < _LISTED_AT_ONCE:
            return
        after = (infos[-1].scope, infos[-1].id)


def find_session(memory: Memory, scope: str, session_id: str) -> Session:
    """A handle of a session that exists. Raises NotFoundError otherwise."""
    session = memory.session(session_id, scope=scope)
    if not session.head:
        raise NotFoundError(f"there is no session {session_id!r} in scope {scope!r}")
    return session
