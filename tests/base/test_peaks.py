"""Peaks by agent type: bounded, predicted by an upper quantile, stored without a name."""

import gc
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError
from memopt.base.peaks import NO_TYPE, Peaks, type_number


def test_nothing_is_predicted_of_a_type_that_was_never_seen() -> None:
    peaks = Peaks()
    assert peaks.predicted(NO_TYPE) is None
    assert peaks.predictions() == {}


def test_the_prediction_is_an_upper_quantile_of_the_latest_peaks() -> None:
    peaks = Peaks(peaks_max=10, quantile=0.9)
    peaks.note(1, 1_000_000)
    for peak in (50, 10, 100, 30, 20, 60, 40, 80, 90, 70):
        peaks.note(1, peak)
    # The million has left; of the ten that are here nine are at most 90.
    assert peaks.predicted(1) == 90
    assert Peaks(quantile=0.5).predicted(1) is None


def test_one_peak_is_its_own_prediction() -> None:
    peaks = Peaks()
    peaks.note(7, 123)
    assert peaks.predictions() == {7: 123}


def test_types_do_not_share_a_history() -> None:
    peaks = Peaks()
    peaks.note(1, 10)
    peaks.note(2, 99)
    assert peaks.predictions() == {1: 10, 2: 99}


def test_the_type_noted_longest_ago_leaves_a_full_table() -> None:
    peaks = Peaks(types_max=2)
    for agent_type in (1, 2, 1, 3):
        peaks.note(agent_type, agent_type)
    assert set(peaks.predictions()) == {1, 3}


def test_a_type_is_known_by_a_number_that_is_stable_and_holds_no_name() -> None:
    assert type_number(None) == NO_TYPE
    assert type_number("desk") == type_number("desk") != type_number("desk2")
    assert type_number("desk") == 5124818397822906110
    assert 0 < type_number("\ud800") < 1 << 63
    peaks = Peaks()
    peaks.note(type_number("desk-of-ann"), 5)
    assert b"ann" not in peaks.pack()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1 << 62)), max_size=60))
def test_what_is_packed_comes_back(noted: list[tuple[int, int]]) -> None:
    peaks = Peaks(types_max=4, peaks_max=3)
    for agent_type, peak in noted:
        peaks.note(agent_type, peak)
    again = Peaks(types_max=4, peaks_max=3)
    again.restore(peaks.pack())
    assert again.pack() == peaks.pack()
    assert again.predictions() == peaks.predictions()
    assert len(again) <= 4


def test_a_larger_table_is_restored_within_the_limits() -> None:
    large = Peaks(types_max=50, peaks_max=50)
    for agent_type in range(50):
        for peak in range(50):
            large.note(agent_type, peak)
    small = Peaks(types_max=3, peaks_max=2)
    small.restore(large.pack())
    assert small.predictions() == {47: 49, 48: 49, 49: 49}


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([2, []]),
        msgspec.msgpack.encode([1, [[-1, [1]]]]),
        msgspec.msgpack.encode([1, [[1, [-1]]]]),
        msgspec.msgpack.encode([1, [[1, [1 << 63]]]]),
        msgspec.msgpack.encode([1, [[1, "x"]]]),
    ],
)
def test_bytes_that_are_no_table_are_refused(packed: bytes) -> None:
    peaks = Peaks()
    with pytest.raises(CorruptionError):
        peaks.restore(packed)
    assert len(peaks) == 0


def test_a_full_table_takes_no_more_than_it_is_charged() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        peaks = Peaks()
        for agent in range(200):
            for peak in range(40):
                peaks.note(type_number(str(agent)), 10**12 + peak)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= peaks.charged_bytes() <= 3 * grown
