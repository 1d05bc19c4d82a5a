"""`memopt inspect`: what a store holds, down to pages and journal records. Changes nothing."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from memopt import Memory, Session
from memopt.base.errors import UsageError
from memopt.base.records import (
    Entry,
    JournalRecord,
    Message,
    PageInfo,
    Reach,
    RecordKind,
    SessionInfo,
    StateVersion,
)
from memopt.base.stats_records import Stats
from memopt.base.units import format_bytes
from memopt.cli.directory import AsJson, Directory, attached, every_session, find_session
from memopt.cli.terminal import print_json, progress, say, table

_SUMMARY_CHARACTERS: Final = 300

Section = dict[str, Any]


def inspect(
    directory: Directory,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Only this scope. [default: all]")
    ] = None,
    subtree: Annotated[bool, typer.Option("--subtree", help="And the scopes below it.")] = False,
    session: Annotated[
        str | None, typer.Option("--session", help='One session of --scope (or of "default").')
    ] = None,
    messages: Annotated[bool, typer.Option("--messages", help="The session's messages.")] = False,
    pages: Annotated[bool, typer.Option("--pages", help="The session's pages.")] = False,
    states: Annotated[bool, typer.Option("--states", help="The session's state versions.")] = False,
    tiers: Annotated[bool, typer.Option("--tiers", help="What is resident, by tier.")] = False,
    forks: Annotated[bool, typer.Option("--forks", help="Which sessions were forked.")] = False,
    journal: Annotated[bool, typer.Option("--journal", help="The journal's records.")] = False,
    since: Annotated[int, typer.Option("--since", min=0, help="Records after this LSN.")] = 0,
    start: Annotated[
        int | None, typer.Option("--start", min=0, help="First message. [default: the last ones]")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows of a table.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show sessions, messages, pages, tiers, states, forks and the journal of a store."""
    if session is None and (messages or pages or states):
        raise UsageError("needs --session", field="--messages, --pages and --states")
    if session is not None and not (messages or pages or states or tiers or forks or journal):
        messages = True
    reach = Reach.SUBTREE if subtree else Reach.EXACT
    found: Section = {}
    more = False
    with attached(directory, writable=False) as memory:
        if session is not None:
            within = "default" if scope is None else scope
            handle = find_session(memory, within, session)
            if messages:
                found["messages"] = _messages(handle, start, limit)
            if pages:
                found["pages"] = memory.pages(session, scope=within)[:limit]
            if states:
                found["states"] = list(islice(handle.states(), limit))
        elif not (tiers or forks or journal):
            found["sessions"] = list(islice(every_session(memory, scope, reach), limit + 1))
            more = len(found["sessions"]) > limit
            del found["sessions"][limit:]
        if tiers:
            found["tiers"] = _tiers(memory.stats())
        if forks or journal:
            records = _Filter(scope, session, reach)
            if forks:
                found["forks"] = records.last(memory, since, limit, RecordKind.FORKED)
            if journal:
                found["journal"] = records.last(memory, since, limit, None)
    if as_json:
        print_json(found)
    else:
        for name, content in found.items():
            say(_TABLES[name](content))
        if more:
            say(f"… and more; these are the first {limit} (--limit).")


def _messages(session: Session, start: int | None, limit: int) -> list[Entry]:
    if start is None:
        start = max(0, len(session) - limit)
    return list(session.entries(start, start + limit))


def _tiers(stats: Stats) -> Section:
    return {
        "budget_bytes": stats.budget_bytes,
        "reserved_bytes": stats.reserved_bytes,
        "resident_sessions": stats.resident_sessions,
        "tiers": stats.tiers,
        "owners": stats.owners,
        "faults": stats.faults,
    }


