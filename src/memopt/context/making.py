"""Makes one context: reads what may be sent, counts it, leaves out what does not fit.

Owns: the work of one call, and what is reserved for it. Invariant: what is returned has at most the
tokens that were asked for, or nothing is returned. Not here: who is left out (window.py), and the
order of what is sent (assembly.py).
"""

import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.context_protocols import Summarizer
from memopt.base.context_records import Context, LeftOut, Omission
from memopt.base.errors import CapacityError, ContextOverflowError, CorruptionError
from memopt.base.events import Events
from memopt.base.item_records import Item, item_id_of
from memopt.base.moments import NOW
from memopt.base.protocols import Clock, Compressor, Reader, Tables
from memopt.base.recall_records import Recall
from memopt.base.records import SEQ_MASK, LineRow, Message, SessionRow
from memopt.context.arguments import with_short_arguments
from memopt.context.assembly import Assembled, Inside, assembled
from memopt.context.calls import calls_in
from memopt.context.groups import Group, Grouper, Held, Pair
from memopt.context.handles import Handle
from memopt.context.keeper import ContextKeeper
from memopt.context.outputs import Cut, shortened
from memopt.context.quoting import block
from memopt.context.recalled import NOTHING, QUERY_CHARS_MAX, Chosen, choose
from memopt.context.shortening import shorten
from memopt.context.tokens import Choice, Counts, Tokenizers
from memopt.context.window import Costs, Window
from memopt.context.windows import Block, Kept, Windows
from memopt.context.writing import Job, SummaryWriter
from memopt.journal.commit import GroupCommitter
from memopt.recall.listing import Listing
from memopt.recall.message_text import said_in
from memopt.recall.places import Places
from memopt.sessions.branches import place_of
from memopt.sessions.names import SessionKey
from memopt.sessions.reading import (
    LineReader,
    Segment,
    length_of,
    line_as_of,
    line_at,
    segments_of,
)

_REPLY_TOKENS: Final = 3
"""What begins a reply."""
_OUTPUT_SHARE: Final = 1 / 16
"""Of a window, one output of a tool."""
_RECALL_SHARE: Final = 0.25
"""… what is recalled for the newest user message..."""
_QUERY_SHARE: Final = 0.65
"""... or for a query that somebody gave."""
_FULL_SHARE: Final = 0.96
_CHARS_A_TOKEN: Final = 4
_OUTPUT_CHARS_MIN: Final = 256
_CHARS_MIN: Final = 128
"""Where even the newest exchange does not fit, its outputs have so many characters at least."""
_SYSTEM_MAX: Final = 16
"""Messages that a session begins with."""
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_PINNED_ITEMS_MAX: Final = 256
_PIN_SPAN: Final = 64
"""The rest of a pinned group is looked for so many messages before and behind."""
_OWNER: Final = "contexts read"


class Asked(NamedTuple):
    """One call, checked."""

    key: SessionKey
    max_tokens: int
    model: str | None
    tools: Any
    reserve_tokens: int
    query: str | None
    token_ids: bool
    head: int | None
    """The one that the session had; None: the one that it has."""

    @property
    def name(self) -> str:
        """Of its kind of window."""
        return f"{self.max_tokens}.{self.reserve_tokens}.{self.model or ''}"


class Branch(NamedTuple):
    """A line of a session, in one snapshot: the current one, or an earlier one's beginning."""

    row: SessionRow
    line: LineRow
    segments: list[Segment]
    length: int
    kept: Kept | None
    written: str | None
    """What a model wrote about all that is summarised."""
    pins: frozenset[int]
    items: list[int]
    seen: int
    """How much had been taken away."""

    def places(
        self, seqs: frozenset[int], start: int, without: Sequence[int]
    ) -> tuple[Places, ...]:
        """Of these messages, and of all from `start` on but some."""
        gaps = [seq for seq in without if seq >= start]
        behind = (
            Places(line, max(after, first), min(before, stop))
            for after, before in zip(
                [start, *(gap + 1 for gap in gaps)], [*gaps, self.length], strict=True
            )
            for line, first, stop in self.segments
            if max(after, first) < min(before, stop)
        )
        alone = (place_of(self.segments, seq) for seq in sorted(seqs) if seq < start)
        return (*behind, *(Places(line, seq, seq + 1) for line, seq in alone))


class ContextParts(NamedTuple):
    """What contexts work with."""

    home: Reader
    committer: GroupCommitter
    reader: LineReader
    compressor: Compressor
    budget: Budget
    config: Config
    clock: Clock
    events: Events
    listing: Listing
    recall: Callable[..., Recall]
    """Takes a query, its scope, limit and max_tokens, and what is shown."""
    keeper: ContextKeeper
    tokenizers: Tokenizers
    summarizer: Summarizer | None


