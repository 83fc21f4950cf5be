"""Nothing that a token could return passes unless it is this key's signature in Ethereum's form."""

from __future__ import annotations

import pickle

import pytest
from coincurve import PrivateKey, PublicKey
from eth_keys import keys
from ethereum_strategies import DIGESTS, PRIVATE_KEYS, key_pair
from hypothesis import assume, given
from hypothesis import strategies as st

from manahsm.errors import SignatureMismatch
from manahsm.ethereum import RecoverableSignature, complete, keccak256, public_key_of, sign, verify
from manahsm.ethereum.signatures import CURVE_ORDER, HALF_ORDER, recover

FIELD_PRIME = 2**256 - 2**32 - 977
KEY, PUBLIC_KEY = key_pair(0xC0FFEE)
DIGEST = keccak256(b"a transaction")


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point_with_x(x: int) -> PublicKey | None:
    try:
        return PublicKey(b"\x02" + x.to_bytes(32, "big"))
    except ValueError:
        return None


def key_that_signed(r: int, s: int, recovery_id: int) -> bytes:
    """The public key for which (r, s) is a valid signature over DIGEST: any such pair has one."""
    point = PublicKey.from_signature_and_message(raw(r, s) + bytes([recovery_id]), DIGEST, hasher=None)
    return point.format(compressed=False)


# The smallest r that is the x coordinate of a point; the smallest where r + n is one (recovery ids 2 and 3).
SMALL_R = next(x for x in range(1, 100) if point_with_x(x))
SMALL_R_ABOVE_ORDER = next(r for r in range(1, 100) if point_with_x(r + CURVE_ORDER))


@given(PRIVATE_KEYS, DIGESTS)
def test_a_software_signature_equals_eth_keys_byte_for_byte(key: bytes, digest: bytes) -> None:
    expected = keys.PrivateKey(key).sign_msg_hash(digest)
    assert expected.to_bytes() == sign(key, digest).to_bytes()


@given(PRIVATE_KEYS, DIGESTS)
def test_a_kept_key_signs_like_its_bytes(key: bytes, digest: bytes) -> None:
    assert sign(key, digest) == sign(PrivateKey(key), digest)


@given(PRIVATE_KEYS, DIGESTS, st.booleans())
def test_what_a_token_returns_is_completed_whichever_half_s_is_in(key: bytes, digest: bytes, high: bool) -> None:
    expected = sign(key, digest)
    s = CURVE_ORDER - expected.s if high else expected.s
    assert expected == complete(raw(expected.r, s), digest, public_key_of(key))


@given(PRIVATE_KEYS, DIGESTS)
def test_the_other_parity_recovers_another_key(key: bytes, digest: bytes) -> None:
    signature = sign(key, digest)
    other = RecoverableSignature(signature.r, signature.s, 1 - signature.y_parity)
    assert recover(signature, digest) == public_key_of(key) != recover(other, digest)


@given(PRIVATE_KEYS, PRIVATE_KEYS, DIGESTS)
def test_a_signature_by_another_key_is_refused(key: bytes, other: bytes, digest: bytes) -> None:
    assume(key != other)
    assume(int.from_bytes(digest, "big") % CURVE_ORDER != 0)  # see the next test
    signature = sign(key, digest)
    with pytest.raises(SignatureMismatch):
        complete(raw(signature.r, signature.s), digest, public_key_of(other))
    with pytest.raises(SignatureMismatch):
        verify(signature, digest, public_key_of(other))


def test_a_zero_digest_is_signed_alike_by_a_key_and_its_negation_and_told_apart_by_parity() -> None:
    negated = (CURVE_ORDER - int.from_bytes(KEY, "big")).to_bytes(32, "big")
    ours = sign(KEY, bytes(32))
    theirs = complete(raw(ours.r, ours.s), bytes(32), public_key_of(negated))
    assert (ours.r, ours.s, 1 - ours.y_parity) == (theirs.r, theirs.s, theirs.y_parity)
    with pytest.raises(SignatureMismatch):
        verify(ours, bytes(32), public_key_of(negated))


@given(st.integers(0, 511))
def test_a_signature_with_one_bit_flipped_is_refused(bit: int) -> None:
    good = int.from_bytes(sign(KEY, DIGEST).to_bytes()[:64], "big")
    with pytest.raises(SignatureMismatch):
        complete((good ^ (1 << bit)).to_bytes(64, "big"), DIGEST, PUBLIC_KEY)


def test_a_signature_over_other_bytes_is_refused() -> None:
    signature = sign(KEY, DIGEST)
    with pytest.raises(SignatureMismatch):
        complete(raw(signature.r, signature.s), keccak256(b"another"), PUBLIC_KEY)
    with pytest.raises(SignatureMismatch):
        verify(signature, keccak256(b"another"), PUBLIC_KEY)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 70, 128])
