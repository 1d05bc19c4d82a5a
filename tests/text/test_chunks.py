"""Texts in pieces: along their structure, exact, complete, whatever they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.text.blocks import TITLE_CHARS_MAX, BlockKind, markdown_blocks, plain_blocks
from memopt.text.chunks import Chunked, chunk_html, chunk_markdown, chunk_text
from memopt.text.markup import extract
from memopt.text.sentences import sentence_starts

MARKDOWN = """\
---
author: nobody
---
# Guide

Intro with `code`.
Its second line.

Install
-------

- item one
  continued

  paragraph of item one
- item two
  ```
  fenced

not indented in the fence
  ```

After the list.

| a | b |
|---|---|
| 1 | 2 |

```python
def f():

    # no heading
    return 1
```

    indented

    code

* * *

### Deep ###
> quote

## Last
"""


def pieces(chunked: Chunked) -> list[str]:
    return [chunked.text[chunk.start : chunk.stop] for chunk in chunked.chunks]


def check(chunked: Chunked, most: int) -> None:
    """What holds for any text: order, size, and nothing left out but space and ruled lines."""
    at = 0
    left = []
    for chunk in chunked.chunks:
        assert at <= chunk.start < chunk.stop <= len(chunked.text)
        assert chunk.stop - chunk.start <= most
        left.append(chunked.text[at : chunk.start])
        at = chunk.stop
        assert all(0 < len(title) <= TITLE_CHARS_MAX for title in chunk.headings)
    left.append(chunked.text[at:])
    assert re.sub(r"[\s*_-]", "", "".join(left)) == ""


def test_markdown_is_read_block_by_block() -> None:
    blocks = list(markdown_blocks(MARKDOWN))
    assert [(block.kind, MARKDOWN[block.start : block.stop][:12]) for block in blocks] == [
        (BlockKind.CODE, "---\nauthor: "),
        (BlockKind.HEADING, "# Guide"),
        (BlockKind.PROSE, "Intro with `"),
        (BlockKind.HEADING, "Install\n----"),
        (BlockKind.LIST, "- item one\n "),
        (BlockKind.PROSE, "After the li"),
        (BlockKind.TABLE, "| a | b |\n|-"),
        (BlockKind.CODE, "```python\nde"),
        (BlockKind.CODE, "indented\n\n  "),
        (BlockKind.HEADING, "### Deep ###"),
        (BlockKind.PROSE, "> quote"),
        (BlockKind.HEADING, "## Last"),
    ]
    assert [(block.level, block.title) for block in blocks if block.level] == [
        (1, "Guide"), (2, "Install"), (3, "Deep"), (2, "Last"),
    ]  # fmt: skip


def test_pieces_know_what_they_stand_under_and_headings_go_with_what_follows() -> None:
    chunked = chunk_markdown(MARKDOWN, target_chars=120, chars_max=200)
    paths = {piece.split("\n")[0]: chunk.headings for piece, chunk in
             zip(pieces(chunked), chunked.chunks, strict=True)}  # fmt: skip
    assert paths["# Guide"] == ("Guide",)
    assert paths["Install"] == ("Guide", "Install")
    assert paths["### Deep ###"] == ("Guide", "Install", "Deep")
    assert paths["## Last"] == ("Guide", "Last")
    check(chunked, 200)


def test_titles_of_markdown_are_plain_and_bounded() -> None:
    text = "# **Use** of [`the tool`](http://x/y) and ![it](z)\n\n" + "# [" * 5000 + "\n\nend"
    titles = [block.title for block in markdown_blocks(text) if block.level]
    assert titles[0] == "Use of the tool and it"
    assert len(titles[1]) <= TITLE_CHARS_MAX


def test_what_fits_is_never_cut() -> None:
    code = "```\n" + "line of code\n" * 20 + "```"
    table = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 20
    items = "".join(f"- item {number}. It has two sentences.\n" for number in range(8))
    text = f"Before.\n\n{code}\n\nBetween.\n\n{table}\nOther.\n\n{items}\nEnd."
    found = pieces(chunk_markdown(text, target_chars=50, chars_max=400))
    for whole in (code, table.strip(), items.strip()):
        assert sum(whole in piece for piece in found) == 1


def test_what_does_not_fit_is_cut_where_it_hurts_least() -> None:
    items = "".join(f"- item {number}. Two sentences here.\n" for number in range(40))
    for piece in pieces(chunk_markdown(items, target_chars=100, chars_max=150)):
        assert piece.startswith("- item")
        assert piece.endswith("here.")
    rows = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 200
    for piece in pieces(chunk_markdown(rows, target_chars=100, chars_max=150)):
        assert piece.startswith("|")
        assert piece.endswith("|")
    prose = "Dr. Smith paid 3.50 dollars to J. Doe, e.g. for tea. He left! Did he? " * 20
    for piece in pieces(chunk_text(prose, target_chars=100, chars_max=200)):
        assert piece.endswith((".", "!", "?"))
        assert not piece.endswith(("Dr.", "J.", "e.g."))
    code = "\n\n".join(f"def f{number}():\n    return {number}" for number in range(40))
    for piece in pieces(chunk_markdown(f"```\n{code}\n```", target_chars=90, chars_max=120))[1:-1]:
        assert piece.startswith("def f")


def test_one_long_word_is_cut_at_the_maximum_but_not_off_its_signs() -> None:
    assert [len(piece) for piece in pieces(chunk_text("a" * 250, chars_max=100, target_chars=50))]\
        == [100, 100, 50]  # fmt: skip
    for piece in pieces(chunk_text("e\u0301" * 250, target_chars=51, chars_max=101)):
        assert piece[0] == "e"


def test_small_paragraphs_are_joined_up_to_the_target() -> None:
    found = pieces(chunk_text("A short one.\n\n" * 100, target_chars=100, chars_max=200))
    assert all(80 <= len(piece) <= 100 for piece in found[:-1])


def test_chapters_and_capitals_are_headings_of_plain_text() -> None:
    text = (
        "PERSUASION\n\nChapter 1\n\nSir Walter Elliot.\n\nPart of it was true\n\nCHAPTER II.\n\n"
        "Mr. Shepherd.\n\nSection 4: The end of it\n\nEND OF ALL.\n\nOne."
    )
    headings = [b.title for b in plain_blocks(text) if b.kind is BlockKind.HEADING]
    assert headings == ["PERSUASION", "Chapter 1", "CHAPTER II.", "Section 4: The end of it"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", 4),
        ("He paid $3.50 at 5 p.m. on Monday.", 1),
        ("He came at 5 p.m. Then he left.", 2),
        ("Mr. J. R. Smith, Ph.D. was here.", 1),
        ("See e.g. Fig. 3 and vol. II.", 1),
        ("So do I. Then all did.", 2),
        ("“Stop!” he said. “Why?” She left...  Then came…  Me.", 5),
        ("1. Wash it. 2. Dry it.", 3),
        ("これは文です。次の文。終わり", 3),
        ("no end at all", 1),
        ("version 1.2.3 is out", 1),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    assert len(sentence_starts(text)) + 1 == sentences


def test_sizes_that_contradict_each_other_are_refused() -> None:
    for target, most in ((10, 5), (15, 100), (0, 0), (-1, 100)):
        with pytest.raises(UsageError, match="target_chars"):
            chunk_text("text", target_chars=target, chars_max=most)


@pytest.mark.parametrize("source", ["", " \n\t ", "---\n", "\ufeff"])
def test_nothing_makes_no_pieces_or_one(source: str) -> None:
    for chunk in (chunk_text, chunk_markdown, chunk_html):
        assert len(chunk(source).chunks) <= 1


LINES = st.sampled_from(
    ["", "", "# One", "## Two ##", "#no", "Title", "===", "---", "- item", "  - inner", "3. third",
     "    code", "\tcode", "```", "~~~py", "  ```", "| a | b |", "|---|:-:|", "> said",
     "***",
     "A sentence. And another!", "CHAPTER II", "word " * 30, "x" * 90, "日本語。文。", "a\u0301",
     "\r", "\x0c", "\x85", "\u2028", "<p>html</p>", "1.", "-", "Dr. No. 5 p.m. Who?"]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=40).map("\n".join) | st.text(max_size=200)


@given(TEXTS, st.integers(16, 80), st.integers(0, 60))
def test_any_text_is_cut_into_pieces_that_make_it_up(text: str, target: int, more: int) -> None:
    for chunk in (chunk_text, chunk_markdown):
        check(chunk(text, target_chars=target, chars_max=target + more), target + more)
        assert chunk(text).text == text


@given(TEXTS)
def test_no_block_that_fits_is_cut(text: str) -> None:
    for blocks, chunk in ((plain_blocks, chunk_text), (markdown_blocks, chunk_markdown)):
        starts = {piece.start for piece in chunk(text, target_chars=40, chars_max=100).chunks}
        for block in blocks(text):
            assert text[block.start : block.stop].strip() == text[block.start : block.stop]
            if block.stop - block.start <= 100:
                assert not any(block.start < start < block.stop for start in starts)


PAGE = """<!doctype html><html><head><title>A &amp; B</title><style>p{}</style>
<script>if (a < b) "<p>no</p>"</script></head><body>
<nav><ul><li>Home</ul></nav><h1>Head <a href="x>y">link</a></h1>
<p>Para one.<p title="it's hidden">Para
 two &lt;i&gt; &#x41;&#99999999999;&#5000000; <img alt="a cat" src=x><br>line
