"""A node with a heartbeat that embeds the service: ``heartbeat_program.py BACKEND``, its configuration on stdin.

Prints one line of JSON: for each part, how long it took and the longest that anything kept the event loop. It is a
program of its own so that all first uses (imports, worker processes) are in it.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

import manahsm

BEAT = 0.001  # seconds
FEWEST_BEATS = 4  # a part that is over at once still gets these, so that a gap in it is seen
BURST = 100  # requests that start in the same moment

TRANSACTION = {
    "type": 2,
    "chainId": 31337,
    "nonce": 7,
    "maxPriorityFeePerGas": 10**9,
    "maxFeePerGas": 2 * 10**9,
    "gas": 21000,
    "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "value": 10**15,
}
BLOBS = {**TRANSACTION, "type": 3, "maxFeePerBlobGas": 10**9, "blobs": [bytes(131072)] * 6}
TYPED_DATA = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "to", "type": "address"}, {"name": "text", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "Example", "chainId": 1},
    "message": {"to": TRANSACTION["to"], "text": "x" * 1000},
}


class Heartbeat:
    """Beats every millisecond. ``kept`` is the longest gap less the time that our threads waited for a processor."""

    def __init__(self) -> None:
        self.beats = 0
        self.gap = 0.0
        self.kept = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        waited, last = waited_for_processor(), time.monotonic()
        while True:
            await anyio.sleep(BEAT)
            gap = time.monotonic() - last - BEAT
            before, waited = waited, waited_for_processor()
            self.beats += 1
            self.gap = max(self.gap, gap)
            self.kept = max(self.kept, gap - (waited - before))
            last = time.monotonic()


def waited_for_processor() -> float:
    """Seconds that the threads of this process could have run and did not, because the machine was busy."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            total += int((task / "schedstat").read_bytes().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # that thread has just ended
            continue
    return total / 1e9


async def measured(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Do some work beside a heartbeat."""
    heart = Heartbeat()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heart.run)
        begin = time.monotonic()
        await work()
        seconds = time.monotonic() - begin
        while heart.beats < FEWEST_BEATS:  # noqa: ASYNC110 - the next beat is what is waited for
            await anyio.sleep(BEAT)
        tasks.cancel_scope.cancel()
    return {"seconds": seconds, "beats": heart.beats, "gap": heart.gap, "kept": heart.kept}


async def burst(service: manahsm.Service) -> None:
    """Sign many digests that are asked for in the same moment."""
    async with anyio.create_task_group() as tasks:
        for number in range(BURST):
            tasks.start_soon(service.sign_hash, number.to_bytes(32, "big"), "hot")


async def main(config: Any) -> None:
    """Go through everything that signs."""
    parts: dict[str, dict[str, float]] = {"control": await measured(lambda: anyio.sleep(0.3))}
    async with manahsm.open_service(config) as service:
        gc.freeze()  # as manahsm.run does, and as the README advises
        parts["generate"] = await measured(lambda: service.generate_key("hot", "transaction_signer", "hsm"))
        for name in ("digests", "digests again"):
            parts[name] = await measured(lambda: burst(service))
        parts["transaction"] = await measured(lambda: service.sign_transaction(TRANSACTION, "hot", 31337))
        parts["batch"] = await measured(lambda: service.batch_sign_transactions([TRANSACTION] * 2000, "hot", 31337))
        parts["message"] = await measured(lambda: service.sign_message("hello", "hot"))
        parts["typed data, first use"] = await measured(lambda: service.sign_typed_data(TYPED_DATA, "hot"))
        parts["blobs, first use"] = await measured(lambda: service.sign_transaction(BLOBS, "hot", 31337))
        parts["blobs again"] = await measured(lambda: service.sign_transaction(BLOBS, "hot", 31337))
        parts["software key"] = await measured(lambda: service.generate_key("soft", "node_identity", "software"))
        parts["rotation"] = await measured(lambda: service.rotate_key("hot"))
    print(json.dumps(parts))  # noqa: T201 - its answer


if __name__ == "__main__":
    anyio.run(main, json.load(sys.stdin), backend=sys.argv[1])
