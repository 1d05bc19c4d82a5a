"""Every setting, with its default and its unit: one frozen value that checks itself.

Later sources win: defaults, then a TOML file, then `MEMOPT_*` variables, then arguments.
"""

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from memopt.base.answer_records import AnswerContext
from memopt.base.errors import UsageError
from memopt.base.recall_records import Indexing
from memopt.base.records import Durability, PoolShares, Prefetch, Seal
from memopt.base.units import GIB, KIB, MIB, parse_bytes, parse_seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one store. Names end in their unit; every limit is `…_max` or `…_bytes`."""

    budget_bytes: int = 512 * MIB
    """The one hard limit on everything resident."""
    durability: Durability = Durability.SYNC
    policy: str = "adaptive"
    """Who leaves a tier, by one of the names in `docs/policies.md`."""
    admission_policy: str | None = None
    """Who may stay in a tier that is full: frequency or size; None lets everybody."""
    collection_policy: str = "lru"
    """Who leaves the cache of collections' entries. Others than LRU know more of each entry, which
    costs as much as a small value does."""
    indexing: Indexing = Indexing.ON
    """Whether messages are indexed as they are sealed, so that recall finds them: on or off."""
    vector_bits: int = 8
    """Of each number of a vector on disk: 8 or 4. With 4, an index takes a third less room, and
    recall is a little less sure."""
    tool_text_chars_max: int = 1000
    """Of a tool's output, so many characters are indexed."""
    recall_policy: str = "lru"
    """Who leaves when the indexes of scopes need room."""
    seal: Seal = Seal.IDLE
    page_target_bytes: int = 16 * KIB
    """A tail of this many encoded bytes becomes a page."""
    promotion_batch_pages: int = 1
    """A fault also brings in this many minus one of the session's next pages."""
    pool_shares: PoolShares = PoolShares.OFF
    """Whether agent types have shares of the page bytes: off, or soft."""
    prefetch: Prefetch = Prefetch.OFF
    """Which pages are brought in before they are asked for: off, next, order, recency or all."""
    l1_share: float = 0.5
    """Of the bytes that pages occupy, at most this share is uncompressed once room is short."""
    working_set_seconds: float = 60.0
    """The window in which touched pages are counted, by agent type."""
    thrashing_share: float = 0.5
    """Thrashing begins when more than this share of the major faults are refaults."""
    collection_trigger: str = "periodic"
    """When the arena of small values is collected: periodic, fragmentation, growth, bandit or
    bandit_ucb."""
    l1_idle_seconds: float = 300.0
    l2_idle_seconds: float = 900.0
    """Not touched for so long, pages leave RAM, and entries of collections."""
    resident_sessions_max: int = 8192
    wal_limit_bytes: int = 64 * MIB
    disk_quota_bytes: int | None = None
    """Appends are refused above it; deleting is not."""
    ballast_bytes: int = 1 * MIB
    """A file given up when the disk is full, so that deleting still works."""
    message_bytes_max: int = 32 * MIB
    message_depth_max: int = 64
    state_bytes_max: int = 64 * MIB
    item_bytes_max: int = 64 * KIB
    """Of the text of a stated memory."""
    document_bytes_max: int = 8 * MIB
    """Of a document that is ingested, as it comes."""
    state_keyframe_versions: int = 16
    """One version in so many is a keyframe: a delta of the keyframe before, not of the version."""
    state_versions_max: int | None = None
    """Older versions of a state are trimmed by compact(); None keeps all."""
    scratch_bytes_max: int = 1 * GIB
    """Of the file in which collections of turns are."""
    spool_bytes: int = 1 * MIB
    """A streamed message above this size waits on disk until it is committed."""
    dictionary_bytes: int = 32 * KIB
    dictionary_scopes_min: int = 5
    """Leaf scopes in which a substring must occur before a tenant's dictionary may hold it."""
    dictionary_training_pages: int = 512
    """New pages of a tenant after which a dictionary is trained in the background."""
    text_bytes_min: int = 1 * KIB
    """System prompts and tool schemas of at least this size are stored once in a tenant; other
    texts once in their scope from sixteen times this size."""
    commit_queue_max: int = 4096
    """Calls that may wait for a commit; one more gets a BackpressureError."""
    commit_batch_max: int = 256
    subscription_pending_max: int = 10_000
    key_retention_seconds: float = 7 * 86400.0
    """Idempotency keys are remembered this long."""
    journal_retention_seconds: float | None = None
    """compact() drops older events and abandoned branches; None keeps all."""
    journal_retention_records: int | None = None
    """compact() drops events and abandoned branches beyond this many records; None keeps all."""
    check_bytes_per_second: int = 256 * MIB
    maintenance_seconds: float = 1.0
    """The background thread's period; 0 runs none, and maintenance happens in compact() alone."""
    socket_clients_max: int = 32
    access_log: str | None = None
    """A file to which the touches of pages are recorded, for `memopt simulate`; None records
    none."""
    access_log_bytes_max: int = 64 * MIB
    """Of the recording and the one before it, which is named `….1`, together; 256 KiB at least."""
    probe_seconds: float = 0.25
    """How often memory is looked at; 0, as a maintenance_seconds of 0, looks only when told to."""
    rss_limit_bytes: int | None = None
    """The process's resident set shall stay below it; None: RSS before opening + 1.05 budgets +
    16 MiB, for which memopt gives up what it can but refuses nothing."""
    pressure_guarded_share: float = 0.75
    pressure_high_share: float = 0.9
    """Of a limit, by what cannot be given back at once. Critical is 0.3 of the way to the limit
    below it."""
    pressure_aggressiveness: float = 0.5
    """How much of the growth that is forecast counts as if it were there: 0 none, 1 all."""
    pressure_dwell_seconds: float = 2.0
    """A level is left after it was not needed for so long."""
    turn_share: float = 0.5
    """Of the budget, in predicted peaks of open turns; half of what RSS may exceed the budget by
    comes to it."""
    turn_bytes: int = 256 * KIB
    """The predicted peak of a turn of an agent type that is not known yet."""
    turn_queue_max: int = 1024
    turn_wait_seconds: float = 30.0
    turn_scope_share: float = 1.0
    """Of what may be admitted, by the turns of one scope."""
    turn_session_share: float = 0.5
    answer_wrong_share: float = 0.01
    """Of the cached answers that are served, at most this share may be wrong."""
    answer_context: AnswerContext = AnswerContext.EQUAL
    """What must be the same before the last question, for it to be compared: equal or any."""
    answer_ttl_seconds: float | None = None
    """Cached answers are served for so long; None: until something takes them away."""
    answer_bytes_max: int = 256 * MIB
    """Of the cached answers of one scope, on disk; the oldest go."""
    answers_max: int = 200_000
    """Cached answers of one category of a scope."""
    answer_wait_seconds: float = 60.0
    """A call waits so long for an equal one that is being answered, then it asks for itself."""
    answer_waiters_max: int = 256
    """Calls that may wait for others' answers."""
    heap_arenas_max: int = 1
    """Heaps of the C library that threads share (glibc); 0 leaves it as it is."""
    leak_window_seconds: float = 600.0
    """RSS that only rises for so long, with as many sessions as before, is reported."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        for name, smallest in _SMALLEST.items():
            if getattr(self, name) < smallest:
                raise UsageError(
                    f"at least {smallest} bytes are needed, got {getattr(self, name)}", field=name
                )
        for name in _SHARES:
            if getattr(self, name) > 1:
                raise UsageError(
                    f"expected a share in (0, 1], got {getattr(self, name)}", field=name
                )
        if self.vector_bits not in (4, 8):
            raise UsageError(f"expected 8 or 4, got {self.vector_bits}", field="vector_bits")
        if not self.pressure_guarded_share < self.pressure_high_share < 1:
            raise UsageError(
                f"expected a share above pressure_guarded_share ({self.pressure_guarded_share}) "
                f"and below 1, got {self.pressure_high_share}",
                field="pressure_high_share",
            )

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Self:
        """Defaults, then `file` (TOML), then MEMOPT_* of `environ`, then `arguments` not None."""
        values = cls.named(file, environ=environ)
        values |= {name: value for name, value in arguments.items() if value is not None}
        return cls(**cls._known(values))

    @classmethod
    def named(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What `file` and MEMOPT_* of `environ` name, as they have it: no defaults, and only the
        names are checked. Raises UsageError."""
        values: dict[str, Any] = {}
        if file is not None:
            try:
                values |= tomllib.loads(Path(file).read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot be read: {error}", field=f"config file {file}") from error
        variables = os.environ if environ is None else environ
        values |= {
            field.name: variables[variable]
            for field in dataclasses.fields(cls)
            if (variable := f"MEMOPT_{field.name.upper()}") in variables
        }
        return cls._known(values)

    @classmethod
    def _known(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise UsageError("there is no such setting", field=name)
        return values

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)


_OPTIONAL = frozenset(
    {
        "admission_policy",
        "access_log",
        "disk_quota_bytes",
        "state_versions_max",
        "journal_retention_seconds",
        "journal_retention_records",
        "rss_limit_bytes",
        "answer_ttl_seconds",
    }
)
_AGGRESSIVENESS = "pressure_aggressiveness"
_MAY_BE_ZERO = frozenset(
    {
        "heap_arenas_max",
        "maintenance_seconds",
        "ballast_bytes",
        "l1_idle_seconds",
        "probe_seconds",
        "pressure_dwell_seconds",
        "turn_wait_seconds",
        _AGGRESSIVENESS,
    }
)
_NAMES = {
    "policy": "policy",
    "admission_policy": "admission policy",
    "collection_policy": "policy",
    "recall_policy": "policy",
    "collection_trigger": "trigger",
}
_SHARES = (
    "l1_share",
    "thrashing_share",
    "pressure_guarded_share",
    "pressure_high_share",
    "turn_share",
    "turn_scope_share",
    "answer_wrong_share",
    "turn_session_share",
    _AGGRESSIVENESS,
)
_SMALLEST = {
    "budget_bytes": 8 * MIB,
    # Half of it has to hold the touches that are written at once.
    "access_log_bytes_max": 256 * KIB,
}
_LARGEST = {
    "message_bytes_max": 512 * MIB,
    "state_bytes_max": 512 * MIB,
    "item_bytes_max": 16 * MIB,
    "document_bytes_max": 64 * MIB,
    "message_depth_max": 200,
    "tool_text_chars_max": 32_768,
    "vector_bits": 8,
    "page_target_bytes": 4 * MIB,
    "dictionary_bytes": 1 * MIB,
    "promotion_batch_pages": 1024,
    "wal_limit_bytes": 4 * GIB,
    "heap_arenas_max": 1024,
}
_SECONDS_MAX = 100 * 365 * 86_400.0
"""A century: threads cannot wait for three."""
_NUMBER_MAX = 2**62
"""What fits a signed word, in C libraries too."""


def _checked(name: str, value: Any) -> Any:
    if value is None or (value == "none" and name in _OPTIONAL):
        if name in _OPTIONAL:
            return None
        raise UsageError("a value is needed", field=name)
    if name == "durability":
        return _member(Durability, name, value)
    if name == "seal":
        return _member(Seal, name, value)
    if name == "indexing":
        return _member(Indexing, name, value)
    if name == "answer_context":
        return _member(AnswerContext, name, value)
    if name == "pool_shares":
        return _member(PoolShares, name, value)
    if name == "prefetch":
        return _member(Prefetch, name, value)
    if name in _NAMES:
        if not isinstance(value, str):
            raise UsageError(f"expected a {_NAMES[name]}'s name, got {value!r}", field=name)
        return value
    if name == "access_log":
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise UsageError(f"expected a file's path, got {value!r}", field=name)
        return os.fsdecode(value)
    number: float
    if name.endswith("_seconds"):
        number = parse_seconds(value, field=name)
    elif name in _SHARES:
        number = _number(name, value)
    elif "_bytes" in name:
        number = parse_bytes(value, field=name)
    else:
        number = int(_number(name, value))
        if number != _number(name, value):
            raise UsageError(f"expected a whole number, got {value!r}", field=name)
    if number <= 0 and not (number == 0 and name in _MAY_BE_ZERO):
        raise UsageError(f"expected more than 0, got {value!r}", field=name)
    largest = _LARGEST.get(name, _SECONDS_MAX if name.endswith("_seconds") else _NUMBER_MAX)
    if number > largest:
        raise UsageError(f"at most {largest:,}, got {value!r}", field=name)
    return number


def _member(
    kind: type[Durability] | type[Seal] | type[Prefetch] | type[PoolShares] | type[Indexing]
    | type[AnswerContext],
    name: str, value: Any,
) -> Durability | Seal | Prefetch | PoolShares | Indexing | AnswerContext:  # fmt: skip
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(kind)
        raise UsageError(f"expected one of {choices}, got {value!r}", field=name) from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"expected a number, got {value!r}", field=name)
    return number
