"""Alerts to a webhook: one POST for each that was raised, has come back or was resolved.

The one thing to know: what waits is kept by alert, and only in its latest state, so a webhook that is away for a day
costs no more memory than there are alerts, and hears of none that has come and gone meanwhile more than once.
"""

from __future__ import annotations

import anyio
import msgspec

from manahsm.logs import get_logger
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.delivery import Poster, Undelivered
from manahsm.monitoring.sinks import OnTrouble, Sink

__all__ = ["MOST_WAITING", "WebhookSink", "webhook_body"]

_log = get_logger("manahsm.alerts")

MOST_WAITING = 1000
ATTEMPTS = 10
"""Tries for each alert: over about five minutes."""


def webhook_body(alert: Alert, instance: str) -> bytes:
    """What is posted: ``{"status": "firing" | "resolved", "instance": ..., "alert": {...}}``."""
    status = "firing" if alert.is_open else "resolved"
    return msgspec.json.encode({"status": status, "instance": instance, "alert": msgspec.to_builtins(alert)})


class WebhookSink(Sink):
    """Posts alerts, one after the other.

    Args:
        poster: to the webhook.
        instance: how this signer is called.
    """

    name = "webhook"

    def __init__(self, poster: Poster, instance: str) -> None:
        self._poster = poster
        self._instance = instance
        self._waiting: dict[str, Alert] = {}
        self._news = anyio.Event()
        self.dropped = 0
        """Alerts that were given up because too many waited."""

    def offer(self, alert: Alert) -> None:
        """Take note; of an alert that waits already, only the latest state."""
        self._waiting.pop(alert.id, None)
        self._waiting[alert.id] = alert
        if len(self._waiting) > MOST_WAITING:
            self._waiting.pop(next(iter(self._waiting)))
            self.dropped += 1
        self._news.set()

    async def run(self, on_trouble: OnTrouble) -> None:
        """Deliver until cancelled."""
        async with self._poster.connected():
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                while self._waiting:
                    await self._deliver(on_trouble)

    async def _deliver(self, on_trouble: OnTrouble) -> None:
        alert = self._waiting.pop(next(iter(self._waiting)))
        try:
            await self._poster.post(webhook_body(alert, self._instance))
        except Undelivered as error:
            _log.error("alert not delivered", sink=self.name, id=alert.id, error=str(error))
            on_trouble(self.name, str(error))
        except BaseException:
            self._waiting.setdefault(alert.id, alert)  # the task ends; the next one goes on
            self._news.set()
            raise
        else:
            on_trouble(self.name, None)