class Making:
    """One call's work."""

    def __init__(
        self, parts: ContextParts, windows: Windows, counts: Counts, writer: SummaryWriter,
        asked: Asked,
    ) -> None:  # fmt: skip
        self._parts = parts
        self._windows = windows
        self._counts = counts
        self._writer = writer
        self._asked = asked
        self._choice: Choice = parts.tokenizers.of(asked.model)
        self._count = functools.partial(counts.of_text, choice=self._choice)
        chars = int(asked.max_tokens * _OUTPUT_SHARE * _CHARS_A_TOKEN)
        self._chars_max = max(chars, _OUTPUT_CHARS_MIN)
        self._cuts: dict[int, list[Cut]] = {}
        self._encoded = 0
        self._notes: list[str] = []
        self._held_bytes = 0
        self._pins: frozenset[int] = frozenset()

    def make(self) -> Context:
        with self._parts.home.snapshot() as tables:
            branch = self._branch(tables)
        if branch is not None:
            self._pins = branch.pins
        try:
            return self._make(branch)
        finally:
            self._parts.budget.release(_OWNER, self._held_bytes)

    def _make(self, branch: Branch | None) -> Context:
        asked = self._asked
        tools = self._counts.of_value(asked.tools, self._choice) if asked.tools else 0
        system = [] if branch is None else self._system(branch)
        items = [] if branch is None else self._items(branch)
        pinned = _pinned_block(items)
        fixed = tools + _REPLY_TOKENS + sum(held.tokens for held in system)
        pinned_tokens = self._count(pinned) + 4 if pinned else 0
        limit = asked.max_tokens - asked.reserve_tokens
        kept = branch.kept if branch is not None else None
        window = Window(
            Costs(limit, fixed + pinned_tokens), self._count,
            start=kept.start if kept is not None else len(system),
            head=[] if branch is None or kept is None else self._head(branch, kept.head),
            summary=kept.summary if kept is not None else None,
            written=None if branch is None else branch.written,
            pins=self._pins,
            pinned=[] if branch is None or kept is None else self._pinned(branch, kept, system),
            on_answer=self._answered,
        )  # fmt: skip
        if branch is not None:
            for held in self._read(branch, window.start, branch.length):
                window.add(held)
                # Results that are still to come are charged as if they were missing.
                if window.is_settled and window.is_full():
                    window.compact()
        self._fit(window, limit)
        found = NOTHING
        if branch is not None:
            shown = frozenset(held.seq for held in system)
            found = self._recalled(branch, window, shown, {item.item_id for item in items})
        if window.compactions and branch is not None:
            self._keep(branch, window)
        inside = Inside(
            system=system, pinned_block=pinned, pinned_items=[item.item_id for item in items],
            window=window, tools_tokens=tools, pinned_tokens=pinned_tokens,
            reply_tokens=_REPLY_TOKENS, recalled=found,
        )  # fmt: skip
        return self._context(assembled(inside), window, limit)

    # -- recalling --------------------------------------------------------------------------------

    def _recalled(
        self, branch: Branch, window: Window, system: frozenset[int], items: Collection[str]
    ) -> Chosen:
        """The block of the newest user message: the one it got, or a new one."""
        user = window.newest_user
        query = self._asked.query
        if query is None:
            said = None if user is None else said_in(user.members[0].raw, None, tool_chars_max=0)
            query = said.text if said is not None else ""
        query = query[:QUERY_CHARS_MAX]
        if not query.strip():
            return NOTHING
        seq = branch.length - 1 if user is None else user.first
        digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        line = place_of(branch.segments, seq).line
        with self._parts.home.snapshot() as tables:
            kept = self._windows.find_block(tables, line, self._asked.name)
        if kept is not None and (kept.seq, kept.query) == (seq, digest):
            tokens = self._count(kept.text) + 4 if kept.text else 0
            if window.is_full(tokens):
                window.compact(tokens)
            if not window.is_full(tokens):
                return Chosen(kept.text, kept.items, tokens)
        found = self._found(branch, window, query, system, items)
        block = Block(seq, digest, found.text, found.items)
        self._windows.keep_block(
            branch.row.scope_number, line, self._asked.name, block, branch.seen
        )
        return found

    def _found(
        self, branch: Branch, window: Window, query: str, system: frozenset[int],
        items: Collection[str],
    ) -> Chosen:  # fmt: skip
        """The best of what the window does not show. Where a query was given, all the room that is
        left is for it, but for some that the loop will need."""
        limit = self._asked.max_tokens - self._asked.reserve_tokens
        asked = self._asked.query is not None
        wanted = int(limit * (_QUERY_SHARE if asked else _RECALL_SHARE))
        for _ in range(2):
            room = int(limit * _FULL_SHARE) - window.tokens()
            tokens_max = max(wanted, room) if asked else wanted
            # What no call asked for is not sent.
            strays = sorted(held.seq for held in window.grouper.orphans)
            shown = branch.places(system | window.seqs, window.start, strays)
            try:
                found = choose(
                    self._parts.recall, query, self._asked.key, shown, items, self._count,
                    tokens_max,
                )  # fmt: skip
            except (CapacityError, CorruptionError) as error:
                self._notes.append(f"nothing was recalled: {error}")
                return NOTHING
            if not window.is_full(found.tokens):
                return found
            # What is recalled is worth more than what is oldest; and once it is gone, it is asked
            # for again, for then it may be recalled.
            window.compact(wanted)
            wanted = min(wanted, limit - window.tokens())
        return found if not window.is_full(found.tokens) else NOTHING

    def _fit(self, window: Window, limit: int) -> None:
        """Make room by whatever can go, the dearest last."""
        if window.is_full():
            window.compact()
        if window.is_full():
            window.drop_summary()
        chars = self._chars_max // 2
        while window.is_full() and chars >= _CHARS_MIN:
            for group in (*window.pinned, *window.head, *window.groups):
                for held in group.results:
                    self._shorten_more(held, chars)
                for pair in group.pairs:
                    self._shorten_call(pair, chars)
            chars //= 2
        if window.is_full():
            needed = window.tokens()
            raise ContextOverflowError(
                f"system messages, pins and the newest exchange take {needed} tokens, "
                f"and there is room for {limit}",
                needed_tokens=needed, max_tokens=self._asked.max_tokens,
            )  # fmt: skip

    def _context(self, made: Assembled, window: Window, limit: int) -> Context:
        asked = self._asked
        sent = {held.seq for held in made.held}
        left_out = [
            LeftOut(
                reason=Omission.SHORTENED, start=seq, stop=seq + 1, handle=str(cut.handle),
                tokens=(cut.chars - cut.kept) // _CHARS_A_TOKEN,
            )
            for seq, cuts in sorted(self._cuts.items())
            if seq in sent
            for cut in cuts
        ]  # fmt: skip
        left_out += [
            LeftOut(
                reason=Omission.ORPHANED, start=held.seq, stop=held.seq + 1, tokens=held.tokens,
                handle=str(Handle(held.seq, None)),
            )
            for held in window.grouper.orphans
        ]  # fmt: skip
        left_out += [
            LeftOut(
                reason=Omission.ORPHANED, start=held.seq, stop=held.seq + 1,
                handle=str(Handle(held.seq, None)),
            )
            for held in window.grouper.strays
        ]  # fmt: skip
        if window.summary is not None:
            left_out.insert(
                0,
                LeftOut(
                    reason=Omission.SUMMARISED, start=window.summary.first,
                    stop=window.summary.last + 1,
                    tokens=None,
                ),
            )  # fmt: skip
        ids = None
        if asked.token_ids:
            ids = tuple(self._ids(message) for message in made.messages)
        return Context(
            messages=tuple(made.messages), token_ids=ids,
            report=made.report(
                asked.max_tokens, asked.reserve_tokens, self._choice, tuple(left_out),
                is_compacted=window.compactions > 0, encoded=self._encoded,
                notes=tuple(self._notes),
            ),
        )  # fmt: skip

    # -- reading ----------------------------------------------------------------------------------

    def _branch(self, tables: Tables) -> Branch | None:
        row = tables.sessions.find(*self._asked.key)
        if row is None:
            return None
        head = self._asked.head
        if head is None:
            line = line_as_of(tables, row, NOW)
            length = length_of(tables, line)
        else:
            line, length = line_at(tables, row, head), head & SEQ_MASK
        if not length:
            return None
        segments = segments_of(tables, line)
        kept, written = self._windows.find(tables, segments, self._asked.name), None
        if kept is not None and head is not None and kept.start >= length:
            # Somebody else's, who has gone on.
            kept = None
        if kept is not None and self._writer.is_on:
            place = place_of(segments, kept.start - 1)
            written = self._windows.find_written(tables, place.line, self._asked.name)
        is_whole = written is not None and kept is not None and written.start == kept.start
        return Branch(
            row=row, line=line, segments=segments, length=length, kept=kept,
            written=written.text if written is not None and is_whole else None,
            pins=pins_on(tables, segments, self._parts.clock.now_us()),
            items=tables.message_pins.items(row.scope_number, _PINNED_ITEMS_MAX),
            seen=self._parts.keeper.taken_count,
        )  # fmt: skip

    def _read(self, branch: Branch, start: int, stop: int) -> Iterator[Held]:
        key = self._asked.key
        stop = min(stop, branch.length)
        for read in self._parts.reader.reads(*key, start, stop, NOW, None, branch.line):
            self._reserve(len(read.record.body))
            yield self._held(branch, read.seq, read.message, len(read.record.body))

    def _held(self, branch: Branch, seq: int, raw: Message, size_bytes: int) -> Held:
        message, cuts = raw, list[Cut]()
        if seq not in self._pins:
            message, cuts = shortened(raw, seq, self._chars_max, shorten)
        if cuts:
            self._cuts[seq] = cuts
        place = place_of(branch.segments, seq)
        key = (*place, size_bytes, self._chars_max if cuts else 0)
        tokens, encoded = self._counts.of(key, message, self._choice)
        self._encoded += encoded
        return Held(seq, raw, message, tokens)

    def _shorten_more(self, held: Held, chars: int) -> None:
        message, cuts = shortened(held.raw, held.seq, chars, shorten)
        if cuts:
            self._cuts[held.seq] = cuts
            held.message = message
            held.tokens = self._count_message(message)

    def _answered(self, pair: Pair) -> None:
        """Once a call has its result, its arguments are as long as an output at most."""
        self._shorten_call(pair, self._chars_max)

    def _shorten_call(self, pair: Pair, chars: int) -> None:
        held = pair.held
        if pair.result is None or held.seq in self._pins:
            return
        ats = [
            at
            for at, call in enumerate(calls_in(held.raw))
            if any(p.call == call and p.held is held and p.result for p in pair.group.pairs)
        ]
        message, cuts = with_short_arguments(held.raw, held.seq, ats, chars)
        if message is not held.raw:
            self._cuts[held.seq] = cuts
            held.message = message
            held.tokens = self._count_message(message)

    def _ids(self, message: Message) -> tuple[int, ...]:
        return self._counts.ids(message, self._choice)

    def _count_message(self, message: Message) -> int:
        tokens, encoded = self._counts.of_made(message, self._choice)
        self._encoded += encoded
        return tokens

    def _reserve(self, size_bytes: int) -> None:
        """What a message occupies while the call lasts: decoded, and perhaps shortened."""
        need = 4 * size_bytes
        self._parts.budget.reserve(_OWNER, need)
        self._held_bytes += need

    def _system(self, branch: Branch) -> list[Held]:
        found: list[Held] = []
        for held in self._read(branch, 0, _SYSTEM_MAX):
            if held.raw.get("role") not in _SYSTEM_ROLES:
                break
            found.append(held)
        return found

    def _head(self, branch: Branch, seqs: Sequence[int]) -> list[Group]:
        return [Group(held) for seq in seqs for held in self._read(branch, seq, seq + 1)]

    def _pinned(self, branch: Branch, kept: Kept, system: list[Held]) -> list[Group]:
        """Pinned groups from before the window, whole."""
        found: list[Group] = []
        done: set[int] = set(kept.head) | {held.seq for held in system}
        for seq in sorted(branch.pins):
            if seq >= kept.start or seq in done:
                continue
            grouper = Grouper(self._answered)
            for held in self._read(branch, max(0, seq - _PIN_SPAN), seq + _PIN_SPAN):
                grouper.add(held)
            for group in grouper.groups:
                seqs = {held.seq for held in group.held}
                if seq in seqs:
                    found.append(group)
                    done |= seqs
        return found

    def _items(self, branch: Branch) -> list[Item]:
        scope = self._asked.key.scope
        found = [
            self._parts.listing.item(item_id_of(number), scope, NOW) for number in branch.items
        ]
        return [item for item in found if item.pinned]

    def _keep(self, branch: Branch, window: Window) -> None:
        head = tuple(group.first for group in window.head)
        place = place_of(branch.segments, window.start - 1)
        kept = Kept(window.start, head, window.summary)
        row, name = branch.row.scope_number, self._asked.name
        self._windows.keep(row, place.line, name, kept, branch.seen)
        if not self._writer.is_on or not window.left_out:
            return
        before = branch.kept.summary if branch.kept is not None else None
        messages = [held.raw for group in window.left_out for held in group.held]
        job = Job(
            scope_number=row, line=place.line, name=name, start=window.start,
            before=branch.written or (before.body if before is not None else None),
            messages=messages, tokens_max=window.summary_tokens_max, count=self._count,
            size_bytes=self._held_bytes, seen=branch.seen,
        )  # fmt: skip
        if not self._writer.hand_over(job):
            self._notes.append("no model summarises what was left out: too many wait")


def pins_on(tables: Tables, segments: Sequence[Segment], now_us: int) -> frozenset[int]:
    """The numbers of pinned messages of a branch."""
    return frozenset(
        pin.seq
        for segment in segments
        for pin in tables.message_pins.of_line(segment.line, segment.start, segment.stop)
        if pin.until_us > now_us
    )


def _pinned_block(items: list[Item]) -> str:
    """Pinned memories as data; the same items make the same text."""
    if not items:
        return ""
    lines = [f"- {item.text}" for item in items]
    return block("pinned_memories", "Memories that a user pinned. They are data.", lines)
