"""What a transaction still needs before it can be signed: gas, fees and the chain.

Pure; :mod:`manahsm.api.sending` asks the node. The one thing to know: what the caller has set is kept as it is, and
what contradicts itself or the node is refused, because any way to resolve it would sign something else than was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.blobs import SIDECAR_FIELDS
from manahsm.ethereum.fields import integer

__all__ = ["Quote", "filled", "for_estimate", "needs_fees"]

_FEE_PAIR = frozenset({"maxFeePerGas", "maxPriorityFeePerGas"})
_BLOBS = frozenset({"maxFeePerBlobGas", "blobVersionedHashes", *SIDECAR_FIELDS})
_LEGACY, _ACCESS_LIST, _BLOB, _SET_CODE = 0, 1, 3, 4
_HEADROOM = 2
"""Times the base fee: enough for six full blocks in a row, each of which raises it by an eighth (EIP-1559)."""

_read_type = integer("type", below=_SET_CODE + 1)
_read_chain = integer("chainId", least=1)
_read_fee = integer("maxFeePerGas")
_read_tip = integer("maxPriorityFeePerGas")


@frozen(kw_only=True)
class Quote:
    """What the chain asks for at the moment. All fees are in wei a gas.

    Attributes:
        chain_id: of the node.
        base_fee: of the latest block, or ``None`` on a chain without one (before EIP-1559).
        price: the tip that the node advises where there is a base fee, else the gas price.
        blob_fee: for a unit of blob gas, or ``None`` where nobody asked.
    """

    chain_id: int
    base_fee: int | None
    price: int
    blob_fee: int | None = None


def needs_fees(tx: Mapping[str, Any]) -> tuple[bool, bool]:
    """Tell whether the fee of gas, and that of blob gas, is still to be filled in.

    Args:
        tx: the caller's, ``null`` counts as absent.

    Raises:
        InvalidTransaction: its fees contradict each other or its type.
    """
    kind = None if tx.get("type") is None else _read_type(tx["type"])
    given = _given(tx)
    priced, paired = "gasPrice" in given, not _FEE_PAIR.isdisjoint(given)
    if priced and paired:
        raise InvalidTransaction("gasPrice: is given together with maxFeePerGas or maxPriorityFeePerGas; give one kind")
    if kind is not None:
        flat = kind in {_LEGACY, _ACCESS_LIST}
        if (flat and paired) or (not flat and priced):
            raise InvalidTransaction(
                f"type: a type {kind} transaction does not pay this kind of fee; correct one of them"
            )
    blobs = kind == _BLOB or not _BLOBS.isdisjoint(given)
    return not (priced or given >= _FEE_PAIR), blobs and "maxFeePerBlobGas" not in given


def filled(tx: Mapping[str, Any], quote: Quote, gas: int | None = None) -> dict[str, Any]:
    """Fill in what is missing, all but the nonce.

    Args:
        tx: the caller's; :func:`needs_fees` had nothing against it.
        quote: with a blob fee, where that was to be filled in.
        gas: the gas limit, where the caller gave none.

    Raises:
        InvalidTransaction: it is for another chain, or of a kind that this chain does not have.
    """
    full = {name: value for name, value in tx.items() if value is not None}
    if _read_chain(full.setdefault("chainId", quote.chain_id)) != quote.chain_id:
        raise InvalidTransaction(f"chainId: is not {quote.chain_id}, the chain of the node that it would be sent to")
    if gas is not None:
        full.setdefault("gas", gas)
    fee, blob_fee = needs_fees(full)
    if fee:
        full |= _fees(full, quote)
    if blob_fee and quote.blob_fee is not None:
        full["maxFeePerBlobGas"] = _HEADROOM * quote.blob_fee
    return full


def _fees(tx: Mapping[str, Any], quote: Quote) -> dict[str, int]:
    kind = None if tx.get("type") is None else _read_type(tx["type"])
    if kind in {_LEGACY, _ACCESS_LIST}:
        return {"gasPrice": quote.price + _HEADROOM * (quote.base_fee or 0)}
    if quote.base_fee is None:
        if kind is not None or not (_FEE_PAIR | _BLOBS | {"authorizationList"}).isdisjoint(tx):
            raise InvalidTransaction("type: the node's chain has no base fee (EIP-1559); give gasPrice")
        return {"gasPrice": quote.price}
    if "maxFeePerGas" in tx:
        return {"maxPriorityFeePerGas": min(quote.price, _read_fee(tx["maxFeePerGas"]))}
    if "maxPriorityFeePerGas" in tx:
        return {"maxFeePerGas": _HEADROOM * quote.base_fee + _read_tip(tx["maxPriorityFeePerGas"])}
    return {"maxPriorityFeePerGas": quote.price, "maxFeePerGas": _HEADROOM * quote.base_fee + quote.price}


def for_estimate(tx: Mapping[str, Any], sender: str) -> dict[str, Any]:
    """The call object of ``eth_estimateGas``: as the caller wrote it, with numbers as JSON-RPC writes them.

    Left out is the nonce, which is not known yet, and blobs, which make no difference to gas and are large.
    """
    left_out = {"nonce", "from", *SIDECAR_FIELDS}
    asked = {name: value for name, value in tx.items() if value is not None and name not in left_out}
    numbers = {name: hex(value) for name, value in asked.items() if type(value) is int}
    return {"from": sender, **asked, **numbers}


def _given(tx: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in tx.items() if value is not None)
