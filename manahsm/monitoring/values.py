"""What health checks find and report: typed, frozen, without secrets. Lengths of time are seconds, times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from attrs import field, frozen

from manahsm.monitoring.causes import Cause, HealthStatus, worst

__all__ = [
    "NO_DETAILS",
    "ComponentHealth",
    "Detail",
    "Finding",
    "HealthReport",
    "Observation",
    "Sample",
    "Trend",
]

Detail = str | int | float | bool | None
NO_DETAILS: Mapping[str, Detail] = MappingProxyType({})


class Trend(StrEnum):
    """Where a component is going."""

    IMPROVING = "improving"
    STEADY = "steady"
    WORSENING = "worsening"


@frozen
class Finding:
    """One thing that a check has found wrong.

    Attributes:
        cause: what it is.
        detail: numbers, names and reasons, for people.
    """

    cause: Cause
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.cause.message}: {self.detail}" if self.detail else self.cause.message


@frozen
class Observation:
    """What one check of one component has seen.

    Attributes:
        findings: all that is wrong, the worst first.
        details: what else there is to know.
    """

    findings: tuple[Finding, ...] = ()
    details: Mapping[str, Detail] = NO_DETAILS

    @property
    def status(self) -> HealthStatus:
        """As bad as the worst finding."""
        return worst(finding.cause.status for finding in self.findings)

    @property
    def message(self) -> str:
        """All findings in one line, or ``ok``."""
        return "; ".join(map(str, self.findings)) or "ok"


@frozen(kw_only=True)
class Sample:
    """One check in the history of a component.

    Attributes:
        checked_at: when it ended.
        status: what it found.
        duration: how long it took.
    """

    checked_at: datetime
    status: HealthStatus
    duration: float


@frozen(kw_only=True)
class ComponentHealth:
    """How one component is.

    Attributes:
        name: ``pkcs11:SLOT``, ``key_manager``, ``signing_service``, ``audit`` or ``config_manager``.
        status: as bad as the worst finding.
        message: ``ok``, or everything that was found, in one line.
        findings: the same, typed.
        details: what else the check has seen, by name.
        checked_at: when the last check ended.
        duration: how long it took.
        since: since when it has had this status.
        trend: where it is going, by its last checks.
        history: its checks, oldest first, as far back as ``monitoring.metrics_retention``, at most 1000.
    """

    name: str
    status: HealthStatus
    message: str
    findings: tuple[Finding, ...]
    details: Mapping[str, Detail]
    checked_at: datetime
    duration: float
    since: datetime
    trend: Trend
    history: tuple[Sample, ...] = field(repr=False)


@frozen(kw_only=True)
class HealthReport:
    """How the service is.

    Attributes:
        status: the worst of the components, where one that others make up for counts as degraded at most.
        components: every component that was checked.
        made_up_for: names of unhealthy components whose work others do, e.g. a token whose keys a backup holds too.
        at: when the report was made.
    """

    status: HealthStatus
    components: tuple[ComponentHealth, ...]
    made_up_for: frozenset[str]
    at: datetime

    def component(self, name: str) -> ComponentHealth:
        """Return one component.

        Raises:
            KeyError: it has not been checked, or there is none.
        """
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)
