"""Ethereum transactions, messages and signatures: pure functions from payloads to digests and back.

The one thing to know: nothing here does I/O or waits, and everything that a caller can get wrong raises
:class:`~manahsm.errors.InvalidTransaction`. ``parse_transaction(...)`` gives a value with
``signing_digest()``; the bytes that a token returns for it go through ``complete``, and the result into
``encode_signed``.
"""

from __future__ import annotations

from manahsm.ethereum.authorizations import Authorization, AuthorizationEntry, parse_authorization
from manahsm.ethereum.blobs import BlobSidecar, has_sidecar, make_sidecar
from manahsm.ethereum.messages import (
    TypedData,
    message_digest,
    parse_digest,
    parse_typed_data,
    typed_data_digest,
)
from manahsm.ethereum.signatures import (
    RecoverableSignature,
    address_of,
    complete,
    keccak256,
    key_id_of,
    parse_private_key,
    parse_public_key,
    public_key_of,
    sign,
    verify,
)
from manahsm.ethereum.transactions import (
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    EncodedTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    Transaction,
    check_sender,
    parse_transaction,
)

__all__ = [
    "AccessListTransaction",
    "Authorization",
    "AuthorizationEntry",
    "BlobSidecar",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "EncodedTransaction",
    "LegacyTransaction",
    "RecoverableSignature",
    "SetCodeTransaction",
    "Transaction",
    "TypedData",
    "address_of",
    "check_sender",
    "complete",
    "has_sidecar",
    "keccak256",
    "key_id_of",
    "make_sidecar",
    "message_digest",
    "parse_authorization",
    "parse_digest",
    "parse_private_key",
    "parse_public_key",
    "parse_transaction",
    "parse_typed_data",
    "public_key_of",
    "sign",
    "typed_data_digest",
    "verify",
]
