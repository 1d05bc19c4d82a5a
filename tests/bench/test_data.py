"""Conversations come in as they are, or with the file and line of what is wrong."""

import gzip
from pathlib import Path

import msgspec
import pytest

from memopt.base.errors import UsageError
from memopt.bench import data


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_messages_come_back_as_they_are_written(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "héllo", "extra": {"deep": [1, None, 2.5]}}]
    file = written(tmp_path / "a.jsonl", msgspec.json.encode({"id": "x", "messages": messages}))
    assert data.load([file]) == (tuple(messages),)


def test_a_gzipped_file_is_known_by_its_bytes_and_not_its_name(tmp_path: Path) -> None:
    line = b'{"messages": [{"role": "user", "content": "hi"}]}\n'
    file = tmp_path / "plain-name"
    file.write_bytes(gzip.compress(line * 3))
    assert len(data.load([file])) == 3


def test_blank_lines_and_conversations_without_a_message_are_left_out(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.jsonl", b"", b'{"messages": []}', b'{"messages": [{"a": 1}]}', b" "
    )
    assert data.load([file]) == (({"a": 1},),)


def test_flat_tool_calls_become_openais() -> None:
    flat = {"id": "c1", "name": "look_up", "arguments": {"id": 7, "name": "é"}}
    message = {"role": "assistant", "content": None, "tool_calls": [flat]}
    [call] = data.normalised(message)["tool_calls"]
    assert call["id"] == "c1"
    assert call["type"] == "function"
    assert call["function"]["name"] == "look_up"
    assert msgspec.json.decode(call["function"]["arguments"]) == {"id": 7, "name": "é"}
    assert set(call) == {"id", "type", "function"}
    assert message["tool_calls"] == [flat], "the source was changed"


def test_string_arguments_are_kept_to_the_letter() -> None:
    text = 'cd "$(which python)" # {not: json}'
    call = {"id": None, "name": "bash", "arguments": text}
    [turned] = data.normalised({"tool_calls": [call]})["tool_calls"]
    assert turned["function"]["arguments"] == text


def test_openais_tool_calls_and_other_fields_stay() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "tool_calls": [call], "refusal": None}
    assert data.normalised(message) == message
    assert data.normalised({"tool_calls": "not a list"}) == {"tool_calls": "not a list"}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"messages": {}}',
        b'{"messages": ["text"]}',
        b'{"messages": [{"a": NaN}]}',
        b'{"messages": [{"a": "\xff"}]}',
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, line: bytes) -> None:
    file = written(tmp_path / "bad.jsonl", b'{"messages": [{"a": 1}]}', b"", line)
    with pytest.raises(UsageError, match=r"bad\.jsonl:3"):
        data.load([file])


def test_a_file_that_is_not_there_and_one_that_is_cut_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        data.load([tmp_path / "absent.jsonl"])
    whole = gzip.compress(b'{"messages": [{"a": 1}]}\n' * 5000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cut\.gz"):
        data.load([tmp_path / "cut.gz"])


def test_files_without_a_conversation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not one conversation"):
        data.load([written(tmp_path / "empty.jsonl", b"")])


def test_the_data_directory_can_be_named(tmp_path: Path) -> None:
    assert data.directory({"MEMOPT_DATA": str(tmp_path)}) == tmp_path


def test_the_shipped_sample_can_be_read() -> None:
    conversations = data.load([data.SAMPLE])
    assert len(conversations) >= 10
    assert all(message.get("role") for messages in conversations for message in messages)


def test_real_trajectories_can_be_read() -> None:
    file = data.find("trajectories/tau_bench.jsonl.gz")
    if file is None:
        pytest.skip("the real conversations are not on this machine")
    conversations = data.load([file])
    assert len(conversations) == 315
    calls = [
        call
        for messages in conversations
        for message in messages
        for call in message.get("tool_calls", ())
    ]
    assert calls
    assert all(isinstance(call["function"]["arguments"], str) for call in calls)
