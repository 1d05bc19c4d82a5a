"""Counters and histograms, fed by events. Constant memory, no dependency.

Every metric has one name, `memopt_<noun>_<unit>`, listed in METRICS with its meaning; the
documentation is tested against that table.
"""

import math
from typing import Any, Final

from memopt.base.events import (
    Appended,
    Checkpointed,
    Committed,
    Demoted,
    DictionaryTrained,
    Evicted,
    Faulted,
    Hit,
    Quarantined,
    RecordsLost,
    Refused,
    Sealed,
    StateSaved,
)

METRICS: Final = {
    "commits": "committed batches",
    "commit_members": "calls that were grouped into those batches",
    "records": "journal records committed",
    "messages_appended": "messages appended",
    "message_bytes": "encoded bytes of those messages",
    "pages_sealed": "tails turned into pages",
    "sealed_raw_bytes": "bytes of those pages before compression",
    "sealed_stored_bytes": "bytes of those pages as stored",
    "page_hits": "page touches answered from L1",
    "faults_minor": "page touches answered from L2",
    "faults_major": "page touches answered from L3",
    "fault_bytes": "bytes brought into L1 by faults",
    "pages_demoted": "pages moved from L1 to L2",
    "pages_evicted": "pages dropped from RAM",
    "states_saved": "state versions saved",
    "state_raw_bytes": "bytes of those versions before delta encoding",
    "state_stored_bytes": "bytes of those versions as stored",
    "checkpoints": "write-ahead log checkpoints",
    "checkpoints_forced": "checkpoints the writer had to wait for",
    "dictionaries_trained": "compression dictionaries trained",
    "records_lost": "acknowledged records a damaged log no longer held",
    "sessions_quarantined": "sessions found damaged",
    "refusals": "calls refused because a limit was reached",
    "append_seconds": "histogram: one append call, commit and seal included",
    "commit_seconds": "histogram: one COMMIT, with its sync",
    "seal_seconds": "histogram: one seal",
    "fault_seconds": "histogram: one fault",
    "checkpoint_seconds": "histogram: one checkpoint",
}

_BUCKETS_PER_DOUBLING: Final = 4
_BUCKETS: Final = 4 * 36
_SMALLEST_SECONDS: Final = 1e-7


class Histogram:
    """Logarithmic buckets, four to a doubling, from 100 ns to two hours: quantiles within 19 %."""

    __slots__ = ("counts", "seconds_max", "seconds_sum", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.total = 0
        self.seconds_sum = 0.0
        self.seconds_max = 0.0

    def add(self, seconds: float) -> None:
        index = 0
        if seconds > _SMALLEST_SECONDS:
            index = int(math.log2(seconds / _SMALLEST_SECONDS) * _BUCKETS_PER_DOUBLING) + 1
            if index >= _BUCKETS:
                index = _BUCKETS - 1
        self.counts[index] += 1
        self.total += 1
        self.seconds_sum += seconds
        if seconds > self.seconds_max:
            self.seconds_max = seconds

    def quantile(self, share: float) -> float:
        """The upper edge of the bucket that holds the quantile; 0.0 when empty."""
        rank = share * self.total
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                edge: float = _SMALLEST_SECONDS * 2.0 ** (index / _BUCKETS_PER_DOUBLING)
                return min(edge, self.seconds_max)
        return 0.0


class Metrics:
    """The sink that counts. Updates are not atomic across threads: a count may be off by a few."""

    def __init__(self) -> None:
        self.counters = {n: 0 for n in METRICS if not n.endswith("_seconds")}
        self.histograms = {n: Histogram() for n in METRICS if n.endswith("_seconds")}

    def emit(self, event: Any) -> None:
        count = self.counters
        match event:
            case Appended(messages, size_bytes, seconds):
                count["messages_appended"] += messages
                count["message_bytes"] += size_bytes
                self.histograms["append_seconds"].add(seconds)
            case Committed(members, records, _, seconds):
                count["commits"] += 1
                count["commit_members"] += members
                count["records"] += records
                self.histograms["commit_seconds"].add(seconds)
            case Hit(pages):
                count["page_hits"] += pages
            case Faulted(kind, pages, size_bytes, seconds):
                count["faults_" + kind] += pages
                count["fault_bytes"] += size_bytes
                self.histograms["fault_seconds"].add(seconds)
            case Sealed(_, raw_bytes, stored_bytes, seconds):
                count["pages_sealed"] += 1
                count["sealed_raw_bytes"] += raw_bytes
                count["sealed_stored_bytes"] += stored_bytes
                self.histograms["seal_seconds"].add(seconds)
            case Demoted(pages):
                count["pages_demoted"] += pages
            case Evicted(pages):
                count["pages_evicted"] += pages
            case StateSaved(raw_bytes, stored_bytes):
                count["states_saved"] += 1
                count["state_raw_bytes"] += raw_bytes
                count["state_stored_bytes"] += stored_bytes
            case Checkpointed(_, seconds, forced):
                count["checkpoints"] += 1
                count["checkpoints_forced"] += forced
                self.histograms["checkpoint_seconds"].add(seconds)
            case DictionaryTrained():
                count["dictionaries_trained"] += 1
            case RecordsLost(lost):
                count["records_lost"] += lost
            case Quarantined():
                count["sessions_quarantined"] += 1
            case Refused():
                count["refusals"] += 1
