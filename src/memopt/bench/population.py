"""Agents that live in one process: kept in plain Python, or kept by memopt.

Owns: what an agent does. A step is one call of the model: the agent takes its whole context, adds
what came in since the last reply, waits for the model, and adds the reply. The plain agent's
context is a list of dicts that it holds for life; memopt's agent reads its own from the store for
the call and lets it go. Invariant: what an agent is given, and in which order, depends on the task
alone, so both kinds live the same lives, and what was said can be made anew to compare.

Messages come off the wire: each is decoded from its JSON by itself, for either kind of agent and
outside of what is timed. The plain agent keeps those very objects, so it has to have its own: what
agents shared with the source of the conversations would be in nobody's growth. Encoding is what the
model's side does and no agent, and both need the decoded message; so neither is a part of a step.

Not here: which process this runs in, under which limit, and what the figures are compared with.
"""

import contextlib
import csv
import gzip
import heapq
import json
import random
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

import memopt
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.records import Durability, Message
from memopt.bench import data
from memopt.bench.child import Report
from memopt.bench.confinement import Confinement
from memopt.bench.measure import LatencyHistogram, RssMeter, disk_bytes, rss_bytes, settle
from memopt.bench.player import Verification
from memopt.bench.schedule import marked, scope_of, session_id

Step = tuple[int, int]
"""Messages [start, stop) of a conversation: what comes in before a reply, and the reply."""

NAIVE: Final = "naive"
MEMOPT: Final = "memopt"
_POINTS: Final = 200
_REPORTED_EVERY: Final = 25
_RETURN_SHARE: Final = 0.1
_SITTINGS: Final = 3


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a population is to do."""

    system: str
    files: tuple[str, ...]
    agents: int
    budget_bytes: int
    home: str
    seed: int = 0
    arrivals: str | None = None
    """CSV of arrivals whose gaps are the agents' think times; None = every agent in turn."""
    model_seconds: float = 0.0
    steps: int = 0
    """Of each agent where the model is waited for."""
    confinement: Confinement | None = None
    limit_bytes: int = 0
    """What the whole process may have."""
    seconds_max: float = 0.0
    access_log: str | None = None
    """Where memopt records the touches of pages."""


class Agents(Protocol):
    """Where agents keep what was said."""

    def context(self, agent: int) -> list[Message]: ...
    def add(self, agent: int, messages: Sequence[Message]) -> None: ...


class NaiveAgents:
    """A list of dicts for each: the messages that it was given."""

    def __init__(self) -> None:
        self._contexts: dict[int, list[Message]] = {}

    def context(self, agent: int) -> list[Message]:
        return self._contexts.get(agent, [])

    def add(self, agent: int, messages: Sequence[Message]) -> None:
        self._contexts.setdefault(agent, []).extend(messages)


class MemoptAgents:
    def __init__(self, memory: memopt.Memory) -> None:
        self._memory = memory

    def context(self, agent: int) -> list[Message]:
        return list(self._session(agent).messages())

    def add(self, agent: int, messages: Sequence[Message]) -> None:
        self._session(agent).extend(messages)

    def _session(self, agent: int) -> memopt.Session:
        return self._memory.session(session_id(agent), scope=scope_of(agent))


