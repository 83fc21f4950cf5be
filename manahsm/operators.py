"""What only an operator may decide: circuit breakers by hand, latched slots, stand-ins that are not automatic.

The one thing to know: the audit record of an act is written before the act. What can not be recorded is not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manahsm.audit.journal import Journal
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.model import Config
from manahsm.config.slots import read_pin_again
from manahsm.errors import InvalidRequest
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.alerts import AlertManager
from manahsm.signing.slot import Slot, SlotPhase
from manahsm.signing.stand_in import StandIn
from supervisors import IllegalTransition

__all__ = ["Operators"]


class Operators:
    """Every act of an operator.

    Args:
        config: where the PIN of a latched slot is read anew.
        slots: every configured slot.
        stand_in: what may stand in for tokens.
        journal: where acts are recorded.
    """

    def __init__(self, config: Config, slots: Sequence[Slot], stand_in: StandIn, journal: Journal) -> None:
        self._config = config
        self._slots = {slot.name: slot for slot in slots}
        self._stand_in = stand_in
        self._journal = journal

    async def force_open(self, name: str, reason: str) -> None:
        """Send nothing to a slot; see ``Service.force_open``."""
        slot = self._unlatched(name)
        await self._record("force_open", name, reason)
        _act(slot, lambda: slot.breaker.force_open(reason))

    async def force_closed(self, name: str, reason: str) -> None:
        """Send digests to a slot whatever fails; see ``Service.force_closed``."""
        slot = self._unlatched(name)
        await self._record("force_closed", name, reason)
        _act(slot, lambda: slot.breaker.force_closed(reason))

    async def reset_breaker(self, name: str) -> None:
        """Let the breaker decide again; see ``Service.reset_breaker``."""
        slot = self._unlatched(name)
        await self._record("reset_breaker", name)
        _act(slot, slot.breaker.reset)

    async def unlatch(self, name: str) -> None:
        """Take a latched slot back into service; see ``Service.unlatch``."""
        slot = self._slot(name)
        if slot.phase is not SlotPhase.LATCHED:
            raise InvalidRequest(f"slot {name} is {slot.phase.value}, not latched: there is nothing to undo")
        pin = read_pin_again(self._config, name)
        await self._record("unlatch", name, slot.reason)
        _act(slot, lambda: slot.unlatch(pin))

    async def allow_fallback(self) -> None:
        """Let software twins stand in; see ``Service.allow_fallback``."""
        await self._record("allow_fallback", None)
        self._stand_in.allow()

    async def withdraw_fallback(self) -> None:
        """Take the permission back; see ``Service.withdraw_fallback``."""
        await self._record("withdraw_fallback", None)
        self._stand_in.withdraw()

    async def resolve_alert(self, alerts: AlertManager, alert_id: str) -> Alert:
        """Say that an alert is dealt with; see ``Service.resolve_alert``."""
        alert = alerts.find(alert_id)
        await self._record("resolve_alert", None, f"{alert.component}: {alert.message}")
        return alerts.resolve(alert_id)

    def _slot(self, name: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            known = ", ".join(self._slots) or "none"
            raise InvalidRequest(f"no slot is called {name!r}; there are: {known}")
        return slot

    def _unlatched(self, name: str) -> Slot:
        slot = self._slot(name)
        if slot.phase is SlotPhase.LATCHED:
            raise InvalidRequest(f"slot {name} is latched ({slot.reason}): correct the cause, then unlatch it first")
        return slot

    async def _record(self, act: str, slot: str | None, reason: str | None = None) -> None:
        await self._journal.write(
            AuditRecord(
                event=AuditEvent.OPERATOR,
                slot=slot,
                summary={"act": act},
                reason=reason,
                outcome=AuditOutcome.DONE,
            )
        )


def _act(slot: Slot, act: Callable[[], None]) -> None:
    try:
        act()
    except IllegalTransition as illegal:  # it changed while the record was written
        raise InvalidRequest(f"slot {slot.name}: {illegal}") from None
