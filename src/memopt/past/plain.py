"""Lines of messages, as Chat requests have them: {"role": …, "content": …}, one a line.

A line may name its session (`session`, `session_id`, `conversation_id` or `thread_id`) and its
time (`at`, `timestamp`, `created_at`, `create_time`, `time`); else all of a file are one. Messages
are kept exactly, without a note of where they are from.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any, Final

import msgspec

from memopt.past.files import NoRoom, Source, lines
from memopt.past.logs import note_unparsed
from memopt.past.parsing import PARSE_ERRORS, parsed, time_of
from memopt.past.records import About, Begin, Brought, Say, Step
from memopt.past.room import Room

_NAMES: Final = ("session", "session_id", "conversation_id", "thread_id")
_TIMES: Final = ("at", "timestamp", "created_at", "create_time", "time")
_SESSIONS_MAX: Final = 100_000
"""Of one file."""
_NAMELESS: Final = "\0"
"""No line may say that name."""
_OBJECTS: Final = msgspec.json.Decoder(dict[str, Any])


def is_mine(record: dict[str, Any]) -> bool:
    """Whether a line is a message by itself."""
    return (
        isinstance(record.get("role"), str)
        and "content" in record
        and not {"kind", "type", "uuid", "messages"} & record.keys()
    )


def read(
    source: Source, stream: IO[bytes], report: Brought, room: Room
) -> Iterator[Step]:  # fmt: skip
    """The sessions of one file."""
    begun: set[str] = set()
    for number, line in lines(stream, source.name, report, room):
        where = f"{source.name}:{number}"
        if isinstance(line, NoRoom):
            # Whose message it was is not known.
            continue
        try:
            message = parsed(line, _OBJECTS)
        except PARSE_ERRORS as error:
            note_unparsed(report, where, line, error)
            continue
        if not is_mine(message):
            report.skip("lines that are no message")
            continue
        name = _name(message)
        if name is not None and _NAMELESS in name:
            report.damage(where, "cannot be the name of a session: it holds a null character")
            continue
        session = name or _NAMELESS
        if (name or "") not in begun:
            if len(begun) >= _SESSIONS_MAX:
                report.skip("messages of sessions that are too many")
                continue
            begun.add(name or "")
            yield Begin(session) if name else Begin(session, names=source.names, file=source.file)
        yield Say(session, message, _time(message), where)
    if "" in begun:
        yield About(_NAMELESS, {"format": "messages"})


def _name(message: dict[str, Any]) -> str | None:
    named = (message.get(field) for field in _NAMES)
    return next((name for name in named if isinstance(name, str) and name), None)


def _time(message: dict[str, Any]) -> datetime | None:
    times = (time_of(message.get(field)) for field in _TIMES)
    return next((time for time in times if time is not None), None)
