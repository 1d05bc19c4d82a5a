"""HTML to plain text with its structure: headings, paragraphs, lists, code, tables as rows.

Owns a reader of tags that does not care how wrong they are. Scripts, styles, navigation, forms and
what is hidden are left out; of links and images their text is kept. Invariant: any input is read in
linear time without recursion, and without an error. Not here:
encodings (recall), chunks.

The standard library's html.parser lost: until late patch releases of every Python it is quadratic
on tags and comments that are never closed.
"""

import html
import re
from typing import Final, NamedTuple

from memopt.text.blocks import LEVELS, Block, BlockKind, heading

NESTING_SHOWN_MAX: Final = 8
"""Lists inside lists are indented so far at most."""


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


DROPPED: Final = _names(
    "nav template noscript iframe object applet svg math canvas audio video map select button "
    "datalist dialog"
)
RAW: Final = frozenset({"script", "style", "title", "textarea", "xmp", "noembed", "noframes"})
"""What is between their tags is no markup."""
VOID: Final = _names("area base br col embed hr img input link meta param source track wbr")
BLOCKS: Final = _names(
    "address article aside blockquote body caption center dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form header hgroup hr html legend li main menu ol p pre "
    "section summary table tbody td tfoot th thead tr ul"
) | {f"h{level}" for level in range(1, LEVELS + 1)}
_IMPLIED: Final = {
    "p": frozenset[str](), "li": frozenset({"ul", "ol", "menu", "dir"}),
    "dt": frozenset({"dl"}), "dd": frozenset({"dl"}),
    **dict.fromkeys(("tr", "td", "th"), frozenset({"table"})),
}  # fmt: skip
"""Elements whose end tags are often left out, and what holds them."""
_ALIKE: Final = {
    "li": ("li",), "dt": ("dt", "dd"), "dd": ("dt", "dd"), "tr": ("tr",),
    "td": ("td", "th", "tr"), "th": ("td", "th", "tr"),
}  # fmt: skip

_HEADINGS: Final = frozenset(f"h{level}" for level in range(1, LEVELS + 1))
_ROWS: Final = frozenset({"tr", "caption", "thead", "tbody", "tfoot"})
_CELLS: Final = frozenset({"td", "th"})
_LISTS: Final = frozenset({"ul", "ol", "menu", "dir"})

ATTRIBUTES_CHARS_MAX: Final = 4096
"""Of one tag, as much is looked at."""
_NAME: Final = re.compile(r"[a-zA-Z][^\s/>]{0,63}+")
_REST: Final = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
"""The rest of a tag. A quote counts behind an equals sign only, as in browsers."""
_ATTRIBUTE: Final = re.compile(
    r"([^\s=/>\"']++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>]++)))?+"
)
_ENTITY: Final = re.compile(
    r"&(?:#[0-9]{1,7}(?!\d)|#[xX][\da-fA-F]{1,6}(?![\da-fA-F])|[a-zA-Z][a-zA-Z0-9]{1,31});?"
)
_SPACE: Final = re.compile(r"\s++")


class Extract(NamedTuple):
    """What a page says."""

    text: str
    blocks: list[Block]
    """Offsets are into `text`."""
    title: str


class _Tag(NamedTuple):
    name: str
    closing: bool
    attributes: str
    stop: int


def extract(source: str) -> Extract:
    """Text and structure of an HTML page, or of a part of one."""
    reader = _PageReader(source, DROPPED)
    reader.read()
    if reader.dropping:
        # What is never closed would take the rest of the page with it.
        reader = _PageReader(source, frozenset())
        reader.read()
    return reader.extract()


