"""The commands about memories: remember, items, and forget by what is typed."""

from pathlib import Path
from typing import Any

import pytest

import memopt
from command_line import run

CANARY = "the heron stands at Ümläut Pond 23"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def stated(store: Path, text: str, *more: object) -> Any:
    outcome = run("remember", store, text, "--scope", "acme/ann", "--json", *more)
    assert outcome.code == 0, outcome.err
    return outcome.json


def test_remember_states_and_items_lists(store: Path) -> None:
    item = stated(
        store, "Ann lives in Paris", "--kind", "fact", "--subject", "Ann", "--attribute", "city",
        "--tag", "home", "--tag", "place", "--importance", 0.9, "--source", "a form", "--pin",
        "--from", "2031-05-17T09:20Z", "--key", "k",
    )  # fmt: skip
    assert (item["text"], item["tags"], item["pinned"]) == (
        "Ann lives in Paris", ["home", "place"], True,
    )  # fmt: skip
    assert item["valid"] == {"start": "2031-05-17T09:20:00Z", "stop": None}
    assert stated(store, "Ann lives in Paris", "--key", "k")["item_id"] == item["item_id"]
    listed = run("items", store, "--scope", "acme", "--subtree", "--json").json
    assert [one["item_id"] for one in listed] == [item["item_id"]]
    shown = run("items", store, "--tag", "home").out
    assert "Ann lives in Paris" in shown
    assert "2031-05-17 09:20 to …" in shown
    assert "Nothing" in run("items", store, "--tag", "work").out


def test_items_lists_what_was_so_and_what_was_known(store: Path) -> None:
    stated(store, "in Paris", "--subject", "Ann", "--attribute", "city", "--from", "2030-01-01T00Z")
    stated(store, "in Lyon", "--subject", "Ann", "--attribute", "city", "--from", "2031-01-01T00Z")
    texts = lambda *more: [  # noqa: E731
        one["text"] for one in run("items", store, "--json", *more).json
    ]
    assert texts("--valid-at", "2030-06-01T00:00+02:00") == ["in Paris"]
    assert texts("--valid-at", "2031-06-01T00:00Z") == ["in Lyon"]
    assert texts("--known-at", "1") == ["in Paris"]
    history = run("items", store, "--history", "i1", "--json").json
    assert [one["lsn"] for one in history] == [1, 2]


def test_contradictions_are_said_and_listed(store: Path) -> None:
    stated(store, "Ann has two dogs")
    said = run("remember", store, "Ann has three dogs", "--scope", "acme/ann")
    assert "contradict i1 (number)" in said.out
    [found] = run("items", store, "--contradictions", "--scope", "acme/ann", "--json").json
    assert (found["item_id"], found["other_id"]) == ("i2", "i1")
    assert "number" in run("items", store, "--contradictions", "--scope", "acme/ann").out


def test_a_text_may_come_from_standard_input(store: Path) -> None:
    outcome = run("remember", store, "-", "--json", answer="from elsewhere\nin two lines")
    assert outcome.json["text"] == "from elsewhere\nin two lines"


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("--from", ("remember", "x", "--from", "yesterday")),
        ("--to", ("remember", "x", "--to", "2031-05-17T09:20")),
        ("text", ("remember", "")),
        ("importance", ("remember", "x", "--importance", "2")),
        ("--known-at", ("items", "--known-at", "soon")),
        ("item_id", ("items", "--history", "17")),
        ("selector.items[0]", ("forget", "--scope", "a", "--item", "17", "--yes")),
        ("--since", ("forget", "--scope", "a", "--since", "2031-05-17", "--yes")),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    store: Path, named: str, arguments: tuple[str, ...]
) -> None:
    stated(store, "something")
    command, *rest = arguments
    outcome = run(command, store, *rest)
    assert outcome.code == 2
    assert f"memopt: {named}: " in outcome.err


def test_forget_a_memory_and_prove_it(store: Path) -> None:
    item = stated(store, CANARY, "--tag", "pond", "--source", "walk")
    stated(store, "another memory", "--tag", "pond")
    arguments = ("forget", store, "--scope", "acme/ann", "--item", item["item_id"])
    plan = run(*arguments, "--dry-run", "--json").json["plan"]
    assert [target["items"] for target in plan["targets"]] == [1]
    outcome = run(*arguments, "--yes", "--json")
    assert (outcome.code, outcome.json["gone"]) == (0, True)
    assert outcome.json["receipt"]["items"] == 1
    [finding] = outcome.json["proof"]["findings"]
    assert (finding["text"], finding["before"] > 0, finding["after"]) == (CANARY, True, 0)
    with memopt.open(store) as memory:
        assert [one.text for one in memory.items("acme/ann")] == ["another memory"]
    by_tag = run("forget", store, "--scope", "acme/ann", "--tag", "pond", answer="y\n")
    assert by_tag.code == 0
    assert "1 memories" in by_tag.out


def test_forget_a_source_and_prove_it_by_what_it_said(store: Path) -> None:
    line = "trains up to four hours, and else a flight"
    with memopt.open(store) as memory:
        memory.ingest(f"# Rules\n\n{line}", scope="acme/ann", source="book")
    done = run("forget", store, "--scope", "acme/ann", "--source", "book", "--yes", "--json")
    assert done.code == 0, done.err
    (finding,) = done.json["proof"]["findings"]
    assert (finding["text"], finding["after"], finding["elsewhere"]) == (line, 0, False)
    assert finding["before"] > 0


def test_forget_a_time_and_prove_it(store: Path) -> None:
    with memopt.open(store) as memory:
        memory.session("s", scope="acme/ann").append({"role": "user", "content": CANARY})
        memory.remember(CANARY, scope="acme/ann")
    arguments = ("forget", store, "--scope", "acme/ann", "--since", "2001-01-01T00Z", "--yes")
    outcome = run(*arguments, "--json")
    assert (outcome.code, outcome.json["gone"]) == (0, True)
    assert (outcome.json["receipt"]["entries"], outcome.json["receipt"]["items"]) == (1, 1)


def test_the_owner_of_a_store_answers_the_same(store: Path) -> None:
    with memopt.open(store) as memory:
        item = stated(store, "through the socket")
        assert memory.item(item["item_id"]).text == "through the socket"
        assert run("items", store, "--json").json[0]["text"] == "through the socket"
