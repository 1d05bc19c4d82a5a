"""Exact JSON goes in and comes out equal, and nothing else goes in."""

import collections
import datetime
import decimal
import enum
import struct
import types
import uuid
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.codecs.message import decode_array, decode_json, encode_json, encode_message

MIB = 1 << 20


class Colour(enum.Enum):
    RED = 1


class Count(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Row(msgspec.Struct):
    a: int = 1


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(min_value=-(2**63), max_value=2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False), st.text(),
    st.sampled_from([-0.0, 2**64 - 1, -(2**63), 2**63, 2**32, -(2**31) - 1, 5e-324, "\x00", "🦜"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=30,
)


def encoded(value: Any, *, bytes_max: int = MIB, depth_max: int = 64) -> bytes:
    return encode_json(value, bytes_max=bytes_max, depth_max=depth_max, field="message")


def nested(depth: int, leaf: Any = 0) -> Any:
    """`depth` containers, dicts and lists in turn."""
    value = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


@given(values)
def test_every_json_value_comes_back_equal_in_type_order_and_sign(value: Any) -> None:
    assert repr(decode_json(encoded(value))) == repr(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_bit_for_bit(value: float) -> None:
    assert struct.pack("<d", decode_json(encoded(value))) == struct.pack("<d", value)


@given(st.dictionaries(st.text(), values))
def test_a_message_is_encoded_as_the_value_it_is(message: dict[str, Any]) -> None:
    body = encode_message(message, bytes_max=MIB, depth_max=64, field="message")
    assert body == encoded(message)


@given(st.lists(st.dictionaries(st.text(max_size=3), scalars, max_size=3), max_size=40))
def test_many_bodies_decode_as_each_of_them_does(messages: list[Any]) -> None:
    assert repr(decode_array([encoded(message) for message in messages])) == repr(messages)


def test_what_is_decoded_is_fresh_every_time() -> None:
    body = encoded({"a": [1]})
    first = decode_json(body)
    first["a"].append(2)
    assert decode_json(body) == {"a": [1]}


@pytest.mark.parametrize("depth_max", [1, 2, 64, 200])
def test_a_value_may_be_nested_up_to_the_limit_and_no_deeper(depth_max: int) -> None:
    value = nested(depth_max)
    assert decode_json(encoded(value, depth_max=depth_max)) == value
    with pytest.raises(UsageError, match="nested too deep"):
        encoded(nested(depth_max + 1), depth_max=depth_max)


def test_a_value_that_holds_itself_is_too_deep_and_not_an_endless_walk() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match="nested too deep"):
        encoded(value)


def test_a_body_may_reach_the_limit_of_bytes_and_no_further() -> None:
    message = {"content": "x" * 1000}
    size = len(encoded(message))
    assert encoded(message, bytes_max=size)
    with pytest.raises(UsageError, match=f"{size} bytes encoded, at most {size - 1}") as refused:
        encoded(message, bytes_max=size - 1)
    assert refused.value.field == "message"


REFUSED = {
    "tuple": (1, 2),
    "empty tuple": (),
    "set": {1},
    "frozenset": frozenset(),
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "Decimal": decimal.Decimal("1.5"),
    "complex": 1j,
    "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2024, 1, 1),
    "time": datetime.time(1),
    "timedelta": datetime.timedelta(1),
    "UUID": uuid.UUID(int=0),
    "Enum": Colour.RED,
    "IntEnum": Count.ONE,
    "StrEnum": Word.YES,
    "str subclass": Text("x"),
    "int subclass": Number(1),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(int),
    "mapping proxy": types.MappingProxyType({}),
    "deque": collections.deque([1]),
    "range": range(3),
    "generator": (item for item in ()),
    "object": object(),
    "Struct": Row(),
    "Ext": msgspec.msgpack.Ext(1, b"x" * 16),
    "Raw": msgspec.Raw(b"1"),
    "numpy float": np.float64(1.5),
    "numpy int": np.int64(1),
    "numpy bool": np.bool_(True),
    "numpy str": np.str_("x"),
    "numpy array": np.zeros(2),
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "too large": 2**64,
    "too small": -(2**63) - 1,
    "huge": 10**400,
    "int key": {1: "x"},
    "bool key": {True: "x"},
    "None key": {None: "x"},
    "bytes key": {b"a": "x"},
    "tuple key": {("a",): "x"},
    "StrEnum key": {Word.YES: "x"},
    "str subclass key": {Text("a"): "x"},
    "lone surrogate": "\ud800",
    "lone surrogate at the end": "abc\udfff",
    "lone surrogate key": {"\ud800": 1},
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda value: value, ""),
        (lambda value: {"content": [{"text": "ok"}, {"text": value}]}, ".content[1].text"),
        (lambda value: [[], [0, [value]]], "[1][1][0]"),
    ],
    ids=["itself", "in a dict", "in a list"],
)
def test_what_is_not_exact_json_is_refused_by_the_path_of_its_field(
    value: Any, wrap: Any, path: str
) -> None:
    with pytest.raises(UsageError) as refused:
        encoded(wrap(value))
    assert refused.value.field is not None
    assert refused.value.field.startswith(f"message{path}")
    str(refused.value).encode("utf-8", "strict")


@pytest.mark.parametrize("message", [None, 1, "text", [], [{"a": 1}], (), b"x", object()])
def test_a_message_is_an_object(message: Any) -> None:
    with pytest.raises(UsageError, match="expected a dict or a pydantic model") as refused:
        encode_message(message, bytes_max=MIB, depth_max=64, field="messages[3]")
    assert refused.value.field == "messages[3]"


def test_a_model_that_dumps_to_no_object_is_refused() -> None:
    class Model:
        def model_dump(self, *, mode: str) -> Any:
            return [mode]

    with pytest.raises(UsageError, match="does not dump to a JSON object"):
        encode_message(Model(), bytes_max=MIB, depth_max=64, field="message")


def test_a_surrogate_below_a_key_with_a_surrogate_can_still_be_reported() -> None:
    with pytest.raises(UsageError) as refused:
        encoded({"\ud800": [(1,)]})
    str(refused.value).encode("utf-8", "strict")
