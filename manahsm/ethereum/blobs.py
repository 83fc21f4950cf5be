"""Blob sidecars (EIP-4844 and EIP-7594): computing them, and checking the ones that callers bring.

The one thing to know: KZG is slow and does not release the GIL. Loading the trusted setup takes about 1.6 s
once a process, computing cell proofs 0.25 s a blob, checking given ones 0.02 s a blob. Callers on an event
loop ask :func:`has_sidecar` first and send such transactions to another process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import field, frozen

from manahsm.ethereum.fields import Reader, each, fixed_bytes, integer, refuse, sequence

__all__ = [
    "SIDECAR_FIELDS",
    "SIDECAR_READERS",
    "BlobSidecar",
    "has_sidecar",
    "make_sidecar",
    "sidecar_values",
    "versioned_hash",
]

BLOB_SIZE = 4096 * 32
MAX_BLOBS = 6  # EIP-7594: at most 6 blobs a transaction
CELLS_PER_BLOB = 128
KZG_POINT_SIZE = 48
HASH_VERSION = b"\x01"  # VERSIONED_HASH_VERSION_KZG
SIDECAR_FIELDS = ("blobs", "commitments", "proofs", "wrapperVersion")
_SIDECAR_NAMES = frozenset(SIDECAR_FIELDS)

_BLOB_PROOFS = 0  # EIP-4844: one proof a blob, no version item on the wire
_CELL_PROOFS = 1  # EIP-7594: 128 proofs a blob


@frozen(kw_only=True)
class BlobSidecar:
    """Blobs with their KZG commitments and proofs. Build it with :func:`make_sidecar`, which checks them.

    Attributes:
        wrapper_version: 1 for cell proofs (EIP-7594, what mainnet takes), 0 for blob proofs (EIP-4844).
        blobs: 131,072 bytes each, at most 6.
        commitments: 48 bytes each, one a blob.
        proofs: 48 bytes each; one a blob in version 0, 128 a blob in version 1.
    """

    wrapper_version: int
    blobs: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)
    proofs: tuple[bytes, ...] = field(repr=False)

    def versioned_hashes(self) -> tuple[bytes, ...]:
        """Return what the transaction itself must list as ``blobVersionedHashes``."""
        return tuple(versioned_hash(commitment) for commitment in self.commitments)

    def items(self) -> tuple[Any, ...]:
        """Return the items that follow the transaction in its network form."""
        version = () if self.wrapper_version == _BLOB_PROOFS else (bytes((self.wrapper_version,)),)
        return (*version, self.blobs, self.commitments, self.proofs)


def versioned_hash(commitment: bytes) -> bytes:
    """Return the 32-byte versioned hash of a commitment: 0x01 and the last 31 bytes of its SHA-256."""
    return HASH_VERSION + hashlib.sha256(commitment).digest()[1:]


def has_sidecar(tx: object) -> bool:
    """Tell whether parsing this transaction needs KZG (seconds of work that block the interpreter)."""
    if not isinstance(tx, Mapping) or _SIDECAR_NAMES.isdisjoint(tx):
        return False
    return any(tx.get(name) is not None for name in SIDECAR_FIELDS)


def make_sidecar(
    blobs: Any,
    commitments: Any = None,
    proofs: Any = None,
    wrapper_version: Any = None,
) -> BlobSidecar:
    """Compute a sidecar from blobs, or check one that the caller computed.

    Args:
        blobs: 1 to 6 blobs, bytes or 0x hex of 131,072 bytes.
        commitments: one a blob, or ``None`` to compute them.
        proofs: one a blob (version 0) or 128 a blob (version 1), or ``None`` to compute them.
        wrapper_version: 0 or 1; by default as many proofs as were given say, else 1.

    Raises:
        InvalidTransaction: sizes or counts are wrong, a blob is not made of field elements, or a commitment
            or proof does not belong to its blob.
    """
    data = _points("blobs", blobs, BLOB_SIZE)
    if not 1 <= len(data) <= MAX_BLOBS:
        refuse("blobs", f"has {len(data)} blobs; a transaction carries 1 to {MAX_BLOBS}")
    given_proofs = None if proofs is None else _points("proofs", proofs, KZG_POINT_SIZE)
    version = _version(wrapper_version, len(data), given_proofs)
    computed = _commitments(data)
    if commitments is not None and _points("commitments", commitments, KZG_POINT_SIZE) != computed:
        refuse("commitments", "do not belong to these blobs; leave them out to have them computed")
    if given_proofs is None:
        checked = _compute_proofs(data, computed, version)
    else:
        checked = given_proofs
        _check_proofs(data, computed, checked, version)
    return BlobSidecar(wrapper_version=version, blobs=data, commitments=computed, proofs=checked)


def _points(name: str, values: Any, size: int) -> tuple[bytes, ...]:
    return tuple(each(name, sequence(name, values), fixed_bytes("item", size)))


SIDECAR_READERS: Mapping[str, Reader] = dict(
    zip(
        SIDECAR_FIELDS,
        (
            partial(_points, "blobs", size=BLOB_SIZE),
            partial(_points, "commitments", size=KZG_POINT_SIZE),
            partial(_points, "proofs", size=KZG_POINT_SIZE),
            integer("wrapperVersion", below=2),
        ),
        strict=True,
    )
)
"""How each field of a sidecar is read; whether they belong together is for :func:`make_sidecar`."""


def sidecar_values(sidecar: BlobSidecar) -> tuple[Any, ...]:
    """Return a sidecar's values in the order of ``SIDECAR_FIELDS``."""
    return sidecar.blobs, sidecar.commitments, sidecar.proofs, sidecar.wrapper_version


