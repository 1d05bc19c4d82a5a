"""Which program kept a history, and who reads it.

A format is told by what is in a file, not by its name alone; where that could be several, none is
taken. Not here: the formats.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import IO, Any, Final

import msgspec

from memopt.base.units import MIB
from memopt.past import chatgpt, claude_code, codex, markdown, open_webui, plain
from memopt.past.files import READ_ERRORS, Source, head_of, opened, unread
from memopt.past.parsing import PARSE_ERRORS, parsed
from memopt.past.records import Brought, Step
from memopt.past.room import Room

_HEAD_BYTES: Final = 4 * MIB
_LINES_LOOKED_AT: Final = 200
_ANY: Final = msgspec.json.Decoder()


class Format(StrEnum):
    CLAUDE_CODE = "claude-code"
    CODEX = "codex"
    CHATGPT = "chatgpt"
    OPEN_WEBUI = "open-webui"
    JSONL = "jsonl"
    """What `memopt export` wrote, and lines of {"messages": […]}: read by the command itself."""
    MESSAGES = "messages"
    """Lines of messages, one a line."""
    MARKDOWN = "markdown"


_READERS: Final[dict[Format, Callable[[Source, IO[bytes], Brought, Room], Iterator[Step]]]] = {
    Format.CLAUDE_CODE: claude_code.read,
    Format.CODEX: codex.read,
    Format.CHATGPT: chatgpt.read,
    Format.OPEN_WEBUI: open_webui.read,
    Format.MARKDOWN: markdown.read,
    Format.MESSAGES: plain.read,
}


def detected(source: Source) -> Format | None:
    """The format of a file; None for one of no known format, or of none in particular."""
    if source.member is not None:
        return Format.CHATGPT
    head = head_of(source, _HEAD_BYTES)
    name = source.path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".md", ".markdown")):
        return Format.MARKDOWN if markdown.is_mine(head) else None
    if name.endswith(".json"):
        if open_webui.is_mine(head):
            return Format.OPEN_WEBUI
        return Format.CHATGPT if chatgpt.is_mine(head) else None
    return _of_lines(head)


def _of_lines(head: bytes) -> Format | None:
    """The format that the most telling line has."""
    likely: Format | None = None
    for line in head.split(b"\n", _LINES_LOOKED_AT)[:_LINES_LOOKED_AT]:
        try:
            record = parsed(line.strip(b" \t\r\0").removeprefix(b"\xef\xbb\xbf"), _ANY)
        except PARSE_ERRORS:
            continue
        if not isinstance(record, dict):
            continue
        if plain.is_mine(record):
            likely = likely or Format.MESSAGES
        elif _is_of_export(record):
            likely = likely or Format.JSONL
        elif codex.is_mine(record):
            return Format.CODEX
        elif claude_code.is_mine(record):
            return Format.CLAUDE_CODE
    return likely


def _is_of_export(record: dict[str, Any]) -> bool:
    """Whether a line is one of an export, or of a whole conversation."""
    return isinstance(record.get("kind"), str) or isinstance(record.get("messages"), list)


def read(
    source: Source, format: Format, report: Brought, told: Callable[[int], None],
    room: Room | None = None,
) -> Iterator[Step]:  # fmt: skip
    """What a source says. `told` hears of bytes that were read; in `room` is what is held."""
    room = room if room is not None else Room()

    def count(read_bytes: int) -> None:
        report.bytes += read_bytes
        told(read_bytes)

    report.files += 1
    try:
        with opened(source, count, room) as stream:
            yield from _READERS[format](source, stream, report, room)
    except READ_ERRORS as error:
        report.damage(source.name, f"the file is damaged: {error}")
    except OSError as error:
        report.damage(source.name, unread(error))
    finally:
        room.clear()
