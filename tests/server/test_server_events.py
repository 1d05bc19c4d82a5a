"""Streams, wherever their bytes are cut."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.server.assembling import ChatAssembler
from memopt.server.errors import ServerError
from memopt.server.events import EventCutter, data_of, event_of
from memopt.server.reading import storable

_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)
_END = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    """Events as anybody might write them: fields, comments, every line end."""
    text = ""
    for _ in range(draw(st.integers(0, 6))):
        for _ in range(draw(st.integers(1, 3))):
            field = draw(st.sampled_from(["data: ", "data:", ": ", "event: ", "id:"]))
            text += field + draw(_LINE) + draw(_END)
        text += draw(_END)
    return text.encode()


def _events(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    cutter = EventCutter(1 << 20)
    events: list[bytes] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        events += cutter.feed(stream[start:stop])
    return events, cutter.rest()


@given(_streams(), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_events_say_the_same_wherever_the_bytes_are_cut(stream: bytes, cuts: list[int]) -> None:
    events, rest = _events(stream, cuts)
    assert b"".join(events) + rest == stream
    whole, whole_rest = _events(stream, [])
    assert [d for e in events if (d := data_of(e))] == [d for e in whole if (d := data_of(e))]
    assert data_of(rest) == data_of(whole_rest)


@given(_streams())
def test_one_byte_at_a_time_is_the_same(stream: bytes) -> None:
    events, rest = _events(stream, list(range(len(stream))))
    assert b"".join(events) + rest == stream
    whole, _ = _events(stream, [])
    assert [d for e in events if (d := data_of(e))] == [d for e in whole if (d := data_of(e))]


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(0, 4096), max_size=9))
def test_a_text_is_put_together_wherever_it_is_cut(texts: list[str], cuts: list[int]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    stream = b"".join(
        event_of(msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": text}}]}))
        for text in texts
    )
    got: list[str] = []
    assembler = ChatAssembler(1 << 20, got.append)
    events, rest = _events(stream, cuts)
    for event in events:
        assembler.add(data_of(event))
    assert "".join(got) == "".join(texts)
    assert rest == b""


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n", b"\r\r"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_an_event_says_the_same_however_its_last_line_ends(begin: bytes, end: bytes) -> None:
    assert data_of(begin + b"data: [DONE]" + end) == b"[DONE]"


def _assembled(*chunks: bytes) -> tuple[ChatAssembler, str]:
    got: list[str] = []
    assembler = ChatAssembler(1 << 20, got.append)
    for chunk in chunks:
        assembler.add(chunk)
    assembler.end()
    return assembler, "".join(got)


def _chunk(delta: str, rest: str = "") -> bytes:
    return f'{{"choices":[{{"index":null,"delta":{delta}{rest}}}]}}'.encode()


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([_chunk('{"content":"a"}', ',"x":[-Infinity,NaN]'), _chunk('{"content":"b"}')], "ab"),
        ([_chunk('{"content":"a"}', ',"logprobs":-1e400')], "a"),
        ([_chunk('{"content":"a\\ud83d"}'), _chunk('{"content":"\\ude00b"}')], "a\U0001f600b"),
        ([_chunk('{"content":"a\\ud83d"}'), _chunk('{"content":"b"}')], "a\ufffdb"),
        ([_chunk('{"content":"a\\ud83d"}')], "a\ufffd"),
        ([_chunk('{"content":"\\ude00"}')], "\ufffd"),
    ],
)  # fmt: skip
def test_what_no_strict_reader_takes_is_not_missing(chunks: list[bytes], text: str) -> None:
    assert _assembled(*chunks)[1] == text


def test_what_nobody_can_read_is_an_error() -> None:
    with pytest.raises(ServerError, match="cannot be read"):
        _assembled(b'{"choices":[')


def test_values_that_no_store_holds_are_made_ones_that_it_does() -> None:
    assembler, _ = _assembled(
        _chunk('{"n":1180591620717411303424,"reasoning":"\\ud83d"}'),
        _chunk('{"reasoning":"\\ude00"}'),
    )
    message = assembler.choices[0].message()
    assert message["n"] == 2.0**70
    assert message["reasoning"] == "\U0001f600"
    assert storable({"a": [2**63, -(2**63), "x"]}) == {"a": [2**63, -(2**63), "x"]}


def test_fragments_without_a_place_go_on_with_the_last_call() -> None:
    assembler, _ = _assembled(
        _chunk('{"tool_calls":[{"index":null,"id":"a","function":{"name":"f","arguments":"{"}}]}'),
        _chunk('{"tool_calls":[{"function":{"arguments":"}"}}]}'),
        _chunk('{"tool_calls":[{"id":"b","function":{"name":"f","arguments":"{}"}}]}'),
        _chunk('{"tool_calls":[{"function":{"name":"g","arguments":"[]"}}]}'),
    )
    calls = assembler.choices[0].message()["tool_calls"]
    assert [(call.get("id"), call["function"]["arguments"]) for call in calls] == [
        ("a", "{}"), ("b", "{}"), (None, "[]"),
    ]  # fmt: skip


def test_a_text_behind_parts_is_a_part() -> None:
    assembler, text = _assembled(
        _chunk('{"content":[{"type":"thinking","thinking":"Hm"}]}'), _chunk('{"content":"x"}')
    )
    assert text == ""
    assert not assembler.choices[0].has_text
    assert assembler.choices[0].message()["content"] == [
        {"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "x"},
    ]  # fmt: skip


def test_an_event_has_a_limit() -> None:
    cutter = EventCutter(100)
    cutter.feed(b"data: " + b"x" * 90)
    with pytest.raises(UsageError, match="more than 100 bytes"):
        cutter.feed(b"x" * 20)


def test_calls_are_put_together_by_choice_and_place() -> None:
    assembler = ChatAssembler(1 << 20, None)
    deltas = [
        (0, {"role": "assistant", "content": None, "tool_calls": [
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}
        ]}),
        (1, {"content": "x", "reasoning_content": "Hm"}),
        (0, {"tool_calls": [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
            {"index": 1, "function": {"arguments": "[1"}},
        ]}),
        (0, {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
        (0, {"tool_calls": [{"index": 1, "id": None, "function": {"arguments": "]"}}]}),
        (1, {"content": "y", "reasoning_content": "m."}),
    ]  # fmt: skip
    for index, delta in deltas:
        assembler.add(msgspec.json.encode({"choices": [{"index": index, "delta": delta}]}))
    calls = assembler.choices[0].message()["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": "{}"}),
        ("b", {"name": "g", "arguments": "[1]"}),
    ]
    other = assembler.choices[1].message()
    assert (other["content"], other["reasoning_content"]) == ("xy", "Hmm.")
