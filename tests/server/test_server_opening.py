"""Models that open what their windows left out, without the client's help."""

import json
import re
from typing import Any

import openai
import pytest
from proxying import Proxy

from memopt.context.estimating import Estimate
from memopt.server.opening import OPENED_SHARE, ROUNDS_MAX
from memopt.testing.upstream import Answer, Asked

WINDOW = 1200
OPENING = {
    "X-Memopt-Session": "s",
    "X-Memopt-Window": str(WINDOW),
    "X-Memopt-Tools": "on",
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
LOG = "\n".join(f"line {n}: the pump hums at {n * 37 % 911} turns" for n in range(400))
FUNCTION = {"name": "look", "arguments": "{}"}
SAID: list[Any] = [
    {"role": "user", "content": "Read the log."},
    {"role": "assistant", "content": None,
     "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]},
    {"role": "tool", "tool_call_id": "c1", "content": LOG},
    {"role": "user", "content": "What was on line 200?"},
]  # fmt: skip


def call(arguments: Any, id: str = "o1", name: str = "open_output") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def opening(request: Asked, **more: Any) -> Answer:
    """A call that opens the middle of what is named in the request."""
    handle = re.search(rb"\bm\d+(\.\d+)?\b", request.body)
    assert handle is not None
    start = LOG.index("line 200")
    asked = {"handle": handle[0].decode(), "start": start, "stop": start + 40}
    return Answer(text=None, tool_calls=[call(asked)], **more)


def opened_in(request: Asked) -> list[str]:
    return [
        message["content"]
        for message in request.json()["messages"]
        if message["role"] == "tool" and message["tool_call_id"] != "c1"
    ]


def model(request: Asked) -> Answer:
    if not opened_in(request):
        return opening(request)
    return Answer(text="It hums at 112 turns.")


def ask(client: openai.OpenAI, **more: Any) -> Any:
    more = {"tools": [TOOL], "messages": SAID, "extra_headers": OPENING} | more
    return client.chat.completions.create(model="m", **more)


def heard(reply: Any) -> tuple[str, list[Any], str | None, Any]:
    """(text, calls, finish reason, usage), streamed or not."""
    if not hasattr(reply, "__iter__") or hasattr(reply, "choices"):
        [choice] = reply.choices
        calls = [one.function.name for one in choice.message.tool_calls or ()]
        return choice.message.content or "", calls, choice.finish_reason, reply.usage
    text, calls, reason, usage = "", [], None, None
    for chunk in reply:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for one in choice.delta.tool_calls or ():
                if one.function.name:
                    assert one.index in (None, len(calls))
                    calls.append(one.function.name)
            reason = choice.finish_reason or reason
    return text, calls, reason, usage


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_opens_what_was_shortened(
    proxy: Proxy, client: openai.OpenAI, key: str, stream: bool
) -> None:
    proxy.script(model)
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    text, calls, reason, usage = heard(ask(client, **more))
    assert (text, calls, reason) == ("It hums at 112 turns.", [], "stop")
    first, second = proxy.asked
    assert [tool["function"]["name"] for tool in first.json()["tools"]] == ["look", "open_output"]
    assert "line 200: the pump hums" not in json.dumps(first.json()["messages"])
    assert "line 200: the pump hums" in opened_in(second)[0]
    assert second.json()["messages"][: len(first.json()["messages"])] == first.json()["messages"]
    assert usage.prompt_tokens == 20
    assert usage.completion_tokens == 5
    kept = proxy.messages("s", key)
    assert kept[:-1] == SAID
    assert kept[-1]["content"] == "It hums at 112 turns."
    assert not kept[-1].get("tool_calls")


def test_what_was_said_before_is_part_of_a_stream(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    def script(request: Asked) -> Answer:
        answer = model(request)
        if answer.tool_calls:
            answer.text, answer.pieces = "Let me look. ", ["Let me ", "look. "]
        return answer

    proxy.script(script)
    text, _, _, _ = heard(ask(client, stream=True))
    assert text == "Let me look. It hums at 112 turns."
    assert proxy.asked[1].json()["messages"][-2]["content"] == "Let me look. "
    assert proxy.messages("s", key)[-1]["content"] == text


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_calls_are_the_clients(
    proxy: Proxy, client: openai.OpenAI, key: str, stream: bool
) -> None:
    both = [call({"handle": "m2"}), call({}, "c2", "look"), call({"handle": "m2"}, "o2"),
            call({}, "c3", "look")]  # fmt: skip
    proxy.script(Answer(text=None, tool_calls=both))
    _, calls, reason, _ = heard(ask(client, stream=stream))
    assert (calls, reason) == (["look", "look"], "tool_calls")
    assert len(proxy.asked) == 1
    kept = proxy.messages("s", key)[-1]
    assert [one["id"] for one in kept["tool_calls"]] == ["c2", "c3"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_never_stops_opening_is_stopped(
    proxy: Proxy, client: openai.OpenAI, key: str, stream: bool
) -> None:
    proxy.script(Answer(text="Hm. ", tool_calls=[call({"handle": "m2", "stop": 10})]))
    headers = OPENING | {"X-Memopt-Window": "8000"}
    text, calls, reason, _ = heard(ask(client, stream=stream, extra_headers=headers))
    assert (calls, reason) == ([], "stop")
    assert text.endswith("Hm. ")
    assert len(proxy.asked) == ROUNDS_MAX + 1
    assert not proxy.messages("s", key)[-1].get("tool_calls")


@pytest.mark.parametrize(
    "said", ["", "A long thought. " * 15, "A very long one. " * 2000], ids=["none", "some", "much"]
)
@pytest.mark.parametrize("log", [LOG, "漢字" * 4000, "0a9f" * 4000], ids=["log", "han", "hex"])
def test_what_rounds_add_has_room_in_the_window(
    proxy: Proxy, client: openai.OpenAI, log: str, said: str
) -> None:
    proxy.script(Answer(text=said, tool_calls=[call({"handle": "m2"}), call({"handle": "m2"})]))
    messages = [*SAID[:2], SAID[2] | {"content": log}, SAID[3]]
    text, calls, reason, _ = heard(ask(client, messages=messages))
    assert (text, calls, reason) == (said, [], "stop")
    first, last = (request.json()["messages"] for request in (proxy.asked[0], proxy.asked[-1]))
    added = [
        json.dumps(message, ensure_ascii=False) if message["role"] != "tool" else message["content"]
        for message in last[len(first) :]
    ]
    assert sum(map(Estimate().count, added)) <= WINDOW * OPENED_SHARE
    assert len(proxy.asked) == 1 if len(said) > 1000 else len(proxy.asked) > 1


@pytest.mark.parametrize(
    "arguments", ["{", "[]", "{}", '{"handle": 3}', '{"handle": "x"}', '{"handle": "m99"}',
                  '{"handle": "m2", "start": -1}', '{"handle": "m2", "start": 1e400}',
                  '{"handle": "m2", "start": 5, "stop": 2}', ""],
)  # fmt: skip
def test_a_wrong_call_is_told_so(proxy: Proxy, client: openai.OpenAI, arguments: str) -> None:
    proxy.script([Answer(text=None, tool_calls=[call(arguments)]), Answer(text="Sorry.")])
    assert heard(ask(client))[0] == "Sorry."
    [told] = opened_in(proxy.asked[1])
    assert told.startswith("It cannot be opened: ")


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"n": 2},
        {"tools": [TOOL, {"type": "function", "function": {"name": "open_output"}}]},
        {"extra_headers": OPENING | {"X-Memopt-Tools": "off"}},
        {"extra_headers": {"X-Memopt-Session": "s", "X-Memopt-Tools": "on"}},
    ],
)
def test_the_tool_is_not_for_everybody(
    proxy: Proxy, client: openai.OpenAI, more: dict[str, Any]
) -> None:
    sent = {"tools": [TOOL]} | more
    ask(client, **sent)
    assert proxy.asked[0].json()["tools"] == sent["tools"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_in_between_keeps_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str, stream: bool
) -> None:
    def script(request: Asked) -> Answer:
        return Answer(status=500) if opened_in(request) else opening(request)

    proxy.script(script)
    with pytest.raises(openai.APIError, match="500"):
        heard(ask(client, stream=stream))
    assert proxy.messages("s", key) == []


def test_only_the_first_round_has_the_clients_idempotency_key(
    proxy: Proxy, client: openai.OpenAI
) -> None:
    proxy.script(model)
    ask(client, extra_headers=OPENING | {"Idempotency-Key": "once"})
    assert [asked.header("idempotency-key") for asked in proxy.asked] == ["once", None]


def test_calls_may_come_in_one_chunk_with_everything(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    def script(request: Asked) -> Answer:
        if opened_in(request):
            return Answer(text="Done.")
        delta = {"role": "assistant", "tool_calls": [{"index": 0, **call({"handle": "m2"})}]}
        choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        chunk = {"id": "x", "choices": [choice], "usage": usage}
        return Answer(raw_stream=[f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()])

    proxy.script(script)
    more = {"stream": True, "stream_options": {"include_usage": True}}
    text, calls, reason, usage = heard(ask(client, **more))
    assert (text, calls, reason) == ("Done.", [], "stop")
    assert usage.prompt_tokens == 17
    assert proxy.messages("s", key)[-1]["content"] == "Done."


def chunk_of(*calls: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    delta = {"tool_calls": list(calls)} if calls else {}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'x', 'choices': [choice], **more})}\n\n".encode()


