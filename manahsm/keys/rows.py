"""How a key is written in the registry's database.

A row is trusted only as far as it agrees with itself: key id and address must follow from the public key, so
that a damaged or edited row can never make one key answer for another.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from manahsm.ethereum.signatures import keccak256
from manahsm.requests import Backend, KeyInfo, KeyState, Role, Usage

__all__ = ["from_row", "microseconds", "to_row"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PUBLIC_KEY_SIZE = 65


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC; exact, unlike a float timestamp."""
    return (moment - _EPOCH) // _MICROSECOND


def to_row(key: KeyInfo) -> tuple[Any, ...]:
    """The columns of a key, in the order of the table."""
    return (
        key.key_id,
        key.address,
        key.public_key,
        key.label,
        key.role,
        json.dumps(key.usage),
        key.backend,
        json.dumps(key.slots),
        key.software_twin,
        microseconds(key.created_at),
        None if key.last_used is None else microseconds(key.last_used),
        key.use_count,
        key.state,
    )


def from_row(row: tuple[Any, ...]) -> KeyInfo:
    """Read a key back.

    Raises:
        ValueError: a column holds something unknown, or id or address are not those of the public key.
    """
    (
        key_id,
        address,
        public_key,
        label,
        role,
        usage,
        backend,
        slots,
        twin,
        created,
        used,
        count,
        state,
    ) = row
    digest = keccak256(public_key[1:]).hex()
    if len(public_key) != _PUBLIC_KEY_SIZE or digest[:16] != key_id or digest[-40:] != address[2:].lower():
        raise ValueError("its id and address are not those of its public key")
    its_role, its_usage, its_backend, its_slots, its_state = _kind(role, usage, backend, slots, state)
    return KeyInfo(
        key_id=key_id,
        address=address,
        public_key=public_key,
        label=label,
        role=its_role,
        usage=its_usage,
        backend=its_backend,
        slots=its_slots,
        software_twin=bool(twin),
        created_at=_moment(created),
        last_used=None if used is None else _moment(used),
        use_count=count,
        state=its_state,
    )


def _moment(microseconds_: int) -> datetime:
    return _EPOCH + timedelta(0, 0, microseconds_)


# Almost all keys are of a handful of kinds: 100,000 rows are read with a few calls and share the tuples. To find each
# member of an enum by its name would take longer than the row's hash does.
@lru_cache(maxsize=256)
def _kind(
    role: str | None, usage: str, backend: str, slots: str, state: str
) -> tuple[Role | None, tuple[Usage, ...], Backend, tuple[str, ...], KeyState]:
    return None if role is None else Role(role), _usage(usage), Backend(backend), _names(slots), KeyState(state)


@lru_cache(maxsize=256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(maxsize=16)
def _usage(text: str) -> tuple[Usage, ...]:
    return tuple(Usage(name) for name in json.loads(text))
