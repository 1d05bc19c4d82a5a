"""What byte strings take of the heap beside their own size."""


def heap_bytes(size_bytes: int) -> int:
    """What bytes of many sizes that come and go take of the heap, with the holes between them:
    a twelfth more, measured over 20,000 sessions as RSS growth above what was charged without."""
    return size_bytes + size_bytes // 12
