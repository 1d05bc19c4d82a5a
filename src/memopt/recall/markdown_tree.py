"""Stated memories as Markdown that a person can edit: a page for each scope and kind, and back.

    ---
    memopt: 1
    scope: acme/ann
    kind: fact
    known_at: 1234
    ---

    # acme/ann: fact

    - Ann lives in Lyon
      - id: i2
      - stated: 2031-05-17T09:20:00+00:00
      - subject: Ann
      - attribute: city
      - from: 2030-01-01T00:00:00+00:00

A memory is a bullet, its text goes on in lines indented by two spaces, and what is known of it
follows in bullets below it; where no time is said, it was so since it was stated. `known_at` is the
LSN that the page shows, so what was changed since by others can be told from what was changed here;
`stated` tells this store from another one. Spaces at the ends of lines do not count.

Not here: files and stores (cli/item_tree.py). Invariant: a page that is parsed as it was written
has no edits.
"""

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.item_records import Item, item_number
from memopt.base.moments import zoned
from memopt.base.names import check_scope
from memopt.base.recall_records import Kind
from memopt.recall.stating import check_kind

FORM: Final = 1
_HEAD: Final = ("memopt", "scope", "kind", "known_at")
_FIELDS: Final = (
    "id", "stated", "subject", "attribute", "from", "to", "tags", "source", "importance", "pinned"
)  # fmt: skip
_FIELD: Final = re.compile(rf"(?:  |\t)[-*] ({'|'.join(_FIELDS)}): ?(.*)")
_BULLET: Final = re.compile(r"[-*](?: (.*))?$")
_INDENTED: Final = re.compile(r"(?:  |\t)(.*)")
_ESCAPED: Final = re.compile(r"\\|[-*] ")
"""A line of a text that begins like this gets a backslash in front."""
_USUAL: Final = 0.5
_DIGITS_MAX: Final = 18
_NEVER: Final = "never"


class Line(NamedTuple):
    """A memory on a page."""

    where: str
    """The page and the line that it begins in."""
    text: str
    fields: dict[str, str]
    places: dict[str, str]
    """The page and the line of each field."""

    def where_is(self, name: str) -> str:
        return f"{self.places.get(name, self.where)}: {name}"

    @property
    def item_id(self) -> str | None:
        return self.fields.get("id")


class Page(NamedTuple):
    scope: str | None
    """As the page itself says; None where it does not."""
    kind: Kind | None
    known_lsn: int | None
    lines: list[Line]


class Deed(enum.StrEnum):
    """What an edit asks for."""

    STATE = "state"
    REVISE = "revise"
    END = "end"
    PIN = "pin"
    UNPIN = "unpin"
    FORGET = "forget"
    """Its line is gone; only a proposal, unless somebody says otherwise."""
    CONFLICT = "conflict"
    """Somebody else changed it, too, or it is gone; nothing is done."""


class Edit(NamedTuple):
    deed: Deed
    where: str
    item_id: str | None
    text: str = ""
    line: Line | None = None
    """What is to be stated."""
    at: datetime | None = None
    """Of an end, or until when it is pinned."""


# -- out ------------------------------------------------------------------------------------------


def format_page(scope: str, kind: Kind, lsn: int, items: Sequence[Item]) -> str:
    """What is so first, then what was."""
    head = f"---\nmemopt: {FORM}\nscope: {_quoted(scope)}\nkind: {kind}\nknown_at: {lsn}\n---\n"
    parts = [head, f"# {scope}: {kind}\n"]
    present = [item for item in items if _is_open(item)]
    former = [item for item in items if not _is_open(item)]
    parts += map(_bullet, present)
    if former:
        parts += ["## Former\n", *map(_bullet, former)]
    return "\n".join(parts)


def _is_open(item: Item) -> bool:
    return item.valid is not None and item.valid.stop is None


