"""Sessions against a dict of lists, through everything that can be done to them.

The model is too dull to be wrong: a session is a list of what was said, a state is a dict of
versions, a moment is a copy of both. The store gets small pages, few resident rows, a policy and a
seal mode, somebody else who takes its budget away, crashes, and clocks that stand still.
"""

import contextlib
import datetime
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
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
from memopt import Reach, RecordKind, Selector
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime
from memopt.base.units import KIB
from memopt.policies.catalog import POLICIES

SCOPES = ("acme/user-4", "acme/user-42", "acme", "zeta")
IDS = ("a", "b", "c", "d")
KEYS = [(scope, id) for scope in SCOPES for id in IDS]
CANARY = "kanarienvogel"
REDACTED = {"content": "[redacted]", "redacted": True}
ROLES = ("system", "user", "assistant", "tool")

numbers = st.one_of(
    st.integers(min_value=-(2**63), max_value=2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 0, 2**64 - 1, -(2**63), 1e308, 5e-324]),
)
LONG = {f"<{letter}{size}>": letter * size for letter in "xé" for size in (700, 1100, 4500)}
long_texts = st.sampled_from(sorted(LONG))
"""Stand-ins, so that a failing example can be read."""
texts = st.one_of(
    st.text(max_size=12), st.text(max_size=12), long_texts,
    st.text(max_size=3).map(lambda text: f"{text}{CANARY}{text}"),
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
messages = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content},
              st.sampled_from(ROLES), texts),
    st.dictionaries(st.text(max_size=5), values, max_size=3),
    st.builds(lambda text: {"tools": [{"description": text}], "n": 1}, long_texts),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(KEYS[:2]), st.sampled_from(KEYS[:2]), st.sampled_from(KEYS[:4]),
    st.sampled_from(KEYS),
)  # fmt: skip
"""Mostly a few sessions of one scope, so that much happens to each."""
names = st.sampled_from(["main", "plan"])


@dataclass(eq=False)
class Said:
    """One message, shared by every branch and fork that holds it."""

    value: dict[str, Any]
    lsn: int
    at: datetime.datetime
    committed_at: datetime.datetime
    actor: str | None

    def redact(self) -> None:
        role = self.value.get("role")
        self.value = ({"role": role} if role in ROLES else {}) | REDACTED
        self.actor = None


@dataclass(eq=False)
class Talk:
    """One session."""

    line: list[Said] = field(default_factory=list)
    tree: set[Said] = field(default_factory=set)
    """Everything on any of its branches."""
    states: dict[str, dict[int, Any]] = field(default_factory=dict)
    receipts: dict[str, memopt.Receipt] = field(default_factory=dict)
    head: int = 0


@dataclass(eq=False)
class Moment:
    lsn: int
    at: datetime.datetime
    talks: dict[tuple[str, str], Talk]
    lines: dict[Talk, list[Said]]
    heads: dict[Talk, int]
    states: dict[Talk, dict[str, int]]
    """The newest version of each state then."""


def real(value: Any) -> Any:
    """The value with its long texts."""
    if type(value) is str:
        return LONG.get(value, value)
    if type(value) is dict:
        return {key: real(item) for key, item in value.items()}
    return [real(item) for item in value] if type(value) is list else value


def exact(value: Any) -> str:
    """Tells 1 from 1.0 from True, 0.0 from -0.0, and one order of keys from another."""
    return repr(value)


def contains(value: Any) -> bool:
    return CANARY in repr(value)


