"""Codex' rollouts: ~/.codex/sessions/YYYY/MM/DD/rollout-<time>-<thread>.jsonl, packed too.

A file holds two logs in one: `response_item`, what the model was sent and said, and `event_msg`,
what was shown. The first is read; of the second, that turns were taken back. Lines are
`{timestamp, type, payload}`; older versions wrote the items bare behind a header without a type.

    <thread>                  what was said first
    <thread>~<line>           a fork: what was said after turns were taken back

Read from the program's source (protocol and rollout, 2025 to 2026). Not here: reasoning that is
encrypted, instructions that the program puts before each conversation.
"""

import re
from collections.abc import Iterator
from typing import IO, Any, Final

import msgspec

from memopt.past.files import Source
from memopt.past.logs import Log
from memopt.past.parsing import parsed, text_of, time_of
from memopt.past.places import LINES_MAX, OTHER, PROMPT, RESULT, Line
from memopt.past.records import ORIGIN, Brought, Step
from memopt.past.replies import Reply, arguments_as_told
from memopt.past.room import Room

_THREAD: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_ENVELOPES: Final = frozenset(
    {"session_meta", "response_item", "event_msg", "turn_context", "compacted", "world_state"}
)
_ITEMS: Final = frozenset(
    {
        "message", "reasoning", "function_call", "function_call_output", "custom_tool_call",
        "custom_tool_call_output", "local_shell_call",
    }
)  # fmt: skip
_SCAFFOLDING: Final = (
    "<environment_context>", "<user_instructions>", "<permissions instructions>",
    "# AGENTS.md instructions", "<skills_instructions>", "<turn_aborted>", "<INSTRUCTIONS>",
    "<collaboration_mode>", "<apps_instructions>", "<plugins_instructions>",
)  # fmt: skip
"""How what the program says in the user's name begins."""
_CALLERS_MAX: Final = 10_000


class _Line(msgspec.Struct):
    timestamp: Any = None
    ordinal: Any = None
    type: str | None = None
    payload: Any = None
    record_type: Any = None


_LINES: Final = msgspec.json.Decoder(_Line)
_ANY: Final = msgspec.json.Decoder()


def is_mine(record: dict[str, Any]) -> bool:
    """Whether a line of a JSONL file looks like one of these."""
    kind = record.get("type")
    if kind is not None and not isinstance(kind, str):
        return False
    if kind in _ENVELOPES and "payload" in record:
        return True
    if record.get("record_type") == "state":
        return True
    if kind is None:
        return isinstance(record.get("id"), str) and "timestamp" in record and (
            "instructions" in record or "git" in record
        )  # fmt: skip
    return kind in _ITEMS and ("role" in record or "call_id" in record or "summary" in record)


def read(
    source: Source, stream: IO[bytes], report: Brought, room: Room
) -> Iterator[Step]:  # fmt: skip
    """The session of one file."""
    yield from _Reader(source, report, room).steps(stream)


