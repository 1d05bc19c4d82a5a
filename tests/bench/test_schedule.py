"""The schedule covers everything once, in order, and needs no record of what it did."""

import json
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.bench import data, schedule
from memopt.bench.schedule import Append, Operation, Resume, Schedule

LENGTHS = (5, 1, 12, 30, 2)


def plan(sessions: int, **options: Any) -> Schedule:
    return Schedule(LENGTHS, sessions=sessions, **options)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    sessions=st.integers(1, 120),
    seed=st.integers(0, 2**32),
    active_max=st.integers(1, 40),
    pause_share=st.floats(0, 1),
    resume_share=st.floats(0, 1),
)
def test_every_message_is_appended_once_in_order_and_only_known_sessions_are_resumed(
    lengths: list[int],
    sessions: int,
    seed: int,
    active_max: int,
    pause_share: float,
    resume_share: float,
) -> None:
    drawn = Schedule(
        lengths,
        sessions=sessions,
        seed=seed,
        active_max=active_max,
        pause_share=pause_share,
        resume_share=resume_share,
    )
    following = [0] * sessions
    for operation in drawn:
        if isinstance(operation, Append):
            assert operation.message == following[operation.session]
            following[operation.session] += 1
        else:
            assert following[operation.session] > 0
    assert following == [drawn.length(session) for session in range(sessions)]
    assert sum(following) == drawn.message_count


def test_the_same_seed_gives_the_same_operations_and_another_one_does_not() -> None:
    assert list(plan(200, seed=4)) == list(plan(200, seed=4))
    assert list(plan(200, seed=4)) != list(plan(200, seed=5))


def test_the_operations_of_a_seed_are_what_they_have_always_been() -> None:
    found: list[Operation] = list(islice(plan(40, seed=1, active_max=4), 8))
    begun: list[Operation] = [Append(session, 0) for session in range(5)]
    assert found == [*begun, Append(3, 1), Append(3, 2), Resume(2)]


def test_sessions_are_interleaved_and_some_are_busier_than_others() -> None:
    order = [each.session for each in plan(400, active_max=16) if isinstance(each, Append)]
    changes = sum(before != after for before, after in pairwise(order))
    assert changes > len(order) // 2
    window = order[1000:1400]
    counts = sorted((window.count(session) for session in set(window)), reverse=True)
    assert counts[0] > 3 * counts[len(counts) // 2]


def test_paused_sessions_come_back_cold_with_a_resume_and_an_append() -> None:
    operations = list(plan(2_000, active_max=8, resume_share=0.0))
    resumed = {each.session for each in operations if isinstance(each, Resume)}
    assert len(resumed) > 100
    at: dict[int, list[int]] = {session: [] for session in resumed}
    for number, each in enumerate(operations):
        if each.session in at:
            at[each.session].append(number)
    gaps = [max(b - a for a, b in pairwise(each)) for each in at.values()]
    assert max(gaps) > 1000
    assert all(isinstance(operations[each[-1]], Append) for each in at.values())


def test_only_active_sessions_are_held() -> None:
    drawn = iter(plan(10**9, active_max=8))
    seen = {each.session for each in islice(drawn, 20_000)}
    assert 500 < len(seen) < 20_000


def test_neighbouring_sessions_share_a_scope_and_there_are_enough_of_them() -> None:
    scopes = [schedule.scope_of(session) for session in range(100)]
    assert len(set(scopes)) == 5
    assert scopes[0] == scopes[19] != scopes[20]


def test_expected_messages_are_marked_with_their_session_and_the_source_stays() -> None:
    conversations = (({"role": "user", "content": "hi"},), ({"role": "user", "content": "ho"},))
    assert schedule.expected(conversations, 7, 0) == {"role": "user", "content": "ho [7]"}
    assert list(schedule.expected_session(conversations, 8)) == [
        {"role": "user", "content": "hi [8]"}
    ]
    assert conversations[0][0]["content"] == "hi"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_prompts_are_not_marked(role: str) -> None:
    message = {"role": role, "content": "You are kind."}
    assert schedule.marked(message, 3) == message


@pytest.mark.parametrize(
    ("message", "marked"),
    [
        ({"content": ""}, {"content": " [3]"}),
        (
            {"content": [{"type": "image"}, {"type": "text", "text": "a"}]},
            {"content": [{"type": "image"}, {"type": "text", "text": "a [3]"}]},
        ),
        ({"type": "function_call_output", "output": "42"}, {"output": "42 [3]"}),
        ({"type": "function_call", "arguments": "{}"}, {"arguments": '{"_session": " [3]"}'}),
        ({"type": "reasoning", "content": []}, {"_session": " [3]"}),
    ],
)
def test_the_mark_goes_where_the_text_is(message: dict[str, Any], marked: dict[str, Any]) -> None:
    assert schedule.marked(message, 3) == {**message, **marked}


@pytest.mark.parametrize("arguments", ["{}", ' {"a": {"b": 1}} ', '{"a": "}"}', "{ }"])
def test_a_call_without_text_is_marked_in_arguments_that_stay_json(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    source = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = schedule.marked(source, 3)["tool_calls"][0]["function"]["arguments"]
    assert json.loads(found) == {**json.loads(arguments), "_session": " [3]"}
    assert call["function"] == {"name": "f", "arguments": arguments}, "the source was changed"


def test_arguments_that_are_no_object_are_marked_at_their_end() -> None:
    call = {"id": None, "type": "function", "function": {"name": "sh", "arguments": "ls -l"}}
    [found] = schedule.marked({"content": None, "tool_calls": [call]}, 3)["tool_calls"]
    assert found["function"]["arguments"] == "ls -l [3]"


def test_no_two_sessions_of_one_conversation_share_a_message_but_the_system_prompt() -> None:
    conversations = data.load([data.trajectories()])
    count = len(conversations)
    for session in range(min(count, 40)):
        ours = schedule.expected_session(conversations, session)
        theirs = schedule.expected_session(conversations, session + count)
        for one, other in zip(ours, theirs, strict=True):
            assert (one == other) == (one.get("role") in ("system", "developer"))
