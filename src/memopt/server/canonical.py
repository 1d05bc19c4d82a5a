"""What makes two messages the same one, and two histories the same up to a point.

Clients send a conversation back in other words than they got it in: nulls come and go, text stands
alone or in parts, arguments are written with other spaces, cache marks move along. So messages are
compared by a form without all that, and histories by a chain of digests: equal digests at a place
mean that everything up to it is the same. System and developer messages are outside: prompts
contain clocks.

Owns: that form. Invariant: it depends on nothing but the message. Not here: what is looked up by it
(matching.py).
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from memopt.base.budget import Budget
from memopt.base.errors import UsageError
from memopt.server.remembered import Remembered

DIGEST_BYTES: Final = 16
START: Final = bytes(DIGEST_BYTES)
"""The digest of a history without messages."""
OUTSIDE: Final = b""
"""Instead of a digest: the message is no part of the history."""

_OUTSIDE_ROLES: Final = frozenset({"system", "developer"})
_KNOWN_MAX: Final = 16_384
"""Messages whose digests are remembered, by their bytes: two digests each..."""
_KNOWN_BYTES: Final = 400
"""... that take so much; measured in the tests."""
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
_MARKS: Final = frozenset({"cache_control", "id", "status", "annotations", "logprobs"})
"""Fields of parts and items that differ between what was received and what is sent back."""

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder().decode


def form_of(message: dict[str, Any], text_digest: bytes | None = None) -> Any:
    """What two messages have in common that are the same. `text_digest`: of a text that the message
    has instead of its content."""
    role, kind = message.get("role"), message.get("type")
    if role is None and kind is not None and kind != "message":
        return _item_form(kind, message)
    calls = message.get("tool_calls")
    form = [
        role,
        text_digest or _content_form(message.get("content")),
        [_call_form(call) for call in calls] if isinstance(calls, list) and calls else None,
        message.get("tool_call_id"),
        message.get("name"),
    ]
    for name in ("refusal", "function_call"):
        value = message.get(name)
        if value:
            form.append(_function_form(value) if name == "function_call" else value)
    return form


def is_outside(message: dict[str, Any]) -> bool:
    """Whether it is a prompt rather than a turn."""
    return message.get("role") in _OUTSIDE_ROLES


def digest_of(message: dict[str, Any], text_digest: bytes | None = None) -> bytes:
    """Of the canonical form; OUTSIDE for prompts. Raises UsageError for what has none."""
    if is_outside(message):
        return OUTSIDE
    form = form_of(message, text_digest)
    try:
        encoded = _encode(form)
    except (OverflowError, RecursionError):
        # Arguments are text that is parsed here alone: they may hold what no message could.
        encoded = repr(form).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


class TextDigest:
    """Of a text that comes in pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._is_empty = True

    def add(self, text: str) -> int:
        """Take up a piece; how many bytes it has."""
        data = text.encode()
        if data:
            self._is_empty = False
            self._hash.update(data)
        return len(data)

    def digest(self) -> bytes | None:
        """None for no text, as for no content."""
        return None if self._is_empty else self._hash.digest()


def chained(before: bytes, digest: bytes) -> bytes:
    """The digest of a history and one more message."""
    return hashlib.blake2b(before + digest, digest_size=DIGEST_BYTES).digest()


def chain_of(digests: Sequence[bytes], before: bytes = START) -> list[bytes]:
    """The digest of every prefix."""
    chain: list[bytes] = []
    for digest in digests:
        before = chained(before, digest)
        chain.append(before)
    return chain


def common_length(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many messages two histories share, by their chains."""
    low, high = 0, min(len(one), len(other))
    if high and one[high - 1] == other[high - 1]:
        return high
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low


class Digests:
    """Digests of messages as they come over the wire. A client sends the same bytes at every turn,
    so those of all but the last are known. Those that are in use and were forgotten are back after
    one request: to know which they are costs more. Thread-safe."""

    def __init__(self, budget: Budget, *, bytes_max: int, depth_max: int) -> None:
        """The limits of a message, which is refused before anybody has paid for its reply."""
        self._bytes_max = bytes_max
        self._depth_max = depth_max
        self._known = Remembered[bytes, bytes](budget, entries_max=_KNOWN_MAX)
        self._checked = Remembered[bytes, bytes](budget, entries_max=_KNOWN_MAX)
        """Values that are no messages. Apart from those: of equal bytes, one may be both."""
        self.parts = (self._checked, self._known)
        """What is forgotten when the budget wants room, in order."""

    def of(self, raw: bytes | memoryview, field: str) -> bytes:
        """Raises UsageError naming `field` for what is no JSON object."""
        key = hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()
        known = self._known.get(key)
        if known is not None:
            return known
        message = self._read(raw, field)
        if type(message) is not dict:
            raise UsageError("expected a JSON object", field=field)
        digest = digest_of(message)
        self._known.put(key, digest, _KNOWN_BYTES)
        return digest

    def check(self, raw: bytes | memoryview, field: str) -> None:
        """Raises UsageError naming `field` for what could not be stored."""
        key = hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()
        if self._checked.get(key) is None:
            self._read(raw, field)
            self._checked.put(key, key, _KNOWN_BYTES)

    def _read(self, raw: bytes | memoryview, field: str) -> Any:
        try:
            value = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"no JSON: {error}", field=field) from None
        if _depth_of(value, self._depth_max) > self._depth_max:
            raise UsageError(f"nested deeper than {self._depth_max}", field=field)
        try:
            size = len(_encode(value))
        except OverflowError:
            raise UsageError("integers reach from -2**63 to 2**64-1", field=field) from None
        if size > self._bytes_max:
            raise UsageError(f"{size} bytes, at most {self._bytes_max}", field=field)
        return value


def _depth_of(value: Any, most: int) -> int:
    """How deep objects and lists are nested; it stops behind `most`."""
    if not isinstance(value, dict | list):
        return 0
    if most < 0:
        return 1
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth_of(item, most - 1) for item in inner), default=0)


def _content_form(content: Any) -> Any:
    if isinstance(content, str):
        return _text_form(content)
    if not isinstance(content, list):
        return content
    parts: list[Any] = []
    for part in content:
        text = _text_of(part)
        if text is None:
            parts.append(_without_marks(part))
        elif parts and isinstance(parts[-1], str):
            parts[-1] += text
        elif text:
            parts.append(text)
    forms = [_text_form(part) if isinstance(part, str) else part for part in parts]
    if not forms:
        return None
    return forms[0] if len(forms) == 1 and isinstance(forms[0], bytes) else forms


def _text_form(text: str) -> bytes | None:
    """By its digest, which is there for a streamed text as well."""
    if not text:
        return None
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None


def _call_form(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if isinstance(function, dict):
        return [call.get("id"), *_function_form(function)]
    return _without_marks(call) | {"id": call.get("id")}


def _function_form(function: Any) -> list[Any]:
    if not isinstance(function, dict):
        return [function]
    return [function.get("name"), _parsed(function.get("arguments"))]


def _parsed(arguments: Any) -> Any:
    """Arguments are JSON in a string, written by whoever wrote them."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return [_decode(arguments)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return arguments


def _item_form(kind: Any, item: dict[str, Any]) -> Any:
    form = _without_marks(item)
    if "arguments" in form:
        form["arguments"] = _parsed(form["arguments"])
    if "output" in form:
        form["output"] = _content_form(form["output"])
    return [kind, form]


def _without_marks(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if value is not None and name not in _MARKS}
