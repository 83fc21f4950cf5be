"""RLP as signing needs it: items are encoded once and used twice, unsigned and signed.

The one thing to know: the signed form of every transaction type is the unsigned list with three items more,
so its *body* (the items without the list's own prefix) is kept and only the prefix is made anew. The item
encoder is the rlp library's own; this module only arranges its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from rlp.codec import encode_raw, length_prefix

__all__ = ["EncodedTransaction", "encode_items", "minimal", "wrap"]

_LIST_OFFSET = 0xC0


@frozen
class EncodedTransaction:
    """A signed transaction on the wire.

    Attributes:
        raw_transaction: what ``eth_sendRawTransaction`` takes; with the sidecar where there is one.
        hash: 32-byte transaction hash; for blobs without the sidecar (EIP-4844).
        v: 27/28 or EIP-155's v for legacy transactions, the y parity for typed ones.
    """

    raw_transaction: bytes
    hash: bytes
    v: int


def minimal(number: int) -> bytes:
    """Return a non-negative int as big-endian bytes without leading zeros; zero is empty (RLP's scalar)."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_items(items: Sequence[Any]) -> bytes:
    """Return the concatenated RLP of bytes and nested sequences of bytes: the body of a list."""
    return b"".join(map(encode_raw, items))


def wrap(body: bytes) -> bytes:
    """Return the RLP list whose encoded items are ``body``."""
    prefix: bytes = length_prefix(len(body), _LIST_OFFSET)
    return prefix + body
