"""Keeping what was said: a request and its reply, in one commit, in the session they belong to.

The request is the history: what the session has already is not stored again, what differs moves the
head of a named session, and forks one that was only found by its messages, whoever wrote to it
since. A reply is behind the
request it answers, and provisional: the next request either contains it, and it stays, or does not,
and it is left on a branch of its own. Of several replies none joins until a request contains one;
till then they are in the session's sequence `choices`.

Owns: that. Invariant: nothing is written before the upstream has answered, and nothing is
acknowledged to a client before it is committed. Called on the store's threads. Not here: which
session it is (matching.py).
"""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from memopt import Memory, Receipt, Session
from memopt.base.errors import ConflictError, NotFoundError, UsageError
from memopt.base.records import SEQ_BITS
from memopt.recall.places import Place as MessagePlace
from memopt.recall.places import id_of
from memopt.server.asked import Asked, History
from memopt.server.canonical import START, chained, common_length, digest_of
from memopt.server.lines import Line, Lines, SessionKey, auto_id
from memopt.sessions.session import has_repeated, return_to, scope_number_of
from memopt.sessions.writer import MessageWriter, redirect

CHOICES: Final = "choices"
"""The sequence of a session in which replies wait until one of them is chosen."""
PROMPT: Final = "prompt"
"""The state of a session that holds its system prompts and tools, in versions."""
PARTIAL: Final = "partial"
"""The field of a message that ended before its end."""
_ATTEMPTS_MAX: Final = 16
_BEGUN_MAX: Final = 64
"""Tries of a request with one idempotency key that are told apart."""
_KEY_BYTES: Final = 16

Message = dict[str, Any]


class Place(msgspec.Struct):
    """Where a request and its reply go. It becomes a fork where others went on meanwhile."""

    key: SessionKey
    fork_of: str | None = None
    """The session to begin with, whose line goes on differently; `key` is new then."""
    agent: str | None = None
    fork_at: int | None = None
    """How much of `fork_of`, or of the session, is in front of it; None: what the request has in
    common with it."""

    def turn_off(self, asked: Asked) -> None:
        """Go on in a fork."""
        self.fork_of = self.key.id
        self.key = SessionKey(self.key.scope, auto_id(asked.previous, asked.chain))


class Begun(NamedTuple):
    """A request was committed before its reply."""

    before: int
    """The head of the session's line before it; 0: there was no session."""
    head: int


class Reply(msgspec.Struct):
    """What is to be kept of what the upstream said."""

    messages: list[Message] = []
    """That join the line."""
    before: list[Message] = []
    """Of the reply too, in front of the one in `writer`."""
    candidates: list[Message] = []
    """Of which one may, later."""
    writer: MessageWriter | None = None
    """Holds the text of a message that was streamed, whose other fields are..."""
    fields: Message = {}
    text_digest: bytes | None = None
    begun_as: str | None = None
    """Nothing is said yet: the request goes before it, with a key that nobody has."""

    @property
    def is_partial(self) -> bool:
        return any(each.get(PARTIAL) for each in (self.fields, *self.messages, *self.candidates))


