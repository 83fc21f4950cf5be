"""From a request's payload to the digest that is signed, and from the signature to the result.

The one thing to know: :func:`prepare` is pure and runs in the caller's own task before anything is queued, so
a malformed payload never reaches a worker, and what is audited is what was hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import anyio.to_process
import anyio.to_thread
from attrs import field, frozen

from manahsm.errors import InvalidRequest
from manahsm.ethereum.authorizations import Authorization, parse_authorization
from manahsm.ethereum.blobs import has_sidecar
from manahsm.ethereum.block_payloads import parse_block_payload
from manahsm.ethereum.messages import message_bytes, message_digest, parse_digest
from manahsm.ethereum.signatures import RecoverableSignature
from manahsm.ethereum.transactions import Transaction, check_sender, parse_transaction
from manahsm.ethereum.typed_data import parse_typed_data
from manahsm.requests import Backend, Operation, Signature, SignedAuthorization, SignedTransaction

__all__ = ["Prepared", "Signed", "prepare", "prepare_off_loop"]

Signed = SignedTransaction | Signature | SignedAuthorization
Finish = Callable[[RecoverableSignature, Backend, str | None], Signed]


@frozen
class Prepared:
    """A payload that may be signed.

    Attributes:
        digest: the 32 bytes to sign.
        chain_id: the chain that the payload binds itself to, or ``None``.
        finish: makes the result of a verified signature.
        summarise: readable fields for the audit log; called once, when a record is written.
    """

    digest: bytes
    chain_id: int | None
    finish: Finish = field(repr=False)
    summarise: Callable[[], Mapping[str, Any]] = field(repr=False)


def prepare(operation: Operation, payload: Any, chain_id: int | None, address: str) -> Prepared:
    """Check a payload and hash it.

    Args:
        operation: what the payload is.
        payload: see :class:`manahsm.requests.SignRequest`.
        chain_id: the chain that the caller named, or ``None``.
        address: checksum address of the key that is to sign; a ``from`` field must agree with it.

    Raises:
        InvalidTransaction: the payload is malformed, ambiguous, or contradicts ``chain_id`` or ``address``.
        InvalidRequest: ``chain_id`` was given for an operation that has none.
    """
    match operation:
        case Operation.TRANSACTION:
            return _transaction(parse_transaction(payload, chain_id), address)
        case Operation.AUTHORIZATION:
            return _authorization(parse_authorization(payload, chain_id))
        case Operation.TYPED_DATA:
            typed = parse_typed_data(payload, chain_id)
            return _plain(typed.digest, chain_id, typed.summary)
        case Operation.MESSAGE:
            _refuse_chain_id(operation, chain_id)
            message = message_bytes(payload)
            return _plain(message_digest(message), None, lambda: {"length": len(message)})
        case Operation.HASH:
            _refuse_chain_id(operation, chain_id)
            return _plain(parse_digest(payload), None, dict)
        case Operation.BLOCK_PAYLOAD:
            block = parse_block_payload(payload, chain_id)
            return _plain(block.signing_digest(), block.chain_id, block.summary)
        case _:
            assert_never(operation)


async def prepare_off_loop(operation: Operation, payload: Any, chain_id: int | None, address: str) -> Prepared:
    """Do what :func:`prepare` does, and never hold the event loop up for long.

    Typed data loads a large library on first use, so it goes to a thread. The proofs of blobs take a quarter of a
    second each in C code that keeps the GIL, so they go to a process.
    """
    if operation is Operation.TRANSACTION and has_sidecar(payload):
        tx = await anyio.to_process.run_sync(parse_transaction, payload, chain_id, cancellable=True)
        return _transaction(tx, address)
    if operation is Operation.TYPED_DATA:
        return await anyio.to_thread.run_sync(prepare, operation, payload, chain_id, address)
    return prepare(operation, payload, chain_id, address)


def _refuse_chain_id(operation: Operation, chain_id: int | None) -> None:
    if chain_id is not None:
        raise InvalidRequest(f"chain_id means nothing for a {operation.value}: leave it out")


def _transaction(tx: Transaction, address: str) -> Prepared:
    check_sender(tx, address)

    def finish(made: RecoverableSignature, backend: Backend, key_id: str | None) -> SignedTransaction:
        encoded = tx.encode_signed(made.y_parity, made.r, made.s)
        return SignedTransaction(
            raw_transaction=encoded.raw_transaction,
            hash=encoded.hash,
            v=encoded.v,
            r=made.r,
            s=made.s,
            backend=backend,
            key_id=key_id,
        )

    return Prepared(tx.signing_digest(), tx.chain_id, finish, tx.summary)


def _authorization(authorization: Authorization) -> Prepared:
    def finish(made: RecoverableSignature, backend: Backend, key_id: str | None) -> SignedAuthorization:
        return SignedAuthorization(
            chain_id=authorization.chain_id,
            address=authorization.address,
            nonce=authorization.nonce,
            y_parity=made.y_parity,
            r=made.r,
            s=made.s,
            backend=backend,
            key_id=key_id,
        )

    return Prepared(authorization.signing_digest(), authorization.chain_id, finish, authorization.summary)


def _plain(digest: bytes, chain_id: int | None, summarise: Callable[[], Mapping[str, Any]]) -> Prepared:
    def finish(made: RecoverableSignature, backend: Backend, key_id: str | None) -> Signature:
        return Signature(r=made.r, s=made.s, y_parity=made.y_parity, digest=digest, backend=backend, key_id=key_id)

    return Prepared(digest, chain_id, finish, summarise)
