"""`memopt context`: what a model would see of a session, and what is not in it."""

from collections.abc import Iterator
from typing import Annotated

import typer

from memopt import Context, ContextReport, LeftOut
from memopt.base.records import Message
from memopt.cli.directory import AsJson, Directory, attached, find_session
from memopt.cli.terminal import print_json, say, shown, table
from memopt.cli.transfer import body_of


def context(
    directory: Directory,
    session: Annotated[str, typer.Argument(metavar="SESSION", show_default=False)],
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Of the model's window, answer included.")
    ],
    scope: Annotated[str, typer.Option("--scope", help="Whose session it is.")] = "default",
    reserve_tokens: Annotated[
        int, typer.Option("--reserve-tokens", min=0, help="Of those, for the answer.")
    ] = 0,
    query: Annotated[
        str | None,
        typer.Option("--query", help="What is recalled for. [default: the newest user message]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Whose tokenizer counts, where it is known.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model would be sent of a session, and what was left out and why."""
    with attached(directory, writable=False) as memory:
        found = find_session(memory, scope, session).context(
            max_tokens=max_tokens, reserve_tokens=reserve_tokens, query=query, model=model
        )
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Context) -> None:
    for part, message in _by_part(found):
        role = message.get("role", message.get("type", "message"))
        say(f"-- {part} · {shown(role)}", body_of(message), "")
    report = found.report
    rows = ((one.part, one.messages, one.tokens) for one in report.sections)
    say(table("", ("part", "#messages", "#tokens"), rows))
    if report.left_out:
        columns = ("left out", "messages", "#tokens", "handle")
        say("", table("", columns, map(_row, report.left_out)))
    if report.interrupted:
        say(f"Calls without a result: {report.interrupted}.")
    for note in report.notes:
        say(f"Note: {shown(note)}.")
    say("", _total(report))


def _by_part(found: Context) -> Iterator[tuple[str, Message]]:
    messages = iter(found.messages)
    for section in found.report.sections:
        for _ in range(section.messages):
            yield section.part, next(messages)


def _row(one: LeftOut) -> tuple[object, ...]:
    last = one.stop - 1
    span = f"{one.start}" if one.start == last else f"{one.start} to {last}"
    return one.reason, span, "" if one.tokens is None else one.tokens, one.handle or ""


def _total(report: ContextReport) -> str:
    room = report.max_tokens - report.reserve_tokens
    counted = "estimated" if report.is_estimate else f"counted by {shown(report.counter)}"
    return f"{report.tokens} of {room} tokens, {counted}."
