"""The page table: one row for each resident page, and none for any other.

Columns are arrays, because a Python object for each page would cost as much as the page. A slot is
the row's index and the key that policies see. A row has the page's compressed frame (it is in L2)
and, while it is hot, its raw bytes too (it is in L1): going cold then costs nothing but dropping
them.

Not here: locks, budgets and choices (pager.py).
"""

import math
from array import array
from collections.abc import Iterator
from typing import Final

from memopt.base.heap import heap_bytes

ROW_BYTES: Final = 328
"""Upper estimate of one row: 53 bytes of columns, two list entries, an index entry with its two
integers, and the headers and rounding of two byte strings; measured in the tests."""
_TEXT_REF_BYTES: Final = 192
"""Of one digest and text number in a row; measured in the tests."""


def row_bytes(frame: bytes, texts: tuple[tuple[bytes, int], ...]) -> int:
    """What a row in L2 occupies."""
    return ROW_BYTES + heap_bytes(len(frame)) + _TEXT_REF_BYTES * len(texts)


class PageTable:
    """Rows by slot, and slots by page number."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        self.frames: list[bytes | None] = []
        self.raws: list[bytes | None] = []
        self.texts: list[tuple[tuple[bytes, int], ...]] = []
        """(digest, text number) of the shared texts a row's page refers to."""
        self.pages = array("q")
        self.scopes = array("q")
        self.touched = array("d")
        self.agents = array("B")
        """The agent type that a row's page was brought in for (working_set.py)."""
        self.windows = array("I")
        """In which it was touched last."""
        self.marks = array("B")
        """Which predictor brought it in, until it is touched; 0 for none."""
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.slots)

    def add(
        self, page: int, scope: int, frame: bytes, texts: tuple[tuple[bytes, int], ...], now: float,
        agent: int = 0,
    ) -> int:  # fmt: skip
        """A new row in L2; its slot."""
        assert page not in self.slots
        if self._free:
            slot = self._free.pop()
            self.frames[slot] = frame
            self.texts[slot] = texts
            self.pages[slot] = page
            self.scopes[slot] = scope
            self.touched[slot] = now
            self.agents[slot] = agent
            self.windows[slot] = 0
            self.marks[slot] = 0
        else:
            slot = len(self.frames)
            self.frames.append(frame)
            self.raws.append(None)
            self.texts.append(texts)
            self.pages.append(page)
            self.scopes.append(scope)
            self.touched.append(now)
            self.agents.append(agent)
            self.windows.append(0)
            self.marks.append(0)
        self.slots[page] = slot
        return slot

    def remove(self, slot: int) -> None:
        del self.slots[self.pages[slot]]
        self.frames[slot] = None
        self.raws[slot] = None
        self.texts[slot] = ()
        self.touched[slot] = math.inf
        self._free.append(slot)

    def idle_since(self, moment: float) -> list[int]:
        """Slots that were not touched since `moment`."""
        return [slot for slot, touched in enumerate(self.touched) if touched < moment]

    def row_bytes(self, slot: int) -> int:
        frame = self.frames[slot]
        assert frame is not None
        return row_bytes(frame, self.texts[slot])

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(scope, bytes of the raw page or 0, bytes of the row, page) of every row."""
        for page, slot in self.slots.items():
            raw = self.raws[slot]
            size = heap_bytes(len(raw)) if raw is not None else 0
            yield self.scopes[slot], size, self.row_bytes(slot), page
