"""From a transaction mapping, as web3.py, eth-account and JSON-RPC write it, to a checked value.

The one thing to know: :func:`parse_transaction` either understands every field of the mapping or refuses. A
field that does not belong to the type is an error and never ignored, because ignoring it signs something else
than what was asked. ``null`` counts as absent. The rules for single fields are in
:mod:`manahsm.ethereum.fields`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, TypeAlias

from attrs import evolve, fields_dict

from manahsm.ethereum.addresses import decode_address
from manahsm.ethereum.blobs import SIDECAR_FIELDS, SIDECAR_READERS, make_sidecar, sidecar_values
from manahsm.ethereum.encoding import EncodedTransaction
from manahsm.ethereum.fields import byte_string, integer, kind_of, refuse, show_name
from manahsm.ethereum.transaction_types import (
    AccessListTransaction,
    BaseTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
)

__all__ = [
    "AccessListTransaction",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "EncodedTransaction",
    "LegacyTransaction",
    "SetCodeTransaction",
    "Transaction",
    "check_sender",
    "parse_transaction",
    "transaction_fields",
]

Transaction: TypeAlias = (
    LegacyTransaction | AccessListTransaction | DynamicFeeTransaction | BlobTransaction | SetCodeTransaction
)

# JSON-RPC name -> attribute, for each type. ``type``, ``input`` and the sidecar are read apart.
_COMMON = {
    "chainId": "chain_id",
    "nonce": "nonce",
    "gas": "gas",
    "to": "to",
    "value": "value",
    "data": "data",
    "from": "sender_hint",
}
_LEGACY = {**_COMMON, "gasPrice": "gas_price"}
_ACCESS_LIST = {**_LEGACY, "accessList": "access_list"}
_DYNAMIC_FEE = {
    **_COMMON,
    "maxPriorityFeePerGas": "max_priority_fee_per_gas",
    "maxFeePerGas": "max_fee_per_gas",
    "accessList": "access_list",
}
_BLOB = {
    **_DYNAMIC_FEE,
    "maxFeePerBlobGas": "max_fee_per_blob_gas",
    "blobVersionedHashes": "blob_versioned_hashes",
}
_SET_CODE = {**_DYNAMIC_FEE, "authorizationList": "authorization_list"}

_TYPES: tuple[tuple[type[Transaction], Mapping[str, str]], ...] = (
    (LegacyTransaction, _LEGACY),
    (AccessListTransaction, _ACCESS_LIST),
    (DynamicFeeTransaction, _DYNAMIC_FEE),
    (BlobTransaction, _BLOB),
    (SetCodeTransaction, _SET_CODE),
)
_OPTIONAL = frozenset({"to", "value", "data", "from", "accessList", "blobVersionedHashes", "chainId"})
_NOTHING = (None, b"", ())
_REQUIRED = tuple(tuple(name for name in names if name not in _OPTIONAL) for _, names in _TYPES)

_BLOB_ONLY = frozenset({"maxFeePerBlobGas", "blobVersionedHashes", *SIDECAR_FIELDS})
_FEE_PAIR = frozenset({"maxFeePerGas", "maxPriorityFeePerGas"})
_KNOWN = frozenset({"type", "input", *SIDECAR_FIELDS}).union(*(names for _, names in _TYPES))
_SIGNED = frozenset({"v", "r", "s", "yParity", "hash"})
_OTHER_NAMES = {"gasLimit": "gas", "gas_limit": "gas", "sender": "from"}

_read_type = integer("type", below=len(_TYPES))
_read_chain_id = integer("chain_id", least=1)
_read_data = byte_string("data")
_read_input = byte_string("input")


def parse_transaction(tx: Mapping[str, Any] | Transaction, chain_id: int | None = None) -> Transaction:
    """Read and check a transaction that is to be signed.

    The names are JSON-RPC's: ``type chainId nonce gas to value data`` (or ``input``) and ``from``;
    ``gasPrice``, or ``maxFeePerGas`` and ``maxPriorityFeePerGas``; ``accessList``; ``maxFeePerBlobGas
    blobVersionedHashes blobs commitments proofs wrapperVersion``; ``authorizationList``. Numbers are ints
    or 0x strings, bytes are bytes or 0x hex. Without ``type`` the fields decide: authorizations make a type
    4, blob fields a 3, the fee pair a 2, gasPrice with an access list a 1, gasPrice alone a legacy
    transaction.

    Args:
        tx: a mapping with these names, or one of the classes of this module.
        chain_id: the chain that the caller means; fills a missing ``chainId`` and must equal one that is
            there.

    Returns:
        A checked value. A legacy transaction is unprotected (v 27/28) only where neither ``tx`` nor
        ``chain_id`` names a chain.

    Raises:
        InvalidTransaction: a field is missing, unknown, malformed, out of range, or contradicts another
            field, the type or ``chain_id``. The message names the field and says what to do.
    """
    expected = None if chain_id is None else _read_chain_id(chain_id)
    if isinstance(tx, BaseTransaction):
        return _on_chain(tx, expected)
    given = _given(tx)
    kind = _kind(given)
    arguments = _arguments(given, kind)
    if kind == BlobTransaction.TYPE:
        _add_sidecar(given, arguments)
    if expected is not None:
        arguments.setdefault("chain_id", expected)
    elif kind != LegacyTransaction.TYPE and "chain_id" not in arguments:
        refuse("chainId", f"is missing; a type {kind} transaction needs it, here or as chain_id")
    transaction: Transaction = _TYPES[kind][0](**arguments)
    return _on_chain(transaction, expected)


def _arguments(given: Mapping[Any, Any], kind: int) -> dict[str, Any]:
    """Rename the fields to the arguments of the type's class; every field has a place or is refused."""
    names = _TYPES[kind][1]
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        attribute = names.get(name)
        if attribute is not None:
            arguments[attribute] = value
        elif name == "input":
            arguments["data"] = _input(value, given)
        elif name != "type" and not (kind == BlobTransaction.TYPE and name in SIDECAR_FIELDS):
            _refuse_field(name, kind)
    for name in _REQUIRED[kind]:
        if name not in given:
            refuse(name, f"is missing; a type {kind} transaction needs it")
    return arguments


