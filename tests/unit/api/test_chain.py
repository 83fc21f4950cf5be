"""What is asked of the chain, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pool_node import CHAIN_ID, PoolNode
from scripted_node import scripted_node

from manahsm.api.calls import RPCError
from manahsm.api.chain import Chain, quantity
from manahsm.api.downstream import Node
from manahsm.api.fees import Quote
from manahsm.config.secret import Secret
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The HTTP interface lives on asyncio, whatever the service runs on."""
    return "asyncio"


@asynccontextmanager
async def chain_behind(pool: PoolNode, clock: ManualClock) -> AsyncIterator[Chain]:
    async with scripted_node(pool) as server, Node(Secret(server.url), timeout=5.0, clock=clock) as node:
        yield Chain(node, clock=clock)


async def test_fees_are_asked_for_again_when_they_are_old_and_the_chain_is_not() -> None:
    pool, clock = PoolNode(), ManualClock()
    async with chain_behind(pool, clock) as chain:
        first = await chain.quote(blobs=False)
        clock.advance(0.9)
        pool.base_fee = "0x65"
        assert await chain.quote(blobs=False) == first
        clock.advance(0.2)
        assert await chain.quote(blobs=False) == Quote(chain_id=CHAIN_ID, base_fee=101, price=3)
    assert pool.calls.count("eth_chainId") == 1


async def test_the_fee_of_blobs_is_asked_for_only_by_those_who_send_some() -> None:
    pool, clock = PoolNode(), ManualClock()
    async with chain_behind(pool, clock) as chain:
        await chain.quote(blobs=False)
        assert "eth_blobBaseFee" not in pool.calls
        assert (await chain.quote(blobs=True)).blob_fee == 7


async def test_a_node_that_fails_to_advise_a_tip_is_not_one_that_can_not() -> None:
    pool = PoolNode(errors={"eth_maxPriorityFeePerGas": {"code": -32000, "message": "busy"}})
    async with chain_behind(pool, ManualClock()) as chain:
        with pytest.raises(RPCError, match="busy"):
            await chain.quote(blobs=False)
    assert "eth_feeHistory" not in pool.calls


@pytest.mark.parametrize("answer", [None, "", "12", "0x", "0xzz", -1, 1.5, True, [], {}, "0x" + "f" * 65])
def test_what_is_no_number_is_no_answer(answer: Any) -> None:
    with pytest.raises(RPCError, match="something else than a number"):
        quantity(answer)
