"""What a text is built of: headings, paragraphs, lists, code, tables, as runs of characters.

Owns the reading of plain text and of Markdown, line by line. Invariant: blocks are in order, do not
overlap, begin and end with something other than white space, and leave nothing out but white space
and ruled lines; linear time. Not here: HTML (markup), how blocks become chunks (chunks).
"""

import enum
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

TITLE_CHARS_MAX: Final = 200
"""Of a heading, what is kept in a path."""
LEVELS: Final = 6


class BlockKind(enum.StrEnum):
    HEADING = "heading"
    PROSE = "prose"
    LIST = "list"
    CODE = "code"
    TABLE = "table"


class Block(NamedTuple):
    kind: BlockKind
    start: int
    stop: int
    level: int = 0
    """Of a heading, from 1."""
    title: str = ""
    """Of a heading, without its marks."""


class _Line(NamedTuple):
    start: int
    stop: int
    """Without the white space at its end."""
    text: str
    next: int


def lines_of(source: str) -> Iterator[_Line]:
    at = 0
    while at < len(source):
        end = source.find("\n", at)
        following = len(source) if end < 0 else end + 1
        text = source[at : following if end < 0 else end].rstrip()
        yield _Line(at, at + len(text), text, following)
        at = following


# -- plain text -----------------------------------------------------------------------------------

_CHAPTER: Final = re.compile(
    r"(?:(volume|part|book|act|appendix|teil|buch|partie|livre|parte|libro)|"
    r"(chapter|letter|scene|canto|kapitel|chapitre|cap\u00edtulo)|(section|abschnitt))"
    r"(?:\s++(?:\d++|[ivxlcdm]++|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"the (?:first|second|third|fourth|last))(?:\W.*)?)?",
    re.IGNORECASE,
)
_LINE_OF_TITLE_MAX: Final = 90
_CAPITALS_MIN: Final = 4


def plain_blocks(source: str) -> Iterator[Block]:
    """Paragraphs between blank lines. A line alone that begins with "Chapter" or its like, or is
    in capitals, is a heading."""
    first: _Line | None = None
    last: _Line | None = None
    for line in lines_of(source):
        if line.text:
            first, last = first or line, line
        elif first is not None and last is not None:
            yield _paragraph(source, first, last)
            first = None
    if first is not None and last is not None:
        yield _paragraph(source, first, last)


def _paragraph(source: str, first: _Line, last: _Line) -> Block:
    start = first.start + len(first.text) - len(first.text.lstrip())
    if first is last and (level := _plain_level(first.text.strip())) is not None:
        return heading(start, first.stop, level, source[start : first.stop])
    return Block(BlockKind.PROSE, start, last.stop)


def _plain_level(text: str) -> int | None:
    if len(text) > _LINE_OF_TITLE_MAX:
        return None
    if (named := _CHAPTER.fullmatch(text)) is not None and text[-1] not in ",;":
        return named.lastindex
    letters = sum(character.isalpha() for character in text)
    if letters >= _CAPITALS_MIN and text.isupper() and text[-1] not in ".,;!?":
        return 3
    return None


def heading(start: int, stop: int, level: int, title: str) -> Block:
    title = " ".join(title.split())[:TITLE_CHARS_MAX]
    return Block(BlockKind.HEADING, start, stop, level, title)


# -- Markdown -------------------------------------------------------------------------------------

_FENCE: Final = re.compile(r"[ \t]{0,12}+(`{3,}+(?=[^`]*$)|~{3,}+)")
_ATX: Final = re.compile(r" {0,3}+(#{1,6}+)(?:[ \t]++(.*))?$")
_UNDERLINE: Final = re.compile(r" {0,3}+(?:=++|-++)$")
_RULE: Final = re.compile(r" {0,3}+(?:(?:\*[ \t]*+){3,}+|(?:-[ \t]*+){3,}+|(?:_[ \t]*+){3,}+)$")
_ITEM: Final = re.compile(r"[ \t]*+(?:[-*+]|\d{1,9}+[.)])(?:[ \t]|$)")
_INDENTED: Final = re.compile(r"(?: {4}|\t| {1,3}\t)")
_DELIMITERS: Final = re.compile(r"[ \t]*+\|?[ \t]*+:?-++[-:| \t]*+$")
_LINK: Final = re.compile(r"!?\[([^\[\]]{0,200}+)\]\([^()]{0,500}+\)")
_MARKUP: Final = re.compile(r"\*\*|__|`")
_FRONT_LINES_MAX: Final = 200


def markdown_blocks(source: str) -> Iterator[Block]:
    """Headings, paragraphs with quotes, lists with all they hold, code, tables."""
    return _MarkdownReader(source).blocks()


