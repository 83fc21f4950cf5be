"""OP Stack block payloads: the digest that a sequencer's peers compute, and nothing that could mean something else."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.block_payloads import parse_block_payload

HASH = keccak(b"arbitraryData")
VALID: dict[str, Any] = {"chainId": 100, "payloadHash": HASH}


def as_peers_compute_it(domain: bytes, chain_id: int, payload_hash: bytes) -> bytes:
    return bytes(keccak(domain + chain_id.to_bytes(32, "big") + payload_hash))


def test_the_digest_of_the_tests_is_that_of_op_service() -> None:
    """Its TestBlockPayloadArgs: a vector with a domain that is not signed here."""
    digest = as_peers_compute_it(bytes([123, 42]) + bytes(30), 100, HASH)
    assert digest.hex() == "c724de7aefa316a12cbbd5edc39d512830598cce5d6ac81d1b518ef69450ad77"


@given(chain_id=st.integers(1, 2**256 - 1), payload_hash=st.binary(min_size=32, max_size=32))
def test_the_digest_is_that_of_the_domain_of_zeros(chain_id: int, payload_hash: bytes) -> None:
    ours = parse_block_payload({"chainId": hex(chain_id), "payloadHash": "0x" + payload_hash.hex()})
    assert ours.signing_digest() == as_peers_compute_it(bytes(32), chain_id, payload_hash)


@pytest.mark.parametrize("domain", [None, bytes(32), "0x" + "00" * 32])
def test_the_domain_of_zeros_may_be_given_or_left_out(domain: Any) -> None:
    assert parse_block_payload({**VALID, "domain": domain}, 100) == parse_block_payload(VALID)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domain": b"\x02" + bytes(31)}, "domain: is not 32 zero bytes"),
        ({"domain": bytes(31)}, "domain: has 31 bytes"),
        ({"chainId": None}, "chainId: is missing"),
        ({"chainId": 0}, "chainId: must be at least 1"),
        ({"chainId": 2**256}, "chainId: must be below"),
        ({"chainId": 101}, "chainId: differs from the chain_id 100"),
        ({"payloadHash": None}, "payloadHash: is missing"),
        ({"payloadHash": HASH[:31]}, "payloadHash: has 31 bytes"),
        ({"colour": "red"}, "colour: is no field"),
    ],
)
def test_what_could_mean_something_else_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTransaction, match=f"^{words}"):
        parse_block_payload({**VALID, **change}, 100)


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidTransaction, match=r"^payload: is list"):
        parse_block_payload([100, HASH])
