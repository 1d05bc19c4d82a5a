"""Contexts of a store: what a session asks of them.

Owns: nothing between calls but counts of tokens. Invariant: a call reads the messages from where
its window begins, the first ones of the session, and those that are pinned; it writes only where
something was left out or recalled. Not here: making one (making.py).
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from memopt.base.context_records import Context, Opened, PinRow
from memopt.base.errors import NotFoundError, UsageError
from memopt.base.item_records import FOREVER
from memopt.base.moments import NOW, check_time
from memopt.base.names import check_count, check_name
from memopt.base.records import SEQ_BITS, EventRow, LineRow, Receipt, RecordKind
from memopt.context.arguments import arguments_in
from memopt.context.calls import calls_in
from memopt.context.handles import Handle, handle_in
from memopt.context.making import Asked, ContextParts, Making, pins_on
from memopt.context.outputs import outputs_in
from memopt.context.tokens import Counts
from memopt.context.windows import Windows
from memopt.context.writing import SummaryWriter
from memopt.journal.commit import CommitTransaction
from memopt.recall.message_text import said_in
from memopt.sessions.branches import place_of
from memopt.sessions.names import SessionKey
from memopt.sessions.reading import length_of, line_as_of, line_at, segments_of
from memopt.sessions.transcripts import publish_event

TOKENS_MAX: Final = 1 << 27
"""Of a window."""
_OPENED_CHARS_MAX: Final = 65_536
_TOOLS_MAX: Final = 4096


class Contexts:
    """The ContextMaker of a store. Thread-safe."""

    def __init__(self, parts: ContextParts) -> None:
        self._parts = parts
        self.counts = Counts(parts.budget)
        self._windows = Windows(parts.committer, parts.compressor, parts.keeper)
        self.writer = SummaryWriter(parts.summarizer, self._windows, parts.budget)
        parts.keeper.forget_ids = self.counts.clear

    # -- contexts ---------------------------------------------------------------------------------

    def context(
        self, scope: str, id: str, *, max_tokens: int, model: str | None, tools: Any,
        reserve_tokens: int, query: str | None, token_ids: bool, head: int | None = None,
    ) -> Context:  # fmt: skip
        """Raises UsageError that names the argument, ContextOverflowError, NotFoundError."""
        asked = _asked(
            SessionKey(scope, id), max_tokens, model, tools, reserve_tokens, query, token_ids, head
        )
        return Making(self._parts, self._windows, self.counts, self.writer, asked).make()

    def counting(self, model: str | None) -> Callable[[str], int]:
        """What counts the tokens of a text for a model."""
        choice = self._parts.tokenizers.of(model)
        return functools.partial(self.counts.of_text, choice=choice)

    # -- outputs ----------------------------------------------------------------------------------

    def open_output(
        self, scope: str, id: str, handle: str, start: int, stop: int | None,
        head: int | None = None,
    ) -> Opened:  # fmt: skip
        wanted = handle_in(handle)
        first = check_count(start, field="start")
        last = None if stop is None else check_count(stop, field="stop", least=first)
        text, tool = self._whole(SessionKey(scope, id), wanted, head)
        end = min(len(text), first + _OPENED_CHARS_MAX, len(text) if last is None else last)
        begin = min(first, end)
        return Opened(
            handle=str(wanted), text=text[begin:end], start=begin, stop=end, chars=len(text),
            tool=tool,
        )  # fmt: skip

    def _whole(self, key: SessionKey, handle: Handle, head: int | None) -> tuple[str, str | None]:
        line = self._line_at(key, head) if head is not None else None
        seqs = handle.seq, handle.seq + 1
        reads = list(self._parts.reader.reads(*key, *seqs, NOW, None, line))
        if not reads:
            raise NotFoundError(f"session {key.id!r} has no message {handle.seq}")
        message = reads[0].message
        texts = [one.text for one in outputs_in(message)]
        tool = message.get("name")
        names = [tool if type(tool) is str else None] * len(texts)
        if not texts:
            texts = [one.text for one in arguments_in(message)]
            names = [call.name or None for call in calls_in(message)]
        if handle.part is not None:
            if handle.part >= len(texts):
                raise NotFoundError(f"message {handle.seq} has {len(texts)} outputs or calls")
            return texts[handle.part], names[handle.part]
        if not outputs_in(message):
            said = said_in(message, None, tool_chars_max=_OPENED_CHARS_MAX)
            texts = [*([said.text] if said is not None else []), *texts]
        return "\n".join(texts), names[0] if names else None

    def _line_at(self, key: SessionKey, head: int) -> LineRow:
        with self._parts.home.snapshot() as tables:
            row = tables.sessions.find(*key)
            if row is None:
                raise NotFoundError(f"there is no session {key.id!r} in scope {key.scope!r}")
            return line_at(tables, row, head)

    # -- pins -------------------------------------------------------------------------------------

    def pin(self, scope: str, id: str, seq: int, until: Any) -> Receipt:
        until_us = FOREVER if until is None else check_time(until, field="until")
        return self._mark(SessionKey(scope, id), seq, until_us)

    def unpin(self, scope: str, id: str, seq: int) -> Receipt:
        return self._mark(SessionKey(scope, id), seq, None)

    def pins(self, scope: str, id: str) -> tuple[int, ...]:
        with self._parts.home.snapshot() as tables:
            row = tables.sessions.find(scope, id)
            if row is None:
                return ()
            segments = segments_of(tables, line_as_of(tables, row, NOW))
            return tuple(sorted(pins_on(tables, segments, self._parts.clock.now_us())))

    def _mark(self, key: SessionKey, seq: int, until_us: int | None) -> Receipt:
        check_count(seq, field="seq")

        def member(transaction: CommitTransaction) -> Receipt:
            tables = transaction.tables
            row = tables.sessions.find(*key)
            if row is None:
                raise NotFoundError(f"there is no session {key.id!r} in scope {key.scope!r}")
            line = line_as_of(tables, row, NOW)
            length = length_of(tables, line)
            if seq >= length:
                raise NotFoundError(f"the session has {length} messages, got {seq}")
            if until_us is not None and until_us <= transaction.at_us:
                raise UsageError("expected a time to come", field="until")
            place = place_of(segments_of(tables, line), seq)
            there = tables.message_pins.of_line(place.line, seq, seq + 1)
            receipt = Receipt(
                lsn=transaction.lsn, seq=length - 1, head=line.line << SEQ_BITS | length
            )
            if (there[0].until_us if there else None) == until_us:
                return receipt
            lsn = transaction.next_lsn()
            if until_us is None:
                tables.message_pins.delete(*place)
            else:
                tables.message_pins.put(PinRow(*place, lsn, until_us))
            kind = RecordKind.MESSAGE_UNPINNED if until_us is None else RecordKind.MESSAGE_PINNED
            tables.events.put(
                EventRow(lsn, transaction.at_us, kind, row.session, place.line, seq, None)
            )
            publish_event(transaction, lsn, kind, key, seq=seq)
            return Receipt(lsn=lsn, seq=receipt.seq, head=receipt.head)

        return self._parts.committer.commit(member)

    # -- life -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self.writer.close()

    def close(self) -> None:
        self.counts.clear()

    def abandon(self) -> None:
        """In a forked child."""
        self.counts.abandon()
        self.writer.abandon()
        self._parts.tokenizers.abandon()


def _asked(
    key: SessionKey, max_tokens: Any, model: Any, tools: Any, reserve_tokens: Any, query: Any,
    token_ids: Any, head: int | None,
) -> Asked:  # fmt: skip
    check_count(max_tokens, field="max_tokens", least=1, most=TOKENS_MAX)
    check_count(reserve_tokens, field="reserve_tokens")
    if reserve_tokens >= max_tokens:
        raise UsageError(
            f"it leaves nothing of max_tokens ({max_tokens}), got {reserve_tokens}",
            field="reserve_tokens",
        )
    if model is not None:
        check_name(model, field="model")
    if query is not None and not isinstance(query, str):
        raise UsageError(f"expected text, got {type(query).__name__}", field="query")
    if not isinstance(tools, list | tuple) or len(tools) > _TOOLS_MAX:
        raise UsageError(f"expected a list of at most {_TOOLS_MAX} tools", field="tools")
    for at, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise UsageError(f"expected a dict, got {type(tool).__name__}", field=f"tools[{at}]")
    if not isinstance(token_ids, bool):
        raise UsageError(f"expected True or False, got {token_ids!r}", field="token_ids")
    return Asked(key, max_tokens, model, list(tools), reserve_tokens, query, token_ids, head)
