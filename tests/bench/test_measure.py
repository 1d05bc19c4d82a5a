"""The instruments read off what is there."""

import os
from pathlib import Path

import numpy as np
import pytest

from memopt.bench import measure
from memopt.bench.measure import LatencyHistogram, RssMeter


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_one_percent(share: float) -> None:
    values = np.random.default_rng(1).lognormal(mean=10, sigma=2, size=5_000).astype(int) + 1
    histogram = LatencyHistogram()
    for value in values.tolist():
        histogram.add(value)
    exact = float(np.quantile(values, share, method="inverted_cdf")) / 1000
    assert histogram.quantile_us(share) == pytest.approx(exact, rel=0.01, abs=0.001)
    assert histogram.count == 5_000
    assert histogram.ns_sum == values.sum()


def test_durations_off_the_scale_are_counted_too() -> None:
    histogram = LatencyHistogram()
    histogram.add(0)
    histogram.add(10**15)
    assert histogram.count == 2
    assert histogram.quantile_us(1.0) > 9e8


def test_an_empty_histogram_says_zero() -> None:
    assert LatencyHistogram().quantile_us(0.99) == 0.0


def test_growth_is_seen_and_its_maximum_is_kept() -> None:
    meter = RssMeter()
    held = bytearray(os.urandom(1024)) * (32 * 1024)
    assert len(held) == 32 * 1024**2
    grown = meter.growth_bytes
    del held
    assert grown > 24 * 1024**2
    assert meter.growth_bytes_max >= grown


def test_disk_bytes_are_those_allocated(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "dense").write_bytes(os.urandom(100_000))
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**9)
    assert 100_000 <= measure.disk_bytes(tmp_path) < 10**7


def test_evicting_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert measure.evict_os_cache(tmp_path) == hasattr(os, "posix_fadvise")
    assert (tmp_path / "file").read_bytes() == b"bytes"


def test_the_machine_is_described_and_its_probe_is_gone(tmp_path: Path) -> None:
    found = measure.machine(tmp_path)
    assert found["append_and_sync_4kb_us"]["p50"] > 0
    assert found["filesystem"] != "unknown"
    assert list(tmp_path.iterdir()) == []


def test_the_median_is_a_value_that_was_measured() -> None:
    assert measure.median([5.0, 1.0, 2.0, 9.0]) == 2.0
