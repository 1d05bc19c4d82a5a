"""How many tokens a text has, about, where nobody knows the model's tokenizer.

A token begins more likely between some characters than between others: rarely within "th", mostly
within "xq", always before a Chinese one. So each pair of neighbours has a cost, fitted to what
three tokenizers make of prose in many languages, code, JSON, logs, base64, digits and more. What a
pair costs depends on what is around it, for "de" is half a word or a byte in hex: each block of a
text is taken for one of four manners, by how likely its pairs are in each.

Owns: the estimate. Invariant: it depends on the text alone, is 0 for an empty text and at least 1
for any other. Not here: choosing what counts (tokens.py), and fitting (tools/).
"""

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from memopt.base.errors import CorruptionError, UsageError

SHIPPED: Final = Path(__file__).with_name("estimate.bin")
_CHUNK_CHARS: Final = 1 << 15
"""Longer texts are looked at in parts: the arrays are 40 times as large as the text."""
_BLOCK_CHARS: Final = 64
MANNERS: Final = ("ordinary", "west", "other", "dense")
"""What agents mostly read and write, and English; other languages in Latin letters; whatever looks
like chance, digits, and other scripts."""
COST_UNIT: Final = 64
EVIDENCE_UNIT: Final = 16
_ORDINARY_BIAS: Final = 7.0
"""A block is ordinary unless much speaks against it: logarithm of a likelihood."""
_EVIDENCE_ZERO: Final = 128
_BLANK: Final = np.uint8(ord("\t"))
_BLANKS: Final = np.uint8(ord(" ") - ord("\t"))
"""Tabs, line breaks and spaces; what else is between them is nowhere."""
_TAG: Final = b"MTE1"

_STARTS: Final = (
    0x80, 0xC0, 0x250, 0x300, 0x370, 0x400, 0x530, 0x590, 0x600, 0x700, 0x900, 0x980, 0xA00, 0xA80,
    0xB00, 0xB80, 0xC00, 0xC80, 0xD00, 0xD80, 0xE00, 0xE80, 0xF00, 0x1000, 0x10A0, 0x1100, 0x1200,
    0x1E00, 0x1F00, 0x2000, 0x2070, 0x2190, 0x2500, 0x2580, 0x2600, 0x27C0, 0x2800, 0x2900, 0x3000,
    0x3040, 0x30A0, 0x3100, 0x3400, 0x4E00, 0xA000, 0xAC00, 0xD800, 0xE000, 0xF900, 0xFE00, 0xFE10,
    0xFF00, 0x10000, 0x1D400, 0x1D800, 0x1F000, 0x1F1E6, 0x1F200, 0x1F3FB, 0x1F400, 0x1FB00,
    0x20000, 0xE0000,
)  # fmt: skip
"""Where a script begins, or another kind of signs: beyond ASCII, such a range is one kind of
characters."""
_COMMON_HAN: Final = 128 + len(_STARTS)
"""The Chinese characters that are used most have a token each."""
KINDS: Final = _COMMON_HAN + 1
_PAIRS: Final = KINDS * KINDS
ROWS: Final = _PAIRS + KINDS
"""Pairs, and behind them the third and later characters of a run."""


class Estimate:
    """A Tokenizer that only counts."""

    name: Final = "estimate"

    def count(self, text: str) -> int:
        total = 0.0
        for start in range(0, len(text), _CHUNK_CHARS):
            total += _table().tokens(rows_of(text[start : start + _CHUNK_CHARS]))
        return max(1, round(total)) if text else 0

    def encode(self, text: str) -> Sequence[int]:
        raise UsageError(
            "an estimate has no token ids: name a model whose tokenizer is known, or open the "
            "store with tokenizer=…",
            field="token_ids",
        )


