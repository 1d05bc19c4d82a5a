"""Texts, Markdown and HTML cut into pieces along their structure.

Owns where the cuts are. A piece is a run of blocks of one section, filled up to a target size; a
paragraph, a list, a code block or a table is cut only where it is larger than the maximum alone:
between items, rows or lines, then between sentences, words, and at last anywhere. A heading goes
with what follows it.

Invariant: pieces are in order and do not overlap, none is larger than the maximum, and together
they hold everything but white space and ruled lines; text[start:stop] is the piece, where the text
of an HTML page is what was extracted of it. Linear time. Not here: files and encodings (recall).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.text.blocks import Block, BlockKind, markdown_blocks, plain_blocks
from memopt.text.markup import extract
from memopt.text.sentences import sentence_starts

TARGET_CHARS: Final = 600
CHARS_MAX: Final = 1200
"""About 300 tokens: what a model is shown of a document in one piece."""
SMALLEST_CHARS: Final = 16
_COMBINING_MAX: Final = 32
"""A cut is moved back by so many signs at most, to leave one with what stands on it."""


class Chunk(NamedTuple):
    start: int
    stop: int
    headings: tuple[str, ...]
    """What it stands under, the outermost first."""


class Chunked(NamedTuple):
    text: str
    """What the offsets count in."""
    chunks: list[Chunk]
    title: str = ""
    """Of a page, as it calls itself."""


def chunk_text(
    source: str, *, target_chars: int = TARGET_CHARS, chars_max: int = CHARS_MAX
) -> Chunked:
    """Plain text. Raises UsageError for sizes that contradict each other."""
    return Chunked(source, _chunks(source, plain_blocks(source), target_chars, chars_max))


def chunk_markdown(
    source: str, *, target_chars: int = TARGET_CHARS, chars_max: int = CHARS_MAX
) -> Chunked:
    """Markdown, as it is written: no mark is taken away."""
    return Chunked(source, _chunks(source, markdown_blocks(source), target_chars, chars_max))


def chunk_html(
    source: str, *, target_chars: int = TARGET_CHARS, chars_max: int = CHARS_MAX
) -> Chunked:
    """The text of an HTML page."""
    page = extract(source)
    chunks = _chunks(page.text, page.blocks, target_chars, chars_max)
    return Chunked(page.text, chunks, page.title)


def _chunks(source: str, blocks: Iterable[Block], target: int, most: int) -> list[Chunk]:
    if not SMALLEST_CHARS <= target <= most:
        raise UsageError(
            f"expected {SMALLEST_CHARS} <= target_chars <= chars_max, got {target} and {most}",
            field="target_chars",
        )
    return list(_Packer(source, target, most).packed(blocks))


class _Packer:
    def __init__(self, source: str, target: int, most: int) -> None:
        self._source = source
        self._target = target
        self._most = most
        self._path: list[tuple[int, str]] = []
        """(level, title) of the headings that are in force."""
        self._start: int | None = None
        self._stop = 0
        self._bare = True
        """Whether the piece at hand has headings only."""

    def packed(self, blocks: Iterable[Block]) -> Iterator[Chunk]:
        for block in blocks:
            if block.kind is BlockKind.HEADING:
                if not self._bare:
                    yield from self._finish()
                yield from self._add(block)
                self._bare = True
                self._path = [entry for entry in self._path if entry[0] < block.level]
                self._path.append((block.level, block.title))
            else:
                yield from self._add(block)
        yield from self._finish()

    def _add(self, block: Block) -> Iterator[Chunk]:
        """Put a block into the piece at hand, or begin another with it."""
        start = block.start
        if self._start is not None:
            small = self._bare or self._stop - self._start < self._target // 4
            if block.stop - self._start <= (self._most if small else self._target):
                self._stop, self._bare = block.stop, False
                return
            if small and block.stop - start > self._most:
                # What is cut anyway may begin with the little that stands before it.
                start, self._start = self._start, None
            else:
                yield from self._finish()
        pieces = list(self._cut(start, block.stop, block.kind))
        for piece in pieces[:-1]:
            yield Chunk(*piece, self._titles())
        self._start, self._stop = pieces[-1]
        self._bare = False

    def _finish(self) -> Iterator[Chunk]:
        if self._start is not None:
            yield Chunk(self._start, self._stop, self._titles())
        self._start, self._bare = None, True

    def _titles(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._path if title)

    # What is too large.

    def _cut(self, start: int, stop: int, kind: BlockKind) -> Iterator[tuple[int, int]]:
        while stop - start > self._most:
            window = self._source[start : start + self._most + 1]
            at = start + self._best_cut(window, kind)
            end = start + len(self._source[start:at].rstrip())
            yield start, end
            while at < stop and self._source[at].isspace():
                at += 1
            start = at
        yield start, stop

    def _best_cut(self, window: str, kind: BlockKind) -> int:
        """The best place in a window of one character more than the maximum: of the best sort that
        lies behind half the target, the last within the target, else the first after it."""
        for places in _PLACES[kind]:
            fitting = [at for at in places(window) if self._target // 2 <= at <= self._most]
            if fitting:
                return max((at for at in fitting if at <= self._target), default=fitting[0])
        at = self._most
        for _ in range(min(_COMBINING_MAX, self._most - 1)):
            if not (unicodedata.combining(window[at]) or window[at] in "\u200d\ufe0f"):
                break
            at -= 1
        return at


def _found(pattern: str) -> Callable[[str], list[int]]:
    compiled = re.compile(pattern, re.MULTILINE)

    def places(window: str) -> list[int]:
        return [found.end() for found in compiled.finditer(window)]

    return places


_outer_items: Final = _found(r"\n(?=(?:[-*+]|\d{1,9}[.)])[ \t])")
_items: Final = _found(r"\n(?=[ \t]{0,32}+(?:[-*+\u2022]|\d{1,9}[.)])[ \t])")
_paragraphs: Final = _found(r"\n[ \t\r]{0,64}+\n\s{0,64}+")
_outer_lines: Final = _found(r"\n(?=[^\s)}\]])")
_lines: Final = _found(r"\n")
_words: Final = _found(r"\s++|(?<=[\u3001\uff0c\u3002])")

_PLACES: Final[dict[BlockKind, tuple[Callable[[str], list[int]], ...]]] = {
    BlockKind.HEADING: (sentence_starts, _words),
    BlockKind.PROSE: (_items, sentence_starts, _lines, _words),
    BlockKind.LIST: (_outer_items, _items, _paragraphs, sentence_starts, _lines, _words),
    BlockKind.CODE: (_paragraphs, _outer_lines, _lines, _words),
    BlockKind.TABLE: (_lines, sentence_starts, _words),
}
