"""Documents as they come: kinds, encodings, and what is refused."""

import codecs
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.document_records import Media
from memopt.base.errors import UsageError
from memopt.recall.document_text import PAGES_MAX, DocumentText, Raw, raw_of, read_document

BYTES_MAX = 1 << 20


def free(size_bytes: int) -> None:
    """There is room for everything."""


def read(data: bytes | str, name: str | None = None) -> DocumentText:
    return read_document(Raw(data, name), free)


def pdf(*pages: str, title: str = "") -> bytes:
    """A small PDF, written by hand: a line of text a page."""
    info = f"<< /Title ({title}) >>" if title else "<< >>"
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", info,
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]  # fmt: skip
    kids = []
    for text in pages:
        lines = text.split("\n")
        shows = " ".join(f"({line}) Tj 0 -14 Td" for line in lines) if text else ""
        content = f"BT /F1 12 Tf 72 720 Td {shows} ET"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 4 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    return (
        out
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size "
            f"{len(objects) + 1} /Root 1 0 R /Info 3 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
        ).encode()
    )


@pytest.mark.parametrize(
    ("data", "name", "media"),
    [
        ("just words", None, Media.TEXT),
        ("# Title\n\nwords", None, Media.MARKDOWN),
        ("a\n\n```\ncode\n```\n", None, Media.MARKDOWN),
        ("| a |\n|---|\n| 1 |", None, Media.MARKDOWN),
        ("# no comment", "notes.txt", Media.TEXT),
        ("just words", "a/b/NOTES.MD", Media.MARKDOWN),
        ("<!DOCTYPE  html><p>x", None, Media.HTML),
        ("\n <!-- c -->\n<html><p>x", "page.txt", Media.HTML),
        ("<p>x", "page.htm", Media.HTML),
        ("<p>x", None, Media.TEXT),
        ("<htmlish>", None, Media.TEXT),
        ("x = 1", "script.py", Media.TEXT),
    ],
)
def test_what_it_is_written_in_is_told_by_content_then_name(
    data: str, name: str | None, media: Media
) -> None:
    assert read(data, name).media is media
    assert read(data.encode(), name).media is media


@pytest.mark.parametrize(
    ("data", "encoding", "text", "noted"),
    [
        ("Grüße".encode(), "utf-8", "Grüße", ""),
        (codecs.BOM_UTF8 + "Grüße".encode(), "utf-8-sig", "Grüße", ""),
        ("Grüße 日本".encode("utf-16"), "utf-16", "Grüße 日本", ""),
        (codecs.BOM_UTF16_BE + "Grüße".encode("utf-16-be"), "utf-16", "Grüße", ""),
        ("Grüße".encode("utf-32"), "utf-32", "Grüße", ""),
        ("Grüße “ja”".encode("cp1252"), "windows-1252", "Grüße “ja”", "a guess"),
        ("Grüße\x81".encode("latin-1"), "latin-1", "Grüße\x81", "a guess"),
        ("<html><meta charset=koi8-r><p>Привет".encode("koi8-r"), "koi8-r", "Привет", "it says"),
        (b"<html><meta charset='hex'><p>\xff", "windows-1252", "ÿ", "a guess"),
        (b"<html><meta charset=unicode_escape><p>\xff", "windows-1252", "ÿ", "a guess"),
    ],
)
def test_encodings_are_found_and_a_guess_is_said_to_be_one(
    data: bytes, encoding: str, text: str, noted: str
) -> None:
    found = read(data)
    assert (found.text, found.encoding) == (text, encoding)
    assert noted in " ".join(found.notes)
    assert bool(found.notes) == bool(noted)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04 and more", "ZIP"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"\x1f\x8b\x08\x00", "unpack it"),
        (b"SQLite format 3\0 and more", "database"),
        (bytes(range(256)), "binary"),
        (b"text\0text", "binary"),
        (b"\x01\x02\x03\x04 words", "binary"),
        (codecs.BOM_UTF16_LE + b"a", "damaged utf-16"),
        (b"%PDF-1.7 not really", "PDF"),
    ],
)
def test_what_is_no_text_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        read(data)
    assert refused.value.field == "document"


