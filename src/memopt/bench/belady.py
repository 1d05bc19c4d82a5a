"""What a cache could answer that knows the future: the ceiling policies are measured against.

Owns three answers. For keys of one size, the optimum (`optimum`). For keys of many sizes the
optimum is NP-hard, so there is what a far-sighted cache does reach (`far_sighted`, an approximation
from below) and what none can pass (`ceiling`, from above). All three may leave a key out that is
requested, as a policy with an admission rule may; so no such policy passes the first or the last.

Requests are an array of keys; hits are counted, and the bytes of those hits. Not here: policies.
"""

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int32]
"""The key of each request."""
Sizes = NDArray[np.int64]
"""Bytes of each key."""
Positions = NDArray[np.int64]

NEVER: Final = np.iinfo(np.int64).max
"""The next use of a key that is not requested again."""
_STALE_SLACK: Final = 1024
_CLASSES_PER_DOUBLING: Final = 8


class Reached(NamedTuple):
    hits: int
    hit_bytes: int


def next_uses(keys: Keys) -> Positions:
    """For each request, the position of the next one of the same key, or NEVER. O(n log n)."""
    order = np.argsort(keys, kind="stable")
    again = keys[order[:-1]] == keys[order[1:]]
    following = np.full(len(keys), NEVER, dtype=np.int64)
    following[order[:-1][again]] = order[1:][again]
    return following


def optimum(following: Positions, slots: int) -> int:
    """Hits of the best that any cache of `slots` keys of one size can do. O(n log n).

    Source: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM
    Systems Journal 5(2), 1966 (MIN), and R. L. Mattson et al., 1970, for its proof; with the key
    that is requested among those that may be left out.
    """
    if slots < 1:
        return 0
    kept = bytearray(len(following))
    """At a position: its key is kept until then."""
    heap: list[int] = []
    """Positions kept for, negated: the farthest first. Those that are past sink to the end."""
    hits = used = 0
    for now, then in enumerate(following.tolist()):
        if kept[now]:
            hits += 1
            if then == NEVER:
                used -= 1
                continue
        elif then == NEVER:
            continue
        elif used < slots:
            used += 1
        else:
            farthest = -heap[0]
            if then < farthest:
                kept[farthest] = 0
                heapreplace(heap, -then)
                kept[then] = 1
            continue
        kept[then] = 1
        heappush(heap, -then)
        if len(heap) > 2 * used + _STALE_SLACK:
            heap = [entry for entry in heap if -entry > now]
            heapify(heap)
    return hits


def far_sighted(keys: Keys, sizes: Sizes, following: Positions, capacity: int) -> Reached:
    """What a cache of `capacity` bytes reaches that lets the largest `size x time until next use`
    go, of its keys and the one requested. O(classes) to choose: keys whose sizes differ by less
    than a ninth are a class, and compared by time alone.

    Source: the cost-aware Belady of D. S. Berger, N. Beckmann, M. Harchol-Balter, "Practical bounds
    on optimal caching with variable object sizes", SIGMETRICS 2018, section 5.
    """
    class_of = np.floor(np.log2(sizes) * _CLASSES_PER_DOUBLING).astype(np.int64)
    names, class_of_key = np.unique(class_of, return_inverse=True)
    classes = class_of_key.reshape(-1).tolist()
    size_of, key_at = sizes.tolist(), keys.tolist()
    heaps: list[list[int]] = [[] for _ in names]
    kept = bytearray(len(keys))
    hits = hit_bytes = used = 0
    for now, then in enumerate(following.tolist()):
        key = key_at[now]
        size = size_of[key]
        if kept[now]:
            hits += 1
            hit_bytes += size
            used -= size
        if then == NEVER or size > capacity:
            continue
        heap = heaps[classes[key]]
        heappush(heap, -then)
        kept[then] = 1
        used += size
        while used > capacity:
            worst, weight = heap, -1
            for candidates in heaps:
                # Those of the past are at the end of a heap, so one at its front is alone there.
                if candidates and -candidates[0] > now:
                    position = -candidates[0]
                    weighs = size_of[key_at[position]] * (position - now)
                    if weighs > weight:
                        worst, weight = candidates, weighs
            position = -heappop(worst)
            kept[position] = 0
            used -= size_of[key_at[position]]
        if len(heap) > _STALE_SLACK and not now % _STALE_SLACK:
            heap[:] = [entry for entry in heap if -entry > now]
            heapify(heap)
    return Reached(hits, hit_bytes)


def ceiling(keys: Keys, sizes: Sizes, following: Positions, capacity: int) -> Reached:
    """Hits, and hit bytes, that no cache of `capacity` bytes can pass. Each is a bound of its own.

    To answer a request from a cache takes `size` bytes from the request of that key before. All
    that a cache has is `capacity` bytes for the length of the trace: the cheapest intervals are
    bought until that is spent, wherever they lie.

    Source: Berger et al., 2018, PFOO-L.
    """
    start = np.flatnonzero(following != NEVER)
    size = sizes[keys[start]]
    start, size = start[size <= capacity], size[size <= capacity]
    length = following[start] - start
    budget = capacity * len(keys)
    return Reached(
        _bought(length * size, np.ones(len(start), dtype=np.int64), length * size, budget),
        _bought(length, size, length * size, budget),
    )


def _bought(
    rank: NDArray[np.int64], worth: NDArray[np.int64], price: NDArray[np.int64], budget: int
) -> int:
    """The worth of what is bought in the order of `rank`; of the last one, all."""
    order = np.argsort(rank, kind="stable")
    # As floats, for the sum of all prices may pass 64 bits; a bound may err upwards by a hit.
    spent = np.cumsum(price[order].astype(np.float64))
    count = int(np.searchsorted(spent, float(budget), side="right")) + 1
    return int(worth[order[:count]].sum())
