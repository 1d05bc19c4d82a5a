"""The plug points of recall: what makes vectors, its tables in a home, and what seals and heads
tell its index.

As in protocols.py, each is narrow: at most five methods. An entry's place is (source, seq): of a
message its line and number, of what was stated minus its item number and its version.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from memopt.base.recall_records import ScopeLine, SegmentRow, UnindexedRow


class Embedder(Protocol):
    """Texts to vectors. Thread-safe."""

    @property
    def space(self) -> str:
        """Names the vectors: those of two embedders may be compared where it is the same."""
        ...

    @property
    def dimensions(self) -> int: ...
    def embed(self, texts: Sequence[str]) -> Any:
        """A numpy array, float32 (len(texts), dimensions), of unit length; zeros for a text that
        says nothing, such as an empty one."""
        ...


class PieceEmbedder(Embedder, Protocol):
    """One whose vectors are sums over word pieces. Arrays: pieces u16, starts i64 (texts + 1)."""

    def pieces(self, texts: Sequence[str], *, limit: int | None = None) -> tuple[Any, Any]:
        """(pieces, starts): all texts' pieces in order, and where each text begins among them. Of
        each text, at most its first `limit`."""
        ...

    def pooled(self, pieces: Any, starts: Any) -> Any:
        """What embed() returns for the texts of these pieces."""
        ...

    def piece_vectors(self, pieces: Any) -> Any:
        """float32 (len(pieces), dimensions): each piece's own direction, of unit length or 0."""
        ...

    def piece_likeness(self, pieces: Any, vectors: Any) -> Any:
        """float32 (len(pieces), len(vectors)): the cosines of piece_vectors() with vectors of unit
        length or 0, without making the former."""
        ...

    def piece_weights(self, pieces: Any) -> Any:
        """float32 (len(pieces)), from 0 to 1: how much each says."""
        ...

    def charged_bytes(self) -> int:
        """What it occupies, table and vocabulary."""
        ...


EmbedderMaker = Callable[[], Embedder | None]
"""Makes the embedder of a store when it is first needed; None: words alone."""


class SegmentTable(Protocol):
    """Index segments by scope."""

    def put(self, row: SegmentRow) -> int:
        """Store a new one, whose number is given by the table and returned."""
        ...

    def get(self, segment: int) -> SegmentRow | None: ...
    def of_scope(self, scope_number: int) -> list[SegmentRow]:
        """All of a scope, in the order of their numbers."""
        ...

    def heads(self, after: tuple[int, int], limit: int) -> list[SegmentRow]:
        """Up to `limit` behind (scope number, segment), in that order, without bodies."""
        ...

    def delete(self, segment: int) -> None: ...


class UnindexedTable(Protocol):
    """What has no index entries yet."""

    def put(self, row: UnindexedRow) -> None: ...
    def of_scope(self, scope_number: int) -> list[UnindexedRow]:
        """Also those whose scope is not known."""
        ...

    def first(self, limit: int, *, stated: bool = False) -> list[UnindexedRow]:
        """Up to `limit`; only of what was stated."""
        ...

    def delete(self, row: UnindexedRow) -> None: ...


class MaskTable(Protocol):
    """Places whose entries must not be found, until a compaction has taken them out of the
    segments: where a message is still there, but what it said is not. With seq GONE, what is left
    of a whole source has to be looked at."""

    def put(self, scope_number: int, source: int, seq: int) -> None: ...
    def of_scope(self, scope_number: int) -> list[tuple[int, int]]: ...
    def scopes(self) -> list[int]: ...
    def delete(self, scope_number: int, source: int, seq: int) -> None: ...


class ScopeLines(Protocol):
    """What is visible of a scope's messages, in few statements."""

    def current(self, scope_number: int) -> list[ScopeLine]: ...
    def tails(
        self, scope_number: int, after: tuple[int, int], limit: int
    ) -> list[tuple[int, int, int]]:
        """(line, seq, bytes) of up to `limit` records that its sessions have not sealed, in that
        order, behind a line and a number on it."""
        ...


class Indexer(Protocol):
    """Makes index entries of messages, in the commit that seals them."""

    def prepare(self, scope_number: int, line: int, start: int, records: Sequence[Any]) -> Any:
        """What `write` needs of the tail records of messages from `start` on. Does the work that
        takes long, outside a commit where the caller can help it."""
        ...

    def write(self, transaction: Any, prepared: Any) -> None:
        """In the commit that seals them."""
        ...

    def appended(
        self, transaction: Any, scope_number: int, line: int, start: int, stop: int
    ) -> None:
        """In the commit that appends messages [start, stop)."""
        ...

    def changed(self, transaction: Any, scope_number: int) -> None:
        """In a commit that changes what is visible of a scope other than by appending."""
        ...

    def taken(self, transaction: Any, scope_number: int, line: int, seq: int | None) -> None:
        """In a commit that takes a message's words away; None: all of a line, or its end."""
        ...
