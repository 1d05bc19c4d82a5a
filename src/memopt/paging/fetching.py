"""Brings a page and its shared texts from a frame, or from home, into a form that can be read.

Everything is verified on the way: checksums over key and bytes, lengths, the number of messages.
Owns nothing that stays. Invariant: no snapshot is open and no lock is held while bytes are decoded.
Not here: reserving for the page itself, and keeping it (pager.py).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.errors import CorruptionError
from memopt.base.protocols import Compressor, Reader
from memopt.base.records import PageRow
from memopt.codecs.keys import page_key, text_key
from memopt.codecs.page import Page

READING: Final = "reading"
"""Owner of what is there while a page is brought in."""
TextRefs = tuple[tuple[bytes, int], ...]
"""(digest, text number) of each shared text that a page refers to."""


class PageGoneError(LookupError):
    """The page was rewritten or deleted since the map was read: read the map again."""


class Fetched(NamedTuple):
    row: PageRow
    frame: bytes
    page: Page
    texts: TextRefs
    values: dict[int, str]


class Fetcher:
    """Thread-safe."""

    def __init__(
        self,
        home: Reader,
        compressor: Compressor,
        budget: Budget,
        cached_texts: Callable[[TextRefs], dict[int, str]],
    ) -> None:
        self._home = home
        self._compressor = compressor
        self._budget = budget
        self._cached_texts = cached_texts

    def fetch(
        self, row: PageRow, frame: bytes | None, refs: TextRefs, make_room: Callable[[int], None]
    ) -> Fetched:
        """The page and its texts: its frame and what it refers to from L2, or from home.
        `make_room` reserves for a text while it is decoded. Raises PageGoneError,
        CorruptionError."""
        values = self._cached_texts(refs)
        bodies: dict[int, tuple[bytes, int]] = {}
        if frame is None or len(values) < len(refs):
            with self._home.snapshot() as tables:
                frame = frame or tables.pages.body(row.page)
                found = tables.texts.of_page(row.page)
                refs = tuple((digest, text) for text, digest, _ in found)
                values = self._cached_texts(refs)
                for text, _, raw_bytes in found:
                    if text not in values:
                        bodies[text] = (tables.texts.get(text) or b"", raw_bytes)
            if frame is None:
                raise PageGoneError(row.page)
        # Outside the snapshot: decoding may take one of its own, for a dictionary, and readers
        # that each hold one and want another would wait for each other.
        page = self._decode(row, frame)
        if page.has_texts and not refs:
            raise PageGoneError(row.page)
        for digest, text in refs:
            if text not in values:
                values[text] = self._decode_text(row.page, digest, *bodies[text], make_room)
        return Fetched(row, frame, page, refs, values)

    def _decode(self, row: PageRow, frame: bytes) -> Page:
        if len(frame) != row.stored_bytes:
            raise CorruptionError(f"page {row.page} is not as long as the page map says")
        raw = self._compressor.decode(frame, key=page_key(row))
        if len(raw) != row.raw_bytes:
            raise CorruptionError(f"page {row.page} does not decode to its length")
        page = Page(raw)
        if page.count != row.stop - row.start:
            raise CorruptionError(f"page {row.page} does not hold the messages its map says")
        return page

    def _decode_text(
        self,
        page: int,
        digest: bytes,
        body: bytes,
        raw_bytes: int,
        make_room: Callable[[int], None],
    ) -> str:
        # Twice: the UTF-8 bytes and the string are there at once.
        make_room(2 * raw_bytes)
        try:
            raw = self._compressor.decode(body, key=text_key(digest))
            if len(raw) != raw_bytes:
                raise CorruptionError(f"a text of page {page} does not decode to its length")
            return raw.decode()
        finally:
            self._budget.release(READING, 2 * raw_bytes)
