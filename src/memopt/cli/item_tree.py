"""Memories as a folder of Markdown pages, and what was edited there, carried out.

A page is `acme/ann/fact.md` for the facts of acme/ann; `memopt.md` lists the pages there were, so a
page that is gone is noticed. Reading looks at everything first, and writes nothing where something
cannot be done; what somebody else changed meanwhile is left as it is, and named. What was carried
out by an import before is not done again.

Invariant: nothing outside the folder is read, and no link in it is followed.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from memopt import Item, Kind, Memory, Selector
from memopt.base.errors import NotFoundError, UsageError
from memopt.base.item_records import STATED
from memopt.base.names import check_scope
from memopt.base.records import Reach
from memopt.base.units import MIB
from memopt.cli.memories import every_item
from memopt.cli.terminal import say, shown
from memopt.recall.markdown_tree import (
    FORM,
    Deed,
    Edit,
    Line,
    Page,
    arguments_of,
    check_is_of_store,
    edits_of,
    format_page,
    parse_page,
)
from memopt.recall.stating import check_text, draft

INDEX: Final = "memopt.md"
PAGES_MAX: Final = 20_000
PAGE_BYTES_MAX: Final = 16 * MIB
TREE_BYTES_MAX: Final = 256 * MIB
"""What is larger goes as JSONL: a tree is for people."""
_LISTED_AT_ONCE: Final = 500
_NAME_BYTES_MAX: Final = 120
_UNSAFE: Final = re.compile(r"[%./\\:*?\"<>|\x00-\x1f\x7f]|^ | $")


class TreeReport(msgspec.Struct, kw_only=True):
    """What was edited in a tree."""

    path: str
    dry_run: bool = False
    """Nothing was done: it is what would be."""
    stated: list[str] = []
    """Ids; of what would be stated, where its line is."""
    revised: list[str] = []
    ended: list[str] = []
    pinned: list[str] = []
    unpinned: list[str] = []
    forgotten: list[str] = []
    removed: list[str] = []
    """Their lines are gone, and nobody said that they are to be forgotten."""
    conflicts: list[str] = []
    """Changed by others since it was written, gone, or of another page: left as it is."""


# -- out ------------------------------------------------------------------------------------------


def write_tree(memory: Memory, folder: Path, scope: str | None, reach: Reach) -> int:
    """Write a page for each scope and kind; how many. The folder appears once it is complete.
    Raises UsageError where there is something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there, and not empty", field="--output")
    unfinished = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    lsn = memory.lsn
    try:
        unfinished.mkdir(parents=True)
        pages: list[str] = []
        size = 0
        for path in _scopes(memory, scope, reach):
            for page, page_bytes in _write_scope(memory, unfinished, path, lsn):
                pages.append(page)
                size += page_bytes
                if size > TREE_BYTES_MAX or len(pages) > PAGES_MAX:
                    raise UsageError(
                        f"more than {PAGES_MAX} pages or {TREE_BYTES_MAX} bytes: take a scope of"
                        " it, or JSONL", field="--format",
                    )  # fmt: skip
        listed = "".join(f"- [{page}](<{page}>)\n" for page in pages)
        (unfinished / INDEX).write_text(
            f"---\nmemopt: {FORM}\nknown_at: {lsn}\n---\n\n# Memories\n\n{listed}", "utf-8"
        )
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return len(pages)


def _scopes(memory: Memory, scope: str | None, reach: Reach) -> Iterator[str]:
    before = None
    for item in every_item(memory, scope, reach):
        if item.scope != before:
            before = item.scope
            yield before


def _write_scope(memory: Memory, folder: Path, scope: str, lsn: int) -> Iterator[tuple[str, int]]:
    """Pages and their sizes."""
    for kind in STATED:
        items = list(_known(memory, scope, kind, lsn).values())
        if not items:
            continue
        where = folder / _folder_of(scope)
        where.mkdir(parents=True, exist_ok=True)
        file = where / f"{kind}.md"
        if file.exists():
            # Another scope, on a disk that does not tell "Ann" from "ann".
            file = where / f"{kind}~{hashlib.blake2b(scope.encode(), digest_size=4).hexdigest()}.md"
        body = format_page(scope, kind, lsn, items).encode()
        if len(body) > PAGE_BYTES_MAX:
            raise UsageError(
                f"{kind} of {scope} is {len(body)} bytes, at most {PAGE_BYTES_MAX}: take JSONL",
                field="--format",
            )
        file.write_bytes(body)
        yield file.relative_to(folder).as_posix(), len(body)


def _folder_of(scope: str) -> Path:
    """Readable, and safe on every file system; what a page is about, it says itself."""
    return Path(*map(_safe, scope.split("/")))


def _safe(component: str) -> str:
    name = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", component)
    if len(name.encode()) <= _NAME_BYTES_MAX:
        return name
    digest = hashlib.blake2b(component.encode(), digest_size=8).hexdigest()
    return name.encode()[:_NAME_BYTES_MAX].decode(errors="ignore") + f"~{digest}"


