"""Bytes and seconds as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.base.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("64MiB", 64 * MIB),
        ("64 mib", 64 * MIB),
        ("64M", 64 * MIB),
        ("64MB", 64_000_000),
        ("2k", 2 * KIB),
        ("2kB", 2000),
        ("1.5 GB", 1_500_000_000),
        ("1.5GiB", 3 * GIB // 2),
        ("1TiB", 1024 * GIB),
        (" 7 KiB", 7 * KIB),
    ],
)
def test_bytes_are_read_as_people_write_them(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        -1,
        "-1",
        "",
        "MiB",
        "64 bananas",
        "6 4MiB",
        "64MiB!",
        "1e3",
        "nan",
        "inf",
        True,
        1.5,
        None,
        pytest.param("9" * 400, id="400 digits"),
    ],
)
def test_what_is_no_byte_count_is_refused_by_field(text: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text, field="budget")  # type: ignore[arg-type]
    assert caught.value.field == "budget"
    assert str(caught.value).startswith("budget: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0.0),
        (2.5, 2.5),
        ("2.5", 2.5),
        ("15m", 900.0),
        ("15 min", 900.0),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("3s", 3.0),
        ("2h", 7200.0),
        ("7D", 7 * 86400.0),
    ],
)
def test_seconds_are_read_as_people_write_them(text: float | str, expected: float) -> None:
    assert parse_seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        "",
        "m",
        "15 parsecs",
        "1:30",
        "64MiB",
        False,
        None,
        pytest.param("9" * 400, id="400 digits"),
        pytest.param(10**400, id="10**400"),
    ],
)
def test_what_is_no_duration_is_refused_by_field(text: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_seconds(text, field="l1_idle_seconds")  # type: ignore[arg-type]
    assert caught.value.field == "l1_idle_seconds"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (64 * MIB, "64.0 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (5000 * GIB, "4.9 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_are_written_for_people(count: int, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 µs"), (17.2e-6, "17.2 µs"), (4.1e-3, "4.1 ms"), (2, "2.0 s"), (90, "90.0 s")],
)
def test_seconds_are_written_for_people(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected


@given(st.integers(min_value=0, max_value=1 << 50))
def test_what_is_written_is_read_back_within_its_last_digit(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)
