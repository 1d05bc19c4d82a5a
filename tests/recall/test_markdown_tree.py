"""Pages of memories: what was written is read back, and only what was edited is an edit."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt import Interval, Item, Kind, UsageError
from memopt.recall.markdown_tree import (
    Deed,
    arguments_of,
    edits_of,
    format_page,
    parse_page,
    worn,
)

WHEN = datetime(2031, 5, 17, 9, 20, tzinfo=UTC)
LATER = datetime.max.replace(tzinfo=UTC)
names = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["C"], exclude_characters="\x7f"), min_size=1)
    .map(lambda name: name[:40])
    .filter(lambda name: name.strip() != ""),
)
lines = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from(
        ["", "- a", "* b", "\\", "\\- c", "# d", "---", "  e", "\tf", "- id: i9", "id: i9", "> g"]
    ),
)
texts = st.lists(lines, min_size=1, max_size=5).map("\n".join).filter(lambda text: text.strip())


def item(number: int, text: str, **more: Any) -> Item:
    fields: dict[str, Any] = {
        "item_id": f"i{number}", "scope": "acme/ann", "kind": Kind.FACT, "text": text,
        "version": 1, "valid": Interval(start=WHEN), "known": Interval(start=WHEN),
        "stated_at": WHEN, "lsn": number, "importance": 0.5,
    }  # fmt: skip
    return Item(**(fields | more))


items = st.builds(
    item, st.integers(1, 10**9), texts, subject=names, source=names,
    tags=st.lists(names.filter(bool), max_size=3, unique=True).map(tuple),
    importance=st.sampled_from([0.5, 0.0, 1.0, 1 / 3]),
    valid=st.sampled_from([
        Interval(start=WHEN), None, Interval(stop=WHEN), Interval(start=WHEN, stop=LATER),
    ]),
    pinned=st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(items, max_size=5, unique_by=lambda one: one.item_id))
def test_a_page_that_nobody_edited_has_no_edits(stated: list[Item]) -> None:
    page = parse_page(format_page("acme/ann", Kind.FACT, 7, stated), "fact.md")
    assert (page.scope, page.kind, page.known_lsn) == ("acme/ann", Kind.FACT, 7)
    there = {one.item_id: one for one in stated}
    assert {line.item_id: worn(line.text) for line in page.lines} == {
        item_id: worn(one.text) for item_id, one in there.items()
    }
    assert edits_of(page.lines, there, there, "fact.md") == []


@settings(max_examples=50, deadline=None)
@given(st.lists(items, min_size=1, max_size=5, unique_by=lambda one: one.item_id))
def test_an_editor_that_trims_lines_edits_nothing(stated: list[Item]) -> None:
    text = format_page("acme/ann", Kind.FACT, 7, stated)
    trimmed = "\r\n".join(line.rstrip() for line in text.split("\n")).rstrip() + "\r\n"
    there = {one.item_id: one for one in stated}
    assert edits_of(parse_page(trimmed, "fact.md").lines, there, there, "fact.md") == []


def edits(text: str, then: list[Item], now: list[Item] | None = None) -> list[Any]:
    page = parse_page(text, "fact.md")
    before = {one.item_id: one for one in then}
    after = before if now is None else {one.item_id: one for one in now}
    return [(e.deed, e.item_id, e.text) for e in edits_of(page.lines, before, after, "fact.md")]


def test_what_was_edited_is_told_from_what_was_not() -> None:
    one, two, three = item(1, "one"), item(2, "two"), item(3, "three", pinned=True)
    text = format_page("acme/ann", Kind.FACT, 7, [one, two, three])
    edited = text.replace("- one", "- one and\n  a half").replace("- pinned: yes", "- pinned: no")
    edited = edited.replace(edited[edited.index("- two") : edited.index("- three")], "")
    assert edits(edited + "\n- four\n", [one, two, three]) == [
        (Deed.REVISE, "i1", "one and\na half"),
        (Deed.UNPIN, "i3", ""),
        (Deed.STATE, None, "four"),
        (Deed.FORGET, "i2", ""),
    ]


def test_what_others_did_meanwhile_is_left_alone() -> None:
    one, two = item(1, "one"), item(2, "two")
    text = format_page("acme/ann", Kind.FACT, 7, [one, two])
    mine = text.replace("- one", "- mine")
    theirs = item(1, "theirs", version=2)
    assert edits(text, [one, two], [theirs, two, item(3, "new")]) == []
    assert edits(mine, [one, two], [theirs, two]) == [(Deed.CONFLICT, "i1", "mine")]
    assert edits(mine, [one, two], [two]) == [(Deed.CONFLICT, "i1", "mine")]
    assert edits(mine, [one, two], [item(1, "mine", version=2), two]) == []
    # A line that was added is stated once, however often the page is loaded.
    assert edits(text + "\n- new\n", [one, two], [one, two, item(3, "new")]) == []


def test_a_new_line_has_its_arguments() -> None:
    text = (
        "- a plan\n  that goes on\n  - subject: Ann\n  - tags: a, b c\n  - importance: 0.9\n"
        "  - from: 2031-05-17T09:20:00Z\n  - pinned: yes\n"
    )
    (line,) = parse_page(text, "plan.md").lines
    (edit,) = edits_of([line], {}, {}, "plan.md")
    assert edit.text == "a plan\nthat goes on"
    assert arguments_of(edit) == {
        "subject": "Ann", "attribute": None, "source": None, "tags": ["a", "b c"],
        "importance": 0.9, "valid_from": WHEN, "valid_to": None, "pin": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("p.md:1", "no bullet"),
        ("p.md:3", "- one\n\nno bullet"),
        ("p.md:3", "- one\n  - id: i1\n  more text"),
        ("p.md:3: id", "- one\n  - id: i1\n  - id: i2"),
        ("p.md:2: id", "- one\n  - id: seventeen"),
        ("p.md:3", "---\nmemopt: 1\n- one"),
        ("p.md:1", "---\nmemopt: 1"),
        ("p.md:3: kind", "---\nkind: fact\nkind: fact\n---"),
        ("p.md:2", "---\nscoep: a\n---"),
        ("p.md:2: known_at", "---\nknown_at: 9999999999999999999999\n---"),
        ("p.md:2: scope", '---\nscope: "a\n---'),
        ("p.md:2: stated", "- one\n  - stated: 2031-05-17T09:20:00Z"),
        ("p.md:2", "---\nnothing\n---"),
        ("p.md:2: memopt", "---\nmemopt: 2\n---"),
        ("p.md:2: known_at", "---\nknown_at: yesterday\n---"),
        ("p.md:2: kind", "---\nkind: rumour\n---"),
        ("p.md:2: kind", "---\nkind: episode\n---"),
        ("p.md:2: scope", "---\nscope: a//b\n---"),
    ],
)
def test_what_is_no_page_is_named_by_its_line(field: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_page(text, "p.md")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("fact.md:13: subject", "subject: Ann", "subject: Bob"),
        ("fact.md:10: subject", "  - subject: Ann\n", ""),
        ("fact.md:14: tags", "tags: a", "tags: a, b"),
        ("fact.md:15: to", "tags: a", "tags: a\n  - to: soon"),
        ("fact.md:15: to", "tags: a", "tags: a\n  - to: 2001-01-01T00:00:00Z"),
        ("fact.md:15: pinned", "tags: a", "tags: a\n  - pinned: perhaps"),
        ("fact.md:12: stated", "stated: 2031", "stated: 2030"),
    ],
)
def test_what_a_page_cannot_change_is_refused(field: str, old: str, new: str) -> None:
    one = item(1, "one", subject="Ann", tags=("a",))
    text = format_page("acme/ann", Kind.FACT, 7, [one])
    assert old in text
    with pytest.raises(UsageError) as caught:
        edits(text.replace(old, new), [one])
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        "- tags: [1", "- importance: much", '- subject: "', "- from: 2031-05-17", "- pinned: until",
        "- pinned: until 2031-05-17T09:20:00Z",
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_new_line_are_refused(fields: str) -> None:
    (line,) = parse_page(f"- new\n  {fields}\n", "fact.md").lines
    (edit,) = edits_of([line], {}, {}, "fact.md")
    with pytest.raises(UsageError, match=r"fact\.md:2"):
        arguments_of(edit)
