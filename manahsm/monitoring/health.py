"""The health monitor: looks at every component at intervals, and when told to, and remembers.

The one thing to know: each component has a task and a time of its own, so that one that hangs delays no other, and the
monitor itself never waits for a token. What it knows outlives its task: a monitor that crashed and was restarted goes
on with the same history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import anyio

from manahsm.errors import InvalidRequest
from manahsm.logs import get_logger
from manahsm.monitoring.causes import CHECK_FAILED, HealthStatus
from manahsm.monitoring.checks import Check
from manahsm.monitoring.health_rules import overall
from manahsm.monitoring.history import History, trend_of
from manahsm.monitoring.values import ComponentHealth, Finding, HealthReport, Observation, Sample
from manahsm.signing.changes import Changes
from manahsm.times import utc_now
from supervisors import ChildContext, Clock

__all__ = ["HealthMonitor"]

_log = get_logger("manahsm.health")

_GRACE = 1.0  # seconds beyond its time that a check may take to end by itself
_SHORTEST_PAUSE = 0.25  # seconds between two checks of a component that keeps changing

Listener = Callable[[ComponentHealth], None]


class _Component:
    """What is known of one component."""

    def __init__(self, check: Check, retention: float) -> None:
        self.check = check
        self.history = History(retention)
        self.wake = Changes()
        self.turn = anyio.Lock()
        self.health: ComponentHealth | None = None


class HealthMonitor:
    """Knows how every component is.

    Args:
        checks: one for each component.
        interval: seconds between two checks of a component.
        timeout: seconds that a check may take.
        retention: seconds for which checks are remembered.
        made_up_for: given the status of every component, names of those whose work others do.
        clock: the time of intervals.
        now: the time of day.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        interval: float,
        timeout: float,
        retention: float,
        clock: Clock,
        made_up_for: Callable[[Mapping[str, HealthStatus]], frozenset[str]],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._components = {check.component: _Component(check, retention) for check in checks}
        self._interval = interval
        self._timeout = timeout
        self._made_up_for = made_up_for
        self._clock = clock
        self._now = now
        self._listeners: list[Listener] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Every component."""
        return tuple(self._components)

    def subscribe(self, listener: Listener) -> None:
        """Tell ``listener`` of every check from now on, synchronously."""
        self._listeners.append(listener)

    def wake(self, component: str) -> None:
        """Have a component looked at soon: something has happened to it."""
        self._components[component].wake.notify()

    async def run(self, ctx: ChildContext) -> None:
        """Look at everything, at once and then at intervals, until cancelled."""
        ctx.started()
        async with anyio.create_task_group() as tasks:
            for component in self._components.values():
                tasks.start_soon(self._keep_looking, component)
                tasks.start_soon(component.check.watch, component.wake.notify)

    async def trigger(self, component: str | None = None) -> HealthReport:
        """Look at one component, or all of them, now.

        Raises:
            InvalidRequest: there is no such component.
        """
        names = self.names if component is None else (component,)
        for name in names:
            if name not in self._components:
                raise InvalidRequest(f"there is no component {name!r}; there are: {', '.join(self.names)}")
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(self._look, self._components[name])
        return self.report()

    async def health(self) -> HealthReport:
        """How the service is, by the last checks; what was never looked at is looked at now."""
        async with anyio.create_task_group() as tasks:
            for component in self._components.values():
                if component.health is None:
                    tasks.start_soon(self._look, component)
        return self.report()

    def report(self) -> HealthReport:
        """How the service is, by the checks that there were."""
        known = tuple(one.health for one in self._components.values() if one.health is not None)
        statuses = {health.name: health.status for health in known}
        helped = self._made_up_for(statuses)
        return HealthReport(
            status=overall(statuses, helped),
            components=known,
            made_up_for=helped,
            at=self._now(),
        )

    # ---- inside ----

    async def _keep_looking(self, component: _Component) -> None:
        while True:
            version = component.wake.version
            await self._look(component)
            ended = self._clock.now()
            with self._clock.move_on_at(ended + self._interval):
                await component.wake.wait_after(version)
            await self._clock.sleep_until(ended + min(_SHORTEST_PAUSE, self._interval))

    async def _look(self, component: _Component) -> None:
        """Look once; whoever asks while somebody looks gets a look of its own, after that."""
        async with component.turn:
            began = self._clock.now()
            observation = await self._observe(component.check)
            ended = self._clock.now()
            sample = Sample(checked_at=self._now(), status=observation.status, duration=ended - began)
            component.history.add(sample, ended)
            samples = component.history.samples
            health = ComponentHealth(
                name=component.check.component,
                status=observation.status,
                message=observation.message,
                findings=observation.findings,
                details=observation.details,
                checked_at=sample.checked_at,
                duration=sample.duration,
                since=component.history.since or sample.checked_at,
                trend=trend_of(samples),
                history=samples,
            )
            before, component.health = component.health, health
        self._tell(before, health)

    async def _observe(self, check: Check) -> Observation:
        try:
            with self._clock.fail_after(self._timeout + _GRACE):
                return await check.look()
        except TimeoutError:
            return Observation((Finding(CHECK_FAILED, f"the check did not end within {self._timeout:g} s"),))
        except Exception as error:  # noqa: BLE001 - a fault in one check is a finding, and hurts no other
            _log.exception("health check failed", component=check.component)
            return Observation((Finding(CHECK_FAILED, f"the check itself failed: {type(error).__name__}"),))

    def _tell(self, before: ComponentHealth | None, health: ComponentHealth) -> None:
        usual = HealthStatus.HEALTHY if before is None else before.status
        if usual is not health.status:
            level = _log.warning if health.status is HealthStatus.UNHEALTHY else _log.info
            level("health", component=health.name, status=health.status.value, message=health.message)
        for listener in self._listeners:
            try:
                listener(health)
            except Exception:  # noqa: BLE001 - whoever listens must not hurt what is listened to
                _log.exception("listener failed", component=health.name)