def _bullet(item: Item) -> str:
    first, *rest = item.text.split("\n")
    lines = [f"- {first}".rstrip() if not first.strip() else f"- {first}"]
    for line in rest:
        escape = "\\" if _ESCAPED.match(line) else ""
        lines.append(f"  {escape}{line}" if line.strip() else "")
    lines += [f"  - {name}: {value}" for name, value in fields_of(item).items()]
    return "\n".join(lines) + "\n"


def fields_of(item: Item) -> dict[str, str]:
    """What a page says of a memory beside its text."""
    start = item.valid.start if item.valid is not None else None
    stop = item.valid.stop if item.valid is not None else None
    ends = _NEVER if item.valid is None else _time(stop)
    found = {
        "id": item.item_id,
        "stated": _time(item.stated_at),
        "subject": _quoted(item.subject),
        "attribute": _quoted(item.attribute),
        "from": "" if start == item.stated_at else _time(start),
        "to": ends,
        "tags": _listed(item.tags),
        "source": _quoted(item.source),
        "importance": "" if item.importance == _USUAL else f"{item.importance:g}",
        "pinned": ("until " + _time(item.pinned_until) if item.pinned_until else "yes")
        if item.pinned
        else "",
    }
    return {name: value for name, value in found.items() if value}


def _time(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).isoformat()


def _quoted(name: str | None) -> str:
    """As it is, or as JSON where it would not come back."""
    if name is None:
        return ""
    is_plain = name == name.strip() and name[:1] not in ('"', "[") and name.isprintable()
    return name if is_plain else json.dumps(name)


def _listed(tags: Sequence[str]) -> str:
    is_plain = all("," not in tag and _quoted(tag) == tag for tag in tags)
    return ", ".join(tags) if is_plain else json.dumps(list(tags))


# -- in -------------------------------------------------------------------------------------------


def parse_page(text: str, name: str) -> Page:
    """Raises UsageError that names the line."""
    lines = [line.rstrip() for line in text.removeprefix("\ufeff").split("\n")]
    front, begin = _front_matter(lines, name)

    def head(field: str) -> tuple[str | None, str]:
        value, number = front.get(field, (None, 1))
        return value, f"{name}:{number}: {field}"

    form, where = head("memopt")
    if form not in (None, str(FORM)):
        raise UsageError(f"form {form} is not of this memopt", field=where)
    scope, scope_where = head("scope")
    kind, kind_where = head("kind")
    lsn, where = head("known_at")
    if lsn is not None and not (lsn.isascii() and lsn.isdecimal() and len(lsn) <= _DIGITS_MAX):
        raise UsageError(f"expected an LSN, got {lsn!r}", field=where)
    return Page(
        None if scope is None else check_scope(_unquoted(scope, scope_where), field=scope_where),
        None if kind is None else check_kind(kind, field=kind_where),
        None if lsn is None else int(lsn), list(_bullets(lines, begin, name)),
    )  # fmt: skip


def _front_matter(lines: Sequence[str], name: str) -> tuple[dict[str, tuple[str, int]], int]:
    """Values and the lines they are in, and the first line behind them."""
    if not lines or lines[0] != "---":
        return {}, 0
    front: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines[1:], 2):
        if line == "---":
            return front, number
        key, colon, value = line.partition(":")
        key = key.strip()
        if line and not colon:
            raise UsageError(f"expected a name and a value, got {line!r}", field=f"{name}:{number}")
        if line and key not in _HEAD:
            raise UsageError(
                f"expected one of {', '.join(_HEAD)}, got {key!r}", field=f"{name}:{number}"
            )
        if key in front:
            raise UsageError("is there twice", field=f"{name}:{number}: {key}")
        if line:
            front[key] = (value.strip(), number)
    raise UsageError("its first lines are not ended by ---", field=f"{name}:1")