class _Filter:
    """Which journal records were asked for."""

    def __init__(self, scope: str | None, session: str | None, reach: Reach) -> None:
        self._scope = scope
        self._session = session
        self._reach = reach

    def last(
        self, memory: Memory, since: int, limit: int, kind: RecordKind | None
    ) -> list[JournalRecord]:
        """The last `limit` records that pass, oldest first; the journal is read through."""
        if not since and kind is None and self._scope is None and self._session is None:
            since = max(0, memory.stats().lsn - limit)
        with progress("Reading the journal") as bar:
            return list(deque(self._passing(memory, since, kind, bar), maxlen=limit))

    def _passing(
        self, memory: Memory, since: int, kind: RecordKind | None, bar: Callable[[int, int], None]
    ) -> Iterator[JournalRecord]:
        last_lsn = memory.stats().lsn
        for record in memory.journal(since=since):
            bar(record.lsn - since, max(last_lsn - since, 0))
            if (
                kind in (None, record.kind)
                and self._session in (None, record.session)
                and self._in_scope(record.scope)
            ):
                yield record

    def _in_scope(self, scope: str | None) -> bool:
        if self._scope is None:
            return True
        if scope is None:
            return False
        below = self._reach is Reach.SUBTREE and scope.startswith(self._scope + "/")
        return scope == self._scope or below


def summary(message: Message) -> str:
    """What a message says, for a line: its text, else what it calls, else its type."""
    content = message.get("content")
    texts = []
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, list):
        for part in content:
            text = part.get("text") if isinstance(part, dict) else part
            texts.append(text if isinstance(text, str) else f"[{_kind(part)}]")
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function, dict):
            texts.append(f"→ {function.get('name')}({function.get('arguments')})")
    return " ".join(texts) if texts else f"[{_kind(message)}]"


def _kind(value: Any) -> str:
    return str(value.get("type", "object")) if isinstance(value, dict) else type(value).__name__


def _sessions_table(infos: list[SessionInfo]) -> Table:
    columns = ("scope", "session", "agent", "#messages", "made", "touched")
    return table(
        "",
        columns,
        (
            (
                info.scope,
                info.id,
                info.agent or "",
                info.message_count,
                f"{info.made_at:%Y-%m-%d %H:%M:%S}",
                f"{info.touched_at:%Y-%m-%d %H:%M:%S}",
            )
            for info in infos
        ),
    )


def _messages_table(entries: list[Entry]) -> Table:
    return table(
        "messages",
        ("#seq", "#lsn", "at", "actor", "role", "message"),
        (
            (
                entry.seq,
                entry.lsn,
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                entry.actor or "",
                entry.message.get("role", entry.message.get("type", "")),
                summary(entry.message)[:_SUMMARY_CHARACTERS],
            )
            for entry in entries
        ),
    )


def _pages_table(pages: list[PageInfo]) -> Table:
    return table(
        "pages",
        ("#page", "#line", "#start", "#stop", "#raw", "#stored", "tier"),
        (
            (
                page.page,
                page.line,
                page.start,
                page.stop,
                format_bytes(page.raw_bytes),
                format_bytes(page.stored_bytes),
                page.tier,
            )
            for page in pages
        ),
    )


def _states_table(versions: list[StateVersion]) -> Table:
    return table(
        "states",
        ("name", "#version", "#lsn", "at"),
        ((v.name, v.version, v.lsn, f"{v.at:%Y-%m-%d %H:%M:%S}") for v in versions),
    )


def _tiers_table(tiers: Section) -> Table:
    rows = [
        (name, format_bytes(held.get("bytes", 0)), held.get("objects", "-"), held.get("hits", 0))
        for name, held in tiers["tiers"].items()
    ]
    rows += [(name, format_bytes(size), "", "") for name, size in tiers["owners"].items()]
    rows.append(("reserved", format_bytes(tiers["reserved_bytes"]), "", ""))
    rows.append(("budget", format_bytes(tiers["budget_bytes"]), "", ""))
    return table("tiers and owners", ("where", "#bytes", "#objects", "#hits"), rows)


def _journal_table(title: str, records: list[JournalRecord]) -> Table:
    return table(
        title,
        ("#lsn", "at", "kind", "scope", "session", "#seq", "what"),
        (
            (
                record.lsn,
                f"{record.at:%Y-%m-%d %H:%M:%S}",
                record.kind,
                record.scope or "",
                record.session or "",
                "" if record.seq is None else record.seq,
                summary(record.message)[:_SUMMARY_CHARACTERS]
                if record.message is not None
                else record.state or "",
            )
            for record in records
        ),
    )


_TABLES: Final[dict[str, Callable[[Any], Table]]] = {
    "sessions": _sessions_table,
    "messages": _messages_table,
    "pages": _pages_table,
    "states": _states_table,
    "tiers": _tiers_table,
    "forks": lambda records: _journal_table("forks", records),
    "journal": lambda records: _journal_table("journal", records),
}
