"""What a service has and does at one moment: typed, frozen, without secrets."""

from __future__ import annotations

from attrs import frozen

from manahsm.hsm.info import HostInfo
from manahsm.signing.pool import PoolStats
from manahsm.signing.router import RouterStats
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import BreakerStats, MailboxStats

__all__ = ["ServiceStatus", "SlotStatus", "slot_status"]


@frozen(kw_only=True)
class SlotStatus:
    """One configured token.

    Attributes:
        name: as configured.
        vendor: whose library it is.
        library: its path.
        phase: whether it can sign.
        reason: why it is down or latched, or its breaker not closed, or ``None``.
        breaker: numbers of its circuit breaker, and whether an operator has forced it.
        hosts: the host processes that are ready, with what they know of the token.
        pool: numbers of its sessions.
        queue: numbers of its mailbox.
        keys: how many keys the token was last seen to hold.
    """

    name: str
    vendor: str
    library: str
    phase: SlotPhase
    reason: str | None
    hosts: tuple[HostInfo, ...]
    breaker: BreakerStats
    pool: PoolStats
    queue: MailboxStats
    keys: int


@frozen(kw_only=True)
class ServiceStatus:
    """The service.

    Attributes:
        accepting: whether new requests are admitted.
        under_way: requests and key changes that were admitted and have not ended.
        keys: keys in the registry.
        slots: every configured slot.
        software: numbers of the software worker's mailbox.
        routes: how requests for keys in tokens were signed.
    """

    accepting: bool
    under_way: int
    keys: int
    slots: tuple[SlotStatus, ...]
    software: MailboxStats
    routes: RouterStats


def slot_status(slot: Slot) -> SlotStatus:
    """Look at one slot."""
    return SlotStatus(
        name=slot.name,
        vendor=slot.config.vendor.value,
        library=str(slot.config.library_path),
        phase=slot.phase,
        reason=slot.reason,
        hosts=tuple(host.info for host in slot.pool.hosts if host.info is not None),
        breaker=slot.breaker.stats(),
        pool=slot.pool_stats(),
        queue=slot.mailbox.stats(),
        keys=len(slot.public_keys),
    )
