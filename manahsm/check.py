"""What ``--check`` prints: each slot, its token and the keys, or what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from manahsm.requests import KeyInfo
from manahsm.service import Service
from manahsm.signing.slot import SlotPhase
from manahsm.status import ServiceStatus, SlotStatus

__all__ = ["describe", "report"]


async def report(service: Service, write: Callable[[bytes], Awaitable[None]]) -> int:
    """Write what was found, line by line; return 0 if every slot is up, else 1."""
    await service.filled()
    status = await service.status()
    for line in describe(status, await service.list_keys()):
        await write(line.encode())
    return 0 if all(slot.phase is SlotPhase.UP for slot in status.slots) else 1


def describe(status: ServiceStatus, keys: list[KeyInfo]) -> list[str]:
    """Put the findings into lines of text (pure)."""
    lines = [line for slot in status.slots for line in _slot_lines(slot)]
    if not status.slots:
        lines.append("slots: none (software keys only)")
    lines.append(f"keys: {status.keys}")
    lines += [f"  {_key_line(key)}" for key in keys]
    return lines


def _slot_lines(slot: SlotStatus) -> list[str]:
    lines = [f"slot {slot.name}: {slot.phase.value} ({slot.vendor}, {slot.library})"]
    if slot.reason is not None:
        lines.append(f"  problem: {slot.reason}")
    for host in slot.hosts[:1]:
        mechanism = "CKM_ECDSA" in host.mechanisms
        lines += [
            f"  token: {host.token_label} (serial {host.serial}, {host.manufacturer} {host.model} {host.firmware})",
            f"  login: good; mechanism CKM_ECDSA: {'yes' if mechanism else 'NO: this token can not sign'}",
            f"  hosts: {len(slot.hosts)}; sessions: {slot.pool.open} of {slot.pool.size}; keys: {slot.keys}",
        ]
        if host.pin_count_low:
            lines.append("  warning: a wrong PIN was tried before this login (CKF_USER_PIN_COUNT_LOW)")
    return lines


def _key_line(key: KeyInfo) -> str:
    role = key.role.value if key.role else "no role: signs nothing"
    where = ", ".join(key.slots) if key.slots else key.backend.value
    return f"{key.key_id} {key.address} {key.label} ({role}; {key.backend.value}: {where}; {key.state.value})"
