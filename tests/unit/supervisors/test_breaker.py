"""The circuit breaker: permits, verdicts, probes, latches, and the faults that public breakers are known for."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from supervisors import (
    BreakerAvailabilityChanged,
    BreakerSettings,
    BreakerState,
    BreakerStateChanged,
    CallRefused,
    CircuitBreaker,
    IllegalTransition,
    Permit,
    PermitSpent,
    Refusal,
)
from supervisors.breaker_rules import TRANSITIONS, Signal
from supervisors.testing import EventRecorder, ManualClock, settle

SETTINGS = BreakerSettings(
    failure_rate=0.5,
    slow_call_rate=0.5,
    slow_call=2,
    window=30,
    minimum_calls=4,
    open_for=10,
    max_open_for=40,
    probes=2,
    verdict_deadline=20,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def events() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def breaker(clock: ManualClock, events: EventRecorder) -> CircuitBreaker:
    return CircuitBreaker("b", SETTINGS, clock, events)


def call(breaker: CircuitBreaker, *, ok: bool, took: float = 0.0) -> None:
    permit = breaker.acquire()
    (permit.success if ok else permit.failure)(took)


def open_it(breaker: CircuitBreaker) -> None:
    for _ in range(4):
        call(breaker, ok=False)
    assert breaker.state is BreakerState.OPEN


def half_open(breaker: CircuitBreaker, clock: ManualClock) -> None:
    open_it(breaker)
    clock.advance(10)
    assert breaker.state is BreakerState.HALF_OPEN


def test_it_opens_at_the_failure_rate_over_the_minimum_of_calls(breaker: CircuitBreaker) -> None:
    call(breaker, ok=False)
    call(breaker, ok=False)
    call(breaker, ok=True)
    assert breaker.state is BreakerState.CLOSED
    call(breaker, ok=True)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "2 of 4 calls failed"
    assert breaker.try_acquire() is None
    assert breaker.refusal() == Refusal("open: 2 of 4 calls failed", 10)


def test_it_stays_closed_below_the_failure_rate(breaker: CircuitBreaker) -> None:
    for number in range(30):
        call(breaker, ok=number % 3 != 2)
    assert breaker.state is BreakerState.CLOSED


def test_it_opens_at_the_slow_call_rate_though_nothing_fails(breaker: CircuitBreaker) -> None:
    for took in (2, 1.9, 2, 1.9):
        call(breaker, ok=True, took=took)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "2 of 4 calls took 2 s or more"


def test_old_failures_are_forgotten(breaker: CircuitBreaker, clock: ManualClock) -> None:
    for _ in range(3):
        call(breaker, ok=False)
    clock.advance(33)
    call(breaker, ok=False)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.stats().window.calls == 1


def test_calls_that_hang_open_it_before_they_return(breaker: CircuitBreaker, clock: ManualClock) -> None:
    hanging = [breaker.acquire() for _ in range(4)]
    clock.advance(1.9)
    assert breaker.state is BreakerState.CLOSED
    clock.advance(0.1)
    assert breaker.state is BreakerState.OPEN
    for permit in hanging:
        permit.failure()
    assert breaker.stats().late == 4
    assert breaker.state is BreakerState.OPEN


def test_a_slow_call_is_counted_once(breaker: CircuitBreaker, clock: ManualClock) -> None:
    permit = breaker.acquire()
    clock.advance(5)
    assert breaker.stats().overdue == 1
    permit.success()
    stats = breaker.stats()
    assert (stats.overdue, stats.outstanding, stats.window.calls, stats.window.slow) == (0, 0, 1, 1)


def test_a_cancelled_call_is_no_verdict(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        breaker.acquire().release()
    assert breaker.stats().window.calls == 0
    assert breaker.state is BreakerState.CLOSED


def test_a_cancelled_call_does_not_reset_what_was_counted(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        call(breaker, ok=False)
    breaker.acquire().release()
    call(breaker, ok=False)
    assert breaker.state is BreakerState.OPEN


@pytest.mark.anyio
async def test_leaving_a_permit_by_cancellation_releases_it(breaker: CircuitBreaker) -> None:
    async def cancelled() -> None:
        with breaker.acquire():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        tg.start_soon(cancelled)
        await settle()
        tg.cancel_scope.cancel()
    assert breaker.stats().window.calls == 0
    assert breaker.stats().outstanding == 0


@pytest.mark.anyio
async def test_leaving_a_permit_by_a_group_that_holds_an_error_is_a_failure(breaker: CircuitBreaker) -> None:
    async def sore() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("cleanup")

    async def cancelled() -> None:
        with breaker.acquire():
            async with anyio.create_task_group() as inner:
                inner.start_soon(sore)

    with pytest.raises(ExceptionGroup):  # noqa: PT012 - all of the block is the situation
        async with anyio.create_task_group() as tg:
            tg.start_soon(cancelled)
            await settle()
            tg.cancel_scope.cancel()
    assert breaker.stats().window.failures == 1


def test_leaving_a_permit_by_an_error_is_a_failure(breaker: CircuitBreaker) -> None:
    with pytest.raises(LookupError), breaker.acquire():
        raise LookupError
    assert breaker.stats().window.failures == 1


def test_leaving_a_permit_without_a_verdict_releases_it(breaker: CircuitBreaker) -> None:
    with breaker.acquire() as permit:
        assert not permit.spent
    assert permit.spent
    assert breaker.stats().window.calls == 0


def test_a_verdict_inside_of_the_block_is_the_one_that_counts(breaker: CircuitBreaker) -> None:
    with pytest.raises(LookupError), breaker.acquire() as permit:  # noqa: PT012 - all of the block is the situation
        permit.success()
        raise LookupError
    assert (breaker.stats().window.calls, breaker.stats().window.failures) == (1, 0)


@pytest.mark.parametrize("second", ["success", "failure", "release"])
def test_a_permit_takes_one_verdict(breaker: CircuitBreaker, second: str) -> None:
    permit = breaker.acquire()
    permit.success()
    with pytest.raises(PermitSpent):
        getattr(permit, second)()


def test_only_so_many_probes_are_let_through(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    permits = [breaker.try_acquire() for _ in range(50)]
    assert sum(permit is not None for permit in permits) == 2
    refusal = breaker.refusal()
    assert refusal is not None
    assert refusal.retry_after == 20


def test_probes_that_pass_close_it(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    call(breaker, ok=True)
    assert breaker.state is BreakerState.HALF_OPEN
    call(breaker, ok=True)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.stats().window.calls == 0


def test_one_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    call(breaker, ok=False)
    assert breaker.state is BreakerState.OPEN


def test_slow_probes_open_it_again(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    call(breaker, ok=True, took=0.1)
    call(breaker, ok=True, took=3)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "1 of 2 probes were slow"


def test_a_released_probe_makes_room_for_another(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    for _ in range(10):
        breaker.acquire().release()
    call(breaker, ok=True)
    call(breaker, ok=True)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_is_never_returned_does_not_wedge_it(breaker: CircuitBreaker, clock: ManualClock) -> None:
    half_open(breaker, clock)
    lost = breaker.acquire()
    breaker.acquire()
    assert breaker.try_acquire() is None
    clock.advance(20)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "a probe failed"
    lost.success()
    assert breaker.stats().late == 1
    assert breaker.state is BreakerState.OPEN


def test_a_permit_that_is_lost_while_closed_counts_as_a_failure(breaker: CircuitBreaker, clock: ManualClock) -> None:
    breaker.acquire()
    clock.advance(20)
    stats = breaker.stats()
    assert (stats.outstanding, stats.window.failures) == (0, 1)


def test_a_verdict_from_before_it_opened_decides_nothing_half_open(breaker: CircuitBreaker, clock: ManualClock) -> None:
    early = breaker.acquire()
    half_open(breaker, clock)
    early.failure()
    assert breaker.state is BreakerState.HALF_OPEN


def test_open_times_double_up_to_a_limit_and_halve_in_calm_times(breaker: CircuitBreaker, clock: ManualClock) -> None:
    waits = []
    for _ in range(4):
        while breaker.state is not BreakerState.OPEN:
            call(breaker, ok=False)
        refusal = breaker.refusal()
        assert refusal is not None
        assert refusal.retry_after is not None
        waits.append(refusal.retry_after)
        clock.advance(refusal.retry_after)
    assert waits == [10, 20, 40, 40]
    call(breaker, ok=True)
    call(breaker, ok=True)
    clock.advance(3 * 40)
    open_it(breaker)
    assert breaker.refusal() == Refusal("open: 4 of 4 calls failed", 20)


def test_a_trip_opens_it_at_once(breaker: CircuitBreaker, clock: ManualClock) -> None:
    breaker.trip("the device is gone")
    assert breaker.refusal() == Refusal("open: the device is gone", 10)
    clock.advance(5)
    breaker.trip("still gone")
    assert breaker.refusal() == Refusal("open: the device is gone", 5)


def test_one_that_is_tripped_before_its_first_call_probes_when_its_time_is_over(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    breaker.trip("the device is gone")
    clock.advance(10)
    assert (breaker.state, breaker.refusal()) == (BreakerState.HALF_OPEN, None)


def test_forced_open_admits_nothing_until_it_is_reset(breaker: CircuitBreaker, clock: ManualClock) -> None:
    breaker.force_open("maintenance")
    clock.advance(10_000)
    breaker.trip("ignored")
    with pytest.raises(CallRefused, match="b: forced_open: maintenance") as caught:
        breaker.acquire()
    assert caught.value.retry_after is None
    breaker.reset()
    assert breaker.try_acquire() is not None


def test_forced_closed_admits_everything_until_it_is_reset(breaker: CircuitBreaker) -> None:
    breaker.force_closed()
    for _ in range(50):
        call(breaker, ok=False)
    breaker.trip("ignored")
    assert breaker.state is BreakerState.FORCED_CLOSED
    breaker.reset()
    open_it(breaker)


def test_a_reset_forgets_what_was_counted(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        call(breaker, ok=False)
    breaker.reset()
    call(breaker, ok=False)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("what", ["force_open", "force_closed", "reset"])
def test_a_latch_goes_before_everything_but_unlatch(breaker: CircuitBreaker, clock: ManualClock, what: str) -> None:
    breaker.latch("wrong PIN")
    clock.advance(10_000)
    breaker.trip("ignored")
    with pytest.raises(IllegalTransition, match="while latched"):
        getattr(breaker, what)()
    assert breaker.refusal() == Refusal("latched: wrong PIN", None)
    breaker.unlatch()
    assert breaker.state is BreakerState.HALF_OPEN
    call(breaker, ok=True)
    call(breaker, ok=True)
    assert breaker.state is BreakerState.CLOSED


def test_what_is_not_latched_can_not_be_unlatched(breaker: CircuitBreaker) -> None:
    with pytest.raises(IllegalTransition):
        breaker.unlatch()
    assert breaker.state is BreakerState.CLOSED


def test_unavailable_admits_nothing_in_any_state(breaker: CircuitBreaker) -> None:
    breaker.force_closed()
    breaker.set_available(False, "its host restarts")
    assert not breaker.available
    assert breaker.try_acquire() is None
    assert breaker.refusal() == Refusal("unavailable: its host restarts", None)
    breaker.set_available(True)
    assert breaker.try_acquire() is not None


def test_every_pair_of_state_and_signal_is_in_the_table_or_illegal(clock: ManualClock) -> None:
    for state in BreakerState:
        for signal in Signal:
            breaker = CircuitBreaker("b", SETTINGS, clock)
            breaker._state = state
            if (state, signal) in TRANSITIONS:
                breaker._signal(signal, "test")
                assert breaker._state is TRANSITIONS[state, signal]
            else:
                with pytest.raises(IllegalTransition):
                    breaker._signal(signal, "test")
                assert breaker._state is state


def test_changes_are_reported_once(breaker: CircuitBreaker, events: EventRecorder) -> None:
    open_it(breaker)
    breaker.trip("again")
    breaker.reset()
    breaker.reset()
    breaker.set_available(True)
    breaker.set_available(False)
    breaker.set_available(False, "again")
    assert [(e.previous, e.state) for e in events.of(BreakerStateChanged)] == [
        ("closed", "open"),
        ("open", "closed"),
    ]
    assert [e.available for e in events.of(BreakerAvailabilityChanged)] == [False]


def test_admissions_and_refusals_are_counted(breaker: CircuitBreaker) -> None:
    open_it(breaker)
    breaker.try_acquire()
    stats = breaker.stats()
    assert (stats.name, stats.state, stats.admitted, stats.refused) == ("b", BreakerState.OPEN, 4, 1)
    assert (stats.openings, stats.available) == (1, True)
    assert repr(breaker) == "<CircuitBreaker 'b' open>"


@pytest.mark.parametrize(
    "options",
    [
        {"failure_rate": 0},
        {"failure_rate": 1.1},
        {"slow_call_rate": float("nan")},
        {"slow_call": 0},
        {"window": 0},
        {"minimum_calls": 0},
        {"probes": 0},
        {"open_for": 100},
        {"verdict_deadline": 1},
    ],
)
def test_settings_that_can_not_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BreakerSettings(**options)


def test_permits_are_found_by_identity(breaker: CircuitBreaker) -> None:
    first, second = breaker.acquire(), breaker.acquire()
    assert isinstance(first, Permit)
    assert first != second
    second.success()
    assert breaker.stats().outstanding == 1
