"""Digests of everything signed that is not a transaction: messages, typed data, authorizations, hashes.

The one thing to know: a message given as ``"0x..."`` text is refused, because one half of the world signs
those characters and the other half the bytes that they spell. Bytes are always bytes, other text is always
UTF-8, and ``{"raw": "0x..."}`` or ``{"text": "..."}`` says which is meant where only JSON can be sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.authorizations import Authorization, parse_authorization
from manahsm.ethereum.fields import byte_string, fixed_bytes, kind_of, refuse
from manahsm.ethereum.typed_data import TypedData, parse_typed_data, typed_data_digest

__all__ = [
    "Authorization",
    "TypedData",
    "message_bytes",
    "message_digest",
    "parse_authorization",
    "parse_digest",
    "parse_typed_data",
    "typed_data_digest",
]

_PREFIX = b"\x19Ethereum Signed Message:\n"  # EIP-191, version 0x45
_LOOKS_LIKE_HEX = re.compile(r"0[xX](?:[0-9a-fA-F]{2})*")
_read_raw = byte_string("message.raw")
_read_digest = fixed_bytes("hash", 32)


def message_digest(message: bytes | str | Mapping[str, str]) -> bytes:
    r"""Return the digest of EIP-191's ``personal_sign``.

    It is keccak256("\x19Ethereum Signed Message:\n" + decimal length + message), 32 bytes.

    Args:
        message: bytes; text, hashed as UTF-8; or ``{"raw": bytes or 0x hex}`` or ``{"text": text}``.

    Raises:
        InvalidTransaction: the message is of another type, or text that could also be the hex of other bytes.
    """
    data = message_bytes(message)
    return keccak256(_PREFIX + str(len(data)).encode("ascii") + data)


def message_bytes(message: Any) -> bytes:
    """Return the bytes of a message as :func:`message_digest` understands it."""
    if isinstance(message, (bytes, bytearray)):
        return bytes(message)
    if isinstance(message, Mapping):
        return _explicit(message)
    if not isinstance(message, str):
        refuse("message", f"is {kind_of(message)}; give bytes or text")
    if _LOOKS_LIKE_HEX.fullmatch(message):
        refuse("message", 'is text that could also be hex; give bytes, {"raw": "0x..."} or {"text": "0x..."}')
    return _utf8("message", message)


def _explicit(message: Mapping[Any, Any]) -> bytes:
    if message.keys() == {"raw"}:
        raw: bytes = _read_raw(message["raw"])
        return raw
    text = message.get("text")
    if len(message) != 1 or not isinstance(text, str):
        refuse("message", 'is a mapping; it must be {"raw": "0x..."} or {"text": "..."}')
    return _utf8("message.text", text)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        refuse(name, "holds a lone surrogate, which UTF-8 can not encode")


def parse_digest(value: Any) -> bytes:
    """Return a 32-byte digest given as bytes or as 0x and exactly 64 hex digits.

    Raises:
        InvalidTransaction: the value is anything else.
    """
    digest: bytes = _read_digest(value)
    return digest