def _known(memory: Memory, scope: str, kind: Kind, lsn: int | None) -> dict[str, Item]:
    """What was stated there, as it was known at an LSN; None: as it is known now."""
    found: dict[str, Item] = {}
    after = None
    while True:
        page = memory.items(scope, kinds=[kind], known_at=lsn, after=after, limit=_LISTED_AT_ONCE)
        found |= {item.item_id: item for item in page}
        if len(page) < _LISTED_AT_ONCE:
            return found
        after = (scope, page[-1].item_id)


# -- in -------------------------------------------------------------------------------------------


class _Edited(NamedTuple):
    """A page and what was edited on it."""

    scope: str
    kind: Kind
    edits: list[Edit]


def read_tree(
    memory: Memory, folder: Path, *, forget_removed: bool = False, dry_run: bool = False
) -> TreeReport:
    """Carry out what was edited in a folder that `write_tree` wrote. Raises UsageError that names
    the page and the line, before anything is written."""
    report = TreeReport(path=str(folder), dry_run=dry_run)
    edited = list(_edited(memory, folder))
    for page in edited:
        for edit in page.edits:
            _check(memory, page, edit)
    for page in edited:
        for edit in page.edits:
            if edit.deed is Deed.FORGET and not forget_removed:
                report.removed.append(edit.item_id or "")
            elif edit.deed is Deed.CONFLICT:
                report.conflicts.append(f"{edit.item_id} ({edit.where})")
            elif dry_run:
                _lists(report)[edit.deed].append(edit.item_id or edit.where)
            else:
                _carry_out(memory, page, edit, report)
    return report


def _edited(memory: Memory, folder: Path) -> Iterator[_Edited]:
    """What was edited of each scope and kind, on however many pages they are by now."""
    names, written_lsn = _index(folder)
    found: dict[tuple[str, Kind], list[tuple[str, Page]]] = {}
    missing, size = set(names), 0
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        missing.discard(name)
        body = _bytes_of(file, name)
        size += len(body)
        if size > TREE_BYTES_MAX:
            raise UsageError(f"more than {TREE_BYTES_MAX} bytes", field=str(folder))
        page = _parsed(body, name)
        found.setdefault(_about(page, name), []).append((name, page))
    for name in sorted(missing):
        # Nothing of it is left to say what it was about but its path.
        gone = Page(None, None, written_lsn, [])
        found.setdefault(_about(gone, name), []).append((name, gone))
    elsewhere = _places(found)
    for (scope, kind), pages in sorted(found.items()):
        lsns = {page.known_lsn for _, page in pages if page.known_lsn is not None}
        name = pages[0][0]
        if len(lsns) > 1:
            raise UsageError(f"was written at another time than {pages[-1][0]}", field=name)
        then = {}
        if lsns:
            then = _known(memory, scope, kind, _past(memory, lsns.pop(), name))
        lines = [line for _, page in pages for line in page.lines]
        now = _known(memory, scope, kind, None)
        for item_id in then:
            about, line = elsewhere.get(item_id, ((scope, kind), None))
            if line is not None and about != (scope, kind):
                check_is_of_store(line, then[item_id])
                raise UsageError(
                    f"{item_id} is a {kind} of {scope}, and was moved here: remove its id and"
                    " what it was stated, and it is stated here anew",
                    field=line.where_is("id"),
                )  # fmt: skip
        yield _Edited(scope, kind, edits_of(lines, then, now, name))


def _places(
    found: Mapping[tuple[str, Kind], list[tuple[str, Page]]],
) -> dict[str, tuple[tuple[str, Kind], Line]]:
    """On which page each id is, and the line. Raises UsageError for one that is on two."""
    places: dict[str, tuple[tuple[str, Kind], Line]] = {}
    for about, pages in found.items():
        for _, page in pages:
            for line in page.lines:
                if line.item_id is None:
                    continue
                if line.item_id in places:
                    _, other = places[line.item_id]
                    raise UsageError(
                        f"{line.item_id} is in {other.where}, too", field=line.where_is("id")
                    )
                places[line.item_id] = (about, line)
    return places


def _past(memory: Memory, lsn: int, name: str) -> int:
    if lsn > memory.lsn:
        raise UsageError(f"LSN {lsn} is not of this store, which is at {memory.lsn}", field=name)
    return lsn


def _index(folder: Path) -> tuple[list[str], int | None]:
    """The pages that were written, and at which LSN."""
    file = folder / INDEX
    if not file.exists() and not file.is_symlink():
        return [], None
    page = _parsed(_bytes_of(file, INDEX), INDEX)
    names = [re.fullmatch(r"\[(.*)\]\(<.*>\)", line.text) for line in page.lines]
    return [match[1] for match in names if match], page.known_lsn


