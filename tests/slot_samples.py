"""Slots without hosts, for decisions that are taken on what a slot knows of itself."""

from __future__ import annotations

from pathlib import Path

from manahsm.config.model import ConnectionPool, Priority
from manahsm.config.slots import SlotConfig
from manahsm.config.vendors import Vendor, profile_of
from manahsm.hsm.client import HostProcess
from manahsm.hsm.settings import HostSettings
from manahsm.signing.slot import Slot
from supervisors import Clock
from supervisors.testing import ManualClock

__all__ = ["bring_up", "slot_called"]


def slot_called(name: str, priority: Priority = Priority.PRIMARY, clock: Clock | None = None) -> Slot:
    """A slot that nothing serves."""
    config = SlotConfig(
        name=name,
        profile=profile_of(Vendor.SOFTHSM),
        library_path=Path("/nowhere.so"),
        slot_id=None,
        token_label=name,
        pin=None,
        priority=priority,
        environment={},
        connection_pool=ConnectionPool(size=2, processes=1),
    )
    return Slot(config, queue_size=8, clock=clock or ManualClock(), well_after=30.0)


def bring_up(slot: Slot) -> Slot:
    """Attach a host that was never started: whether it runs is not asked here."""
    slot.adopt(HostProcess(HostSettings(name=slot.name, library_path="/nowhere.so")))
    return slot
