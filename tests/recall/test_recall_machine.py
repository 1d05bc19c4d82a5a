"""Recall against a twin that knows no segment: lists of messages, indexed anew for each question.

Whatever is done to sessions and memories, a recall finds what can be seen, each once, under the
session that said it first, and ranking is given the same entries as by the twin. The store gets
small pages, and what is in RAM is let go, merged, compacted and opened again in between.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import memopt
from memopt.base.clock import ManualClock
from memopt.base.records import to_us
from memopt.memory import Memory
from memopt.recall.entries import Draft, Entries, Role
from memopt.text.analysis import Analyser

SCOPES = ("acme/ann", "acme/ann/work", "acme/bob")
IDS = ("a", "b", "c")
WORDS = ("apple", "river", "stone", "cloud", "seven", "music", "garden", "letter", "winter", "key")

scopes = st.sampled_from(SCOPES[:1] * 3 + SCOPES)
ids = st.sampled_from(IDS)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
messages = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text},
              st.sampled_from(["user", "assistant", "tool"]), texts),
    st.builds(lambda text: {"role": "user", "content": [{"type": "text", "text": text}]}, texts),
    st.just({"role": "assistant", "content": None, "tool_calls": []}),
)  # fmt: skip


class Said:
    """One message, shared by every fork that holds it."""

    def __init__(self, message: dict[str, Any], at_us: int, lsn: int) -> None:
        content = message["content"]
        self.text = content if isinstance(content, str | None) else content[0]["text"]
        self.role = message["role"]
        self.at_us = at_us
        self.lsn = lsn


class Talk:
    def __init__(self, number: int) -> None:
        self.number = number
        """Rising with each session that is made."""
        self.line: list[Said] = []


class RecallMachine(RuleBasedStateMachine):
    @initialize(
        page_target_bytes=st.sampled_from([150, 400, 4000]), bits=st.sampled_from([8, 8, 4])
    )
    def begin(self, page_target_bytes: int, bits: int) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.settings = {
            "durability": "os", "maintenance_seconds": 0, "probe_seconds": 0, "ballast_bytes": 0,
            "page_target_bytes": page_target_bytes, "vector_bits": bits, "clock": self.clock,
        }  # fmt: skip
        self.talks: dict[tuple[str, str], Talk] = {}
        self.items: dict[str, dict[str, str]] = {}
        self.made = 0
        self.memory: Memory = memopt.open(self.path, **self.settings)

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            self.memory._parts.recall.engine.scopes.check()
            self.memory._parts.budget.check()
            self.memory.compact()
            assert self.memory.check().clean
            self.memory.close()
            shutil.rmtree(self.path)

    # -- sessions ---------------------------------------------------------------------------------

    def talk(self, scope: str, id: str) -> Talk:
        if (scope, id) not in self.talks:
            self.made += 1
            self.talks[scope, id] = Talk(self.made)
        return self.talks[scope, id]

    @rule(scope=scopes, id=ids, new=st.lists(messages, min_size=1, max_size=5))
    def extend(self, scope: str, id: str, new: list[dict[str, Any]]) -> None:
        self.clock.advance(30.0)
        self.memory.session(id, scope=scope).extend(new)
        now_us, lsn = self.clock.now_us(), self.memory.lsn
        self.talk(scope, id).line += [
            Said(message, now_us, lsn - len(new) + n) for n, message in enumerate(new, 1)
        ]

    @rule(scope=scopes, id=ids, data=st.data())
    def truncate(self, scope: str, id: str, data: Any) -> None:
        talk = self.talks.get((scope, id))
        if talk is not None:
            at = data.draw(st.integers(0, len(talk.line)))
            self.memory.session(id, scope=scope).truncate(at)
            del talk.line[at:]

    @rule(scope=scopes, id=ids, data=st.data())
    def redact(self, scope: str, id: str, data: Any) -> None:
        talk = self.talks.get((scope, id))
        if talk is not None and talk.line:
            at = data.draw(st.integers(0, len(talk.line) - 1))
            self.memory.session(id, scope=scope).redact(at)
            talk.line[at].text = None

    @rule(scope=scopes, id=ids, new=ids, data=st.data())
    def fork(self, scope: str, id: str, new: str, data: Any) -> None:
        talk = self.talks.get((scope, id))
        if talk is not None and (scope, new) not in self.talks:
            at = data.draw(st.integers(0, len(talk.line)))
            self.memory.session(id, scope=scope).fork(new, at=at)
            self.talk(scope, new).line = talk.line[:at]

    @rule(scope=scopes, id=ids)
    def delete(self, scope: str, id: str) -> None:
        if (scope, id) in self.talks:
            self.memory.session(id, scope=scope).delete()
            del self.talks[scope, id]

    # -- memories ---------------------------------------------------------------------------------

    @rule(scope=scopes, text=texts)
    def remember(self, scope: str, text: str) -> None:
        item = self.memory.remember(text, scope=scope)
        self.items.setdefault(scope, {})[item.item_id] = text

    @rule(scope=scopes, text=texts, data=st.data())
    def revise(self, scope: str, text: str, data: Any) -> None:
        if self.items.get(scope):
            item = data.draw(st.sampled_from(sorted(self.items[scope])))
            self.memory.revise(item, text)
            self.items[scope][item] = text

    @rule(scope=scopes, data=st.data())
    def forget(self, scope: str, data: Any) -> None:
        if self.items.get(scope):
            item = data.draw(st.sampled_from(sorted(self.items[scope])))
            self.memory.forget(memopt.Selector(scope=scope, items=(item,)))
            del self.items[scope][item]

    # -- what nobody notices ----------------------------------------------------------------------

    @rule()
    def compact(self) -> None:
        self.memory.compact()

    @rule()
    def maintain(self) -> None:
        self.memory._parts.maintenance.once()

    @rule()
    def let_go(self) -> None:
        self.memory._parts.recall.engine.scopes.evict(1)

    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        """A bit of a segment flips: it is made anew."""

        def member(transaction: Any) -> None:
            execute = transaction.tables.segments._execute
            rows = execute("SELECT segment, body FROM segments ORDER BY segment").fetchall()
            if rows:
                segment, body = data.draw(st.sampled_from(rows))
                at = data.draw(st.integers(0, len(body) - 1))
                flipped = body[:at] + bytes([body[at] ^ 4]) + body[at + 1 :]
                execute("UPDATE segments SET body = ? WHERE segment = ?", (flipped, segment))

        self.memory._parts.committer.commit(member)
        # Who has the index in RAM would not notice, until it is let go.
        self.memory._parts.recall.engine.scopes.evict(1)

    @rule()
    def idle(self) -> None:
        self.clock.advance(3600.0)
        self.memory._parts.maintenance.once()

    @rule(settings=st.sampled_from([{}, {"indexing": "off"}]))
    def open_again(self, settings: dict[str, str]) -> None:
        self.memory.close()
        self.memory = memopt.open(self.path, **self.settings | settings)

    # -- asking -----------------------------------------------------------------------------------

    @precondition(lambda self: self.talks or self.items)
    @rule(scope=scopes, query=texts, limit=st.sampled_from([3, 1000]))
    def ask(self, scope: str, query: str, limit: int) -> None:
        seen = self.visible(scope)
        hits = list(self.memory.recall(query, scope=scope, limit=limit, kinds=["episode"]))
        assert len(hits) == min(limit, len(seen))
        assert {hit.scope for hit in hits} <= {scope}
        for hit in hits:
            (span,) = hit.spans
            said = self.talks[scope, span.session].line[span.start]
            assert (hit.text, hit.role, to_us(hit.at)) == (said.text, said.role, said.at_us)
        places = [(self.talks[scope, h.spans[0].session].number, h.spans[0].start) for h in hits]
        assert len(set(places)) == len(places)
        assert set(places) <= seen.keys()
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        if seen:
            self.check_index(scope, seen)

    def visible(self, scope: str) -> dict[tuple[int, int], Said]:
        """What can be seen, under the oldest session that has it."""
        taken: set[int] = set()
        seen: dict[tuple[int, int], Said] = {}
        talks = [talk for (where, _), talk in self.talks.items() if where == scope]
        for talk in sorted(talks, key=lambda talk: talk.number):
            for at, said in enumerate(talk.line):
                if said.text is not None and id(said) not in taken:
                    seen[talk.number, at] = said
                    taken.add(id(said))
        return seen

    def check_index(self, scope: str, seen: dict[tuple[int, int], Said]) -> None:
        """Against entries made of the same texts in one go: all that ranking looks at."""
        engine = self.memory._parts.recall.engine
        drafts = [
            Draft(source=number, seq=at, at_us=said.at_us, text=said.text, role=Role.of(said.role))
            for (number, at), said in sorted(seen.items())
        ]
        expected = Entries.of(drafts, embedder=engine._maker.embedder, analyser=Analyser())
        with self.memory._parts.directory.home.snapshot() as tables:
            number = tables.scopes.number(scope)
        assert number is not None
        entries = engine.scopes.open(number).index.entries
        entries = entries.take(np.lexsort((entries.seq, entries.source)))
        entries = entries.take(entries.source > 0)
        # Sessions are numbered among other things.
        np.testing.assert_array_equal(*(np.unique(e.source, return_inverse=True)[1]
                                        for e in (entries, expected)))  # fmt: skip
        columns = ["seq", "at_us", "role", "kind", "flags", "speaker", "chars", "terms"]
        columns += ["terms_start", "pieces", "pieces_start"]
        for name in columns:
            np.testing.assert_array_equal(getattr(entries, name), getattr(expected, name), name)
        vectors, wanted = (e.vectors * e.scales[:, None] for e in (entries, expected))
        step = 2.0 * float(entries.scales.max()) * (16 if self.settings["vector_bits"] == 4 else 1)
        np.testing.assert_allclose(vectors, wanted, atol=step)

    @precondition(lambda self: self.talks)
    @rule(scope=scopes, query=texts, back=st.integers(0, 30))
    def ask_the_past(self, scope: str, query: str, back: int) -> None:
        """What was known then, of what can still be seen."""
        lsn = max(0, self.memory.lsn - back)
        hits = self.memory.recall(query, scope=scope, limit=1000, kinds=["episode"], known_at=lsn)
        known = {place for place, said in self.visible(scope).items() if said.lsn <= lsn}
        assert {
            (self.talks[scope, hit.spans[0].session].number, hit.spans[0].start) for hit in hits
        } == known

    @precondition(lambda self: any(self.items.values()))
    @rule(scope=scopes, query=texts)
    def ask_items(self, scope: str, query: str) -> None:
        hits = self.memory.recall(query, scope=scope, limit=1000, kinds=["fact"])
        assert {hit.item_id: hit.text for hit in hits} == self.items.get(scope, {})

    @precondition(lambda self: self.talks)
    @rule(query=texts, reach=st.sampled_from(["subtree", "ancestors"]))
    def ask_further(self, query: str, reach: str) -> None:
        scope = "acme/ann" if reach == "subtree" else "acme/ann/work"
        hits = self.memory.recall(query, scope=scope, reach=reach, limit=1000, kinds=["episode"])
        count = sum(len(self.visible(one)) for one in ("acme/ann", "acme/ann/work"))
        assert len(hits) == count
        assert {hit.scope for hit in hits} <= {"acme/ann", "acme/ann/work"}

    @invariant()
    def charges_add_up(self) -> None:
        if hasattr(self, "memory"):
            self.memory._parts.recall.engine.scopes.check()


def test_recall_finds_what_its_twin_finds() -> None:
    run_state_machine_as_test(
        RecallMachine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )
