"""The same 1559 transactions for everybody, and those who sign them without us.

The one thing to know: the plain loop is the floor. It encodes, hashes, signs and encodes again, from the mapping that
the service gets to the raw transaction and its hash, with the same libraries; it checks nothing, records nothing and
trusts what it is given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rlp
import sha3
from bench.children import HERE, Child
from coincurve import PrivateKey
from eth_account import Account
from eth_utils.address import to_checksum_address

__all__ = ["CHAIN_ID", "PRIVATE_KEY", "TRANSACTIONS", "eth_account_loop", "node_signer", "plain_loop", "sign_plainly"]

CHAIN_ID = 31337
PRIVATE_KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
TRANSACTIONS: tuple[Mapping[str, Any], ...] = tuple(
    {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": number,
        "maxPriorityFeePerGas": 10**9,
        "maxFeePerGas": 30 * 10**9 + number,
        "gas": 21_000,
        "to": to_checksum_address(f"0x{number + 1:040x}"),
        "value": 10**15 + number,
    }
    for number in range(1000)
)
_NODE_MODULES = HERE.parent / "e2e/node/node_modules"

Sign = Callable[[int], object]


def sign_plainly(key: PrivateKey, tx: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Raw transaction and hash of a 1559 transaction that is what it should be."""
    fields = [
        _number(tx["chainId"]),
        _number(tx["nonce"]),
        _number(tx["maxPriorityFeePerGas"]),
        _number(tx["maxFeePerGas"]),
        _number(tx["gas"]),
        bytes.fromhex(tx["to"][2:]),
        _number(tx["value"]),
        bytes.fromhex(tx.get("data", "0x")[2:]),
        tx.get("accessList", []),
    ]
    digest = sha3.keccak_256(b"\x02" + rlp.encode(fields, infer_serializer=False)).digest()
    signature = key.sign_recoverable(digest, hasher=None)
    fields += (
        _number(signature[64]),
        signature[:32].lstrip(b"\0"),
        signature[32:64].lstrip(b"\0"),
    )
    raw = b"\x02" + rlp.encode(fields, infer_serializer=False)
    return raw, sha3.keccak_256(raw).digest()


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def plain_loop() -> Sign:
    """The floor."""
    key = PrivateKey(PRIVATE_KEY)
    return lambda number: sign_plainly(key, TRANSACTIONS[number % len(TRANSACTIONS)])


def eth_account_loop() -> Sign:
    """eth-account with a local account."""
    account = Account.from_key(PRIVATE_KEY)
    return lambda number: account.sign_transaction(TRANSACTIONS[number % len(TRANSACTIONS)])


def node_signer(library: str, modules: Path = _NODE_MODULES) -> Child | None:
    """viem or ethers in a process of its own, where Node and the library are there."""
    node = shutil.which("node")
    if node is None or not (modules / library).is_dir():
        return None
    first = json.dumps({"privateKey": "0x" + PRIVATE_KEY.hex(), "transactions": TRANSACTIONS})
    return Child([node, HERE / "node_signers.mjs", library, modules], first=first)
