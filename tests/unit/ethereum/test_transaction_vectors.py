"""Published vectors: they hold whatever our oracle library does."""

from __future__ import annotations

import pytest
from ethereum_strategies import valid_transaction

from manahsm.ethereum import address_of, key_id_of, parse_transaction, public_key_of, sign
from manahsm.ethereum.transaction_types import BaseTransaction
from manahsm.ethereum.transactions import check_sender


def test_the_example_of_eip_155() -> None:
    tx = {
        "nonce": 9,
        "gasPrice": 20 * 10**9,
        "gas": 21_000,
        "to": "0x3535353535353535353535353535353535353535",
        "value": 10**18,
        "data": "0x",
        "chainId": 1,
    }
    transaction = parse_transaction(tx)
    digest = transaction.signing_digest()
    assert digest.hex() == "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
    signature = sign(b"\x46" * 32, digest)
    encoded = transaction.encode_signed(signature.y_parity, signature.r, signature.s)
    assert encoded.v == 37
    assert encoded.raw_transaction.hex() == (
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a0"
        "28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b"
        "3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )


def test_the_address_of_private_key_one() -> None:
    public_key = public_key_of((1).to_bytes(32, "big"))
    assert address_of(public_key) == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    assert key_id_of(public_key) == "c0a6c424ac7157ae"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (0, {"type": "legacy", "gasPrice": "1000000000"}),
        (1, {"type": "eip2930", "gasPrice": "1000000000", "accessListLength": 1}),
        (2, {"type": "eip1559", "maxFeePerGas": "1000000000", "maxPriorityFeePerGas": "1000000000"}),
        (
            3,
            {
                "type": "eip4844",
                "maxFeePerBlobGas": "1000000000",
                "blobVersionedHashes": ["0x01" + "ab" * 31],
            },
        ),
        (
            4,
            {
                "type": "eip7702",
                "authorizationList": [{"chainId": "1", "address": "0x" + "11" * 20, "nonce": "0"}],
            },
        ),
    ],
)
def test_a_summary_tells_an_auditor_what_the_transaction_does(kind: int, expected: dict[str, object]) -> None:
    summary = parse_transaction(valid_transaction(kind)).summary()
    common = {
        "to": "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
        "value": "1000000000000000000",
        "nonce": "5",
        "gas": "21000",
        "chainId": "1",
        "dataLength": 6,
        "selector": "0xa9059cbb",
    }
    assert {**summary, **common, **expected} == summary


def test_only_concrete_types_can_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseTransaction(nonce=0, gas=0)  # type: ignore[abstract]


def test_init_code_has_no_selector_and_a_creation_no_recipient() -> None:
    summary = parse_transaction(valid_transaction(2, to=None, data=b"\x60\x80\x60\x40")).summary()
    assert (summary["to"], summary["selector"]) == (None, None)


def test_an_unprotected_transaction_says_so_in_its_summary() -> None:
    assert parse_transaction(valid_transaction(0, chainId=None)).summary()["chainId"] is None


def test_from_is_kept_for_the_caller_to_check_and_never_signed() -> None:
    hinted = parse_transaction(valid_transaction(2, **{"from": "0x" + "33" * 20}))
    assert hinted.sender_hint == b"\x33" * 20
    assert hinted.signing_digest() == parse_transaction(valid_transaction(2)).signing_digest()
    check_sender(hinted, "0x" + "33" * 20)
    check_sender(parse_transaction(valid_transaction(2)), "0x" + "44" * 20)
