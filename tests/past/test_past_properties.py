"""Random conversations, written as each program writes them, are read as what they are; and what
comes in by and by is what comes in at once."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from histories import (
    SESSION,
    bring,
    call,
    held,
    lines_of,
    opened,
    record,
    result,
    sessions_of,
    steps_of,
    text,
)
from memopt.past import Format

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
words = st.text("abc xyz,.\n    #1äß日", min_size=1, max_size=40).filter(
    lambda said: said.strip() == said != ""
)
arguments = st.dictionaries(texts, st.none() | st.integers() | texts | st.lists(texts), max_size=3)


@st.composite
def conversations(draw: Any, said: Any = texts) -> list[dict[str, Any]]:
    """Chat messages: prompts, replies with calls, and all of their results."""
    messages: list[dict[str, Any]] = []
    for turn in range(draw(st.integers(1, 5))):
        messages.append({"role": "user", "content": draw(said)})
        for part in range(draw(st.integers(0, 3))):
            calls = [
                {
                    "id": f"t{turn}-{part}-{n}",
                    "type": "function",
                    "function": {"name": "find", "arguments": json.dumps(draw(arguments))},
                }
                for n in range(draw(st.integers(0, 3)))
            ]
            content = draw(said if not calls else st.none() | said)
            message = {"role": "assistant", "content": content}
            messages.append({**message, "tool_calls": calls} if calls else message)
            messages += [
                {"role": "tool", "tool_call_id": one["id"], "content": draw(said)} for one in calls
            ]
    return messages


def core(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all programs keep, with arguments as what they mean."""
    found = []
    for message in messages:
        kept = {name: message.get(name) for name in ("role", "content", "tool_call_id")}
        calls = [
            (one["id"], one["function"]["name"], json.loads(one["function"]["arguments"]))
            for one in message.get("tool_calls") or ()
        ]
        found.append({**kept, "calls": calls})
    return found


def as_claude_code(messages: list[dict[str, Any]], late: bool) -> str:
    """Replies in parts; their results behind them, or behind the part that called."""
    records: list[dict[str, Any]] = []
    results = {one["tool_call_id"]: one for one in messages if one["role"] == "tool"}

    def add(kind: str, content: Any, **more: Any) -> None:
        parent = records[-1]["uuid"] if records else None
        records.append(record(kind, f"r{len(records)}", parent, content, **more))

    for index, message in enumerate(messages):
        if message["role"] == "user":
            add("user", message["content"])
        elif message["role"] == "assistant":
            said = {"id": f"m{index}"}
            if message["content"] is not None:
                add("assistant", text(message["content"]), said=said)
            behind = []
            for one in message.get("tool_calls", ()):
                function = one["function"]
                block = call(one["id"], function["name"])
                block["input"] = json.loads(function["arguments"])
                add("assistant", [block], said=said)
                behind.append(result(one["id"], results[one["id"]]["content"]))
                if not late:
                    add("user", behind.pop())
            for content in behind:
                add("user", content)
    return lines_of(records)


def joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text and the calls behind it are one reply there."""
    found: list[dict[str, Any]] = []
    for message in messages:
        last = found[-1] if found else {}
        is_next = last.get("role") == "assistant" and "tool_calls" not in last
        if is_next and message["role"] == "assistant" and message["content"] is None:
            found[-1] = {**last, "tool_calls": message["tool_calls"]}
        else:
            found.append(message)
    return found


def as_codex(messages: list[dict[str, Any]], bare: bool) -> str:
    items: list[dict[str, Any]] = []
    for message in messages:
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        if message["role"] == "tool":
            id, told = message["tool_call_id"], message["content"]
            items.append({"type": "function_call_output", "call_id": id, "output": told})
        elif message["content"] is not None:
            content = [{"type": kind, "text": message["content"]}]
            items.append({"type": "message", "role": message["role"], "content": content})
        for one in message.get("tool_calls", ()):
            items.append({"type": "function_call", "call_id": one["id"], **one["function"]})
    if bare:
        return lines_of([{"id": "t-1", "timestamp": "2025-05-07T17:24:21Z", "git": {}}, *items])
    meta = {"type": "session_meta", "payload": {"id": "t-1"}}
    return lines_of([meta, *({"type": "response_item", "payload": one} for one in items)])


def as_chatgpt(messages: list[dict[str, Any]]) -> str:
    """A call and what is said beside it are nodes of their own there."""
    mapping: dict[str, Any] = {}
    for index, message in enumerate(messages):
        content = {"content_type": "text", "parts": [message["content"]]}
        mapping[f"n{index}"] = {
            "parent": f"n{index - 1}" if index else None,
            "children": [f"n{index + 1}"] if index + 1 < len(messages) else [],
            "message": {"author": {"role": message["role"]}, "content": content},
        }
    return json.dumps([{"conversation_id": "c-1", "mapping": mapping}])


def as_markdown(messages: list[dict[str, Any]], bold: bool) -> str:
    names = {"user": "User", "assistant": "Assistant"}
    mark = "**{}:**\n\n{}\n\n" if bold else "## {}\n\n{}\n\n"
    return "".join(mark.format(names[one["role"]], one["content"]) for one in messages)


def read_back(name: str, format: Format, written: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(written.encode())
        ((_, messages),) = sessions_of(steps_of(file, format)).items()
    return messages


@given(conversations(), st.booleans())
def test_what_claude_code_wrote_is_read(messages: list[dict[str, Any]], late: bool) -> None:
    found = read_back(f"{SESSION}.jsonl", Format.CLAUDE_CODE, as_claude_code(messages, late))
    assert core(found) == core(messages)


@given(conversations(), st.booleans())
def test_what_codex_wrote_is_read(messages: list[dict[str, Any]], bare: bool) -> None:
    found = read_back("rollout.jsonl", Format.CODEX, as_codex(messages, bare))
    assert core(found) == core(joined(messages))


@given(conversations())
def test_what_chatgpt_exported_is_read(messages: list[dict[str, Any]]) -> None:
    talk = [one for one in messages if one["role"] != "tool" and "tool_calls" not in one]
    found = read_back("conversations.json", Format.CHATGPT, as_chatgpt(talk))
    assert core(found) == core(talk)


@given(conversations(words), st.booleans())
def test_what_is_written_as_markdown_is_read(messages: list[dict[str, Any]], bold: bool) -> None:
    talk = [one for one in messages if one["role"] != "tool" and "tool_calls" not in one]
    found = read_back("talk.md", Format.MARKDOWN, as_markdown(talk, bold))
    assert core(found) == core(talk)


@st.composite
def logs(draw: Any) -> bytes:
    """Records of Claude Code with parents anywhere before them, replies in parts, subagents."""
    records: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 14))):
        parent = draw(st.sampled_from([None, *(one["uuid"] for one in records[-5:])]))
        kind = draw(st.sampled_from(["user", "user", "assistant", "assistant", "result", "meta"]))
        more: dict[str, Any] = {"isSidechain": True} if draw(st.integers(0, 7)) == 0 else {}
        name = f"{index:02}{draw(st.sampled_from('ab'))}"
        if kind == "assistant":
            block = draw(st.sampled_from([*text(f"say {index}"), call(f"t{index % 3}", "find")]))
            more["said"] = {"id": f"m{draw(st.integers(0, index)) // 2}"}
            records.append(record("assistant", name, parent, [block], **more))
        elif kind == "result":
            content = result(f"t{draw(st.integers(0, 2))}", f"found {index}")
            records.append(record("user", name, parent, content, **more))
        elif kind == "meta":
            records.append(record("progress", name, parent, ""))
        else:
            records.append(record("user", name, parent, f"ask {index}", **more))
    return lines_of(records).encode()


@settings(max_examples=40)
@given(logs(), st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
def test_what_comes_in_by_and_by_is_what_comes_in_at_once(log: bytes, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{SESSION}.jsonl")
        with opened(Path(folder, "store")) as memory:
            file.write_bytes(log)
            bring(memory, file, Format.CLAUDE_CODE, "whole")
            whole = held(memory, "whole")
            for length in sorted(cut % (len(log) + 1) for cut in cuts):
                file.write_bytes(log[:length])
                bring(memory, file, Format.CLAUDE_CODE, "grown")
            file.write_bytes(log)
            assert bring(memory, file, Format.CLAUDE_CODE, "grown").conflicts == []
            assert held(memory, "grown") == whole
            again = bring(memory, file, Format.CLAUDE_CODE, "grown")
            assert (again.messages, again.messages_changed) == (0, 0)
            assert held(memory, "grown") == whole
