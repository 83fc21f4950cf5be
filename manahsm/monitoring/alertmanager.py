"""Alerts to Prometheus' Alertmanager, by its API v2 (``POST /api/v2/alerts``).

The one thing to know: Alertmanager keeps an alert only until its ``endsAt``, so what is open is sent again at
intervals, each time with an end in the future, as Prometheus itself does it; a signer that dies stops sending, and its
alerts end by themselves. What was resolved is sent with its real end until that was taken once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import msgspec

from manahsm.logs import get_logger
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.delivery import Poster, Undelivered
from manahsm.monitoring.sinks import OnTrouble, Sink
from supervisors import Clock

__all__ = ["ALERTS_PATH", "AlertmanagerSink", "postable"]

_log = get_logger("manahsm.alerts")

ALERTS_PATH = "/api/v2/alerts"
ATTEMPTS = 3
"""Tries each time; what was not taken is sent again at the next interval anyway."""
KEPT_FOR = 4
"""Intervals after which Alertmanager ends what it has not heard of."""
MOST_KEPT = 1000


def postable(alert: Alert, instance: str, *, now: datetime, kept_for: float) -> dict[str, Any]:
    """One ``postableAlert`` of the API. Its labels are its identity: they never change while it lives.

    Args:
        alert: what to send.
        instance: how this signer is called.
        now: time of day.
        kept_for: seconds for which an open one is good.
    """
    ends = alert.resolved_at or now + timedelta(seconds=kept_for)
    camel = "".join(word.capitalize() for word in alert.cause.split("_"))
    return {
        "labels": {
            "alertname": f"ManaHSM{camel}",
            "component": alert.component,
            "severity": alert.severity.value,
            "instance": instance,
        },
        "annotations": {"summary": alert.message, "description": alert.detail or alert.message, "id": alert.id},
        "startsAt": alert.raised_at.isoformat(),
        "endsAt": ends.isoformat(),
    }


class AlertmanagerSink(Sink):
    """Keeps an Alertmanager up to date.

    Args:
        poster: to its alerts.
        instance: how this signer is called.
        interval: seconds between two deliveries of what is open.
        clock: the time of intervals.
        now: the time of day.
    """

    name = "alertmanager"

    def __init__(
        self, poster: Poster, instance: str, *, interval: float, clock: Clock, now: Callable[[], datetime]
    ) -> None:
        self._poster = poster
        self._instance = instance
        self._interval = interval
        self._clock = clock
        self._now = now
        self._known: dict[str, Alert] = {}
        self._news = anyio.Event()

    def offer(self, alert: Alert) -> None:
        """Take note, and send it at once."""
        self._known.pop(alert.id, None)
        self._known[alert.id] = alert
        if len(self._known) > MOST_KEPT:
            self._known.pop(next(iter(self._known)))
        self._news.set()

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Go on sending what was open."""
        for alert in alerts:
            self.offer(alert)

    async def run(self, on_trouble: OnTrouble) -> None:
        """Deliver until cancelled."""
        async with self._poster.connected():
            while True:
                self._news = anyio.Event()
                if self._known:
                    await self._deliver(tuple(self._known.values()), on_trouble)
                with self._clock.move_on_after(self._interval):
                    await self._news.wait()

    async def _deliver(self, alerts: Sequence[Alert], on_trouble: OnTrouble) -> None:
        now, kept_for = self._now(), self._interval * KEPT_FOR
        body = [postable(alert, self._instance, now=now, kept_for=kept_for) for alert in alerts]
        try:
            await self._poster.post(msgspec.json.encode(body))
        except Undelivered as error:
            _log.error("alerts not delivered", sink=self.name, count=len(alerts), error=str(error))
            on_trouble(self.name, str(error))
            return
        on_trouble(self.name, None)
        for alert in alerts:
            if not alert.is_open and self._known.get(alert.id) is alert:
                del self._known[alert.id]
