"""The handle people hold: the key of a session, and the verbs. It reads nothing until asked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from memopt.base.config import Config
from memopt.base.containers import StoredMapping, StoredSequence
from memopt.base.context_protocols import ContextMaker
from memopt.base.context_records import Context, Opened
from memopt.base.errors import BackpressureError, ConflictError, NotFoundError, UsageError
from memopt.base.protocols import CollectionMaker, TurnMaker
from memopt.base.records import (
    SEQ_BITS,
    Entry,
    Message,
    Receipt,
    State,
    StateVersion,
    to_datetime,
    to_us,
)
from memopt.codecs.message import encode_json, encode_message
from memopt.pressure.admission import Admission
from memopt.sessions.branches import Branches
from memopt.sessions.names import SessionKey, check_count, check_name
from memopt.sessions.reading import NOW, SEQ_STOP, Bound, LineReader, Note
from memopt.sessions.states import States
from memopt.sessions.transcripts import Said, Transcripts
from memopt.sessions.turns import Turn, check_turn, reading, wrote
from memopt.sessions.writer import MessageWriter

_ATTEMPTS_MAX: Final = 64


class Sessions(NamedTuple):
    """What handles work on: shared by all of a store."""

    config: Config
    message_bytes_max: int
    """The config's, or a quarter of the budget: what is stored must be possible to read, and a
    message is there four times for a moment, as it is sealed or decoded."""
    transcripts: Transcripts
    branches: Branches
    reader: LineReader
    states: States
    collections: CollectionMaker
    turns: TurnMaker
    admission: Admission
    contexts: ContextMaker


class Session:
    """One conversation, named by scope and id. Thread-safe; cheap to make and to throw away.

    A session is made by the first thing that is written to it. Reading one that is not there finds
    no messages.
    """

    __slots__ = ("_agent", "_key", "_sessions")

    def __init__(self, sessions: Sessions, key: SessionKey, agent: str | None) -> None:
        self._sessions = sessions
        self._key = key
        self._agent = agent

    @property
    def scope(self) -> str:
        return self._key.scope

    @property
    def id(self) -> str:
        return self._key.id

    def __repr__(self) -> str:
        return f"Session({self.id!r}, scope={self.scope!r})"

    # -- writing ----------------------------------------------------------------------------------

    def append(
        self, message: Mapping[str, Any] | Any, *, at: datetime | None = None,
        actor: str | None = None, key: str | None = None,
    ) -> Receipt:  # fmt: skip
        """Add a message: a JSON object (a dict), or a pydantic model.

        `at` is when it was said (an aware datetime; the time of the commit by default), `actor` who
        said it, `key` an idempotency key: a second append with the same one writes nothing and
        gets the first one's receipt. Raises UsageError naming the field that is not exact JSON,
        BackpressureError, DiskFullError, QuotaError.
        """
        config = self._sessions.config
        body = encode_message(
            message, bytes_max=self._sessions.message_bytes_max,
            depth_max=config.message_depth_max, field="message",
        )  # fmt: skip
        said = Said((body,), (_said_us(at),), _actor(actor), None, _idempotency_key(key))
        receipt = self._sessions.transcripts.append(self._key, self._agent, said)
        if self._sessions.admission.open_turns:
            wrote(self._sessions.admission, self._key, len(body))
        return receipt

    def extend(
        self, messages: Iterable[Mapping[str, Any] | Any], *, if_head: int | None = None,
        key: str | None = None, at: datetime | Sequence[datetime | None] | None = None,
        actor: str | None = None,
    ) -> Receipt:  # fmt: skip
        """Add messages in one commit: all of them or none. `at` is when they were said: one time,
        or one for each. Raises ConflictError unless `if_head` is the session's head (0: it is not
        there yet)."""
        config, bytes_max = self._sessions.config, self._sessions.message_bytes_max
        if isinstance(messages, Mapping | str | bytes) or not isinstance(messages, Iterable):
            raise UsageError(f"expected messages, got {type(messages).__name__}", field="messages")
        if if_head is not None:
            check_count(if_head, field="if_head")
        bodies = [
            encode_message(
                message, bytes_max=bytes_max, depth_max=config.message_depth_max,
                field=f"messages[{index}]",
            )
            for index, message in enumerate(messages)
        ]  # fmt: skip
        if not bodies:
            raise UsageError("expected at least one message", field="messages")
        size = sum(map(len, bodies))
        if size > bytes_max:
            raise UsageError(
                f"{size} bytes encoded, at most {bytes_max} in one call", field="messages"
            )
        times = _said_times(at, len(bodies))
        said = Said(bodies, times, _actor(actor), if_head, _idempotency_key(key))
        receipt = self._sessions.transcripts.append(self._key, self._agent, said)
        if self._sessions.admission.open_turns:
            wrote(self._sessions.admission, self._key, size)
        return receipt

    def writer(self, message: Mapping[str, Any], *, key: str | None = None) -> MessageWriter:
        """A message that arrives in pieces: `write` adds to its content, `commit` appends it."""
        if not isinstance(message, Mapping):
            raise UsageError(f"expected a dict, got {type(message).__name__}", field="message")

        def append(
            messages: list[Mapping[str, Any]], if_head: int | None, later: str | None
        ) -> Receipt:
            chosen = key if later is None else later
            if len(messages) == 1 and if_head is None:
                return self.append(messages[0], key=chosen)
            return self.extend(messages, if_head=if_head, key=chosen)

        return MessageWriter(
            dict(message),
            append,
            bytes_max=self._sessions.message_bytes_max,
            spool_bytes=self._sessions.config.spool_bytes,
        )

    # -- reading ----------------------------------------------------------------------------------

    def messages(self, start: int = 0, stop: int | None = None) -> Iterator[Message]:
        """Messages [start, stop), fresh on every read: the caller may change them. Lazy. What is
        appended while it is read is not part of it."""
        sessions = self._sessions
        note = reading(sessions.admission, self._key) if sessions.admission.open_turns else None
        return sessions.reader.messages(*self._key, *_range(start, stop), NOW, note)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """The same with seq, LSN, times and actor."""
        sessions = self._sessions
        note = reading(sessions.admission, self._key) if sessions.admission.open_turns else None
        return _entries(sessions, self._key, start, stop, NOW, note)

    def __len__(self) -> int:
        return self._sessions.reader.length(*self._key)[1]

    # A session without messages is still a session: `if session:` must not depend on its length.
    def __bool__(self) -> bool:
        return True

    @property
    def head(self) -> int:
        """Opaque; changes whenever the current line does. 0 when the session is not there."""
        line, length = self._sessions.reader.length(*self._key)
        return line.line << SEQ_BITS | length if line is not None else 0

    # -- what a model sees ------------------------------------------------------------------------

    def context(
        self, *, max_tokens: int, model: str | None = None, tools: Sequence[Mapping[str, Any]] = (),
        reserve_tokens: int = 0, query: str | None = None, token_ids: bool = False,
    ) -> Context:  # fmt: skip
        """What to send to a model: messages of at most `max_tokens` - `reserve_tokens` tokens,
        those of the schemas in `tools` included, and a report.

        In this order: system messages, pins, a summary of what was left out, history, what was
        recalled for `query` (by default the newest user message), the newest user message, and its
        calls and results. Long outputs of tools are shortened; `open_output` has the whole. The
        tokenizer is that of `model`, where it is known; else counts are estimates, and the report
        says so. `token_ids` has each message's, too. Raises ContextOverflowError where pins and the
        newest exchange do not fit, and UsageError that names the argument.
        """
        return self._sessions.contexts.context(
            *self._key, max_tokens=max_tokens, model=model, tools=tools,
            reserve_tokens=reserve_tokens, query=query, token_ids=token_ids,
        )  # fmt: skip

    def open_output(self, handle: str, start: int = 0, stop: int | None = None) -> Opened:
        """Characters [start, stop) of what a context shortened or left out, by its handle. Raises
        NotFoundError where there is no such message."""
        return self._sessions.contexts.open_output(*self._key, handle, start, stop)

    def pin(self, seq: int, *, until: datetime | None = None) -> Receipt:
        """No context leaves message `seq` out, nor what it belongs to, on whatever branch it is;
        for ever, or until a time."""
        return self._sessions.contexts.pin(*self._key, seq, until)

    def unpin(self, seq: int) -> Receipt:
        return self._sessions.contexts.unpin(*self._key, seq)

    def pins(self) -> tuple[int, ...]:
        """The numbers of the messages that are pinned, in order."""
        return self._sessions.contexts.pins(*self._key)

    # -- collections ------------------------------------------------------------------------------

    def mapping(self, name: str) -> StoredMapping:
        """A dict of this session, by name, which spills instead of growing. Reads and writes
        nothing; it goes with the session, and a fork does not copy it."""
        return self._sessions.collections.mapping(name, *self._key, self._agent)

    def sequence(self, name: str) -> StoredSequence:
        """The same as a list."""
        return self._sessions.collections.sequence(name, *self._key, self._agent)

    # -- turns ------------------------------------------------------------------------------------

    def turn(self, *, expected_bytes: int | None = None, wait_seconds: float | None = None) -> Turn:
        """One exchange of an agent, for a `with` block: entering it reserves the memory it is
        expected to need at most, by default what turns of the session's agent type needed so far,
        and waits for that, by default up to `turn_wait_seconds`, with others in a fair order.
        Entering raises BackpressureError when it has to wait too long, when too many wait, or when
        memory is critically short; `retry_after_seconds` says when to come again."""
        sessions, asked = self._sessions, check_turn(expected_bytes, wait_seconds)
        return Turn(sessions.admission, self, self._agent, *asked)

    # -- branches ---------------------------------------------------------------------------------

    def truncate(self, at: int, *, if_head: int | None = None) -> Receipt:
        """Keep messages [0, at). What is cut off stays in the journal."""
        if if_head is not None:
            check_count(if_head, field="if_head")
        return self._sessions.branches.truncate(self._key, check_count(at, field="at"), if_head)

    def pop(self) -> Message:
        """Take the last message off the session and return it. Raises NotFoundError when empty."""
        for _ in range(_ATTEMPTS_MAX):
            line, length = self._sessions.reader.length(*self._key)
            if line is None or not length:
                raise NotFoundError(f"session {self.id!r} of scope {self.scope!r} has no message")
            last = list(self.messages(length - 1, length))
            head = line.line << SEQ_BITS | length
            try:
                self._sessions.branches.truncate(self._key, length - 1, head)
            except ConflictError:
                continue
            return last[0]
        raise BackpressureError("others keep writing to the session", limit="pop attempts")

    def redact(self, seq: int) -> Receipt:
        """Take a message's content away, on every branch and for good. Its place stays."""
        return self._sessions.branches.redact(self._key, check_count(seq, field="seq"))

    def fork(self, id: str, *, at: int | None = None) -> "Session":
        """A new session of the same scope that shares messages [0, at) with this one. Raises
        ConflictError when `id` is taken."""
        key = SessionKey(self.scope, check_name(id, field="id"))
        self._sessions.branches.fork(
            self._key, key, None if at is None else check_count(at, field="at")
        )
        return Session(self._sessions, key, self._agent)

    def delete(self) -> None:
        """Take the session away: hidden at once, erased by compact()."""
        number = self._sessions.branches.delete(self._key)
        self._sessions.states.forget(number)

    # -- state ------------------------------------------------------------------------------------

    def save_state(
        self, value: Any, *, name: str = "main", if_version: int | None = None
    ) -> StateVersion:
        """A new version of a state: any exact JSON value. Raises ConflictError unless `if_version`
        is the latest version (0: there is none yet)."""
        config = self._sessions.config
        raw = encode_json(
            value, bytes_max=config.state_bytes_max, depth_max=config.message_depth_max,
            field="value",
        )  # fmt: skip
        name = check_name(name, field="name")
        if if_version is not None:
            check_count(if_version, field="if_version")
        return self._sessions.states.save(self._key, self._agent, name, raw, if_version)

    def load_state(self, *, name: str = "main", version: int | None = None) -> State | None:
        """The latest version, or `version`. None when nothing was ever saved."""
        return self._sessions.states.load(self._key, check_name(name, field="name"), version)

    def states(self, name: str | None = None) -> list[StateVersion]:
        """Versions by name, oldest first."""
        return self._sessions.states.versions(self._key, name)


