"""Conversations without a name: they are what they say, however their files are named."""

import json
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt
from command_line import run
from histories import bring, held, lines_of, opened, write
from memopt.past import Bringer, Brought, Format, beginnings
from memopt.past.records import About, Begin, Say

MESSAGES = Format.MESSAGES


def said(*words: str) -> list[dict[str, Any]]:
    return [
        {"role": "user" if n % 2 == 0 else "assistant", "content": w} for n, w in enumerate(words)
    ]


def page(*words: str) -> str:
    names = ("You", "Claude")
    return "".join(f"**{names[n % 2]}:** {word}\n\n" for n, word in enumerate(words))


def written(path: Path, *words: str) -> Path:
    if path.suffix != ".md":
        return write(path, said(*words))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(*words))
    return path


def texts(memory: memopt.Memory, scope: str = "me/past") -> dict[str, list[str]]:
    return {
        name: [message["content"] for message, _ in entries]
        for name, entries in held(memory, scope).items()
    }


@pytest.fixture(params=[(".md", Format.MARKDOWN), (".jsonl", MESSAGES)], ids=["md", "jsonl"])
def kind(request: pytest.FixtureRequest) -> tuple[str, Format]:
    found: tuple[str, Format] = request.param
    return found


def test_a_file_and_its_folders_are_the_same(tmp_path: Path, kind: tuple[str, Format]) -> None:
    suffix, format = kind
    one = written(tmp_path / f"in/a/chat{suffix}", "Hello", "A")
    other = written(tmp_path / f"in/b/chat{suffix}", "Hello", "B", "more")
    with opened(tmp_path / "store") as memory:
        for path in (one, other, tmp_path / "in", tmp_path / "in/b", tmp_path, one, other):
            assert bring(memory, path, format).conflicts == []
        assert texts(memory) == {"chat": ["Hello", "A"], "chat~2": ["Hello", "B", "more"]}


def test_a_file_that_is_moved_and_named_otherwise_is_known(
    tmp_path: Path, kind: tuple[str, Format]
) -> None:
    suffix, format = kind
    file = written(tmp_path / f"chat{suffix}", "Hello", "Hi", "How?")
    with opened(tmp_path / "store") as memory:
        bring(memory, file, format)
        moved = file.rename(tmp_path / f"archive{suffix}")
        assert bring(memory, moved, format).messages == 0
        written(moved, "Hello", "Hi", "How?", "So.")
        assert bring(memory, moved, format).messages == 1
        # A copy from before is all there; and what goes on from there otherwise is another one.
        assert bring(memory, written(file, "Hello", "Hi"), format).messages == 0
        bring(memory, written(file, "Hello", "Hi", "Why?"), format)
        assert texts(memory) == {
            "chat": ["Hello", "Hi", "How?", "So."], "chat~2": ["Hello", "Hi", "Why?"],
        }  # fmt: skip


def test_what_parts_late_is_a_fork(tmp_path: Path, kind: tuple[str, Format]) -> None:
    suffix, format = kind
    talk = [f"w{n}" for n in range(20)]
    with opened(tmp_path / "store") as memory:
        bring(memory, written(tmp_path / f"a{suffix}", *talk), format)
        # The same file was edited, and a copy of it went on otherwise.
        edited = [*talk[:15], "otherwise", *talk[16:]]
        assert bring(memory, written(tmp_path / f"a{suffix}", *edited), format).messages == 5
        gone_on = [*talk[:18], "elsewhere"]
        assert bring(memory, written(tmp_path / f"b{suffix}", *gone_on), format).messages == 1
        assert texts(memory) == {"a": talk, "a~2": edited, "b": gone_on}


