"""Where alerts go: what every sink is, and the one that is always there, the log.

The one thing to know: :meth:`Sink.offer` only takes note. It never waits, never raises for what lies beyond it and
never grows beyond a bound; sending is done by :meth:`Sink.run`, in a task of the alert manager.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from manahsm.logs import get_logger
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.causes import Severity

__all__ = ["LogSink", "OnTrouble", "Sink"]

_log = get_logger("manahsm.alerts")

OnTrouble = Callable[[str, str | None], None]
"""Told the name of a sink, and why it can not deliver; ``None`` once it can."""


class Sink(ABC):
    """Somewhere that alerts go.

    Attributes:
        name: for people; no secret.
    """

    name: str

    @abstractmethod
    def offer(self, alert: Alert) -> None:
        """Take note of an alert that was raised, has come back or was resolved."""

    def restore(self, alerts: Iterable[Alert]) -> None:  # noqa: B027 - most tell of what is new and no more
        """Take note of alerts that were open when the service stopped. They are no news."""

    async def run(self, on_trouble: OnTrouble) -> None:  # noqa: B027 - the log needs no task
        """Deliver until cancelled."""


class LogSink(Sink):
    """Writes ``HSM_ALERT [CRITICAL] component: message``, as the original did; the end of an alert as ``RESOLVED``."""

    name = "log"

    def offer(self, alert: Alert) -> None:
        """Write a line."""
        word = alert.severity.value.upper() if alert.is_open else "RESOLVED"
        line = f"HSM_ALERT [{word}] {alert.component}: {alert.message}"
        more: dict[str, object] = {"id": alert.id, "cause": alert.cause}
        if alert.detail:
            more["detail"] = alert.detail
        if not alert.is_open:
            _log.info(line, resolved_by=alert.resolved_by and alert.resolved_by.value, **more)
        elif alert.severity is Severity.CRITICAL:
            _log.critical(line, **more)
        elif alert.severity is Severity.WARNING:
            _log.warning(line, **more)
        else:
            _log.info(line, **more)
