"""A signed transaction as geth writes it in JSON (pure).

The one thing to know: it is decoded from the signed bytes, so it shows what was signed, not what was asked for. The
members and their order are those of ``core/types/transaction_marshalling.go``; geth's Clef client reads nothing else of
an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rlp

from manahsm.requests import SignedTransaction

__all__ = ["signed_transaction_json"]

_Read = Callable[[Any], Any]
_LEGACY, _ACCESS_LIST, _DYNAMIC_FEE, _BLOB, _SET_CODE = range(5)
_FIRST_LIST = 0xC0  # RLP: a list begins with this byte or a higher one, a type byte is lower (EIP-2718)
_PROTECTED = 35  # EIP-155: v = 35 + 2 * chainId + parity
_SIDECAR = ("blobs", "commitments", "proofs")


def _quantity(value: bytes) -> str:
    return hex(int.from_bytes(value, "big"))


def _data(value: bytes) -> str:
    return "0x" + value.hex()


def _recipient(value: bytes) -> str | None:
    return _data(value) if value else None


def _access_list(value: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"address": _data(account), "storageKeys": [_data(key) for key in keys]} for account, keys in value]


def _hashes(value: Sequence[bytes]) -> list[str]:
    return [_data(item) for item in value]


def _authorizations(value: Sequence[Any]) -> list[dict[str, Any]]:
    names: dict[str, _Read] = {
        "chainId": _quantity,
        "address": _data,
        "nonce": _quantity,
        "yParity": _quantity,
        "r": _quantity,
        "s": _quantity,
    }
    return [_named(names, entry) for entry in value]


_SIGNED: Mapping[str, _Read] = {"v": _quantity, "r": _quantity, "s": _quantity}
_TO_INPUT: Mapping[str, _Read] = {"gas": _quantity, "to": _recipient, "value": _quantity, "input": _data}
_PAIR: Mapping[str, _Read] = {"maxPriorityFeePerGas": _quantity, "maxFeePerGas": _quantity}
_CHAIN: Mapping[str, _Read] = {"chainId": _quantity, "nonce": _quantity}
_ACCESS: Mapping[str, _Read] = {"accessList": _access_list}

# The RLP items of each type, in their order.
_ITEMS: Mapping[int, Mapping[str, _Read]] = {
    _LEGACY: {"nonce": _quantity, "gasPrice": _quantity, **_TO_INPUT, **_SIGNED},
    _ACCESS_LIST: {**_CHAIN, "gasPrice": _quantity, **_TO_INPUT, **_ACCESS, **_SIGNED},
    _DYNAMIC_FEE: {**_CHAIN, **_PAIR, **_TO_INPUT, **_ACCESS, **_SIGNED},
    _BLOB: {
        **_CHAIN,
        **_PAIR,
        **_TO_INPUT,
        **_ACCESS,
        "maxFeePerBlobGas": _quantity,
        "blobVersionedHashes": _hashes,
        **_SIGNED,
    },
    _SET_CODE: {**_CHAIN, **_PAIR, **_TO_INPUT, **_ACCESS, "authorizationList": _authorizations, **_SIGNED},
}

# geth writes these whether there is a value or not, and all others only where there is one.
_ORDER = (
    "type",
    "chainId",
    "nonce",
    "to",
    "gas",
    "gasPrice",
    "maxPriorityFeePerGas",
    "maxFeePerGas",
    "maxFeePerBlobGas",
    "value",
    "input",
    "accessList",
    "blobVersionedHashes",
    "authorizationList",
    "v",
    "r",
    "s",
    "yParity",
    "blobs",
    "commitments",
    "proofs",
    "hash",
)
_ALWAYS = frozenset({"to", "gasPrice", "maxPriorityFeePerGas", "maxFeePerGas"})


def signed_transaction_json(signed: SignedTransaction) -> dict[str, Any]:
    """Return the members, numbers as 0x quantities."""
    raw = signed.raw_transaction
    kind, body = (_LEGACY, raw) if raw[0] >= _FIRST_LIST else (raw[0], raw[1:])
    items: Sequence[Any] = rlp.decode(body)
    fields: dict[str, Any] = {"type": hex(kind), "hash": _data(signed.hash)}
    if kind == _BLOB and isinstance(items[0], list | tuple):  # with its sidecar, in network form
        fields |= {name: _hashes(values) for name, values in zip(_SIDECAR, items[-len(_SIDECAR) :], strict=True)}
        items = items[0]
    fields |= _named(_ITEMS[kind], items)
    if kind != _LEGACY:
        fields["yParity"] = fields["v"]
    elif signed.v >= _PROTECTED:
        fields["chainId"] = hex((signed.v - _PROTECTED) // 2)
    return {name: fields.get(name) for name in _ORDER if name in fields or name in _ALWAYS}


def _named(names: Mapping[str, _Read], items: Sequence[Any]) -> dict[str, Any]:
    return {name: read(item) for (name, read), item in zip(names.items(), items, strict=True)}
