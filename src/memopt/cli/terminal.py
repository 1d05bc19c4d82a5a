"""What the command says: tables and JSON on stdout; progress and one line of error on stderr.

Invariant: text that came out of a store or a file never reaches a terminal raw. Control, format
and direction characters are escaped, and markup is off, so a message can neither move the cursor
nor colour itself.
"""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from memopt.base.errors import (
    CapacityError,
    ConflictError,
    NotFoundError,
    StoreLockedError,
    UsageError,
)

EXIT_FAILED: Final = 1
"""It failed, or something is damaged."""
EXIT_USAGE: Final = 2
"""The call is wrong, or names what is not there."""
EXIT_LATER: Final = 3
"""Somebody else has it, or a limit is reached: the same call may succeed later."""
EXIT_PIPE: Final = 141
"""Whoever read the output went away, as in `memopt export … | head`."""

_BAR_AFTER_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 0.1
_WIDTH_WITHOUT_TERMINAL: Final = 160

# The joiner U+200D stays, or every family emoji would fall apart.
_CONTROLS: Final = (
    "\x7f-\x9f\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f"
)
_UNSAFE: Final = re.compile(f"[\x00-\x1f\ud800-\udfff{_CONTROLS}]")
_UNSAFE_BUT_LINES: Final = re.compile(f"[\x00-\x08\x0b-\x1f\ud800-\udfff{_CONTROLS}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_CONTROLS}]")


def shown(text: object, *, limit: int | None = None) -> str:
    """One safe line: line breaks become spaces, controls become escapes, the rest is cut off."""
    line = str(text)
    if limit is not None and len(line) > limit:
        line = line[: limit - 1] + "…"
    return _UNSAFE.sub(_escaped, line.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def shown_lines(text: str) -> str:
    """Safe text with its line breaks and tabs."""
    return _UNSAFE_BUT_LINES.sub(_escaped, text)


def json_text(value: Any, *, indent: int = 0) -> str:
    """JSON on one line, or indented; no character of it does anything to a terminal."""
    encoded = msgspec.json.encode(value)
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    return _UNSAFE_IN_JSON.sub(_escaped_in_json, encoded.decode("utf-8"))


def print_json(value: Any) -> None:
    sys.stdout.write(json_text(value, indent=2) + "\n")


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Left to the door, which ends all commands alike."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output. Wide where nobody looks, so that `grep` finds whole lines."""
    out = _Out(markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out = _Out(
            markup=False, emoji=False, highlight=False, width=_WIDTH_WITHOUT_TERMINAL, no_color=True
        )
    return out


def say(*parts: RenderableType) -> None:
    for part in parts:
        console().print(part)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """A table of safe text. A column whose name begins with # is a right-aligned figure."""
    drawn = Table(title=title or None, title_justify="left", title_style="bold", box=None)
    for column in columns:
        figure = column.startswith("#")
        drawn.add_column(
            column.removeprefix("#"),
            justify="right" if figure else "left",
            overflow="fold",
            no_wrap=figure,
            header_style="dim",
        )
    for row in rows:
        drawn.add_row(*(shown(cell) for cell in row))
    return drawn


def fail(message: str) -> None:
    """The one clear line."""
    sys.stderr.write(f"memopt: {shown(message)}\n")


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def exit_code(error: BaseException) -> int:
    match error:
        case UsageError() | NotFoundError():
            return EXIT_USAGE
        case CapacityError() | ConflictError() | StoreLockedError():
            return EXIT_LATER
    return EXIT_FAILED


@contextmanager
def progress(label: str, *, in_bytes: bool = False) -> Iterator["Bar"]:
    """A callable (done, total, note) that draws a bar on stderr once the work has taken a second.

    A total of 0 means that nobody knows. Without a terminal nothing is drawn.
    """
    bar = Bar(label, in_bytes=in_bytes)
    try:
        yield bar
    finally:
        bar.stop()


class Bar:
    """How far some work came."""

    def __init__(self, label: str, *, in_bytes: bool = False) -> None:
        self._label = label
        self._in_bytes = in_bytes
        self._due = time.monotonic() + _BAR_AFTER_SECONDS
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now < self._due or not self._console.is_terminal:
            return
        self._due = now + _REFRESH_SECONDS
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True) if self._in_bytes else MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=total or None)
        label = f"{self._label}, {note}" if note else self._label
        self._progress.update(self._task, completed=done, total=total or None, description=label)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _escaped_in_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
