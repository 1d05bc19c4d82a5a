"""What the server remembers is charged, and forgotten when others want the room."""

import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import msgspec
from hypothesis import given
from hypothesis import strategies as st
from proxying import running

from memopt.base.budget import Budget
from memopt.server.canonical import DIGEST_BYTES, Digests
from memopt.server.lines import Line, Lines, SessionKey
from memopt.server.remembered import OWNER, Remembered
from memopt.testing.upstream import Answer, ScriptedUpstream

LIMIT = 1 << 20


@given(
    st.lists(st.tuples(st.sampled_from(["put", "drop", "renew", "free"]), st.integers(0, 9),
                       st.integers(1, 20_000)), max_size=40)
)  # fmt: skip
def test_what_is_charged_is_what_is_there(steps: list[tuple[str, int, int]]) -> None:
    budget = Budget(LIMIT)
    remembered = Remembered[int, int](budget, entries_max=6)
    for step, key, size in steps:
        if step == "put":
            remembered.put(key, size, size)
            assert remembered.get(key) in (size, None)
        elif step == "drop":
            remembered.drop(key)
            assert remembered.get(key) is None
        elif step == "renew":
            remembered.renew(key)
        else:
            remembered.make_free(LIMIT - size)
            assert budget.used_bytes <= size
        remembered.check()
        assert len(remembered) <= 6
        assert budget.held_bytes(OWNER) <= LIMIT // 32
    remembered.clear()
    assert budget.used_bytes == 0


def test_the_oldest_goes_first_and_what_is_used_stays() -> None:
    remembered = Remembered[str, int](Budget(LIMIT), entries_max=2)
    remembered.put("a", 1, 100)
    remembered.put("b", 2, 100)
    remembered.renew("a")
    remembered.put("c", 3, 100)
    assert (remembered.get("a"), remembered.get("b"), remembered.get("c")) == (1, None, 3)


def test_nothing_is_remembered_beside_a_full_budget() -> None:
    budget = Budget(LIMIT)
    budget.reserve("pages", LIMIT)
    remembered = Remembered[str, int](budget, entries_max=2)
    remembered.put("a", 1, 100)
    assert remembered.get("a") is None


def test_what_is_charged_is_what_it_takes() -> None:
    budget = Budget(1 << 30)
    count = 2000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        lines = Lines(budget, lines_max=count, matches_max=count)
        digests = Digests(budget, bytes_max=LIMIT, depth_max=8)
        for number in range(count):
            key = SessionKey(f"scope-{number}", f"session-{number}")
            chain = tuple(_digest(number * 10 + place) for place in range(10))
            lines.put(key, Line(1, chain))
            lines.note_prompt(key, _digest(-number))
            lines.note_end(key, _digest(number))
            raw = msgspec.json.encode({"role": "user", "content": str(number)})
            digests.of(raw, "messages")
            digests.check(raw, "tools")
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    charged = budget.held_bytes(OWNER)
    assert 0.5 * charged < taken < charged


def _digest(number: int) -> bytes:
    return (number % (1 << 64)).to_bytes(DIGEST_BYTES, "big")


def test_it_goes_when_the_budget_wants_room_and_conversations_go_on(tmp_path: Path) -> None:
    with ScriptedUpstream(Answer(text="ok")) as upstream, running(tmp_path, upstream) as proxy:
        budget = proxy.memory._parts.budget
        messages: list[Any] = []
        sessions = set()
        for number in range(4):
            messages.append({"role": "user", "content": str(number)})
            with httpx.Client(trust_env=False) as http:
                url = proxy.url + "/chat/completions"
                got = http.post(url, json={"messages": messages})
            sessions.add(got.headers["x-memopt-session"])
            messages.append(got.json()["choices"][0]["message"])
            assert budget.held_bytes(OWNER) > 0
            budget.ask(budget.limit_bytes)
            assert budget.held_bytes(OWNER) == 0
        assert len(sessions) == 1
        assert len(proxy.memory.session(sessions.pop())) == 8
        memory = proxy.memory
        proxy.stop()
        assert memory._parts.budget.held_bytes(OWNER) == 0
