"""Which calls may go to the node behind, and how they get there.

The one thing to know: what a caller may ask of the node is what anybody may ask of a public one. Whatever would use the
node's own keys, look into its files or steer it stays here, under any spelling: some nodes find methods whatever their
case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from manahsm.api.calls import Answer, Call, RPCError
from manahsm.api.downstream import Node
from manahsm.errors import PolicyDenied

__all__ = ["Forwarding", "may_be_forwarded"]

_METHOD_NOT_FOUND = -32601
_NAME = re.compile(r"[a-z][a-z0-9]*_[a-z0-9_]+")
_LONGEST = 128

# The node's keys and accounts, its peers, its consensus, its settings; and what only a signer has.
_KEPT = re.compile(
    r"(?:account|admin|clef|clique|engine|ibft|istanbul|manahsm|miner|opsigner|parity|perm|personal|plugins|qbft|raft"
    r"|signer|wallet)_.*"
    r"|eth_(?:accounts|coinbase|decrypt|getencryptionpublickey|requestaccounts|resend|sendtransaction|sign.*)"
    r"|health_status"
)
# Of these, all but reading is kept: the rest writes profiles, rewinds the chain, reads files by name, empties the pool.
_STEERING = re.compile(r"(?:debug|txpool)_.*")
_READING = re.compile(
    r"debug_(?:trace(?!.*file).*|getraw\w+|getbadblocks|getmodifiedaccounts\w+|getaccessiblestate|executionwitness\w*"
    r"|storagerangeat|accountrange|intermediateroots|preimage|dumpblock|printblock)"
    r"|txpool_(?:content|contentfrom|inspect|status|besu(?:transactions|statistics|pendingtransactions))"
)
# What takes the chain of a development node back to where it was, or changes nonces there.
_TURNS_BACK = re.compile(
    r"evm_(?:revert|setaccountnonce)|(?:anvil|hardhat)_(?:reset|rollback|reorg|setnonce|loadstate|drop\w+)"
)


def may_be_forwarded(method: str) -> bool:
    """Whether a method that is not ours may go to the node (pure)."""
    name = method.lower()
    if len(name) > _LONGEST or not _NAME.fullmatch(name) or _KEPT.fullmatch(name):
        return False
    return not _STEERING.fullmatch(name) or bool(_READING.fullmatch(name))


class Forwarding:
    """Sends calls on to the node. It is the ``Forward`` of :mod:`manahsm.api.dispatch`.

    Args:
        node: where to.
        forget_nonces: called when a caller has changed nonces behind our back, as only development nodes let them.
    """

    def __init__(self, node: Node, *, forget_nonces: Callable[[], None]) -> None:
        self._node = node
        self._forget_nonces = forget_nonces

    async def stream(self, call: Call, body: bytes) -> Answer:
        """Send one call on; the answer comes as the node gives it.

        Args:
            call: what ``body`` was read as.
            body: of the caller's request. Nothing else of that request is sent on.

        Raises:
            RPCError: it may not go there, or there was no answer.
            Overloaded: too many requests wait for the node.
        """
        self._check(call)
        return await self._node.stream(body)

    async def ask(self, call: Call) -> Any:
        """Send a call of a batch on, and return its result.

        Raises:
            RPCError: it may not go there, the node refused, or there was no answer.
            Overloaded: too many requests wait for the node.
        """
        self._check(call)
        return await self._node.ask(call.method, call.params)

    def _check(self, call: Call) -> None:
        if not may_be_forwarded(call.method):
            message = "this method is neither served here nor sent on to the node"
            raise RPCError(_METHOD_NOT_FOUND, message, cause=PolicyDenied(message))
        if _TURNS_BACK.fullmatch(call.method.lower()):
            self._forget_nonces()
