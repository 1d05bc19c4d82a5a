"""Answers from the cache, for those who asked for it: looked up before the upstream is, stored when
it has answered.

Owns: what a hit looks like on the wire. Invariant: a hit costs nothing and says so: its usage is
zero. Not here: which answers are equal (answers/).
"""

import logging
from typing import Any, Final

import msgspec

from memopt import Answer
from memopt.base.errors import MemoptError
from memopt.server.asked import Asked
from memopt.server.events import event_of
from memopt.server.exchange import Exchange
from memopt.server.services import Services

STORED_BYTES_MAX: Final = 1024 * 1024
"""Of a streamed text: a longer answer is not cached."""
_ZERO: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_STOP: Final = "stop"
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

log = logging.getLogger("memopt.server")


class Hit(msgspec.Struct):
    """A reply from the cache."""

    message: dict[str, Any]
    response: dict[str, Any]
    chunks: list[dict[str, Any]]

    def body(self) -> bytes:
        """As a reply that is whole."""
        return _encode(self.response)

    def events(self, *, wants_usage: bool) -> list[bytes]:
        """As a stream, without the mark of its end."""
        chunks = [
            {name: value for name, value in chunk.items() if name != "usage"}
            for chunk in self.chunks
        ]
        if wants_usage:
            chunks.append({**chunks[-1], "choices": [], "usage": _ZERO})
        return [event_of(_encode(chunk)) for chunk in chunks]


async def look_up(services: Services, exchange: Exchange, asked: Asked, body: bytes) -> Hit | None:
    """The cached reply to what would be sent upstream; None where there is none. What is wrong with
    the cache is not the client's affair."""
    scope = exchange.caller.scope
    try:
        answer = await services.threads.run(_look_up, services, scope, body)
    except MemoptError as error:
        log.warning("the answer cache was not asked: %s", type(error).__name__)
        return None
    return None if answer is None else _hit(answer, asked)


def _look_up(services: Services, scope: str, body: bytes) -> Answer | None:
    try:
        request = _decode(body)
    except msgspec.DecodeError:
        # A number that no store holds: what asks with it is never found again.
        return None
    found = services.memory.answers.lookup(request, scope=scope)
    return found if isinstance(found, Answer) else None


def _hit(answer: Answer, asked: Asked) -> Hit | None:
    if asked.is_stream:
        texts: list[str] = []
        chunks = [chunk for chunk in answer.chunks if isinstance(chunk, dict)]
        for chunk in chunks:
            for choice in chunk.get("choices") or ():
                texts.append((choice.get("delta") or {}).get("content") or "")
        if not chunks:
            return None
        message = {"role": "assistant", "content": "".join(texts)}
        return Hit(message=message, response={}, chunks=chunks)
    response = answer.response
    if not isinstance(response, dict) or not response.get("choices"):
        return None
    message = response["choices"][0].get("message")
    if not isinstance(message, dict):
        return None
    return Hit(message=message, response=response | {"usage": _ZERO}, chunks=[])


def is_cacheable(reply: dict[str, Any]) -> bool:
    """Whether a whole reply came to its end by itself, and is one answer."""
    choices = reply.get("choices")
    return (
        isinstance(choices, list)
        and len(choices) == 1
        and isinstance(choices[0], dict)
        and choices[0].get("finish_reason") == _STOP
    )


async def store(
    services: Services, exchange: Exchange, body: bytes, reply: dict[str, Any],
    uses: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Keep a reply for those who ask the same. A failure costs a later hit, and nothing now."""
    if not is_cacheable(reply):
        return
    scope = exchange.caller.scope
    try:
        await services.threads.finish(_store, services, scope, body, reply, uses)
    except MemoptError as error:
        log.warning("an answer was not cached: %s", type(error).__name__)


def _store(
    services: Services, scope: str, body: bytes, reply: dict[str, Any], uses: tuple[str, ...]
) -> None:
    try:
        request = _decode(body)
    except msgspec.DecodeError:
        return
    services.memory.answers.store(request, reply, scope=scope, uses=uses)


def with_usage(body: bytes) -> bytes:
    """The body of a stream, asking for its usage."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    options = _decode(fields["stream_options"]) if "stream_options" in fields else None
    asked = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    fields["stream_options"] = msgspec.Raw(_encode(asked))
    return _encode(fields)


def is_usage(chunk: dict[str, Any] | None) -> bool:
    """Whether a chunk says the usage and nothing else."""
    return chunk is not None and not chunk.get("choices") and chunk.get("usage") is not None
