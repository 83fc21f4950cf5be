"""What a key in a token signs, an Ethereum node mines, from the key's own address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_account.messages import SignableMessage, encode_defunct, encode_typed_data
from ethereum_node import CHAIN_ID, DEV_ACCOUNT, DEV_PRIVATE_KEY, Node, NodeError
from services import config_for
from softhsm import SoftHSMToken

import manahsm
from manahsm import Backend, KeyInfo, Role, Service, Signature
from manahsm.ethereum.signatures import keccak256

pytestmark = pytest.mark.anyio

ETHER = 10**18
FEES = {"chainId": CHAIN_ID, "maxPriorityFeePerGas": 10**9, "maxFeePerGas": 10**11}
OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
TRANSFER = {"gas": 21000, "to": OTHER, "value": 12345}
BLOB = b"\x00" + b"a blob of the end-to-end tests".ljust(131071, b"\x00")
# PUSH1 10 PUSH1 12 PUSH1 0 CODECOPY PUSH1 10 PUSH1 0 RETURN, and the code that it returns: PUSH1 42 ... RETURN
ANSWERS_42 = bytes.fromhex("602a60005260206000f3")
CREATE_ANSWERS_42 = bytes.fromhex("600a600c600039600a6000f3") + ANSWERS_42
NOT_IN_A_BLOCK = {"blobs", "wrapperVersion"}  # what only the network form of a transaction has
ECRECOVER = "0x0000000000000000000000000000000000000001"

TYPED_DATA: Mapping[str, Any] = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "to", "type": "address"}, {"name": "contents", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "End to end", "chainId": CHAIN_ID},
    "message": {"to": OTHER, "contents": "Hello"},
}


@asynccontextmanager
async def funded_key(token: SoftHSMToken, directory: Path, node: Node) -> AsyncIterator[tuple[Service, KeyInfo]]:
    """A service and a key made in its token, to which the dev account, as a raw private key, sent 10 ether."""
    async with manahsm.open_service(config_for(token, directory)) as service:
        key = await service.generate_key("signer", Role.TRANSACTION_SIGNER, Backend.HSM)
        transfer = {"nonce": node.nonce(DEV_ACCOUNT), **FEES, "gas": 21000, "to": key.address, "value": 10 * ETHER}
        funding = await service.sign_transaction(transfer, DEV_PRIVATE_KEY, CHAIN_ID)
        node.mine(funding.raw_transaction)
        assert node.balance(key.address) == 10 * ETHER
        yield service, key


async def sign_and_mine(service: Service, key: KeyInfo, node: Node, tx: Mapping[str, Any]) -> dict[str, Any]:
    """Sign in the token, send raw, mine; returns the receipt.

    The node has found what was asked for, field by field, and that it came from the key.
    """
    tx = {"nonce": node.nonce(key.address), **tx}
    signed = await service.sign_transaction(tx, key.key_id)
    assert signed.backend is Backend.HSM
    (receipt,) = node.mine(signed.raw_transaction)
    assert receipt["from"] == key.address.lower()
    assert receipt["transactionHash"] == "0x" + signed.hash.hex()
    mined = node.rpc("eth_getTransactionByHash", receipt["transactionHash"])
    asked = {name: in_rpc_form(value) for name, value in tx.items() if name not in NOT_IN_A_BLOCK}
    assert {name: in_rpc_form(mined["input" if name == "data" else name]) for name in asked} == asked
    return receipt


def in_rpc_form(value: Any) -> Any:
    """Numbers, bytes, addresses and lists of them as JSON-RPC writes them."""
    match value:
        case int():
            return hex(value)
        case bytes():
            return "0x" + value.hex()
        case str():
            return value.lower()
        case list():
            return [in_rpc_form(item) for item in value]
        case _:
            return {name: in_rpc_form(item) for name, item in value.items()}


def hash_of(message: SignableMessage) -> bytes:
    """The digest as eth-account and a contract compute it (EIP-191: 0x19 || version || header || body)."""
    return keccak256(b"\x19" + message.version + message.header + message.body)


def recovered_on_chain(node: Node, digest: bytes, signature: Signature) -> str:
    """The address that the ecrecover precompile finds, as a contract would."""
    words = [digest, signature.v.to_bytes(32, "big"), signature.r.to_bytes(32, "big"), signature.s.to_bytes(32, "big")]
    word = node.rpc("eth_call", {"to": ECRECOVER, "data": "0x" + b"".join(words).hex()}, "latest")
    return "0x" + word[-40:]


@pytest.mark.parametrize(
    ("tx", "kind"),
    [
        pytest.param({"gasPrice": 10**11, **TRANSFER}, "0x0", id="legacy-without-chain"),
        pytest.param({"chainId": CHAIN_ID, "gasPrice": 10**11, **TRANSFER}, "0x0", id="eip155"),
        pytest.param(
            {
                "chainId": CHAIN_ID,
                "gasPrice": 10**11,
                **TRANSFER,
                "gas": 30000,
                "accessList": [{"address": OTHER, "storageKeys": ["0x" + "00" * 31 + "07"]}],
            },
            "0x1",
            id="eip2930",
        ),
        pytest.param({**FEES, **TRANSFER}, "0x2", id="eip1559"),
    ],
)
async def test_a_transfer_is_mined(
    softhsm_token: SoftHSMToken, directory: Path, node: Node, tx: dict[str, Any], kind: str
) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        before = node.balance(OTHER)
        receipt = await sign_and_mine(service, key, node, tx)
        assert receipt["type"] == kind
        assert node.balance(OTHER) - before == TRANSFER["value"]


async def test_cell_proofs_are_mined_by_todays_rules(softhsm_token: SoftHSMToken, directory: Path, node: Node) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        tx = {"type": 3, **FEES, **TRANSFER, "maxFeePerBlobGas": 10**11, "blobs": [BLOB], "wrapperVersion": 1}
        receipt = await sign_and_mine(service, key, node, tx)
        assert (receipt["type"], receipt["blobGasUsed"]) == ("0x3", hex(131072))


async def test_blob_proofs_are_mined_by_the_rules_of_prague(
    softhsm_token: SoftHSMToken, directory: Path, prague_node: Node
) -> None:
    async with funded_key(softhsm_token, directory, prague_node) as (service, key):
        tx = {"type": 3, **FEES, **TRANSFER, "maxFeePerBlobGas": 10**11, "blobs": [BLOB], "wrapperVersion": 0}
        receipt = await sign_and_mine(service, key, prague_node, tx)
        assert (receipt["type"], receipt["blobGasUsed"]) == ("0x3", hex(131072))


async def test_a_contract_is_created(softhsm_token: SoftHSMToken, directory: Path, node: Node) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        receipt = await sign_and_mine(service, key, node, {**FEES, "gas": 100000, "data": CREATE_ANSWERS_42})
        contract = receipt["contractAddress"]
        assert node.rpc("eth_getCode", contract, "latest") == "0x" + ANSWERS_42.hex()
        assert int(node.rpc("eth_call", {"to": contract}, "latest"), 16) == 42


async def test_a_key_in_a_token_delegates_its_account_to_a_contract(
    softhsm_token: SoftHSMToken, directory: Path, node: Node
) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        created = await sign_and_mine(service, key, node, {**FEES, "gas": 100000, "data": CREATE_ANSWERS_42})
        contract = created["contractAddress"]
        # EIP-7702: the sender's nonce is raised before its own authorization is looked at.
        delegation = {"chainId": CHAIN_ID, "address": contract, "nonce": node.nonce(key.address) + 1}
        signed = await service.sign_authorization(delegation, key.key_id)
        assert signed.backend is Backend.HSM
        tx = {"type": 4, **FEES, "gas": 100000, "to": key.address, "authorizationList": [signed.to_mapping()]}
        receipt = await sign_and_mine(service, key, node, tx)
        assert receipt["type"] == "0x4"
        assert node.rpc("eth_getCode", key.address, "latest") == "0xef0100" + contract.removeprefix("0x")
        assert int(node.rpc("eth_call", {"to": key.address}, "latest"), 16) == 42


async def test_one_key_in_a_token_sponsors_the_delegation_of_another(
    softhsm_token: SoftHSMToken, directory: Path, node: Node
) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, sponsor):
        poor = await service.generate_key("poor", Role.TRANSACTION_SIGNER, Backend.HSM)
        signed = await service.sign_authorization({"chainId": 0, "address": OTHER, "nonce": 0}, poor.key_id)
        tx = {"type": 4, **FEES, "gas": 100000, "to": poor.address, "authorizationList": [signed.to_mapping()]}
        await sign_and_mine(service, sponsor, node, tx)
        assert node.rpc("eth_getCode", poor.address, "latest") == "0xef0100" + OTHER.removeprefix("0x").lower()


async def test_a_batch_is_mined_in_one_block(softhsm_token: SoftHSMToken, directory: Path, node: Node) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        first = node.nonce(key.address)
        txs = [{**FEES, **TRANSFER, "nonce": first + position} for position in range(20)]
        batch = await service.batch_sign_transactions(txs, key.key_id, CHAIN_ID)
        raw = [result.raw_transaction for result in batch if not isinstance(result, manahsm.ManaHSMError)]
        receipts = node.mine(*raw)
        assert [receipt["from"] for receipt in receipts] == [key.address.lower()] * 20
        assert {receipt["blockNumber"] for receipt in receipts} == {receipts[0]["blockNumber"]}


async def test_a_transaction_signed_for_another_chain_is_refused_by_the_node(
    softhsm_token: SoftHSMToken, directory: Path, node: Node
) -> None:
    async with funded_key(softhsm_token, directory, node) as (service, key):
        tx = {"nonce": node.nonce(key.address), **FEES, **TRANSFER, "chainId": CHAIN_ID + 1}
        signed = await service.sign_transaction(tx, key.key_id)
        with pytest.raises(NodeError, match=r"(?i)chain"):
            node.mine(signed.raw_transaction)


async def test_a_contract_recovers_the_signer_of_a_message(
    softhsm_token: SoftHSMToken, directory: Path, node: Node
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, directory)) as service:
        key = await service.generate_key("signer", Role.TRANSACTION_SIGNER, Backend.HSM)
        signature = await service.sign_message("Sign in to example.org", key.key_id)
        digest = hash_of(encode_defunct(text="Sign in to example.org"))
        assert recovered_on_chain(node, digest, signature) == key.address.lower()


async def test_a_contract_recovers_the_signer_of_typed_data(
    softhsm_token: SoftHSMToken, directory: Path, node: Node
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, directory)) as service:
        key = await service.generate_key("signer", Role.TRANSACTION_SIGNER, Backend.HSM)
        signature = await service.sign_typed_data(TYPED_DATA, key.key_id, CHAIN_ID)
        digest = hash_of(encode_typed_data(full_message=dict(TYPED_DATA)))
        assert recovered_on_chain(node, digest, signature) == key.address.lower()
