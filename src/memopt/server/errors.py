"""What a client is told when its request fails here: errors in the form of the API, and headers.

Invariant: nothing of a request, a key or a reply is in a message. What the upstream refuses is
passed on as it came, and is none of these.
"""

import math
from typing import Final

import msgspec

from memopt.base.errors import (
    CapacityError,
    ConflictError,
    ContextOverflowError,
    CorruptionError,
    MemoptError,
    NotFoundError,
    StoreClosedError,
    UsageError,
)

_RETRY_SECONDS_MAX: Final = 60


class ServerError(MemoptError):
    """Ends a request with a status. `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, code: str | None, param: str | None = None,
        retry_after_seconds: float | None = None, may_retry: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.may_retry = may_retry

    def body(self) -> bytes:
        """As the API says it."""
        kind = "invalid_request_error" if self.status < 500 else "memopt_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_seconds is not None:
            seconds = max(1, min(_RETRY_SECONDS_MAX, math.ceil(self.retry_after_seconds)))
            headers.append((b"retry-after", b"%d" % seconds))
        if self.may_retry is not None:
            headers.append((b"x-should-retry", b"true" if self.may_retry else b"false"))
        return headers


def busy(message: str, *, code: str, retry_after_seconds: float = 1.0) -> ServerError:
    """Come again later."""
    return ServerError(503, message, code=code, retry_after_seconds=retry_after_seconds)


def server_error(error: MemoptError) -> ServerError:
    """What an error of the store is to a client."""
    match error:
        case ServerError():
            return error
        case ContextOverflowError():
            return ServerError(400, error.reason, code="context_length_exceeded", param=error.field)
        case UsageError():
            return ServerError(400, error.reason, code="invalid_request", param=error.field)
        case NotFoundError():
            return ServerError(404, str(error), code="not_found")
        case CapacityError():
            seconds = error.retry_after_seconds
            if math.isinf(seconds):
                return ServerError(
                    413, error.reason, code="capacity", param=error.limit, may_retry=False
                )
            return busy(error.reason, code="capacity", retry_after_seconds=seconds)
        case ConflictError():
            return ServerError(409, error.reason, code="conflict", may_retry=False)
        case CorruptionError():
            message = "the session is damaged: memopt check says more"
            return ServerError(500, message, code="damaged", may_retry=False)
        case StoreClosedError():
            return busy("the server is stopping", code="stopping")
    return ServerError(500, type(error).__name__, code="store", may_retry=False)
