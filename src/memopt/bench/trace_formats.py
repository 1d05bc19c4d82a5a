"""The forms an access trace comes in, each read into arrays of keys and sizes.

Owns the meaning of every line. Invariant: a line that does not fit its form is a UsageError that
names file and line, whatever it holds. Not here: opening, decompressing and telling forms apart
(traces.py).

A trace of KV-cache blocks counts tokens, not bytes: a block is taken for the text of its tokens, at
TOKEN_BYTES each, unless told otherwise.
"""

import csv
import dataclasses
from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NoReturn, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from memopt.base.errors import CorruptionError, UsageError
from memopt.base.units import GIB
from memopt.codecs.accesses import ROW, decode_blocks

REQUESTS_MAX: Final = 50_000_000
"""Of one trace: 200 MB of keys, and as much again in every process that simulates."""
ARC_BLOCK_BYTES: Final = 512
TOKEN_BYTES: Final = 4
MOONCAKE_BLOCK_TOKENS: Final = 512
_KEY_MAX: Final = 2**62
_SIZE_BYTES_MAX: Final = 64 * GIB
_BLOCKS_OF_A_LINE_MAX: Final = 1 << 24
_SESSION_SHIFT: Final = 40
_SESSIONS_MAX: Final = 1 << (62 - _SESSION_SHIFT)
_COLUMNS: Final = ("time", "key", "size")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file being read."""

    name: str
    lines: Callable[[], Iterator[tuple[int, bytes]]]
    chunks: Callable[[], Iterator[bytes]]
    requests_max: int
    block_bytes: int | None

    def wrong(self, number: int, reason: str) -> NoReturn:
        raise UsageError(reason, field=f"{self.name}:{number}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accesses:
    """What was read. Keys are any integers."""

    keys: NDArray[np.int64]
    sizes: NDArray[np.int64] | int
    stored: NDArray[np.int64] | None = None
    is_cut: bool = False
    """There was more than `requests_max`."""
    notes: tuple[str, ...] = ()


def arc(source: Source) -> Accesses:
    """`start count 0 request`: so many consecutive blocks from `start` on, each a request.

    Source of the form: N. Megiddo, D. S. Modha, "ARC: a self-tuning, low overhead replacement
    cache", FAST 2003.
    """
    starts, counts = array("q"), array("q")
    total = 0
    for number, line in source.lines():
        words = line.split()
        try:
            start, count, _, _ = map(int, words)
        except ValueError:
            source.wrong(number, f"expected four whole numbers, got {line[:60]!r}")
        if not 0 <= start < _KEY_MAX or not 1 <= count <= _BLOCKS_OF_A_LINE_MAX:
            source.wrong(number, f"expected a block and how many, got {start} and {count}")
        starts.append(start)
        counts.append(count)
        total += count
        if total > source.requests_max:
            break
    each = np.frombuffer(counts, dtype=np.int64)
    first = np.repeat(np.frombuffer(starts, dtype=np.int64), each)
    within = np.arange(len(first)) - np.repeat(np.cumsum(each) - each, each)
    return Accesses(
        keys=first + within,
        sizes=source.block_bytes or ARC_BLOCK_BYTES,
        is_cut=total > source.requests_max,
        notes=_taken(source, "block", ARC_BLOCK_BYTES),
    )


class _Request(msgspec.Struct):
    hash_ids: list[int]
    timestamp: float | None = None


def mooncake(source: Source) -> Accesses:
    """One request of a language model a line; `hash_ids` are its prompt's blocks of 512 tokens.

    Source: R. Qin et al., "Mooncake: a KVCache-centric disaggregated architecture for LLM serving",
    2024. Requests are taken in the order of the file.
    """
    keys = array("q")
    decoder = msgspec.json.Decoder(_Request)
    for number, line in source.lines():
        request = _decoded(source, number, decoder, line)
        _extend(source, number, keys, request.hash_ids)
        if len(keys) > source.requests_max:
            break
    size = MOONCAKE_BLOCK_TOKENS * TOKEN_BYTES
    return Accesses(
        keys=np.frombuffer(keys, dtype=np.int64),
        sizes=source.block_bytes or size,
        is_cut=len(keys) > source.requests_max,
        notes=_taken(source, f"block of {MOONCAKE_BLOCK_TOKENS} tokens", size),
    )


class _AgentRequest(msgspec.Struct):
    t: float | None = None
    hash_ids: list[int] = []
    requests: "list[_AgentRequest]" = []
    """Of a subagent: their `t` counts from its own."""


class _AgentSession(msgspec.Struct):
    requests: list[_AgentRequest]
    block_size: int = 64


def agents(source: Source) -> Accesses:
    """One session of an agent a line, with its requests; `hash_ids` are local to the session.

    Sessions begin together and interleave by `t`, seconds since the session's begin; a request
    without one comes right after the one before it. Requests of subagents lie where they were made.
    """
    decoder = msgspec.json.Decoder(_AgentSession)
    timed: list[tuple[float, int, array[int]]] = []
    total = tokens = 0
    for session, (number, line) in enumerate(source.lines()):
        found = _decoded(source, number, decoder, line)
        if session >= _SESSIONS_MAX:
            source.wrong(number, f"more than {_SESSIONS_MAX:,} sessions")
        if not 1 <= found.block_size <= 1 << 20:
            source.wrong(number, f"expected tokens of a block, got {found.block_size}")
        if tokens not in (0, found.block_size):
            source.wrong(number, f"blocks of {found.block_size} tokens after blocks of {tokens}")
        tokens = found.block_size
        for at, request in _in_order(found.requests, 0.0):
            keys = array("q")
            _extend(source, number, keys, request.hash_ids, session)
            timed.append((at, session, keys))
            total += max(1, len(keys))
        if total > REQUESTS_MAX:
            # All sessions have to be read before it is known which request is the first.
            source.wrong(number, f"more than {REQUESTS_MAX:,} requests")
    timed.sort(key=lambda each: each[:2])
    size = max(1, tokens) * TOKEN_BYTES
    merged = [np.frombuffer(keys, dtype=np.int64) for _, _, keys in timed if len(keys)]
    return Accesses(
        keys=np.concatenate(merged) if merged else np.empty(0, dtype=np.int64),
        sizes=source.block_bytes or size,
        is_cut=sum(map(len, merged)) > source.requests_max,
        notes=_taken(source, f"block of {tokens} tokens", size),
    )


def table(source: Source) -> Accesses:
    """CSV with a header that names `key`, and perhaps `time` and `size`; other columns are skipped.

    A key is any text, a time any number (rows are sorted by it where they are not in order), a size
    whole bytes from 1. A quoted field may not hold a line break.
    """
    numbered = source.lines()
    number, header = next(numbered)
    columns = _row(source, number, header)
    names = [name.strip().lower() for name in columns]
    places = {name: names.index(name) for name in _COLUMNS if name in names}
    known: dict[str, int] = {}
    keys, sizes, times = array("q"), array("q"), array("d")
    for number, line in numbered:
        if len(keys) > source.requests_max:
            break
        row = _row(source, number, line)
        if len(row) != len(columns):
            source.wrong(number, f"expected {len(columns)} fields, got {len(row)}")
        keys.append(known.setdefault(row[places["key"]], len(known)))
        if "size" in places:
            sizes.append(_size(source, number, row[places["size"]]))
        if "time" in places:
            times.append(_time(source, number, row[places["time"]]))
    found = np.frombuffer(keys, dtype=np.int64)
    size: NDArray[np.int64] | int = source.block_bytes or 1
    if "size" in places:
        size = np.frombuffer(sizes, dtype=np.int64)
    notes = () if "size" in places else (f"no column size: {size} bytes a key",)
    at = np.frombuffer(times, dtype=np.float64)
    if len(at) and bool((np.diff(at) < 0).any()):
        order = np.argsort(at, kind="stable")
        found, size = found[order], size if isinstance(size, int) else size[order]
        notes = (*notes, "rows were not in the order of time, and were sorted")
    cut = len(keys) > source.requests_max
    return Accesses(keys=found, sizes=size, is_cut=cut, notes=notes)


_RECORDED: Final = np.dtype(
    [("page", "<u8"), ("raw", "<u4"), ("stored", "<u4"), ("seconds", "<f8")]
)


def recorded(source: Source, before: Callable[[], Iterator[bytes]] | None = None) -> Accesses:
    """What memopt recorded itself (`access_log`): pages with their bytes before and after
    compression. `before` is the recording before this one."""
    assert _RECORDED.itemsize == ROW.size
    blocks = []
    total = 0
    streams = [*([before()] if before is not None else []), source.chunks()]
    try:
        for body in chain.from_iterable(map(decode_blocks, streams)):
            blocks.append(np.frombuffer(body, dtype=_RECORDED))
            total += len(blocks[-1])
            if total > source.requests_max:
                break
    except CorruptionError as error:
        raise CorruptionError(f"{source.name}: {error.reason}") from error
    rows = np.concatenate(blocks) if blocks else np.empty(0, dtype=_RECORDED)
    if len(rows) and (int(rows["page"].max()) >= _KEY_MAX or int(rows["raw"].min()) < 1):
        raise CorruptionError(f"{source.name}: a page that cannot be")
    return Accesses(
        keys=rows["page"].astype(np.int64),
        sizes=rows["raw"].astype(np.int64),
        stored=rows["stored"].astype(np.int64),
        is_cut=total > source.requests_max,
    )


def _taken(source: Source, what: str, size_bytes: int) -> tuple[str, ...]:
    size = source.block_bytes or size_bytes
    return (f"a {what} is taken for {size:,} bytes",)


def _decoded(source: Source, number: int, decoder: "msgspec.json.Decoder[T]", line: bytes) -> T:
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError) as error:
        source.wrong(number, str(error))


def _extend(
    source: Source, number: int, keys: "array[int]", ids: list[int], session: int | None = None
) -> None:
    if len(ids) > _BLOCKS_OF_A_LINE_MAX:
        source.wrong(number, f"at most {_BLOCKS_OF_A_LINE_MAX:,} hash_ids, got {len(ids):,}")
    top = _KEY_MAX if session is None else 1 << _SESSION_SHIFT
    if ids and not (min(ids) >= 0 and max(ids) < top):
        source.wrong(number, f"expected hash_ids from 0 to {top - 1}")
    offset = (session or 0) << _SESSION_SHIFT
    keys.extend([offset + each for each in ids] if offset else ids)


def _in_order(requests: list[_AgentRequest], begun: float) -> Iterator[tuple[float, _AgentRequest]]:
    at = begun
    for request in requests:
        if request.t is not None:
            at = begun + request.t
        yield at, request
        yield from _in_order(request.requests, at)


def _row(source: Source, number: int, line: bytes) -> list[str]:
    try:
        (row,) = csv.reader([line.decode("utf-8").rstrip("\r\n")], strict=True)
    except (csv.Error, ValueError) as error:
        source.wrong(number, f"is no row of CSV: {error}")
    return row


def _size(source: Source, number: int, text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 1 <= size <= _SIZE_BYTES_MAX:
        source.wrong(number, f"expected whole bytes from 1, got {text[:40]!r}")
    return size


def _time(source: Source, number: int, text: str) -> float:
    try:
        at = float(text)
    except ValueError:
        at = float("nan")
    if not abs(at) < float("inf"):
        source.wrong(number, f"expected a time, got {text[:40]!r}")
    return at
