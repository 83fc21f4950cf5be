"""The example files are what they say: one line of each kind that can be signed, and lines that can not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import (
    LegacyTransaction,
    message_digest,
    parse_digest,
    parse_transaction,
    sign,
    typed_data_digest,
)

EXAMPLES = Path(__file__).parents[3] / "examples"
KINDS = {"legacy": 0, "eip155": 0, "eip2930": 1, "eip1559": 2, "eip4844": 3, "eip7702": 4}
DEV_CHAIN = 31337
AUTHORITY = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"  # the development node's second account


def by_id(name: str) -> dict[str, dict[str, Any]]:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, (text for text in lines if text.endswith("}")))}


GOOD = by_id("transactions.jsonl")
BAD = by_id("bad-lines.jsonl")


def test_there_is_one_line_of_each_kind_in_order() -> None:
    assert [*KINDS, "message", "typed-data", "hash"] == list(GOOD)
    assert {line["key"] for line in GOOD.values()} == {"dev-signer"}


@pytest.mark.parametrize("name", KINDS)
def test_a_line_is_a_transaction_of_the_kind_that_its_id_says(name: str) -> None:
    line = GOOD[name]
    transaction = parse_transaction(line["tx"], line.get("chain_id"))
    assert KINDS[name] == transaction.TYPE
    assert transaction.chain_id == (None if name == "legacy" else DEV_CHAIN)
    signature = sign(b"\x07" * 32, transaction.signing_digest())
    encoded = transaction.encode_signed(signature.y_parity, signature.r, signature.s)
    assert Account.recover_transaction(encoded.raw_transaction) == Account.from_key(b"\x07" * 32).address


def test_the_first_line_is_not_bound_to_a_chain_and_the_second_is() -> None:
    legacy, protected = (
        parse_transaction(GOOD[name]["tx"], GOOD[name].get("chain_id")) for name in ("legacy", "eip155")
    )
    assert isinstance(legacy, LegacyTransaction)
    assert legacy.encode_signed(0, 1, 1).v == 27
    assert protected.encode_signed(0, 1, 1).v == 35 + 2 * DEV_CHAIN


def test_the_nonces_follow_each_other() -> None:
    assert [GOOD[name]["tx"]["nonce"] for name in KINDS] == list(range(6))


def test_the_authorization_is_signed_by_the_node_s_second_account() -> None:
    entry = GOOD["eip7702"]["tx"]["authorizationList"][0]
    raw = {name: entry[name] for name in ("chainId", "address", "nonce")}
    key = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
    signed = Account.sign_authorization(raw, key)
    assert Account.from_key(key).address == AUTHORITY
    assert (entry["yParity"], entry["r"], entry["s"]) == (signed.y_parity, hex(signed.r), hex(signed.s))


def test_the_other_lines_can_be_digested() -> None:
    digests = [
        message_digest(GOOD["message"]["message"]),
        typed_data_digest(GOOD["typed-data"]["typed_data"], DEV_CHAIN),
        parse_digest(GOOD["hash"]["hash"]),
    ]
    assert [len(digest) for digest in digests] == [32, 32, 32]


def test_the_bad_lines_are_bad_in_the_way_their_ids_say() -> None:
    first = (EXAMPLES / "bad-lines.jsonl").read_text(encoding="utf-8").splitlines()[0]
    with pytest.raises(json.JSONDecodeError):
        json.loads(first)
    assert BAD["unknown-key"]["key"] != "dev-signer"
    for name, message in (("unknown-field", "gasLimit: is unknown"), ("wrong-chain", "chainId: differs")):
        with pytest.raises(InvalidTransaction, match=f"^{message}"):
            parse_transaction(BAD[name]["tx"], BAD[name]["chain_id"])
    for name in ("unknown-key", "signed-after-them"):
        parse_transaction(BAD[name]["tx"], BAD[name]["chain_id"])
