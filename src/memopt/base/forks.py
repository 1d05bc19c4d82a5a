"""What a forked child is told, and what it has in the place of its parent's locks.

The thread that held a lock at the fork is not in the child, which would wait for it for ever. And
what a lock guards is the parent's. So a child is refused, and waits for nobody.
"""

from memopt.base.errors import StoreClosedError


def of_parent() -> StoreClosedError:
    return StoreClosedError("the store belongs to the parent process")


class LostLock:
    """In the place of a lock, for `with`: raises StoreClosedError."""

    def __enter__(self) -> None:
        raise of_parent()

    def __exit__(self, *nothing: object) -> None: ...
