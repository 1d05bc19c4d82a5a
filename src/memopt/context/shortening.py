"""Shortens the output of a tool: its head and its tail, and what stands out between, by its form.

JSON loses items of its long lists and parts of its long texts, and stays JSON. A log keeps the
lines that speak of failure, a diff the headings of its files and parts, a table its header;
anything else its first and last lines.

Owns: what of a text is kept. Invariant: what comes out is no longer than was asked, says how much
is missing and by which handle the whole can be opened, and depends on nothing else. Not here: which
texts are shortened (outputs.py).
"""

import json
import math
import re
from typing import Any, Final

_MARK_CHARS: Final = 96
"""What a mark takes at most."""
_HEAD_SHARE: Final = 0.6
_LINE_SLACK: Final = 0.25
"""A cut goes back to the end of a line if that costs at most so much of its part."""
_BETWEEN_SHARE: Final = 0.3
"""Of the room, by what stands out between head and tail."""
_JSON_CHARS_MAX: Final = 4 << 20
"""Longer ones are cut as text: reading them takes many times as much."""
_JSON_DEPTH_MAX: Final = 32
_ITEMS: Final = (64, 24, 8, 4, 2, 1)
"""How many items of each list are tried, and how long each text may be with them."""
_TEXTS: Final = (4000, 1000, 400, 160, 80, 40)
_LIST_OR_DICT: Final = re.compile(r"[ \t\n\r]*[{\[]")
_LINE_CHARS_MAX: Final = 240
_LINES_MAX: Final = 200_000
_FAILURE: Final = re.compile(
    r"\b(error|errors|exception|traceback|fail(ed|ure|ures|s)?|fatal|panic|critical|assert\w*|"
    r"denied|refused|not found|warning)\b",
    re.IGNORECASE,
)
_DIFF: Final = re.compile(r"^(diff --git |--- |\+\+\+ |@@ |Index: )", re.MULTILINE)
_DIFF_LINES_MIN: Final = 3
_TABLE_MARKS: Final = ("\t", "|", ",", ";")
_TABLE_LINES_MIN: Final = 8


def shorten(text: str, chars_max: int, handle: str) -> str | None:
    """At most `chars_max` characters of a text; None where there is no room for a mark. Without a
    `handle`, nobody has the whole."""
    if chars_max <= _MARK_CHARS:
        return None
    room = chars_max - _MARK_CHARS
    if _LIST_OR_DICT.match(text):
        short = _shorter_json(text, room)
        if short is not None:
            whole = f"{handle} has all" if handle else "it had"
            return f"{short}\n[… shortened: {whole} {len(text)} characters]"
    header = _table_header(text)
    body = text[len(header) :] if len(header) <= room // 4 else text
    header = text[: len(text) - len(body)]
    room -= len(header)
    # Only where there are lines, and not for what is almost short enough.
    between_room = int(room * _BETWEEN_SHARE) if len(body) > 2 * room else 0
    head = _head(body, int((room - between_room) * _HEAD_SHARE))
    tail = _tail(body[len(head) :], room - between_room - len(head))
    missing = body[len(head) : len(body) - len(tail)]
    kept = _between(missing, between_room - _MARK_CHARS) if between_room > _MARK_CHARS else ""
    mark = _mark(missing, handle, len(header) + len(head), bool(kept))
    return f"{header}{head}{mark}{kept}{tail}"


def _mark(missing: str, handle: str, start: int, has_some: bool) -> str:
    lines = missing.count("\n")
    much = f"{lines} lines" if lines > 1 else f"{len(missing)} characters"
    but = ", but for these:" if has_some else ""
    where = f": {handle} from character {start}" if handle else ""
    return f"\n[… {much} left out{where}{but} …]\n"


def _head(text: str, chars: int) -> str:
    cut = text.rfind("\n", int(chars * (1 - _LINE_SLACK)), chars)
    return text[: cut + 1 if cut >= 0 else chars]