def _bullets(lines: Sequence[str], begin: int, name: str) -> Iterator[Line]:
    where, texts, fields, places = "", [""], dict[str, str](), dict[str, str]()
    blank = 0
    for number, line in enumerate(lines[begin:], begin + 1):
        here = f"{name}:{number}"
        if not line:
            blank += 1
            continue
        bullet = _BULLET.match(line)
        if bullet or line.startswith(("#", "<!--")):
            if where:
                yield _line(where, texts, fields, places)
            where, texts, fields, places, blank = "", [""], {}, {}, 0
            if bullet:
                where, texts = here, [bullet[1] or ""]
            continue
        field, inside = _FIELD.match(line), _INDENTED.match(line)
        if not where or not inside:
            raise UsageError(
                'expected a line that begins with "- ", or with two spaces below one', field=here
            )
        if field:
            if field[1] in fields:
                raise UsageError("is there twice", field=f"{here}: {field[1]}")
            fields[field[1]] = field[2].strip()
            places[field[1]] = here
        elif fields:
            raise UsageError(f"expected one of {', '.join(_FIELDS)}, got {line!r}", field=here)
        else:
            body = inside[1]
            texts += [""] * blank
            texts.append(body[1:] if body.startswith("\\") else body)
        blank = 0
    if where:
        yield _line(where, texts, fields, places)


def _line(where: str, texts: Sequence[str], fields: dict[str, str], places: dict[str, str]) -> Line:
    line = Line(where, "\n".join(texts), fields, places)
    if "id" in fields and item_number(fields["id"]) is None:
        raise UsageError(
            f"expected the id of an item, got {fields['id']!r}", field=line.where_is("id")
        )
    if "id" not in fields and "stated" in fields:
        raise UsageError(
            "has no id: remove this line to state it anew", field=line.where_is("stated")
        )
    return line


def _unquoted(value: str, where: str) -> str:
    if value[:1] != '"':
        return value
    name = _from_json(value, where)
    if not isinstance(name, str):
        raise UsageError(f"expected a name, got {value!r}", field=where)
    return name