def test_half_of_the_last_message_is_an_older_copy(tmp_path: Path) -> None:
    file = tmp_path / "chat.md"
    with opened(tmp_path / "store") as memory:
        for words, there in (
            (("Hello", "Hi"), {"chat": ["Hello", "Hi"]}),
            (("Hello", "Hi you"), {"chat": ["Hello", "Hi you"]}),
            (("Hello", "Hi"), {"chat": ["Hello", "Hi you"]}),
            (
                ("Hello", "Hi", "more"),
                {"chat": ["Hello", "Hi you"], "chat~2": ["Hello", "Hi", "more"]},
            ),
        ):
            bring(memory, written(file, *words), Format.MARKDOWN)
            assert texts(memory) == there


def test_what_an_earlier_version_named_by_its_path_is_known(
    tmp_path: Path, kind: tuple[str, Format]
) -> None:
    suffix, format = kind
    file = written(tmp_path / f"in/a/chat{suffix}", "Hello", "Hi")
    with opened(tmp_path / "store") as memory:
        report = Brought()
        bringer = Bringer(memory, scope="me/past", agent=format.value, report=report)
        origin = {"origin": {"ids": [0]}} if format is Format.MARKDOWN else {}
        first = {"role": "user", "content": "Hello", **origin}
        bringer.bring([Begin("a/chat"), Say("a/chat", first, None, "f:1")])
        for path in (tmp_path / "in", file, tmp_path / "in/a"):
            bring(memory, path, format)
        assert texts(memory) == {"a/chat": ["Hello", "Hi"]}


def test_conversations_that_begin_alike_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginnings, "_NUMBERED_MAX", 2)
    for number in range(9):
        written(tmp_path / f"in/{number}/run.jsonl", "You help.", "ok", f"task {number}", "done")
    with opened(tmp_path / "store") as memory:
        first = bring(memory, tmp_path / "in", MESSAGES)
        assert (first.sessions, len(texts(memory))) == (9, 9)
        assert bring(memory, tmp_path / "in", MESSAGES).messages == 0
        assert sorted(one[2] for one in texts(memory).values()) == [f"task {n}" for n in range(9)]


def test_a_session_of_somebody_else_is_not_gone_on_with(tmp_path: Path) -> None:
    file = written(tmp_path / "chat.jsonl", "You help.", "ok")
    with opened(tmp_path / "store") as memory:
        live = memory.session("live", scope="me/past")
        live.extend(said("You help."))
        for _ in range(2):
            bring(memory, file, MESSAGES)
        assert texts(memory) == {"live": ["You help."], "chat": ["You help.", "ok"]}
        # What it says already is not written a second time.
        live.extend([*said("-", "ok")[1:], {"role": "user", "content": "Well"}])
        other = written(tmp_path / "other.jsonl", "You help.", "ok", "Well")
        assert bring(memory, other, MESSAGES).messages == 0
        assert len(texts(memory)) == 2


@pytest.mark.parametrize("at", [0, 1])
def test_what_was_redacted_stays_so_where_the_file_is_known(
    tmp_path: Path, kind: tuple[str, Format], at: int
) -> None:
    suffix, format = kind
    file = written(tmp_path / f"chat{suffix}", "secret", "secret", "more")
    with opened(tmp_path / "store") as memory:
        bring(memory, file, format)
        file = file.rename(tmp_path / f"moved{suffix}")
        bring(memory, file, format)
        memory.session("chat", scope="me/past").redact(at)
        there = ["secret", "secret", "more"]
        there[at] = "[redacted]"
        assert bring(memory, file, format).messages == 0
        assert texts(memory) == {"chat": there}
        written(file, "secret", "secret", "more", "and more")
        assert bring(memory, tmp_path, format).messages == 1
        assert texts(memory) == {"chat": [*there, "and more"]}


