"""Which private key handle belongs to a public key, and making new pairs. Host process only.

The one thing to know: a key is its public key. Labels and CKA_ID only tie the halves together, tokens do not keep them
unique, and a private key object usually does not say what its public key is. Where they leave a doubt, a candidate must
prove itself with a signature; and no key is reported as made before it has.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from manahsm.hsm.cryptoki import TokenCallFailed
from manahsm.hsm.ec_points import der_point, parse_point
from manahsm.hsm.module import KeyObject, TokenSession
from manahsm.hsm.protocol import KeyRecord

__all__ = ["find_keys", "find_pair", "find_private", "generate_key", "import_key", "relabel_key"]

_CKA_ID_BYTES = 16
_DIGEST_SIZE = 32


def find_private(session: TokenSession, public_key: bytes) -> KeyObject | None:
    """Find the private key of a 65-byte public key, or ``None``."""
    pair = find_pair(session, public_key)
    return pair[1] if pair else None


def find_pair(session: TokenSession, public_key: bytes) -> tuple[KeyObject | None, KeyObject] | None:
    """Find both halves; the public one is ``None`` where only the private key object carries the point."""
    if session.quirks.point_on_private_key:
        for point in _forms(session, public_key):
            for private in session.private_keys(point=point):
                return None, private
    for public in _publics(session, public_key):
        chosen = _choose(session, public_key, public, _candidates(session, public))
        if chosen is not None:
            return public, chosen
    return None


def find_keys(session: TokenSession) -> list[KeyRecord]:
    """Every secp256k1 pair in the token."""
    privates = session.private_keys()
    by_id: dict[bytes, list[KeyObject]] = {}
    by_label: dict[str, list[KeyObject]] = {}
    found: dict[bytes, KeyRecord] = {}
    for private in privates:
        by_id.setdefault(private.cka_id, []).append(private)
        by_label.setdefault(private.label, []).append(private)
        own_point = parse_point(private.point, raw_ec_point=session.quirks.raw_ec_point)
        if own_point is not None:
            found[own_point] = _record(own_point, private)
    for public in session.public_keys():
        public_key = parse_point(public.point, raw_ec_point=session.quirks.raw_ec_point)
        if public_key is None or public_key in found:
            continue
        candidates = by_id.get(public.cka_id, []) if public.cka_id else by_label.get(public.label, [])
        chosen = _choose(session, public_key, public, candidates)
        if chosen is not None:
            found[public_key] = _record(public_key, chosen)
    return list(found.values())


def generate_key(session: TokenSession, label: str) -> KeyRecord:
    """Make a pair that never leaves the token.

    Raises:
        TokenCallFailed: what the token returned, or KEY_UNPROVEN.
    """
    public, private = session.generate(_new_id(session), label)
    # Where the point is on the private key, the public object may be without.
    stored = public.point or private.point
    public_key = parse_point(stored, raw_ec_point=session.quirks.raw_ec_point)
    return _proven(session, public_key, public, private)


def import_key(session: TokenSession, private_key: bytes, public_key: bytes, label: str) -> KeyRecord:
    """Store a pair, not extractable from then on.

    Raises:
        TokenCallFailed: KEY_EXISTS, KEY_UNPROVEN, or what the token returned.
    """
    if find_pair(session, public_key) is not None:
        raise TokenCallFailed.named(
            "KEY_EXISTS", "C_CreateObject", "the token holds this key already; it was left as it is"
        )
    public, private = session.create(_new_id(session), label, public_key, private_key)
    return _proven(session, public_key, public, private)


def relabel_key(session: TokenSession, public_key: bytes, label: str) -> bool:
    """Set the label of both halves; ``False`` where the token does not hold the key."""
    pair = find_pair(session, public_key)
    if pair is None:
        return False
    for half in pair:
        if half is not None:
            session.relabel(half, label)
    return True


def _forms(session: TokenSession, public_key: bytes) -> Iterable[bytes]:
    """The ways in which a token may keep this point."""
    yield der_point(public_key)
    yield public_key
    if session.quirks.raw_ec_point:
        yield public_key[1:]


def _publics(session: TokenSession, public_key: bytes) -> list[KeyObject]:
    for point in _forms(session, public_key):
        found = session.public_keys(point=point)
        if found:
            return found
    # Not every token can be searched by CKA_EC_POINT.
    raw = session.quirks.raw_ec_point
    return [key for key in session.public_keys() if parse_point(key.point, raw_ec_point=raw) == public_key]


def _candidates(session: TokenSession, public: KeyObject) -> list[KeyObject]:
    if public.cka_id:
        return session.private_keys(cka_id=public.cka_id)
    return session.private_keys(label=public.label)


def _choose(
    session: TokenSession, public_key: bytes, public: KeyObject, candidates: list[KeyObject]
) -> KeyObject | None:
    if len(candidates) > 1:
        # Likeliest first: the same label.
        candidates = sorted(candidates, key=lambda private: private.label != public.label)
        return next((private for private in candidates if _proves(session, public_key, private)), None)
    return candidates[0] if candidates else None


def _proves(session: TokenSession, public_key: bytes, private: KeyObject) -> bool:
    """Whether a signature by this private key recovers to the public key."""
    # Imported here: most hosts never need it, and it is a third of a host's memory.
    from manahsm.errors import SignatureMismatch  # noqa: PLC0415
    from manahsm.ethereum.signatures import complete  # noqa: PLC0415

    if not private.can_sign:
        return False
    digest = secrets.token_bytes(_DIGEST_SIZE)
    try:
        complete(session.sign(private.handle, digest), digest, public_key)
    except SignatureMismatch:
        return False
    return True


def _proven(session: TokenSession, public_key: bytes | None, public: KeyObject, private: KeyObject) -> KeyRecord:
    proven = False
    try:
        proven = public_key is not None and _proves(session, public_key, private)
    finally:
        if not proven:
            session.destroy(public)
            session.destroy(private)
    if public_key is None or not proven:
        raise TokenCallFailed.named(
            "KEY_UNPROVEN",
            "C_Sign",
            "the new key does not sign for its public key, so it was removed; does the token support secp256k1?",
        )
    return _record(public_key, private)


def _new_id(session: TokenSession) -> bytes:
    """A CKA_ID that no private key has; short ones (2 bytes on some tokens) do collide."""
    size = min(_CKA_ID_BYTES, session.quirks.cka_id_bytes)
    while True:
        cka_id = secrets.token_bytes(size)
        if not session.private_keys(cka_id=cka_id):
            return cka_id


def _record(public_key: bytes, private: KeyObject) -> KeyRecord:
    return KeyRecord(
        public_key, private.label, private.cka_id, private.can_sign, private.sensitive, private.extractable
    )
