"""A message that arrives in pieces, such as a streamed answer."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from memopt.base.errors import UsageError
from memopt.base.records import Receipt


class MessageWriter:
    """Collects text for the content of a message: in RAM up to `spool_bytes`, then in a temporary
    file. Nothing is in the session before `commit`; leaving the `with` block without one abandons
    it. Not thread-safe.
    """

    def __init__(
        self, message: dict[str, Any],
        append: Callable[[list[Mapping[str, Any]], int | None, str | None], Receipt],
        *, bytes_max: int, spool_bytes: int,
    ) -> None:  # fmt: skip
        """`append(messages, if_head, key)` is what commit does with it and what goes before."""
        content = message.get("content")
        if not isinstance(content, str | None):
            raise UsageError("expected text or nothing to begin with", field="message.content")
        self._message = message
        self._append = append
        self._bytes_max = bytes_max
        self._size_bytes = 0
        # Closed by abandon().
        spool = tempfile.SpooledTemporaryFile[bytes](max_size=spool_bytes)
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = spool
        if content:
            self.write(content)

    def write(self, text: str) -> None:
        """Add text to the content. Raises UsageError above the limit of a message."""
        if self._spool is None:
            raise UsageError("the message was committed or abandoned", field="writer")
        if not isinstance(text, str):
            raise UsageError(f"expected text, got {type(text).__name__}", field="text")
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise UsageError("a lone surrogate is not text", field="text") from None
        if self._size_bytes + len(data) > self._bytes_max:
            raise UsageError(f"more than {self._bytes_max} bytes", field="message.content")
        self._spool.write(data)
        self._size_bytes += len(data)

    def commit(
        self, *, fields: Mapping[str, Any] | None = None, before: Sequence[Mapping[str, Any]] = (),
        if_head: int | None = None, key: str | None = None,
    ) -> Receipt:  # fmt: skip
        """Append the whole message with `fields` besides its content, which are known only now,
        behind the messages `before` it: all in one commit, and once for an idempotency `key`.
        Raises ConflictError unless `if_head` is the session's head. May be called again when it
        raised that or a CapacityError."""
        if self._spool is None:
            raise UsageError("the message was committed or abandoned", field="writer")
        self._spool.seek(0)
        content = self._spool.read().decode()
        whole = {**self._message, "content": content, **(fields or {})}
        receipt = self._append([*before, whole], if_head, key)
        self.abandon()
        return receipt

    def abandon(self) -> None:
        """Throw away what was written."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()


def redirect(writer: MessageWriter, other: MessageWriter) -> None:
    """What was written is committed where `other`, which is abandoned, would have been."""
    writer._append = other._append
    other.abandon()
