"""ChatGPT's data export: conversations.json, in parts in newer ones, or the archive with it.

A conversation is a tree of nodes: who edits a prompt or asks for another reply makes a branch. The
first child of a node goes on with its session, the others begin forks, in the order in which they
were made; so a later export of the same conversation only adds. Which session ends in what is
shown is kept with it as `current`.

    <conversation>            what was said first
    <conversation>~<node>     a fork: what was said instead, from there on

Read from exports of 2023 to 2026 as they are described; there is no contract. Not here: images and
other files of the archive, which are named where they were; custom instructions.
"""

import re
from collections.abc import Iterator
from typing import IO, Any, Final, TypeVar

import msgspec

from memopt.base.records import Message
from memopt.base.units import MIB
from memopt.past.files import READ_ERRORS, Source
from memopt.past.json_array import objects
from memopt.past.parsing import PARSE_ERRORS, parsed, reason_of, text_of, time_of
from memopt.past.records import ORIGIN, About, Begin, Brought, Say, Step
from memopt.past.replies import arguments_as_told
from memopt.past.room import Room

T = TypeVar("T")

CONVERSATION_BYTES_MAX: Final = 32 * MIB
_FORK_CHARS: Final = 8
_HIDDEN: Final = frozenset({"user_editable_context", "model_editable_context", "system_error"})
_ATTACHED_MAX: Final = 100
"""Files of one message that are named."""
_REFERENCE: Final = re.compile(
    "\ue200([^\ue200-\ue202]{0,80})(?:\ue202([^\ue200\ue201]{0,4000}))?\ue201"
)
"""What is drawn as a link or a picture, between characters that mean nothing elsewhere."""


class Author(msgspec.Struct):
    role: Any = None
    name: Any = None


class Metadata(msgspec.Struct):
    model_slug: Any = None
    is_visually_hidden_from_conversation: Any = None
    attachments: Any = None


class Said(msgspec.Struct):
    id: Any = None
    author: Author | None = None
    create_time: Any = None
    content: Any = None
    recipient: Any = None
    metadata: Metadata | None = None


class Node(msgspec.Struct):
    parent: str | None = None
    children: list[str] | None = None
    message: Said | None = None


class Conversation(msgspec.Struct):
    mapping: dict[str, Node | None]
    id: str | None = None
    conversation_id: str | None = None
    title: Any = None
    current_node: Any = None
    gizmo_id: Any = None
    is_archived: Any = None


_CONVERSATIONS: Final = msgspec.json.Decoder(Conversation)


def is_mine(head: bytes) -> bool:
    """Whether a JSON file begins like one of these."""
    return b'"mapping"' in head and (b'"parent"' in head or b'"current_node"' in head)


def read(
    source: Source, stream: IO[bytes], report: Brought, room: Room
) -> Iterator[Step]:  # fmt: skip
    """The conversations of one file."""

    for where, conversation in conversations(source, stream, report, room, _CONVERSATIONS):
        name = conversation.conversation_id or conversation.id
        if name is None:
            report.damage(where, "it has no id")
        elif is_wanted(conversation, source, report):
            yield from Tree(conversation, name, where, report).steps()
        del conversation


def is_wanted(conversation: Conversation, source: Source, report: Brought) -> bool:
    """Whether something was said in it since the time that was asked for."""
    if source.since is None:
        return True
    messages = (node.message for node in conversation.mapping.values() if node is not None)
    times = [time_of(message.create_time) for message in messages if message is not None]
    last = max((time for time in times if time is not None), default=None)
    if last is None or last >= source.since:
        return True
    report.skip("conversations from before the time that was asked for")
    return False


def conversations(
    source: Source, stream: IO[bytes], report: Brought, room: Room,
    decoder: "msgspec.json.Decoder[T]",
) -> Iterator[tuple[str, T]]:  # fmt: skip
    """The conversations of an array and where they are. What is damaged is noted.

    One at a time: whoever takes one has to let go of it before the next."""

    def where(number: int) -> str:
        return f"{source.name}: conversation {number}"

    found = objects(
        stream, room, bytes_max=CONVERSATION_BYTES_MAX,
        left_out=lambda number, reason: report.damage(where(number), reason),
        cut_off=lambda number: report.damage(where(number), "the file ends within it"),
    )  # fmt: skip
    try:
        for number, body in found:
            try:
                conversation = parsed(body, decoder)
            except PARSE_ERRORS as error:
                report.damage(where(number), reason_of(error))
                continue
            del body
            yield where(number), conversation
            del conversation
    except READ_ERRORS as error:
        report.damage(source.name, f"the file is damaged: {error}")


