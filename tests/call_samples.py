"""Calls of every method that signs or looks at keys, with every kind of argument that a service takes, or refuses.

The one thing to know: each call names the key ``hot``, which is that of ``A_PRIVATE_KEY``. Arguments are made
anew for each call.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct
from hexbytes import HexBytes
from services import A_PRIVATE_KEY, A_TRANSACTION
from web3.datastructures import AttributeDict

import manahsm
from manahsm import ethereum
from manahsm.requests import SignRequest

__all__ = ["CALLS"]

CHAIN = 31337
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
RAW_TO = bytes.fromhex(TO[2:])
LARGE = 2**60 + 1  # JSON of other languages would round it
FEES = {"maxPriorityFeePerGas": 10**9, "maxFeePerGas": 2 * 10**9}
BASE = {"chainId": CHAIN, "nonce": 7, "gas": 21000, "to": TO}
LEGACY = {"nonce": 0, "gas": 21000, "gasPrice": 10**9, "to": TO}
HASHES = [b"\x01" + bytes(31)]
ENTRY = {"chainId": CHAIN, "address": TO, "nonce": LARGE, "yParity": 1, "r": 2**200, "s": 2**100}
OBJECTS: dict[str, Any] = {"chain_id": CHAIN, "nonce": 7, "gas": 21000, "to": RAW_TO}
PAIR: dict[str, Any] = {"max_priority_fee_per_gas": 1, "max_fee_per_gas": LARGE}
BLOB = bytes(4096 * 32)


class Chain(IntEnum):
    """As programs name chains."""

    ANVIL = CHAIN


def sidecar(version: int) -> Any:
    return ethereum.make_sidecar([BLOB], wrapper_version=version)


def signed_by_eth_account() -> Any:
    return Account.sign_authorization({"chainId": CHAIN, "address": TO, "nonce": 3}, A_PRIVATE_KEY)


def ours(**fields: Any) -> manahsm.SignedAuthorization:
    given = {"chain_id": CHAIN, "address": RAW_TO, "nonce": LARGE, "y_parity": 0, "r": 2**255, "s": 1}
    return manahsm.SignedAuthorization(**{**given, **fields}, backend=manahsm.Backend.HSM, key_id=None)


TRANSACTIONS: dict[str, Callable[[], Any]] = {
    "a mapping": lambda: A_TRANSACTION,
    "text for numbers and bytes": lambda: {**LEGACY, "nonce": "0x1", "data": "0xabcd", "value": hex(LARGE)},
    "numbers beyond what JSON keeps": lambda: {**BASE, **FEES, "value": 2**255, "nonce": LARGE},
    "bytes for addresses and data": lambda: {**BASE, **FEES, "to": RAW_TO, "data": b"\xab", "from": sender()},
    "HexBytes": lambda: {**BASE, **FEES, "to": HexBytes(RAW_TO), "input": HexBytes("0xabcd")},
    "bytearray and memoryview": lambda: {**BASE, **FEES, "to": bytearray(RAW_TO), "data": memoryview(b"\xab\xcd")},
    "a member of an enum as chain": lambda: {**BASE, **FEES, "chainId": Chain.ANVIL},
    "web3.py's AttributeDict": lambda: AttributeDict({**BASE, **FEES}),
    "a read-only mapping": lambda: MappingProxyType({**BASE, **FEES, "value": None}),
    "a contract, to is nothing": lambda: {**BASE, **FEES, "to": b"", "data": b"\x60"},
    "a contract, to is empty text": lambda: {**BASE, **FEES, "to": "", "data": b"\x60"},
    "a contract, to is left out": lambda: {**LEGACY, "to": None, "data": b"\x60"},
    "an access list of mappings": lambda: {
        **BASE,
        **FEES,
        "accessList": [{"address": RAW_TO, "storageKeys": [1, b"\x02" * 32, "0x3", LARGE]}],
    },
    "an access list of pairs": lambda: {**LEGACY, "chainId": CHAIN, "accessList": ((TO, (1, 2**255)),)},
    "an authorization as mapping": lambda: {**BASE, **FEES, "authorizationList": [ENTRY]},
    "our signed authorization": lambda: {**BASE, **FEES, "authorizationList": [ours()]},
    "one of eth-account": lambda: {**BASE, **FEES, "authorizationList": [signed_by_eth_account()]},
    "an entry of manahsm.ethereum": lambda: {
        **BASE,
        **FEES,
        "authorizationList": (
            ethereum.AuthorizationEntry(chain_id=0, address=RAW_TO, nonce=1, y_parity=0, r=1, s=LARGE),
        ),
    },
    "blob hashes": lambda: {**BASE, **FEES, "maxFeePerBlobGas": 1, "blobVersionedHashes": HASHES},
    "blobs": lambda: {**BASE, **FEES, "maxFeePerBlobGas": 1, "blobs": [BLOB]},
    "blobs with their proofs": lambda: {
        **BASE,
        **FEES,
        "maxFeePerBlobGas": 1,
        "blobs": [HexBytes(BLOB)],
        "commitments": list(sidecar(0).commitments),
        "proofs": sidecar(0).proofs,
        "wrapperVersion": 0,
    },
    "LegacyTransaction": lambda: ethereum.LegacyTransaction(nonce=1, gas=2, gas_price=LARGE, to=RAW_TO),
    "LegacyTransaction that makes a contract": lambda: ethereum.LegacyTransaction(
        nonce=1, gas=2, gas_price=3, chain_id=CHAIN, data=b"\x60", sender_hint=sender()
    ),
    "AccessListTransaction": lambda: ethereum.AccessListTransaction(
        **OBJECTS, gas_price=1, access_list=((RAW_TO, (b"\x01" * 32,)),)
    ),
    "DynamicFeeTransaction": lambda: ethereum.DynamicFeeTransaction(**OBJECTS, **PAIR, value=LARGE),
    "BlobTransaction": lambda: ethereum.BlobTransaction(
        **OBJECTS, **PAIR, max_fee_per_blob_gas=1, blob_versioned_hashes=HASHES
    ),
    "BlobTransaction with cell proofs": lambda: ethereum.BlobTransaction(
        **OBJECTS, **PAIR, max_fee_per_blob_gas=1, sidecar=sidecar(1)
    ),
    "SetCodeTransaction": lambda: ethereum.SetCodeTransaction(**OBJECTS, **PAIR, authorization_list=[ours()]),
    # ---- refused ----
    "bytes for a number": lambda: {**BASE, **FEES, "value": b"\x01"},
    "decimal text for a number": lambda: {**BASE, **FEES, "value": "1"},
    "a number for bytes": lambda: {**BASE, **FEES, "data": LARGE},
    "a fraction": lambda: {**BASE, **FEES, "value": 1.0},
    "an address of 0x alone": lambda: {**BASE, **FEES, "to": "0x"},
    "an object of nobody's": lambda: {**BASE, **FEES, "value": object()},
    "an unknown field": lambda: {**BASE, **FEES, "gasLimit": object()},
    "a name that is none": lambda: {**BASE, **FEES, 5: 1},
    "a list": lambda: [1],
    "no fees": lambda: BASE,
    "another chain": lambda: {**BASE, **FEES, "chainId": 1},
    "another sender": lambda: {**BASE, **FEES, "from": TO},
    "input that is not data": lambda: {**BASE, **FEES, "data": "0x01", "input": "0x02"},
    "an authorization that is not signed": lambda: {
        **BASE,
        **FEES,
        "authorizationList": [ethereum.Authorization(chain_id=1, address=RAW_TO, nonce=0)],
    },
    "an authorization with s too large": lambda: {**BASE, **FEES, "authorizationList": [ours(s=2**256 - 1)]},
    "proofs without blobs": lambda: {
        **BASE,
        **FEES,
        "maxFeePerBlobGas": 1,
        "blobVersionedHashes": HASHES,
        "proofs": [],
    },
}


def sender() -> bytes:
    return bytes.fromhex(Account.from_key(A_PRIVATE_KEY).address[2:])


def typed(kind: str, value: Any, **domain: Any) -> dict[str, Any]:
    return {
        "types": {"Note": [{"name": "what", "type": kind}], "Unused": [{"name": "x", "type": "string"}]},
        "primaryType": "Note",
        "domain": {"name": "notes", **domain},
        "message": {"what": value},
    }


TYPED: dict[str, Callable[[], Any]] = {
    "a number beyond what JSON keeps": lambda: typed("uint256", 2**255),
    "a large negative number": lambda: typed("int256", -(2**200)),
    "a member of an enum": lambda: typed("uint64", Chain.ANVIL),
    "bytes": lambda: typed("bytes", b"\x00\xff"),
    "HexBytes": lambda: typed("bytes32", HexBytes(b"\x07" * 32)),
    "an address as bytes": lambda: typed("address", RAW_TO),
    "a list of lists": lambda: typed("int8[2][]", ((1, -1), (2, -2))),
    "text that could be hex": lambda: typed("string", "0x1234"),
    "a domain of every field": lambda: typed(
        "bool", True, version="1", chainId=LARGE, verifyingContract=RAW_TO, salt=b"\x01" * 32
    ),
    "with the domain's type": lambda: {
        **typed("bool", False),
        "types": {"EIP712Domain": [{"name": "name", "type": "string"}], "Note": [{"name": "what", "type": "bool"}]},
    },
    "a number for text": lambda: typed("string", LARGE),
    "bytes for text": lambda: typed("string", b"\x01"),
    "bytes for a number": lambda: typed("uint256", b"\x01"),
    "a list": lambda: [1],
    "an object of nobody's": lambda: typed("uint256", object()),
}
MESSAGES: dict[str, Callable[[], Any]] = {
    "text": lambda: "grüß",
    "bytes": lambda: b"\xff\x00",
    "bytearray": lambda: bytearray(b"\x01"),
    "HexBytes": lambda: HexBytes("0x1234"),
    "nothing": lambda: "",
    "raw": lambda: {"raw": "0x1234"},
    "raw bytes": lambda: {"raw": b"\x12"},
    "text that is meant": lambda: {"text": "0x1234"},
    "text that could be hex": lambda: "0x1234",
    "half a pair of surrogates": lambda: "\ud800",
    "a number": lambda: 5,
    "eth-account's message": lambda: encode_defunct(text="hello"),
}
DIGESTS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"\x07" * 32,
    "HexBytes": lambda: HexBytes(b"\x07" * 32),
    "text": lambda: "0x" + "07" * 32,
    "too short": lambda: b"\x07",
    "text without 0x": lambda: "07" * 32,
    "a number": lambda: 7,
}
AUTHORIZATIONS: dict[str, Callable[[], Any]] = {
    "a mapping": lambda: {"chainId": CHAIN, "address": TO, "nonce": LARGE},
    "for every chain": lambda: {"chainId": 0, "address": RAW_TO, "nonce": "0x1"},
    "of manahsm.ethereum": lambda: ethereum.Authorization(chain_id=Chain.ANVIL, address=HexBytes(RAW_TO), nonce=1),
    "without a chain": lambda: {"address": TO, "nonce": 0},
    "signed already": lambda: ENTRY,
    "a list": lambda: [1],
}


class _Calls(dict[str, Any]):
    """Calls by what is special about each."""

    def of(self, method: str, table: dict[str, Callable[[], Any]], *more: Any) -> None:
        for name, make in table.items():
            self[f"{method}{more[1:] or ''}: {name}"] = lambda s, make=make: getattr(s, method)(make(), *more)


def _calls() -> dict[str, Callable[[Any], Any]]:
    calls = _Calls()
    calls.of("sign_transaction", TRANSACTIONS, "hot")
    calls.of("sign_transaction", {name: make for name, make in TRANSACTIONS.items() if "lob" not in name}, "hot", CHAIN)
    calls.of("sign_typed_data", TYPED, "hot")
    calls.of("sign_message", MESSAGES, "hot")
    calls.of("sign_hash", DIGESTS, "hot")
    calls.of("sign_authorization", AUTHORIZATIONS, "hot")
    for chain in (None, Chain.ANVIL, hex(CHAIN), 1.5):
        calls.of("sign_transaction", {"for a chain": lambda: LEGACY}, "hot", chain)
        calls.of("sign_typed_data", {"for a chain": lambda: typed("bool", True, chainId=CHAIN)}, "hot", chain)
        calls.of("sign_authorization", {"for a chain": lambda: {"address": TO, "nonce": 0}}, "hot", chain)
    return calls | OTHERS


OTHERS: dict[str, Callable[[Any], Any]] = {
    "a role as word": lambda s: s.sign_transaction_with_role(
        TRANSACTIONS["our signed authorization"](), "transaction_signer"
    ),
    "a role of the enum": lambda s: s.sign_transaction_with_role(A_TRANSACTION, manahsm.Role.TRANSACTION_SIGNER, CHAIN),
    "a role that is none": lambda s: s.sign_transaction_with_role(A_TRANSACTION, "emperor"),
    "a role that no key has": lambda s: s.sign_transaction_with_role(A_TRANSACTION, "node_identity"),
    "a batch from a generator, with a bad one": lambda s: s.batch_sign_transactions(
        (tx for tx in (A_TRANSACTION, {**BASE, **FEES, "value": object()}, an_object())), "hot", CHAIN
    ),
    "a batch of nothing": lambda s: s.batch_sign_transactions([], "hot"),
    "a batch larger than one request may be": lambda s: s.batch_sign_transactions(
        [{**A_TRANSACTION, "nonce": number} for number in range(250)], "hot"
    ),
    "an unknown key": lambda s: s.sign_message("x", "cold"),
    "an unknown key in a batch": lambda s: s.batch_sign_transactions([A_TRANSACTION], "cold"),
    "a key that is none": lambda s: s.sign_message("x", 5.5),
    "a timeout that is none": lambda s: s.sign_message("x", "hot", timeout=-1),
    "a timeout that is left open": lambda s: s.sign_message("x", "hot", timeout=None),
    "an option that is none": lambda s: s.sign_message("x", "hot", patience=5),
    "a request": lambda s: s.sign(SignRequest.transaction(an_object(), "hot", chain_id=CHAIN)),
    "a request with a chain that means nothing": lambda s: s.sign(
        SignRequest(operation=manahsm.Operation.MESSAGE, key="hot", payload="x", chain_id=1)
    ),
    "an answer": lambda s: s.answer(SignRequest.message("x", "hot", request_id="r-1")),
    "an answer that is an error": lambda s: s.answer(SignRequest.hash(b"", "hot", request_id="r-1")),
    "keys by members of enums": lambda s: s.list_keys(
        role=manahsm.Role.TRANSACTION_SIGNER, backend=manahsm.Backend.SOFTWARE, usage=manahsm.Usage.SIGNING
    ),
    "keys by words": lambda s: s.list_keys("transaction_signer", "software", "hot", "signing"),
    "keys by words that are none": lambda s: s.list_keys("emperor"),
    "a key by its address": lambda s: s.get_key(Account.from_key(A_PRIVATE_KEY).address),
}


def an_object() -> Any:
    return ethereum.DynamicFeeTransaction(**OBJECTS, **PAIR)


CALLS = _calls()
