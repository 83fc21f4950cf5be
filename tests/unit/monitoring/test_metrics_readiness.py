"""When a load balancer may send requests here, and how healthy what is known without a check is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from slot_samples import bring_up, slot_called

from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditRecord
from manahsm.config.tables import Fsync
from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.health_page import page_of_report
from manahsm.monitoring.readiness import scores_of, why_not_ready
from manahsm.monitoring.sources import AuditState, audit_state, process_state, resident_memory
from manahsm.monitoring.values import ComponentHealth, HealthReport, Trend
from manahsm.signing.router import RouterStats
from manahsm.signing.slot import Slot
from manahsm.status import ServiceStatus, slot_status
from supervisors import Mailbox

WELL = AuditState(healthy=True, records=1, unsynced=0, lag=0.0)
IN_TROUBLE = AuditState(healthy=False, records=1, unsynced=1, lag=9.0)


def status_of(*slots: Slot, accepting: bool = True) -> ServiceStatus:
    return ServiceStatus(
        accepting=accepting,
        under_way=0,
        keys=0,
        slots=tuple(slot_status(slot) for slot in slots),
        software=Mailbox("software", 1).stats(),
        routes=RouterStats(),
    )


def latched() -> Slot:
    slot = bring_up(slot_called("latched"))
    slot.latch("a wrong PIN")
    return slot


def closed_by_an_operator() -> Slot:
    slot = bring_up(slot_called("forced"))
    slot.breaker.force_open()
    return slot


def on_probation() -> Slot:
    slot = bring_up(slot_called("probation"))
    slot.latch("r")
    slot.breaker.unlatch()
    return slot


def up() -> Slot:
    return bring_up(slot_called("up"))


def down() -> Slot:
    slot = slot_called("down")
    slot.start_failed("no token")
    return slot


def ready(*slots: Slot, audit: AuditState | None = WELL, required: bool = True, accepting: bool = True) -> bool:
    return why_not_ready(status_of(*slots, accepting=accepting), audit, audit_required=required) is None


def test_a_service_is_ready_while_one_slot_can_be_asked() -> None:
    assert ready(up())
    assert ready(down(), up())
    assert ready(on_probation())


def test_a_service_without_slots_signs_in_software() -> None:
    assert ready()
    assert ready(audit=None)


@pytest.mark.parametrize("slot", [down, latched, closed_by_an_operator, lambda: slot_called("connecting")])
def test_a_service_none_of_whose_slots_can_be_asked_is_not_ready(slot: object) -> None:
    assert callable(slot)
    made = slot()

    reason = why_not_ready(status_of(made), WELL, audit_required=True)
    assert reason is not None
    assert made.name in reason


def test_a_service_that_stops_is_not_ready() -> None:
    assert not ready(up(), accepting=False)


def test_no_record_no_readiness_where_records_are_required() -> None:
    assert not ready(up(), audit=IN_TROUBLE)
    assert ready(up(), audit=IN_TROUBLE, required=False)


def test_scores_follow_from_what_is_seen() -> None:
    assert scores_of(status_of(up(), on_probation(), latched()), IN_TROUBLE) == {
        "pkcs11:up": 1.0,
        "pkcs11:probation": 0.5,
        "pkcs11:latched": 0.0,
        "signing_service": 1.0,
        "audit": 0.0,
        "key_manager": 1.0,
        "config_manager": 1.0,
    }
    assert scores_of(status_of(down()), None)["signing_service"] == 0.0


# ---- pages ----


def test_the_page_of_a_report_leaves_histories_out() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    component = ComponentHealth(
        name="pkcs11:main",
        status=HealthStatus.UNHEALTHY,
        message="HSM connectivity lost",
        findings=(),
        details={},
        checked_at=at,
        duration=0.1,
        since=at,
        trend=Trend.WORSENING,
        history=(),
    )
    made_up_for = frozenset({"pkcs11:main"})
    report = HealthReport(status=HealthStatus.DEGRADED, components=(component,), made_up_for=made_up_for, at=at)
    good, document = page_of_report(report)

    assert good
    assert document["components"] == [
        {
            "name": "pkcs11:main",
            "status": HealthStatus.UNHEALTHY,
            "message": "HSM connectivity lost",
            "checked_at": at,
            "since": at,
            "trend": Trend.WORSENING,
            "made_up_for": True,
        }
    ]


# ---- sources ----


def test_the_lag_is_the_age_of_the_last_sync_while_something_waits_for_one(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path / "audit", fsync=Fsync.INTERVAL)
    try:
        log.append(AuditRecord(event=AuditEvent.START))
        log.last_sync = datetime(2025, 1, 1, tzinfo=UTC)
        state = audit_state(log, syncs=True, now=log.last_sync + timedelta(seconds=7))
        unsynced = audit_state(log, syncs=False, now=log.last_sync + timedelta(seconds=7))
    finally:
        log.close()

    assert state == AuditState(healthy=True, records=1, unsynced=1, lag=7.0)
    assert unsynced == AuditState(healthy=True, records=1, unsynced=0, lag=0.0)


def test_a_service_without_an_audit_log_has_no_state_of_it() -> None:
    assert audit_state(None, syncs=True, now=datetime(2025, 1, 1, tzinfo=UTC)) is None


def test_the_kernel_knows_this_process() -> None:
    state = process_state()

    assert 1e6 < state.resident_memory < 1e11
    assert 0 < state.open_fds < state.max_fds
    assert state.cpu_seconds > 0
    assert 0 < datetime.now(UTC).timestamp() - state.started_at < 86_400


def test_a_process_that_has_ended_has_no_memory() -> None:
    assert resident_memory(2**22 + 1) == 0  # more than the kernel's largest pid
