"""`memopt recall`: what is found is told with its reasons, and what is not with its own."""

import json
from pathlib import Path

import pytest

import memopt
from command_line import run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with memopt.open(tmp_path / "store", durability="os", maintenance_seconds=0) as memory:
        session = memory.session("talk", scope="acme/ann")
        for n in range(20):
            session.append({"role": "user", "content": f"day {n} of the walk was mild"})
        session.append(
            {"role": "assistant", "content": "The flight\nto Lima leaves \x1b[2Jat nine"}
        )
        memory.remember("Ann is afraid of flying", scope="acme/ann")
    return tmp_path / "store"


def test_hits_are_told_with_place_text_and_reason(store: Path) -> None:
    done = run("recall", store, "when does the flight leave?", "--scope", "acme/ann", "--limit", 1)
    assert done.code == 0
    assert "talk:20  assistant" in done.out
    assert "The flight to Lima" in done.out
    assert "\x1b" not in done.out


def test_json_is_the_whole_answer(store: Path) -> None:
    done = run("recall", store, "flying", "--scope", "acme", "--reach", "subtree", "--json",
               "--kind", "fact")  # fmt: skip
    (hit,) = json.loads(done.out)["hits"]
    assert (hit["item_id"], hit["kind"], hit["scope"]) == ("i1", "fact", "acme/ann")


def test_nothing_found_is_no_failure_and_says_why(store: Path) -> None:
    done = run("recall", store, "flying", "--scope", "nobody")
    assert done.code == 0
    assert "Note: there is nothing in scope 'nobody'" in done.out
    assert "There is something in acme/ann: see --scope" in done.out


def test_a_wrong_time_is_a_wrong_call(store: Path) -> None:
    for option, text, words in (
        ("--now", "yesterday", "expected a time such as"),
        ("--known-at", "2031-05-17", "such as 2031-05-17T00:00Z"),
        ("--valid-at", "2031-05-17T09:20", "such as 2031-05-17T09:20Z"),
    ):
        done = run("recall", store, "flying", option, text)
        assert done.code == 2
        assert f"{option}: " in done.err
        assert words in done.err
