"""A scripted upstream: an OpenAI-compatible API over real HTTP, whose answers are written down.

It stands where a hosted model would, so that tests and benchmarks can say what the model answers,
how long it takes and how it fails. Everything else is as it is: sockets, chunks, streams, errors.

    with ScriptedUpstream(Answer(text="Hello!")) as upstream:
        client = openai.OpenAI(base_url=upstream.url, api_key="k")

Owns: the protocol as it goes over the wire. Invariant: what was asked is in `requests`, byte for
byte. Not here: whether what was asked makes sense.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

_HEAD_BYTES_MAX: Final = 256 * 1024
_CREATED: Final = 1_700_000_000
_START_SECONDS: Final = 30.0
_STATUS: Final = {
    200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class Answer(msgspec.Struct, kw_only=True):
    """What one call is answered with."""

    text: str | None = "ok"
    pieces: Sequence[str] | None = None
    """The text of a stream, in these pieces; None: one for each word."""
    tool_calls: Sequence[dict[str, Any]] = ()
    message: dict[str, Any] | None = None
    """The whole message instead; a stream says every field of it in one delta."""
    finish_reason: str | None = None
    choices: int | None = None
    """None: as many as were asked for."""
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    response_id: str = "resp_scripted"
    """Of a response of the Responses API."""
    body: bytes | None = None
    """Instead of everything else: with `status`, not as a stream."""
    delay_seconds: float = 0.0
    """Before the head."""
    gap_seconds: float = 0.0
    """Between the pieces of a stream."""
    wait: Any = None
    """A threading.Event that is waited for before the head, without holding up others."""
    wait_in_stream: Any = None
    """The same, behind the first piece of a stream."""
    breaks_off: bool = False
    """The connection is closed in the middle of the body..."""
    drops: bool = False
    """... or before the head."""
    raw_stream: Any = None
    """The body of a stream, in these chunks: an iterable of bytes."""


class Asked(msgspec.Struct, kw_only=True):
    """A request as it came."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    was_cancelled: bool = False
    """The client went away before its answer was whole."""

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def header(self, name: str) -> str | None:
        return next((value for named, value in self.headers if named.lower() == name), None)


Script = Callable[[Asked], Answer]


