"""What is kept of a long output, by its form."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memopt
from memopt.context.outputs import shortened
from memopt.context.shortening import shorten


@given(st.text(string.printable + "é漢", max_size=600), st.integers(0, 400), st.integers(1, 30))
def test_a_shortened_text_has_at_most_what_was_asked(text: str, chars: int, times: int) -> None:
    whole = text * times
    short = shorten(whole, chars, "m123")
    if len(whole) > chars and short is not None:
        assert len(short) <= chars
        assert "m123" in short
        assert short == shorten(whole, chars, "m123")


def test_json_stays_json_and_keeps_its_keys() -> None:
    rows = [{"id": n, "name": f"row {n}", "note": "long " * 100} for n in range(500)]
    short = shorten(json.dumps({"total": 500, "rows": rows, "next": "abc"}), 2000, "m1")
    assert short is not None
    body, mark = short.rsplit("\n", 1)
    value = json.loads(body)
    assert (value["total"], value["next"]) == (500, "abc")
    assert value["rows"][0]["id"] == 0
    assert value["rows"][-1]["id"] == 499
    assert "m1" in mark


def test_json_is_known_behind_blanks_and_numbers_that_are_none_are_not_written() -> None:
    text = " " * 99 + json.dumps(["words " * 900, 1.5])
    short = shorten(text, 500, "m1")
    assert short is not None
    assert json.loads(short.partition("\n")[0])[1] == 1.5
    for odd in ("1e999", "-1e999"):
        short = shorten(f'[{odd}, "{"words " * 900}"]', 500, "m1")
        assert short is not None
        assert odd in short
        assert "Infinity" not in short


def test_a_log_keeps_its_failures() -> None:
    lines = [f"2031-05-17 INFO step {n} went well" for n in range(2000)]
    lines[1234] = "2031-05-17 ERROR disk sda1 is full"
    short = shorten("\n".join(lines), 2000, "m1")
    assert short is not None
    assert "disk sda1 is full" in short
    assert short.startswith(lines[0])
    assert short.endswith(lines[-1])


def test_a_diff_keeps_its_files() -> None:
    parts = [
        f"diff --git a/f{n}.py b/f{n}.py\n--- a/f{n}.py\n+++ b/f{n}.py\n@@ -1,9 +1,9 @@\n"
        + "".join(f" line {k}\n" for k in range(60))
        for n in range(12)
    ]
    short = shorten("".join(parts), 2000, "m1")
    assert short is not None
    assert "b/f5.py" in short


def test_a_table_keeps_its_header() -> None:
    rows = "".join(f"{n}\tname {n}\t{n * n}\n" for n in range(3000))
    short = shorten("id\tname\tsquare\n" + rows, 1000, "m1")
    assert short is not None
    assert short.startswith("id\tname\tsquare\n")
    assert "2999\tname 2999" in short


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "c", "content": "x" * 9000, "thought_signature": "abc"},
        {"type": "function_call_output", "call_id": "c", "output": "x" * 9000,
         "encrypted_content": "abc"},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c", "content": "x" * 9000},
            {"type": "thinking", "thinking": "so", "signature": "abc"}]},
    ],
)  # fmt: skip
def test_what_is_signed_is_never_shortened(message: dict[str, object]) -> None:
    assert shortened(message, 3, 1000, shorten) == (message, [])


def test_every_output_of_a_message_has_its_own_handle() -> None:
    parts = [{"type": "tool_result", "tool_use_id": f"c{n}", "content": "y" * 900} for n in "ab"]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "z" * 5000}]}
    short, cuts = shortened(message, 8, 400, shorten)
    assert [str(cut.handle) for cut in cuts] == ["m8.0", "m8.1"]
    assert short["content"][2] == message["content"][2]
    assert message["content"][0]["content"] == "y" * 900  # type: ignore[index]


@pytest.mark.parametrize("form", ["text", "json", "parts"])
def test_a_message_is_shortened_before_it_is_stored(form: str) -> None:
    text = json.dumps([{"n": n} for n in range(2000)]) if form == "json" else "a line\n" * 3000
    content = [{"type": "text", "text": text}, {"type": "image_url"}] if form == "parts" else text
    message = {"role": "tool", "tool_call_id": "c", "content": content}
    short = memopt.shorten_outputs(message, max_chars=1000)
    said = short["content"][0]["text"] if form == "parts" else short["content"]
    assert len(said) <= 1000
    assert "left out" in said or "shortened: it had" in said
    assert "m0" not in said
    assert message["content"] == content
    assert memopt.shorten_outputs(short, max_chars=1000) == short
    said_by_user = {"role": "user", "content": text}
    assert memopt.shorten_outputs(said_by_user, max_chars=1000) == said_by_user


def test_shortening_a_message_names_what_is_wrong() -> None:
    with pytest.raises(memopt.UsageError, match="max_chars"):
        memopt.shorten_outputs({"role": "tool"}, max_chars=10)
    with pytest.raises(memopt.UsageError, match="message"):
        memopt.shorten_outputs("text", max_chars=1000)  # type: ignore[arg-type]
