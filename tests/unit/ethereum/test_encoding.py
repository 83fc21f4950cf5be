"""The shorter ways into the rlp library's encoding end in what its own way ends in."""

from __future__ import annotations

from typing import Any

import pytest
import rlp
from hypothesis import example, given
from hypothesis import strategies as st

from manahsm.ethereum.encoding import encode_bytes, encode_items, encode_list, encode_number, wrap

NESTED: st.SearchStrategy[Any] = st.recursive(st.binary(max_size=60), lambda inner: st.lists(inner, max_size=4))


@given(st.integers(0, 2**256 - 1) | st.integers(0, 300))
@example(0)
@example(0x7F)
@example(0x80)
@example(0xFF)
@example(0x100)
@example(2**256 - 1)
def test_a_number(number: int) -> None:
    assert encode_number(number) == rlp.encode(number)


@pytest.mark.parametrize("number", [-1, -128, -(2**255)])
def test_a_number_below_zero_is_never_another_one(number: int) -> None:
    with pytest.raises(OverflowError):
        encode_number(number)


@given(st.binary(max_size=80))
@example(b"")
@example(b"\x00")
@example(b"\x7f")
@example(b"\x80")
@example(bytes(55))
@example(bytes(56))
@example(bytes(256))
@example(bytes(65_536))
def test_bytes(data: bytes) -> None:
    assert encode_bytes(data) == rlp.encode(data)


@given(st.lists(NESTED, max_size=4))
@example([])
def test_a_list(items: list[Any]) -> None:
    assert encode_list(items) == encode_list(tuple(items)) == wrap(encode_items(items)) == rlp.encode(items)
