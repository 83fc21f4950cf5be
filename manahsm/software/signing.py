"""A signature with a private key and its check, or the check of a token's: what a software host does with each item.

The one thing to know: the check is independent of the signing. The public key is recovered from the finished signature,
recovery id included, as an Ethereum node does it, and must be the one that was asked for.
"""

from __future__ import annotations

from functools import lru_cache

from coincurve import PrivateKey, PublicKey

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import complete

__all__ = ["complete_or_none", "sign_and_check"]

_KEYS_AT_HAND = 16  # reading a private key costs as much as signing with it


@lru_cache(maxsize=_KEYS_AT_HAND)
def _key(secret: bytes) -> PrivateKey:
    return PrivateKey(secret)


def sign_and_check(secret: bytes, public_key: bytes, digest: bytes) -> bytes | None:
    """Sign a digest (RFC 6979 nonce, low s).

    Args:
        secret: 32 bytes.
        public_key: 65 bytes; the signature must recover to it.
        digest: 32 bytes.

    Returns:
        65 bytes ``r || s || y_parity``, or ``None`` where there is none that holds.
    """
    try:
        signature = _key(secret).sign_recoverable(digest, hasher=None)
        recovered = PublicKey.from_signature_and_message(signature, digest, hasher=None).format(compressed=False)
    except ValueError:  # not a key, or not 32 bytes
        return None
    return signature if recovered == public_key and signature[-1] in (0, 1) else None


def complete_or_none(raw: bytes, public_key: bytes, digest: bytes) -> bytes | None:
    """Turn what a token returned into a verified signature; see :func:`manahsm.ethereum.signatures.complete`.

    Returns:
        65 bytes ``r || s || y_parity``, or ``None`` where the key did not make it over this digest.
    """
    try:
        return complete(raw, digest, public_key).to_bytes()
    except SignatureMismatch:
        return None
