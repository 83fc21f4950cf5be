"""What ``/healthz`` shows: the health of the components as a document, without their histories. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from manahsm.monitoring.causes import HealthStatus, worst
from manahsm.monitoring.values import HealthReport

__all__ = ["page_of_report", "page_of_scores"]


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


def page_of_scores(scores: Mapping[str, float]) -> tuple[bool, dict[str, object]]:
    """The same by scores alone (1 healthy, 0.5 degraded, 0 unhealthy), where there is no health monitor."""
    by_score = {status.score: status for status in HealthStatus}
    components = {name: by_score[score] for name, score in scores.items()}
    overall = worst(components.values())
    document: dict[str, object] = {
        "status": overall,
        "components": [{"name": name, "status": status} for name, status in components.items()],
    }
    return overall is not HealthStatus.UNHEALTHY, document
