"""Everything that can be wrong, in one table: what it is called, how bad it is, and when it is worth an alert.

The one thing to know: a :class:`Cause` is the identity of an alert. There is at most one open alert for a component
and a cause, so a message never holds numbers; those are in the detail of what was found. ``docs/operations.md`` says
for each of them what it means and what to do, and a test compares the two.

Thresholds and messages of the load causes are those of the original; its rules on status ("Component degraded",
"Component unhealthy") follow from the findings here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from attrs import field, frozen

__all__ = ["CAUSES", "Cause", "Cleared", "HealthStatus", "Severity", "worst"]

_HOUR = 3600.0


class HealthStatus(StrEnum):
    """How well a component is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, and somebody should look."""
    UNHEALTHY = "unhealthy"
    """It does not do what it is for."""

    @property
    def score(self) -> float:
        """1 for healthy, 0.5 for degraded, 0 for unhealthy: the values of ``mana_hsm_component_health``."""
        return _SCORES[self]


_SCORES = {HealthStatus.HEALTHY: 1.0, HealthStatus.DEGRADED: 0.5, HealthStatus.UNHEALTHY: 0.0}


def worst(statuses: Iterable[HealthStatus]) -> HealthStatus:
    """The worst of some statuses; healthy where there is none."""
    return min(statuses, key=lambda status: status.score, default=HealthStatus.HEALTHY)


class Severity(StrEnum):
    """How urgent an alert is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Cleared(StrEnum):
    """How it is known that a cause has ended."""

    BY_LOOKING = "by_looking"
    """The next health check does not find it."""
    BY_EVENT = "by_event"
    """Something says so."""
    BY_TIME = "by_time"
    """It is news, and old after a while."""


@frozen
class Cause:
    """One thing that can be wrong with a component.

    Attributes:
        name: lower case with underscores; the label of metrics and the ``cause`` of alerts.
        message: of its alert and of the component.
        severity: of its alert.
        status: of a component with it.
        bad: so many bad looks in a row, at intervals, raise the alert.
        good: so many good looks in a row, at intervals, resolve it.
        cleared: how its end is known.
        lasts: seconds until it is old, where it is cleared by time.
        error_rate: its alert is an option (``monitoring.alert_on_errors``).
        obscures: while it is found, nothing is known of the other causes at the component.
    """

    name: str
    message: str
    severity: Severity = field(kw_only=True)
    status: HealthStatus = field(kw_only=True)
    bad: int = field(default=1, kw_only=True)
    good: int = field(default=1, kw_only=True)
    cleared: Cleared = field(default=Cleared.BY_LOOKING, kw_only=True)
    lasts: float | None = field(default=None, kw_only=True)
    error_rate: bool = field(default=False, kw_only=True)
    obscures: bool = field(default=False, kw_only=True)


# The status that such a cause usually means; an entry may say otherwise.
_critical = partial(Cause, severity=Severity.CRITICAL, status=HealthStatus.UNHEALTHY)
_warning = partial(Cause, severity=Severity.WARNING, status=HealthStatus.DEGRADED)
_info = partial(Cause, severity=Severity.INFO, status=HealthStatus.HEALTHY)

# ---- pkcs11:SLOT ----

CONNECTIVITY_LOST = _critical("connectivity_lost", "HSM connectivity lost")
LATCHED = _critical("latched", "Slot latched")
WRONG_SIGNATURE = _critical("wrong_signature", "Token signs wrongly")
DOES_NOT_SIGN = _critical("does_not_sign", "Token does not sign")
BREAKER_OPEN = _warning("breaker_open", "Circuit breaker open", status=HealthStatus.UNHEALTHY)
FORCED_OPEN = _warning("forced_open", "Slot closed by an operator", status=HealthStatus.UNHEALTHY)
FORCED_CLOSED = _warning("forced_closed", "Circuit breaker held closed by an operator")
CONNECTING = _warning("connecting", "Slot not connected yet", bad=2, obscures=True)
ON_PROBATION = _info("on_probation", "Slot on probation", status=HealthStatus.DEGRADED, bad=2)
HOSTS_MISSING = _warning("hosts_missing", "Host processes missing", bad=2)
SESSIONS_MISSING = _warning("sessions_missing", "Sessions missing", bad=2)
SESSIONS_BREAK = _warning("sessions_break", "Sessions keep breaking", good=2)
WRONG_PIN_TRIED = _warning("wrong_pin_tried", "A wrong PIN was tried")
LAST_PIN_TRY = _critical("last_pin_try", "One wrong PIN locks the token", status=HealthStatus.DEGRADED)
PIN_LOCKED = _critical("pin_locked", "PIN locked", status=HealthStatus.DEGRADED)
CANARY_UNUSABLE = _warning("canary_unusable", "Canary key can not be used")

# ---- signing_service, and response times of tokens ----

RESPONSE_HIGH = _critical("response_time_high", "High response time", bad=2, good=2)
RESPONSE_ELEVATED = _warning("response_time_elevated", "Elevated response time", bad=2, good=2)
ERRORS_CRITICAL = _critical("error_rate_critical", "Critical error rate", good=2, error_rate=True)
ERRORS_HIGH = _warning("error_rate_high", "High error rate", good=2, error_rate=True)
QUEUE_FULL = _critical("queue_full", "Queue critically full", good=2)
QUEUE_FILLING = _warning("queue_filling", "Queue filling up", good=2)
POOL_EXHAUSTED = _critical("pool_exhausted", "Connection pool exhausted", good=2)
POOL_PRESSURE = _warning("pool_pressure", "Connection pool under pressure", good=2)
STAND_IN = _info("stand_in", "Software stands in for a token", cleared=Cleared.BY_EVENT)

# ---- audit ----

AUDIT_UNAVAILABLE = _critical("audit_unavailable", "Audit log unavailable")
AUDIT_INCOMPLETE = _warning("audit_incomplete", "Audit log incomplete")

# ---- key_manager ----

REGISTRY_TROUBLE = _warning("registry_trouble", "Key registry can not be written")
KEYFILES_MISSING = _warning("keyfiles_missing", "Keystore files missing")
KEYSTORE_LOCKED = _warning("keystore_locked", "Software keys can not be unlocked")
CANARY_UNKNOWN = _warning("canary_unknown", "Canary key not registered")

# ---- config_manager ----

SECRETS_UNREADABLE = _warning("secrets_unreadable", "PIN or passphrase files can not be read")
CONFIGURATION_CHANGED = _info("configuration_changed", "Configuration changed", cleared=Cleared.BY_TIME, lasts=_HOUR)

# ---- any component; alert_manager ----

CHECK_FAILED = _critical("check_failed", "Component unhealthy", obscures=True)
STORE_DAMAGED = _warning(
    "store_damaged", "Stored alerts damaged", status=HealthStatus.HEALTHY, cleared=Cleared.BY_TIME, lasts=24 * _HOUR
)
STORE_TROUBLE = _warning("store_trouble", "Alerts can not be stored", cleared=Cleared.BY_EVENT)
SINK_TROUBLE = _warning("sink_trouble", "Alerts can not be delivered", cleared=Cleared.BY_EVENT)

CAUSES: Mapping[str, Cause] = MappingProxyType(
    {cause.name: cause for cause in tuple(globals().values()) if isinstance(cause, Cause)}
)
"""All of them, by name."""
