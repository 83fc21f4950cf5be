"""Sets the gauges, and the counters that others keep, from what a service shows of itself at a scrape.

The one thing to know: each source stands for itself. One that fails is logged and counted, its numbers stay what they
were, and all others are still shown: metrics are needed most when something is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from manahsm.logs import get_logger
from manahsm.monitoring.causes import CAUSES
from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.metrics import NOWHERE, Source
from manahsm.monitoring.performance import Performance
from manahsm.monitoring.readiness import scores_of
from manahsm.monitoring.sources import Sources, resident_memory
from manahsm.requests import Backend
from manahsm.signing.slot import SlotPhase
from manahsm.status import ServiceStatus, SlotStatus
from supervisors import BreakerState, MailboxStats

__all__ = ["Gauges"]

_log = get_logger("manahsm.metrics")


class Gauges:
    """Reads sources into an exposition.

    Args:
        exposition: where the numbers go.
        sources: where they come from.
        performance: rates of the last minute.
    """

    def __init__(self, exposition: Exposition, sources: Sources, performance: Performance) -> None:
        self._exposition = exposition
        self._set = exposition.set
        self._sources = sources
        self._performance = performance

    def read(self) -> None:
        """Read every source once."""
        readers: dict[Source, Callable[[], None]] = {
            Source.STATUS: self._read_status,
            Source.KEYS: self._read_keys,
            Source.AUDIT: self._read_audit,
            Source.HEALTH: self._read_health,
            Source.ALERTS: self._read_alerts,
            Source.PERFORMANCE: self._read_performance,
            Source.PROCESS: self._read_process,
        }
        for source, reader in readers.items():
            try:
                reader()
            except Exception:  # noqa: BLE001 - the other sources are to be shown whatever this one does
                _log.exception("metrics not read", source=source.value)
                self._exposition.count("mana_hsm_scrape_errors_total", source.value)

    # ---- one source each ----

    def _read_status(self) -> None:
        status: ServiceStatus = self._sources.status()
        self._set("mana_hsm_accepting", int(status.accepting))
        self._set("mana_hsm_requests_under_way", status.under_way)
        self._set("mana_hsm_retried_operations_total", status.routes.retried)
        self._set_queue(status.software, Backend.SOFTWARE.value, "")
        for slot in status.slots:
            self._set_slot(slot)
            self._set_pool(slot)
            self._set_queue(slot.queue, Backend.HSM.value, slot.name)

    def _set_slot(self, slot: SlotStatus) -> None:
        name, breaker = slot.name, slot.breaker
        self._set("mana_hsm_slot_up", int(slot.phase is SlotPhase.UP), name)
        for phase in SlotPhase:
            self._set("mana_hsm_slot_phase", int(slot.phase is phase), name, phase.value)
        for state in BreakerState:
            self._set("mana_hsm_breaker_state", int(breaker.state is state), name, state.value)
        self._set("mana_hsm_breaker_admitted_total", breaker.admitted, name)
        self._set("mana_hsm_breaker_refused_total", breaker.refused, name)
        self._set("mana_hsm_slot_keys", slot.keys, name)
        self._set("mana_hsm_hosts", len(slot.hosts), name)
        self._set("mana_hsm_hosts_resident_memory_bytes", sum(resident_memory(host.pid) for host in slot.hosts), name)
        self._set("mana_hsm_token_pin_count_low", int(any(host.pin_count_low for host in slot.hosts)), name)

    def _set_pool(self, slot: SlotStatus) -> None:
        name, pool = slot.name, slot.pool
        self._set("mana_hsm_pool_size", pool.size, name)
        self._set("mana_hsm_pool_max_overflow", pool.max_overflow, name)
        self._set("mana_hsm_pool_sessions_open", pool.open, name)
        self._set("mana_hsm_pool_sessions_overflow", pool.overflow, name)
        self._set("mana_hsm_pool_sessions_busy", pool.busy, name)
        self._set("mana_hsm_pool_requests_waiting", pool.waiting, name)
        self._set("mana_hsm_sessions_opened_total", pool.opened, name)
        self._set("mana_hsm_sessions_closed_total", pool.closed, name)

    def _set_queue(self, queue: MailboxStats, backend: str, slot: str) -> None:
        self._set("mana_hsm_queue_length", queue.queued, backend, slot)
        self._set("mana_hsm_queue_capacity", queue.capacity, backend, slot)
        self._set("mana_hsm_queue_refused_total", queue.refused, backend, slot)
        self._set("mana_hsm_queue_expired_total", queue.expired, backend, slot)

    def _read_keys(self) -> None:
        found: Counter[tuple[str, ...]] = Counter()
        for kind, count in self._sources.count_keys().items():
            found[kind.backend.value, kind.role.value if kind.role else NOWHERE, kind.state.value] += count
        for values, _ in self._exposition.values("mana_hsm_keys"):
            self._set("mana_hsm_keys", found[values], *values)

    def _read_audit(self) -> None:
        audit = self._sources.audit()
        self._set("mana_hsm_audit_enabled", int(audit is not None))
        self._set("mana_hsm_audit_healthy", int(audit is None or audit.healthy))
        if audit is not None:
            self._set("mana_hsm_audit_records_total", audit.records)
            self._set("mana_hsm_audit_unsynced_records", audit.unsynced)
            self._set("mana_hsm_audit_lag_seconds", audit.lag)

    def _read_health(self) -> None:
        scores = scores_of(self._sources.status(), self._sources.audit()) | dict(self._sources.health())
        for component, score in scores.items():
            self._set("mana_hsm_component_health", score, component)

    def _read_alerts(self) -> None:
        active = Counter(self._sources.alerts())
        for cause in CAUSES.values():
            self._set("mana_hsm_alerts_active", active[cause.name], cause.severity.value, cause.name)

    def _read_performance(self) -> None:
        for component, (per_second, error_rate) in self._performance.last_minute().items():
            self._set("mana_hsm_operations_per_second", per_second, component)
            self._set("mana_hsm_error_rate", error_rate, component)

    def _read_process(self) -> None:
        process = self._sources.process()
        self._set("mana_hsm_process_resident_memory_bytes", process.resident_memory)
        self._set("mana_hsm_process_cpu_seconds_total", process.cpu_seconds)
        self._set("mana_hsm_process_open_fds", process.open_fds)
        self._set("mana_hsm_process_max_fds", process.max_fds)
        self._set("mana_hsm_process_start_time_seconds", process.started_at)