def fragment(name: str | None, arguments: str = "", **more: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"type": "function", "function": {**named, "arguments": arguments}, **more}


DONE = b"data: [DONE]\n\n"
END = chunk_of(reason="tool_calls")
OPENS = '{"handle": "m2", "stop": 9}'
USAGE = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}


def streamed(proxy: Proxy, client: openai.OpenAI, *chunks: bytes) -> Any:
    """(text, calls, finish reason, usage) where the upstream streams these, then a last word."""
    proxy.script([Answer(raw_stream=[*chunks, DONE]), Answer(text="Done.")])
    return heard(ask(client, stream=True, stream_options={"include_usage": True}))


OURS = chunk_of(fragment("open_output", OPENS, index=0))


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk_of(fragment("open_output", OPENS, id="o")), END],
        [chunk_of(fragment(None, index=0, id="o")), OURS, END],
        [chunk_of(fragment("", index=0, id="o")), OURS, END],
        [OURS],
        [chunk_of(fragment("open_output", OPENS, index=0), reason="stop")],
        [
            chunk_of(fragment("open_output", "{", index=0)),
            chunk_of(fragment(None, '"handle": "m2"}', index=0)),
            END,
        ],
    ],
    ids=["no index", "named later", "named empty first", "no end", "stop", "in fragments"],
)
def test_however_a_call_of_the_tool_comes(
    proxy: Proxy, client: openai.OpenAI, key: str, chunks: list[bytes]
) -> None:
    text, calls, reason, _ = streamed(proxy, client, *chunks)
    assert (text, calls, reason) == ("Done.", [], "stop")
    *_, said, answer = proxy.asked[1].json()["messages"]
    assert answer["tool_call_id"] == said["tool_calls"][0]["id"]
    assert answer["content"].startswith("[m2: ")
    assert proxy.messages("s", key)[-1]["content"] == "Done."


