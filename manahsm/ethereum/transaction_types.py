"""The five transaction types as frozen values: each knows its digest and its signed form.

The one thing to know: constructing one is validating it. Constructors accept the same forms as
:func:`~manahsm.ethereum.transactions.parse_transaction` (ints or 0x strings, bytes or 0x hex) and raise
:class:`~manahsm.errors.InvalidTransaction`; an object that exists can be signed as it stands. The RLP body is
encoded once, at construction, because it is needed for the digest and again for the signed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen

from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.authorizations import AuthorizationEntry, authorization_list
from manahsm.ethereum.blobs import HASH_VERSION, BlobSidecar
from manahsm.ethereum.encoding import EncodedTransaction, encode_bytes, encode_items, encode_list, encode_number, wrap
from manahsm.ethereum.fields import (
    NONCE_LIMIT,
    UINT256_LIMIT,
    AccessList,
    Reader,
    access_list,
    address,
    byte_string,
    each,
    fixed_bytes,
    integer,
    read_by,
    recipient,
    refuse,
    sequence,
)

__all__ = [
    "AccessListTransaction",
    "BaseTransaction",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "LegacyTransaction",
    "SetCodeTransaction",
]

_SELECTOR_SIZE = 4
_MAX_LEGACY_CHAIN_ID = (UINT256_LIMIT - 37) // 2  # so that EIP-155's v = 36 + 2 * chainId is below 2^256


def _versioned_hashes(value: Any) -> tuple[bytes, ...]:
    name = "blobVersionedHashes"
    hashes = tuple(each(name, sequence(name, value), fixed_bytes("hash", 32)))
    if any(item[:1] != HASH_VERSION for item in hashes):
        refuse(name, "has an entry that does not start with 01, the only version there is (EIP-4844)")
    return hashes


def _sidecar(value: Any) -> BlobSidecar:
    if not isinstance(value, BlobSidecar):
        refuse("sidecar", "is not a BlobSidecar; build it with manahsm.ethereum.make_sidecar")
    return value


_READERS: Mapping[str, Reader] = {
    "chain_id": integer("chainId", least=1),
    "nonce": integer("nonce", below=NONCE_LIMIT),
    "gas_price": integer("gasPrice"),
    "max_priority_fee_per_gas": integer("maxPriorityFeePerGas"),
    "max_fee_per_gas": integer("maxFeePerGas"),
    "max_fee_per_blob_gas": integer("maxFeePerBlobGas"),
    "gas": integer("gas"),
    "to": recipient("to"),
    "value": integer("value"),
    "data": byte_string("data"),
    "access_list": access_list("accessList"),
    "blob_versioned_hashes": _versioned_hashes,
    "authorization_list": authorization_list("authorizationList"),
    "sidecar": _sidecar,
    "sender_hint": address("from"),
}
_LEGACY_READERS = {**_READERS, "chain_id": integer("chainId", least=1, below=_MAX_LEGACY_CHAIN_ID + 1)}

_checked = read_by(_READERS)


@frozen(kw_only=True, field_transformer=_checked)
class BaseTransaction(ABC):
    """What all types have.

    Attributes:
        nonce: the sender's nonce, below 2^64 - 1 (EIP-2681).
        gas: gas limit.
        to: 20 bytes, or empty to create a contract.
        value: wei.
        data: call data or init code.
        sender_hint: 20 bytes of ``from``, or ``None``; never signed. The caller of this package compares it
            with the key's address.
        chain_id: at least 1; only legacy transactions can do without.
    """

    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    nonce: int
    gas: int
    to: bytes = b""
    value: int = 0
    data: bytes = b""
    sender_hint: bytes | None = None
    chain_id: int | None = None
    _body: bytes = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "_body", b"".join(self._items()))

    def _check(self) -> None:  # noqa: B027 - most types have nothing to add
        """Refuse what no single field shows."""

    @abstractmethod
    def _items(self) -> tuple[bytes, ...]:
        """Return the unsigned items, each encoded, in the order of the type's EIP."""

    @abstractmethod
    def _fees(self) -> dict[str, int]:
        """Return the fee fields under their JSON-RPC names."""

    @abstractmethod
    def signing_digest(self) -> bytes:
        """Return the 32 bytes to sign."""

    @abstractmethod
    def encode_signed(self, y_parity: int, r: int, s: int) -> EncodedTransaction:
        """Return the signed form for a signature that :mod:`~manahsm.ethereum.signatures` has verified."""

    def summary(self) -> dict[str, Any]:
        """Return what this transaction does, for the audit log.

        Numbers are decimal strings, because JSON readers lose digits above 2^53; ``to`` is lower-case hex,
        or ``None`` for a contract creation; ``selector`` is the first 4 bytes of call data, if there are as
        many.
        """
        selector = self.to and len(self.data) >= _SELECTOR_SIZE
        return {
            "type": self.NAME,
            "chainId": None if self.chain_id is None else str(self.chain_id),
            "to": "0x" + self.to.hex() if self.to else None,
            "value": str(self.value),
            "nonce": str(self.nonce),
            "gas": str(self.gas),
            **{name: str(fee) for name, fee in self._fees().items()},
            "dataLength": len(self.data),
            "selector": "0x" + self.data[:_SELECTOR_SIZE].hex() if selector else None,
        }


