"""Forget means gone: canaries are planted everywhere, found everywhere, forgotten, and not found.

The searcher decodes every page, text, state, dictionary and log frame, used or left over, so the
first thing each test proves is that it finds what is there.
"""

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memopt.base.errors import NotFoundError
from memopt.base.records import Reach, Selector
from memopt.memory import Memory
from memopt.recall.entries import Entries
from memopt.testing.search import Finding, search
from memopt.text.analysis import Analyser
from memopt.wiring import open_memory

SETTINGS: dict[str, Any] = {
    "budget": "64MiB",
    "durability": "os",
    "maintenance_seconds": 0,
    "ballast_bytes": 0,
    "page_target_bytes": 1024,
    "text_bytes_min": 300,
    "dictionary_bytes": 4096,
    "dictionary_training_pages": 8,
    "state_keyframe_versions": 3,
}
VICTIM = "acme/team/victim"
CHANCE = random.Random(11)


def canary(name: str) -> str:
    # A figure at its end, or stemming would cut it otherwise in each language.
    return f"{name}-" + "".join(CHANCE.choices("abcdefghijkmnpqrstuvwxyz23456789", k=26)) + "7"


def words(count: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(CHANCE.choices(letters, k=CHANCE.randint(3, 9))) for _ in range(count))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with open_memory(tmp_path / "store", **SETTINGS) as opened:
        yield opened
        if opened._closed:
            return
        opened._parts.pager.check()
        assert opened.check().clean


