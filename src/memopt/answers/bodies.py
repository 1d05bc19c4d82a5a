"""The body of a cached answer: question, response, and what its caller said about it.

A frame of a msgpack array: version 1, question (nil where there is none), whether it is a stream,
response (of a stream, the list of its chunks), uses, tags. The frame's key is the answer's key, so
it is made before the commit that gives the answer its number.

Owns: that layout. Not here: the row around it (stores/answer_tables.py).
"""

from typing import Any, Final

import msgspec

from memopt.base.answer_records import AnswerRow
from memopt.base.errors import CorruptionError, StoreVersionError
from memopt.base.protocols import Compressor

_VERSION: Final = 1


class Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    question: str | None
    is_stream: bool
    response: Any
    uses: tuple[str, ...]
    tags: tuple[str, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Body)


def pack_body(
    compressor: Compressor, context: bytes, question_key: bytes, *, question: str | None,
    is_stream: bool, response: Any, uses: tuple[str, ...], tags: tuple[str, ...],
) -> bytes:  # fmt: skip
    """Raises BudgetError."""
    raw = _encode(Body(_VERSION, question, is_stream, response, uses, tags))
    return compressor.encode(raw, key=_key(context, question_key))


def open_body(compressor: Compressor, row: AnswerRow) -> Body:
    """Raises CorruptionError, StoreVersionError, BudgetError."""
    raw = compressor.decode(row.body, key=_key(row.context, row.question))
    try:
        body = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"answer {row.answer} has another layout: {error}") from error
    if body.version != _VERSION:
        raise StoreVersionError(
            f"answer {row.answer} has version {body.version}, this memopt knows {_VERSION}"
        )
    return body


def _key(context: bytes, question_key: bytes) -> bytes:
    return b"A" + context + question_key
