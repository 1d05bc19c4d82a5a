"""Of equal calls at the same time one makes the answer, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from memopt.answers.flights import Flights
from memopt.base.errors import BackpressureError, StoreClosedError
from waiting import PATIENCE, until


def test_one_makes_it_and_the_others_get_it() -> None:
    flights, gate, made = Flights(16), threading.Event(), []

    def make() -> str:
        made.append(threading.get_ident())
        assert gate.wait(PATIENCE)
        return "answer"

    with ThreadPoolExecutor(9) as pool:
        calls = [pool.submit(flights.join, "k", make, wait_seconds=PATIENCE) for _ in range(8)]
        until(lambda: flights.waiting == 7)
        other = pool.submit(flights.join, "another", lambda: "other", wait_seconds=0.0)
        assert other.result(PATIENCE) == ("other", False)
        gate.set()
        landed = [call.result(PATIENCE) for call in calls]
    assert len(made) == 1
    assert [one.result for one in landed] == ["answer"] * 8
    assert sum(one.is_shared for one in landed) == 7
    assert flights.join("k", lambda: "new", wait_seconds=0.0) == ("new", False)


def test_an_error_is_the_callers_own_and_the_next_tries_again() -> None:
    flights, gate = Flights(16), threading.Event()
    turns = iter([True, False, False])

    def make() -> str:
        fails = next(turns)
        if fails:
            assert gate.wait(PATIENCE)
            raise RuntimeError("the model is down")
        return "answer"

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(flights.join, "k", make, wait_seconds=PATIENCE)
        until(lambda: bool(flights._flights))
        second = pool.submit(flights.join, "k", make, wait_seconds=PATIENCE)
        until(lambda: flights.waiting == 1)
        gate.set()
        with pytest.raises(RuntimeError, match="down"):
            first.result(PATIENCE)
        assert second.result(PATIENCE) == ("answer", False)
    assert flights.waiting == 0


def test_who_waited_long_enough_makes_it_alone() -> None:
    flights, gate = Flights(16), threading.Event()

    def slow() -> str:
        assert gate.wait(PATIENCE)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.join, "k", slow, wait_seconds=PATIENCE)
        until(lambda: bool(flights._flights))
        assert flights.join("k", lambda: "mine", wait_seconds=0.0) == ("mine", False)
        gate.set()
        assert first.result(PATIENCE) == ("slow", False)


def test_no_more_wait_than_may() -> None:
    flights, gate = Flights(1), threading.Event()

    def slow() -> str:
        assert gate.wait(PATIENCE)
        return "slow"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "k", slow, wait_seconds=PATIENCE)
        until(lambda: bool(flights._flights))
        second = pool.submit(flights.join, "k", slow, wait_seconds=PATIENCE)
        until(lambda: flights.waiting == 1)
        with pytest.raises(BackpressureError) as raised:
            flights.join("k", slow, wait_seconds=PATIENCE)
        assert raised.value.limit == "answer_waiters_max"
        gate.set()
        assert first.result(PATIENCE).result == second.result(PATIENCE).result == "slow"


def test_closing_lets_everybody_go_on() -> None:
    flights, gate = Flights(16), threading.Event()

    def slow() -> str:
        assert gate.wait(PATIENCE)
        return "slow"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "k", slow, wait_seconds=PATIENCE)
        until(lambda: bool(flights._flights))
        second = pool.submit(flights.join, "k", slow, wait_seconds=PATIENCE)
        until(lambda: flights.waiting == 1)
        flights.close()
        with pytest.raises(StoreClosedError):
            second.result(PATIENCE)
        gate.set()
        assert first.result(PATIENCE).result == "slow"
