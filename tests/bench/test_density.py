"""Every system is given the same turns and has to give every message back."""

from pathlib import Path
from typing import Any

import pytest

from memopt.bench import data, density, rivals, schedule, states
from memopt.bench.measure import LatencyHistogram


def message(role: str, number: int) -> dict[str, Any]:
    return {"role": role, "content": str(number)}


def test_turns_begin_with_a_user_and_hold_every_message_once() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "user", "assistant"]
    conversation = tuple(message(role, number) for number, role in enumerate(roles))
    turns = density.turns(conversation)
    assert [len(turn) for turn in turns] == [5, 1, 2]
    assert tuple(each for turn in turns for each in turn) == conversation


def test_a_conversation_without_a_user_is_one_turn() -> None:
    conversation = (message("assistant", 0), message("assistant", 1))
    assert density.turns(conversation) == [conversation]


@pytest.mark.parametrize("name", sorted(rivals.NEEDS))
# What the rivals' own packages warn about is theirs.
@pytest.mark.filterwarnings("ignore")
def test_a_system_returns_every_message_and_times_each(name: str, tmp_path: Path) -> None:
    for package in rivals.NEEDS[name]:
        pytest.importorskip(package)
    rival = rivals.make(name, tmp_path, budget_bytes=16 << 20)
    conversation = data.load([data.SAMPLE])[0]
    steps = LatencyHistogram()
    for session in (0, 1):
        for turn in density.turns(conversation):
            rival.write(session, [schedule.marked(each, session) for each in turn], steps)
    for session in (0, 1):
        wanted = [schedule.marked(each, session) for each in conversation]
        assert rival.read(session) == wanted
        rival.end(session)
    rival.close()
    assert steps.count == 2 * len(conversation)
    assert rival.durability


def test_a_state_grows_from_nothing_to_the_whole_trajectory() -> None:
    trajectory = states.largest_up_to(data.load([data.SAMPLE]), 3_000)
    versions = list(states.growing(trajectory, 20))
    sizes = [len(str(each)) for each in versions]
    assert len(versions) == 20
    assert sizes == sorted(sizes)
    assert versions[-1]["messages"] == list(trajectory)
    assert versions[0]["messages"] != versions[10]["messages"]