class SessionsMachine(RuleBasedStateMachine):
    policy = "lru"
    seal = "idle"

    @initialize(
        page_target_bytes=st.sampled_from([512, 512, 2048]), batch=st.integers(1, 4),
        l1_share=st.sampled_from([0.1, 0.5, 1.0]), residents=st.sampled_from([1, 2, 100]),
        keyframe=st.sampled_from([2, 3, 16]),
    )  # fmt: skip
    def open_it(
        self, page_target_bytes: int, batch: int, l1_share: float, residents: int, keyframe: int
    ) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="memopt-machine-"))
        self.path = self.root / "0"
        self.clock = ManualClock()
        self.config = memopt.Config(
            budget_bytes="9MiB", durability="os", policy=self.policy, seal=self.seal,
            page_target_bytes=page_target_bytes, promotion_batch_pages=batch, l1_share=l1_share,
            resident_sessions_max=residents, maintenance_seconds=0, ballast_bytes=0,
            state_keyframe_versions=keyframe, text_bytes_min=256, spool_bytes=1 * KIB,
            dictionary_training_pages=40, dictionary_bytes=2 * KIB,
        )  # fmt: skip
        self.talks: dict[tuple[str, str], Talk] = {}
        self.moments: list[Moment] = []
        self.outside_bytes = 0
        self.opened = 0
        self.open()

    def open(self) -> None:
        self.memory = memopt.open(self.path, config=self.config, clock=self.clock)
        self.outside_bytes = 0
        # Connections are made when they are needed; here, before somebody takes the budget.
        home = self.memory._parts.directory.home
        with home.snapshot(), home.snapshot():
            pass

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        try:
            self.everything_is_there()
            self.memory.close()
            assert self.memory._parts.budget.owners().get("pages", 0) == 0
        finally:
            self.memory.close()
            shutil.rmtree(self.root)

    # -- how a step is taken ----------------------------------------------------------------------

    def one_of(self, found: Collection[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        return keys.filter(found.__contains__) if len(found) > 8 else st.sampled_from(sorted(found))

    def session(self, key: tuple[str, str]) -> memopt.Session:
        return self.memory.session(key[1], scope=key[0])

    def made(self, key: tuple[str, str]) -> Talk:
        return self.talks.setdefault(key, Talk())

    @contextlib.contextmanager
    def short_of_room(self) -> Iterator[None]:
        """Lets a call fail for want of room, as long as somebody did take it."""
        try:
            yield
        except memopt.BudgetError:
            assert self.outside_bytes

    @contextlib.contextmanager
    def conflict(self) -> Iterator[None]:
        allowed = (memopt.ConflictError, memopt.BudgetError)
        with pytest.raises(allowed if self.outside_bytes else memopt.ConflictError):
            yield

    def give_room(self) -> None:
        self.memory._parts.budget.release("outside", self.outside_bytes)
        self.outside_bytes = 0

    def settle(self, key: tuple[str, str], *, moved: bool) -> None:
        """The session equals its model, and its head moved if and only if its line did."""
        talk = self.talks[key]
        head = self.session(key).head
        assert (head != talk.head) == moved
        talk.head = head
        assert len(self.session(key)) == len(talk.line)

    def said(
        self, talk: Talk, receipt: memopt.Receipt, bodies: list[Any],
        at: datetime.datetime | None, actor: str | None,
    ) -> None:  # fmt: skip
        now = to_datetime(self.clock.now_us())
        assert receipt.seq == len(talk.line) + len(bodies) - 1
        for index, body in enumerate(bodies):
            lsn = receipt.lsn - len(bodies) + 1 + index
            talk.line.append(Said(body, lsn, at or now, now, actor))
        talk.tree.update(talk.line)

    # -- writing ----------------------------------------------------------------------------------

    @rule(
        key=keys, body=messages, actor=st.sampled_from([None, None, "ann"]),
        late=st.sampled_from([None, None, 5]),
    )  # fmt: skip
    def append(self, key: Any, body: Any, actor: str | None, late: int | None) -> None:
        body = real(body)
        at = None if late is None else to_datetime(self.clock.now_us() - late * 1_000_000)
        with self.short_of_room():
            receipt = self.session(key).append(body, actor=actor, at=at)
            self.said(self.made(key), receipt, [body], at, actor)
            self.settle(key, moved=True)
            assert receipt.head == self.talks[key].head

    @rule(key=keys, bodies=st.lists(messages, min_size=1, max_size=12), stale=st.booleans())
    def extend(self, key: Any, bodies: list[Any], stale: bool) -> None:
        talk, bodies = self.talks.get(key), real(bodies)
        head = (talk.head if talk else 0) + stale
        with self.short_of_room():
            if stale:
                with self.conflict():
                    self.session(key).extend(bodies, if_head=head)
                return
            receipt = self.session(key).extend(bodies, if_head=head)
            self.said(self.made(key), receipt, bodies, None, None)
            self.settle(key, moved=True)

    @rule(key=keys, name=st.sampled_from(["k1", "k2"]), bodies=st.lists(messages, min_size=1,
          max_size=2), with_head=st.booleans())  # fmt: skip
    def extend_once(self, key: Any, name: str, bodies: list[Any], with_head: bool) -> None:
        talk, bodies = self.talks.get(key), real(bodies)
        if_head = 1 if with_head and talk and name in talk.receipts else None
        with self.short_of_room():
            receipt = self.session(key).extend(bodies, key=name, if_head=if_head)
            talk = self.made(key)
            if name in talk.receipts:
                assert receipt == talk.receipts[name]
                self.settle(key, moved=False)
            else:
                talk.receipts[name] = receipt
                self.said(talk, receipt, bodies, None, None)
                self.settle(key, moved=True)

    @rule(key=keys, pieces=st.lists(texts, max_size=4), commit=st.booleans())
    def stream(self, key: Any, pieces: list[str], commit: bool) -> None:
        pieces = real(pieces)
        with self.short_of_room(), self.session(key).writer({"role": "assistant"}) as writer:
            for piece in pieces:
                writer.write(piece)
            if commit:
                receipt = writer.commit()
                body = {"role": "assistant", "content": "".join(pieces)}
                self.said(self.made(key), receipt, [body], None, None)
                self.settle(key, moved=True)

    @rule(key=keys, body=st.sampled_from([{"a": (1,)}, {"a": float("nan")}, {"a": {1: 2}}, []]))
    def what_is_not_json_is_refused(self, key: Any, body: Any) -> None:
        with pytest.raises(memopt.UsageError):
            self.session(key).append(body)

    # -- branches ---------------------------------------------------------------------------------

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), stale=st.booleans())
    def truncate(self, data: st.DataObject, stale: bool) -> None:
        key = data.draw(self.one_of(self.talks))
        talk = self.talks[key]
        at = data.draw(st.integers(0, len(talk.line)))
        with self.short_of_room():
            if stale:
                with self.conflict():
                    self.session(key).truncate(at, if_head=talk.head + 1)
                return
            receipt = self.session(key).truncate(at, if_head=talk.head)
            moved = at != len(talk.line)
            talk.line = talk.line[:at]
            self.settle(key, moved=moved)
            assert (receipt.seq, receipt.head) == (at - 1, talk.head)

    @precondition(lambda self: self.talks)
    @rule(data=st.data())
    def pop(self, data: st.DataObject) -> None:
        key = data.draw(self.one_of(self.talks))
        talk = self.talks[key]
        if not talk.line:
            with pytest.raises(memopt.NotFoundError):
                self.session(key).pop()
            return
        with self.short_of_room():
            assert exact(self.session(key).pop()) == exact(talk.line[-1].value)
            talk.line = talk.line[:-1]
            self.settle(key, moved=True)

    @precondition(lambda self: any(talk.line for talk in self.talks.values()))
    @rule(data=st.data())
    def redact(self, data: st.DataObject) -> None:
        full = sorted(key for key, talk in self.talks.items() if talk.line)
        key = data.draw(self.one_of(full))
        talk = self.talks[key]
        seq = data.draw(st.integers(0, len(talk.line) - 1))
        with self.short_of_room():
            self.session(key).redact(seq)
            talk.line[seq].redact()
            self.settle(key, moved=False)

    @precondition(lambda self: self.talks)
    @rule(data=st.data(), id=st.sampled_from(IDS), whole=st.booleans())
    def fork(self, data: st.DataObject, id: str, whole: bool) -> None:
        key = data.draw(self.one_of(self.talks))
        talk = self.talks[key]
        at = None if whole else data.draw(st.integers(0, len(talk.line)))
        new = (key[0], id)
        with self.short_of_room():
            if new in self.talks:
                with self.conflict():
                    self.session(key).fork(id, at=at)
                return
            self.session(key).fork(id, at=at)
            line = talk.line[:at]
            self.talks[new] = Talk(line, set(line))
            self.settle(new, moved=True)
            self.settle(key, moved=False)

    @precondition(lambda self: self.talks)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key = data.draw(self.one_of(self.talks))
        with self.short_of_room():
            self.session(key).delete()
            del self.talks[key]
            assert self.session(key).head == 0
            assert not len(self.session(key))

    @rule(key=keys)
    def what_is_not_there_is_not_found(self, key: Any) -> None:
        if key not in self.talks:
            self.give_room()
            session = self.session(key)
            for verb in (session.delete, session.pop, lambda: session.truncate(0)):
                with pytest.raises(memopt.NotFoundError):
                    verb()
            assert list(session.messages()) == []
            assert session.load_state() is None

    # -- states -----------------------------------------------------------------------------------

    @rule(key=keys, name=names, value=values, guard=st.sampled_from([None, "right", "stale"]))
    def save_state(self, key: Any, name: str, value: Any, guard: str | None) -> None:
        talk, value = self.talks.get(key), real(value)
        versions = talk.states.get(name, {}) if talk else {}
        latest = max(versions, default=0)
        with self.short_of_room():
            if guard == "stale":
                with self.conflict():
                    self.session(key).save_state(value, name=name, if_version=latest + 1)
                return
            if_version = latest if guard else None
            saved = self.session(key).save_state(value, name=name, if_version=if_version)
            assert saved.version == latest + 1
            made = key not in self.talks
            self.made(key).states.setdefault(name, {})[saved.version] = value
            self.settle(key, moved=made)

    # -- time -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 400, 1000]))
    def time_passes_and_maintenance_runs(self, seconds: float) -> None:
        self.clock.advance(seconds)
        with self.short_of_room():
            self.memory._parts.maintenance.once()

    @rule()
    def remember_the_moment(self) -> None:
        self.moments.append(
            Moment(
                self.memory.lsn, to_datetime(self.clock.now_us()), dict(self.talks),
                {talk: list(talk.line) for talk in self.talks.values()},
                {talk: talk.head for talk in self.talks.values()},
                {
                    talk: {name: max(v) for name, v in talk.states.items() if v}
                    for talk in self.talks.values()
                },
            )
        )  # fmt: skip
        self.clock.advance(1)

    @precondition(lambda self: self.moments)
    @rule(
        data=st.data(), scope=st.sampled_from(SCOPES), reach=st.sampled_from(["exact", "subtree"])
    )
    def restore(self, data: st.DataObject, scope: str, reach: str) -> None:
        moment = data.draw(st.sampled_from(self.moments))
        self.give_room()
        self.memory.restore(scope, moment.lsn, reach=reach)
        for key, talk in self.talks.items():
            if key[0] != scope and not (reach == "subtree" and key[0].startswith(f"{scope}/")):
                continue
            line = moment.lines.get(talk, [])
            moved = talk.head != moment.heads.get(talk, 0) and bool(line or talk.line)
            talk.line = list(line)
            for name, version in moment.states.get(talk, {}).items():
                versions = talk.states[name]
                if version in versions and max(versions) != version:
                    versions[max(versions) + 1] = versions[version]
            self.settle(key, moved=moved)

    # -- forgetting and upkeep --------------------------------------------------------------------

    @rule(scope=st.sampled_from(SCOPES))
    def forget_what_contains_a_string(self, scope: str) -> None:
        self.give_room()
        plan = self.memory.plan_forget(Selector(scope=scope, containing=CANARY))
        receipt = self.memory.forget(plan)
        entries = states = 0
        for key, talk in self.talks.items():
            if key[0] != scope:
                continue
            for said in talk.tree:
                if contains(said.value):
                    said.redact()
                    entries += 1
            for versions in talk.states.values():
                last = max((v for v, value in versions.items() if contains(value)), default=0)
                states += sum(1 for value in versions.values() if contains(value))
                for version in [version for version in versions if version <= last]:
                    del versions[version]
            self.settle(key, moved=False)
        assert receipt.states == states
        assert bool(receipt.entries) == bool(entries)

    @rule()
    def compact(self) -> None:
        self.give_room()
        self.memory.compact()

    @rule(left_bytes=st.sampled_from([0, 64 * KIB, 400 * KIB, 1024 * KIB]))
    def somebody_takes_the_budget(self, left_bytes: int) -> None:
        budget = self.memory._parts.budget
        wanted = budget.free_bytes() - left_bytes
        if wanted > 0:
            budget.reserve("outside", wanted)
            self.outside_bytes += wanted

    @rule()
    def the_budget_is_given_back(self) -> None:
        self.give_room()

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        self.opened += 1
        if crash:
            # What a SIGKILL leaves: the files as they are between two commits.
            copy = self.root / str(self.opened)
            shutil.copytree(self.path, copy, ignore=shutil.ignore_patterns("owner.sock"))
            self.memory.close()
            shutil.rmtree(self.path)
            self.path = copy
        else:
            self.memory.close()
        self.open()
        self.everything_is_there()

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_budget_and_the_pager_add_up(self) -> None:
        if hasattr(self, "memory"):
            self.memory._parts.budget.check()
            self.memory._parts.pager.check()

    @rule(data=st.data(), key=keys)
    def some_messages_are_read(self, data: st.DataObject, key: Any) -> None:
        line = self.talks[key].line if key in self.talks else []
        start = data.draw(st.integers(0, len(line) + 1))
        stop = data.draw(st.one_of(st.none(), st.integers(0, len(line) + 1)))
        with self.short_of_room():
            found = list(self.session(key).messages(start, stop))
            assert exact(found) == exact([said.value for said in line[start:stop]])

    @rule()
    def everything_is_there(self) -> None:
        self.give_room()
        for key in KEYS:
            self.session_is_right(key)
        self.listing_is_right()
        for moment in self.moments[-3:]:
            self.moment_is_right(moment)
        self.journal_is_right()
        report = self.memory.check()
        assert report.clean, report
        assert report.sessions == len(self.talks)

    def session_is_right(self, key: tuple[str, str]) -> None:
        session, talk = self.session(key), self.talks.get(key, Talk())
        entries = list(session.entries())
        assert exact([entry.message for entry in entries]) == exact([s.value for s in talk.line])
        for seq, (entry, said) in enumerate(zip(entries, talk.line, strict=True)):
            got = (entry.seq, entry.lsn, entry.at, entry.committed_at, entry.actor)
            assert got == (seq, said.lsn, said.at, said.committed_at, said.actor)
        assert session.head == talk.head
        for name, versions in talk.states.items():
            assert [v.version for v in session.states(name)] == sorted(versions)
            for version, value in versions.items():
                state = session.load_state(name=name, version=version)
                assert state is not None
                assert exact(state.value) == exact(value)
            latest = session.load_state(name=name)
            assert (latest.version if latest else 0) == max(versions, default=0)

    def listing_is_right(self) -> None:
        for scope in (None, *SCOPES):
            for reach in Reach:
                expected = {
                    key for key in self.talks
                    if scope is None or key[0] == scope
                    or (reach is Reach.SUBTREE and key[0].startswith(f"{scope}/"))
                    or (reach is Reach.ANCESTORS and scope.startswith(f"{key[0]}/"))
                }  # fmt: skip
                found: list[memopt.SessionInfo] = []
                after = None
                while rows := self.memory.sessions(scope, reach=reach, after=after, limit=2):
                    found += rows
                    after = (rows[-1].scope, rows[-1].id)
                assert sorted((row.scope, row.id) for row in found) == sorted(expected)
        for row in found:
            talk = self.talks[row.scope, row.id]
            assert (row.message_count, row.head) == (len(talk.line), talk.head)

    def moment_is_right(self, moment: Moment) -> None:
        for view in (self.memory.at(moment.lsn), self.memory.at(moment.at)):
            alive = set()
            for key, talk in moment.talks.items():
                if self.talks.get(key) is not talk:
                    continue
                alive.add(key)
                session = view.session(key[1], scope=key[0])
                line = moment.lines[talk]
                assert exact(list(session.messages())) == exact([said.value for said in line])
                assert len(session) == len(line)
                for name, version in moment.states[talk].items():
                    if version in talk.states[name]:
                        state = session.load_state(name=name)
                        assert state is not None
                        assert exact(state.value) == exact(talk.states[name][version])
            for key in self.talks.keys() - alive:
                with pytest.raises(memopt.NotFoundError):
                    list(view.session(key[1], scope=key[0]).messages())
            assert {(row.scope, row.id) for row in view.sessions(limit=100)} == alive

    def journal_is_right(self) -> None:
        records = list(self.memory.journal())
        lsns = [record.lsn for record in records]
        assert lsns == sorted(set(lsns))
        found = {r.lsn: r.message for r in records if r.kind is RecordKind.MESSAGE}
        expected = {said.lsn: said.value for talk in self.talks.values() for said in talk.tree}
        assert found.keys() == expected.keys()
        assert all(exact(found[lsn]) == exact(value) for lsn, value in expected.items())


@pytest.mark.parametrize("seal", ["full", "idle", "always"])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_sessions_equal_a_dict_of_lists(policy: str, seal: str) -> None:
    # The name seeds the examples: each combination gets its own.
    name = f"Sessions_{policy}_{seal}"
    machine = type(name, (SessionsMachine,), {"policy": policy, "seal": seal})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, settings.default.max_examples // 6),
            stateful_step_count=40,
            report_multiple_bugs=False,
        ),
    )
