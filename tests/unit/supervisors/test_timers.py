"""Timers: each calls back once, at its time, whatever else comes and goes; what was cancelled takes no room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors import ChildContext, DeadlinePassed, Mailbox, Request, Timers
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timers(clock: ManualClock) -> AsyncIterator[Timers]:
    timers = Timers(clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timers.run, ChildContext("timers", clock=clock))
        await settle()
        yield timers
        tasks.cancel_scope.cancel()


async def test_a_timer_calls_back_at_its_time_and_not_before(timers: Timers, clock: ManualClock) -> None:
    rung: list[str] = []
    timers.call_at(clock.now() + 5, lambda: rung.append("five"))
    await clock.run_for(4.9)
    assert rung == []
    await clock.run_for(0.1)
    assert rung == ["five"]


async def test_an_earlier_timer_that_came_later_does_not_wait_for_the_one_before(
    timers: Timers, clock: ManualClock
) -> None:
    rung: list[str] = []
    timers.call_at(clock.now() + 60, lambda: rung.append("late"))
    await settle()
    timers.call_at(clock.now() + 1, lambda: rung.append("early"))
    await clock.run_for(1)
    assert rung == ["early"]


async def test_a_time_that_has_passed_rings_at_once(timers: Timers, clock: ManualClock) -> None:
    rung: list[str] = []
    timers.call_at(clock.now() - 1, lambda: rung.append("now"))
    await settle()
    assert rung == ["now"]


async def test_a_cancelled_timer_is_silent(timers: Timers, clock: ManualClock) -> None:
    rung: list[str] = []
    timer = timers.call_at(clock.now() + 1, lambda: rung.append("never"))
    timer.cancel()
    timer.cancel()
    await clock.run_for(10)
    assert (rung, len(timers)) == ([], 0)


async def test_a_timer_that_has_rung_can_be_cancelled_without_harm(timers: Timers, clock: ManualClock) -> None:
    timer = timers.call_at(clock.now() + 1, lambda: None)
    timers.call_at(clock.now() + 9, lambda: None)
    await clock.run_for(1)
    timer.cancel()
    assert len(timers) == 1


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300))
def test_what_was_cancelled_takes_no_room_and_all_others_are_kept(timings: list[tuple[float, bool]]) -> None:
    timers = Timers(ManualClock(0.0))
    set_ = [(timers.call_at(when + 1, lambda: None), cancelled) for when, cancelled in timings]
    for timer, cancelled in set_:
        if cancelled:
            timer.cancel()
    kept = sum(not cancelled for _, cancelled in timings)
    assert len(timers) == kept
    assert len(timers._heap) <= 2 * kept + 130


async def test_a_request_meets_its_deadline_where_timers_keep_it(timers: Timers, clock: ManualClock) -> None:
    box = Mailbox("box", 3, clock)
    request = Request("x", deadline=clock.now() + 2, clock=clock, timers=timers)
    failures: list[float] = []

    async def ask() -> None:
        with pytest.raises(DeadlinePassed):
            await box.send_nowait(request).wait()
        failures.append(clock.now())

    began = clock.now()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await clock.run_for(3)
    assert failures == [began + 2]


async def test_an_answer_before_the_deadline_leaves_no_timer(timers: Timers, clock: ManualClock) -> None:
    box = Mailbox("box", 3, clock)
    request = Request("x", deadline=clock.now() + 2, clock=clock, timers=timers)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.send_nowait(request).wait)
        (await box.receive("worker")).reply.succeed("y")
    assert (request.reply.result(), len(timers)) == ("y", 0)


async def test_a_caller_that_is_cancelled_while_it_waits_leaves_no_timer(timers: Timers, clock: ManualClock) -> None:
    box = Mailbox("box", 3, clock)
    request = Request("x", deadline=clock.now() + 2, clock=clock, timers=timers)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.send_nowait(request).wait)
        await settle()
        tasks.cancel_scope.cancel()
    assert (request.reply.abandoned, len(timers)) == (True, 0)
