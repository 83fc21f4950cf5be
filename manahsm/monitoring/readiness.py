"""Whether the service can sign, from what it shows of itself. Pure.

The one thing to know: this is what a load balancer asks, so it is about new requests, now: a slot whose breaker is open
is not asked, so it does not count. A service with slots of which none can sign is not ready even where software could
stand in, because stand-ins are counted and run out.
"""

from __future__ import annotations

from manahsm.monitoring.components import AUDIT, CONFIG_MANAGER, KEY_MANAGER, SIGNING_SERVICE, slot_component
from manahsm.monitoring.sources import AuditState
from manahsm.signing.slot import SlotPhase
from manahsm.status import ServiceStatus, SlotStatus
from supervisors import BreakerState

__all__ = ["scores_of", "slot_score", "why_not_ready"]

_HEALTHY, _DEGRADED, _UNHEALTHY = 1.0, 0.5, 0.0
_ADMITTING = frozenset({BreakerState.CLOSED, BreakerState.FORCED_CLOSED, BreakerState.HALF_OPEN})


def why_not_ready(status: ServiceStatus, audit: AuditState | None, *, audit_required: bool) -> str | None:
    """Return why the service can not sign now, or ``None`` if it can.

    Args:
        status: what it has and does.
        audit: its audit log, where it has one.
        audit_required: ``security_policy.audit_all_operations``.
    """
    if not status.accepting:
        return "the service is stopping"
    if audit is not None and not audit.healthy and audit_required:
        return "the audit log can not be written"
    if status.slots and not any(slot_score(slot) > _UNHEALTHY for slot in status.slots):
        return "no slot can sign: " + ", ".join(
            f"{slot.name} is {slot.phase.value} (breaker {slot.breaker.state.value})" for slot in status.slots
        )
    return None


def slot_score(slot: SlotStatus) -> float:
    """1 for a slot that signs, 0.5 for one on probation, 0 for one that is not asked."""
    if slot.phase is not SlotPhase.UP or slot.breaker.state not in _ADMITTING:
        return _UNHEALTHY
    return _DEGRADED if slot.breaker.state is BreakerState.HALF_OPEN else _HEALTHY


def scores_of(status: ServiceStatus, audit: AuditState | None) -> dict[str, float]:
    """Scores of all components by what is known without a health check."""
    slots = {slot_component(slot.name): slot_score(slot) for slot in status.slots}
    able = not slots or any(score > _UNHEALTHY for score in slots.values())
    return {
        **slots,
        SIGNING_SERVICE: _HEALTHY if status.accepting and able else _UNHEALTHY,
        AUDIT: _HEALTHY if audit is None or audit.healthy else _UNHEALTHY,
        KEY_MANAGER: _HEALTHY,
        CONFIG_MANAGER: _HEALTHY,
    }
