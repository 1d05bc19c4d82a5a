"""The estimate of tokens beside what tokenizers really count."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts_by_kind import COUNTS, TEXTS

from memopt.base.errors import CorruptionError
from memopt.context import estimating
from memopt.context.estimating import ROWS, Estimate, rows_of

FREE = frozenset({"blank"})
"""Nobody sends that much of nothing; what it is taken for is more than it is."""
LOW = frozenset({"random letters"})
"""Known to be estimated too low, but no longer by half."""


@pytest.mark.parametrize("kind", TEXTS)
def test_of_every_kind_of_text_the_estimate_is_near(kind: str) -> None:
    mean = sum(COUNTS[kind]) / len(COUNTS[kind])
    ratio = Estimate().count(TEXTS[kind]) / mean
    assert ratio >= (0.85 if kind in LOW else 0.95)
    assert kind in FREE or ratio <= 1.45


@pytest.mark.parametrize("kind", ["base64", "hex", "random letters", "digits"])
def test_what_is_within_other_text_is_seen(kind: str) -> None:
    around = TEXTS["English"]
    whole = Estimate().count(around + TEXTS[kind] + around)
    parts = 2 * Estimate().count(around) + Estimate().count(TEXTS[kind])
    assert abs(whole / parts - 1) < 0.05


@given(st.text(max_size=300))
def test_an_estimate_is_nothing_only_for_nothing(text: str) -> None:
    assert (Estimate().count(text) == 0) == (text == "")


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_every_character_has_a_row(text: str) -> None:
    rows = rows_of(text)
    assert len(rows) % 64 == 0
    assert all(0 <= row <= ROWS for row in rows)
    assert (rows == ROWS).sum() == len(rows) - len(text)
    Estimate().count(text)


def test_a_long_text_costs_what_its_parts_cost() -> None:
    text = TEXTS["Python"] * 100
    assert abs(Estimate().count(text) / (100 * Estimate().count(TEXTS["Python"])) - 1) < 0.02


@pytest.mark.parametrize("spoilt", [b"", b"MTE1", b"XXXX", b"cut", b"flipped"])
def test_a_damaged_table_is_refused(
    spoilt: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = (Path(estimating.__file__).parent / "estimate.bin").read_bytes()
    if spoilt == b"cut":
        spoilt = whole[:-100]
    elif spoilt == b"flipped":
        spoilt = whole[:5] + bytes([whole[5] ^ 1]) + whole[6:]
    elif spoilt == b"XXXX":
        spoilt = b"XXXX" + whole[4:]
    (tmp_path / "estimate.bin").write_bytes(spoilt)
    monkeypatch.setattr(estimating, "SHIPPED", tmp_path / "estimate.bin")
    with pytest.raises(CorruptionError):
        estimating._table.__wrapped__()
