"""Whatever is ambiguous, contradictory or malformed is refused, with the name of the field."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from ethereum_strategies import ANYTHING, FEES, signed_authorization, valid_transaction
from hypothesis import example, given
from hypothesis import strategies as st

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import DynamicFeeTransaction, check_sender, parse_transaction
from manahsm.ethereum.signatures import CURVE_ORDER, HALF_ORDER

NUMBERS = ["nonce", "gas", "value", "chainId", "maxFeePerGas", "maxPriorityFeePerGas"]
NOT_NUMBERS = [
    True,
    False,
    "1",
    "",
    "0x",
    "0xg",
    "0x 1",
    " 0x1",
    "0x1 ",
    "0x_1",
    "-0x1",
    "0x-1",
    "\uff11",
    1.0,
    b"\x01",
]
MIXED_CASE_WRONG = "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def refusal(tx: Any, chain_id: Any = None) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        parse_transaction(tx, chain_id)
    return str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [*NOT_NUMBERS, [], {}, -1, 2**256, "0x1" + "0" * 64, pytest.param(10**5000, id="10**5000")]
)
def test_a_number_that_is_not_one_or_is_out_of_range(name: str, value: Any) -> None:
    assert refusal(valid_transaction(2) | {name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize("value", [2**64 - 1, "0xffffffffffffffff"])
def test_a_nonce_that_can_not_be_followed_by_another(value: Any) -> None:
    assert refusal(valid_transaction(2, nonce=value)).startswith("nonce: ")
    assert parse_transaction(valid_transaction(2, nonce=2**64 - 2)).nonce == 2**64 - 2


def test_an_int_of_a_subclass_is_an_int() -> None:
    class Nonce(enum.IntEnum):
        FIRST = 7

    nonce = parse_transaction(valid_transaction(2, nonce=Nonce.FIRST)).nonce
    assert (type(nonce), nonce) == (int, 7)


def test_the_largest_numbers_that_fit_are_taken() -> None:
    tx = valid_transaction(2, gas=2**256 - 1, value="0x" + "f" * 64)
    assert parse_transaction(tx).value == 2**256 - 1


@pytest.mark.parametrize("kind", range(5))
def test_chain_zero_is_no_chain(kind: int) -> None:
    assert refusal(valid_transaction(kind, chainId=0)).startswith("chainId: ")
    assert refusal(valid_transaction(kind, chainId=None, authorizationList=None), 0).startswith("chain_id: ")


def test_a_legacy_chain_id_whose_v_would_not_fit() -> None:
    largest = (2**256 - 37) // 2
    encoded = parse_transaction(valid_transaction(0, chainId=largest)).encode_signed(1, 1, 1)
    assert encoded.v < 2**256
    assert refusal(valid_transaction(0, chainId=largest + 1)).startswith("chainId: ")
    assert refusal(valid_transaction(0, chainId=None), largest + 1).startswith("chainId: ")


@pytest.mark.parametrize("kind", range(5))
def test_a_chain_id_that_differs_from_the_one_asked_for(kind: int) -> None:
    assert refusal(valid_transaction(kind), 2).startswith("chainId: differs")
    assert refusal(parse_transaction(valid_transaction(kind)), 2).startswith("chainId: differs")
    assert parse_transaction(valid_transaction(kind), 1).chain_id == 1


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_typed_transaction_without_a_chain(kind: int) -> None:
    assert refusal(valid_transaction(kind, chainId=None)).startswith("chainId: is missing")


REQUIRED = [(kind, name) for kind in range(5) for name in ("nonce", "gas", *FEES[kind])]


@pytest.mark.parametrize(("kind", "name"), [*REQUIRED, (4, "authorizationList")])
def test_a_required_field_that_is_missing(kind: int, name: str) -> None:
    assert refusal(valid_transaction(kind) | {name: None}).startswith(f"{name}: is missing")


def test_no_fee_at_all_says_which_to_give() -> None:
    assert refusal({"nonce": 0, "gas": 21_000, "to": "0x" + "11" * 20}).startswith("maxFeePerGas: is missing")


FOREIGN = {
    "gasPrice": (1, {2, 3, 4}),
    "maxFeePerGas": (1, {0, 1}),
    "maxPriorityFeePerGas": (1, {0, 1}),
    "accessList": ([], {0}),
    "maxFeePerBlobGas": (1, {0, 1, 2, 4}),
    "blobVersionedHashes": (["0x01" + "00" * 31], {0, 1, 2, 4}),
    "blobs": ([], {0, 1, 2, 4}),
    "commitments": ([], {0, 1, 2, 4}),
    "proofs": ([], {0, 1, 2, 4}),
    "wrapperVersion": (1, {0, 1, 2, 4}),
    "authorizationList": ([signed_authorization(1)], {0, 1, 2, 3}),
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for name, (value, kinds) in FOREIGN.items() for kind in kinds],
)
def test_a_field_of_another_type_contradicts_the_type(kind: int, name: str, value: Any) -> None:
    message = refusal(valid_transaction(kind) | {name: value})
    assert message.startswith(f"{name}: does not belong to a type {kind} transaction")


def test_gas_price_beside_the_fee_pair() -> None:
    assert refusal(valid_transaction(2, type=None, gasPrice=1)).startswith("gasPrice: ")


def test_a_2930_request_is_never_signed_as_legacy() -> None:
    assert refusal(valid_transaction(1, type=0)).startswith("accessList: ")


def test_a_7702_request_is_never_signed_as_1559() -> None:
    assert refusal(valid_transaction(4, type=2)).startswith("authorizationList: ")


@pytest.mark.parametrize("value", [5, -1, "0x5", "2", "0x7f", True, "eip1559", 2.0])
def test_a_type_that_does_not_exist(value: Any) -> None:
    assert refusal(valid_transaction(2, type=value)).startswith("type: ")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gasLimit", "gas"),
        ("gas_limit", "gas"),
        ("max_fee_per_gas", "maxFeePerGas"),
        ("Nonce", "nonce"),
        ("vaule", "value"),
        ("chainID", "chainId"),
    ],
)
def test_an_unknown_field_names_the_nearest_known_one(name: str, meant: str) -> None:
    assert refusal(valid_transaction(2) | {name: 1}) == f"{name}: is unknown; did you mean {meant}?"


def test_an_unknown_field_like_no_other_is_still_refused() -> None:
    assert refusal(valid_transaction(2) | {"zzz": 1}) == "zzz: is unknown; leave it out"


@pytest.mark.parametrize("key", [1, None, b"nonce", "0x" + "ab" * 32, "a b", ("nonce",)])
def test_a_key_that_is_no_field_name_is_refused_and_not_repeated(key: Any) -> None:
    message = refusal(valid_transaction(2) | {key: 1})
    assert message.startswith("(a key that is not a field name): ")
    assert "abab" not in message


@pytest.mark.parametrize("name", ["v", "r", "s", "yParity", "hash"])
def test_a_transaction_that_is_signed_already(name: str) -> None:
    assert "signed already" in refusal(valid_transaction(2) | {name: 1})


def test_data_and_input_that_differ() -> None:
    assert refusal(valid_transaction(2, data="0x01", input="0x02")).startswith("input: differs from data")


@pytest.mark.parametrize("name", ["data", "input"])
@pytest.mark.parametrize("value", ["a9059cbb", "0xabc", "0xzz", 1, ["0x"], True, "hello", {}])
def test_data_in_a_form_that_is_read_in_two_ways(name: str, value: Any) -> None:
    assert refusal(valid_transaction(2, data=None) | {name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["to", "from"])
@pytest.mark.parametrize(
    "value",
    [
        MIXED_CASE_WRONG,
        "0x",
        "0x11",
        "11" * 20,
        "0x" + "11" * 21,
        b"\x11" * 19,
        1,
        True,
        ["0x"],
        "vitalik.eth",
    ],
)
def test_an_address_that_is_malformed_or_has_a_bad_checksum(name: str, value: Any) -> None:
    assert refusal(valid_transaction(2) | {name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize("value", [b"", ""])
def test_an_empty_from_is_no_address(value: Any) -> None:
    assert refusal(valid_transaction(2) | {"from": value}).startswith("from: ")


def test_a_from_that_is_not_the_key() -> None:
    hinted = parse_transaction(valid_transaction(2, **{"from": "0x" + "33" * 20}))
    with pytest.raises(InvalidTransaction, match=r"^from: is not the address of this key"):
        check_sender(hinted, "0x" + "34" * 20)


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("to", [None, b"", ""])
def test_blobs_and_set_code_can_not_create_a_contract(kind: int, to: Any) -> None:
    assert refusal(valid_transaction(kind) | {"to": to}).startswith("to: is required")


GOOD_ENTRY = {"address": "0x" + "22" * 20, "storageKeys": []}


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"address": "0x" + "22" * 20}, "entry"),
        ({**GOOD_ENTRY, "extra": 1}, "entry"),
        (["0x" + "22" * 20], "entry"),
        ("0x" + "22" * 20, "entry"),
        (None, "entry"),
        ({**GOOD_ENTRY, "address": MIXED_CASE_WRONG}, "address"),
        ({**GOOD_ENTRY, "storageKeys": "0x01"}, "storageKeys"),
        ({**GOOD_ENTRY, "storageKeys": None}, "storageKeys"),
        ({**GOOD_ENTRY, "storageKeys": [b"\x01"]}, "storageKeys"),
        ({**GOOD_ENTRY, "storageKeys": ["0x" + "00" * 33]}, "storageKeys"),
        ({**GOOD_ENTRY, "storageKeys": [2**256]}, "storageKeys"),
    ],
)
def test_an_access_list_entry_that_is_malformed(entry: Any, where: str) -> None:
    tx = valid_transaction(1, accessList=[GOOD_ENTRY, entry])
    assert refusal(tx).startswith(f"accessList[1].{where}: ")


@pytest.mark.parametrize("value", ["0x", b"", 1, {}, {"address": 1}])
def test_an_access_list_that_is_no_list(value: Any) -> None:
    assert refusal(valid_transaction(1, accessList=value)).startswith("accessList: ")


@pytest.mark.parametrize(
    "hashes", [[], "0x01", ["0x01"], ["0x02" + "00" * 31], ["0x01" + "00" * 32], [b"\x01" * 31], [1], {}]
)
def test_blob_hashes_that_are_missing_or_malformed(hashes: Any) -> None:
    assert refusal(valid_transaction(3, blobVersionedHashes=hashes)).startswith("blobVersionedHashes")


def test_a_blob_transaction_with_neither_hashes_nor_blobs() -> None:
    assert refusal(valid_transaction(3, blobVersionedHashes=None)).startswith("blobVersionedHashes: is empty")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"yParity": 2}, "yParity"),
        ({"yParity": 27}, "yParity"),
        ({"r": 0}, "r"),
        ({"r": CURVE_ORDER}, "r"),
        ({"s": 0}, "s"),
        ({"s": HALF_ORDER + 1}, "s"),
        ({"nonce": 2**64 - 1}, "nonce"),
        ({"address": ""}, "address"),
        ({"address": MIXED_CASE_WRONG}, "address"),
        ({"chainId": 2}, "chainId"),
        ({"v": 27}, "v"),
    ],
)
def test_an_authorization_entry_that_the_chain_would_skip(changes: dict[str, Any], where: str) -> None:
    entry = signed_authorization(1) | changes
    message = refusal(valid_transaction(4, authorizationList=[signed_authorization(1), entry]))
    assert message.startswith(f"authorizationList[1].{where}: ")


@pytest.mark.parametrize("name", ["chainId", "address", "nonce", "yParity", "r", "s"])
def test_an_authorization_entry_with_a_field_missing(name: str) -> None:
    entry = signed_authorization(1)
    del entry[name]
    assert refusal(valid_transaction(4, authorizationList=[entry])).startswith(
        f"authorizationList[0].{name}: is missing"
    )


@pytest.mark.parametrize("value", [[], {}, "0x", 1, [1], [None], [[]]])
def test_an_authorization_list_that_is_empty_or_no_list(value: Any) -> None:
    assert refusal(valid_transaction(4, authorizationList=value)).startswith("authorizationList")


@pytest.mark.parametrize("tx", [None, 1, "0x02", b"\x02", [], [("nonce", 1)]])
def test_something_that_is_no_transaction(tx: Any) -> None:
    assert refusal(tx).startswith("transaction: ")


@pytest.mark.parametrize("chain_id", [True, "1", -1, 1.0, b"\x01", []])
def test_a_chain_id_argument_that_is_no_number(chain_id: Any) -> None:
    assert refusal(valid_transaction(2), chain_id).startswith("chain_id: ")


def test_a_class_refuses_what_a_mapping_refuses() -> None:
    with pytest.raises(InvalidTransaction, match=r"^nonce: "):
        DynamicFeeTransaction(chain_id=1, nonce=-1, max_priority_fee_per_gas=1, max_fee_per_gas=1, gas=1)
    with pytest.raises(InvalidTransaction, match=r"^chainId: "):
        DynamicFeeTransaction(
            chain_id=None,  # type: ignore[arg-type]
            nonce=1,
            max_priority_fee_per_gas=1,
            max_fee_per_gas=1,
            gas=1,
        )


def test_null_counts_as_absent() -> None:
    nulls = dict.fromkeys(["gasPrice", "authorizationList", "blobs", "input", "from"])
    assert parse_transaction({**valid_transaction(2), **nulls}) == parse_transaction(valid_transaction(2))


SECRET = "5ec2e7" * 10 + "5ec2"


@pytest.mark.parametrize("name", ["nonce", "to", "type", "accessList", "from", "unknown", "0x" + SECRET, SECRET])
@pytest.mark.parametrize(
    "value", ["0x" + SECRET, SECRET, bytes.fromhex(SECRET), [SECRET], {SECRET: SECRET}, int(SECRET, 16)]
)
def test_a_private_key_in_the_wrong_place_is_never_repeated(name: str, value: Any) -> None:
    message = refusal(valid_transaction(1) | {name: value})
    assert "5ec2" not in message
    assert str(int(SECRET, 16)) not in message


FIELD_NAMES = [
    *valid_transaction(3),
    *valid_transaction(4),
    "gasPrice",
    "input",
    "from",
    "blobs",
    "commitments",
    "proofs",
]


@given(
    st.dictionaries(st.one_of(st.sampled_from(FIELD_NAMES), st.text(max_size=8)), ANYTHING),
    st.none() | ANYTHING,
)
@example({"type": 3, "blobs": [], "to": "0x" + "11" * 20}, None)
def test_an_arbitrary_mapping_never_raises_anything_else(tx: dict[Any, Any], chain_id: Any) -> None:
    try:
        transaction = parse_transaction(tx, chain_id)
    except InvalidTransaction:
        return
    assert len(transaction.signing_digest()) == 32


@given(st.integers(0, 4), st.sampled_from(sorted(set(FIELD_NAMES))), ANYTHING)
def test_a_valid_transaction_with_one_field_spoilt_never_raises_anything_else(kind: int, name: str, value: Any) -> None:
    try:
        transaction = parse_transaction(valid_transaction(kind) | {name: value})
    except InvalidTransaction:
        return
    assert len(transaction.signing_digest()) == 32