class _MarkdownReader:
    """Reads line by line with one block open at a time."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._kind: BlockKind | None = None
        self._start = 0
        self._lines = 0
        """Of the block that is open."""
        self._last: _Line | None = None
        """The last line of it that is not blank."""
        self._before = 0
        """Where the line before that one ended."""
        self._blank = False
        """Whether a blank line stands between that one and the line at hand."""
        self._fence = ""

    def blocks(self) -> Iterator[Block]:
        lines = lines_of(self._source)
        front = _front_matter(self._source)
        if front is not None:
            yield front
        for line in lines:
            if front is None or line.start >= front.stop:
                yield from self._read(line)
        yield from self._close()

    def _read(self, line: _Line) -> Iterator[Block]:
        if self._fence:
            self._extend(line)
            opened = _FENCE.match(line.text)
            if (
                opened is not None
                and opened[1].startswith(self._fence)
                and (line.text.strip() == opened[1])
            ):
                self._fence = ""
                if self._kind is BlockKind.CODE:
                    yield from self._close()
            return
        if not line.text:
            self._blank = True
            if self._kind in (BlockKind.PROSE, BlockKind.TABLE):
                yield from self._close()
            return
        if self._kind is BlockKind.LIST and self._in_list(line):
            self._extend(line)
            return
        if self._kind is BlockKind.CODE and _INDENTED.match(line.text):
            self._extend(line)
            return
        if self._kind is BlockKind.TABLE and "|" in line.text:
            self._extend(line)
            return
        if self._kind is not BlockKind.PROSE:
            yield from self._close()
        yield from self._begin(line)

    def _begin(self, line: _Line) -> Iterator[Block]:
        """A line that no open block but a paragraph may take."""
        text = line.text
        if (opened := _FENCE.match(text)) is not None:
            yield from self._close()
            self._fence = opened[1]
            self._open(BlockKind.CODE, line)
        elif (atx := _ATX.match(text)) is not None:
            yield from self._close()
            title = (atx[2] or "").rstrip()
            bare = title.rstrip("#")
            title = bare if not bare or bare[-1] in " \t" else title
            start = line.start + atx.start(1)
            yield heading(start, line.stop, len(atx[1]), _plain(title))
        elif self._kind is BlockKind.PROSE and self._lines == 1 and _UNDERLINE.match(text):
            title = self._source[self._start : self._before_stop()]
            self._kind = None
            yield heading(self._start, line.stop, 1 if "=" in text else 2, _plain(title))
        elif _RULE.match(text):
            yield from self._close()
        elif _ITEM.match(text):
            yield from self._close()
            self._open(BlockKind.LIST, line)
        elif self._kind is BlockKind.PROSE:
            if "|" in text and _DELIMITERS.match(text) and self._headed():
                yield from self._table(line)
            else:
                self._extend(line)
        elif _INDENTED.match(text):
            self._open(BlockKind.CODE, line)
        else:
            self._open(BlockKind.PROSE, line)

    def _in_list(self, line: _Line) -> bool:
        """Whether a line goes on with the list: an item, something indented, or the next line of a
        paragraph in it. A fence in it is read to its end."""
        if (opened := _FENCE.match(line.text)) is not None and line.text[0] in " \t":
            self._fence = opened[1]
            return True
        if line.text[0] in " \t" or (_ITEM.match(line.text) and not _RULE.match(line.text)):
            return True
        return not self._blank and not (opened or _ATX.match(line.text) or _RULE.match(line.text))

    def _headed(self) -> bool:
        """Whether the line before could be the head of a table."""
        return self._last is not None and "|" in self._last.text

    def _table(self, line: _Line) -> Iterator[Block]:
        head = self._last
        assert head is not None
        if self._lines > 1:
            yield Block(BlockKind.PROSE, self._start, self._before)
        self._open(BlockKind.TABLE, head)
        self._extend(line)

    def _open(self, kind: BlockKind, line: _Line) -> None:
        self._kind = kind
        # The indentation of code and of lists belongs to them, but a block begins with a sign.
        self._start = line.start + len(line.text) - len(line.text.lstrip())
        self._lines = 0
        self._extend(line)

    def _extend(self, line: _Line) -> None:
        if line.text:
            self._before = self._before_stop()
            self._last = line
            self._lines += 1
            self._blank = False

    def _before_stop(self) -> int:
        return self._last.stop if self._last is not None else 0

    def _close(self) -> Iterator[Block]:
        if self._kind is not None:
            yield Block(self._kind, self._start, self._before_stop())
        self._kind, self._last, self._fence = None, None, ""


def _plain(title: str) -> str:
    """What a heading says, without marks and the targets of links."""
    return _MARKUP.sub("", _LINK.sub(r"\1", title[: 4 * TITLE_CHARS_MAX]))


def _front_matter(source: str) -> Block | None:
    """What stands between two lines of --- at the beginning: settings of whoever rendered it."""
    lines = lines_of(source)
    first = next(lines, None)
    if first is None or first.text != "---":
        return None
    for number, line in enumerate(lines):
        if line.text in ("---", "..."):
            return Block(BlockKind.CODE, 0, line.stop)
        if number >= _FRONT_LINES_MAX:
            break
    return None
