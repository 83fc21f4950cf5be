"""The catalogue of all metrics: what each is called, counts or shows, and which label values it can have.

The one thing to know: this table is all there is. The collectors are made from it, every series of it exists from the
start, and docs/metrics.md, the alert rules and the dashboard are checked against it. Label values come from the
configuration and from tables of this program, never from a caller, so the number of series is bounded and known.

Names follow https://prometheus.io/docs/practices/naming/: base units, and ``_total`` on counters alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import frozen

from manahsm import errors
from manahsm.errors import ManaHSMError
from manahsm.hsm.outcomes import OWN_OUTCOMES
from manahsm.hsm.return_codes import CKR
from manahsm.monitoring.causes import CAUSES
from manahsm.monitoring.components import components_of, measured_components
from manahsm.requests import Backend, KeyState, Operation, Role
from manahsm.signing.observed import CANCELLED, HOST_GONE, SIGNED
from manahsm.signing.slot import SlotPhase
from supervisors import BreakerState

__all__ = [
    "CATALOGUE",
    "DURATION_BUCKETS",
    "NOWHERE",
    "OTHER",
    "REASONS",
    "SIGN_OUTCOMES",
    "Dimension",
    "Failure",
    "Kind",
    "Metric",
    "Names",
    "Part",
    "Source",
]

OTHER = "other"
"""Stands for what no table names, e.g. a return code of a vendor's own."""
NOWHERE = "none"
"""The backend of a request that nothing signed, and the role of a key that has none."""
_NO_SLOT = ""  # to Prometheus the same as no label; no slot can be called that

DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds: SoftHSM signs in under a millisecond, a YubiHSM in a tenth of a second, and the defaults of
``circuit_breaker.slow_call``, ``fallback.fallback_timeout`` and ``service.request_timeout`` are near bounds."""


class Kind(StrEnum):
    """Types of metrics, as the exposition format names them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Part(StrEnum):
    """What was restarted, or failed."""

    SERVICE = "service"
    """A child of the root: a fault of ours."""
    SLOT = "slot"
    """A slot's whole tree, or its pool manager."""
    HOST = "host"
    """A host process: of a slot, or without a slot the one that signs with software keys."""
    WORKER = "worker"
    """A signer worker."""
    INTERFACE = "interface"
    """What listens for callers or scrapes."""


class Source(StrEnum):
    """Where gauges are read from at a scrape."""

    STATUS = "status"
    KEYS = "keys"
    HEALTH = "health"
    AUDIT = "audit"
    ALERTS = "alerts"
    PERFORMANCE = "performance"
    PROCESS = "process"


class Failure(StrEnum):
    """How a supervised task failed."""

    CRASHED = "crashed"
    WEDGED = "wedged"
    START_FAILED = "start_failed"


def _error_codes() -> tuple[str, ...]:
    known = (getattr(errors, name) for name in errors.__all__)
    return tuple(sorted({error.code for error in known if issubclass(error, ManaHSMError)}))


SIGN_OUTCOMES: tuple[str, ...] = (SIGNED, CANCELLED, *_error_codes(), OTHER)
"""How a request ends: ``signed``, ``cancelled``, or the code of an error."""

REASONS: tuple[str, ...] = (*CKR, *OWN_OUTCOMES, HOST_GONE, OTHER)
"""Why a session was discarded: a return code by name, or one of our own outcomes."""


@frozen
class Names:
    """What the configuration adds to the label values.

    Attributes:
        slots: names of the configured slots.
        components: names of what has a health; by default those that follow from the slots.
    """

    slots: tuple[str, ...]
    components: tuple[str, ...]

    @classmethod
    def of_slots(cls, slots: Iterable[str]) -> Names:
        """With the usual components."""
        names = tuple(slots)
        return cls(names, components_of(names))


Values = tuple[str, ...]


@frozen
class Dimension:
    """Labels that vary together.

    Attributes:
        labels: their names.
        values: every combination of values that they can have.
        meaning: one sentence.
        fixed: whether the values are those of one label, and the same in every configuration.
    """

    labels: tuple[str, ...]
    values: Callable[[Names], tuple[Values, ...]]
    meaning: str
    fixed: bool = False


def _fixed(label: str, values: Iterable[str], meaning: str) -> Dimension:
    rows = tuple((str(value),) for value in values)
    return Dimension((label,), lambda _: rows, meaning, fixed=True)


def _signers(names: Names) -> tuple[Values, ...]:
    return (*((Backend.HSM.value, slot) for slot in names.slots), (Backend.SOFTWARE.value, _NO_SLOT))


def _part_values(names: Names) -> tuple[Values, ...]:
    below = [(part.value, slot) for part in (Part.SLOT, Part.HOST, Part.WORKER) for slot in names.slots]
    beside = [(part.value, _NO_SLOT) for part in (Part.SERVICE, Part.INTERFACE, Part.HOST)]  # a host of software keys
    return (*below, *beside)


