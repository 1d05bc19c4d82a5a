"""Counters and histograms, fed by events. Constant memory, no dependency.

Every metric has one name, `memopt_<noun>_<unit>`, listed in METRICS with its meaning; the
documentation is tested against that table.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from memopt.base.events import (
    AnswerJudged,
    AnswerMissed,
    AnswerServed,
    AnswersEvicted,
    AnswerStored,
    Appended,
    Checkpointed,
    Collected,
    Committed,
    Demoted,
    DictionaryTrained,
    EntriesEvicted,
    EntriesFaulted,
    EntriesHit,
    EntriesWritten,
    Evicted,
    Faulted,
    Forecast,
    Hit,
    LeakSuspected,
    OutsideCharged,
    PageRepaired,
    Prefetched,
    PrefetchSettled,
    PressureChanged,
    Quarantined,
    Recalled,
    RecordsLost,
    Refused,
    ScopeFaulted,
    ScopesEvicted,
    Sealed,
    SegmentsMerged,
    StateSaved,
    StepTaken,
    StepUndone,
    Thrashing,
    TurnEnded,
    TurnWaited,
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
    "refaults": "major faults on what was evicted for room not long ago",
    "pages_prefetched": "pages brought in before they were asked for",
    "prefetch_hits": "those that were touched then",
    "prefetch_wasted": "those that left untouched",
    "thrashing": "times that thrashing began",
    "pages_demoted": "pages moved from L1 to L2",
    "pages_evicted": "pages dropped from RAM",
    "collections": "slices of the arena's cleaner that moved or closed something",
    "collected_bytes": "bytes that those slices gave back to the system",
    "collection_moved_bytes": "live bytes that they copied for it",
    "states_saved": "state versions saved",
    "state_raw_bytes": "bytes of those versions before delta encoding",
    "state_stored_bytes": "bytes of those versions as stored",
    "entries_hit": "reads of collections answered from RAM",
    "entries_faulted": "reads of collections answered from the home",
    "entries_written": "values set in collections",
    "entry_bytes": "encoded bytes of those values",
    "entries_evicted": "values of collections dropped from RAM",
    "recalls": "queries answered from memory",
    "recall_hits": "hits that they got",
    "scopes_faulted": "indexes of scopes brought into RAM",
    "scopes_evicted": "indexes of scopes dropped from RAM",
    "segments_merged": "index segments that became part of a larger one",
    "answers_served": "lookups that the answer cache answered",
    "answers_served_near": "of those, how many to a question in other words",
    "answers_missed": "lookups that it did not answer",
    "answers_stored": "answers stored",
    "answer_bytes": "bytes of those answers as stored",
    "answers_evicted": "answers that expired, or went for others",
    "answers_wrong": "answers that feedback said were wrong",
    "checkpoints": "write-ahead log checkpoints",
    "checkpoints_forced": "checkpoints the writer had to wait for",
    "dictionaries_trained": "compression dictionaries trained",
    "records_lost": "acknowledged records a damaged log no longer held",
    "pages_repaired": "database pages in which a flipped bit was flipped back",
    "sessions_quarantined": "sessions found damaged",
    "refusals": "calls refused because a limit was reached",
    "pressure_changes": "changes of the pressure level",
    "pressure_steps": "steps taken against pressure",
    "pressure_steps_undone": "steps undone",
    "forecasts": "forecasts whose moment has come",
    "forecasts_exceeded": "of those, how many upper forecasts were exceeded",
    "outside_bytes": "bytes of the budget that were given up because RSS came near its limit",
    "leaks_suspected": "windows in which RSS only rose",
    "turns": "turns that ended",
    "turns_waited": "turns that had to wait to be let in",
    "turn_peak_bytes": "the peaks of those turns, added up",
    "append_seconds": "histogram: one append call, commit and seal included",
    "commit_seconds": "histogram: one COMMIT, with its sync",
    "seal_seconds": "histogram: one seal",
    "fault_seconds": "histogram: one fault",
    "entry_fault_seconds": "histogram: one read of a collection from the home",
    "entry_write_seconds": "histogram: one write to a collection, commit included",
    "recall_seconds": "histogram: one recall, bringing in what was not in RAM included",
    "answer_lookup_seconds": "histogram: one lookup of an answer",
    "scope_fault_seconds": "histogram: one index of a scope brought into RAM",
    "checkpoint_seconds": "histogram: one checkpoint",
    "collection_seconds": "histogram: one slice of the arena's cleaner, its pause",
    "turn_seconds": "histogram: one turn, from when it was let in",
    "turn_wait_seconds": "histogram: the wait of those turns that had to",
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
        count = _COUNTING.get(type(event))
        if count is not None:
            count(self, event)

    def _appended(self, event: Appended) -> None:
        self.counters["messages_appended"] += event.messages
        self.counters["message_bytes"] += event.size_bytes
        self.histograms["append_seconds"].add(event.seconds)

    def _committed(self, event: Committed) -> None:
        counters = self.counters
        counters["commits"] += 1
        counters["commit_members"] += event.members
        counters["records"] += event.records
        self.histograms["commit_seconds"].add(event.seconds)

    def _hit(self, event: Hit) -> None:
        self.counters["page_hits"] += event.pages

    def _faulted(self, event: Faulted) -> None:
        self.counters["faults_" + event.kind] += event.pages
        self.counters["fault_bytes"] += event.size_bytes
        self.counters["refaults"] += event.refaults
        self.histograms["fault_seconds"].add(event.seconds)

    def _sealed(self, event: Sealed) -> None:
        self.counters["pages_sealed"] += 1
        self.counters["sealed_raw_bytes"] += event.raw_bytes
        self.counters["sealed_stored_bytes"] += event.stored_bytes
        self.histograms["seal_seconds"].add(event.seconds)

    def _demoted(self, event: Demoted) -> None:
        self.counters["pages_demoted"] += event.pages

    def _evicted(self, event: Evicted) -> None:
        self.counters["pages_evicted"] += event.pages

    def _prefetched(self, event: Prefetched) -> None:
        self.counters["pages_prefetched"] += event.pages

    def _prefetch_settled(self, event: PrefetchSettled) -> None:
        self.counters["prefetch_hits" if event.was_used else "prefetch_wasted"] += event.pages

    def _thrashing(self, event: Thrashing) -> None:
        self.counters["thrashing"] += event.is_on

    def _collected(self, event: Collected) -> None:
        self.counters["collections"] += 1
        self.counters["collected_bytes"] += event.freed_bytes
        self.counters["collection_moved_bytes"] += event.moved_bytes
        self.histograms["collection_seconds"].add(event.seconds)

    def _state_saved(self, event: StateSaved) -> None:
        self.counters["states_saved"] += 1
        self.counters["state_raw_bytes"] += event.raw_bytes
        self.counters["state_stored_bytes"] += event.stored_bytes

    def _entries_hit(self, event: EntriesHit) -> None:
        self.counters["entries_hit"] += event.entries

    def _entries_faulted(self, event: EntriesFaulted) -> None:
        self.counters["entries_faulted"] += event.entries
        self.histograms["entry_fault_seconds"].add(event.seconds)

    def _entries_written(self, event: EntriesWritten) -> None:
        self.counters["entries_written"] += event.entries
        self.counters["entry_bytes"] += event.size_bytes
        self.histograms["entry_write_seconds"].add(event.seconds)

    def _entries_evicted(self, event: EntriesEvicted) -> None:
        self.counters["entries_evicted"] += event.entries

    def _recalled(self, event: Recalled) -> None:
        self.counters["recalls"] += 1
        self.counters["recall_hits"] += event.hits
        self.histograms["recall_seconds"].add(event.seconds)

    def _scope_faulted(self, event: ScopeFaulted) -> None:
        self.counters["scopes_faulted"] += 1
        self.histograms["scope_fault_seconds"].add(event.seconds)

    def _scopes_evicted(self, event: ScopesEvicted) -> None:
        self.counters["scopes_evicted"] += event.scopes

    def _answer_served(self, event: AnswerServed) -> None:
        self.counters["answers_served"] += 1
        self.counters["answers_served_near"] += event.match != "exact"
        self.histograms["answer_lookup_seconds"].add(event.seconds)

    def _answer_missed(self, event: AnswerMissed) -> None:
        self.counters["answers_missed"] += 1
        self.histograms["answer_lookup_seconds"].add(event.seconds)

    def _answer_stored(self, event: AnswerStored) -> None:
        self.counters["answers_stored"] += 1
        self.counters["answer_bytes"] += event.size_bytes

    def _answers_evicted(self, event: AnswersEvicted) -> None:
        self.counters["answers_evicted"] += event.answers

    def _answer_judged(self, event: AnswerJudged) -> None:
        self.counters["answers_wrong"] += event.verdict == "wrong"

    def _segments_merged(self, event: SegmentsMerged) -> None:
        self.counters["segments_merged"] += event.segments

    def _checkpointed(self, event: Checkpointed) -> None:
        self.counters["checkpoints"] += 1
        self.counters["checkpoints_forced"] += event.forced
        self.histograms["checkpoint_seconds"].add(event.seconds)

    def _trained(self, event: DictionaryTrained) -> None:
        self.counters["dictionaries_trained"] += 1

    def _lost(self, event: RecordsLost) -> None:
        self.counters["records_lost"] += event.records

    def _page_repaired(self, event: PageRepaired) -> None:
        self.counters["pages_repaired"] += 1

    def _quarantined(self, event: Quarantined) -> None:
        self.counters["sessions_quarantined"] += 1

    def _pressure_changed(self, event: PressureChanged) -> None:
        self.counters["pressure_changes"] += 1

    def _step_taken(self, event: StepTaken) -> None:
        self.counters["pressure_steps"] += 1

    def _step_undone(self, event: StepUndone) -> None:
        self.counters["pressure_steps_undone"] += 1

    def _forecast(self, event: Forecast) -> None:
        self.counters["forecasts"] += 1
        self.counters["forecasts_exceeded"] += event.exceeded

    def _outside_charged(self, event: OutsideCharged) -> None:
        self.counters["outside_bytes"] += max(0, event.size_bytes)

    def _leak_suspected(self, event: LeakSuspected) -> None:
        self.counters["leaks_suspected"] += 1

    def _turn_ended(self, event: TurnEnded) -> None:
        self.counters["turns"] += 1
        self.counters["turn_peak_bytes"] += event.peak_bytes
        self.histograms["turn_seconds"].add(event.seconds)

    def _turn_waited(self, event: TurnWaited) -> None:
        self.counters["turns_waited"] += 1
        self.histograms["turn_wait_seconds"].add(event.seconds)

    def _refused(self, event: Refused) -> None:
        self.counters["refusals"] += 1


# By type, not by matching: an append emits two events, and each comparison would show in it.
_COUNTING: Final[dict[type, Callable[[Metrics, Any], None]]] = {
    Appended: Metrics._appended,
    Committed: Metrics._committed,
    Hit: Metrics._hit,
    Faulted: Metrics._faulted,
    Sealed: Metrics._sealed,
    Demoted: Metrics._demoted,
    Evicted: Metrics._evicted,
    StateSaved: Metrics._state_saved,
    EntriesHit: Metrics._entries_hit,
    EntriesFaulted: Metrics._entries_faulted,
    EntriesWritten: Metrics._entries_written,
    EntriesEvicted: Metrics._entries_evicted,
    Recalled: Metrics._recalled,
    ScopeFaulted: Metrics._scope_faulted,
    ScopesEvicted: Metrics._scopes_evicted,
    AnswerServed: Metrics._answer_served,
    AnswerMissed: Metrics._answer_missed,
    AnswerStored: Metrics._answer_stored,
    AnswersEvicted: Metrics._answers_evicted,
    AnswerJudged: Metrics._answer_judged,
    SegmentsMerged: Metrics._segments_merged,
    Checkpointed: Metrics._checkpointed,
    Collected: Metrics._collected,
    DictionaryTrained: Metrics._trained,
    RecordsLost: Metrics._lost,
    PageRepaired: Metrics._page_repaired,
    Quarantined: Metrics._quarantined,
    Prefetched: Metrics._prefetched,
    PrefetchSettled: Metrics._prefetch_settled,
    Refused: Metrics._refused,
    Thrashing: Metrics._thrashing,
    PressureChanged: Metrics._pressure_changed,
    StepTaken: Metrics._step_taken,
    StepUndone: Metrics._step_undone,
    Forecast: Metrics._forecast,
    OutsideCharged: Metrics._outside_charged,
    LeakSuspected: Metrics._leak_suspected,
    TurnEnded: Metrics._turn_ended,
    TurnWaited: Metrics._turn_waited,
}
