"""The arguments of op-signer's eth_signTransaction, with the words that its clients know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from manahsm.api.op_signer import arguments_for_op_signer
from manahsm.errors import InvalidTransaction
from manahsm.requests import Backend, KeyInfo, Role

ARGUMENTS: dict[str, Any] = {
    "from": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "gas": "0x5208",
    "maxFeePerGas": "0x77359400",
    "maxPriorityFeePerGas": "0x3b9aca00",
    "value": "0x1",
    "nonce": "0x7",
    "input": "0x",
    "chainId": "0x7a69",
}
HASH = "0x01" + "00" * 31


def key(number: int) -> KeyInfo:
    return KeyInfo(
        key_id=f"{number:016x}",
        address=f"0x{number:040x}",
        public_key=bytes(65),
        label=f"key {number}",
        role=Role.TRANSACTION_SIGNER,
        backend=Backend.HSM,
        created_at=datetime.now(UTC),
    )


def test_what_a_batcher_sends_is_taken_as_it_is() -> None:
    nulls = {"gasPrice": None, "data": None, "accessList": None}
    assert arguments_for_op_signer({**ARGUMENTS, **nulls}, []) == ARGUMENTS


def test_blobs_are_taken() -> None:
    blobs = {"blobVersionedHashes": [HASH], "maxFeePerBlobGas": "0x1"}
    assert arguments_for_op_signer({**ARGUMENTS, **blobs}, []) == {**ARGUMENTS, **blobs}


def test_a_contract_is_created_from_data() -> None:
    assert arguments_for_op_signer({**ARGUMENTS, "to": None, "input": "0x00"}, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gas": None}, "gas not specified"),
        ({"gasPrice": "0x1"}, "only accepts maxFeePerGas/maxPriorityFeePerGas params"),
        ({"maxFeePerGas": None}, "missing maxFeePerGas or maxPriorityFeePerGas"),
        ({"maxPriorityFeePerGas": None}, "missing maxFeePerGas or maxPriorityFeePerGas"),
        ({"maxFeePerGas": "0x1"}, "maxFeePerGas (0x1) < maxPriorityFeePerGas (0x3b9aca00)"),
        ({"nonce": None}, "nonce not specified"),
        ({"to": None}, "contract creation without any data provided"),
        ({"chainId": None}, "chain id not specified"),
        ({"maxFeePerBlobGas": "0x1"}, "unexpected blob-fee-cap, transaction does not include blobs"),
        ({"blobVersionedHashes": []}, "non-null blob versioned hashes should not be empty"),
        ({"blobVersionedHashes": [HASH]}, "when including blobs a blob-fee-cap is required"),
        ({"maxFeePerGas": "many"}, "maxFeePerGas: is not a 0x number"),
        ({"to": None, "input": 1}, "input: is int"),
        ({"from": None}, "from not specified, and this caller may use 0 keys, not one"),
    ],
)
def test_what_op_signer_refuses_is_refused_in_its_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTransaction) as refused:
        arguments_for_op_signer({**ARGUMENTS, **change}, [])
    assert str(refused.value).startswith(words)


def test_without_a_sender_the_only_key_of_the_client_signs() -> None:
    given = {**ARGUMENTS, "from": None}
    assert arguments_for_op_signer(given, [key(1)])["from"] == key(1).address
    with pytest.raises(InvalidTransaction, match="2 keys"):
        arguments_for_op_signer(given, [key(1), key(2)])
