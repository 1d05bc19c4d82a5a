"""Documents as they come, to text in pieces: what they are written in, their encoding, their
structure.

Owns what may be ingested. The kind is found by what the bytes begin with, then by the suffix of the
name, then by what the text looks like. Invariant: what is no text is refused with a reason, and
everything is reserved before it is made. Not here: where pieces are kept (documents.py), where they
are cut (text/).
"""

import codecs
import io
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from memopt.base.document_records import Media
from memopt.base.errors import UsageError
from memopt.base.names import check_name
from memopt.text.blocks import TITLE_CHARS_MAX
from memopt.text.chunks import Chunk, chunk_html, chunk_markdown, chunk_text

PAGES_MAX: Final = 5_000
"""Of a PDF."""
SUFFIXES: Final = {
    ".txt": Media.TEXT, ".text": Media.TEXT, ".log": Media.TEXT, ".rst": Media.TEXT,
    ".md": Media.MARKDOWN, ".markdown": Media.MARKDOWN, ".mdown": Media.MARKDOWN,
    ".mdx": Media.MARKDOWN, ".html": Media.HTML, ".htm": Media.HTML, ".xhtml": Media.HTML,
    ".pdf": Media.PDF,
}  # fmt: skip
_SIGNATURES: Final = (
    (b"PK\x03\x04", "a ZIP archive, as DOCX, XLSX and EPUB are"),
    (b"\x1f\x8b", "compressed: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed: unpack it first"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "a database"),
)
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET: Final = re.compile(rb"charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([A-Za-z0-9_.:-]{2,40})")
_HEAD_BYTES: Final = 2048
_PAGE: Final = re.compile(
    r"\s{0,999}(?:<!--[^>]{0,999}-->\s{0,999})?<(?:!doctype\s{1,99}html|html|head|body)\b", re.I
)
_MARKS: Final = re.compile(r"^(?:#{1,6} \S|```|~~~|\|[ :-]*-[-| :]*\|?$)", re.MULTILINE)
"""What makes Markdown of a text without a name."""
_CONTROLS: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_CONTROLS_SHARE: Final = 0.005
_TEXT_FACTOR: Final = 4
"""Bytes a character may take in RAM."""
_PAGE_FACTOR: Final = 16
"""What reading a PDF takes over its size, and its text besides. Compressed streams that explode are
kept small by the library's own limits."""


class Raw(NamedTuple):
    """A document as it was given."""

    data: bytes | str
    name: str | None
    """Of the file, whose suffix says what it is written in."""


class DocumentText(NamedTuple):
    """A document as it is read."""

    text: str
    chunks: list[Chunk]
    media: Media
    encoding: str
    title: str
    notes: tuple[str, ...]


def raw_of(document: object, name: object, bytes_max: int, reserve: Callable[[int], None]) -> Raw:
    """A text, bytes, or the contents of a file, whose path is its name unless `name` says another.
    Raises UsageError for what is none or too large, OSError where a file cannot be read."""
    checked = None if name is None else check_name(name, field="name")
    if isinstance(document, str):
        _check_text(document, bytes_max)
        return Raw(document, checked)
    if isinstance(document, bytes | bytearray | memoryview):
        _check_size(memoryview(document).nbytes, bytes_max)
        return Raw(bytes(document), checked)
    if isinstance(document, os.PathLike):
        path = Path(os.fsdecode(document))
        return Raw(_read(path, bytes_max, reserve), checked or str(path))
    raise UsageError(
        f"expected a text, bytes or the Path of a file, got {type(document).__name__}",
        field="document",
    )


def _check_text(text: str, bytes_max: int) -> None:
    try:
        _check_size(len(text.encode()), bytes_max)
    except UnicodeEncodeError:
        raise UsageError("a lone surrogate is not text", field="document") from None
    looks_like_a_path = len(text) < 1024 and "\n" not in text and PurePath(text).suffix != ""
    if looks_like_a_path and "\0" not in text and os.path.isfile(text):
        raise UsageError(
            "this is the name of a file: pass Path(…) to ingest what is in it", field="document"
        )


def _check_size(size_bytes: int, bytes_max: int) -> None:
    if size_bytes > bytes_max:
        raise UsageError(
            f"{size_bytes} bytes, at most {bytes_max} (document_bytes_max)", field="document"
        )


def _read(path: Path, bytes_max: int, reserve: Callable[[int], None]) -> bytes:
    # Without waiting: a pipe without a writer would be waited for before it is refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UsageError(f"{path} is {kind}", field="document")
        _check_size(status.st_size, bytes_max)
        reserve(status.st_size)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(bytes_max + 1)
    finally:
        os.close(descriptor)
    _check_size(len(data), bytes_max)
    return data


