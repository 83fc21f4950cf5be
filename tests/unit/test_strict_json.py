"""JSON that has one meaning only: what is taken, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.nesting import MAX_DEPTH
from manahsm.strict_json import NestedTooDeep, NotJSON, NotStrict, TwiceNamed, read_json

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(ANY_JSON)
def test_what_is_written_is_read_back(value: Any) -> None:
    document = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    assert read_json(document) == json.loads(document)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(document: bytes) -> None:
    try:
        value = read_json(document)
    except NotStrict:
        return
    assert json.loads(document) == value


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"nul",
        b"[1,]",
        b"{'a':1}",
        b"1 2",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b"01",
        b'"\n"',
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        '{"a":1}'.encode("utf-16"),
        b"1" * 5000,
    ],
)
def test_what_is_not_json_is_refused(document: bytes) -> None:
    with pytest.raises(NotJSON):
        read_json(document)


@pytest.mark.parametrize(
    "document",
    [b'{"a":1,"a":1}', b'[{"b":{"a":1,"\\u0061":2}}]', b'{"":0,"":0}', b'{"a":":","a":1}', b'{":":{"b:":0},":":"::"}'],
)
def test_a_name_that_stands_twice_is_refused(document: bytes) -> None:
    with pytest.raises(TwiceNamed):
        read_json(document)


def test_what_nests_without_end_is_refused() -> None:
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(NestedTooDeep):
        read_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_whole_numbers_keep_every_digit() -> None:
    assert read_json(str(2**256 - 1).encode()) == 2**256 - 1