class _PageReader:
    """Writes the text of a page as it meets its tags. What is open is only counted, so nesting
    costs nothing and tags that do not match do no harm."""

    def __init__(self, source: str, dropped: frozenset[str]) -> None:
        self._source = source
        self._dropped = dropped
        self._unclosed: set[str] = set()
        """Elements without tags inside that have no end in the rest of the page."""
        self.dropping = ""
        """The name of the element that is left out at the moment."""
        self._nested = 0
        self._within = 0
        """How many lists or tables are open inside it."""
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._title = ""
        self._inline: list[str] = []
        """What was said since the last block ended."""
        self._level = 0
        """Of the heading at hand; 0 in a paragraph."""
        self._run: BlockKind | None = None
        """A list or a table is open: a block that is written line by line."""
        self._run_start: int | None = None
        self._lists: list[int | None] = []
        """Of each of the outermost lists that are open the next number, None where it has none."""
        self._depth = 0
        self._tables = 0
        self._cells = 0
        self._pre = 0
        self._mark = ""

    def extract(self) -> Extract:
        return Extract("".join(self._parts), self._blocks, self._title)

    def read(self) -> None:
        source, at = self._source, 0
        while at < len(source):
            opening = source.find("<", at)
            if opening < 0:
                opening = len(source)
            if opening > at and not self.dropping:
                self._text(source[at:opening])
            at = self._markup(opening) if opening < len(source) else opening
        self._flush()
        self._end_run()

    def _markup(self, at: int) -> int:
        """Read what begins with "<", and return where to go on."""
        source = self._source
        if source.startswith("<!--", at):
            end = source.find("-->", at + 2)
            return end + 3 if end >= 0 else len(source)
        if source.startswith(("<!", "<?"), at):
            end = source.find(">", at)
            return end + 1 if end >= 0 else len(source)
        tag = self._tag(at)
        if tag is None:
            if not self.dropping:
                self._text("<")
            return at + 1
        if self.dropping:
            self._dropped_tag(tag)
        else:
            self._kept_tag(tag)
        if tag.name in RAW and not tag.closing:
            return self._raw(tag)
        return tag.stop

    def _tag(self, at: int) -> _Tag | None:
        source = self._source
        closing = source.startswith("/", at + 1)
        name = _NAME.match(source, at + 1 + closing)
        if name is None:
            return None
        end = _REST.match(source, name.end())
        stop = end.end() if end is not None else len(source)
        attributes = source[name.end() : min(stop, name.end() + ATTRIBUTES_CHARS_MAX)]
        return _Tag(name[0].lower(), closing, attributes, stop)

    def _raw(self, tag: _Tag) -> int:
        """Past a script, a style or a title, which hold no tags."""
        if tag.name in self._unclosed:
            return tag.stop
        end = re.compile(f"</{tag.name}(?=[\\s/>])", re.IGNORECASE).search(self._source, tag.stop)
        if end is None:
            self._unclosed.add(tag.name)
            return tag.stop if tag.name == "title" else len(self._source)
        if tag.name == "title" and not self._title and not self.dropping:
            said = self._source[tag.stop : min(end.start(), tag.stop + ATTRIBUTES_CHARS_MAX)]
            self._title = heading(0, 0, 1, _unescaped(said)).title
        return end.start()

    def _dropped_tag(self, tag: _Tag) -> None:
        if self._ended_by(tag):
            self.dropping = ""
            self._kept_tag(tag)
        elif tag.name == self.dropping and self._within == 0:
            self._nested += -1 if tag.closing else 1
            if self._nested == 0:
                self.dropping = ""

    def _ended_by(self, tag: _Tag) -> bool:
        """Whether what is left out ends here without an end tag: a paragraph at the next block, an
        item or a cell at the next one or with what holds it."""
        held_by = _IMPLIED.get(self.dropping)
        if held_by is None:
            return False
        if not held_by:
            return tag.name in BLOCKS and not tag.closing
        if tag.name not in held_by:
            return self._within == 0 and not tag.closing and tag.name in _ALIKE[self.dropping]
        self._within += -1 if tag.closing else 1
        return self._within < 0

    def _kept_tag(self, tag: _Tag) -> None:
        name = tag.name
        if name == "br":
            self._inline.append("\n")
        elif name == "img":
            self._inline.append(_unescaped(_attributes(tag).get("alt", "")))
        elif name in VOID or name in RAW:
            if name == "hr":
                self._flush()
        elif not tag.closing and self._leaves_out(tag):
            self.dropping, self._nested, self._within = name, 1, 0
            self._inline.append(" ")
        elif name in BLOCKS:
            self._block(name, closing=tag.closing)

    def _leaves_out(self, tag: _Tag) -> bool:
        return bool(self._dropped) and (tag.name in self._dropped or _is_hidden(tag))

    # Structure.

    def _block(self, name: str, *, closing: bool) -> None:
        if name in _HEADINGS and not self._tables:
            self._flush()
            self._end_run()
            self._level = 0 if closing else int(name[1])
        elif name == "table":
            self._table(closing=closing)
        elif name in _ROWS:
            self._flush()
            self._cells = 0
        elif name in _CELLS and self._tables:
            if not closing:
                self._inline.append(" | " if self._cells else "")
                self._cells += 1
        elif name in _LISTS and not self._tables:
            self._list(ordered=name == "ol", closing=closing)
        elif name == "li" and self._depth and not self._tables:
            self._item(closing=closing)
        elif name == "pre" and not self._tables:
            self._flush()
            self._pre = max(0, self._pre + (-1 if closing else 1))
        elif self._tables:
            self._inline.append(" ")
        elif self._depth or self._pre:
            # A paragraph in an item is a part of it, and so is a line of code in its block.
            if self._inline and not self._inline[-1].endswith("\n"):
                self._inline.append("\n")
        else:
            self._flush()
            self._level = 0

    def _table(self, *, closing: bool) -> None:
        self._flush()
        self._cells = 0
        if closing:
            self._tables = max(0, self._tables - 1)
            if self._tables == 0 and self._depth == 0:
                self._end_run()
            return
        self._tables += 1
        if self._run is None:
            self._run = BlockKind.TABLE

    def _list(self, *, ordered: bool, closing: bool) -> None:
        self._flush()
        if closing:
            self._depth = max(0, self._depth - 1)
            del self._lists[self._depth :]
            if self._depth == 0:
                self._end_run()
            return
        self._depth += 1
        if len(self._lists) < NESTING_SHOWN_MAX:
            self._lists.append(1 if ordered else None)
        if self._run is None:
            self._run = BlockKind.LIST

    def _item(self, *, closing: bool) -> None:
        self._flush()
        if closing:
            return
        number = self._lists[-1]
        if number is not None:
            self._lists[-1] = number + 1
        indent = "  " * (len(self._lists) - 1)
        self._mark = f"{indent}- " if number is None else f"{indent}{number}. "

    # Text.

    def _text(self, text: str) -> None:
        text = _unescaped(text)
        self._inline.append(text if self._pre else _SPACE.sub(" ", text))

    def _flush(self) -> None:
        """Write what was said: a paragraph, a heading, code, or a line of a list or a table."""
        said = "".join(self._inline)
        self._inline.clear()
        if self._pre and not self._tables:
            said = "\n".join(line.rstrip() for line in said.split("\n")).strip("\n")
        else:
            lines = (" ".join(line.split()) for line in said.split("\n"))
            said = (" " if self._tables else "\n").join(line for line in lines if line)
        if not said.strip(" |\n"):
            return
        if self._run is not None:
            self._line(said)
            return
        kind = BlockKind.CODE if self._pre else BlockKind.PROSE
        said = said if self._pre else said.strip()
        start = self._put(said)
        if self._level:
            self._blocks.append(heading(start, self._length, self._level, said))
            self._level = 0
        else:
            lead = len(said) - len(said.lstrip())
            self._blocks.append(Block(kind, start + lead, self._length))

    def _line(self, said: str) -> None:
        said, self._mark = self._mark + said, ""
        if self._run_start is None:
            self._run_start = self._put(said.lstrip())
        else:
            self._put(said, "\n")

    def _put(self, text: str, between: str = "\n\n") -> int:
        """Where it begins."""
        if self._length:
            self._parts.append(between)
            self._length += len(between)
        self._parts.append(text)
        self._length += len(text)
        return self._length - len(text)

    def _end_run(self) -> None:
        """The list or table that is open, if any, is over."""
        if self._run is not None and self._run_start is not None:
            self._blocks.append(Block(self._run, self._run_start, self._length))
        self._run = self._run_start = None
        self._lists.clear()
        self._depth = self._tables = self._cells = 0
        self._mark = ""


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def _attributes(tag: _Tag) -> dict[str, str]:
    return {
        found[1].lower(): found[2] or found[3] or found[4] or ""
        for found in _ATTRIBUTE.finditer(tag.attributes)
    }


def _is_hidden(tag: _Tag) -> bool:
    folded = tag.attributes.lower()
    if "hidden" not in folded and "none" not in folded:
        return False
    attributes = _attributes(tag)
    style = "".join(attributes.get("style", "").lower().split())
    return (
        attributes.get("hidden", "until-found").lower() != "until-found"
        or attributes.get("aria-hidden", "").lower() == "true"
        or "display:none" in style
        or "visibility:hidden" in style
    )
