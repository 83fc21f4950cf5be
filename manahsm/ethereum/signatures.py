"""secp256k1 keys and signatures: nothing leaves before :func:`complete` or :func:`verify` has passed it.

The one thing to know: a token returns a bare ``r || s`` and may be wrong, so the recovery id is found by
recovering the public key, and a signature that does not recover to the expected key raises
:class:`~manahsm.errors.SignatureMismatch`. High s is normalised here (EIP-2); recovery ids 2 and 3, which
Ethereum cannot express, are refused. Errors never repeat key material.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from coincurve import PrivateKey, PublicKey

from manahsm.errors import InvalidRequest, SignatureMismatch
from manahsm.ethereum.addresses import address_of, keccak256, key_id_of

__all__ = [
    "CURVE_ORDER",
    "HALF_ORDER",
    "RecoverableSignature",
    "address_of",
    "complete",
    "keccak256",
    "key_id_of",
    "parse_private_key",
    "parse_public_key",
    "public_key_of",
    "recover",
    "sign",
    "verify",
]

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = CURVE_ORDER // 2

_SCALAR_SIZE = 32
_DIGEST_SIZE = 32
_UNCOMPRESSED = 0x04
_POINT_SIZES = {33: (0x02, 0x03), 65: (_UNCOMPRESSED,)}
_RAW_POINT_SIZE = 64
_HEX = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)")
_BAD_PRIVATE_KEY = "not a private key: give 32 bytes or 0x and 64 hex digits, a number from 1 to n-1"
_BAD_PUBLIC_KEY = "not a secp256k1 public key: give a point on the curve as 65, 64 or 33 bytes, or their hex"


# A msgspec Struct, as EncodedTransaction is: one is made for every signature, and it costs a third of an attrs class.
class RecoverableSignature(msgspec.Struct, frozen=True):
    """An ECDSA signature in the form that Ethereum uses.

    Attributes:
        r: scalar, 1 <= r < n.
        s: scalar, 1 <= s <= n/2 (EIP-2).
        y_parity: 0 or 1, the recovery id.
    """

    r: int
    s: int
    y_parity: int

    @classmethod
    def from_bytes(cls, raw: bytes) -> RecoverableSignature:
        """Read 65 bytes ``r || s || y_parity``, as coincurve writes them; checks nothing."""
        return cls(
            int.from_bytes(raw[:_SCALAR_SIZE], "big"),
            int.from_bytes(raw[_SCALAR_SIZE : 2 * _SCALAR_SIZE], "big"),
            raw[2 * _SCALAR_SIZE],
        )

    def to_bytes(self) -> bytes:
        """Return 65 bytes ``r || s || y_parity``."""
        return (
            self.r.to_bytes(_SCALAR_SIZE, "big")
            + self.s.to_bytes(_SCALAR_SIZE, "big")
            + self.y_parity.to_bytes(1, "big")
        )


def complete(raw_rs: bytes, digest: bytes, public_key: bytes) -> RecoverableSignature:
    """Turn what a token returned into a verified signature.

    Args:
        raw_rs: 64 bytes ``r || s``, as ``C_Sign`` with ``CKM_ECDSA`` returns them (PKCS#11 v3, 6.3.1).
        digest: the 32 bytes that were signed.
        public_key: the 65 bytes of the key that should have signed.

    Raises:
        SignatureMismatch: wrong length, r or s outside 1..n-1, a recovery id that Ethereum cannot express, or
            a signature by another key or over other bytes.
    """
    if len(raw_rs) != 2 * _SCALAR_SIZE:
        raise SignatureMismatch(f"the device returned {len(raw_rs)} bytes where a signature has 64")
    r = int.from_bytes(raw_rs[:_SCALAR_SIZE], "big")
    s = int.from_bytes(raw_rs[_SCALAR_SIZE:], "big")
    if not (0 < r < CURVE_ORDER and 0 < s < CURVE_ORDER):
        raise SignatureMismatch("the device returned a signature with r or s outside 1..n-1")
    if s > HALF_ORDER:
        s = CURVE_ORDER - s
        raw_rs = raw_rs[:_SCALAR_SIZE] + s.to_bytes(_SCALAR_SIZE, "big")
    for y_parity in (0, 1):
        if _recover(raw_rs, y_parity, digest) == public_key:
            return RecoverableSignature(r, s, y_parity)
    raise SignatureMismatch("the device returned a signature that this key did not make over this digest")


def verify(signature: RecoverableSignature, digest: bytes, public_key: bytes) -> None:
    """Check a signature whose parity is known already: one recovery instead of up to two.

    Raises:
        SignatureMismatch: s is high, or the signature does not recover to the 65-byte ``public_key``.
    """
    if signature.s > HALF_ORDER or recover(signature, digest) != public_key:
        raise SignatureMismatch("the signature does not belong to this key and digest")


def recover(signature: RecoverableSignature, digest: bytes) -> bytes | None:
    """Return the 65-byte public key that a signature recovers to, or ``None`` where there is none."""
    r, s = signature.r, signature.s
    if not (0 < r < CURVE_ORDER and 0 < s < CURVE_ORDER and signature.y_parity in (0, 1)):
        return None
    rs = r.to_bytes(_SCALAR_SIZE, "big") + s.to_bytes(_SCALAR_SIZE, "big")
    return _recover(rs, signature.y_parity, digest)


def _recover(rs: bytes, y_parity: int, digest: bytes) -> bytes | None:
    if len(digest) != _DIGEST_SIZE:
        raise ValueError(f"a digest has 32 bytes, this one {len(digest)}")
    try:
        point = PublicKey.from_signature_and_message(rs + bytes((y_parity,)), digest, hasher=None)
    except ValueError:  # no point has this x coordinate, or the recovered key is the point at infinity
        return None
    return point.format(compressed=False)


def sign(private_key: PrivateKey | bytes, digest: bytes) -> RecoverableSignature:
    """Sign a 32-byte digest in software: RFC 6979 nonce, low s.

    Args:
        private_key: a coincurve key (faster where it is kept), or 32 bytes.
        digest: the 32 bytes to sign.

    Raises:
        ValueError: the digest does not have 32 bytes, or the key is not one.
    """
    key = private_key if isinstance(private_key, PrivateKey) else PrivateKey(private_key)
    return RecoverableSignature.from_bytes(key.sign_recoverable(digest, hasher=None))


def public_key_of(private_key: PrivateKey | bytes) -> bytes:
    """Return the 65-byte uncompressed public key of 32 bytes that :func:`parse_private_key` returned."""
    key = private_key if isinstance(private_key, PrivateKey) else PrivateKey(private_key)
    return key.public_key.format(compressed=False)


def parse_private_key(value: Any) -> bytes:
    """Return the 32 bytes of a private key in any form that old code passes.

    Accepts 32 bytes, 64 hex digits with or without 0x, an int, and the key objects of eth-keys, eth-account
    and coincurve.

    Raises:
        InvalidRequest: the value is none of these or is outside 1..n-1. The value is never repeated, and no
            other exception is chained to this one.
    """
    raw = _private_bytes(value)
    if raw is None or len(raw) != _SCALAR_SIZE or not 0 < int.from_bytes(raw, "big") < CURVE_ORDER:
        raise InvalidRequest(_BAD_PRIVATE_KEY)
    return raw


def _private_bytes(value: Any) -> bytes | None:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str):
        return _hex_bytes(value)
    if isinstance(value, int):
        return None if isinstance(value, bool) or not 0 < value < CURVE_ORDER else value.to_bytes(32, "big")
    # coincurve.PrivateKey.secret, eth_account's LocalAccount.key, eth_keys' PrivateKey.to_bytes()
    for name in ("secret", "key"):
        held = getattr(value, name, None)
        if isinstance(held, bytes):
            return bytes(held)
    to_bytes = getattr(value, "to_bytes", None)
    held = to_bytes() if callable(to_bytes) and type(value).__module__.startswith("eth_keys") else None
    return held if isinstance(held, bytes) else None


def parse_public_key(value: Any) -> bytes:
    """Return a public key as 65 bytes ``04 || X || Y``.

    Accepts the uncompressed (65 bytes), raw (64) and compressed (33) forms, as bytes or hex. The hybrid form
    (SEC 1's 06 and 07) is refused: nothing on this ground uses it.

    Raises:
        InvalidRequest: the value is none of these, or the point is not on secp256k1.
    """
    raw = _hex_bytes(value) if isinstance(value, str) else value
    if not isinstance(raw, (bytes, bytearray)):
        raise InvalidRequest(_BAD_PUBLIC_KEY)
    point = bytes(raw)
    if len(point) == _RAW_POINT_SIZE:
        point = bytes((_UNCOMPRESSED,)) + point
    if point[:1] == b"" or point[0] not in _POINT_SIZES.get(len(point), ()):
        raise InvalidRequest(_BAD_PUBLIC_KEY)
    try:
        return PublicKey(point).format(compressed=False)
    except ValueError:
        raise InvalidRequest(_BAD_PUBLIC_KEY) from None


def _hex_bytes(text: str) -> bytes | None:
    match = _HEX.fullmatch(text)
    return bytes.fromhex(match[1]) if match else None
