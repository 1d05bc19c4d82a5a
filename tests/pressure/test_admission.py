"""Who may begin a turn, and when: by hand, by threads, and by a machine that tries everything."""

import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memopt.base.budget import Budget
from memopt.base.clock import ManualClock
from memopt.base.errors import BackpressureError, BudgetError, StoreClosedError
from memopt.base.events import Events, Refused, TurnEnded
from memopt.base.units import KIB, MIB
from memopt.pressure.admission import Admission
from memopt.pressure.forecast import Forecaster
from memopt.pressure.governor import Governor
from memopt.pressure.ticket import Ticket
from waiting import PATIENCE, until


class Line:
    """An admission with room for ten turns of 100 KiB."""

    def __init__(self, **given: Any) -> None:
        self.clock = ManualClock()
        self.events: list[Any] = []
        self.budget = Budget(32 * MIB)
        events = Events(self)
        self.governor = Governor(
            [], Forecaster(0.25), guarded_share=0.75, high_share=0.9, aggressiveness=0.5,
            dwell_seconds=2.0, clock=self.clock, events=events,
        )  # fmt: skip
        given = {
            "capacity_bytes": 1000 * KIB, "default_bytes": 100 * KIB, "queue_max": 100,
            "wait_seconds": PATIENCE, "scope_share": 1.0, "session_share": 1.0,
        } | given  # fmt: skip
        self.admission = Admission(
            self.budget, self.governor, clock=self.clock, events=events, **given
        )

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def ask(
        self, scope: str = "s", id: str = "a", *, size: int | None = None, agent: str | None = None
    ) -> Ticket:
        """One that waits on no thread."""
        ticket = self.admission.ticket((scope, id), agent, size)
        ticket.wake = lambda: None
        self.admission.ask(ticket, True)
        return ticket

    def enter(self, wait_seconds: float = 0.0, **arguments: Any) -> Ticket:
        key = (arguments.pop("scope", "s"), arguments.pop("id", "a"))
        ticket = self.admission.ticket(
            key, arguments.pop("agent", None), arguments.pop("size", None)
        )
        self.admission.enter(ticket, wait_seconds)
        return ticket


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.admission.check()
    line.budget.check()


def test_turns_are_let_in_by_what_they_are_expected_to_need(line: Line) -> None:
    tickets = [line.enter(id=f"a{n}", size=100 * KIB) for n in range(10)]
    assert line.admission.admitted_bytes == 1000 * KIB
    with pytest.raises(BackpressureError) as refused:
        line.enter(id="late")
    assert refused.value.limit == "turn_wait_seconds"
    assert refused.value.wanted_bytes == 100 * KIB
    assert refused.value.limit_bytes == 1000 * KIB
    line.admission.leave(tickets[0])
    line.enter(id="late", size=100 * KIB)
    assert [type(event) for event in line.events] == [Refused, TurnEnded]


def test_one_that_is_larger_than_everything_is_let_in_alone(line: Line) -> None:
    small = line.enter()
    large = line.ask(id="large", size=5000 * KIB)
    assert not large.granted
    line.admission.leave(small)
    assert large.granted
    assert large.charge_bytes == 1000 * KIB
    assert not line.ask(id="next").granted


def test_within_a_scope_it_is_first_come_first_served_and_the_large_are_not_overtaken(
    line: Line,
) -> None:
    first = line.ask(size=950 * KIB)
    waiting = [line.ask(id=f"w{n}", size=size * KIB) for n, size in enumerate([500, 30, 30])]
    # There is room for the small ones, but they came later.
    assert [ticket.granted for ticket in waiting] == [False, False, False]
    line.admission.leave(first)
    assert [ticket.granted for ticket in waiting] == [True, True, True]
    entered = list(line.admission._open.values())
    assert entered == waiting


