"""A program that signs with a key in a token while it goes about its own work, in one event loop.

Run it with ``python examples/embedding.py [CONFIG] [asyncio|trio]``. ``./scripts/run --check`` makes the default
configuration, var/dev.toml, and the key ``dev-signer`` in its token.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

import manahsm
from manahsm.logs import configure_logging

DEV_CONFIG = Path(__file__).parents[1] / "var" / "dev.toml"
CHAIN_ID = 31337
BLOCKS = 5
GWEI = 10**9


async def main(config: Path) -> list[manahsm.SignedTransaction]:
    """Sign one transaction a block; return those that were signed."""
    signed: list[manahsm.SignedTransaction] = []
    blocks_out, blocks_in = anyio.create_memory_object_stream[int](BLOCKS)
    # The tasks are inside the service: they have ended when it logs out of its token.
    async with manahsm.open_service(config) as service, anyio.create_task_group() as tasks:
        tasks.start_soon(follow_chain, blocks_out)
        tasks.start_soon(pay_each_block, service, blocks_in, signed)
    return signed


async def follow_chain(blocks: ObjectSendStream[int]) -> None:
    """Stand for the rest of your program: here, new blocks that come in."""
    async with blocks:
        for number in range(BLOCKS):
            await anyio.sleep(0.01)
            await blocks.send(number)


async def pay_each_block(
    service: manahsm.Service, blocks: ObjectReceiveStream[int], signed: list[manahsm.SignedTransaction]
) -> None:
    """Sign a transfer for each block. A token that is away costs that block's transfer, and nothing else."""
    key = await service.get_key("dev-signer")
    async with blocks:
        async for number in blocks:
            tx = {
                "nonce": number,
                "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "value": GWEI,
                "gas": 21000,
                "maxFeePerGas": 30 * GWEI,
                "maxPriorityFeePerGas": GWEI,
            }
            try:
                transfer = await service.sign_transaction(tx, key.key_id, CHAIN_ID, timeout=2.0)
            except (manahsm.HSMUnavailable, manahsm.DeadlineExceeded) as error:
                print(f"block {number}: not signed: {error}")
                continue
            signed.append(transfer)
            print(f"block {number}: 0x{transfer.hash.hex()} signed by {key.address} ({transfer.backend})")


if __name__ == "__main__":
    configure_logging(debug=False)
    arguments = dict(enumerate(sys.argv))
    anyio.run(main, Path(arguments.get(1, DEV_CONFIG)), backend=arguments.get(2, "asyncio"))