def read_document(raw: Raw, reserve: Callable[[int], None]) -> DocumentText:
    """Text and pieces of a document. Raises UsageError for what is binary, damaged, or needs an
    extra that is not installed."""
    by_name = SUFFIXES.get(PurePath(raw.name or "").suffix.lower())
    if isinstance(raw.data, bytes) and (
        raw.data[:1024].lstrip().startswith(b"%PDF-") or by_name is Media.PDF
    ):
        return _of_pdf(raw.data, reserve)
    reserve(_TEXT_FACTOR * len(raw.data))
    if isinstance(raw.data, bytes):
        text, encoding, note = _decoded(raw.data)
    else:
        text, encoding, note = raw.data, "str", ""
    notes = [note] if note else []
    controls = len(_CONTROLS.findall(text)) if _CONTROLS.search(text) else 0
    if "\0" in text or controls > max(1, _CONTROLS_SHARE * len(text)):
        raise UsageError("binary, not text", field="document")
    if controls:
        text = _CONTROLS.sub(" ", text)
        notes.append(f"{controls} control characters are read as spaces")
    media = Media.HTML if _PAGE.match(text) else by_name or _guessed(text)
    title = ""
    if media is Media.HTML:
        reserve(2 * _TEXT_FACTOR * len(text))
        text, chunks, title = chunk_html(text)
    elif media is Media.MARKDOWN:
        text, chunks, title = chunk_markdown(text)
    else:
        text, chunks, title = chunk_text(text)
    if not chunks:
        notes.append("it has no text")
    return DocumentText(text, chunks, media, encoding, title, tuple(notes))


def _guessed(text: str) -> Media:
    return Media.MARKDOWN if _MARKS.search(text) else Media.TEXT


def _decoded(data: bytes) -> tuple[str, str, str]:
    """The text, what it was read as, and what is to be said of that."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            raise UsageError(f"binary, not text: {what}", field="document")
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff"), encoding, ""
            except UnicodeDecodeError as error:
                raise UsageError(f"damaged {encoding}: {error.reason}", field="document") from None
    try:
        return data.decode(), "utf-8", ""
    except UnicodeDecodeError as error:
        at = error.start
    if b"\0" in data:
        raise UsageError("binary, not text", field="document")
    named = _named_encoding(data)
    for encoding in filter(None, (named, "windows-1252", "latin-1")):
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        said = "as it says" if encoding == named else "a guess"
        return text, encoding, f"not UTF-8 (byte {at}): read as {encoding}, {said}"
    raise AssertionError("latin-1 decodes everything")


def _named_encoding(data: bytes) -> str | None:
    """What a page says of itself, if that is an encoding of text."""
    found = _CHARSET.search(data[:_HEAD_BYTES])
    if found is None:
        return None
    try:
        known = codecs.lookup(found[1].decode("ascii"))
    except LookupError:
        return None
    # Python also has encodings of bytes to bytes, and ones that read escapes.
    is_text = getattr(known, "_is_text_encoding", True) and "escape" not in known.name
    return known.name if is_text and known.name not in ("idna", "punycode") else None


def _of_pdf(data: bytes, reserve: Callable[[int], None]) -> DocumentText:
    try:
        import pypdf
    except ImportError:
        raise UsageError(
            "PDF needs the extra: pip install 'memopt[pdf]'", field="document"
        ) from None
    reserve(_PAGE_FACTOR * len(data))
    try:
        reader: Any = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UsageError("the PDF needs a password", field="document")
        count = len(reader.pages)
        if count > PAGES_MAX:
            raise UsageError(f"{count} pages, at most {PAGES_MAX}", field="document")
        pages = [_CONTROLS.sub(" ", page.extract_text()) for page in reader.pages]
        title = str(getattr(reader.metadata, "title", None) or "")
    except UsageError:
        raise
    except Exception as error:
        # A door: what the library raises on a damaged file is not one kind of error.
        raise UsageError(f"the PDF cannot be read: {error!r}", field="document") from error
    return _of_pages([_without_surrogates(page) for page in pages], title, reserve)


def _of_pages(pages: list[str], title: str, reserve: Callable[[int], None]) -> DocumentText:
    reserve(2 * _TEXT_FACTOR * sum(map(len, pages)))
    chunks, at = [], 0
    for number, page in enumerate(pages, 1):
        chunks += [
            Chunk(at + start, at + stop, (f"page {number}", *headings))
            for start, stop, headings in chunk_text(page).chunks
        ]
        at += len(page) + 1
    empty = sum(not page.strip() for page in pages)
    notes = [f"{empty} of {len(pages)} pages have no text: images are not read"] if empty else []
    if not chunks:
        notes.append("it has no text")
    title = " ".join(_CONTROLS.sub(" ", _without_surrogates(title)).split())[:TITLE_CHARS_MAX]
    return DocumentText("\f".join(pages), chunks, Media.PDF, "pdf", title, tuple(notes))


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
