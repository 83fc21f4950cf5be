"""What a key may be called, and what an error message may repeat."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidRequest
from manahsm.keys.labels import (
    MAX_LABEL_LENGTH,
    describe_reference,
    is_address,
    is_key_id,
    label_for_token_key,
    label_problem,
    retired_label,
    validate_label,
)

KEY_ID = "0123456789abcdef"
PRIVATE = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.mark.parametrize(
    "label",
    ["a", "validator-key-1", "Schlüssel für Anna", "main@mainnet", "x" * 64, "0xfeed", "a.b:c_d/e", "鍵"],
)
def test_an_ordinary_name_is_a_label(label: str) -> None:
    assert validate_label(label) == label


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        ("", "at least one"),
        ("x" * 65, "at most 64"),
        ("a\nb", "line break"),
        ("a\x00", "control"),
        ("a\u200bb", "invisible"),
        ("a\u202eb", "invisible"),
        ("a\ud800", "invisible"),
        (" a", "space"),
        ("a ", "space"),
        ("e\u0301", "normal form"),
        (KEY_ID, "key id"),
        (KEY_ID.upper(), "key id"),
        ("0x" + "ab" * 20, "address"),
        ("ab" * 20, "address"),
        (PRIVATE, "private key"),
        (PRIVATE[:-5], "private key"),
        (f"k-{PRIVATE[:60]}", "private key"),
        ("11" * 30, "private key"),
        (":".join(PRIVATE[i : i + 2] for i in range(0, 42, 2)), "private key"),
        (base64.b64encode(bytes.fromhex(PRIVATE)).decode(), "private key"),
        ("a b c d e f g h i j k l", "mnemonic"),
        (f"main@{KEY_ID}", "retired"),
    ],
)
def test_a_label_that_breaks_a_rule_is_refused_with_the_rule(label: str, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        validate_label(label)


def test_a_label_that_is_no_string_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidRequest, match=r"not bytes$"):
        validate_label(b"secret")  # type: ignore[arg-type]


@given(st.text(max_size=90))
def test_a_refusal_never_repeats_the_label(label: str) -> None:
    problem = label_problem(f"zq{label}\n")
    assert problem is not None
    assert "zq" not in problem


@given(st.text(max_size=80), st.sets(st.text(max_size=70), max_size=4))
def test_every_key_found_in_a_token_gets_a_valid_and_free_label(token_label: str, taken: set[str]) -> None:
    label = label_for_token_key(token_label, KEY_ID, taken)
    assert label_problem(label) is None
    assert label not in taken


@pytest.mark.parametrize(
    ("token_label", "taken", "expected"),
    [
        ("dev-signer", set(), "dev-signer"),
        ("dev-signer\x00\x00", set(), "dev-signer"),
        ("dev-signer", {"dev-signer"}, f"dev-signer-{KEY_ID}"),
        ("x" * 70, {"x" * 64}, "x" * 47 + f"-{KEY_ID}"),
        ("", set(), f"token-key-{KEY_ID}"),
        (PRIVATE, set(), f"token-key-{KEY_ID}"),
        (f"main@{KEY_ID}", set(), f"main-{KEY_ID}"),
        ("a", {"a", f"a-{KEY_ID}"}, f"token-key-{KEY_ID}"),
        ("a", {"a", f"a-{KEY_ID}", f"token-key-{KEY_ID}"}, f"token-key-{KEY_ID}-2"),
    ],
)
def test_a_token_label_is_kept_as_far_as_it_goes(token_label: str, taken: set[str], expected: str) -> None:
    assert label_for_token_key(token_label, KEY_ID, taken) == expected


@pytest.mark.parametrize("reference", [KEY_ID, "0x" + "Ab" * 20, "dev-signer", retired_label("dev-signer", KEY_ID)])
def test_a_harmless_reference_is_shown(reference: str) -> None:
    assert describe_reference(reference) == repr(reference)


@pytest.mark.parametrize(
    "reference",
    [
        PRIVATE,
        "0x" + PRIVATE,
        f" {PRIVATE}\n",
        PRIVATE[:-1],
        f"{PRIVATE[:50]}@{KEY_ID}",
        str(int(PRIVATE, 16)),
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
        bytes.fromhex(PRIVATE),
        bytearray.fromhex(PRIVATE),
        int(PRIVATE, 16),
        None,
    ],
)
def test_a_reference_that_may_be_a_secret_is_not_shown(reference: object) -> None:
    shown = describe_reference(reference)
    assert PRIVATE[:8] not in shown
    assert "winner" not in shown
    assert str(int(PRIVATE, 16))[:8] not in shown
    assert "4c" not in shown


@given(st.binary(min_size=32, max_size=32))
def test_no_private_key_is_a_label_in_any_spelling(key: bytes) -> None:
    # Leading zeros make a number short; such a key guards nothing and nobody has one.
    number = int.from_bytes(b"\x01" + key[1:], "big")
    for spelling in (f"{number:064x}", f"0x{number:064x}", f"{number:X}", str(number)):
        assert label_problem(spelling) is not None
        assert spelling not in describe_reference(spelling)


def test_forms_of_ids_and_addresses() -> None:
    assert is_key_id(KEY_ID)
    assert not is_key_id(KEY_ID + "0")
    assert not is_key_id(KEY_ID + "\n")
    assert is_address("0X" + "aB" * 20)
    assert not is_address("0x" + "ab" * 19)


def test_the_longest_label_can_be_retired() -> None:
    assert retired_label("x" * MAX_LABEL_LENGTH, KEY_ID) == "x" * MAX_LABEL_LENGTH + "@" + KEY_ID