def _version(wanted: Any, blobs: int, proofs: Sequence[bytes] | None) -> int:
    expected = {_BLOB_PROOFS: blobs, _CELL_PROOFS: blobs * CELLS_PER_BLOB}
    if wanted is not None:
        version: int = integer("wrapperVersion", below=2)(wanted)
    elif proofs is None:
        version = _CELL_PROOFS
    else:
        version = _BLOB_PROOFS if len(proofs) == blobs else _CELL_PROOFS
    if proofs is not None and len(proofs) != expected[version]:
        refuse("proofs", f"has {len(proofs)} items; give one a blob (EIP-4844) or 128 a blob (EIP-7594)")
    return version


@cache
def _kzg() -> tuple[Any, Any]:
    """Return the ckzg module and the trusted setup that eth-account ships, found without importing that."""
    module: Any = import_module("ckzg")
    spec = find_spec("eth_account")
    if spec is None or not spec.submodule_search_locations:  # pragma: no cover - a declared dependency
        raise ModuleNotFoundError("eth_account is not installed, so there is no KZG trusted setup")
    folder = Path(next(iter(spec.submodule_search_locations))) / "typed_transactions" / "blob_transactions"
    return module, module.load_trusted_setup(str(folder / "kzg_trusted_setup.txt"), 0)


def _commitments(blobs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    kzg, setup = _kzg()
    computed = []
    for index, blob in enumerate(blobs):
        try:
            computed.append(kzg.blob_to_kzg_commitment(blob, setup))
        except RuntimeError:  # ckzg's only error for bytes of the right size
            refuse(f"blobs[{index}]", "holds a 32-byte word that is not a BLS12-381 field element")
    return tuple(computed)


def _compute_proofs(blobs: tuple[bytes, ...], commitments: tuple[bytes, ...], version: int) -> tuple[bytes, ...]:
    kzg, setup = _kzg()
    if version == _BLOB_PROOFS:
        return tuple(
            kzg.compute_blob_kzg_proof(blob, commitment, setup)
            for blob, commitment in zip(blobs, commitments, strict=True)
        )
    return tuple(proof for blob in blobs for proof in kzg.compute_cells_and_kzg_proofs(blob, setup)[1])


def _check_proofs(
    blobs: tuple[bytes, ...], commitments: tuple[bytes, ...], proofs: tuple[bytes, ...], version: int
) -> None:
    kzg, setup = _kzg()
    try:
        if version == _BLOB_PROOFS:
            valid = all(
                kzg.verify_blob_kzg_proof(blob, commitment, proof, setup)
                for blob, commitment, proof in zip(blobs, commitments, proofs, strict=True)
            )
        else:
            cells = [cell for blob in blobs for cell in kzg.compute_cells(blob, setup)]
            owners = [commitment for commitment in commitments for _ in range(CELLS_PER_BLOB)]
            indices = list(range(CELLS_PER_BLOB)) * len(blobs)
            valid = kzg.verify_cell_kzg_proof_batch(owners, indices, cells, list(proofs), setup)
    except RuntimeError:  # 48 bytes that are not a point of the group
        valid = False
    if not valid:
        refuse("proofs", "do not belong to these blobs; leave them out to have them computed")
