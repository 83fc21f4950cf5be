"""What may stand where a key is named (pure)."""

from __future__ import annotations

import re

__all__ = ["is_private_key"]

_PRIVATE_KEY = re.compile(r"(0[xX])?[0-9a-fA-F]{64}")


def is_private_key(text: str) -> bool:
    """Whether somebody has put a private key where a key id, a label or an address belongs."""
    return _PRIVATE_KEY.fullmatch(text.strip()) is not None
