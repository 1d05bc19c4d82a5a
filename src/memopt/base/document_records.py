"""The values of documents: what a home stores of them, and what `ingest` returns."""

import enum
from typing import NamedTuple

import msgspec


class Media(enum.StrEnum):
    """What a document is written in."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"


class DocumentRow(NamedTuple):
    """A document of a scope, by its source. Its pieces are items."""

    document: int
    scope_number: int
    source: str
    media: str
    digest: bytes
    """Of all that its pieces were made from; empty where some of them were forgotten since."""
    chars: int
    """Of its text."""
    changed_lsn: int
    """Of the record that says it was ingested."""
    changed_us: int


class PieceRow(NamedTuple):
    """Where a piece stands in its document."""

    item: int
    document: int
    start: int
    stop: int
    """Characters [start, stop) of the document's text."""
    digest: bytes
    """Of its text and of what is known of it."""


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a document."""

    scope: str
    source: str
    """By which it is found again: ingested anew, it takes the place of what is there; and
    `forget(Selector(source=…))` takes it away."""
    media: Media
    title: str | None
    encoding: str
    """Its bytes were read as this."""
    chars: int
    """Of its text."""
    pieces: int
    """It has now: added + kept."""
    added: int
    kept: int
    """They were there already."""
    removed: int
    """They were there, and are not in it any more."""
    lsn: int | None
    """Of the record of it; None where there was nothing to keep."""
    notes: tuple[str, ...] = ()
    """What was guessed or left out, in words."""
