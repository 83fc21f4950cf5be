"""What is to be signed, in the JSON that :mod:`manahsm.ethereum` reads back as the same (pure).

The one thing to know: a value is first read as it would be for signing, and then written by what it is. JSON has fewer
kinds of values than Python: written as they come, bytes would pass for a number, or a number for text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manahsm.ethereum.authorizations import Authorization, AuthorizationEntry, parse_authorization
from manahsm.ethereum.messages import message_bytes, parse_digest
from manahsm.ethereum.transactions import transaction_fields
from manahsm.ethereum.typed_data import read_typed_data

__all__ = ["authorization_json", "digest_json", "message_json", "transaction_json", "typed_data_json"]


def transaction_json(tx: Any) -> dict[str, Any]:
    """Write a transaction.

    Args:
        tx: a mapping or an object, as :func:`~manahsm.ethereum.transactions.parse_transaction` takes it.

    Raises:
        InvalidTransaction: a field is unknown, missing or malformed. What several fields say together is not looked at.
    """
    fields = transaction_fields(tx)
    return {name: _accounts(value) if name == "accessList" else _form(value) for name, value in fields.items()}


def authorization_json(authorization: Any, chain_id: int | None = None) -> dict[str, Any]:
    """Write an authorization that is to be signed; as :func:`~manahsm.ethereum.authorizations.parse_authorization`."""
    return _authorization(parse_authorization(authorization, chain_id))


def typed_data_json(typed: Any) -> dict[str, Any]:
    """Write typed data, without the types that it does not need; as :func:`~manahsm.ethereum.parse_typed_data`."""
    parts = read_typed_data(typed)
    return {
        "types": {
            name: [{"name": field, "type": kind} for field, kind in fields.items()]
            for name, fields in parts.types.items()
        },
        "primaryType": parts.primary_type,
        "domain": _typed(parts.domain),
        "message": _typed(parts.message),
    }


def message_json(message: Any) -> str:
    """Write the bytes of a message; as :func:`~manahsm.ethereum.message_digest`."""
    return _data(message_bytes(message))


def digest_json(digest: Any) -> str:
    """Write a 32-byte digest; as :func:`~manahsm.ethereum.parse_digest`."""
    return _data(parse_digest(digest))


def _data(value: bytes) -> str:
    return "0x" + value.hex()


def _form(value: Any) -> Any:
    """Write a value of a transaction, where numbers are never text."""
    match value:
        case int():
            return hex(value)
        case bytes():
            return _data(value)
        case AuthorizationEntry():
            return {**_authorization(value), "yParity": hex(value.y_parity), "r": hex(value.r), "s": hex(value.s)}
        case _:
            return [_form(item) for item in value]


def _accounts(value: Any) -> list[dict[str, Any]]:
    return [{"address": _data(account), "storageKeys": [_data(key) for key in keys]} for account, keys in value]


def _authorization(value: Authorization | AuthorizationEntry) -> dict[str, Any]:
    return {"chainId": hex(value.chain_id), "address": _data(value.address), "nonce": hex(value.nonce)}


def _typed(value: Any) -> Any:
    """Write a value of typed data. Numbers are decimal text: theirs can be negative, and larger than JSON's are."""
    match value:
        case bool() | str():
            return value
        case int():
            return str(value)
        case bytes():
            return _data(value)
        case Mapping():
            return {name: _typed(item) for name, item in value.items()}
        case _:
            return [_typed(item) for item in value]
