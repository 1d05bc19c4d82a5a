"""Claude Code's records, with the oddities of its versions."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from histories import (
    SESSION,
    abouts_of,
    bare,
    bring,
    call,
    held,
    lines_of,
    opened,
    record,
    result,
    sessions_of,
    spoken,
    steps_of,
    text,
    write,
)
from memopt.past import Brought, Format, claude_code, places

CLAUDE = Format.CLAUDE_CODE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "projects" / "-work-shop" / f"{SESSION}.jsonl"


def reply(uuid: str, parent: str, id: str, *blocks: Any, **more: Any) -> dict[str, Any]:
    said = {"id": id, "type": "message", "model": "claude-x", "usage": {"input_tokens": 3}}
    return record("assistant", uuid, parent, list(blocks), said=said, requestId="r", **more)


TALK = [
    {"type": "summary", "summary": "Somebody else's", "leafUuid": "not-here"},
    {"type": "file-history-snapshot", "messageId": "u1", "snapshot": {}},
    record("user", "u1", None, "Where is the zebra?"),
    record("progress", "p2", "u1", "", data={"type": "hook_progress"}),
    reply("a3", "p2", "m1", {"type": "thinking", "thinking": "Hm.", "signature": "xyz"}),
    reply("a4", "a3", "m1", *text("I look.")),
    reply("a5", "a4", "m1", call("t1", "Bash", command="ls", n=[1, 2.0])),
    record("user", "u6", "a5", result("t1", "zoo.txt"), toolUseResult={"stdout": "zoo.txt"}),
    reply("a7", "a5", "m1", call("t2", "Read", path="zoo.txt")),
    record("user", "u8", "a7", result("t2", text("no zebra"), is_error=True)),
    reply("a9", "u8", "m2", *text("Not in the zoo.")),
    {"type": "system", "subtype": "turn_duration", "uuid": "s10", "parentUuid": "a9"},
    record("user", "u11", "s10", text("Thanks.")),
]
TOLD = [
    {"role": "user", "content": "Where is the zebra?"},
    {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "id": "t1",
                "type": "function",
                "function": {"name": "Bash", "arguments": '{"command": "ls", "n": [1, 2.0]}'},
            },
            {
                "id": "t2",
                "type": "function",
                "function": {"name": "Read", "arguments": '{"path": "zoo.txt"}'},
            },
        ],
        "model": "claude-x",
        "id": "m1",
    },
    {"role": "tool", "tool_call_id": "t1", "content": "zoo.txt"},
    {"role": "tool", "tool_call_id": "t2", "content": "no zebra", "is_error": True},
    {"role": "assistant", "content": "Not in the zoo.", "model": "claude-x", "id": "m2"},
    {"role": "user", "content": "Thanks."},
]


def test_a_reply_in_parts_is_one_message_with_its_results_behind_it(file: Path) -> None:
    report = Brought()
    steps = steps_of(write(file, TALK), CLAUDE, report)
    assert sessions_of(steps) == {SESSION: TOLD}
    about = {"format": "claude-code", "title": None, "cwd": "/work/shop", "git_branch": "main"}
    assert abouts_of(steps)[SESSION] == about | {"version": "2.1.81"}
    assert report.damaged == []
    assert report.skipped["records of type progress"] == 1
    assert report.skipped["records of type system/turn_duration"] == 1


def test_times_are_kept(file: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        bring(memory, write(file, TALK), CLAUDE)
        [(_, first), *_, (_, last)] = held(memory)[SESSION]
    assert first == datetime(2026, 2, 24, 10, 0, 1, 500_000, tzinfo=UTC)
    assert last == datetime(2026, 2, 24, 10, 0, 11, 500_000, tzinfo=UTC)


def test_a_prompt_that_is_taken_back_makes_a_fork(file: Path) -> None:
    records = [
        *TALK,
        reply("a12", "u11", "m3", *text("You are welcome.")),
        record("user", "u13abcdefgh", "s10", "And the quokka?"),
        reply("a14", "u13abcdefgh", "m4", *text("There.")),
        # The older one goes on, in another window.
        record("user", "u15", "a12", "Bye."),
    ]
    steps = steps_of(write(file, records), CLAUDE)
    found = {name: spoken(messages) for name, messages in sessions_of(steps).items()}
    assert found == {
        SESSION: [*spoken(TOLD), ("assistant", "You are welcome."), ("user", "Bye.")],
        f"{SESSION}~u13abcde": [
            *spoken(TOLD[:5]), ("user", "And the quokka?"), ("assistant", "There."),
        ],
    }  # fmt: skip
    assert abouts_of(steps)[f"{SESSION}~u13abcde"]["fork_of"] == SESSION


def test_a_fork_does_not_part_a_call_from_its_results(file: Path) -> None:
    records = [*TALK, record("user", "u12", "a7", "Stop.")]
    found = sessions_of(steps_of(write(file, records), CLAUDE))
    assert found[f"{SESSION}~u12"] == [*TOLD[:4], {"role": "user", "content": "Stop."}]


def test_a_fork_of_a_fork_shares_with_whom_it_has_it_from(file: Path) -> None:
    records = [
        record("user", "u1", None, "one"),
        reply("a2", "u1", "m2", *text("two")),
        record("user", "u3", "a2", "three"),
        record("user", "u4", "a2", "other three"),
        reply("a5", "u4", "m5", *text("four")),
        record("user", "u6", "a5", "five"),
        record("user", "u7", "a5", "other five"),
        record("user", "u8", "a2", "third three"),
    ]
    steps = steps_of(write(file, records), CLAUDE)
    found = {
        name.removeprefix(SESSION): [content for _, content in spoken(messages)]
        for name, messages in sessions_of(steps).items()
    }
    assert found == {
        "": ["one", "two", "three"],
        "~u4": ["one", "two", "other three", "four", "five"],
        "~u7": ["one", "two", "other three", "four", "other five"],
        "~u8": ["one", "two", "third three"],
    }
    assert abouts_of(steps)[f"{SESSION}~u8"]["fork_of"] == SESSION


def test_a_prompt_within_a_reply_does_not_part_it(file: Path) -> None:
    records = [
        record("user", "u1", None, "one"),
        reply("a2", "u1", "m2", call("t1", "Bash", command="ls")),
        record("user", "u3", "a2", "wait"),
        reply("a4", "a2", "m2", call("t2", "Bash", command="pwd")),
        record("user", "u5", "a2", result("t1", "zoo.txt")),
        record("user", "u6", "a4", result("t2", "/work")),
        reply("a7", "u6", "m7", *text("Done.")),
    ]
    (messages,) = sessions_of(steps_of(write(file, records), CLAUDE)).values()
    assert [one.get("tool_call_id") or one["content"] for one in messages] == [
        "one", None, "wait", None, "t1", "t2", "Done.",
    ]  # fmt: skip


def test_what_was_said_before_a_compaction_stays(file: Path) -> None:
    boundary = {
        "type": "system", "subtype": "compact_boundary", "uuid": "b12", "parentUuid": None,
        "logicalParentUuid": "u11", "content": "Conversation compacted", "sessionId": SESSION,
    }  # fmt: skip
    summary = record(
        "user", "u13", "b12", "This session is being continued …",
        isCompactSummary=True, isVisibleInTranscriptOnly=True,
    )  # fmt: skip
    records = [*TALK, boundary, summary, reply("a14", "u13", "m9", *text("Go on."))]
    steps = steps_of(write(file, records), CLAUDE)
    assert [bare(m) for m in sessions_of(steps)[SESSION]] == [
        *TOLD, {"role": "user", "content": "This session is being continued …"},
        {"role": "assistant", "content": "Go on.", "model": "claude-x", "id": "m9"},
    ]  # fmt: skip


def test_subagents_have_sessions_of_their_own(file: Path) -> None:
    records = [
        *TALK[:9],
        record("user", "u20", None, "Warm up", isSidechain=True),
        reply("a21", "u20", "m21", *text("Warm."), isSidechain=True),
        *TALK[9:],
        record("user", "u22", None, "Search", isSidechain=True, agentId="ab12"),
    ]
    write(file, records)
    beside = file.parent / SESSION / "subagents" / "agent-ae267a1.jsonl"
    write(
        beside,
        [
            record("user", "u30", None, "Find it.", isSidechain=True, agentId="ae267a1"),
            reply("a31", "u30", "m31", call("t9", "Grep", q="z"), isSidechain=True),
            record("user", "u32", "a31", result("t9", "found"), isSidechain=True),
        ],
    )
    write(beside.with_name("agent-acompact-1.jsonl"), [record("user", "u40", None, "Compact.")])
    steps = steps_of(file.parent, CLAUDE)
    found = {name: spoken(messages) for name, messages in sessions_of(steps).items()}
    assert found == {
        SESSION: spoken(TOLD),
        f"{SESSION}~agent-u20": [("user", "Warm up"), ("assistant", "Warm.")],
        f"{SESSION}~agent-ab12": [("user", "Search")],
        f"{SESSION}~agent-ae267a1": [("user", "Find it."), ("assistant", None), ("tool", "found")],
    }
    assert abouts_of(steps)[f"{SESSION}~agent-ae267a1"]["agent_of"] == SESSION


def test_records_that_are_copied_within_a_file_count_once(file: Path) -> None:
    copies = [{**one, "parentUuid": None} for one in TALK if one.get("uuid")]
    report = Brought()
    assert sessions_of(steps_of(write(file, [*TALK, *copies]), CLAUDE, report)) == {SESSION: TOLD}
    assert report.skipped["records that are there twice"] == len(copies)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_conversation_that_was_copied_to_go_on_is_shared(
    file: Path, tmp_path: Path, is_first: bool
) -> None:
    """Whichever of the files comes first."""
    original = [*TALK, reply("a20", "u11", "m20", *text("Old end."))]
    other = "ffffffff-1111-2222-3333-444455556666"
    copy = [*({**one, "sessionId": other} for one in TALK), record("user", "u30", "u11", "New")]
    names = (SESSION, other) if is_first else (other, SESSION)
    write(file.with_name(f"{names[0]}.jsonl"), original)
    write(file.with_name(f"{names[1]}.jsonl"), copy)
    with opened(tmp_path / "store") as memory:
        report = bring(memory, file.parent, CLAUDE)
        assert (report.messages, report.messages_there) == (8, 6)
        sessions = held(memory)
        assert [bare(message) for message, _ in sessions[names[0]]][:-1] == TOLD
        assert [bare(message) for message, _ in sessions[names[1]]][:-1] == TOLD
        assert [hit.text for hit in memory.recall("zebra", scope="me/past")].count(
            "Where is the zebra?"
        ) == 1
        again = bring(memory, file.parent, CLAUDE)
        assert (again.messages, again.conflicts) == (0, [])
        write(file.with_name(f"{names[1]}.jsonl"), [*copy, record("user", "u31", "u30", "Newer")])
        assert bring(memory, file.parent, CLAUDE).messages == 1
        assert [message for message, _ in held(memory)[names[0]]] == [
            message for message, _ in sessions[names[0]]
        ]


def test_a_file_that_is_a_copy_alone_is_shared_whole(file: Path, tmp_path: Path) -> None:
    write(file, TALK)
    other = file.with_name("ffffffff-1111-2222-3333-444455556666.jsonl")
    with opened(tmp_path / "store") as memory:
        bring(memory, file, CLAUDE)
        report = bring(memory, write(other, TALK[:-1]), CLAUDE)
        assert (report.messages, report.messages_there) == (0, 5)
        assert held(memory)[other.stem] == held(memory)[SESSION][:5]
        assert bring(memory, write(other, TALK), CLAUDE).messages == 1
        assert held(memory)[other.stem] == held(memory)[SESSION]


def test_a_stream_that_is_written_again_with_more_is_one_text(file: Path) -> None:
    records = [
        record("user", "u1", None, "Tell."),
        reply("a2", "u1", "m1", *text("Once")),
        reply("a3", "a2", "m1", *text("Once upon a time")),
        reply("a4", "a3", "m1", call("t1", "Bash", command="l")),
        reply("a5", "a4", "m1", call("t1", "Bash", command="ls")),
    ]
    (messages,) = sessions_of(steps_of(write(file, records), CLAUDE)).values()
    assert messages[1]["content"] == "Once upon a time"
    assert [c["function"]["arguments"] for c in messages[1]["tool_calls"]] == ['{"command": "ls"}']


def test_what_is_said_again_or_shorter_is_a_part_of_its_own(file: Path) -> None:
    records = [
        record("user", "u1", None, "Go."),
        reply("a2", "u1", "m1", *text("Working on it.")),
        reply("a3", "a2", "m1", *text("Working")),
        reply("a4", "a3", "m1", call("t1", "Bash", command="ls")),
        record("user", "u5", "a4", result("t1", "a.py")),
        reply("a6", "u5", "m1", *text("Working")),
        reply("a7", "a6", "m1", call("t2", "Bash", command="cat a.py")),
        reply("a8", "a7", "m1", *text("Working on the rest.")),
    ]
    (messages,) = sessions_of(steps_of(write(file, records), CLAUDE)).values()
    parts = ("Working on it.", "Working", "Working", "Working on the rest.")
    assert messages[1]["content"] == "\n\n".join(parts)


def test_what_the_program_says_by_itself_is_left_out(file: Path) -> None:
    report = Brought()
    records = [
        record("user", "u1", None, "<local-command-caveat>Caveat…", isMeta=True),
        record("user", "u2", "u1", "Caveat: The messages below were generated by the user while"),
        record("user", "u3", "u2", "Hello"),
        reply("a4", "u3", "m4", *text("API Error: 500"), isApiErrorMessage=True),
        record("assistant", "a5", "a4", text("No response."), said={"model": "<synthetic>"}),
        record("user", "u6", "a5", "<system-reminder>", isMeta=True),
        reply("a7", "u6", "m7", *text("Hi.")),
    ]
    (messages,) = sessions_of(steps_of(write(file, records), CLAUDE, report)).values()
    assert spoken(messages) == [("user", "Hello"), ("assistant", "Hi.")]
    assert report.skipped == {"what the program said by itself": 5}


def test_what_is_typed_while_it_works_is_said(file: Path) -> None:
    queued = {"type": "queued_command", "prompt": "And mind the gap", "commandMode": "prompt"}
    told = {"type": "queued_command", "prompt": "<task>", "commandMode": "task-notification"}
    records = [
        record("user", "u1", None, "Hello"),
        {**record("attachment", "x2", "u1", ""), "attachment": queued},
        {**record("attachment", "x3", "x2", ""), "attachment": told},
        {**record("system", "s4", "x3", ""), "subtype": "local_command", "content": "<bash>ls"},
    ]
    (messages,) = sessions_of(steps_of(write(file, records), CLAUDE)).values()
    assert spoken(messages) == [
        ("user", "Hello"), ("user", "And mind the gap"), ("system", "<bash>ls"),
    ]  # fmt: skip


def test_media_are_kept(file: Path) -> None:
    image = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    content = [
        *text("Look:"), {"type": "image", "source": image}, {"type": "document", "source": pdf},
    ]  # fmt: skip
    (messages,) = sessions_of(
        steps_of(write(file, [record("user", "u1", None, content)]), CLAUDE)
    ).values()
    assert messages[0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
    ]


def test_titles_are_found_where_they_are(file: Path) -> None:
    def title(*records: Any) -> Any:
        return abouts_of(steps_of(write(file, [*records, *TALK]), CLAUDE))[SESSION]["title"]

    summary = {"type": "summary", "summary": "Zebras", "leafUuid": "u11"}
    assert title(summary) == "Zebras"
    named = {"type": "ai-title", "aiTitle": "A zoo", "sessionId": SESSION}
    assert title(summary, named) == "A zoo"
    mine = {"type": "custom-title", "customTitle": "Mine", "sessionId": SESSION}
    assert title(summary, mine, named) == "Mine"


def test_bad_lines_are_named_and_the_others_come_in(file: Path) -> None:
    good = lines_of(TALK).encode()
    bad = [
        b'{"type":"user","uuid":7}\n',
        b"not json\n",
        b"[1]\n",
        b'{"type":"user","uuid":"x1","message":[]}\n',
        b'{"type":"assistant","uuid":"x2"}\n',
        b"[" * 5000 + b"\n",
        b'\xff\xfe{"type"\n',
        b"\0" * 512 + b"\n",
        b'{"type":{"odd":1},"uuid":"x3"}\n',
    ]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xef\xbb\xbf" + b"".join(bad) + good + b'{"type":"user","uuid":"u9')
    report = Brought()
    assert sessions_of(steps_of(file, CLAUDE, report)) == {SESSION: TOLD}
    assert [one.where for one in report.damaged] == [f"{file}:{n}" for n in (1, 2, 3, 4, 5, 6, 7)]
    assert [one.where for one in report.unfinished] == [f"{file}:{len(bad) + len(TALK) + 1}"]


def test_half_a_character_is_replaced(file: Path) -> None:
    line = lines_of([record("user", "u1", None, "cut: @@ and 😀 whole")])
    file.parent.mkdir(parents=True)
    file.write_text(line.replace("@@", "\\ud83d"), "utf-8")
    (messages,) = sessions_of(steps_of(file, CLAUDE)).values()
    assert messages == [{"role": "user", "content": "cut: \ufffd and 😀 whole"}]


def test_a_history_that_grew_within_a_reply_is_as_if_it_had_come_whole(
    file: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "whole") as memory:
        bring(memory, write(file, TALK), CLAUDE)
        whole = held(memory)
    for count in range(1, len(TALK)):
        with opened(tmp_path / f"grown{count}") as memory:
            bring(memory, write(file, TALK[:count]), CLAUDE)
            bring(memory, write(file, TALK), CLAUDE)
            assert held(memory) == whole
            # An older copy takes nothing away.
            older = bring(memory, write(file, TALK[:count]), CLAUDE)
            assert (older.messages, older.messages_rewritten, older.conflicts) == (0, 0, [])
            assert held(memory) == whole


def test_places_and_forks_have_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACES_MAX", 20)
    monkeypatch.setattr(claude_code, "LINES_MAX", 3)
    records = [record("user", f"u{n:03}", f"u{n - 1:03}" if n else None, f"{n}") for n in range(90)]
    # One from long ago, of which nothing is known any more; and more forks than are allowed.
    records.append(record("user", "u100", "u000", "late"))
    records += [record("user", f"u2{n:02}", "u085", f"fork {n}") for n in range(4)]
    report = Brought()
    found = sessions_of(steps_of(write(file, records), CLAUDE, report))
    said = [message["content"] for message in found[SESSION]]
    assert said == [*map(str, range(90)), "late", "fork 2", "fork 3"]
    assert sorted(found) == [SESSION, f"{SESSION}~u200", f"{SESSION}~u201"]
    assert report.skipped == {"forks that are too many": 2}
