"""Nobody gets at what another scope holds, whatever verb asks for it and however it is asked.

Scopes say the same things but for a mark of their own, which is in every text, tag, source, subject
and id. So whatever an answer has of another scope shows.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memopt import NotFoundError, Selector
from memopt.base.clock import ManualClock
from memopt.memory import Memory
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "durability": "os",
    "maintenance_seconds": 0,
    "probe_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 600,
}
SCOPES = [
    *("a", "a/b", "a/b/c", "a/bc", "ab", "a b", "A", "a/b c", "a%2Fb", "a_b", "a*", "ä", "ab/a/b"),
    *(f"t{tenant}/u{user}" for tenant in range(3) for user in range(3)),
]
MARKS = {f"mark{number:03}x": scope for number, scope in enumerate(SCOPES)}
MARK_OF = {scope: mark for mark, scope in MARKS.items()}
NOUNS = ("lamp", "river", "ticket", "window", "letter", "garden", "engine", "bottle", "mirror")
VERBS = ("found", "lost", "bought", "painted", "wanted", "broke", "repaired", "forgot")
KINDS = (None, ["episode"], ["fact"], ["document"], ["fact", "preference", "episode"])


def tell(memory: Memory, scope: str, chance: random.Random) -> None:
    mark = MARK_OF[scope]

    def sentence() -> str:
        return f"we {chance.choice(VERBS)} the {chance.choice(NOUNS)} of {mark}"

    for id in ("talk", f"talk of {mark}"):
        memory.session(id, scope=scope).extend(
            [{"role": chance.choice(["user", "assistant"]), "content": sentence()}
             for _ in range(6)]
        )  # fmt: skip
    for number in range(3):
        about = {"subject": mark, "attribute": "mood"} if number else {}
        memory.remember(sentence(), scope=scope, tags=["common", mark], source=mark, **about)
    memory.ingest(f"# Of {mark}\n\n{sentence()}.", scope=scope, source="common", tags=["common"])


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    chance = random.Random(1)
    with open_memory(tmp_path_factory.mktemp("isolation") / "store", **SETTINGS) as memory:
        for scope in SCOPES:
            tell(memory, scope, chance)
        memory.compact()
        for scope in chance.sample(SCOPES, len(SCOPES) // 2):
            tell(memory, scope, chance)
        yield memory
        memory._parts.recall.engine.scopes.check()


class Prober:
    def __init__(self, memory: Memory, chance: random.Random) -> None:
        self.memory = memory
        self.chance = chance
        self.ids = {
            scope: [item.item_id for item in memory.items(scope, limit=100)] for scope in SCOPES
        }
        self.asked = self.answered = 0

    def probe(self) -> None:
        """Ask one scope for what is another's."""
        chance = self.chance
        scope, other = chance.choice(SCOPES), chance.choice(SCOPES)
        if chance.random() < 0.7:
            self.recall(scope, other)
        else:
            chance.choice([self.items, self.by_id, self.plan])(scope, other)
        if chance.random() < 0.001:
            self.memory._parts.recall.engine.scopes.evict(1)
        self.asked += 1

    def recall(self, scope: str, other: str) -> None:
        chance, mark = self.chance, MARK_OF[other]
        reach = chance.choice(["exact", "exact", "exact", "subtree", "ancestors"])
        query = chance.choice(
            [
                f"who {chance.choice(VERBS)} the {chance.choice(NOUNS)} of {mark}?",
                mark,
                f"{mark} {other}",
                "what did we lose?",
            ]
        )
        found = self.memory.recall(
            query, scope=scope, reach=reach, limit=chance.choice([1, 5, 20]),
            kinds=chance.choice(KINDS), tags=chance.choice([None, None, ["common"], [mark]]),
        )  # fmt: skip
        if reach == "subtree":
            allowed = {one for one in SCOPES if f"{one}/".startswith(f"{scope}/")}
        elif reach == "ancestors":
            allowed = {one for one in SCOPES if f"{scope}/".startswith(f"{one}/")}
        else:
            allowed = {scope}
        assert {hit.scope for hit in found} <= allowed
        self.only(allowed, [(hit, hit.why) for hit in found])
        self.answered += len(found)

    def items(self, scope: str, other: str) -> None:
        tags = self.chance.choice([None, ["common"], [MARK_OF[other]]])
        self.only({scope}, self.memory.items(scope, tags=tags, limit=20))
        self.only({scope}, self.memory.contradictions(scope))
        self.only({scope}, self.memory.sessions(scope))

    def by_id(self, scope: str, other: str) -> None:
        if scope == other:
            return
        item_id = self.chance.choice(self.ids[other])
        verb = self.chance.choice(["item", "history", "pin", "unpin", "end", "revise", "feedback"])
        more: dict[str, tuple[Any, ...]] = {"revise": ("mine now",), "feedback": (1.0,)}
        what: Any = [item_id] if verb == "feedback" else item_id
        with pytest.raises(NotFoundError) as raised:
            getattr(self.memory, verb)(what, *more.get(verb, ()), scope=scope)
        self.only({scope}, str(raised.value))

    def plan(self, scope: str, other: str) -> None:
        mark = MARK_OF[other]
        selector = self.chance.choice(
            [
                Selector(scope=scope, source=mark),
                Selector(scope=scope, tags=(mark,)),
                Selector(scope=scope, containing=mark),
                Selector(scope=scope, session=f"talk of {mark}"),
                Selector(scope=scope, items=(self.chance.choice(self.ids[other]),)),
            ]
        )
        if scope == other:
            return
        try:
            assert self.memory.plan_forget(selector).targets == ()
        except NotFoundError:
            assert selector.session or selector.items

    def only(self, allowed: set[str], answer: object) -> None:
        """Nothing in an answer bears the mark of another scope."""
        told = set(re.findall(r"mark\d{3}x", repr(answer)))
        assert {MARKS[mark] for mark in told} <= allowed


def probes(memory: Memory, count: int, seed: int) -> None:
    prober = Prober(memory, random.Random(seed))
    before = memory.lsn
    for _ in range(count):
        prober.probe()
    assert prober.answered > count / 2
    assert memory.lsn == before


def test_two_thousand_probes_find_nothing_of_another_scope(memory: Memory) -> None:
    probes(memory, 2_000, seed=2)


@pytest.mark.slow
def test_a_hundred_thousand_probes_find_nothing_of_another_scope(memory: Memory) -> None:
    probes(memory, 100_000, seed=3)


def test_what_others_hold_counts_for_nothing(tmp_path: Path) -> None:
    """Hits and scores are the same where nobody else is."""
    answers = []
    for others in ([], ["a/b/c", "a", "ab", "t0/u0"]):
        with open_memory(tmp_path / f"{len(others)}", clock=ManualClock(), **SETTINGS) as memory:
            for scope in (*others, "a/b"):
                tell(memory, scope, random.Random(4))
            memory.compact()
            found = [
                memory.recall(query, scope="a/b", limit=50)
                for query in ("who lost the river?", "we bought a lamp", MARK_OF["a/b"])
            ]
            answers.append([[(hit.text, hit.score, hit.why) for hit in one] for one in found])
    assert answers[0] == answers[1]
    assert len(answers[0][0]) > 10