def _tail(text: str, chars: int) -> str:
    start = max(0, len(text) - chars)
    cut = text.find("\n", start, start + int(chars * _LINE_SLACK))
    return text[cut + 1 if cut >= 0 else start :]


# -- lines that stand out -------------------------------------------------------------------------


def _between(missing: str, room: int) -> str:
    """Lines of a diff's structure, else those of a log that speak of failure; and "…"."""
    is_diff = len(_DIFF.findall(missing[:100_000])) >= _DIFF_LINES_MIN
    pattern = _DIFF if is_diff else _FAILURE
    found: list[str] = []
    seen: set[str] = set()
    for line in missing.split("\n", _LINES_MAX)[:_LINES_MAX]:
        clipped = line[:_LINE_CHARS_MAX].rstrip()
        if clipped in seen or not pattern.search(clipped):
            continue
        if len(clipped) + 1 > room:
            break
        seen.add(clipped)
        found.append(clipped)
        room -= len(clipped) + 1
    return "\n".join([*found, ""]) + "[…]\n" if found and room > 4 else ""


def _table_header(text: str) -> str:
    """The first line of what looks like a table, and the rule below it; "" for anything else."""
    lines = text[:20_000].split("\n")[: _TABLE_LINES_MIN + 2]
    if len(lines) < _TABLE_LINES_MIN:
        return ""
    for mark in _TABLE_MARKS:
        counts = [line.count(mark) for line in lines[:_TABLE_LINES_MIN] if line.strip(" -+=|")]
        if len(counts) >= _TABLE_LINES_MIN - 2 and min(counts) == max(counts) >= 2:
            rule = 1 if not lines[1].strip(" -+=|:") else 0
            return "\n".join(lines[: 1 + rule]) + "\n"
    return ""


# -- JSON -----------------------------------------------------------------------------------------


def _shorter_json(text: str, room: int) -> str | None:
    """The same JSON with fewer items and shorter texts, as much of it as fits; None where it is no
    JSON, or its keys alone are too long."""
    if len(text) > _JSON_CHARS_MAX:
        return None
    try:
        value = loaded(text)
    except (ValueError, RecursionError):
        return None
    for items, chars in zip(_ITEMS, _TEXTS, strict=True):
        short = dumped(_pruned(value, items, chars, _JSON_DEPTH_MAX))
        if len(short) <= room:
            return short
    return None


def loaded(text: str) -> Any:
    """A JSON value. Raises JSONDecodeError for what is none, Infinity and NaN included; any other
    ValueError or RecursionError where it has a number or a depth that cannot be held."""
    return json.loads(text, parse_float=_finite, parse_constant=_no_json)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is no float")
    return number


def _no_json(word: str) -> float:
    raise json.JSONDecodeError(f"{word} is no JSON", word, 0)


def dumped(value: Any) -> str:
    """JSON that can be sent: half a surrogate pair stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _pruned(value: Any, items: int, chars: int, depth: int) -> Any:
    if isinstance(value, str):
        if len(value) <= chars:
            return value
        half = chars // 2
        return f"{value[:half]} [… {len(value) - 2 * half} characters …] {value[-half:]}"
    if not depth:
        return "[…]"
    if isinstance(value, list):
        if len(value) <= items + 1:
            return [_pruned(item, items, chars, depth - 1) for item in value]
        first = -(-items // 2)
        last = items - first
        shown = [_pruned(item, items, chars, depth - 1) for item in value[:first]]
        shown.append(f"[… {len(value) - items} items …]")
        return shown + [
            _pruned(item, items, chars, depth - 1) for item in value[len(value) - last :]
        ]
    if isinstance(value, dict):
        shown_keys = list(value)[: 4 * items]
        pruned = {key: _pruned(value[key], items, chars, depth - 1) for key in shown_keys}
        if len(shown_keys) < len(value):
            pruned["…"] = f"[… {len(value) - len(shown_keys)} keys …]"
        return pruned
    return value