@frozen(kw_only=True, field_transformer=read_by(_LEGACY_READERS))
class LegacyTransaction(BaseTransaction):
    """A transaction without a type byte; replay-protected (EIP-155) where it has a chain id.

    Attributes:
        gas_price: wei a gas.
        chain_id: at least 1, or ``None`` for the unprotected form that is valid on every chain.
    """

    TYPE: ClassVar[int] = 0
    NAME: ClassVar[str] = "legacy"

    gas_price: int
    chain_id: int | None = None

    def _items(self) -> tuple[bytes, ...]:
        return (
            encode_number(self.nonce),
            encode_number(self.gas_price),
            encode_number(self.gas),
            encode_bytes(self.to),
            encode_number(self.value),
            encode_bytes(self.data),
        )

    def _fees(self) -> dict[str, int]:
        return {"gasPrice": self.gas_price}

    def signing_digest(self) -> bytes:
        """Return keccak256(rlp([nonce, gasPrice, gas, to, value, data])), + [chainId, 0, 0] by EIP-155."""
        if self.chain_id is None:
            return keccak256(wrap(self._body))
        return keccak256(wrap(self._body + encode_number(self.chain_id) + encode_number(0) + encode_number(0)))

    def encode_signed(self, y_parity: int, r: int, s: int) -> EncodedTransaction:
        """Return rlp([..., v, r, s]) with v 27/28, or 35 + 2 * chainId + parity (EIP-155)."""
        v = y_parity + (27 if self.chain_id is None else 35 + 2 * self.chain_id)
        raw = wrap(self._body + encode_number(v) + encode_number(r) + encode_number(s))
        return EncodedTransaction(raw, keccak256(raw), v)


@frozen(kw_only=True, field_transformer=_checked)
class _TypedTransaction(BaseTransaction):
    """An EIP-2718 envelope: a type byte and an RLP list.

    Attributes:
        chain_id: at least 1.
        access_list: ``((address, (storage key, ...)), ...)``, 20 and 32 bytes (EIP-2930).
    """

    chain_id: int
    access_list: AccessList = ()

    def signing_digest(self) -> bytes:
        """Return keccak256(type || rlp(fields))."""
        return keccak256(bytes((self.TYPE,)) + wrap(self._body))

    def encode_signed(self, y_parity: int, r: int, s: int) -> EncodedTransaction:
        """Return type || rlp([..., yParity, r, s])."""
        raw = bytes((self.TYPE,)) + self._signed_list(y_parity, r, s)
        return EncodedTransaction(raw, keccak256(raw), y_parity)

    def _signed_list(self, y_parity: int, r: int, s: int) -> bytes:
        return wrap(self._body + encode_number(y_parity) + encode_number(r) + encode_number(s))

    def _require_recipient(self) -> None:
        if not self.to:
            refuse("to", f"is required: a type {self.TYPE} transaction can not create a contract")

    def summary(self) -> dict[str, Any]:
        said = super().summary()
        said["accessListLength"] = len(self.access_list)
        return said


@frozen(kw_only=True, field_transformer=_checked)
class AccessListTransaction(_TypedTransaction):
    """Type 1, EIP-2930. ``gas_price`` is in wei a gas."""

    TYPE: ClassVar[int] = 1
    NAME: ClassVar[str] = "eip2930"

    gas_price: int

    def _items(self) -> tuple[bytes, ...]:
        return (
            encode_number(self.chain_id),
            encode_number(self.nonce),
            encode_number(self.gas_price),
            encode_number(self.gas),
            encode_bytes(self.to),
            encode_number(self.value),
            encode_bytes(self.data),
            encode_list(self.access_list),
        )

    def _fees(self) -> dict[str, int]:
        return {"gasPrice": self.gas_price}