LOOKS = chunk_of(fragment("look", "{}", id="c"))


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk_of(fragment("open_output", OPENS, id="o")), LOOKS, END],
        [LOOKS, chunk_of(fragment("open_output", OPENS, id="o")), END],
        [chunk_of(fragment("look", "{}", id="c"), fragment("open_output", OPENS, id="o")), END],
        [
            chunk_of(fragment("look", "{", index=1, id="c")),
            OURS,
            chunk_of(fragment(None, "}", index=1)),
            END,
        ],
        [chunk_of(fragment(None, index=0, id="c")), chunk_of(fragment("look", "{}", index=0)), END],
    ],
    ids=["ours first", "ours last", "at once", "ours between", "named later"],
)
def test_however_a_call_of_the_client_comes(
    proxy: Proxy, client: openai.OpenAI, key: str, chunks: list[bytes]
) -> None:
    _, calls, reason, _ = streamed(proxy, client, *chunks)
    assert (calls, reason) == (["look"], "tool_calls")
    assert len(proxy.asked) == 1
    [kept] = proxy.messages("s", key)[-1]["tool_calls"]
    assert (kept["id"], kept["function"]) == ("c", {"name": "look", "arguments": "{}"})


@pytest.mark.parametrize(
    ("chunks", "prompt_tokens"),
    [
        ([chunk_of(fragment("open_output", OPENS, index=0), usage=USAGE), END], 20),
        ([OURS, chunk_of(reason="stop", usage=USAGE), chunk_of(usage=USAGE)], 20),
        ([OURS, END], 10),
    ],
    ids=["before", "twice", "none"],
)
def test_usage_of_a_round_counts_once(
    proxy: Proxy, client: openai.OpenAI, chunks: list[bytes], prompt_tokens: int
) -> None:
    assert streamed(proxy, client, *chunks)[3].prompt_tokens == prompt_tokens


def test_a_stream_that_fails_goes_on_with_nothing(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    failed = b'data: {"error": {"message": "boom"}}\n\n'
    with pytest.raises(openai.APIError, match="boom"):
        streamed(proxy, client, OURS, END, failed)
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_upstream_is_said_to_be_busy(
    proxy: Proxy, client: openai.OpenAI, status: int
) -> None:
    busy = Answer(status=status, headers=[("retry-after", "40")])
    proxy.script([Answer(text=None, tool_calls=[call({"handle": "m2"})]), busy])
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client)
    assert raised.value.status_code == status
    assert raised.value.response.headers["retry-after"] == "40"


def test_long_thoughts_are_passed_on_as_they_come(
    proxy: Proxy, client: openai.OpenAI, key: str
) -> None:
    thought = "Hm, hm. " * 100_000
    delta = {"role": "assistant", "reasoning_content": thought, "content": "Yes."}
    proxy.script(Answer(message=delta))
    assert heard(ask(client, stream=True))[0] == "Yes."
    assert proxy.messages("s", key)[-1]["reasoning_content"] == thought
