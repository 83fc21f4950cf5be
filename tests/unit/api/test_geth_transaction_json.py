"""A signed transaction in geth's JSON: every type, against what was signed and against eth-account's reading of it."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from manahsm.api.transaction_json import signed_transaction_json
from manahsm.ethereum.blobs import BlobSidecar, versioned_hash
from manahsm.ethereum.signatures import sign
from manahsm.ethereum.transactions import BlobTransaction, Transaction, parse_transaction
from manahsm.requests import Backend, SignedTransaction

KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
TO = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
ACCESS = [{"address": TO, "storageKeys": ["0x" + "00" * 31 + "07"]}]
COMMON: dict[str, Any] = {"nonce": 7, "gas": 21000, "to": TO, "value": 10**18, "data": "0xc0ffee"}
PAIR = {"maxFeePerGas": 30, "maxPriorityFeePerGas": 2}
AUTHORIZATION = {"chainId": 1, "address": TO, "nonce": 3, "yParity": 1, "r": 5, "s": 6}
TYPES: dict[str, dict[str, Any]] = {
    "without a chain": {**COMMON, "gasPrice": 9},
    "legacy": {**COMMON, "gasPrice": 9, "chainId": 31337},
    "creation": {**COMMON, "gasPrice": 9, "chainId": 1, "to": None},
    "access list": {**COMMON, "gasPrice": 9, "chainId": 1, "accessList": ACCESS},
    "dynamic fee": {**COMMON, **PAIR, "chainId": 1, "accessList": []},
    "blob": {
        **COMMON,
        **PAIR,
        "chainId": 1,
        "accessList": ACCESS,
        "maxFeePerBlobGas": 4,
        "blobVersionedHashes": ["0x01" + "ab" * 31],
    },
    "set code": {**COMMON, **PAIR, "chainId": 1, "authorizationList": [AUTHORIZATION]},
}


def signed(tx: Transaction) -> SignedTransaction:
    made = sign(KEY, tx.signing_digest())
    encoded = tx.encode_signed(made.y_parity, made.r, made.s)
    return SignedTransaction(
        raw_transaction=encoded.raw_transaction,
        hash=encoded.hash,
        v=encoded.v,
        r=made.r,
        s=made.s,
        backend=Backend.SOFTWARE,
        key_id=None,
    )


def shown(name: str) -> dict[str, Any]:
    return signed_transaction_json(signed(parse_transaction(TYPES[name])))


@pytest.mark.parametrize("name", TYPES)
def test_what_is_shown_is_what_was_signed(name: str) -> None:
    tx = parse_transaction(TYPES[name])
    made, document = signed(tx), shown(name)
    again = {
        key: value
        for key, value in document.items()
        if key not in {"v", "r", "s", "yParity", "hash"} and value is not None
    }
    assert parse_transaction(again) == tx
    assert document["hash"] == "0x" + made.hash.hex()
    assert [int(document[key], 16) for key in "vrs"] == [made.v, made.r, made.s]


@pytest.mark.parametrize("name", [name for name in TYPES if name not in {"without a chain", "legacy", "creation"}])
def test_eth_account_reads_the_same_in_the_signed_bytes(name: str) -> None:
    made, document = signed(parse_transaction(TYPES[name])), shown(name)
    theirs = TypedTransaction.from_bytes(HexBytes(made.raw_transaction)).as_dict()
    for key in ("nonce", "gas", "value", "maxFeePerGas", "maxPriorityFeePerGas", "gasPrice", "v", "r", "s", "chainId"):
        if document.get(key) is not None:
            assert int(document[key], 16) == theirs[key], key
    assert Account.recover_transaction(made.raw_transaction) == Account.from_key(KEY).address


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("without a chain", "0x0", set()),
        ("legacy", "0x0", {"chainId"}),
        ("access list", "0x1", {"chainId", "accessList", "yParity"}),
        ("dynamic fee", "0x2", {"chainId", "accessList", "yParity"}),
        ("blob", "0x3", {"chainId", "accessList", "yParity", "maxFeePerBlobGas", "blobVersionedHashes"}),
        ("set code", "0x4", {"chainId", "accessList", "yParity", "authorizationList"}),
    ],
)
def test_each_type_has_the_members_that_geth_gives_it(name: str, kind: str, more: set[str]) -> None:
    always = {"type", "nonce", "to", "gas", "value", "input", "v", "r", "s", "hash"}
    fees = {"gasPrice", "maxFeePerGas", "maxPriorityFeePerGas"}
    document = shown(name)
    assert document["type"] == kind
    assert document.keys() == always | fees | more
    assert (document["gasPrice"] is None) is (kind in {"0x2", "0x3", "0x4"})


def test_a_contract_creation_has_no_recipient() -> None:
    assert shown("creation")["to"] is None


def test_the_sidecar_of_blobs_is_shown() -> None:
    blob, commitment, proof = b"\x00" * 131072, b"\xc0" + b"\x00" * 47, b"\xc0" + b"\x11" * 47
    for version in (0, 1):
        sidecar = BlobSidecar(wrapper_version=version, blobs=(blob,), commitments=(commitment,), proofs=(proof,) * 2)
        tx = BlobTransaction(
            chain_id=1,
            nonce=0,
            max_priority_fee_per_gas=1,
            max_fee_per_gas=1,
            gas=21000,
            to=TO,
            max_fee_per_blob_gas=1,
            sidecar=sidecar,
        )
        document = signed_transaction_json(signed(tx))
        assert document["blobs"] == ["0x" + blob.hex()]
        assert document["commitments"] == ["0x" + commitment.hex()]
        assert document["proofs"] == ["0x" + proof.hex()] * 2
        assert document["blobVersionedHashes"] == ["0x" + versioned_hash(commitment).hex()]
        assert document["hash"] == "0x" + signed(tx).hash.hex()


@given(
    nonce=st.integers(0, 2**64 - 2),
    value=st.integers(0, 2**256 - 1),
    chain_id=st.integers(1, 2**200),
    data=st.binary(max_size=40),
)
def test_numbers_are_quantities_without_leading_zeros(nonce: int, value: int, chain_id: int, data: bytes) -> None:
    tx = parse_transaction(
        {"nonce": nonce, "gas": 1, "gasPrice": 0, "to": TO, "value": value, "data": data, "chainId": chain_id}
    )
    document = signed_transaction_json(signed(tx))
    assert document["nonce"] == hex(nonce)
    assert document["value"] == hex(value)
    assert document["gasPrice"] == "0x0"
    assert document["chainId"] == hex(chain_id)
    assert document["input"] == "0x" + data.hex()
