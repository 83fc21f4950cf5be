"""Everything that a service counts of itself, put together: metrics, rates, and the pages of the endpoint."""

from __future__ import annotations

from collections.abc import Callable

from manahsm.config.model import Config
from manahsm.events import Happening
from manahsm.monitoring.answers import Pages, pages_of
from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.gauges import Gauges
from manahsm.monitoring.health_page import page_of_report
from manahsm.monitoring.metrics import Names
from manahsm.monitoring.performance import Performance, PerformanceMetrics
from manahsm.monitoring.readiness import why_not_ready
from manahsm.monitoring.recording import Recorder
from manahsm.monitoring.sources import Sources
from manahsm.monitoring.stats import ServiceStats, stats_of
from manahsm.monitoring.values import HealthReport
from manahsm.times import utc_now
from supervisors import Clock

__all__ = ["Meters"]


class Meters:
    """Listens to what happens in a service and shows what it counted.

    Args:
        config: of the service.
        slots: names of its slots.
        sources: what it shows of itself when it is asked.
        clock: the time of rates.
    """

    def __init__(self, config: Config, slots: tuple[str, ...], sources: Sources, *, clock: Clock) -> None:
        options = config.monitoring
        self._audit_required = config.security_policy.audit_all_operations
        self._sources = sources
        self._exposition = Exposition(Names.of_slots(slots))
        self._performance = Performance(
            slots, retention=options.metrics_retention, clock=clock, enabled=options.performance_monitoring
        )
        self._record = Recorder(self._exposition, self._performance, slots)
        self._gauges = Gauges(self._exposition, sources, self._performance)
        self._started_at = utc_now()

    def listen(self, event: Happening) -> None:
        """Count an event."""
        self._record(event)

    def text(self) -> str:
        """All metrics in the text format of Prometheus, as of now."""
        self._gauges.read()
        return self._exposition.text()

    def stats(self) -> ServiceStats:
        """Counts since the start."""
        self._gauges.read()
        return stats_of(self._exposition, started_at=self._started_at, now=utc_now())

    def performance(self) -> PerformanceMetrics:
        """Rates and times of the windows that are kept."""
        return self._performance.report()

    def pages(self, report: Callable[[], HealthReport]) -> Pages:
        """What the endpoint shows.

        Args:
            report: how the service is.
        """
        return pages_of(self.text, self.why_not_ready, lambda: page_of_report(report()))

    def why_not_ready(self) -> str | None:
        """Return why the service can not sign now, or ``None`` if it can."""
        return why_not_ready(self._sources.status(), self._sources.audit(), audit_required=self._audit_required)
