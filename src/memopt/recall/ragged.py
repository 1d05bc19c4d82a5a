"""Spans of arrays that belong to entries, and sets of terms among many.

Not here: what is made of them (features, links).
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ragged(starts: Array, values: Array, chosen: Array) -> tuple[Array, Array]:
    """(owners, values) of the chosen entries, in their order; an owner is a place in `chosen`."""
    begins = starts[:-1][chosen].astype(np.int64)
    counts = starts[1:][chosen].astype(np.int64) - begins
    owners = np.repeat(np.arange(len(chosen)), counts)
    shift = np.repeat(begins - (np.cumsum(counts) - counts), counts)
    return owners, values[np.arange(len(owners)) + shift]


def among(terms: Array, known: Array) -> Array:
    """Which of `terms` are among `known`: by 16 of their bits first, as most are not."""
    if not len(known):
        return np.zeros(len(terms), bool)
    few = np.zeros(1 << 16, bool)
    few[known & 0xFFFF] = True
    found: Array = few[terms & 0xFFFF]
    places = np.flatnonzero(found)
    ordered = np.sort(known)
    asked = terms[places]
    found[places] = ordered[np.searchsorted(ordered[:-1], asked)] == asked
    return found


def incidence(terms: Array, owners: Array, known: Array, count: int) -> Array:
    """float32 (count, known): 1 where an owner has one of the sorted `known`."""
    has = np.zeros((count, len(known)), np.float32)
    held = among(terms, known)
    has[owners[held], np.searchsorted(known, terms[held])] = 1
    return has
