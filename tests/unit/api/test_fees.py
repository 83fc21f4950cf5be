"""What is filled into a transaction: never over what the caller said, and never into a contradiction."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.api.fees import Quote, filled, for_estimate, needs_fees
from manahsm.errors import InvalidTransaction
from manahsm.ethereum.transactions import parse_transaction

LONDON = Quote(chain_id=5, base_fee=100, price=3, blob_fee=7)
BERLIN = Quote(chain_id=5, base_fee=None, price=20)
OTHER = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
HASH = "0x01" + "00" * 31


def fill(tx: dict[str, Any], quote: Quote = LONDON) -> dict[str, Any]:
    return filled(tx, quote, gas=21000)


@pytest.mark.parametrize(
    ("tx", "quote", "added"),
    [
        pytest.param({}, LONDON, {"maxPriorityFeePerGas": 3, "maxFeePerGas": 203}, id="nothing said"),
        pytest.param({"type": "0x2"}, LONDON, {"maxPriorityFeePerGas": 3, "maxFeePerGas": 203}, id="1559 asked for"),
        pytest.param({"maxPriorityFeePerGas": "0x9"}, LONDON, {"maxFeePerGas": 209}, id="a tip said"),
        pytest.param({"maxFeePerGas": 150}, LONDON, {"maxPriorityFeePerGas": 3}, id="a limit said"),
        pytest.param({"maxFeePerGas": "0x2"}, LONDON, {"maxPriorityFeePerGas": 2}, id="a limit below the tip"),
        pytest.param({"maxFeePerGas": 9, "maxPriorityFeePerGas": 1}, LONDON, {}, id="both said"),
        pytest.param({"gasPrice": "0x5"}, LONDON, {}, id="a price said"),
        pytest.param(
            {"gasPrice": None}, LONDON, {"maxPriorityFeePerGas": 3, "maxFeePerGas": 203}, id="null is nothing"
        ),
        pytest.param({"type": 0}, LONDON, {"gasPrice": 203}, id="legacy asked for"),
        pytest.param({"type": "0x1", "accessList": []}, LONDON, {"gasPrice": 203}, id="2930 asked for"),
        pytest.param({}, BERLIN, {"gasPrice": 20}, id="no base fee"),
        pytest.param({"type": 0}, BERLIN, {"gasPrice": 20}, id="no base fee and legacy"),
        pytest.param(
            {"blobVersionedHashes": [HASH]},
            LONDON,
            {"maxPriorityFeePerGas": 3, "maxFeePerGas": 203, "maxFeePerBlobGas": 14},
            id="blobs",
        ),
        pytest.param(
            {"type": 3, "maxFeePerGas": 9, "maxPriorityFeePerGas": 1, "maxFeePerBlobGas": "0x1"},
            LONDON,
            {},
            id="all said",
        ),
    ],
)
def test_what_is_missing_is_filled_in(tx: dict[str, Any], quote: Quote, added: dict[str, Any]) -> None:
    said = {name: value for name, value in tx.items() if value is not None}
    assert fill(tx, quote) == {"chainId": 5, "gas": 21000, **said, **added}


def test_gas_that_was_said_is_kept() -> None:
    assert fill({"gas": "0x7530"})["gas"] == "0x7530"


def test_a_chain_that_was_said_is_kept_where_it_is_that_of_the_node() -> None:
    assert fill({"chainId": "0x5"})["chainId"] == "0x5"


@pytest.mark.parametrize("chain", [1, "0x1", 0, "5", True])
def test_a_transaction_for_another_chain_is_refused(chain: Any) -> None:
    with pytest.raises(InvalidTransaction, match="chainId"):
        fill({"chainId": chain})


@pytest.mark.parametrize(
    "tx",
    [
        {"gasPrice": 1, "maxFeePerGas": 2},
        {"gasPrice": 1, "maxPriorityFeePerGas": 2},
        {"type": 2, "gasPrice": 1},
        {"type": "0x4", "gasPrice": "0x1"},
        {"type": 0, "maxFeePerGas": 1},
        {"type": 1, "maxPriorityFeePerGas": 1},
        {"type": 5},
        {"type": "2"},
    ],
)
def test_fees_that_contradict_each_other_are_refused(tx: dict[str, Any]) -> None:
    with pytest.raises(InvalidTransaction):
        needs_fees(tx)


@pytest.mark.parametrize(
    "tx",
    [
        {"type": 2},
        {"type": 4},
        {"maxPriorityFeePerGas": 1},
        {"blobVersionedHashes": [HASH]},
        {"authorizationList": []},
    ],
)
def test_a_chain_without_a_base_fee_has_no_use_for_newer_transactions(tx: dict[str, Any]) -> None:
    with pytest.raises(InvalidTransaction, match="give gasPrice"):
        fill(tx, BERLIN)


fees = st.one_of(st.none(), st.integers(0, 2**128), st.integers(0, 2**128).map(hex))
transactions = st.fixed_dictionaries(
    {"to": st.just(OTHER), "nonce": st.just(0)},
    optional={
        "type": st.sampled_from([None, 0, 1, 2, 3, "0x0", "0x2"]),
        "gasPrice": fees,
        "maxFeePerGas": fees,
        "maxPriorityFeePerGas": fees,
        "maxFeePerBlobGas": fees,
        "blobVersionedHashes": st.just([HASH]),
        "accessList": st.just([]),
        "chainId": st.sampled_from([None, 5, "0x5"]),
    },
)


@given(tx=transactions, base_fee=st.one_of(st.none(), st.integers(0, 2**64)), price=st.integers(0, 2**64))
def test_the_result_keeps_every_word_and_can_be_signed_or_is_refused_by_name(
    tx: dict[str, Any], base_fee: int | None, price: int
) -> None:
    try:
        full = filled(tx, Quote(chain_id=5, base_fee=base_fee, price=price, blob_fee=1), gas=21000)
        parse_transaction(full)
    except InvalidTransaction:
        return
    assert {name: full[name] for name, value in tx.items() if value is not None} == {
        name: value for name, value in tx.items() if value is not None
    }
    limit = int(str(full.get("maxFeePerGas", 0)), 0)
    tip_was_said = tx.get("maxPriorityFeePerGas") is not None
    assert tip_was_said or int(str(full.get("maxPriorityFeePerGas", 0)), 0) <= limit


def test_an_estimate_is_asked_for_without_nonce_and_blobs_and_in_the_form_of_json_rpc() -> None:
    tx = {
        "from": "0xAB",
        "to": OTHER,
        "nonce": 7,
        "value": 10,
        "data": "0x00",
        "type": 3,
        "blobs": ["0x"],
        "gasPrice": None,
    }
    assert for_estimate(tx, "0xab") == {"from": "0xab", "to": OTHER, "value": "0xa", "data": "0x00", "type": "0x3"}
