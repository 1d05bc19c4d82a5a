"""What `bench arena` holds it also finds again, and every trigger sees the same calls."""

from typing import Any

import pytest

from memopt.bench import arena
from memopt.bench.arena_churn import TRIGGER_NAMES, churn
from memopt.pressure.triggers import TRIGGERS


def report(line: dict[str, Any]) -> None:
    pytest.fail(f"nothing is reported, but {line}")


@pytest.mark.parametrize("kind", ["arena", "list", "dict", "slabs"])
def test_a_holder_has_what_was_not_deleted(kind: str) -> None:
    found = arena.hold({"kind": kind, "values": 9_000, "seed": 1}, report)
    assert found["live_bytes_after"] == 900 * 200
    assert found["put_us"] > 0
    assert bool(found["pauses"]) == bool(found["charged_bytes"]) == (kind == "arena")


def test_a_holder_that_loses_a_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(arena._InDict):
        def get(self, number: int) -> bytes:
            return b"something else"

    monkeypatch.setitem(arena._HOLDERS, "dict", Forgetful)
    with pytest.raises(arena.ChildFailedError, match="is not what it was"):
        arena.hold({"kind": "dict", "values": 100, "seed": 1}, report)


def test_every_trigger_is_compared_with_none() -> None:
    assert set(TRIGGER_NAMES) == {*TRIGGERS, "never"}


@pytest.mark.parametrize("trigger", TRIGGER_NAMES)
def test_a_churn_is_the_same_under_every_trigger(trigger: str) -> None:
    task = {"trigger": trigger, "rate": 2_000, "calls": 24_000, "seed": 1}
    found, never = churn(task, report), churn({**task, "trigger": "never"}, report)
    live = [sample[1] for sample in found["samples"]]
    assert len(live) == 11
    assert live == [sample[1] for sample in never["samples"]]
    assert never["pauses"] == 0
    assert found["dead_share"] <= never["dead_share"] + 0.1
