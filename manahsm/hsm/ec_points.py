"""CKA_EC_POINT, in the forms in which tokens keep it, to and from 65-byte public keys. Pure.

PKCS#11 v3.1 section 6.3.3 wants the DER encoding of an OCTET STRING that holds the SEC 1 point; some modules leave the
wrapping out. Nothing else is accepted, and the point must be on secp256k1, because a key is known by its address here.
"""

from __future__ import annotations

__all__ = ["SECP256K1_PARAMS", "der_point", "parse_point"]

SECP256K1_PARAMS = bytes.fromhex("06052b8104000a")
"""CKA_EC_PARAMS: the DER object identifier 1.3.132.0.10 (SEC 2)."""

_FIELD_PRIME = 2**256 - 2**32 - 977
_UNCOMPRESSED = b"\x04"
_DER_PREFIX = b"\x04\x41"  # OCTET STRING of 65 bytes
_POINT_SIZE = 65


def der_point(public_key: bytes) -> bytes:
    """Wrap a 65-byte public key as the standard wants it."""
    return _DER_PREFIX + public_key


def parse_point(value: bytes, *, raw_ec_point: bool = False) -> bytes | None:
    """Return the 65-byte public key in a CKA_EC_POINT, or ``None`` where there is none on secp256k1.

    Args:
        value: 67 bytes that start with 04 41 04, or 65 that start with 04.
        raw_ec_point: also accept 64 bytes, X and Y alone.
    """
    if len(value) == len(_DER_PREFIX) + _POINT_SIZE and value.startswith(_DER_PREFIX):
        point = value[len(_DER_PREFIX) :]
    elif raw_ec_point and len(value) == _POINT_SIZE - 1:
        point = _UNCOMPRESSED + value
    else:
        point = value
    if len(point) != _POINT_SIZE or not point.startswith(_UNCOMPRESSED):
        return None
    x = int.from_bytes(point[1:33], "big")
    y = int.from_bytes(point[33:], "big")
    if x >= _FIELD_PRIME or y >= _FIELD_PRIME or (y * y - x * x * x - 7) % _FIELD_PRIME:
        return None
    return point
