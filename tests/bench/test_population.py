"""Both kinds of agents live the same lives, and every message of them."""

import gzip
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from memopt.base.errors import UsageError
from memopt.base.units import MIB
from memopt.bench import data
from memopt.bench.population import (
    MEMOPT,
    NAIVE,
    NaiveAgents,
    Population,
    Task,
    grow,
    housed,
    serve,
    sittings,
    steps_of,
    think_seconds,
)

ROLES = ("system", "user", "assistant", "tool", "tool", "assistant", "user")


def task(tmp_path: Path, system: str, **fields: object) -> Task:
    return Task(
        system=system, files=(str(data.SAMPLE),), agents=7, budget_bytes=8 * MIB,
        home=str(tmp_path / "store"), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def arrivals(tmp_path: Path) -> Path:
    path = tmp_path / "arrivals.csv.gz"
    times = ("00.1234567", "00.6234567", "02.6234567", "02.6234567")
    rows = "".join(f"2023-11-16 18:17:{time},1,1\n" for time in times)
    path.write_bytes(gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows.encode()))
    return path


def test_a_step_ends_with_a_reply() -> None:
    conversation = tuple({"role": role} for role in ROLES)
    assert list(steps_of(conversation)) == [(0, 3), (3, 6), (6, 7)]
    assert list(steps_of(conversation[:1])) == [(0, 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_sittings_are_few_and_leave_nothing_out(count: int) -> None:
    steps = [(2 * at, 2 * at + 2) for at in range(count)]
    found = list(sittings(steps))
    assert len(found) <= 3
    assert found[0][0] == 0
    assert found[-1][1] == 2 * count
    assert all(one[1] == other[0] for one, other in pairwise(found))


def test_think_times_are_the_gaps_of_arrivals(arrivals: Path) -> None:
    assert think_seconds(arrivals) == [0.5, 2.0, 0.0]


def test_one_arrival_has_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv.gz"
    path.write_bytes(gzip.compress(b"TIMESTAMP\n2023-11-16 18:17:03.5\n"))
    with pytest.raises(UsageError, match="two arrivals"):
        think_seconds(path)


@pytest.mark.parametrize("timed", [False, True])
def test_every_step_of_every_agent_comes_once_and_in_order(
    tmp_path: Path, arrivals: Path, timed: bool
) -> None:
    population = Population(task(tmp_path, NAIVE, arrivals=str(arrivals) if timed else None))
    found: dict[int, list[tuple[int, int]]] = {}
    order = list(population.order())
    for agent, step in order:
        found.setdefault(agent, []).append(step)
    assert found == {agent: population.steps(agent) for agent in range(7)}
    assert [agent for agent, _ in order] != sorted(agent for agent, _ in order)


@pytest.mark.parametrize("system", [NAIVE, MEMOPT])
def test_an_agent_finds_what_was_said_to_it(tmp_path: Path, system: str) -> None:
    population = Population(task(tmp_path, system))
    with housed(task(tmp_path, system)) as agents:
        for agent, step in population.order():
            population.live(agents, agent, step)
        found = population.verify(agents)
        assert found.messages > 7
        assert found.mismatches == 0
        agents.add(3, [{"role": "user", "content": "not in the script"}])
        assert population.verify(agents).mismatches == 1


def containers(value: object) -> Iterator[int]:
    """Ids of every dict and list in a message."""
    if isinstance(value, dict | list):
        yield id(value)
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


def test_messages_are_the_agents_own_and_taken_as_they_are_by_both(tmp_path: Path) -> None:
    population = Population(task(tmp_path, NAIVE))
    given = [population.messages(agent, 0, 9) for agent in (0, 0, len(population._conversations))]
    found = [set(containers(messages)) for messages in given]
    source = set(containers(list(population._conversations[0])))
    assert all(found)
    assert found[0].isdisjoint(found[1] | found[2] | source)
    # What is timed of the plain agent is what it does: it keeps them, and decodes nothing.
    plain = NaiveAgents()
    plain.add(0, given[0])
    assert [id(message) for message in plain.context(0)] == [id(message) for message in given[0]]


def test_an_agent_that_lost_a_message_does_not_go_on(tmp_path: Path) -> None:
    population = Population(task(tmp_path, NAIVE))
    with housed(task(tmp_path, NAIVE)) as agents, pytest.raises(UsageError, match="has 0 of"):
        population.live(agents, 0, population.steps(0)[1])


@pytest.mark.parametrize("system", [NAIVE, MEMOPT])
def test_growing_and_serving_lose_nothing(tmp_path: Path, system: str) -> None:
    said: list[object] = []
    grown = grow({**_plain(task(tmp_path, system))}, said.append)
    assert grown["mismatches"] == 0
    assert grown["verified_messages"] == grown["messages"] > 0
    assert grown["points"][-1]["steps"] > 0
    (tmp_path / "again").mkdir()
    served = serve(
        _plain(task(tmp_path / "again", system, model_seconds=0.01, steps=2)), said.append
    )
    assert served["agents_with_losses"] == 0
    assert served["steps"] >= 7
    assert served["step_ms"]["p50"] >= 9.9


def _plain(task: Task) -> dict[str, object]:
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(task)
    return fields