class Table:
    """What each row costs in each manner, and how much likelier than ordinary it is in the others.

    A row's figures are lanes of 16 bits in one number, so a block's are summed at once.
    """

    def __init__(self, costs: Any, evidence: Any) -> None:
        """`costs`: uint8, (rows, manners). `evidence`: int8, (rows, manners - 1)."""
        self.costs = costs
        self.evidence = evidence
        nothing = np.zeros((1, len(MANNERS)), np.int64)
        self._costs = _lanes(np.concatenate((costs, nothing)))
        # Lanes hold no negative number.
        self._evidence = _lanes(np.concatenate((evidence, nothing[:, 1:])) + _EVIDENCE_ZERO)

    def tokens(self, rows: Any) -> float:
        """Of a text whose rows these are, by `rows_of`."""
        blocks = rows.reshape(-1, _BLOCK_CHARS)
        costs = self._costs.take(blocks).sum(axis=1).view(np.uint16).reshape(-1, 4)
        found = self._evidence.take(blocks).sum(axis=1).view(np.uint16).reshape(-1, 4)
        evidence = np.empty((len(blocks), len(MANNERS)))
        evidence[:, 0] = _ORDINARY_BIAS
        evidence[:, 1:] = found[:, : len(MANNERS) - 1]
        evidence[:, 1:] -= _EVIDENCE_ZERO * _BLOCK_CHARS
        evidence[:, 1:] /= EVIDENCE_UNIT
        shares = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        mixed = (shares * costs[:, : len(MANNERS)]).sum(axis=1) / shares.sum(axis=1)
        return float(mixed.sum()) / COST_UNIT


def _lanes(figures: Any) -> Any:
    lanes = np.zeros((len(figures), 4), np.uint16)
    lanes[:, : figures.shape[1]] = figures
    return lanes.view(np.int64).ravel()


def rows_of(text: str) -> Any:
    """The row of each character of a text, by what it is and what is before it; and some that cost
    nothing, up to a whole block."""
    kinds = _kinds(text)
    count = len(kinds)
    before = np.empty_like(kinds)
    before[:1] = ord("\n")
    before[1:] = kinds[:-1]
    rows = np.full(-(-count // _BLOCK_CHARS) * _BLOCK_CHARS, ROWS)
    np.multiply(before, KINDS, out=rows[:count], dtype=rows.dtype)
    rows[:count] += kinds
    blank = kinds - _BLANK <= _BLANKS
    same = before == kinds
    same[1:] |= blank[1:] & blank[:-1]
    run = np.flatnonzero(same[1:] & same[:-1]) + 1
    rows[run] = kinds[run]
    rows[run] += _PAIRS
    return rows


def packed(table: Table) -> bytes:
    """As it is shipped; `_table` reads it."""
    raw = table.costs.T.tobytes() + table.evidence.T.tobytes()
    return _TAG + zlib.crc32(raw).to_bytes(4, "little") + zlib.compress(raw, 9)


def _kinds(text: str) -> Any:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _KIND_OF.take(codes, mode="clip")
    beyond = np.flatnonzero(codes > 0xFFFF)
    if len(beyond):
        found = np.searchsorted(_STARTS, codes[beyond], side="right")
        kinds[beyond] = (127 + found).astype(np.uint8)
    return kinds


def _kind_of() -> Any:
    kinds = np.zeros(0x10000, np.uint8)
    kinds[:128] = np.arange(128)
    for number, start in enumerate(_STARTS):
        if start < 0x10000:
            kinds[start:] = 128 + number
    # The first level of GB 2312 is those.
    level = bytes(b for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) for b in (row, cell))
    kinds[[ord(char) for char in level.decode("gb2312", "ignore")]] = _COMMON_HAN
    return kinds


_KIND_OF: Final = _kind_of()


@functools.cache
def _table() -> Table:
    body = SHIPPED.read_bytes()
    size = ROWS * (2 * len(MANNERS) - 1)
    try:
        raw = zlib.decompressobj().decompress(body[8:], size + 1)
    except zlib.error:
        raw = b""
    if body[:4] != _TAG or len(raw) != size or zlib.crc32(raw).to_bytes(4, "little") != body[4:8]:
        raise CorruptionError(f"{SHIPPED} is damaged: install memopt again")
    figures = np.frombuffer(raw, np.uint8).reshape(-1, ROWS).T
    return Table(figures[:, : len(MANNERS)], figures[:, len(MANNERS) :].view(np.int8))