class Population:
    """So many agents, each with a conversation of its own, marked as such."""

    def __init__(self, task: Task) -> None:
        self._conversations = data.load(task.files)
        self._steps = [list(steps_of(conversation)) for conversation in self._conversations]
        self._task = task

    def steps(self, agent: int) -> list[Step]:
        return self._steps[agent % len(self._steps)]

    def messages(self, agent: int, start: int, stop: int) -> list[Message]:
        """As they come in: fresh objects, which share nothing with any other agent's."""
        conversation = self._conversations[agent % len(self._conversations)]
        return [
            json.loads(json.dumps(marked(message, agent))) for message in conversation[start:stop]
        ]

    def live(self, agents: Agents, agent: int, step: Step) -> int:
        """One step of one agent; how many messages its context had."""
        start, stop = step
        context = agents.context(agent)
        if len(context) != start:
            raise UsageError(f"agent {agent} has {len(context)} of {start} messages")
        known = len(context)
        del context
        agents.add(agent, self.messages(agent, start, stop))
        return known

    def order(self) -> Iterator[tuple[int, Step]]:
        """Every step of every agent, all of them alive at once: in turn, shuffled in each round, or
        by arrivals and think times."""
        task, draw = self._task, random.Random(self._task.seed)
        if task.arrivals is None:
            longest = max(map(len, self._steps))
            numbers = list(range(task.agents))
            for index in range(longest):
                draw.shuffle(numbers)
                for agent in numbers:
                    if index < len(self.steps(agent)):
                        yield agent, self.steps(agent)[index]
            return
        gaps = think_seconds(Path(task.arrivals))
        due = [(gaps[agent % len(gaps)], agent, 0) for agent in range(task.agents)]
        heapq.heapify(due)
        while due:
            at, agent, index = heapq.heappop(due)
            yield agent, self.steps(agent)[index]
            if index + 1 < len(self.steps(agent)):
                gap = gaps[int(draw.random() * len(gaps))]
                heapq.heappush(due, (at + gap, agent, index + 1))

    def verify(self, agents: Agents) -> Verification:
        """Everything read back and compared with what was said."""
        verification = Verification()
        for agent in range(self._task.agents):
            stop = self.steps(agent)[-1][1]
            verification.compare(self.messages(agent, 0, stop), agents.context(agent))
        return verification


