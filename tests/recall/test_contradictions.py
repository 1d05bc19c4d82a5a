"""What contradicts: proposed and named, never carried out by itself."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import memopt
from memopt import Decision, Kind, NotFoundError, Reason, RecordKind, Selector
from memopt.base.clock import ManualClock
from memopt.base.records import to_datetime
from memopt.recall.contradicting import COMPARED_MAX, contradiction, wording
from memopt.text.analysis import Analyser

SCOPE = "acme/ann"
AT_US = 1_936_000_000_000_000
ANALYSER = Analyser()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(tmp_path: Path, clock: ManualClock) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0, clock=clock
    ) as memory:
        yield memory
        memory._parts.budget.check()


def between(old: str, new: str) -> Reason | None:
    return contradiction(wording(new, AT_US, ANALYSER), wording(old, AT_US, ANALYSER))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Ann has two dogs", "Ann has 3 dogs", Reason.NUMBER),
        ("The rent is 1,200 euros a month", "The rent is 1,350 euros a month", Reason.NUMBER),
        ("Ann likes fish", "Ann does not like fish", Reason.NEGATION),
        ("Ann never drinks coffee", "Ann drinks coffee", Reason.NEGATION),
        ("Ann isn't married", "Ann is married", Reason.NEGATION),
        (
            "The product launch is on 3 May 2031",
            "The product launch is on 10 May 2031",
            Reason.DATE,
        ),
        ("The maths exam is in June 2031", "The maths exam is in July 2031", Reason.DATE),
    ],
)
def test_the_same_words_and_another_number_date_or_denial(
    old: str, new: str, reason: Reason
) -> None:
    assert between(old, new) is reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ann adopted a dog", "Ann adopted a second dog"),
        ("Ann adopted a dog", "Ann also adopted a dog"),
        ("Ann adopted a dog", "Ann adopted another dog"),
        ("Ann has 2 dogs", "Ann has 2 more dogs"),
        ("Ann has dogs", "Ann has 2 dogs"),
        ("Ann lives in Paris", "Ann lives in Lyon"),
        ("Ann likes fish", "Ann likes fish"),
        ("Ann likes fish", "Bob does not like meat"),
        ("Ann ran 5 km on 3 May 2031", "Ann ran 10 km on 4 May 2031"),
        ("Ann won the 1st prize", "Ann won the 2nd prize"),
        ("5", "6"),
        ("no", "yes"),
    ],
)
def test_what_is_one_more_or_something_else_contradicts_nothing(old: str, new: str) -> None:
    assert between(old, new) is None


def test_a_proposal_is_noted_and_ends_nothing(memory: memopt.Memory) -> None:
    old = memory.remember("Ann has two dogs", scope=SCOPE)
    new = memory.remember("Ann has three dogs", scope=SCOPE)
    (found,) = new.contradictions
    assert (found.item_id, found.other_id) == (new.item_id, old.item_id)
    assert (found.reason, found.proposal, found.scope) == (Reason.NUMBER, Decision.END, SCOPE)
    assert memory.contradictions(SCOPE) == [found]
    assert memory.item(old.item_id).contradictions == (found,)
    assert memory.item(old.item_id).valid == old.valid
    assert memory.contradictions("acme/bob") == []


def test_a_second_dog_does_not_end_the_first(memory: memopt.Memory) -> None:
    first = memory.remember("Ann adopted a dog", scope=SCOPE)
    second = memory.remember("Ann adopted a second dog", scope=SCOPE)
    assert second.contradictions == ()
    assert memory.item(first.item_id) == first


def test_a_proposal_is_carried_out_when_somebody_says_so(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    old = memory.remember("Ann has two dogs", scope=SCOPE)
    clock.advance(60)
    new = memory.remember("Ann has three dogs", scope=SCOPE)
    ended = memory.decide(new.item_id, old.item_id, Decision.END)
    assert ended.valid == memopt.Interval(start=old.stated_at, stop=new.stated_at)
    assert memory.contradictions(SCOPE) == []
    assert memory.item(new.item_id).contradictions == ()
    kinds = [record.kind for record in memory.journal()]
    assert kinds[-2:] == [RecordKind.ITEM_DECIDED, RecordKind.ITEM_ENDED]
    # What we knew before it was decided is still what we knew.
    assert memory.at(new.lsn).item(old.item_id).contradictions != ()


def test_both_are_kept_when_somebody_says_so(memory: memopt.Memory) -> None:
    old = memory.remember("Ann likes fish", scope=SCOPE)
    new = memory.remember("Ann does not like fish", scope=SCOPE)
    kept = memory.decide(new.item_id, old.item_id, "keep")
    assert kept.valid == old.valid
    assert kept.contradictions == ()
    assert memory.contradictions(SCOPE) == []
    with pytest.raises(NotFoundError):
        memory.decide(old.item_id, new.item_id, "keep")
    with pytest.raises(NotFoundError):
        memory.decide(new.item_id, old.item_id, "keep", scope="acme/bob")


def test_what_is_pinned_about_the_same_is_named(memory: memopt.Memory) -> None:
    about: dict[str, Any] = {"scope": SCOPE, "subject": "Ann", "attribute": "city"}
    paris = memory.remember("Paris", pin=True, **about)
    lyon = memory.remember("Lyon", **about)
    (found,) = lyon.contradictions
    assert (found.other_id, found.reason, found.proposal) == (paris.item_id, Reason.PINNED, None)
    assert memory.item(paris.item_id).valid == paris.valid
    assert memory.remember("Paris", **about).contradictions == ()
    memory.decide(lyon.item_id, paris.item_id, Decision.END)
    assert memory.contradictions(SCOPE) == []


def test_it_is_settled_by_itself_when_one_of_them_goes(
    memory: memopt.Memory, clock: ManualClock
) -> None:
    for settle in (
        lambda old, new: memory.end(old.item_id),
        lambda old, new: memory.revise(old.item_id, "Ann had two dogs long ago, and a bird"),
        lambda old, new: memory.revise(new.item_id, "Ann keeps three hens and a cock"),
        lambda old, new: memory.forget(Selector(scope=SCOPE, items=(old.item_id,))),
        lambda old, new: memory.forget(Selector(scope=SCOPE, items=(new.item_id,))),
    ):
        old = memory.remember("Ann has two dogs", scope=SCOPE)
        clock.advance(60)
        new = memory.remember("Ann has three dogs", scope=SCOPE)
        assert len(memory.contradictions(SCOPE)) == 1
        settle(old, new)
        assert memory.contradictions(SCOPE) == []
        memory.forget(Selector(scope=SCOPE, whole_scope=True))


def test_a_revision_contradicts_too(memory: memopt.Memory) -> None:
    memory.remember("Ann has two dogs", scope=SCOPE)
    other = memory.remember("Ann keeps hens", scope=SCOPE)
    assert other.contradictions == ()
    revised = memory.revise(other.item_id, "Ann has four dogs")
    assert [one.reason for one in revised.contradictions] == [Reason.NUMBER]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"scope": "acme/bob"}, {}),
        ({"subject": "Ann"}, {"subject": "Bob"}),
        ({"kind": Kind.EVENT}, {"kind": Kind.EVENT}),
        ({"kind": Kind.EVENT}, {}),
        ({"subject": "Ann", "attribute": "a"}, {"subject": "Ann", "attribute": "b"}),
    ],
)
def test_what_cannot_be_compared_is_not(
    memory: memopt.Memory, old: dict[str, Any], new: dict[str, Any]
) -> None:
    memory.remember("Ann has two dogs", **({"scope": SCOPE} | old))
    item = memory.remember("Ann has three dogs", **({"scope": SCOPE} | new))
    assert item.contradictions == ()


def test_what_is_over_contradicts_nothing(memory: memopt.Memory, clock: ManualClock) -> None:
    now = to_datetime(clock.now_us())
    memory.remember("Ann has two dogs", scope=SCOPE, valid_to=now - timedelta(days=1))
    assert memory.remember("Ann has three dogs", scope=SCOPE).contradictions == ()


def test_lists_come_a_page_at_a_time(memory: memopt.Memory) -> None:
    for n in range(6):
        memory.remember(f"Ann's {'abcdef'[n]}{'xyz'[n % 3]}thing costs 5 euros", scope=SCOPE)
        memory.remember(f"Ann's {'abcdef'[n]}{'xyz'[n % 3]}thing costs 6 euros", scope=SCOPE)
    whole = memory.contradictions(SCOPE)
    assert len(whole) == 6
    paged, after = [], None
    while page := memory.contradictions(SCOPE, after=after, limit=2):
        paged += page
        after = (page[-1].scope, page[-1].item_id)
    assert paged == whole
    assert memory.contradictions("acme", reach="subtree") == whole


def test_words_are_kept_in_ram_and_given_up(memory: memopt.Memory) -> None:
    for n in range(COMPARED_MAX + 20):
        memory.remember(f"thing number {'x' * (n % 7)} is called word{n}", scope=SCOPE)
    held = memory._parts.budget.held_bytes("wordings")
    assert held > 0
    memory._parts.recall.contradicting.shrink()
    assert memory._parts.budget.held_bytes("wordings") == 0
    memory.remember("Ann has two dogs", scope=SCOPE)
    assert memory.remember("Ann has three dogs", scope=SCOPE).contradictions != ()


def test_a_damaged_memory_keeps_nobody_from_those_it_contradicts(memory: memopt.Memory) -> None:
    damaged = memory.remember("Ann has two dogs", scope=SCOPE)
    whole = memory.remember("Ann has three dogs", scope=SCOPE)

    def member(transaction: Any) -> None:
        transaction.tables.items._execute(
            "UPDATE item_texts SET record = zeroblob(40) WHERE text >> 20 = 1"
        )

    memory._parts.committer.commit(member)
    assert memory.item(whole.item_id).contradictions == ()
    assert memory.contradictions(SCOPE) == []
    with pytest.raises(memopt.CorruptionError):
        memory.item(damaged.item_id)
    memory.forget(Selector(scope=SCOPE, items=(damaged.item_id,)))
    assert [item.text for item in memory.items(SCOPE)] == [whole.text]