class ScriptedUpstream:
    """Serves in a thread of its own while it is entered, on a free port of the loopback address."""

    def __init__(self, script: Script | Answer | Iterable[Answer] | None = None) -> None:
        """A function of the request, one answer for all, or one after the other."""
        self._script: Script
        self.answer_with(script)
        self.requests: list[Asked] = []
        self.keeps_requests = True
        self.open_connections = 0
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)

    def answer_with(self, script: Script | Answer | Iterable[Answer] | None) -> None:
        """Take another script from now on."""
        if script is None or isinstance(script, Answer):
            answer = script or Answer()
            self._script = lambda _: answer
        elif callable(script):
            self._script = script
        else:
            left = deque(script)
            self._script = lambda _: left.popleft() if len(left) > 1 else left[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_START_SECONDS), "the scripted upstream did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve on the running loop until it is cancelled or left."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        open_tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            open_tasks.add(task)
            self.open_connections += 1
            try:
                await self._connection(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                self.open_connections -= 1
                open_tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(
            connected, "127.0.0.1", self.port, limit=_HEAD_BYTES_MAX, backlog=2048
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        if ready is not None:
            ready()
        await self._stop.wait()
        server.close()
        for task in list(open_tasks):
            task.cancel()
        if open_tasks:
            await asyncio.wait(open_tasks)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            asked = await _read(head, reader)
            if self.keeps_requests:
                self.requests.append(asked)
            answering = asyncio.ensure_future(self._answer(asked, writer))
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                asked.was_cancelled = True
                answering.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await answering
                return
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaving
            if not answering.result():
                return

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        answer = self._script(asked)
        if answer.delay_seconds:
            await asyncio.sleep(answer.delay_seconds)
        await _event(answer.wait)
        if answer.drops:
            return False
        path = asked.path.partition("?")[0]
        if path.endswith("/responses") and answer.body is None:
            request = asked.json()
            if request.get("stream"):
                return await _stream(writer, answer, _response_events(answer, request))
            body = msgspec.json.encode(_response(answer, request))
            return await _whole(writer, answer, body, "application/json")
        is_call = path.endswith("/chat/completions")
        if answer.body is not None or not is_call:
            body = _body_of(answer) if answer.body is None else answer.body
            return await _whole(writer, answer, body, "application/json")
        request = asked.json()
        if answer.raw_stream is None and not request.get("stream"):
            body = msgspec.json.encode(_completion(answer, request))
            return await _whole(writer, answer, body, "application/json")
        return await _stream(writer, answer, _chunks(answer, request))


async def _event(event: Any) -> None:
    if event is not None:
        await asyncio.get_running_loop().run_in_executor(None, event.wait, _START_SECONDS)


async def _read(head: bytes, reader: asyncio.StreamReader) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = []
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
    asked = Asked(method=method, path=path, headers=headers, body=b"")
    length = asked.header("content-length")
    if length is not None:
        asked.body = await reader.readexactly(int(length))
    elif asked.header("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            asked.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return asked


async def _whole(
    writer: asyncio.StreamWriter, answer: Answer, body: bytes, content_type: str
) -> bool:
    headers = [("content-type", content_type), ("content-length", str(len(body)))]
    writer.write(_head(answer, headers))
    writer.write(body[: len(body) // 2] if answer.breaks_off else body)
    await writer.drain()
    return not answer.breaks_off


async def _stream(writer: asyncio.StreamWriter, answer: Answer, chunks: Iterable[bytes]) -> bool:
    headers = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
    writer.write(_head(answer, headers))
    for number, chunk in enumerate(chunks):
        if number == 1:
            await _event(answer.wait_in_stream)
        if number and answer.gap_seconds:
            await asyncio.sleep(answer.gap_seconds)
        if answer.breaks_off and number == 2:
            await writer.drain()
            return False
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _head(answer: Answer, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {_STATUS.get(answer.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in (*headers, *answer.headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _message(answer: Answer, number: int) -> dict[str, Any]:
    if answer.message is not None:
        return answer.message
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if number and answer.text is not None:
        message["content"] = f"{answer.text} ({number})"
    if answer.tool_calls:
        message["tool_calls"] = list(answer.tool_calls)
    return message


def _finish(answer: Answer) -> str:
    return answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")


def _count(answer: Answer, request: dict[str, Any]) -> int:
    return answer.choices if answer.choices is not None else request.get("n") or 1


def _usage(answer: Answer) -> dict[str, Any]:
    completion = len((answer.text or "").split())
    return {"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": 10 + completion}


def _completion(answer: Answer, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request.get("model", "scripted"),
        "choices": [
            {
                "index": number,
                "message": _message(answer, number),
                "logprobs": None,
                "finish_reason": _finish(answer),
            }
            for number in range(_count(answer, request))
        ],
        "usage": _usage(answer),
    }


def _response(answer: Answer, request: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": answer.text or "", "annotations": []}
    items: list[dict[str, Any]] = [
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
         "content": [text]},
    ]  # fmt: skip
    if answer.message is not None:
        items = [answer.message]
    return {
        "id": answer.response_id,
        "object": "response",
        "created_at": _CREATED,
        "model": request.get("model", "scripted"),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "metadata": {},
        "output": items,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _response_events(answer: Answer, request: dict[str, Any]) -> Iterable[bytes]:
    if answer.raw_stream is not None:
        yield from answer.raw_stream
        return
    whole = _response(answer, request)
    begun = whole | {"status": "in_progress", "output": []}
    numbers = iter(range(1 << 30))

    def event(kind: str, **fields: Any) -> bytes:
        said = {"type": kind, "sequence_number": next(numbers), **fields}
        return b"event: " + kind.encode() + b"\n" + _event_of(said)

    yield event("response.created", response=begun)
    for index, item in enumerate(whole["output"]):
        yield event("response.output_item.added", output_index=index, item=item | {"content": []})
        for piece in answer.pieces or (answer.text or "").split(" "):
            yield event(
                "response.output_text.delta", item_id=item.get("id"), output_index=index,
                content_index=0, delta=piece, logprobs=[],
            )  # fmt: skip
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole)


def _body_of(answer: Answer) -> bytes:
    """Of what is no call for an answer."""
    return msgspec.json.encode({"object": "list", "data": []})


def _chunks(answer: Answer, request: dict[str, Any]) -> Iterable[bytes]:
    if answer.raw_stream is not None:
        yield from answer.raw_stream
        return
    wants_usage = (request.get("stream_options") or {}).get("include_usage")
    head = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": request.get("model", "scripted"),
    }
    count = _count(answer, request)
    for deltas in zip(*(_deltas(answer, number) for number in range(count)), strict=True):
        for number, delta in enumerate(deltas):
            choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
            yield _event_of(head | {"choices": [choice]} | _no_usage(wants_usage))
    for number in range(count):
        choice = {"index": number, "delta": {}, "logprobs": None, "finish_reason": _finish(answer)}
        yield _event_of(head | {"choices": [choice]} | _no_usage(wants_usage))
    if wants_usage:
        yield _event_of(head | {"choices": [], "usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


def _no_usage(wants_usage: Any) -> dict[str, Any]:
    return {"usage": None} if wants_usage else {}


def _deltas(answer: Answer, number: int) -> list[dict[str, Any]]:
    if answer.message is not None:
        return [answer.message]
    text = _message(answer, number)["content"]
    begun = {"role": "assistant", "content": None if text is None else "", "refusal": None}
    deltas: list[dict[str, Any]] = [begun]
    if text is not None:
        if answer.pieces is not None:
            pieces = list(answer.pieces)
        else:
            pieces = [piece for piece in text.replace(" ", " \0").split("\0") if piece]
        deltas += [{"content": piece} for piece in pieces]
    for index, call in enumerate(answer.tool_calls):
        function = call["function"]
        named = {"name": function["name"], "arguments": ""}
        deltas.append({"tool_calls": [call | {"index": index, "function": named}]})
        arguments = function["arguments"]
        for start in range(0, len(arguments), 7):
            piece = {"index": index, "function": {"arguments": arguments[start : start + 7]}}
            deltas.append({"tool_calls": [piece]})
    return deltas


def _event_of(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