_SLOT = Dimension(("slot",), lambda names: tuple((slot,) for slot in names.slots), "A configured slot.")
_SIGNER = Dimension(("backend", "slot"), _signers, "What signs: `hsm` and the slot, or `software` and no slot.")
_ROUTE = Dimension(
    ("backend", "slot"),
    lambda names: (*_signers(names), (NOWHERE, _NO_SLOT)),
    "What signed: `hsm` and the slot, `software` and no slot, or `none` where nothing did.",
)
_COMPONENT = Dimension(
    ("component",),
    lambda names: tuple((component,) for component in names.components),
    "`pkcs11:SLOT`, `key_manager`, `signing_service`, `audit`, `config_manager`.",
)
_MEASURED = Dimension(
    ("component",),
    lambda names: tuple((component,) for component in measured_components(names.slots)),
    "`signing_service` for all requests, `pkcs11:SLOT` for what a slot was asked.",
)
_PART = Dimension(("part", "slot"), _part_values, "`slot`, `host` or `worker` of a slot; `service`; `interface`.")
_OPERATION = _fixed("operation", Operation, "What was to be signed.")
_OUTCOME = _fixed("outcome", SIGN_OUTCOMES, "`signed`, `cancelled`, or the code of the error.")
_REASON = _fixed("reason", REASONS, "The PKCS#11 return code, or an outcome of our own such as `HOST_CRASHED`.")
_PHASE = _fixed("phase", SlotPhase, "1 for the phase that the slot is in, 0 for the others.")
_STATE = _fixed(
    "state", (state.value for state in BreakerState), "1 for the state that the breaker is in, 0 for the others."
)
_ENTERED = _fixed("state", (state.value for state in BreakerState), "The state that the breaker changed to.")
_FAILURE = _fixed("kind", Failure, "How it failed.")
_ALERT_ROWS = tuple((cause.severity.value, cause.name) for cause in CAUSES.values())
_ALERT = Dimension(("severity", "cause"), lambda _: _ALERT_ROWS, "How urgent it is, and what is wrong.")
_SOURCE = _fixed("source", Source, "What could not be read.")
_KEYS = (
    _fixed("backend", Backend, "Where the key lives."),
    _fixed("role", (*Role, NOWHERE), "What the key is for."),
    _fixed("state", KeyState, "`active` keys sign."),
)
# The one metric whose values are of this build: see Exposition.
_BUILD = Dimension(("version", "python"), lambda _: (), "Versions of manahsm and of Python.")


