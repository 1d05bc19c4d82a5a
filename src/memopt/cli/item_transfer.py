"""Stated memories as lines of an export, and back.

A memory is a line of kind "item", and each of its changes one of kind "item_change", all of a scope
in the order in which they happened, so that what was ended or shielded by what comes out the same:

    {"kind":"item","memopt":1,"scope":"acme/ann","id":"i1","item":{"kind":"fact","text":…}}
    {"kind":"item_change","scope":"acme/ann","id":"i1","text":"in other words"}
    {"kind":"items_end","scope":"acme/ann","open":[["i2","i1"]]}

Kept: texts of all versions, what they are about, when they were so, pins, importance, source, tags,
the reward, which contradictions are open. Not kept: ids, LSNs, and when what was known.
"""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from memopt import Decision, Item, Kind, Memory
from memopt.base.errors import CorruptionError, UsageError
from memopt.base.item_records import item_number
from memopt.base.records import Reach
from memopt.cli.memories import every_item

FORM: Final = 1
KINDS: Final = frozenset({"item", "item_change", "items_end"})
_CHANGES_AT_ONCE: Final = 500
_LISTED_AT_ONCE: Final = 500
_LAST_ID: Final = "i9999999999999"


class Stated(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What was said of a memory when it was stated."""

    text: str
    kind: Kind = Kind.FACT
    subject: str | None = None
    attribute: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    importance: float = 0.5
    source: str | None = None
    tags: tuple[str, ...] = ()
    pin: bool = False


class Change(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One thing that was changed of it."""

    text: str | None = None
    pinned: bool | None = None
    until: datetime | None = None
    """Of a pin."""
    ended: datetime | None = None


class _ItemLine(msgspec.Struct, kw_only=True):
    scope: str
    id: str
    item: Stated
    memopt: int = FORM
    reward: float = 0.0


class _ChangeLine(Change, kw_only=True, frozen=True):
    scope: str
    id: str


class _EndLine(msgspec.Struct, kw_only=True):
    scope: str
    open: list[tuple[str, str]] = []


# -- out ------------------------------------------------------------------------------------------


def item_lines(
    memory: Memory, scope: str | None, reach: Reach, damaged: list[str]
) -> Iterator[dict[str, Any]]:
    """All that is stated in a scope, or in all of them. What is damaged is left out, and named in
    `damaged`. Holds a few numbers for each change."""
    for path in _scopes(memory, scope, reach, damaged):
        changes: list[tuple[int, int, str]] = []
        rewards: dict[str, float] = {}
        for item in _whole_items(memory, path, damaged):
            if item.reward:
                rewards[item.item_id] = item.reward
            try:
                lsns = [then.lsn for then in every_change(memory, item.item_id)]
            except CorruptionError as error:
                damaged.append(f"{item.item_id} of {path} ({error})")
                continue
            changes += [(lsn, old, item.item_id) for old, lsn in itertools.pairwise([0, *lsns])]
        changes.sort()
        firsts = {lsn for lsn, before, _ in changes if not before}
        for lsn, before, item_id in changes:
            yield from _lines(memory, path, item_id, lsn, before, firsts, rewards)
        open_: list[tuple[str, str]] = []
        try:
            pairs = memory.contradictions(path, limit=10_000)
            open_ += [(one.item_id, one.other_id) for one in pairs]
        except CorruptionError as error:
            damaged.append(f"what contradicts in {path} ({error})")
        if changes:
            yield {"kind": "items_end", "scope": path, "open": open_}


def _scopes(memory: Memory, scope: str | None, reach: Reach, damaged: list[str]) -> Iterator[str]:
    """Where something is stated: from one scope to the next, in order."""
    after: tuple[str, str] | None = None
    hurt: list[str] | None = None
    while True:
        try:
            found = memory.items(scope, reach=reach, after=after, limit=1)
            if not found:
                return
            path = found[0].scope
        except CorruptionError as error:
            # Whose it is, a check tells.
            if hurt is None:
                hurt = sorted({one.scope for one in memory.check().damages if one.scope})
            behind = [one for one in hurt if after is None or one > after[0]]
            if not behind:
                damaged.append(f"what is behind {after} ({error})")
                return
            path = behind[0]
        yield path
        after = (path, _LAST_ID)


def _whole_items(memory: Memory, scope: str, damaged: list[str]) -> Iterator[Item]:
    """Memories of one scope, without those that are damaged."""
    last, limit, named = 0, _LISTED_AT_ONCE, ""
    while True:
        after = (scope, f"i{last}") if last else None
        try:
            page = memory.items(scope, after=after, limit=limit)
        except CorruptionError as error:
            if limit > 1:
                limit = max(1, limit // 8)
                continue
            if str(error) != named:
                named = str(error)
                damaged.append(f"a memory of {scope} ({error})")
            # It is one of the next numbers.
            last += 1
            continue
        yield from page
        if len(page) < limit:
            return
        last, limit = item_number(page[-1].item_id) or 0, _LISTED_AT_ONCE


def every_change(memory: Memory, item_id: str) -> Iterator[Item]:
    """A memory after each of its changes, page by page."""
    after = 0
    while True:
        page = memory.history(item_id, after=after, limit=_CHANGES_AT_ONCE)
        yield from page
        if len(page) < _CHANGES_AT_ONCE:
            return
        after = page[-1].lsn


def _lines(
    memory: Memory, path: str, item_id: str, lsn: int, before: int, firsts: set[int],
    rewards: dict[str, float],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    # Read again, one by one: the texts of a whole scope may be more than there is room for.
    if not before:
        (first,) = memory.history(item_id, limit=1)
        line = {"kind": "item", "memopt": FORM, "scope": path, "id": item_id, "item": said(first)}
        yield line | ({"reward": rewards[item_id]} if item_id in rewards else {})
        return
    old, new = memory.history(item_id, after=before - 1, limit=2)
    change = changed(old, new, firsts)
    if change is not None:
        fields = {name: value for name in Change.__struct_fields__
                  if (value := getattr(change, name)) is not None}  # fmt: skip
        yield {"kind": "item_change", "scope": path, "id": item_id, **fields}


def said(first: Item) -> Stated:
    """What was said when it was stated, of the first item of its history."""
    valid = first.valid
    assert valid is not None, "nothing was stated yet that could end it"
    return Stated(
        text=first.text, kind=first.kind, subject=first.subject, attribute=first.attribute,
        valid_from=valid.start, valid_to=valid.stop, importance=first.importance,
        source=first.source, tags=first.tags, pin=first.pinned,
    )  # fmt: skip


def changed(old: Item, new: Item, firsts: set[int]) -> Change | None:
    """What was done to it between two items of its history; None where another memory that was
    stated then (`firsts`: at these LSNs) ended it, which it does again."""
    if new.version != old.version:
        return Change(text=new.text)
    if (new.pinned, new.pinned_until) != (old.pinned, old.pinned_until):
        return Change(pinned=new.pinned, until=new.pinned_until)
    if new.lsn in firsts:
        return None
    if new.valid is not None:
        ended = new.valid.stop
    else:
        ended = old.valid.start if old.valid is not None else None
    return None if ended is None else Change(ended=ended)


# -- in -------------------------------------------------------------------------------------------


class ItemReading:
    """Puts lines about memories into a store, beside what is there already: what was imported
    before is compared, and only the rest is written."""

    def __init__(
        self, memory: Memory, scope: str | None, count: Callable[[bool], None],
        *, dry_run: bool = False,
    ) -> None:  # fmt: skip
        """`count` is told of each memory, and whether it was there. A dry run tells it, too."""
        self._dry_run = dry_run
        self._memory = memory
        self._scope = scope
        self._count = count
        self._ids: dict[tuple[str, str], str] = {}
        """Here, by scope and id in the file."""
        self._there: dict[str, dict[bytes, list[str]]] = {}
        """By scope and what was said, those that no line was about yet."""
        self._firsts: dict[str, set[int]] = {}
        """By scope, the LSNs at which they were stated."""
        self._changes: dict[str, Iterator[Change]] = {}
        """What else is known of those that were there."""

    def take(self, kind: str, line: bytes) -> None:
        """Raises UsageError, msgspec.DecodeError."""
        if kind == "item":
            self._state(msgspec.json.decode(line, type=_ItemLine))
        elif self._dry_run:
            return
        elif kind == "item_change":
            self._change(msgspec.json.decode(line, type=_ChangeLine))
        else:
            self._end(msgspec.json.decode(line, type=_EndLine))

    def _state(self, line: _ItemLine) -> None:
        if line.memopt != FORM:
            raise UsageError(f"form {line.memopt} is newer than this memopt")
        scope, item = self._scope or line.scope, line.item
        known = self._known(scope).get(_exact(item))
        self._count(bool(known))
        if known:
            here = self._ids[line.scope, line.id] = known.pop(0)
            self._changes[here] = self._changes_of(here, self._firsts[scope])
            return
        if self._dry_run:
            return
        stated = self._memory.remember(
            item.text, scope=scope, kind=item.kind, subject=item.subject,
            attribute=item.attribute, valid_from=item.valid_from, valid_to=item.valid_to,
            importance=item.importance, source=item.source, tags=item.tags, pin=item.pin,
        )  # fmt: skip
        self._ids[line.scope, line.id] = stated.item_id
        if line.reward:
            self._memory.feedback([stated.item_id], line.reward)

    def _change(self, line: _ChangeLine) -> None:
        here = self._ids.get((line.scope, line.id))
        if here is None:
            raise UsageError(f"a change of {line.id} before that is stated")
        change = Change(**{name: getattr(line, name) for name in Change.__struct_fields__})
        if _is_over(change):
            return
        there = next(self._changes.get(here, iter(())), None)
        if there is not None:
            if there != change:
                raise UsageError(f"{here} was changed otherwise than {line.id} in the file")
            return
        if change.text is not None:
            self._memory.revise(here, change.text)
        elif change.ended is not None:
            self._memory.end(here, at=change.ended)
        elif change.pinned is False:
            self._memory.unpin(here)
        else:
            self._memory.pin(here, until=change.until)

    def _end(self, line: _EndLine) -> None:
        """What was decided there is decided here."""
        scope = self._scope or line.scope
        mine = {here for (path, _), here in self._ids.items() if path == line.scope}
        left = {
            (self._ids.get((line.scope, newer)), self._ids.get((line.scope, older)))
            for newer, older in line.open
        }
        for one in self._memory.contradictions(scope, limit=10_000):
            pair = (one.item_id, one.other_id)
            if mine.issuperset(pair) and pair not in left:
                self._memory.decide(*pair, Decision.KEEP)
        self._there.pop(scope, None)
        self._firsts.pop(scope, None)

    def _known(self, scope: str) -> dict[bytes, list[str]]:
        there = self._there.get(scope)
        if there is None:
            there = self._there[scope] = {}
            firsts = self._firsts[scope] = set()
            for item in every_item(self._memory, scope, Reach.EXACT):
                (first,) = self._memory.history(item.item_id, limit=1)
                there.setdefault(_exact(said(first)), []).append(item.item_id)
                firsts.add(first.lsn)
        return there

    def _changes_of(self, item_id: str, firsts: set[int]) -> Iterator[Change]:
        for old, new in itertools.pairwise(every_change(self._memory, item_id)):
            change = changed(old, new, firsts)
            if change is not None and not _is_over(change):
                yield change


def _is_over(change: Change) -> bool:
    """Whether it is a pin until a time that has passed."""
    return change.until is not None and change.until <= datetime.now(UTC)


def _exact(item: Stated) -> bytes:
    return msgspec.json.encode(item)
