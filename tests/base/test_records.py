"""Times keep their microsecond, and the values callers get are frozen."""

import inspect
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base import records
from memopt.base.records import (
    SEQ_BITS,
    SEQ_MASK,
    CheckReport,
    Damage,
    ForgetPlan,
    ForgetTarget,
    Receipt,
    Selector,
    to_datetime,
    to_us,
)

STRUCTS = [
    record
    for _, record in inspect.getmembers(records, inspect.isclass)
    if issubclass(record, msgspec.Struct) and record is not msgspec.Struct
]
OFFSETS = st.integers(min_value=-23 * 60, max_value=23 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


@given(st.integers(min_value=-(1 << 55), max_value=1 << 57))
def test_microseconds_survive_the_way_through_a_datetime(at_us: int) -> None:
    at = to_datetime(at_us)
    assert at.utcoffset() == timedelta(0)
    assert to_us(at) == at_us


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(3000, 1, 1), timezones=OFFSETS)
)
def test_an_aware_datetime_keeps_its_instant_in_any_zone(at: datetime) -> None:
    back = to_datetime(to_us(at))
    assert back == at
    assert back.tzinfo is UTC


def test_the_epoch_is_1970() -> None:
    assert to_us(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == 0
    assert to_datetime(1_700_000_000_000_001) == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)


def test_a_naive_datetime_has_no_instant() -> None:
    with pytest.raises(TypeError):
        to_us(datetime(2024, 1, 1))


def test_a_head_has_room_for_its_line_and_its_length() -> None:
    assert SEQ_MASK == (1 << SEQ_BITS) - 1
    assert ((1 << 39) - 1) << SEQ_BITS | SEQ_MASK == (1 << 63) - 1


@pytest.mark.parametrize("record", STRUCTS, ids=lambda record: record.__name__)
def test_what_a_caller_gets_is_frozen_and_made_by_keyword(record: type[msgspec.Struct]) -> None:
    assert record.__struct_config__.frozen
    signature = inspect.signature(record)
    assert all(field.kind is field.KEYWORD_ONLY for field in signature.parameters.values())


def test_a_receipt_travels_and_cannot_be_changed() -> None:
    receipt = Receipt(lsn=7, seq=2, head=99)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(receipt), type=Receipt) == receipt
    with pytest.raises(AttributeError):
        receipt.lsn = 8  # type: ignore[misc]


def report(damages: tuple[Damage, ...] = (), lost_records: int = 0) -> CheckReport:
    return CheckReport(
        sessions=1,
        messages=2,
        pages=1,
        states=0,
        bytes_checked=100,
        damages=damages,
        lost_records=lost_records,
        cursor=None,
    )


def test_a_check_is_clean_without_damage_and_without_loss() -> None:
    assert report().clean
    assert not report(damages=(Damage(what="page 7"),)).clean
    assert not report(lost_records=1).clean


def test_a_plan_counts_the_messages_of_all_its_targets() -> None:
    targets = tuple(
        ForgetTarget(scope="acme", session=session, seqs=None, entries=entries, states=1)
        for session, entries in (("a", 3), ("b", 4))
    )
    plan = ForgetPlan(selector=Selector(scope="acme", session="a"), targets=targets, backups=())
    assert plan.entries == 7
