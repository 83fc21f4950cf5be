"""The arguments of op-signer's eth_signTransaction, with the words that its clients know."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest

from manahsm.api.op_signer import arguments_for_op_signer, block_payload_for_op_signer
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


# ---- block payloads ----

PAYLOAD = b"arbitraryData"
PAYLOAD_HASH = bytes.fromhex("eea6bb6591d20b52f2b6574fb20bf7279cd03d581613d8ea1e88c82b8400144b")
SENDER = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
V1: dict[str, Any] = {
    "domain": [0] * 32,
    "chainId": 100,
    "payloadHash": "7qa7ZZHSC1LytldPsgv3J5zQPVgWE9jqHojIK4QAFEs=",
    "senderAddress": SENDER,
}
V2: dict[str, Any] = {
    "domain": "0x" + "00" * 32,
    "chainId": "100",
    "payloadHash": "0x" + PAYLOAD_HASH.hex(),
    "senderAddress": SENDER,
}


@pytest.mark.parametrize("args", [V1, V2, {**V2, "chainId": "0x64"}], ids=["V1", "V2", "V2 in hex"])
def test_a_block_payload_is_read_in_every_form_of_it(args: dict[str, Any]) -> None:
    payload = {"domain": bytes(32), "chainId": 100, "payloadHash": PAYLOAD_HASH}
    assert block_payload_for_op_signer(args, []) == (SENDER, payload)


def test_a_sequencer_with_one_key_need_not_name_it() -> None:
    sender, _ = block_payload_for_op_signer({**V2, "senderAddress": None}, [key(7)])
    assert sender == key(7).address


def test_the_payload_that_older_clients_send_along_must_be_that_of_the_hash() -> None:
    block_payload_for_op_signer({**V1, "PayloadBytes": b64encode(PAYLOAD).decode()}, [])
    with pytest.raises(InvalidTransaction, match="PayloadBytes: payloadHash is not the hash of it"):
        block_payload_for_op_signer({**V1, "PayloadBytes": b64encode(PAYLOAD[1:]).decode()}, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chainId": None}, "chainId not specified"),
        ({"chainId": 0}, "chainId: must be at least 1"),
        ({"chainId": 1.0}, "chainId: is float"),
        ({"chainId": "0100"}, "chainId: is not a 0x number"),
        ({"chainId": 2**256}, "chainId: must be below 2"),
        ({"payloadHash": None}, "payloadHash not specified"),
        ({"payloadHash": "7qa7"}, "payloadHash has unexpected length"),
        ({"payloadHash": "0x00"}, "payloadHash has unexpected length"),
        ({"payloadHash": "0x0"}, "payloadHash: is not 0x"),
        ({"payloadHash": "not base64!"}, "payloadHash: is neither 0x hex nor base64"),
        ({"payloadHash": 7}, "payloadHash: is int"),
        ({"domain": [0] * 31 + [256]}, "domain: is no list of bytes"),
        ({"domain": [True] * 32}, "domain: is no list of bytes"),
        ({"senderAddress": None}, "senderAddress not specified, and this caller may use 2 keys"),
        ({"payloadhash": "0x00"}, "payloadhash: is no argument"),
    ],
)
def test_a_block_payload_that_could_mean_something_else_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTransaction, match=f"^{words}"):
        block_payload_for_op_signer({**V1, **change}, [key(1), key(2)])
