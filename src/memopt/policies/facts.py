"""Size, cost and importance of a page in one int, for policies that hand pages on to others.

Owns the packing. Invariant: the size comes back exactly, the cost within 1.1 %, the importance
within 1/127, and an importance is 1 after unpacking where it was 1 before. One int a page is 32
bytes; a tuple of an int and two floats would be 150.
"""

from math import ldexp, log2
from typing import Final

SIZE_SHIFT: Final = 20
"""`facts >> SIZE_SHIFT` is the size."""
_COST_SHIFT: Final = 8
_COST_MASK: Final = 0xFFF
_COST_ONE: Final = 0x800
_COST_STEPS: Final = 32
"""Codes to a doubling of the cost."""
_IMPORTANCE_SHIFT: Final = 1
_IMPORTANCE_MAX: Final = 0x7F
PLAIN: Final = _COST_ONE << _COST_SHIFT
"""The codes of a cost of 1 and no importance."""
_CODES_MASK: Final = (1 << SIZE_SHIFT) - 2
MARK: Final = 1
"""A bit that the packing leaves to its user."""
_ROOTS: Final = tuple(2.0 ** (step / _COST_STEPS) for step in range(_COST_STEPS))
"""Of the steps within a doubling."""


def packed(size_bytes: int, cost: float, importance: float) -> int:
    """One int. A cost of 0 becomes 2^-64; importances are cut to 0 to 1."""
    code = _COST_ONE
    if cost != 1.0:
        steps = round(_COST_STEPS * log2(cost)) if cost > 0 else -_COST_ONE
        code = min(max(_COST_ONE + steps, 0), _COST_MASK)
    if importance:
        whole = int(importance * _IMPORTANCE_MAX)
        code = code << (_COST_SHIFT - _IMPORTANCE_SHIFT) | min(max(whole, 0), _IMPORTANCE_MAX)
        return size_bytes << SIZE_SHIFT | code << _IMPORTANCE_SHIFT
    return size_bytes << SIZE_SHIFT | code << _COST_SHIFT


def size_of(facts: int) -> int:
    return facts >> SIZE_SHIFT


def unpacked(facts: int) -> tuple[int, float, float]:
    """(size_bytes, cost, importance)"""
    if facts & _CODES_MASK == PLAIN:
        return facts >> SIZE_SHIFT, 1.0, 0.0
    doublings, step = divmod((facts >> _COST_SHIFT & _COST_MASK) - _COST_ONE, _COST_STEPS)
    importance = (facts >> _IMPORTANCE_SHIFT & _IMPORTANCE_MAX) / _IMPORTANCE_MAX
    return facts >> SIZE_SHIFT, ldexp(_ROOTS[step], doublings), importance