@frozen
class Metric:
    """One row of the catalogue.

    Attributes:
        name: as scraped; a histogram adds ``_bucket``, ``_sum`` and ``_count``.
        kind: its type.
        help: one line, without a backslash.
        dimensions: what its series differ in.
    """

    name: str
    kind: Kind
    help: str
    dimensions: tuple[Dimension, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its labels, in order."""
        return tuple(label for dimension in self.dimensions for label in dimension.labels)

    def series(self, names: Names) -> tuple[Values, ...]:
        """The label values of every series that it can have."""
        rows = itertools.product(*(dimension.values(names) for dimension in self.dimensions))
        return tuple(tuple(itertools.chain.from_iterable(row)) for row in rows)


def _counter(name: str, help_: str, *dimensions: Dimension) -> Metric:
    return Metric(name, Kind.COUNTER, help_, dimensions)


def _gauge(name: str, help_: str, *dimensions: Dimension) -> Metric:
    return Metric(name, Kind.GAUGE, help_, dimensions)


def _histogram(name: str, help_: str, *dimensions: Dimension) -> Metric:
    return Metric(name, Kind.HISTOGRAM, help_, dimensions)


_ROWS = (
    # Components, under the names of the original.
    _gauge("mana_hsm_component_health", "Health of a component: 1 healthy, 0.5 degraded, 0 unhealthy.", _COMPONENT),
    _gauge("mana_hsm_operations_per_second", "Operations a second over the last minute.", _MEASURED),
    _gauge("mana_hsm_error_rate", "Share of operations that failed over the last minute, 0 to 1.", _MEASURED),
    # Requests.
    _counter("mana_hsm_signatures_total", "Signing requests that ended.", _ROUTE, _OPERATION, _OUTCOME),
    _histogram(
        "mana_hsm_sign_duration_seconds", "Time from a request to its end, failures and refusals included.", _ROUTE
    ),
    _counter("mana_hsm_fallback_operations_total", "Requests in which a software twin stood in for a token."),
    _counter("mana_hsm_fallback_outages_total", "Outages in which a software twin began to stand in."),
    _counter("mana_hsm_backup_operations_total", "Requests that a slot signed in place of the first.", _SLOT),
    _counter("mana_hsm_retried_operations_total", "Requests that were tried again on the same slot."),
    _gauge("mana_hsm_requests_under_way", "Requests and key changes that were admitted and have not ended."),
    _gauge("mana_hsm_accepting", "Whether new requests are admitted: 0 while the service stops."),
    # Slots.
    _gauge("mana_hsm_slot_up", "Whether a slot serves sessions to sign with.", _SLOT),
    _gauge("mana_hsm_slot_phase", "What a slot is doing.", _SLOT, _PHASE),
    _gauge("mana_hsm_slot_keys", "Keys that a token was last seen to hold.", _SLOT),
    _gauge("mana_hsm_token_pin_count_low", "Whether a wrong PIN was tried since the last good one.", _SLOT),
    _gauge("mana_hsm_hosts", "Host processes that are ready.", _SLOT),
    _gauge("mana_hsm_hosts_resident_memory_bytes", "Resident memory of the host processes that are ready.", _SLOT),
    _gauge("mana_hsm_breaker_state", "The circuit breaker of a slot.", _SLOT, _STATE),
    _counter("mana_hsm_breaker_changes_total", "Changes of a circuit breaker.", _SLOT, _ENTERED),
    _counter("mana_hsm_breaker_admitted_total", "Calls that a circuit breaker let through.", _SLOT),
    _counter("mana_hsm_breaker_refused_total", "Calls that a circuit breaker refused.", _SLOT),
    # Sessions.
    _gauge("mana_hsm_pool_size", "Sessions that a pool keeps.", _SLOT),
    _gauge("mana_hsm_pool_max_overflow", "Sessions that a pool may open beyond its size.", _SLOT),
    _gauge("mana_hsm_pool_sessions_open", "Sessions that are open.", _SLOT),
    _gauge("mana_hsm_pool_sessions_overflow", "Open sessions beyond the size of the pool.", _SLOT),
    _gauge("mana_hsm_pool_sessions_busy", "Sessions that are signing.", _SLOT),
    _gauge("mana_hsm_pool_requests_waiting", "Requests that wait for a session.", _SLOT),
    _counter("mana_hsm_sessions_opened_total", "Sessions opened.", _SLOT),
    _counter("mana_hsm_sessions_closed_total", "Sessions closed while they were good.", _SLOT),
    _counter("mana_hsm_sessions_discarded_total", "Sessions that broke.", _SLOT, _REASON),
    # Queues.
    _gauge("mana_hsm_queue_length", "Requests in a queue.", _SIGNER),
    _gauge("mana_hsm_queue_capacity", "Most requests that may wait in a queue.", _SIGNER),
    _counter("mana_hsm_queue_refused_total", "Requests refused because a queue was full or closed.", _SIGNER),
    _counter("mana_hsm_queue_expired_total", "Requests that met their deadline in a queue.", _SIGNER),
    # Supervision.
    _counter("mana_hsm_restarts_total", "Restarts after a failure; those of a host are respawned processes.", _PART),
    _counter("mana_hsm_failures_total", "Failures of supervised tasks.", _PART, _FAILURE),
    _counter("mana_hsm_escalations_total", "Supervisors that gave up.", _PART),
    # Keys.
    _gauge("mana_hsm_keys", "Keys in the registry.", *_KEYS),
    # Audit.
    _gauge("mana_hsm_audit_enabled", "Whether there is an audit log."),
    _gauge("mana_hsm_audit_healthy", "Whether the last write and sync of the audit log went well; 1 without a log."),
    _counter("mana_hsm_audit_records_total", "Records in the audit log, those of earlier runs included."),
    _gauge("mana_hsm_audit_unsynced_records", "Audit records that were not forced to the disk yet."),
    _gauge("mana_hsm_audit_lag_seconds", "Age of the last sync while audit records wait for one, else 0."),
    # Alerts.
    _gauge("mana_hsm_alerts_active", "Alerts that are raised and not resolved.", _ALERT),
    # The program.
    _gauge("mana_hsm_build_info", "Always 1; tells versions.", _BUILD),
    _counter("mana_hsm_scrape_errors_total", "Sources that could not be read when metrics were asked for.", _SOURCE),
    _gauge("mana_hsm_process_resident_memory_bytes", "Resident memory of the process, without its hosts."),
    _counter("mana_hsm_process_cpu_seconds_total", "CPU time of the process, without its hosts."),
    _gauge("mana_hsm_process_open_fds", "Open file descriptors of the process."),
    _gauge("mana_hsm_process_max_fds", "File descriptors that the process may have open."),
    _gauge("mana_hsm_process_start_time_seconds", "When the process started, in seconds since 1970."),
)

CATALOGUE: Mapping[str, Metric] = MappingProxyType({row.name: row for row in _ROWS})
"""Every metric, by name."""
