"""The slots and the sorts of keys that chaos is about: what holds a key, and what may sign with it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = ["BACKUP", "PRIMARY", "SLOTS", "Sort"]

PRIMARY = "primary"
BACKUP = "backup"
SLOTS = (PRIMARY, BACKUP)


class Sort(StrEnum):
    """What can stand in for a key, in the words of the tables."""

    ONE_SLOT = "one slot"
    BACKUP_ALONE = "backup slot alone"
    TWO_SLOTS = "two slots"
    TWIN = "software twin"
    VALIDATOR = "validator"
    VALIDATOR_TWO_SLOTS = "validator, two slots"
    SOFTWARE = "software"

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that hold it, in the order in which they are asked."""
        return _SLOTS_OF[self]

    @property
    def software_may_sign(self) -> bool:
        """Whether a signature made in software is one that may leave."""
        return self in {Sort.TWIN, Sort.SOFTWARE}


_SLOTS_OF: Mapping[Sort, tuple[str, ...]] = MappingProxyType(
    {
        Sort.ONE_SLOT: (PRIMARY,),
        Sort.BACKUP_ALONE: (BACKUP,),
        Sort.TWO_SLOTS: (PRIMARY, BACKUP),
        Sort.TWIN: (PRIMARY,),
        Sort.VALIDATOR: (PRIMARY,),
        Sort.VALIDATOR_TWO_SLOTS: (PRIMARY, BACKUP),
        Sort.SOFTWARE: (),
    }
)
