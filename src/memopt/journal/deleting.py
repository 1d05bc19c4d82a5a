"""Taking away on a full disk: it needs room too, which is made at the ballast's expense."""

from collections.abc import Callable
from typing import TypeVar

from memopt.base.errors import DiskFullError

T = TypeVar("T")


def deleting(delete: Callable[[], T], make_room: Callable[[], bool]) -> T:
    """Run `delete`, and once more where the disk was full and `make_room()` says there is more."""
    try:
        return delete()
    except DiskFullError:
        if not make_room():
            raise
        return delete()
