"""CKA_EC_POINT: the forms that are accepted, and nothing else."""

from __future__ import annotations

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from manahsm.hsm.ec_points import SECP256K1_PARAMS, der_point, parse_point

public_keys = st.integers(1, 2**255).map(lambda secret: PrivateKey.from_int(secret).public_key.format(compressed=False))


@given(public_keys)
def test_the_standard_form_and_the_bare_point_are_read(public_key: bytes) -> None:
    assert parse_point(der_point(public_key)) == public_key
    assert parse_point(public_key) == public_key


@given(public_keys)
def test_64_bytes_are_read_only_where_the_module_is_known_for_them(public_key: bytes) -> None:
    assert parse_point(public_key[1:]) is None
    assert parse_point(public_key[1:], raw_ec_point=True) == public_key


@given(public_keys, st.integers(1, 64), st.integers(1, 255))
def test_a_point_off_the_curve_is_no_key(public_key: bytes, place: int, change: int) -> None:
    altered = bytearray(public_key)
    altered[place] ^= change
    assert parse_point(bytes(altered)) is None


@given(st.binary(max_size=80))
def test_other_bytes_are_no_key(value: bytes) -> None:
    assert parse_point(value) is None
    assert parse_point(value, raw_ec_point=True) is None


@given(public_keys)
def test_trailing_and_missing_bytes_are_not_forgiven(public_key: bytes) -> None:
    for value in (der_point(public_key) + b"\0", der_point(public_key)[:-1], public_key[:-1], public_key + b"\0"):
        assert parse_point(value) is None


def test_coordinates_are_not_reduced() -> None:
    prime = 2**256 - 2**32 - 977
    generator = PrivateKey.from_int(1).public_key.format(compressed=False)
    y = int.from_bytes(generator[33:], "big")
    # y + p does not fit 32 bytes for most points; x of this one is small enough to be written a second way.
    small_x = next(x for x in range(1, 2**32) if pow(x**3 + 7, (prime - 1) // 2, prime) == 1)
    root = pow(small_x**3 + 7, (prime + 1) // 4, prime)
    honest = b"\x04" + small_x.to_bytes(32, "big") + root.to_bytes(32, "big")
    twisted = b"\x04" + (small_x + prime).to_bytes(32, "big") + root.to_bytes(32, "big")
    assert parse_point(honest) == honest
    assert parse_point(twisted) is None
    assert y < prime


@pytest.mark.parametrize("form", [b"\x02", b"\x03"])
def test_compressed_points_are_not_read(form: bytes) -> None:
    assert parse_point(form + PrivateKey.from_int(7).public_key.format(compressed=True)[1:]) is None


def test_the_curve_is_named_by_its_object_identifier() -> None:
    # SEC 2, A.2.1: 1.3.132.0.10
    assert bytes([0x06, 5, 1 * 40 + 3, 0x81, 0x04, 0x00, 0x0A]) == SECP256K1_PARAMS