<ul><li>One<li>Two <p>in it</p><ol><li>a</li><li>b</ol><li>Three</ul>
<table><caption>Cap</caption><tr><th>A<th>B</tr><tr><td>1<td>2 <p>x</p></table>
<div hidden>secret</div><div style="DISPLAY : none">secret</div><i aria-hidden=true>secret</i>
<pre><code>def f():
    return 1
</code></pre><h2>Two</h2>tail <b>bold</b>text, a < b and <unknown>more</unknown>
<p hidden>secret<p>kept <!-- secret --> <ul><li hidden>secret<ul><li>secret</ul><li>shown</ul>
</body>"""


def test_a_page_becomes_text_with_its_structure() -> None:
    page = extract(PAGE)
    assert page.title == "A & B"
    assert [(block.kind, page.text[block.start : block.stop]) for block in page.blocks] == [
        (BlockKind.HEADING, "Head link"),
        (BlockKind.PROSE, "Para one."),
        (BlockKind.PROSE, "Para two <i> A&#99999999999;\ufffd a cat\nline"),
        (BlockKind.LIST, "- One\n- Two\nin it\n  1. a\n  2. b\n- Three"),
        (BlockKind.TABLE, "Cap\nA | B\n1 | 2 x"),
        (BlockKind.CODE, "def f():\n    return 1"),
        (BlockKind.HEADING, "Two"),
        (BlockKind.PROSE, "tail boldtext, a < b and more"),
        (BlockKind.PROSE, "kept"),
        (BlockKind.LIST, "- shown"),
    ]
    check(chunk_html(PAGE, target_chars=20, chars_max=40), 40)
    assert chunk_html(PAGE).chunks[-1].headings == ("Head link", "Two")


def test_what_is_never_closed_does_not_take_the_page_with_it() -> None:
    for opened in ("<nav>", "<div hidden>", "<svg>", "<title>", "<h1>", "<pre>", "<ul>", "<table>"):
        assert "kept words" in extract(f"<p>one</p>{opened}<p>kept words</p>").text


_TAG_WORDS = """
<p> </p> <div> </div> <ul> </ul> <li> </li> <ol> <table> </table> <tr> <td> </td> <h2> </h2> <pre>
</pre> <nav> </nav> <p_hidden> <li_hidden> <br> <hr/> <b> </b> <a_href='>'> </a> <script> </script>
<title> </title> <!-- --> <! <? < > & &amp; &#0; &#x110000; &#xD800; <img_alt="x"> <x_y="> </
<section> </section> <dl> <dt> <dd> </dl> word other
"""
TAGS = st.sampled_from(
    [word.replace("_", " ") for word in _TAG_WORDS.split()] + [" ", "\n", "\x00"]
)


@given(st.lists(TAGS, max_size=40).map("".join) | st.text(max_size=200))
def test_any_page_is_read(source: str) -> None:
    page = extract(source)
    at = 0
    for block in page.blocks:
        said = page.text[block.start : block.stop]
        assert page.text[at : block.start].strip() == ""
        assert said.strip() == said != ""
        at = block.stop
    assert page.text[at:].strip() == ""
    check(chunk_html(source, target_chars=20, chars_max=30), 30)


@st.composite
def pages(draw: st.DrawFn, depth: int = 3) -> tuple[str, list[str]]:
    """A well-formed page, and the words that a reader of it sees, in order."""
    html, seen = [], []
    for _ in range(draw(st.integers(0, 4))):
        if depth == 0 or draw(st.booleans()):
            word = f"w{draw(st.integers(0, 10**6))}"
            html.append(f" {word} ")
            seen.append(word)
        else:
            inner, words = draw(pages(depth - 1))
            name = draw(st.sampled_from(
                ["div", "p", "section", "b", "h3", "blockquote", "pre", "em", "span"]
            ))  # fmt: skip
            hidden = draw(st.sampled_from(["", "", "", " hidden", " style='display:none'"]))
            if name == "p" and hidden:
                name = "div"  # a paragraph ends at the next block, hidden or not
            html.append(f"<{name}{hidden}>{inner}</{name}>")
            seen += [] if hidden else words
    return "".join(html), seen


@given(pages())
def test_all_that_is_seen_is_kept_in_order_and_nothing_else(page: tuple[str, list[str]]) -> None:
    source, seen = page
    assert extract(source).text.split() == seen


HOSTILE = [
    "<", "<a", "<a ", '<a b="', "<a b='\"", "<!--", "<!", "</", "<div>", "<ul><li>", "<table><td>",
    "<p hidden>", "<nav>", "<title>", "<script>", "<svg></nav>", "&", "&#1", "&#x", "&amp",
    "<pre>\n", "<img alt='", " hidden=", "x", ".", "!?", "。", "- ", "#", "```", "|-", "1. ", "> ",
    "\n", " ", "\t", "\n\n- \n", "a\n===\n", "| a |\n", "|-|\n", "Dr. ", "e\u0301", "<ol>",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_cut(text: str) -> None:
    """What is quadratic would take minutes here."""
    source = (text * (1 << 16))[: 1 << 16]
    for chunk in (chunk_text, chunk_markdown, chunk_html):
        check(chunk(source), 1200)