def test_a_few_control_characters_become_spaces_in_their_places() -> None:
    found = read("some words \x1b[1m bold" + " and more" * 20)
    assert found.text.startswith("some words  [1m bold")
    assert found.notes == ("1 control characters are read as spaces",)


@pytest.mark.parametrize("data", ["", " \n\t", "<html><script>x</script></html>", pdf("")])
def test_an_empty_document_is_no_pieces_and_says_so(data: bytes | str) -> None:
    found = read(data)
    assert found.chunks == []
    assert "it has no text" in found.notes


def test_a_pdf_is_read_page_by_page() -> None:
    found = read(pdf("First page.", "", "CHAPTER I", title="A Title"))
    assert found.media is Media.PDF
    assert found.title == "A Title"
    pieces = [(found.text[c.start : c.stop], c.headings) for c in found.chunks]
    assert pieces == [
        ("First page.", ("page 1",)),
        ("CHAPTER I", ("page 3", "CHAPTER I")),
    ]
    assert found.notes == ("1 of 3 pages have no text: images are not read",)


def test_a_pdf_of_too_many_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memopt.recall.document_text.PAGES_MAX", 2)
    assert PAGES_MAX > 2
    with pytest.raises(UsageError, match="3 pages, at most 2"):
        read(pdf("a", "b", "c"))


def test_without_the_library_a_pdf_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(UsageError, match=r"memopt\[pdf\]"):
        read(pdf("a"))


@given(st.binary(max_size=60), st.integers(0, 500))
def test_a_damaged_pdf_is_read_or_refused(noise: bytes, at: int) -> None:
    data = pdf("First page.", "Second page.")
    try:
        found = read(data[:at] + noise + data[at + len(noise) :])
    except UsageError:
        return
    assert found.media in (Media.PDF, Media.TEXT)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_document_is_read_or_refused(data: bytes | str) -> None:
    try:
        found = read(data)
    except UsageError:
        return
    for chunk in found.chunks:
        text = found.text[chunk.start : chunk.stop]
        assert text.strip()
        assert text.encode()


def test_a_document_is_a_text_bytes_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_bytes(b"# Guide")
    assert raw_of("# Guide", None, BYTES_MAX, free) == Raw("# Guide", None)
    assert raw_of(bytearray(b"x"), "a.md", BYTES_MAX, free) == Raw(b"x", "a.md")
    assert raw_of(path, None, BYTES_MAX, free) == Raw(b"# Guide", str(path))
    assert raw_of(path, "b.md", BYTES_MAX, free) == Raw(b"# Guide", "b.md")
    for wrong in (None, 3, ["text"]):
        with pytest.raises(UsageError, match="document"):
            raw_of(wrong, None, BYTES_MAX, free)
    with pytest.raises(UsageError, match="lone surrogate"):
        raw_of("\ud800", None, BYTES_MAX, free)


def test_the_name_of_a_file_is_not_taken_for_a_text(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("x")
    with pytest.raises(UsageError, match=r"Path\("):
        raw_of(str(path), None, BYTES_MAX, free)
    assert raw_of(str(tmp_path / "other.md"), None, BYTES_MAX, free).name is None


def test_what_is_no_file_or_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a directory"):
        raw_of(tmp_path, None, BYTES_MAX, free)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        raw_of(tmp_path / "pipe", None, BYTES_MAX, free)
    with pytest.raises(FileNotFoundError):
        raw_of(tmp_path / "none", None, BYTES_MAX, free)
    large = tmp_path / "large"
    large.write_bytes(b"x")
    os.truncate(large, BYTES_MAX + 1)

    def unasked(size_bytes: int) -> None:
        raise AssertionError

    for document in (large, b"x" * (BYTES_MAX + 1), "é" * (BYTES_MAX // 2 + 1)):
        with pytest.raises(UsageError, match="document_bytes_max"):
            raw_of(document, None, BYTES_MAX, unasked)


def test_everything_is_reserved_before_it_is_made() -> None:
    asked: list[int] = []
    read_document(Raw(b"<html>" + b"<p>word" * 1000, None), asked.append)
    assert sum(asked) >= 4 * 7000 * 3
    asked.clear()
    data = pdf("a")
    read_document(Raw(data, None), asked.append)
    assert sum(asked) >= 16 * len(data)
