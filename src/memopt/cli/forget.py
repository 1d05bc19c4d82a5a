"""`memopt forget`: says what will go, asks, makes it go, and then looks whether it is gone.

The proof has two halves. The same question is asked of the store again, which decodes everything
that is left. And every byte of every file in the directory is searched for the text and the names.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from memopt import Item, Kind, Memory
from memopt.base.errors import NotFoundError, UsageError
from memopt.base.item_records import STATED
from memopt.base.records import ForgetPlan, ForgetReceipt, Reach, Selector
from memopt.base.units import format_bytes
from memopt.cli.directory import AsJson, Directory, attached, every_session
from memopt.cli.memories import every_item, moment
from memopt.cli.terminal import EXIT_FAILED, print_json, progress, say, shown, table

_READ_AT_ONCE: Final = 4 << 20
_TARGETS_SHOWN: Final = 20
_NEEDLES_MAX: Final = 64
_NEEDLE_BYTES_MIN: Final = 4
"""Anything shorter turns up in compressed bytes by chance."""
_LINE_CHARS_MAX: Final = 200


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """How often a text stands in the raw files of the directory."""

    text: str
    before: int
    after: int
    elsewhere: bool
    """What is left is also in sessions that were not to be forgotten, which explains a find."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    files: int
    bytes_searched: int
    findings: tuple[Finding, ...]
    entries_left: int
    """Messages the same selector still finds by decoding everything."""
    sessions_left: int
    values_left: int = 0
    """Values of mappings and sequences."""
    items_left: int = 0
    """Memories, and pieces of documents."""
    answers_left: int = 0
    """Cached ones."""

    @property
    def gone(self) -> bool:
        unexplained = any(found.after and not found.elsewhere for found in self.findings)
        left = self.entries_left or self.sessions_left or self.values_left or self.items_left
        return not (unexplained or left or self.answers_left)