@frozen(kw_only=True, field_transformer=_checked)
class DynamicFeeTransaction(_TypedTransaction):
    """Type 2, EIP-1559. Both fees are in wei a gas."""

    TYPE: ClassVar[int] = 2
    NAME: ClassVar[str] = "eip1559"

    max_priority_fee_per_gas: int
    max_fee_per_gas: int

    def _items(self) -> tuple[bytes, ...]:
        return (
            encode_number(self.chain_id),
            encode_number(self.nonce),
            encode_number(self.max_priority_fee_per_gas),
            encode_number(self.max_fee_per_gas),
            encode_number(self.gas),
            encode_bytes(self.to),
            encode_number(self.value),
            encode_bytes(self.data),
            encode_list(self.access_list),
        )

    def _fees(self) -> dict[str, int]:
        return {
            "maxPriorityFeePerGas": self.max_priority_fee_per_gas,
            "maxFeePerGas": self.max_fee_per_gas,
        }


@frozen(kw_only=True, field_transformer=_checked)
class BlobTransaction(DynamicFeeTransaction):
    """Type 3, EIP-4844.

    Attributes:
        max_fee_per_blob_gas: wei a unit of blob gas.
        blob_versioned_hashes: 32 bytes each, at least one; taken from the sidecar where left empty.
        sidecar: the blobs themselves, checked against the hashes, or ``None``. It changes the network form,
            never the digest or the transaction hash.
    """

    TYPE: ClassVar[int] = 3
    NAME: ClassVar[str] = "eip4844"

    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...] = ()
    sidecar: BlobSidecar | None = None

    def _check(self) -> None:
        self._require_recipient()
        hashes = self.blob_versioned_hashes
        if self.sidecar is not None:
            computed = self.sidecar.versioned_hashes()
            if hashes and hashes != computed:
                refuse(
                    "blobVersionedHashes",
                    "differ from those of the blobs; leave them out or correct them",
                )
            object.__setattr__(self, "blob_versioned_hashes", computed)
        elif not hashes:
            refuse("blobVersionedHashes", "is empty; give at least one hash, or the blobs (EIP-4844)")

    def _items(self) -> tuple[bytes, ...]:
        return (*super()._items(), encode_number(self.max_fee_per_blob_gas), encode_list(self.blob_versioned_hashes))

    def _fees(self) -> dict[str, int]:
        return {**super()._fees(), "maxFeePerBlobGas": self.max_fee_per_blob_gas}

    def encode_signed(self, y_parity: int, r: int, s: int) -> EncodedTransaction:
        """Return the signed form; with a sidecar 0x03 || rlp([tx, (version,) blobs, commitments, proofs])."""
        if self.sidecar is None:
            return super().encode_signed(y_parity, r, s)
        prefix = bytes((self.TYPE,))
        signed = self._signed_list(y_parity, r, s)
        network_form = prefix + wrap(signed + encode_items(self.sidecar.items()))
        return EncodedTransaction(network_form, keccak256(prefix + signed), y_parity)

    def summary(self) -> dict[str, Any]:
        """Return the base's summary and the blobs' versioned hashes."""
        return {
            **super().summary(),
            "blobVersionedHashes": ["0x" + item.hex() for item in self.blob_versioned_hashes],
        }


@frozen(kw_only=True, field_transformer=_checked)
class SetCodeTransaction(DynamicFeeTransaction):
    """Type 4, EIP-7702. ``authorization_list`` holds at least one signed authorization."""

    TYPE: ClassVar[int] = 4
    NAME: ClassVar[str] = "eip7702"

    authorization_list: tuple[AuthorizationEntry, ...]

    def _check(self) -> None:
        self._require_recipient()
        for index, entry in enumerate(self.authorization_list):
            if entry.chain_id not in (0, self.chain_id):
                refuse(f"authorizationList[{index}].chainId", "is neither 0 nor the transaction's chainId")

    def _items(self) -> tuple[bytes, ...]:
        return (*super()._items(), encode_list([entry.items() for entry in self.authorization_list]))

    def summary(self) -> dict[str, Any]:
        """Return the base's summary and what each authorization delegates to."""
        return {
            **super().summary(),
            "authorizationList": [
                {
                    "chainId": str(entry.chain_id),
                    "address": "0x" + entry.address.hex(),
                    "nonce": str(entry.nonce),
                }
                for entry in self.authorization_list
            ],
        }