class Keeper:
    """Thread-safe."""

    def __init__(self, memory: Memory, lines: Lines) -> None:
        self._memory = memory
        self._lines = lines

    def session(self, place: Place) -> Session:
        return self._memory.session(place.key.id, scope=place.key.scope, agent=place.agent)

    def has_repeated(self, place: Place, key: str) -> bool:
        """Whether a request with that idempotency key was answered, and kept with its answer."""
        return has_repeated(self.session(place), key)

    def item_of(self, place: Place, receipt: Receipt) -> str | None:
        """What the last message that was kept is called as an item."""
        number = scope_number_of(self.session(place))
        if number is None or receipt.seq < 0:
            return None
        return id_of(number, MessagePlace(receipt.head >> SEQ_BITS, receipt.seq))

    def keep(self, asked: Asked, place: Place, reply: Reply, key: str | None = None) -> Receipt:
        """Commit a request and its reply; `key` is an idempotency key. Raises what appending
        raises, and ConflictError where others keep writing to the session."""
        return self._kept(asked, place, reply, key)[1]

    def _kept(
        self, asked: Asked, place: Place, reply: Reply, key: str | None
    ) -> tuple[int, Receipt]:
        """With the head that the session had before."""
        for _ in range(_ATTEMPTS_MAX):
            session = self.session(place)
            with contextlib.suppress(ConflictError):
                before = self._lines.get(place.key, session).head
                line = self._begin(asked, place, session)
                known = _known(asked, place, line)
                if asked.session is not None or known == len(line.chain):
                    return before, self._keep(asked, place, session, line, known, reply, key)
                # Nobody named the session: what is there is not this client's to cut.
                place.turn_off(asked)
                if reply.writer is not None:
                    redirect(reply.writer, self.session(place).writer({}))
                continue
            self._lines.drop(place.key)
        raise ConflictError(
            "others keep writing to the session", expected="its head", actual="others"
        )

    def _keep(
        self, asked: Asked, place: Place, session: Session, line: Line, known: int, reply: Reply,
        key: str | None,
    ) -> Receipt:  # fmt: skip
        if known < len(line.chain):
            receipt = session.truncate(known, if_head=line.head)
            line = Line(receipt.head, line.chain[:known])
        if asked.history is History.DELTA:
            known = 0
        new = asked.new(known)
        if new and new[0].get("role") == "assistant":
            _drop_choices(session, known - 1)
        receipt = self._append(session, new, reply, line, key) or Receipt(
            lsn=0, seq=len(line.chain) - 1, head=line.head
        )
        if reply.candidates:
            entry = {"after": receipt.seq, "messages": reply.candidates}
            session.sequence(CHOICES).append(entry)
        if key is not None:
            # The receipt may be that of an earlier call: what the line is now, the store knows.
            self._lines.drop(place.key)
        else:
            self._note(asked, place, line, known, new, reply, receipt)
        return receipt

    def _begin(self, asked: Asked, place: Place, session: Session) -> Line:
        line = self._lines.get(place.key, session)
        if place.fork_of is None or line.head:
            return line
        base = self._memory.session(place.fork_of, scope=place.key.scope)
        base_key = SessionKey(place.key.scope, place.fork_of)
        base_line = self._lines.get(base_key, base)
        if base.head != base_line.head:
            self._lines.drop(base_key)
            base_line = self._lines.get(base_key, base)
        shared = place.fork_at
        if shared is None:
            shared = common_length(asked.chain, base_line.chain)
        try:
            base.fork(place.key.id, at=shared)
        except (NotFoundError, UsageError):
            # It was deleted or cut meanwhile: then this one begins by itself.
            self._lines.drop(base_key)
            return line
        line = Line(session.head, base_line.chain[:shared])
        self._lines.put(place.key, line)
        return line

    def _append(
        self, session: Session, new: Sequence[Message], reply: Reply, line: Line, key: str | None
    ) -> Receipt | None:
        if_head = None if key is not None else line.head
        if reply.writer is not None:
            before = [*new, *reply.before]
            return reply.writer.commit(fields=reply.fields, before=before, if_head=if_head, key=key)
        if reply.begun_as is not None:
            return session.extend(new, if_head=line.head, key=reply.begun_as)
        messages = [*new, *reply.messages]
        return session.extend(messages, if_head=if_head, key=key) if messages else None

    def _note(
        self, asked: Asked, place: Place, line: Line, known: int, new: Sequence[Message],
        reply: Reply, receipt: Receipt,
    ) -> None:  # fmt: skip
        chain = list(line.chain)
        if asked.history is History.FULL:
            chain += asked.chain[known:]
        else:
            chain += _chain_behind(chain, new)
        last = chain[-1] if chain else START
        if reply.writer is not None:
            said = _chain_behind(chain, reply.before)
            last = said[-1] if said else last
            said.append(chained(last, digest_of(reply.fields, reply.text_digest)))
        else:
            said = _chain_behind(chain, reply.messages)
        self._lines.put(place.key, Line(receipt.head, (*chain, *said)))
        if asked.session is None:
            for end in (*chain[-1:], *said[-1:]):
                self._lines.note_end(place.key, end)

    # -- requests before their replies ------------------------------------------------------------

    def begin(self, asked: Asked, place: Place) -> Begun:
        """Commit what is new in a request. Raises what `keep` raises. With an idempotency key, what
        an earlier try has left that the server did not live to answer is gone on with."""
        begun_as = None
        if asked.key is not None and asked.raws:
            for attempt in range(_BEGUN_MAX):
                begun_as = _begun_key(asked.key, attempt)
                if not self.has_repeated(place, begun_as):
                    break
                begun = self._left(asked, place, begun_as)
                if begun is not None:
                    return begun
            else:
                begun_as = None
        before, receipt = self._kept(asked, place, Reply(begun_as=begun_as), None)
        return Begun(before, receipt.head)

    def _left(self, asked: Asked, place: Place, begun_as: str) -> Begun | None:
        """What was begun as that, where it is the same and was not taken back."""
        session = self.session(place)
        # It was written, so nothing is: this asks where it is.
        receipt = session.extend(asked.new(0), key=begun_as)
        start, stop = receipt.seq + 1 - len(asked.raws), receipt.seq + 1
        found = list(session.entries(start, stop)) if start >= 0 else []
        if not found or found[-1].lsn != receipt.lsn:
            return None
        if _chain_behind((), [entry.message for entry in found]) != asked.chain:
            return None
        self._lines.drop(place.key)
        return Begun(receipt.head - len(found), receipt.head)

    def undo(self, place: Place, begun: Begun) -> None:
        """Take back what was begun, where nobody has gone on with it."""
        session = self.session(place)
        self._lines.drop(place.key)
        with contextlib.suppress(ConflictError, NotFoundError):
            if begun.before:
                # Not by cutting: what differed from the line took its place.
                if begun.before != begun.head:
                    return_to(session, begun.before, if_head=begun.head)
            elif session.head == begun.head:
                session.delete()

    def withdraw(self, asked: Asked, place: Place) -> Begun | None:
        """Take away the same request with a reply that was cut short, where the session ends so:
        it is tried again. What it was before and is now; None where it stays."""
        session = self.session(place)
        head, length = session.head, len(session) - len(asked.raws) - 1
        if not head or not asked.raws or length < 0:
            return None
        *said, reply = session.messages(length)
        if not reply.get(PARTIAL) or _chain_behind((), said) != asked.chain:
            return None
        self._lines.drop(place.key)
        return Begun(head, session.truncate(length, if_head=head).head)

    # -- prompts ----------------------------------------------------------------------------------

    def keep_prompt(self, asked: Asked, place: Place) -> None:
        """Keep system prompts and tools with the session, where they differ from the last ones."""
        session, value = self.session(place), asked.prompt()
        state = session.load_state(name=PROMPT)
        if state is None or state.value != value:
            session.save_state(value, name=PROMPT)
        self._lines.note_prompt(place.key, asked.prompt_digest)

    def prompt_of(self, place: Place) -> Message:
        """The newest ones that were kept."""
        state = self.session(place).load_state(name=PROMPT)
        return state.value if state is not None and isinstance(state.value, dict) else {}


def _begun_key(key: str, attempt: int) -> str:
    """Of a request before its reply, for one with that key: it is no client's."""
    digest = hashlib.blake2b(key.encode(), digest_size=_KEY_BYTES).hexdigest()
    return f"begun {digest} {attempt}"


def _known(asked: Asked, place: Place, line: Line) -> int:
    """How much of a line is in front of what is new."""
    if asked.history is History.FULL:
        return common_length(asked.chain, line.chain)
    length = len(line.chain)
    return length if place.fork_at is None else min(length, place.fork_at)


def _drop_choices(session: Session, after: int) -> None:
    """One of them joins the line: the others wait no longer, and it is in one place alone."""
    waiting = session.sequence(CHOICES)
    for index in reversed(range(len(waiting))):
        if waiting[index].get("after") == after:
            del waiting[index]


def _chain_behind(chain: Sequence[bytes], messages: Sequence[Message]) -> list[bytes]:
    last = chain[-1] if chain else START
    behind = []
    for message in messages:
        last = chained(last, digest_of(message))
        behind.append(last)
    return behind