def test_what_was_redacted_stands_for_no_other_conversation(
    tmp_path: Path, kind: tuple[str, Format]
) -> None:
    suffix, format = kind
    talks = {
        "b": ["Hello", "a wholly other reply", "thanks"], "c": ["Hello", "another reply"],
        "e": ["Hello", "yet another", "thanks", "and more"], "x/a": ["Hi", "you", "there"],
        "y/a": ["Hello", "one more", "thanks"],
    }  # fmt: skip
    with opened(tmp_path / "store") as memory:
        bring(memory, written(tmp_path / f"a{suffix}", "Hello", "secret", "thanks"), format)
        memory.session("a", scope="me/past").redact(1)
        for _ in range(2):
            for name, talk in talks.items():
                bring(memory, written(tmp_path / f"{name}{suffix}", *talk), format)
            there = texts(memory)
            assert there.pop("a") == ["Hello", "[redacted]", "thanks"]
            assert sorted(there.values()) == sorted(talks.values())
            memory_after = texts(memory)
        assert texts(memory) == memory_after


@pytest.mark.parametrize("at", [0, 1, 6])
def test_a_file_that_holds_another_conversation_by_now_is_another(
    tmp_path: Path, kind: tuple[str, Format], at: int
) -> None:
    suffix, format = kind
    talk = [f"w{n}" for n in range(20)]
    file = written(tmp_path / f"a{suffix}", *talk)
    with opened(tmp_path / "store") as memory:
        bring(memory, file, format)
        memory.session("a", scope="me/past").redact(at)
        there = texts(memory)["a"]
        other = [*talk[:at], "another", *talk[at + 1 : at + 4], "but"]
        report = bring(memory, written(file, *other), format)
        shared = at if at + 4 > 8 else 0
        assert (report.messages, report.messages_there) == (at + 5 - shared, shared)
        # What goes on otherwise far behind it is a fork.
        assert bring(memory, written(file, *talk[:18], "otherwise"), format).messages == 1
        assert texts(memory) == {"a": there, "a~2": other, "a~3": [*there[:18], "otherwise"]}


def test_the_time_of_what_was_redacted_tells_what_it_was(tmp_path: Path) -> None:
    def timed(minute: int, word: str) -> list[dict[str, Any]]:
        return [
            {**one, "at": f"2026-01-01T00:{minute + n:02}:00Z"}
            for n, one in enumerate(said("Hello", word, "thanks"))
        ]

    with opened(tmp_path / "store") as memory:
        bring(memory, write(tmp_path / "a.jsonl", timed(1, "secret")), MESSAGES)
        memory.session("a", scope="me/past").redact(1)
        assert (
            bring(memory, write(tmp_path / "b.jsonl", timed(1, "secret")), MESSAGES).messages == 0
        )
        other = timed(1, "another")
        other[1]["at"] = "2026-01-01T00:02:01Z"
        bring(memory, write(tmp_path / "c.jsonl", other), MESSAGES)
        assert texts(memory) == {
            "a": ["Hello", "[redacted]", "thanks"], "c": ["Hello", "another", "thanks"]
        }  # fmt: skip


def test_what_was_redacted_stands_for_no_reply_of_a_copy_that_goes_on(tmp_path: Path) -> None:
    def steps(name: str, *words: str) -> list[Any]:
        told = [
            {**one, "origin": {"ids": [f"{name if n else 'first'}{n}"]}}
            for n, one in enumerate(said(*words))
        ]
        return [Begin(name), *(Say(name, message, None, "f") for message in told)]

    with opened(tmp_path / "store") as memory:
        for name, word in (("one", "secret"), ("two", "another")):
            bringer = Bringer(memory, scope="me/past", agent=None, report=Brought())
            bringer.bring(steps(name, "Hello", word, "thanks"))
            if name == "one":
                memory.session(name, scope="me/past").redact(1)
        assert texts(memory) == {
            "one": ["Hello", "[redacted]", "thanks"], "two": ["Hello", "another", "thanks"]
        }  # fmt: skip


