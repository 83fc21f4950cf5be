"""What ``/healthz`` shows: the health of the components as a document, without their histories. Pure."""

from __future__ import annotations

from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.values import HealthReport

__all__ = ["page_of_report"]


def page_of_report(report: HealthReport) -> tuple[bool, dict[str, object]]:
    """Whether the service is no worse than degraded, and what the last health checks found."""
    document = {
        "status": report.status,
        "at": report.at,
        "components": [
            {
                "name": component.name,
                "status": component.status,
                "message": component.message,
                "checked_at": component.checked_at,
                "since": component.since,
                "trend": component.trend,
                "made_up_for": component.name in report.made_up_for,
            }
            for component in report.components
        ],
    }
    return report.status is not HealthStatus.UNHEALTHY, document
