"""Counters count what happened, and quantiles are as near as they claim."""

import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base import events
from memopt.base.events import Events
from memopt.base.metrics import METRICS, Histogram, Metrics

WITHIN = 2 ** (1 / 4)
"""Four buckets to a doubling: an upper edge is at most this many times the value, 19 % more."""
SECONDS = st.floats(min_value=2e-7, max_value=3600.0)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_within_19_percent_of_numpy_s(spread: float, share: float) -> None:
    chance = Random(2)
    values = [math.exp(chance.gauss(math.log(1e-4), spread)) for _ in range(20_000)]
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    approximate = filled(values).quantile(share)
    assert exact * (1 - 1e-9) <= approximate <= exact * WITHIN * (1 + 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.floats(min_value=0.001, max_value=1.0))
def test_a_quantile_is_never_too_low_and_at_most_one_bucket_too_high(
    values: list[float], share: float
) -> None:
    # The same rank in both: numpy's own rounding of share * count is not what is tested here.
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    approximate = filled(values).quantile(share)
    assert exact * (1 - 1e-9) <= approximate <= exact * WITHIN * (1 + 1e-9)


@given(st.lists(SECONDS, max_size=100))
def test_a_histogram_keeps_its_count_its_sum_and_its_largest(values: list[float]) -> None:
    histogram = filled(values)
    assert histogram.total == len(values) == sum(histogram.counts)
    assert histogram.seconds_sum == pytest.approx(sum(values))
    assert histogram.seconds_max == max(values, default=0.0)
    assert histogram.quantile(1.0) <= histogram.seconds_max


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) == 0.0


def test_times_off_the_scale_stay_in_its_first_and_last_bucket() -> None:
    histogram = filled([0.0, 1e-9, 1e9])
    assert histogram.counts[0] == 2
    assert histogram.counts[-1] == 1
    assert histogram.quantile(0.5) <= 1e-7


