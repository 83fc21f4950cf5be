"""What op-signer insists on before it signs a transaction or a block payload (pure).

The one thing to know: the checks and their words are those of ``transaction_args.go`` and ``blockpayload_args.go`` in
``op-service/signer``, so the batcher, the proposer and the sequencer see what they would see there. What op-signer
drops in silence (it signs a type 4 transaction as type 2) is left to the service, which signs what was asked for or
refuses.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.fields import byte_string, integer, kind_of, refuse, show_name
from manahsm.requests import KeyInfo

__all__ = ["arguments_for_op_signer", "block_payload_for_op_signer"]

_BLOCK_FIELDS = ("domain", "chainId", "payloadHash", "senderAddress", "PayloadBytes")
_DECIMAL = re.compile(r"[1-9][0-9]{0,77}")
_HASH_SIZE = 32
_BYTE = 256

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
        given["from"] = _only_address(keys, "from")
    return given


def block_payload_for_op_signer(args: Mapping[str, Any], keys: Sequence[KeyInfo]) -> tuple[str, dict[str, Any]]:
    """Check the arguments of ``opsigner_signBlockPayload`` and ``opsigner_signBlockPayloadV2``.

    The first writes them as Go does by itself (a list of numbers, a number, base64), the second as Ethereum does (0x
    hex, decimal text). No form of one means something else in the other, and there are clients that call the first with
    those of the second, so both take either.

    Args:
        args: the arguments; ``null`` counts as absent.
        keys: those that the caller may use, where ``senderAddress`` is absent.

    Returns:
        The address whose key is to sign, and the payload as :class:`~manahsm.requests.SignRequest` has it.

    Raises:
        InvalidTransaction: they are not what op-signer takes.
    """
    given = {name: value for name, value in args.items() if value is not None}
    for name in given:
        if name not in _BLOCK_FIELDS:
            refuse(show_name(name), f"is no argument of a block payload; they are {', '.join(_BLOCK_FIELDS[:-1])}")
    _require(given, "chainId", "chainId not specified")
    _require(given, "payloadHash", "payloadHash not specified")
    payload_hash = _bytes_of("payloadHash", given["payloadHash"])
    if len(payload_hash) != _HASH_SIZE:
        raise InvalidTransaction("payloadHash has unexpected length")
    # Older clients send the payload along, and op-signer never looks.
    if "PayloadBytes" in given and keccak256(_bytes_of("PayloadBytes", given["PayloadBytes"])) != payload_hash:
        raise InvalidTransaction("PayloadBytes: payloadHash is not the hash of it")
    payload = {"chainId": _chain_of(given["chainId"]), "payloadHash": payload_hash}
    if "domain" in given:
        payload["domain"] = _bytes_of("domain", given["domain"])
    sender = given["senderAddress"] if "senderAddress" in given else _only_address(keys, "senderAddress")
    return sender, payload


def _only_address(keys: Sequence[KeyInfo], name: str) -> str:
    if len(keys) != 1:
        raise InvalidTransaction(f"{name} not specified, and this caller may use {len(keys)} keys, not one")
    return keys[0].address


def _bytes_of(name: str, value: Any) -> bytes:
    """Bytes as 0x hex, or as Go writes them: base64, or a list of numbers."""
    if isinstance(value, list):
        if not all(type(byte) is int and 0 <= byte < _BYTE for byte in value):
            refuse(name, "is no list of bytes; give numbers from 0 to 255")
        return bytes(value)
    if not isinstance(value, str):
        refuse(name, f"is {kind_of(value)}; give 0x hex, base64, or a list of numbers")
    if value.startswith(("0x", "0X")):
        data: bytes = byte_string(name)(value)
        return data
    try:
        return b64decode(value, validate=True)
    except binascii.Error:
        refuse(name, "is neither 0x hex nor base64")


def _chain_of(value: Any) -> int:
    """A chain id as a number, as 0x hex, or as op-service writes it: as decimal text."""
    read = integer("chainId", least=1)
    number: int = read(int(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value)
    return number


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
