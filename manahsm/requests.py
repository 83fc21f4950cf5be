"""What callers ask for and what they get: the typed values that cross manahsm's public borders.

All of them are frozen. None holds a PIN, a passphrase or a private key, so each can be logged as it is; a
:class:`SignRequest` hides its payload from ``repr`` all the same, because payloads can be large.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict, Unpack

from attrs import field, frozen

from manahsm.errors import InvalidRequest, ManaHSMError

__all__ = [
    "EMBEDDED",
    "Backend",
    "KeyInfo",
    "KeyState",
    "Operation",
    "Outcome",
    "RequestOptions",
    "Role",
    "SignRequest",
    "Signature",
    "SignedAuthorization",
    "SignedTransaction",
    "Usage",
    "is_request_id",
    "is_timeout",
]

EMBEDDED = "embedded"
"""The caller of a request that names nobody."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_LONGEST_TIMEOUT = 86_400.0  # seconds; more is a mistake in the unit, and far more can not be added to a time


class Role(StrEnum):
    """What a key is for. The rules that follow from it are in :mod:`manahsm.keys.roles`."""

    VALIDATOR = "validator"
    ADMIN = "admin"
    TRANSACTION_SIGNER = "transaction_signer"
    NODE_IDENTITY = "node_identity"


class Usage(StrEnum):
    """What a key may be used for; ``signing`` is all that secp256k1 keys in a token do here."""

    SIGNING = "signing"


class Backend(StrEnum):
    """Where a key lives, or where a signature was made."""

    HSM = "hsm"
    SOFTWARE = "software"


class KeyState(StrEnum):
    """``active`` keys sign; ``retired`` ones were rotated out and sign no more."""

    ACTIVE = "active"
    RETIRED = "retired"


class Operation(StrEnum):
    """What is being signed."""

    TRANSACTION = "transaction"
    MESSAGE = "message"
    TYPED_DATA = "typed_data"
    AUTHORIZATION = "authorization"
    HASH = "hash"
    BLOCK_PAYLOAD = "block_payload"


@frozen(kw_only=True)
class KeyInfo:
    """Everything that is known of a key, without anything secret.

    Attributes:
        key_id: first 16 hex characters of keccak256 of the 64-byte public key; stable everywhere.
        address: EIP-55 checksum address.
        public_key: 65 bytes, uncompressed SEC 1 point (``04 || X || Y``).
        label: unique among active keys.
        role: ``None`` for a key that was found in a token and not yet assigned: it signs nothing.
        usage: what the key may be used for.
        backend: where the key lives; a twin does not change it.
        slots: names of the configured slots whose tokens were last seen to hold the key.
        software_twin: an encrypted keystore of the same key exists and may stand in, policy permitting.
        created_at: when the registry first knew the key (UTC).
        last_used: when it last signed (UTC), or ``None``.
        use_count: signatures released so far.
        state: ``active`` or ``retired``.
    """

    key_id: str
    address: str
    public_key: bytes
    label: str
    role: Role | None
    usage: tuple[Usage, ...] = (Usage.SIGNING,)
    backend: Backend
    slots: tuple[str, ...] = ()
    software_twin: bool = False
    created_at: datetime
    last_used: datetime | None = None
    use_count: int = 0
    state: KeyState = KeyState.ACTIVE


@frozen(kw_only=True)
class Signature:
    """A verified, low-s (EIP-2) ECDSA signature over secp256k1.

    Attributes:
        r, s: scalars; ``s <= n/2``.
        y_parity: 0 or 1, the recovery id.
        v: the form that the operation uses on the wire: 27/28 for messages, typed data and digests.
        digest: the 32 bytes that were signed.
        backend: which backend made this signature.
        key_id: the key that made it, or ``None`` for a raw private key of the caller's.
    """

    r: int
    s: int
    y_parity: int
    digest: bytes
    backend: Backend
    key_id: str | None

    @property
    def v(self) -> int:
        """27 or 28 (EIP-191, EIP-712)."""
        return 27 + self.y_parity

    def to_bytes(self) -> bytes:
        """65 bytes ``r || s || v`` with v 27 or 28, as ``personal_sign`` returns it."""
        return self.r.to_bytes(32, "big") + self.s.to_bytes(32, "big") + bytes([self.v])


@frozen(kw_only=True)
class SignedTransaction:
    """A signed transaction, ready for ``eth_sendRawTransaction``.

    Attributes:
        raw_transaction: the EIP-2718 envelope, or the legacy RLP list; blobs in network form where given.
        hash: 32-byte transaction hash (for blobs: without the sidecar).
        v: legacy v (27/28 or EIP-155), else the y parity.
        r, s: scalars; ``s <= n/2``.
        backend: which backend made this signature.
        key_id: the key that made it, or ``None`` for a raw private key of the caller's.
    """

    raw_transaction: bytes
    hash: bytes
    v: int
    r: int
    s: int
    backend: Backend
    key_id: str | None


