"""Long texts leave a message and come back, and each goes no further than it may be shared."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import CorruptionError
from memopt.codecs.message import decode_json
from memopt.codecs.texts import DIGEST_BYTES, digests_in, share_texts, text_decoder

MIN = 16
"""The smallest tenant-wide text; others from sixteen times that."""

texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["x" * 15, "x" * 16, "é" * 8, "é" * 7, "x" * 255, "x" * 256, "🦜" * 64]),
    st.text(min_size=200, max_size=300),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=4), st.just("tools")), inner, max_size=4),
    ),
    max_leaves=12,
)
messages = st.dictionaries(st.sampled_from(["role", "content", "tools", "n"]), values, max_size=4)


def shared(message: Any) -> tuple[bytes, dict[bytes, Any]]:
    body, found = share_texts(msgspec.msgpack.encode(message), bytes_min=MIN)
    return body, {text.digest: text for text in found}


@given(messages)
def test_texts_leave_and_come_back_exactly(message: dict[str, Any]) -> None:
    body, found = shared(message)
    assert digests_in(body) == found.keys()
    decode = text_decoder({digest: text.text.decode() for digest, text in found.items()})
    assert repr(decode(body)) == repr(message)


@given(messages)
def test_a_message_without_long_texts_is_not_touched(message: dict[str, Any]) -> None:
    body, found = shared(message)
    if not found:
        assert body == msgspec.msgpack.encode(message)
        assert not digests_in(body)


@pytest.mark.parametrize(
    ("message", "tenant"),
    [
        ({"role": "system", "content": "x" * 16}, True),
        ({"role": "developer", "content": [{"text": "x" * 16}]}, True),
        ({"tools": [{"description": "x" * 16}]}, True),
        ({"a": {"instructions": "x" * 16}}, True),
        ({"role": "user", "content": "x" * 256}, False),
        ({"role": ["system"], "content": "x" * 256}, False),
        ({"content": "é" * 128}, False),
        ({"role": "user", "content": "x" * 255}, None),
        ({"role": "system", "content": "x" * 15}, None),
        ({"role": "user", "content": "x" * 64}, None),
        ({"x" * 300: 1}, None),
    ],
)
def test_a_text_is_shared_no_further_than_it_may(message: Any, tenant: bool | None) -> None:
    _, found = shared(message)
    assert [text.tenant for text in found.values()] == ([] if tenant is None else [tenant])


def test_equal_texts_have_one_digest_and_others_another() -> None:
    _, one = shared({"content": ["x" * 256, "x" * 256]})
    _, two = shared({"content": "y" * 256})
    assert len(one) == 1
    assert one.keys().isdisjoint(two.keys())
    assert all(len(digest) == DIGEST_BYTES for digest in one)


def test_a_digest_without_its_text_is_damage() -> None:
    body, found = shared({"content": ["x" * 256, "y" * 256]})
    (first, one), _ = found.items()
    with pytest.raises(CorruptionError, match="a text that is not there"):
        text_decoder({first: one.text.decode()})(body)


def test_an_extension_of_another_type_is_damage() -> None:
    body = msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(2, b"x" * 16)})
    with pytest.raises(CorruptionError, match="a text that is not there"):
        text_decoder({b"x" * 16: "text"})(body)


def test_without_texts_a_body_is_plain_json() -> None:
    assert text_decoder({}) is decode_json
