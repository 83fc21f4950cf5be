"""Everything that ``status`` and ``top`` show, asked for at one moment."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from manahsm.cli.opened import settled
from manahsm.cli.options import Options
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.performance import PerformanceMetrics
from manahsm.monitoring.stats import ServiceStats
from manahsm.monitoring.values import HealthReport
from manahsm.status import ServiceStatus
from manahsm.times import utc_now

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["Snapshot", "look", "settle_in"]


@frozen(kw_only=True)
class Snapshot:
    """A service at one moment.

    Attributes:
        at: when (UTC).
        status: what it has and does.
        health: how its components are, by their last checks.
        alerts: those that are open.
        performance: operations, failures and response times.
        stats: what was counted since its start.
    """

    at: datetime
    status: ServiceStatus
    health: HealthReport
    alerts: tuple[Alert, ...]
    performance: PerformanceMetrics
    stats: ServiceStats


async def settle_in(service: Service, options: Options) -> None:
    """Let a service that was opened for this command alone fill its pools and look at its components, once."""
    if options.url is None:
        await service.filled()
        await service.trigger_health_check()


async def look(service: Service) -> Snapshot:
    """Ask for all of it."""
    return Snapshot(
        at=utc_now(),
        status=await service.status(),
        health=await service.health(),
        alerts=tuple(await service.alerts()),
        performance=await settled(service.performance_metrics()),
        stats=await settled(service.stats()),
    )