@frozen(kw_only=True)
class SignedAuthorization:
    """A signed EIP-7702 authorization tuple; ``address`` is 20 bytes."""

    chain_id: int
    address: bytes
    nonce: int
    y_parity: int
    r: int
    s: int
    backend: Backend
    key_id: str | None

    def to_mapping(self) -> dict[str, Any]:
        """The entry for a type 4 transaction's ``authorizationList``."""
        return {
            "chainId": self.chain_id,
            "address": "0x" + self.address.hex(),
            "nonce": self.nonce,
            "yParity": self.y_parity,
            "r": self.r,
            "s": self.s,
        }


def _new_request_id() -> str:
    return os.urandom(16).hex()


def is_timeout(value: object) -> bool:
    """Return whether ``value`` is a number of seconds that a request may be given: above 0, at most a day."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST_TIMEOUT


def is_request_id(value: object) -> bool:
    """Return whether ``value`` is a request id that can be sent along: 1 to 64 letters, digits and ``. _ : -``."""
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None


def _check_timeout(_request: object, _attribute: object, value: float | None) -> None:
    if value is not None and not is_timeout(value):
        raise InvalidRequest(f"timeout must be a number of seconds above 0 and at most {_LONGEST_TIMEOUT:g}, or None")


class RequestOptions(TypedDict, total=False):
    """What may be said about any request, beside what it asks for.

    Attributes:
        timeout: seconds it may take; ``service.request_timeout`` by default.
        caller: who asks, for the audit log; ``embedded`` by default.
        request_id: echoed in the outcome and the audit log; made up by default.
    """

    timeout: float | None
    caller: str
    request_id: str


@frozen(kw_only=True)
class SignRequest:
    """One signature asked for. Build it with the class methods.

    Attributes:
        operation: what the payload is.
        key: key id, label or 0x address. Never a private key: the channel refuses those.
        payload: transaction mapping or object, message, typed data, authorization, 32-byte digest, or block payload.
        chain_id: the chain that the caller means; must agree with the payload.
        timeout: seconds the request may take, or ``None`` for the service's default.
        caller: who asks; goes to the audit log.
        request_id: echoed in the outcome and the audit log.
    """

    operation: Operation
    key: str
    payload: Any = field(repr=False)
    chain_id: int | None = None
    timeout: float | None = field(default=None, validator=_check_timeout)
    caller: str = EMBEDDED
    request_id: str = field(factory=_new_request_id)

    @classmethod
    def transaction(
        cls, tx: Any, key: str, *, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignRequest:
        """Ask for a signed transaction."""
        return cls(operation=Operation.TRANSACTION, key=key, payload=tx, chain_id=chain_id, **options)

    @classmethod
    def message(cls, message: bytes | str, key: str, **options: Unpack[RequestOptions]) -> SignRequest:
        """Ask for an EIP-191 ``personal_sign`` signature."""
        return cls(operation=Operation.MESSAGE, key=key, payload=message, **options)

    @classmethod
    def typed_data(
        cls, typed: Mapping[str, Any], key: str, *, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignRequest:
        """Ask for an EIP-712 signature; the domain must name ``chain_id``, where one is given."""
        return cls(operation=Operation.TYPED_DATA, key=key, payload=typed, chain_id=chain_id, **options)

    @classmethod
    def authorization(
        cls, authorization: Any, key: str, *, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignRequest:
        """Ask for an EIP-7702 authorization."""
        return cls(operation=Operation.AUTHORIZATION, key=key, payload=authorization, chain_id=chain_id, **options)

    @classmethod
    def hash(cls, digest: bytes | str, key: str, **options: Unpack[RequestOptions]) -> SignRequest:
        """Ask for a signature over a 32-byte digest as it is."""
        return cls(operation=Operation.HASH, key=key, payload=digest, **options)

    @classmethod
    def block_payload(
        cls, payload: Mapping[str, Any], key: str, *, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignRequest:
        """Ask for a sequencer's signature of an OP Stack block: ``{chainId, payloadHash}``."""
        return cls(operation=Operation.BLOCK_PAYLOAD, key=key, payload=payload, chain_id=chain_id, **options)


@frozen(kw_only=True)
class Outcome:
    """How one request ended: exactly one of ``result`` and ``error`` is set."""

    request_id: str
    result: SignedTransaction | Signature | SignedAuthorization | None = None
    error: ManaHSMError | None = None

    def unwrap(self) -> SignedTransaction | Signature | SignedAuthorization:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.result is None:  # pragma: no cover - the service sets one of the two
            raise AssertionError("an outcome holds a result or an error")
        return self.result
