"""Waking: a ring is heard once, and nobody waits beyond their time."""

import threading

from memopt.base.wakeups import Wakeup


def test_a_ring_is_heard_once() -> None:
    wakeup = Wakeup()
    assert not wakeup.wait(0.0)
    wakeup.ring()
    wakeup.ring()
    assert wakeup.wait(0.0)
    assert not wakeup.wait(0.0)


def test_time_that_is_over_is_no_time_and_not_for_ever() -> None:
    assert not Wakeup().wait(-1.0)


def test_whoever_waits_is_woken_by_another_thread() -> None:
    wakeup = Wakeup()
    heard = threading.Event()

    def wait() -> None:
        assert wakeup.wait(60.0)
        heard.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wakeup.ring()
    assert heard.wait(60.0)
    thread.join()
