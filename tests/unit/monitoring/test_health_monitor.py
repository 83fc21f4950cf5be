"""The health monitor: when it looks, what it remembers, and that nothing holds it up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from alert_samples import wall_of

from manahsm.errors import InvalidRequest
from manahsm.monitoring import causes
from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.checks import Check, Wake
from manahsm.monitoring.health import HealthMonitor
from manahsm.monitoring.values import ComponentHealth, Finding, Observation, Trend
from supervisors import ChildContext
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

INTERVAL, TIMEOUT = 30.0, 5.0
BAD = Observation((Finding(causes.CONNECTIVITY_LOST, "gone"),))


class Part(Check):
    """A component that is as the test says."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.component = name
        self.seen = Observation()
        self.looks: list[float] = []
        self.before: Callable[[], Awaitable[object]] | None = None
        self.wake: Wake | None = None
        self._clock = clock

    async def look(self) -> Observation:
        self.looks.append(self._clock.now() - 1000.0)
        if self.before is not None:
            await self.before()
        return self.seen

    async def watch(self, wake: Wake) -> None:
        self.wake = wake


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.parts = [Part("one", self.clock), Part("two", self.clock)]
        self.helped: frozenset[str] = frozenset()
        self.told: list[ComponentHealth] = []
        self.monitor = HealthMonitor(
            self.parts,
            interval=INTERVAL,
            timeout=TIMEOUT,
            retention=120.0,
            made_up_for=lambda _: self.helped,
            clock=self.clock,
            now=wall_of(self.clock),
        )
        self.monitor.subscribe(self.told.append)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.monitor.run, ChildContext("health", clock=self.clock))
            await settle()
            yield
            tasks.cancel_scope.cancel()


async def test_everything_is_looked_at_at_once_and_then_at_intervals() -> None:
    stage = Stage()
    async with stage.running():
        await stage.clock.run_for(2 * INTERVAL)

    assert [part.looks for part in stage.parts] == [[0.0, 30.0, 60.0]] * 2


async def test_a_check_that_hangs_is_ended_and_delays_no_other() -> None:
    stage = Stage()
    one, two = stage.parts
    one.before = anyio.sleep_forever
    async with stage.running():
        await stage.clock.run_for(INTERVAL)
        report = stage.monitor.report()

    assert two.looks == [0.0, 30.0]
    assert report.component("two").status is HealthStatus.HEALTHY
    assert report.component("one").message == "Component unhealthy: the check did not end within 5 s"
    assert report.status is HealthStatus.UNHEALTHY


async def test_a_check_with_a_fault_of_its_own_is_a_finding_and_hurts_no_other() -> None:
    stage = Stage()

    async def fail() -> None:
        raise ZeroDivisionError

    stage.parts[0].before = fail
    async with stage.running():
        await stage.clock.run_for(INTERVAL)
        report = stage.monitor.report()

    assert report.component("one").message == "Component unhealthy: the check itself failed: ZeroDivisionError"
    assert stage.parts[1].looks == [0.0, 30.0]


async def test_what_has_changed_is_looked_at_at_once_but_not_without_a_pause() -> None:
    stage = Stage()
    one, two = stage.parts
    async with stage.running():
        await stage.clock.run_for(10.0)
        assert one.wake is not None
        one.wake()
        await settle()
        assert one.looks == [0.0, 10.0]
        for _ in range(3):
            one.wake()
            await settle()
        assert one.looks == [0.0, 10.0]
        await stage.clock.run_for(1.0)

    assert one.looks == [0.0, 10.0, 10.25]
    assert two.looks == [0.0]


async def test_a_change_during_a_check_is_looked_at_after_it() -> None:
    stage = Stage()
    one = stage.parts[0]
    async with stage.running():
        await settle()
        assert one.wake is not None
        one.before = settle
        one.wake()
        await stage.clock.run_for(1.0)
        one.wake()
        await stage.clock.run_for(1.0)

    assert len(one.looks) == 3


async def test_one_component_or_all_of_them_are_looked_at_when_told_to() -> None:
    stage = Stage()
    stage.parts[0].seen = BAD

    report = await stage.monitor.trigger("one")
    assert [health.name for health in report.components] == ["one"]
    report = await stage.monitor.trigger()
    assert [(health.name, health.status) for health in report.components] == [("one", "unhealthy"), ("two", "healthy")]
    assert [len(part.looks) for part in stage.parts] == [2, 1]
    with pytest.raises(InvalidRequest, match="there are: one, two"):
        await stage.monitor.trigger("three")


async def test_asked_how_it_is_it_looks_at_what_was_never_looked_at_and_only_then() -> None:
    stage = Stage()

    assert len((await stage.monitor.health()).components) == 2
    await stage.monitor.health()

    assert [len(part.looks) for part in stage.parts] == [1, 1]


async def test_a_caller_who_gives_up_does_not_leave_the_component_locked() -> None:
    stage = Stage()
    stage.parts[0].before = anyio.sleep_forever
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.monitor.trigger, "one")
        await settle()
        tasks.cancel_scope.cancel()
    stage.parts[0].before = None

    assert (await stage.monitor.trigger("one")).status is HealthStatus.HEALTHY


async def test_two_who_ask_at_once_each_get_a_look_of_their_own() -> None:
    stage = Stage()
    stage.parts[0].before = settle
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.monitor.trigger, "one")
        tasks.start_soon(stage.monitor.trigger, "one")

    assert len(stage.told) == 2


async def test_what_others_make_up_for_degrades_the_service_and_no_more() -> None:
    stage = Stage()
    stage.parts[0].seen = BAD
    stage.helped = frozenset({"one"})

    report = await stage.monitor.trigger()

    assert report.status is HealthStatus.DEGRADED
    assert report.component("one").status is HealthStatus.UNHEALTHY


async def test_history_since_and_trend_go_with_the_checks() -> None:
    stage = Stage()
    one = stage.parts[0]
    async with stage.running():
        await stage.clock.run_for(2 * INTERVAL)
        one.seen = BAD
        await stage.clock.run_for(3 * INTERVAL)
        health = stage.monitor.report().component("one")

    assert "".join(sample.status[0] for sample in health.history) == "hhuuu"  # 120 s are kept
    assert health.since == health.history[2].checked_at
    assert health.trend is Trend.WORSENING
    assert health.checked_at == health.history[-1].checked_at


async def test_a_monitor_that_was_restarted_goes_on_with_its_history() -> None:
    stage = Stage()
    async with stage.running():
        await stage.clock.run_for(INTERVAL)
    async with stage.running():
        health = stage.monitor.report().component("one")

    assert len(health.history) == 3


async def test_a_listener_with_a_fault_hurts_nobody() -> None:
    stage = Stage()

    def fail(_: ComponentHealth) -> None:
        raise ZeroDivisionError

    stage.monitor.subscribe(fail)
    stage.monitor.subscribe(stage.told.append)
    await stage.monitor.trigger("one")

    assert len(stage.told) == 2
