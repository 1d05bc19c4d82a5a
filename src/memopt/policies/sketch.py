"""How often keys were asked for lately, in 8 to 32 bytes a member.

Owns four rows of counters. Invariant: an estimate is never below the number of times the key was
counted since the counters were last halved, up to `COUNT_MAX`. Not here: what follows from an
estimate.
"""

import sys
from typing import Final

COUNT_MAX: Final = 15
_ROWS: Final = 4
_WIDTH_MIN: Final = 128
_SAMPLE_FACTOR: Final = 10
"""Counts between two halvings, for each member: the paper's W / C."""
_COUNTERS_MIN: Final = 2
"""Of a row, for each member: with one, a twelfth of the estimates is wrong."""
_COUNTERS_MAX: Final = 8
SALT: Final = 7
"""A tuple's hash mixes the bits of its ints, in C; that of a lone int is the int, and that of a
tuple of one keeps the rows in step."""
_HALVED: Final = bytes(value >> 1 for value in range(256))


class FrequencySketch:
    """A count-min sketch with conservative updates that forgets: all counters are halved after ten
    counts for each member.

    Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission
    policy", ACM Transactions on Storage 13(4), 2017, sections 3.2 and 3.3.
    Constant time a call, but for the halving, which is one pass in C over 4 bytes a counter.

    The width follows the members. Doubling a row copies it behind itself, since an index of one bit
    more finds the same count in either copy; halving it keeps the larger of the two.
    """

    __slots__ = ("_counted", "_mask", "_rows", "_sample")

    def __init__(self) -> None:
        self._rows = [bytearray(_WIDTH_MIN) for _ in range(_ROWS)]
        self._mask = _WIDTH_MIN - 1
        self._counted = 0
        self._sample = _SAMPLE_FACTOR * _WIDTH_MIN // _COUNTERS_MIN

    def add(self, key: int) -> int:
        """Count the key. Returns its hash, `hash((key, SALT))`, for whoever samples by it."""
        mask = self._mask
        first, second, third, fourth = self._rows
        mixed = hash((key, SALT))
        a = mixed & mask
        b = mixed >> 15 & mask
        c = mixed >> 30 & mask
        d = mixed >> 45 & mask
        # Comparing one by one takes half as long as min() of four.
        at_a, at_b, at_c, at_d = first[a], second[b], third[c], fourth[d]
        least = at_a if at_a < at_b else at_b
        if at_c < least:
            least = at_c
        if at_d < least:
            least = at_d
        if least == COUNT_MAX:
            return mixed
        if at_a == least:
            first[a] = least + 1
        if at_b == least:
            second[b] = least + 1
        if at_c == least:
            third[c] = least + 1
        if at_d == least:
            fourth[d] = least + 1
        self._counted += 1
        if self._counted >= self._sample:
            self._rows = [bytearray(row.translate(_HALVED)) for row in self._rows]
            self._counted //= 2
        return mixed

    def estimate(self, key: int) -> int:
        """From 0 to COUNT_MAX."""
        mask = self._mask
        first, second, third, fourth = self._rows
        mixed = hash((key, SALT))
        least = first[mixed & mask]
        # A count of none is common, and cannot get less.
        if least and (other := second[mixed >> 15 & mask]) < least:
            least = other
        if least and (other := third[mixed >> 30 & mask]) < least:
            least = other
        if least and (other := fourth[mixed >> 45 & mask]) < least:
            least = other
        return least

    def fit(self, members: int) -> None:
        """Take the width and the sample for so many members."""
        width = self._mask + 1
        while width < _COUNTERS_MIN * members:
            self._rows = [row + row for row in self._rows]
            width *= 2
        while width > max(_WIDTH_MIN, _COUNTERS_MAX * members):
            width //= 2
            self._rows = [bytearray(map(max, row[:width], row[width:])) for row in self._rows]
        self._mask = width - 1
        self._sample = _SAMPLE_FACTOR * max(members, _WIDTH_MIN // _COUNTERS_MIN)

    def charged_bytes(self) -> int:
        return sum(map(sys.getsizeof, self._rows))
