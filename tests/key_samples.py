"""Keys for tests: real points on the curve, one for each small number."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from attrs import evolve
from coincurve import PrivateKey

from manahsm.keys.changes import new_key
from manahsm.requests import Backend, KeyInfo, Role

A_DAY = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@lru_cache(maxsize=4096)
def public_key(number: int) -> bytes:
    return PrivateKey(number.to_bytes(32, "big")).public_key.format(compressed=False)


def sample_key(number: int, **changes: Any) -> KeyInfo:
    key = new_key(
        public_key(number),
        f"key {number}",
        role=Role.TRANSACTION_SIGNER,
        backend=Backend.HSM,
        created_at=A_DAY,
    )
    return evolve(key, **changes)