def has_repeated(session: Session, key: str) -> bool:
    """Whether something was added with that idempotency key."""
    return session._sessions.transcripts.has_repeated(session._key, key)


def scope_number_of(session: Session) -> int | None:
    """What its scope is called in ids of items; None where nothing is in it."""
    return session._sessions.transcripts.scope_number_of(session.scope)


def return_to(session: Session, head: int, *, if_head: int) -> Receipt:
    """Undo what was cut off and added since the session had that head, if its head is `if_head`.
    Raises ConflictError, and NotFoundError where it never had it."""
    return session._sessions.branches.return_to(session._key, head, if_head)


def context_at(session: Session, head: int | None, **how: Any) -> Context:
    """What `Session.context` makes, of the session as it was when it had that head, if one is said.
    Raises NotFoundError where it never had it."""
    return session._sessions.contexts.context(*session._key, head=head, **how)


def open_output_at(
    session: Session, head: int | None, handle: str, start: int, stop: int | None
) -> Opened:
    """What `Session.open_output` opens, of the same."""
    return session._sessions.contexts.open_output(*session._key, handle, start, stop, head=head)


class SessionView:
    """A session as it was: read-only, over the same code."""

    __slots__ = ("_bound", "_key", "_sessions")

    def __init__(self, sessions: Sessions, key: SessionKey, bound: Bound) -> None:
        self._sessions = sessions
        self._key = key
        self._bound = bound

    @property
    def scope(self) -> str:
        return self._key.scope

    @property
    def id(self) -> str:
        return self._key.id

    def messages(self, start: int = 0, stop: int | None = None) -> Iterator[Message]:
        """As of then. Raises NotFoundError when the session was not there yet."""
        return self._sessions.reader.messages(*self._key, *_range(start, stop), self._bound)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        return _entries(self._sessions, self._key, start, stop, self._bound)

    def __len__(self) -> int:
        return self._sessions.reader.length(*self._key, self._bound)[1]

    def __bool__(self) -> bool:
        return True

    def load_state(self, *, name: str = "main", version: int | None = None) -> State | None:
        name = check_name(name, field="name")
        return self._sessions.states.load(self._key, name, version, self._bound)

    def states(self, name: str | None = None) -> list[StateVersion]:
        return self._sessions.states.versions(self._key, name, self._bound)


