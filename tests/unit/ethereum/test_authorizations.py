"""EIP-7702 authorizations: byte-equal to eth-account's, and never for every chain by accident."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from ethereum_strategies import ADDRESSES, ANYTHING, NONCES, PRIVATE_KEYS, UINT256, valid_transaction
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import Authorization, AuthorizationEntry, parse_authorization, parse_transaction, sign
from manahsm.requests import Backend, SignedAuthorization

VALID = {"chainId": 1, "address": "0x" + "11" * 20, "nonce": 0}


@given(UINT256, ADDRESSES, NONCES, PRIVATE_KEYS)
def test_an_authorization_is_signed_as_eth_account_signs_it(
    chain_id: int, address: bytes, nonce: int, key: bytes
) -> None:
    theirs = Account.sign_authorization({"chainId": chain_id, "address": address, "nonce": nonce}, key)
    ours = parse_authorization({"chainId": hex(chain_id), "address": "0x" + address.hex(), "nonce": nonce})
    signature = sign(key, ours.signing_digest())
    assert bytes(theirs.authorization_hash) == ours.signing_digest()
    assert (theirs.y_parity, theirs.r, theirs.s) == (signature.y_parity, signature.r, signature.s)


def test_a_chain_id_given_beside_it_fills_a_missing_one() -> None:
    without = {"address": VALID["address"], "nonce": 0}
    assert parse_authorization(VALID) == parse_authorization(without, 1)
    assert parse_authorization(parse_authorization(VALID), 1) == parse_authorization(VALID)


@pytest.mark.parametrize(("inside", "asked"), [(1, 2), (0, 1), (1, 0)])
def test_a_chain_id_that_differs_from_the_one_asked_for(inside: int, asked: int) -> None:
    with pytest.raises(InvalidTransaction, match=r"^chainId: differs"):
        parse_authorization(VALID | {"chainId": inside}, asked)
    with pytest.raises(InvalidTransaction, match=r"^chainId: differs"):
        parse_authorization(Authorization(chain_id=inside, address=b"\x11" * 20, nonce=0), asked)


def test_every_chain_is_authorized_only_where_the_caller_says_so() -> None:
    assert parse_authorization(VALID | {"chainId": 0}).chain_id == 0
    assert parse_authorization(VALID | {"chainId": 0}, 0).chain_id == 0
    with pytest.raises(InvalidTransaction, match=r"^chainId: is missing"):
        parse_authorization({"address": VALID["address"], "nonce": 0})


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"nonce": None}, "nonce: is missing"),
        ({"address": None}, "address: is missing"),
        ({"nonce": 2**64 - 1}, "nonce: "),
        ({"nonce": True}, "nonce: "),
        ({"address": b""}, "address: "),
        ({"address": "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}, "address: has a wrong EIP-55"),
        ({"chainId": 2**256}, "chainId: "),
        ({"r": 1}, "r: does not belong to this authorization; it is signed already"),
        ({"contract": 1}, "contract: does not belong to this authorization; known are chainId"),
    ],
)
def test_an_authorization_that_is_malformed(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidTransaction) as caught:
        parse_authorization(VALID | changes)
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize("value", [None, [], "0x", 5])
def test_something_that_is_no_authorization(value: Any) -> None:
    with pytest.raises(InvalidTransaction, match=r"^authorization: "):
        parse_authorization(value)


def test_a_signed_authorization_goes_into_a_transaction_in_every_form() -> None:
    theirs = Account.sign_authorization(VALID, b"\x07" * 32)
    ours = SignedAuthorization(
        chain_id=1,
        address=b"\x11" * 20,
        nonce=0,
        y_parity=theirs.y_parity,
        r=theirs.r,
        s=theirs.s,
        backend=Backend.SOFTWARE,
        key_id=None,
    )
    entry = AuthorizationEntry(
        chain_id=1, address=b"\x11" * 20, nonce=0, y_parity=theirs.y_parity, r=theirs.r, s=theirs.s
    )
    forms = [theirs, ours, ours.to_mapping(), entry]
    transactions = [parse_transaction(valid_transaction(4, authorizationList=[form])) for form in forms]
    assert [transaction.authorization_list for transaction in transactions] == [(entry,)] * len(forms)


def test_a_summary_tells_what_is_delegated_to_whom() -> None:
    assert parse_authorization(VALID).summary() == {
        "type": "authorization",
        "chainId": "1",
        "address": "0x" + "11" * 20,
        "nonce": "0",
    }


@given(st.dictionaries(st.sampled_from([*VALID, "r", "s"]), ANYTHING) | ANYTHING, st.none() | ANYTHING)
def test_anything_is_read_or_refused(value: Any, chain_id: Any) -> None:
    try:
        authorization = parse_authorization(value, chain_id)
    except InvalidTransaction:
        return
    assert len(authorization.signing_digest()) == 32
