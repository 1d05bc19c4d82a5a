"""Open WebUI's export of chats: a JSON array, each with its messages as a tree.

Read as its documentation has it, in the standard form and in the older one without `chat`. Branches
become forks as those of ChatGPT do. Not here: files and sources that a message was given.
"""

from collections.abc import Iterator
from typing import IO, Any, Final

import msgspec

from memopt.past.chatgpt import (
    Author,
    Conversation,
    Metadata,
    Node,
    Said,
    Tree,
    conversations,
    is_wanted,
)  # fmt: skip
from memopt.past.files import Source
from memopt.past.parsing import text_of
from memopt.past.records import Brought, Step
from memopt.past.room import Room


class _Message(msgspec.Struct, rename="camel"):
    parent_id: str | None = None
    children_ids: list[str] | None = None
    role: Any = None
    content: Any = None
    model: Any = None
    timestamp: Any = None


class _History(msgspec.Struct, rename="camel"):
    messages: dict[str, _Message | None]
    current_id: Any = None


class _Chat(msgspec.Struct):
    history: _History
    id: str | None = None
    title: Any = None


class _Exported(msgspec.Struct):
    chat: _Chat | None = None
    history: _History | None = None
    id: str | None = None
    title: Any = None


_EXPORTED: Final = msgspec.json.Decoder(_Exported)


def is_mine(head: bytes) -> bool:
    """Whether a JSON file begins like one of these."""
    return b'"history"' in head and b'"childrenIds"' in head


def read(
    source: Source, stream: IO[bytes], report: Brought, room: Room
) -> Iterator[Step]:  # fmt: skip
    """The chats of one file."""
    for where, exported in conversations(source, stream, report, room, _EXPORTED):
        found = _named(exported)
        del exported
        if found is None:
            report.damage(where, "it has no history, or no id")
        elif is_wanted(found[1], source, report):
            yield from Tree(found[1], found[0], where, report, format="open-webui").steps()
        del found


def _named(exported: _Exported) -> tuple[str, Conversation] | None:
    chat = exported.chat
    history = chat.history if chat is not None else exported.history
    # What was written by hand may have no id: its first message has one.
    name = exported.id or (chat.id if chat is not None else None)
    if history is not None and name is None:
        name = next(iter(history.messages), None)
    if history is None or not name:
        return None
    mapping = {key: _node(message) for key, message in history.messages.items()}
    title = exported.title or (chat.title if chat is not None else None)
    return name, Conversation(mapping=mapping, title=title, current_node=history.current_id)


def _node(message: _Message | None) -> Node | None:
    if message is None:
        return None
    content = {"content_type": "text", "parts": [text_of(message.content)]}
    said = Said(
        author=Author(role=message.role), create_time=message.timestamp, content=content,
        metadata=Metadata(model_slug=message.model, is_visually_hidden_from_conversation=False),
    )  # fmt: skip
    return Node(parent=message.parent_id, children=message.children_ids, message=said)
