"""Blob sidecars: the network forms of EIP-4844 and EIP-7594, and nothing that does not belong together."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_account.typed_transactions import base as eth_account_blobs
from ethereum_strategies import valid_transaction

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import (
    BlobSidecar,
    BlobTransaction,
    has_sidecar,
    keccak256,
    make_sidecar,
    parse_transaction,
    sign,
)
from manahsm.ethereum.blobs import BLOB_SIZE, CELLS_PER_BLOB, versioned_hash

KEY = b"\x07" * 32
BLOB = b"\0a blob" + bytes(BLOB_SIZE - 7)
OTHER_BLOB = b"\0another" + bytes(BLOB_SIZE - 8)
ZERO_BLOB_HASH = "010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014"  # of the blob of zeros


@pytest.fixture(scope="module")
def cell_proofs() -> BlobSidecar:
    return make_sidecar([BLOB, OTHER_BLOB])


@pytest.fixture(scope="module")
def blob_proofs() -> BlobSidecar:
    return make_sidecar([BLOB, OTHER_BLOB], wrapper_version=0)


@pytest.fixture
def _one_trusted_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """eth-account reads its trusted setup (1.6 s) for every blob anew; let it read it once."""
    load = functools.cache(eth_account_blobs.load_trusted_setup)
    monkeypatch.setattr(eth_account_blobs, "load_trusted_setup", load)


def with_sidecar(sidecar: BlobSidecar, **changes: Any) -> dict[str, Any]:
    fields = {"blobs": sidecar.blobs, "commitments": sidecar.commitments, "proofs": sidecar.proofs}
    return valid_transaction(3, blobVersionedHashes=None) | fields | changes


def signed(tx: Any) -> tuple[bytes, bytes]:
    transaction = parse_transaction(tx)
    signature = sign(KEY, transaction.signing_digest())
    encoded = transaction.encode_signed(signature.y_parity, signature.r, signature.s)
    return encoded.raw_transaction, encoded.hash


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        make_sidecar(**fields)
    return str(caught.value)


@pytest.mark.usefixtures("_one_trusted_setup")
def test_blobs_alone_are_signed_as_eth_account_signs_them() -> None:
    tx = valid_transaction(3, blobVersionedHashes=None)
    theirs = Account.sign_transaction(tx, KEY, blobs=[BLOB])
    # Not the hash: eth-account hashes the network form, EIP-4844 the form without the sidecar (tested below).
    assert bytes(theirs.raw_transaction) == signed(tx | {"blobs": [BLOB]})[0]


def test_a_sidecar_that_the_caller_computed_is_the_same_transaction(cell_proofs: BlobSidecar) -> None:
    computed = parse_transaction(with_sidecar(cell_proofs, commitments=None, proofs=None))
    assert parse_transaction(with_sidecar(cell_proofs)) == computed


def test_the_hash_and_digest_do_not_depend_on_the_sidecar(cell_proofs: BlobSidecar, blob_proofs: BlobSidecar) -> None:
    bare = valid_transaction(3, blobVersionedHashes=cell_proofs.versioned_hashes())
    transactions = [bare, with_sidecar(cell_proofs), with_sidecar(blob_proofs)]
    forms = [signed(tx) for tx in transactions]
    assert len({raw for raw, _ in forms}) == 3
    assert {tx_hash for _, tx_hash in forms} == {keccak256(forms[0][0])}
    assert len({parse_transaction(tx).signing_digest() for tx in transactions}) == 1


def test_the_network_form_of_eip_7594(cell_proofs: BlobSidecar) -> None:
    raw, _ = signed(with_sidecar(cell_proofs))
    bare, _ = signed(valid_transaction(3, blobVersionedHashes=cell_proofs.versioned_hashes()))
    body, version, blobs, commitments, proofs = rlp.decode(raw[1:])
    assert raw[:1] == b"\x03"
    assert rlp.encode(body) == bare[1:]
    assert version == b"\x01"
    assert blobs == [BLOB, OTHER_BLOB]
    assert [versioned_hash(item) for item in commitments] == body[10]
    assert len(proofs) == 2 * CELLS_PER_BLOB


def test_the_network_form_of_eip_4844(blob_proofs: BlobSidecar) -> None:
    raw, _ = signed(with_sidecar(blob_proofs))
    _, blobs, commitments, proofs = rlp.decode(raw[1:])
    assert (len(blobs), len(commitments), len(proofs)) == (2, 2, 2)


def test_the_blob_of_zeros_has_the_well_known_hash() -> None:
    sidecar = make_sidecar(["0x" + "00" * BLOB_SIZE], wrapper_version=0)
    assert [item.hex() for item in sidecar.versioned_hashes()] == [ZERO_BLOB_HASH]


def test_a_class_takes_a_sidecar_and_fills_in_its_hashes(blob_proofs: BlobSidecar) -> None:
    fields: dict[str, Any] = {
        "chain_id": 1,
        "nonce": 0,
        "max_priority_fee_per_gas": 1,
        "max_fee_per_gas": 1,
        "max_fee_per_blob_gas": 1,
        "gas": 1,
        "to": b"\x11" * 20,
    }
    built = BlobTransaction(**fields, sidecar=blob_proofs)
    assert built.blob_versioned_hashes == blob_proofs.versioned_hashes()
    assert pickle.loads(pickle.dumps(built)) == built  # noqa: S301 - our own bytes
    with pytest.raises(InvalidTransaction, match=r"^sidecar: "):
        BlobTransaction(**fields, sidecar={"blobs": [BLOB]})  # type: ignore[arg-type]


def test_a_sidecar_s_repr_does_not_print_the_blobs(blob_proofs: BlobSidecar) -> None:
    assert len(repr(blob_proofs)) < 200


def test_hashes_that_are_not_those_of_the_blobs(blob_proofs: BlobSidecar) -> None:
    swapped = blob_proofs.versioned_hashes()[::-1]
    with pytest.raises(InvalidTransaction, match=r"^blobVersionedHashes: differ"):
        parse_transaction(with_sidecar(blob_proofs, blobVersionedHashes=swapped))


def test_commitments_of_other_blobs(blob_proofs: BlobSidecar) -> None:
    fields = {"blobs": [BLOB], "commitments": blob_proofs.commitments[1:]}
    assert refusal(**fields).startswith("commitments: do not belong")
    assert refusal(**fields | {"commitments": blob_proofs.commitments}).startswith("commitments: do not belong")


def test_blob_proofs_of_other_blobs(blob_proofs: BlobSidecar) -> None:
    swapped = blob_proofs.proofs[::-1]
    assert refusal(blobs=blob_proofs.blobs, proofs=swapped).startswith("proofs: do not belong")


def test_cell_proofs_in_the_wrong_order(cell_proofs: BlobSidecar) -> None:
    swapped = cell_proofs.proofs[::-1]
    assert refusal(blobs=cell_proofs.blobs, proofs=swapped).startswith("proofs: do not belong")


def test_proofs_that_are_no_points() -> None:
    assert refusal(blobs=[BLOB], proofs=[b"\xff" * 48]).startswith("proofs: do not belong")


@pytest.mark.parametrize("version", [0, 1])
def test_a_number_of_proofs_that_is_neither_form(version: int) -> None:
    assert refusal(blobs=[BLOB], proofs=[bytes(48)] * 2).startswith("proofs: has 2 items")
    wrong = [bytes(48)] * (CELLS_PER_BLOB if version == 0 else 1)
    assert refusal(blobs=[BLOB], proofs=wrong, wrapper_version=version).startswith("proofs: has")


def test_a_blob_that_is_not_made_of_field_elements() -> None:
    assert refusal(blobs=[BLOB, b"\xff" * BLOB_SIZE]).startswith("blobs[1]: holds a 32-byte word")


@pytest.mark.parametrize("blobs", [[], [BLOB] * 7])
def test_a_number_of_blobs_that_no_transaction_carries(blobs: Any) -> None:
    assert refusal(blobs=blobs).startswith(f"blobs: has {len(blobs)} blobs")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"blobs": [BLOB[1:]]}, "blobs[0].item: has 131071 bytes"),
        ({"blobs": BLOB}, "blobs: is bytes"),
        ({"blobs": [BLOB], "commitments": [bytes(47)]}, "commitments[0].item: has 47 bytes"),
        ({"blobs": [BLOB], "proofs": [bytes(49)]}, "proofs[0].item: has 49 bytes"),
        ({"blobs": [BLOB], "wrapper_version": 2}, "wrapperVersion: "),
        ({"blobs": [BLOB], "wrapper_version": True}, "wrapperVersion: "),
    ],
)
def test_a_sidecar_that_is_malformed(fields: dict[str, Any], where: str) -> None:
    assert refusal(**fields).startswith(where)


@pytest.mark.parametrize("name", ["commitments", "proofs", "wrapperVersion"])
def test_part_of_a_sidecar_without_its_blobs(name: str) -> None:
    with pytest.raises(InvalidTransaction, match=f"^{name}: is given without blobs"):
        parse_transaction(valid_transaction(3) | {name: [] if name != "wrapperVersion" else 1})


def test_callers_can_tell_beforehand_what_needs_kzg(blob_proofs: BlobSidecar) -> None:
    assert has_sidecar(with_sidecar(blob_proofs))
    assert not has_sidecar(valid_transaction(3))
    assert not has_sidecar(valid_transaction(3) | {"blobs": None})
    assert not has_sidecar(parse_transaction(with_sidecar(blob_proofs)))
