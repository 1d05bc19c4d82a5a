"""What two questions must agree in."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.answers.verification import CHECKS, agree, compared, same_words, traits_of

NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)


def failed(one: str, other: str, later: timedelta = timedelta(0)) -> set[str]:
    checks = compared(traits_of(one, NOW), traits_of(other, NOW + later))
    assert tuple(check.name for check in checks) == CHECKS
    return {check.name for check in checks if not check.passed}


@pytest.mark.parametrize(
    ("one", "other", "check"),
    [
        ("How do I send 100 dollars?", "How do I send 200 dollars?", "numbers"),
        ("Best phones under 500?", "Best phones?", "numbers"),
        ("What is new in Python 3.11?", "What is new in Python 3.12?", "numbers"),
        ("Is an i5 fast enough?", "Is an i7 fast enough?", "numbers"),
        ("Is it worth three stars?", "Is it worth four stars?", "numbers"),
        ("How far is 10 km?", "How far is 10 miles?", "units"),
        ("How far is 10km?", "How far is 10 miles?", "units"),
        ("Is $50 a lot?", "Is €50 a lot?", "units"),
        ("What happened in May 2023?", "What happened in June 2023?", "dates"),
        ("What is the capital of France?", "What is the capital of Spain?", "names"),
        ("Who is Ada Lovelace?", "Who is she?", "names"),
        ("Can I fly with a cold?", "Can I not fly with a cold?", "negation"),
        ("Why does it work?", "Why doesn't it work?", "negation"),
        ("Is it possible without a card?", "Is it possible?", "negation"),
        ("Which is the largest planet?", "Which is the smallest planet?", "comparatives"),
        ("How do I add a user?", "How do I remove a user?", "comparatives"),
        ("What comes before lunch?", "What comes after lunch?", "comparatives"),
        ("When was it built?", "Where was it built?", "question word"),
        ("Who built it?", "Why was it built?", "question word"),
        ("How many are there?", "How much is there?", "question word"),
        ("What does C++ offer?", "What does C# offer?", "names"),
        ("Is it safe to mix them?", "Is it unsafe to mix them?", "comparatives"),
        ("How do I uninstall it?", "How do I install it?", "comparatives"),
        ("When did the war start?", "When did the war end?", "comparatives"),
        (
            "Can I transfer from savings to checking?",
            "Can I transfer from checking to savings?",
            "comparatives",
        ),
        (
            "How do I move money from savings to checking?",
            "How can money be sent from checking to my savings?",
            "comparatives",
        ),
        ("Does Ann love Bob?", "Does Bob love Ann?", "comparatives"),
        ("Is it 3 pm Berlin time?", "Is it 3 am Berlin time?", "units"),
        ("Is it open at 3pm?", "Is it open at 3 am?", "units"),
        ("How tall is it in feet?", "How tall is it in yards?", "units"),
        ("Is it open on weekdays?", "Is it open on weekends?", "comparatives"),
        ("What is the dose for adults?", "What is the dose for infants?", "comparatives"),
        ("Can I drink ethanol?", "Can I drink methanol?", "comparatives"),
        ("How do I buy this stock?", "How do I short this stock?", "comparatives"),
        ("Is it safe while pregnant?", "Is it safe unless pregnant?", "comparatives"),
        ("Is a > b here?", "Is a < b here?", "numbers"),
        ("Is a = b here?", "Is a != b here?", "numbers"),
        ("What is 6 * 3?", "What is 6 / 3?", "numbers"),
        ("What is 6*3?", "What is 6/3?", "numbers"),
        ("What is 10 - 4?", "What is 10 + 4?", "numbers"),
        ("Is it -5 outside?", "Is it 5 outside?", "numbers"),
        ("What is x-1?", "What is x+1?", "numbers"),
        ("What does && do?", "What does || do?", "numbers"),
        ("What does \U0001f600 mean?", "What does \U0001f622 mean?", "numbers"),
        ("What lowers hypertension?", "What lowers hypotension?", "comparatives"),
        ("Is it endothermic?", "Is it exothermic?", "comparatives"),
        ("Is carbon monoxide toxic?", "Is carbon dioxide toxic?", "comparatives"),
        ("Is sodium nitrite safe?", "Is sodium nitrate safe?", "comparatives"),
        ("Is propane heavy?", "Is butane heavy?", "comparatives"),
        ("Is it a plant of 5 MW?", "Is it a plant of 5 mW?", "names"),
        ("Can it send 10 Mb a second?", "Can it send 10 MB a second?", "names"),
        ("Who leads IT?", "Who leads it?", "names"),
        ("What is the law in the U.S.?", "What is the law in the EU?", "names"),
        ("Does it open at 3 a.m.?", "Does it open at 3 p.m.?", "units"),
        ("What is f'(x)?", "What is f''(x)?", "numbers"),
        ("What is n! for n?", "What is n for n?", "numbers"),
        ("Is 1 in [1, 2)?", "Is 1 in (1, 2]?", "numbers"),
        ("What does ls -l do?", "What does ls l do?", "numbers"),
        ("What is in /etc/hosts?", "What is in etc/hosts?", "numbers"),
        ("if x:\n    y()\nz()", "if x:\n    y()\n    z()", "numbers"),
    ],
)
def test_a_small_difference_is_another_question(one: str, other: str, check: str) -> None:
    assert check in failed(one, other)
    assert check in failed(other, one)
    assert not agree(traits_of(one, NOW), traits_of(other, NOW))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What do I put in?", "What do I put into it, then?"),
        ("How do I learn Python?", "What is the best way to learn Python?"),
        ("how old is the universe", "How old is the Universe?"),
        ("Can I send 1,000 euros?", "Can I send 1000 euros?"),
        ("How heavy is 5 kg?", "how heavy is 5 kilograms"),
        ("Is two enough?", "Is 2 enough?"),
        ("What is Ada's job?", "What is the job of Ada?"),
        ("Why is the sky blue?", "What makes the sky blue?"),
        ("I do not see why not", "I see why"),
        ("What happened on 3 May 2023?", "What happened on 3 may 2023?"),
        ("Is my e-mail safe (at home)?", "is my e mail safe, at home"),
        ("Is it so - or not?", "Is it so \u2014 or not?"),
        ("Is a file of 10 MB big?", "Is a file of 10 megabytes big?"),
        ("Does it open at 3 a.m.?", "does it open at 3 am"),
        ("Who is president of the U.S.?", "Who is president of the US"),
        ("What does 'a' mean? Thanks!", "what does a mean, thanks"),
        ("WHAT IS IT NOW", "what is it now"),
        ("What is R&D and/or COVID-19?", "what is R & D and or covid 19"),
    ],
)
def test_other_words_for_the_same_agree(one: str, other: str) -> None:
    assert failed(one, other) == set()


def test_yesterday_is_another_day_tomorrow() -> None:
    question = "What was the price yesterday?"
    assert failed(question, question) == set()
    assert failed(question, question, timedelta(hours=3)) == set()
    assert failed(question, question, timedelta(days=1)) == {"dates"}
    asked, stored = traits_of(question, NOW), traits_of(question, NOW + timedelta(days=1))
    assert not same_words(asked, stored)


def test_only_case_marks_and_spaces_differ() -> None:
    one = traits_of("What's  a page, exactly?", NOW)
    assert same_words(one, traits_of("what's a PAGE exactly", NOW))
    assert not same_words(one, traits_of("exactly what's a page", NOW))


def test_signs_are_compared_where_the_words_are_the_same() -> None:
    for one, other, check in [
        ("a > b", "a < b", False), ("\U0001f600", "\U0001f622", False), ("-5", "5", False),
        ("e-mail?", "e mail!", True), ("C++", "c++", True), ("It's so.", "it\u2019s so", True),
        ("5 MW", "5 mW", False), ("Tell US", "Tell us", False), ("f'(x)", "f''(x)", False),
        ("a[1]", "a(1)", False), ("tar -x", "tar x", False), ("The U.S.?", "the US", True),
    ]:  # fmt: skip
        assert same_words(traits_of(one, NOW), traits_of(other, NOW)) is check


def test_all_of_a_question_of_many_words_is_compared() -> None:
    one = "1 " * 1500
    assert not same_words(traits_of(f"{one} 2", NOW), traits_of(f"{one} 3", NOW))


def test_a_check_says_what_differs() -> None:
    checks = compared(traits_of("Fly to Oslo", NOW), traits_of("Fly to Rome", NOW))
    assert [check.detail for check in checks if not check.passed] == ["oslo / rome"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_agrees_with_itself_and_order_makes_no_difference(one: str, other: str) -> None:
    mine, theirs = traits_of(one, NOW), traits_of(other, NOW)
    assert agree(mine, mine)
    assert same_words(mine, mine)
    there, back = compared(mine, theirs), compared(theirs, mine)
    assert [check.passed for check in there] == [check.passed for check in back]
    assert agree(mine, theirs) == all(check.passed for check in there)


def test_a_long_text_is_read_up_to_a_limit() -> None:
    traits = traits_of("word " * 100_000, NOW)
    assert len(traits.words) <= 4096
