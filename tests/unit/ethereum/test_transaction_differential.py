"""Software signatures are byte-equal to eth-account's, for every type and every spelling of the fields."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest
import rlp
from eth_account import Account
from ethereum_strategies import (
    CHAIN_IDS,
    PRIVATE_KEYS,
    canonical_transactions,
    respelled,
    valid_transaction,
)
from hypothesis import given
from hypothesis import strategies as st

from manahsm.ethereum import (
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    EncodedTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    keccak256,
    parse_transaction,
    sign,
)

CLASSES = [
    LegacyTransaction,
    AccessListTransaction,
    DynamicFeeTransaction,
    BlobTransaction,
    SetCodeTransaction,
]


def signed_by_us(tx: Any, key: bytes, chain_id: int | None = None) -> tuple[EncodedTransaction, int, int]:
    transaction = parse_transaction(tx, chain_id)
    signature = sign(key, transaction.signing_digest())
    return transaction.encode_signed(signature.y_parity, signature.r, signature.s), signature.r, signature.s


def signed_by_eth_account(tx: dict[str, Any], key: bytes) -> tuple[EncodedTransaction, int, int]:
    signed = Account.sign_transaction(tx, key)
    encoded = EncodedTransaction(bytes(signed.raw_transaction), bytes(signed.hash), signed.v)
    return encoded, signed.r, signed.s


@pytest.mark.parametrize("kind", range(5))
def test_a_transaction_of_each_type_is_signed_as_eth_account_signs_it(kind: int) -> None:
    @given(st.data(), canonical_transactions(kind), PRIVATE_KEYS)
    def check(data: st.DataObject, canonical: dict[str, Any], key: bytes) -> None:
        spelled = data.draw(respelled(canonical))
        assert signed_by_eth_account(canonical, key) == signed_by_us(spelled, key)

    check()


@given(canonical_transactions(), PRIVATE_KEYS, CHAIN_IDS)
def test_a_chain_id_given_beside_the_transaction_is_as_good_as_one_inside(
    canonical: dict[str, Any], key: bytes, chain_id: int
) -> None:
    canonical.pop("authorizationList", None)
    if canonical.get("type") == 4:
        canonical["type"] = 2
    outside = {name: value for name, value in canonical.items() if name != "chainId"}
    assert signed_by_eth_account({**canonical, "chainId": chain_id}, key) == signed_by_us(outside, key, chain_id)


@pytest.mark.parametrize("kind", range(5))
def test_the_type_is_found_from_the_fields_alone(kind: int) -> None:
    assert type(parse_transaction(valid_transaction(kind, type=None))) is CLASSES[kind]


@given(canonical_transactions())
def test_an_object_is_signed_like_the_mapping_that_it_was_read_from(canonical: dict[str, Any]) -> None:
    transaction = parse_transaction(canonical)
    assert parse_transaction(transaction) is transaction
    rebuilt = attrs.evolve(transaction)
    assert rebuilt == transaction
    assert rebuilt.signing_digest() == transaction.signing_digest()


@given(canonical_transactions())
def test_a_transaction_survives_the_way_to_another_process(canonical: dict[str, Any]) -> None:
    transaction = parse_transaction(canonical)
    copy = pickle.loads(pickle.dumps(transaction))  # noqa: S301 - our own bytes
    assert copy == transaction
    assert copy.encode_signed(1, 2, 3) == transaction.encode_signed(1, 2, 3)


def test_a_class_takes_the_same_forms_as_a_mapping() -> None:
    built = DynamicFeeTransaction(
        chain_id="0x1",  # type: ignore[arg-type]
        nonce=5,
        max_priority_fee_per_gas=1,
        max_fee_per_gas="0x2",  # type: ignore[arg-type]
        gas=21_000,
        to="0x" + "11" * 20,  # type: ignore[arg-type]
        data="0x00",  # type: ignore[arg-type]
    )
    mapping = {
        "chainId": 1,
        "nonce": 5,
        "maxPriorityFeePerGas": 1,
        "maxFeePerGas": 2,
        "gas": 21_000,
        "to": b"\x11" * 20,
        "data": b"\0",
    }
    assert parse_transaction(mapping) == built


def test_a_legacy_object_without_a_chain_takes_the_one_asked_for() -> None:
    unprotected = parse_transaction(valid_transaction(0, chainId=None))
    protected = parse_transaction(unprotected, 5)
    assert parse_transaction(valid_transaction(0, chainId=5)) == protected
    assert protected.signing_digest() != unprotected.signing_digest()


@given(canonical_transactions())
def test_the_hash_of_a_transaction_without_blobs_is_that_of_its_raw_form(canonical: dict[str, Any]) -> None:
    encoded = parse_transaction(canonical).encode_signed(0, 1, 1)
    assert keccak256(encoded.raw_transaction) == encoded.hash


@given(canonical_transactions(0), st.integers(0, 1))
def test_legacy_v_follows_eip_155(canonical: dict[str, Any], parity: int) -> None:
    transaction = parse_transaction(canonical)
    encoded = transaction.encode_signed(parity, 1, 1)
    chain_id = canonical.get("chainId")
    assert (27 + parity if chain_id is None else 35 + 2 * chain_id + parity) == encoded.v
    assert encoded.v == int.from_bytes(rlp.decode(encoded.raw_transaction)[6], "big")
