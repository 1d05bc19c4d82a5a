"""Long texts that repeat, taken out of messages when a page is sealed and put back when it is read.

In a stored body a shared text is a msgpack extension of type 1 holding the 16-byte digest of the
text. System prompts and tool schemas are shared within the tenant, other long texts within their
scope; which of the two is for the caller to keep, since a digest alone does not say.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.errors import CorruptionError
from memopt.base.records import Message
from memopt.codecs.message import decode_json

EXTENSION: Final = 1
DIGEST_BYTES: Final = 16
_OTHER_FACTOR: Final = 16
_TENANT_ROLES: Final = frozenset({"system", "developer"})
_TENANT_FIELDS: Final = frozenset({"tools", "instructions", "functions"})

_encode: Final = msgspec.msgpack.Encoder().encode


class SharedText(NamedTuple):
    tenant: bool
    """Shared within the tenant, not only within its scope."""
    digest: bytes
    text: bytes


def share_texts(body: bytes, *, bytes_min: int) -> tuple[bytes, list[SharedText]]:
    """The body without its long texts, and those."""
    if len(body) < bytes_min:
        return body, []
    message = decode_json(body)
    found: list[SharedText] = []
    role = message.get("role") if type(message) is dict else None
    tenant = type(role) is str and role in _TENANT_ROLES
    shared = _share(message, tenant, bytes_min, found)
    return (_encode(shared), found) if found else (body, found)


def decode_shared(body: bytes) -> Message:
    """A stored message with its shared texts left out, as msgpack extensions."""
    message: Message = msgspec.msgpack.decode(body)
    return message


def digests_in(body: bytes) -> set[bytes]:
    """The digests of the shared texts that a stored body refers to."""
    found: set[bytes] = set()

    def note(code: int, digest: memoryview) -> None:
        found.add(bytes(digest))

    msgspec.msgpack.decode(body, ext_hook=note)
    return found


def _share(value: Any, tenant: bool, bytes_min: int, found: list[SharedText]) -> Any:
    if type(value) is str:
        if len(value) * 4 < bytes_min:
            return value
        text = value.encode()
        if len(text) < (bytes_min if tenant else bytes_min * _OTHER_FACTOR):
            return value
        digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
        found.append(SharedText(tenant, digest, text))
        return msgspec.msgpack.Ext(EXTENSION, digest)
    if type(value) is dict:
        return {
            key: _share(item, tenant or key in _TENANT_FIELDS, bytes_min, found)
            for key, item in value.items()
        }
    if type(value) is list:
        return [_share(item, tenant, bytes_min, found) for item in value]
    return value


def text_decoder(texts: Mapping[bytes, str]) -> Callable[[Any], Any]:
    """Decodes bodies and puts `texts`, by digest, back. A digest without text is damage."""
    if not texts:
        return decode_json

    def restore(code: int, digest: memoryview) -> str:
        text = texts.get(bytes(digest)) if code == EXTENSION else None
        if text is None:
            raise CorruptionError("a page refers to a text that is not there")
        return text

    return msgspec.msgpack.Decoder(ext_hook=restore).decode
