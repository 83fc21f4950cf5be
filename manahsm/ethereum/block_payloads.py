"""Blocks of the OP Stack as a sequencer signs them for its peers: the digest over domain, chain and payload hash.

The one thing to know: only the domain of zeros is signed. It is the only one that the OP Stack has, and with it the
signed bytes begin with a zero, as no transaction, message, typed data or authorization does. With a domain of the
caller's choice they could be those of a transaction.

Source: specs/protocol/rollup-node-p2p.md of the OP Stack, "Block signatures"; ``BlockSigningMessage`` of op-service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.fields import fixed_bytes, integer, kind_of, refuse, show_name

__all__ = ["BlockPayload", "parse_block_payload"]

_SIZE = 32
_DOMAIN_V1 = bytes(_SIZE)

_read_domain = fixed_bytes("domain", _SIZE)
_read_chain_id = integer("chainId", least=1)
_read_hash = fixed_bytes("payloadHash", _SIZE)
_NAMES = ("domain", "chainId", "payloadHash")


@frozen
class BlockPayload:
    """What a sequencer signs of a block.

    Attributes:
        chain_id: of the L2 chain.
        payload_hash: 32 bytes, keccak256 of the encoded payload, which nobody sees here.
    """

    chain_id: int
    payload_hash: bytes

    def signing_digest(self) -> bytes:
        """Return keccak256(domain || chain id || payload hash), each of 32 bytes."""
        return keccak256(_DOMAIN_V1 + self.chain_id.to_bytes(_SIZE, "big") + self.payload_hash)

    def summary(self) -> dict[str, Any]:
        """Return the fields in readable form for the audit log."""
        return {"type": "block_payload", "chainId": str(self.chain_id), "payloadHash": "0x" + self.payload_hash.hex()}


def parse_block_payload(payload: Any, chain_id: int | None = None) -> BlockPayload:
    """Read what is to be signed of a block.

    Args:
        payload: a mapping with ``chainId`` and ``payloadHash``, and maybe a ``domain`` of zeros; ``None`` counts as
            absent.
        chain_id: the chain the caller means; must equal ``chainId``.

    Raises:
        InvalidTransaction: a field is missing, unknown or out of range, the domain is another one, or the chain ids
            differ.
    """
    if not isinstance(payload, Mapping):
        refuse("payload", f"is {kind_of(payload)}; give a mapping with chainId and payloadHash")
    given = {name: value for name, value in payload.items() if value is not None}
    for name in given:
        if name not in _NAMES:
            refuse(show_name(name), f"is no field of a block payload; they are {', '.join(_NAMES)}")
    for name in ("chainId", "payloadHash"):
        if name not in given:
            refuse(name, "is missing")
    if _read_domain(given.get("domain", _DOMAIN_V1)) != _DOMAIN_V1:
        refuse("domain", "is not 32 zero bytes, the only domain of the OP Stack; with another one, anything is signed")
    read = BlockPayload(_read_chain_id(given["chainId"]), _read_hash(given["payloadHash"]))
    if chain_id is not None and read.chain_id != integer("chain_id")(chain_id):
        refuse("chainId", f"differs from the chain_id {chain_id} that was asked for; correct one of them")
    return read