EMITTED: list[tuple[Any, dict[str, int], str | None]] = [
    (
        events.PressureChanged(level="high", before="calm", nearest="rss", share=0.92),
        {"pressure_changes": 1},
        None,
    ),
    (events.StepTaken(step="collect", level="high", seconds=0.1), {"pressure_steps": 1}, None),
    (
        events.StepUndone(step="collect", level="calm", seconds=0.1),
        {"pressure_steps_undone": 1},
        None,
    ),
    (events.Forecast(exceeded=True), {"forecasts": 1, "forecasts_exceeded": 1}, None),
    (events.OutsideCharged(size_bytes=700, outside_bytes=900), {"outside_bytes": 700}, None),
    (
        events.LeakSuspected(owner="states", grown_bytes=900, seconds=60.0),
        {"leaks_suspected": 1},
        None,
    ),
    (
        events.TurnEnded(peak_bytes=500, seconds=0.1),
        {"turns": 1, "turn_peak_bytes": 500},
        "turn_seconds",
    ),
    (events.TurnWaited(seconds=0.1), {"turns_waited": 1}, "turn_wait_seconds"),
    (
        events.Recalled(hits=3, candidates=200, seconds=0.1),
        {"recalls": 1, "recall_hits": 3},
        "recall_seconds",
    ),
    (
        events.ScopeFaulted(entries=9, size_bytes=900, seconds=0.1),
        {"scopes_faulted": 1},
        "scope_fault_seconds",
    ),
    (events.ScopesEvicted(scopes=2, size_bytes=900), {"scopes_evicted": 2}, None),
    (
        events.AnswerServed(match="question", seconds=0.1),
        {"answers_served": 1, "answers_served_near": 1},
        "answer_lookup_seconds",
    ),
    (
        events.AnswerMissed(reason="unknown", seconds=0.1),
        {"answers_missed": 1},
        "answer_lookup_seconds",
    ),
    (events.AnswerStored(size_bytes=900), {"answers_stored": 1, "answer_bytes": 900}, None),
    (events.AnswersEvicted(answers=2), {"answers_evicted": 2}, None),
    (events.AnswerJudged(verdict="wrong"), {"answers_wrong": 1}, None),
    (events.SegmentsMerged(segments=4, entries=90, seconds=0.1), {"segments_merged": 4}, None),
    (
        events.Committed(members=4, records=7, size_bytes=900, seconds=0.1),
        {"commits": 1, "commit_members": 4, "records": 7},
        "commit_seconds",
    ),
    (
        events.Appended(messages=3, size_bytes=500, seconds=0.1),
        {"messages_appended": 3, "message_bytes": 500},
        "append_seconds",
    ),
    (
        events.Sealed(messages=9, raw_bytes=16_000, stored_bytes=1_500, seconds=0.1),
        {"pages_sealed": 1, "sealed_raw_bytes": 16_000, "sealed_stored_bytes": 1_500},
        "seal_seconds",
    ),
    (
        events.Faulted(kind="minor", pages=2, size_bytes=300, seconds=0.1),
        {"faults_minor": 2, "fault_bytes": 300},
        "fault_seconds",
    ),
    (
        events.Faulted(kind="major", pages=2, size_bytes=300, seconds=0.1),
        {"faults_major": 2, "fault_bytes": 300},
        "fault_seconds",
    ),
    (
        events.Faulted(kind="major", pages=2, size_bytes=300, seconds=0.1, refaults=1),
        {"faults_major": 2, "fault_bytes": 300, "refaults": 1},
        "fault_seconds",
    ),
    (events.Prefetched("next", 2, 9000, 0.1), {"pages_prefetched": 2}, None),
    (events.PrefetchSettled("next", 2, was_used=True), {"prefetch_hits": 2}, None),
    (events.PrefetchSettled("next", 1, was_used=False), {"prefetch_wasted": 1}, None),
    (events.Thrashing(is_on=True, refaults=60, faults=100), {"thrashing": 1}, None),
    (events.Thrashing(is_on=False, refaults=0, faults=100), {}, None),
    (events.Hit(pages=5), {"page_hits": 5}, None),
    (events.Demoted(pages=2, size_bytes=10, reason="idle"), {"pages_demoted": 2}, None),
    (
        events.Collected(moved_bytes=7, freed_bytes=9, extents=1, seconds=0.1, reason="room"),
        {"collections": 1, "collected_bytes": 9, "collection_moved_bytes": 7},
        "collection_seconds",
    ),
    (events.Evicted(pages=3, size_bytes=10, reason="room"), {"pages_evicted": 3}, None),
    (events.EntriesHit(entries=3), {"entries_hit": 3}, None),
    (
        events.EntriesFaulted(entries=2, size_bytes=300, seconds=0.1),
        {"entries_faulted": 2},
        "entry_fault_seconds",
    ),
    (
        events.EntriesWritten(entries=2, size_bytes=300, seconds=0.1),
        {"entries_written": 2, "entry_bytes": 300},
        "entry_write_seconds",
    ),
    (events.EntriesEvicted(entries=4, size_bytes=300), {"entries_evicted": 4}, None),
    (
        events.StateSaved(raw_bytes=100, stored_bytes=20),
        {"states_saved": 1, "state_raw_bytes": 100, "state_stored_bytes": 20},
        None,
    ),
    (
        events.Checkpointed(wal_bytes=100, seconds=0.1, forced=False),
        {"checkpoints": 1},
        "checkpoint_seconds",
    ),
    (
        events.Checkpointed(wal_bytes=100, seconds=0.1, forced=True),
        {"checkpoints": 1, "checkpoints_forced": 1},
        "checkpoint_seconds",
    ),
    (
        events.DictionaryTrained(scope="acme", size_bytes=10, samples=5, seconds=0.1),
        {"dictionaries_trained": 1},
        None,
    ),
    (events.RecordsLost(records=6, reason="a torn log"), {"records_lost": 6}, None),
    (
        events.Quarantined(scope="acme", session="s", reason="page 7"),
        {"sessions_quarantined": 1},
        None,
    ),
    (
        events.PageRepaired(page=7),
        {"pages_repaired": 1},
        None,
    ),
    (events.Refused(limit="budget", reason="full"), {"refusals": 1}, None),
]


@pytest.mark.parametrize(
    ("event", "counted", "histogram"), EMITTED, ids=[str(event) for event, *_ in EMITTED]
)
def test_an_event_counts_where_it_should_and_nowhere_else(
    event: Any, counted: dict[str, int], histogram: str | None
) -> None:
    metrics = Metrics()
    Events(metrics).emit(event)
    assert {name: count for name, count in metrics.counters.items() if count} == counted
    timed = {name: h.seconds_sum for name, h in metrics.histograms.items() if h.total}
    assert timed == ({} if histogram is None else {histogram: 0.1})


def test_every_event_and_every_metric_is_covered_above() -> None:
    assert {type(event) for event, *_ in EMITTED} == {*events.Event.__subclasses__()}
    named = {name for _, counted, histogram in EMITTED for name in (*counted, histogram)} - {None}
    assert named == METRICS.keys()


def test_every_sink_gets_every_event_in_order() -> None:
    class Log:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def emit(self, event: Any) -> None:
            self.seen.append(event)

    first, second = Log(), Log()
    bus = Events(first)
    bus.emit(events.Hit(pages=1))
    bus.add(second)
    bus.emit(events.Hit(pages=2))
    assert first.seen == [events.Hit(pages=1), events.Hit(pages=2)]
    assert second.seen == [events.Hit(pages=2)]
