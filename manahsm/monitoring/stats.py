"""Counts since the start, typed, for those who ask in Python and do not scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from attrs import frozen

from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.performance import is_failure
from manahsm.signing.observed import CANCELLED, SIGNED

__all__ = ["ServiceStats", "stats_of"]


@frozen(kw_only=True)
class ServiceStats:
    """What a service has done since it started.

    Attributes:
        started_at: when (UTC).
        uptime: seconds since then.
        operations: requests that ended: ``signed + failed + refused + cancelled``.
        signed: those with a signature.
        failed: those that could not be signed.
        refused: those that the rules did not admit.
        cancelled: those that their callers gave up.
        by_operation: signatures by what was signed.
        by_backend: signatures by ``hsm`` and ``software``.
        by_slot: signatures by the slot that made them.
        by_outcome: requests by how they ended: ``signed``, ``cancelled`` or the code of an error.
        fallback_operations: requests in which a software twin stood in for a token.
        backup_operations: requests that another slot than the first signed.
        retried_operations: requests that were tried again on the same slot.
        sessions_opened: sessions by slot.
        sessions_discarded: sessions that broke, by slot.
        restarts: of supervised parts, by ``slot``, ``host``, ``worker``, ``service`` and ``interface``.
        audit_records: records in the audit log, those of earlier runs included.
    """

    started_at: datetime
    uptime: float
    operations: int
    signed: int
    failed: int
    refused: int
    cancelled: int
    by_operation: Mapping[str, int]
    by_backend: Mapping[str, int]
    by_slot: Mapping[str, int]
    by_outcome: Mapping[str, int]
    fallback_operations: int
    backup_operations: int
    retried_operations: int
    sessions_opened: Mapping[str, int]
    sessions_discarded: Mapping[str, int]
    restarts: Mapping[str, int]
    audit_records: int


def stats_of(exposition: Exposition, *, started_at: datetime, now: datetime) -> ServiceStats:
    """Put the counters together.

    Args:
        exposition: its counters are up to date.
        started_at: when the service started (UTC).
        now: the time (UTC).
    """
    outcomes: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    backends: Counter[str] = Counter()
    slots: Counter[str] = Counter()
    for (backend, slot, operation, outcome), count in exposition.values("mana_hsm_signatures_total"):
        if not count:
            continue
        outcomes[outcome] += int(count)
        if outcome == SIGNED:
            operations[operation] += int(count)
            backends[backend] += int(count)
            if slot:
                slots[slot] += int(count)
    total, failed = outcomes.total(), sum(count for outcome, count in outcomes.items() if is_failure(outcome))
    return ServiceStats(
        started_at=started_at,
        uptime=(now - started_at).total_seconds(),
        operations=total,
        signed=outcomes[SIGNED],
        failed=failed,
        refused=total - outcomes[SIGNED] - outcomes[CANCELLED] - failed,
        cancelled=outcomes[CANCELLED],
        by_operation=_frozen(operations),
        by_backend=_frozen(backends),
        by_slot=_frozen(slots),
        by_outcome=_frozen(outcomes),
        fallback_operations=int(exposition.value("mana_hsm_fallback_operations_total")),
        backup_operations=sum(_by_first(exposition, "mana_hsm_backup_operations_total").values()),
        retried_operations=int(exposition.value("mana_hsm_retried_operations_total")),
        sessions_opened=_by_first(exposition, "mana_hsm_sessions_opened_total"),
        sessions_discarded=_by_first(exposition, "mana_hsm_sessions_discarded_total"),
        restarts=_by_first(exposition, "mana_hsm_restarts_total"),
        audit_records=int(exposition.value("mana_hsm_audit_records_total")),
    )


def _by_first(exposition: Exposition, name: str) -> Mapping[str, int]:
    """A counter by the first of its labels."""
    sums: Counter[str] = Counter()
    for values, count in exposition.values(name):
        sums[values[0]] += int(count)
    return MappingProxyType(dict(sums))


def _frozen(counts: Counter[str]) -> Mapping[str, int]:
    return MappingProxyType({name: count for name, count in counts.items() if count})
