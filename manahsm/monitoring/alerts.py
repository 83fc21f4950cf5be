"""The alert manager: turns what health checks find and what happens into alerts, and hands those to sinks.

The one thing to know: deciding is synchronous and done at once, by whoever reports; sending and storing are done by the
manager's own task. So a signature waits for neither, and a manager whose task has crashed still knows everything when
it runs again.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import anyio
import anyio.to_thread

from manahsm.config.tables import Monitoring
from manahsm.errors import InvalidRequest
from manahsm.logs import get_logger
from manahsm.monitoring import causes
from manahsm.monitoring.alert_rules import (
    Alert,
    Pace,
    ResolvedBy,
    Standing,
    bad_look,
    good_look,
    resolved_by_operator,
    restored,
)
from manahsm.monitoring.alert_store import AlertStore
from manahsm.monitoring.causes import CAUSES, Cause, Cleared, HealthStatus
from manahsm.monitoring.components import CONFIG_MANAGER, SIGNING_SERVICE, slot_component
from manahsm.monitoring.sinks import Sink
from manahsm.monitoring.values import NO_DETAILS, ComponentHealth, Detail
from manahsm.signing.changes import Changes
from manahsm.signing.observed import Observed, StandInBegan
from manahsm.times import utc_now
from supervisors import BreakerState, BreakerStateChanged, ChildContext, Clock, Event

__all__ = ["ALERT_MANAGER", "AlertManager"]

_log = get_logger("manahsm.alerts")

ALERT_MANAGER = "alert_manager"
MOST_RESOLVED = 500
"""Resolved alerts that are remembered."""
_SAVE_PAUSE = 0.5  # seconds between two writes of the file
_SAVE_AGAIN = 10.0  # seconds until it is tried again after it could not be written
_LAST_SAVE = 2.0  # seconds for the write at the end
_OWN_CHECK = 30.0  # seconds between two looks for news that is old, and at its own troubles


class AlertManager:
    """Knows every alert that is open, and the last ones that were.

    Args:
        options: the table ``monitoring``.
        components: names of what health checks look at; a stored alert about anything else is resolved.
        store: where alerts outlive a restart.
        sinks: where they go.
        clock: the time of intervals.
        now: the time of day.
    """

    def __init__(
        self,
        options: Monitoring,
        components: Collection[str],
        store: AlertStore,
        sinks: Sequence[Sink],
        *,
        clock: Clock,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._options = options
        self._pace = Pace(interval=options.health_check_interval, calm=options.alerts.calm)
        self._components = frozenset(components) | {ALERT_MANAGER, CONFIG_MANAGER, SIGNING_SERVICE}
        self._store = store
        self._sinks = tuple(sinks)
        self._clock = clock
        self._now = now
        self._standings: dict[tuple[str, str], Standing] = {}
        self._resolved: deque[Alert] = deque(maxlen=MOST_RESOLVED)
        self._stood_in_for: set[tuple[str, ...]] = set()
        self._troubled: dict[str, str] = {}
        self._to_save = Changes()
        self._saved = 0
        self._load()

    # ---- asking ----

    def alerts(self, *, resolved: bool = False) -> tuple[Alert, ...]:
        """Return what is wrong: the open alerts, oldest first.

        Args:
            resolved: return the last resolved ones too, before the open ones.
        """
        found = sorted(
            (alert for standing in self._standings.values() if (alert := standing.open) is not None),
            key=lambda alert: alert.raised_at,
        )
        return (*self._resolved, *found) if resolved else tuple(found)

    def find(self, alert_id: str) -> Alert:
        """Return the open alert with this id.

        Raises:
            InvalidRequest: there is none.
        """
        for alert in self.alerts():
            if alert.id == alert_id:
                return alert
        raise InvalidRequest("no open alert has this id: it may have been resolved already")

    def resolve(self, alert_id: str) -> Alert:
        """An operator says that an alert is dealt with. While its cause lasts it stays silent; then it counts anew.

        Raises:
            InvalidRequest: no open alert has this id.
        """
        alert = self.find(alert_id)
        key = (alert.component, alert.cause)
        self._put(key, resolved_by_operator(self._standings[key], wall=self._now()))
        return self._resolved[-1]

    # ---- what is reported ----

    def observe(self, health: ComponentHealth) -> None:
        """Take the result of a health check."""
        wanted = self._options.alert_on_errors
        found = {one.cause.name: one for one in health.findings if wanted or not one.cause.error_rate}
        for finding in found.values():
            self._bad(health.name, finding.cause, finding.detail, health.details)
        if not any(finding.cause.obscures for finding in health.findings):
            for component, name in tuple(self._standings):
                cause = CAUSES[name]
                if component == health.name and name not in found and cause.cleared is Cleared.BY_LOOKING:
                    self._good(component, cause)
        self._token_is_back(health)

    def listen(self, event: Event | Observed) -> None:
        """Take what happens: what must be told at once, and what no look would find."""
        match event:
            case BreakerStateChanged(state=BreakerState.LATCHED.value):
                component = slot_component(event.breaker.removeprefix("slot "))
                if component in self._components:
                    self._bad(component, causes.LATCHED, event.reason)
            case StandInBegan():
                self._stood_in_for.add(event.slots)
                if self._options.alert_on_fallback:
                    self._bad(SIGNING_SERVICE, causes.STAND_IN, f"for {', '.join(event.slots)}")

    def _token_is_back(self, health: ComponentHealth) -> None:
        """Where a token signs again, software does not stand in for it any more."""
        if health.status is HealthStatus.UNHEALTHY or not health.name.startswith(slot_component("")):
            return
        slot = health.name.removeprefix(slot_component(""))
        self._stood_in_for = {slots for slots in self._stood_in_for if slot not in slots}
        if not self._stood_in_for:
            self._good(SIGNING_SERVICE, causes.STAND_IN)

    def _sink_trouble(self, sink: str, trouble: str | None) -> None:
        """One alert for all sinks: bad while any of them fails."""
        self._troubled.pop(sink, None)
        if trouble is not None:
            self._troubled[sink] = trouble
            detail = "; ".join(f"{name}: {why}" for name, why in self._troubled.items())
            self._bad(ALERT_MANAGER, causes.SINK_TROUBLE, detail)
        elif not self._troubled:
            self._good(ALERT_MANAGER, causes.SINK_TROUBLE)

    # ---- running ----

    async def run(self, ctx: ChildContext) -> None:
        """Send, store and let news grow old, until cancelled; what is not stored by then is stored at the end."""
        ctx.started()
        try:
            async with anyio.create_task_group() as tasks:
                for sink in self._sinks:
                    tasks.start_soon(sink.run, self._sink_trouble)
                tasks.start_soon(self._keep_stored)
                tasks.start_soon(self._watch_itself)
        finally:
            with anyio.move_on_after(_LAST_SAVE, shield=True):
                await self._save()

    async def _keep_stored(self) -> None:
        while True:
            version = self._to_save.version
            if self._saved == version:
                await self._to_save.wait_after(version)
            saved = await self._save()
            await self._clock.sleep(_SAVE_PAUSE if saved else _SAVE_AGAIN)

    async def _save(self) -> bool:
        """Write what has changed; return whether the file is as it should be."""
        version = self._to_save.version
        if self._saved == version:
            return True
        alerts = self.alerts(resolved=True)
        try:
            await anyio.to_thread.run_sync(self._store.save, alerts, abandon_on_cancel=True)
        except OSError as error:
            _log.error("alerts not stored", path=str(self._store.path), reason=error.strerror)
            self._bad(ALERT_MANAGER, causes.STORE_TROUBLE, f"{self._store.path}: {error.strerror}")
            return False
        self._saved = version
        self._good(ALERT_MANAGER, causes.STORE_TROUBLE)
        return True

    async def _watch_itself(self) -> None:
        while True:
            self._end_old_news()
            if not self._troubled:
                self._good(ALERT_MANAGER, causes.SINK_TROUBLE)
            if self._saved == self._to_save.version:
                self._good(ALERT_MANAGER, causes.STORE_TROUBLE)
            await self._clock.sleep(_OWN_CHECK)

    def _end_old_news(self) -> None:
        now = self._now()
        for alert in self.alerts():
            cause = CAUSES[alert.cause]
            if cause.lasts is not None and (now - alert.last_seen).total_seconds() >= cause.lasts:
                self._good(alert.component, cause, ResolvedBy.TIME)

    # ---- inside ----

    def _load(self) -> None:
        """Take up what was stored. A sink that repeats what is open goes on with it; it is no news to the others."""
        stored = self._store.load()
        self._resolved.extend(alert for alert in stored.alerts if not alert.is_open)
        for alert in stored.alerts:
            if alert.is_open and alert.cause in CAUSES:
                self._standings[alert.component, alert.cause] = restored(alert)
        for sink in self._sinks:
            sink.restore(self.alerts())
        for alert in self.alerts():
            if alert.component not in self._components:
                self._good(alert.component, CAUSES[alert.cause], ResolvedBy.CONFIGURATION)
        if stored.damage is not None:
            self._bad(ALERT_MANAGER, causes.STORE_DAMAGED, stored.damage)
        if stored.configuration is not None and stored.configuration != self._store.configuration:
            detail = "since the last start; its record in the audit log says what"
            self._bad(CONFIG_MANAGER, causes.CONFIGURATION_CHANGED, detail)
        if stored.configuration != self._store.configuration:
            self._to_save.notify()

    def _bad(self, component: str, cause: Cause, detail: str, details: Mapping[str, Detail] = NO_DETAILS) -> None:
        key, wall = (component, cause.name), self._now()
        new = Alert(
            id=secrets.token_hex(8),
            severity=cause.severity,
            component=component,
            cause=cause.name,
            message=cause.message,
            detail=detail,
            details=dict(details),
            raised_at=wall,
            last_seen=wall,
        )
        standing = self._standings.get(key, Standing())
        self._put(key, bad_look(standing, cause, new, now=self._clock.now(), pace=self._pace))

    def _good(self, component: str, cause: Cause, by: ResolvedBy = ResolvedBy.ITSELF) -> None:
        key = (component, cause.name)
        standing = self._standings.get(key)
        if standing is not None:
            now, wall = self._clock.now(), self._now()
            self._put(key, good_look(standing, cause, now=now, wall=wall, pace=self._pace, by=by))

    def _put(self, key: tuple[str, str], standing: Standing) -> None:
        """Keep a standing, and tell of its alert where that began, came back or ended."""
        before = self._standings.get(key, Standing()).open
        self._standings[key] = standing
        after = standing.alert
        if after is None or (before is not None) == after.is_open:
            return
        if after.is_open:
            self._resolved = _without(self._resolved, after.id)
        else:
            self._resolved.append(after)
        self._to_save.notify()
        for sink in self._sinks:
            sink.offer(after)


def _without(alerts: Iterable[Alert], alert_id: str) -> deque[Alert]:
    """The resolved ones without one that has come back."""
    return deque((alert for alert in alerts if alert.id != alert_id), maxlen=MOST_RESOLVED)
