"""A million leases: sessions acquired and released on a real token while hosts are killed, and nothing leaks.

    scripts/leases [--count 1000000] [--backend asyncio|trio] [--seed N]

The one thing to know: every lease opens a session of the token and closes it again, so that what leaks shows in the
pool's numbers, in the hosts' memory, and in the descriptors of this process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import anyio
from hsm_hosts import open_descriptors
from softhsm import SoftHSMToken

from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostEnded
from manahsm.signing.pool import NoRoom, OpenFailed, SessionPool

_TASKS = 16
_KILL_EVERY = 50_000  # leases


class Campaign:
    """One run."""

    def __init__(self, token: SoftHSMToken, count: int, seed: int) -> None:
        self.token = token
        self.left = count
        self.done = 0
        self.failed = 0
        self.kills = 0
        self.dice = random.Random(seed)  # noqa: S311 - no secret
        self.pool = SessionPool(size=8, processes=2, max_overflow=4)

    async def run(self) -> None:
        """Lease until the count is reached."""
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(self._keep_host)
            async with anyio.create_task_group() as leases:
                for number in range(_TASKS):
                    leases.start_soon(self._lease, number % 2 == 1)
            tasks.cancel_scope.cancel()

    async def _keep_host(self) -> None:
        while True:
            host = HostProcess(self.token.host_settings())
            try:
                await host.run(lambda _, host=host: self.pool.attach(host))
            except HostEnded:
                pass
            finally:
                self.pool.detach(host)

    async def _lease(self, overflow: bool) -> None:
        while self.left > 0:
            self.left -= 1
            try:
                session = await self.pool.acquire(overflow=overflow)
            except NoRoom:
                self.left += 1
                await anyio.lowlevel.checkpoint()
                continue
            except OpenFailed:
                self.failed += 1
                continue
            self.done += 1
            if self.done % _KILL_EVERY == 0:
                info = self.pool.host_of(session).info
                if info is not None:
                    os.kill(info.pid, signal.SIGKILL)
                    self.kills += 1
            await self.pool.release(session, None if session.usable else "HOST_GONE")


def main() -> int:
    """Run a campaign; 0 if nothing leaked."""
    parser = argparse.ArgumentParser(prog="scripts/leases", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        campaign = Campaign(SoftHSMToken.create(Path(directory) / "softhsm"), arguments.count, arguments.seed)
        descriptors, began = len(open_descriptors()), time.monotonic()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        anyio.run(campaign.run, backend=arguments.backend)
        stats, seconds = campaign.pool.stats(), time.monotonic() - began
        after = len(open_descriptors())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{campaign.done} leases in {seconds:.0f} s ({campaign.done / seconds:.0f}/s), {campaign.failed} not opened,")  # noqa: T201
    print(f"{campaign.kills} hosts killed; discarded {dict(stats.discarded)}; memory grew by {grown:.1f} MiB")  # noqa: T201
    print(f"open {stats.open}, overflow {stats.overflow}; descriptors {descriptors} before, {after} after")  # noqa: T201
    whole = stats.opened == stats.closed + sum(stats.discarded.values()) == campaign.done
    return 0 if whole and (stats.open, stats.overflow) == (0, 0) and after <= descriptors + 2 else 1


if __name__ == "__main__":
    sys.exit(main())
