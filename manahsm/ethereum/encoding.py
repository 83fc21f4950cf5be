"""RLP as signing needs it: items are encoded once and used twice, unsigned and signed.

The one thing to know: the signed form of every transaction type is the unsigned list with three items more,
so its *body* (the items without the list's own prefix) is kept and only the prefix is made anew. Encoder and
prefixes are the rlp library's own; numbers and bytes, of which all is made, only get there by a shorter way than
through its question of what an item is, which takes longer than encoding it (4 us of a transaction, here 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rlp.codec import encode_raw, length_prefix

__all__ = ["EncodedTransaction", "encode_bytes", "encode_items", "encode_list", "encode_number", "minimal", "wrap"]

_BYTES_OFFSET = 0x80
_LIST_OFFSET = 0xC0
_EMPTY_LIST: bytes = encode_raw(())


class EncodedTransaction(msgspec.Struct, frozen=True):
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


_SMALL_NUMBERS: Sequence[bytes] = [encode_raw(minimal(number)) for number in range(_BYTES_OFFSET)]
_NUMBER_PREFIXES: Sequence[bytes] = [length_prefix(size, _BYTES_OFFSET) for size in range(33)]


def encode_number(number: int) -> bytes:
    """Return the RLP of a scalar, 0 to 2^256 - 1."""
    if 0 <= number < _BYTES_OFFSET:
        return _SMALL_NUMBERS[number]
    size = (number.bit_length() + 7) // 8
    return _NUMBER_PREFIXES[size] + number.to_bytes(size, "big")


def encode_bytes(data: bytes) -> bytes:
    """Return the RLP of bytes of any length."""
    if len(data) == 1 and data[0] < _BYTES_OFFSET:
        return data
    prefix: bytes = length_prefix(len(data), _BYTES_OFFSET)
    return prefix + data


def encode_items(items: Sequence[Any]) -> bytes:
    """Return the concatenated RLP of bytes and nested lists of bytes: the body of a list."""
    return b"".join(map(encode_raw, items))


def encode_list(items: Sequence[Any]) -> bytes:
    """Return the RLP of a list of bytes and lists, nested as they may be."""
    if not items:
        return _EMPTY_LIST
    encoded: bytes = encode_raw(items)
    return encoded


def wrap(body: bytes) -> bytes:
    """Return the RLP list whose encoded items are ``body``."""
    prefix: bytes = length_prefix(len(body), _LIST_OFFSET)
    return prefix + body
