"""What nonces and fees need to know of the chain, asked of the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from manahsm.api.calls import RPCError
from manahsm.api.downstream import DOWNSTREAM_ERROR
from manahsm.api.fees import Quote
from manahsm.api.patience import Asks
from manahsm.errors import InvalidTransaction
from manahsm.ethereum.fields import integer
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["Chain", "quantity"]

_FRESH = 1.0  # seconds for which fees serve all who ask: blocks are farther apart
_RECENT_BLOCKS = 10
_UNSUPPORTED = frozenset({-32601, -32004})  # JSON-RPC, EIP-1474
_read = integer("answer")


def quantity(answer: object) -> int:
    """Read a number of the node's (pure).

    Raises:
        RPCError: it is none.
    """
    try:
        number: int = _read(answer)
    except InvalidTransaction:
        raise RPCError(DOWNSTREAM_ERROR, "downstream answered with something else than a number") from None
    return number


class Chain:
    """The chain that the node follows.

    Args:
        node: the one that is asked.
        clock: the time for which fees are remembered.
    """

    def __init__(self, node: Asks, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._node = node
        self._clock = clock
        self._chain_id: int | None = None
        self._asking = anyio.Lock()
        self._quote: tuple[float, Quote] | None = None

    async def count(self, address: str) -> int:
        """The nonce that comes next, transactions that are not mined yet included."""
        return quantity(await self._node.call("eth_getTransactionCount", [address, "pending"]))

    async def knows(self, tx_hash: str) -> bool:
        """Whether the node has a transaction, mined or not."""
        return await self._node.call("eth_getTransactionByHash", [tx_hash]) is not None

    async def estimate(self, tx: Mapping[str, Any]) -> int:
        """The gas that a transaction needs."""
        return quantity(await self._node.call("eth_estimateGas", [tx]))

    async def quote(self, *, blobs: bool) -> Quote:
        """What the chain asks for, at the moment or a second ago.

        Args:
            blobs: the fee of blob gas is wanted too.
        """
        async with self._asking:
            if self._quote is not None:
                asked_at, quote = self._quote
                if self._clock.now() - asked_at < _FRESH and not (blobs and quote.blob_fee is None):
                    return quote
            asked_at = self._clock.now()
            quote = await self._ask_quote(blobs=blobs)
            self._quote = asked_at, quote
            return quote

    async def _ask_quote(self, *, blobs: bool) -> Quote:
        if self._chain_id is None:
            self._chain_id = quantity(await self._node.call("eth_chainId", []))
        block = await self._node.call("eth_getBlockByNumber", ["latest", False])
        base_fee = block.get("baseFeePerGas") if isinstance(block, dict) else None
        if base_fee is None:
            price = quantity(await self._node.call("eth_gasPrice", []))
            return Quote(chain_id=self._chain_id, base_fee=None, price=price)
        blob_fee = quantity(await self._node.call("eth_blobBaseFee", [])) if blobs else None
        return Quote(chain_id=self._chain_id, base_fee=quantity(base_fee), price=await self._tip(), blob_fee=blob_fee)

    async def _tip(self) -> int:
        try:
            return quantity(await self._node.call("eth_maxPriorityFeePerGas", []))
        except RPCError as error:
            if error.code not in _UNSUPPORTED:
                raise
        # What half of the gas of each recent block paid at least, and of these the one in the middle.
        history = await self._node.call("eth_feeHistory", [hex(_RECENT_BLOCKS), "latest", [50]])
        rewards = history.get("reward") if isinstance(history, dict) else None
        tips = sorted(quantity(reward[0]) for reward in rewards or () if reward)
        return tips[len(tips) // 2] if tips else 0
