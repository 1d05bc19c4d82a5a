"""The verbs of recall: what a Memory and a view of it can do with memories, beside sessions.

They are classes that Memory and MemoryView inherit from, so that each file stays small. Not here:
how anything is found, stated or forgotten (recall/).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from memopt.base.moments import Bound
from memopt.parts import Parts

T = TypeVar("T")


class Recalling:
    """The verbs of recall of a Memory."""

    _parts: Parts

    if TYPE_CHECKING:

        def _ready(self) -> None: ...
        def _writable(self) -> None: ...
        def _with_room(self, action: Callable[[], T]) -> T: ...


class RecallingView:
    """The same of a store as it was."""

    _memory: Recalling
    bound: Bound