def test_a_signature_of_the_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(SignatureMismatch, match=f"returned {size} bytes"):
        complete(b"\x01" * size, DIGEST, PUBLIC_KEY)


def test_a_der_signature_is_not_mistaken_for_a_raw_one() -> None:
    with pytest.raises(SignatureMismatch):
        complete(PrivateKey(KEY).sign(DIGEST, hasher=None), DIGEST, PUBLIC_KEY)


EDGES = [
    0,
    1,
    2,
    HALF_ORDER,
    HALF_ORDER + 1,
    CURVE_ORDER - 1,
    CURVE_ORDER,
    CURVE_ORDER + 1,
    FIELD_PRIME,
    2**256 - 1,
]


@pytest.mark.parametrize("r", EDGES)
@pytest.mark.parametrize("s", EDGES)
def test_made_up_scalars_at_the_edges_of_their_ranges_are_refused(r: int, s: int) -> None:
    with pytest.raises(SignatureMismatch):
        complete(raw(r, s), DIGEST, PUBLIC_KEY)
    for parity in (0, 1):
        with pytest.raises(SignatureMismatch):
            verify(RecoverableSignature(r, s, parity), DIGEST, PUBLIC_KEY)


@pytest.mark.parametrize("change", ["r + n", "s + n", "swapped", "r negated"])
def test_arithmetic_disguises_of_a_good_signature_are_refused(change: str) -> None:
    good = complete(raw(sign(KEY, DIGEST).r, sign(KEY, DIGEST).s), DIGEST, PUBLIC_KEY)
    disguised = {
        "r + n": (good.r + CURVE_ORDER) % 2**256,
        "r negated": CURVE_ORDER - good.r,
        "swapped": good.s,
    }.get(change, good.r)
    s = {"s + n": (good.s + CURVE_ORDER) % 2**256, "swapped": good.r}.get(change, good.s)
    with pytest.raises(SignatureMismatch):
        complete(raw(disguised, s), DIGEST, PUBLIC_KEY)


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize(("s", "normalised"), [(1, 1), (HALF_ORDER, HALF_ORDER), (HALF_ORDER + 1, HALF_ORDER)])
def test_the_boundary_between_low_and_high_s(s: int, normalised: int, parity: int) -> None:
    key = key_that_signed(SMALL_R, s, parity)
    completed = complete(raw(SMALL_R, s), DIGEST, key)
    flipped = parity if s == normalised else 1 - parity
    assert RecoverableSignature(SMALL_R, normalised, flipped) == completed


@pytest.mark.parametrize("recovery_id", [2, 3])
def test_a_valid_signature_whose_point_lies_above_the_order_is_refused(recovery_id: int) -> None:
    r = SMALL_R_ABOVE_ORDER
    key = key_that_signed(r, 1, recovery_id)
    with pytest.raises(SignatureMismatch):
        complete(raw(r, 1), DIGEST, key)
    with pytest.raises(SignatureMismatch):
        verify(RecoverableSignature(r, 1, recovery_id), DIGEST, key)


def test_a_high_s_is_never_verified_even_where_it_recovers() -> None:
    signature = sign(KEY, DIGEST)
    high = RecoverableSignature(signature.r, CURVE_ORDER - signature.s, 1 - signature.y_parity)
    assert recover(high, DIGEST) == PUBLIC_KEY
    with pytest.raises(SignatureMismatch):
        verify(high, DIGEST, PUBLIC_KEY)


def test_a_good_signature_verifies() -> None:
    verify(sign(KEY, DIGEST), DIGEST, PUBLIC_KEY)


def test_an_r_that_is_no_x_coordinate_recovers_nothing() -> None:
    r = next(x for x in range(1, 100) if point_with_x(x) is None)
    assert recover(RecoverableSignature(r, 1, 0), DIGEST) is None


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_of_the_wrong_size_is_a_programming_error(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(KEY, bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        complete(raw(1, 1), bytes(size), PUBLIC_KEY)


def test_a_signature_is_a_value_that_can_not_be_changed() -> None:
    signature = RecoverableSignature(2, 3, 1)
    with pytest.raises(AttributeError):
        signature.s = 4  # type: ignore[misc]
    assert repr(signature) == "RecoverableSignature(r=2, s=3, y_parity=1)"
    assert len({signature, RecoverableSignature(2, 3, 1), RecoverableSignature(2, 3, 0)}) == 2
    assert pickle.loads(pickle.dumps(signature)) == signature  # noqa: S301 - our own bytes
