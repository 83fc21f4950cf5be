"""Private keys come in many forms and are never repeated; public keys are points of the curve or nothing."""

from __future__ import annotations

from typing import Any

import coincurve
import pytest
from eth_account import Account
from eth_keys import keys
from eth_utils import to_checksum_address
from ethereum_strategies import ADDRESSES, ANYTHING, PRIVATE_KEYS, key_pair
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidRequest
from manahsm.ethereum import (
    address_of,
    keccak256,
    key_id_of,
    parse_private_key,
    parse_public_key,
    public_key_of,
)
from manahsm.ethereum.addresses import checksum_address, decode_address
from manahsm.ethereum.signatures import CURVE_ORDER

KEY, PUBLIC_KEY = key_pair(0x5EC2E75EC2E7)


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        bytearray(KEY),
        "0x" + KEY.hex(),
        "0X" + KEY.hex().upper(),
        KEY.hex(),
        int.from_bytes(KEY, "big"),
        coincurve.PrivateKey(KEY),
        keys.PrivateKey(KEY),
        Account.from_key(KEY),
    ],
    ids=lambda form: type(form).__name__,
)
def test_every_form_that_old_code_passes_is_the_same_key(form: Any) -> None:
    parsed = parse_private_key(form)
    assert (bytes, KEY) == (type(parsed), parsed)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        KEY[1:],
        KEY + b"\0",
        bytes(32),
        CURVE_ORDER.to_bytes(32, "big"),
        b"\xff" * 32,
        0,
        -1,
        CURVE_ORDER,
        2**300,
        True,
        "",
        "0x",
        "0x" + KEY.hex()[1:],
        "0x" + KEY.hex() + "00",
        " " + KEY.hex(),
        KEY.hex() + "\n",
        None,
        1.0,
        [KEY],
        pytest.param(object(), id="object()"),
        pytest.param(type("HasKey", (), {"key": "text", "secret": None, "to_bytes": 5})(), id="HasKey()"),
    ],
    ids=repr,
)
def test_something_that_is_no_private_key(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_private_key(value)


@pytest.mark.parametrize(
    "value", ["0x" + KEY.hex() + "ff", KEY + b"\xff", KEY.hex() + "zz", int.from_bytes(KEY, "big") << 256]
)
def test_a_malformed_private_key_is_never_repeated(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_private_key(value)
    assert "5ec2e7" not in f"{caught.value!r}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(ANYTHING)
def test_parsing_anything_as_a_private_key_gives_a_key_or_one_error(value: Any) -> None:
    try:
        key = parse_private_key(value)
    except InvalidRequest:
        return
    assert 0 < int.from_bytes(key, "big") < CURVE_ORDER


@given(PRIVATE_KEYS)
def test_public_keys_addresses_and_ids_agree_with_eth_keys(key: bytes) -> None:
    theirs = keys.PrivateKey(key).public_key
    ours = public_key_of(key)
    assert b"\x04" + theirs.to_bytes() == ours
    assert public_key_of(coincurve.PrivateKey(key)) == ours
    assert theirs.to_checksum_address() == address_of(ours)
    assert keccak256(theirs.to_bytes()).hex()[:16] == key_id_of(ours)


@given(PRIVATE_KEYS)
def test_a_public_key_is_taken_in_each_of_its_forms(key: bytes) -> None:
    point = coincurve.PrivateKey(key).public_key
    full, short = point.format(compressed=False), point.format(compressed=True)
    forms = [full, bytearray(full), full[1:], short, full.hex(), "0x" + full.hex(), "0x" + short.hex()]
    assert [parse_public_key(form) for form in forms] == [full] * len(forms)


OFF_CURVE = PUBLIC_KEY[:-1] + bytes([PUBLIC_KEY[-1] ^ 1])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        "",
        "0x04",
        b"\x04" + bytes(64),
        OFF_CURVE,
        OFF_CURVE[1:],
        b"\x06" + PUBLIC_KEY[1:],
        b"\x07" + PUBLIC_KEY[1:],
        b"\x03" + PUBLIC_KEY[1:],
        b"\x04" + PUBLIC_KEY[1:33],
        b"\x02" + b"\xff" * 32,
        PUBLIC_KEY + b"\0",
        b"\x00",
        5,
        None,
        "zz",
    ],
    ids=lambda value: value.hex()[:20] if isinstance(value, bytes) else repr(value),
)
def test_something_that_is_no_point_of_the_curve(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a secp256k1 public key"):
        parse_public_key(value)


@pytest.mark.parametrize(
    "text",
    [  # EIP-55's own
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_the_addresses_of_eip_55(text: str) -> None:
    assert checksum_address(decode_address(text)) == text


@given(ADDRESSES)
def test_checksums_agree_with_eth_utils(address: bytes) -> None:
    assert to_checksum_address(address) == checksum_address(address)


@given(ADDRESSES, st.integers(2, 41))
def test_one_letter_in_the_wrong_case_is_noticed(address: bytes, position: int) -> None:
    text = checksum_address(address)
    changed = text[:position] + text[position].swapcase() + text[position + 1 :]
    if changed in {text, "0x" + text[2:].lower(), "0x" + text[2:].upper()}:
        return
    with pytest.raises(ValueError, match="checksum"):
        decode_address(changed)
