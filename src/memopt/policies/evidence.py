"""Which of several policies had the most hits lately, and whether that is more than chance.

Owns the weights of what was asked for, by who had it. Not here: the policies that had it
(ghosts.py), and what a lead has to be (adaptive.py).
"""

from collections.abc import Sequence

from memopt.policies.queue import table_bytes


class Evidence:
    """What was asked for is one of 2^n patterns: which of the n policies had the page. Weights of
    patterns, which are halved over time, say all that is needed: each policy's hits, and for two of
    them how often they differed, which is what chance has to be measured by (McNemar's test)."""

    __slots__ = ("_half_life_turns", "_squares", "_weights", "accesses")

    def __init__(self, policies: int, half_life_turns: int) -> None:
        self._half_life_turns = half_life_turns
        self._weights = [0.0] * (1 << policies)
        """By pattern, bit i for the i-th policy."""
        self._squares = [0.0] * (1 << policies)
        self.accesses = 0.0
        """How many there were, halved over time as their weights are."""

    def add(
        self, weights: Sequence[float], squares: Sequence[float], accesses: int, pages: int
    ) -> None:
        """So many more accesses, to caches of so many pages: a turn is one for each."""
        kept = 0.5 ** (accesses / max(1, self._half_life_turns * pages))
        self.accesses = (self.accesses + accesses) * kept
        for before, new in ((self._weights, weights), (self._squares, squares)):
            before[:] = [(old + more) * kept for old, more in zip(before, new, strict=True)]

    def hits(self, policy: int) -> float:
        return sum(weight for pattern, weight in enumerate(self._weights) if pattern >> policy & 1)

    def variance(self, one: int, other: int) -> float:
        """Of the difference of their hits, if it were chance which of them had a page."""
        return sum(
            square
            for pattern, square in enumerate(self._squares)
            if (pattern >> one ^ pattern >> other) & 1
        )

    def share(self, accesses: float) -> float:
        """What so many accesses weigh, on average."""
        return sum(self._weights) * accesses / self.accesses

    def charged_bytes(self) -> int:
        return table_bytes(self._weights, self._squares) + 2 * 24 * len(self._weights)
