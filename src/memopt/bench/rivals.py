"""The systems that keep conversations, each used as its own documentation recommends.

Owns: one class a system behind one protocol. Invariant: a rival gets its cheaper recommended form,
sets its own pragmas, and keeps its default durability, which `durability` states. Not here: which
process it runs in and what is compared (density).

LangGraph is a compiled graph with a reducer over the list of messages and a thread a session. It is
invoked once a user turn, and each further message of the turn is one superstep, hence one
checkpoint: half the checkpoints of an invocation a message. Messages stay plain dicts under
`operator.add`, which costs LangGraph less than its message classes do. A step is the time from one
node's start to the next one's.
"""

import asyncio
import operator
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypedDict

import memopt
from memopt.base.config import Config
from memopt.base.records import Durability, Message
from memopt.bench import schedule
from memopt.bench.measure import LatencyHistogram
from memopt.bench.player import session_of


class Rival(Protocol):
    durability: str
    """What an acknowledged write survives, in words."""

    def write(self, session: int, messages: Sequence[Message], steps: LatencyHistogram) -> None:
        """Add one turn, adding the time of each message to `steps`."""

    def read(self, session: int) -> list[Any]: ...

    def end(self, session: int) -> None:
        """The conversation is over: what a server would let go of may go."""

    def close(self) -> None: ...


class MemoptRival:
    def __init__(self, home: Path, *, budget_bytes: int, durability: Durability) -> None:
        self.durability = "power cut" if durability is Durability.SYNC else "kill of the process"
        self._memory = memopt.open(
            home,
            budget=budget_bytes,
            durability=durability,
            config=Config(budget_bytes=budget_bytes, durability=durability),
        )

    def write(self, session: int, messages: Sequence[Message], steps: LatencyHistogram) -> None:
        handle = self._session(session)
        for message in messages:
            begun = time.perf_counter_ns()
            handle.append(message)
            steps.add(time.perf_counter_ns() - begun)

    def read(self, session: int) -> list[Any]:
        return list(self._session(session).messages())

    def end(self, session: int) -> None:
        pass

    def close(self) -> None:
        self._memory.compact()
        self._memory.close()

    def _session(self, session: int) -> memopt.Session:
        return session_of(self._memory, session)


class LangGraphRival:
    def __init__(self, database: Path | None) -> None:
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import END, START, StateGraph

        saver: Any = InMemorySaver()
        self._connection: sqlite3.Connection | None = None
        self.durability = "nothing"
        if database is not None:
            from langgraph.checkpoint.sqlite import SqliteSaver

            self.durability = "power cut"
            self._connection = sqlite3.connect(database, check_same_thread=False)
            saver = SqliteSaver(self._connection)
        self._tape: Sequence[Message] = ()
        self._position = 0
        self._marks: list[int] = []

        class State(TypedDict):
            messages: Annotated[list[Any], operator.add]

        def act(_state: State) -> dict[str, Any]:
            self._marks.append(time.perf_counter_ns())
            message = self._tape[self._position]
            self._position += 1
            return {"messages": [message]}

        def onward(_state: State) -> str:
            return "act" if self._position < len(self._tape) else END

        graph: Any = StateGraph(State)
        graph.add_node("act", act)
        graph.add_conditional_edges(START, onward, ["act", END])
        graph.add_conditional_edges("act", onward, ["act", END])
        self._graph = graph.compile(checkpointer=saver)

    def write(self, session: int, messages: Sequence[Message], steps: LatencyHistogram) -> None:
        given = next(
            (index for index, message in enumerate(messages, 1) if message.get("role") == "user"), 1
        )
        self._tape, self._position = messages, given
        self._marks = [time.perf_counter_ns()]
        self._graph.invoke({"messages": list(messages[:given])}, self._config(session))
        self._marks.append(time.perf_counter_ns())
        begun, first, *rest = self._marks
        for _ in range(given):
            steps.add((first - begun) // given)
        for mark in rest:
            steps.add(mark - first)
            first = mark

    def read(self, session: int) -> list[Any]:
        found: list[Any] = self._graph.get_state(self._config(session)).values["messages"]
        return found

    def end(self, session: int) -> None:
        pass

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _config(self, session: int) -> dict[str, Any]:
        thread = {"thread_id": f"{schedule.scope_of(session)}/{session}"}
        return {"configurable": thread, "recursion_limit": 10_000}


class AgentsRival:
    """OpenAI Agents' session: an object a conversation, open while the conversation is used."""

    durability = "power cut"

    def __init__(self, database: Path) -> None:
        from agents import SQLiteSession

        self._make: Any = SQLiteSession
        self._database = database
        self._open: dict[int, Any] = {}
        self._loop = asyncio.new_event_loop()

    def write(self, session: int, messages: Sequence[Message], steps: LatencyHistogram) -> None:
        handle = self._session(session)

        async def add() -> None:
            for message in messages:
                begun = time.perf_counter_ns()
                await handle.add_items([message])
                steps.add(time.perf_counter_ns() - begun)

        self._loop.run_until_complete(add())

    def read(self, session: int) -> list[Any]:
        found: list[Any] = self._loop.run_until_complete(self._session(session).get_items())
        return found

    def end(self, session: int) -> None:
        handle = self._open.pop(session, None)
        if handle is not None:
            handle.close()

    def close(self) -> None:
        for session in list(self._open):
            self.end(session)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _session(self, session: int) -> Any:
        handle = self._open.get(session)
        if handle is None:
            handle = self._make(schedule.session_id(session), self._database)
            self._open[session] = handle
        return handle


NEEDS: Final = {
    "memopt os": (),
    "memopt sync": (),
    "langgraph InMemorySaver": ("langgraph",),
    "langgraph SqliteSaver": ("langgraph", "langgraph.checkpoint.sqlite"),
    "agents SQLiteSession": ("agents",),
}
"""Every system, and the packages it needs."""


def make(name: str, home: Path, *, budget_bytes: int) -> Rival:
    """A system with its files in `home`."""
    match name:
        case "memopt os":
            return MemoptRival(home, budget_bytes=budget_bytes, durability=Durability.OS)
        case "memopt sync":
            return MemoptRival(home, budget_bytes=budget_bytes, durability=Durability.SYNC)
        case "langgraph InMemorySaver":
            return LangGraphRival(None)
        case "langgraph SqliteSaver":
            return LangGraphRival(home / "checkpoints.db")
        case "agents SQLiteSession":
            return AgentsRival(home / "sessions.db")
    raise AssertionError(f"no such system: {name}")
