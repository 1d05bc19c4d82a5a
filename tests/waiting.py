"""Waiting in tests for what another thread does."""

import threading
from collections.abc import Callable
from typing import Final

import pytest

PATIENCE: Final = 30.0
"""Seconds after which it will not happen any more."""


def until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        waited.wait(0.001)
    pytest.fail("it did not happen")
