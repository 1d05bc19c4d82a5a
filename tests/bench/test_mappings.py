"""The growth that `bench mappings` reports is all of it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

import memopt
from memopt.base.units import MIB
from memopt.bench import mappings
from memopt.bench.measure import RssMeter


def test_growth_counts_from_before_the_store_was_opened_and_between_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_peak = RssMeter()._has_peak
    real = memopt.open
    kept: list[bytes] = []

    def large(*arguments: Any, **named: Any) -> memopt.Memory:
        kept.append(b"x" * (48 * MIB))
        passing = b"y" * (48 * MIB)
        del passing
        return real(*arguments, **named)

    monkeypatch.setattr(mappings.memopt, "open", large)
    task = mappings.Task(home=str(tmp_path), keys=1, rounds=1, entries=500, seed=0)
    found = mappings.fill(msgspec.to_builtins(task), lambda line: None)
    assert found["rss_growth_max_bytes"] > (80 if has_peak else 40) * MIB
