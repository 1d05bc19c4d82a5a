"""Codex' rollouts: of now, of its first versions, and with turns taken back."""

from pathlib import Path
from typing import Any

import pytest

from histories import abouts_of, bring, held, opened, sessions_of, spoken, steps_of, write
from memopt.past import Brought, Format

CODEX = Format.CODEX
THREAD = "019a2d7a-41c4-78b1-b7cc-a45d62a89cd5"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "2026" / "08" / f"rollout-2026-08-10T13-02-51-{THREAD}.jsonl"


def line(kind: str, payload: dict[str, Any], second: int = 0) -> dict[str, Any]:
    return {
        "timestamp": f"2026-08-10T20:05:{second:02}.101Z", "type": kind, "payload": payload,
    }  # fmt: skip


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return line("response_item", {"type": kind, **fields})


def said(role: str, words: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": kind, "text": words}])


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return item("function_call", name=name, arguments=arguments, call_id=id)


def output(id: str, told: Any) -> dict[str, Any]:
    return item("function_call_output", call_id=id, output=told)


META = line(
    "session_meta",
    {
        "id": THREAD, "timestamp": "2026-08-10T20:05:00.000Z", "cwd": "/work/shop",
        "cli_version": "0.65.0", "instructions": None, "git": {"branch": "main"},
    },
)  # fmt: skip
TALK = [
    META,
    said("developer", "<permissions instructions>…"),
    said("user", "<environment_context>\n<cwd>/work</cwd></environment_context>"),
    said("user", "Run the tests"),
    line("event_msg", {"type": "user_message", "message": "Run the tests"}),
    line("turn_context", {"cwd": "/work", "model": "gpt-x-codex", "summary": "auto"}),
    item("reasoning", summary=[{"type": "summary_text", "text": "I test."}], encrypted_content="x"),
    said("assistant", "I run them."),
    call("c1", "shell", '{"command":["cargo","test"]}'),
    call("c2", "shell", '{"command":["ls"]}'),
    output("c1", '{"output":"1 failed","metadata":{"exit_code":101,"duration_seconds":0.4}}'),
    output("c2", "src"),
    line("event_msg", {"type": "token_count", "info": None}),
    item("custom_tool_call", status="completed", call_id="c3", name="apply_patch", input="*** End"),
    item("custom_tool_call_output", call_id="c3", output=[{"type": "input_text", "text": "done"}]),
    item("web_search_call", status="completed", action={"type": "search", "query": "zebra"}),
    said("assistant", "All is well."),
]


def function(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOLD = [
    {"role": "user", "content": "Run the tests"},
    {
        "role": "assistant", "content": "I run them.", "reasoning_content": "I test.",
        "tool_calls": [
            function("c1", "shell", '{"command":["cargo","test"]}'),
            function("c2", "shell", '{"command":["ls"]}'),
        ],
        "model": "gpt-x-codex",
    },
    {"role": "tool", "tool_call_id": "c1", "content": "1 failed", "is_error": True},
    {"role": "tool", "tool_call_id": "c2", "content": "src"},
    {
        "role": "assistant", "content": None,
        "tool_calls": [function("c3", "apply_patch", '{"input":"*** End"}')],
        "model": "gpt-x-codex",
    },
    {"role": "tool", "tool_call_id": "c3", "content": "done"},
    {
        "role": "assistant", "content": None,
        "tool_calls": [
            function("call-16", "web_search", '{"type":"search","query":"zebra"}')
        ],
        "model": "gpt-x-codex",
    },
    {"role": "assistant", "content": "All is well.", "model": "gpt-x-codex"},
]  # fmt: skip


def test_items_become_messages_with_their_calls_linked(file: Path) -> None:
    report = Brought()
    steps = steps_of(write(file, TALK), CODEX, report)
    assert sessions_of(steps) == {THREAD: TOLD}
    about = {"format": "codex", "cwd": "/work/shop", "version": "0.65.0", "git_branch": "main"}
    assert abouts_of(steps) == {THREAD: about}
    assert report.damaged == []
    assert report.skipped == {
        "what the program said by itself": 2,
        "lines of type event_msg/user_message": 1,
        "lines of type event_msg/token_count": 1,
    }


def test_the_first_versions_wrote_bare_items(file: Path, tmp_path: Path) -> None:
    bare = [one["payload"] for one in TALK if one["type"] == "response_item"]
    header = {
        "id": THREAD,
        "timestamp": "2025-05-07T17:24:21.597Z",
        "instructions": None,
        "git": {},
    }
    old = [header, {"record_type": "state"}, *bare]
    found = sessions_of(steps_of(write(file, old), CODEX))[THREAD]
    assert spoken(found) == spoken(TOLD)
    with opened(tmp_path / "store") as memory:
        bring(memory, file, CODEX)
        assert {at.isoformat() for _, at in held(memory)[THREAD]} == {
            "2025-05-07T17:24:21.597000+00:00"
        }


def test_without_a_header_the_file_has_the_name(file: Path) -> None:
    assert list(sessions_of(steps_of(write(file, TALK[1:]), CODEX))) == [THREAD]
    named = file.with_name("notes.jsonl")
    assert list(sessions_of(steps_of(write(named, TALK[1:]), CODEX))) == ["notes"]


def test_the_first_header_is_the_sessions_own(file: Path) -> None:
    other = line("session_meta", {"id": "another", "cwd": "/else"})
    forked = line("session_meta", {**META["payload"], "forked_from_id": "another"})
    steps = steps_of(write(file, [forked, other, *TALK[1:]]), CODEX)
    assert list(sessions_of(steps)) == [THREAD]
    assert abouts_of(steps)[THREAD]["forked_from"] == "another"


def test_a_subagents_copy_of_what_was_said_before_is_left_out(file: Path) -> None:
    head = line("session_meta", {**META["payload"], "subagent_history_start_ordinal": 3})
    copied = [{**said("user", f"before {n}"), "ordinal": n} for n in (1, 2)]
    records = [{**head, "ordinal": 0}, *copied, {**said("user", "Mine"), "ordinal": 3}]
    found = sessions_of(steps_of(write(file, records), CODEX))
    assert found == {THREAD: [{"role": "user", "content": "Mine"}]}


def test_turns_that_are_taken_back_leave_a_fork(file: Path) -> None:
    records = [
        *TALK,
        said("user", "Wrong way"),
        said("assistant", "Gone wrong."),
        line("event_msg", {"type": "thread_rolled_back", "num_turns": 1}),
        said("user", "Right way"),
        said("assistant", "Gone right."),
    ]
    found = sessions_of(steps_of(write(file, records), CODEX))
    fork = f"{THREAD}~{len(TALK) + 3}"
    assert spoken(found[THREAD][-2:]) == [("user", "Wrong way"), ("assistant", "Gone wrong.")]
    assert spoken(found[fork]) == [
        *spoken(TOLD), ("user", "Right way"), ("assistant", "Gone right."),
    ]  # fmt: skip


def test_a_rollout_that_grew_is_as_if_it_had_come_whole(file: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "whole") as memory:
        bring(memory, write(file, TALK), CODEX)
        whole = held(memory)
    for count in range(1, len(TALK)):
        with opened(tmp_path / f"grown{count}") as memory:
            bring(memory, write(file, TALK[:count]), CODEX)
            bring(memory, write(file, TALK), CODEX)
            assert held(memory) == whole


def test_odd_items_do_no_harm(file: Path) -> None:
    odd = [
        META, "text", 7, {"type": "response_item"}, {"type": "response_item", "payload": []},
        item("message"), item("message", role=5, content=[{"type": "input_text", "text": 8}]),
        item("reasoning", summary="none"), item("function_call"), output("", {"content": None}),
        item("ghost_snapshot"), line("compacted", {"message": "short"}),
        item("function_call_output"),
        {"timestamp": {}, "type": "event_msg", "payload": {"type": "thread_rolled_back"}},
        said("user", "Hello"),
    ]  # fmt: skip
    report = Brought()
    (messages,) = sessions_of(steps_of(write(file, odd), CODEX, report)).values()
    assert messages[-1] == {"role": "user", "content": "Hello"}
    assert len(report.damaged) == 2