def transaction_fields(tx: Any) -> dict[str, Any]:
    """Return what a transaction says by the names of JSON-RPC, in the one form that is signed, and its ``type``.

    Each field is checked by itself; blobs are bytes of any length, because looking into them is slow. What is empty
    and may be left out is left out.

    Args:
        tx: as :func:`parse_transaction` takes it.

    Raises:
        InvalidTransaction: a field is unknown, malformed, out of range, missing, or of another type of transaction.
    """
    if isinstance(tx, BaseTransaction):
        kind, names = tx.TYPE, _TYPES[tx.TYPE][1]
        fields = {name: getattr(tx, attribute) for name, attribute in names.items()}
        if isinstance(tx, BlobTransaction) and tx.sidecar is not None:
            fields |= zip(SIDECAR_FIELDS, sidecar_values(tx.sidecar), strict=True)
    else:
        given = _given(tx)
        kind = _kind(given)
        of_kind, names = _TYPES[kind]
        arguments = _arguments(given, kind)
        read_by: dict[str, Any] = {at: field.converter for at, field in fields_dict(of_kind).items()}
        fields = {name: read_by[at](arguments[at]) for name, at in names.items() if at in arguments}
        if kind == BlobTransaction.TYPE:
            fields |= {name: read(given[name]) for name, read in SIDECAR_READERS.items() if name in given}
    said = {name: value for name, value in fields.items() if not (name in _OPTIONAL and value in _NOTHING)}
    return {"type": kind, **said}


def _given(tx: Any) -> dict[Any, Any]:
    if not isinstance(tx, Mapping):
        refuse("transaction", f"is {kind_of(tx)}; give a mapping or a class from manahsm.ethereum")
    return {name: value for name, value in tx.items() if value is not None}


def check_sender(transaction: Transaction, address: str) -> None:
    """Refuse a transaction whose ``from`` is not the 0x address of the key that is to sign it.

    Raises:
        InvalidTransaction: ``from`` is present and differs.
    """
    if transaction.sender_hint is not None and transaction.sender_hint != decode_address(address):
        refuse("from", "is not the address of this key; leave it out or choose the key of that account")


def _on_chain(transaction: Transaction, expected: int | None) -> Transaction:
    if expected is None or transaction.chain_id == expected:
        return transaction
    if transaction.chain_id is not None:
        refuse("chainId", f"differs from the chain_id {expected} that was asked for; correct one of them")
    return evolve(transaction, chain_id=expected)


def _kind(given: Mapping[Any, Any]) -> int:
    """Return the type that was named, or that the fields can only mean."""
    if "type" in given:
        named: int = _read_type(given["type"])
        return named
    if "authorizationList" in given:
        return SetCodeTransaction.TYPE
    if not _BLOB_ONLY.isdisjoint(given):
        return BlobTransaction.TYPE
    if not _FEE_PAIR.isdisjoint(given):
        return DynamicFeeTransaction.TYPE
    if "gasPrice" not in given:
        refuse("maxFeePerGas", "is missing; give it with maxPriorityFeePerGas, or gasPrice, or a type")
    return AccessListTransaction.TYPE if "accessList" in given else LegacyTransaction.TYPE


def _input(value: Any, given: Mapping[Any, Any]) -> bytes:
    data: bytes = _read_input(value)
    if "data" in given and _read_data(given["data"]) != data:
        refuse("input", "differs from data; give one of them")
    return data


def _add_sidecar(given: Mapping[Any, Any], arguments: dict[str, Any]) -> None:
    if "blobs" in given:
        arguments["sidecar"] = make_sidecar(*(given.get(name) for name in SIDECAR_FIELDS))
        return
    for name in SIDECAR_FIELDS:
        if name in given:
            refuse(name, "is given without blobs; give the blobs too, or only blobVersionedHashes")


def _refuse_field(name: object, kind: int) -> NoReturn:
    shown = show_name(name)
    if name in _SIGNED:
        refuse(shown, "belongs to a transaction that is signed already; leave it out")
    if name in _KNOWN:
        refuse(shown, f"does not belong to a type {kind} transaction; leave it out or correct the type")
    close = get_close_matches(shown, _KNOWN, n=1) if isinstance(name, str) else []
    meant = _OTHER_NAMES.get(shown) or next(iter(close), None)
    refuse(shown, f"is unknown; did you mean {meant}?" if meant else "is unknown; leave it out")
