"""Calls and results in every order: what becomes a group, and what is reported instead."""

from typing import Any

import pytest
from disorders import Message, answer, calls, part_of, refused, result, user

from memopt.context.groups import Grouper, Held


def grouped(said: list[Message]) -> Grouper:
    grouper = Grouper()
    for seq, message in enumerate(said):
        grouper.add(Held(seq, message, message, 1))
    return grouper


def sent(grouper: Grouper) -> list[Message]:
    used: set[str] = set()
    return [message for group in grouper.groups for message in group.messages(used)]


def texts(messages: list[Message]) -> list[Any]:
    """Of results, in the order in which they are sent."""
    found = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [message]
        found += [
            part.get("output") or part.get("content")
            for part in parts
            if part.get("role") == "tool" or str(part.get("type")).endswith(("result", "output"))
        ]
    return found


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_a_result_before_its_call_is_sent_behind_it(form: str) -> None:
    said = [
        user(form, "go"), result(form, "b", "of b"), result(form, "a", "of a"),
        *calls(form, ["a", "b"]), answer(form, "done"),
    ]  # fmt: skip
    grouper = grouped(said)
    messages = sent(grouper)
    assert refused(messages) == []
    assert sorted(texts(messages)) == ["of a", "of b"]
    assert grouper.orphans == []
    # A window that begins with this group has to begin with the result.
    assert [group.first for group in grouper.groups] == [0, 1, len(said) - 1]


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_where_something_was_said_between_a_result_is_none_of_a_later_call(form: str) -> None:
    said = [result(form, "a", "of a"), user(form, "go"), *calls(form, ["a"])]
    grouper = grouped(said)
    assert refused(sent(grouper)) == []
    assert "of a" not in texts(sent(grouper))
    assert [held.seq for held in grouper.orphans] == [0]


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_a_second_result_is_not_that_of_a_call_behind_it_with_the_same_id(form: str) -> None:
    turn = [*calls(form, ["a"]), result(form, "a", "first")]
    said = [*turn, result(form, "a", "first"), *calls(form, ["a"]), result(form, "a", "second")]
    grouper = grouped(said)
    messages = sent(grouper)
    assert refused(messages) == []
    assert texts(messages) == ["first", "second"]
    assert [held.seq for held in grouper.orphans] == [2]


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_results_before_calls_that_all_have_one_id_go_to_the_call_behind_them(form: str) -> None:
    said: list[Message] = []
    for turn in range(3):
        said += [result(form, "call_0", f"of {turn}"), *calls(form, ["call_0"])]
    grouper = grouped(said)
    assert refused(sent(grouper)) == []
    assert texts(sent(grouper)) == ["of 0", "of 1", "of 2"]
    assert grouper.orphans == []


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_a_second_result_is_reported_and_not_sent(form: str) -> None:
    said = [*calls(form, ["a"]), result(form, "a", "one"), result(form, "a", "two")]
    grouper = grouped(said)
    assert texts(sent(grouper)) == ["one"]
    assert [held.seq for held in grouper.orphans] == [2]


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_a_result_between_two_calls_stays_with_the_first(form: str) -> None:
    said = [
        *calls(form, ["a"]), result(form, "a", "of a"), *calls(form, ["b"]),
        result(form, "b", "of b"),
    ]  # fmt: skip
    grouper = grouped(said)
    assert refused(sent(grouper)) == []
    assert texts(sent(grouper)) == ["of a", "of b"]


@pytest.mark.parametrize("form", ["chat", "items", "parts"])
def test_an_id_that_is_used_in_every_turn_is_sent_once(form: str) -> None:
    said: list[Message] = []
    for turn in range(3):
        said += [user(form, f"turn {turn}"), *calls(form, ["call_0"])]
        said.append(result(form, "call_0", f"of {turn}"))
    grouper = grouped(said)
    messages = sent(grouper)
    assert refused(messages) == []
    assert texts(messages) == ["of 0", "of 1", "of 2"]
    assert "call_0_2" in str(messages)
    assert said[4] == calls(form, ["call_0"])[0]


def test_a_stray_among_the_parts_of_a_message_is_reported() -> None:
    both = {"role": "user", "content": [part_of("a", "of a"), part_of("x", "of x")]}
    only = {"role": "user", "content": [part_of("y", "of y"), {"type": "text", "text": "and?"}]}
    grouper = grouped([*calls("parts", ["a"]), both, only])
    messages = sent(grouper)
    assert refused(messages) == []
    assert texts(messages) == ["of a"]
    assert "and?" in str(messages)
    assert [held.seq for held in grouper.strays] == [1, 2]


def test_a_call_that_went_takes_its_early_result_with_it() -> None:
    grouper = grouped([result("chat", "a", "of a"), *calls("chat", ["a"]), user("chat", "go")])
    grouper.drop(1, frozenset())
    again = result("chat", "a", "late")
    grouper.add(Held(3, again, again, 1))
    assert texts(sent(grouper)) == []
    assert [held.seq for held in grouper.orphans] == [3]