def sittings(steps: Sequence[Step]) -> Iterator[Step]:
    """The same messages in few calls: what counts here is how many agents there are."""
    each = -(-len(steps) // _SITTINGS)
    for at in range(0, len(steps), each):
        chosen = steps[at : at + each]
        yield chosen[0][0], chosen[-1][1]


def steps_of(conversation: data.Conversation) -> Iterator[Step]:
    """Cut behind every reply; what follows the last one is a step of its own."""
    replies = [
        index + 1
        for index, message in enumerate(conversation)
        if message.get("role") == "assistant"
    ]
    edges = sorted({0, *replies, len(conversation)})
    yield from pairwise(edges)


def think_seconds(path: Path) -> list[float]:
    """Gaps between the arrivals of a CSV whose first column is a time; never negative."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        times = [datetime.fromisoformat(row[0][:26]) for row in rows if row]
    gaps = [max(0.0, (after - before).total_seconds()) for before, after in pairwise(times)]
    if not gaps:
        raise UsageError("there are not two arrivals in it", field=str(path))
    return gaps


@contextlib.contextmanager
def housed(task: Task) -> Iterator[Agents]:
    """The agents of a task's system."""
    if task.system == NAIVE:
        yield NaiveAgents()
        return
    config = Config(
        budget_bytes=task.budget_bytes, durability=Durability.OS, access_log=task.access_log
    )
    with memopt.open(task.home, config=config) as memory:
        yield MemoptAgents(memory)


def grow(argument: Any, report: Report) -> Any:
    """Child: all agents alive at once, no model; memory over time, messages/s, all read back."""
    task = msgspec.convert(argument, Task)
    population = Population(task)
    total = sum(len(population.steps(agent)) for agent in range(task.agents))
    every = max(1, total // _POINTS)
    meter = RssMeter()
    points = [{"steps": 0, "rss_bytes": 0}]
    done = messages = 0
    clock = time.perf_counter_ns
    working_ns = 0
    with housed(task) as agents:
        for agent, (start, stop) in population.order():
            new = population.messages(agent, start, stop)
            before = clock()
            if len(agents.context(agent)) != start:
                raise UsageError(f"agent {agent} has lost messages")
            agents.add(agent, new)
            working_ns += clock() - before
            messages += len(new)
            done += 1
            if done % every == 0:
                points.append({"steps": done, "rss_bytes": meter.growth_bytes})
                report({"done": done, "total": total})
        growth = meter.growth_bytes_max
        verified = population.verify(agents)
        growth = max(growth, meter.growth_bytes_max) if task.system == MEMOPT else growth
        used = disk_bytes(task.home) if task.system == MEMOPT else 0
    return {
        "agents": task.agents,
        "steps": done,
        "messages": messages,
        "rss_start_bytes": meter.start_bytes,
        "rss_growth_bytes_max": growth,
        "messages_per_second": round(messages / (working_ns / 1e9), 1),
        "verified_messages": verified.messages,
        "mismatches": verified.mismatches,
        "disk_bytes": used,
        "points": points,
    }


def serve(argument: Any, report: Report) -> Any:
    """Child: agents on threads of their own, and a model that takes its time."""
    task = msgspec.convert(argument, Task)
    population = Population(task)
    times: list[LatencyHistogram] = []
    messages = array("q", bytes(8 * task.agents))
    meter = RssMeter()
    wait = threading.Event().wait
    failures: list[BaseException] = []
    with housed(task) as agents:

        def work(agent: int, histogram: LatencyHistogram, chance: random.Random) -> None:
            # Not all at once: users do not all press enter at the same moment.
            wait(chance.random() * task.model_seconds)
            for start, stop in population.steps(agent)[: task.steps]:
                new = population.messages(agent, start, stop)
                before = time.perf_counter_ns()
                context = agents.context(agent)
                if len(new) > 1:
                    agents.add(agent, new[:-1])
                wait(task.model_seconds)
                agents.add(agent, new[-1:])
                histogram.add(time.perf_counter_ns() - before)
                messages[agent] += len(new)
                del context

        def guarded(agent: int, histogram: LatencyHistogram) -> None:
            try:
                work(agent, histogram, random.Random(task.seed * 1_000_003 + agent))
            except BaseException as error:  # noqa: BLE001 - raised again below, on this thread's behalf
                failures.append(error)

        threads = []
        for agent in range(task.agents):
            times.append(LatencyHistogram())
            threads.append(threading.Thread(target=guarded, args=(agent, times[-1])))
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begun
        report({"done": 1, "total": 1})
        if failures:
            raise failures[0]
        lost = sum(len(agents.context(agent)) != messages[agent] for agent in range(task.agents))
    whole = LatencyHistogram()
    for histogram in times:
        whole.merge(histogram)
    return {
        "agents": task.agents,
        "steps": whole.count,
        "step_ms": {"p50": whole.quantile_us(0.5) / 1e3, "p99": whole.quantile_us(0.99) / 1e3},
        "step_ms_mean": round(whole.seconds * 1e3 / max(1, whole.count), 4),
        "messages_per_second": round(sum(messages) / seconds, 2),
        "rss_growth_bytes_max": meter.growth_bytes_max,
        "agents_with_losses": lost,
    }


def fill(argument: Any, report: Report) -> Any:
    """Child: one agent after the other lives its whole conversation, in a few sittings, and stays,
    and now and then an earlier one comes back, until memory is exhausted, or there are enough, or
    time is up."""
    task = msgspec.convert(argument, Task)
    population = Population(task)
    settle()
    start = rss_bytes()
    assert task.confinement is not None
    limit = task.confinement.limit(task.limit_bytes - start, start_rss_bytes=start)
    report({"rss_start_bytes": start, "limit_bytes": limit, "agents": 0})
    deadline = time.monotonic() + task.seconds_max
    draw = random.Random(task.seed)
    lost = returned = 0
    with housed(task) as agents:
        for agent in range(task.agents):
            try:
                for sitting in sittings(population.steps(agent)):
                    population.live(agents, agent, sitting)
                if draw.random() < _RETURN_SHARE:
                    earlier = int(draw.random() * (agent + 1))
                    stop = population.steps(earlier)[-1][1]
                    found = agents.context(earlier)
                    lost += found != population.messages(earlier, 0, stop)
                    returned += 1
                    del found
            except MemoryError:
                return {"exhausted": True, "lost": lost, "returned": returned}
            if (agent + 1) % _REPORTED_EVERY == 0 or agent + 1 == task.agents:
                rss = rss_bytes()
                report({"agents": agent + 1, "rss_bytes": rss})
                if rss > task.limit_bytes:
                    return {"exhausted": True, "lost": lost, "returned": returned}
                if time.monotonic() > deadline:
                    break
    return {"exhausted": False, "lost": lost, "returned": returned}
