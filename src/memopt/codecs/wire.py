"""What travels over the owner's socket: frames, the values in them, and errors.

A frame is a four-byte length and so many bytes of msgpack. Plain values travel as themselves; what
msgpack has no word for (tuples, enums, datetimes with their offset, records of base/records.py and
base/recall_records.py) is an extension that names its type, so it comes out as what went in. Only
types listed here can be named: nothing that arrives chooses what code runs.

Invariant: a declared length is checked against a limit before anything is allocated for it.
Not here: who may ask for what (owner), and who asks (client).
"""

import enum
import socket
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base import (
    answer_records,
    context_records,
    document_records,
    errors,
    item_records,
    recall_records,
    records,
    stats_records,
)
from memopt.base.errors import MemoptError, StoreError, UsageError
from memopt.base.units import MIB

PROTOCOL: Final = 1
"""Both sides say theirs first; another number is refused."""
FRAME_EXTRA_BYTES: Final = 64 * MIB
"""What a frame may have beyond the longest message or state of the store."""

_LENGTH_BYTES: Final = 4
_CHUNK_BYTES: Final = 256 * 1024

_JSON: Final = 1
_TUPLE: Final = 2
_DATETIME: Final = 3
_ENUM: Final = 4
_RECORD: Final = 5

_JSON_FIELDS: Final = frozenset({"message", "value"})
"""Fields of records that hold what a user wrote: exact JSON already, so nothing looks into them."""


class Json(NamedTuple):
    """An exact JSON value that is encoded already; it arrives decoded."""

    body: bytes


class Channel:
    """One end of a connection: sends and receives whole frames. For one thread at a time."""

    def __init__(self, connection: socket.socket, frame_bytes_max: int) -> None:
        self.connection = connection
        self.frame_bytes_max = frame_bytes_max

    def send(self, value: Any) -> None:
        """Raises UsageError, before a byte was sent, for what cannot travel."""
        self.connection.sendall(frame(value, self.frame_bytes_max))

    def receive(self) -> Any:
        """Raises UsageError for what is not a frame, EOFError when the other side is done."""
        return decode(self.receive_bytes(self.receive_length()))

    def receive_length(self) -> int:
        """Raises EOFError when the other side is done, UsageError above the limit."""
        length = int.from_bytes(self.receive_bytes(_LENGTH_BYTES), "big")
        if length > self.frame_bytes_max:
            raise UsageError(f"a frame of {length} bytes, at most {self.frame_bytes_max}")
        return length

    def receive_bytes(self, count: int) -> bytearray:
        # Room is made as bytes arrive: a length alone allocates nothing.
        body = bytearray()
        while len(body) < count:
            chunk = self.connection.recv(min(count - len(body), _CHUNK_BYTES))
            if not chunk:
                raise EOFError("the other side closed the connection")
            body += chunk
        return body

    def skip(self, count: int) -> None:
        """Read so many bytes and keep none of them."""
        while count:
            chunk = self.connection.recv(min(count, _CHUNK_BYTES))
            if not chunk:
                raise EOFError("the other side closed the connection")
            count -= len(chunk)

    def close(self) -> None:
        self.connection.close()


def frame(value: Any, bytes_max: int) -> bytes:
    """Raises UsageError when the value is too long, or of a kind that does not travel."""
    body = encode(value)
    if len(body) > bytes_max:
        raise UsageError(
            f"{len(body)} bytes do not fit into one call or answer, at most {bytes_max} do: "
            "ask for less at a time"
        )
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


# -- values ---------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Raises UsageError for what cannot travel."""
    try:
        return _encode(_packed(value))
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise UsageError(f"this value cannot travel: {error}") from None


def decode(body: bytes | bytearray | memoryview) -> Any:
    """Raises UsageError for bytes that `encode` never made."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"not a frame of this protocol: {error}") from None


def _packed(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (str, int, float, bool, bytes):
        return value
    if kind is Json:
        return msgspec.msgpack.Ext(_JSON, value.body)
    if kind is list:
        return [_packed(item) for item in value]
    if kind is tuple:
        return _extension(_TUPLE, [_packed(item) for item in value])
    if isinstance(value, Mapping):
        return {_key(key): _packed(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return _extension(_DATETIME, value.isoformat())
    if isinstance(value, enum.Enum) and kind.__name__ in _ENUMS:
        return _extension(_ENUM, [kind.__name__, value.value])
    if kind.__name__ in _RECORDS:
        fields = {
            name: Json(_encode(item)) if name in _JSON_FIELDS else item
            for name in kind.__struct_fields__
            if (item := getattr(value, name)) is not None
        }
        return _extension(_RECORD, [kind.__name__, _packed(fields)])
    raise UsageError(f"a value of type {kind.__name__} cannot travel to the owner of the store")


def _key(key: Any) -> str:
    if type(key) is not str:
        raise UsageError(f"keys must be strings, got {key!r}")
    return key


def _extension(code: int, value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, _encode(value))


def _unpacked(code: int, data: memoryview) -> Any:
    if code == _JSON:
        return _decode_json(data)
    value = _decoder.decode(data)
    if code == _TUPLE:
        return tuple(value)
    if code == _DATETIME:
        return datetime.fromisoformat(value)
    if code == _ENUM:
        return _ENUMS[value[0]](value[1])
    if code == _RECORD:
        kind = _RECORDS[value[0]]
        absent = dict.fromkeys(kind.__struct_fields__)
        return kind(**(absent | value[1]))
    raise ValueError(f"there is no extension {code}")


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_json: Final = msgspec.msgpack.Decoder().decode
_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_unpacked)


_MODULES: Final = (
    records, recall_records, item_records, document_records, answer_records, stats_records,
    context_records,
)  # fmt: skip


def _of_records(base: type) -> Mapping[str, Any]:
    found = {
        name: kind
        for module in _MODULES
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == module.__name__
    }
    return MappingProxyType(found)


_ENUMS: Final = _of_records(enum.Enum)
_RECORDS: Final = _of_records(msgspec.Struct)


# -- errors ---------------------------------------------------------------------------------------

_ERRORS: Final[Mapping[str, type[MemoptError]]] = MappingProxyType(
    {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, MemoptError)
    }
)
_OTHERS: Final[Mapping[str, type[Exception]]] = MappingProxyType(
    {kind.__name__: kind for kind in (TypeError, ValueError, OverflowError)}
)
"""What a wrong argument may also raise; these keep their class, too."""


def encode_error(error: BaseException) -> list[Any]:
    """The class by name, the message, and the attributes."""
    name = type(error).__name__
    if isinstance(error, OSError):
        return ["OSError", error.strerror or str(error), {"errno": error.errno}]
    if type(error) is not _ERRORS.get(name, _OTHERS.get(name)):
        return ["StoreError", f"the owner of the store failed: {name}: {error}", {}]
    attributes = {
        key: value
        for key, value in vars(error).items()
        if value is None or isinstance(value, str | int | float)
    }
    return [name, str(error), attributes]


def decode_error(answer: Any) -> Exception:
    """The error that was raised on the other side: same class, message and attributes."""
    name, message, attributes = answer
    if name == "OSError":
        number = attributes.get("errno")
        return OSError(number, message) if isinstance(number, int) else OSError(message)
    if name in _OTHERS:
        return _OTHERS[name](message)
    # Not by its own constructor, which would compose the message a second time.
    kind = _ERRORS.get(name, StoreError)
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(attributes)
    return error