class Planted:
    """A victim among others, with a canary wherever a user can put a text."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.canaries = {
            name: canary(name)
            for name in (
                "message", "tail", "tool", "system", "longtext", "state", "oldstate", "id",
                "scope", "agent", "actor", "key", "statename", "branch", "field",
            )
        }  # fmt: skip
        c = self.canaries
        self.scope = f"{VICTIM}/{c['scope']}"
        self.others: dict[tuple[str, str], list[Any]] = {}
        for i in range(12):
            self._other(f"acme/u{i % 6}", f"other{i}")
        session = memory.session(c["id"], scope=self.scope, agent=c["agent"])
        self.session = session
        session.append({"role": "system", "content": f"{words(80)} {c['system']} {words(20)}"})
        session.append({"role": "user", "content": f"hello {c['message']}"}, key=c["key"])
        session.append({"role": "tool", "content": {"result": [1, {"deep": c["tool"]}]}})
        session.append({"role": "user", "content": f"{words(2000)} {c['longtext']} {words(200)}"})
        session.append({"role": "user", "content": "me"}, actor=c["actor"])
        session.append({"role": "user", c["field"]: "a key of the message"})
        session.append({"role": "user", "content": c["branch"]})
        session.pop()
        for version in range(8):
            log = [f"step {i} {words(6)}" for i in range(4)] + [c["state"]]
            if version < 4:
                log.append(c["oldstate"])
            session.save_state({"version": version, "log": log}, name="main")
        session.save_state({"anything": 1}, name=c["statename"])
        memory.compact()
        session.append({"role": "user", "content": f"not sealed {c['tail']}"})
        assert session.load_state() is not None
        self.index = Indexed(memory, self.canaries.values())

    def _other(self, scope: str, id: str) -> None:
        session = self.memory.session(id, scope=scope)
        shared = "Thank you for calling our airline, how may I help you with your booking today?"
        for i in range(12):
            session.append({"role": "user", "content": f"{shared} {i} {words(12)} {shared[::-1]}"})
        session.save_state({"of": id})
        self.others[scope, id] = list(session.messages())

    def check_others(self) -> None:
        for (scope, id), messages in self.others.items():
            session = self.memory.session(id, scope=scope)
            assert list(session.messages()) == messages
            state = session.load_state()
            assert state is not None
            assert state.value == {"of": id}

    def found(self) -> dict[str, list[Finding]]:
        return find(self.memory, self.canaries)


def find(memory: Memory, canaries: dict[str, str]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {name: [] for name in canaries}
    names = {text: name for name, text in canaries.items()}
    for finding in search(memory.path, canaries.values()):
        found[names[finding.text]].append(finding)
    return found


def places(findings: list[Finding]) -> set[str]:
    return {finding.place for finding in findings}


def assert_gone(memory: Memory, canaries: dict[str, str], index: "Indexed | None" = None) -> None:
    assert {name: found for name, found in find(memory, canaries).items() if found} == {}
    assert [name for name, text in canaries.items() if is_indexed(memory, text)] == []
    if index is not None:
        index.assert_gone()


def is_indexed(memory: Memory, text: str) -> bool:
    """Whether the index holds a term that only this canary has. A vocabulary is hashes, which the
    searcher cannot find."""
    return any(len(_places_of(Entries.decode(body), text)) for body in segments(memory))


def segments(memory: Memory) -> list[bytes]:
    with memory._parts.directory.home.snapshot() as tables:
        heads = tables.segments.heads((0, 0), 10_000)
        rows = [tables.segments.get(head.segment) for head in heads]
    return [row.body for row in rows if row]


def _places_of(entries: Entries, text: str) -> Any:
    """The entries that have a term which only this canary has."""
    terms = Analyser().analyse(text.split("-")[-1]).terms
    owners = np.searchsorted(entries.terms_start, np.flatnonzero(np.isin(entries.terms, terms)),
                             side="right") - 1  # fmt: skip
    return np.unique(owners)


class Indexed:
    """What the index holds of canaries: their vectors, and the bytes of all segments they are in,
    with terms, word pieces, lengths and times."""

    RUN_BYTES = 32

    def __init__(self, memory: Memory, canaries: Iterable[str]) -> None:
        self.memory = memory
        self.vectors: set[bytes] = set()
        self.bodies: set[bytes] = set()
        for body in segments(memory):
            entries = Entries.decode(body)
            for text in canaries:
                for place in _places_of(entries, text).tolist():
                    self.bodies.add(body)
                    self.vectors.add(entries.vectors[place].tobytes())

    def found(self) -> tuple[int, int]:
        """How many of the vectors, and of the runs of bytes, are in a file: in pages that are
        in use, in free ones, and in the log. Runs of segments that are there do not count."""
        files = [path.read_bytes() for path in self.memory.path.iterdir() if path.is_file()]
        there = segments(self.memory)

        def is_found(run: bytes) -> bool:
            return any(run in file for file in files) and not any(run in body for body in there)

        vectors = [
            vector for vector in self.vectors
            # One border of a page may lie in it.
            if any(half in file for half in (vector[:128], vector[128:]) for file in files)
        ]  # fmt: skip
        runs = {
            body[at : at + self.RUN_BYTES]
            for body in self.bodies
            for at in range(0, len(body) - self.RUN_BYTES, self.RUN_BYTES)
        }
        # What is nearly all one byte may be anything.
        said = [run for run in runs if len(set(run)) > self.RUN_BYTES // 2]
        return len(vectors), sum(map(is_found, said))

    def assert_gone(self) -> None:
        assert self.found() == (0, 0)


EXPECTED = {
    "message": "row of pages, decoded",
    "tail": "row of tail",
    "tool": "row of pages, decoded",
    "system": "row of texts, decoded",
    "longtext": "row of texts, decoded",
    "state": "row of states, decoded",
    "oldstate": "row of states, decoded",
    "id": "row of sessions",
    "scope": "row of scopes",
    "agent": "row of sessions",
    "actor": "row of pages, decoded",
    "key": "row of keys",
    "statename": "row of states",
    "branch": "row of pages, decoded",
    "field": "row of pages, decoded",
}


def test_the_searcher_finds_every_canary_in_the_place_where_it_should_be(memory: Memory) -> None:
    planted = Planted(memory)
    found = planted.found()
    assert {name: EXPECTED[name] in places(found[name]) for name in found} == dict.fromkeys(
        EXPECTED, True
    )
    assert "row of events" in places(found["statename"])
    indexed = {name for name, text in planted.canaries.items() if is_indexed(memory, text)}
    assert indexed == {"message", "system", "longtext", "branch"}
    assert len(planted.index.vectors) == 4
    assert planted.index.found()[0] == 4
    planted.check_others()


def test_what_is_left_of_a_segment_in_a_free_page_is_found(memory: Memory) -> None:
    """Before the log is emptied and free pages are given back."""
    planted = Planted(memory)
    memory.forget(SELECTORS["whole_scope"](planted))
    memory._parts.recall.engine.finish()
    assert not is_indexed(memory, planted.canaries["message"])
    vectors, runs = planted.index.found()
    assert vectors > 0
    assert runs > 20


def test_the_searcher_finds_what_only_the_log_and_its_leftovers_still_hold(memory: Memory) -> None:
    session = memory.session("s", scope=VICTIM)
    plain, packed = canary("plain"), canary("packed")
    session.append({"role": "user", "content": plain})
    session.append({"role": "user", "content": f"{words(300)} {packed} {words(300)}"})
    session.delete()
    found = find(memory, {"plain": plain, "packed": packed})
    assert {f.file for f in found["plain"]} == {"memopt.db-wal"}
    assert any(f.place.endswith("decoded") for f in found["packed"])
    memory.compact()
    assert_gone(memory, {"plain": plain, "packed": packed})


SELECTORS = {
    "session": lambda p: Selector(scope=p.scope, session=p.canaries["id"]),
    "whole_scope": lambda p: Selector(scope=p.scope, whole_scope=True),
    "subtree": lambda p: Selector(scope=VICTIM, reach=Reach.SUBTREE, whole_scope=True),
    "containing_the_id": lambda p: Selector(scope=p.scope, containing=p.canaries["id"]),
}


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_forgotten_session_is_in_no_byte_of_the_store(memory: Memory, kind: str) -> None:
    planted = Planted(memory)
    receipt = memory.forget(SELECTORS[kind](planted))
    assert receipt.sessions == 1
    assert receipt.states == 9
    assert_hidden(memory, planted)
    report = memory.compact()
    assert report.seconds >= 0
    assert_hidden(memory, planted)
    assert_gone(memory, planted.canaries, planted.index)
    planted.check_others()


@pytest.mark.parametrize(
    "name", [name for name in EXPECTED if name not in ("id", "scope", "agent", "key")]
)
def test_a_forgotten_text_is_in_no_byte_of_the_store(memory: Memory, name: str) -> None:
    planted = Planted(memory)
    text = planted.canaries[name]
    length = len(planted.session)
    receipt = memory.forget(Selector(scope=VICTIM, reach=Reach.SUBTREE, containing=text))
    assert receipt.entries + receipt.states > 0
    assert text not in everything_public(memory)
    index = Indexed(memory, [text])
    memory.compact()
    assert text not in everything_public(memory)
    assert_gone(memory, {name: text}, index)
    assert len(planted.session) == length
    left = planted.found()
    assert all(left[other] for other in EXPECTED if other not in (name, "state", "oldstate"))
    planted.check_others()


def test_a_redacted_message_is_in_no_byte_of_the_store(memory: Memory) -> None:
    planted = Planted(memory)
    length = len(planted.session)
    wanted = {k: planted.canaries[k] for k in ("message", "tail", "system", "longtext", "actor")}
    index = Indexed(memory, wanted.values())
    for seq in (0, 1, 3, 4, length - 1):
        planted.session.redact(seq)
    memory.compact()
    assert_gone(memory, wanted, index)
    assert len(planted.session) == length


def test_an_interrupted_erasure_is_finished_by_the_next_compaction(memory: Memory) -> None:
    planted = Planted(memory)
    memory.forget(Selector(scope=VICTIM, reach=Reach.SUBTREE, whole_scope=True))
    path = memory.path
    memory.close()
    with open_memory(path, **SETTINGS) as again:
        again.compact()
        planted.index.memory = again
        assert_gone(again, planted.canaries, planted.index)
        assert again.check().clean


def everything_public(memory: Memory) -> str:
    """Whatever a public read returns, as one text."""
    seen: list[Any] = [memory.stats(), list(memory.journal())]
    moments = [None, *range(0, memory.lsn + 1, max(1, memory.lsn // 12)), memory.lsn]
    for moment in moments:
        view = memory if moment is None else memory.at(moment)
        infos = view.sessions(None, limit=1000)
        seen.append(infos)
        for info in infos:
            session = view.session(info.id, scope=info.scope)
            seen += [list(session.entries()), session.states()]
            seen += [
                session.load_state(name=version.name, version=version.version)
                for version in session.states()
            ]
            if moment is None:
                seen.append(memory.pages(info.id, scope=info.scope))
        items = view.items(limit=1000)
        seen += [items, [item.why for item in items]]
        if moment is None:
            seen += [memory.history(item.item_id) for item in items]
    return repr(seen)


def assert_hidden(memory: Memory, planted: Planted) -> None:
    public = everything_public(memory)
    assert [name for name, text in planted.canaries.items() if text in public] == []
    session = memory.session(planted.canaries["id"], scope=planted.scope)
    assert list(session.messages()) == []
    assert len(session) == session.head == 0
    assert session.load_state() is None
    with pytest.raises(NotFoundError):
        memory.plan_forget(Selector(scope=planted.scope, session=planted.canaries["id"]))


# -- memories -------------------------------------------------------------------------------------

ITEM_PLACES = {
    "text": "row of item_texts",
    "revised": "row of item_texts",
    "long": "row of item_texts, decoded",
    "subject": "row of items",
    "attribute": "row of items",
    "source": "row of items",
    "tag": "row of items",
    "key": "row of keys",
}


class Remembered:
    """A memory with a canary wherever a user can put a text, among others that stay."""

    def __init__(self, memory: Memory, scope: str = VICTIM) -> None:
        self.memory = memory
        self.canaries = c = {name: canary(name) for name in ITEM_PLACES}
        item = memory.remember(
            f"said {c['text']}", scope=scope, subject=c["subject"], attribute=c["attribute"],
            source=c["source"], tags=["a", c["tag"]], key=c["key"],
        )  # fmt: skip
        memory.revise(item.item_id, f"{words(600)} {c['long']} {words(60)}")
        memory.pin(item.item_id)
        memory.unpin(item.item_id)
        self.item = memory.revise(item.item_id, f"in other words {c['revised']}")
        memory.feedback([item.item_id], 1)
        self.others = [
            memory.remember(words(8), scope=where, tags=["a"], source="s", key="k")
            for where in (scope, "acme/u1", f"{scope}/below")
        ]

    def check_others(self) -> None:
        for other in self.others:
            assert self.memory.item(other.item_id) == other


def test_the_searcher_finds_every_canary_of_a_memory(memory: Memory) -> None:
    planted = Remembered(memory)
    found = find(memory, planted.canaries)
    assert {name: ITEM_PLACES[name] in places(found[name]) for name in found} == dict.fromkeys(
        ITEM_PLACES, True
    )


ITEM_SELECTORS = {
    "id": lambda p: Selector(scope=VICTIM, items=(p.item.item_id,)),
    "source": lambda p: Selector(scope=VICTIM, source=p.canaries["source"]),
    "tags": lambda p: Selector(scope=VICTIM, tags=("a", p.canaries["tag"])),
    "time": lambda p: Selector(scope=VICTIM, until=p.others[0].stated_at),
    "containing": lambda p: Selector(scope=VICTIM, containing=p.canaries["revised"]),
    "former_text": lambda p: Selector(scope=VICTIM, containing=p.canaries["text"]),
    "long_text": lambda p: Selector(scope=VICTIM, containing=p.canaries["long"]),
    "subtree": lambda p: Selector(scope="acme", reach=Reach.SUBTREE, tags=(p.canaries["tag"],)),
}


@pytest.mark.parametrize("is_indexed", [False, True])
@pytest.mark.parametrize("kind", ITEM_SELECTORS)
def test_a_forgotten_memory_is_in_no_byte_of_the_store(
    memory: Memory, kind: str, is_indexed: bool
) -> None:
    planted = Remembered(memory)
    if is_indexed:
        memory.compact()
    index = Indexed(memory, planted.canaries.values())
    assert len(index.vectors) == (3 if is_indexed else 0)
    selector = ITEM_SELECTORS[kind](planted)
    plan = memory.plan_forget(selector)
    assert (plan.items, plan.entries, plan.values) == (1, 0, 0)
    receipt = memory.forget(plan)
    assert (receipt.items, receipt.sessions, receipt.entries) == (1, 0, 0)
    public = everything_public(memory)
    assert [name for name, text in planted.canaries.items() if text in public] == []
    with pytest.raises(NotFoundError):
        memory.item(planted.item.item_id)
    memory.compact()
    assert_gone(memory, planted.canaries, index)
    planted.check_others()


def test_a_document_is_in_no_byte_of_the_store(memory: Memory) -> None:
    kept, gone = canary("kept"), canary("gone")
    name, title, tag = canary("name"), canary("title"), canary("tag")
    for text in (kept, gone):
        memory.ingest(
            f"# {title}\n\n{words(40)} {text}\n\n## {words(3)}\n\n{words(300)}", scope=VICTIM,
            source=f"{name} of {text}", tags=[tag],
        )  # fmt: skip
    memory.ingest("# Other\n\nstays", scope=VICTIM, source="other")
    index = Indexed(memory, [gone])
    assert len(index.vectors) == 1
    # Another edition takes the place of the first, and leaves no byte of it.
    memory.ingest(f"# {title}\n\n{words(40)}", scope=VICTIM, source=f"{name} of {gone}", tags=[tag])
    memory.compact()
    index.assert_gone()
    everything = Indexed(memory, [title, kept])
    memory.forget(Selector(scope=VICTIM, tags=(tag,)))
    memory.compact()
    texts = {"kept": kept, "gone": gone, "name": name, "title": title, "tag": tag}
    assert_gone(memory, texts, everything)
    assert [item.text for item in memory.items(VICTIM, kinds=["document"])] == ["# Other\n\nstays"]


@pytest.mark.parametrize("way", ["whole_scope", "containing", "the item it used"])
def test_the_vector_of_a_cached_question_leaves_with_its_answer(memory: Memory, way: str) -> None:
    question = canary("question")
    for number in range(20):
        memory.answers.store(asking(f"what is {words(5)} {number}?"), "no", scope=VICTIM)
    item = memory.remember(f"known {words(6)}", scope=VICTIM)
    memory.answers.store(
        asking(f"what is {words(4)} {question}?"), "yes", scope=VICTIM, uses=[item.item_id]
    )
    with memory._parts.directory.home.snapshot() as tables:
        number = tables.scopes.number(VICTIM)
        assert number is not None
        _, record = tables.answer_entries.range(number, 0, 100)[-1]
    index = Indexed(memory, [])
    index.vectors.add(record[-256:])
    assert index.found() == (1, 0)
    memory.forget(
        {
            "whole_scope": Selector(scope=VICTIM, whole_scope=True),
            "containing": Selector(scope=VICTIM, containing=question),
            "the item it used": Selector(scope=VICTIM, items=(item.item_id,)),
        }[way]
    )
    memory.compact()
    assert_gone(memory, {"question": question}, index)


def asking(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def test_a_scope_takes_its_memories_and_its_name_with_it(memory: Memory) -> None:
    scope = f"acme/{canary('scope')}"
    planted = Remembered(memory, scope)
    memory.session("s", scope=scope).append({"n": 1})
    receipt = memory.forget(Selector(scope=scope, whole_scope=True))
    assert (receipt.items, receipt.sessions) == (2, 1)
    assert memory.items(scope) == []
    memory.forget(Selector(scope=f"{scope}/below", whole_scope=True))
    memory.compact()
    assert_gone(memory, planted.canaries | {"scope": scope})
    assert memory.plan_forget(Selector(scope=scope, whole_scope=True)).targets == ()
    assert len(memory.items("acme/u1")) == 1


def test_a_deleted_session_leaves_the_memories_of_its_scope(memory: Memory) -> None:
    planted = Remembered(memory)
    session = memory.session("s", scope=VICTIM)
    session.append({"n": 1})
    session.delete()
    assert len(memory.items(VICTIM)) == 2
    planted.check_others()


# -- forks ----------------------------------------------------------------------------------------


def test_a_fork_keeps_what_it_shares_when_its_parent_is_deleted(memory: Memory) -> None:
    parent = memory.session("parent", scope=VICTIM)
    shared, own, long = canary("shared"), canary("own"), canary("long")
    parent.append({"role": "user", "content": shared})
    parent.append({"role": "user", "content": f"{words(900)} {long}"})
    parent.append({"role": "user", "content": own})
    fork = parent.fork("child", at=2)
    kept = list(fork.messages())
    parent.delete()
    memory.compact()
    assert list(fork.messages()) == kept
    found = find(memory, {"shared": shared, "long": long, "own": own})
    assert found["shared"]
    assert found["long"]
    assert not found["own"]
    memory.forget(Selector(scope=VICTIM, session="child"))
    memory.compact()
    assert_gone(memory, {"shared": shared, "long": long, "own": own})


def test_a_redaction_reaches_every_fork(memory: Memory) -> None:
    parent = memory.session("parent", scope=VICTIM)
    text = canary("text")
    parent.extend([{"role": "user", "content": text}, {"role": "user", "content": "more"}])
    fork = parent.fork("child")
    further = fork.fork("grandchild", at=1)
    parent.redact(0)
    for session in (parent, fork, further):
        assert text not in str(list(session.messages()))
    memory.compact()
    assert_gone(memory, {"text": text})


def test_a_text_that_others_still_say_stays_for_them_alone(memory: Memory) -> None:
    text = f"{words(60)} {canary('prompt')} {words(10)}"
    sessions = [memory.session(id, scope=f"acme/{id}") for id in ("a", "b")]
    for session in sessions:
        session.append({"role": "system", "content": text})
    memory.compact()
    memory.forget(Selector(scope="acme/a", whole_scope=True))
    memory.compact()
    assert list(sessions[1].messages()) == [{"role": "system", "content": text}]
    assert find(memory, {"text": text[-40:]})["text"]
    memory.forget(Selector(scope="acme/b", whole_scope=True))
    memory.compact()
    assert_gone(memory, {"text": text[-40:]})


def test_backups_are_listed_because_they_cannot_be_reached(memory: Memory, tmp_path: Path) -> None:
    planted = Planted(memory)
    target = tmp_path / "copy"
    memory.backup(target)
    selector = Selector(scope=planted.scope, whole_scope=True)
    assert memory.plan_forget(selector).backups == (str(target),)
    assert memory.forget(selector).backups == (str(target),)
    memory.compact()
    assert_gone(memory, planted.canaries)
    assert search(target, [planted.canaries["message"]])


# -- dictionaries ---------------------------------------------------------------------------------


def in_dictionaries(memory: Memory, text: str) -> bool:
    found = find(memory, {"text": text})["text"]
    return any("dictionaries" in finding.place for finding in found)


def say_everywhere(memory: Memory, scopes: list[str], text: str, sessions: int = 3) -> None:
    """A text that a trainer would love: many times in each scope, between common phrases."""
    phrases = [words(14) for _ in range(12)]
    for scope in scopes:
        for i in range(sessions):
            session = memory.session(f"s{i}", scope=scope)
            for phrase in phrases:
                session.append({"role": "user", "content": f"{phrase} {text} {phrase}"})


def test_a_text_of_four_leaf_scopes_is_in_no_dictionary_and_one_of_five_may_be(
    memory: Memory,
) -> None:
    rare, common = canary("rare"), canary("common")
    scopes = [f"acme/u{i}" for i in range(6)]
    phrases = [words(14) for _ in range(12)]
    for number, scope in enumerate(scopes):
        session = memory.session("s", scope=scope)
        for phrase in phrases:
            texts = [common] if number == 5 else [common, rare] if number < 4 else [common]
            session.append({"role": "user", "content": f"{phrase} {' '.join(texts)} {phrase}"})
    memory.compact()
    assert in_dictionaries(memory, common)
    assert not in_dictionaries(memory, rare)


def test_a_text_of_five_leaf_scopes_leaves_the_dictionary_with_the_last_of_them(
    memory: Memory,
) -> None:
    text = canary("text")
    scopes = [f"acme/u{i}" for i in range(6)]
    say_everywhere(memory, scopes, text)
    memory.compact()
    assert in_dictionaries(memory, text)
    for scope in scopes:
        memory.forget(Selector(scope=scope, containing=text))
    memory.compact()
    assert_gone(memory, {"text": text})
    assert all(len(memory.session("s0", scope=scope)) == 12 for scope in scopes)


def test_a_text_of_one_scope_leaves_the_dictionary_of_that_scope(memory: Memory) -> None:
    text = canary("text")
    say_everywhere(memory, ["solo/me"], text, sessions=12)
    memory.compact()
    assert in_dictionaries(memory, text)
    memory.forget(Selector(scope="solo/me", containing=text))
    memory.compact()
    assert_gone(memory, {"text": text})


def test_a_dictionary_goes_with_its_tenant(memory: Memory) -> None:
    text = canary("text")
    scopes = [f"acme/u{i}" for i in range(6)]
    say_everywhere(memory, scopes, text)
    memory.compact()
    memory.forget(Selector(scope="acme", reach=Reach.SUBTREE, whole_scope=True))
    memory.compact()
    assert_gone(memory, {"text": text})
    assert memory.sessions(None) == []


def test_a_copy_of_the_directory_is_searched_as_well_as_the_store_in_use(
    memory: Memory, tmp_path: Path
) -> None:
    text = canary("text")
    memory.session("s", scope=VICTIM).append({"role": "user", "content": text})
    shutil.copytree(memory.path, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    assert search(tmp_path / "copy", [text])
