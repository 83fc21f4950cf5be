"""Requests of every kind through one channel: send as they come up, receive as they are signed.

Run it with ``python examples/channel.py [CONFIG] [asyncio|trio]``. ``./scripts/run --check`` makes the default
configuration, var/dev.toml, and the key ``dev-signer`` in its token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import anyio

import manahsm
from manahsm import SignRequest
from manahsm.logs import configure_logging

DEV_CONFIG = Path(__file__).parents[1] / "var" / "dev.toml"
KEY = "dev-signer"
CHAIN_ID = 31337
GWEI = 10**9


async def main(config: Path) -> dict[str, manahsm.Outcome]:
    """Send all requests and collect their outcomes by request id: one each, an error or a signature."""
    outcomes: dict[str, manahsm.Outcome] = {}
    async with (
        manahsm.open_service(config) as service,
        service.open_channel(capacity=8) as channel,  # a sender waits while 8 are not received yet
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send_all, channel)
        async for outcome in channel:
            outcomes[outcome.request_id] = outcome
            print(f"{outcome.request_id}: {outcome.error or type(outcome.result).__name__}")
    return outcomes


async def send_all(channel: manahsm.SigningChannel) -> None:
    """Send every request; say when that was the last one."""
    for request in requests():
        await channel.send(request)
    channel.finish()


def requests() -> Iterator[SignRequest]:
    """Make twenty transactions, a message, a digest, and a transaction that no node would take."""
    transfer = {
        "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "value": GWEI,
        "gas": 21000,
        "maxFeePerGas": 30 * GWEI,
        "maxPriorityFeePerGas": GWEI,
    }
    for nonce in range(20):
        tx = {**transfer, "nonce": nonce}
        yield SignRequest.transaction(tx, KEY, chain_id=CHAIN_ID, request_id=f"transfer-{nonce}")
    yield SignRequest.message("Sign in to example.org", KEY, request_id="message")
    yield SignRequest.hash(bytes(31) + b"\x01", KEY, request_id="digest")
    yield SignRequest.transaction(transfer, KEY, chain_id=CHAIN_ID, request_id="without-nonce")


if __name__ == "__main__":
    configure_logging(debug=False)
    arguments = dict(enumerate(sys.argv))
    anyio.run(main, Path(arguments.get(1, DEV_CONFIG)), backend=arguments.get(2, "asyncio"))
