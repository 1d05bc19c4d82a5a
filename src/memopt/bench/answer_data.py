"""Questions with labels, for the answer cache: pairs that mean the same or not, and intents.

Owns: how the files are read. Invariant: a line that is not what is expected gets a UsageError that
names file and line. Not here: what is measured with them (answers.py).

    semcache/qqp_pairs_dev.jsonl.gz     pairs of questions, with a label: the same, or not
    semcache/banking77_*.csv.gz         questions to a bank, each with the intent that answers it
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from memopt.base.errors import UsageError
from memopt.bench.data import find

QQP: Final = "semcache/qqp_pairs_dev.jsonl.gz"
BANKING: Final = ("semcache/banking77_train.csv.gz", "semcache/banking77_test.csv.gz")


class LabelledPair(NamedTuple):
    one: str
    other: str
    is_same: bool


class Asking(NamedTuple):
    """A question, and the intent that it is of."""

    question: str
    intent: str


class _Line(msgspec.Struct):
    text_a: str
    text_b: str
    label: int


def load_pairs(path: Path | None = None) -> list[LabelledPair]:
    """Raises UsageError where there are none."""
    path = path or _found(QQP)
    pairs = []
    for number, line in enumerate(_lines(path), 1):
        try:
            row = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise UsageError(f"is no pair: {error}", field=f"{path}:{number}") from error
        pairs.append(LabelledPair(row.text_a, row.text_b, bool(row.label)))
    return pairs


def load_intents(paths: Sequence[Path] = ()) -> list[Asking]:
    """Raises UsageError where there are none."""
    found = []
    for path in paths or [_found(name) for name in BANKING]:
        text = "\n".join(line.decode() for line in _lines(path))
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            if not row.get("text") or not row.get("category"):
                raise UsageError("expected text,category", field=f"{path}:{number}")
            found.append(Asking(row["text"], row["category"]))
    return found


def components(pairs: Iterable[LabelledPair]) -> list[int]:
    """The number of each pair's group: pairs that share a question, directly or by others, are of
    one, so that no fold knows a question of another."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    listed = list(pairs)
    for pair in listed:
        parent[root(pair.one)] = root(pair.other)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(pair.one), len(numbers)) for pair in listed]


def _found(name: str) -> Path:
    path = find(name)
    if path is None:
        raise UsageError(f"{name} is not among the data: set MEMOPT_DATA", field="files")
    return path


def _lines(path: Path) -> list[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            return file.read().splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot be read: {error}", field=str(path)) from error
