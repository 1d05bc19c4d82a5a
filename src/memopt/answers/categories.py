"""Kinds of questions: their settings, and the threshold that feedback has taught.

A hit's score says what share of such hits is right on development data. So the threshold begins at
1 minus the share of wrong answers that is allowed, and verdicts only raise it: to the least score
from which on they do not show, at the lower bound of a confidence interval (Wilson), that more than
that share is wrong. All verdicts of a scope raise the threshold of all its categories; a category's
own may raise its own further.

Owns: settings, counts of verdicts, and that rule. Invariant: a threshold is never below what was
asked for. Verdicts fade: at VERDICTS_MAX in a category all counts are halved. Not here: where they
are stored (stores/answer_tables.py).
"""

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.answer_records import Category, CategoryRow
from memopt.base.errors import CorruptionError, StoreVersionError, UsageError
from memopt.base.protocols import Tables

GENERAL: Final = "general"
"""The category of what has none."""
CATEGORIES_MAX: Final = 256
"""Of a scope."""
BINS: Final = 32
_BINS_PER_DECADE: Final = 8
VERDICTS_MAX: Final = 4096
_Z: Final = 1.64
"""One side of 95 %."""
_VERSION: Final = 1
_COUNT_MAX: Final = 2**31


class Settings(NamedTuple):
    """None: as the store is configured."""

    wrong_share: float | None = None
    threshold: float | None = None
    ttl_seconds: float | None = None
    stale_seconds: float | None = None
    answers_max: int | None = None


class Learnt(NamedTuple):
    """Verdicts by the score of the hit."""

    right: tuple[int, ...] = (0,) * BINS
    wrong: tuple[int, ...] = (0,) * BINS

    def told(self, bin: int, is_right: bool) -> "Learnt":
        """With one verdict more."""
        right, wrong = list(self.right), list(self.wrong)
        (right if is_right else wrong)[bin] += 1
        if sum(right) + sum(wrong) > VERDICTS_MAX:
            right, wrong = [n // 2 for n in right], [n // 2 for n in wrong]
        return Learnt(tuple(right), tuple(wrong))

    def threshold(self, least: float, wrong_share: float) -> float:
        """The least score that may be served."""
        wrong, count = sum(self.wrong), sum(self.wrong) + sum(self.right)
        for bin in range(BINS):
            if bin >= bin_of(least) and lower_bound(wrong, count) <= wrong_share:
                return max(least, score_of(bin))
            wrong -= self.wrong[bin]
            count -= self.wrong[bin] + self.right[bin]
        return 1.0


def bin_of(score: float) -> int:
    """Eight to a factor of ten in what is wrong."""
    return min(BINS - 1, max(0, int(_place(score) + 1e-9)))


def score_of(bin: int) -> float:
    """The least score of a bin."""
    return 1.0 - 10 ** (-bin / _BINS_PER_DECADE)


def _place(score: float) -> float:
    return -math.log10(max(1e-9, 1.0 - score)) * _BINS_PER_DECADE


def lower_bound(hits: int, count: int) -> float:
    """Of a share, by what was seen (Wilson, JASA 1927)."""
    if not count:
        return 0.0
    share, square = hits / count, _Z * _Z
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, (middle - half) / (1 + square / count))


def all_of(learnt: Iterable[Learnt]) -> Learnt:
    """The verdicts of several categories together."""
    found = list(learnt)
    return Learnt(
        tuple(sum(one.right[bin] for one in found) for bin in range(BINS)),
        tuple(sum(one.wrong[bin] for one in found) for bin in range(BINS)),
    )


# -- as they are asked for and stored -------------------------------------------------------------


def check_settings(
    wrong_share: Any, threshold: Any, ttl_seconds: Any, stale_seconds: Any, answers_max: Any
) -> Settings:
    """Raises UsageError that names the field."""
    for name, value, most in (
        ("wrong_share", wrong_share, 1.0), ("threshold", threshold, 1.0),
        ("ttl_seconds", ttl_seconds, 1e10), ("stale_seconds", stale_seconds, 1e10),
    ):  # fmt: skip
        if value is not None and (not _is_number(value) or not 0 < value <= most):
            raise UsageError(
                f"expected a number above 0 and up to {most:g}, got {value!r}", field=name
            )
    if answers_max is not None and (
        not isinstance(answers_max, int)
        or isinstance(answers_max, bool)
        or not 0 < answers_max < _COUNT_MAX
    ):
        raise UsageError(
            f"expected a whole number above 0, got {answers_max!r}", field="answers_max"
        )
    return Settings(wrong_share, threshold, ttl_seconds, stale_seconds, answers_max)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    settings: Settings
    right: tuple[int, ...]
    wrong: tuple[int, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(_Body)


def pack_category(settings: Settings, learnt: Learnt) -> bytes:
    return _encode(_Body(_VERSION, settings, learnt.right, learnt.wrong))


def open_category(row: CategoryRow) -> tuple[Settings, Learnt]:
    """Raises CorruptionError, StoreVersionError."""
    try:
        body = _decoder.decode(row.body)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"answer category {row.name!r}: {error}") from error
    if body.version != _VERSION:
        raise StoreVersionError(
            f"answer category {row.name!r} has version {body.version}, this memopt knows {_VERSION}"
        )
    if len(body.right) != BINS or len(body.wrong) != BINS:
        raise CorruptionError(f"answer category {row.name!r} has {len(body.right)} counts")
    return body.settings, Learnt(body.right, body.wrong)


class Kinds:
    """The categories of a scope, and what is asked of a score in each. Immutable."""

    def __init__(self, rows: Iterable[CategoryRow], wrong_share: float) -> None:
        self.rows = {row.category: row for row in rows}
        self._opened = {number: open_category(row) for number, row in self.rows.items()}
        self._wrong_share = wrong_share
        whole = all_of(learnt for _, learnt in self._opened.values())
        self.thresholds = {
            number: self._threshold(settings, learnt, whole)
            for number, (settings, learnt) in self._opened.items()
        }
        self.least = min(self.thresholds.values(), default=1.0)
        """No answer below it is served, whatever its category."""
        self.answers = sum(row.answers for row in self.rows.values())
        self.size_bytes = sum(row.size_bytes for row in self.rows.values())

    def _threshold(self, settings: Settings, learnt: Learnt, whole: Learnt) -> float:
        share = settings.wrong_share if settings.wrong_share is not None else self._wrong_share
        least = max(1.0 - share, settings.threshold or 0.0)
        return max(learnt.threshold(least, share), whole.threshold(least, share))

    def settings(self, category: int) -> Settings:
        return self._opened[category][0]

    def described(self, category: int) -> Category:
        row, (settings, learnt) = self.rows[category], self._opened[category]
        return Category(
            name=row.name, **settings._asdict(), answers=row.answers, size_bytes=row.size_bytes,
            learnt_threshold=self.thresholds[category], right=sum(learnt.right),
            wrong=sum(learnt.wrong),
        )  # fmt: skip


def kinds_of(tables: Tables, scope_number: int, wrong_share: float) -> Kinds:
    """The categories of a scope. Raises CorruptionError, StoreVersionError."""
    return Kinds(tables.answer_categories.of_scope(scope_number), wrong_share)
