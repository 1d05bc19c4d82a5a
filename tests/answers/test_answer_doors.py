"""The answer cache through every door, beside other calls, and where nobody uses it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import aio
from memopt.base.answer_records import Answer, Made, Match, Miss, MissReason
from memopt.base.errors import CapacityError
from memopt.embedding.static import StaticEmbedder
from memopt.memory import Memory
from waiting import PATIENCE, until

SCOPE = "acme/faq"
SETTINGS: dict[str, Any] = {
    "budget": "64MiB", "durability": "os", "maintenance_seconds": 0, "probe_seconds": 0,
    "ballast_bytes": 0,
}  # fmt: skip


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with memopt.open(tmp_path / "store", **SETTINGS) as opened:
        yield opened
        opened._parts.budget.check()
        assert opened.check().clean


# -- doors ----------------------------------------------------------------------------------------


def test_another_process_has_the_same_answers(memory: Memory) -> None:
    with memopt.connect(memory.path) as remote:
        remote.answers.store("What is a page?", {"text": "4 KB"}, scope=SCOPE, tags=["t"])
        hit = remote.answers.lookup("what is a PAGE", scope=SCOPE)
        assert isinstance(hit, Answer)
        assert (hit.match, hit.response, hit.tags) == (Match.WORDS, {"text": "4 KB"}, ("t",))
        assert remote.answers.feedback(hit.answer_id, "right").name == "general"
        missed = remote.answers.lookup("Why?", scope=SCOPE)
        assert isinstance(missed, Miss)
        made = remote.answers.through("Why?", lambda: "So.", scope=SCOPE, wait_seconds=1.0)
        assert isinstance(made, Made)
        assert made.is_stored
        assert isinstance(remote.answers.through("Why?", dict, scope=SCOPE), Answer)
        assert remote.answers.categories(scope=SCOPE) == memory.answers.categories(scope=SCOPE)
        assert remote.answers.invalidate(scope=SCOPE, tags=["t"]) == 1
        with pytest.raises(memopt.UsageError) as raised:
            remote.answers.invalidate(scope=SCOPE)
        assert raised.value.field == "uses"


def test_coroutines_have_the_same_answers(tmp_path: Path) -> None:
    async def work() -> None:
        async with aio.open(tmp_path, **SETTINGS) as memory:
            answers = memory.answers
            first = await asyncio.gather(
                *(answers.through("Why?", lambda: "So.", scope=SCOPE) for _ in range(4))
            )
            assert all(one.response == "So." for one in first)
            hit = await answers.lookup("why", scope=SCOPE)
            assert isinstance(hit, Answer)
            await answers.feedback(hit.answer_id, "stale")
            assert not await answers.lookup("Why?", scope=SCOPE)

    asyncio.run(work())


# -- at the same time -----------------------------------------------------------------------------


def test_of_equal_requests_at_the_same_time_one_is_made(memory: Memory) -> None:
    gate, calls = threading.Event(), []
    flights = memory._parts.answers.flights

    def make() -> str:
        calls.append(threading.get_ident())
        assert gate.wait(PATIENCE)
        return f"answer {len(calls)}"

    def ask(scope: str) -> Any:
        return memory.answers.through("Why?", make, scope=scope)

    with ThreadPoolExecutor(10) as pool:
        mine = [pool.submit(ask, "a") for _ in range(7)]
        until(lambda: flights.waiting == 6)
        theirs = pool.submit(ask, "b")
        until(lambda: len(calls) == 2)
        gate.set()
        found = [one.result(PATIENCE) for one in mine]
        other = theirs.result(PATIENCE)
    assert len(calls) == 2, "a scope never gets the answer that another one waits for"
    assert {one.response for one in found} <= {"answer 1", "answer 2"}
    assert len({one.response for one in found}) == 1
    assert sum(not one.is_shared for one in found) == 1
    assert not other.is_shared
    assert memory.answers.categories(scope="a")[0].answers == 1


def test_lookups_beside_stores_and_forgetting_serve_only_what_there_is(memory: Memory) -> None:
    """Threads store under rising numbers and take away; whoever looks never sees an older answer
    than the one that was acknowledged before."""
    stored = dict.fromkeys(range(4), 0)
    done = threading.Event()
    failures: list[str] = []

    def look() -> None:
        while not done.is_set():
            for number in range(4):
                before = stored[number]
                for form in (f"What is thing {number}?", f"what is THING {number}"):
                    found = memory.answers.lookup(form, scope=SCOPE)
                    if isinstance(found, Answer) and found.response < before:
                        failures.append(f"{form}: {found.response} < {before}")

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        for value in range(1, 120):
            number = value % 4
            memory.answers.store(f"What is thing {number}?", value, scope=SCOPE, tags=[str(number)])
            stored[number] = value
            if value % 9 == 0:
                memory.answers.invalidate(scope=SCOPE, tags=[str(number)])
        done.set()
        for one in looking:
            one.result(PATIENCE)
    assert failures == []
    memory._parts.answers._parts.residents.check()


def test_a_verdict_counts_while_the_scope_is_brought_into_ram(memory: Memory) -> None:
    answers, residents = memory.answers, memory._parts.answers._parts.residents
    answers.set_category("general", scope=SCOPE, wrong_share=0.3)
    answers.store("How can I improve my English writing skills?", "Read.", scope=SCOPE)
    near = "How do I improve my writing skills in English?"
    hit = answers.lookup(near, scope=SCOPE)
    assert isinstance(hit, Answer)
    residents.clear()
    whole = residents._read

    def read_and_judge(*arguments: Any) -> int:
        last = whole(*arguments)
        answers.feedback(hit.answer_id, "wrong")
        return last

    residents._read = read_and_judge  # type: ignore[method-assign]
    answers.lookup(near, scope=SCOPE)
    residents._read = whole  # type: ignore[method-assign]
    assert not answers.lookup(near, scope=SCOPE)
    residents.check()


def test_what_was_paid_for_is_returned_though_there_is_no_room(memory: Memory) -> None:
    def refuse(*_: Any) -> None:
        raise CapacityError("full", limit="answers_max")

    engine = memory._parts.answers
    storing = engine._work().storing
    storing.store = refuse  # type: ignore[assignment,method-assign]
    made = memory.answers.through("Why?", lambda: "So.", scope=SCOPE)
    assert isinstance(made, Made)
    assert (made.response, made.is_stored, made.is_shared) == ("So.", False, False)


# -- opened again ---------------------------------------------------------------------------------


class _Elsewhere(StaticEmbedder):
    """The same vectors under another name."""

    @property
    def space(self) -> str:
        return "elsewhere"


def test_what_was_learnt_and_set_outlasts_the_process(tmp_path: Path) -> None:
    with memopt.open(tmp_path, **SETTINGS) as memory:
        answers = memory.answers
        answers.set_category("general", scope=SCOPE, wrong_share=0.3, ttl_seconds=1e6)
        answers.store("How can I improve my English writing skills?", "Read.", scope=SCOPE)
        near = "How do I improve my writing skills in English?"
        hit = answers.lookup(near, scope=SCOPE)
        assert isinstance(hit, Answer)
        for _ in range(12):
            before = answers.feedback(hit.answer_id, "wrong")
    with memopt.open(tmp_path, **SETTINGS) as memory:
        assert memory.answers.categories(scope=SCOPE) == [before]
        assert before.learnt_threshold > 0.7
        assert not memory.answers.lookup(near, scope=SCOPE)


def test_another_embedder_makes_vectors_anew(tmp_path: Path) -> None:
    with memopt.open(tmp_path, **SETTINGS) as memory:
        memory.answers.store("What is a page?", "4 KB", scope=SCOPE)
        assert memory.answers.lookup("what is a PAGE", scope=SCOPE)
    with memopt.open(tmp_path, embedder=_Elsewhere(), **SETTINGS) as memory:
        assert memory.answers.lookup("What is a page?", scope=SCOPE)
        assert not memory.answers.lookup("what is a PAGE", scope=SCOPE)
        memory._parts.answers.maintain()
        found = memory.answers.lookup("what is a PAGE", scope=SCOPE)
        assert isinstance(found, Answer)
        assert found.match is Match.WORDS
        assert memory.check().clean


# -- where nobody uses it -------------------------------------------------------------------------


def test_a_store_without_answers_pays_nothing_for_them(memory: Memory) -> None:
    before = {path.name for path in memory.path.iterdir()}
    session = memory.session("s", scope=SCOPE)
    session.extend([{"role": "user", "content": f"line {n}"} for n in range(9)])
    session.redact(3)
    memory.remember("It is blue.", scope=SCOPE)
    held = {owner: memory._parts.budget.held_bytes(owner) for owner in ("answers", "answer models")}
    assert held == {"answers": 0, "answer models": 0}
    assert memory._parts.answers._made is None
    assert {path.name for path in memory.path.iterdir()} == before
    found = memory.answers.lookup("Is it blue?", scope="nowhere")
    assert isinstance(found, Miss)
    assert found.reason is MissReason.EMPTY
    assert memory._parts.budget.held_bytes("answer models") == 0
