"""Worked pairs: which newer memory seems to contradict which older one, and why."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import memopt
from memopt import Reason
from memopt.base.clock import ManualClock

SCOPE = "acme/ann"
NUMBER, DATE, NEGATION = Reason.NUMBER, Reason.DATE, Reason.NEGATION

PAIRS: list[tuple[str, str, Reason]] = [
    ("Ann has two dogs", "Ann has three dogs", NUMBER),
    ("Ann has 2 dogs", "Ann has four dogs", NUMBER),
    ("The rent is 1,200 euros a month", "The rent is 1,350 euros a month", NUMBER),
    ("Her phone number is 555-0101", "Her phone number is 555-0199", NUMBER),
    ("The weekly meeting takes 30 minutes", "The weekly meeting takes 45 minutes", NUMBER),
    ("Ben is 34 years old", "Ben is 35 years old", NUMBER),
    ("Ann's shoe size is 38", "Ann's shoe size is 39", NUMBER),
    ("The discount for members is 10%", "The discount for members is 15%", NUMBER),
    ("The travel budget is $5 million", "The travel budget is $7 million", NUMBER),
    ("Ann earns 50k a year", "Ann earns 60k a year", NUMBER),
    ("She weighs 61.5 kg now", "She weighs 63 kg now", NUMBER),
    ("The morning train leaves at 9:15", "The morning train leaves at 10:40", NUMBER),
    ("Boarding is at gate B12", "Boarding is at gate C4", NUMBER),
    ("The wifi password is tulip42", "The wifi password is tulip77", NUMBER),
    ("Ann lives at 12 Main Street", "Ann lives at 14 Main Street", NUMBER),
    ("Server 3 has 16 GB of memory", "Server 3 has 32 GB of memory", NUMBER),
    ("Ann hat zwei Hunde", "Ann hat drei Hunde", NUMBER),
    ("Ana tiene dos perros", "Ana tiene tres perros", NUMBER),
    ("Ann likes fish", "Ann does not like fish", NEGATION),
    ("Ann never drinks coffee", "Ann drinks coffee", NEGATION),
    ("Ann isn't married", "Ann is married", NEGATION),
    ("Ben can swim well", "Ben can't swim well", NEGATION),
    ("Ann eats meat", "Ann doesn't eat meat anymore", NEGATION),
    ("Ann eats meat", "Ann does not eat meat any more", NEGATION),
    ("Ann works at Acme", "Ann no longer works at Acme", NEGATION),
    ("Ann has a driving licence", "Ann has no driving licence", NEGATION),
    ("Ann visited Rome", "Ann never visited Rome", NEGATION),
    ("Ann is vegetarian", "Ann is not a vegetarian", NEGATION),
    ("The shop is open on Sundays", "The shop is not open on Sundays", NEGATION),
    ("Ann mag Fisch", "Ann mag keinen Fisch", NEGATION),
    ("The product launch is on 3 May 2031", "The product launch is on 10 May 2031", DATE),
    ("The maths exam is in June 2031", "The maths exam is in July 2031", DATE),
    ("Ann's birthday is on 5 March", "Ann's birthday is on 6 March", DATE),
    ("Ann was born in 1990", "Ann was born in 1991", DATE),
    ("Her flight to Lima is on 2031-03-05", "Her flight to Lima is on 2031-03-07", DATE),
    ("The contract ends in 2030", "The contract ends in 2031", DATE),
    ("The dentist expects her on Friday", "The dentist expects her on Monday", DATE),
]

NO_PAIRS: list[tuple[str, str]] = [
    # One more.
    ("Ann adopted a dog", "Ann adopted a second dog"),
    ("Ann adopted a dog", "Ann also adopted a dog"),
    ("Ann adopted a dog", "Ann adopted another dog"),
    ("Ann has 2 dogs", "Ann has 2 more dogs"),
    ("Ann hat einen Hund", "Ann hat noch einen Hund"),
    ("The first meeting is on 3 May 2031", "The second meeting is on 10 May 2031"),
    # Something that happened again.
    ("Ann visited Rome in 2019", "Ann visited Rome in 2021"),
    ("Ann ran 5 km", "Ann ran 10 km"),
    ("Ann paid 20 euros for lunch", "Ann paid 25 euros for lunch"),
    ("Ann adopted two dogs", "Ann adopted three dogs"),
    ("Ann ran 5 km on 3 May 2031", "Ann ran 10 km on 4 May 2031"),
    ("We finally bought 3 chairs", "We finally bought 4 chairs"),
    # Of somebody or something else.
    ("Ann has two dogs", "Ann has three cats"),
    ("Ann has two dogs", "Bob has three dogs"),
    ("Ann takes 20 mg of the blue tablets daily", "Bob takes 40 mg of the blue tablets daily"),
    (
        "The monthly rent of the flat in Paris is 1,200",
        "The monthly rent of the flat in Lyon is 900",
    ),
    ("Ann does not like fish", "Bob likes fish"),
    ("Room 12 is booked today", "Room 14 is booked today"),
    ("Server 3 has much memory", "Server 4 has much memory"),
    ("Version 1.2 fixes the parser bug", "Version 1.3 fixes the parser bug"),
    ("The bus 7 goes downtown", "The bus 9 goes downtown"),
    # Nothing differs, or too much.
    ("Ann likes fish", "Ann likes fish"),
    ("Ann has two dogs", "Ann has 2 dogs"),
    ("Ann has dogs", "Ann has 2 dogs"),
    ("Ann lives in Paris", "Ann lives in Lyon"),
    ("Ann likes tea", "Don't forget that Ann likes tea"),
    ("Ann drinks 2 coffees in May 2031", "Ann drinks 3 coffees in June 2031"),
    ("The house has a red door", "The house has a red roof"),
    ("no", "yes"),
    ("5", "6"),
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memopt.Memory]:
    with memopt.open(
        tmp_path / "store", budget="16MiB", durability="os", maintenance_seconds=0,
        clock=ManualClock(),
    ) as memory:  # fmt: skip
        yield memory


@pytest.mark.parametrize(("old", "new", "reason"), PAIRS, ids=[new for _, new, _ in PAIRS])
def test_a_pair_that_cannot_both_be_so(
    memory: memopt.Memory, old: str, new: str, reason: Reason
) -> None:
    first = memory.remember(old, scope=SCOPE)
    (found,) = memory.remember(new, scope=SCOPE).contradictions
    assert (found.other_id, found.reason) == (first.item_id, reason)
    # It is named, and nothing was ended.
    assert memory.item(first.item_id).valid == first.valid


@pytest.mark.parametrize(("old", "new"), NO_PAIRS, ids=[new for _, new in NO_PAIRS])
def test_a_pair_that_may_both_be_so(memory: memopt.Memory, old: str, new: str) -> None:
    memory.remember(old, scope=SCOPE)
    assert memory.remember(new, scope=SCOPE).contradictions == ()
