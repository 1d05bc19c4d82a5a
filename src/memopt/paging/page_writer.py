"""Makes pages out of records, and writes them in a commit.

A page is written in the same commit that takes its records from wherever they were before, so a
message is never in two places and never in none. Texts that repeat are taken out on the way.

Not here: which records become a page, and when (sessions).
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from memopt.base.protocols import Compressor, Tables
from memopt.base.records import PageRow
from memopt.codecs.frame import dictionary_of
from memopt.codecs.keys import page_key, text_key
from memopt.codecs.page import Page, pack_page
from memopt.codecs.record import TailRecord
from memopt.codecs.texts import SharedText, digests_in, share_texts


class Owner(NamedTuple):
    """Whose a page is: where its texts may be shared, and which dictionary it may use."""

    tenant: int
    scope: int
    """The leaf scope's number."""


class NewPage(NamedTuple):
    row: PageRow
    raw: bytes
    body: bytes
    texts: tuple[SharedText, ...]
    """Texts that were taken out of its messages now."""
    kept: frozenset[bytes]
    """Digests that its messages referred to already."""
    without_room: bool = False
    """Compressed even where the budget has no room for that."""


class PageWriter:
    """Numbers, encodes and writes pages. Thread-safe."""

    def __init__(
        self,
        compressor: Compressor,
        dictionary_of: Callable[[Owner], int],
        *,
        next_page: int,
        text_bytes_min: int,
    ) -> None:
        self._compressor = compressor
        self._dictionary_of = dictionary_of
        self._text_bytes_min = text_bytes_min
        self._next_page = next_page
        self._lock = threading.Lock()

    def make(
        self,
        owner: Owner,
        line: int,
        start: int,
        records: Sequence[TailRecord],
        *,
        sealed: bool,
        without_room: bool = True,
    ) -> NewPage:
        """Encode records [start, start + len(records)) of a line. `sealed` says that they come
        from a page, so their long texts are out already. Touches no table."""
        texts: dict[bytes, SharedText] = {}
        kept: set[bytes] = set()
        if sealed:
            for record in records:
                kept |= digests_in(record.body)
        else:
            shared = []
            for record in records:
                body, found = share_texts(record.body, bytes_min=self._text_bytes_min)
                if found:
                    texts |= {text.digest: text for text in found}
                    record = record._replace(body=body)
                shared.append(record)
            records = shared
        raw = pack_page(records, has_texts=bool(texts or kept))
        with self._lock:
            page = self._next_page
            self._next_page += 1
        row = PageRow(
            line, start, start + len(records), page, records[0].lsn, records[-1].lsn, len(raw), 0
        )
        return self._encode(
            owner, NewPage(row, raw, b"", tuple(texts.values()), frozenset(kept), without_room)
        )

    def write(self, tables: Tables, owner: Owner, new: NewPage, replaced: Sequence[PageRow]) -> int:
        """In a commit: put the page in the place of `replaced`; how many texts went with those."""
        used = dictionary_of(new.body)
        if used and used != self._dictionary_of(owner):
            # Retired since the page was made, and deleted as soon as no page is seen to use it.
            new = self._encode(owner, new)
        texts = [
            tables.texts.intern(
                owner.tenant if text.tenant else owner.scope,
                text.digest,
                len(text.text),
                lambda text=text: self._encode_text(text, new.without_room),  # type: ignore[misc]
            )
            for text in new.texts
        ]
        for old in replaced:
            if new.kept:
                refs = tables.texts.of_page(old.page)
                texts += [text for text, digest, _ in refs if digest in new.kept]
            tables.pages.delete(old)
        tables.pages.put(new.row, new.body)
        tables.texts.refer(new.row.page, texts)
        return sum(tables.texts.release(old.page) for old in replaced)

    def delete(self, tables: Tables, row: PageRow) -> int:
        """In a commit: delete a page; how many texts went with it."""
        tables.pages.delete(row)
        return tables.texts.release(row.page)

    def read(self, tables: Tables, row: PageRow) -> list[TailRecord]:
        """The records of a page as they are at home, past the tiers; texts stay out."""
        body = tables.pages.body(row.page)
        assert body is not None, "the map and the pages are of one snapshot"
        return Page(self._compressor.decode(body, key=page_key(row))).records()

    def dictionary_used(self, tables: Tables, row: PageRow) -> int | None:
        """The dictionary a page was written with; 0 for none, None when the page is gone."""
        body = tables.pages.body(row.page)
        return None if body is None else dictionary_of(body)

    def _encode(self, owner: Owner, new: NewPage) -> NewPage:
        body = self._compressor.encode(
            new.raw, key=page_key(new.row), dictionary=self._dictionary_of(owner),
            without_room=new.without_room,
        )  # fmt: skip
        return new._replace(row=new.row._replace(stored_bytes=len(body)), body=body)

    def _encode_text(self, text: SharedText, without_room: bool) -> bytes:
        # Without a dictionary: a text is long enough to do without, may be read from any scope of
        # its tenant, and then outlives no dictionary that has to go.
        return self._compressor.encode(
            text.text, key=text_key(text.digest), without_room=without_room
        )
