"""Clocks, backoff, restart budgets, sliding windows: everything that only counts seconds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors import SYSTEM_CLOCK, Backoff, Clock, Counts, Intensity
from supervisors.intensity import RestartWindow
from supervisors.testing import ManualClock, settle
from supervisors.window import SlidingWindow


@pytest.mark.parametrize("clock", [SYSTEM_CLOCK, ManualClock()])
def test_both_clocks_are_clocks(clock: Clock) -> None:
    assert isinstance(clock, Clock)


@pytest.mark.anyio
async def test_system_deadlines_that_have_passed_cancel_at_once() -> None:
    with SYSTEM_CLOCK.move_on_at(time.monotonic() - 1) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with SYSTEM_CLOCK.move_on_after(0) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), SYSTEM_CLOCK.fail_after(0):
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_system_deadlines_of_none_never_cancel() -> None:
    scopes: list[Callable[[None], Any]] = [SYSTEM_CLOCK.move_on_at, SYSTEM_CLOCK.move_on_after]
    for scope_of in scopes:
        with scope_of(None) as scope:
            await anyio.lowlevel.checkpoint()
        assert scope.deadline == math.inf
    with SYSTEM_CLOCK.fail_after(None):
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_system_sleeps_that_are_over_are_checkpoints() -> None:
    await SYSTEM_CLOCK.sleep(-1)
    before = SYSTEM_CLOCK.now()
    await SYSTEM_CLOCK.sleep_until(before)
    assert SYSTEM_CLOCK.now() >= before


@pytest.mark.anyio
async def test_a_system_deadline_lies_in_the_future_by_what_was_said() -> None:
    with SYSTEM_CLOCK.move_on_at(time.monotonic() + 1000) as scope:
        assert 900 < scope.deadline - anyio.current_time() <= 1000


@pytest.mark.anyio
async def test_manual_sleepers_wake_in_order_and_only_when_moved() -> None:
    clock, log = ManualClock(), list[str]()

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            log.append(f"{name}@{clock.now() - 1000:g}")

    async with anyio.create_task_group() as tg:
        tg.start_soon(sleeper, "a", 1, 2)
        tg.start_soon(sleeper, "b", 2, 2)
        await settle()
        assert clock.timers() == [1001, 1002]
        await clock.run_for(3.5)
        assert log == ["a@1", "b@2", "a@3"]
        assert repr(clock) == "<ManualClock at 1003.5, 1 timers>"
        clock.advance(0.5)
    assert log[-1] == "b@4"


@pytest.mark.anyio
async def test_manual_scopes_cancel_when_moved() -> None:
    clock = ManualClock()
    caught: list[str] = []

    async def waits() -> None:
        with clock.move_on_after(5) as scope:
            await anyio.sleep_forever()
        caught.append(f"moved on {scope.cancelled_caught}")
        with pytest.raises(TimeoutError), clock.fail_after(5):
            await anyio.sleep_forever()
        caught.append("failed")

    async with anyio.create_task_group() as tg:
        tg.start_soon(waits)
        await clock.run_for(4.9)
        assert caught == []
        await clock.run_for(5.1)
    assert caught == ["moved on True", "failed"]
    assert clock.timers() == []


@pytest.mark.anyio
async def test_manual_deadlines_that_have_passed_or_never_come() -> None:
    clock = ManualClock()
    with clock.move_on_at(clock.now()) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with clock.fail_after(None), clock.move_on_after(None), clock.move_on_at(math.inf):
        await clock.sleep(0)
        clock.advance(1e9)
        await anyio.lowlevel.checkpoint()
    with clock.fail_after(5) as scope:
        scope.cancel()  # by somebody else: no timeout
        await anyio.sleep_forever()
    assert clock.timers() == []
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


@given(failures=st.integers(0, 5000), seed=st.integers(), jitter=st.floats(0, 1))
def test_delays_stay_between_their_bounds(failures: int, seed: int, jitter: float) -> None:
    backoff = Backoff(initial=0.5, maximum=20, factor=3, jitter=jitter)
    full = 20 if failures > 5 else min(20, 0.5 * 3**failures)
    delay = backoff.delay(failures, random.Random(seed))  # noqa: S311 - jitter
    assert full * (1 - jitter) <= delay <= full


def test_no_backoff_never_waits() -> None:
    assert {Backoff.none().delay(n, random.Random(1)) for n in range(10)} == {0}  # noqa: S311 - jitter


def test_children_that_failed_together_come_back_apart() -> None:
    backoff, rng = Backoff(initial=1, jitter=0.5), random.Random(1)  # noqa: S311 - jitter
    assert len({backoff.delay(0, rng) for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "options", [{"initial": -1}, {"initial": 50}, {"factor": 0.5}, {"jitter": 2}, {"maximum": math.inf}]
)
def test_a_backoff_that_can_not_work_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Backoff(**options)


@given(
    limit=st.integers(0, 4),
    gaps=st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.5, 5.0, 5.5, 100.0]), max_size=30),
)
def test_a_budget_counts_the_restarts_of_the_last_seconds(limit: int, gaps: list[float]) -> None:
    window, times, now = RestartWindow(Intensity(limit, 5)), list[float](), 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        assert window.admit(now) is (sum(when >= now - 5 for when in times) <= limit)


def test_an_unlimited_budget_remembers_nothing() -> None:
    window = RestartWindow(Intensity.unlimited())
    assert all(window.admit(0) for _ in range(1000))
    assert not window._times
    assert str(Intensity.unlimited()) == "unlimited restarts"
    assert str(Intensity()) == "1 restart in 5 s"


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0, 2.5, 9.0, 11.0]), st.booleans(), st.booleans()), max_size=40))
def test_a_window_counts_whole_slices_of_the_last_seconds(calls: list[tuple[float, bool, bool]]) -> None:
    window, log, now = SlidingWindow(10), list[tuple[int, bool, bool]](), 500.0
    for gap, failed, slow in calls:
        now += gap
        window.record(now, failed=failed, slow=slow)
        log.append((int(now), failed, slow))
        recent = [call for call in log if call[0] > int(now) - 10]
        expected = Counts(len(recent), sum(call[1] for call in recent), sum(call[2] for call in recent))
        assert window.counts(now) == expected
        assert len(window._slices) <= 10


def test_an_empty_window_has_no_rates() -> None:
    window = SlidingWindow(1)
    assert (window.counts(0).failure_rate, window.counts(0).slow_rate) == (0, 0)
    assert Counts(4, 1, 2) == Counts(calls=4, failures=1, slow=2)
    assert (Counts(4, 1, 2).failure_rate, Counts(4, 1, 2).slow_rate) == (0.25, 0.5)
    window.record(0, failed=True, slow=True)
    window.clear()
    assert window.counts(0) == Counts()
    with pytest.raises(ValueError, match="longer than nothing"):
        SlidingWindow(0)