def test_scopes_are_given_bytes_at_the_same_rate_however_much_they_ask_for(line: Line) -> None:
    holder = line.ask(scope="x", size=1000 * KIB)
    loud = [line.ask(scope="loud", id=f"l{n}") for n in range(60)]
    quiet = [line.ask(scope="quiet", id=f"q{n}") for n in range(10)]
    large = [line.ask(scope="large", id=f"b{n}", size=300 * KIB) for n in range(5)]
    line.admission.leave(holder)
    given = dict.fromkeys(("loud", "quiet", "large"), 0)
    while any(not ticket.granted for ticket in quiet):
        # The oldest open one ends.
        oldest = next(iter(line.admission._open.values()))
        given[oldest.scope] += oldest.charge_bytes
        line.admission.leave(oldest)
    assert max(given.values()) - min(given.values()) <= 400 * KIB
    assert sum(ticket.granted for ticket in loud) < 20
    assert sum(ticket.granted for ticket in large) >= 3


def test_a_scope_that_comes_one_at_a_time_does_not_go_before_the_others_each_time(
    line: Line,
) -> None:
    holders = [line.ask(scope="x", id=f"x{n}") for n in range(10)]
    many = [line.ask(scope="many", id=f"m{n}") for n in range(40)]
    single = line.ask(scope="single", id="one")
    served = []
    for _ in range(30):
        oldest = holders.pop(0) if holders else next(iter(line.admission._open.values()))
        line.admission.leave(oldest)
        if single.granted:
            served.append(sum(ticket.granted for ticket in many))
            if not single.ended:
                line.admission.leave(single)
            single = line.ask(scope="single", id="one")
    gaps = [after - before for before, after in itertools.pairwise(served)]
    assert gaps
    assert min(gaps) >= 1


def test_quotas_hold_back_their_own_and_nobody_else() -> None:
    line = Line(scope_share=0.5, session_share=0.2)
    mine = [line.ask(scope="a", id=f"a{n}") for n in range(8)]
    assert sum(ticket.granted for ticket in mine) == 5
    assert line.ask(scope="b").granted
    same = [line.ask(scope="c", id="same") for _ in range(3)]
    assert [ticket.granted for ticket in same] == [True, True, False]
    line.admission.leave(same[0])
    assert same[2].granted
    line.admission.leave(mine[0])
    assert mine[5].granted
    assert not mine[6].granted
    line.admission.check()


def test_a_turn_that_outgrows_its_prediction_is_charged_and_not_stopped(line: Line) -> None:
    ticket = line.enter()
    line.admission.note(ticket, 5000 * KIB)
    assert line.admission.admitted_bytes >= 5000 * KIB
    assert not line.ask(id="b").granted
    line.admission.note(ticket, -5000 * KIB)
    assert ticket.used_bytes == 0
    assert ticket.peak_bytes == 5000 * KIB
    line.admission.check()
    line.admission.leave(ticket)
    assert line.admission.turns == 1


def test_the_peak_of_a_type_is_learnt(line: Line) -> None:
    for _ in range(40):
        ticket = line.enter(agent="coder")
        line.admission.note(ticket, 200 * KIB)
        line.admission.leave(ticket)
    assert line.enter(agent="coder").charge_bytes == int(1.1 * 200 * KIB)
    assert line.enter(agent="other").charge_bytes == 100 * KIB


def test_the_queue_is_bounded() -> None:
    line = Line(queue_max=3)
    line.ask(size=1000 * KIB)
    for number in range(3):
        line.ask(id=f"w{number}")
    with pytest.raises(BackpressureError) as refused:
        line.ask(id="late")
    assert refused.value.limit == "turn_queue_max"
    line.admission.check()


def test_the_rows_are_charged_to_the_budget() -> None:
    line = Line()
    held = line.budget.held_bytes("turns")
    line.budget.reserve("others", line.budget.free_bytes() - 1000)
    with pytest.raises(BudgetError):
        line.enter()
    line.admission.check()
    assert line.budget.held_bytes("turns") == held


def test_room_for_a_row_is_made_while_others_come_and_go(line: Line) -> None:
    line.enter(size=1000 * KIB)
    found: list[bool] = []

    def make_free(size_bytes: int) -> None:
        found.append(line.admission._lock.locked())
        line.budget.release("pages", size_bytes)

    line.budget.on_shortage(make_free)
    line.budget.reserve("pages", line.budget.free_bytes())
    waiting = line.ask(id="b")
    assert not waiting.granted
    line.admission.withdraw(waiting)
    assert found == [False]
    line.budget.reserve("pages", line.budget.free_bytes())
    with pytest.raises(BackpressureError):
        line.enter(id="c")
    assert found == [False, False]