def _entries(
    sessions: Sessions, key: SessionKey, start: int, stop: int | None, bound: Bound,
    note: Note | None = None,
) -> Iterator[Entry]:  # fmt: skip
    for seq, record, message in sessions.reader.reads(*key, *_range(start, stop), bound, note):
        committed_at = to_datetime(record.committed_us)
        yield Entry(
            seq=seq, lsn=record.lsn,
            at=committed_at if record.said_us is None else to_datetime(record.said_us),
            committed_at=committed_at, actor=record.actor, message=message,
        )  # fmt: skip


def _range(start: int, stop: int | None) -> tuple[int, int]:
    first = check_count(start, field="start")
    return first, SEQ_STOP if stop is None else check_count(stop, field="stop")


def _said_us(at: datetime | None) -> int | None:
    if at is None:
        return None
    if not isinstance(at, datetime) or at.tzinfo is None or at.utcoffset() is None:
        raise UsageError(f"expected an aware datetime, got {at!r}", field="at")
    return to_us(at)


def _said_times(at: datetime | Sequence[datetime | None] | None, count: int) -> list[int | None]:
    if at is None or isinstance(at, datetime):
        return [_said_us(at)] * count
    if not isinstance(at, Sequence) or isinstance(at, str | bytes):
        raise UsageError(f"expected a datetime, or one for each message, got {at!r}", field="at")
    if len(at) != count:
        raise UsageError(f"{len(at)} times for {count} messages", field="at")
    return [_said_us(one) for one in at]


def _actor(actor: str | None) -> str | None:
    return None if actor is None else check_name(actor, field="actor")


def _idempotency_key(key: str | None) -> str | None:
    return None if key is None else check_name(key, field="key")
