"""The answer cache against a dict that is too dull to be wrong: equal requests, time, quotas,
scopes, what is taken away, and stores that are closed and opened."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import memopt
from memopt.base.answer_records import Answer, Match, MissReason
from memopt.base.clock import ManualClock
from memopt.base.records import Selector

SCOPES = ["a", "a/b", "c"]
KINDS = ["general", "few"]
FEW = 3
TTL = 100
requests = st.sampled_from(
    [{"model": model, "messages": [{"role": "user", "content": f"question about {what}"}]}
     for model in ("m", "n") for what in ("pages", "frames", "walls")]
)  # fmt: skip
scopes = st.sampled_from(SCOPES)


class _Model:
    """What was stored, by scope and request."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], dict[str, Any]] = {}
        self.serial = 0

    def store(
        self, scope: str, request: Any, kind: str, tag: str, use: str | None, now: int
    ) -> int:
        self.serial += 1
        self.held.pop((scope, str(request)), None)
        mine = [key for key, one in self.held.items() if key[0] == scope and one["kind"] == kind]
        if kind == "few" and len(mine) >= FEW:
            # Oldest first, but for those that were served since somebody looked for room.
            fresh = [key for key in mine if not self.held[key]["served"]]
            for key in mine:
                self.held[key]["served"] = False
            del self.held[(fresh or mine)[0]]
        expires = now + TTL * 1_000_000 if kind == "few" else None
        self.held[scope, str(request)] = {
            "value": self.serial, "kind": kind, "tag": tag, "use": use, "expires": expires,
            "model": request["model"], "at": now, "served": False,
        }  # fmt: skip
        return self.serial

    def find(self, scope: str, request: Any, now: int) -> Any:
        one = self.held.get((scope, str(request)))
        if one is None or (one["expires"] is not None and one["expires"] <= now):
            return None
        one["served"] = True
        return one["value"]

    def drop(self, chosen: Any) -> int:
        gone = [key for key, one in self.held.items() if chosen(key[0], one)]
        for key in gone:
            del self.held[key]
        return len(gone)


class AnswerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.model = _Model()
        self.items: list[tuple[str, str]] = []
        self.revised = 0

    @initialize()
    def begin(self) -> None:
        self.open()
        for scope in SCOPES:
            self.memory.answers.set_category("few", scope=scope, answers_max=FEW, ttl_seconds=TTL)

    def open(self) -> None:
        self.memory = memopt.open(
            self.path, budget="64MiB", durability="os", maintenance_seconds=0, probe_seconds=0,
            ballast_bytes=0, clock=self.clock,
        )  # fmt: skip
        # What was served is known in RAM alone.
        for one in self.model.held.values():
            one["served"] = False

    @rule(
        scope=scopes, request=requests, kind=st.sampled_from(KINDS),
        tag=st.sampled_from(["t", "u"]), use=st.integers(0, 3),
    )  # fmt: skip
    def store(self, scope: str, request: Any, kind: str, tag: str, use: int) -> None:
        item = self.items[use % len(self.items)][1] if self.items and use else None
        value = self.model.store(scope, request, kind, tag, item, self.clock.now_us())
        self.memory.answers.store(
            request, value, scope=scope, category=kind, tags=[tag], uses=[item] if item else []
        )

    @rule(scope=scopes, request=requests, match=st.sampled_from([Match.EXACT, Match.WORDS]))
    def look(self, scope: str, request: Any, match: Match) -> None:
        expected = self.model.find(scope, request, self.clock.now_us())
        question = request["messages"][0]["content"]
        if match is Match.WORDS:
            question = f"  {question.upper()}!"
        asked = request | {"messages": [{"role": "user", "content": question}], "stream": False}
        found = self.memory.answers.lookup(asked, scope=scope)
        if expected is None:
            assert not found
        else:
            assert isinstance(found, Answer)
            assert (found.response, found.match) == (expected, match)

    @rule(seconds=st.sampled_from([1, 60, 101]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        now = self.clock.now_us()
        gone = self.model.drop(lambda _, one: one["expires"] is not None and one["expires"] < now)
        assert self.memory._parts.answers.expire() == gone

    @rule(scope=scopes)
    def remember(self, scope: str) -> None:
        if len(self.items) < 6:
            item = self.memory.remember(f"fact {len(self.items)}", scope=scope)
            self.items.append((scope, item.item_id))

    @rule(which=st.integers(0, 5), how=st.sampled_from(["revise", "forget", "end", "rate"]))
    def change_item(self, which: int, how: str) -> None:
        if not self.items:
            return
        scope, item = self.items[which % len(self.items)]
        if how == "revise":
            self.revised += 1
            self.memory.revise(item, f"in other words {self.revised}")
        elif how == "end":
            self.memory.end(item)
        elif how == "rate":
            self.memory.feedback([item], 1)
            return
        else:
            self.memory.forget(Selector(scope=scope, items=(item,)))
            self.items.remove((scope, item))
        self.model.drop(lambda _, one: one["use"] == item)

    @rule(scope=scopes, tag=st.sampled_from(["t", "u"]), by_model=st.booleans())
    def invalidate(self, scope: str, tag: str, by_model: bool) -> None:
        gone = self.model.drop(
            lambda where, one: where == scope
            and (one["model"] == "m" if by_model else one["tag"] == tag)
        )
        how: Any = {"model": "m"} if by_model else {"tags": [tag]}
        assert self.memory.answers.invalidate(scope=scope, **how) == gone

    @rule(scope=scopes)
    def forget_a_text(self, scope: str) -> None:
        gone = self.model.drop(lambda where, one: where == scope and one["model"] == "n")
        receipt = self.memory.forget(Selector(scope=scope, containing="n\x00never"))
        assert receipt.answers == 0
        assert self.memory.answers.invalidate(scope=scope, model="n") == gone

    @rule()
    def open_again(self) -> None:
        self.memory.close()
        self.open()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "memory"):
            return
        for scope in SCOPES:
            held = [one for key, one in self.model.held.items() if key[0] == scope]
            kinds = {one.name: one.answers for one in self.memory.answers.categories(scope=scope)}
            for kind in KINDS:
                assert kinds.get(kind, 0) == sum(one["kind"] == kind for one in held)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            report = self.memory.check()
            assert report.clean, report.damages
            assert report.answers == len(self.model.held)
            nowhere = self.memory.answers.lookup("q", scope="nowhere")
            assert not nowhere
            assert nowhere.reason is MissReason.EMPTY  # type: ignore[union-attr]
            self.memory.close()
        shutil.rmtree(self.path)


def test_the_cache_agrees_with_a_dict() -> None:
    run_state_machine_as_test(
        AnswerMachine, settings=settings(max_examples=25, stateful_step_count=30)
    )