def _from_json(value: str, where: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UsageError(f"this is not JSON: {value!r}", field=where) from None


# -- what was edited ------------------------------------------------------------------------------


def edits_of(
    lines: Sequence[Line], then: Mapping[str, Item], now: Mapping[str, Item], where: str
) -> list[Edit]:
    """What was changed on a page: `then` are the memories that it was made of, `now` those that
    are there. Raises UsageError for what a page cannot change."""
    edits: list[Edit] = []
    seen: set[str] = set()
    fresh = [item for item_id, item in now.items() if item_id not in then]
    for line in lines:
        item_id = line.item_id
        if item_id is None:
            if not any(_is_same(line, item) for item in fresh):
                edits.append(Edit(Deed.STATE, line.where, None, line.text, line))
            continue
        if item_id in seen:
            raise UsageError(f"{item_id} is there twice", field=line.where_is("id"))
        seen.add(item_id)
        if item_id not in then:
            edits.append(Edit(Deed.CONFLICT, line.where, item_id))
        else:
            edits += _changes(line, then[item_id], now.get(item_id))
    gone = [item_id for item_id in then if item_id not in seen and item_id in now]
    return edits + [Edit(Deed.FORGET, where, item_id) for item_id in gone]


def _changes(line: Line, then: Item, now: Item | None) -> Iterator[Edit]:
    check_is_of_store(line, then)
    old, new = fields_of(then), line.fields
    for name in _FIELDS:
        if name not in ("to", "pinned") and old.get(name, "") != new.get(name, ""):
            raise UsageError(
                f"of {then.item_id} cannot be edited: state it anew, and remove this one",
                field=line.where_is(name),
            )
    wanted: list[tuple[Edit, str, str, str | None]] = []
    if worn(line.text) != worn(then.text):
        edit = Edit(Deed.REVISE, line.where, then.item_id, line.text)
        theirs = None if now is None else worn(now.text)
        wanted.append((edit, worn(then.text), worn(line.text), theirs))
    known = None if now is None else fields_of(now)
    for name, read in (("to", _end_of), ("pinned", _pinning_of)):
        before, after = old.get(name, ""), new.get(name, "")
        if before != after:
            edit = read(line, then)
            wanted.append(
                (edit, before, _spelt(edit), None if known is None else known.get(name, ""))
            )
    for edit, before, after, theirs in wanted:
        # What is as it is wanted was done already, by an import that was repeated.
        if theirs is None or theirs not in (before, after):
            yield edit._replace(deed=Deed.CONFLICT)
        elif theirs != after:
            yield edit


def check_is_of_store(line: Line, item: Item) -> None:
    """Raises UsageError where it names another store's item of that id."""
    at = fields_of(item)["stated"]
    if line.fields.get("stated") != at:
        raise UsageError(
            f"{item.item_id} of this store was stated {at}: was this page written by another one?",
            field=line.where_is("stated"),
        )


def _end_of(line: Line, then: Item) -> Edit:
    where = line.where_is("to")
    at = time_of(line.fields.get("to", ""), where)
    if at is None:
        raise UsageError(f"what is over does not begin again: state {then.item_id} anew",
                         field=where)  # fmt: skip
    start = then.valid.start if then.valid is not None else None
    if start is not None and at <= start:
        raise UsageError(f"{then.item_id} begins at {start}, not before that", field=where)
    return Edit(Deed.END, line.where, then.item_id, at=at)


def _pinning_of(line: Line, then: Item) -> Edit:
    is_pinned, until = pin_of(line.fields.get("pinned", ""), line.where_is("pinned"))
    return Edit(Deed.PIN if is_pinned else Deed.UNPIN, line.where, then.item_id, at=until)


def _spelt(edit: Edit) -> str:
    """What a page says of a memory once the edit is carried out."""
    if edit.deed is Deed.PIN:
        return f"until {_time(edit.at)}" if edit.at else "yes"
    return _time(edit.at)


def _is_same(line: Line, item: Item) -> bool:
    """Whether a new line was stated already: by an import that was repeated."""
    about = (line.fields.get("subject", ""), line.fields.get("attribute", ""))
    return worn(line.text) == worn(item.text) and about == (
        _quoted(item.subject), _quoted(item.attribute),
    )  # fmt: skip


def worn(text: str) -> str:
    """A text as it survives an editor: without spaces at the ends of its lines and itself."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def time_of(value: str, where: str) -> datetime | None:
    """None where nothing is said. Raises UsageError for what is no time with a zone."""
    if not value:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(f"expected a time, got {value!r}", field=where) from None
    if at.tzinfo is None:
        raise UsageError(f"needs a time zone, such as {zoned(value)}", field=where)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{value} is out of reach", field=where) from None


def pin_of(value: str, where: str) -> tuple[bool, datetime | None]:
    """Whether it is pinned, and until when."""
    if value in ("", "no"):
        return False, None
    if value == "yes":
        return True, None
    until = time_of(value.removeprefix("until "), where) if value.startswith("until ") else None
    if until is None:
        raise UsageError(f"expected yes, no or until and a time, got {value!r}", field=where)
    return True, until


def arguments_of(edit: Edit) -> dict[str, Any]:
    """For `remember`, of a line that is new. Raises UsageError that names the line."""
    line = edit.line
    assert line is not None, "there is no line of what is not stated"
    fields = line.fields
    is_pinned, until = pin_of(fields.get("pinned", ""), line.where_is("pinned"))
    if until is not None:
        raise UsageError(
            "what is new is pinned or not: until comes later", field=line.where_is("pinned")
        )
    tags: Any = ()
    if raw := fields.get("tags", ""):
        where = line.where_is("tags")
        tags = _from_json(raw, where) if raw[:1] == "[" else [tag.strip() for tag in raw.split(",")]
    importance = fields.get("importance") or None
    try:
        weight = None if importance is None else float(importance)
    except ValueError:
        raise UsageError(
            f"expected a number, got {importance!r}", field=line.where_is("importance")
        ) from None
    return {
        name: _unquoted(fields[name], line.where_is(name)) if fields.get(name) else None
        for name in ("subject", "attribute", "source")
    } | {
        "tags": tags, "importance": weight, "pin": is_pinned,
        "valid_from": time_of(fields.get("from", ""), line.where_is("from")),
        "valid_to": time_of(fields.get("to", ""), line.where_is("to")),
    }  # fmt: skip
