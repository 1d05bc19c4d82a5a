"""Methods that a Ctrl-C may leave half done.

It comes between any two calls, so also between two changes that belong together. Whoever can say
how to put itself right afterwards need not be careful at every line. Not here: how that is done.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def mended_by(mend: Callable[[Any], object]) -> Callable[[F], F]:
    """For a method: when it is interrupted, `mend(self)` is called before the interrupt goes on.
    Errors are its own business."""

    def mended(method: F) -> F:
        @functools.wraps(method)
        def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return method(self, *arguments, **named)
            except Exception:
                raise
            except BaseException:
                mend(self)
                raise

        return cast("F", guarded)

    return mended
