"""Any endpoint with OpenAI's `/embeddings`: a provider's, or a server of one's own.

Owns: the connection, and how often it is tried again. Invariant: no request, no response and no
wait is larger than its limit; the key is sent to that endpoint and is in no message, repr or log.
Not here: which endpoint (choose), and what happens to texts that could not be embedded.

Tried again, with a random wait that doubles: no connection, a time-out, 408, 429 and 5xx. The
endpoint may say when (Retry-After). Too large a request (413) is divided. Everything else is the
caller's to mend.
"""

import email.utils
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from memopt.base.errors import CapacityError, UsageError
from memopt.base.units import MIB
from memopt.embedding.pieces import TEXT_CHARACTERS_MAX
from memopt.embedding.vectors import FIELD, checked_dimensions, checked_space, texts_of, unit

BATCH_TEXTS: Final = 128
BATCH_CHARACTERS: Final = 256 * 1024
RESPONSE_BYTES_MAX: Final = 64 * MIB
ATTEMPTS_MAX: Final = 6
TIMEOUT_SECONDS: Final = 30.0
"""To connect, and for each read and write."""
REQUEST_SECONDS_MAX: Final = 120.0
"""Of one request: an answer that comes byte by byte times out too."""
FIRST_WAIT_SECONDS: Final = 0.5
WAIT_SECONDS_MAX: Final = 20.0
"""A longer wait that the endpoint asks for is the caller's: it is told, and nothing waits."""
CONNECTIONS_MAX: Final = 4
_DAY_SECONDS: Final = 86_400.0
_LIMIT: Final = "embedder"
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_TOO_LARGE: Final = 413
_REASON_CHARACTERS_MAX: Final = 300
_PROBE: Final = "dimensions"
_NAME: Final = re.compile(r"[\x21-\x7e]{1,150}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = -1


class _Answer(msgspec.Struct):
    data: list[_Vector]


class RemoteEmbedder:
    """Embeds by a request. Thread-safe. Close it, or leave it as a context manager."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        dimensions: int | None = None,
        space: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        attempts_max: int = ATTEMPTS_MAX,
        transport: Any = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        """`url`: what comes before `/embeddings`. `dimensions`, where given, is asked of the
        endpoint; else one request finds out. `transport`: httpx's, such as a test's.

        Raises UsageError, CapacityError where the endpoint had to be asked and does not answer.
        """
        self._url = _checked_url(url)
        if not isinstance(model, str) or not _NAME.fullmatch(model):
            raise UsageError(f"expected a model's name behind #, got {model!r}", field=FIELD)
        if attempts_max < 1 or not 0 < timeout_seconds < float("inf"):
            raise UsageError(
                f"expected attempts and a time-out above 0, got {attempts_max} and "
                f"{timeout_seconds}",
                field=FIELD,
            )
        self._model = model
        self._attempts_max = attempts_max
        self._sleep, self._now, self._monotonic = sleep, now, monotonic
        self._chance = chance or random.Random()
        self._key = key
        self._asked_dimensions = checked_dimensions(dimensions) if dimensions is not None else None
        self._client = _client(key, timeout_seconds, transport)
        try:
            self.dimensions = self._asked_dimensions or self._found_dimensions()
            self.space = checked_space(space or f"{model}-{self.dimensions}")
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"RemoteEmbedder({self._url!r}, {self._model!r})"

    def __enter__(self) -> "RemoteEmbedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def embed(self, texts: Sequence[str]) -> Any:
        """float32 (len(texts), dimensions), of unit length; zeros for a text of white space.

        Raises UsageError where the endpoint refuses or its answer is no such thing, CapacityError
        where it does not answer, with when to come back.
        """
        found = [text[:TEXT_CHARACTERS_MAX] for text in texts_of(texts)]
        vectors = np.zeros((len(found), self.dimensions), np.float32)
        # Endpoints refuse empty texts.
        some: list[int] = []
        characters = 0
        for place, text in enumerate(found):
            if not text.strip():
                continue
            if some and (len(some) == BATCH_TEXTS or characters + len(text) > BATCH_CHARACTERS):
                vectors[some] = self._embedded([found[at] for at in some])
                some, characters = [], 0
            some.append(place)
            characters += len(text)
        if some:
            vectors[some] = self._embedded([found[at] for at in some])
        return vectors

    def _found_dimensions(self) -> int:
        (vector,) = self._answered([_PROBE]) or [[]]
        return checked_dimensions(len(vector))

    def _embedded(self, texts: list[str]) -> Any:
        made = self._answered(texts)
        if made is None:
            middle = len(texts) // 2
            halves = self._embedded(texts[:middle]), self._embedded(texts[middle:])
            return np.concatenate(halves)
        if len({*map(len, made)}) != 1:
            raise UsageError("the endpoint gave vectors of several lengths", field=FIELD)
        return unit(made, count=len(texts), dimensions=self.dimensions)

    def _answered(self, texts: list[str]) -> list[list[float]] | None:
        """One vector a text; None where they are too many for one request."""
        request: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "float"}
        if self._asked_dimensions is not None:
            request["dimensions"] = self._asked_dimensions
        try:
            body = msgspec.json.encode(request)
        except UnicodeEncodeError as error:
            raise UsageError(f"a text is not Unicode: {error}", field="texts") from None
        for attempt in range(1, self._attempts_max + 1):
            status, after_seconds, raw = self._posted(body)
            if status == 200:
                return _vectors(raw, len(texts))
            if status == _TOO_LARGE and len(texts) > 1:
                return None
            reason = self._reason(status, raw)
            if status not in _PASSING and status != 0:
                raise UsageError(f"{self._url} refuses: {reason}", field=FIELD)
            ceiling = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), WAIT_SECONDS_MAX)
            wait = self._chance.uniform(0, ceiling)
            if after_seconds is not None:
                # Not before, and not all at the same moment.
                wait += after_seconds
            if attempt == self._attempts_max or wait > WAIT_SECONDS_MAX:
                raise CapacityError(
                    f"{self._url} does not answer: {reason}",
                    limit=_LIMIT,
                    retry_after_seconds=min(max(wait, 1.0), _DAY_SECONDS),
                )
            self._sleep(wait)
        raise AssertionError("the last attempt raises")

    def _posted(self, body: bytes) -> tuple[int, float | None, bytes]:
        """(status, Retry-After in seconds, body); status 0 where there was no answer."""
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        deadline = self._monotonic() + REQUEST_SECONDS_MAX
        try:
            with self._client.stream("POST", self._url, content=body, headers=headers) as answer:
                read = bytearray()
                for block in answer.iter_bytes():
                    read += block
                    if len(read) > RESPONSE_BYTES_MAX:
                        raise UsageError(
                            f"{self._url} answers with more than {RESPONSE_BYTES_MAX} bytes",
                            field=FIELD,
                        )
                    if self._monotonic() > deadline:
                        return 0, None, b"the answer takes too long"
                after_seconds = self._after(answer.headers.get("Retry-After"))
                return answer.status_code, after_seconds, bytes(read)
        except (httpx.HTTPError, httpx.StreamError) as error:
            # Its text may hold the request's headers; its class does not.
            return 0, None, type(error).__name__.encode()

    def _reason(self, status: int, raw: bytes) -> str:
        """What an error says of itself, in a line, without the key should it repeat that."""
        text = raw[: 16 * _REASON_CHARACTERS_MAX].decode("utf-8", "replace")
        if self._key:
            text = text.replace(self._key, "[key]")
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        text = " ".join(text.split())[:_REASON_CHARACTERS_MAX]
        return f"{status} {text}".strip() if status else text

    def _after(self, value: str | None) -> float | None:
        """Seconds, or a date."""
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - self._now()
            except (ValueError, OverflowError):
                return None
        return max(0.0, seconds) if seconds == seconds else None


def _client(key: str | None, timeout_seconds: float, transport: Any) -> Any:
    try:
        import httpx
    except ImportError as error:
        raise UsageError(
            f"an endpoint needs the package httpx, as in memopt[remote]: {error}", field=FIELD
        ) from error
    headers = {"User-Agent": "memopt"}
    if key:
        if not _KEY.fullmatch(key):
            raise UsageError("the key has characters that no header may have", field=FIELD)
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Client(
        headers=headers,
        timeout=httpx.Timeout(timeout_seconds),
        limits=httpx.Limits(
            max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
        ),
        # Elsewhere the key would be somebody else's.
        follow_redirects=False,
        transport=transport,
    )


def _checked_url(url: Any) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"expected a URL, got {url!r}: {error}", field=FIELD) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"expected a URL such as https://host/v1, got {url!r}", field=FIELD)
    if parts.username or parts.password:
        raise UsageError("a URL with a password in it would be shown; give a key", field=FIELD)
    if parts.query or parts.fragment:
        raise UsageError(f"expected a URL without ? and #, got {url!r}", field=FIELD)
    path = parts.path.rstrip("/").removesuffix("/embeddings")
    return f"{parts.scheme}://{parts.netloc}{path}/embeddings"


def _vectors(raw: bytes, count: int) -> list[list[float]]:
    try:
        answer = msgspec.json.decode(raw, type=_Answer)
    except ValueError as error:
        raise UsageError(f"the endpoint's answer is none: {error}", field=FIELD) from None
    if len(answer.data) != count:
        raise UsageError(f"{count} texts, and {len(answer.data)} vectors came back", field=FIELD)
    if all(vector.index == -1 for vector in answer.data):
        return [vector.embedding for vector in answer.data]
    if sorted(vector.index for vector in answer.data) != [*range(count)]:
        raise UsageError("the endpoint's answer numbers its vectors wrongly", field=FIELD)
    return [each.embedding for each in sorted(answer.data, key=lambda vector: vector.index)]