class _Reader(Log):
    def __init__(self, source: Source, report: Brought, room: Room) -> None:
        super().__init__(source, report, room)
        self._callers: dict[str, Line] = {}
        self._about_it: dict[str, Any] = {}
        self._thread: str | None = None
        self._model: str | None = None
        self._first_ordinal = 0
        """Of a subagent's own lines: those before it are a copy of the other's."""
        self._begun: Any = None
        """When, of an older version, which does not say it of each item."""

    def _take(self, line: bytes, number: int, where: str) -> Iterator[Step]:
        record = parsed(line, _LINES)
        bare = None
        if record.payload is None and record.type not in _ENVELOPES:
            bare = parsed(line, _ANY)
        yield from self._record(record, bare, number, where, len(line))

    def _known(self, line: Line) -> dict[str, Any]:
        return {"format": "codex", **self._about_it}

    def _record(
        self, record: _Line, bare: Any, number: int, where: str, size: int
    ) -> Iterator[Step]:
        if isinstance(record.ordinal, int) and 0 < record.ordinal < self._first_ordinal:
            self._report.skip("what a subagent was told of before")
            return
        at = record.timestamp or self._begun
        payload = record.payload if isinstance(record.payload, dict) else {}
        if isinstance(bare, dict) and record.record_type is None:
            if record.type is None and isinstance(bare.get("id"), str):
                self._meta(bare)
            elif record.type is not None:
                yield from self._item(bare, at, number, where, size)
            else:
                self._report.skip("lines without a type")
        elif record.type == "session_meta":
            self._meta(payload)
        elif record.type == "turn_context":
            model = payload.get("model")
            self._model = model if isinstance(model, str) else self._model
        elif record.type == "response_item":
            yield from self._item(payload, at, number, where, size)
        elif record.type == "event_msg" and payload.get("type") == "thread_rolled_back":
            yield from self._roll_back(payload.get("num_turns"), number)
        else:
            kind = text_of(record.type) or text_of(record.record_type)
            inner = f"/{text_of(payload.get('type'))}" if payload.get("type") else ""
            self._report.skip(f"lines of type {kind}{inner}")

    def _meta(self, payload: dict[str, Any]) -> None:
        """Of the first one: a fork holds those of what it is a fork of, too."""
        thread = payload.get("id") or payload.get("session_id")
        if self._thread is not None or not isinstance(thread, str):
            return
        self._thread = thread
        self._begun = payload.get("timestamp")
        first = payload.get("subagent_history_start_ordinal")
        self._first_ordinal = first if isinstance(first, int) else 0
        git = payload.get("git") if isinstance(payload.get("git"), dict) else {}
        assert isinstance(git, dict)
        for name, value in (
            ("cwd", payload.get("cwd")), ("version", payload.get("cli_version")),
            ("git_branch", git.get("branch")), ("forked_from", payload.get("forked_from_id")),
            ("agent_of", payload.get("parent_thread_id")),
        ):  # fmt: skip
            if isinstance(value, str):
                self._about_it[name] = value

    # -- what is said -----------------------------------------------------------------------------

    def _item(
        self, item: dict[str, Any], at: Any, number: int, where: str, size: int
    ) -> Iterator[Step]:
        kind = text_of(item.get("type"))
        line = self._current()
        if kind == "message":
            yield from self._message(line, item, at, number, where)
        elif kind == "reasoning":
            reply = yield from self._reply(line, at, number, where, is_new=_is_over)
            for part in _list(item.get("summary")) + _list(item.get("content")):
                reply.think(text_of(part.get("text")) if isinstance(part, dict) else "")
        elif kind.endswith("_output") or kind == "tool_search_output":
            yield from self._result(item, at, number, where, size)
        elif kind.endswith("_call"):
            call = text_of(item.get("call_id") or item.get("id")) or f"call-{number}"
            name = item.get("name") or kind.removesuffix("_call")
            arguments = item.get("arguments", item.get("input", item.get("action")))
            reply = yield from self._reply(line, at, number, where, is_new=_has_ended)
            reply.call(call, text_of(name), arguments_as_told(arguments))
            if len(self._callers) < _CALLERS_MAX:
                self._callers[call] = line
        else:
            self._report.skip(f"items of type {kind}")

    def _message(
        self, line: Line, item: dict[str, Any], at: Any, number: int, where: str
    ) -> Iterator[Step]:
        role = item.get("role")
        content = _content(item.get("content"), self._report)
        text = content if isinstance(content, str) else ""
        if role in ("developer", "system") or text.lstrip().startswith(_SCAFFOLDING):
            self._report.skip("what the program said by itself")
        elif not content:
            self._report.skip("items without text")
        elif role == "assistant" and isinstance(content, str):
            reply = yield from self._reply(line, at, number, where, is_new=_has_spoken)
            reply.say(content)
        else:
            message: dict[str, Any] = {"role": text_of(role) or "user", "content": content}
            message[ORIGIN] = {"ids": [number]}
            kind = PROMPT if role == "user" else OTHER
            yield from line.say(kind, message, time_of(at), where)

    def _result(
        self, item: dict[str, Any], at: Any, number: int, where: str, size: int
    ) -> Iterator[Step]:
        call = text_of(item.get("call_id"))
        content, is_error = _output(item.get("output", item.get("tools")), self._report)
        message: dict[str, Any] = {"role": "tool", "tool_call_id": call, "content": content}
        if is_error:
            message["is_error"] = True
        message[ORIGIN] = {"ids": [number]}
        line = self._callers.pop(call, None) or self._current()
        reply = line.reply
        if reply is not None and reply.called(call) and not reply.is_full:
            reply.result(message, time_of(at), where, size)
        else:
            yield from line.say(RESULT, message, time_of(at), where)

    def _reply(self, line: Line, at: Any, number: int, where: str, *, is_new: Any) -> Any:
        """The reply that is being put together, or a new one."""
        reply = line.reply
        if reply is None or is_new(reply):
            yield from line.close()
            reply = line.reply = Reply(None, time_of(at), where)
            reply.model = self._model
        reply.came_from(number)
        return reply

    # -- where it is said -------------------------------------------------------------------------

    def _current(self) -> Line:
        if self._last is None:
            found = _THREAD.search(self._source.stem)
            self._thread = self._thread or (found[0] if found else None)
            names = () if self._thread is not None else self._source.names
            name = self._thread or self._source.stem
            self._last = self._places.add(Line(name, names=names, file=self._source.file))
        return self._last

    def _roll_back(self, turns: Any, number: int) -> Iterator[Step]:
        """Turns were taken back: what follows is a fork from before them."""
        line = self._current()
        yield from line.close()
        if not isinstance(turns, int) or turns < 1 or not len(line):
            return
        at = line.before_prompts(turns)
        while line.parent is not None and at <= line.position:
            line = line.parent
        if len(self._places.lines) < LINES_MAX:
            root = self._places.lines[0].session
            self._last = self._places.add(Line(f"{root}~{number}", line, at))


def _has_ended(reply: Reply) -> bool:
    return reply.has_results or reply.is_full


def _has_spoken(reply: Reply) -> bool:
    return reply.has_text or reply.has_calls or _has_ended(reply)


def _is_over(reply: Reply) -> bool:
    return reply.has_text or reply.has_calls or _has_ended(reply)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _content(content: Any, report: Brought) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in _list(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text"):
            parts.append({"type": "text", "text": text_of(part.get("text"))})
        elif kind == "input_image":
            parts.append(
                {"type": "image_url", "image_url": {"url": text_of(part.get("image_url"))}}
            )
        else:
            report.skip(f"parts of type {text_of(kind)}")
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts if part["text"])
    return parts


def _output(output: Any, report: Brought) -> tuple[str | list[dict[str, Any]], bool]:
    """What a tool gave, and whether it failed. Older versions wrapped it, as an object or as JSON
    in a string."""
    if isinstance(output, str) and output[:1] == "{" and '"output"' in output:
        try:
            wrapped = msgspec.json.decode(output)
        except (msgspec.DecodeError, RecursionError):
            wrapped = None
        if isinstance(wrapped, dict) and isinstance(wrapped.get("output"), str):
            told = wrapped.get("metadata")
            code = told.get("exit_code") if isinstance(told, dict) else None
            return wrapped["output"], isinstance(code, int) and code != 0
    if isinstance(output, dict):
        content = output.get("content", output.get("output"))
        inner, _ = _output(content, report)
        return inner, output.get("success") is False
    if isinstance(output, list):
        return _content(output, report), False
    return text_of(output), False