@pytest.mark.parametrize("error", [BudgetError("no room", limit="budget"), KeyboardInterrupt()])
def test_whoever_gave_up_its_place_is_told_so_whatever_becomes_of_who_took_it(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    line = Line(queue_max=4)
    line.ask(scope="x", size=1000 * KIB)
    told: list[Ticket] = []
    loud = []
    for number in range(4):
        loud.append(line.admission.ticket(("loud", f"l{number}"), None, None))
        loud[-1].wake = lambda ticket=loud[-1]: told.append(ticket)  # type: ignore[misc]
        line.admission.ask(loud[-1], True)

    def fail(*_: object) -> None:
        raise error

    step = (line.budget, "reserve") if isinstance(error, BudgetError) else (
        line.admission, "_enqueue"
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(*step, fail)
        with pytest.raises(type(error)):
            line.ask(scope="quiet")
    line.admission.check()
    refused = [ticket for ticket in loud if ticket.error is not None]
    assert told == refused
    assert line.admission.waiting == len(loud) - len(refused)
    assert line.ask(scope="quiet").error is None


def test_what_one_on_its_way_in_has_reserved_survives_a_recount(line: Line) -> None:
    line.enter(size=1000 * KIB)

    def make_free(size_bytes: int) -> None:
        # Another thread's Ctrl-C, while this one waits for room.
        line.admission._recount()
        line.admission.check()
        line.budget.release("pages", size_bytes)

    reserve = line.budget.reserve

    def slow(owner: str, size_bytes: int) -> None:
        reserve(owner, size_bytes)
        line.admission._recount()
        line.admission.check()

    line.budget.on_shortage(make_free)
    line.budget.reserve("pages", line.budget.free_bytes())
    line.budget.reserve = slow  # type: ignore[method-assign]
    assert not line.ask(id="b").granted
    line.admission.check()


def test_one_that_is_on_its_way_in_when_the_store_closes_is_refused() -> None:
    line = Line()

    def close(size_bytes: int) -> None:
        line.admission.close(StoreClosedError("closed"))
        line.budget.release("pages", size_bytes)

    reserve = line.budget.reserve

    def slow(owner: str, size_bytes: int) -> None:
        reserve(owner, size_bytes)
        line.admission.release()

    line.budget.on_shortage(close)
    line.budget.reserve("pages", line.budget.free_bytes())
    line.budget.reserve = slow  # type: ignore[method-assign]
    with pytest.raises(StoreClosedError):
        line.ask()
    assert line.budget.held_bytes("turns") == 0


def test_critical_pressure_refuses_turns(line: Line) -> None:
    line.governor.refusing = True
    with pytest.raises(BackpressureError) as refused:
        line.enter()
    assert refused.value.limit == "pressure"
    assert refused.value.retry_after_seconds > 0


def in_a_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(action())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_whoever_waits_on_a_thread_is_woken(line: Line) -> None:
    holder = line.enter(size=1000 * KIB)
    thread, found = in_a_thread(lambda: line.enter(PATIENCE, id="b"))
    until(lambda: line.admission.waiting == 1)
    line.admission.leave(holder)
    thread.join(PATIENCE)
    assert found[0].granted


def test_a_wait_that_is_too_long_leaves_nothing_behind(line: Line) -> None:
    holder = line.enter(size=1000 * KIB)
    with pytest.raises(BackpressureError):
        line.enter(0.001, id="b")
    assert line.admission.waiting == 0
    line.admission.leave(holder)
    assert line.admission.turns == line.admission.admitted_bytes == 0


def test_closing_sends_away_whoever_waits(line: Line) -> None:
    line.enter(size=1000 * KIB)
    thread, found = in_a_thread(lambda: line.enter(PATIENCE, id="b"))
    until(lambda: line.admission.waiting == 1)
    line.admission.close(StoreClosedError("closed"))
    thread.join(PATIENCE)
    assert isinstance(found[0], StoreClosedError)
    with pytest.raises(StoreClosedError):
        line.enter()


def test_a_larger_capacity_lets_in_whoever_waits(line: Line) -> None:
    line.ask(size=1000 * KIB)
    waiting = line.ask(id="b")
    line.admission.resize(2000 * KIB)
    assert waiting.granted


def test_one_that_nobody_ended_is_ended_when_the_next_one_comes(line: Line) -> None:
    class Holder:
        pass

    lost, holder = line.enter(size=1000 * KIB), Holder()
    line.admission.own(lost, holder)
    del holder
    assert line.ask(id="b").granted


def test_a_ctrl_c_while_the_holder_is_dropped_loses_no_turn(line: Line) -> None:
    class Holder:
        pass

    def interrupt(frame: object, event: str, argument: object) -> None:
        if event == "call":
            raise KeyboardInterrupt

    lost, holder = line.enter(size=1000 * KIB), Holder()
    line.admission.own(lost, holder)
    before = sys.getprofile()
    sys.setprofile(interrupt)
    try:
        # Whatever of Python ran in here would meet it, and what it was about to note be lost.
        del holder
    finally:
        sys.setprofile(before)
    assert line.ask(id="b").granted


def test_a_peak_beyond_all_bounds_is_learnt_as_the_largest(line: Line) -> None:
    ticket = line.enter(size=1000 * KIB)
    waiting = line.ask(id="b")
    line.admission.note(ticket, 1 << 80)
    line.admission.leave(ticket)
    assert waiting.granted


@pytest.mark.parametrize("load", [1.2, 1.5, 3.0])
def test_coming_back_when_told_usually_succeeds(load: float) -> None:
    """More load than fits, for five minutes: whoever is refused comes back when it was told to."""
    chance = random.Random(5)
    line = Line(queue_max=20)
    admission, clock = line.admission, line.clock
    ends: list[tuple[float, Ticket]] = []
    waiting: list[Ticket] = []
    back: list[tuple[float, str]] = []
    arrivals = [(chance.uniform(0, 300), f"n{n}") for n in range(int(1500 * load))]
    arrivals.sort(reverse=True)
    told = kept = served = 0
    while clock.monotonic() < 300:
        clock.advance(0.05)
        now = clock.monotonic()
        for _, ticket in [each for each in ends if each[0] <= now]:
            admission.leave(ticket)
            served += 1
        ends = [each for each in ends if each[0] > now]
        returned = [(name, True) for at, name in back if at <= now]
        back = [each for each in back if each[0] > now]
        fresh = []
        while arrivals and arrivals[-1][0] <= now:
            fresh.append((arrivals.pop()[1], False))
        for name, was_told in returned + fresh:
            told += was_told
            try:
                waiting.append(line.ask(id=name))
                kept += was_told
            except BackpressureError as refused:
                back.append((now + refused.retry_after_seconds, name))
        for ticket in [each for each in waiting if each.granted]:
            admission.note(ticket, 90 * KIB)
            ends.append((now + chance.expovariate(1 / 2.0), ticket))
        waiting = [each for each in waiting if not each.granted]
    admission.check()
    assert told > 100
    assert kept / told > 0.9
    # Ten at a time, two seconds each: promises leave no room unused.
    assert served > 1200


def test_a_scope_that_fills_the_queue_makes_place_for_others() -> None:
    line = Line(queue_max=10)
    holder = line.ask(scope="x", size=1000 * KIB)
    loud = [line.ask(scope="loud", id=f"l{n}") for n in range(10)]
    quiet = [line.ask(scope="quiet", id=f"q{n}") for n in range(4)]
    assert [ticket.error is None for ticket in loud] == [True] * 6 + [False] * 4
    assert isinstance(loud[-1].error, BackpressureError)
    line.admission.leave(holder)
    assert all(ticket.granted for ticket in quiet + loud[:6])
    line.admission.check()


def test_a_scope_that_was_told_to_come_back_does_not_hold_up_others() -> None:
    line = Line(queue_max=4)
    line.ask(scope="x", size=1000 * KIB)
    for number in range(4):
        line.ask(scope="loud", id=f"l{number}")
    for number in range(40):
        with pytest.raises(BackpressureError):
            line.ask(scope="loud", id=f"m{number}")
    assert not line.ask(scope="quiet").granted
    line.clock.advance(10_000)
    assert len(line.admission._promises) == 41
    line.ask(scope="other")
    assert len(line.admission._promises) == 0
    line.admission.check()


class AdmissionMachine(RuleBasedStateMachine):
    """Anybody comes, grows, leaves, gives up: never over capacity, in order, nobody forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(queue_max=12, scope_share=0.7, session_share=0.4)
        self.open: list[Ticket] = []
        self.waiting: list[Ticket] = []

    def settled(self) -> None:
        """Who was granted since: in each scope, those who came first."""
        granted = [ticket for ticket in self.waiting if ticket.granted]
        self.waiting = [each for each in self.waiting if not each.granted and each.error is None]
        for ticket in granted:
            assert all(
                ticket.number < other.number
                for other in self.waiting
                if other.scope == ticket.scope
            )
        self.open += granted

    @rule(scope=st.sampled_from("abc"), id=st.sampled_from("xyz"), size=st.integers(1, 1500))
    def come(self, scope: str, id: str, size: int) -> None:
        admission = self.line.admission
        before = admission.admitted_bytes
        alone = admission.turns == 0
        try:
            ticket = self.line.ask(scope, id, size=size * KIB)
        except BackpressureError:
            assert admission.waiting == 12 or admission._promises.has(scope)
            return
        self.waiting.append(ticket)
        if ticket.granted and not alone:
            assert before + ticket.charge_bytes <= admission.capacity_bytes
        self.settled()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.open))
        self.open.remove(ticket)
        self.line.admission.leave(ticket)
        self.line.admission.leave(ticket)
        self.settled()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.line.admission.withdraw(ticket)
        self.settled()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), size=st.integers(-500, 900))
    def use(self, data: st.DataObject, size: int) -> None:
        self.line.admission.note(data.draw(st.sampled_from(self.open)), size * KIB)

    @rule(capacity=st.integers(200, 3000))
    def resize(self, capacity: int) -> None:
        self.line.admission.resize(capacity * KIB)
        self.settled()

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds: float) -> None:
        self.line.clock.advance(seconds)

    @rule()
    def interrupted(self) -> None:
        self.line.admission._recount()
        self.settled()

    @invariant()
    def holds(self) -> None:
        admission = self.line.admission
        admission.check()
        assert admission.turns == len(self.open)
        assert admission.waiting == len(self.waiting)
        if not self.open:
            assert not self.waiting

    def teardown(self) -> None:
        while self.open:
            self.line.admission.leave(self.open.pop(0))
            self.settled()
        assert not self.waiting
        assert self.line.admission.admitted_bytes == 0
        self.holds()


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_turn_that_lasted_long_does_not_put_others_off_long_after_it(line: Line) -> None:
    most = line.admission.capacity_bytes
    hog = line.enter(size=most // 2, id="hog")
    other = line.enter(size=most // 2, id="other")
    line.clock.advance(200.0)
    told = [refused_seconds(line, f"n{n}", most // 2) for n in range(8)]
    assert told[-1] > 300
    line.admission.leave(hog)
    line.admission.leave(other)
    for number in range(100):
        turn = line.enter(size=most // 2, id=f"short{number}")
        line.clock.advance(0.01)
        line.admission.leave(turn)
    line.enter(size=most // 2, id="a")
    line.enter(size=most // 2, id="b")
    # Room comes free in a hundredth of a second now, and eight at most have been promised some.
    assert refused_seconds(line, "late", most // 2) < 1.0


def refused_seconds(line: Line, id: str, size: int) -> float:
    with pytest.raises(BackpressureError) as refused:
        line.enter(0.0, id=id, size=size)
    return refused.value.retry_after_seconds
