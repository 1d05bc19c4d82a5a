"""`memopt recall`: ask a store's memory a question."""

import textwrap
from typing import Annotated, Final

import typer

from memopt import Kind, Memory, Recall
from memopt.base.records import Reach
from memopt.cli.directory import AsJson, Directory, attached
from memopt.cli.memories import Tags, known, moment
from memopt.cli.terminal import console, print_json, say, shown

_TEXT_SHOWN: Final = 400
_LISTED: Final = 100
_SCOPES_SHOWN: Final = 5
_INDENT: Final = " " * 6


def recall(
    directory: Directory,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    scope: Annotated[str, typer.Option("--scope", help="Whose memory is asked.")] = "default",
    reach: Annotated[
        Reach, typer.Option("--reach", help="That scope, those below it, or those above.")
    ] = Reach.EXACT,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many. [default: 10]")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Of all texts together.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Nothing that is worse.")
    ] = None,
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
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="What last week is relative to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find messages, memories and pieces of documents again, and say why each was found."""
    with attached(directory, writable=False) as memory:
        found = memory.recall(
            query, scope=scope, reach=reach, limit=limit, max_tokens=max_tokens, kinds=kind,
            tags=tag, min_score=min_score, valid_at=moment(valid_at, "--valid-at"),
            known_at=known(known_at), now=moment(now, "--now"),
        )  # fmt: skip
        others = [] if found.entries else _scopes(memory)
    if as_json:
        print_json(found)
    else:
        _show(found)
        if others:
            say(f"There is something in {shown(', '.join(others))}: see --scope and --reach.")


def _scopes(memory: Memory) -> list[str]:
    """A few of those that have a session or a memory."""
    scopes = [info.scope for info in memory.sessions(None, limit=_LISTED)]
    scopes += [item.scope for item in memory.items(None, limit=_LISTED)]
    return list(dict.fromkeys(scopes))[:_SCOPES_SHOWN]


def _show(found: Recall) -> None:
    for hit in found:
        span = hit.spans[0] if hit.spans else None
        where = f"{span.session}:{span.start}" if span else hit.source or hit.item_id
        scope = f"  {hit.scope}" if len({one.scope for one in found}) > 1 else ""
        say(f"{hit.score:.2f}  {hit.at:%Y-%m-%d %H:%M}{shown(scope)}  {shown(where)}  "
            f"{shown(hit.role or hit.kind)}")  # fmt: skip
        say(_indented(shown(hit.text, limit=_TEXT_SHOWN)))
        if hit.why:
            say(_indented(f"because: {shown(hit.why)}"))
    for note in found.notes:
        say(f"Note: {shown(note)}.")


def _indented(line: str) -> str:
    return textwrap.fill(line, console().width, initial_indent=_INDENT, subsequent_indent=_INDENT)