class _Branch:
    """A line of nodes that becomes a session."""

    def __init__(self, session: str, parent: "_Branch | None", position: int) -> None:
        self.session = session
        self.parent = parent
        self.position = position
        self.count = position
        self.is_begun = False
        self.asked: dict[str, tuple[str, int]] = {}
        """Calls that wait for their result: of which tool, and where."""
        if parent is not None:
            self.asked = {name: one for name, one in parent.asked.items() if one[1] < position}


class Tree:
    """The sessions of one conversation: what was said first, and forks of it."""

    def __init__(
        self, conversation: Conversation, name: str, where: str, report: Brought,
        *, format: str = "chatgpt",
    ) -> None:  # fmt: skip
        self._format = format
        self._nodes = conversation.mapping
        self._conversation = conversation
        self._name = name
        self._where = where
        self._report = report
        self._current: str | None = None
        self._branches: list[_Branch] = []

    def steps(self) -> Iterator[Step]:
        children = self._children()
        seen: set[str] = set()
        waiting: list[tuple[str, _Branch | None, int]] = [
            (root, None, 0) for root in reversed(children.pop(None, []))
        ]
        while waiting:
            start, parent, position = waiting.pop()
            branch = self._branch(start, parent, position)
            node: str | None = start
            behind: list[tuple[str, _Branch | None, int]] = []
            while node is not None and node not in seen:
                seen.add(node)
                yield from self._node(node, branch)
                if node == self._conversation.current_node:
                    self._current = branch.session if branch.is_begun or parent is None else None
                below = children.get(node, [])
                behind += [(other, branch, branch.count) for other in below[1:]]
                node = below[0] if below else None
            waiting += reversed(behind)
        unreached = len(self._nodes) - len(seen)
        if unreached > 0:
            self._report.skip("nodes that no root leads to", unreached)
        yield from self._describe()

    def _children(self) -> dict[str | None, list[str]]:
        """By their parent: in the order that it names, then those that it does not name."""
        children: dict[str | None, list[str]] = {None: []}
        for name, node in self._nodes.items():
            known = node.children if node is not None else None
            children[name] = [
                one for one in dict.fromkeys(known or ()) if one in self._nodes and one != name
            ]
        named = {one for ones in children.values() for one in ones}
        for name, node in self._nodes.items():
            parent = node.parent if node is not None else None
            if name not in named:
                children[parent if parent in self._nodes and parent != name else None].append(name)
        return children

    def _branch(self, start: str, parent: _Branch | None, position: int) -> _Branch:
        while parent is not None and (not parent.is_begun or position <= parent.position):
            # It shares nothing with that which the one before does not have, too.
            parent = parent.parent
        is_first = not self._branches
        session = self._name if is_first else f"{self._name}~{start[:_FORK_CHARS]}"
        branch = _Branch(session, parent, position if parent is not None else 0)
        self._branches.append(branch)
        return branch

    def _node(self, name: str, branch: _Branch) -> Iterator[Step]:
        node = self._nodes[name]
        said = node.message if node is not None else None
        if said is None:
            return
        message = self._message(name, said, branch)
        if message is None:
            return
        if not branch.is_begun:
            branch.is_begun = True
            parent = branch.parent.session if branch.parent and branch.position else None
            yield Begin(branch.session, parent, branch.position if parent else 0)
        branch.count += 1
        message[ORIGIN] = {"ids": [name]}
        where = f"{self._where}, node {name}"
        yield Say(branch.session, message, time_of(said.create_time), where)

    def _message(self, name: str, said: Said, branch: _Branch) -> Message | None:
        """None for what is no part of the conversation."""
        author = said.author or Author()
        role = text_of(author.role)
        content = said.content if isinstance(said.content, dict) else {}
        kind = text_of(content.get("content_type"))
        metadata = said.metadata or Metadata()
        hidden = metadata.is_visually_hidden_from_conversation
        if kind in _HIDDEN or (role == "user" and hidden is True) or (
            role == "system" and hidden is not False
        ):  # fmt: skip
            self._report.skip("what the program said by itself")
            return None
        if kind == "reasoning_recap":
            self._report.skip("how long a model thought")
            return None
        message: Message = {"role": role or "user", "content": None}
        if isinstance(metadata.model_slug, str):
            message["model"] = metadata.model_slug
        message["id"] = name
        if kind == "thoughts":
            message["reasoning_content"] = _thoughts(content)
            return message if message["reasoning_content"] else None
        told = _with_attachments(_content(content, kind), metadata.attachments)
        if not told:
            self._report.skip("nodes without text")
            return None
        if role == "assistant" and said.recipient not in (None, "all"):
            tool = text_of(said.recipient)
            branch.asked[name] = (tool, branch.count)
            function = {"name": tool, "arguments": arguments_as_told(told)}
            message["tool_calls"] = [{"id": name, "type": "function", "function": function}]
            return message
        if role == "tool":
            call = _call_of(text_of(author.name), branch.asked)
            if call is None:
                # A result that nobody asked for, such as a file that was opened beforehand.
                message["name"] = text_of(author.name)
            else:
                message["tool_call_id"] = call
        message["content"] = told
        return message

    def _describe(self) -> Iterator[Step]:
        conversation = self._conversation
        for branch in self._branches:
            if not branch.is_begun:
                continue
            about: dict[str, Any] = {"format": self._format, "title": conversation.title}
            about["gpt"] = conversation.gizmo_id
            if branch.parent is not None:
                about |= {"fork_of": branch.parent.session, "fork_at": branch.position}
            elif self._current != branch.session:
                about["current"] = self._current
            yield About(branch.session, about)