def _files(folder: Path) -> Iterator[Path]:
    """Pages in order. What is hidden, or no Markdown, is somebody else's."""
    count = 0
    for where, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(where, name).is_symlink():
                raise UsageError("is a link, which is not followed", field=f"{where}/{name}")
        for name in sorted(names):
            path = Path(where, name)
            if name.startswith(".") or path.suffix != ".md" or path == folder / INDEX:
                continue
            count += 1
            if count > PAGES_MAX:
                raise UsageError(f"more than {PAGES_MAX} pages", field=str(folder))
            yield path


def _raise(error: OSError) -> None:
    raise error


def _bytes_of(file: Path, name: str) -> bytes:
    try:
        # Without waiting for somebody to write into what is no file.
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise UsageError("is a link, which is not followed", field=name) from error
        raise
    with open(opened, "rb") as readable:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise UsageError("is no file", field=name)
        body = readable.read(PAGE_BYTES_MAX + 1)
    if len(body) > PAGE_BYTES_MAX:
        raise UsageError(f"more than {PAGE_BYTES_MAX} bytes", field=name)
    return body


def _parsed(body: bytes, name: str) -> Page:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise UsageError("this is not UTF-8", field=f"{name}:{line}") from error
    return parse_page(text, name)


def _about(page: Page, name: str) -> tuple[str, Kind]:
    """The scope and the kind of a page: as it says, else by its path."""
    *components, last = Path(name).parts
    try:
        kind = page.kind or Kind(last.removesuffix(".md").partition("~")[0])
    except ValueError:
        raise UsageError("does not say of which kind its memories are", field=name) from None
    if page.scope is not None:
        return page.scope, kind
    path = "/".join(
        re.sub(r"%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), part) for part in components
    )
    return check_scope(path, field=name), kind


def _check(memory: Memory, page: _Edited, edit: Edit) -> None:
    """Raises UsageError for what a store would refuse."""
    bytes_max = memory.config.item_bytes_max
    try:
        if edit.deed is Deed.STATE:
            draft(
                edit.text, scope=page.scope, kind=page.kind, key=None, bytes_max=bytes_max,
                **arguments_of(edit),
            )  # fmt: skip
        elif edit.deed is Deed.REVISE:
            check_text(edit.text, bytes_max=bytes_max)
        elif edit.deed is Deed.PIN and edit.at is not None and edit.at <= datetime.now(UTC):
            raise UsageError(f"expected a time to come, got {edit.at}", field="pinned")
    except UsageError as error:
        if error.field is not None and error.field.startswith(edit.where.rpartition(":")[0]):
            raise
        raise UsageError(str(error), field=edit.where) from error


def _carry_out(memory: Memory, page: _Edited, edit: Edit, report: TreeReport) -> None:
    item_id = edit.item_id or ""
    try:
        if edit.deed is Deed.STATE:
            item_id = memory.remember(
                edit.text, scope=page.scope, kind=page.kind, **arguments_of(edit)
            ).item_id
        elif edit.deed is Deed.REVISE:
            memory.revise(item_id, edit.text, scope=page.scope)
        elif edit.deed is Deed.END:
            memory.end(item_id, at=edit.at, scope=page.scope)
        elif edit.deed is Deed.PIN:
            memory.pin(item_id, until=edit.at, scope=page.scope)
        elif edit.deed is Deed.UNPIN:
            memory.unpin(item_id, scope=page.scope)
        else:
            memory.forget(Selector(scope=page.scope, items=(item_id,)))
    except UsageError as error:
        raise UsageError(str(error), field=edit.where) from error
    except NotFoundError:
        report.conflicts.append(f"{item_id} ({edit.where})")
        return
    _lists(report)[edit.deed].append(item_id)


def _lists(report: TreeReport) -> dict[Deed, list[str]]:
    return {
        Deed.STATE: report.stated,
        Deed.REVISE: report.revised,
        Deed.END: report.ended,
        Deed.PIN: report.pinned,
        Deed.UNPIN: report.unpinned,
        Deed.FORGET: report.forgotten,
    }


def say_tree(report: TreeReport) -> None:
    would = "would be " if report.dry_run else ""
    done = [f"{len(ids)} {would}{deed}" for deed, ids in _words(report) if ids]
    say(f"{shown(report.path)}: {', '.join(done) or 'nothing was edited'}.")
    if report.removed:
        ids = ", ".join(report.removed)
        say(f"Their lines are gone: {shown(ids)}. --forget-removed forgets them.")
    for conflict in report.conflicts:
        say(f"Changed by somebody else or gone, and left as it is: {shown(conflict)}")


def _words(report: TreeReport) -> list[tuple[str, list[str]]]:
    return [
        ("stated", report.stated), ("revised", report.revised), ("ended", report.ended),
        ("pinned", report.pinned), ("unpinned", report.unpinned),
        ("forgotten", report.forgotten),
    ]  # fmt: skip
