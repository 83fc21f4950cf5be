"""The pool manager of a slot: adopts hosts that are ready, takes note of what the token holds, and grows the pool.

It compares what is with what should be after every change, so it may crash anywhere and be restarted. Hosts
that have ended leave the pool by themselves (:meth:`Slot.host_gone`), and overflow workers end by themselves when
they were idle for ``connection_pool.idle_timeout``.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence

import anyio

from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.logs import get_logger
from manahsm.signing.slot import Slot
from supervisors import ChildContext, StartFailed, SupervisorStopped

__all__ = ["PoolManager"]

_log = get_logger("manahsm.pool")

_PAUSE = 1.0  # seconds without another try after an overflow session could not be opened

RecordKeys = Callable[[Slot, Sequence[TokenKey]], Awaitable[None]]
StartWorker = Callable[[str], Awaitable[object]]


class PoolManager:
    """Body of the supervised task of one slot.

    Args:
        slot: whose pool to manage.
        record_keys: told what the token holds whenever the slot comes up.
        start_worker: starts an overflow worker of this name, and returns when it has its session.
    """

    def __init__(self, slot: Slot, record_keys: RecordKeys, start_worker: StartWorker) -> None:
        self._slot = slot
        self._record_keys = record_keys
        self._start_worker = start_worker
        self._numbers = itertools.count()

    async def run(self, ctx: ChildContext) -> None:
        """Adopt hosts, and open overflow sessions while requests wait, until cancelled."""
        ctx.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._adopt_hosts)
            tasks.start_soon(self._relieve, ctx)

    # ---- hosts ----

    async def _adopt_hosts(self) -> None:
        slot = self._slot
        while True:
            version = slot.changes.version
            for host in tuple(slot.ready_hosts.values()):
                if host.serving and host not in slot.pool.hosts:
                    await self._adopt(host)
            await slot.changes.wait_after(version)

    async def _adopt(self, host: HostProcess) -> None:
        slot = self._slot
        if not slot.pool.hosts:
            # The first host after an outage: the token's keys may have changed.
            try:
                keys = await host.find_keys()
            except HSMFailure as failure:
                if host in slot.ready_hosts.values():  # it has not died meanwhile, which its keeper would know
                    slot.start_failed(f"the token's keys could not be listed: {failure}")
                    slot.judge(failure.outcome, None, str(failure))
                    await slot.end_hosts(host)
                return
            await self._record_keys(slot, keys)
        if host in slot.ready_hosts.values():
            slot.adopt(host)
            _log.info("host adopted", slot=slot.name, pid=host.info.pid if host.info else None)

    # ---- pressure ----

    async def _relieve(self, ctx: ChildContext) -> None:
        """Open one overflow session after the other, as long as requests wait for one."""
        slot = self._slot
        while True:
            version = slot.changes.version
            if slot.take_pressure() and slot.pool.may_overflow:
                if not await self._add_worker():
                    await ctx.clock.sleep(_PAUSE)
                elif len(slot.mailbox):
                    slot.press()
            else:
                await slot.changes.wait_after(version)

    async def _add_worker(self) -> bool:
        try:
            await self._start_worker(f"overflow-{next(self._numbers)}")
        except (StartFailed, SupervisorStopped) as error:
            _log.info("no overflow session", slot=self._slot.name, detail=str(error))
            return False
        return True
