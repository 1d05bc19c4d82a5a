"""A replay's result has the fields it promises, and its verification can fail."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.base.errors import UsageError
from memopt.base.records import Message
from memopt.bench import data, demo, player, schedule
from memopt.bench.child import ChildFailedError
from memopt.bench.measure import RssMeter
from memopt.bench.player import NaiveKeeper, Player, Verification
from memopt.bench.replay import ReplayOptions, ReplayResult, as_json, home_of, render, replay
from memopt.bench.schedule import Schedule

FIELDS = {
    "sessions", "messages", "raw_bytes", "budget_bytes", "resident_bytes_max", "rss_start_bytes",
    "rss_growth_bytes_max", "disk_bytes", "append_us", "resume_us", "messages_per_second",
    "verified_messages", "mismatches", "baseline", "rss_ratio",
}  # fmt: skip
SESSIONS = 30


@pytest.fixture(scope="module")
def result() -> ReplayResult:
    return replay(ReplayOptions(files=(data.SAMPLE,), sessions=SESSIONS, budget_bytes=16 << 20))


def test_the_json_has_the_fields_that_were_promised(result: ReplayResult) -> None:
    found = as_json(result)
    assert found.keys() >= FIELDS
    assert found["append_us"].keys() == found["resume_us"].keys() == {"p50", "p99"}
    assert found["baseline"].keys() >= {"rss_growth_bytes", "messages_per_second"}


def test_every_message_of_every_session_is_verified(result: ReplayResult) -> None:
    conversations = data.load([data.SAMPLE])
    plan = Schedule([len(each) for each in conversations], sessions=SESSIONS)
    assert result.messages == plan.message_count
    assert result.verified_messages == plan.message_count
    assert result.mismatches == 0
    assert result.raw_bytes > 0
    assert result.disk_bytes > 0


def test_the_table_can_be_drawn_with_and_without_a_baseline(result: ReplayResult) -> None:
    assert render(result).row_count > 5
    alone = msgspec.structs.replace(result, baseline=None, rss_ratio=None)
    assert len(render(alone).columns) == 2


def test_without_a_baseline_there_is_none_and_a_given_home_is_kept(tmp_path: Path) -> None:
    home = tmp_path / "kept"
    told: list[tuple[int, int]] = []
    options = ReplayOptions(files=(data.SAMPLE,), sessions=5, baseline=False, home=home)
    found = replay(options, lambda done, total: told.append((done, total)))
    assert found.baseline is None
    assert found.rss_ratio is None
    assert (home / "memopt.db").exists()
    assert told[-1] == (2 * found.messages, 2 * found.messages)


def test_a_home_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(UsageError, match="not an empty directory"), home_of(tmp_path):
        pass


def test_a_killed_demo_finds_every_acknowledged_message() -> None:
    options = ReplayOptions(files=(data.SAMPLE,), sessions=60, baseline=False)
    found = demo.demo(options)
    assert found.ok
    assert 0 < found.acknowledged_messages <= found.recovered_messages
    assert found.unacknowledged_messages <= 1
    assert found.replay.verified_messages == found.replay.messages


def test_a_demo_whose_process_ends_by_itself_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "play_until_killed", os.abort)
    with pytest.raises(ChildFailedError, match="before it could be killed"):
        demo.demo(ReplayOptions(files=(data.SAMPLE,), sessions=5, home=tmp_path))


class Forgetful(NaiveKeeper):
    """Loses the last message of session 1 and changes the first of session 2."""

    def read(self, session: int) -> list[Message]:
        messages = super().read(session)
        if session == 1:
            messages.pop()
        if session == 2:
            messages[0] = {**messages[0], "content": "something else"}
        return messages


def played(keeper: NaiveKeeper, **options: Any) -> tuple[Player, list[dict[str, Any]]]:
    conversations = data.load([data.SAMPLE])
    plan = Schedule([len(each) for each in conversations], sessions=SESSIONS)
    lines: list[dict[str, Any]] = []
    told = Player(keeper, conversations, plan, meter=RssMeter(), report=lines.append, **options)
    told.play()
    return told, lines


def test_what_a_keeper_loses_or_changes_is_a_mismatch() -> None:
    told, _ = played(Forgetful())
    verification = told.verify()
    figures = told.figures(verification)
    assert figures.mismatches == 2
    assert figures.verified_messages == figures.messages - 2


def test_a_player_goes_on_after_what_is_acknowledged() -> None:
    keeper = NaiveKeeper()
    first, _ = played(keeper)
    counts = memoryview(bytearray(4 * SESSIONS)).cast("I")
    for session in range(SESSIONS):
        counts[session] = len(keeper.read(session))
    counts[3] -= 1
    again, lines = played(NaiveKeeperWith(keeper, 3), acked=counts)
    assert again.figures().messages == 1
    assert again.verify().mismatches == 0
    assert lines[-1]["done"] >= first.figures().messages * 0.9


class NaiveKeeperWith(NaiveKeeper):
    """What another keeper holds, without the last message of one session."""

    def __init__(self, other: NaiveKeeper, session: int) -> None:
        self._sessions = other._sessions
        self._sessions[session].pop()


def expected(count: int) -> Iterator[Message]:
    return ({"role": "user", "content": str(number)} for number in range(count))


@pytest.mark.parametrize(("wanted", "found", "mismatches"), [(3, 3, 0), (3, 2, 1), (2, 4, 2)])
def test_missing_and_additional_messages_are_mismatches(
    wanted: int, found: int, mismatches: int
) -> None:
    verification = Verification()
    verification.compare(expected(wanted), expected(found))
    assert verification.mismatches == mismatches
    assert verification.messages == min(wanted, found)


def test_the_order_of_fields_is_part_of_a_message() -> None:
    assert player.digest({"a": 1, "b": 2}) != player.digest({"b": 2, "a": 1})


def test_sessions_have_ids_of_their_own() -> None:
    keys = {(schedule.scope_of(each), schedule.session_id(each)) for each in range(1000)}
    assert len(keys) == 1000
