"""What holds the values in `bench arena` is measured alike."""

import sys

import pytest

from memopt.bench.arena import _InArena, _InList, _InSlabs


@pytest.mark.parametrize("kind", [_InArena, _InList, _InSlabs])
def test_what_refers_to_the_values_is_there_before_they_are_measured(kind: type) -> None:
    count = 1_000
    holder = kind(count)
    names = ("_handles", "_values", "_slots", "_sizes")
    references = [getattr(holder, name) for name in names if hasattr(holder, name)]
    assert references
    before = [sys.getsizeof(each) for each in references]
    for number in range(count):
        holder.put(number, number.to_bytes(8, "big"))
    assert [sys.getsizeof(each) for each in references] == before
    assert holder.get(17) == (17).to_bytes(8, "big")
