"""Which private key handle belongs to a public key, and making new pairs. Host process only.

The one thing to know: a key is its public key. Labels and CKA_ID only tie the halves together, tokens do not keep them
unique, and a private key object usually does not say what its public key is. Where they leave a doubt, a candidate must
prove itself with a signature; and no key is reported as made before it has.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from manahsm.hsm.cryptoki import TokenCallFailed
from manahsm.hsm.ec_points import der_point, parse_point
from manahsm.hsm.module import KeyObject, TokenSession
from manahsm.hsm.protocol import KeyRecord
from manahsm.hsm.return_codes import CKR

__all__ = ["find_keys", "find_pair", "find_private", "generate_key", "import_key", "relabel_key"]

_CKA_ID_BYTES = 16
_DIGEST_SIZE = 32


def find_private(session: TokenSession, public_key: bytes) -> KeyObject | None:
    """Find the private key of a 65-byte public key, or ``None``."""
    pair = find_pair(session, public_key)
    return pair[1] if pair else None


def find_pair(session: TokenSession, public_key: bytes) -> tuple[KeyObject | None, KeyObject] | None:
    """Find both halves; the public one is ``None`` where only the private key object carries the point."""
    by_own_point = session.quirks.point_on_private_key
    if by_own_point and (private := _private_with_point(session, public_key)) is not None:
        return None, private
    for public in _publics(session, public_key):
        namesakes = _named_alike(session.public_keys, public)
        chosen = _choose(session, public_key, public, _named_alike(session.private_keys, public), len(namesakes) == 1)
        if chosen is not None:
            return public, chosen
    if not by_own_point and (private := _private_with_point(session, public_key)) is not None:
        return None, private  # found by find_keys, too, whatever the profile says
    return None


def find_keys(session: TokenSession) -> list[KeyRecord]:
    """Every secp256k1 pair in the token."""
    privates = session.private_keys()
    publics = session.public_keys()
    namesakes = Counter(_name(public) for public in publics)
    by_id: dict[bytes, list[KeyObject]] = {}
    by_label: dict[str, list[KeyObject]] = {}
    found: dict[bytes, KeyRecord] = {}
    for private in privates:
        by_id.setdefault(private.cka_id, []).append(private)
        by_label.setdefault(private.label, []).append(private)
        own_point = parse_point(private.point, raw_ec_point=session.quirks.raw_ec_point)
        if own_point is not None:
            found[own_point] = _record(own_point, private)
    for public in publics:
        public_key = parse_point(public.point, raw_ec_point=session.quirks.raw_ec_point)
        if public_key is None or public_key in found:
            continue
        candidates = by_id.get(public.cka_id, []) if public.cka_id else by_label.get(public.label, [])
        chosen = _choose(session, public_key, public, candidates, namesakes[_name(public)] == 1)
        if chosen is not None:
            found[public_key] = _record(public_key, chosen)
    return list(found.values())


def generate_key(session: TokenSession, label: str) -> KeyRecord:
    """Make a pair that never leaves the token.

    Raises:
        TokenCallFailed: what the token returned, or KEY_UNPROVEN.
    """
    with _advice_on_ids(session):
        public, private = session.generate(_new_id(session), label)
    # Where the point is on the private key, the public object may be without.
    public_key = parse_point(public.point or private.point, raw_ec_point=session.quirks.raw_ec_point)
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
    with _advice_on_ids(session):
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


def _private_with_point(session: TokenSession, public_key: bytes) -> KeyObject | None:
    for point in _forms(session, public_key):
        for private in session.private_keys(point=point):
            return private
    return None


def _publics(session: TokenSession, public_key: bytes) -> list[KeyObject]:
    for point in _forms(session, public_key):
        found = session.public_keys(point=point)
        if found:
            return found
    # Not every token can be searched by CKA_EC_POINT.
    raw = session.quirks.raw_ec_point
    return [key for key in session.public_keys() if parse_point(key.point, raw_ec_point=raw) == public_key]


def _name(public: KeyObject) -> tuple[bytes, str]:
    """What ties a public key to its private one: CKA_ID, or without one the label."""
    return (public.cka_id, "" if public.cka_id else public.label)


def _named_alike(keys: Callable[..., list[KeyObject]], public: KeyObject) -> list[KeyObject]:
    return keys(cka_id=public.cka_id) if public.cka_id else keys(label=public.label)


def _choose(
    session: TokenSession, public_key: bytes, public: KeyObject, candidates: list[KeyObject], alone: bool
) -> KeyObject | None:
    """The one that signs for the public key. ``alone``: no other public key is tied to the same private ones."""
    if len(candidates) > 1 or not alone:
        # Short ids collide, and halves are left behind. Likeliest first: the same label.
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
    if public_key is None:
        size = len(public.point or private.point)
        detail = (
            f"the new key has no point on secp256k1 (CKA_EC_POINT: {size} bytes), so it was removed; does the token "
            'support the curve, and is hsm.vendor the right one? (vendor = "utimaco" takes bare points of 64 bytes)'
        )
        raise TokenCallFailed.named("KEY_UNPROVEN", "C_GenerateKeyPair", detail)
    if not proven:
        detail = "the new key does not sign for its public key, so it was removed; does the token support secp256k1?"
        raise TokenCallFailed.named("KEY_UNPROVEN", "C_Sign", detail)
    return _record(public_key, private)


def _new_id(session: TokenSession) -> bytes:
    """A CKA_ID that no private key has; short ones (2 bytes on some tokens) do collide."""
    while True:
        cka_id = secrets.token_bytes(_id_size(session))
        if not session.private_keys(cka_id=cka_id):
            return cka_id


@contextmanager
def _advice_on_ids(session: TokenSession) -> Iterator[None]:
    """Say what may be wrong where a token refuses an attribute: it does not say which."""
    try:
        yield
    except TokenCallFailed as error:
        rv, function = error.failure.rv, error.failure.function
        if rv is None or rv != CKR["CKR_ATTRIBUTE_VALUE_INVALID"]:
            raise
        size = _id_size(session)
        raise TokenCallFailed.code(
            rv,
            function,
            f"the token refuses an attribute of the new key, perhaps its CKA_ID of {size} bytes; is hsm.vendor the "
            'right one? (vendor = "yubihsm" makes ids of 2)',
        ) from None


def _id_size(session: TokenSession) -> int:
    return min(_CKA_ID_BYTES, session.quirks.cka_id_bytes)


def _record(public_key: bytes, private: KeyObject) -> KeyRecord:
    return KeyRecord(
        public_key, private.label, private.cka_id, private.can_sign, private.sensitive, private.extractable
    )
