"""EIP-7702 authorizations: the tuple that is signed, and the signed entry that a type 4 transaction carries.

The one thing to know: chain id 0 means *every* chain. It is signed only where the caller wrote 0; it never
comes from a missing field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.encoding import encode_bytes, encode_number, minimal, wrap
from manahsm.ethereum.fields import (
    NONCE_LIMIT,
    Reader,
    address,
    each,
    integer,
    kind_of,
    read_by,
    refuse,
    sequence,
    show_name,
)
from manahsm.ethereum.signatures import CURVE_ORDER, HALF_ORDER

__all__ = ["Authorization", "AuthorizationEntry", "authorization_list", "parse_authorization"]

_MAGIC = b"\x05"  # EIP-7702, "Set code transaction"
_READERS: Mapping[str, Reader] = {
    "chain_id": integer("chainId"),
    "address": address("address"),
    "nonce": integer("nonce", below=NONCE_LIMIT),
    "y_parity": integer("yParity", below=2),
    "r": integer("r", below=CURVE_ORDER, least=1),
    "s": integer("s", below=HALF_ORDER + 1, least=1),
}
_UNSIGNED_NAMES = {"chainId": "chain_id", "address": "address", "nonce": "nonce"}
_SIGNED_NAMES = {**_UNSIGNED_NAMES, "yParity": "y_parity", "r": "r", "s": "s"}


@frozen(kw_only=True, field_transformer=read_by(_READERS))
class Authorization:
    """What an account signs to delegate its code (EIP-7702).

    Attributes:
        chain_id: the chain it is for; 0 is every chain.
        address: 20 bytes of the contract whose code the account takes; zero clears the delegation.
        nonce: the account's nonce when the authorization is processed.
    """

    chain_id: int
    address: bytes
    nonce: int

    def signing_digest(self) -> bytes:
        """Return keccak256(0x05 || rlp([chainId, address, nonce])), 32 bytes."""
        body = encode_number(self.chain_id) + encode_bytes(self.address) + encode_number(self.nonce)
        return keccak256(_MAGIC + wrap(body))

    def summary(self) -> dict[str, Any]:
        """Return the fields in readable form for the audit log; numbers are decimal strings."""
        return {
            "type": "authorization",
            "chainId": str(self.chain_id),
            "address": "0x" + self.address.hex(),
            "nonce": str(self.nonce),
        }


@frozen(kw_only=True, field_transformer=read_by(_READERS))
class AuthorizationEntry:
    """A signed authorization, as an entry of ``authorizationList``; r, s and parity are in EIP-2's range."""

    chain_id: int
    address: bytes
    nonce: int
    y_parity: int
    r: int
    s: int

    def items(self) -> tuple[bytes, ...]:
        """Return the entry's RLP items."""
        return (
            minimal(self.chain_id),
            self.address,
            minimal(self.nonce),
            minimal(self.y_parity),
            minimal(self.r),
            minimal(self.s),
        )


def parse_authorization(auth: Any, chain_id: int | None = None) -> Authorization:
    """Read an authorization that is to be signed.

    Args:
        auth: an :class:`Authorization`, or a mapping with ``chainId``, ``address`` and ``nonce``.
        chain_id: the chain the caller means; fills a missing ``chainId`` and must equal one that is there.

    Raises:
        InvalidTransaction: a field is missing, unknown or out of range, or the chain ids differ. An
            authorization for every chain (``chainId`` 0) contradicts any other ``chain_id``.
    """
    expected = None if chain_id is None else integer("chain_id")(chain_id)
    if isinstance(auth, Authorization):
        parsed = auth
    else:
        if not isinstance(auth, Mapping):
            refuse("authorization", f"is {kind_of(auth)}; give a mapping with chainId, address and nonce")
        given = {key: value for key, value in auth.items() if value is not None}
        if expected is not None:
            given.setdefault("chainId", expected)
        parsed = Authorization(**_named(given, _UNSIGNED_NAMES))
    if expected is not None and parsed.chain_id != expected:
        refuse("chainId", f"differs from the chain_id {expected} that was asked for; correct one of them")
    return parsed


def authorization_list(name: str) -> Reader:
    """Return a reader of a non-empty list of signed authorizations.

    Entries are mappings, or objects with the attributes ``chain_id address nonce y_parity r s``:
    :class:`manahsm.requests.SignedAuthorization` and eth-account's ``SignedSetCodeAuthorization``.
    """

    def read(value: Any) -> tuple[AuthorizationEntry, ...]:
        values = sequence(name, value)
        if not values:
            refuse(name, "is empty; a type 4 transaction needs at least one signed authorization (EIP-7702)")
        return tuple(each(name, values, _read_entry))

    return read


def _read_entry(value: Any) -> AuthorizationEntry:
    if isinstance(value, AuthorizationEntry):
        return value
    if isinstance(value, Mapping):
        return AuthorizationEntry(**_named(value, _SIGNED_NAMES))
    try:
        held = {name: getattr(value, name) for name in _SIGNED_NAMES.values()}
    except AttributeError:
        refuse("entry", f"is {kind_of(value)}; give a signed authorization")
    return AuthorizationEntry(**held)


def _named(given: Mapping[Any, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename the fields of a mapping, refusing unknown and missing ones."""
    for key in given:
        if key not in names:
            hint = "it is signed already" if key in _SIGNED_NAMES else f"known are {', '.join(names)}"
            raise InvalidTransaction(f"{show_name(key)}: does not belong to this authorization; {hint}")
    for key in names:
        if key not in given:
            hint = " (sign the authorization first)" if key not in _UNSIGNED_NAMES else ""
            raise InvalidTransaction(f"{key}: is missing{hint}")
    return {names[key]: value for key, value in given.items()}
