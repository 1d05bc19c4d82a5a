"""`/metrics`: figures of the server and its store, in the text form that Prometheus reads.

A caller gets what its key had of each model, and what the whole server has without anybody's name;
a key with `figures` gets the lines of all keys. Not here: counting (books.py, base/metrics.py).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from memopt.base.stats_records import Stats
from memopt.server.books import Books, key_of
from memopt.server.exchange import Exchange, Outgoing
from memopt.server.services import Services

_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_LEVELS: Final = ("calm", "guarded", "high", "critical")
_KINDS: Final = ("prompt", "cached", "completion", "reasoning")

Sample = tuple[dict[str, str], float]


class Metrics:
    """Serves them."""

    def __init__(self, services: Services, open_requests: Callable[[], int]) -> None:
        self._services = services
        self._open_requests = open_requests

    async def __call__(self, exchange: Exchange, out: Outgoing) -> None:
        services, caller = self._services, exchange.caller
        stats = await services.threads.run(services.memory.stats)
        sees_all = caller.settings is not None and caller.settings.figures
        lines = [
            *_of_books(services.books, None if sees_all else key_of(caller)),
            *_metric("server_open_requests", "gauge", [({}, self._open_requests())]),
            *_of_store(stats),
        ]
        await out.answer(200, [(b"content-type", _TYPE)], ("\n".join(lines) + "\n").encode())


def _of_books(books: Books, key: str | None) -> Iterable[str]:
    requests: list[Sample] = []
    hits: list[Sample] = []
    tokens: list[Sample] = []
    for name, model, line in books.lines(key):
        labels = {"key": name, "model": model}
        requests.append((labels, line.requests))
        hits.append((labels, line.hits))
        counts = (
            line.prompt_tokens, line.cached_tokens, line.completion_tokens, line.reasoning_tokens,
        )  # fmt: skip
        tokens += [(labels | {"kind": kind}, n) for kind, n in zip(_KINDS, counts, strict=True)]
    yield from _metric("server_answered_total", "counter", requests)
    yield from _metric("server_answer_hits_total", "counter", hits)
    yield from _metric("server_tokens_total", "counter", tokens)


def _of_store(stats: Stats) -> Iterable[str]:
    pressure = stats.pressure
    gauges: dict[str, Any] = {
        "budget_bytes": stats.budget_bytes, "reserved_bytes": stats.reserved_bytes,
        "reserved_bytes_max": stats.reserved_bytes_max, "rss_bytes": stats.rss_bytes,
        "resident_sessions": stats.resident_sessions, "disk_bytes": stats.disk_bytes,
        "disk_free_bytes": stats.disk_free_bytes, "wal_bytes": stats.wal_bytes,
        "append_seconds_p99": stats.append_seconds_p99, "sync_seconds_p99": stats.sync_seconds_p99,
        "turns": pressure.turns, "turns_waiting": pressure.turns_waiting,
    }  # fmt: skip
    for name, value in gauges.items():
        yield from _metric(name, "gauge", [({}, value)])
    levels = [({"level": level}, float(level == pressure.level)) for level in _LEVELS]
    yield from _metric("pressure_level", "gauge", levels)
    owners = [({"owner": owner}, float(size)) for owner, size in stats.owners.items()]
    yield from _metric("owner_bytes", "gauge", owners)
    for name, count in sorted(stats.counters.items()):
        yield from _metric(f"{name}_total", "counter", [({}, count)])


def _metric(name: str, kind: str, samples: Iterable[Sample]) -> Iterable[str]:
    found = list(samples)
    if found:
        yield f"# TYPE memopt_{name} {kind}"
    for labels, value in found:
        said = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"memopt_{name}{{{said}}} {value:.17g}" if said else f"memopt_{name} {value:.17g}"


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return escaped.encode("utf-8", "replace").decode()