def test_what_the_store_refuses_stands_for_no_other_conversation(tmp_path: Path) -> None:
    refused = [*said("Hello", "big", "bye")]
    refused[1]["v"] = 10**30
    one = write(tmp_path / "in/chat.jsonl", refused)
    with opened(tmp_path / "store") as memory:
        assert bring(memory, one, MESSAGES).messages_left_out == 1
        note = texts(memory)["chat"][1]
        assert bring(memory, one, MESSAGES).messages == 0
        other = written(tmp_path / "other/chat.jsonl", "Hello", "its own reply", "bye")
        bring(memory, other, MESSAGES)
        assert texts(memory) == {
            "chat": ["Hello", note, "bye"], "chat~2": ["Hello", "its own reply", "bye"]
        }  # fmt: skip
    # The same in a line of messages, again and again.
    lines = write(tmp_path / "lines.jsonl", [{"messages": refused}])
    for messages in (3, 0, 0):
        outcome = run("import", tmp_path / "store", lines, "--json")
        assert outcome.json["messages"] == messages


@pytest.mark.parametrize("name", ["\0", "\0~x"])
def test_no_line_can_say_the_name_of_lines_without_one(tmp_path: Path, name: str) -> None:
    lines = said("a", "b", "c", "d")
    lines[1]["session"] = lines[3]["session"] = name
    for order in (lines, lines[1:]):
        with opened(tmp_path / f"store-{len(order)}") as memory:
            for messages in (sum("session" not in line for line in order), 0):
                report = bring(memory, write(tmp_path / "chat.jsonl", order), MESSAGES)
                assert report.messages == messages
                assert len(report.damaged) == 2
            assert texts(memory) == {"chat": ["a", "c"] if order == lines else ["c"]}


def test_a_name_that_is_none_is_a_conflict(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        report = Brought()
        bringer = Bringer(memory, scope="me/past", agent=None, report=report)
        bringer.bring(
            [Begin("x", names=("n" * 5000,)), Say("x", said("hi")[0], None, "f:1"), About("x", {})]
        )
        assert "cannot be the name of a session" in report.conflicts[0].reason
        assert texts(memory) == {}


FILES = [f"{folder}/{name}" for folder in ("a", "a/b", "c") for name in ("x", "y")]
NUMBERS = count()
words = st.sampled_from(["p", "q", "pq"])
talks = st.lists(words, min_size=1, max_size=12)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[memopt.Memory]:
    with opened(tmp_path_factory.mktemp("past") / "store") as memory:
        yield memory


@settings(max_examples=40)
@given(
    st.sampled_from([".md", ".jsonl"]),
    st.lists(
        st.tuples(
            st.sampled_from(FILES), talks, st.sampled_from(["file", ".", "a", "a/b", "c"]),
        ),
        min_size=1, max_size=5,
    ),
)  # fmt: skip
def test_however_files_come_in_all_is_there_once(
    memory: memopt.Memory, suffix: str, steps: list[tuple[str, list[str], str]]
) -> None:
    """Files that are written, written anew and imported by themselves or with their folder."""
    format = Format.MARKDOWN if suffix == ".md" else MESSAGES
    scope = f"me/{next(NUMBERS)}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in")
        said_by: dict[Path, list[str]] = {}
        for name, talk, way in steps:
            file = written(root / f"{name}{suffix}", *talk)
            said_by[file] = talk
            path = root / way if (root / way).is_dir() else file
            assert bring(memory, path, format, scope).conflicts == []
        bring(memory, root, format, scope)
        there = texts(memory, scope)
        for talk in said_by.values():
            assert any(is_in(talk, one) for one in there.values()), (talk, there)
        for path in (root, *said_by):
            assert bring(memory, path, format, scope).messages == 0
        assert texts(memory, scope) == there