def _call_of(tool: str, asked: dict[str, tuple[str, int]]) -> str | None:
    """The last call of a tool. It may give several results."""
    for call, (name, _) in reversed(asked.items()):
        if name == tool or name.split(".")[0] == tool.split(".")[0]:
            return call
    return None


def _thoughts(content: dict[str, Any]) -> str:
    thoughts = content.get("thoughts")
    texts = [
        "\n".join(text_of(one.get(field)) for field in ("summary", "content") if one.get(field))
        for one in (thoughts if isinstance(thoughts, list) else [])
        if isinstance(one, dict)
    ]
    return "\n\n".join(text for text in texts if text)


def _content(content: dict[str, Any], kind: str) -> str | list[dict[str, Any]]:
    parts = content.get("parts")
    if not isinstance(parts, list):
        fields = ("title", "url", "text", "result", "content", "summary")
        return "\n".join(text_of(content[field]) for field in fields if content.get(field))
    told: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            text: Any = part
        elif isinstance(part, dict):
            text = part.get("text") or part.get("content")
            if not isinstance(text, str):
                told.append(_media(part))
                continue
        else:
            text = text_of(part)
        if text:
            told.append({"type": "text", "text": _REFERENCE.sub(_shown, text)})
    if all(one["type"] == "text" for one in told):
        return "\n\n".join(one["text"] for one in told)
    return told


def _shown(reference: re.Match[str]) -> str:
    """What a reference shows: of a person or a place the name, of a source nothing."""
    try:
        fields = msgspec.json.decode(reference[2] or "null")
    except (msgspec.DecodeError, RecursionError):
        return ""
    is_named = isinstance(fields, list) and len(fields) > 1 and isinstance(fields[1], str)
    return fields[1] if is_named else ""


def _with_attachments(
    told: str | list[dict[str, Any]], attachments: Any
) -> str | list[dict[str, Any]]:
    """With the names of the files that were sent along, so that they can be found by them."""
    found = attachments[:_ATTACHED_MAX] if isinstance(attachments, list) else []
    names = [text_of(one.get("name")) for one in found if isinstance(one, dict)]
    text = "\n".join(f"[attached: {name}]" for name in names if name)
    if not text:
        return told
    if isinstance(told, str):
        return f"{told}\n\n{text}" if told else text
    return [*told, {"type": "text", "text": text}]


def _media(part: dict[str, Any]) -> dict[str, Any]:
    """A file of the archive, by its name there."""
    pointer = part.get("asset_pointer") or part.get("audio_asset_pointer")
    if isinstance(pointer, dict):
        pointer = pointer.get("asset_pointer")
    if "image" in text_of(part.get("content_type")):
        return {"type": "image_url", "image_url": {"url": text_of(pointer)}}
    kept = {"content_type": text_of(part.get("content_type")), "pointer": text_of(pointer)}
    return {"type": "file", "file": kept}
