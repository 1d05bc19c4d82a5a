"""A request as the server needs to know it: read once, and left as it came.

Messages stay the bytes they were; only those that are new are decoded, when they are stored.
Owns: whose session a request says it is, and what of it is history. Not here: which session it is
when it does not say (matching.py).
"""

import enum
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError
from memopt.base.names import check_name
from memopt.server.canonical import DIGEST_BYTES, OUTSIDE, START, Digests, chained

SESSION_HEADER: Final = "x-memopt-session"
HISTORY_HEADER: Final = "x-memopt-history"
_ATTRIBUTES: Final = ("tools", "functions", "instructions")
"""What is kept with a session beside its messages, in versions."""
_decode: Final = msgspec.json.Decoder().decode


class History(enum.StrEnum):
    """What the messages of a request are."""

    FULL = "full"
    """The whole history: what differs from what is known forks, what repeats is known."""
    DELTA = "delta"
    """What is new; the server puts what it knows before it."""


class Form(enum.StrEnum):
    """How a request says what it says. There is no translation between the two."""

    CHAT = "chat"
    RESPONSES = "responses"


class _Body(msgspec.Struct):
    """Whatever is read of a body; nothing else is looked at."""

    messages: Any = None
    input: Any = None
    stream: Any = None
    n: Any = None
    metadata: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    background: Any = None
    stream_options: Any = None
    model: Any = None
    tools: msgspec.Raw = msgspec.Raw(b"")
    functions: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")


class _ChatBody(_Body):
    messages: list[msgspec.Raw] = []


class _ItemsBody(_Body):
    input: list[msgspec.Raw] = []


_read_chat: Final = msgspec.json.Decoder(_ChatBody).decode
_read_items: Final = msgspec.json.Decoder(_ItemsBody).decode
_read_any: Final = msgspec.json.Decoder(_Body).decode


class Asked(msgspec.Struct):
    """A request that was read."""

    form: Form
    body: bytes
    history: History
    session: str | None
    """As the request names it; None where it does not."""
    previous: str | None
    """The response it goes on with."""
    conversation: Any
    """That the upstream has, as it is named."""
    is_upstreams: bool
    """Whether the upstream has the history."""
    raws: list[msgspec.Raw]
    """The messages that are history, as they came..."""
    chain: list[bytes]
    """... and the digest of the history up to each."""
    prompts: list[tuple[int, msgspec.Raw]]
    """The others, with the number of messages before each."""
    attributes: dict[str, msgspec.Raw]
    prompt_digest: bytes
    """Of prompts and attributes."""
    is_stream: bool
    choices: int
    """Answers that are asked for."""
    wants_usage: bool
    model: str | None
    key: str | None = None
    """An idempotency key that matters to the store."""
    is_background: bool = False
    """Whether the response is made later, and fetched."""

    def new(self, known: int) -> list[dict[str, Any]]:
        """The messages behind the first `known` ones, decoded."""
        return [_decode(raw) for raw in self.raws[known:]]

    def prompt(self) -> dict[str, Any]:
        """The prompts and attributes as a value to be stored."""
        value: dict[str, Any] = {name: _decode(raw) for name, raw in self.attributes.items()}
        value["prompts"] = [[place, _decode(raw)] for place, raw in self.prompts]
        return value


NOTHING: Final = Asked(
    form=Form.RESPONSES, body=b"", history=History.DELTA, session=None, previous=None,
    conversation=None, is_upstreams=True, raws=[], chain=[], prompts=[], attributes={},
    prompt_digest=b"", is_stream=False, choices=1, wants_usage=False, model=None,
)  # fmt: skip
"""A request without anything new, for what is said without one."""


def read_chat(body: bytes, headers: Mapping[str, str], digests: Digests) -> Asked:
    """A Chat Completions request. Raises UsageError naming what is wrong."""
    read = _read(_read_chat, body, "messages")
    if not read.messages:
        raise UsageError("expected at least one message", field="messages")
    return _asked(Form.CHAT, body, read, read.messages, "messages", headers, digests)


def read_responses(body: bytes, headers: Mapping[str, str], digests: Digests) -> Asked:
    """A Responses request."""
    read = _read(_read_any, body, "input")
    if isinstance(read.input, list):
        read = _read(_read_items, body, "input")
        items = read.input
    elif isinstance(read.input, str):
        message = {"role": "user", "content": read.input}
        items = [msgspec.Raw(msgspec.json.encode(message))]
    elif read.input is None:
        items = []
    else:
        raise UsageError("expected text or a list of items", field="input")
    return _asked(Form.RESPONSES, body, read, items, "input", headers, digests)


def _read(decode: Any, body: bytes, field: str) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"no JSON: {error}", field="body") from None


def _asked(
    form: Form, body: bytes, read: Any, messages: Sequence[msgspec.Raw], field: str,
    headers: Mapping[str, str], digests: Digests,
) -> Asked:  # fmt: skip
    raws: list[msgspec.Raw] = []
    chain: list[bytes] = []
    prompts: list[tuple[int, msgspec.Raw]] = []
    last = START
    about_prompt = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for index, raw in enumerate(messages):
        digest = digests.of(memoryview(raw), f"{field}[{index}]")
        if digest == OUTSIDE:
            prompts.append((len(raws), raw))
            about_prompt.update(b"%d:%d:" % (len(raws), len(memoryview(raw))))
            about_prompt.update(memoryview(raw))
        else:
            raws.append(raw)
            last = chained(last, digest)
            chain.append(last)
    attributes = {}
    for name in _ATTRIBUTES:
        value = getattr(read, name)
        if bytes(value) not in (b"", b"null"):
            digests.check(memoryview(value), name)
            attributes[name] = value
            about_prompt.update(b"%s:%d:" % (name.encode(), len(memoryview(value))))
            about_prompt.update(memoryview(value))
    named = _session_of(read, headers)
    previous = read.previous_response_id
    is_upstreams = form is Form.RESPONSES and bool(previous or read.conversation)
    return Asked(
        form=form, body=body, session=named,
        history=History.DELTA if is_upstreams else _history_of(headers),
        is_upstreams=is_upstreams,
        previous=_name(previous, "previous_response_id"), raws=raws, chain=chain, prompts=prompts,
        attributes=attributes, prompt_digest=about_prompt.digest(), is_stream=read.stream is True,
        choices=_choices_of(read.n), wants_usage=_wants_usage(read.stream_options),
        model=read.model if isinstance(read.model, str) else None,
        is_background=read.background is True, conversation=_conversation_of(read),
    )  # fmt: skip


def _session_of(read: Any, headers: Mapping[str, str]) -> str | None:
    """The header, then the metadata, then the conversation."""
    named = headers.get(SESSION_HEADER)
    if named:
        return check_name(named, field="X-Memopt-Session")
    if isinstance(read.metadata, dict) and read.metadata.get("session_id"):
        return _name(read.metadata["session_id"], "metadata.session_id")
    conversation = _conversation_of(read)
    return _name(conversation, "conversation") if conversation else None


def _conversation_of(read: Any) -> Any:
    said = read.conversation
    return said.get("id") if isinstance(said, dict) else said


def _name(value: Any, field: str) -> str | None:
    return None if value is None else check_name(value, field=field)


def _history_of(headers: Mapping[str, str]) -> History:
    said = headers.get(HISTORY_HEADER, "").strip().lower() or History.FULL
    try:
        return History(said)
    except ValueError:
        raise UsageError(
            f"expected full or delta, got {said!r}", field="X-Memopt-History"
        ) from None


def _choices_of(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def _wants_usage(options: Any) -> bool:
    return isinstance(options, dict) and options.get("include_usage") is True
