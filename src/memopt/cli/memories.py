"""`memopt remember` and `memopt items`: state a memory, and see what is stated."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from memopt import Contradiction, Interval, Item, Kind, Memory
from memopt.base.errors import UsageError
from memopt.base.moments import zoned
from memopt.base.records import Reach
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.terminal import print_json, say, shown, table

_TEXT_SHOWN: Final = 80
_LISTED_AT_ONCE: Final = 500
_STANDARD_INPUT: Final = "-"

Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be given again.")]


def moment(text: str | None, option: str) -> datetime | None:
    """A time as people write it, such as 2031-05-17T09:20Z. Raises UsageError without a zone."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected a time such as 2031-05-17T09:20Z, got {text!r}", field=option
        ) from None
    if at.tzinfo is None:
        raise UsageError(f"needs a time zone, such as {zoned(text)}", field=option)
    return at


def remember(
    directory: Directory,
    text: Annotated[str, typer.Argument(metavar="TEXT", help='"-" is standard input.')],
    scope: Annotated[str, typer.Option("--scope", help="Whose memory it becomes.")] = "default",
    kind: Annotated[Kind, typer.Option("--kind", help="What it is.")] = Kind.FACT,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Whom or what it is about...")
    ] = None,
    attribute: Annotated[
        str | None, typer.Option("--attribute", help="... and what of it: ends what was known.")
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Since when. [default: now]")
    ] = None,
    valid_to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Until when. [default: on and on]")
    ] = None,
    importance: Annotated[
        float | None, typer.Option("--importance", help="From 0 to 1. [default: 0.5]")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Where it is from.")] = None,
    tag: Tags = None,
    pin: Annotated[bool, typer.Option("--pin", help="Nothing that comes later ends it.")] = False,
    key: Annotated[
        str | None, typer.Option("--key", help="A second call with it states nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """State something, to be recalled later; makes DIR where needed."""
    with attached(directory, writable=True, create=True) as memory:
        if text == _STANDARD_INPUT:
            text = sys.stdin.read(memory.config.item_bytes_max + 1)
        item = memory.remember(
            text, scope=scope, kind=kind, subject=subject, attribute=attribute,
            valid_from=moment(valid_from, "--from"), valid_to=moment(valid_to, "--to"),
            importance=importance, source=source, tags=tag or (), pin=pin, key=key,
        )  # fmt: skip
    if as_json:
        print_json(item)
        return
    say(f"{item.item_id}: {shown(item.text, limit=_TEXT_SHOWN)}")
    for found in item.contradictions:
        say(f"It seems to contradict {found.other_id} ({found.reason}); nothing was ended.")


def items(
    directory: Directory,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Only this scope. [default: all]")
    ] = None,
    subtree: Annotated[bool, typer.Option("--subtree", help="And the scopes below it.")] = False,
    kind: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Only this kind; may be given again.")
    ] = None,
    tag: Tags = None,
    valid_at: Annotated[
        str | None, typer.Option("--valid-at", metavar="TIME", help="What was so then.")
    ] = None,
    known_at: Annotated[
        str | None, typer.Option("--known-at", metavar="LSN|TIME", help="What was known then.")
    ] = None,
    history: Annotated[
        str | None, typer.Option("--history", metavar="ID", help="One memory, after each change.")
    ] = None,
    contradictions: Annotated[
        bool, typer.Option("--contradictions", help="What nobody decided.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List what is stated, as it is now or as it was."""
    reach = Reach.SUBTREE if subtree else Reach.EXACT
    with attached(directory, writable=False) as memory:
        if contradictions:
            _show_contradictions(memory.contradictions(scope, reach=reach, limit=limit), as_json)
            return
        if history is not None:
            found = memory.history(history, scope=scope, limit=limit)
        else:
            found = memory.items(
                scope, reach=reach, kinds=kind, tags=tag, valid_at=moment(valid_at, "--valid-at"),
                known_at=known(known_at), limit=limit,
            )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        _show(found)


def every_item(
    memory: Memory, scope: str | None, reach: Reach, kinds: Iterable[Kind] | None = None
) -> Iterable[Item]:
    """What is stated in a scope, or in all of them, page by page."""
    after = None
    while True:
        page = memory.items(scope, reach=reach, kinds=kinds, after=after, limit=_LISTED_AT_ONCE)
        yield from page
        if len(page) < _LISTED_AT_ONCE:
            return
        after = (page[-1].scope, page[-1].item_id)


def known(text: str | None) -> int | datetime | None:
    """An LSN or a time. Raises UsageError."""
    return int(text) if text is not None and text.isdecimal() else moment(text, "--known-at")


def _show(found: Sequence[Item]) -> None:
    columns = ("scope", "id", "kind", "so", "text", "about", "tags", "")
    rows = (
        (
            item.scope, item.item_id, item.kind, _so(item.valid),
            shown(item.text, limit=_TEXT_SHOWN),
            " / ".join(filter(None, (item.subject, item.attribute))), ", ".join(item.tags),
            "pinned" if item.pinned else "contradicted" if item.contradictions else "",
        )
        for item in found
    )  # fmt: skip
    say(table("", columns, rows) if found else "Nothing is stated there.")


def _show_contradictions(found: Sequence[Contradiction], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    columns = ("scope", "newer", "older", "why", "we would")
    rows = (
        (one.scope, one.item_id, one.other_id, one.reason, one.proposal or "not say")
        for one in found
    )
    say(table("", columns, rows) if found else "Nothing contradicts anything.")


def _so(valid: Interval | None) -> str:
    if valid is None:
        return "never"
    start, stop = (
        "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
        for at in (valid.start, valid.stop)
    )
    return f"{start or '…'} to {stop or '…'}"
