"""EIP-191 messages and raw digests."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from ethereum_strategies import ANYTHING, PRIVATE_KEYS, WORDS
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import message_digest, parse_digest, sign


@given(st.binary(max_size=300), PRIVATE_KEYS)
def test_a_message_is_signed_as_eth_account_signs_it(message: bytes, key: bytes) -> None:
    theirs = Account.sign_message(encode_defunct(primitive=message), key)
    signature = sign(key, message_digest(message))
    ours = (message_digest(message), signature.r, signature.s, 27 + signature.y_parity)
    assert (bytes(theirs.message_hash), theirs.r, theirs.s, theirs.v) == ours


@given(st.text(max_size=100).filter(lambda text: not text.lower().startswith("0x")))
def test_text_is_hashed_as_utf_8(text: str) -> None:
    assert message_digest(text) == message_digest(text.encode()) == message_digest({"text": text})


def test_the_example_of_the_web3_documentation() -> None:
    expected = "1da44b586eb0729ff70a73c326926f6ed5a25f5b056e7f47fbc6e58d86871655"
    assert message_digest("Some data").hex() == expected


def test_the_length_is_counted_in_bytes() -> None:
    assert message_digest("é") == message_digest(b"\xc3\xa9")


@pytest.mark.parametrize("text", ["0x", "0xab", "0XAB", "0x" + "00" * 32])
def test_text_that_could_be_hex_is_refused(text: str) -> None:
    with pytest.raises(InvalidTransaction, match=r"^message: .*could also be hex"):
        message_digest(text)


@pytest.mark.parametrize("text", ["0xhello", "0x abc", "0xabc", "1234", " 0xab"])
def test_text_that_can_not_be_hex_is_text(text: str) -> None:
    assert message_digest(text) == message_digest(text.encode())


def test_raw_says_that_hex_means_bytes_and_text_that_it_means_text() -> None:
    assert message_digest({"raw": "0xabcd"}) == message_digest(b"\xab\xcd")
    assert message_digest({"raw": b"\xab\xcd"}) == message_digest(b"\xab\xcd")
    assert message_digest({"text": "0xabcd"}) == message_digest(b"0xabcd")


@pytest.mark.parametrize(
    "message",
    [
        None,
        1,
        [b"a"],
        {},
        {"raw": None},
        {"raw": "abcd"},
        {"raw": 5},
        {"text": b"a"},
        {"text": None},
        {"raw": "0x", "text": ""},
        {"message": "a"},
        "\ud800",
        {"text": "\ud800"},
    ],
)
def test_something_that_is_no_message(message: Any) -> None:
    with pytest.raises(InvalidTransaction, match=r"^message"):
        message_digest(message)


@given(WORDS)
def test_a_digest_is_32_bytes_or_their_hex(digest: bytes) -> None:
    assert [parse_digest(digest), parse_digest(bytearray(digest)), parse_digest("0x" + digest.hex())] == [digest] * 3


@pytest.mark.parametrize(
    "value", [b"", bytes(31), bytes(33), "", "0x", "0x" + "00" * 31, "00" * 32, "zz" * 32, 5, None]
)
def test_something_that_is_no_digest(value: Any) -> None:
    with pytest.raises(InvalidTransaction, match=r"^hash: "):
        parse_digest(value)


@given(ANYTHING)
def test_anything_is_digested_or_refused(value: Any) -> None:
    for read in (message_digest, parse_digest):
        try:
            digest = read(value)
        except InvalidTransaction:
            continue
        assert len(digest) == 32
