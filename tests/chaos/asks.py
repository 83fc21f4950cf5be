"""What is asked of the service, and whether what came back is what was asked for.

The one thing to know: nothing here uses manahsm to judge manahsm. Digests are computed with rlp and keccak from the
request itself, keys are recovered with coincurve, and every so often eth-account recovers one as an Ethereum node does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import rlp
from attrs import frozen
from chaos.sorts import Sort
from coincurve import PublicKey
from eth_account import Account
from eth_account.messages import encode_defunct
from sha3 import keccak_256

from manahsm.requests import (
    Backend,
    KeyInfo,
    Operation,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    SignRequest,
)

__all__ = ["CHAIN_ID", "Ask", "ask", "fault_in"]

CHAIN_ID = 31337
_HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
_TIMEOUTS = (0.25, 1.0, 2.5, None)
_GIVES_UP = 0.02  # share of the callers who lose patience

Signed = SignedTransaction | Signature | SignedAuthorization


@frozen
class Ask:
    """One request, and what its answer must be.

    Attributes:
        sort: of its key.
        key: the key.
        request: as it goes to the service.
        digest: what must be signed.
        fields: of a transaction, without signature.
        patience: seconds after which the caller walks away, or ``None``.
    """

    sort: Sort
    key: KeyInfo
    request: SignRequest
    digest: bytes
    fields: tuple[Any, ...] | None
    patience: float | None


def ask(sort: Sort, key: KeyInfo, request_id: str, rng: random.Random) -> Ask:
    """Draw a request for ``key``."""
    options: dict[str, Any] = {"request_id": request_id, "timeout": rng.choice(_TIMEOUTS), "caller": "chaos"}
    patience = rng.uniform(0.0, 0.1) if rng.random() < _GIVES_UP else None
    match rng.randrange(3):
        case 0:
            digest = rng.randbytes(32)
            return Ask(sort, key, SignRequest.hash(digest, key.key_id, **options), digest, None, patience)
        case 1:
            message = rng.randbytes(rng.randrange(64))
            digest = _keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)
            return Ask(sort, key, SignRequest.message(message, key.key_id, **options), digest, None, patience)
        case _:
            tx = {
                "type": 2,
                "chainId": CHAIN_ID,
                "nonce": rng.randrange(10**6),
                "maxPriorityFeePerGas": rng.randrange(10**10),
                "maxFeePerGas": 10**10 + rng.randrange(10**10),
                "gas": 21_000 + rng.randrange(10**6),
                "to": "0x" + rng.randbytes(20).hex(),
                "value": rng.randrange(10**18),
                "data": rng.randbytes(rng.randrange(8)),
            }
            fields = (*(_rlp_form(value) for name, value in tx.items() if name != "type"), ())
            request = SignRequest.transaction(tx, key.key_id, chain_id=CHAIN_ID, **options)
            return Ask(sort, key, request, _keccak(b"\x02" + rlp.encode(fields)), fields, patience)


def fault_in(asked: Ask, signed: Signed, *, as_a_node_does: bool = False) -> str | None:
    """Say what is wrong with an answer, or ``None`` where nothing is.

    Args:
        asked: the request.
        signed: the answer.
        as_a_node_does: have eth-account recover the signer as well; slow.
    """
    if isinstance(signed, SignedAuthorization) or isinstance(signed, SignedTransaction) != (asked.fields is not None):
        return "something else was asked for"
    wrong = next(_faults(asked, signed), None)
    if wrong is None and as_a_node_does and _signer(asked, signed) != asked.key.address:
        return "eth-account recovers another signer"
    return wrong


def _faults(asked: Ask, signed: SignedTransaction | Signature) -> Iterator[str]:
    if not 0 < signed.s <= _HALF_ORDER:
        yield "s is not in the lower half"
    if _recovered(asked.digest, signed) != asked.key.public_key:
        yield "the signature is by another key, or over another digest"
    if signed.key_id != asked.key.key_id:
        yield f"the answer says that the key {signed.key_id} has signed"
    if signed.backend is Backend.SOFTWARE and not asked.sort.software_may_sign:
        yield f"software has signed with a key of the sort {asked.sort.value!r}"
    if signed.backend is Backend.HSM and asked.sort is Sort.SOFTWARE:
        yield "a token has signed with a software key"
    if isinstance(signed, Signature):
        if signed.digest != asked.digest:
            yield "the answer names another digest"
    elif signed.raw_transaction != b"\x02" + rlp.encode((*(asked.fields or ()), signed.v, signed.r, signed.s)):
        yield "the raw transaction is not the one that was asked for"
    elif signed.hash != _keccak(signed.raw_transaction):
        yield "the hash is not that of the raw transaction"


def _recovered(digest: bytes, signed: SignedTransaction | Signature) -> bytes | None:
    parity = signed.v if isinstance(signed, SignedTransaction) else signed.y_parity
    compact = signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([parity])
    try:
        point: bytes = PublicKey.from_signature_and_message(compact, digest, hasher=None).format(compressed=False)
    except Exception:  # noqa: BLE001 - coincurve's own; there is no such point
        return None
    return point


def _signer(asked: Ask, signed: SignedTransaction | Signature) -> str:
    if isinstance(signed, SignedTransaction):
        return str(Account.recover_transaction(signed.raw_transaction))
    if asked.request.operation is Operation.MESSAGE:
        signable = encode_defunct(primitive=asked.request.payload)
        return str(Account.recover_message(signable, signature=signed.to_bytes()))
    return asked.key.address  # a bare digest: coincurve has said all there is to say


def _rlp_form(value: Any) -> Any:
    return bytes.fromhex(value[2:]) if isinstance(value, str) else value


def _keccak(data: bytes) -> bytes:
    return bytes(keccak_256(data).digest())
