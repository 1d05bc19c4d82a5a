"""A time for each message of one call."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt

DAY = datetime(2020, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("remote", [False, True])
def test_each_message_has_its_own_time(tmp_path: Path, remote: bool) -> None:
    times = [DAY, None, DAY + timedelta(days=1)]
    with memopt.open(tmp_path, maintenance_seconds=0, probe_seconds=0) as memory:
        asked: Any = memopt.connect(tmp_path) if remote else memory
        with asked:
            session = asked.session("s")
            session.extend([{"n": 0}, {"n": 1}, {"n": 2}], at=times)
            session.extend([{"n": 3}, {"n": 4}], at=DAY)
            entries = list(session.entries())
    assert [entry.at for entry in entries] == [
        DAY, entries[1].committed_at, times[2], DAY, DAY,
    ]  # fmt: skip


@pytest.mark.parametrize("at", [[DAY], [DAY] * 3, [DAY, 7], [DAY, datetime(2020, 1, 1)], "now", 7])
def test_times_that_do_not_go_with_the_messages_are_refused(tmp_path: Path, at: Any) -> None:
    with memopt.open(tmp_path, maintenance_seconds=0, probe_seconds=0) as memory:
        session = memory.session("s")
        with pytest.raises(memopt.UsageError) as error:
            session.extend([{"n": 0}, {"n": 1}], at=at)
        assert error.value.field == "at"
        assert session.head == 0
