"""JSON-RPC 2.0: what is a request, what is none, and what each answer looks like."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.api.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Batch,
    Failure,
    Invalid,
    Notification,
    Request,
    Success,
    join,
    read,
    write,
)

CALL = {"jsonrpc": "2.0", "id": 1, "method": "eth_sign", "params": ["0x00"]}


def reading(document: Any, max_batch: int = 3) -> Any:
    return read(json.dumps(document).encode(), max_batch=max_batch)


@pytest.mark.parametrize("call_id", [0, -(2**63), 2**64 - 1, "", "a-1", None])
def test_a_call_with_an_id_wants_an_answer(call_id: Any) -> None:
    request = reading({**CALL, "id": call_id})
    assert request == Request(id=call_id, method="eth_sign", params=["0x00"])


def test_a_call_without_an_id_wants_none() -> None:
    assert reading({name: value for name, value in CALL.items() if name != "id"}) == Notification("eth_sign")


@pytest.mark.parametrize("params", [[], {}, [1, [2]], {"a": 1}])
def test_params_come_by_position_or_by_name(params: Any) -> None:
    assert reading({**CALL, "params": params}).params == params


def test_a_call_may_have_no_params() -> None:
    assert reading({name: value for name, value in CALL.items() if name != "params"}).params is None


@pytest.mark.parametrize(
    "change",
    [
        {"jsonrpc": "1.0"},
        {"jsonrpc": 2.0},
        {"jsonrpc": None},
        {"method": 1},
        {"method": ""},
        {"method": "a" * 129},
        {"method": "eth\nsign"},
        {"method": None},
        {"params": None},
        {"params": "0x00"},
        {"params": 1},
        {"extra": 1},
    ],
)
def test_what_the_specification_does_not_name_is_refused_with_its_id(change: dict[str, Any]) -> None:
    invalid = reading({**CALL, **change})
    assert (invalid.id, invalid.error.code) == (1, INVALID_REQUEST)


@pytest.mark.parametrize("call_id", [1.0, 1.5, True, [], {}, 2**64, -(2**63) - 1])
def test_an_id_that_could_come_back_as_another_is_refused(call_id: Any) -> None:
    invalid = reading({**CALL, "id": call_id})
    assert (invalid.id, invalid.error.code) == (None, INVALID_REQUEST)


@pytest.mark.parametrize("name", ["jsonrpc", "method"])
def test_a_call_without_what_it_must_have_is_refused(name: str) -> None:
    assert reading({key: value for key, value in CALL.items() if key != name}).error.code == INVALID_REQUEST


@pytest.mark.parametrize("document", [1, "eth_sign", None, True])
def test_what_is_no_object_is_refused(document: Any) -> None:
    assert reading(document).error.code == INVALID_REQUEST


@pytest.mark.parametrize("body", [b"", b"{", b'{"id":1,"id":2}', b"[" * 65 + b"]" * 65, b"{}{}"])
def test_what_is_not_strict_json_is_a_parse_error(body: bytes) -> None:
    invalid = read(body, max_batch=3)
    assert isinstance(invalid, Invalid)
    assert (invalid.id, invalid.error.code) == (None, PARSE_ERROR)


def test_each_call_of_a_batch_is_judged_alone() -> None:
    batch = reading([CALL, 1, {"jsonrpc": "2.0", "method": "a"}])
    assert [type(item) for item in batch.items] == [Request, Invalid, Notification]


@pytest.mark.parametrize(("calls", "kind"), [(0, Invalid), (1, Batch), (3, Batch), (4, Invalid)])
def test_a_batch_has_at_least_one_call_and_at_most_so_many(calls: int, kind: type) -> None:
    assert isinstance(reading([CALL] * calls), kind)


def test_answers_are_as_the_specification_has_them() -> None:
    done = write(Success("a", {"b": 1}))
    failed = write(Failure(id=None, code=-1, message="no"))
    told = write(Failure(id=2, code=-1, message="no", data={"code": "x"}))
    assert json.loads(join([done, failed, told])) == [
        {"jsonrpc": "2.0", "id": "a", "result": {"b": 1}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no"}},
        {"jsonrpc": "2.0", "id": 2, "error": {"code": -1, "message": "no", "data": {"code": "x"}}},
    ]


def test_a_result_of_nothing_is_a_result() -> None:
    assert json.loads(write(Success(1, None))) == {"jsonrpc": "2.0", "id": 1, "result": None}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=60) | _JSON.map(msgspec.json.encode))
def test_any_body_is_a_request_or_is_refused(body: bytes) -> None:
    found = read(body, max_batch=3)
    assert isinstance(found, Request | Notification | Invalid | Batch)