@settings(max_examples=40)
@given(
    st.sampled_from([".md", ".jsonl"]),
    st.lists(st.tuples(talks, st.integers(0, 2), st.integers(0, 12)), min_size=2, max_size=6),
)
def test_whatever_was_redacted_all_of_a_new_page_is_there_and_of_an_old_one_nothing_more(
    memory: memopt.Memory, suffix: str, steps: list[tuple[list[str], int, int]]
) -> None:
    format = Format.MARKDOWN if suffix == ".md" else MESSAGES
    scope = f"me/{next(NUMBERS)}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in")
        for number, (talk, session_at, at) in enumerate(steps):
            bring(memory, written(root / f"{number}/p{suffix}", *talk), format, scope)
            there = texts(memory, scope)
            assert any(is_in(talk, one) for one in there.values()), (talk, there)
            name = sorted(there)[session_at % len(there)]
            memory.session(name, scope=scope).redact(at % len(there[name]))
            there = texts(memory, scope)
            assert bring(memory, root, format, scope).messages == 0
            assert texts(memory, scope) == there


def is_in(talk: list[str], one: list[str]) -> bool:
    """Whether a session says all of it, and maybe more of the last message."""
    return one[: len(talk) - 1] == talk[:-1] and "".join(one[len(talk) - 1 :]).startswith(talk[-1])


def test_an_import_that_ends_early_is_finished_under_any_path(tmp_path: Path) -> None:
    talk = [f"w{n}" for n in range(30)]
    file = written(tmp_path / "in/chat.jsonl", *talk)
    with opened(tmp_path / "store") as memory:
        bringer = Bringer(memory, scope="me/past", agent="messages", report=Brought())
        begin = Begin("-", names=("chat", "in/chat"))
        says = [Say("-", message, None, "f") for message in said(*talk[:11])]
        with pytest.raises(RuntimeError):
            bringer.bring(_broken([begin, *says]))
        bring(memory, tmp_path, MESSAGES)
        assert bring(memory, file, MESSAGES).messages == 0
        assert texts(memory) == {"chat": talk}


def _broken(steps: list[Any]) -> Any:
    yield from steps
    raise RuntimeError


def test_conversations_of_one_line_are_known_wherever_they_stand(tmp_path: Path) -> None:
    lines = [{"messages": said("Hello", word)} for word in ("A", "B")]
    one = tmp_path / "in/one/talks.jsonl"
    write(one, lines)
    write(tmp_path / "in/two/talks.jsonl", [{"messages": said("New")}, *reversed(lines)])
    for path in (one, tmp_path / "in/two/talks.jsonl", tmp_path / "in"):
        outcome = run("import", tmp_path / "store", path)
        assert outcome.code == 0, outcome.err
    with opened(tmp_path / "store") as memory:
        names = [info.id for info in memory.sessions()]
        assert len(names) == 3
        assert sorted(len(memory.session(name)) for name in names) == [1, 2, 2]


def test_forks_of_a_log_without_a_name_are_named_after_it(tmp_path: Path) -> None:
    def item(role: str, words: str) -> dict[str, Any]:
        content = [{"type": "input_text", "text": words}]
        payload = {"type": "message", "role": role, "content": content}
        return {"type": "response_item", "payload": payload}

    back = {"type": "event_msg", "payload": {"type": "thread_rolled_back", "num_turns": 1}}
    with opened(tmp_path / "store") as memory:
        for folder in ("a", "b", "a", "b"):
            log = [item("user", "Hi"), item("user", folder), back, item("user", f"not {folder}")]
            bring(memory, write(tmp_path / folder / "rollout.jsonl", log), Format.CODEX)
        assert texts(memory) == {
            "rollout": ["Hi", "a"], "rollout~3": ["Hi", "not a"],
            "rollout~2": ["Hi", "b"], "rollout~2~3": ["Hi", "not b"],
        }  # fmt: skip
        state = memory.session("rollout~2~3", scope="me/past").load_state(name="origin")
        assert state is not None
        assert state.value["fork_of"] == "rollout~2"
        assert json.loads(lines_of([state.value]))["fork_at"] == 1
