"""Parameters: nothing is guessed, nothing is left over, and no value is repeated in a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.api import params
from manahsm.errors import InvalidRequest
from manahsm.requests import Role, Usage

SECRET = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
TAKEN = (params.address(), params.message("data"), params.timeout())
EVERY = (
    params.address(),
    params.data(),
    params.message("message"),
    params.transaction(),
    params.transactions("txs", most=2),
    params.typed_data(),
    params.document("document"),
    params.text("slot"),
    params.flag("flag"),
    params.choice("role", Role),
    params.choice("role", Role, nullable=True),
    params.choices("usage", Usage),
    params.chain_id(),
    params.timeout(),
    params.private_key(),
)


@pytest.mark.parametrize("given_params", [[ADDRESS, "hi"], {"address": ADDRESS, "data": "hi"}, [ADDRESS, "hi", None]])
def test_parameters_come_by_position_or_by_name(given_params: Any) -> None:
    assert params.bind(TAKEN, given_params) == [ADDRESS, b"hi", None]


def test_an_optional_one_is_read_where_it_is_given() -> None:
    assert params.bind(TAKEN, [ADDRESS, "hi", 2]) == [ADDRESS, b"hi", 2.0]


@pytest.mark.parametrize(
    ("given_params", "message"),
    [
        ([ADDRESS, "hi", 1, 2], "4 parameters are too many"),
        ([ADDRESS], "data: is missing"),
        (None, "address: is missing"),
        ({}, "address: is missing"),
        ({"address": ADDRESS, "data": "hi", "extra": 1}, "extra: is no parameter"),
        ({"address": ADDRESS, "data": "hi", SECRET: 1}, "not a field name"),
        ([None, "hi"], "address: is null"),
    ],
)
def test_what_is_left_over_or_missing_is_refused(given_params: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        params.bind(TAKEN, given_params)


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS.lower(), "0X" + ADDRESS[2:].upper(), "0x" + ADDRESS[2:].upper()])
def test_an_address_may_be_in_any_one_case(text: str) -> None:
    assert params.address_of(text) == ADDRESS


@pytest.mark.parametrize(
    "text", [ADDRESS.replace("C5", "c5"), ADDRESS[2:], ADDRESS[:-1], ADDRESS + "0", "", None, 1, ["0x"]]
)
def test_what_is_no_address_is_refused(text: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^address: "):
        params.address_of(text)


@pytest.mark.parametrize(
    ("value", "data"),
    [("0x", b""), ("0x00ff", b"\x00\xff"), ("0XFF", b"\xff"), ("", b""), ("hello", b"hello"), ("ü", b"\xc3\xbc")],
)
def test_a_message_is_hex_or_text(value: str, data: bytes) -> None:
    assert params.message_of(value) == data


@pytest.mark.parametrize("value", ["0x0", "0xzz", "0X1", "0x hello", 1, None, b"0x"])
def test_a_message_of_which_nobody_can_tell_what_it_is_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        params.message_of(value)


def test_typed_data_may_come_as_text() -> None:
    assert params.typed_data_of('{"types":{}}') == params.typed_data_of({"types": {}}) == {"types": {}}


@pytest.mark.parametrize("value", ["", "{", "[]", '{"a":1,"a":2}', "[" * 70, [], 1, None])
def test_typed_data_that_has_more_than_one_meaning_or_none_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        params.typed_data_of(value)


def test_a_role_that_may_be_taken_away_must_be_said_so() -> None:
    role = (params.choice("role", Role, nullable=True),)
    assert params.bind(role, {"role": None}) == [None]
    with pytest.raises(InvalidRequest, match="role: is missing"):
        params.bind(role, {})


@pytest.mark.parametrize("param", EVERY, ids=lambda param: param.name)
@pytest.mark.parametrize("wrapped", [SECRET, "0x" + SECRET, [SECRET], {"key": SECRET}, {SECRET: 1}, [{SECRET: SECRET}]])
def test_a_key_in_the_wrong_place_is_not_repeated(param: params.Param, wrapped: Any) -> None:
    try:
        param.read(wrapped)
    except InvalidRequest as error:
        assert SECRET not in str(error)  # noqa: PT017 - it may also be taken


@pytest.mark.parametrize("text", [SECRET, "0x" + SECRET, f"slot {SECRET}"])
def test_text_that_may_be_shown_again_is_no_key(text: str) -> None:
    with pytest.raises(InvalidRequest, match="looks like a private key"):
        params.text("slot").read(text)


@given(
    param=st.sampled_from(EVERY),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_any_value_is_read_or_refused(param: params.Param, value: Any) -> None:
    try:
        param.read(value)
    except InvalidRequest as error:
        assert str(error)  # noqa: PT017 - it may also be taken
