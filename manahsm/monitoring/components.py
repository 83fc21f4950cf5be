"""The parts of a service whose health and performance have names of their own.

The one thing to know: the names are those of the original, with one ``pkcs11`` component a slot. They are label values,
so the set is closed: it follows from the configuration and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AUDIT",
    "CONFIG_MANAGER",
    "KEY_MANAGER",
    "SIGNING_SERVICE",
    "components_of",
    "measured_components",
    "slot_component",
]

SIGNING_SERVICE = "signing_service"
KEY_MANAGER = "key_manager"
CONFIG_MANAGER = "config_manager"
AUDIT = "audit"


def slot_component(slot: str) -> str:
    """The component of one slot: ``pkcs11:`` and its name."""
    return f"pkcs11:{slot}"


def components_of(slots: Iterable[str]) -> tuple[str, ...]:
    """Every component of a service with these slots."""
    return (*map(slot_component, slots), KEY_MANAGER, SIGNING_SERVICE, AUDIT, CONFIG_MANAGER)


def measured_components(slots: Iterable[str]) -> tuple[str, ...]:
    """Those that sign, and whose operations are counted and timed."""
    return (SIGNING_SERVICE, *map(slot_component, slots))