def forget(
    directory: Directory,
    scope: Annotated[str, typer.Option("--scope", help="Where to forget.")],
    subtree: Annotated[bool, typer.Option("--subtree", help="And in the scopes below it.")] = False,
    session: Annotated[str | None, typer.Option("--session", help="This session.")] = None,
    containing: Annotated[
        str | None, typer.Option("--containing", help="Messages and states that hold this text.")
    ] = None,
    whole_scope: Annotated[bool, typer.Option("--whole-scope", help="Everything in it.")] = False,
    item: Annotated[
        list[str] | None, typer.Option("--item", help="This memory, by id; may be given again.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Memories and documents from there.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Memories with this tag, and all others.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="What was said or stated then...")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="... and before that.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and leave.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget sessions, texts, memories, a time or a whole scope: plan, ask, forget, compact, and
    prove it is gone."""
    if as_json and not (yes or dry_run):
        raise UsageError("needs --yes or --dry-run, since it cannot ask", field="--json")
    selector = Selector(
        scope=scope,
        reach=Reach.SUBTREE if subtree else Reach.EXACT,
        session=session,
        containing=containing,
        whole_scope=whole_scope,
        items=tuple(item or ()),
        source=source,
        tags=tuple(tag or ()),
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )
    with attached(directory, writable=not dry_run) as memory:
        plan = memory.plan_forget(selector)
        if not as_json:
            _say_plan(plan)
        if dry_run:
            if as_json:
                print_json({"plan": plan})
            return
        if plan.targets and not yes:
            typer.confirm("This cannot be undone. Forget?", abort=True, err=True)
        receipt, proof = _carry_out(memory, directory, plan)
    if as_json:
        print_json({"plan": plan, "receipt": receipt, "proof": proof, "gone": proof.gone})
    else:
        _say_proof(receipt, proof)
    if not proof.gone:
        raise typer.Exit(EXIT_FAILED)


def _carry_out(
    memory: Memory, directory: Path, plan: ForgetPlan
) -> tuple[ForgetReceipt | None, Proof]:
    needles = list(dict.fromkeys([*_needles(plan), *_texts(memory, plan)]))
    before, _, _ = _search(directory, needles)
    receipt = memory.forget(plan) if plan.targets else None
    # Also where the plan is empty: an earlier call may have hidden what is not yet erased.
    with progress("Compacting") as bar:
        memory.compact(progress=bar)
    after, files, size_bytes = _search(directory, needles)
    try:
        left = memory.plan_forget(plan.selector)
    except NotFoundError:  # what a named session or memory should be by now
        left = ForgetPlan(selector=plan.selector, targets=(), backups=())
    findings = tuple(
        Finding(
            text=text,
            before=before[text],
            after=after[text],
            elsewhere=bool(after[text]) and _is_elsewhere(memory, text),
        )
        for text in needles
    )
    proof = Proof(
        files=files,
        bytes_searched=size_bytes,
        findings=findings,
        entries_left=left.entries,
        values_left=left.values,
        items_left=left.items,
        answers_left=left.answers,
        sessions_left=len(left.targets),
    )
    return receipt, proof


def _needles(plan: ForgetPlan) -> list[str]:
    """The texts that must not be found any more: what was asked for, and the names that go."""
    selector = plan.selector
    texts = [selector.containing] if selector.containing is not None else []
    if selector.whole_scope:
        texts.append(selector.scope)
        texts.extend(target.scope for target in plan.targets)
    if selector.containing is None:
        texts.extend([selector.session] if selector.session is not None else [])
        whole = (target.session for target in plan.targets if target.seqs is None)
        texts.extend(session for session in whole if session is not None)
    long_enough = (text for text in texts if len(text.encode()) >= _NEEDLE_BYTES_MIN)
    return list(dict.fromkeys(long_enough))[:_NEEDLES_MAX]


def _texts(memory: Memory, plan: ForgetPlan) -> list[str]:
    """What memories and pieces of documents say that go: the longest line of each."""
    items = itertools.islice(_items(memory, plan), _NEEDLES_MAX)
    lines = (max(item.text.split("\n"), key=len) for item in items)
    whole = (line.strip()[:_LINE_CHARS_MAX] for line in lines)
    long_enough = (line for line in whole if len(line.encode()) >= _NEEDLE_BYTES_MIN)
    return list(dict.fromkeys(long_enough))


def _items(memory: Memory, plan: ForgetPlan) -> Iterator[Item]:
    selector = plan.selector
    if selector.items:
        yield from map(memory.item, selector.items)
        return
    if selector.session is not None or selector.containing is not None or not plan.items:
        return
    for kinds in (STATED, (Kind.DOCUMENT,)):
        for item in every_item(memory, selector.scope, selector.reach, kinds):
            if (
                selector.source in (None, item.source)
                and set(selector.tags) <= set(item.tags)
                and (selector.since is None or item.stated_at >= selector.since)
                and (selector.until is None or item.stated_at < selector.until)
            ):
                yield item


def _search(
    directory: Path, needles: list[str], *, at_once: int = _READ_AT_ONCE
) -> tuple[dict[str, int], int, int]:
    """How often each text stands in the raw bytes, in how many files, in how many bytes."""
    forms = {text: _forms(text) for text in needles}
    overlap = max((len(form) for group in forms.values() for form in group), default=1) - 1
    counts = dict.fromkeys(needles, 0)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    total = sum(path.stat().st_size for path in paths)
    searched = 0
    with progress("Searching the raw files") as bar:
        for path in paths:
            for piece, fresh_from in _pieces(path, overlap, at_once):
                searched += len(piece) - fresh_from
                bar(searched, total)
                for text, group in forms.items():
                    counts[text] += sum(_count(piece, form, fresh_from) for form in group)
    return counts, len(paths), searched


def _forms(text: str) -> set[bytes]:
    """A text as it may stand in a file: as it is, and as JSON writes it with escapes."""
    return {
        text.encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
    }


def _pieces(path: Path, overlap: int, at_once: int) -> Iterator[tuple[bytes, int]]:
    """A file in pieces that each begin with the end of the one before, so nothing is cut."""
    tail = b""
    with path.open("rb") as file:
        while fresh := file.read(at_once):
            yield tail + fresh, len(tail)
            tail = (tail + fresh)[-overlap:] if overlap else b""


def _count(piece: bytes, form: bytes, fresh_from: int) -> int:
    """Occurrences that end in the fresh part; the others were counted in the piece before."""
    return piece.count(form, max(0, fresh_from - len(form) + 1))


def _is_elsewhere(memory: Memory, text: str) -> bool:
    """Whether sessions that stay are called so, or say so."""
    tenants = set()
    for info in every_session(memory, None, Reach.SUBTREE):
        if text in info.id or text in info.scope or text in (info.agent or ""):
            return True
        tenants.add(info.scope.partition("/")[0])
    return any(
        memory.plan_forget(Selector(scope=tenant, reach=Reach.SUBTREE, containing=text)).targets
        for tenant in sorted(tenants)
    )


def _say_plan(plan: ForgetPlan) -> None:
    if not plan.targets:
        say("Nothing that is visible matches.")
    else:
        rows = (
            (
                target.scope,
                target.session or "(its own)",
                "all of it" if target.seqs is None else f"{len(target.seqs)} positions",
                target.entries,
                target.states,
                target.values,
                target.items,
                target.answers,
            )
            for target in plan.targets[:_TARGETS_SHOWN]
        )
        columns = (
            "scope",
            "session",
            "what",
            "#messages",
            "#states",
            "#values",
            "#memories",
            "#answers",
        )
        say(table("Will be forgotten", columns, rows))
        hidden = len(plan.targets) - _TARGETS_SHOWN
        if hidden > 0:
            say(f"… and {hidden} more sessions.")
        sessions = sum(target.session is not None for target in plan.targets)
        say(
            f"{plan.entries} messages in {sessions} sessions, {plan.values} values,"
            f" {plan.items} memories, {plan.answers} cached answers."
        )
    if plan.backups:
        say("These copies cannot be reached from here; delete them yourself:")
        say(*(f"  {shown(path)}" for path in plan.backups))


def _say_proof(receipt: ForgetReceipt | None, proof: Proof) -> None:
    if receipt is not None:
        say(
            f"Forgotten at LSN {receipt.lsn}: {receipt.entries} messages, {receipt.states}"
            f" states and {receipt.values} values in {receipt.sessions} sessions, and"
            f" {receipt.items} memories; {receipt.answers} cached answers."
        )
    say(
        f"Searched {format_bytes(proof.bytes_searched)} ({proof.bytes_searched} bytes) in"
        f" {proof.files} files, before and after:"
    )
    rows = (
        (
            shown(found.text, limit=60),
            found.before,
            found.after,
            "also in sessions that stay" if found.elsewhere else "",
        )
        for found in proof.findings
    )
    if proof.findings:
        say(table("", ("text or name", "#before", "#after", "why"), rows))
    else:
        say("Nothing of it is long enough to be looked for.")
    say(
        f"Asked again, the store finds {proof.entries_left} messages and {proof.values_left}"
        f" values in {proof.sessions_left} sessions, {proof.items_left} memories and"
        f" {proof.answers_left} cached answers."
    )
    say("Gone." if proof.gone else "NOT gone.")
