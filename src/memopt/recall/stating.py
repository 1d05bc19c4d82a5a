"""What may be stated: checks every argument of `remember` and `revise`, and names the wrong one."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from memopt.base.errors import UsageError
from memopt.base.item_records import STATED, ItemRow
from memopt.base.moments import check_time
from memopt.base.names import check_name, check_scope
from memopt.base.recall_records import Kind

TAGS_MAX: Final = 32
IMPORTANCE: Final = 0.5
"""Of what is stated without one."""
# Line breaks and tabs are text; what else is below the space comes from something binary.
_BINARY: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Draft(NamedTuple):
    """What is to be remembered, checked."""

    scope: str
    text: str
    kind: Kind
    subject: str | None
    attribute: str | None
    valid_from_us: int | None
    valid_to_us: int | None
    importance: float
    source: str | None
    tags: tuple[str, ...]
    pin: bool
    key: str | None


def draft(
    text: object, *, scope: object, kind: object, subject: object, attribute: object,
    valid_from: datetime | None, valid_to: datetime | None, importance: float | None,
    source: object, tags: Iterable[str], pin: object, key: object, bytes_max: int,
) -> Draft:  # fmt: skip
    """Raises UsageError that names the argument."""
    if attribute is not None and subject is None:
        raise UsageError("an attribute is one of a subject: name that, too", field="subject")
    if not isinstance(pin, bool):
        raise UsageError(f"expected True or False, got {pin!r}", field="pin")
    start = None if valid_from is None else check_time(valid_from, field="valid_from")
    stop = None if valid_to is None else check_time(valid_to, field="valid_to")
    if start is not None and stop is not None and stop <= start:
        raise UsageError("ends before it begins: valid_from is not earlier", field="valid_to")
    return Draft(
        check_scope(scope), check_text(text, bytes_max=bytes_max), check_kind(kind),
        _name(subject, "subject"), _name(attribute, "attribute"), start, stop,
        check_importance(importance), _name(source, "source"), check_tags(tags), pin,
        _name(key, "key"),
    )  # fmt: skip


def check_text(text: object, *, bytes_max: int, field: str = "text") -> str:
    """Text that a person could read. Raises UsageError for what is empty, huge or binary."""
    if not isinstance(text, str):
        raise UsageError(f"expected a string, got {type(text).__name__}", field=field)
    if not text.strip():
        raise UsageError("expected some text, got none", field=field)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError("a lone surrogate is not text", field=field) from None
    if size > bytes_max:
        raise UsageError(
            f"{size} bytes of UTF-8, at most {bytes_max}: longer texts are documents", field=field
        )
    found = _BINARY.search(text)
    if found:
        raise UsageError(f"{found[0]!r} at {found.start()} is not text", field=field)
    return str(text)


def check_kind(kind: Any, *, field: str = "kind") -> Kind:
    """A kind that can be stated."""
    try:
        checked = Kind(kind)
    except ValueError:
        checked = Kind.EPISODE
    if checked not in STATED:
        raise UsageError(f"expected one of {', '.join(STATED)}, got {kind!r}", field=field)
    return checked


def check_importance(importance: Any) -> float:
    if importance is None:
        return IMPORTANCE
    is_number = isinstance(importance, int | float) and not isinstance(importance, bool)
    if not is_number or math.isnan(importance) or not 0 <= importance <= 1:
        raise UsageError(f"expected a number from 0 to 1, got {importance!r}", field="importance")
    return float(importance)


def check_tags(tags: object, *, field: str = "tags") -> tuple[str, ...]:
    """Names, each once, in their order."""
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise UsageError(f"expected strings, got {tags!r}", field=field)
    names = [check_name(tag, field=f"{field}[{index}]") for index, tag in enumerate(tags)]
    if len(names) > TAGS_MAX:
        raise UsageError(f"{len(names)} tags, at most {TAGS_MAX}", field=field)
    return tuple(dict.fromkeys(names))


def _name(name: object, field: str) -> str | None:
    return None if name is None else check_name(name, field=field)


def entry_text(row: ItemRow, text: str) -> str:
    """What the index is made of for an item: also what it is about, which of a piece of a document
    is what it stands under."""
    return about_text(row.subject, row.attribute, text)


def about_text(subject: str | None, attribute: str | None, text: str) -> str:
    about = " ".join(filter(None, (subject, attribute)))
    return f"{about}\n{text}" if about else text


def topic_of(subject: str | None, attribute: str | None) -> int:
    """A number for what a statement is about, whatever its case and its spaces; 0 unless both are
    known."""
    if subject is None or attribute is None:
        return 0
    spelt = "\0".join(map(_spelt, (subject, attribute)))
    digest = hashlib.blake2b(spelt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def _spelt(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
