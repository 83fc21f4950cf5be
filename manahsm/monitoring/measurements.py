"""All that is measured of one service, and how it is read: metrics, performance and counts since the start.

The one thing to know: :meth:`Measurements.record` is subscribed to the service's events and counts; everything else is
read at the moment at which somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from manahsm.config.tables import Monitoring
from manahsm.events import Happening
from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.gauges import Gauges
from manahsm.monitoring.metrics import Names
from manahsm.monitoring.performance import Performance, PerformanceMetrics
from manahsm.monitoring.recording import Recorder
from manahsm.monitoring.sources import Sources
from manahsm.monitoring.stats import ServiceStats, stats_of
from supervisors import Clock

__all__ = ["Measurements"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Measurements:
    """What one service measures of itself.

    Args:
        slots: names of the configured slots.
        options: the table ``monitoring``.
        sources: where gauges are read.
        clock: the time of windows.
        now: the time of day (UTC).
    """

    def __init__(
        self,
        slots: Iterable[str],
        options: Monitoring,
        sources: Sources,
        *,
        clock: Clock,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        names = Names.of_slots(slots)
        self._now = now
        self._started_at = now()
        self._exposition = Exposition(names)
        self._performance = Performance(
            names.slots, retention=options.metrics_retention, clock=clock, enabled=options.performance_monitoring
        )
        self._recorder = Recorder(self._exposition, self._performance, names.slots)
        self._gauges = Gauges(self._exposition, sources, self._performance)

    def record(self, event: Happening) -> None:
        """Count one event; for :meth:`manahsm.events.EventHub.subscribe`."""
        self._recorder(event)

    def prometheus(self) -> str:
        """Return all metrics in Prometheus' text format 0.0.4."""
        self._gauges.read()
        return self._exposition.text()

    def performance(self) -> PerformanceMetrics:
        """Return operations, errors and response times of the signing service and each slot."""
        return self._performance.report()

    def stats(self) -> ServiceStats:
        """Return counts since the start."""
        self._gauges.read()
        return stats_of(self._exposition, started_at=self._started_at, now=self._now())
