"""Documents: ingested in pieces, each an item of kind `document`, replaced as a whole.

A document is known by its source within its scope. Ingested again, pieces that are the same stay
what they are; what is new is added and what is gone is erased, in one commit. What was forgotten of
it comes back only when it is ingested again.

Invariant: a document has at least one piece, and pieces and their items are there together. Not
here: how documents are read (document_text.py).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.document_records import DocumentRow, Ingested, PieceRow
from memopt.base.errors import UsageError
from memopt.base.item_protocols import ItemWatcher
from memopt.base.item_records import FOREVER, ItemRow, ItemText
from memopt.base.names import check_name, check_scope
from memopt.base.protocols import CollectionOwners, Compressor, Reader, Tables
from memopt.base.recall_records import Kind
from memopt.base.records import EventRow, JournalRecord, RecordKind, to_datetime
from memopt.codecs.item_text import pack_text
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.recall.document_text import DocumentText, raw_of, read_document
from memopt.recall.items import note_item
from memopt.recall.keeper import erase
from memopt.recall.piece_indexing import PieceIndexer
from memopt.recall.stating import IMPORTANCE, about_text, check_tags

PIECES_MAX: Final = 50_000
"""Of one document: they are written in one commit."""
SUBJECT_BYTES_MAX: Final = 512
BETWEEN_HEADINGS: Final = " > "
_FORM: Final = b"1"
"""Counts up when documents are cut otherwise, so that what is ingested again is cut anew."""
_DOCUMENT: Final = list(Kind).index(Kind.DOCUMENT)
"""What the index knows the kind as."""
_OWNER: Final = "documents"
_PIECE_BYTES: Final = 1024
"""Of a piece beside its text, on its way into the tables."""
_DIGEST_BYTES: Final = 16
_RECORD_BYTES: Final = 1024


class _Piece(NamedTuple):
    start: int
    stop: int
    text: str
    subject: str | None
    digest: bytes


class _Document(NamedTuple):
    """What is to be stored."""

    scope: str
    source: str
    tags: tuple[str, ...]
    read: DocumentText
    pieces: list[_Piece]
    digest: bytes


class _Indexed(NamedTuple):
    """Entries of pieces that have no items yet."""

    places: dict[tuple[bytes, int], int]
    """Which entry is whose, by the digest of a piece and its place in the text."""
    entries: Any


class Documents:
    """Thread-safe. Is an ItemWatcher, too: it hears what is forgotten of its pieces."""

    def __init__(
        self, home: Reader, committer: GroupCommitter, owners: CollectionOwners,
        compressor: Compressor, budget: Budget, indexer: PieceIndexer,
        watchers: Sequence[ItemWatcher], *, bytes_max: int, admit: Callable[[int], None],
    ) -> None:  # fmt: skip
        """`indexer` gets new pieces together; the watcher that it works for hears of no others."""
        self._home = home
        self._committer = committer
        self._owners = owners
        self._compressor = compressor
        self._budget = budget
        self._indexer = indexer
        self._watchers = watchers
        self._bytes_max = bytes_max
        self._admit = admit

    def ingest(
        self, document: object, *, scope: object, source: object, tags: Iterable[str],
        name: object,
    ) -> Ingested:  # fmt: skip
        """Keep a document in pieces, in place of what was there from the same source."""
        path, labels = check_scope(scope), check_tags(tags)
        settled = None if source is None else check_name(source, field="source")
        with self._reserving() as reserve:
            raw = raw_of(document, name, self._bytes_max, reserve)
            read = read_document(raw, reserve)
            if len(read.chunks) > PIECES_MAX:
                raise UsageError(
                    f"{len(read.chunks)} pieces, at most {PIECES_MAX}: ingest it in parts",
                    field="document",
                )
            reserve(_PIECE_BYTES * len(read.chunks) + 2 * len(read.text))
            made = _made(path, settled or _source_of(raw.name, read.text), labels, read)
            self._admit(2 * len(read.text.encode()))
            entries = self._prepare(made, reserve)
            return self._committer.commit(lambda t: self._store(t, made, entries))

    def _prepare(self, made: _Document, reserve: Callable[[int], None]) -> "_Indexed | None":
        """Entries of the pieces that seem to be new, made before anybody waits for a commit."""
        with self._home.snapshot() as tables:
            owner = self._owners.find(tables, made.scope, None)
            old = tables.documents.find(owner[0], made.source) if owner is not None else None
            there = tables.pieces.of_document(old.document) if old is not None else []
        if old is not None and old.digest == made.digest:
            return None
        kept, _ = _matched(there, made.pieces)
        new = [one for one in made.pieces if (one.digest, one.start) not in kept]
        texts = [about_text(one.subject, None, one.text) for one in new]
        entries = self._indexer.prepare(_DOCUMENT, texts, reserve)
        if entries is None:
            return None
        return _Indexed({(one.digest, one.start): n for n, one in enumerate(new)}, entries)

    # -- in a commit ------------------------------------------------------------------------------

    def _store(
        self, transaction: CommitTransaction, made: _Document, indexed: "_Indexed | None"
    ) -> Ingested:
        tables = transaction.tables
        owner = self._owners.find(tables, made.scope, None)
        old = tables.documents.find(owner[0], made.source) if owner is not None else None
        if old is None and not made.pieces:
            return _ingested(made, 0, 0, 0, None)
        if old is not None and old.digest == made.digest:
            return _ingested(made, 0, len(made.pieces), 0, old.changed_lsn)
        if owner is None:
            owner = self._owners.make(transaction, made.scope, None, None)
        row = DocumentRow(
            old.document if old is not None else 0, owner[0], made.source, made.read.media,
            made.digest, len(made.read.text), 0, transaction.at_us,
        )  # fmt: skip
        row = row._replace(document=tables.documents.put(row))
        there = tables.pieces.of_document(row.document)
        kept, gone = _matched(there, made.pieces)
        for piece in gone:
            self._erase(transaction, piece)
        places: dict[int, int] = {}
        first_lsn = transaction.lsn + 1
        for draft in made.pieces:
            key = draft.digest, draft.start
            item = kept.pop(key, None)
            if item is None:
                place = indexed.places.get(key) if indexed is not None else None
                item = self._state(transaction, row, made, draft, indexed=place is not None)
                if place is not None:
                    places[item] = place
            tables.pieces.put(PieceRow(item, row.document, draft.start, draft.stop, draft.digest))
        if indexed is not None and places:
            self._indexer.write(transaction, owner[0], indexed.entries, places, first_lsn)
        lsn = self._note(transaction, row, made)
        if made.pieces:
            tables.documents.put(row._replace(changed_lsn=lsn))
        else:
            tables.documents.delete(row.document)
        stayed = len(there) - len(gone)
        return _ingested(made, len(made.pieces) - stayed, stayed, len(gone), lsn)

    def _state(
        self, transaction: CommitTransaction, document: DocumentRow, made: _Document,
        draft: _Piece, *, indexed: bool,
    ) -> int:  # fmt: skip
        lsn, at_us = transaction.next_lsn(), transaction.at_us
        row = ItemRow(
            item=0, scope_number=document.scope_number, document=document.document,
            kind=Kind.DOCUMENT, topic=0, subject=draft.subject, attribute=None,
            source=made.source, tags=made.tags, importance=IMPORTANCE, valid_from_us=at_us,
            valid_to_us=FOREVER, version=1, made_lsn=lsn, made_us=at_us, changed_lsn=lsn,
            pinned_until_us=0, reward=0.0, rewards=0,
        )  # fmt: skip
        row = row._replace(item=transaction.tables.items.put(row))
        record = pack_text(self._compressor, ItemText(row.item, 1, lsn, at_us, draft.text))
        transaction.tables.item_texts.put(row.item, 1, record)
        for watcher in self._watchers:
            if not (indexed and self._indexer.works_for(watcher)):
                watcher.stated(transaction, row.scope_number, row.item, 1)
        note_item(transaction, RecordKind.ITEM_STATED, row, made.scope, lsn, draft.text)
        return row.item

    def _erase(self, transaction: CommitTransaction, piece: PieceRow) -> None:
        transaction.tables.pieces.delete(piece.item)
        row = transaction.tables.items.get(piece.item)
        if row is not None:
            erase(transaction, row, self._watchers)

    def _note(self, transaction: CommitTransaction, row: DocumentRow, made: _Document) -> int:
        lsn, at_us, kind = transaction.next_lsn(), transaction.at_us, RecordKind.DOCUMENT_INGESTED
        count = len(made.pieces)
        transaction.tables.events.put(EventRow(lsn, at_us, kind, 0, row.document, count, None))
        if transaction.watched:
            transaction.publish(
                JournalRecord(
                    lsn=lsn, at=to_datetime(at_us), kind=kind, scope=made.scope, seq=count,
                    document=made.source,
                ),
                _RECORD_BYTES,
            )  # fmt: skip
        return lsn

    # -- an ItemWatcher ---------------------------------------------------------------------------

    def stated(self, transaction: Any, scope_number: int, item: int, version: int) -> None:
        pass

    def marked(self, transaction: Any, scope_number: int, item: int) -> None:
        pass

    def forgotten(self, transaction: Any, scope_number: int, item: int, versions: int) -> None:
        """A piece is gone: what is left is not what was ingested any more."""
        tables: Tables = transaction.tables
        piece = tables.pieces.get(item)
        if piece is None:
            return
        tables.pieces.delete(item)
        document = tables.documents.get(piece.document)
        if document is None:
            return
        if tables.pieces.count(piece.document):
            if document.digest:
                tables.documents.put(document._replace(digest=b""))
        else:
            tables.documents.delete(piece.document)

    @contextmanager
    def _reserving(self) -> Iterator[Callable[[int], None]]:
        held = 0

        def reserve(size_bytes: int) -> None:
            nonlocal held
            self._budget.reserve(_OWNER, size_bytes)
            held += size_bytes

        try:
            yield reserve
        finally:
            self._budget.release(_OWNER, held)


def _made(scope: str, source: str, tags: tuple[str, ...], read: DocumentText) -> _Document:
    known = "\0".join((source, *tags)).encode()
    pieces = []
    whole = hashlib.blake2b(known + _FORM, digest_size=_DIGEST_BYTES)
    headings: tuple[str, ...] = ()
    subject = _subject(read.title, headings)
    for chunk in read.chunks:
        text = read.text[chunk.start : chunk.stop]
        if chunk.headings != headings:
            headings = chunk.headings
            subject = _subject(read.title, headings)
        digest = hashlib.blake2b(known, digest_size=_DIGEST_BYTES)
        digest.update(b"\0\0" + (subject or "").encode() + b"\0" + text.encode())
        pieces.append(_Piece(chunk.start, chunk.stop, text, subject, digest.digest()))
        whole.update(digest.digest() + chunk.start.to_bytes(8, "little"))
    return _Document(scope, source, tags, read, pieces, whole.digest())


def _subject(title: str, headings: tuple[str, ...]) -> str | None:
    """What a piece is about: the title and the headings it stands under, as far as they fit; of
    those that do not fit, the innermost stay."""
    path = [title, *headings] if title and headings[:1] != (title,) else [*headings]
    names = [name for name in (_printable(one) for one in path) if name]
    while names:
        subject = BETWEEN_HEADINGS.join(names)
        if len(subject.encode()) <= SUBJECT_BYTES_MAX:
            return subject
        if len(names) == 1:
            return subject.encode()[:SUBJECT_BYTES_MAX].decode(errors="ignore").strip()
        del names[0]
    return None


def _printable(name: str) -> str:
    if not name.isprintable():
        name = "".join(sign if sign.isprintable() else " " for sign in name)
    return " ".join(name.split())


def _source_of(name: str | None, text: str) -> str:
    """Of a document that was given without one: the path of the file, or a digest of the text."""
    if name is not None:
        return check_name(name, field="source")
    return f"text-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _matched(
    there: list[PieceRow], drafts: list[_Piece]
) -> tuple[dict[tuple[bytes, int], int], list[PieceRow]]:
    """Which items stay, by digest and new place, and which pieces are gone."""
    by_digest: dict[bytes, list[PieceRow]] = {}
    for piece in reversed(there):
        by_digest.setdefault(piece.digest, []).append(piece)
    kept = {}
    for draft in drafts:
        if same := by_digest.get(draft.digest):
            kept[draft.digest, draft.start] = same.pop().item
    return kept, [piece for pieces in by_digest.values() for piece in pieces]


def _ingested(made: _Document, added: int, kept: int, removed: int, lsn: int | None) -> Ingested:
    return Ingested(
        scope=made.scope, source=made.source, media=made.read.media,
        title=made.read.title or None, encoding=made.read.encoding, chars=len(made.read.text),
        pieces=added + kept, added=added, kept=kept, removed=removed, lsn=lsn,
        notes=made.read.notes,
    )  # fmt: skip
