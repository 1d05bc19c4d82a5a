"""Histories as other programs keep them, of any size, for what is measured of an import.

Made from coding trajectories: each conversation is taken as often as is needed, and each of its
messages bears a word of its own, so no two are alike. Claude Code: replies in parts, results in
users' records, a progress record between. Codex: items in envelopes, with what was shown beside
them. ChatGPT: one array of trees in one file. Not here: forks, subagents, media.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from memopt.base.records import Message
from memopt.bench import data
from memopt.past import Format

_FOLDER_CONVERSATIONS: Final = 8
_HEAD_CHARS: Final = 200
"""A word lies within so many characters, where what is indexed of a long output reaches."""
_SECONDS_APART: Final = 7
_BEGUN: Final = 1_750_000_000


def make(
    folder: Path, files: tuple[Path, ...], size_bytes: int, format: Format
) -> tuple[dict[str, Any], list[str]]:
    """Write a history of so many bytes; what is in it, and the words of its messages."""
    conversations = data.load(files)
    written = messages = count = 0
    words: list[str] = []
    while written < size_bytes:
        session = str(uuid.UUID(int=count + 1, version=4))
        conversation = conversations[count % len(conversations)]
        path, body = _WRITERS[format](folder, conversation, session, count)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(body)
        written += len(body)
        messages += len(conversation)
        words += [word_of(count, n) for n, one in enumerate(conversation) if _marked(one, "")]
        count += 1
    if format is Format.CHATGPT:
        with path.open("ab") as file:
            file.write(b"]")
    return {"history_bytes": written, "conversations": count, "messages": messages}, words


def word_of(conversation: int, message: int) -> str:
    """The word that no other message bears."""
    return f"qx{conversation}zw{message}"


def _records(
    conversation: data.Conversation, session: str, number: int
) -> Iterator[dict[str, Any]]:
    parent: str | None = None
    yield {"type": "file-history-snapshot", "messageId": session, "snapshot": {}}
    for index, message in enumerate(conversation):
        at = _time(number, index)
        for part, (kind, said) in enumerate(_parts(message, number, index)):
            name = str(uuid.UUID(int=(number << 40) + (index << 8) + part, version=4))
            yield {
                "parentUuid": parent, "isSidechain": False, "userType": "external",
                "cwd": "/work/project", "sessionId": session, "version": "2.1.81",
                "gitBranch": "main", "type": kind, "message": said, "uuid": name, "timestamp": at,
            }  # fmt: skip
            parent = name
        yield {"type": "progress", "sessionId": session, "data": {"type": "hook_progress"}}


def _parts(
    message: Message, number: int, index: int
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """The records of one message: a reply is one for its text and one for each call."""
    text = _marked(message, word_of(number, index))
    if message.get("role") == "tool":
        block = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": text}
        yield "user", {"role": "user", "content": [block]}
    elif message.get("role") != "assistant":
        yield "user", {"role": "user", "content": text}
    else:
        envelope = {"role": "assistant", "id": f"msg_{number}_{index}", "model": "model-x"}
        if text:
            yield "assistant", {**envelope, "content": [{"type": "text", "text": text}]}
        for call in message.get("tool_calls") or ():
            block = {
                "type": "tool_use", "id": call["id"], "name": call["function"]["name"],
                "input": {"arguments": call["function"]["arguments"]},
            }  # fmt: skip
            yield "assistant", {**envelope, "content": [block]}


def _marked(message: Message, word: str) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not content:
        return ""
    at = content.find(" ", 0, _HEAD_CHARS)
    return f"{content[:at]} {word}{content[at:]}" if at > 0 else f"{word} {content}"


def _claude_code(
    folder: Path, conversation: data.Conversation, session: str, number: int
) -> tuple[Path, bytes]:
    path = folder / f"-work-{number // _FOLDER_CONVERSATIONS}" / f"{session}.jsonl"
    return path, _lines(_records(conversation, session, number))


def _codex(
    folder: Path, conversation: data.Conversation, session: str, number: int
) -> tuple[Path, bytes]:
    day = time.strftime("%Y/%m/%d", time.gmtime(_BEGUN + 86_400 * number))
    path = folder / day / f"rollout-2025-06-15T10-00-00-{session}.jsonl"
    return path, _lines(_items(conversation, session, number))


def _items(conversation: data.Conversation, session: str, number: int) -> Iterator[dict[str, Any]]:
    yield {"type": "session_meta", "payload": {"id": session, "cwd": "/work/project"}}
    for index, message in enumerate(conversation):
        text = _marked(message, word_of(number, index))
        at = _time(number, index)
        role = message.get("role")
        if role == "tool":
            call = message.get("tool_call_id")
            told = {"type": "function_call_output", "call_id": call, "output": text}
            yield {"timestamp": at, "type": "response_item", "payload": told}
            continue
        if text:
            kind = "output_text" if role == "assistant" else "input_text"
            role = role if role == "assistant" else "user"
            content = [{"type": kind, "text": text}]
            said = {"type": "message", "role": role, "content": content}
            yield {"timestamp": at, "type": "response_item", "payload": said}
            shown = {"type": "agent_message", "message": text[:_HEAD_CHARS]}
            yield {"timestamp": at, "type": "event_msg", "payload": shown}
        for call in message.get("tool_calls") or ():
            asked = {"type": "function_call", "call_id": call["id"], **call["function"]}
            yield {"timestamp": at, "type": "response_item", "payload": asked}


def _chatgpt(
    folder: Path, conversation: data.Conversation, session: str, number: int
) -> tuple[Path, bytes]:
    ids = [f"{session}-{index}" for index in range(len(conversation))]
    mapping = {}
    for index, message in enumerate(conversation):
        text = _marked(message, word_of(number, index)) or " "
        role = message.get("role")
        author = {"role": "user" if role == "system" else role, "name": None}
        mapping[ids[index]] = {
            "id": ids[index], "parent": ids[index - 1] if index else None,
            "children": ids[index + 1 : index + 2],
            "message": {
                "id": ids[index], "author": author, "status": "finished_successfully",
                "create_time": _BEGUN + 86_400.0 * number + index * _SECONDS_APART,
                "content": {"content_type": "text", "parts": [text]}, "weight": 1.0,
                "metadata": {"model_slug": "model-x"}, "recipient": "all",
            },
        }  # fmt: skip
    talk = {
        "title": f"Talk {number}", "conversation_id": session, "mapping": mapping,
        "current_node": ids[-1] if ids else None,
    }  # fmt: skip
    return folder / "conversations.json", (b"," if number else b"[") + msgspec.json.encode(talk)


def _lines(records: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in records)


def _time(number: int, index: int) -> str:
    at = _BEGUN + 86_400 * number + index * _SECONDS_APART
    return time.strftime("%Y-%m-%dT%H:%M:%S.250Z", time.gmtime(at))


_WRITERS: Final[dict[Format, Callable[..., tuple[Path, bytes]]]] = {
    Format.CLAUDE_CODE: _claude_code, Format.CODEX: _codex, Format.CHATGPT: _chatgpt,
}  # fmt: skip
