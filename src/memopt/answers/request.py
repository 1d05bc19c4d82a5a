"""A request as the cache sees it: what it asks last, and what else could change the answer.

Canonical form: of a request to a model (Chat Completions, Responses, Messages, or a plain text)
these fields are left out, for they change how an answer is sent, billed or logged, and not what it
is:

    stream, stream_options, user, safety_identifier, metadata, store, service_tier, timeout,
    prompt_cache_key, prompt_cache_retention, background, n = 1, logprobs = false, cache_control of
    a part, and without tools what only speaks of tools

So are fields without a value: null is absent. A content of text parts is its text. Numbers that are
equal are written alike. All else is the context, but for the text of the last message, if a user
says it: that is the question. Both are digested, so a request is compared in 32 bytes.

Owns: that form, and what is not cached at all. Invariant: two requests with one context and one
question differ in nothing but the fields above. Not here: whether two questions mean the same.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.answer_records import History, MissReason
from memopt.base.errors import UsageError
from memopt.codecs.message import encode_json

QUESTION_CHARACTERS_MAX: Final = 4096
"""A longer question is not compared with others; an equal one is found."""
_DIGEST_BYTES: Final = 16
_IGNORED: Final = frozenset(
    {
        "stream", "stream_options", "user", "safety_identifier", "metadata", "store",
        "service_tier", "timeout", "prompt_cache_key", "prompt_cache_retention", "background",
    }
)  # fmt: skip
_OF_TOOLS: Final = frozenset(
    {
        "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
        "max_tool_calls",
    }
)  # fmt: skip
_OFFERS: Final = ("tools", "functions")
_LOG_PROBABILITIES: Final = ("logprobs", "top_logprobs")
_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_TURNS: Final = ("messages", "input", "prompt")
_SYSTEM: Final = frozenset({"system", "developer"})
_INSTRUCTIONS: Final = ("system", "instructions", "stop")
_NUMBERS: Final = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens",
        "max_output_tokens", "frequency_penalty", "presence_penalty", "n", "best_of", "logprobs",
        "top_logprobs",
    }
)  # fmt: skip
"""Fields that say nothing, where they are numbers."""

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


class Asked(NamedTuple):
    """A request in canonical form."""

    context: bytes
    """Digest of all but the question."""
    key: bytes
    """Digest of the question."""
    question: str | None
    """None where it does not end in a user's text."""
    history: History
    model: str | None
    wants_stream: bool
    refusals: tuple[MissReason, ...]
    """Why it is not cached, unless that is asked for."""


def read_request(request: Any, *, bytes_max: int, depth_max: int) -> Asked:
    """Raises UsageError, by the path of the field, for what is neither a text nor exact JSON."""
    if isinstance(request, str):
        request = {"messages": [{"role": "user", "content": request}]}
    if not isinstance(request, dict):
        raise UsageError(
            f"expected a dict or a text, got {type(request).__name__}", field="request"
        )
    encode_json(request, bytes_max=bytes_max, depth_max=depth_max, field="request")
    whole = {name: value for name, value in request.items() if value is not None}
    refusals = tuple(_refusals(whole))
    rest = {name: value for name, value in whole.items() if name not in _IGNORED}
    if not any(whole.get(name) for name in _OFFERS):
        rest = {name: value for name, value in rest.items() if name not in _OF_TOOLS}
    if rest.get("n") == 1:
        del rest["n"]
    rest = {name: value for name, value in rest.items() if value or name not in _LOG_PROBABILITIES}
    turns_in = next((name for name in _TURNS if name in rest), None)
    turns = _turns(rest.pop(turns_in), turns_in) if turns_in else []
    question = None
    if turns and turns[-1].get("role") == "user":
        last = dict(turns[-1])
        said = last.pop("content", None)
        if isinstance(said, str) and said.strip():
            question, turns = said.strip(), [*turns[:-1], last]
    model = request.get("model")
    return Asked(
        digest_of([turns_in, _plain(rest), [_plain(turn) for turn in turns]]), digest_of(question),
        question, _history(rest, turns, question), model if isinstance(model, str) else None,
        bool(whole.get("stream")), refusals,
    )  # fmt: skip


def digest_of(value: Any) -> bytes:
    """128 bits of a JSON value, whatever the order of its keys."""
    return hashlib.blake2b(_encode(value), digest_size=_DIGEST_BYTES).digest()


def _refusals(request: dict[str, Any]) -> Iterator[MissReason]:
    if any(request.get(name) for name in _OFFERS):
        yield MissReason.TOOLS
    for name in ("n", "best_of"):
        if not _is_at_most(request.get(name), 1):
            yield MissReason.MANY
            break
    if any(request.get(name) for name in _LOG_PROBABILITIES):
        yield MissReason.LOG_PROBABILITIES
    if not _is_at_most(request.get("temperature"), 0):
        yield MissReason.TEMPERATURE
    modalities = request.get("modalities")
    if (isinstance(modalities, list) and modalities != ["text"]) or any(
        _holds_more_than_text(request.get(name)) for name in (*_TURNS, "system")
    ):
        yield MissReason.IMAGES


def _is_at_most(value: Any, most: int) -> bool:
    """What is no number is not known to be."""
    return value is None or (isinstance(value, int | float) and value <= most)


def _holds_more_than_text(turns: Any) -> bool:
    if not isinstance(turns, list):
        return False
    for turn in turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and any(
                what in kind for what in ("image", "audio", "video", "file", "document")
            ):
                return True
    return False


def _turns(value: Any, field: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return [{"content": value}]
    turns = [_turn(turn) if isinstance(turn, dict) else {"content": turn} for turn in value]
    for number, turn in enumerate(turns):
        if not isinstance(role := turn.get("role", ""), str):
            raise UsageError(
                f"expected a text, got {role!r:.80}", field=f"request.{field}[{number}].role"
            )
    return turns


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in turn.items() if value is not None}
    found.pop("cache_control", None)
    if found.get("type") == "message":
        del found["type"]
    if isinstance(found.get("content"), list):
        parts = [_part(part) for part in found["content"]]
        if all(isinstance(part, str) for part in parts):
            found["content"] = "\n".join(parts)
        else:
            found["content"] = parts
    return found


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return [part]
    found = {name: value for name, value in part.items() if name != "cache_control"}
    if found.get("type") in _TEXTS and found.keys() == {"type", "text"}:
        return found["text"]
    return found


def _plain(value: Any) -> Any:
    """Numbers that are equal alike: 0.0 as 0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _history(
    rest: dict[str, Any], turns: Iterable[dict[str, Any]], question: str | None
) -> History:
    earlier = list(turns)
    last = earlier.pop() if question is not None else {}
    # Whatever else a request holds is not known: a field of a caller's own may be a conversation.
    if (
        question is None
        or last.keys() - {"role"}
        or any(turn.keys() - {"role", "content"} for turn in earlier)
        or any(turn.get("role") not in _SYSTEM for turn in earlier)
        or any(_may_tell(name, value) for name, value in rest.items())
    ):
        return History.TURNS
    if earlier or any(rest.get(name) for name in _INSTRUCTIONS):
        return History.SYSTEM
    return History.NONE


def _may_tell(name: str, value: Any) -> bool:
    """Whether something that was said may be in a field, beside instructions."""
    if name == "model":
        # It is kept, and searched.
        return not isinstance(value, str)
    is_number = isinstance(value, int | float)
    return name not in _INSTRUCTIONS and not (name in _NUMBERS and is_number)
