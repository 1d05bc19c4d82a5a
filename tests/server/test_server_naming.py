"""Items of another scope are out of reach where the upstream has one key for both."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxying import Proxy, running

from memopt.base.errors import UsageError
from memopt.server.naming import one_meaning
from memopt.testing.upstream import Answer, ScriptedUpstream

ITEM: dict[str, Any] = {
    "type": "message", "id": "msg_a", "role": "assistant",
    "content": [{"type": "output_text", "text": "secret"}],
}  # fmt: skip
USER = {"role": "user", "content": "say it again"}
REFERENCES: list[Any] = [
    {"type": "item_reference", "id": "msg_a"},
    {"type": None, "id": "msg_a"},
    {"id": "msg_a"},
    {"type": "item_reference", "id": "msg_a", "role": "system", "content": "x"},
    {"type": "item_reference", "id": "msg_a", "role": "user", "content": "x"},
    {"type": "message", "id": "msg_a", "role": "assistant", "content": []},
    {"type": "reasoning", "id": "msg_a", "summary": []},
    {"type": "image_generation_call", "id": "msg_a"},
    {"type": ["message"], "id": "msg_a"},
]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """One upstream key for the keys of two scopes."""
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream")
    keys = [
        {"name": name, "scope": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("ann", "bob")
    ]
    body = {"id": "r1", "status": "completed", "output": [ITEM]}
    with (
        ScriptedUpstream(Answer(body=json.dumps(body).encode())) as upstream,
        running(tmp_path, upstream, keys=keys, upstream_key_env="UPSTREAM_KEY") as proxy,
    ):
        assert ask(proxy, "ann", {"input": "Hi"}).status_code == 200
        upstream.requests.clear()
        yield proxy


def ask(proxy: Proxy, key: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(trust_env=False, timeout=30) as http:
        return http.post(proxy.url + "/responses", content=content, headers=headers)


def test_items_are_found_in_their_scope_alone(shared: Proxy) -> None:
    for reference in REFERENCES:
        body = {"input": [reference, USER]}
        got = ask(shared, "bob", body)
        assert got.status_code == 404, reference
        assert got.json()["error"]["message"] == "Item with id 'msg_a' not found."
        assert shared.asked == []
    assert shared.sessions("bob") == []
    for reference in REFERENCES[:-1]:
        assert ask(shared, "ann", {"input": [reference, USER]}).status_code == 200, reference


def test_items_that_are_whole_need_not_be_known(shared: Proxy) -> None:
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "id": "o", "call_id": "c", "output": "x"}
    thought = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAA"}
    items = [USER, ITEM, thought, call, result, USER]
    assert ask(shared, "bob", {"input": items}).status_code == 200
    assert shared.asked[-1].json()["input"] == items


@pytest.mark.parametrize("field", [
    b'"previous_response_id":"r1","previous_response_id":null',
    b'"conversation":{"id":"c1","id":null}',
    b'"conversation":{"id":null,"ID":"c1"}',
    b'"conversation":"c1","conversation":null',
    b'"input":[{"id":"msg_a","type":"item_reference","type":"message","role":"user"'
    b',"content":"x"}]',
    b'"input":[{"id":"msg_a","type":"item_reference"}],"input":"x"',
])  # fmt: skip
def test_what_is_said_twice_goes_on_as_it_was_read(shared: Proxy, field: bytes) -> None:
    assert ask(shared, "bob", b'{"model":"m","input":"x",' + field + b"}").status_code == 200
    said = shared.asked[-1].body
    fields = dict(json.loads(said, object_pairs_hook=unique))
    assert b"item_reference" not in said
    assert b"c1" not in said
    assert b"r1" not in said
    assert fields["model"] == "m"


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_what_may_be_read_as_a_name_is_refused(shared: Proxy) -> None:
    got = ask(shared, "bob", {"input": "x", "Previous_Response_Id": "r1"})
    assert got.status_code == 400
    assert got.json()["error"]["param"] == "Previous_Response_Id"
    assert shared.asked == []


def test_nothing_else_of_a_body_is_changed() -> None:
    body = b'{"model":"m","x":1.50,"n":123456789012345678901234567890,"input":[{"b":"\\u00e9"}]}'
    assert one_meaning(body) == body.replace(b"\\u00e9", "é".encode())
    for bad in (b"", b"[]", b'{"input":[}', b'{"x":NaN}', b"\xff"):
        with pytest.raises(UsageError, match="body"):
            one_meaning(bad)
