"""What op-signer insists on before it signs a transaction (pure).

The one thing to know: the checks and their words are those of ``op-service/signer/transaction_args.go``, so the batcher
and the proposer see what they would see there. What op-signer drops in silence (it signs a type 4 transaction as type
2) is left to the service, which signs what was asked for or refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.fields import byte_string, integer
from manahsm.requests import KeyInfo

__all__ = ["arguments_for_op_signer"]

_read_fee = integer("maxFeePerGas")
_read_tip = integer("maxPriorityFeePerGas")
_read_data = byte_string("data")
_read_input = byte_string("input")


def arguments_for_op_signer(tx: Mapping[str, Any], keys: Sequence[KeyInfo]) -> dict[str, Any]:
    """Check the arguments of ``eth_signTransaction``.

    Args:
        tx: the arguments; ``null`` counts as absent.
        keys: those that the caller may use, where ``from`` is absent: op-signer knows the key by its client.

    Returns:
        The arguments, with ``from``.

    Raises:
        InvalidTransaction: they are not what op-signer takes.
    """
    given = {name: value for name, value in tx.items() if value is not None}
    _check(given)
    if "from" not in given:
        if len(keys) != 1:
            raise InvalidTransaction(f"from not specified, and this caller may use {len(keys)} keys, not one")
        given["from"] = keys[0].address
    return given


def _check(given: Mapping[str, Any]) -> None:
    _require(given, "gas", "gas not specified")
    if "gasPrice" in given:
        raise InvalidTransaction("only accepts maxFeePerGas/maxPriorityFeePerGas params")
    _require(given, "maxFeePerGas", "missing maxFeePerGas or maxPriorityFeePerGas")
    _require(given, "maxPriorityFeePerGas", "missing maxFeePerGas or maxPriorityFeePerGas")
    fee, tip = _read_fee(given["maxFeePerGas"]), _read_tip(given["maxPriorityFeePerGas"])
    if fee < tip:
        raise InvalidTransaction(f"maxFeePerGas ({fee:#x}) < maxPriorityFeePerGas ({tip:#x})")
    _require(given, "nonce", "nonce not specified")
    if "to" not in given and not _call_data(given):
        raise InvalidTransaction("contract creation without any data provided")
    _require(given, "chainId", "chain id not specified")
    _check_blobs(given)


def _call_data(given: Mapping[str, Any]) -> bytes:
    data: bytes = _read_data(given.get("data", "0x"))
    call_input: bytes = _read_input(given.get("input", "0x"))
    return call_input or data


def _check_blobs(given: Mapping[str, Any]) -> None:
    if "blobVersionedHashes" not in given:
        if "maxFeePerBlobGas" in given:
            raise InvalidTransaction("unexpected blob-fee-cap, transaction does not include blobs")
        return
    if not given["blobVersionedHashes"]:
        raise InvalidTransaction("non-null blob versioned hashes should not be empty")
    _require(given, "maxFeePerBlobGas", "when including blobs a blob-fee-cap is required")


def _require(given: Mapping[str, Any], name: str, words: str) -> None:
    if name not in given:
        raise InvalidTransaction(words)
